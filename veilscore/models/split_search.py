"""Choose splits from sums of g and h by cell: gains, monotone bounds, leaf weights.

Source: Chen and Guestrin 2016 (XGBoost), gains and weights as in its code: G^2 / (H + reg_lambda), no factor 1/2.
All codes here are *ranked*: within a column neighbouring codes are neighbouring values (or neighbouring WOE, where the
order is not told), and the code of missing values, if any, is the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from veilscore.arrays import Integers, Mask, Vector
from veilscore.kernels import kernel
from veilscore.models.counts import offsets


@dataclass(frozen=True, eq=False)
class Ranked:
    """One party's columns, ranked.

    n_codes : (d,) codes of each column, that of missing values included.
    missing : (d,) bool, whether the last code means missing.
    constraints : (d,) int, +1 or -1 where bad odds must rise or fall with the code, else 0.
    """

    n_codes: Integers
    missing: Mask
    constraints: Integers

    @property
    def n_cells(self) -> int:
        """Return the number of cells."""
        return int(self.n_codes.sum())

    def chosen(self, columns: Integers) -> Chosen:
        """Return the cells of some columns."""
        first = offsets(self.n_codes)
        cells = [np.arange(first[j], first[j + 1]) for j in columns]
        return Chosen(columns, self.n_codes[columns], np.concatenate([np.zeros(0, np.int64), *cells]))


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some columns: their numbers and bins, missing included, (c,) each, and the numbers of their cells."""

    columns: Integers
    n_bins: Integers
    cells: Integers


@dataclass(frozen=True)
class Rules:
    """Parameters of growth, named as in XGBoost.

    min_rows : fewest rows in a child, enforced as sum h >= min_rows / 4.
    """

    learning_rate: float
    reg_lambda: float
    gamma: float
    min_child_weight: float
    max_delta_step: float
    min_rows: int

    @property
    def least_h(self) -> float:
        """Return the smallest sum of h in a child."""
        return max(self.min_child_weight, self.min_rows / 4.0)

    def weight(self, g: float, h: float, bounds: tuple[float, float]) -> float:
        """Return the leaf weight before the learning rate, inside its monotone bounds."""
        # the error of the series can push an opened sum of h below what min_rows guarantees
        w = -g / (max(h, self.min_rows / 4.0, 0.0) + self.reg_lambda)
        if self.max_delta_step > 0:
            w = max(-self.max_delta_step, min(self.max_delta_step, w))
        return max(bounds[0], min(bounds[1], w))


@dataclass(frozen=True)
class FoundSplit:
    """A split: which column, the last code that goes left, where missing goes, and the children's sums."""

    column: int
    code: int
    missing_left: bool
    gain: float
    left: tuple[float, float]
    right: tuple[float, float]
    constraint: int


def best_split(
    ranked: Ranked,
    chosen: Chosen,
    sums: tuple[Vector, Vector],
    total: tuple[float, float],
    rules: Rules,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> FoundSplit | None:
    """Return the best split of a node on some columns, or None.

    sums : g and h of each of their cells, (cells,) each.
    total : g and h of the node.
    bounds : least and greatest weight that monotone ancestors allow.
    """
    index, code, missing_left, gain, g, h = _scan(
        sums[0],
        sums[1],
        chosen.n_bins,
        ranked.missing[chosen.columns],
        ranked.constraints[chosen.columns],
        np.array([*total, rules.reg_lambda, rules.least_h, *bounds, rules.gamma]),
    )
    if index < 0:
        return None
    j = int(chosen.columns[index])
    return FoundSplit(
        column=j,
        code=int(code),
        missing_left=bool(missing_left),
        gain=float(gain),
        left=(float(g), float(h)),
        right=(total[0] - float(g), total[1] - float(h)),
        constraint=int(ranked.constraints[j]),
    )


def left_codes(ranked: Ranked, found: FoundSplit) -> tuple[int, ...]:
    """Return the ranked codes that go left."""
    last = int(ranked.n_codes[found.column]) - 1
    codes = tuple(range(found.code + 1))
    return (*codes, last) if ranked.missing[found.column] and found.missing_left else codes


def child_bounds(
    found: FoundSplit, bounds: tuple[float, float], rules: Rules
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the bounds of the children's weights: under a constraint neither crosses the middle of the two."""
    if found.constraint == 0:
        return bounds, bounds
    middle = (rules.weight(*found.left, bounds) + rules.weight(*found.right, bounds)) / 2
    if found.constraint > 0:
        return (bounds[0], middle), (middle, bounds[1])
    return (middle, bounds[1]), (bounds[0], middle)


@kernel()
def _score(g: float, h: float, reg: float, low: float, high: float) -> tuple[float, float]:
    """Return the weight, clipped to its bounds, and -(2 g w + (h + reg) w^2)."""
    w = min(max(-g / (h + reg), low), high)
    return w, -(2.0 * g * w + (h + reg) * w * w)


@kernel("(f8[::1], f8[::1], i8[::1], b1[::1], i8[::1], f8[::1])")
def _scan(
    G: Vector, H: Vector, n_bins: Integers, missing: Mask, constraints: Integers, node: Vector
) -> tuple[int, int, bool, float, float, float]:
    """Return column's index, bin, missing left, gain and left sums of the best split; index -1 where there is none."""
    total_g, total_h, reg, least, low, high, gamma = node
    best = (-1, 0, False, 0.0, 0.0, 0.0)
    if total_h + reg <= 0.0:
        return best
    _, parent = _score(total_g, max(total_h, 0.0), reg, low, high)
    at = 0
    for c in range(n_bins.size):
        bins = n_bins[c] - (1 if missing[c] else 0)
        for side in range(2 if missing[c] else 1):  # missing right, then left
            g = G[at + bins] if side else 0.0
            h = H[at + bins] if side else 0.0
            for b in range(bins if missing[c] else bins - 1):
                g += G[at + b]
                h += H[at + b]
                if side and b == bins - 1:
                    continue  # everything left
                rest = total_h - h
                if h < least or rest < least or h + reg <= 0.0 or rest + reg <= 0.0:
                    continue
                wl, left = _score(g, h, reg, low, high)
                wr, right = _score(total_g - g, rest, reg, low, high)
                if constraints[c] * (wr - wl) < 0.0:
                    continue
                gain = left + right - parent
                if gain > gamma and gain > best[3]:
                    best = (c, b, side == 1, gain, g, h)
        at += n_bins[c]
    return best
