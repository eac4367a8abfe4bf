"""Makes spares: the encryption of an online score done on random numbers, before the request or when it has come.

Source   : correlated randomness in the manner of Beaver 1991, over sums of encrypted cells; ADR 4.
Parties  : the bank, one holder.
Messages : PrepareSpare -> PreparedSpare: the holder encrypts r, uniform modulo T in every cell, under its own key.
           FinishSpare -> Empty: the bank's points on it, masked; the holder opens and keeps s = sum of points r + mask.
           One ciphertext has room for many records, so up to 40 spares are made together for the cost of one; each has
           slots, r, mask and id of its own, and all are under one commitment.
           With the request, the holder sends d = x - r for its one-hot cells x; the bank takes sum of points d and its
           mask off the total. The holder's partial is s plus its zero-share.
           For trees the bank's factors c depend on the record, so the points of a spare are random numbers a, uniform
           modulo T, and x are the holder's indicators. The bank sends c - a when the holder is to open, and takes
           sum of c d and its mask off the total; the holder's partial is s plus sum of (c - a) r, and its zero-share.
           AskKeys -> HolderKeys once for each start of a holder.
Reveals  : nothing to either: d is uniform while r is hidden by ring-LWE, s is uniform without the mask, which hides a,
           so that c - a is uniform.
Assumes  : ring-LWE; one r and one a for one record. Spares live in memory only, and are taken out before d leaves. All
           that the bank draws comes from a seed that it is committed to before it has the ciphertexts (ADR 12).
Aborts   : MessageError on numbers of a wrong size or range; SecretReuseError where a spare is to serve twice.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any
from typing import Protocol as Interface

import numpy as np

from veilscore.arrays import Integers, Words
from veilscore.crypto.encrypted_cells import (
    EncodedPoints,
    encode_points,
    encrypt_cells,
    evaluate,
    make_blinds,
    open_partial,
    records_of_one,
)
from veilscore.crypto.he import PublicContext, SecretContext, T, uniform_slots
from veilscore.errors import MessageError, SecretReuseError
from veilscore.evidence.online_opening import OnlineOpening, Use, check_commitment, digests_of
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Protocol, Send, Serve, call, work
from veilscore.wire.randomness import derived, seeded

MOST_SPARES = 40  # made together: 25 ms and 285 kB a message pair, as one alone
_CELL_BYTES = 4
_HASH_BYTES = 32


# --- the bank --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Side:
    """The bank's points for one party, in units.

    points : one array of points a column, by code.
    average : the part of the average training firm: each column's mean over the training rows, rounded.
    encoded : its points for `evaluate`; None for the bank's own side, and for trees.
    part_hash : hash of the holder's part of a boosted model; empty for a scorecard.
    factors, bounds : of trees, for one record: the bank's factors of the indicators, least and greatest sum.
    """

    party: str
    map_hash: bytes
    names: tuple[str, ...]
    points: tuple[Integers, ...]
    average: int
    encoded: EncodedPoints | None
    part_hash: bytes = b""
    factors: Integers | None = None
    bounds: tuple[int, int] | None = None

    @cached_property
    def cells(self) -> Integers:
        """Return the points of all cells, column by column; for trees the record's factors."""
        return np.concatenate(self.points) if self.factors is None else self.factors

    @cached_property
    def lowest(self) -> int:
        """Return the smallest part that a firm can have."""
        return self.bounds[0] if self.bounds is not None else sum(int(p.min()) for p in self.points)

    @cached_property
    def highest(self) -> int:
        """Return the largest part that a firm can have."""
        return self.bounds[1] if self.bounds is not None else sum(int(p.max()) for p in self.points)

    @cached_property
    def _losses(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple((p.max() - p).tolist()) for p in self.points)

    def lost(self, column: int, code: int) -> int:
        """Return the units that a code costs against the column's best."""
        return self._losses[column][code]


