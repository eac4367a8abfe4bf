"""Scores one firm online: the bank learns its total or its band, a holder that the firm is scored, nobody else more.

Source   : sums of encrypted cells, made as spares (`online_spares.py`, ADR 4); shares of zero between holders
           (`crypto/zero_share.py`); bands by a garbled circuit (`online_band.py`), with labels made ahead
           (`online_pool.py`); roles as in ADR 17.
Parties  : the bank (points of every cell), holders (the record's codes of their own columns), the coordinator; of a
           band the lead, the first holder that takes part, instead of the coordinator.
Messages : 0. A spare with each holder, from the stock or made now.
           1. EncryptRecord (bank to each holder: firm, hashes of model and code map, purpose, spare) ->
           EncryptedRecord: the difference of the record's cells from the spare, or that the holder does not know the
           firm, or that it released the same before. The bank then fixes who takes part.
           2. OpenPartial -> OpenedPartial, before which the holder sends its part plus a share of zero: AddPartial to
           the coordinator, TotalRequest (the bank) -> TotalReply; of a band BandPartial to the lead, whose answer has
           the tables of the circuit. ShareKey between holders once for each pair of starts.
Reveals  : to the bank the firm's total, hence what all holders' parts add up to, and a holder's part if only one takes
           part; with a band or a step of the score that instead. To holders, coordinator and lead nothing of it: what
           they see is uniform modulo T without the bank's masks. See `veilscore.online.service` for the rest.
Assumes  : ring-LWE; what `crypto/zero_share.py` assumes; semi-honest parties; bank and coordinator together learn no
           single part while two honest holders take part. A request id is opened once by each holder: opening two
           parts with one share of zero would show their difference to bank and coordinator together.
Aborts   : MessageError (wrong size, range, modulus), ProtocolError (parts that add up to no possible score);
           RefusedError at the bank for what a holder does not do.

Partials and totals are whole points modulo T = `he.T`. A role lives from the first call of a request to its last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
from google.protobuf.message import Message

from veilscore.crypto.he import T
from veilscore.crypto.zero_share import share_context, zero_share
from veilscore.errors import MessageError, PeerError, ProtocolError, RefusedError, VeilscoreError
from veilscore.evidence.online_opening import OpeningLogged, digests_of
from veilscore.protocols.adding import pack_partial, parse_partial
from veilscore.protocols.online_asked import Asked, LeadLabels, SentRecord, spares_of
from veilscore.protocols.online_band import (
    CALLS,
    BankCircuit,
    bring,
    check_record,
    check_same,
    circuit_opened,
    lead_serves,
    lost,
    sha256_of,
)
from veilscore.protocols.online_decision import add_parts, decision_record, parts_opened, record_told, share_opened
from veilscore.protocols.online_desks import (
    BankRequest,
    HolderDesk,
    HolderRecord,
    PartOpening,
    RecordSent,
    check_opening,
)
from veilscore.protocols.online_measures import BankDecision, SingleDecision, encrypt_parts, pack_shares, partials
from veilscore.protocols.online_parts import FirmPart, NotScoredError, Opened, as_if_sent, read_part, taking_part
from veilscore.protocols.online_pool import WIRES, BankPool, LabelsAsked
from veilscore.protocols.online_spares import HolderSpare, Side
from veilscore.terms.bands import Bands
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Protocol, Refuse, Send, Serve, call, together, work

R = TypeVar("R")
CALLER = "caller"  # in the bank's role, whoever asked its node for the score
_PATIENCE_S = 120.0  # with what was asked to be opened; the caller's own limit ends it before


# --- the bank --------------------------------------------------------------------------------------------------------


class _NotOpenedError(PeerError):
    """A holder did not open its part."""

    def __init__(self, holder: str, error: VeilscoreError) -> None:
        again = "" if isinstance(error, RefusedError) else "; repeat the request under its id"
        super().__init__(error.message[:160] + again, party=holder)
        self.holder = holder


def bank_score(of: BankRequest) -> Protocol[Opened]:
    """Bank: score one firm; what a repeat under the request's id cannot mend ends the role."""
    yield Serve(CALLER, (pb.ScoreRequest,))
    parts = yield from together({holder: _or_why_not(of, holder) for holder in of.holders})
    again = [part.holder for part in parts.values() if part.reply.released_as]
    if again:
        ready, chosen = taking_part(as_if_sent(parts), of.ask.on_missing)
        before = of.opened_before(chosen)
        if before is not None:
            return Opened(ready, tuple(part.holder for part in chosen), before, before=True)
        parts |= yield from together({holder: _or_why_not(of, holder, fresh=True) for holder in again})
    parts, chosen = taking_part(parts, of.ask.on_missing)
    if not chosen:
        found = 0
    elif of.bands is None and of.decision is None:
        found = yield from _total(of, parts, chosen)
    else:
        found = yield from _sealed(of, parts, chosen)
    return Opened(parts, tuple(part.holder for part in chosen), found)


