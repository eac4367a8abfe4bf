"""What the bank knows of a logistic regression before the first gradient is opened.

Source: the same penalised likelihood as scikit-learn's LogisticRegression: sum_i w_i loss_i + ||beta||^2 / (2C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from veilscore.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

GRADIENT_FRACTION_BITS = 14  # a gradient component is opened as a multiple of 2^-14


def gradient_bits(total_weight: float, fraction_bits: int = GRADIENT_FRACTION_BITS) -> int:
    """Bits of one opened gradient component: ceil(log2 of the total weight) + the fraction bits."""
    return int(np.ceil(np.log2(max(total_weight, 2.0)))) + fraction_bits


@dataclass(frozen=True, eq=False)
class LogisticProblem:
    """What the bank knows before the first opening.

    Attributes
    ----------
    low, high : (d,) float64, least and greatest coded value of each column.
    curvature : (d + 1,) or (d + 1, d + 1) float64, guess of the Hessian of the loss at the start, intercept last:
        sum_i w_i pbar (1 - pbar) x_ij x_ik. `veilscore.models.woe.logistic_problem` makes it from counts,
        exact for the bank's own columns, as if uncorrelated elsewhere.
    first_gradient : (d + 1,) gradient of the loss at beta = 0 and the base rate; the counts give it, so the first
        point needs no opening.
    base_log_odds : log-odds of the (weighted) bad rate.
    C : inverse penalty, as in scikit-learn.
    sign : "positive" keeps every coefficient >= 0.
    tolerance : stop when the model expects no coefficient to move further than this, twice
        running; noise above it takes its place.
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
        """Number of coefficients, without the intercept."""
        return len(self.low)

    @property
    def penalty(self) -> Vector:
        """(d + 1,) diagonal of the penalty's Hessian, 0 for the intercept."""
        return np.append(np.full(self.n_columns, 1.0 / self.C), 0.0)

    @property
    def noise(self) -> Vector:
        """(d + 1,) standard deviation of each opened gradient component: rounding, and tables over all rows."""
        diagonal = self.curvature if self.curvature.ndim == 1 else np.diag(self.curvature)
        rate = 1.0 / (1.0 + np.exp(-self.base_log_odds))
        squares = np.maximum(diagonal, 0.0) / (rate * (1.0 - rate))
        rounding = 2.0 ** (-2 * self.fraction_bits) / 12.0
        return np.asarray(np.sqrt(rounding + self.row_noise**2 * squares))

    def eta_bound(self, theta: Vector) -> float:
        """Exact bound of |eta| at theta (d + 1,)."""
        beta, intercept = theta[:-1], float(theta[-1])
        if self.bound is not None:
            return float(self.bound(beta, intercept))
        return eta_bound(self.low, self.high, beta, intercept)


def eta_bound(low: Vector, high: Vector, beta: Vector, intercept: float) -> float:
    """Largest |intercept + sum_j beta_j x_j| over low_j <= x_j <= high_j; all arrays (d,)."""
    top = intercept + float(np.maximum(beta * low, beta * high).sum())
    bottom = intercept + float(np.minimum(beta * low, beta * high).sum())
    return max(abs(top), abs(bottom))
