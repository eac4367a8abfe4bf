"""A request for a score at the bank, without its messages: what holders said, who takes part, the response."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np

from veilscore.arrays import CodeArray, Words
from veilscore.errors import ConfigError, MessageError, PeerError
from veilscore.evidence.online_opening import Asked
from veilscore.online.bands_bank import BandCall
from veilscore.online.model import BankModel, Disclosed, codes_of_features, reasons
from veilscore.protocols import online
from veilscore.terms.bands import Bands
from veilscore.v1 import control_pb2 as pb

DEFAULT_REASONS = 4
ON_MISSING = ("fail", "missing_code", "neutral")
OUTPUTS = ("score", "band")


@dataclass(frozen=True, repr=False, eq=False)
class HolderReply:
    """What one holder said, and the bank's evaluated reply to it where it sent a record (`difference`: by a spare)."""

    holder: str
    status: str
    reason: str = ""
    data_time_s: float = 0.0
    evaluated: online.Evaluated | None = None
    keys_id: bytes = b""
    share_key_id: bytes = b""
    without_others: bool = False
    disclosed: tuple[Disclosed, ...] = ()
    released_as: str = ""
    asked: Asked | None = None
    difference: bytes = b""


@dataclass(frozen=True, repr=False)
class Plan:
    """A request up to the opening: who takes part is fixed, and nothing was opened yet.

    Attributes
    ----------
    repeated : what the parts of those who take part added up to when they opened them before, with `band` the number of
        the band then; None: not yet opened.
    band : where the band alone is asked for.
    """

    model: BankModel
    own_codes: CodeArray
    answers: tuple[HolderReply, ...]
    taking_part: tuple[HolderReply, ...]
    failure: str
    note: str
    repeated: int | None = None
    band: BandCall | None = None

    @property
    def neutral(self) -> list[str]:
        """Holders that count with their average."""
        part = {a.holder for a in self.taking_part}
        return [h for h in self.model.holders if h not in part]

    def units_without(self) -> int:
        """Units of the firm but for the parts of those who take part."""
        return self.model.units_without(self.own_codes, self.neutral)

    def own_share(self) -> int:
        """The bank's share of the total: that of the lead is the sum of the partials."""
        masks = [int(a.evaluated.mask_total[0]) for a in self.taking_part if a.evaluated is not None]
        return self.units_without() - sum(masks)

    def with_failures(self, said: dict[str, str]) -> Plan:
        """Plan with the status of holders that did not open."""
        answers = (replace(a, status="failed", reason=said[a.holder]) if a.holder in said else a for a in self.answers)
        return replace(self, answers=tuple(answers))

    def sum_of_parts(self, partial_sum: Words) -> int | None:
        """Units of all who took part, masks taken off; None if the model allows no such sum."""
        masks = [a.evaluated.mask_total for a in self.taking_part if a.evaluated is not None]
        units = int(online.total_points(partial_sum, masks, np.zeros(1, np.int64))[0])
        sides = [self.model.holders[a.holder] for a in self.taking_part]
        possible = sum(s.lowest for s in sides) <= units <= sum(s.highest for s in sides)
        return units if possible else None


def read_answer(holder: str, model: BankModel, reply: pb.EncryptedRecord) -> HolderReply:
    """Holder's reply, checked, without its ciphertexts.

    Raises
    ------
    MessageError : a status, key id, column or code that cannot be.
    """
    status = online.RecordStatus.parse(reply.status, holder)
    if status is online.RecordStatus.REFUSED or not (
        reply.ciphertext_enc or reply.difference_share or reply.released_as
    ):
        return HolderReply(holder, status.value, plain(reply.reason), reply.data_time_s)
    points = model.holders[holder].points
    if any(c.column >= len(points) or c.code >= points[c.column].size for c in reply.reason_codes):
        raise MessageError("a holder names a column or code that the model does not have", party=holder)
    if len({c.column for c in reply.reason_codes}) != len(reply.reason_codes) or len(reply.share_key_id) != 32:
        raise MessageError("a holder names a column twice, or its key id has the wrong length", party=holder)
    told = "ok" if reply.discloses_unknown else "not disclosed"
    return HolderReply(
        holder,
        "unknown" if status is online.RecordStatus.UNKNOWN else told,
        data_time_s=reply.data_time_s,
        keys_id=reply.keys_id,
        share_key_id=reply.share_key_id,
        without_others=reply.without_others,
        disclosed=tuple(Disclosed(c.column, c.code, plain(c.name)) for c in reply.reason_codes),
        released_as=plain(reply.released_as),
    )


async def own_record(model: BankModel, request: pb.ScoreRequest) -> tuple[CodeArray, str]:
    """Bank's own codes of the firm, and what the caller should know about them."""
    if request.features:
        codes, unseen = codes_of_features(model.code_map, request.features)
        return codes, f"levels not seen in training: {', '.join(unseen)}" if unseen else ""
    if model.records is None:
        raise PeerError("this node does not know the data set the model was trained on; send the firm's features")
    found = await model.records.find(request.firm_id)
    if not found.known:
        raise PeerError("the bank's own data set has no such firm; send its features")
    return found.codes, ""


