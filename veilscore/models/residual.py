"""The residual scorecard: what holders' columns add to the bank's own score, from a few noised sums.

The bank fits its own columns in the clear and holds that score fixed. Of a holder's columns it gets three openings, all
noised by the holder: sums by cell of the residual r = y - p and of the weight W = p (1 - p); one gradient; one block of
X'WX. From the first come tables x, the effect of each code given the bank's score, shrunk by what the noise allows:
with x = G / H a cell, v its variance and t^2 the columns's own spread, x t^2 / (t^2 + v) (Morris 1983). The gradient
is opened for these tables anew, since sums that chose the tables would flatter them. The coefficients are then the
mean of theta given g ~ N(H theta, H + S) and theta ~ N(0, tau^2), S the variance of the noise; its covariance given g
has their standard errors and variance inflation. Where a holder tells the order of its bins, x rises or falls with the
value (pooling adjacent violators: Ayer et al., Ann. Math. Statist. 26, 1955).

Weights are scaled so that a firm's add up to at most 1, which bounds what one firm moves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from veilscore.arrays import Integers, Mask, Vector
from veilscore.errors import RefusedError
from veilscore.lattice.gaussian import MAX_SIGMA
from veilscore.lattice.params import INNER, SCALE_BITS
from veilscore.models.counts import offsets
from veilscore.wire.protocol import Charge

WEIGHT_FACTOR = 3.3  # W is sent so much larger: (r^2 + (3.3 W)^2) stays below 1 for every p, so its noise is smaller
SHARES = {"cells": 0.6, "gradient": 0.25, "moments": 0.15}  # of a job's mu squared
MOST_MOMENTS = 20  # columns of a holder whose X'WX is opened; of others the noised sums of W stand for it
TABLE_BITS = 9  # of x scaled to a Euclidean norm of 1 over a holder's columns
MOVED_ROWS = 8  # rows whose lookup one firm moves by a unit; of more, once in 2^40 (docs/protocols/disclosure.md)
_MOVED_BY = 1.001 * math.ldexp(1.0, 1 - TABLE_BITS)  # by which a row then moves the triangle, in units of its W
MOST_ROWS = 1 << 22  # that train: the noise of the inner products that make X'WX is bounded for no more
MOST_BINS = 10
TAU = 0.5  # spread of coefficients expected beforehand
_MOST_X, _LEAST_RANGE = 3.0, 0.02
_MOST_NOISE = INNER.t / 32  # sums take a quarter of the ring, and 8 deviations of noise another
_ROWS_A_BIN = 10.0  # a bin holds so many deviations of noise of the rarer class


def cells_sensitivity(n_columns: int) -> float:
    """How far one firm's record moves the sums by cell of r and of 3.3 W: two cells a column, by 1 at most."""
    return math.sqrt(2.0 * n_columns)


def gradient_sensitivity() -> float:
    """How far it moves the gradient for tables scaled by `Tables.for_gradient`: by the norm of their ranges."""
    return 1.0


def moments_sensitivity() -> float:
    """How far it moves the upper triangle of X'WX for tables scaled by `Tables.for_moments`.

    W is at most 1/4 a firm. For x and x' within a box of half-widths m, norm 1, the triangles of xx' and x'x' differ
    by at most 1: half of |x|^4 + |x'|^4 - 2 (x.x')^2 + sum (x_j^2 - x'_j^2)^2. Besides, the firm's cells are part of
    the lattice noise of other rows: a value looked up for `MOVED_ROWS` of them may be another by a unit.
    """
    return 0.25 * (1 + MOVED_ROWS * _MOVED_BY)


def gradient_bits(n_train: int) -> int:
    """Fraction bits of tables in the gradient, so that no sum of this many rows wraps."""
    return min(20, 58 - SCALE_BITS - _length(n_train))


def weight_bits(n_train: int) -> int:
    """Fraction bits of W in X'WX, so that no sum of this many rows wraps; W is at most 1/4."""
    return min(12, 26 - _length(n_train))


def moment_bits(n_train: int) -> int:
    """Fraction bits of X'WX."""
    return weight_bits(n_train) + 2 * TABLE_BITS


