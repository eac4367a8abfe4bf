"""Prior, recalibration, points and bands."""

from __future__ import annotations

import numpy as np
import pytest

from veilscore.errors import ConfigError, LabelError, ParameterError
from veilscore.models.calibrate import prior_correction, recalibrate
from veilscore.models.loss import sigmoid
from veilscore.models.model import Scaling

SCALING = Scaling(base_score=600, base_odds=50, pdo=20, decimals=1)


def sample(n=20_000, seed=0):
    rng = np.random.default_rng(seed)
    eta = rng.normal(-2, 1.2, n)
    return eta, (rng.random(n) < sigmoid(eta)).astype(float)


def test_prior_correction_moves_the_bad_rate():
    assert prior_correction(-1.0, 0.2, 0.2) == pytest.approx(-1.0)
    assert sigmoid(np.array(prior_correction(0.0, 0.5, 0.03))) == pytest.approx(0.03)
    with pytest.raises(ConfigError, match="population"):
        prior_correction(0.0, 0.5, 0.0)


def test_recalibration_undoes_a_wrong_slope_and_shift():
    eta, y = sample()
    fit = recalibrate(2.0 * eta + 1.0, y)
    assert fit.slope == pytest.approx(0.5, abs=0.02)
    assert fit.intercept == pytest.approx(-0.5, abs=0.05)
    risk = sigmoid(fit.intercept + fit.slope * (2.0 * eta + 1.0))
    assert risk.mean() == pytest.approx(y.mean(), abs=1e-9)
    assert recalibrate(2.0 * eta + 1.0, y, np.full(len(y), 2.0)).slope == pytest.approx(fit.slope, abs=1e-9)


def test_recalibration_refuses_what_it_cannot_fit():
    with pytest.raises(LabelError):
        recalibrate(np.zeros(4), np.zeros(4))
    with pytest.raises(ParameterError, match="separated"):
        recalibrate(np.array([-1.0, -0.5, 0.5, 1.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    eta, y = sample(2000)
    with pytest.raises(ParameterError, match="do not file"):
        recalibrate(-eta, y)
