"""The bank's side of decisions on single firms: the decision with its models, and what the bank puts in itself."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from veilscore.arrays import CodeArray
from veilscore.data.notation import MISSING, WHITE, plain_number
from veilscore.errors import ConfigError, DataError, PeerError
from veilscore.evidence.filings import filed_by
from veilscore.evidence.job_ledger import Ledger
from veilscore.models.decided import FiledDecision, bank_bound, bank_columns, load_decision
from veilscore.models.filed import load_model
from veilscore.models.model import Scorecard
from veilscore.models.versions import folders
from veilscore.online.holder_decision import holders_of
from veilscore.online.model import BankModel, BankModels, ModelSides, codes_of_features
from veilscore.online.records import Records, RowValues, load_map
from veilscore.online.response import unscored
from veilscore.online.stock import BankStock
from veilscore.protocols.online_measures import MeasuresAsked, SingleDecision
from veilscore.protocols.online_parts import Opened
from veilscore.terms.job import Job
from veilscore.terms.node_config import NodeConfig
from veilscore.v1 import control_pb2 as pb

S = TypeVar("S", bound=ModelSides)


@dataclass(frozen=True, repr=False)
class HeldDecision:
    """A decision that is in use at the bank.

    job : that filed it; version : its id.
    models : measure -> model at its pinned version, of trained models; written : of hand-written ones.
    records : measure -> the bank's own rows; values : its own columns in the clear.
    """

    filed: FiledDecision
    job: Job
    version: str
    single: SingleDecision
    models: Mapping[str, BankModel]
    written: Mapping[str, Scorecard]
    records: Mapping[str, Records]
    values: RowValues | None
    holders: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class OwnInputs:
    """What the bank puts into one decision: its codes of the firm by measure, and its own bound."""

    codes: Mapping[str, CodeArray]
    bound: int
    notes: tuple[str, ...] = field(default=())

    @property
    def sha256(self) -> str:
        """Return a digest of all of it."""
        digest = hashlib.sha256(self.bound.to_bytes(4, "little"))
        for measure, codes in sorted(self.codes.items()):
            digest.update(measure.encode() + b"\0" + codes.astype("<u2").tobytes())
        return digest.hexdigest()


class BankDecisions:
    """Keeps the decisions that a bank's node decides by.

    home, node, ledger, models : the node's own.
    """

    def __init__(self, home: Path, node: NodeConfig, ledger: Ledger, models: BankModels) -> None:
        self._home, self._node, self._ledger, self._models = home, node, ledger, models
        self._held: dict[str, HeldDecision] = {}

    async def get(self, name: str) -> HeldDecision:
        """Return the decision in use; ConfigError where there is none, or it cannot be decided online."""
        filed = await asyncio.to_thread(load_decision, self._home, name)
        held = self._held.get(name)
        if held is None or held.filed != filed:
            held = self._held[name] = await self._load(filed)
        return held

    async def _load(self, filed: FiledDecision) -> HeldDecision:
        decision = filed.decision
        if decision.watch:
            raise ConfigError(f"{decision.name} is a watch, which is decided month by month: use task decide")
        found = await asyncio.to_thread(filed_by, self._home, self._ledger, decision.name, filed.sha256)
        if found is None:
            raise ConfigError(f"the job that filed decision {decision.name} is not known here; file it again")
        job, version = found[1], found[2].name
        models, written, records = {}, {}, {}
        for measure, pin in filed.pins.items():
            folder = await asyncio.to_thread(self._pinned, pin.model, pin.model_sha256, measure)
            if pin.written:
                model = load_model(folder / "model.json")
                if not isinstance(model, Scorecard):
                    raise ConfigError(
                        f"measure {measure}: model {pin.model} is not the hand-written one that was filed"
                    )
                written[measure] = model
            else:
                models[measure] = await self._models.at(folder)
            records[measure] = Records(self._node, job, load_map(folder / "code_map.json"))
        columns = bank_columns(decision, self._node.name)
        values = RowValues(self._node, job, columns) if columns else None
        single = SingleDecision.of(filed)
        return HeldDecision(filed, job, version, single, models, written, records, values, holders_of(filed, job))

    def _pinned(self, name: str, sha256: str, measure: str) -> Path:
        for folder in folders(self._home, name):
            path = folder / "model.json"
            if path.is_file() and load_model(path).sha256.hex() == sha256:
                return folder
        raise ConfigError(
            f"measure {measure}: this bank has no such version of model {name} any more: restore it from backup, or "
            "file the decision anew"
        )

    async def own(self, held: HeldDecision, request: pb.ScoreRequest) -> OwnInputs:
        """Return what the bank puts in; DataError, PeerError where features or the bank's own row do not do."""
        codes, unseen = {}, set()
        if request.features:
            _check_features(held, request.features)
        for measure, records in held.records.items():
            names = records.code_map.names
            if not names:
                codes[measure] = np.zeros((1, 0), np.uint16)
            elif request.features:
                own = {name: request.features[name] for name in names if name in request.features}
                codes[measure], levels = codes_of_features(records.code_map, own)
                unseen |= set(levels)
            else:
                found = await records.find(records.normalise(request.firm_id))
                if not found.known:
                    raise _no_firm()
                codes[measure] = found.codes
        notes = (f"levels not seen in training: {', '.join(sorted(unseen))}",) if unseen else ()
        return OwnInputs(codes, await self._bound(held, request), notes)

    async def _bound(self, held: HeldDecision, request: pb.ScoreRequest) -> int:
        if held.values is None:
            return held.filed.decision.n_steps
        if request.features:
            decision = held.filed.decision
            words = {one.column for one in decision.knock_outs_of(self._node.name) if one.is_}
            columns: dict[str, Any] = {
                name: _cell(name, request.features.get(name, ""), words=name in words) for name in held.values.names
            }
        else:
            row = await held.values.find(request.firm_id)
            if row is None:
                raise _no_firm()
            columns = dict(row)
        return int(bank_bound(held.filed.decision, self._node.name, columns, 1)[0])


