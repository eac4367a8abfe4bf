"""Make probabilities hold: correct log-odds for the population's bad rate, and recalibrate them on a hold-out.

Source: King and Zeng, Political Analysis 9 (2001), for the prior; Cox, Biometrika 45 (1958), for slope and
intercept.
"""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Vector
from veilscore.errors import ConfigError, LabelError, ParameterError
from veilscore.models.loss import sigmoid
from veilscore.models.model import Calibration


def prior_correction(intercept: float, sample_bad_rate: float, population_bad_rate: float | None) -> float:
    """Return the intercept for a population whose bad rate, if given, differs from the training sample's.

    Raises ConfigError where a rate is not between 0 and 1.
    """
    if population_bad_rate is None:
        return intercept
    for name, rate in (("sample", sample_bad_rate), ("population", population_bad_rate)):
        if not 0 < rate < 1:
            raise ConfigError(f"The bad rate of the {name} is {rate:g}; it must lie between 0 and 1.")
    return intercept + _logit(population_bad_rate) - _logit(sample_bad_rate)


def _logit(rate: float) -> float:
    return float(np.log(rate) - np.log1p(-rate))


def recalibrate(eta: Vector, y: Vector, weight: Vector | None = None) -> Calibration:
    """Fit slope and intercept on hold-out log-odds by Newton's method.

    eta, y, weight : (n,) log-odds, labels in {0, 1} and positive weights.
    Raises LabelError where the hold-out has one class only, ParameterError where the classes are separated or a higher
    log-odds does not mean a higher risk.
    """
    eta, y = np.asarray(eta, np.float64), np.asarray(y, np.float64)
    w = np.ones_like(eta) if weight is None else np.asarray(weight, np.float64)
    if not 0 < float(w @ y) < float(w.sum()):
        raise LabelError("The hold-out is all of one class; recalibration needs both.")
    x = np.stack([np.ones_like(eta), eta])
    fit = np.array([0.0, 1.0])
    for _ in range(100):
        p = sigmoid(fit @ x)
        gradient = x @ (w * (p - y))
        hessian = (x * (w * p * (1.0 - p))) @ x.T
        if np.linalg.cond(hessian) > 1e12:  # separated classes: the slope runs away and the curvature vanishes
            break
        move = np.linalg.solve(hessian, gradient)
        # steps of at most 1: a full Newton step from a poor start overshoots
        fit -= move / max(1.0, float(np.abs(move).max()))
        if np.abs(move).max() < 1e-10:
            if fit[1] <= 0:
                raise ParameterError(
                    "On the hold-out a higher score does not mean a lower risk; do not file this model."
                )
            return Calibration(slope=float(fit[1]), intercept=float(fit[0]))
    raise ParameterError("Recalibration found no maximum: the hold-out is too small or perfectly separated.")
