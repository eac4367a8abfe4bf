"""Compute weight of evidence and information value from good and bad counts of anonymous bins, at the bank.

Convention, used in the whole package: woe = ln(share of all bad rows in the bin / share of all good rows in it),
0.5 added to both counts of each bin, so a higher WOE is a higher risk and the right sign of a coefficient is
positive. IV = sum over bins of (bad share - good share) woe.

A bin too small in one of the classes is merged with a neighbour (ordered columns) or the most similar bin (others).
A bin that differs clearly from it, such as a rare flag, stays, with its WOE shrunk towards zero by what its counts
cannot support. Empty cells get WOE 0. Source: Siddiqi, Intelligent Credit Scoring, chapter 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from veilscore.arrays import Array, Integers, Mask, Vector
from veilscore.errors import DataError, LabelError
from veilscore.models.bin_groups import CountedBin, merge_small, monotone_bins
from veilscore.models.counts import BinCounts, offsets
from veilscore.models.logistic_problem import LogisticProblem

MIN_CLASS_FRACTION = 0.05
SUSPICIOUS_IV = 1.0  # so strong a column often knows the outcome
_PRIOR_VARIANCE = 1.0  # of the true WOE of a bin, for shrinkage


@dataclass(frozen=True, eq=False)
class WoeTable:
    """WOE of every cell of some columns.

    n_codes : (d,) int64, codes of each column.
    woe : (cells,) float64.
    group : (cells,) int64, number of the merged bin within the column, -1 for an empty cell.
    bad, good : (cells,) float64, weighted counts before merging.
    iv : (d,) float64.
    total_bad, total_good : weighted counts over all rows, withheld cells included.
    """

    n_codes: Integers
    woe: Vector
    group: Integers
    bad: Vector
    good: Vector
    iv: Vector
    total_bad: float
    total_good: float

    @property
    def n_columns(self) -> int:
        """Return the number of columns."""
        return len(self.n_codes)

    @property
    def chance(self) -> Vector:
        """Return the IV that bins of these sizes have on average where they say nothing: (d,)."""
        at = offsets(self.n_codes)
        bins = [len(set(self.group[a:b].tolist()) - {-1}) for a, b in pairwise(at.tolist())]
        return (np.maximum(bins, 1) - 1.0) * (1.0 / self.total_bad + 1.0 / self.total_good)

    def units(self, bits: int) -> Integers:
        """Return the WOE in units of 2^-bits, rounded to nearest: (cells,) int64."""
        return np.rint(np.ldexp(self.woe, bits)).astype(np.int64)

    def quantised(self, bits: int) -> WoeTable:
        """Round the WOE to multiples of 2^-bits, exact in integers and in float64."""
        return replace(self, woe=np.ldexp(self.units(bits).astype(np.float64), -bits))

    def select(self, columns: Mask) -> WoeTable:
        """Return the table of the columns where the mask (d,) is true."""
        cells = np.repeat(columns, self.n_codes)
        return replace(
            self,
            n_codes=self.n_codes[columns],
            woe=self.woe[cells],
            group=self.group[cells],
            bad=self.bad[cells],
            good=self.good[cells],
            iv=self.iv[columns],
        )

    def transform(self, codes: Array) -> Vector:
        """Return the WOE of rows, (n, d) float64, from codes (n, d)."""
        return np.asarray(self.woe[codes.astype(np.int64) + offsets(self.n_codes)[:-1]])


def join_tables(tables: Sequence[WoeTable]) -> WoeTable:
    """Join all parties' columns in the order given; the rows are the same."""
    if not tables:
        raise DataError("No columns to join.")
    return WoeTable(
        n_codes=np.concatenate([t.n_codes for t in tables]),
        woe=np.concatenate([t.woe for t in tables]),
        group=np.concatenate([t.group for t in tables]),
        bad=np.concatenate([t.bad for t in tables]),
        good=np.concatenate([t.good for t in tables]),
        iv=np.concatenate([t.iv for t in tables]),
        total_bad=tables[0].total_bad,
        total_good=tables[0].total_good,
    )


