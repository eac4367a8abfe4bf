"""Reads what each holder answers of its part of one firm's score, and fixes whose parts are opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from veilscore.errors import MessageError, PeerError
from veilscore.protocols.online_measures import MeasuresAsked
from veilscore.protocols.online_spares import BankSpare, Side
from veilscore.v1 import control_pb2 as pb

ON_MISSING = ("fail", "missing_code", "neutral")


@dataclass(frozen=True, repr=False)
class FirmPart:
    """One holder's part of a request at the bank.

    status : ok, not disclosed (answered; does not say whether it knows the firm), unknown, refused, failed.
    fresh : whether it was asked to open again what it had released.
    reply : what it answered.
    spare, mask : where it sent a record, the spare that was used and what the bank has to take off the total.
    spares, masks : of a decision the same by measure; `mask` is then 0.
    """

    holder: str
    status: str
    reason: str = ""
    fresh: bool = False
    reply: pb.EncryptedRecord = field(default_factory=pb.EncryptedRecord)
    spare: BankSpare | None = None
    mask: int | None = None
    spares: Mapping[str, BankSpare] = field(default_factory=dict)
    masks: Mapping[str, int] = field(default_factory=dict)


class NotScoredError(PeerError):
    """No score or band came out; `parts` say why."""

    def __init__(self, message: str, parts: Mapping[str, FirmPart]) -> None:
        super().__init__(message)
        self.parts = parts


@dataclass(frozen=True, repr=False)
class Opened:
    """What came out of a request.

    parts : of all holders.
    taking_part : holders whose parts were opened, now or earlier; the others count with their average.
    together : what those parts add up to, in units; where the band alone was asked for, its number; of a decision, what
        `online_measures.BankDecision.open` returns.
    before : whether it was opened earlier, for a request with the same result.
    """

    parts: Mapping[str, FirmPart]
    taking_part: tuple[str, ...]
    together: int
    before: bool = False


def read_part(reply: pb.EncryptedRecord, side: Side, spare: BankSpare, *, fresh: bool) -> FirmPart:
    """Read a holder's answer, with the bank's mask where it sent a record; MessageError for what it cannot say."""
    holder, codes = side.party, reply.reason_codes
    if not (reply.difference_share or reply.released_as):
        if not reply.unknown:
            raise MessageError("a holder sent neither a record nor why not", party=holder)
        return FirmPart(holder, "unknown", reply=reply)
    if any(c.column >= len(side.points) or c.code >= side.points[c.column].size for c in codes):
        raise MessageError("a holder names a column or code that the model does not have", party=holder)
    if len({c.column for c in codes}) != len(codes) or len(reply.share_key_id) != 32:
        raise MessageError("a holder names a column twice, or its key id has the wrong length", party=holder)
    part = FirmPart(
        holder,
        "unknown" if reply.unknown else "ok" if reply.discloses_unknown else "not disclosed",
        fresh=fresh,
        reply=reply,
    )
    if reply.released_as:
        return part
    return replace(part, spare=spare, mask=spare.mask_of(reply.difference_share, side.cells, holder))


def read_decision_part(
    reply: pb.EncryptedRecord, asked: MeasuresAsked, holder: str, spares: Mapping[str, BankSpare], *, fresh: bool
) -> FirmPart:
    """Read a holder's answer for all measures of a decision; MessageError for what it cannot say."""
    sent = bool(reply.difference_shares) or bool(reply.mask_seed)
    if not sent and not reply.released_as:
        if not reply.unknown:
            raise MessageError("a holder sent neither a record nor why not", party=holder)
        return FirmPart(holder, "unknown", reply=reply)
    if reply.reason_codes or len(reply.share_key_id) != 32:
        raise MessageError("a holder names codes beside a decision, or its key id has the wrong length", party=holder)
    status = "unknown" if reply.unknown else "ok" if reply.discloses_unknown else "not disclosed"
    part = FirmPart(holder, status, fresh=fresh, reply=reply)
    if reply.released_as:
        return part
    return replace(part, mask=0, spares=spares, masks=asked.masks_of(reply, spares, holder))


def as_if_sent(parts: Mapping[str, FirmPart]) -> dict[str, FirmPart]:
    """Return parts in which holders that released the same before count as ready, to see who would take part."""
    return {holder: replace(part, mask=0) if part.reply.released_as else part for holder, part in parts.items()}


def taking_part(parts: Mapping[str, FirmPart], rule: str) -> tuple[dict[str, FirmPart], list[FirmPart]]:
    """Fix whose parts are opened, by the rule for missing and refusing parties; NotScoredError if there is no score.

    Sums over different sets of holders would show single parts by subtraction, so where one is missing the others open
    theirs only if their policy says so.
    """
    ready = [p for p in parts.values() if p.mask is not None and (rule != "fail" or p.status == "ok")]
    missing = [p for p in parts.values() if p not in ready]
    if not missing:
        return dict(parts), ready
    if rule != "neutral":
        text = "; ".join(f"{p.holder}: {p.status}" for p in missing)
        raise NotScoredError(f"no score without all holders ({text}); see on_missing", parts)
    alone = [p for p in ready if p.reply.without_others]
    reason = "opens its part only together with all holders of the model"
    unwilling = {p.holder: replace(p, status="refused", reason=reason) for p in ready if p not in alone}
    return {**parts, **unwilling}, alone
