"""Aggregates over another firm or person of each event, and the latest value: one query a family, not tiles.

A party counts for a window if its latest event lies in it, so its distinct count needs only that event's age, for all
windows at once; shares add each party's numbers up bucket by bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import duckdb
import numpy as np

from veilscore.arrays import Array, Integers, Vector
from veilscore.features.catalogue import EventTable
from veilscore.features.events import as_vector
from veilscore.features.expansion import Variable
from veilscore.features.keys import Buckets, filled, joined
from veilscore.features.tiles import Coded, buckets_of

FAMILY = frozenset({"distinct", "top_share", "concentration"})


def compute(
    database: duckdb.DuckDBPyConnection, coded: Coded, table: EventTable, variables: Sequence[Variable], n_rows: int
) -> Iterator[tuple[Variable, Array]]:
    """Yield each variable of the family with its (n_rows,) values."""
    order = lambda one: (one.party or "", tuple(name for name, _ in one.where))  # noqa: E731
    for (party, categories), group in groupby(sorted(variables, key=order), key=order):
        alike = list(group)
        found = _PartyTiles(database, coded, table, party, categories, alike, n_rows)
        for one in alike:
            yield one, found.values(one, coded.cells_of(categories, one.where))


class _PartyTiles:
    """Keeps numbers by row, party, bucket and cell; pair = place of (row, party) among those, ordered by row."""

    def __init__(
        self,
        database: duckdb.DuckDBPyConnection,
        coded: Coded,
        table: EventTable,
        party: str,
        categories: tuple[str, ...],
        variables: Sequence[Variable],
        n_rows: int,
    ) -> None:
        self._buckets: Buckets = buckets_of(variables)
        self._n_rows = n_rows
        columns = sorted({one.column for one in variables if one.column})
        sums = "".join(f", sum({coded.number_sql(c)}) AS s{i}" for i, c in enumerate(columns))
        place = f"e.p{table.parties.index(party)}"
        found: Any = database.execute(
            f"SELECT k.k AS k, {place} AS party, {coded.cell_sql(categories)} AS cell, "
            f"{self._buckets.sql()} AS bucket, count(*) AS n {sums} {joined(coded.table)} AND {place} IS NOT NULL "
            f"AND {self._buckets.within()} GROUP BY ALL ORDER BY k, party"
        ).fetchnumpy()
        rows, party_codes = found["k"].astype(np.int64), filled(found["party"], 0)
        new = np.ones(len(rows), dtype=np.bool_)
        new[1:] = (rows[1:] != rows[:-1]) | (party_codes[1:] != party_codes[:-1])
        self._pair: Integers = np.cumsum(new) - 1
        self._row_of_pair = rows[new]
        self._starts = np.flatnonzero(np.diff(self._row_of_pair, prepend=-1))  # first pair of each row that has any
        self._cell, self._bucket = found["cell"], found["bucket"].astype(np.int64)
        self._amounts: dict[str | None, Vector] = {None: found["n"].astype(np.float64)}
        self._amounts |= {c: np.nan_to_num(as_vector(found[f"s{i}"])) for i, c in enumerate(columns)}

    def values(self, one: Variable, cells: Integers) -> Array:
        """Return the (n_rows,) values of a variable."""
        here = (self._bucket <= self._buckets.upto(one.days)) & np.isin(self._cell, cells)
        n_pairs = len(self._row_of_pair)
        if one.aggregate == "distinct":
            seen = np.zeros(n_pairs, dtype=np.bool_)
            seen[self._pair[here]] = True
            return np.bincount(self._row_of_pair[seen], minlength=self._n_rows).astype(np.int32)
        amounts = np.bincount(self._pair[here], self._amounts[one.column][here], minlength=n_pairs).clip(min=0)
        result = np.full(self._n_rows, np.nan)
        if not n_pairs:
            return result
        total = np.add.reduceat(amounts, self._starts)
        if one.aggregate == "top_share":
            part = np.maximum.reduceat(amounts, self._starts)
        else:  # concentration: the Herfindahl index
            part, total = np.add.reduceat(amounts**2, self._starts), total**2
        rows = self._row_of_pair[self._starts]
        result[rows] = np.divide(part, total, out=np.full(len(rows), np.nan), where=total > 0)
        return result


def latest(
    database: duckdb.DuckDBPyConnection, coded: Coded, variables: Sequence[Variable], n_rows: int
) -> Iterator[tuple[Variable, Array]]:
    """Yield each `latest` variable: the value of the last event with one, of equals the one known last."""
    order = lambda one: (one.column or "", one.where)  # noqa: E731
    for (column, where), group in groupby(sorted(variables, key=order), key=order):
        levels = coded.levels.get(column)
        value = coded.number_sql(column) if levels is None else f"e.c{list(coded.levels).index(column)}"
        passes = [f"{value} IS NOT NULL" if levels is None else f"{value} > 0"]
        for name, chosen in where:
            codes = [str(list(coded.levels[name]).index(level) + 1) for level in chosen]
            passes.append(f"e.c{list(coded.levels).index(name)} IN ({', '.join(codes)})")
        found: Any = database.execute(
            f"SELECT k, k.at_day - best.t AS age, best.v AS v FROM (SELECT k.k AS k, any_value(k.at_day) AS at_day, "
            f"max({{'t': e.t, 'kn': e.kn, 'v': {value}}}) AS best {joined(coded.table)} AND {' AND '.join(passes)} "
            f"GROUP BY k.k) k"
        ).fetchnumpy()
        for one in group:
            inside = np.ones(len(found["k"]), dtype=np.bool_) if one.days is None else found["age"] <= one.days
            rows = found["k"][inside]
            if levels is None:
                values: Array = np.full(n_rows, np.nan)
                values[rows] = as_vector(found["v"])[inside]
            else:
                values = np.full(n_rows, None, dtype=object)
                values[rows] = np.array(list(levels), dtype=object)[found["v"][inside].astype(np.int64) - 1]
            yield one, values
