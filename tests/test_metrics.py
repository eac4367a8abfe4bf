"""Measures of ranking and calibration against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from veilscore.errors import DataError, LabelError
from veilscore.models import metrics
from veilscore.models.stability import population_stability, score_stability


def sample(n=3000, *, ties=True, seed=1):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.2).astype(np.int64)
    risk = rng.normal(size=n) + 1.2 * y
    if ties:
        risk = np.round(risk, 1)
    return y, risk, rng.uniform(0.1, 3, size=n)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_auc_gini_and_curve_equal_scikit_learn(ties, weighted):
    y, risk, weight = sample(ties=ties)
    w = weight if weighted else None
    expected = reference.roc_auc_score(y, risk, sample_weight=w)
    assert metrics.auc(y, risk, w) == pytest.approx(expected, abs=1e-12)
    assert metrics.auc(y, -risk, w, points=True) == pytest.approx(expected, abs=1e-12)

    table = metrics.score_table(y, risk, w)
    assert table.discrimination().gini == pytest.approx(2 * expected - 1, abs=1e-12)
    curve = table.curve()
    fpr, tpr, _ = reference.roc_curve(y, risk, sample_weight=w, drop_intermediate=False)
    assert len(curve.fpr) <= 400
    # Equal false positive rates may have several points; look each thinned point up as a pair.
    for x, height in zip(curve.fpr, curve.tpr, strict=True):
        assert np.min(np.abs(fpr - x) + np.abs(tpr - height)) < 1e-9
    assert reference.auc(curve.fpr, curve.tpr) == pytest.approx(expected, abs=5e-4)
    assert table.ks().value == pytest.approx(np.max(tpr - fpr), abs=1e-12)
    assert max(t - f for f, t in zip(curve.fpr, curve.tpr, strict=True)) == pytest.approx(table.ks().value)
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == pytest.approx((1, 1, 0, 0))


def test_ks_value_and_score_equal_scipy():
    y, risk, _ = sample(ties=False)
    expected = stats.ks_2samp(risk[y == 0], risk[y == 1])
    found = metrics.score_table(y, risk).ks()
    assert found.value == pytest.approx(expected.statistic, abs=1e-12)
    assert found.score == pytest.approx(expected.statistic_location, abs=1e-12)
    assert metrics.score_table(y, -risk, points=True).ks().score == pytest.approx(-found.score)


def test_standard_errors_match_a_bootstrap():
    y, risk, _ = sample(n=600)
    other = risk + np.random.default_rng(5).normal(size=y.size)
    rng = np.random.default_rng(2)
    single, paired = [], []
    for _ in range(400):
        rows = rng.integers(0, y.size, y.size)
        single.append(metrics.auc(y[rows], risk[rows]))
        paired.append(single[-1] - metrics.auc(y[rows], other[rows]))
    assert metrics.score_table(y, risk).auc_se() == pytest.approx(np.std(single), rel=0.15)
    gap, error = metrics.auc_difference(y, risk, other)
    assert gap == pytest.approx(metrics.auc(y, risk) - metrics.auc(y, other), abs=1e-12)
    assert error == pytest.approx(np.std(paired), rel=0.15)


def test_a_score_table_from_counts_equals_one_from_rows():
    y, risk, _ = sample()
    distinct, index = np.unique(risk, return_inverse=True)
    good, bad = (np.bincount(index[y == k], minlength=distinct.size).astype(float) for k in (0, 1))
    from_counts = metrics.ScoreTable(distinct, good, bad).discrimination()
    assert from_counts == metrics.score_table(y, risk).discrimination()


def test_gains_and_lift():
    y, risk, _ = sample(n=2000, ties=False)
    rows = metrics.score_table(y, risk).gains()
    by_risk = y[np.argsort(-risk)].reshape(10, 200)
    assert [row.n_bad for row in rows] == pytest.approx(by_risk.sum(axis=1).tolist())
    assert rows[0].lift == pytest.approx(by_risk[0].mean() / y.mean())
    assert [row.captured for row in rows] == pytest.approx((np.cumsum(by_risk.sum(axis=1)) / y.sum()).tolist())
    assert rows[-1].cumulative_lift == pytest.approx(1)


def test_gains_share_ties_out_evenly():
    rows = metrics.score_table([0, 1] * 50, np.zeros(100)).gains()
    assert [row.lift for row in rows] == pytest.approx([1.0] * 10)


@pytest.mark.parametrize("weighted", [True, False])
def test_brier_and_log_loss_equal_scikit_learn(weighted):
    y, risk, weight = sample()
    w = weight if weighted else None
    pd = 1 / (1 + np.exp(1.5 - risk))
    assert metrics.brier(y, pd, w) == pytest.approx(reference.brier_score_loss(y, pd, sample_weight=w))
    assert metrics.log_loss(y, pd, w) == pytest.approx(reference.log_loss(y, pd, sample_weight=w))
    certain = np.where(y == 1, 1.0, 0.0)
    assert metrics.log_loss(y, certain) == pytest.approx(0, abs=1e-12)


def test_calibration_accepts_a_true_model_and_rejects_a_false_one():
    rng = np.random.default_rng(3)
    pd = rng.beta(1, 6, size=20_000)
    y = (rng.random(pd.size) < pd).astype(int)
    good, wrong = metrics.calibration(y, pd), metrics.calibration(y, pd**1.3)
    assert good.p_value > 0.01
    assert wrong.p_value < 1e-6
    assert sum(row.n for row in good.rows) == y.size
    assert good.predicted == pytest.approx(pd.mean())
    assert good.observed == pytest.approx(y.mean())
    inside = [row.observed_low <= row.predicted <= row.observed_high for row in good.rows]
    assert sum(inside) >= 8
    assert len(metrics.calibration(y, np.round(pd, 1)).rows) < 10  # ties stay together


@pytest.mark.parametrize("degrees", [1, 2, 3, 9, 10])
@pytest.mark.parametrize("x", [0.0, 0.3, 8.0, 40.0])
def test_chi_squared_tail_equals_scipy(degrees, x):
    assert metrics.chi2_tail(x, degrees) == pytest.approx(stats.chi2.sf(x, degrees), rel=1e-9)


def test_population_stability():
    assert population_stability([10, 20, 30], [100, 200, 300]) == pytest.approx(0)
    e, a = np.array([0.2, 0.3, 0.5]), np.array([0.3, 0.3, 0.4])
    expected = np.sum((a - e) * np.log(a / e))
    assert population_stability(e * 1000, a * 500) == pytest.approx(expected)
    assert np.isfinite(population_stability([10, 0], [0, 10]))
    rng = np.random.default_rng(4)
    first = rng.normal(size=5000)
    assert score_stability(first, rng.normal(size=5000)).psi < 0.02
    moved = score_stability(first, rng.normal(0.8, 1, size=5000))
    assert moved.psi > 0.25
    assert sum(moved.actual) == pytest.approx(1)


def test_histogram_counts_every_row():
    y, risk, weight = sample()
    found = metrics.score_histogram(y, risk, weight)
    assert sum(found.bad) == pytest.approx(weight[y == 1].sum())
    assert sum(found.good) == pytest.approx(weight[y == 0].sum())
    assert len(found.edges) == len(found.good) + 1


def test_cutoff_table():
    y = np.array([0, 0, 0, 1, 0, 1, 1, 0])
    points = np.array([700, 690, 650, 650, 600, 590, 500, 499])
    rows = metrics.cutoff_table(y, points, [500, 600, 650])
    assert [(row.band, row.n) for row in rows] == [("A", 4), ("B", 1), ("C", 2), ("D", 1)]
    assert [row.bad_rate for row in rows] == pytest.approx([0.25, 0, 1, 0])
    assert [row.cumulative_approval for row in rows] == pytest.approx([0.5, 5 / 8, 7 / 8, 1])
    assert [row.cumulative_bad_rate for row in rows] == pytest.approx([0.25, 0.2, 3 / 7, 3 / 8])
    assert rows[0].bads_declined == pytest.approx(2 / 3)
    assert (rows[0].low, rows[0].high, rows[-1].low) == (650, None, None)
    assert metrics.cutoff_table(y, points, [900])[0].bad_rate is None
    with pytest.raises(DataError, match="2 bands need 2 names"):
        metrics.cutoff_table(y, points, [600], names=("only",))
    with pytest.raises(DataError, match="ascending"):
        metrics.cutoff_table(y, points, [600, 500])


@pytest.mark.parametrize(
    ("y", "score", "weight", "error", "message"),
    [
        ([0, 0], [1, 2], None, LabelError, "constant"),
        ([0, 2], [1, 2], None, LabelError, "0 .good. or 1"),
        ([0, 1], [1, np.nan], None, DataError, "1 scores are missing"),
        ([0, 1], [1, 2, 3], None, DataError, "shape"),
        ([0, 1], [1, 2], [1, -1], DataError, "weights"),
        ([0, 1], [1, 2], [1, 0], LabelError, "constant"),
        ([], [], None, LabelError, "constant"),
    ],
)
def test_bad_input_is_refused_with_a_reason(y, score, weight, error, message):
    with pytest.raises(error, match=message):
        metrics.auc(y, score, weight)


def test_bad_tables_counts_and_probabilities_are_refused():
    one = np.ones(2)
    for risk, good, bad in (
        (one, one, one),
        (np.arange(2.0), -one, one),
        (np.arange(2.0), one, one * np.inf),
    ):
        with pytest.raises(DataError):
            metrics.ScoreTable(risk, good, bad)
    with pytest.raises(DataError, match="between 0 and 1"):
        metrics.brier([0, 1], [0.5, 1.5])
    for expected, actual in (([1], [1, 2]), ([-1, 2], [1, 2]), ([0, 0], [1, 2])):
        with pytest.raises(DataError):
            population_stability(expected, actual)
    with pytest.raises(DataError):
        score_stability([], [1.0])


def test_a_million_rows():
    y, risk, _ = sample(n=1_000_000, ties=False)
    pd = 1 / (1 + np.exp(1.5 - risk))
    table = metrics.score_table(y, pd)
    table.discrimination()
    table.curve()
    table.gains()
    metrics.calibration(y, pd)
    metrics.score_histogram(y, pd)
    metrics.cutoff_table(y, 600 - 50 * risk, [500, 550, 600])
    assert score_stability(pd, pd[::2]).psi < 1e-3
    assert table.auc() == pytest.approx(reference.roc_auc_score(y, pd), abs=1e-12)
