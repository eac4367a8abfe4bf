"""Scores many firms in a batch, also of the hold-out: steps, bands or exact points by the secure lookup sum.

What a scorecard and trees (`veilscore.protocols.tree_scoring`) share stands here too: the request, the holders'
answers, the zero-shares and the opening of the total, or of its step or band alone (`veilscore.protocols.banding`).

Source   : Design page, sections 3 and 8.
Parties  : The bank has points of every cell, the holders have codes, the coordinator adds masked partials.
Messages : BatchBankRound0 (to the coordinator), BatchBankRound1 -> BatchHolderRound1 (accepts, which firms it does not
           know if its policy says so), BatchHolderKey (holder to holder), BatchBankQuery (cells) -> BatchHolderHints ->
           BatchBankQuery (the rest), BatchHolderPartial (to the coordinator) -> BatchCoordinatorTotal (to the bank).
           For steps and bands the coordinator has no part: BandHolderPartial (to the lead), then the messages of
           `banding`.
Reveals  : The bank learns the step or the band of each firm's total, or by agreement the total points (with one holder
           that is the holder's part). A holder learns which of the aligned rows are scored, by which model hash, the
           cut-offs, and whether the bank's inputs are those of an earlier batch. The coordinator learns the number of
           rows where totals are opened.
Assumes  : Ring-LWE is hard; the bank and the coordinator (for steps and bands, the lead) do not collude with all
           holders but one.
Aborts   : RefusedError where a holder refuses; SchemaError where a holder's code map is not the model's; ProtocolError
           where the parts do not add up to possible scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilscore.arrays import CodeArray, Integers, Mask, Words
from veilscore.crypto import shares
from veilscore.crypto.zero_share import PairwiseKey, pairwise_key, share_context, zero_share
from veilscore.errors import MessageError, ProtocolError, RefusedError
from veilscore.lattice.lookup import LookupCodes, LookupTable
from veilscore.models.counts import offsets
from veilscore.models.loss import TURN
from veilscore.protocols.banding import MAX_LIMITS, bank_bands, lead_bands
from veilscore.protocols.blocks import WORKERS, receive_hints
from veilscore.terms.bands import Bands
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.protocol import (
    Progress,
    Protocol,
    Send,
    Session,
    fields_bytes,
    pack_fields,
    receive,
    receive_parts,
    send_parts,
    unpack_fields,
)


@dataclass(frozen=True)
class BatchResult:
    """What the bank learns of a batch."""

    points: Integers  # (n_scored,) int64 totals in the model's units, the bank's own part included
    unknown: dict[str, Mask | None]  # holder -> (n_scored,) which firms it does not know; None: it does not say


@dataclass(frozen=True)
class BandResult:
    """What the bank learns where bands alone are released."""

    bands: Integers  # (n_scored,) number of each firm's band or step (`veilscore.terms.bands.Bands`)
    unknown: dict[str, Mask | None]  # as in `BatchResult`


@dataclass(frozen=True)
class HolderPart:
    """What the bank's model has of one holder."""

    n_codes: Integers  # (d,) codes of each column
    points: Integers  # (cells,) int64 points of each cell in the model's units
    map_hash: bytes  # sha256 of the holder's code map
    trees_hash: bytes = b""  # of the holder's part of a boosted model, which has no `points`; empty for a scorecard


def bank_score(
    session: Session,
    coordinator: str,
    rows: Mask,
    own_points: Integers,
    parts: dict[str, HolderPart],
    model_hash: bytes,
    inputs: bytes = b"",
) -> Protocol[BatchResult]:
    """Bank: return the total points of the scored rows.

    rows : (n_samples,) which of the aligned rows are scored.
    own_points : (n_scored,) base points and the bank's own part, in the model's units.
    parts : each holder's part of the model.
    inputs : digest of the bank's own inputs (`veilscore.release.pseudonyms.inputs_digest`); empty of a hold-out.
    """
    n_scored = int(rows.sum())
    yield Send(coordinator, pb.BatchBankRound0(n_scored=n_scored))
    total, unknown = yield from bank_shares(session, rows, own_points, parts, model_hash, inputs=inputs)
    return BatchResult((yield from opened_totals(session, coordinator, total, own_points, parts)), unknown)


