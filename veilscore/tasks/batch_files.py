"""The bank's files of a batch: scores.csv, one line a firm, and batch.json, what there was of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

import numpy as np

from veilscore.arrays import Array, Integers
from veilscore.data.codes import TransformReport
from veilscore.data.table import Table
from veilscore.files.store import JobStore, write_text
from veilscore.models.model import ScoreModel
from veilscore.protocols.scoring import BandResult, BatchResult
from veilscore.terms.bands import Bands


def write_scores(
    store: JobStore,
    table: Table,
    model: ScoreModel,
    result: BatchResult,
    report: TransformReport,
    steps: Integers | None = None,
) -> None:
    """Write scores.csv: id, score, probability of default, band, and one status column a holder.

    steps : (n_scored,) numbers of the steps whose middles the points are; they stand before the score.
    """
    scores, risks, d = model.score(result.points), model.probability(result.points), model.scaling.shown_decimals
    numbers = {} if steps is None else {"step": steps.tolist()}
    columns: dict[str, Iterable[Any]] = {
        "id": table.ids,
        **numbers,
        "score": (f"{score:.{d}f}" for score in scores),
        "probability_of_default": ("" if np.isnan(risk) else f"{risk:.6f}" for risk in risks),
        "band": (model.band(float(score)) for score in scores),
    }
    _write_rows(store, columns, result)
    store.save_json("batch", _batch_record(table, result, report))


def write_bands(store: JobStore, table: Table, bands: Bands, result: BandResult, report: TransformReport) -> None:
    """Write scores.csv without a score: id, band, and one status column a holder."""
    _write_rows(store, {"id": table.ids, "band": [bands.names[k] for k in result.bands.tolist()]}, result)
    counts = np.bincount(result.bands, minlength=len(bands.names)).tolist()
    store.save_json(
        "batch", {**_batch_record(table, result, report), "bands": dict(zip(bands.names, counts, strict=True))}
    )


def _write_rows(store: JobStore, columns: dict[str, Iterable[Any]], result: BatchResult | BandResult) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*columns, *(f"{holder}_status" for holder in result.unknown)])
    writer.writerows(zip(*columns.values(), *_statuses(result), strict=True))
    write_text(store.path / "scores.csv", text.getvalue())


def _statuses(result: BatchResult | BandResult) -> list[Array]:
    """Return whether each holder knows each firm, as far as it says so."""
    n = (result.points if isinstance(result, BatchResult) else result.bands).size
    return [
        np.full(n, "not disclosed") if mask is None else np.where(mask, "unknown", "ok")
        for mask in result.unknown.values()
    ]


def _batch_record(table: Table, result: BatchResult | BandResult, report: TransformReport) -> dict[str, Any]:
    return {
        "n_rows": table.n_rows,
        "unseen": dict(report.unseen),
        "unknown": {h: None if m is None else int(m.sum()) for h, m in result.unknown.items()},
    }
