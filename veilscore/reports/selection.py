"""Report what a stack or a selection has beside one model: every candidate as it was measured, the stack's weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from veilscore.files.store import JobStore
from veilscore.reports.data import CandidateRow, SelectionSection

_SHOWN = ("name", "kind", "varied", "auc", "auc_noise", "filed", "in_stack")


def selection_of(store: JobStore) -> SelectionSection | None:
    """Return the candidates, best first, for the bank; None for a job that fits one model.

    Kinds of a private selection are compared by the AUC of their noised curves, all else by the loss on folds.
    """
    if not store.has("selection"):
        return None
    saved = store.load_json("selection")
    by_curve = saved.get("by") == "curve"
    found = [_row(one, one["fold_rows"] if by_curve else saved["fold_rows"]) for one in saved["candidates"]]
    best_first = sorted(found, key=lambda one: -(one.auc or 0.0) if by_curve else one.loss or 0.0)
    return SelectionSection(
        by="curve" if by_curve else "loss",
        folds=saved["folds"] if by_curve else len(saved["fold_rows"]),
        candidates=tuple(best_first),
        weights=saved["weights"],
        converged=saved.get("converged", True),
    )


def _row(one: dict[str, Any], fold_rows: list[int]) -> CandidateRow:
    shown = {name: one[name] for name in _SHOWN if name in one}
    losses, rows = np.array(one["losses"]), np.array(fold_rows, np.float64)
    if not losses.size:
        return CandidateRow(**shown)
    return CandidateRow(**shown, loss=float(losses.sum() / rows.sum()), deviation=float(np.std(losses / rows, ddof=1)))