def woe_table(
    n_codes: Integers,
    bad: Vector,
    good: Vector,
    *,
    total_bad: float,
    total_good: float,
    ordered: Mask | None = None,
    missing_code: Integers | None = None,
    min_class_fraction: float = MIN_CLASS_FRACTION,
    monotone: Literal["told"] | bool = False,
    missing_bin: bool = False,
) -> WoeTable:
    """Return the WOE of every cell of one party's columns.

    n_codes : (d,) codes of each column.
    bad, good : (cells,) weighted counts, zeros for a withheld cell.
    total_bad, total_good : weighted counts over all training rows.
    ordered : (d,) whether neighbouring codes are neighbouring values; None: nowhere.
    missing_code : (d,) code of missing values, -1 where unknown; None: unknown everywhere.
    min_class_fraction : a bin below this share of all bad or of all good rows is merged.
    monotone : merge until WOE rises or falls with the value, in ordered columns; missing stays apart. "told" leaves
        columns as they are that clearly have another shape.
    missing_bin : whether missing values, where they are known, have a bin of their own however few they are.
    Raises LabelError where one class is empty, DataError where counts do not fit `n_codes`, are negative or not finite.
    """
    d = len(n_codes)
    if not (total_bad > 0 and total_good > 0):
        raise LabelError("The training rows are all of one class; the label must have both.")
    counts = np.stack([np.asarray(bad, np.float64), np.asarray(good, np.float64)])
    if counts.shape[1] != int(np.sum(n_codes)) or not np.isfinite(counts).all() or counts.min(initial=0.0) < 0:
        raise DataError("Bin counts must be finite, not negative, and one for every cell.")
    if not 0 <= min_class_fraction < 0.5:
        raise DataError(f"The least share of a class in a bin is {min_class_fraction}; choose 0 to 0.5.")
    least = (min_class_fraction * total_bad, min_class_fraction * total_good)
    woe, group, iv = np.zeros(counts.shape[1]), np.full(counts.shape[1], -1, np.int64), np.zeros(d)
    start = 0
    for j in range(d):
        cells = slice(start, start + int(n_codes[j]))
        start = cells.stop
        missing = -1 if missing_code is None else int(missing_code[j])
        in_order = ordered is not None and bool(ordered[j])
        bins = _merged(counts[:, cells], least, missing, ordered=in_order, monotone=monotone, apart=missing_bin)
        woe[cells], group[cells], iv[j] = _column_woe(bins, int(n_codes[j]), least, total_bad, total_good)
    return WoeTable(
        np.asarray(n_codes, np.int64), woe, group, counts[0], counts[1], iv, float(total_bad), float(total_good)
    )


def counted_woe(
    counts: BinCounts,
    total_bad: float,
    total_good: float,
    *,
    monotone: Literal["told"] | bool = False,
    missing_bin: bool = False,
) -> WoeTable:
    """Return the WOE of one party's counted columns; the totals are weighted counts over all training rows."""
    return woe_table(
        counts.n_codes,
        counts.bad,
        counts.good,
        total_bad=total_bad,
        total_good=total_good,
        ordered=counts.ordered,
        missing_code=counts.missing_code,
        monotone=monotone,
        missing_bin=missing_bin,
    )


def _merged(
    counts: Vector,
    least: tuple[float, float],
    missing: int,
    *,
    ordered: bool,
    monotone: Literal["told"] | bool,
    apart: bool,
) -> list[CountedBin]:
    """Return the merged bins of one column, from counts (2, n_codes)."""
    filled = [c for c in range(counts.shape[1]) if counts[:, c].sum() > 0 or (ordered and c != missing)]
    bins = [CountedBin((c,), float(counts[0, c]), float(counts[1, c]), missing=c == missing) for c in filled]
    bins = merge_small(bins, least, ordered=ordered, apart=apart)
    return monotone_bins(bins, always=monotone is True) if monotone and ordered else bins


def _column_woe(
    bins: list[CountedBin], n_codes: int, least: tuple[float, float], total_bad: float, total_good: float
) -> tuple[Vector, Integers, float]:
    """Return WOE and group per code, and IV."""
    woe, group, iv = np.zeros(n_codes), np.full(n_codes, -1, np.int64), 0.0
    extra = 0.5 * len(bins)  # so that the shares of all bins add up to one
    for number, merged in enumerate(bins):
        bad_share = (merged.bad + 0.5) / (total_bad + extra)
        good_share = (merged.good + 0.5) / (total_good + extra)
        value = float(np.log(bad_share / good_share))
        if merged.bad < least[0] or merged.good < least[1]:
            value /= 1.0 + merged.variance / _PRIOR_VARIANCE
        if merged.bad + merged.good > 0:
            woe[list(merged.codes)] = value
            iv += (bad_share - good_share) * value
        group[list(merged.codes)] = number
    return woe, group, float(iv)


