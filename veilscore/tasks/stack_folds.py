"""Makes the fits of a stack: the rows that each is made on, and the steps bin.foldK, NAME and NAME.foldK.

A fit is a training job within the job: the same protocol on the rows outside a fold, in a folder of its own below the
job's (`scorecard.fold1/`). A fold's bin counts are opened anew: no model knows a label of the rows it is measured on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from veilscore.arrays import Array, Integers, Mask
from veilscore.data.codes import CodeMap
from veilscore.errors import MessageError
from veilscore.files.store import JobStore
from veilscore.models import stacked
from veilscore.models.counts import BinnedColumns, own_counts
from veilscore.models.design import columns_of
from veilscore.models.filed import load_model
from veilscore.models.model import ScoreModel
from veilscore.models.trees import HolderTrees
from veilscore.protocols.binning import bank_bin, holder_bin
from veilscore.tasks.binning import BIN, BINNED, load_counts, save_counts
from veilscore.tasks.boosting import BOOST
from veilscore.tasks.context import StepContext, load_trees, no_files
from veilscore.tasks.scorecard import TRAIN
from veilscore.tasks.task import Step
from veilscore.terms.job import Job
from veilscore.terms.policy import NodePolicy
from veilscore.terms.training import Candidate, TrainScorecard, TrainStack
from veilscore.wire.protocol import Protocol


def folds_of(job: Job, rows: Mapping[str, Array]) -> Integers:
    """Return the fold of each training row, (n_train,), from 0; all rows of a firm are in one.

    rows : what binning kept of all aligned rows: which train, and of firms at dates the firm of each.
    """
    p, train = job.of(TrainStack), rows["train"]
    _, place = np.unique(rows["firm"][train], return_inverse=True) if "firm" in rows else (None, np.arange(train.sum()))
    found: Integers = stacked.folds(int(place.max(initial=-1)) + 1, p.folds, p.fold_seed)[place]
    return found


def rows_outside(job: Job, rows: Mapping[str, Array], fold: int) -> Mask:
    """Return the training rows outside a fold (from 1; 0: all), as a mask of all aligned rows."""
    train: Mask = rows["train"].copy()
    if fold:
        train[np.flatnonzero(train)[folds_of(job, rows) == fold - 1]] = False
    return train


# --- bin counts of a fold's training rows ----------------------------------------------------------------------------


def _bank_bin(context: StepContext, *, fold: int) -> Protocol[None]:
    job, store = context.job, context.store
    rows, whole = store.load_arrays("rows"), load_counts(store)
    train, target = rows["train"], rows["target"]
    stacked.check_own_scores(job.of(TrainStack).own_scores, whole[job.bank].names)
    stacked.check_folds(folds_of(job, rows), target[train])
    mask = rows_outside(job, rows, fold)
    found = yield from bank_bin(context.session, target, None, mask)
    for holder, counts in found.items():
        if counts.map_hash != whole[holder].map_hash:
            raise MessageError("the holder's code map is not that of the step bin", party=holder)
        found[holder] = replace(counts, association=whole[holder].association)
    c = whole[job.bank]
    columns = BinnedColumns(
        c.names, rows["codes"], c.n_codes, c.ordered, c.missing_code, c.map_hash, association=c.association
    )
    own = own_counts(job.bank, columns, target, np.ones(target.size), mask)
    save_counts(folder_of(context, f"bin.fold{fold}"), {job.bank: own, **found})


def _holder_bin(context: StepContext, *, fold: int) -> Protocol[None]:
    store, job = context.store, context.job
    rows = store.load_arrays("rows")
    code_map = CodeMap.from_json(store.load_json("code_map"))
    mask = rows_outside(job, rows, fold)

    def fit(train: Mask) -> BinnedColumns:
        if not np.array_equal(train, mask):
            raise MessageError(f"the bank bins other rows than those outside fold {fold}", party=job.bank)
        names = context.node.policy.told_names
        return columns_of(code_map, rows["codes"], party=context.session.party, names=names, association=False)

    policy = context.node.policy
    yield from holder_bin(context.session, fit, mask.size, policy.min_bin_count, earlier=rows["train"])


# --- fits ------------------------------------------------------------------------------------------------------------


def folder_of(context: StepContext, name: str) -> JobStore:
    """Return the folder of a fit or of a fold's counts, below the job's."""
    return JobStore(context.store.path / name)


def fit_job(job: Job, candidate: Candidate) -> Job:
    """Return the job of one fit: probabilities as in the sample."""
    changes = {"population_bad_rate": None, "calibrate": False}
    return job.of_candidate(replace(candidate, parameters=candidate.parameters.model_copy(update=changes)))


def _fit(context: StepContext, *, step: str, candidate: Candidate, fold: int, fitting: Step) -> Protocol[None]:
    """Fit one candidate on the rows outside a fold, with files of its own; `fitting` is the step of its own task."""
    store, own = context.store, folder_of(context, step)
    rows = store.load_arrays("rows")
    own.save_arrays("rows", **{**rows, "train": rows_outside(context.job, rows, fold)})
    own.save_json("code_map", store.load_json("code_map"))
    if context.role == "bank":
        save_counts(own, load_counts(folder_of(context, f"bin.fold{fold}") if fold else store))
    if store.has(f"checkpoint_{step}"):
        own.save_json(f"checkpoint_{fitting.kind}", store.load_json(f"checkpoint_{step}"))
    role = fitting.bank if context.role == "bank" else fitting.holder
    yield from role(replace(context, job=fit_job(context.job, candidate), store=own, whole=store.path))
    own.delete("rows")  # its model and its checkpoint stay, its rows are those of the job
    store.delete(f"checkpoint_{step}")


def models_of(context: StepContext, candidate: Candidate) -> list[ScoreModel]:
    """Return the bank's fits of a candidate without each fold, in order."""
    folds = range(1, context.job.of(TrainStack).folds + 1)
    return [load_model(context.store.path / f"{candidate.name}.fold{f}" / "model.json") for f in folds]


def trees_of(context: StepContext, step: str) -> HolderTrees:
    """Return a holder's part of one fit."""
    return load_trees(context.store.path / step / "models", context.job.name)


def bin_of_fold(fold: int) -> Step:
    """Return the record of a fold's bin counts."""
    return replace(
        BIN,
        bank=partial(_bank_bin, fold=fold),
        holder=partial(_holder_bin, fold=fold),
        reads=BINNED,
        reads_data=False,
        reads_home=no_files,
    )


def fit_of(candidate: Candidate, step: str, fold: int) -> Step:
    """Return the record of one fit: that of the candidate's own task, on its own parameters."""
    fitting = TRAIN if isinstance(candidate.parameters, TrainScorecard) else BOOST
    role = partial(_fit, step=step, candidate=candidate, fold=fold, fitting=fitting)

    def own(rule: Callable[[NodePolicy, Any], None]) -> Callable[[NodePolicy, Any], None]:
        return lambda policy, _parameters: rule(policy, candidate.parameters)

    return replace(
        fitting,
        bank=role,
        holder=role,
        reads={**BINNED, **({f"bin.fold{fold}/counts.json": f"bin.fold{fold}"} if fold else {})},
        cost=lambda _parameters, sizes: fitting.cost(candidate.parameters, sizes),
        refusals=tuple(own(rule) for rule in fitting.refusals),
    )
