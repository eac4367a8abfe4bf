"""Coarse random partitions of a holder's columns: the coded columns that private trees are grown on.

A number column becomes several coded columns, each of three neighbouring bins between two random thresholds, drawn like
the values of rows; a category column becomes one, with all its levels. Thresholds come from bins fixed beforehand and
their noised counts, never from a job's rows, so nothing that follows from a partition's shape tells of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from veilscore.arrays import Integers
from veilscore.data.codes import CodeMap, ColumnMap, ToldNames, permutation_of, told_name
from veilscore.data.column_bins import CategoryBins, NumberBins
from veilscore.wire.randomness import secret_generator

PARTS = 3  # bins of a partition of numbers, beside missing values
MOST = 8  # partitions of a number column
_MOST_IN_ALL = 320  # of a holder, so that hints and messages stay within bounds
_TRIES = 64


def partitions(fixed: CodeMap, least: float, *, generator: np.random.Generator | None = None) -> CodeMap:
    """Return a code map with the partitions of every column side by side, each under the name of its column.

    fixed : many bins a column, with counts of fixed bins.
    least : missing values of fewer rows have no bin of their own, but join the largest.
    """
    generator = generator or secret_generator()
    most = max(1, min(MOST, _MOST_IN_ALL // max(1, len(fixed.columns))))
    columns = tuple(part for column in fixed.columns for part in _parts(column, most, least, generator))
    return replace(fixed, columns=columns)


def beside(card: CodeMap, parts: CodeMap) -> CodeMap:
    """Return a code map in which each column of `card` stands before its partitions, under one name; others follow."""
    names = dict.fromkeys((*card.names, *parts.names))
    columns = tuple(column for name in names for one in (card, parts) for column in one.columns if column.name == name)
    return replace(parts, columns=columns)


def part_names(code_map: CodeMap, party: str, *, names: ToldNames) -> tuple[str, ...]:
    """Return the name of each coded column as others know it, "column#number"."""
    count: Counter[str] = Counter()
    places = {name: i for i, name in enumerate(dict.fromkeys(code_map.names), start=1)}
    found = []
    for name in code_map.names:
        count[name] += 1
        found.append(f"{told_name(name, places[name], party, names)}#{count[name]}")
    return tuple(found)


def _parts(column: ColumnMap, most: int, least: float, generator: np.random.Generator) -> Iterator[ColumnMap]:
    own = column.counts[column.bins.missing] >= least
    present = np.delete(column.counts, column.bins.missing)  # special values have a bin of their own in every part
    if isinstance(column.bins, CategoryBins):
        joined = None if own else int(np.argmax(present))
        yield _numbered(column, replace(column.bins, joined=joined), present, generator)
        return
    ranges, special = present[: column.bins.n_ranges], present[column.bins.n_ranges :]
    for starts in _thresholds(ranges, most, generator):
        counts = np.add.reduceat(ranges, [0, *starts])
        edges = tuple(column.bins.edges[start - 1] for start in starts)
        joined = None if own else int(np.argmax(counts))
        bins = NumberBins(edges, joined, column.bins.special)
        yield _numbered(column, bins, np.append(counts, special), generator)


def _thresholds(counts: Integers, most: int, generator: np.random.Generator) -> list[tuple[int, ...]]:
    """Draw distinct sets of the bins that a part begins with, a bin as often as it has rows."""
    n_starts = counts.size - 1
    size = min(PARTS - 1, n_starts)
    chance = np.maximum(counts[1:], 1).astype(np.float64)
    found: dict[tuple[int, ...], None] = {}
    for _ in range(_TRIES if size else 0):
        drawn = 1 + generator.choice(n_starts, size, replace=False, p=chance / chance.sum())
        found[tuple(sorted(drawn.tolist()))] = None
        if len(found) == most:
            break
    return list(found) or [()]


def _numbered(
    column: ColumnMap, bins: NumberBins | CategoryBins, counts: Integers, generator: np.random.Generator
) -> ColumnMap:
    missing = int(column.counts[column.bins.missing])
    if bins.joined is None:
        by_bin = np.append(counts, missing)
    else:
        by_bin = counts + missing * (np.arange(counts.size) == bins.joined)
    return ColumnMap(column.name, bins, permutation_of(bins, generator), by_bin)
