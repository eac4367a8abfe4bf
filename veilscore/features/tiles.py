"""Aggregates that tiles give: sums, counts, means, deviations, extremes, trends, growth, recency.

DuckDB groups the events once by row x bucket of age x cell (combination of levels); numpy adds the buckets up, so that
every window of a filter costs one pass over its tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import duckdb
import numpy as np

from veilscore.arrays import Array, Integers, Vector
from veilscore.features.catalogue import MONTH
from veilscore.features.events import as_vector
from veilscore.features.expansion import Filter, Variable
from veilscore.features.keys import Buckets, joined

FAMILY = frozenset(
    {"sum", "count", "mean", "std", "min", "max", "trend", "growth", "days_since", "active_months", "any"}
)
_NEEDS = {  # columns of a tile that an aggregate of a number uses
    "sum": {"sum"},
    "mean": {"sum", "n"},
    "std": {"sum", "n", "m2"},
    "min": {"min"},
    "max": {"max"},
    "trend": {"sum"},
    "growth": {"sum"},
}
_SQL = {"sum": "sum({x})", "n": "count({x})", "m2": "var_pop({x}) * count({x})", "min": "min({x})", "max": "max({x})"}


@dataclass(frozen=True)
class Coded:
    """A loaded table as the engine reads it: its name in DuckDB, places of its numbers, levels of its categories."""

    table: str
    numbers: Sequence[str]
    levels: Mapping[str, Sequence[str]]

    def number_sql(self, column: str) -> str:
        """Return the column of a number."""
        return f"e.n{list(self.numbers).index(column)}"

    def cell_sql(self, categories: Sequence[str]) -> str:
        """Write SQL of the cell of an event: codes of categories as digits of one number."""
        names, parts, base = list(self.levels), ["0"], 1
        for category in categories:
            parts.append(f"{base} * CAST(e.c{names.index(category)} AS BIGINT)")
            base *= len(self.levels[category]) + 1
        return f"CAST({' + '.join(parts)} AS BIGINT)"

    def cells_of(self, categories: Sequence[str], where: Filter) -> Integers:
        """Return the cells that pass a filter."""
        chosen, cells, base = dict(where), np.zeros(1, dtype=np.int64), 1
        for category in categories:
            levels = list(self.levels[category])
            codes = (
                [levels.index(one) + 1 for one in chosen[category]] if category in chosen else range(len(levels) + 1)
            )
            cells = (cells[None, :] + base * np.asarray(codes)[:, None]).ravel()
            base *= len(levels) + 1
        return np.sort(cells)


def buckets_of(variables: Sequence[Variable]) -> Buckets:
    """Return the buckets whose edges all windows of these variables need."""
    edges: set[int] = set()
    for one in variables:
        if one.days is None:
            continue
        edges.add(one.days)
        if one.aggregate == "growth":
            edges.add(2 * one.days)
        if one.aggregate in {"trend", "active_months"}:
            edges |= set(range(MONTH, one.days + 1, MONTH))
    return Buckets(tuple(sorted(edges)), any(one.days is None for one in variables))


def compute(
    database: duckdb.DuckDBPyConnection, coded: Coded, variables: Sequence[Variable], n_rows: int
) -> Iterator[tuple[Variable, Array]]:
    """Yield each variable of the family with its (n_rows,) values, in an order of its own.

    Variables whose filters name the same categories share one grouping.
    """
    by_categories = lambda one: tuple(name for name, _ in one.where)  # noqa: E731
    for categories, group in groupby(sorted(variables, key=by_categories), key=by_categories):
        yield from _of_categories(database, coded, categories, list(group), n_rows)


def _of_categories(
    database: duckdb.DuckDBPyConnection,
    coded: Coded,
    categories: tuple[str, ...],
    variables: list[Variable],
    n_rows: int,
) -> Iterator[tuple[Variable, Array]]:
    buckets = buckets_of(variables)
    needs: dict[str, set[str]] = {}
    for one in variables:
        if one.column is not None and one.aggregate in _NEEDS:
            needs.setdefault(one.column, set()).update(_NEEDS[one.aggregate])
    tiles = _Tiles(database, coded, categories, buckets, needs, n_rows)
    order = lambda one: (one.where, one.column or "")  # noqa: E731
    for where, filtered in groupby(sorted(variables, key=order), key=lambda one: one.where):
        chosen = tiles.chosen(coded.cells_of(categories, where))
        for column, same in groupby(filtered, key=lambda one: one.column):
            dense = _Dense(tiles, chosen, column)
            for one in same:
                yield one, dense.values(one)


class _Tiles:
    """Keeps the tiles of a table, ordered by cell, as flat arrays."""

    def __init__(
        self,
        database: duckdb.DuckDBPyConnection,
        coded: Coded,
        categories: tuple[str, ...],
        buckets: Buckets,
        needs: Mapping[str, set[str]],
        n_rows: int,
    ) -> None:
        self.buckets, self.n_rows = buckets, n_rows
        names = [(column, stat) for column in needs for stat in sorted(needs[column])]
        parts = [f"{_SQL[s].format(x=coded.number_sql(c))} AS s{i}" for i, (c, s) in enumerate(names)]
        found: Any = database.execute(
            f"SELECT {coded.cell_sql(categories)} AS cell, k.k AS k, {buckets.sql()} AS bucket, "
            f"CAST(count(*) AS INTEGER) AS n, min(k.at_day - e.t) AS age {''.join(f', {part}' for part in parts)} "
            f"{joined(coded.table)} AND {buckets.within()} GROUP BY ALL ORDER BY cell"
        ).fetchnumpy()
        self.cells, self.starts = np.unique(found["cell"], return_index=True)
        self.starts = np.append(self.starts, len(found["cell"]))
        self.places = found["bucket"].astype(np.int64) * n_rows + found["k"]
        self.counts: Array = found["n"]
        self.ages: Array = found["age"]
        self.stats = {pair: as_vector(found[f"s{i}"]) for i, pair in enumerate(names)}

    def chosen(self, cells: Integers) -> list[slice]:
        """Return the tiles of each of these cells; within one, no place stands twice."""
        here = np.flatnonzero(np.isin(self.cells, cells))
        return [slice(int(self.starts[i]), int(self.starts[i + 1])) for i in here]


class _Dense:
    """Spreads the tiles of one filter and column over (buckets, rows), adds the buckets up, and gives aggregates."""

    def __init__(self, tiles: _Tiles, chosen: list[slice], column: str | None) -> None:
        self._tiles, self._chosen, self._column = tiles, chosen, column
        self._kept: dict[str, Array] = {}

    def values(self, one: Variable) -> Array:
        """Return the (n_rows,) values of a variable."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return _AGGREGATES[one.aggregate](self, one)

    def upto(self, stat: str, days: int | None) -> Array:
        """Return a statistic over a window: (n_rows,)."""
        return np.asarray(self._cumulated(stat)[self._tiles.buckets.upto(days)])

    def total(self, one: Variable, days: int) -> Vector:
        """Return the sum of the column, or the count without one, over a window."""
        return self.upto("sum" if one.column else "events", days).astype(np.float64)

    def _cumulated(self, stat: str) -> Array:
        if stat not in self._kept:
            if stat == "m2":
                self._kept["m2"] = self._deviations()
            else:
                dense, join = self._spread(stat), _EXTREME.get(stat, np.add)
                for earlier, now in pairwise(dense):  # row by row: along an axis numpy is twenty times slower
                    join(now, earlier, out=now)
                self._kept[stat] = dense
        return self._kept[stat]

    def _spread(self, stat: str) -> Array:
        """Return a statistic by bucket, not added up: (buckets, n_rows)."""
        tiles = self._tiles
        values = {"events": tiles.counts, "age": tiles.ages}.get(stat)
        if values is None:
            values = tiles.stats[self._column or "", stat]
        extreme = _EXTREME.get(stat)
        start = 0 if extreme is None else math.nan  # fmin and fmax leave NaN out
        integer = stat == "events"
        dense = np.full(tiles.buckets.n * tiles.n_rows, start, dtype=np.int32 if integer else np.float64)
        for part in self._chosen:
            places, found = tiles.places[part], values[part]
            if extreme is not None:
                dense[places] = extreme(dense[places], found)
            elif integer:
                dense[places] += found
            else:
                dense[places] += np.nan_to_num(found)
        return dense.reshape(tiles.buckets.n, tiles.n_rows)

    def _deviations(self) -> Array:
        """Return sums of squared deviations, cells and buckets joined pair by pair (Chan, Golub, LeVeque 1979)."""
        tiles, size = self._tiles, self._tiles.buckets.n * self._tiles.n_rows
        n, total, m2 = (np.zeros(size) for _ in range(3))
        for part in self._chosen:
            at, more = tiles.places[part], [tiles.stats[self._column or "", stat][part] for stat in ("n", "sum", "m2")]
            n[at], total[at], m2[at] = _joined((n[at], total[at], m2[at]), tuple(np.nan_to_num(x) for x in more))
        shape = (tiles.buckets.n, tiles.n_rows)
        n, total, m2 = n.reshape(shape), total.reshape(shape), m2.reshape(shape)
        for j in range(1, tiles.buckets.n):
            n[j], total[j], m2[j] = _joined((n[j - 1], total[j - 1], m2[j - 1]), (n[j], total[j], m2[j]))
        return m2