def measures_of(
    trained: Mapping[str, S], written: Mapping[str, Scorecard], codes: Mapping[str, CodeArray]
) -> tuple[dict[str, S], dict[str, int]]:
    """Return trained models for one record, and the bank's own units of all measures, from its codes by measure."""
    of_record = {measure: model.of_record(codes[measure]) for measure, model in trained.items()}
    units = {measure: model.own_units(codes[measure]) for measure, model in of_record.items()}
    return of_record, units | {m: int(model.own_units(codes[m])[0]) for m, model in written.items()}


def asked_of(held: HeldDecision, own: OwnInputs, stock: BankStock, limit_s: float) -> MeasuresAsked:
    """Return what the bank's role takes for one decision."""
    of_record, units = measures_of(held.models, held.written, own.codes)

    return MeasuresAsked(
        decision=held.single,
        holders=held.holders,
        sides={measure: model.holders for measure, model in of_record.items()},
        known=held.filed.known_points,
        own=units,
        bound=own.bound,
        take_spare=lambda holder, measure: stock.spares.take(holder, held.models[measure]),
        make_spare=lambda holder, measure, lost: stock.made_spare(holder, held.models[measure], limit_s, lost),
        put_back=lambda holder, measure, spare: stock.spares.add(holder, held.models[measure], spare),
    )


def ask_of(held: HeldDecision, request: pb.ScoreRequest, request_id: str) -> pb.EncryptRecord:
    """Return what each holder is asked, but for its spares."""
    sha256, decision = held.single.sha256, held.filed.decision
    return pb.EncryptRecord(
        request_id=request_id,
        firm_id=request.firm_id,
        model_hash=sha256,
        map_hash=sha256,
        bands_hash=sha256,
        decision=decision.name,
        purpose=request.purpose or decision.purpose,
        on_missing=request.on_missing or "fail",
        consent=request.consent,
    )


def decided(request: pb.ScoreRequest, held: HeldDecision, own: OwnInputs, opened: Opened) -> pb.ScoreResponse:
    """Return the response with a decision: `step`, its name as `band`, and the measure where it is told."""
    decision = held.filed.decision
    which, index = divmod(opened.together, decision.n_steps + 1)
    unknown = [h for h in opened.taking_part if opened.parts[h].status == "unknown"]
    notes = [*own.notes, *(f"{h} does not know the firm: its bins of missing values" for h in unknown)]
    response = unscored(request, "fallback" if unknown else "scored", "; ".join(notes), None, opened.parts)
    response.model_version, response.model_sha256 = held.version, held.single.sha256
    response.output, response.step = "decision", decision.step_of(index)
    response.steps, response.band = decision.n_steps, decision.name_of(response.step)
    if decision.tell_measure:
        response.measure = decision.name_told(which)
    return response


def _check_features(held: HeldDecision, features: Mapping[str, str]) -> None:
    needed = {name for records in held.records.values() for name in records.code_map.names}
    needed |= set(() if held.values is None else held.values.names)
    faults = {"absent": sorted(needed - set(features)), "unknown": sorted(set(features) - needed)}
    found = "; ".join(f"{word}: {', '.join(names)[:200]}" for word, names in faults.items() if names)
    if found:
        raise DataError(f"features are not the decision's columns ({found}); leave the text of a missing value empty")


def _cell(name: str, text: str, *, words: bool) -> Any:
    """Return a feature as a column of one row: of words, or of numbers; missing as None or NaN."""
    text = text.strip(WHITE)
    if words:
        return np.array([None if text in MISSING else text], dtype=object)
    try:
        value = math.nan if text in MISSING else plain_number(text)
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise DataError(f"feature {name!r} is not a finite number; leave its text empty if it is missing")
    return np.array([value])


def _no_firm() -> PeerError:
    return PeerError("the bank's own data set has no such firm; send its features")
