"""Report what a boosting job has beside a scorecard's: trees, importance, what opened sums told."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from veilscore.files.store import JobStore
from veilscore.models.boosted import Boosted
from veilscore.models.chain_growth import TREES
from veilscore.models.chained import Chained
from veilscore.models.importance import by_party, importance
from veilscore.reports.data import Boosting, Dropped, ImportanceRow, TreesTaken
from veilscore.reports.measures import BankFiles
from veilscore.terms.job import Job
from veilscore.terms.training import TrainBoosting

SHOWN = (  # parameters of growth, in the order of the page
    "disclosure", "n_estimators", "max_depth", "learning_rate", "max_bin", "reg_lambda", "gamma", "min_child_weight",
    "min_leaf_rows", "subsample", "colsample_bytree", "scale_pos_weight", "max_delta_step", "early_stopping_rounds",
    "validation_fraction", "random_state",
)  # fmt: skip
JOINT, OWN = ("tree_columns",), ("mu", "max_leaves", "grow_policy", "monotone_constraints")  # besides, by disclosure


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
    besides = OWN if isinstance(model, Chained) else JOINT
    return Boosting(
        parameters={name: _text(getattr(p, name)) for name in (*SHOWN, *besides)},
        n_trees=len(model.boosted_trees),
        n_grown=max(len(fit["improvements"]), len(model.boosted_trees)),
        stopped=fit["stopped"],
        limits=_limits(files.job.of(TrainBoosting)),
        importance=tuple(ImportanceRow(**vars(item)) for item in columns),
        parties=by_party(columns),
        unused=tuple(unused),
        validation=tuple(accumulate(fit["improvements"])),
    )


def trees_taken(store: JobStore, job: Job) -> TreesTaken | None:
    """Return what a holder's folder says of its part in boosting; None for a scorecard."""
    if not store.has("boosted"):
        return None
    saved = store.load_json("boosted")
    return TreesTaken(
        n_trees=saved["n_trees"],
        n_splits=saved["n_splits"],
        n_sums=saved["n_sums"],
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
    return "Splits were chosen on shares: nothing was opened but the sums of leaves, as they are."


def _text(value: Any) -> str:
    if value is None:
        return "off"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {direction}" for name, direction in value.items()) or "none"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
