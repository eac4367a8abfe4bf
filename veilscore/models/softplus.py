"""Give the even part of the logistic loss as a cosine series, so that shares of log-odds become shares of a loss.

log(1 + exp(x)) = x / 2 + c(x) with c(x) = log(2 cosh(x / 2)) even; c(x) ~ d_0 + sum_k d_k cos(pi k x / L) on |x| <= R,
with the R, L and K of the sigmoid series (`loss.py`), so that the same tables of angles serve.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from veilscore.arrays import Vector
from veilscore.models.loss import fit_series, grid, sigmoid_series

_RIDGE = 1e-10


@dataclass(frozen=True, eq=False)
class SoftplusSeries:
    """Holds the coefficients d_0 and (K,) d_1..d_K; `max_error` is the largest error on [-R, R]."""

    constant: float
    cosines: Vector
    max_error: float


@cache
def softplus_series(radius: float) -> SoftplusSeries:
    """Return the series for |x| <= radius, one of `loss.BOUNDS`; ParameterError for another."""
    series = sigmoid_series(int(radius))
    x = grid(series.R)
    basis = np.cos(np.outer(x, np.arange(series.K + 1)) * (np.pi / series.L))
    values = np.logaddexp(0.0, x) - x / 2
    d = fit_series(basis, values, _RIDGE)
    return SoftplusSeries(float(d[0]), d[1:], float(np.abs(basis @ d - values).max()))
