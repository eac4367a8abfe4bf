"""The sine series of the sigmoid, and its tables for shares."""

from __future__ import annotations

import numpy as np
import pytest

from veilscore.errors import ParameterError
from veilscore.models.loss import BOUNDS, MAX_FIT_ERROR, TURN, for_bound, log_loss, sigmoid, sigmoid_series


@pytest.mark.parametrize("R", BOUNDS)
def test_series_is_accurate_up_to_its_bound(R):
    series = sigmoid_series(R)
    eta = np.random.default_rng(R).uniform(-R, R, 20_000)
    assert np.abs(series.probability(eta) - 1 / (1 + np.exp(-eta))).max() < MAX_FIT_ERROR + series.unit
    assert np.abs(series.coefficients).max() < 0.7
    assert series.max_error < MAX_FIT_ERROR
    assert series.L > series.R


def test_series_is_wrong_beyond_the_bound_so_the_bound_matters():
    assert abs(sigmoid_series(8).probability(np.array([11.0]))[0] - sigmoid(np.array([11.0]))[0]) > 0.1


def test_for_bound_takes_the_least_series():
    assert for_bound(0.0).R == 4
    assert for_bound(4.0).R == 4
    assert for_bound(4.01).R == 8
    assert for_bound(40).R == 48
    assert for_bound(40) is sigmoid_series(48)


@pytest.mark.parametrize("bound", [65.0, np.inf, np.nan])
def test_for_bound_refuses_what_no_series_covers(bound):
    with pytest.raises(ParameterError, match="smaller C"):
        for_bound(bound)
    with pytest.raises(ParameterError, match="choices"):
        sigmoid_series(7)


def test_tables_are_sines_and_cosines_of_the_share():
    units = np.random.default_rng(0).integers(0, TURN, 3000, dtype=np.uint64)
    series = sigmoid_series(64)
    sines, cosines = series.tables(units)
    angle = 2 * np.pi / TURN * np.outer(np.arange(1, series.K + 1), units.astype(np.float64))
    assert np.abs(sines - np.sin(angle)).max() < 1e-12
    assert np.abs(cosines - np.cos(angle)).max() < 1e-12
    assert np.array_equal(series.tables(units + np.uint64(5 * TURN))[0], sines)


def shared_probability(series, eta, rng, bits=(12, 14)):
    units = series.to_units(eta)
    share = rng.integers(0, TURN, eta.size, dtype=np.uint64)
    s1, c1 = series.encoded_tables(share, bits[0], weighted=False)
    s2, c2 = series.encoded_tables((units - share) % np.uint64(TURN), bits[1], weighted=True)
    return 0.5 + (s1 * c2 + c1 * s2).sum(axis=0) / 2.0 ** sum(bits)


def test_shares_give_the_probability_wherever_they_wrap():
    series, rng = sigmoid_series(16), np.random.default_rng(3)
    eta = np.concatenate([rng.uniform(-16, 16, 20_000), [-16.0, 0.0, 16.0]])
    error = shared_probability(series, eta, rng) - sigmoid(eta)
    assert np.abs(error).max() < 8 * series.row_noise(12, 14) + MAX_FIT_ERROR
    assert error.std() == pytest.approx(np.hypot(series.row_noise(12, 14), 1.3e-5), rel=0.2)


def test_rounding_of_tables_is_unbiased():
    n, series, rng = 400_000, sigmoid_series(8), np.random.default_rng(5)
    eta = rng.normal(-2, 1, n).clip(-8, 8)
    bias = (shared_probability(series, eta, rng, (12, 12)) - series.probability(eta)).sum()
    standard_error = np.sqrt((sigmoid(eta) * (1 - sigmoid(eta))).sum())
    assert abs(bias) < 0.01 * 3 * standard_error


def test_encoded_tables_refuse_odd_precision():
    with pytest.raises(ParameterError, match="fraction bits"):
        sigmoid_series(8).encoded_tables(np.zeros(3, np.uint64), 0, weighted=True)


def test_log_loss_matches_its_definition():
    eta, y = np.array([-800.0, 0.0, 3.0]), np.array([0.0, 1.0, 0.0])
    weight = np.array([1.0, 2.0, 0.5])
    assert log_loss(eta, y) == pytest.approx(np.log(2) + 3 + np.log1p(np.exp(-3)))
    assert log_loss(eta, y, weight) == pytest.approx(2 * np.log(2) + 0.5 * (3 + np.log1p(np.exp(-3))))
