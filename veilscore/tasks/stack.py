"""Task train_stack, and select_model in exact mode: fits on folds, what they say, and the model that is filed.

    align -> bin -> bin.fold1 .. k -> for each candidate NAME: NAME, NAME.fold1 .. k -> stack -> evaluate

`stack_folds.py` has the fits; this file has the stack on them, and the records of all steps.

    selection.json   bank: loss of every candidate by fold, the stack's weights, what was chosen
    choice.json      each party: which candidates the filed model is made of
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from veilscore.arrays import Array, Integers, Vector
from veilscore.data.codes import CodeMap
from veilscore.errors import MessageError, RefusedError
from veilscore.files.store import JobStore, write_text
from veilscore.models import design as designing
from veilscore.models import metrics, stacked
from veilscore.models.boosted import Boosted, StackMember
from veilscore.models.counts import offsets
from veilscore.models.filed import load_model
from veilscore.models.loss import log_loss
from veilscore.models.model import Scorecard, ScoreModel
from veilscore.models.stack_form import BankStack, CellsColumn, ClearColumn, HolderStack, StackColumn, TreesColumn
from veilscore.protocols.stacking import bank_stack, holder_stack
from veilscore.tasks import private_stack
from veilscore.tasks.align import ALIGN
from veilscore.tasks.batch import evaluation
from veilscore.tasks.binning import BIN, BINNED, load_counts
from veilscore.tasks.context import StepContext, keep_code_map, keep_model, no_files
from veilscore.tasks.curve import curve
from veilscore.tasks.scorecard import ROW_S, USUAL_STEPS, USUAL_TERMS
from veilscore.tasks.stack_folds import (
    bin_of_fold,
    fit_job,
    fit_of,
    folder_of,
    folds_of,
    models_of,
    rows_outside,
    trees_of,
)
from veilscore.tasks.task import COMMITTED, PRODUCT_BYTES, Cost, Sizes, Step, Task, by_name, costed, exact_openings
from veilscore.terms.job import Job
from veilscore.terms.policy import NodePolicy
from veilscore.terms.roles import Leak, Learned, hidden
from veilscore.terms.training import Candidate, TrainBoosting, TrainScorecard, TrainStack
from veilscore.v1 import stacking_pb2 as pb
from veilscore.wire.protocol import Protocol, Send, receive

KINDS: dict[int, Literal["scorecard", "boosting", "stack"]] = {
    pb.StackBankChoice.SCORECARD: "scorecard",
    pb.StackBankChoice.BOOSTING: "boosting",
    pb.StackBankChoice.STACK: "stack",
}


def filed_job(job: Job, store: JobStore) -> Job:
    """Return the job that would fit the filed model alone, for reports: the boosted one of a stack."""
    if not store.has("choice"):
        return job
    choice = store.load_json("choice")
    return job.of_candidate(job.candidates[choice["scorecard" if choice["kind"] == "scorecard" else "boosting"]])


# --- the stack -------------------------------------------------------------------------------------------------------


def _bank_stack(context: StepContext) -> Protocol[None]:
    job, store, p = context.job, context.store, context.job.of(TrainStack)
    data = _bank_data(context)
    cards = sum(isinstance(c.parameters, TrainScorecard) for c in job.candidates)
    requests = stacked.select(data, cards, len(job.candidates), scores=p.fold_scores)
    limits = stacked.most_asked(len(job.candidates), p.folds, scores=p.fold_scores)
    found = yield from bank_stack(context.session, data, requests, limits)
    card, trees = found.members[:2]
    total = found.losses.sum(axis=1)
    kinds = {"scorecard": total[card], "boosting": total[trees], "stack": total[-1]}
    kind = min(kinds, key=lambda name: float(kinds[name])) if p.chosen == "best" else p.chosen
    choice = {"kind": kind, "scorecard": card, "boosting": trees}
    number = next(value for value, name in KINDS.items() if name == kind)
    for holder in context.session.holders:
        yield Send(holder, pb.StackBankChoice(kind=number, scorecard=card, boosting=trees))  # type: ignore[arg-type]
    digests = {}
    for holder in context.session.holders:
        part = yield from receive(holder, pb.StackHolderPart)
        if len(part.sha256) != (0 if kind == "scorecard" else 32):
            raise MessageError("the digest of the holder's part has the wrong length", party=holder)
        digests[holder] = part.sha256.hex()
    model, fit = _filed(context, found, choice, digests, float(data.target.mean()))
    keep_model(context, model)
    keep_code_map(context, CodeMap.from_json(store.load_json("code_map")))
    store.save_json("fit", fit)
    store.save_json("choice", choice)
    store.save_json("selection", _record(context, data, found, kind))


def _bank_data(context: StepContext) -> BankStack:
    job, store = context.job, context.store
    rows, counts = store.load_arrays("rows"), load_counts(store)
    train = rows["train"]
    codes, fold = np.ascontiguousarray(rows["codes"][train]), folds_of(job, rows)
    n_codes = {party: c.n_codes for party, c in counts.items()}
    models = [models_of(context, candidate) for candidate in job.candidates]
    columns = [_column(fits) for fits in models]
    cards = [model for model in models[0] if isinstance(model, Scorecard)]
    for name in job.of(TrainStack).own_scores:
        cells = [stacked.own_theta(card, name)[job.bank] for card in cards]
        columns.append(ClearColumn(_of_cells(codes, n_codes[job.bank], fold, cells)))
    return BankStack(
        codes=codes,
        n_codes=n_codes[job.bank],
        holder_n_codes={h: n_codes[h] for h in job.holders},
        fold=fold,
        columns=tuple(columns),
        target=rows["target"][train],
        weight=np.ones(fold.size),
    )


def _column(models: list[ScoreModel]) -> StackColumn:
    """Return the out-of-fold margins of one candidate."""
    intercept = np.array([model.intercept for model in models])
    if all(isinstance(model, Boosted) for model in models):
        return TreesColumn(tuple(model.trees for model in models if isinstance(model, Boosted)), intercept)
    theta = [stacked.scorecard_theta(model) for model in models if isinstance(model, Scorecard)]
    return CellsColumn({party: np.stack([cells[party] for cells in theta]) for party in theta[0]}, intercept)


def _of_cells(codes: Array, n_codes: Integers, fold: Integers, cells: list[Vector]) -> Vector:
    """Return the sum over columns of each row's cells, of its own fold's table: (n,)."""
    at = codes.astype(np.int64) + offsets(n_codes)[:-1]
    table = np.stack(cells)
    return np.asarray(table[fold[:, None], at].sum(axis=1), np.float64)


def _filed(
    context: StepContext, found: stacked.Selected, choice: Mapping[str, Any], digests: Mapping[str, str], rate: float
) -> tuple[ScoreModel, dict[str, Any]]:
    """Return the chosen model, fitted on all training rows, and the record of its fit."""
    job, path = context.job, context.store.path
    names = {kind: job.candidates[choice[kind]].name for kind in ("scorecard", "boosting")}
    fit = JobStore(path / names["scorecard" if choice["kind"] == "scorecard" else "boosting"]).load_json("fit")
    model: ScoreModel
    if choice["kind"] == "stack":
        kinds = ("scorecard", "boosting", *("own" for _ in job.of(TrainStack).own_scores))
        members = tuple(
            StackMember(kind=kind, name=name, weight=float(weight))  # type: ignore[arg-type]
            for kind, name, weight in zip(
                kinds, (*names.values(), *job.of(TrainStack).own_scores), found.level_two.beta, strict=True
            )
        )
        card = load_model(path / names["scorecard"] / "model.json", Scorecard)
        boosted = load_model(path / names["boosting"] / "model.json", Boosted)
        model = stacked.export(card, boosted, members, found.level_two.intercept, digests, rate)
        fit = {**fit, "intercept": model.intercept}
    else:
        model = load_model(path / names[choice["kind"]] / "model.json")
        if isinstance(model, Boosted):
            for holder, digest in digests.items():
                model.check_part(holder, bytes.fromhex(digest))
    provenance = model.provenance.model_copy(update={"job_sha256": job.sha256.hex()})
    filed = stacked.with_prior(model, rate, job.of(TrainStack).population_bad_rate)
    return filed.model_copy(update={"provenance": provenance}), fit


def _boosted_steps(job: Job) -> tuple[str, ...]:
    """Return the steps that grow trees: what they tell counts together."""
    names = {c.name for c in job.candidates if isinstance(c.parameters, TrainBoosting)}
    return tuple(step for step in job.steps if step.split(".")[0] in names)


def _record(context: StepContext, data: BankStack, found: stacked.Selected, kind: str) -> dict[str, Any]:
    """Return what the folds say of every candidate, of the stack, and of the bank's own columns alone."""
    job = context.job
    card, trees = found.members[:2]
    own = _bank_only(context, job.candidates[card], data)
    target, folds = data.target.astype(float), range(job.of(TrainStack).folds)

    def row(name: str, kind: str, losses: list[float], scores: Vector | None, **more: Any) -> dict[str, Any]:
        auc = None if scores is None else float(metrics.auc(target, scores))
        return {"name": name, "kind": kind, "losses": losses, "auc": auc, "varied": {}, "in_stack": False, **more}

    rows = [
        row(
            c.name,
            "scorecard" if isinstance(c.parameters, TrainScorecard) else "boosting",
            found.losses[i].tolist(),
            found.scores.get(i),
            varied={name: str(value) for name, value in c.varied.items()},
            filed=i == {"scorecard": card, "boosting": trees}.get(kind, -1),
            in_stack=i in found.members,
        )
        for i, c in enumerate(job.candidates)
    ]
    rows.append(row("stack", "stack", found.losses[-1].tolist(), found.scores.get(-1), filed=kind == "stack"))
    alone = [log_loss(own[data.fold == f], target[data.fold == f]) for f in folds]
    rows.append(row("bank's own columns", "bank only", alone, own, filed=False))
    names = [job.candidates[card].name, job.candidates[trees].name, *job.of(TrainStack).own_scores]
    return {
        "candidates": rows,
        "fold_rows": np.bincount(data.fold).tolist(),
        "weights": dict(zip(names, found.level_two.beta.tolist(), strict=True)),
        "intercept": found.level_two.intercept,
        "converged": found.level_two.converged,
    }


