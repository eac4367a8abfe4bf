"""Standard errors of the coefficients from gradients at 2 (d + 1) neighbouring points.

Source: Wahba, J. R. Statist. Soc. B 45 (1983): the inverse of the penalised Hessian as covariance. An option with
its own line in the leakage table: 2 (d + 1) further openings.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from veilscore.arrays import Mask, Vector
from veilscore.errors import MessageError
from veilscore.models.logistic_problem import LogisticProblem
from veilscore.models.loss import for_bound
from veilscore.models.optimise import GradientStep, OptimiseResult

_ETA_STEP = 0.25  # largest move of a log-odds: truncation and rounding both stay below a percent


@dataclass(frozen=True, eq=False)
class StandardErrors:
    """Precision of a fit; the intercept is last everywhere.

    Attributes
    ----------
    covariance : (d + 1, d + 1), NaN in rows and columns of a coefficient held at zero by its sign.
    error, z, p_value : (d + 1,) standard error, theta / error, two-sided normal p-value.
    """

    covariance: Vector
    error: Vector
    z: Vector
    p_value: Vector


def standard_errors(
    problem: LogisticProblem, result: OptimiseResult
) -> Generator[GradientStep, Vector, StandardErrors]:
    """Central differences of the gradient at the fit, as a generator like `minimise`.

    Raises
    ------
    MessageError : a gradient of the wrong shape or not finite.
    """
    theta = np.append(result.beta, result.intercept)
    reach = np.append(np.maximum(np.abs(problem.low), np.abs(problem.high)), 1.0)
    width = _ETA_STEP / np.maximum(reach, 1e-3)
    hessian = np.empty((len(theta), len(theta)))
    number = result.n_evaluations
    for j in range(len(theta)):
        ends = []
        for side in (1.0, -1.0):
            point = theta.copy()
            point[j] += side * width[j]
            bound = problem.eta_bound(point)
            answer = yield GradientStep(number, point[:-1].copy(), float(point[-1]), for_bound(bound), bound)
            number += 1
            ends.append(np.asarray(answer, dtype=np.float64))
            if ends[-1].shape != theta.shape or not np.isfinite(ends[-1]).all():
                raise MessageError(f"The gradient must be {len(theta)} finite numbers.")
        hessian[j] = (ends[0] - ends[1]) / (2.0 * width[j])
    free = np.append((result.beta != 0) | (problem.sign == "any"), True)
    return _inference(theta, 0.5 * (hessian + hessian.T), problem.penalty, free)


def _inference(theta: Vector, hessian: Vector, penalty: Vector, free: Mask) -> StandardErrors:
    """Invert the penalised Hessian over the free coefficients."""
    values, vectors = np.linalg.eigh(hessian[np.ix_(free, free)])
    # Rounding may turn the curvature of collinear columns negative; the true one is not.
    data = (vectors * np.maximum(values, 1e-9 * values[-1])) @ vectors.T
    covariance = np.full(hessian.shape, np.nan)
    covariance[np.ix_(free, free)] = np.linalg.inv(data + np.diag(penalty[free]))
    error = np.sqrt(np.diag(covariance))
    z = theta / error
    p_value = np.array([math.erfc(abs(v) / math.sqrt(2.0)) for v in z])
    return StandardErrors(covariance, error, z, p_value)