def bank_record(of: BankRequest, holder: str, *, fresh: bool = False) -> Protocol[FirmPart]:
    """Bank: ask one holder for the firm's record under a spare; raises what the holder answers instead."""
    if of.decision is not None:
        return (yield from decision_record(of, of.decision, holder, fresh=fresh))
    side, spare = of.sides[holder], of.take_spare(holder) or (yield from of.make_spare(holder, None))
    request = pb.EncryptRecord()
    request.CopyFrom(of.ask)
    request.map_hash, request.part_hash, request.fresh = side.map_hash, side.part_hash, fresh
    try:
        for _ in range(2):
            request.spare_id = spare.spare_id
            reply = yield from call(holder, request, pb.EncryptedRecord, of.limit_s / 2)
            if not reply.no_spare:
                break
            spare = yield from of.make_spare(holder, spare)  # the holder was restarted since
    except RefusedError:
        of.put_back(holder, spare)
        raise
    part = read_part(reply, side, spare, fresh=fresh)
    if part.mask is None:
        of.put_back(holder, spare)
    return part


def bank_opens(
    of: BankRequest,
    part: FirmPart,
    parties: Sequence[str],
    share_key_ids: Mapping[str, bytes],
    labels: LabelsAsked | None = None,
) -> Protocol[pb.OpenedPartial]:
    """Bank: have one holder open its part together with the others.

    parties : who takes part; of a band the lead first.
    share_key_ids : party -> which of its keys its share of zero is made with.
    labels : what the lead of a band is asked for besides.
    """
    if part.mask is None:
        raise MessageError(f"{part.holder} sent no record to be opened")
    request = pb.OpenPartial(
        request_id=of.ask.request_id,
        with_parties=parties,
        share_key_ids=share_key_ids,
        bands_hash=of.ask.bands_hash,
    )
    if part.spare is not None:
        request.spare_id = part.spare.spare_id
        request.factors_share = part.spare.factors_of(of.sides[part.holder].cells)
    if of.decision is not None:
        add_parts(request, of.decision, part)
    if labels is not None:
        request.pool_id, request.circuit, request.choices_share = labels
    of.note(part, request)
    try:
        return (yield from call(part.holder, request, pb.OpenedPartial, _PATIENCE_S))
    except VeilscoreError as error:
        raise _NotOpenedError(part.holder, error) from error


def _or_why_not(of: BankRequest, holder: str, *, fresh: bool = False) -> Protocol[FirmPart]:
    try:
        return (yield from bank_record(of, holder, fresh=fresh))
    except VeilscoreError as error:
        return FirmPart(holder, "refused" if isinstance(error, RefusedError) else "failed", error.message[:200])


def _opens(
    of: BankRequest, chosen: Sequence[FirmPart], labels: LabelsAsked | None = None
) -> dict[str, Protocol[pb.OpenedPartial]]:
    holders, ids = [part.holder for part in chosen], {part.holder: part.reply.share_key_id for part in chosen}
    return {
        part.holder: bank_opens(of, part, holders, ids, None if part is not chosen[0] else labels) for part in chosen
    }


