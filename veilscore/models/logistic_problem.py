"""Define what the bank knows of a logistic regression before the first gradient is opened.

Source: the same penalised likelihood as scikit-learn's LogisticRegression: sum_i w_i loss_i + ||beta||^2 / (2C).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import CodeArray, Integers, Mask, Vector, Words
from veilscore.crypto import shares
from veilscore.errors import ConfigError, ParameterError
from veilscore.lattice.params import T
from veilscore.models.counts import offsets
from veilscore.models.loss import TURN

GRADIENT_FRACTION_BITS = 14  # a gradient component is opened as a multiple of 2^-14
MIN_RESIDUAL_BITS, MAX_RESIDUAL_BITS = 26, 35
MIN_WOE_BITS, GOOD_WOE_BITS, MAX_WOE_BITS = 8, 10, 14
LEAD_EXTRA_BITS = 3  # the lead's tables carry the series' coefficients, so their error is not shrunk by them
MAX_WOE = 4.0  # an odds ratio of 55; beyond it a bin says more about its size than about its firms


@dataclass(frozen=True, eq=False)
class LogisticProblem:
    """What the bank knows before the first opening.

    low, high : (d,) float64, least and greatest coded value of each column.
    curvature : (d + 1,) or (d + 1, d + 1) float64, guess of the Hessian of the loss at the start, intercept last:
        sum_i w_i pbar (1 - pbar) x_ij x_ik. `veilscore.models.woe.logistic_problem` makes it from counts: exact for the
        bank's own columns, as if uncorrelated elsewhere.
    first_gradient : (d + 1,) gradient of the loss at beta = 0 and the base rate; the counts give it, so the first
        point needs no opening.
    base_log_odds : log-odds of the (weighted) bad rate.
    C : inverse penalty, as in scikit-learn.
    sign : "positive" keeps every coefficient >= 0.
    tolerance : training stops when the model expects no coefficient to move further than this, twice running; noise
        above it takes its place.
    max_openings : largest number of gradients asked for.
    bound : exact bound of |eta| at (beta, intercept); None takes `low` and `high`.
    fraction_bits : the gradient is rounded to multiples of 2^-fraction_bits.
    row_noise : standard deviation of one row's p in the protocol (`SigmoidSeries.row_noise`), so that the model
        learns no noise.
    """

    low: Vector
    high: Vector
    curvature: Vector
    first_gradient: Vector
    base_log_odds: float
    C: float = 1.0
    sign: Literal["any", "positive"] = "any"
    tolerance: float = 1e-4
    max_openings: int = 120
    bound: Callable[[Vector, float], float] | None = None
    fraction_bits: int = GRADIENT_FRACTION_BITS
    row_noise: float = 0.0

    def __post_init__(self) -> None:
        d = len(self.low)
        if len(self.high) != d or self.first_gradient.shape != (d + 1,):
            raise ConfigError(f"The problem has {d} columns, but its parts differ in length.")
        if self.curvature.shape not in {(d + 1,), (d + 1, d + 1)}:
            raise ConfigError(f"Curvature must have shape ({d + 1},) or ({d + 1}, {d + 1}).")
        if not self.C > 0 or not self.tolerance > 0 or self.max_openings < 1:
            raise ConfigError("C and tolerance must be above 0 and max_openings at least 1.")
        if self.sign not in {"any", "positive"}:
            raise ConfigError(f"sign is 'any' or 'positive', not {self.sign!r}.")

    @property
    def n_columns(self) -> int:
        """Return the number of coefficients, without the intercept."""
        return len(self.low)

    @property
    def penalty(self) -> Vector:
        """Return the diagonal of the penalty's Hessian (d + 1,), 0 for the intercept."""
        return np.append(np.full(self.n_columns, 1.0 / self.C), 0.0)

    @property
    def noise(self) -> Vector:
        """Return the deviation of each opened gradient component (d + 1,): rounding, and tables over all rows."""
        diagonal = self.curvature if self.curvature.ndim == 1 else np.diag(self.curvature)
        rate = 1.0 / (1.0 + np.exp(-self.base_log_odds))
        # curvature is sum w p (1 - p) x^2, so this is sum w x^2
        squares = np.maximum(diagonal, 0.0) / (rate * (1.0 - rate))
        rounding = 2.0 ** (-2 * self.fraction_bits) / 12.0
        return np.asarray(np.sqrt(rounding + self.row_noise**2 * squares))

    def eta_bound(self, theta: Vector) -> float:
        """Return the exact bound of |eta| at theta (d + 1,)."""
        beta, intercept = theta[:-1], float(theta[-1])
        if self.bound is not None:
            return float(self.bound(beta, intercept))
        return eta_bound(self.low, self.high, beta, intercept)


