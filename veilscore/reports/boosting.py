"""Report what a boosting job has beside a scorecard's: trees, importance, what opened sums told."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from veilscore.files.store import JobStore
from veilscore.models.boosted import Boosted
from veilscore.models.chain_growth import TREES
from veilscore.models.chained import Chained
from veilscore.models.importance import by_party, importance
from veilscore.reports.data import Boosting, Disclosure, Dropped, ImportanceRow, TreesTaken
from veilscore.reports.measures import BankFiles
from veilscore.terms.job import Job
from veilscore.terms.training import TrainBoosting

SHOWN = (  # parameters of growth and of what is opened, in the order of the page
    "n_estimators", "max_depth", "max_leaves", "grow_policy", "learning_rate", "max_bin", "reg_lambda", "gamma",
    "min_child_weight", "min_leaf_rows", "subsample", "colsample_bytree", "scale_pos_weight", "max_delta_step",
    "early_stopping_rounds", "validation_fraction", "monotone_constraints", "tree_columns", "splits", "ordered",
    "random_state", "bounds", "noise_rows", "disclosure_budget",
)  # fmt: skip


OWN = (  # parameters of the bank's own trees in a private job
    "disclosure", "mu", "n_estimators", "max_depth", "max_leaves", "grow_policy", "learning_rate", "max_bin",
    "reg_lambda", "gamma", "min_child_weight", "min_leaf_rows", "subsample", "colsample_bytree", "scale_pos_weight",
    "max_delta_step", "early_stopping_rounds", "validation_fraction", "monotone_constraints", "random_state",
)  # fmt: skip


def boosting_of(files: BankFiles) -> Boosting | None:
    """Return trees, importance and disclosure, for the bank; None for a scorecard."""
    model, p = files.model, files.job.parameters
    if not isinstance(model, Boosted):
        return None
    columns, fit = importance(model), files.fit
    unused = [
        Dropped(column=column.name, party=part.party, reason=column.left_out)
        for part in model.parts
        for column in part.columns
        if column.left_out
    ]
    unused += [Dropped(column=n, party=files.job.bank, reason=why) for n, why in files.code_map.dropped.items()]
    private = isinstance(model, Chained)
    told = () if private else files.job.holders
    return Boosting(
        parameters={name: _text(getattr(p, name)) for name in (OWN if private else SHOWN)},
        n_trees=len(model.boosted_trees),
        n_grown=max(len(fit["improvements"]), len(model.boosted_trees)),
        stopped=fit["stopped"],
        limits=_limits(files.job.of(TrainBoosting)),
        importance=tuple(ImportanceRow(**vars(item)) for item in columns),
        parties=by_party(columns),
        unused=tuple(unused),
        validation=tuple(accumulate(fit["improvements"])),
        disclosure=tuple(
            Disclosure(
                party=h,
                n_trees=sum(tree.holder == h for tree in model.boosted_trees),
                spent=fit["spent"][h],
                budget=fit["budget"][h],
            )
            for h in told
        ),
    )


def boosting_warnings(files: BankFiles) -> list[str]:
    """Return lines for the bank on trees that were not grown, and on bounds."""
    if not isinstance(files.model, Boosted):
        return []
    lines = []
    if "budget" in files.fit["stopped"]:
        lines.append(f"Training ended early: {files.fit['stopped']}; use fewer bins or columns, or more noise.")
    p = files.job.of(TrainBoosting)
    if p.private:
        return lines
    if not p.bounds and p.splits == "bounded":
        lines.append("Bounds on opened sums were off: enough of them tell which bin of a column a firm is in.")
    elif not p.bounds:
        lines.append("Sums of leaves were opened without a budget.")
    elif p.noise_rows == 0:
        lines.append("Opened sums carried no noise.")
    return lines


def trees_taken(store: JobStore, job: Job) -> TreesTaken | None:
    """Return what a holder's folder says of its part in boosting; None for a scorecard."""
    if not store.has("boosted"):
        return None
    saved = store.load_json("boosted")
    return TreesTaken(
        n_trees=saved["n_trees"],
        n_splits=saved["n_splits"],
        n_sums=saved["n_sums"],
        spent=saved.get("spent"),
        budget=saved.get("budget"),
        limits=_limits(job.of(TrainBoosting)),
        part_hash=saved["sha256"],
    )


def _limits(p: TrainBoosting) -> str:
    """Say in a sentence what limited opened sums."""
    if p.private:
        return (
            f"These are the bank's own trees; on each holder's columns there are {TREES} small trees of random "
            "structure, whose sums of leaves were opened with noise alone."
        )
    if p.splits == "sealed":
        budget = (
            f"within a budget of {p.disclosure_budget:g} of what each holder's codes hold"
            if p.bounds
            else "without a budget"
        )
        noise = f"with noise of {p.noise_rows:g} rows" if p.noise_rows else "without noise"
        return f"Splits were chosen sealed: only sums of leaves were opened, {noise}, {budget}."
    noise = f"noise of {p.noise_rows:g} rows on every opened sum" if p.noise_rows else "no noise on opened sums"
    if not p.bounds:
        return f"Bounds were OFF: no limit on sums per node, no budget, {noise}."
    return (
        f"Bounds were on: at most one opened sum per ten rows of a node and side, {noise}, and a budget of "
        f"{p.disclosure_budget:g} of what each holder's codes hold."
    )


def _text(value: Any) -> str:
    if value is None:
        return "off"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {direction}" for name, direction in value.items()) or "none"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