def _joined(one: tuple[Vector, ...], other: tuple[Vector, ...]) -> tuple[Vector, Vector, Vector]:
    (n, total, m2), (more, added, more_m2) = one, other
    both, apart = n + more, more * total - n * added  # 0 where either is empty
    return both, total + added, m2 + more_m2 + apart * apart / np.maximum(n * more * both, 1.0)


def _mean(dense: _Dense, one: Variable) -> Array:
    return np.asarray(dense.upto("sum", one.days) / dense.upto("n", one.days))  # 0 / 0 is NaN: no value


def _std(dense: _Dense, one: Variable) -> Array:
    return np.asarray(np.sqrt(dense.upto("m2", one.days) / np.maximum(dense.upto("n", one.days) - 1.0, 0.0)))


def _growth(dense: _Dense, one: Variable) -> Array:
    """Compare a window with the one before it: (a - b) / (|a| + |b|), missing where both are zero."""
    days = one.days or 0
    new = dense.total(one, days)
    old = dense.total(one, 2 * days) - new
    # a sum that cancels leaves rounding; it is no growth
    old = np.where(np.abs(old) < 1e-9 * np.abs(new), 0.0, old)
    size = np.abs(new) + np.abs(old)
    return np.asarray(np.divide(new - old, size, out=np.full(len(size), np.nan), where=size > 0))


