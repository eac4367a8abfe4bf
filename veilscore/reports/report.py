"""The report of a job: one data type, three audiences, one HTML file that opens offline.

`ReportData` holds everything the page shows; sections without data are left out. What a reader may see is
part of the type: a bank's report with a holder's bin edges in it, or a holder's report with labels, weights or
scores in it, cannot be built. `redact` cuts the bank's or a holder's view out of fuller data; `merge` joins
all views for a demonstration, and the page then says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from veilscore.errors import DataError, StateError
from veilscore.models import metrics
from veilscore.reports.data import _BANK_ONLY, BinRow, ColumnBins, HoldoutSection, Part, ReportData
from veilscore.reports.page import render


def evaluate(
    kind: Literal["joint", "bank only", "pooled"],
    name: str,
    table: metrics.ScoreTable,
) -> HoldoutSection:
    """Measure one score from its table (`metrics.score_table`, or counts of a histogram)."""
    return HoldoutSection(
        kind=kind,
        name=name,
        discrimination=table.discrimination(),
        curve=table.curve(),
        gains=table.gains(),
    )


def redact(report: ReportData, audience: Literal["bank", "holder"], party: str) -> ReportData:
    """Cut the view of one reader out of fuller data; everything that the reader may not see is dropped.

    Warnings are free text that may name anything, so they are dropped too: add the reader's own afterwards.
    """
    changes: dict[str, object] = {"audience": audience, "party": party, "warnings": ()}
    if audience == "bank":
        changes["bins"] = [column if column.party == party else _anonymous(column) for column in report.bins]
        return _changed(report, changes)
    for name in _BANK_ONLY:
        changes[name] = ReportData.model_fields[name].default
    own = (column for column in report.bins if column.party == party)
    changes["bins"] = [
        _changed(_with_bins(column, bad_rate=None, woe=None, points=None), {"iv": None}) for column in own
    ]
    changes["costs"] = [cost for cost in report.costs if cost.party == party]
    if report.stability:
        shifts = [column for column in report.stability.columns if column.party == party]
        kept = _changed(report.stability, {"columns": shifts, "score": None})
        changes["stability"] = kept if shifts else None
    return _changed(report, changes)


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
    return _changed(
        bank,
        {
            "audience": "merged",
            "party": "",
            "bins": [_labelled(column, labels, place) for column in bank.bins],
            "warnings": list(notes),
            "costs": list(costs),
        },
    )


_Key = tuple[str, str, int]


def _labelled(column: ColumnBins, labels: Mapping[_Key, str], place: Mapping[_Key, int]) -> ColumnBins:
    """Give the bins of one column their owner's labels and order where every code has one."""
    cells: list[tuple[int, BinRow]] = []
    for cell in column.bins:
        keys = [(column.party, column.column, code) for code in cell.codes]
        if cell.label is None and keys and all(key in labels for key in keys):
            names = dict.fromkeys(labels[key] for key in sorted(keys, key=place.__getitem__))
            cells.append((min(place[key] for key in keys), _changed(cell, {"label": " or ".join(names)})))
        else:
            cells.append((len(place), cell))
    cells.sort(key=lambda pair: pair[0])
    return _changed(column, {"bins": [cell for _, cell in cells]})


_Model = TypeVar("_Model", bound=Part)


def _changed(part: _Model, changes: Mapping[str, object]) -> _Model:
    """Copy with some fields replaced and all checked again, as pydantic's own copy does not check."""
    fields = {name: getattr(part, name) for name in type(part).model_fields}
    return type(part).model_validate({**fields, **changes})


def _anonymous(column: ColumnBins) -> ColumnBins:
    """Drop the labels, and the owner's order with them, for an order that the bank knows anyway."""
    bare = _with_bins(column, label=None)
    ranked = sorted(bare.bins, key=lambda cell: (-(cell.woe or 0.0), cell.codes))
    return _changed(bare, {"bins": ranked})


def _with_bins(column: ColumnBins, **changes: None) -> ColumnBins:
    return _changed(column, {"bins": [_changed(cell, changes) for cell in column.bins]})


def read_report(path: Path) -> ReportData:
    """Read report data that was saved as JSON (`ReportData.model_dump_json`).

    Raises
    ------
    StateError : the file cannot be read.
    DataError : it is not report data, or shows its reader too much.
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
    """Write the page to `path` through a temporary file beside it.

    Raises
    ------
    StateError : the file cannot be written (disk full, no such folder).
    """
    html = render(report)
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(html, encoding="utf-8", errors="replace")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StateError(
            f"cannot write the report to {path}: {error.strerror}; free space or choose another folder"
        ) from error
    return path