def _bank_only(context: StepContext, candidate: Candidate, data: BankStack) -> Vector:
    """Return out-of-fold log-odds by the same scorecard on the bank's own columns alone, in the clear, (n,)."""
    job, rows = fit_job(context.job, candidate), context.store.load_arrays("rows")
    cells, intercepts = [], []
    for f in range(1, context.job.of(TrainStack).folds + 1):
        counts = load_counts(folder_of(context, f"bin.fold{f}"))
        mask = rows_outside(context.job, rows, f)
        design = designing.design(job, counts, {**rows, "train": mask})
        *beta, intercept = designing.bank_only(design).tolist()
        columns = design.training.columns[job.bank]
        weight = np.zeros(columns.n_codes.size)
        weight[np.flatnonzero(columns.selected)] = beta
        woe = np.ldexp(columns.woe_units.astype(np.float64), -design.training.scales.woe)
        cells.append(np.repeat(weight, columns.n_codes) * woe)
        intercepts.append(intercept)
    level: Vector = np.array(intercepts)[data.fold]
    return _of_cells(data.codes, data.n_codes, data.fold, cells) + level


def _holder_stack(context: StepContext) -> Protocol[None]:
    job, store, p = context.job, context.store, context.job.of(TrainStack)
    rows = store.load_arrays("rows")
    code_map = CodeMap.from_json(store.load_json("code_map"))
    folds = range(1, p.folds + 1)
    columns: list[Any] = [
        "cells"
        if isinstance(c.parameters, TrainScorecard)
        else tuple(trees_of(context, f"{c.name}.fold{f}").trees for f in folds)
        for c in job.candidates
    ]
    columns += ["clear"] * len(p.own_scores)
    codes = np.ascontiguousarray(rows["codes"][rows["train"]])
    data = HolderStack(codes, code_map.n_codes, folds_of(job, rows), tuple(columns))
    limits = stacked.most_asked(len(job.candidates), p.folds, scores=p.fold_scores)
    asked = yield from holder_stack(context.session, data, limits)
    message = yield from receive(job.bank, pb.StackBankChoice)
    choice = checked_choice(job, message)
    part = _keep_part(context, choice, code_map)
    yield Send(job.bank, pb.StackHolderPart(sha256=part))
    store.save_json("choice", choice)
    store.save_json("stacked", asked)