def _periods(one: Variable, totals: Callable[[int], Array], *, whole: bool) -> list[Array]:
    """Return a total for each period of 30 days of a window, the latest first."""
    days = one.days or 0
    edges = list(range(MONTH, days + 1, MONTH))
    if not whole and (not edges or edges[-1] < days):
        edges.append(days)
    added = [totals(edge) for edge in edges]
    return [added[0], *(later - earlier for earlier, later in pairwise(added))]


def _active(dense: _Dense, one: Variable) -> Array:
    found = _periods(one, lambda days: dense.upto("events", days), whole=False)
    return np.asarray(np.sum([period > 0 for period in found], axis=0, dtype=np.int32))


def _trend(dense: _Dense, one: Variable) -> Array:
    """Return the least-squares slope of the totals of whole periods, as a share of their mean size a period."""
    found = np.array(_periods(one, lambda days: dense.total(one, days), whole=True))[::-1]
    time = np.arange(len(found)) - (len(found) - 1) / 2
    slope = time @ found / (time @ time)
    size = np.abs(found).mean(axis=0)
    return np.asarray(np.divide(slope, size, out=np.full(len(size), np.nan), where=size > 0))


_EXTREME: dict[str, np.ufunc] = {"min": np.fmin, "max": np.fmax, "age": np.fmin}
_AGGREGATES: dict[str, Callable[[_Dense, Variable], Array]] = {
    "sum": lambda dense, one: dense.upto("sum", one.days),
    "count": lambda dense, one: dense.upto("events", one.days),
    "any": lambda dense, one: (dense.upto("events", one.days) > 0).astype(np.int32),
    "mean": _mean,
    "std": _std,
    "min": lambda dense, one: dense.upto("min", one.days),
    "max": lambda dense, one: dense.upto("max", one.days),
    "days_since": lambda dense, one: dense.upto("age", one.days),
    "active_months": _active,
    "trend": _trend,
    "growth": _growth,
}