def bands_of(model: BankModel, request: pb.ScoreRequest) -> Bands | None:
    """Bands that the request asks for, None for a score; ConfigError if the model has none."""
    if request.output != "band":
        return None
    artefact = model.artefact
    if not artefact.bands:
        raise ConfigError(f"model {artefact.name} has no bands: train it with bands, or name some in a batch")
    return Bands.of(artefact.bands, artefact.scaling.units)


def make_plan(model: BankModel, own_codes: CodeArray, answers: tuple[HolderReply, ...], rule: str, note: str) -> Plan:
    """Fix who takes part, by the rule for missing and refusing parties."""
    ready = [a for a in answers if a.evaluated is not None and (rule != "fail" or a.status == "ok")]
    missing = [a for a in answers if a not in ready]
    if missing and rule != "neutral":
        text = "; ".join(f"{a.holder}: {a.status}" for a in missing)
        return Plan(model, own_codes, answers, (), f"no score without all holders ({text}); see on_missing", note)
    if missing:
        reason = "opens its part only together with all holders of the model"
        answers = tuple(
            a if a.evaluated is None or a.without_others else replace(a, status="refused", reason=reason)
            for a in answers
        )
        ready = [a for a in ready if a.without_others]
    return Plan(model, own_codes, answers, tuple(ready), "", note)


def scored(request: pb.ScoreRequest, plan: Plan, together: int) -> pb.ScoreResponse:
    """Response with a score or a band.

    Parameters
    ----------
    together : the sum of the parts of those who took part; where the band alone was opened, its number.
    """
    model, card = plan.model, plan.model.artefact
    part_of = {a.holder: a for a in plan.taking_part}
    neutral = plan.neutral
    unknown = [h for h, a in part_of.items() if a.status == "unknown"]
    notes = [plan.note] if plan.note else []
    notes += [f"average points instead of {h}'s" for h in neutral]
    notes += [f"{h} does not know the firm: its bins of missing values" for h in unknown]
    response = make_response(request, "fallback" if neutral or unknown else "scored", "; ".join(notes), plan)
    if plan.band is not None:  # no reasons: lost points beside the band would narrow the score down
        if not plan.taking_part:
            together = int(plan.band.bands.index(np.array([plan.units_without()], np.int64))[0])
        response.output, response.band_number, response.band = "band", together, plan.band.bands.names[together]
        return response
    units = plan.units_without() + together
    as_array = np.array([units], dtype=np.int64)
    response.units = units
    response.score = float(card.score(as_array)[0])
    response.probability_of_default = float(card.probability(as_array)[0])
    response.band = card.band(response.score)
    disclosed = {h: a.disclosed for h, a in part_of.items()}
    response.reasons.extend(reasons(model, plan.own_codes, disclosed, together, request.n_reasons or DEFAULT_REASONS))
    return response


def make_response(request: pb.ScoreRequest, status: str, message: str, plan: Plan | None = None) -> pb.ScoreResponse:
    """Response without a score; with the parties' status if there is a plan."""
    response = pb.ScoreResponse(request_id=request.request_id, status=status, message=message, model=request.model)
    if plan is not None:
        response.model_version = plan.model.artefact.version
        response.model_sha256 = plan.model.sha256
        for a in plan.answers:
            response.parties.add(party=a.holder, status=a.status, reason=a.reason, data_time_s=a.data_time_s)
    return response


def check_request(request: pb.ScoreRequest) -> None:
    """Refuse what cannot be a request; MessageError."""
    if not (0 < len(request.request_id) <= 100 and request.request_id.isprintable()):
        raise MessageError("a request id is 1 to 100 printable characters")
    if not 0 < len(request.firm_id) <= 100:
        raise MessageError("a firm id has 1 to 100 characters")
    if (request.on_missing or "fail") not in ON_MISSING:
        raise MessageError(f"on_missing is one of {', '.join(ON_MISSING)}")
    if (request.output or "score") not in OUTPUTS:
        raise MessageError(f"output is one of {', '.join(OUTPUTS)}")
    if not math.isfinite(request.timeout_s) or request.timeout_s < 0:
        raise MessageError("timeout_s is a number of seconds, 0 for the default")


def request_digest(request: pb.ScoreRequest) -> bytes:
    """What must be the same in a repeat: all but the time allowed and the number of reasons."""
    same = pb.ScoreRequest()
    same.CopyFrom(request)
    same.ClearField("timeout_s")
    same.ClearField("n_reasons")
    same.ClearField("consent")
    if same.output == "score":
        same.ClearField("output")
    return hashlib.sha256(same.SerializeToString(deterministic=True)).digest()


def plain(text: str) -> str:
    """Text from a peer, printable and short."""
    return "".join(c if c.isprintable() else " " for c in text[:200])
