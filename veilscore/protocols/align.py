"""Intersects the sets of the bank and one holder privately: only the holder learns which firms they share.

Source   : Pinkas, Rosulek, Trieu and Yanai 2020, with the oblivious pseudo-random function of `veilscore.crypto.oprf`.
Parties  : The bank B, whose rows are the job's rows, and one holder H; the protocol runs once for each holder.
Messages : H says how many ids it has, padded, and its base point (`AlignHolderRound1`); B how many it has, and its base
           choices (`AlignBankRound1`); H sends its store, masked, in parts (`AlignHolderStore`), from which it knows
           the function's values at its own ids, and B those at all; B sends its values in row order
           (`AlignBankRound2`), where single firms are opened later with a digest of each row
           (`veilscore.release.pseudonyms`), where rows are firms at dates with a number for each row's firm; H says
           whether it goes on (`AlignHolderRound2`).
Reveals  : B learns the size of H's set, padded to a step of 1,000. H learns the size of B's set, which of its firms
           are in which of B's rows (of firms at dates: which pairs of firm and date), with digests which rows came
           before, with numbers which rows are of one firm. Whether H goes on depends on the number
           of B's rows alone. Nobody learns anything else, and no id is sent in any form that can be compared without
           the other's secrets.
Padding  : The store has slots for the padded number of ids. Where a step ends is H's secret (`offset`),
           the same in all jobs: to know all of H's firms but one tells whether that one is there in 1 of 1,000 cases.
Assumes  : As `veilscore.crypto.oprf`. A holder that puts guessed ids into its set learns whether they are in B's: the
           cap on set sizes limits that, nothing here prevents it. A holder that cheats in building its store has room
           for as many ids as there are slots (ADR 25). Secrets are fresh for each session and pair; the session's
           label enters all hashes.
Aborts   : IdError where own ids are empty or repeated, ParameterError where the own set is over the cap, MessageError
           on a part of wrong size, order or count, an invalid point, slots that are not of one store, or a repeated
           value, RefusedError at both where B has too few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from veilscore.arrays import Integers, Words
from veilscore.crypto import oprf
from veilscore.crypto.oprf import VALUE_BYTES
from veilscore.errors import IdError, MessageError, ParameterError, RefusedError
from veilscore.protocols.blocks import check_part
from veilscore.release.pseudonyms import DIGEST_BYTES, KEY_ID_BYTES, RowDigests
from veilscore.v1.align_pb2 import (
    AlignBankRound1,
    AlignBankRound2,
    AlignHolderRound1,
    AlignHolderRound2,
    AlignHolderStore,
)
from veilscore.wire.protocol import Progress, Protocol, Send, Session, receive

_MAX_ID_BYTES = 256  # normalised ids are far shorter; longer ones are free text in the wrong column
_NUMBER_BYTES = 4  # of a row's firm


@dataclass(frozen=True)
class AlignLimits:
    """What both sides agree on, and what each accepts."""

    max_ids: int = 5_000_000  # largest set that is sent or accepted
    part_size: int = 1 << 18  # rows in each part of the bank's but the last; it must be the same on both sides
    size_step: int = 1000  # the holder's set is padded to a multiple of this

    def parts(self, n_ids: int) -> int:
        """Return the number of parts in which the values of `n_ids` rows travel."""
        return -(-n_ids // self.part_size)

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
    label = session.label("align", session.bank, holder)
    hello = yield from receive(holder, AlignHolderRound1)
    _check_size(hello.n_ids, limits.max_ids + 2 * limits.size_step, holder)
    if hello.n_ids % limits.size_step:  # a store for few ids has room for many times as many
        raise MessageError(
            f"a set of {hello.n_ids} ids is not padded to a multiple of {limits.size_step}", party=holder
        )
    sender = oprf.Sender(label, hello.n_ids, hello.digest_key, hello.points)
    yield Send(holder, AlignBankRound1(n_ids=len(ids), points=sender.choices()))
    stored, parts, name = oprf.n_parts(hello.n_ids), limits.parts(len(ids)), f"aligning with {holder}"
    for part in range(stored):
        message = yield from receive(holder, AlignHolderStore)
        check_part(message, part, stored, holder)
        sender.take(message.data)
        yield Progress(name, part, stored + parts)
    for part in range(parts):
        rows = slice(part * limits.part_size, (part + 1) * limits.part_size)
        reply = AlignBankRound2(part=part, parts=parts, data=_to_bytes(sender.values(ids[rows])))
        if digests is not None:
            reply.digests = digests.values[rows].astype("<u8").tobytes()
            reply.digest_key = digests.key_id
        if firm is not None:
            reply.firms = firm[rows].astype("<u4").tobytes()
        yield Send(holder, reply)
        yield Progress(name, stored + part + 1, stored + parts)
    verdict = yield from receive(holder, AlignHolderRound2)
    if not verdict.accepted:
        raise RefusedError(f"{holder} refused to go on after alignment: {verdict.reason[:200]}", party=holder)
    return AlignBankResult(padded_size=hello.n_ids)


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
    n_padded = limits.padded(len(ids), offset)
    receiver = oprf.Receiver(session.label("align", bank, session.party), ids, n_padded)
    yield Send(bank, AlignHolderRound1(n_ids=n_padded, points=receiver.point(), digest_key=receiver.key))
    hello = yield from receive(bank, AlignBankRound1)
    _check_size(hello.n_ids, limits.max_ids, bank)
    receiver.accept(hello.points)
    parts = oprf.n_parts(n_padded)
    for part in range(parts):
        yield Send(bank, AlignHolderStore(part=part, parts=parts, data=receiver.next_part()))
        yield Progress("aligning with the bank", part, parts + 1)
    own = receiver.values()
    rows = yield from _receive_rows(bank, hello.n_ids, limits, counted=counted, dated=dated)
    row_of = _match(rows.values, own, bank)
    n_firms = hello.n_ids if rows.firm is None else np.unique(rows.firm).size
    if n_firms < min_rows:
        reason = f"{n_firms} firms are fewer than the minimum of {min_rows}"
        yield Send(bank, AlignHolderRound2(accepted=False, reason=reason))
        raise RefusedError(f"{bank}'s job has {reason}", session=session.id, party=session.party)
    yield Send(bank, AlignHolderRound2(accepted=True))
    return AlignHolderResult(row_of, rows.digests, rows.firm)


@dataclass(frozen=True)
class _Rows:
    """What the bank sends of its rows."""

    values: Words  # (n, 2) of the function
    digests: RowDigests | None
    firm: Integers | None


def _receive_rows(bank: str, n: int, limits: AlignLimits, *, counted: bool, dated: bool) -> Protocol[_Rows]:
    """Receive the values of n rows, and what was asked for beside them; each part must be the next one, and whole."""
    values: list[Words] = []
    digests, firms, key_id = b"", b"", b""
    parts = limits.parts(n)
    for part in range(parts):
        message = yield from receive(bank, AlignBankRound2)
        check_part(message, part, parts, bank)
        size = min(limits.part_size, n - part * limits.part_size)
        if len(message.data) != VALUE_BYTES * size:
            raise MessageError(
                f"values of {size} rows have {VALUE_BYTES} bytes each, got {len(message.data)}", party=bank
            )
        if (len(message.digests), len(message.digest_key)) != (DIGEST_BYTES * size * counted, KEY_ID_BYTES * counted):
            raise MessageError("digests of rows are missing, too many, or were not asked for", party=bank)
        if part and message.digest_key != key_id:
            raise MessageError("the key of the digests changed between parts", party=bank)
        if len(message.firms) != _NUMBER_BYTES * size * dated:
            raise MessageError("firms of rows are missing, too many, or were not asked for", party=bank)
        values.append(_from_bytes(message.data))
        digests, firms, key_id = digests + message.digests, firms + message.firms, message.digest_key
    return _Rows(
        np.concatenate(values),
        RowDigests(np.frombuffer(digests, "<u8").astype(np.uint64), key_id) if counted else None,
        np.frombuffer(firms, "<u4").astype(np.int64) if dated else None,
    )


def _to_bytes(values: Words) -> bytes:
    """Return values (n, 2) as they are sent, 12 bytes each."""
    return values.astype("<u8").view("<u4").reshape(-1, 4)[:, :3].tobytes()


def _from_bytes(data: bytes) -> Words:
    words = np.zeros((len(data) // VALUE_BYTES, 4), "<u4")
    words[:, :3] = np.frombuffer(data, "<u4").reshape(-1, 3)
    return words.view("<u8").astype(np.uint64)


def _match(theirs: Words, own: Words, bank: str) -> Integers:
    """Return for each of the bank's values (n, 2) the holder's row that has it, or -1."""
    order, mine = np.argsort(theirs[:, 0]), np.argsort(own[:, 0])
    first = theirs[order, 0]
    if (first[1:] == first[:-1]).any():  # of a million values two begin alike once in 2^25 times, three never
        order = np.lexsort((theirs[:, 1], theirs[:, 0]))
    theirs, own = theirs[order], own[mine]
    if (theirs[1:] == theirs[:-1]).all(axis=1).any():
        raise MessageError("the bank's set has the same id twice", party=bank)
    row_of = np.full(len(theirs), -1, np.int64)
    place = np.searchsorted(first, own[:, 0])
    for after in range(2):
        at = np.minimum(place + after, len(theirs) - 1)
        found = (theirs[at] == own).all(axis=1)
        row_of[order[at[found]]] = mine[found]
    return row_of


def _check_size(n_ids: int, most: int, peer: str) -> None:
    if not 1 <= n_ids <= most:
        raise MessageError(f"a set of {n_ids} ids is empty or over the limit of {most}", party=peer)


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