def _length(n_train: int) -> int:
    check_rows(n_train)
    return max(1, (n_train - 1).bit_length())


def check_rows(n_train: int) -> None:
    """Raise RefusedError where more rows train than the sums can carry: before any of them is charged."""
    if n_train > MOST_ROWS:
        raise RefusedError(
            f"{n_train:,} rows train, and a private scorecard takes {MOST_ROWS:,} at most: take a sample of the rows"
        )


def check_fit(n_train: int, charges: Mapping[str, Charge]) -> None:
    """Raise RefusedError where rows or noise of a fit pass what its sums can carry: before any of it is charged.

    charges : of "gradient" and "moments".
    """
    check_rows(n_train)
    gradient = charges["gradient"].sigma(math.ldexp(gradient_sensitivity(), SCALE_BITS + gradient_bits(n_train)))
    moments = charges["moments"].sigma(math.ldexp(moments_sensitivity(), moment_bits(n_train)))
    if gradient >= MAX_SIGMA or moments >= _MOST_NOISE:
        raise RefusedError(
            "the noise is larger than what sums can carry: ask for a larger mu, or for fewer rows of a firm"
        )


def most_bins(rarer: float, sigma: float) -> int:
    """Bins a column that so many rows of the rarer class allow beside noise of this deviation: 2 to 10."""
    return int(np.clip(rarer // (_ROWS_A_BIN * max(sigma, 1e-9)), 2, MOST_BINS))


@dataclass(frozen=True, eq=False)
class CellSums:
    """Noised sums by cell of one holder's columns.

    n_codes : (d,).
    residual, weight : (cells,) sums of r and of W = p (1 - p), or (segments, cells) by the bank's segments.
    sigma : deviation of the noise of `residual`; that of `weight` is smaller by `WEIGHT_FACTOR`.
    """

    n_codes: Integers
    residual: Vector
    weight: Vector
    sigma: float


@dataclass(frozen=True, eq=False)
class Tables:
    """Effect x of every code of one holder's columns given the bank's score, in log-odds, centred by weight.

    n_codes : (d,).
    x : (cells,); zero in columns that are left out.
    weight : (cells,) sums of W, made consistent: at least a little each, and adding up to the whole in every column.
    iv : (d,) information value of a column beside the bank's score: sum of W x^2.
    norm : of the greatest values of the strongest columns, by which `quantised` rounded x; None: x is not rounded.
    """

    n_codes: Integers
    x: Vector
    weight: Vector
    iv: Vector
    norm: float | None = None

    @property
    def used(self) -> Mask:
        """(d,) columns whose table has a range."""
        return self._ranges() > 0

    def _ranges(self) -> Vector:
        at = offsets(self.n_codes)[:-1]
        return np.maximum.reduceat(self.x, at) - np.minimum.reduceat(self.x, at)

    def for_gradient(self, bits: int | None = None) -> tuple[Vector, float]:
        """Tables (cells,) divided by the Euclidean norm of their ranges, and that norm.

        bits : to which values are rounded; the norm is taken so much larger that it is at most 1 afterwards.
        """
        norm = math.sqrt(float((self._ranges() ** 2).sum())) or 1.0
        if bits is not None:  # a range is off by a unit at most
            norm /= 1 - math.ldexp(math.sqrt(np.count_nonzero(self.used)), -bits)
        return self.x / norm, norm

    def for_moments(self) -> tuple[Vector, float]:
        """Tables (cells,) of the strongest columns divided by the norm of their greatest values, and that norm.

        The norm is taken so much larger that it is at most 1 once values are rounded to `TABLE_BITS`; tables that are
        rounded keep theirs, by which they are whole units.
        """
        strongest = np.zeros(self.n_codes.size, bool)
        strongest[np.argsort(-self.iv, kind="stable")[:MOST_MOMENTS]] = True
        x = np.where(np.repeat(strongest & self.used, self.n_codes), self.x, 0.0)
        if self.norm is not None:
            return x / self.norm, self.norm
        greatest = np.maximum.reduceat(np.abs(x), offsets(self.n_codes)[:-1])
        norm = math.sqrt(float((greatest**2).sum())) or 1.0
        norm /= 1 - math.ldexp(math.sqrt(MOST_MOMENTS), -TABLE_BITS - 1)
        return x / norm, norm


def tables(
    sums: CellSums,
    total_residual: float,
    total_weight: float,
    *,
    ordered: Mask | None = None,
    missing_code: Integers | None = None,
) -> Tables:
    """Make the tables of one holder's columns; the totals over all rows are the bank's own, hence exact.

    ordered : (d,) columns whose effect rises or falls with the code; None: none. Missing values stay apart.
    missing_code : (d,) code of missing values, -1 where unknown.
    """
    at = offsets(sums.n_codes)
    x, weight, iv = np.zeros(at[-1]), np.zeros(at[-1]), np.zeros(sums.n_codes.size)
    sigma_w = sums.sigma / WEIGHT_FACTOR
    for j, m in enumerate(sums.n_codes.tolist()):
        cells = slice(at[j], at[j + 1])
        G, H = sums.residual[cells], sums.weight[cells]
        G = G + (total_residual - G.sum()) / m
        H = np.maximum(H + (total_weight - H.sum()) / m, max(2.0, 0.25 * sigma_w))
        raw, v = G / H, (sums.sigma**2 + H) / H**2
        spread = max(0.0, float((H * (raw * raw - v)).sum() / H.sum()))
        shrunk = np.clip(raw * spread / (spread + v), -_MOST_X, _MOST_X) if spread > 0 else np.zeros(m)
        if ordered is not None and ordered[j]:
            present = np.arange(m) != (-1 if missing_code is None else missing_code[j])
            shrunk[present] = monotone(shrunk[present], H[present])
        if np.ptp(shrunk) >= _LEAST_RANGE:
            x[cells] = shrunk - (H * shrunk).sum() / H.sum()
        weight[cells] = H
        iv[j] = float((H * x[cells] ** 2).sum() / H.sum())
    return Tables(sums.n_codes, x, weight, iv)


def monotone(values: Vector, weight: Vector) -> Vector:
    """Return the rising or falling values (n,) nearest to these by weighted least squares, whichever are nearer."""
    both = [sign * _rising(sign * values, weight) for sign in (1.0, -1.0)]
    return min(both, key=lambda fitted: float((weight * (fitted - values) ** 2).sum()))


def _rising(values: Vector, weight: Vector) -> Vector:
    means: list[float] = []
    weights: list[float] = []
    sizes: list[int] = []
    for value, w in zip(values.tolist(), weight.tolist(), strict=True):
        mean, total, size = value, w, 1
        while means and means[-1] >= mean:
            before, least = means.pop(), weights.pop()
            mean = (before * least + mean * total) / (least + total)
            total, size = least + total, size + sizes.pop()
        means.append(mean)
        weights.append(total)
        sizes.append(size)
    return np.repeat(means, sizes)


def without(made: Tables, left_out: Mask) -> Tables:
    """Return tables in which the columns of a mask (d,) have no effect."""
    return replace(made, x=np.where(np.repeat(left_out, made.n_codes), 0.0, made.x))


def strongest(made: Mapping[str, Tables], most: int | None) -> dict[str, Tables]:
    """Return tables in which so many columns of all holders have an effect, those that add most; None: all."""
    ivs = np.concatenate([np.where(one.used, one.iv, 0.0) for one in made.values()] or [np.zeros(0)])
    if most is None or np.count_nonzero(ivs) <= most:
        return dict(made)
    left_out = np.ones(ivs.size, bool)
    left_out[np.argsort(-ivs, kind="stable")[:most]] = False
    at = np.cumsum([one.n_codes.size for one in made.values()])[:-1]
    return {
        holder: without(one, part) for (holder, one), part in zip(made.items(), np.split(left_out, at), strict=True)
    }


def quantised(made: Tables) -> Tables:
    """Round the tables to what is looked up, so that every sum is of exactly these."""
    _, norm = made.for_moments()
    unit = math.ldexp(norm, -TABLE_BITS)
    return replace(made, x=np.rint(made.x / unit) * unit, norm=norm)


@dataclass(frozen=True, eq=False)
class HolderSums:
    """Noised gradient (d,) and block of X'WX (d, d) for the tables of one holder, and the deviations of their noise.

    sigma_gradient : (d,), or one for all.
    """

    gradient: Vector
    moments: Vector
    sigma_gradient: Vector | float
    sigma_moments: float


def carried(opened: HolderSums, cells: CellSums, old: Tables, new: Tables) -> HolderSums:
    """Return the sums for other tables of the same columns, from what was opened for `old` and the sums by cell.

    A new table is a multiple of the old one, whose gradient was opened apart, and a rest that the old one does not
    explain by weight; of the rest the sums by cell give the gradient.
    """
    at, d = offsets(old.n_codes)[:-1], old.n_codes.size

    def by_column(values: Vector) -> Vector:
        return np.add.reduceat(values, at)

    part = by_column(old.weight * old.x * new.x) / np.maximum(by_column(old.weight * old.x**2), 1e-12)
    rest = new.x - np.repeat(part, old.n_codes) * old.x
    moments = opened.moments * np.outer(part, part)
    moments[np.arange(d), np.arange(d)] += by_column(old.weight * rest**2)
    variance = (part * opened.sigma_gradient) ** 2 + cells.sigma**2 * by_column(rest**2)
    gradient = part * opened.gradient + by_column(cells.residual * rest)
    return HolderSums(gradient, moments, np.sqrt(variance), opened.sigma_moments)


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Coefficients of one holder's tables given its sums.

    theta : (d,) their mean, zero where a table has no range or the wrong sign.
    errors : (d,) their standard errors, NaN where theta is zero.
    inflation : (d,) variance inflation: how much the other columns widen the variance; NaN where theta is zero.
    """

    theta: Vector
    errors: Vector
    inflation: Vector


def coefficients(made: Tables, sums: HolderSums, *, positive: bool = False, spread: float = 1.0) -> Coefficients:
    """Return the coefficients of a holder's tables given its sums.

    spread : of coefficients expected beforehand, in units of `TAU`.
    """
    chosen, tau2 = np.flatnonzero(made.used), (TAU * spread) ** 2
    theta, errors, inflation = np.zeros(made.n_codes.size), *np.full((2, made.n_codes.size), np.nan)
    while chosen.size:
        H = _positive(sums.moments[np.ix_(chosen, chosen)], 0.5 * sums.sigma_moments + 1.0)
        noise = np.broadcast_to(sums.sigma_gradient, theta.size)[chosen] ** 2 + 1e-3
        gain = tau2 * np.linalg.solve(tau2 * H @ H + H + np.diag(noise), H).T
        fitted = gain @ sums.gradient[chosen]
        if not positive or (fitted >= 0).all():
            variance, own = tau2 * (1 - np.diag(gain @ H)), np.diag(H)
            alone = tau2 * (own + noise) / (tau2 * own**2 + own + noise)
            theta[chosen], errors[chosen], inflation[chosen] = fitted, np.sqrt(variance), variance / alone
            break
        chosen = chosen[fitted > 0]
    return Coefficients(theta, errors, inflation)


def _positive(H: Vector, floor: float) -> Vector:
    """The symmetric matrix with its eigenvalues raised to a floor."""
    values, vectors = np.linalg.eigh(H)
    raised: Vector = (vectors * np.maximum(values, floor)) @ vectors.T
    return raised


def plain_sums(codes: Integers, n_codes: Integers, residual: Vector, weight: Vector) -> tuple[Vector, Vector]:
    """Sums by cell (cells,) of r and W in the clear: the oracle of the protocol, and the bank's own columns."""
    at = offsets(n_codes)[:-1]
    cells = (codes.astype(np.int64) + at).ravel()
    n = int(n_codes.sum())
    by_cell = [np.bincount(cells, np.repeat(v, n_codes.size), n).astype(np.float64) for v in (residual, weight)]
    return by_cell[0], by_cell[1]
