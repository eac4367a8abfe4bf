"""Reads a request for a score and writes its response: what may be asked, the bank's own record, the reasons.

Reasons are points that a firm loses against the best bin of a column. The bank computes them, since only it knows
points: for its own columns always; for a holder's column if the holder's policy names it in `reason_columns` and the
holder therefore sent that column's code in clear; for everything else of the holders one line, the points lost in all
of it together, which follows from the total. With one holder that line is the holder's own.
In trees points belong to paths, not to bins. A reason is then what the firm loses against the average firm on the
bank's own splits of a column (`models/tree_paths.py`); of each holder there is the one line, whatever it allows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from veilscore.arrays import CodeArray
from veilscore.errors import ConfigError, MessageError, PeerError
from veilscore.models.steps import middles, steps_of
from veilscore.online.model import BankModel, codes_of_features
from veilscore.protocols.online_parts import ON_MISSING, FirmPart, Opened
from veilscore.terms.bands import MAX_STEPS, MOST_STEPS, Bands
from veilscore.v1 import control_pb2 as pb

DEFAULT_REASONS = 4
OUTPUTS = ("score", "band", "exact", "decision")
_Line = tuple[int, str, str, str]  # units lost, party, column, text


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
    if request.output == "decision" and request.on_missing == "neutral":
        raise MessageError("a decision takes no averages: on_missing is fail or missing_code")
    if request.score_steps and ((request.output or "score") != "score" or not 2 <= request.score_steps <= MAX_STEPS):
        raise MessageError(f"score_steps is 2 to {MAX_STEPS}, and of output score alone")
    if not math.isfinite(request.timeout_s) or request.timeout_s < 0:
        raise MessageError("timeout_s is a number of seconds, 0 for the default")


def request_digest(request: pb.ScoreRequest) -> bytes:
    """Return a digest of what must be the same in a repeat: all but time allowed, number of reasons and consent."""
    same = pb.ScoreRequest()
    same.CopyFrom(request)
    for name in ("timeout_s", "n_reasons", "consent"):
        same.ClearField(name)
    if same.output == "score":
        same.ClearField("output")
    if same.score_steps == MOST_STEPS:
        same.ClearField("score_steps")
    return hashlib.sha256(same.SerializeToString(deterministic=True)).digest()


async def own_record(model: BankModel, request: pb.ScoreRequest) -> tuple[CodeArray, str]:
    """Return the bank's own codes of the firm, and what the caller should know about them."""
    if request.features:
        codes, unseen = codes_of_features(model.code_map, request.features)
        return codes, f"levels not seen in training: {', '.join(unseen)}" if unseen else ""
    if model.records is None:
        raise PeerError("this node does not know the data set the model was trained on; send the firm's features")
    found = await model.records.find(model.records.normalise(request.firm_id))
    if not found.known:
        raise PeerError("the bank's own data set has no such firm; send its features")
    return found.codes, ""


def bands_of(model: BankModel, request: pb.ScoreRequest) -> Bands | None:
    """Return the bands or steps that the request asks for, None for an exact score; ConfigError if there are none."""
    if request.output == "exact":
        return None
    if request.output != "band":
        asked = request.score_steps or MOST_STEPS
        return model.steps if asked == MOST_STEPS else steps_of(model.artefact, asked)
    artefact = model.artefact
    if not artefact.bands:
        raise ConfigError(f"model {artefact.name} has no bands: train it with bands, or name some in a batch")
    return Bands.of(artefact.bands, artefact.scaling.units)


def units_without(model: BankModel, own_codes: CodeArray, opened: Opened) -> int:
    """Units of the firm but for the parts that were opened: the bank's own, and averages of the other holders."""
    neutral = [h for h in model.holders if h not in opened.taking_part]
    return model.units_without(own_codes, neutral)