def checked_choice(job: Job, message: Any) -> dict[str, Any]:
    """Return what the bank files of the job's candidates; MessageError where the job does not say so."""
    kinds = (("scorecard", TrainScorecard, message.scorecard), ("boosting", TrainBoosting, message.boosting))
    for name, form, number in kinds:
        if number >= len(job.candidates) or not isinstance(job.candidates[number].parameters, form):
            raise MessageError(f"the bank's choice of {name} is none of the job's candidates", party=job.bank)
    kind = KINDS.get(message.kind)
    if kind is None or job.of(TrainStack).chosen not in {"best", kind}:
        raise MessageError("the bank files another kind of model than the job says", party=job.bank)
    return {"kind": kind, "scorecard": message.scorecard, "boosting": message.boosting}


def _keep_part(context: StepContext, choice: Mapping[str, Any], code_map: CodeMap) -> bytes:
    """Keep this holder's part of the filed model; return its digest, empty for a scorecard."""
    job, store, party = context.job, context.store, context.session.party
    keep_code_map(context, code_map)
    if choice["kind"] == "scorecard":
        store.save_json("trained", folder_of(context, job.candidates[choice["scorecard"]].name).load_json("trained"))
        return b""
    step = job.candidates[choice["boosting"]].name
    part = trees_of(context, step)
    if choice["kind"] == "stack":
        cells = stacked.column_trees(party, code_map.n_codes, "holder")
        part = part.model_copy(update={"trees": (*part.trees, *cells)})
    write_text(context.models() / job.name / "trees.json", part.to_json())
    told = [folder_of(context, name).load_json("boosted") for name in _boosted_steps(job)]
    whole = {"n_sums": sum(one["n_sums"] for one in told), "sha256": part.sha256.hex()}
    store.save_json("boosted", {**folder_of(context, step).load_json("boosted"), **whole})
    return part.sha256


