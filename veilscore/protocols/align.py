"""Intersects the sets of the bank and one holder privately: only the holder learns which firms they share.

Source   : Meadows 1986; Huberman, Franklin and Hogg 1999 (Diffie-Hellman), over ristretto255
           (`veilscore.crypto.group`).
Parties  : The bank B, whose rows are the job's rows, and one holder H; the protocol runs once for each holder.
Messages : B sends its H(id)^a in row order (`AlignBankRound1`), where single firms are opened later with a digest of
           each row (`veilscore.release.pseudonyms`), where rows are firms at dates with a number for each row's firm;
           H sends its own H(id)^b among dummies, shuffled
           (`AlignHolderRound1`); B returns those raised to a, in the order received (`AlignBankRound2`); H says whether
           it goes on (`AlignHolderRound2`). The first three come in parts that interleave, so that both sides compute
           at the same time and no queue holds more than a few parts.
Reveals  : B learns the size of H's set, padded to a step of 1,000. H learns the size of B's set, which of its firms
           are in which of B's rows (of firms at dates: which pairs of firm and date), with digests which rows came
           before, with numbers which rows are of one firm. Whether H goes on depends on the number
           of B's rows alone. Nobody learns anything else, and no id is sent in any form that can be compared without
           the other's scalar or key.
Dummies  : H pads its set with the points of random strings of 256 bits, made and raised like those of ids: they are
           uniform group elements as ids' points are, and match nothing. Where a step ends is H's secret (`offset`),
           the same in all jobs: to know all of H's firms but one tells whether that one is there in 1 of 1,000 cases.
Assumes  : Decisional Diffie-Hellman is hard in ristretto255, SHA-512 is a random oracle, and parties are semi-honest. A
           holder that puts guessed ids into its set learns whether they are in B's: the cap on set sizes limits that,
           nothing here prevents it. Scalars are fresh for each session and pair and destroyed at its end; the session's
           label enters the hash.
Aborts   : IdError where own ids are empty or repeated, ParameterError where the own set is over the cap, MessageError
           on a part of wrong size, order or count or an invalid, identity or repeated point, RefusedError at both
           where B has too few rows.

Another protocol (one from an oblivious PRF, say) replaces this one by offering the same functions and results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Integers
from veilscore.crypto.group import POINT_BYTES, Scalar, check_points, hash_to_group, parse_points, raise_points
from veilscore.errors import IdError, MessageError, ParameterError, RefusedError
from veilscore.files.machine import processors
from veilscore.protocols.blocks import check_part
from veilscore.release.pseudonyms import DIGEST_BYTES, KEY_ID_BYTES, RowDigests
from veilscore.v1.align_pb2 import AlignBankRound1, AlignBankRound2, AlignHolderRound1, AlignHolderRound2
from veilscore.wire.protocol import Progress, Protocol, Send, Session, receive
from veilscore.wire.randomness import secret_bytes

_MAX_ID_BYTES = 256  # normalised ids are far shorter; longer ones are free text in the wrong column
_DUMMY_BYTES = 32
_NUMBER_BYTES = 4  # of a row's firm


@dataclass(frozen=True)
class AlignLimits:
    """What both sides agree on, and what each accepts."""

    max_ids: int = 5_000_000  # largest set that is sent or accepted
    part_size: int = 8192  # ids in each part but the last; it must be the same on both sides
    size_step: int = 1000  # the holder's set is padded to a multiple of this
    workers: int = field(default_factory=processors)  # threads of this side; by default one for each processor

    def parts(self, n_ids: int) -> int:
        """Return the number of parts in which a set of `n_ids` travels."""
        return -(-n_ids // self.part_size)

    def size_of(self, part: int, n_ids: int) -> int:
        """Return how many ids one part of a set of `n_ids` has."""
        return min(self.part_size, n_ids - part * self.part_size)

    def padded(self, n_ids: int, offset: int) -> int:
        """Return the size to which a holder's set of `n_ids` is padded."""
        return -(-(n_ids + offset) // self.size_step) * self.size_step


DEFAULT_LIMITS = AlignLimits()


@dataclass(frozen=True)
class AlignBankResult:
    """What the bank learns: how many firms the holder has at most, in steps."""

    padded_size: int


@dataclass(frozen=True)
class AlignHolderResult:
    """What the holder learns."""

    row_of: Integers = field(repr=False)  # (n_bank,) its own row for each of the bank's, -1 where it knows no such firm
    digests: RowDigests | None = None  # of the bank's rows, where they were asked for
    firm: Integers | None = field(default=None, repr=False)  # (n_bank,) of firms at dates: number of each row's firm


def bank_align(
    session: Session,
    holder: str,
    ids: Sequence[str],
    limits: AlignLimits = DEFAULT_LIMITS,
    *,
    digests: RowDigests | None = None,
    firm: Integers | None = None,
) -> Protocol[AlignBankResult]:
    """Bank: align its ids, in row order and none twice, with one holder's; `digests` of them where it counts rows.

    firm : (n,) number of the firm of each row, where ids are keys of firms at dates.
    """
    _check_ids(ids, limits)
    own = _Outgoing(ids, session.label("align", session.bank, holder), limits)
    incoming = _Incoming(holder, limits, limits.max_ids + 2 * limits.size_step)
    with Scalar() as a:
        part = 0
        while part < own.parts or part <= incoming.parts_or(1):
            if part < own.parts:
                points = own.raised(part, a)
                message = AlignBankRound1(part=part, parts=own.parts, n_ids=own.n_ids, points=points.tobytes())
                if digests is not None:
                    low = part * limits.part_size
                    message.digests = digests.values[low : low + limits.part_size].astype("<u8").tobytes()
                    message.digest_key = digests.key_id
                if firm is not None:
                    low = part * limits.part_size
                    message.firms = firm[low : low + limits.part_size].astype("<u4").tobytes()
                yield Send(holder, message)
            # one part behind, so that neither side waits while the other computes
            if 1 <= part <= incoming.parts_or(1):
                received = incoming.take((yield from receive(holder, AlignHolderRound1)))
                reply = raise_points(received, a, workers=limits.workers)
                yield Send(holder, AlignBankRound2(part=part - 1, parts=incoming.parts_or(1), points=reply.tobytes()))
            part += 1
            yield Progress(f"aligning with {holder}", part, max(own.parts, incoming.parts_or(1)) + 1)
    incoming.all_distinct()
    verdict = yield from receive(holder, AlignHolderRound2)
    if not verdict.accepted:
        raise RefusedError(f"{holder} refused to go on after alignment: {verdict.reason[:200]}", party=holder)
    return AlignBankResult(padded_size=incoming.n_ids)


def holder_align(
    session: Session,
    ids: Sequence[str],
    *,
    min_rows: int = 1,
    offset: int = 0,
    counted: bool = False,
    dated: bool = False,
    limits: AlignLimits = DEFAULT_LIMITS,
) -> Protocol[AlignHolderResult]:
    """Holder: align its ids, none twice, with the bank's; `session.party` is the holder.

    min_rows : the fewest firms of the bank with which the holder goes on, whichever of them it knows.
    offset : where steps of the padded size end, in [0, size_step); the holder's secret.
    counted : whether the bank sends a digest of each row; dated : a number for the firm of each row.
    Raises RefusedError where the bank has fewer rows.
    """
    _check_ids(ids, limits)
    bank = session.bank
    n_dummies = limits.padded(len(ids), offset) - len(ids)
    drawn = secret_bytes(_DUMMY_BYTES * n_dummies).hex()
    padded = [*ids, *(drawn[k : k + 2 * _DUMMY_BYTES] for k in range(0, len(drawn), 2 * _DUMMY_BYTES))]
    # shuffled (uniformly but for 64-bit ties), or the order of its points would tell the bank about its rows
    order = np.argsort(np.frombuffer(secret_bytes(8 * len(padded)), np.uint64))
    own = _Outgoing([padded[i] for i in order], session.label("align", bank, session.party), limits)
    incoming = _Incoming(bank, limits, limits.max_ids, counted=counted, dated=dated)
    doubled_bank: list[NDArray[np.uint8]] = []
    doubled_own: list[NDArray[np.uint8]] = []
    with Scalar() as b:
        part = 0
        while part <= own.parts or part < incoming.parts_or(1):
            if part < own.parts:
                points = own.raised(part, b)
                yield Send(
                    bank, AlignHolderRound1(part=part, parts=own.parts, n_ids=own.n_ids, points=points.tobytes())
                )
            if part < incoming.parts_or(1):
                received = incoming.take((yield from receive(bank, AlignBankRound1)))
                doubled_bank.append(raise_points(received, b, workers=limits.workers))
            if 1 <= part <= own.parts:
                reply = yield from receive(bank, AlignBankRound2)
                doubled_own.append(_take_reply(reply, part - 1, own, limits, bank))
            part += 1
            yield Progress("aligning with the bank", part, max(own.parts + 1, incoming.parts_or(1)))
    incoming.all_distinct()
    row_of = _match(np.concatenate(doubled_bank), np.concatenate(doubled_own), order, bank)
    row_of[row_of >= len(ids)] = -1
    firm = incoming.firm()
    n_firms = incoming.n_ids if firm is None else np.unique(firm).size
    if n_firms < min_rows:
        reason = f"{n_firms} firms are fewer than the minimum of {min_rows}"
        yield Send(bank, AlignHolderRound2(accepted=False, reason=reason))
        raise RefusedError(f"{bank}'s job has {reason}", session=session.id, party=session.party)
    yield Send(bank, AlignHolderRound2(accepted=True))
    return AlignHolderResult(row_of, incoming.digests(), firm)


class _Outgoing:
    """Hashes the own set and raises it part by part."""

    def __init__(self, ids: Sequence[str], label: bytes, limits: AlignLimits) -> None:
        self.n_ids = len(ids)
        self.parts = limits.parts(len(ids))
        self._ids = ids
        self._label = label
        self._limits = limits

    def raised(self, part: int, scalar: Scalar) -> NDArray[np.uint8]:
        """Return the points of one part, uint8 (size, 32)."""
        low = part * self._limits.part_size
        ids = self._ids[low : low + self._limits.part_size]
        workers = self._limits.workers
        return raise_points(hash_to_group(self._label, ids, workers=workers), scalar, workers=workers)


class _Incoming:
    """Takes the peer's set: its first part fixes the size, and each part must be the next one, and whole."""

    def __init__(
        self, peer: str, limits: AlignLimits, max_ids: int, *, counted: bool = False, dated: bool = False
    ) -> None:
        self.n_ids = 0
        self._peer = peer
        self._limits = limits
        self._max_ids = max_ids
        self._counted = counted
        self._points: list[NDArray[np.uint8]] = []
        self._dated = dated
        self._digests: list[bytes] = []
        self._firms: list[bytes] = []
        self._key_id = b""

    def parts_or(self, unknown: int) -> int:
        """Return the number of parts, or `unknown` before the first arrived."""
        return self._limits.parts(self.n_ids) if self.n_ids else unknown

    def take(self, message: AlignBankRound1 | AlignHolderRound1) -> NDArray[np.uint8]:
        """Return the points of the next part, uint8 (size, 32)."""
        if not 1 <= message.n_ids <= self._max_ids:
            raise MessageError(
                f"a set of {message.n_ids} ids is empty or over the limit of {self._max_ids}", party=self._peer
            )
        if self.n_ids not in (0, message.n_ids):
            raise MessageError("the set's size changed between parts", party=self._peer)
        self.n_ids = message.n_ids
        check_part(message, len(self._points), self.parts_or(0), self._peer)
        points = parse_points(message.points, self._limits.size_of(message.part, self.n_ids))
        self._points.append(points)
        if isinstance(message, AlignBankRound1):
            self._take_digests(message, len(points))
            if len(message.firms) != _NUMBER_BYTES * len(points) * self._dated:
                raise MessageError("firms of rows are missing, too many, or were not asked for", party=self._peer)
            self._firms.append(message.firms)
        return points

    def _take_digests(self, message: AlignBankRound1, n: int) -> None:
        sizes = (DIGEST_BYTES * n, KEY_ID_BYTES) if self._counted else (0, 0)
        if (len(message.digests), len(message.digest_key)) != sizes:
            raise MessageError("digests of rows are missing, too many, or were not asked for", party=self._peer)
        if self._digests and message.digest_key != self._key_id:
            raise MessageError("the key of the digests changed between parts", party=self._peer)
        self._key_id = message.digest_key
        self._digests.append(message.digests)

    def digests(self) -> RowDigests | None:
        """Return the digests of all rows, where they were asked for."""
        values = np.frombuffer(b"".join(self._digests), "<u8").astype(np.uint64)
        return RowDigests(values, self._key_id) if self._counted else None

    def firm(self) -> Integers | None:
        """Return the numbers of the firms of all rows, where they are firms at dates."""
        return np.frombuffer(b"".join(self._firms), "<u4").astype(np.int64) if self._dated else None

    def all_distinct(self) -> None:
        """Refuse a set in which a point is repeated: the same id twice, or a replayed part."""
        keys = np.sort(_keys(np.concatenate(self._points)))
        if (keys[1:] == keys[:-1]).any():
            raise MessageError("the peer's set has the same id twice", party=self._peer)


def _take_reply(reply: AlignBankRound2, part: int, own: _Outgoing, limits: AlignLimits, bank: str) -> NDArray[np.uint8]:
    """Return the own points as the bank raised them, checked."""
    check_part(reply, part, own.parts, bank)
    points = parse_points(reply.points, limits.size_of(part, own.n_ids))
    check_points(points, workers=limits.workers)
    return points


def _keys(points: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return points as fixed-length byte strings, which sort and compare as wholes."""
    return np.ascontiguousarray(points).view(f"S{POINT_BYTES}").ravel()


def _match(bank_points: NDArray[np.uint8], own_points: NDArray[np.uint8], order: Integers, bank: str) -> Integers:
    """Return the left join of the bank's doubled points with the holder's; own_points[k] belongs to row order[k]."""
    keys = _keys(own_points)
    rank = np.argsort(keys)
    keys = keys[rank]
    if (keys[1:] == keys[:-1]).any():
        raise MessageError("the bank returned the same point twice", party=bank)
    wanted = _keys(bank_points)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, order[rank[place]], -1).astype(np.int64)


def _check_ids(ids: Sequence[str], limits: AlignLimits) -> None:
    if len(ids) == 0:
        raise IdError("there are no ids to align: the data set is empty after filtering")
    if len(ids) > limits.max_ids:
        raise ParameterError(f"{len(ids)} ids are more than the limit of {limits.max_ids}: raise align's max_ids")
    if not all(ids) or max(map(len, ids)) > _MAX_ID_BYTES:
        raise IdError(f"an id is empty or longer than {_MAX_ID_BYTES} characters: check the id column")
    repeated = len(ids) - len(set(ids))
    if repeated:
        raise IdError(f"{repeated} ids occur more than once: keep one row for each firm, of panels for each date")