class BankSecrets(Interface):
    """What the bank's node draws and keeps for its replies to holders."""

    def opening(self, holder: str, use: Use, ident: str, n_spares: int = 1) -> OnlineOpening:
        """Draw what the next reply to a holder is bound to."""

    def context(self, holder: str, keys_id: bytes) -> Protocol[PublicContext]:
        """Return the public keys of a holder, asked for where they are not known."""

    def keep(self, opening: OnlineOpening, prepared: pb.PreparedSpare) -> None:
        """Keep what an auditor needs of a spare; on disk."""


@dataclass(frozen=True)
class BankSpare:
    """The bank's half: its mask modulo T, for trees its random numbers a (n_cells,), and what it was bound to.

    keys_id : of the holder's keys, which change with each of its starts.
    """

    spare_id: str
    mask: int = field(repr=False)
    random: Integers | None = field(repr=False)
    opening: OnlineOpening = field(repr=False)
    keys_id: bytes = b""

    def mask_of(self, difference: bytes, cells: Integers, holder: str) -> int:
        """Return what the bank has to take off the total, by the holder's difference; `cells` are points or factors."""
        return (self.mask - _dot(_parse(difference, cells.size, holder), cells % T)) % T

    def factors_of(self, cells: Integers) -> bytes:
        """Return the record's factors less the random numbers, for trees; empty for a scorecard."""
        return b"" if self.random is None else ((cells - self.random) % T).astype("<u4").tobytes()


def spares_together(n_cells: int) -> int:
    """Return how many spares of so many cells are made together."""
    return records_of_one(n_cells, MOST_SPARES)


def spare_ids(ident: str, n: int) -> tuple[str, ...]:
    """Return the ids of spares that are made together under one."""
    return (ident,) if n == 1 else tuple(f"{ident}.{k}" for k in range(n))


def random_factors(seed: bytes, n: int) -> Integers:
    """Draw what stands for the factors of records in spares for trees, (n,) uniform modulo T, from the seed."""
    return seeded(derived(seed, "factors"), lambda: uniform_slots(n)).astype(np.int64)


def bank_spare(
    secrets: BankSecrets, side: Side, n_cells: int, spare_id: str, limit_s: float = 10.0
) -> Protocol[BankSpare]:
    """Bank: make a spare with a holder; see `bank_spares`."""
    (spare,) = yield from bank_spares(secrets, side, n_cells, spare_id, 1, limit_s)
    return spare


def bank_spares(
    secrets: BankSecrets, side: Side, n_cells: int, ident: str, n: int, limit_s: float = 10.0
) -> Protocol[tuple[BankSpare, ...]]:
    """Bank: make n spares with a holder.

    n_cells : of the holder; for trees the points of a record are not known yet, so random ones stand for them.
    limit_s : how long the holder may take for an answer.
    """
    opening, random = secrets.opening(side.party, "spare", ident, n), None
    if side.part_hash:
        random = random_factors(opening.seed_bytes, n * n_cells).reshape(n, n_cells)
    asked = pb.PrepareSpare(
        spare_id=ident, map_hash=side.map_hash, part_hash=side.part_hash, commitment=opening.commitment
    )
    if n > 1:
        asked.n_spares = n
    prepared = yield from call(side.party, asked, pb.PreparedSpare, limit_s)
    context = yield from secrets.context(side.party, prepared.keys_id)
    reply, masks = yield from work(partial(_evaluated, context, prepared, side, random, opening, n))
    yield from work(lambda: secrets.keep(opening, prepared))
    yield from call(side.party, pb.FinishSpare(spare_id=ident, evaluated_enc=reply), pb.Empty, limit_s)
    return tuple(
        BankSpare(spare_id, int(masks[k]), None if random is None else random[k], opening, prepared.keys_id)
        for k, spare_id in enumerate(spare_ids(ident, n))
    )