def _total(of: BankRequest, parts: Mapping[str, FirmPart], chosen: Sequence[FirmPart]) -> Protocol[int]:
    """Open the units of all who take part, and take the masks off; ProtocolError if the model allows no such sum."""
    request = pb.TotalRequest(request_id=of.ask.request_id, with_parties=[part.holder for part in chosen])

    def attempt() -> Protocol[pb.TotalReply]:
        # the sum comes before the holders' own answers, and only if all of them have opened
        asked: dict[str, Protocol[Any]] = dict(_opens(of, chosen))
        asked[of.coordinator] = call(of.coordinator, request, pb.TotalReply, _PATIENCE_S)
        replies = yield from together(asked, enough=of.coordinator)
        return cast("pb.TotalReply", replies[of.coordinator])

    reply = yield from _until_done(parts, attempt)
    total = int(parse_partial(reply.total_share, 1, of.coordinator)[0])
    units = (total - sum(part.mask or 0 for part in chosen) + T // 2) % T - T // 2
    sides = [of.sides[part.holder] for part in chosen]
    if not sum(s.lowest for s in sides) <= units <= sum(s.highest for s in sides):
        raise ProtocolError("the holders' parts do not add up to a possible score; use a new request id")
    return units


def own_share(sides: Mapping[str, Side], own_units: int, chosen: Sequence[FirmPart]) -> int:
    """Return the bank's share of the total, where the lead's is the sum of the holders' partials."""
    holders = {part.holder for part in chosen}
    averages = sum(side.average for holder, side in sides.items() if holder not in holders)
    return own_units + averages - sum(part.mask or 0 for part in chosen)


def sealed_circuit(
    of: BankRequest, chosen: Sequence[FirmPart], pool: BankPool, number: int
) -> BankCircuit | BankDecision:
    """Return the bank's half of the circuit that opens a band or a decision."""
    if of.decision is not None:
        shares, bound = of.decision.shares([part.masks for part in chosen]), of.decision.bound
        return BankDecision(pool, number, of.decision.decision, shares, bound)
    if of.bands is None:
        raise MessageError("neither a band nor a decision is asked for")
    return BankCircuit(pool, number, own_share(of.sides, of.own_units, chosen), of.bands)


def _sealed(of: BankRequest, parts: Mapping[str, FirmPart], chosen: Sequence[FirmPart]) -> Protocol[int]:
    """Open the number of the band, or the decision; asked for again, the same choices are sent."""
    lead, n = chosen[0].holder, 1 if of.decision is None else of.decision.decision.n_circuits
    circuit: BankCircuit | BankDecision | None = None

    def attempt() -> Protocol[tuple[BankCircuit | BankDecision, pb.OpenedPartial]]:
        nonlocal circuit
        for _ in range(2):
            if circuit is None:
                pool = yield from of.pool(*((lead,) if n == 1 else (lead, n)))
                circuit = sealed_circuit(of, chosen, pool, pool.take(n))
            replies = yield from together(_opens(of, chosen, circuit.asked), enough=lead)
            if not replies[lead].no_pool:
                return circuit, replies[lead]
            of.drop_pool(circuit.pool)  # the lead was restarted since: it has opened nothing
            circuit = None
        raise PeerError("nothing was opened; repeat the request under its id", party=lead)

    run, tables = yield from _until_done(parts, attempt)
    try:
        return run.open(tables.tables, tables.decoding)
    except MessageError as error:
        raise ProtocolError(f"{lead} opened nothing ({error.message}); use a new request id") from error


def _until_done(parts: Mapping[str, FirmPart], attempt: Callable[[], Protocol[R]]) -> Protocol[R]:
    """Attempt until it succeeds: the caller is told of a failure, and may repeat the request.

    Then the same bytes go out, so that nothing is opened twice: a holder that has opened answers the same again.
    """
    while True:
        try:
            return (yield from attempt())
        except _NotOpenedError as error:
            failed = replace(parts[error.holder], status="failed", reason=error.message)
            failure: VeilscoreError = NotScoredError("not all parts were opened", {**parts, error.holder: failed})
        except VeilscoreError as error:
            failure = error
        yield Refuse(CALLER, failure)
        yield Serve(CALLER, (pb.ScoreRequest,))


# --- a holder --------------------------------------------------------------------------------------------------------


def holder_score(desk: HolderDesk, bank: str, request_id: str) -> Protocol[None]:
    """Holder: serve one request id of a bank, until nothing of it has to be kept in memory any more.

    1. EncryptRecord, perhaps again; 2. OpenPartial, of which one is opened: the same bytes bring the same partial
    again, also after a restart, and anything else is refused; 3. at the lead of a band, its circuit.
    """
    opened, opens, labels = desk.opened(f"{bank}/{request_id}"), None, None
    if opened is None:
        found = yield from _until_opened(desk, bank)
        if found is None:
            return
        request, opened, opens, labels = found
    else:
        request = yield Serve(bank, CALLS)
    try:
        check_same(request, opened, desk.name)
        if _leads(desk, request):
            if opens is None or labels is None:
                raise lost(desk.name)
        else:
            yield from bring(desk.coordinator, bank, request, opened[1])
    except VeilscoreError as error:
        yield Refuse(bank, error)
        return
    if opens is not None and labels is not None:
        yield from lead_serves(bank, request, opened, opens, labels)
    else:
        yield Send(bank, pb.OpenedPartial())


def _leads(desk: HolderDesk, request: pb.OpenPartial) -> bool:
    return bool(request.bands_hash) and request.with_parties[0] == desk.name


_Found = tuple[pb.OpenPartial, tuple[bytes, bytes], Bands | SingleDecision | None, LeadLabels | None]


def _until_opened(desk: HolderDesk, bank: str) -> Protocol[_Found | None]:
    """Answer until a part is opened; returns what was asked, what was opened, and at a lead bands and labels.

    None where nothing was sent, so that nothing has to be kept.
    """
    asked = Asked()
    while True:
        request = yield Serve(bank, CALLS)
        answer: Message
        try:
            if isinstance(request, pb.EncryptRecord):
                answer = yield from _encrypted(desk, bank, request, asked)
            elif isinstance(request, pb.OpenPartial) and asked.sent:
                sent = asked.sent_with(request, desk.name)
                check_opening(desk, bank, request, sent.record)
                sha256, leads = sha256_of(request), _leads(desk, request)
                if not leads or _spent(desk, bank, request, asked, sent.record, sha256):
                    labels, opens = asked.labels.get(sha256), sent.record.opens if leads else None
                    opened = yield from _open(desk, bank, request, sent, labels)
                    return request, opened, opens, labels
                answer = pb.OpenedPartial(no_pool=True)
            else:
                raise lost(desk.name)
        except VeilscoreError as error:
            yield Refuse(bank, error)
        else:
            yield Send(bank, answer)
        if not asked.sent:
            return None


def _spent(
    desk: HolderDesk, bank: str, request: pb.OpenPartial, asked: Asked, record: HolderRecord, sha256: bytes
) -> bool:
    """Spend the transfers that a bank names, so that nobody else can; False where the lead has lost the pool.

    It comes before the part is opened: what fails later is asked for again with the same bytes.
    """
    if sha256 not in asked.labels:
        pool = desk.pool(bank, request.pool_id)
        if pool is None:
            return False
        n_wires = WIRES if record.decision is None else record.decision.n_wires
        asked.labels[sha256] = pool, *pool.labels(request.circuit, request.choices_share, n_wires)
    return True


def _encrypted(desk: HolderDesk, bank: str, request: pb.EncryptRecord, asked: Asked) -> Protocol[pb.EncryptedRecord]:
    """Send the record of a firm under a spare, or less where it need not be opened."""
    check_record(request, bank)
    record = yield from work(partial(desk.find, bank, request))
    asked.check_same(request, desk.name)
    if not record.known and request.on_missing == "fail":
        return pb.EncryptedRecord(unknown=True, discloses_unknown=True, data_time_s=record.data_time_s)
    sent = asked.sent.get(spares_of(request))
    if sent is not None:  # a spare serves one record: the same difference
        asked.keep(replace(sent, request=request))
        return sent.answer
    answer = pb.EncryptedRecord(
        unknown=not record.known and record.discloses_unknown,
        discloses_unknown=record.discloses_unknown,
        without_others=record.without_others,
        share_key_id=desk.share_key_id,
        reason_codes=record.reason_codes,
        data_time_s=record.data_time_s,
        released_as=record.passed.released_as,
    )
    if answer.released_as:
        return answer
    if record.passed.tells or record.reason_codes:  # no later: a bank may never ask to open it
        yield from work(partial(desk.count, RecordSent(record.passed, record_told(desk.name, bank, request, record))))
    taken = _take_spares(desk, bank, request, record, answer)
    if taken is None:
        return pb.EncryptedRecord(no_spare=True)
    asked.keep(SentRecord(request, record, taken, answer))
    return answer


def _take_spares(
    desk: HolderDesk, bank: str, request: pb.EncryptRecord, record: HolderRecord, answer: pb.EncryptedRecord
) -> dict[str, HolderSpare] | None:
    """Put what leaves of a record into the answer; return the spares by measure ("" of a score), None without one."""
    if record.decision is not None:
        return encrypt_parts(bank, request, record.parts, desk.take_spare, answer)
    found = desk.take_spare(bank, request.spare_id, request.map_hash + request.part_hash)
    if found is None:
        return None
    answer.difference_share = found.difference(record.cells)
    return {"": found}


def _open(
    desk: HolderDesk, bank: str, request: pb.OpenPartial, sent: SentRecord, labels: LeadLabels | None
) -> Protocol[tuple[bytes, bytes]]:
    """Open this holder's part, once; return digest and partial, which are on disk before they leave.

    At a lead the circuit is written down with its part: what is logged of it is fixed before the others' parts come,
    so that nothing waits for the disk once they are here.
    """
    parties = tuple(request.with_parties)
    keys = yield from desk.share_keys(parties, dict(request.share_key_ids))
    if keys is None:
        raise RefusedError("another holder was restarted since; use a new request id", party=desk.name)
    asked, record, spares = sent.request, sent.record, sent.spares
    key, sha256 = f"{bank}/{request.request_id}", sha256_of(request)
    digests = digests_of(asked, sent.answer, request)

    def share_of(measure: str, modulus: int) -> int:
        bound = asked.model_hash + request.bands_hash + measure.encode()
        context = share_context(key, parties, bound, record.firm.encode())
        return int(zero_share(desk.name, keys, context, 1, modulus)[0])

    if record.decision is None:
        (spare,) = spares.values()
        own = np.array([spare.partial(request.factors_share, bank) + share_of("", T)], np.uint64)
        part: OpeningLogged = share_opened(desk.name, bank, request, spare, asked, record.model, digests)
        data = pack_partial(own % T)
    else:
        found = partials(record.decision, record.parts, spares, sent.answer, request, bank)
        moduli = record.decision.modulus
        data = pack_shares([(found[name] + share_of(name, moduli[name])) % moduli[name] for name in moduli])
        part = parts_opened(desk.name, bank, request, spares, asked, record.model, digests)
    logged = (part,) if labels is None else (part, circuit_opened(bank, request, record.opens, labels[0]))
    passed = replace(record.passed, without_others=set(parties) != set(record.holders))
    opening = PartOpening(passed=passed, key=key, request=sha256, data=data, logged=logged)
    return sha256, (yield from work(partial(desk.write_down, opening)))
