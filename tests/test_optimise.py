"""The optimiser on the protocol's arithmetic in the clear: series, shared tables, rounded gradients."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import shared_data
from tests.reference import left_join, load_parties, pooled_logistic, sklearn_auc
from veilscore.errors import ConfigError, MessageError, ParameterError, StateError
from veilscore.models.logistic_problem import LogisticProblem
from veilscore.models.loss import TURN, sigmoid, sigmoid_series
from veilscore.models.optimise import OptimiserState, minimise
from veilscore.models.quadratic import minimise_quadratic
from veilscore.models.standard_errors import standard_errors
from veilscore.models.woe import join_tables, logistic_problem, woe_table

TABLE_BITS = (14, 16)  # the bank's and the lead's
BANK_COLUMNS = {"kz_corporate": 12, "polish_1year": 29, "default_credit": 7, "sba_loans": 8}


def quick_codes(values, train):
    """Quantile bins of at most 20 and at least 5 % of the rows, levels, an own bin for missing; (n,) int64."""
    if values.dtype == object:
        return np.unique(np.array([v or "" for v in values]), return_inverse=True)[1]
    absent = np.isnan(values)
    edges = np.unique(np.quantile(values[train & ~absent], np.arange(1, 20) / 20))
    codes = np.searchsorted(edges, values, side="left")
    codes[absent] = len(edges) + 1
    return codes


def design_of(name):
    """Training and hold-out WOE columns of a real set, as the protocol would code them."""
    parties = load_parties(shared_data(name))
    pooled = left_join(parties["bank"], {k: parties[k] for k in ("tax", "registry")})
    y = pooled["label"]
    train = np.ones(len(y), bool)
    rng = np.random.default_rng(0)
    for label in (0, 1):
        rows = rng.permutation(np.flatnonzero(y == label))
        train[rows[: len(rows) // 4]] = False
    tables, codes = [], []
    for values in pooled["columns"].values():
        code = quick_codes(values, train)
        bad = np.bincount(code[train], y[train], code.max() + 1)
        good = np.bincount(code[train], 1 - y[train], code.max() + 1)
        table = woe_table(
            np.array([len(bad)]),
            bad,
            good,
            total_bad=bad.sum(),
            total_good=good.sum(),
            ordered=np.array([values.dtype != object]),
        )
        tables.append(table)
        codes.append(code)
    return join_tables(tables).quantised(12), np.column_stack(codes), y, train


class Protocol:
    """The gradient as the parties would open it."""

    def __init__(self, x, y, problem, weight=None, seed=0):
        self.x, self.y, self.problem = x, y, problem
        self.weight = np.ones(len(y)) if weight is None else weight
        self.rng = np.random.default_rng(seed)
        self.n = 0

    def __call__(self, step):
        self.n += 1
        series, eta = step.series, self.x @ step.beta + step.intercept
        assert np.abs(eta).max() <= step.bound + 1e-9
        assert step.bound <= series.R
        units = series.to_units(eta)
        share = self.rng.integers(0, TURN, len(eta), dtype=np.uint64)
        s1, c1 = series.encoded_tables(share, TABLE_BITS[0], weighted=False)
        s2, c2 = series.encoded_tables((units - share) % np.uint64(TURN), TABLE_BITS[1], weighted=True)
        residual = self.weight * (0.5 + (s1 * c2 + c1 * s2).sum(axis=0) / 2.0 ** sum(TABLE_BITS) - self.y)
        gradient = np.append(self.x.T @ residual, residual.sum())
        return np.ldexp(np.rint(np.ldexp(gradient, self.problem.fraction_bits)), -self.problem.fraction_bits)


def drive(generator, answer, limit=10_000):
    """Answer every step; at most `limit`, then stop with None."""
    try:
        step = next(generator)
        for _ in range(limit):
            step = generator.send(answer(step))
    except StopIteration as stop:
        return stop.value
    return None


NOISE = sigmoid_series(24).row_noise(*TABLE_BITS)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        pytest.param("default_credit", 25, marks=pytest.mark.slow),
        pytest.param("sba_loans", 33, marks=pytest.mark.slow),
        ("kz_corporate", 52),
        ("polish_1year", 69),
    ],
)
@pytest.mark.parametrize("own_known", [False, True], ids=["counts", "own-moments"])
def test_real_sets_reach_scikit_learn(name, most, own_known):
    table, codes, y, train = design_of(name)
    x = table.transform(codes)
    own = x[train][:, : BANK_COLUMNS[name]] if own_known else None
    problem = logistic_problem(table, own, row_noise=NOISE)
    result = drive(minimise(problem), Protocol(x[train], y[train], problem))
    beta, intercept = pooled_logistic(x[train], y[train])
    assert result.converged
    assert result.n_evaluations <= most
    assert np.abs(result.beta - beta).max() <= 1e-3
    joint, pooled = (sklearn_auc(y[~train], x[~train] @ b) for b in (result.beta, beta))
    assert abs(joint - pooled) <= 1e-4
    assert abs(result.intercept - intercept) <= 1e-3


@pytest.mark.parametrize("name", [pytest.param("default_credit", marks=pytest.mark.slow), "polish_1year"])
def test_positive_coefficients_equal_the_bounded_optimum(name):
    table, codes, y, train = design_of(name)
    x = table.transform(codes)[train]
    problem = logistic_problem(table, sign="positive", row_noise=NOISE)
    result = drive(minimise(problem), Protocol(x, y[train], problem))
    beta, _ = pooled_logistic(x, y[train], positive=True)
    assert result.converged
    assert (result.beta >= 0).all()
    assert (result.beta == 0).any()
    assert np.abs(result.beta - beta).max() <= 1e-3


def small_design(n=2000, d=4, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=(n, d)).clip(-3, 3) * 4) / 4
    y = (rng.random(n) < sigmoid(scale * (x @ np.linspace(0.5, 1.0, d)) - 1)).astype(float)
    return x, y


def problem_of(x, y, weight=None, **options):
    weight = np.ones(len(y)) if weight is None else weight
    full = np.column_stack([x, np.ones(len(x))])
    rate = weight @ y / weight.sum()
    options = {"row_noise": NOISE} | options
    return LogisticProblem(
        low=x.min(axis=0),
        high=x.max(axis=0),
        curvature=(weight @ full**2) * rate * (1 - rate),
        first_gradient=full.T @ (weight * (rate - y)),
        base_log_odds=float(np.log(rate / (1 - rate))),
        **options,
    )


def test_sample_weights_match_scikit_learn():
    x, y = small_design()
    weight = np.random.default_rng(1).uniform(0.2, 3.0, len(y))
    problem = problem_of(x, y, weight, C=0.5)
    result = drive(minimise(problem), Protocol(x, y, problem, weight))
    beta, _ = pooled_logistic(x, y, C=0.5, sample_weight=weight)
    assert np.abs(result.beta - beta).max() <= 1e-3


def test_separable_data_stay_within_the_series():
    x = np.linspace(-3, 3, 400)[:, None] + np.zeros((400, 3))
    y = (x[:, 0] > 0).astype(float)
    problem = problem_of(x, y, C=1.0)
    result = drive(minimise(problem), Protocol(x, y, problem))
    beta, _ = pooled_logistic(x, y)
    assert result.converged
    assert np.abs(result.beta - beta).max() <= 2e-3


def test_unreachable_optimum_is_reported_not_wrapped():
    x = np.sign(np.linspace(-1, 1, 400))[:, None] * np.ones((1, 2))
    y = (x[:, 0] > 0).astype(float)
    problem = problem_of(x, y, C=1e6, bound=lambda b, c: 100 + 0 * c)
    with pytest.raises(ParameterError, match="smaller C"):
        drive(minimise(problem), Protocol(x, y, problem))


def test_openings_are_capped_and_the_result_says_so():
    x, y = small_design()
    problem = problem_of(x, y, max_openings=3)
    protocol = Protocol(x, y, problem)
    result = drive(minimise(problem), protocol)
    assert protocol.n == result.n_evaluations == 3
    assert not result.converged
    assert [h.number for h in result.history] == [0, 1, 2]


def test_state_survives_json_and_resumes_at_the_same_point():
    x, y = small_design()
    problem = problem_of(x, y)
    whole = drive(minimise(problem), Protocol(x, y, problem))
    protocol, state = Protocol(x, y, problem), OptimiserState()
    assert drive(minimise(problem, state), protocol, limit=3) is None
    assert len(state.evaluations) == 3
    again = OptimiserState.from_dict(json.loads(json.dumps(state.to_dict())))
    result = drive(minimise(problem, again), protocol)
    assert result.n_evaluations == protocol.n == whole.n_evaluations
    assert np.array_equal(result.beta, whole.beta)
    assert drive(minimise(problem, again), None).n_evaluations == protocol.n


def test_state_of_another_problem_is_refused():
    x, y = small_design()
    problem, state = problem_of(x, y), OptimiserState()
    drive(minimise(problem, state), Protocol(x, y, problem), limit=3)
    with pytest.raises(StateError, match="another problem"):
        next(minimise(problem_of(x, y, C=0.01), state))


@pytest.mark.parametrize(
    "data", [{}, {"version": 2, "evaluations": []}, {"version": 1, "evaluations": [{"theta": "x"}]}]
)
def test_damaged_state_is_refused(data):
    with pytest.raises(StateError, match="train again"):
        OptimiserState.from_dict(data)


@pytest.mark.parametrize("gradient", [np.zeros(3), np.full(5, np.nan), np.zeros((5, 1))])
def test_hostile_gradient_is_refused(gradient):
    steps = minimise(problem_of(*small_design()))
    next(steps)
    with pytest.raises(MessageError, match="finite"):
        steps.send(gradient)


@pytest.mark.parametrize("change", [{"C": 0.0}, {"sign": "negative"}, {"max_openings": 0}, {"curvature": np.ones(3)}])
def test_wrong_problem_is_refused(change):
    fields = {"low": -np.ones(4), "high": np.ones(4), "curvature": np.ones(5), "first_gradient": np.ones(5)}
    with pytest.raises(ConfigError):
        LogisticProblem(**(fields | {"base_log_odds": 0.0} | change))


def test_steps_hide_coefficients_in_repr():
    step = next(minimise(problem_of(*small_design())))
    assert "beta" not in repr(step)
    assert "theta" not in repr(OptimiserState())


def test_standard_errors_match_the_hessian():
    x, y = small_design()
    problem = problem_of(x, y)
    protocol = Protocol(x, y, problem)
    result = drive(minimise(problem), protocol)
    protocol.n = 0
    found = drive(standard_errors(problem, result), protocol).errors
    full = np.column_stack([x, np.ones(len(x))])
    p = sigmoid(full @ np.append(result.beta, result.intercept))
    exact = np.linalg.inv((full.T * (p * (1 - p))) @ full + np.diag(problem.penalty))
    assert protocol.n == 2 * (x.shape[1] + 1)
    assert found == pytest.approx(np.sqrt(np.diag(exact)), rel=0.02)


def test_standard_errors_leave_out_coefficients_at_the_bound():
    x, y = small_design()
    x = np.column_stack([x, -x[:, 0] + np.round(np.random.default_rng(0).normal(size=len(x)))])
    problem = problem_of(x, y, sign="positive")
    protocol = Protocol(x, y, problem)
    result = drive(minimise(problem), protocol)
    found = drive(standard_errors(problem, result), protocol).errors
    assert np.array_equal(np.isnan(found[:-1]), result.beta == 0)


def test_bounded_quadratic_meets_its_conditions():
    rng = np.random.default_rng(2)
    for _ in range(50):
        root = rng.normal(size=(12, 12))
        hessian, gradient = root @ root.T + 0.01 * np.eye(12), rng.normal(size=12)
        lower = np.where(rng.random(12) < 0.7, -rng.random(12), -np.inf)
        p = minimise_quadratic(hessian, gradient, lower)
        slope = hessian @ p + gradient
        assert (p >= lower).all()
        assert (slope > -1e-8).all() or np.abs(slope[p > lower]).max() < 1e-8
        assert np.abs(np.where(p > lower, slope, np.minimum(slope, 0))).max() < 1e-8
