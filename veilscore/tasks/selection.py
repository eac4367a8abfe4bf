"""Task select_model: in a private job each kind of model is trained and measured alone, and the best one is filed.

    align -> for each KIND: KIND.bin, its fits, KIND.evaluate -> choose

A kind's steps are those of its own task, in a folder of its own below the job's, with mu / sqrt(number of kinds): all
take openings of their own on the same split of rows, and the choice among their noised curves opens nothing more. What
a grid varies is the bank's part alone, chosen by cross-validation on its own columns. Exact jobs: `stack.py`.

    KIND/tuned.json  bank: loss of every point of the grid by fold, and which is taken
    selection.json   bank: what the curves say, and which kind was chosen
    choice.json      each party: which candidates the filed model is made of
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import numpy as np

from veilscore.data.codes import CodeMap
from veilscore.errors import MessageError
from veilscore.files.store import JobStore
from veilscore.models import stacked
from veilscore.models.chained import Chained
from veilscore.models.filed import load_model
from veilscore.models.noise_cost import KnownSizes, NoiseCost
from veilscore.models.own_validation import fold_losses
from veilscore.tasks import boosting, scorecard, stack
from veilscore.tasks.align import ALIGN
from veilscore.tasks.binning import own_rows
from veilscore.tasks.context import StepContext, keep_code_map, keep_model, keep_trees, load_trees, no_files
from veilscore.tasks.curve import load_curve
from veilscore.tasks.stack_folds import folder_of
from veilscore.tasks.task import COMMITTED, Cost, Sizes, Step, Task, no_openings
from veilscore.terms.job import Job
from veilscore.terms.policy import NodePolicy
from veilscore.terms.roles import Leak
from veilscore.terms.selection import Kind, SelectModel
from veilscore.v1 import stacking_pb2 as pb
from veilscore.wire.protocol import Protocol, Send, receive

_TASKS: Mapping[Kind, Task] = {"scorecard": scorecard.TASK, "boosting": boosting.TASK, "stack": stack.TASK}


def noise(p: SelectModel, sizes: KnownSizes) -> NoiseCost | None:
    """Return the most that noise is expected to cost a kind, each with its part of mu; None in exact mode."""
    if not p.private:
        return None
    found = [_TASKS[kind].noise(p.of_kind(kind), sizes) for kind in p.kinds]
    return max((cost for cost in found if cost is not None), key=lambda cost: cost.auc)


# --- the steps of a kind ---------------------------------------------------------------------------------------------


def _of_kind(context: StepContext, *, kind: Kind, inner: Step) -> Protocol[None]:
    """Run a step of a kind's own task with files of its own."""
    own, bank = folder_of(context, kind), context.role == "bank"
    if inner.kind == "bin":
        own.save_json("aligned", context.store.load_json("aligned"))
        if bank:
            own.save_json("tuned", _tuned(context, kind, own))
        else:
            own.save_arrays("row_of", **context.store.load_arrays("row_of"))
    job = _job_of(context.job, kind, own.load_json("tuned")["point"] if bank else 0)
    role, alone = inner.bank if bank else inner.holder, replace(context, job=job, store=own, whole=context.store.path)
    yield from role(alone)
    if bank and inner.kind == job.training.fits[-1]:  # before it is scored, as its hash names it from then on
        model = load_model(own.path / "model.json")
        provenance = model.provenance.model_copy(update={"job_sha256": context.job.sha256.hex()})
        keep_model(alone, model.model_copy(update={"provenance": provenance}))


def _job_of(job: Job, kind: Kind, point: int) -> Job:
    """Return the job that would train one kind alone."""
    p = job.of(SelectModel).of_kind(kind, point)
    return job.model_copy(update={"task": p.task, "parameters": p})


