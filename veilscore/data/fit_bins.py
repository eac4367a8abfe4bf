"""Fit the bins of one column on the rows of a training sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from veilscore.arrays import Integers, Vector
from veilscore.data.column_bins import Bins, CategoryBins, NumberBins
from veilscore.data.table import Column, Kind
from veilscore.errors import ConfigError

FEW_VALUES = 3  # a column with at most this many values is a flag: its bins survive the relative minimum


@dataclass(frozen=True)
class BinSizes:
    """Limits on bins.

    max_bin : most bins of a column beside the missing one, 2 to 64.
    min_bin_fraction : a bin holds at least this share of the fitting rows; smaller ones are merged.
    min_bin_count : flags (at most `FEW_VALUES` values), and columns that the share would merge into one bin,
        keep bins of at least this many rows (or of the share, where that is smaller).
    """

    max_bin: int = 20
    min_bin_fraction: float = 0.05
    min_bin_count: int = 30

    def __post_init__(self) -> None:
        if not 2 <= self.max_bin <= 64:
            raise ConfigError(f"max_bin is {self.max_bin}; choose 2 to 64")
        if not 0 <= self.min_bin_fraction <= 0.5:
            raise ConfigError(f"min_bin_fraction is {self.min_bin_fraction}; choose 0 to 0.5")
        if self.min_bin_count < 1:
            raise ConfigError(f"min_bin_count is {self.min_bin_count}; choose 1 or more")

    def minimum(self, n_rows: int) -> int:
        """Return how many rows an ordinary bin needs."""
        return max(1, int(np.ceil(self.min_bin_fraction * n_rows)))

    def flag_minimum(self, n_rows: int) -> int:
        """Return how many rows a bin of a flag needs."""
        return min(self.min_bin_count, self.minimum(n_rows))


def fit_bins(
    values: Column, kind: Kind, sizes: BinSizes, special: Sequence[float | str] = ()
) -> tuple[Bins | None, str]:
    """Return the bins of a column from its fitting rows, or None and the reason why the column is dropped.

    special : values that have bins of their own, whatever their number of rows; ranges or levels get fewer for them.
    """
    bins: Bins
    sizes = replace(sizes, max_bin=max(2, sizes.max_bin - len(special)))
    if kind == "category":
        bins = _fit_levels(values, sizes, [str(one) for one in special])
    else:
        apart = [float(one) for one in special]
        bins = replace(_fit_numbers(values[~np.isin(values, apart)], sizes), special=tuple(apart))
    counts = np.bincount(bins.apply(values)[0], minlength=bins.n_bins)
    if counts[-1] == len(values):
        return None, "missing in every fitting row"
    if bins.n_bins == 2 and counts[-1] < sizes.flag_minimum(len(values)):
        return None, "one value only (or nearly: the others are fewer than the smallest bin allowed)"
    return bins, ""


def _fit_numbers(values: Vector, sizes: BinSizes) -> NumberBins:
    present = values[~np.isnan(values)]
    distinct, counts = np.unique(present, return_counts=True)
    if len(distinct) > sizes.max_bin:
        last = _quantile_cuts(counts, sizes.max_bin, sizes.minimum(len(values)))
    else:
        last = np.arange(len(distinct))
    sizes_of_bins = np.add.reduceat(counts, np.append(0, last[:-1] + 1)) if len(last) else counts
    kept = _merged(sizes_of_bins, len(distinct), len(values), sizes)
    # + 0.0 turns -0.0 into 0.0, so that the map does not depend on which of the two came first
    return NumberBins(tuple(float(edge) + 0.0 for edge in distinct[last[kept][:-1]]))


def _quantile_cuts(counts: Integers, max_bin: int, minimum: int) -> Integers:
    """Return the index of the last distinct value of every bin: heavy values alone, the others in equal shares.

    A value is heavy when it holds more than a bin's share of what the heavy ones leave; taking heavy values
    out makes the share smaller, hence the repetition. A share is at least the smallest bin allowed, so that
    bins just below it do not merge in pairs.
    """
    heavy = np.zeros(len(counts), dtype=np.bool_)
    share = 0.0
    for _ in range(max_bin):
        n_free = max(1, max_bin - int(heavy.sum()))
        share = max(counts[~heavy].sum() / n_free, float(minimum))
        more = heavy | (counts > share)
        if (more == heavy).all() or more.all():
            break
        heavy = more
    cumulative = np.cumsum(counts)
    ends: list[int] = []
    first = 0
    for alone in (*np.flatnonzero(heavy).tolist(), len(counts)):
        ends += _equal_shares(cumulative, first, alone, share, minimum)
        ends += [alone] if alone < len(counts) else []
        first = alone + 1
    return np.array(ends, dtype=np.int64)


def _equal_shares(cumulative: Integers, first: int, stop: int, share: float, minimum: int) -> list[int]:
    """Return the last value of each bin of about `share` rows among the distinct values first, ..., stop - 1."""
    if first >= stop:
        return []
    done = int(cumulative[first - 1]) if first else 0
    total = int(cumulative[stop - 1])
    n_bins = max(1, min(round((total - done) / share), (total - done) // minimum))
    ends: list[int] = []
    for left in range(n_bins, 1, -1):
        goal = done + max((total - done) / left, minimum)  # ties must not leave bins just below it
        end = int(np.searchsorted(cumulative, goal, side="left"))
        if end >= stop - 1:
            break
        ends.append(end)
        done = int(cumulative[end])
    return [*ends, stop - 1]


def _merged(counts: Integers, n_distinct: int, n_rows: int, sizes: BinSizes) -> list[int]:
    """Return the last of the bins merged into each kept bin: small ordered bins join their smaller neighbour."""
    minimum = sizes.flag_minimum(n_rows) if n_distinct <= FEW_VALUES else sizes.minimum(n_rows)
    kept = _merge_neighbours(counts.tolist(), minimum, sizes.max_bin)
    if len(kept) == 1 < len(counts):
        # one value dominates: keep it against the rest rather than lose the column
        kept = _merge_neighbours(counts.tolist(), 1, 2)
        starts = [0, *(end + 1 for end in kept[:-1])]
        if np.add.reduceat(counts, starts).min() < sizes.flag_minimum(n_rows):
            return kept[-1:]
    return kept


def _merge_neighbours(counts: list[int], minimum: int, max_bin: int) -> list[int]:
    ends = list(range(len(counts)))
    while len(counts) > 1 and (min(counts) < minimum or len(counts) > max_bin):
        small = counts.index(min(counts))
        beside = [i for i in (small - 1, small + 1) if 0 <= i < len(counts)]
        left = min(small, min(beside, key=counts.__getitem__))
        counts[left] += counts.pop(left + 1)
        ends.pop(left)
    return ends


def _fit_levels(values: Column, sizes: BinSizes, special: Sequence[str]) -> CategoryBins:
    counted = Counter(values.tolist())
    counted.pop(None, None)
    apart = [(level,) for level in special]
    ranked = sorted(((k, n) for k, n in counted.items() if k not in special), key=lambda item: (-item[1], item[0]))
    n_rows = len(values)
    floor = sizes.flag_minimum(n_rows)
    minimum = floor if len(ranked) <= FEW_VALUES else sizes.minimum(n_rows)
    kept = [level for level, count in ranked if count >= minimum][: sizes.max_bin]
    if len(ranked) > len(kept) == sizes.max_bin:
        kept.pop()  # its place goes to the group of the others
    kept = kept or [level for level, _ in ranked[:1]]
    rare = [(level, count) for level, count in ranked if level not in set(kept)]
    groups: list[tuple[str, ...]] = [(level,) for level in kept]
    if not rare:
        return CategoryBins((*groups, *apart), None)
    if sum(count for _, count in rare) >= floor:
        return CategoryBins((*groups, tuple(level for level, _ in rare), *apart), len(groups))
    groups[-1] = (*groups[-1], *(level for level, _ in rare))
    return CategoryBins((*groups, *apart), len(groups) - 1)