def _evaluated(
    context: PublicContext,
    prepared: pb.PreparedSpare,
    side: Side,
    random: Integers | None,
    opening: OnlineOpening,
    n: int,
) -> tuple[tuple[bytes, ...], Words]:
    """Return the bank's masked reply, and its masks (n,)."""
    if random is not None:
        points = encode_points(np.where(random > T // 2, random - T, random), n)
    elif side.encoded is not None and side.encoded.n_records == n:
        points = side.encoded
    else:
        points = encode_points(side.cells, n)
    query = tuple(prepared.ciphertext_enc)
    done = evaluate(context, query, points, make_blinds(context, opening.seed_bytes, len(query)))
    return done.reply, done.mask_total


# --- a holder --------------------------------------------------------------------------------------------------------


@dataclass(repr=False)
class HolderSpare:
    """A holder's half: random numbers r (n_cells,) modulo T, and s, the bank's reply as it was opened.

    part : what it is for: hash of the code map, for trees followed by that of the holder's part.
    commitment : of the bank, to the seed of its half.
    messages : digests of what the two sent for it, by kind.
    """

    spare_id: str
    part: bytes
    random: Words
    opened: int
    keys_id: bytes = b""
    commitment: bytes = b""
    messages: Mapping[str, str] = field(default_factory=dict)
    used: bool = False

    def difference(self, cells: Words) -> bytes:
        """Return the cells of a record (n_cells,) minus r modulo T, 4 bytes a cell; once."""
        if self.used:
            raise SecretReuseError("a spare was asked for twice: each record takes a new one")
        self.used = True
        difference = (cells + np.uint64(T) - self.random) % np.uint64(T)
        return difference.astype("<u4").tobytes()

    def partial(self, factors: bytes, bank: str) -> int:
        """Return the partial modulo T, but for the zero-share; `factors` are the bank's c - a, for trees alone."""
        if bool(factors) != (len(self.part) > _HASH_BYTES):
            raise MessageError("a request to open does not fit its spare", party=bank)
        if not factors:
            return self.opened
        return (self.opened + _dot(_parse(factors, self.random.size, bank), self.random.astype(np.int64))) % T


def holder_spare(
    bank: str,
    secret: Callable[[], SecretContext],
    n_cells_of: Callable[[str, pb.PrepareSpare], Coroutine[Any, Any, int]],
    keep: Callable[[str, HolderSpare], None],
) -> Protocol[None]:
    """Holder: make its side of one spare, or of as many as the bank asks for.

    secret : gives its keys; makes them at the first use, which takes time.
    n_cells_of : cells of the part that a bank asks a spare for; RefusedError where there is none, or policy forbids it.
    keep : takes a spare into the stock.
    """
    asked = yield Serve(bank, (pb.PrepareSpare, pb.FinishSpare))
    if not isinstance(asked, pb.PrepareSpare):
        raise MessageError("no such spare, or it was finished already", party=bank)
    check_commitment(asked.commitment, bank)
    n_cells = yield from work(partial(n_cells_of, bank, asked))
    n = asked.n_spares or 1
    if n > spares_together(n_cells):
        raise MessageError(f"{n} spares were asked for at once, at most {spares_together(n_cells)} fit", party=bank)
    random = uniform_slots(n * n_cells).reshape(n, n_cells)
    query = yield from work(lambda: encrypt_cells(secret(), random))
    prepared = pb.PreparedSpare(ciphertext_enc=query, keys_id=secret().keys_id)
    yield Send(bank, prepared)
    finish: pb.FinishSpare = yield Serve(bank, (pb.FinishSpare,))
    zero = np.zeros(n, np.uint64)
    opened = yield from work(lambda: open_partial(secret(), finish.evaluated_enc, n, n_cells, zero))
    messages = digests_of(asked, prepared, finish)
    part = asked.map_hash + asked.part_hash
    for k, spare_id in enumerate(spare_ids(asked.spare_id, n)):
        one = HolderSpare(spare_id, part, random[k], int(opened[k]), prepared.keys_id, asked.commitment, messages)
        keep(bank, one)
    yield Send(bank, pb.Empty())


def _parse(data: bytes, n_cells: int, sender: str) -> Integers:
    """Read a peer's numbers modulo T, 4 bytes each."""
    cells = np.frombuffer(data, "<u4").astype(np.int64) if len(data) == _CELL_BYTES * n_cells else None
    if cells is None or (cells >= T).any():
        raise MessageError("numbers under a spare have the wrong size or range", party=sender)
    return cells


def _dot(left: Integers, right: Integers) -> int:
    """Return the inner product modulo T of numbers below T."""
    return int((left * right % T).sum()) % T