def scored(
    request: pb.ScoreRequest, model: BankModel, own_codes: CodeArray, note: str, opened: Opened, bands: Bands | None
) -> pb.ScoreResponse:
    """Return the response with a score, or with a band where bands are asked for.

    note : what the caller should know about the bank's own codes.
    bands : those, or the steps of the score; None for an exact one.
    """
    neutral = [h for h in model.holders if h not in opened.taking_part]
    unknown = [h for h in opened.taking_part if opened.parts[h].status == "unknown"]
    notes = [note] if note else []
    notes += [f"average points instead of {h}'s" for h in neutral]
    notes += [f"{h} does not know the firm: its bins of missing values" for h in unknown]
    status = "fallback" if neutral or unknown else "scored"
    response = unscored(request, status, "; ".join(notes), model, opened.parts)
    rest = units_without(model, own_codes, opened)
    card, units = model.artefact, rest + opened.together
    if bands is not None:
        number = opened.together if opened.taking_part else int(bands.index(np.array([rest], np.int64))[0])
        if request.output == "band":  # no reasons: lost points beside the band would narrow the score down
            response.output, response.band_number, response.band = "band", number, bands.names[number]
            return response
        response.step, response.steps = number, len(bands.names)
        units = int(middles(bands)[number])
        opened = replace(opened, together=units - rest)
    as_array = np.array([units], dtype=np.int64)
    response.units = units
    response.score = float(card.score(as_array)[0])
    response.probability_of_default = float(card.probability(as_array)[0])
    response.band = card.band(response.score)
    lines = (_tree_reasons if model.trees else _reasons)(model, own_codes, opened)
    most = sorted((line for line in lines if line[0] > 0), key=lambda line: -line[0])
    for lost, party, column, text in most[: request.n_reasons or DEFAULT_REASONS]:
        response.reasons.add(party=party, column=column, points_lost=lost / card.scaling.units, text=text)
    return response


def unscored(
    request: pb.ScoreRequest,
    status: str,
    message: str,
    model: BankModel | None = None,
    parts: Mapping[str, FirmPart] | None = None,
    failure: str = "",
) -> pb.ScoreResponse:
    """Return a response without a score; with the parties' status where holders were asked."""
    response = pb.ScoreResponse(request_id=request.request_id, status=status, message=message, model=request.model)
    response.failure = failure
    if model is not None:
        response.model_version, response.model_sha256 = model.artefact.version, model.sha256
    for part in (parts or {}).values():
        response.parties.add(
            party=part.holder, status=part.status, reason=plain(part.reason), data_time_s=part.reply.data_time_s
        )
    return response


def _reasons(model: BankModel, own_codes: CodeArray, opened: Opened) -> list[_Line]:
    """Return what bins cost: each column of the bank, those that holders let it know, and the rest of the holders."""
    found = [
        (model.own.lost(j, int(code)), model.own.party, name, f"{name}: {model.labels[j][int(code)]}")
        for j, (name, code) in enumerate(zip(model.own.names, own_codes[0], strict=True))
    ]
    rest = sum(model.holders[h].highest for h in opened.taking_part) - opened.together
    told = [(h, shown) for h in opened.taking_part for shown in opened.parts[h].reply.reason_codes]
    for holder, shown in told:
        side, name = model.holders[holder], plain(shown.name)
        lost = side.lost(shown.column, shown.code)
        rest -= lost
        alias = side.names[shown.column]
        found.append((lost, holder, name, f"{name} of {holder}: bin {shown.code} of {alias}"))
    return [*found, _of_holders("other columns" if told else "all columns", opened.taking_part, rest)]


def _tree_reasons(model: BankModel, own_codes: CodeArray, opened: Opened) -> list[_Line]:
    """Return what the firm loses against the average one: by column of the bank, and in all that holders brought."""
    lost = model.own_loss(own_codes)
    found = [
        (round(units), model.own.party, name, f"{name}: {model.labels[j][int(own_codes[0, j])]}")
        for j, (name, units) in enumerate(zip(model.own.names, lost.tolist(), strict=True))
    ]
    rest = sum(model.holders[h].average for h in opened.taking_part) - opened.together
    return [*found, _of_holders("all columns", opened.taking_part, rest)]


def _of_holders(what: str, holders: Sequence[str], units: int) -> _Line:
    parties = ", ".join(holders)
    return units, parties, "", f"{what} of {parties}" + (" together" if len(holders) > 1 else "")


def plain(text: str) -> str:
    """Return text from a peer, printable and short."""
    return "".join(c if c.isprintable() else " " for c in text[:200])
