"""Asks one holder for all measures of a decision on one firm, and opens them together.

Source   : roles and messages of `veilscore.protocols.online`; the circuit of `decision_circuit`; ADR 17.
Parties  : the bank (points, its own bound of the firm; evaluates), holders, the first of them as lead (garbles).
Messages : as of a band. EncryptRecord names one firm, one decision and a spare for each measure in which the holder has
           encrypted cells, so that measures of different firms cannot be said; EncryptedRecord has the differences of
           all of them, and the seed of what masks points that the holder knows itself. BandPartial has one number a
           measure, each in its ring and with a share of zero of its own; one OpenPartial opens one circuit.
Reveals  : to the bank, the step (a number of reached cut-offs), and the measure that decided where the decision tells
           it. To a holder, the decision and that the firm is decided on. To the lead nothing more: what it adds up is
           uniform without the bank's masks and the other holders'.
Assumes  : as `online` and `online_band`.
Aborts   : as `online`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from veilscore.errors import RefusedError
from veilscore.evidence.online_opening import PartsOpened, RecordTold, ShareOpened, digests_of
from veilscore.protocols.online_desks import BankRequest, HolderRecord
from veilscore.protocols.online_measures import MeasuresAsked
from veilscore.protocols.online_parts import FirmPart, read_decision_part
from veilscore.protocols.online_spares import BankSpare, HolderSpare
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Protocol, call, together


def decision_record(of: BankRequest, asked: MeasuresAsked, holder: str, *, fresh: bool) -> Protocol[FirmPart]:
    """Bank: ask one holder for the firm's part of all measures; raises what the holder answers instead."""
    spares = {m: s for m in asked.trained(holder) if (s := asked.take_spare(holder, m)) is not None}
    lost: dict[str, BankSpare] = {}
    request = pb.EncryptRecord()
    request.CopyFrom(of.ask)
    request.fresh = fresh
    try:
        for _ in range(2):
            missing = [measure for measure in asked.trained(holder) if measure not in spares]
            if missing:
                made = {measure: asked.make_spare(holder, measure, lost.get(measure)) for measure in missing}
                spares |= yield from together(made)
            request.spare_ids.clear()
            request.spare_ids.update({measure: spare.spare_id for measure, spare in spares.items()})
            reply = yield from call(holder, request, pb.EncryptedRecord, of.limit_s / 2)
            if not reply.no_spare:
                break
            spares, lost = {}, spares  # the holder was restarted since
    except RefusedError:
        _put_back(asked, holder, spares)
        raise
    part = read_decision_part(reply, asked, holder, spares, fresh=fresh)
    if part.mask is None:
        _put_back(asked, holder, spares)
    return part


def _put_back(asked: MeasuresAsked, holder: str, spares: Mapping[str, BankSpare]) -> None:
    for measure, spare in spares.items():
        asked.put_back(holder, measure, spare)


def add_parts(request: pb.OpenPartial, asked: MeasuresAsked, part: FirmPart) -> None:
    """Bank: name in a request to open all spares of a holder, with the factors of trees."""
    sides = asked.trained(part.holder)
    for measure, spare in part.spares.items():
        request.spare_ids[measure] = spare.spare_id
        if factors := spare.factors_of(sides[measure].cells):
            request.factors_shares[measure] = factors


# --- what a holder logs before a part leaves it ----------------------------------------------------------------------


def record_told(holder: str, bank: str, request: pb.EncryptRecord, record: HolderRecord) -> RecordTold:
    """Return the entry of a record that tells something by itself."""
    return RecordTold(
        holder=holder,
        bank=bank,
        request=request.request_id,
        commitment="",
        messages=digests_of(request),
        model=request.model_hash.hex(),
        named=record.model,
        purpose=request.purpose[:200],
    )


def share_opened(
    holder: str,
    bank: str,
    request: pb.OpenPartial,
    spare: HolderSpare,
    asked: pb.EncryptRecord,
    named: str,
    digests: Mapping[str, str],
) -> ShareOpened:
    """Return the entry of a score's part; `named` is the model at the holder."""
    return ShareOpened(
        holder=holder,
        bank=bank,
        request=request.request_id,
        model=asked.model_hash.hex(),
        named=named,
        purpose=asked.purpose[:200],
        part=spare.part.hex(),
        spare=spare.spare_id,
        keys=spare.keys_id.hex(),
        commitment=spare.commitment.hex(),
        messages={**spare.messages, **digests},
    )


def parts_opened(
    holder: str,
    bank: str,
    request: pb.OpenPartial,
    spares: Mapping[str, HolderSpare],
    asked: pb.EncryptRecord,
    named: str,
    digests: Mapping[str, str],
) -> PartsOpened:
    """Return the entry of all parts of a decision: messages of spares stand with the name of their measure."""
    said = {
        measure: {
            "part": spare.part.hex(),
            "spare": spare.spare_id,
            "keys": spare.keys_id.hex(),
            "commitment": spare.commitment.hex(),
        }
        for measure, spare in sorted(spares.items())
    }
    of_spares = {f"{kind} {m}": sha256 for m, spare in spares.items() for kind, sha256 in spare.messages.items()}
    return PartsOpened(
        holder=holder,
        bank=bank,
        request=request.request_id,
        commitment="",
        decision=request.bands_hash.hex(),
        named=named,
        purpose=asked.purpose[:200],
        parts=json.dumps(said, sort_keys=True, separators=(",", ":")),
        messages={**of_spares, **digests},
    )
