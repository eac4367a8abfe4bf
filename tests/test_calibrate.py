"""Prior, recalibration, points and bands."""

from __future__ import annotations

import numpy as np
import pytest

from veilscore.errors import ConfigError, LabelError, ParameterError
from veilscore.modelling.calibrate import band_table, cut_off, points_table, prior_correction, recalibrate
from veilscore.modelling.loss import sigmoid
from veilscore.modelling.model import Scaling
from veilscore.modelling.woe import join_tables, woe_table

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
    assert sigmoid(fit.apply(2.0 * eta + 1.0)).mean() == pytest.approx(y.mean(), abs=1e-9)
    beta, intercept = fit.theta(np.array([2.0]), 1.0)
    assert beta[0] == pytest.approx(1.0, abs=0.04)
    assert intercept == pytest.approx(0.0, abs=0.06)


def test_recalibration_of_the_intercept_alone():
    eta, y = sample()
    fit = recalibrate(eta + 1.0, y, np.full(len(y), 2.0), fixed_slope=True)
    assert fit.slope == 1.0
    assert fit.intercept == pytest.approx(-1.0, abs=0.06)


def test_recalibration_refuses_what_it_cannot_fit():
    with pytest.raises(LabelError):
        recalibrate(np.zeros(4), np.zeros(4))
    with pytest.raises(ParameterError, match="separated"):
        recalibrate(np.array([-1.0, -0.5, 0.5, 1.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    eta, y = sample(2000)
    with pytest.raises(ParameterError, match="do not file"):
        recalibrate(-eta, y)


def two_columns():
    rng = np.random.default_rng(0)
    tables = []
    for size in (3, 5):
        bad, good = rng.integers(20, 80, size).astype(float), rng.integers(100, 900, size).astype(float)
        tables.append(woe_table(np.array([size]), bad, good, total_bad=bad.sum(), total_good=good.sum()))
    return join_tables(tables)


def test_points_total_is_the_sum_of_cells_and_follows_the_scale():
    table, beta, intercept = two_columns(), np.array([0.8, 1.1]), -2.5
    points = points_table(SCALING, table, beta, intercept)
    codes = np.array([[i, j] for i in range(3) for j in range(5)])
    total = points.base_points + points.points[codes + table.offsets].sum(axis=1)
    exact = SCALING.offset - SCALING.factor * (table.transform(codes) @ beta + intercept)
    assert points.points.dtype == np.int64
    assert np.abs(total - exact).max() <= points.rounding + 1e-9 <= 1.5
    riskier = np.argsort(table.transform(codes) @ beta)
    assert (np.diff(total[riskier]) <= 3).all()


def test_points_refuse_a_scale_that_does_not_fit():
    with pytest.raises(ParameterError, match="pdo"):
        points_table(Scaling(pdo=1e7), two_columns(), np.ones(2), 0.0)


def test_cut_off_is_the_score_at_a_probability():
    assert cut_off(SCALING, 1 / 51) == pytest.approx(600)
    assert cut_off(SCALING, 1 / 101) == pytest.approx(620)
    with pytest.raises(ConfigError):
        cut_off(SCALING, 1.0)


def test_bands_count_every_row_once():
    eta, y = sample()
    score = 600 - 28.85 * (eta + 3.9)
    rows = band_table(score, y, {"B": 540.0, "A": 580.0})
    assert [r.name for r in rows] == ["A", "B", "below all bands"]
    assert sum(r.n for r in rows) == len(y)
    assert sum(r.bad for r in rows) == y.sum()
    assert rows[0].pd < rows[1].pd < rows[2].pd
    rarer = band_table(score, y, {"B": 540.0, "A": 580.0}, population_bad_rate=0.5 * y.mean())
    assert all(a.pd < b.pd for a, b in zip(rarer, rows, strict=True))
    with pytest.raises(ConfigError):
        band_table(score, y, {"A": 1.0, "B": 1.0})
