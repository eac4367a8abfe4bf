"""Bins that a holder publishes of columns of its choice, and the code maps of what a bank writes on them.

They are the fixed bins of the data set (`data/fixed_bins.py`): made once on the whole table, with noise, charged once.
An edge is told as the shortest decimal number within its cell, so that it can be typed; in a column of whole numbers
that is the number itself. No count is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import ROUND_FLOOR, Decimal
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from veilscore.data.codes import CodeMap, ColumnMap
from veilscore.data.column_bins import Bins, CategoryBins, NumberBins, plain
from veilscore.data.fixed_bins import Cells, FixedBins
from veilscore.errors import MessageError, RefusedError
from veilscore.terms.decision import KnockOut
from veilscore.terms.reading import MOST_SPECIAL
from veilscore.terms.settings import Strict, nearest
from veilscore.terms.written import WrittenColumn

MAX_BIN = 20  # of a published column, as where a job bins columns
_DIGITS = 17  # of a double


def _ascending(edges: tuple[float, ...]) -> tuple[float, ...]:
    if not all(math.isfinite(edge) for edge in edges) or any(b <= a for a, b in pairwise(edges)):
        raise ValueError("edges are not ascending and finite")
    return edges


class PublishedBins(Strict):
    """What a bank learns of the bins of one column: edges of a number column, or levels of a category column."""

    column: str = Field(min_length=1, max_length=200)
    edges: Annotated[tuple[float, ...], AfterValidator(_ascending)] = ()
    levels: tuple[str, ...] = ()
    special: tuple[float, ...] = ()

    @classmethod
    def of(cls, fixed: FixedBins, name: str) -> PublishedBins:
        """Return what is told of one column of the fixed bins; RefusedError where they do not have it."""
        cells = fixed.columns.get(name)
        if cells is None:
            raise RefusedError(f"column {name!r} is not in the fixed bins; make a new version (veilscore dataset bins)")
        if cells.kind == "category":
            return cls(column=name, levels=tuple(sorted(cells.levels)))
        edges = fixed.merged_edges(name, MAX_BIN)
        return cls(column=name, edges=_typed(cells, edges), special=tuple(sorted(map(float, cells.special))))

    def bins_of(self, column: WrittenColumn) -> Bins:
        """Return the bins that a bank wrote points for; RefusedError where it names what is not published."""
        if column.edges:
            return self._number_bins(column.edges)
        if not self.levels:
            raise RefusedError(f"{self.column} has numbers: give edges ({self.named}) and points, not levels")
        for level in column.levels:
            if level not in self.levels:
                raise RefusedError(
                    f"{level[:60]!r} is no published level of {self.column}; {nearest(level, self.levels)}"
                )
        return _level_bins(column.levels)

    def bins_for(self, knock_out: KnockOut) -> Bins:
        """Return the two bins of a knock-out, with that of missing values; RefusedError as for `bins_of`."""
        if knock_out.is_:
            return self.bins_of(WrittenColumn(levels=dict.fromkeys(knock_out.is_, 1.0)))
        limit = knock_out.above if knock_out.above is not None else knock_out.up_to
        return self._number_bins(() if limit is None else (limit,))

    @property
    def named(self) -> str:
        """Return edges or levels as a line."""
        return ", ".join(map(plain, self.edges)) or ", ".join(self.levels)

    def _number_bins(self, edges: tuple[float, ...]) -> NumberBins:
        if self.levels or not self.edges:
            raise RefusedError(f"{self.column} has no published edges: it is a category column, or has one value only")
        for edge in edges:
            if edge not in self.edges:
                raise RefusedError(
                    f"{plain(edge)} is no published edge of {self.column}; published are {self.named[:600]}"
                )
        return NumberBins(edges, special=self.special)


def own_bins(column: WrittenColumn, special: Iterable[float | str] = ()) -> Bins:
    """Return the bins of a bank's own column, on which it may write any edge or level; `special` values stand apart."""
    if column.levels:
        return _level_bins(column.levels)
    return NumberBins(column.edges, special=tuple(sorted(map(float, special))))


def _level_bins(levels: Iterable[str]) -> CategoryBins:
    groups = (*((level,) for level in sorted(levels)), ())
    return CategoryBins(groups, len(groups) - 1)


def points_of(column: WrittenColumn, n_bins: int) -> tuple[float, ...]:
    """Return the points of each bin: special values, whose bins stand before the last, have those of missing ones.

    Raises MessageError where a column cannot have so many bins.
    """
    points = column.all_points
    more = n_bins - len(points)
    if not 0 <= more <= (MOST_SPECIAL if column.edges else 0):
        raise MessageError(f"a column of {len(points) - 1} bins written for has {n_bins} codes")
    return (*points, *points[-1:] * more)


def failures_of(knock_out: KnockOut, bins: Bins) -> tuple[int, ...]:
    """Return for each bin of `bins_for` whether its values are knocked out: 1, or 0."""
    if isinstance(bins, CategoryBins):
        return (*(1 if group else 0 for group in bins.groups), 0)
    ranges = (0, 1) if knock_out.above is not None else (1, 0)
    return (*ranges, *(0,) * (bins.n_bins - len(ranges)))


def open_map(bins: Mapping[str, Bins], model: str) -> CodeMap:
    """Return the code map of named bins whose meaning all parties know: code numbers are not permuted, no row counted.

    Columns are in the order of their names; `model` keeps maps of the same bins apart.
    """
    columns = tuple(
        ColumnMap(name, of, np.arange(of.n_bins, dtype=np.int64), np.zeros(of.n_bins, np.int64))
        for name, of in sorted(bins.items())
    )
    return CodeMap(columns, {}, {name: of.kind for name, of in sorted(bins.items())}, model=model)


def _typed(cells: Cells, edges: Iterable[float]) -> tuple[float, ...]:
    """Return edges as the shortest decimals within the cells that they end."""
    before = dict(zip(cells.cuts[1:], cells.cuts, strict=False))
    return tuple(shortest(before.get(edge, edge - abs(edge) / 1024), edge) for edge in edges)


def shortest(above: float, most: float) -> float:
    """Return the number with the fewest digits above one float and up to another, the largest of these."""
    if above < 0 <= most:
        return 0.0
    low, high = Decimal(above), Decimal(most)
    top = high.adjusted() if high else low.adjusted()
    for exponent in range(max(top, low.adjusted()), top - _DIGITS, -1):
        found = high.quantize(Decimal(1).scaleb(exponent), rounding=ROUND_FLOOR)
        if low < found and above < float(found) <= most:
            return float(found)
    return most
