"""Report what a stack or a selection has beside one model: every candidate on the folds, and the stack's weights."""

from __future__ import annotations

import numpy as np

from veilscore.files.store import JobStore
from veilscore.reports.data import CandidateRow, SelectionSection


def selection_of(store: JobStore) -> SelectionSection | None:
    """Return the candidates, best first, for the bank; None for a job that fits one model."""
    if not store.has("selection"):
        return None
    saved = store.load_json("selection")
    rows = np.array(saved["fold_rows"], np.float64)
    found = []
    for one in saved["candidates"]:
        losses = np.array(one["losses"])
        shown = {name: one[name] for name in ("name", "kind", "varied", "auc", "filed", "in_stack")}
        loss, deviation = float(losses.sum() / rows.sum()), float(np.std(losses / rows, ddof=1))
        found.append(CandidateRow(**shown, loss=loss, deviation=deviation))
    return SelectionSection(
        folds=rows.size,
        candidates=tuple(sorted(found, key=lambda one: one.loss)),
        weights=saved["weights"],
        converged=saved["converged"],
    )
