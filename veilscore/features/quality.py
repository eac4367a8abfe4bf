"""Measure built variables for their owner: missing rate, distinct values, range, stability by month; freshness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from veilscore.arrays import Array, Vector
from veilscore.data.table import missing_in
from veilscore.features.build import Terms, compute
from veilscore.features.catalogue import MONTH, Catalogue
from veilscore.features.events import Events, TableFacts, day_number, load_events
from veilscore.features.expansion import Variable, expand
from veilscore.features.keys import RowKeys
from veilscore.features.texts import choose_terms
from veilscore.models.stability import population_stability

SHIFTED = 0.25  # population stability from which a variable counts as shifted, by the usual rule of thumb
_BINS = 10
_MONTHS_SHOWN = 12


@dataclass(frozen=True)
class VariableQuality:
    """Figures of one variable.

    distinct : values, missing not among them; least, greatest : of a number.
    stability : population stability of each earlier month against the as-of date, the latest first.
    """

    name: str
    kind: str
    missing: float
    distinct: int
    least: float | None
    greatest: float | None
    stability: tuple[float, ...]

    @property
    def worst(self) -> float | None:
        """Return the greatest shift of any month; None where no earlier month was measured."""
        return max(self.stability, default=None)

    @property
    def remark(self) -> str:
        """Return what the owner should look at, in words; empty if nothing."""
        if self.missing == 1:
            return "missing in every row"
        if self.distinct <= 1 and not self.missing:
            return "one value only"
        return "shifted" if (self.worst or 0) > SHIFTED else ""


@dataclass(frozen=True)
class Freshness:
    """Tells how fresh an event table is: its facts, and events of the last twelve periods of 30 days, latest first."""

    table: str
    facts: TableFacts
    age_days: int | None
    by_month: tuple[int, ...]


@dataclass(frozen=True)
class Quality:
    """All figures of a data set at one date."""

    catalogue: str
    catalogue_sha256: str
    as_of: str
    n_rows: int
    variables: tuple[VariableQuality, ...]
    tables: tuple[Freshness, ...]


def measure(catalogue: Catalogue, source: Path | str, as_of: str, *, months: int, terms: Terms | None) -> Quality:
    """Compute the variables at a date and at the ends of earlier periods of 30 days, and measure them.

    months : how many earlier dates; 0 measures no stability.
    terms : those that the built set has, if it is built.
    """
    day = day_number(as_of)
    with TemporaryDirectory(prefix="veilscore-") as scratch, load_events(catalogue, source, scratch=scratch) as events:
        chosen = choose_terms(events, day, terms)
        variables = expand(catalogue, chosen)
        now = RowKeys.on(events.known_firms(day), day)
        figures: dict[str, dict[str, Any]] = {}
        for one, values in compute(events, now, variables, chosen):
            figures[one.name] = _figures(one, values)
        for back in range(1, months + 1):
            earlier = day - MONTH * back
            keys = RowKeys.on(events.known_firms(earlier), earlier)
            if keys.n_rows:
                for one, values in compute(events, keys, variables, chosen):
                    known = figures[one.name]
                    known["stability"].append(population_stability(known["counts"], _counts(values, known["bins"])))
        found = tuple(_quality(one, figures[one.name]) for one in variables)
        tables = tuple(_freshness(events, name, day) for name in catalogue.tables)
        return Quality(catalogue.name, catalogue.hash, as_of, now.n_rows, found, tables)


def _figures(one: Variable, values: Array) -> dict[str, Any]:
    gone = missing_in(values) if values.dtype.kind in "fO" else np.zeros(len(values), dtype=np.bool_)
    present = values[~gone]
    is_number = one.kind == "number"
    levels = np.unique(present) if is_number else sorted(set(present.tolist()))
    bins: Any = levels
    if is_number and len(levels):
        bins = np.unique(np.quantile(present, np.linspace(0, 1, _BINS + 1)[1:-1]))
    return {
        "missing": float(gone.mean()) if len(gone) else 0.0,
        "distinct": len(levels),
        "least": float(levels[0]) if is_number and len(levels) else None,
        "greatest": float(levels[-1]) if is_number and len(levels) else None,
        "bins": bins,
        "counts": _counts(values, bins),
        "stability": [],
    }


def _counts(values: Array, bins: Any) -> Vector:
    """Return counts of rows by bin of the as-of date, then of missing ones."""
    if values.dtype == object:
        known = {level: number for number, level in enumerate(bins)}
        codes = [len(bins) + 1 if value is None else known.get(value, len(bins)) for value in values.tolist()]
        return np.bincount(np.asarray(codes, dtype=np.int64), minlength=len(bins) + 2).astype(np.float64)
    gone = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=np.bool_)
    places = np.searchsorted(np.asarray(bins, dtype=np.float64), values[~gone], side="left")
    return np.append(np.bincount(places, minlength=len(bins) + 1), gone.sum()).astype(np.float64)


def _quality(one: Variable, found: dict[str, Any]) -> VariableQuality:
    return VariableQuality(
        one.name,
        one.kind,
        found["missing"],
        found["distinct"],
        found["least"],
        found["greatest"],
        tuple(found["stability"]),
    )


def _freshness(events: Events, name: str, day: int) -> Freshness:
    facts = events.facts[name]
    rows = events.database.execute(
        f"SELECT CAST(({day} - 1 - t) // {MONTH} AS INTEGER) AS month, count(*) FROM e_{name} "
        f"WHERE t < {day} AND kn < {day} AND t >= {day - MONTH * _MONTHS_SHOWN} GROUP BY month"
    ).fetchall()
    counts = dict(rows)
    latest = events.database.execute(f"SELECT max(t) FROM e_{name} WHERE t < {day} AND kn < {day}").fetchall()[0][0]
    by_month = tuple(int(counts.get(month, 0)) for month in range(_MONTHS_SHOWN))
    return Freshness(name, facts, None if latest is None else day - latest, by_month)


def as_csv(found: Sequence[VariableQuality]) -> str:
    """Return the figures as CSV, one variable a line."""
    lines = ["variable,kind,missing,distinct,least,greatest,worst_stability,remark"]
    for one in found:
        figures = ("" if value is None else f"{value:.10g}" for value in (one.least, one.greatest, one.worst))
        name = '"' + one.name.replace('"', '""') + '"'
        lines.append(f"{name},{one.kind},{one.missing:.6f},{one.distinct},{','.join(figures)},{one.remark}")
    return "\n".join(lines) + "\n"