# --- the steps -------------------------------------------------------------------------------------------------------


def _cost(p: TrainStack, sizes: Sizes) -> Cost:
    gradients = (p.folds + 1) * USUAL_STEPS
    sent = gradients * (2 * USUAL_TERMS + 8) * PRODUCT_BYTES * sizes.train
    return costed(sent, gradients * (ROW_S * sizes.train + 0.05))


def _refuse_scores_of_folds(policy: NodePolicy, p: TrainStack) -> None:
    if not p.fold_scores:
        return
    if policy.release.bands_only:
        raise RefusedError("releases bands only; set fold_scores: false")
    if policy.fold_scores != "allow":
        raise RefusedError("scores of training rows are not allowed; set fold_scores: false")


STACK = Step(
    kind="stack",
    bank=_bank_stack,
    holder=_holder_stack,
    reads=BINNED,
    reads_data=False,
    reads_home=no_files,
    cost=_cost,
    spends=exact_openings,
    learns=(
        COMMITTED,
        Leak("StackBankKey", "holder", "public", "how large margins may get, as a power of two"),
        *hidden("bank", "hint", "StackHolderHints"),
        *hidden("holder", "ciphertext", "StackBankQuery", "StackBankBlock"),
        *hidden("bank", "masked", "StackHolderBlock"),
        *hidden("lead", "masked", "StackHolderShare"),
        *hidden("bank", "opened", "StackHolderShare"),
        Leak("StackBankStep", "lead", "opened", "which members are summed up or fitted, and the range R"),
        Leak(
            "StackHolderOpened",
            "bank",
            "opened",
            "sums over all training rows: the loss of each candidate and fold, second moments of the margins, M + 1 "
            "gradient components a step of level two",
        ),
        Leak("StackBankChoice", "holder", "opened", "which candidates the filed model is made of"),
        Leak("StackHolderPart", "bank", "public", "hash of its part of the model"),
    ),
    tells_besides={
        "fold_scores": Learned(
            "scores of folds", "the rounded out-of-fold log-odds of each training row", "nothing", "nothing"
        ),
        "folds": Learned(
            "folds", "the counts of bin, and what train and boost tell, once more without each fold", "the same", ""
        ),
    },
    refusals=(_refuse_scores_of_folds,),
)


def _step(p: TrainStack, name: str) -> Step:
    """Return the record of a step by its name."""
    if p.private:
        return _PRIVATE(p, name)
    folds = range(1, p.folds + 1)
    what, _, fold = name.partition(".fold")
    if name == "stack":
        fits = [s for s in p.fits if not s.startswith("bin.") and s != "stack"]
        made = {f"{fit}/{file}.json": fit for fit in fits for file in ("model", "fit")}
        return replace(STACK, reads={**BINNED, **{f"bin.fold{f}/counts.json": f"bin.fold{f}" for f in folds}, **made})
    if what == "bin":
        return bin_of_fold(int(fold)) if fold else BIN
    if name in _OTHER:
        return _OTHER[name]
    return fit_of(next(c for c in p.candidates if c.name == what), name, int(fold or 0))


_PRIVATE = by_name(
    align=ALIGN,
    bin=private_stack.BIN,
    train=private_stack.TRAIN,
    boost=private_stack.BOOST,
    evaluate=curve("boost", trees=True),
)
_OTHER = {"align": ALIGN, "evaluate": evaluation(made_by="stack")}
TASK = Task(TrainStack, _step, private_stack.noise)
