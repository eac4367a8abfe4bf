"""Stability of a batch against training: how far the bank's columns and the score have moved (stability.csv, .json).

    models/NAME/expected.json    bank: rows of the hold-out by total, as far as the job that trained the model opened it

The columns are the bank's own, since it never sees the codes of others. A holder's data that has moved shows in the
score alone. Counts of a private job have noise, so the index of its score is above zero where nothing has moved.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from veilscore.arrays import Array, Integers, Vector
from veilscore.files.private import private_folder
from veilscore.files.store import write_text
from veilscore.models.counts import cell_counts, offsets
from veilscore.models.model import ScoreModel
from veilscore.models.stability import EXPECTED, load_expected, population_stability
from veilscore.tasks.context import StepContext

MOVING, MOVED = 0.1, 0.25  # Siddiqi (2006): below the first nothing to do, above the second look into it
_BINS, _GROUPS = 100, 10
_INDEX = "population_stability_index"  # title of its column


def keep_expected(context: StepContext, limits: ArrayLike, counts: ArrayLike) -> None:
    """Keep beside the model how many hold-out rows lie below, between and above totals in ascending order."""
    folder = context.models() / context.job.name
    private_folder(folder)
    body = {"limits": np.asarray(limits).tolist(), "counts": np.asarray(counts, np.float64).tolist()}
    write_text(folder / EXPECTED, json.dumps(body))


def keep_expected_totals(context: StepContext, units: Integers) -> None:
    """Keep the distribution of totals (n,) of hold-out rows."""
    limits = np.unique(np.quantile(units, np.arange(1, _BINS) / _BINS).astype(np.int64))
    places = np.searchsorted(limits, units, side="right")
    keep_expected(context, limits, np.bincount(places, minlength=limits.size + 1))


def write_stability(
    context: StepContext, model: ScoreModel, codes: Array, found: Integers, limits: Sequence[int] | None = None
) -> None:
    """Write what has moved since training.

    codes : (n, d) of the bank's columns.
    found : (n,) number of each firm's step or band, whose lowest totals are `limits`; without limits, its total.
    """
    columns = model.parts[0].columns
    n_codes = model.parts[0].n_codes
    at = offsets(n_codes)
    now = cell_counts(codes[:, : len(columns)], n_codes[: codes.shape[1]])
    rows: list[dict[str, Any]] = []
    for j, column in enumerate(columns if len(columns) == codes.shape[1] else ()):
        before = np.array(column.rows, np.float64)
        if before.sum() > 0:
            rows.append(_row("column", column.name, population_stability(before, now[at[j] : at[j + 1]])))
    score = _of_score(context, model.name, found, limits)
    if score is not None:
        rows.insert(0, _row("score", "score", score["psi"]))
    body = {"training": model.provenance.job_id, "n_rows": int(found.size), "score": score, "items": rows}
    context.store.save_json("stability", body)
    out = io.StringIO()
    writer = csv.DictWriter(out, ("kind", "name", _INDEX, "verdict"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(context.store.path / "stability.csv", out.getvalue())


def _row(kind: str, name: str, psi: float) -> dict[str, Any]:
    verdict = "stable" if psi < MOVING else "moving" if psi < MOVED else "moved"
    return {"kind": kind, "name": name, _INDEX: round(psi, 4), "verdict": verdict}


def _of_score(context: StepContext, name: str, found: Integers, limits: Sequence[int] | None) -> dict[str, Any] | None:
    """Return shares by at most ten groups of the totals then and now; None where no hold-out was opened."""
    kept = load_expected(context.models() / name / EXPECTED)
    if kept is None:
        return None
    known, counts = kept
    at = known if limits is None else np.array(limits, np.float64)
    places = np.searchsorted(at, found, side="right") if limits is None else found
    below = np.cumsum(np.bincount(places, minlength=at.size + 1))[:-1]
    inside = (at >= known[0]) & (at <= known[-1])  # beyond, training says nothing of how rows are spread
    if counts.sum() <= 0 or not inside.any():
        return None
    before = np.interp(at[inside], known, np.cumsum(counts)[:-1])
    edges = _edges(before / counts.sum())
    then, now = (
        np.diff([0.0, *reached[edges], total]) / total
        for reached, total in ((before, counts.sum()), (below[inside], found.size))
    )
    return {
        "psi": population_stability(then * found.size, now * found.size),
        "limits": at[inside][edges].tolist(),
        "training": then.tolist(),
        "batch": now.tolist(),
    }


def _edges(reached: Vector) -> Integers:
    """Return which limits, below which these shares of the training rows lie, part them into about ten like groups."""
    wanted = np.searchsorted(reached, np.arange(1, _GROUPS) / _GROUPS)
    return np.unique(np.minimum(wanted, reached.size - 1)).astype(np.int64)
