"""The rows of a built set: firms, each at its as-of date."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np

from veilscore.arrays import Array, Integers

VISIBLE = (
    "e.t < k.at_day AND e.kn < k.at_day AND e.until >= k.at_day"  # strictly before the first moment of the as-of date
)


@dataclass(frozen=True, repr=False)
class RowKeys:
    """Rows k = 0.. of a set: codes of firms and days, both (n,)."""

    firms: Integers
    days: Integers

    @classmethod
    def on(cls, firms: Integers, day: int) -> RowKeys:
        """Return rows of firms that are all at one day."""
        return cls(firms, np.full(len(firms), day, dtype=np.int64))

    @property
    def n_rows(self) -> int:
        """Return the number of rows."""
        return len(self.firms)

    def register(self, database: duckdb.DuckDBPyConnection) -> None:
        """Make or replace table `keys` (k, f, at_day)."""
        arrays = {
            "k": np.arange(self.n_rows, dtype=np.int32),
            "f": self.firms.astype(np.int32),
            "at_day": self.days.astype(np.int32),
        }
        database.register("given_keys", arrays)
        database.execute("CREATE OR REPLACE TABLE keys AS SELECT k, f, at_day FROM given_keys")
        database.unregister("given_keys")


@dataclass(frozen=True)
class Buckets:
    """Spans of age between the edges of windows, in days: bucket j holds ages above edge j-1 up to edge j.

    edges : ascending; behind the last one there is one bucket more if `unbounded`.
    """

    edges: tuple[int, ...]
    unbounded: bool

    @property
    def n(self) -> int:
        """Return the number of buckets."""
        return len(self.edges) + self.unbounded

    def upto(self, days: int | None) -> int:
        """Return the last bucket of a window."""
        return self.n - 1 if days is None else self.edges.index(days)

    def sql(self) -> str:
        """Write SQL of the bucket of an event."""
        cases = " ".join(f"WHEN k.at_day - e.t <= {edge} THEN {j}" for j, edge in enumerate(self.edges))
        return f"CAST(CASE {cases} ELSE {len(self.edges)} END AS SMALLINT)" if cases else "CAST(0 AS SMALLINT)"

    def within(self) -> str:
        """Write SQL that leaves out events older than any window."""
        return "true" if self.unbounded else f"k.at_day - e.t <= {self.edges[-1]}"


def joined(table: str) -> str:
    """Write the FROM and WHERE of all events that count at the keys, up to any age."""
    return f"FROM {table} e JOIN keys k ON e.f = k.f WHERE {VISIBLE}"


def filled(values: Array, fill: float) -> Array:
    """Return what DuckDB fetched, with `fill` where it is NULL."""
    return np.asarray(values.filled(fill)) if isinstance(values, np.ma.MaskedArray) else values
