"""Measure, join, read and write reports: one data type, three audiences, one HTML file that opens offline.

What a reader may see is part of the type (`reports/data.py`); `merge` joins all views for a demonstration, and the
page then says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from veilscore.errors import DataError, StateError
from veilscore.files.store import write_atomically
from veilscore.models import metrics
from veilscore.reports.data import BinRow, ColumnBins, HoldoutSection, ReportData
from veilscore.reports.page import render


def evaluate(kind: Literal["joint", "bank only", "pooled"], name: str, table: metrics.ScoreTable) -> HoldoutSection:
    """Measure one score from its table (`metrics.score_table`, or counts of a histogram)."""
    return HoldoutSection(
        kind=kind, name=name, discrimination=table.discrimination(), curve=table.curve(), gains=table.gains()
    )


def merge(bank: ReportData, holders: Sequence[ReportData]) -> ReportData:
    """Join the bank's report with the holders', which label the bank's anonymous bins by their codes."""
    labels = {
        (column.party, column.column, code): cell.title
        for report in holders
        for column in report.bins
        for cell in column.bins
        for code in cell.codes
        if cell.label is not None
    }
    place = {key: number for number, key in enumerate(labels)}
    notes = dict.fromkeys(note for report in (bank, *holders) for note in report.warnings)
    costs = dict.fromkeys(cost for report in (bank, *holders) for cost in report.costs)
    return bank.changed(
        audience="merged",
        party="",
        bins=[_labelled(column, labels, place) for column in bank.bins],
        warnings=list(notes),
        costs=list(costs),
    )


_Key = tuple[str, str, int]


def _labelled(column: ColumnBins, labels: Mapping[_Key, str], place: Mapping[_Key, int]) -> ColumnBins:
    """Give the bins of one column their owner's labels and order where every code has one."""
    cells: list[tuple[int, BinRow]] = []
    for cell in column.bins:
        keys = [(column.party, column.column, code) for code in cell.codes]
        if cell.label is None and keys and all(key in labels for key in keys):
            names = dict.fromkeys(labels[key] for key in sorted(keys, key=place.__getitem__))
            cells.append((min(place[key] for key in keys), cell.changed(label=" or ".join(names))))
        else:
            cells.append((len(place), cell))
    cells.sort(key=lambda pair: pair[0])
    return column.changed(bins=[cell for _, cell in cells])


def read_report(path: Path) -> ReportData:
    """Read report data that was saved as JSON (`ReportData.model_dump_json`).

    Raises StateError where the file cannot be read, DataError where it is not report data or shows its reader too much.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"cannot read report data {path}: {type(error).__name__}") from error
    try:
        return ReportData.model_validate_json(text)
    except ValidationError as error:
        where = ", ".join(".".join(map(str, item["loc"])) or "top" for item in error.errors()[:3])
        raise DataError(f"{path} is not report data of this version; wrong fields: {where}") from None


def write_report(report: ReportData, path: Path) -> Path:
    """Write the page to `path` through a temporary file beside it; StateError says why that failed."""
    html = render(report).encode("utf-8", "replace")
    write_atomically(path, lambda file: file.write(html))
    return path
