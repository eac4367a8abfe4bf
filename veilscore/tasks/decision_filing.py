"""Task file_decision: every party files a decision, after each holder has compared the versions of its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from veilscore.data.column_bins import Bins
from veilscore.data.published_bins import PublishedBins, open_map
from veilscore.errors import ConfigError, MessageError, RefusedError, SchemaError
from veilscore.files.store import write_text
from veilscore.models.decided import DECISION, FiledDecision, Pin, Pins, map_file, model_file
from veilscore.models.filed import load_model
from veilscore.models.hand_written import WrittenPart, knock_out_units
from veilscore.models.model import ScoreModel
from veilscore.models.versions import versions, with_map
from veilscore.protocols.filing import bank_file, holder_file
from veilscore.tasks.context import StepContext, load_code_map, load_trees
from veilscore.tasks.decide_parts import made_for_bank
from veilscore.tasks.task import Cost, Step, Task, no_openings
from veilscore.tasks.written import (
    CODE_MAP,
    keep_map,
    map_name,
    published_bins,
    refuse_other_kind,
    refuse_unpublished,
    staged,
)
from veilscore.terms.bands import KeptBands
from veilscore.terms.decision import DecisionModel, FileDecision, KnockOut
from veilscore.terms.policy import NodePolicy, refuse_untold
from veilscore.terms.roles import Leak, Learned
from veilscore.wire.protocol import Protocol


def _bank_file(context: StepContext) -> Protocol[None]:
    job, decision = context.job, context.job.of(FileDecision).decision
    refuse_other_kind(context, DECISION)
    models = {measure: _keep_model(context, measure, name) for measure, name in decision.models.items()}
    pins = {measure: Pin.of(model, decision.limits(measure, model.scaling.units)) for measure, model in models.items()}

    def whole(knock_outs: Mapping[str, str]) -> bytes:
        for holder in job.holders:
            if bool(decision.knock_outs_of(holder)) != (holder in knock_outs):
                raise MessageError("a holder's knock-outs are not those of the decision", party=holder)
        return _keep(context, FiledDecision(decision=decision, pins=pins, knock_outs=dict(knock_outs)))

    yield from bank_file(context.session, Pins(pins=pins).to_bytes(), whole)


def _keep_model(context: StepContext, measure: str, name: str) -> ScoreModel:
    """Keep the version of a model that is in use at the bank beside the decision; ConfigError where it does not serve.

    A decision is whole by itself: what is trained or rolled back later does not move it.
    """
    home, bank, folder = context.home(), context.job.bank, staged(context)
    try:
        model = load_model(home / "models" / name / "model.json")
        code_map = load_code_map(home / "models", name)
    except (ConfigError, SchemaError) as error:
        raise ConfigError(f"measure {measure}: {error.message}", party=bank) from None
    strangers = [part.party for part in model.parts[1:] if part.party not in context.job.holders]
    if strangers:
        raise ConfigError(
            f"measure {measure}: model {name} has a part of {', '.join(strangers)}, which is no holder of this job; "
            "add it to holders and datasets",
            party=bank,
        )
    if code_map.hash != model.parts[0].map_sha256:
        raise ConfigError(f"measure {measure}: the bank's code map of model {name} is of another version", party=bank)
    model.save(folder / model_file(measure))
    write_text(folder / map_file(measure), code_map.to_json())
    return model


def _holder_file(context: StepContext) -> Protocol[None]:
    party, decision = context.session.party, context.job.of(FileDecision).decision
    refuse_other_kind(context, DECISION)
    own = {one.column: one for one in decision.knock_outs_of(party)}
    bins = yield from published_bins(context, {name: partial(_bins_for, one) for name, one in own.items()})
    pins: dict[str, Pin] = {}

    def answer(data: bytes) -> bytes:
        try:
            pins.update(Pins.from_bytes(data).pins)
            FiledDecision(decision=decision, pins=pins)
        except ValueError as error:
            raise MessageError("the bank's versions of models are not those of the decision", party=party) from error
        for measure, pin in pins.items():
            _check_pin(context, decision, measure, pin)
        return _keep_knock_outs(context, own, bins)

    def whole(knock_outs: Mapping[str, str]) -> bytes:
        return _keep(context, FiledDecision(decision=decision, pins=pins, knock_outs=dict(knock_outs)))

    yield from holder_file(context.session, answer, whole)


def _bins_for(knock_out: KnockOut, published: PublishedBins) -> Bins:
    return published.bins_for(knock_out)


def _check_pin(context: StepContext, decision: DecisionModel, measure: str, pin: Pin) -> None:
    """Compare the bank's version of a model with what this party has of it; RefusedError says what to do."""
    party, home = context.session.party, context.home()
    map_sha256 = pin.maps.get(party)
    if map_sha256 is None:
        return
    folder = with_map(home, pin.model, map_sha256)
    if folder is not None and not made_for_bank(context, pin.model, folder):
        raise RefusedError(
            f"measure {measure}: {party} has model {pin.model} of another bank: take a model that this bank trained "
            "or wrote",
            party=party,
        )
    if folder is None:
        filed = bool(versions(home, pin.model)) or (home / "models" / pin.model).is_dir()
        why = (
            f"has another version of its code map of model {pin.model}: go back to a version that both have "
            "(veilscore model rollback at the bank), or train it again"
            if filed
            else f"has no model {pin.model} any more: train it again, restore it from backup, or take another one"
        )
        raise RefusedError(f"measure {measure}: {party} {why}", party=party)
    try:
        kept = _kept_of(folder, party, pin)
    except ConfigError as error:
        raise RefusedError(f"measure {measure}: {party}: {error.message}", party=party) from None
    if decision.limits(measure, kept.units) != pin.limits:
        raise RefusedError(
            f"measure {measure}: {party} makes other units of its cut-offs than the bank, which has another version of "
            f"model {pin.model}: file the decision again",
            party=party,
        )