def opened_totals(
    session: Session, coordinator: str, total: Integers, own_points: Integers, parts: Mapping[str, HolderPart]
) -> Protocol[Integers]:
    """Bank: return the total points of the scored rows, of which it has the shares `total`; refuse impossible ones."""
    total = (total + (yield from receive_total(coordinator, total.size, TURN))) % TURN
    total = np.where(total >= TURN // 2, total - TURN, total)
    columns = [(part.points, offsets(part.n_codes)[:-1]) for part in parts.values()]
    low = sum(int(np.minimum.reduceat(points, at).sum()) for points, at in columns)
    high = sum(int(np.maximum.reduceat(points, at).sum()) for points, at in columns)
    check_possible(total - own_points, low, high, session)
    return total


def check_possible(units: Integers, low: int, high: int, session: Session) -> None:
    """Refuse totals that no codes give; a share that is missing or another batch's makes them uniform."""
    if ((units < low) | (units > high)).any():
        raise ProtocolError(
            "the holders' parts do not add up to possible scores: a share was lost or replaced; submit the job again",
            session=session.id,
            party=session.party,
        )


def bank_score_bands(
    session: Session,
    rows: Mask,
    own_points: Integers,
    parts: dict[str, HolderPart],
    model_hash: bytes,
    bands: Bands,
    inputs: bytes = b"",
) -> Protocol[BandResult]:
    """Bank: return the bands or steps of the scored rows; parameters as in `bank_score`."""
    total, unknown = yield from bank_shares(session, rows, own_points, parts, model_hash, bands, inputs)
    return BandResult((yield from bank_bands(session, total, bands, TURN)), unknown)


def bank_shares(
    session: Session,
    rows: Mask,
    own_points: Integers,
    parts: dict[str, HolderPart],
    model_hash: bytes,
    bands: Bands | None = None,
    inputs: bytes = b"",
) -> Protocol[tuple[Integers, dict[str, Mask | None]]]:
    """Return the bank's shares of the totals, not reduced, and the firms unknown to each holder that discloses them."""
    unknown = yield from ask_holders(session, rows, parts, model_hash, bands, inputs)
    total = yield from bank_points_share(session, own_points, parts)
    return total, unknown


def bank_points_share(session: Session, own_points: Integers, parts: Mapping[str, HolderPart]) -> Protocol[Integers]:
    """Return the bank's share (n_scored,) of totals, not reduced, with the points of these holders' cells looked up."""
    total, tables = own_points.astype(np.int64).copy(), {}
    for holder, part in parts.items():
        label = session.label("score", holder, session.bank)
        tables[holder] = LookupTable(total.size, part.n_codes, label, opened=True)
        yield from begin_lookup(tables[holder], holder, part.points % TURN)
    for done, (holder, table) in enumerate(tables.items(), start=1):
        total += yield from finish_lookup(table, holder)
        yield Progress("points under encryption", done, len(parts))
    return total


def begin_lookup(table: LookupTable, holder: str, theta: Integers) -> Protocol[None]:
    """Bank: send the table's cells before the hints come, so that the holder goes through its rows once."""
    yield from send_parts(holder, pb.BatchBankQuery, pack_fields(*table.begin(theta)))


def finish_lookup(table: LookupTable, holder: str) -> Protocol[Integers]:
    """Bank: take the hints, send the rest of the query, and return its share (n_scored,) of the sums."""
    yield from receive_hints(holder, pb.BatchHolderHints, table)
    beta, share = table.finish()
    yield from send_parts(holder, pb.BatchBankQuery, beta)
    return share.astype(np.int64)


def answer_lookup(bank: str, lookup: LookupCodes) -> Protocol[Words]:
    """Holder: answer `begin_lookup` and `finish_lookup`; return its share (n_scored,) of the sums."""
    data = yield from receive_parts(bank, pb.BatchBankQuery, fields_bytes(*lookup.begin_bytes))
    yield from send_parts(bank, pb.BatchHolderHints, lookup.begin(*unpack_fields(data, 2)))
    return lookup.finish((yield from receive_parts(bank, pb.BatchBankQuery, lookup.finish_bytes)))


def ask_holders(
    session: Session,
    rows: Mask,
    parts: dict[str, HolderPart],
    model_hash: bytes,
    bands: Bands | None = None,
    inputs: bytes = b"",
) -> Protocol[dict[str, Mask | None]]:
    """Bank: announce the batch; return the firms unknown to each holder that discloses them.

    Raises RefusedError where a holder refuses, with its reason.
    """
    n_scored = int(rows.sum())
    for holder in session.holders:
        request = pb.BatchBankRound1(
            n_samples=rows.size,
            rows=shares.bits_to_bytes(rows),
            model_hash=model_hash,
            map_hash=parts[holder].map_hash,
            part_hash=parts[holder].trees_hash,
            limits=() if bands is None else bands.limits,
            inputs_hash=inputs,
        )
        yield Send(holder, request)
    unknown: dict[str, Mask | None] = {}
    for holder in session.holders:
        reply = yield from receive(holder, pb.BatchHolderRound1)
        if not reply.accepted:
            raise RefusedError(f"{holder} refuses to score: {reply.reason[:200]}", session=session.id, party=holder)
        if list(reply.n_codes) != parts[holder].n_codes.tolist():
            raise MessageError("the holder's codes are not those of the model", session=session.id, party=holder)
        unknown[holder] = shares.bits_from_bytes(reply.unknown, n_scored) if reply.discloses_unknown else None
    return unknown


def receive_total(coordinator: str, n_scored: int, modulus: int) -> Protocol[Integers]:
    """Bank: return the sum of the holders' masked shares modulo `modulus`, (n_scored,)."""
    data = yield from receive_parts(coordinator, pb.BatchCoordinatorTotal, 8 * n_scored)
    return shares.shares_from_bytes(data, (n_scored,), below=modulus).astype(np.int64)


@dataclass(frozen=True)
class HolderAnswer:
    """A holder's decision on one batch: codes of the scored rows, or a refusal."""

    codes: CodeArray  # (n_scored, d) codes
    n_codes: Integers
    unknown: Mask  # (n_scored,) firms without a record here; they have the missing codes
    disclose_unknown: bool  # whether the bank is told which those are
    refusal: str = ""  # the reason that the bank is told; the rest is then ignored
    bands: Bands | None = None  # opened alone: steps that the bank chose, or bands that this holder accepted


@dataclass(frozen=True)
class BatchRequest:
    """What a holder learns of a batch before it decides.

    `trees_hash` is empty for a scorecard, `limits` where exact scores are asked for, `inputs` of a hold-out.
    """

    rows: Mask
    model_hash: bytes
    map_hash: bytes
    trees_hash: bytes = b""
    inputs: bytes = b""
    limits: tuple[int, ...] = ()  # lowest total of each step or band but the first, as the bank has them

    @property
    def cut_offs(self) -> bytes:
        """Return the digest of the cut-offs, empty where exact scores are asked for."""
        return Bands((), self.limits).sha256 if self.limits else b""


def holder_receive(session: Session, n_samples: int) -> Protocol[BatchRequest]:
    """Holder: take the bank's request and check it."""
    request = yield from receive(session.bank, pb.BatchBankRound1)
    if request.n_samples != n_samples:
        raise MessageError(f"the bank scores among {request.n_samples} rows, aligned were {n_samples}")
    hashes = (request.model_hash, request.map_hash, request.part_hash, request.inputs_hash)
    if any(len(one) != 32 for one in hashes[:2]) or any(len(one) not in {0, 32} for one in hashes[2:]):
        raise MessageError("a hash in the bank's request has the wrong length", party=session.bank)
    limits = tuple(request.limits)
    if len(limits) > MAX_LIMITS or any(b <= a for a, b in pairwise(limits)):
        raise MessageError(f"cut-offs in the bank's request are over {MAX_LIMITS} or not ascending", party=session.bank)
    return BatchRequest(
        shares.bits_from_bytes(request.rows, n_samples),
        request.model_hash,
        request.map_hash,
        trees_hash=request.part_hash,
        inputs=request.inputs_hash,
        limits=limits,
    )


def holder_score(session: Session, coordinator: str, request: BatchRequest, answer: HolderAnswer) -> Protocol[int]:
    """Holder: answer a batch; return the number of rows that it helped to score.

    Raises RefusedError with the holder's own reason, after the bank was told.
    """
    keys = yield from accept(session, request, answer)
    share = yield from points_share(session, answer.codes, answer.n_codes)
    yield from release_share(session, coordinator, request, answer, share, keys, TURN)
    return int(request.rows.sum())


def points_share(session: Session, codes: CodeArray, n_codes: Integers) -> Protocol[Words]:
    """Holder: return its share (n_scored,) of the points of its own cells, modulo TURN."""
    label = session.label("score", session.party, session.bank)
    return (yield from answer_lookup(session.bank, LookupCodes(codes, n_codes, label, opened=True, workers=WORKERS)))


def accept(session: Session, request: BatchRequest, answer: HolderAnswer) -> Protocol[dict[str, PairwiseKey]]:
    """Holder: tell the bank its decision; if it takes part, return the keys agreed on with the other holders.

    Raises RefusedError with the holder's own reason, after the bank was told.
    """
    yield from tell(session, request, answer)
    return (yield from zero_share_keys(session))


def tell(session: Session, request: BatchRequest, answer: HolderAnswer) -> Protocol[None]:
    """Holder: tell the bank its decision, and raise RefusedError where it is to refuse."""
    refusal = answer.refusal
    if not refusal and request.limits != (() if answer.bands is None else answer.bands.limits):
        refusal = "the bands of the request are not those that this party accepted"
    if refusal:
        yield Send(session.bank, pb.BatchHolderRound1(accepted=False, reason=refusal))
        raise RefusedError(f"batch refused: {refusal}", session=session.id, party=session.party)
    reply = pb.BatchHolderRound1(
        accepted=True,
        n_codes=answer.n_codes.tolist(),
        discloses_unknown=answer.disclose_unknown,
        unknown=shares.bits_to_bytes(answer.unknown) if answer.disclose_unknown else b"",
    )
    yield Send(session.bank, reply)


def release_share(
    session: Session,
    coordinator: str,
    request: BatchRequest,
    answer: HolderAnswer,
    share: Words,
    keys: dict[str, PairwiseKey],
    modulus: int,
) -> Protocol[None]:
    """Holder: send its share (n_scored,) of the total, masked by a share of zero, to whoever adds up.

    That is the coordinator for exact scores. For steps and bands it is the lead, which goes on with the sum; the bank's
    share is on it.
    """
    if answer.bands is None:
        masked = _masked(session, request, share, keys, modulus)
        yield from send_parts(coordinator, pb.BatchHolderPartial, shares.shares_to_bytes(masked))
        return
    total = yield from lead_share(session, request, share, keys, modulus)
    if total is not None:
        yield from lead_bands(session, total, answer.bands, modulus)


def lead_share(
    session: Session, request: BatchRequest, share: Words, keys: dict[str, PairwiseKey], modulus: int
) -> Protocol[Words | None]:
    """Holder: send its masked share to the lead; at the lead, return the holders' share (n_scored,) of the totals."""
    total = _masked(session, request, share, keys, modulus)
    if session.party != session.lead:
        yield from send_parts(session.lead, pb.BandHolderPartial, shares.shares_to_bytes(total))
        return None
    for other in session.holders[1:]:
        data = yield from receive_parts(other, pb.BandHolderPartial, 8 * share.size)
        total = total + shares.shares_from_bytes(data, (share.size,), below=modulus)
    return total % np.uint64(modulus)


def _masked(session: Session, request: BatchRequest, share: Words, keys: dict[str, PairwiseKey], modulus: int) -> Words:
    # a bank that tells holders different rows, inputs, consent lists or cut-offs gets numbers that are uniform
    scored = request.model_hash + request.inputs + request.cut_offs, shares.bits_to_bytes(request.rows)
    context = share_context(session.id, session.holders, *scored)
    masked: Words = (share + zero_share(session.party, keys, context, share.size, modulus)) % np.uint64(modulus)
    return masked


def zero_share_keys(session: Session) -> Protocol[dict[str, PairwiseKey]]:
    """Agree on pairwise keys with the other holders directly, so that neither bank nor coordinator knows one."""
    others = [holder for holder in session.holders if holder != session.party]
    private = X25519PrivateKey.generate()
    for other in others:
        yield Send(other, pb.BatchHolderKey(public_key=private.public_key().public_bytes_raw()))
    keys = {}
    for other in others:
        message = yield from receive(other, pb.BatchHolderKey)
        label = session.label("zero-share", *sorted((session.party, other)))
        keys[other] = pairwise_key(private, bytes(message.public_key), label)
    return keys