@dataclass(frozen=True)
class ColumnSelection:
    """Which columns enter the model.

    selected : (d,) mask.
    reasons : d strings, empty where selected.
    warnings : lines for the bank.
    """

    selected: Mask
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]


def select_columns(
    names: Sequence[str],
    iv: Vector,
    *,
    min_iv: float = 0.0,
    chance: Vector | float = 0.0,
    association: Vector | None = None,
    max_association: float | None = None,
) -> ColumnSelection:
    """Drop columns without evidence and, of two that say the same, the one with the lower IV.

    min_iv : columns below are left out, as is every column with IV 0.
    chance : (d,) IV by chance alone, which is taken off before columns are compared.
    association : (d, d) correlation or Cramer's V in [-1, 1], NaN where unknown.
    max_association : largest absolute association of two selected columns; None: no limit.
    """
    reasons = [""] * len(names)
    kept: list[int] = []
    found = np.maximum(iv - chance, 0.0)
    for j in np.argsort(chance - iv, kind="stable").tolist():
        if found[j] < min_iv or iv[j] <= 0:
            reasons[j] = f"IV {found[j]:.3f} below {min_iv:g}" if found[j] < min_iv else "IV is 0"
            continue
        if association is not None and max_association is not None:
            close = [k for k in kept if abs(association[j, k]) > max_association]
            if close:
                reasons[j] = f"association {abs(association[j, close[0]]):.2f} with {names[close[0]]}"
                continue
        kept.append(j)
    warnings = tuple(
        f"column {names[j]} has IV {iv[j]:.2f}, above {SUSPICIOUS_IV:g}: check that it was known at decision time"
        for j in kept
        if iv[j] > SUSPICIOUS_IV
    )
    return ColumnSelection(np.array([not r for r in reasons], dtype=np.bool_), tuple(reasons), warnings)


def limit_columns(
    chosen: Mapping[str, ColumnSelection], iv: Mapping[str, Vector], most: int
) -> dict[str, ColumnSelection]:
    """Keep at most so many of all parties' columns, those of the highest IV (d,), which is given by party."""
    ranked = sorted(
        ((party, j) for party, one in chosen.items() for j in np.flatnonzero(one.selected).tolist()),
        key=lambda place: -iv[place[0]][place[1]],
    )
    result = dict(chosen)
    for party, j in ranked[most:]:
        selected, reasons = result[party].selected.copy(), list(result[party].reasons)
        selected[j], reasons[j] = False, f"not among the {most} of the highest IV, which so few rows allow"
        result[party] = replace(result[party], selected=selected, reasons=tuple(reasons))
    return result


def logistic_problem(table: WoeTable, own_woe: Vector | None = None, **options: Any) -> LogisticProblem:
    """State the optimiser's problem from counts alone: curvature and first gradient without an opening.

    table : the selected columns of all parties, WOE as the protocol uses it (`quantised`).
    own_woe : (n, d_own) WOE of the bank's own columns, the first of the table, each row times the square root of
        its weight; their exact second moments replace part of the guess of the Hessian. None: counts only.
    options : further fields of `LogisticProblem`.
    """
    d, n = table.n_columns, table.bad + table.good
    rate = table.total_bad / (table.total_bad + table.total_good)
    cells = [slice(a, b) for a, b in pairwise(offsets(table.n_codes).tolist())]
    sums, squares, gradient = np.zeros(d + 1), np.zeros(d + 1), np.zeros(d + 1)
    for j, part in enumerate(cells):
        woe = table.woe[part]
        sums[j], squares[j] = woe @ n[part], woe**2 @ n[part]
        gradient[j] = woe @ (rate * n[part] - table.bad[part])
    total = table.total_bad + table.total_good
    sums[d] = squares[d] = total
    # Uncorrelated columns, not zero products: with the intercept's row those would not be positive definite.
    curvature = np.outer(sums, sums) / total
    np.fill_diagonal(curvature, squares)
    if own_woe is not None:
        own = own_woe.shape[1]
        curvature[:own, :own] = own_woe.T @ own_woe
    return LogisticProblem(
        low=np.array([table.woe[part].min() for part in cells]),
        high=np.array([table.woe[part].max() for part in cells]),
        curvature=curvature * (rate * (1.0 - rate)),
        first_gradient=gradient,
        base_log_odds=float(np.log(rate / (1.0 - rate))),
        **options,
    )