def _tuned(context: StepContext, kind: Kind, own: JobStore) -> dict[str, Any]:
    """Bank: return the losses (points, folds) of the kind's grid on the bank's own columns, and the least one's place.

    A stack has the trees' grid: where trees were tuned before, their choice is its own.
    """
    job, p = context.job, context.job.of(SelectModel)
    points = p.points(kind)
    if len(points) == 1:
        return {"point": 0, "losses": [], "fold_rows": []}
    if _tuned_before(p, kind):
        return dict(folder_of(context, "boosting").load_json("tuned"))
    alone = [job.of_candidate(candidate) for candidate in points]  # rows and bins are the same for all
    columns, rows, code_map = own_rows(replace(context, job=alone[0], store=own, whole=context.store.path))
    fold = stacked.folds(int(rows["train"].sum()), p.folds, p.fold_seed)
    stacked.check_folds(fold, rows["target"][rows["train"]])
    losses = np.stack([fold_losses(one, columns, rows, code_map, fold) for one in alone])
    return {
        "point": int(losses.sum(axis=1).argmin()),
        "losses": losses.tolist(),
        "fold_rows": np.bincount(fold).tolist(),
    }


def _tuned_before(p: SelectModel, kind: Kind) -> bool:
    return kind == "stack" and "boosting" in p.kinds[: p.kinds.index("stack")] and len(p.points(kind)) > 1


def _step_of_kind(p: SelectModel, kind: Kind, name: str) -> Step:
    """Return the record of a step of one kind: that of its own task, on its own parameters and files."""
    own = p.of_kind(kind)
    inner = _TASKS[kind].step(own, name)
    role = partial(_of_kind, kind=kind, inner=inner)
    reads = {
        file if made_by == "align" else f"{kind}/{file}": made_by if made_by == "align" else f"{kind}.{made_by}"
        for file, made_by in inner.reads.items()
    }
    if name != "bin":
        reads[f"{kind}/tuned.json"] = f"{kind}.bin"
    elif _tuned_before(p, kind):
        reads["boosting/tuned.json"] = "boosting.bin"

    def of_own(rule: Callable[[NodePolicy, Any], None]) -> Callable[[NodePolicy, Any], None]:
        return lambda policy, _parameters: rule(policy, own)

    return replace(
        inner,
        bank=role,
        holder=role,
        reads=reads,
        reads_home=lambda _parameters: inner.reads_home(own),
        cost=lambda _parameters, sizes: inner.cost(own, sizes),
        spends=lambda _parameters: inner.spends(own),
        fits=lambda _parameters, train: inner.fits(own, train),
        bits=lambda _parameters: inner.bits(own),
        refusals=tuple(of_own(rule) for rule in inner.refusals),
    )


# --- the choice ------------------------------------------------------------------------------------------------------


def _kept(p: SelectModel, kind: Kind) -> dict[str, str]:
    """Return the bank's files of a kind that are the job's own where it is filed, each with the step that made it."""
    fit = p.of_kind(kind).fits[-1]
    made = {"rows.npz": "bin", "counts.json": "bin", "code_map.json": "bin", "fit.json": fit}
    if kind == "scorecard":
        made |= {"sums.npz": "bin", "openings.json": fit}
    return made | {"curve.npz": "evaluate", "model.json": "evaluate"}


def _bank_choose(context: StepContext) -> Protocol[None]:
    job, store, p = context.job, context.store, context.job.of(SelectModel)
    curves = {kind: load_curve(folder_of(context, kind).load_arrays("curve")) for kind in p.kinds}
    tuned = {kind: folder_of(context, kind).load_json("tuned") for kind in p.kinds}
    kind = max(p.kinds, key=lambda one: curves[one].auc())
    own = folder_of(context, kind)
    model = load_model(own.path / "model.json")
    number = next(value for value, name in stack.KINDS.items() if name == kind)
    for holder in job.holders:
        yield Send(holder, pb.StackBankChoice(kind=number))  # type: ignore[arg-type]
    for holder in job.holders:
        part = yield from receive(holder, pb.StackHolderPart)
        stated = model.holder_sha256[holder] if isinstance(model, Chained) else ""
        if part.sha256.hex() != stated:
            raise MessageError("its part of the chosen model is not the one that was trained", party=holder)
    store.take_over(own, *_kept(p, kind))
    keep_model(context, model)
    keep_code_map(context, CodeMap.from_json(own.load_json("code_map")))
    store.save_json("choice", _choice(p, kind, tuned[kind]["point"]))
    rows = [row for one in p.kinds for row in _record(p, one, tuned[one], filed=one == kind)]
    measured = {one: (curves[one].auc(), curves[one].errors().auc_noise) for one in p.kinds}
    for row in rows:
        if row["measured"]:
            row["auc"], row["auc_noise"] = measured[row["kind"]]
    store.save_json("selection", {"by": "curve", "folds": p.folds, "candidates": rows, "weights": {}})


