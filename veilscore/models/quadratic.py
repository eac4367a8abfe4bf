"""Minimise a quadratic under lower bounds, for the optimiser's steps.

Source: Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 16.3 (primal active set).
"""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Mask, Vector
from veilscore.errors import ParameterError

_SLACK = 1e-10  # of the largest gradient component: a multiplier so small is zero


def minimise_quadratic(hessian: Vector, gradient: Vector, lower: Vector) -> Vector:
    """Return the minimiser (m,) of g'p + p'Bp / 2 over p >= lower; a variable at its bound equals it exactly.

    hessian : (m, m) float64, symmetric positive definite.
    lower : (m,) float64, at most 0, -inf where a variable is free.
    Raises ParameterError where the matrix is not positive definite.
    """
    p = np.zeros(len(gradient))
    free = p > lower
    tolerance = _SLACK * max(1.0, float(np.abs(gradient).max(initial=0.0)))
    for _ in range(20 * (len(gradient) + 1)):  # a variable changes sides a few times; the limit stops a cycle
        target = _solve(hessian, gradient, lower, free)
        blocked = free & (target < lower)
        if blocked.any():
            ratio = (p[blocked] - lower[blocked]) / (p[blocked] - target[blocked])
            first = np.flatnonzero(blocked)[np.argmin(ratio)]
            p += float(ratio.min()) * (target - p)
            p[first], free[first] = lower[first], False
            continue
        p = target
        multiplier = np.where(free, 0.0, hessian @ p + gradient)
        release = int(np.argmin(multiplier))
        if multiplier[release] >= -tolerance:
            return p
        free[release] = True
    raise ParameterError("The sign-constrained step did not end; use fewer or less collinear columns.")


def _solve(hessian: Vector, gradient: Vector, lower: Vector, free: Mask) -> Vector:
    """Return the minimiser with the variables outside `free` at their bounds."""
    p = np.where(free, 0.0, lower)
    right = -gradient[free] - hessian[np.ix_(free, ~free)] @ p[~free]
    try:
        p[free] = np.linalg.solve(hessian[np.ix_(free, free)], right)
    except np.linalg.LinAlgError as error:
        raise ParameterError("The curvature is singular; use a stronger penalty (smaller C).") from error
    return p
