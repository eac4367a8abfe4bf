"""Keys with time: rows that are firms at dates, a firm's rows each under a key of their own.

The key of a row is its firm's id and its day, "91350100M000100Y43@2026-06-30". Two parties match where both are the
same. The unit of all that is counted (accounts, consents, releases, hold-outs) stays the firm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Array, Integers, Mask, Vector
from veilscore.data.ids import Ids

MARK = "@"
_DAY = "YYYY-MM-DD"


@dataclass(frozen=True, repr=False)
class Panel:
    """The firms and days of rows: `firms` (n,) normalised ids, which may repeat, `days` (n,) datetime64[D]."""

    firms: Ids
    days: NDArray[np.datetime64]

    @property
    def keys(self) -> Ids:
        """Return the key of each row, (n,)."""
        marked = np.strings.add(self.firms, MARK)
        keys: Ids = np.strings.add(marked, self.days.astype(f"<U{len(_DAY)}"))
        return keys

    def take(self, rows: Array) -> Panel:
        """Return the rows given by an index or mask array."""
        return Panel(self.firms[rows], self.days[rows])


def numbered(firms: Ids) -> Integers:
    """Return a number for the firm of each row, (n,), from 0 in the order in which firms come first."""
    _, first, found = np.unique(firms, return_index=True, return_inverse=True)
    rank = np.empty(first.size, np.int64)
    rank[np.argsort(first)] = np.arange(first.size)
    return rank[found]


def most_rows(firm: Integers, rows: Mask | None = None) -> int:
    """Return how many of some rows (None: all) the firm has that has most; `firm` (n,) numbers as of `numbered`."""
    counts = np.bincount(firm if rows is None else firm[rows])
    return int(counts.max()) if counts.size else 0


def drawn(firm: Integers, most: int, generator: np.random.Generator) -> Mask:
    """Draw at most so many rows of each firm, all alike likely: (n,)."""
    order = generator.permutation(firm.size)
    order = order[np.argsort(firm[order], kind="stable")]  # by firm, in a random order within each
    starts = np.flatnonzero(np.diff(firm[order], prepend=-1))
    rank = np.arange(firm.size) - np.repeat(starts, np.diff(np.append(starts, firm.size)))
    kept = np.zeros(firm.size, bool)
    kept[order[rank < most]] = True
    return kept


def newest(panel: Panel) -> Mask:
    """Return which rows are the newest of their firms: (n,)."""
    firm = numbered(panel.firms)
    order = np.lexsort((panel.days, firm))
    kept = np.zeros(firm.size, bool)
    kept[order[np.append(np.diff(firm[order]) > 0, True)]] = True
    return kept


def by_firm(values: Vector, firm: Integers) -> Vector:
    """Return the sum of values over each firm's rows, (n_firms,); firms without a row here are left out."""
    _, place = np.unique(firm, return_inverse=True)
    sums: Vector = np.bincount(place, values).astype(np.float64)
    return sums
