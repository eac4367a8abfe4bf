"""Estimate standard errors and variance inflation of coefficients from gradients at 2 (d + 1) neighbouring points.

Source: Wahba, J. R. Statist. Soc. B 45 (1983): the inverse of the penalised Hessian is the covariance. It is an option
with its own line in the leakage table, as it opens 2 (d + 1) further gradients.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from veilscore.arrays import Mask, Vector
from veilscore.models.logistic_problem import LogisticProblem
from veilscore.models.loss import for_bound
from veilscore.models.optimise import GradientStep, OptimiseResult, checked_gradient

_ETA_STEP = 0.25  # largest move of a log-odds: truncation and rounding both stay below a percent


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """How sure coefficients are, NaN for one that its sign holds at zero.

    errors : (d + 1,) standard errors, the intercept last.
    inflation : (d,) variance inflation: the factor by which the other columns widen a coefficient's variance.
    """

    errors: Vector
    inflation: Vector


def standard_errors(problem: LogisticProblem, result: OptimiseResult) -> Generator[GradientStep, Vector, Uncertainty]:
    """Take central differences of the gradient at the fit and return what they say, as a generator.

    Raises MessageError for a gradient of the wrong shape or one that is not finite.
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
            ends.append(checked_gradient(answer, len(theta)))
        hessian[j] = (ends[0] - ends[1]) / (2.0 * width[j])
    free = np.append((result.beta != 0) | (problem.sign == "any"), True)
    return uncertainty(0.5 * (hessian + hessian.T), problem.penalty, free)


def uncertainty(hessian: Vector, penalty: Vector, free: Mask) -> Uncertainty:
    """Return what the Hessian (d + 1, d + 1) of the data and the penalty (d + 1,) say of the free coefficients."""
    values, vectors = np.linalg.eigh(hessian[np.ix_(free, free)])
    # Rounding may turn the curvature of collinear columns negative; the true one is not.
    data = (vectors * np.maximum(values, 1e-9 * values[-1])) @ vectors.T
    errors, inflation = np.full(len(free), np.nan), np.full(len(free) - 1, np.nan)
    covariance = np.linalg.inv(data + np.diag(penalty[free]))
    errors[free] = np.sqrt(np.diag(covariance))
    # the variance that each column would have alone beside the intercept, which is the last
    alone = np.diag(data)[:-1] - data[:-1, -1] ** 2 / data[-1, -1] + penalty[free][:-1]
    inflation[free[:-1]] = np.maximum(np.diag(covariance)[:-1] * alone, 1.0)
    return Uncertainty(errors, inflation)