def eta_bound(low: Vector, high: Vector, beta: Vector, intercept: float) -> float:
    """Return the largest |intercept + sum_j beta_j x_j| over low_j <= x_j <= high_j; all arrays (d,)."""
    top = intercept + float(np.maximum(beta * low, beta * high).sum())
    bottom = intercept + float(np.minimum(beta * low, beta * high).sum())
    return max(abs(top), abs(bottom))


@dataclass(frozen=True)
class PartyColumns:
    """The bank's view of one party's columns in training.

    n_codes : (d,) codes of each column.
    woe_units : (cells,) int64, WOE in units of 2**-woe_bits; zero in columns left out.
    selected : (d,) which columns have a coefficient.
    """

    n_codes: Integers
    woe_units: Integers
    selected: Mask

    @property
    def n_cells(self) -> int:
        """Return the number of cells."""
        return int(self.n_codes.sum())

    def theta_units(self, beta: Vector, unit: float, woe_bits: int) -> Integers:
        """Return beta * WOE per cell in units of a shared eta, modulo 2**24."""
        full = np.zeros(self.n_codes.size)
        full[self.selected] = beta
        theta = np.repeat(full, self.n_codes) * np.ldexp(self.woe_units.astype(np.float64), -woe_bits)
        return np.rint(theta / unit).astype(np.int64) % TURN

    def column_sums(self, cells: Words) -> Words:
        """Return the sum modulo T of a share over the cells of each column: (d,)."""
        return column_sums(cells, self.n_codes)


@dataclass(frozen=True)
class BankTraining:
    """All that the bank brings to training.

    own_codes : (n, d_bank) codes of the training rows; d_bank may be 0.
    columns : per party, the bank first, then the holders in the order of the session.
    target, weight : (n,) labels in {0, 1} and positive weights of mean 1.
    fraction_bits : gradient components are opened as multiples of 2**-fraction_bits.
    """

    own_codes: CodeArray
    columns: dict[str, PartyColumns]
    target: NDArray[np.int8]
    weight: Vector
    fraction_bits: int

    @property
    def scales(self) -> Scales:
        """Return the fraction bits in use."""
        return scales(self.target.size)


@dataclass(frozen=True)
class Scales:
    """Fraction bits of the bank's and the lead's sine tables and of WOE."""

    bank_table: int
    lead_table: int
    woe: int

    @property
    def residual(self) -> int:
        """Return the fraction bits of a residual, the product of two tables."""
        return self.bank_table + self.lead_table


def scales(n_samples: int) -> Scales:
    """Return the finest scales at which no gradient can wrap the share ring; both sides derive them from the rows.

    The error of the tables adds up over the rows, and columns that say nearly the same turn it into an error of
    their coefficients; so after ten bits for WOE the tables get all that is left.
    Raises ParameterError where there are too many rows for the ring.
    """
    room = math.floor(math.log2(T / 2) - math.log2(max(n_samples, 2) * MAX_WOE))
    if room < MIN_RESIDUAL_BITS + MIN_WOE_BITS:
        raise ParameterError(f"{n_samples} training rows do not fit the share ring: train on a sample of them")
    residual = max(MIN_RESIDUAL_BITS, min(MAX_RESIDUAL_BITS, room - GOOD_WOE_BITS))
    bank = (residual - LEAD_EXTRA_BITS + 1) // 2
    return Scales(bank, residual - bank, min(MAX_WOE_BITS, room - residual))


def column_sums(cells: Words, n_codes: Integers) -> Words:
    """Return the sum modulo T of (cells,) over the cells of each column: (d,)."""
    at = offsets(n_codes)
    return np.array([shares.sum_shares(cells[at[j] : at[j + 1]]) for j in range(n_codes.size)], dtype=np.uint64)
