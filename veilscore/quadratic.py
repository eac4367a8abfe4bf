"""Quadratic minimisation under lower bounds, for the optimiser's steps.

Source: Portugal, Judice and Vicente, A comparison of block pivoting and interior-point algorithms for linear
least squares problems with nonnegative variables, Math. Comp. 63 (1994).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from veilscore.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PATIENCE = 10
_SLACK = 1e-12


def minimise_quadratic(
    hessian: NDArray[np.float64], gradient: NDArray[np.float64], lower: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Minimiser of g'p + p'Bp / 2 over p >= lower, by block principal pivoting.

    Parameters
    ----------
    hessian : (m, m) float64, symmetric positive definite.
    gradient : (m,) float64.
    lower : (m,) float64, -inf where a variable is free.

    Returns
    -------
    (m,) float64.

    Raises
    ------
    ParameterError : the matrix is not positive definite.
    """
    free = np.ones(len(gradient), dtype=bool)
    best, patience = len(gradient) + 1, _PATIENCE
    tolerance = _SLACK * max(1.0, float(np.abs(gradient).max(initial=0.0)))
    for _ in range(50 * (len(gradient) + 1)):
        p, multiplier = _solve(hessian, gradient, lower, free)
        wrong = (free & (p < lower - _SLACK)) | (~free & (multiplier < -tolerance))
        n_wrong = int(wrong.sum())
        if n_wrong == 0:
            return np.maximum(p, lower)
        if n_wrong < best:
            best, patience = n_wrong, _PATIENCE
        elif patience > 0:
            patience -= 1
        else:
            # Exchanging the last one only cannot cycle.
            only = np.flatnonzero(wrong)[-1]
            wrong[:] = False
            wrong[only] = True
        free ^= wrong
    raise ParameterError("The sign-constrained step did not end; use fewer or less collinear columns.")


def _solve(
    hessian: NDArray[np.float64],
    gradient: NDArray[np.float64],
    lower: NDArray[np.float64],
    free: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minimiser with the variables outside `free` at their bounds, and the gradient there."""
    p = np.where(free, 0.0, lower)
    held = ~free
    right = -gradient[free] - hessian[np.ix_(free, held)] @ p[held]
    try:
        p[free] = np.linalg.solve(hessian[np.ix_(free, free)], right)
    except np.linalg.LinAlgError as error:
        raise ParameterError("The curvature is singular; use a stronger penalty (smaller C).") from error
    return p, hessian @ p + gradient