def _record(p: SelectModel, kind: Kind, tuned: Mapping[str, Any], *, filed: bool) -> list[dict[str, Any]]:
    """Return what reports say of a kind: the point that was trained, and those that the bank's columns spoke against.

    Of a stack the trained point alone, where the trees have the others.
    """
    points, found = p.points(kind), []
    for number, candidate in enumerate(points):
        trained = number == tuned["point"]
        if not trained and kind == "stack" and "boosting" in p.kinds:
            continue
        found.append(
            {
                "name": candidate.name if kind != "stack" else candidate.name.replace("boosting", "stack"),
                "kind": kind,
                "varied": {name: str(value) for name, value in candidate.varied.items()},
                "losses": tuned["losses"][number] if tuned["losses"] else [],
                "fold_rows": tuned["fold_rows"],
                "measured": trained,
                "filed": filed and trained,
            }
        )
    return found


def _choice(p: SelectModel, kind: Kind, point: int) -> dict[str, Any]:
    """Say for reports which candidates the filed model has the parameters of, by their place among all."""
    places = {"scorecard": 0, "boosting": len(p.points("scorecard"))}
    grid = "boosting" if kind == "stack" else kind
    return {"kind": kind, **places, grid: places[grid] + point}


def _holder_choose(context: StepContext) -> Protocol[None]:
    job, p = context.job, context.job.of(SelectModel)
    message = yield from receive(job.bank, pb.StackBankChoice)
    kind = stack.KINDS.get(message.kind)
    if kind is None or kind not in p.kinds:
        raise MessageError("the bank files another kind of model than the job compares", party=job.bank)
    own = folder_of(context, kind)
    code_map, digest = CodeMap.from_json(own.load_json("code_map")), b""
    if kind == "scorecard":
        keep_code_map(context, code_map)
        context.store.take_over(own, "trained.json", "openings.json")
    else:
        part = load_trees(own.path / "models", job.name)
        told = {name: value for name, value in own.load_json("boosted").items() if name != "sha256"}
        keep_trees(context, part, code_map, **told)
        digest = part.sha256
    yield Send(job.bank, pb.StackHolderPart(sha256=digest))
    context.store.take_over(own, "code_map.json", "columns.json", "rows.npz", "scored.json")
    context.store.save_json("choice", _choice(p, kind, 0))


def _choose(p: SelectModel) -> Step:
    """Return the record of the choice."""
    files = {f"{kind}/{file}": f"{kind}.{made}" for kind in p.kinds for file, made in _kept(p, kind).items()}
    return Step(
        kind="choose",
        bank=_bank_choose,
        holder=_holder_choose,
        reads=files | {f"{kind}/tuned.json": f"{kind}.bin" for kind in p.kinds},
        reads_data=False,
        reads_home=no_files,
        cost=_cost,
        spends=no_openings,
        learns=(
            COMMITTED,
            Leak("StackBankChoice", "holder", "public", "which kind of model is filed"),
            Leak("StackHolderPart", "bank", "public", "hash of its part of the model"),
        ),
        tells_besides={},
        refusals=(),
    )


def _cost(_parameters: Any, _sizes: Sizes) -> Cost:
    return Cost(0.3, 1e3)


def _step(p: SelectModel, name: str) -> Step:
    if not p.private:
        return stack.TASK.step(p, name)
    if name == "align":
        return ALIGN
    if name == "choose":
        return _choose(p)
    kind, _, own = name.partition(".")
    return _step_of_kind(p, next(one for one in get_args(Kind) if one == kind), own)


TASK = Task(SelectModel, _step, noise)