def _kept_of(folder: Path, party: str, pin: Pin) -> KeptBands:
    """Return what a holder keeps of a model's scale; ConfigError where its part is not the pinned one."""
    if pin.written and WrittenPart.load(folder).map_sha256 != pin.maps[party]:
        raise ConfigError(f"the points that are kept of model {pin.model} are of another version")
    if party in pin.trees and load_trees(folder.parent, folder.name).sha256.hex() != pin.trees[party]:
        raise ConfigError(f"the trees that are kept of model {pin.model} are of another version")
    return KeptBands.load(folder)


def _keep_knock_outs(context: StepContext, own: Mapping[str, KnockOut], bins: Mapping[str, Bins]) -> bytes:
    """Keep this party's knock-outs as points of a code map of their own; return its hash, empty without any."""
    if not own:
        return b""
    code_map = open_map(bins, map_name(context))
    part = WrittenPart(name=context.job.name, map_sha256=code_map.hash, points=knock_out_units(own, bins))
    part.save(keep_map(context, code_map))
    return bytes.fromhex(code_map.hash)


def _keep(context: StepContext, filed: FiledDecision) -> bytes:
    """Keep a decision for the end of the job; return its digest."""
    filed.save(staged(context))
    return filed.sha256


def _refuse_outcomes(policy: NodePolicy, p: FileDecision) -> None:
    decision = p.decision
    refuse_untold(policy, decision)
    if decision.watch:
        policy.release.allow_watch(decision.bits, policy.release.min_batch)


FILE = Step(
    kind="file",
    bank=_bank_file,
    holder=_holder_file,
    reads={},
    reads_data=False,
    reads_home=lambda p: tuple(
        f"models/{model}/{file}" for model in p.decision.models.values() for file in ("model.json", CODE_MAP)
    ),
    cost=lambda _p, sizes: Cost(0.5, 2000.0 * len(sizes.holders)),
    spends=no_openings,
    learns=(
        Leak("StepCommitment", "holder", "public", "steps, cut-offs and knock-outs, which stand in the job"),
        Leak("FileBankPins", "holder", "public", "hashes of the models of all measures, and cut-offs in their units"),
        Leak("FileHolderMap", "bank", "public", "that it has these versions, and publishes the bins of its knock-outs"),
        Leak("FileBankDecision", "holder", "public", "hashes of the decision and of all code maps of knock-outs"),
    ),
    tells_besides={
        "tell_measure": Learned("measure", "which measure decided, of each firm decided", "nothing", "nothing")
    },
    refusals=(
        _refuse_outcomes,
        lambda policy, p: refuse_unpublished(policy, (one.column for one in p.decision.knock_outs)),
    ),
)


def _step(p: FileDecision, _name: str) -> Step:
    return replace(FILE, fixed_bins=bool(p.decision.knock_outs))


TASK = Task(FileDecision, _step)
