"""Give the tables of a report to spreadsheets: scorecard, coefficients and comparison as CSV, and all as report.xlsx.

They have what the page has and no more, as they are made from the same data (`ReportData`).
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from veilscore.files.store import write_atomically
from veilscore.reports.data import ReportData
from veilscore.reports.workbook import Cell, Rows, workbook

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes text in a CSV that begins so for a formula
_DIGITS = 6


def tables_of(report: ReportData) -> dict[str, Rows]:
    """Return the tables that a report has, by name, each with its titles first."""
    tables: dict[str, Rows] = {}
    if report.bins:
        tables["scorecard"] = _filled(
            ("party", "column", "bin", "share", "rows", "bad", "bad_rate", "woe", "iv", "points"),
            [
                (
                    c.party,
                    c.column,
                    b.title,
                    _short(b.share),
                    b.rows,
                    *map(_short, (b.bad, b.bad_rate, b.woe, b.iv, b.points)),
                )
                for c in report.bins
                for b in c.bins
            ],
        )
    if report.model is not None:
        known = [
            (
                r.party,
                r.column,
                "",
                *map(_short, (r.coefficient, r.standard_error, r.p_value, r.inflation, r.iv)),
                r.trend,
            )
            for r in report.model.rows
        ]
        intercept: list[tuple[Cell, ...]] = [("", "intercept", "", _short(report.model.intercept), *[None] * 5)]
        left = [(one.party, one.column, one.reason, *[None] * 6) for one in report.model.dropped]
        titles = ("party", "column", "left_out", "coefficient", "standard_error", "p_value", "vif", "iv", "trend")
        tables["coefficients"] = _filled(titles, [*intercept, *known, *left])
    if report.comparison is not None:
        tables["comparison"] = _filled(
            ("party", "column", "last_version", "this_version"),
            [("", name, report.comparison.before.get(name), value) for name, value in report.comparison.now.items()]
            + [(m.party, m.column, _short(m.before), _short(m.now)) for m in report.comparison.moved],
        )
    return tables


def write_tables(report: ReportData, folder: Path) -> list[Path]:
    """Write each table as NAME.csv, and all of them as report.xlsx; return the paths, none where there is no table."""
    tables = tables_of(report)
    files = {f"{name}.csv": _csv(rows) for name, rows in tables.items()}
    if tables:
        files["report.xlsx"] = workbook(tables)
    for name, content in files.items():
        write_atomically(folder / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
    return [folder / name for name in files]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def _filled(titles: tuple[str, ...], rows: list[tuple[Cell, ...]]) -> Rows:
    """Leave out the columns without any value, such as points in a holder's report."""
    kept = [k for k in range(len(titles)) if any(row[k] not in {None, ""} for row in rows)]
    return [[titles[k] for k in kept], *([row[k] for k in kept] for row in rows)]


def _csv(rows: Rows) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([_plain(value) for value in row] for row in rows)
    return out.getvalue().encode("utf-8", "replace")


def _plain(value: Cell) -> Cell:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
