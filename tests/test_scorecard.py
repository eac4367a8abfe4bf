"""Joint training against the plaintext oracle, over the in-memory channel."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from reference import pooled_logistic, pooled_woe

from veilscore.crypto import shares
from veilscore.errors import MessageError, ParameterError, VeilscoreError
from veilscore.lattice.params import T
from veilscore.models.counts import cell_counts, offsets, row_sums
from veilscore.models.logistic_problem import GRADIENT_FRACTION_BITS as FRACTION_BITS
from veilscore.models.logistic_problem import (
    MAX_RESIDUAL_BITS,
    MAX_WOE,
    MIN_RESIDUAL_BITS,
    BankTraining,
    LogisticProblem,
    PartyColumns,
    column_sums,
    scales,
)
from veilscore.models.loss import BOUNDS, for_bound, sigmoid
from veilscore.models.optimise import GradientStep, OptimiserState, minimise
from veilscore.models.standard_errors import standard_errors
from veilscore.protocols.scorecard import bank_train, holder_train
from veilscore.v1 import scorecard_pb2 as pb
from veilscore.wire.framing import kind_of
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session, decode, encode

HOLDERS = ("tax", "registry", "court")
N_CODES = {"bank": [5, 4], "tax": [6, 3, 5], "registry": [4], "court": [2, 7]}


@dataclass(frozen=True)
class World:
    """One pooled training set and what each party holds of it."""

    codes: dict[str, np.ndarray]
    training: BankTraining
    X: np.ndarray
    problem: LogisticProblem

    @property
    def holders(self):
        return tuple(party for party in self.codes if party != "bank")

    @property
    def y(self):
        return self.training.target

    @property
    def design(self):
        return np.column_stack([self.X, np.ones(len(self.X))])

    def residual(self, step):
        return self.training.weight * (sigmoid(self.design @ np.append(step.beta, step.intercept)) - self.y)


def make_world(n_holders, n=900, *, seed=0, weighted=False, bank_columns=2, bank_selected=True, sign="any"):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=n)
    n_codes = {p: np.array(N_CODES[p], np.int64) for p in ("bank", *HOLDERS[:n_holders])}
    n_codes["bank"] = n_codes["bank"][:bank_columns]
    codes = {}
    for party, sizes in n_codes.items():
        columns = [
            np.clip(((latent * 0.6 + rng.normal(size=n)) * 1.2 + k / 2).astype(int), 0, k - 1) for k in sizes.tolist()
        ]
        codes[party] = np.stack(columns, 1).astype(np.uint8) if columns else np.zeros((n, 0), np.uint8)
    y = (rng.random(n) < sigmoid(latent - 1)).astype(np.int8)
    weight = rng.choice([0.25, 1.0, 3.0], n) if weighted else np.ones(n)
    weight = weight / weight.mean()
    bits = scales(n).woe
    columns, parts = {}, []
    for party, sizes in n_codes.items():
        woe = [pooled_woe(codes[party][:, j], int(k), y.astype(float)) for j, k in enumerate(sizes)]
        units = np.rint(np.concatenate([*woe, []]) * 2**bits).astype(np.int64)
        selected = np.full(sizes.size, party != "bank" or bank_selected)
        columns[party] = PartyColumns(sizes, units * np.repeat(selected, sizes), selected)
        at = offsets(sizes)
        parts += [np.ldexp(units.astype(float), -bits)[at[j] + codes[party][:, j]] for j in np.flatnonzero(selected)]
    X = np.stack(parts, 1)
    training = BankTraining(codes["bank"], columns, y, weight, FRACTION_BITS)
    rate = float(weight @ y / weight.sum())
    X1 = np.column_stack([X, np.ones(n)])
    problem = LogisticProblem(
        low=X.min(0),
        high=X.max(0),
        curvature=(weight[:, None] * X1**2).sum(0) * rate * (1 - rate),
        first_gradient=X1.T @ (weight * (rate - y)),
        base_log_odds=float(np.log(rate / (1 - rate))),
        sign=sign,
    )
    return World(codes, training, X, problem)


def train(world, steps=None, state=None, *, attempt=1, max_openings=200, timeout_s=30, **options):
    state = state if state is not None else OptimiserState()
    parties = ("bank", *world.holders)
    sessions = {p: Session(f"job/train/{attempt}", p, "bank", world.holders) for p in parties}
    roles = {
        "bank": bank_train(sessions["bank"], world.training, steps or minimise(world.problem, state), state, 200)
    } | {
        h: holder_train(
            sessions[h],
            world.codes[h],
            world.training.columns[h].n_codes,
            fraction_bits=FRACTION_BITS,
            max_openings=max_openings,
        )
        for h in world.holders
    }
    return simulate(roles, sessions, timeout_s=timeout_s, **options)


def assert_parity(world, result, *, positive=False, tolerance=5e-4):
    beta, intercept = pooled_logistic(
        world.X, world.y.astype(float), sample_weight=world.training.weight, positive=positive
    )
    assert result.converged
    assert np.abs(result.beta - beta).max() < tolerance
    assert abs(result.intercept - intercept) < tolerance


@pytest.mark.parametrize("n_holders", [1, 2, 3])
def test_parity_with_the_oracle(n_holders):
    world = make_world(n_holders)
    done = train(world)
    assert_parity(world, done["bank"])
    assert {done[h] for h in world.holders} == {done["bank"].n_evaluations}


def test_parity_with_weights():
    world = make_world(2, seed=1, weighted=True)
    assert_parity(world, train(world)["bank"])


@pytest.mark.parametrize("how", [{"bank_columns": 0}, {"bank_selected": False}], ids=["none", "none selected"])
def test_bank_without_columns(how):
    world = make_world(1, seed=2, **how)
    assert world.X.shape[1] == 3
    assert_parity(world, train(world)["bank"])


def test_positive_sign():
    world = make_world(2, seed=3)
    # the first holder column turned round: its free coefficient would be negative
    columns = dict(world.training.columns)
    turned = columns["tax"].woe_units.copy()
    turned[:6] *= -1
    columns["tax"] = replace(columns["tax"], woe_units=turned)
    X = world.X.copy()
    X[:, 2] *= -1
    start = world.design.T @ (sigmoid(np.full(len(X), world.problem.base_log_odds)) - world.y)
    start[2] *= -1
    problem = replace(world.problem, low=X.min(0), high=X.max(0), first_gradient=start, sign="positive")
    world = World(world.codes, replace(world.training, columns=columns), X, problem)
    result = train(world)["bank"]
    assert result.beta[2] == 0.0
    assert (result.beta >= 0).all()
    assert_parity(world, result, positive=True)


def test_standard_errors():
    world = make_world(1, seed=4)
    state = OptimiserState()

    def fit():
        result = yield from minimise(world.problem, state)
        return result, (yield from standard_errors(world.problem, result))

    done = train(world, fit(), state)
    result, found = done["bank"]
    d = world.X.shape[1]
    assert done["tax"] == result.n_evaluations + 2 * (d + 1)
    p = sigmoid(world.design @ np.append(result.beta, result.intercept))
    hessian = (world.design * (p * (1 - p))[:, None]).T @ world.design + np.diag(np.append(np.ones(d), 0.0))
    expected = np.sqrt(np.diag(np.linalg.inv(hessian)))
    assert np.abs(found.errors / expected - 1).max() < 0.02
    centred = hessian[:d, :d] - np.outer(hessian[:d, d], hessian[:d, d]) / hessian[d, d]
    inflation = np.diag(np.linalg.inv(centred)) * np.diag(centred)
    assert np.abs(found.inflation / inflation - 1).max() < 0.03


def ask_for(points, found):
    """Steps of an optimiser that asks for gradients at given points."""
    for number, (beta, intercept, bound) in enumerate(points):
        found.append((yield GradientStep(number, beta, intercept, for_bound(bound), bound)))


@pytest.mark.parametrize(("n", "weighted"), [(900, True), (8192, False), (9000, False)])
def test_gradient_is_the_plaintext_gradient(n, weighted):
    world = make_world(2, n, seed=5, weighted=weighted)
    rng = np.random.default_rng(6)
    points, found = [], []
    for size in (0.2, 2.0):
        beta, intercept = rng.normal(0, size, world.X.shape[1]), float(rng.normal())
        points.append((beta, intercept, float(np.abs(world.X @ beta + intercept).max()) + 0.01))
    train(world, ask_for(points, found))
    used = scales(n)
    for (beta, intercept, bound), opened in zip(points, found, strict=True):
        series = for_bound(bound)
        p = series.probability(world.X @ beta + intercept)
        expected = world.design.T @ (world.training.weight * (p - world.y))
        spread = np.sqrt((world.training.weight**2 @ world.design**2).clip(1))
        # theta is rounded to units of eta as well; both sides of the opening round to 2**-FRACTION_BITS
        units = series.unit * np.abs(world.design).sum(0)
        noise = 6 * series.row_noise(used.bank_table, used.lead_table) * spread + 2.0**-FRACTION_BITS + units
        assert (np.abs(opened - expected) <= noise).all()
        true = world.design.T @ world.residual(GradientStep(0, beta, intercept, series, bound))
        fit_error = series.max_error * (world.training.weight @ np.abs(world.design))
        assert (np.abs(opened - true) <= noise + fit_error).all()


def test_resumes_from_a_checkpoint():
    world = make_world(2, seed=7)
    whole = train(world)["bank"]
    sent = []

    def cut(sender, recipient, sequence, payload):
        if recipient == "registry" and kind_of(payload) == "TrainBankStep":
            sent.append(sequence)
        return [payload] if len(sent) <= 4 else []

    kept = {}
    with pytest.raises(VeilscoreError):
        train(world, tamper=cut, checkpoints=kept, timeout_s=1)
    state = OptimiserState.from_dict(json.loads(json.dumps(kept["bank"][-1])))
    assert len(state.evaluations) == 4
    before = list(state.evaluations)
    done = train(world, minimise(world.problem, state), state, attempt=2)
    assert state.evaluations[:4] == before
    assert done["tax"] == done["bank"].n_evaluations - 4
    assert_parity(world, done["bank"])
    assert np.abs(done["bank"].beta - whole.beta).max() < 5e-4


def test_holder_refuses_more_gradients_than_agreed():
    with pytest.raises(MessageError, match="more than the 3 gradients"):
        train(make_world(1, seed=8), max_openings=3)


@pytest.mark.parametrize("radius", [0.0, 7.9, 8.5, 1e9, -8.0, float("nan"), float("inf")])
def test_holder_refuses_an_unknown_series(radius):
    def lie(sender, recipient, sequence, payload):
        if kind_of(payload) != "TrainBankStep":
            return [payload]
        message = decode(payload, pb.TrainBankStep, session="", sender=sender)
        message.radius = radius
        return [encode(message)]

    with pytest.raises(MessageError, match="sigmoid series"):
        train(make_world(1, 300), tamper=lie)


def test_scales_never_let_a_gradient_wrap():
    for n in (2, 379, 6_684, 22_500, 150_000, 1_000_000, 8_000_000):
        used = scales(n)
        assert n * MAX_WOE * 2.0 ** (used.residual + used.woe) <= T / 2
        assert MIN_RESIDUAL_BITS <= used.residual <= MAX_RESIDUAL_BITS
    with pytest.raises(ParameterError, match="sample"):
        scales(20_000_000)


def test_noise_of_the_tables_stays_below_a_standard_error():
    n, rows = 100_000, scales(100_000)
    worst = max(for_bound(R).row_noise(rows.bank_table, rows.lead_table) for R in BOUNDS)
    assert worst * np.sqrt(n) < 0.01 * np.sqrt(n * 0.05 * 0.95)


def test_sums_in_the_clear():
    rng = np.random.default_rng(9)
    n_codes = np.array([3, 5], np.int64)
    codes = np.stack([rng.integers(0, k, 700) for k in n_codes], 1).astype(np.uint8)
    share = rng.integers(T - 1000, T, 700).astype(np.uint64)
    cells = shares.cell_sums(codes, n_codes, share[None])[0]
    expected = [
        sum(int(s) for s, c in zip(share, codes[:, j], strict=True) if c == code) % T
        for j in range(2)
        for code in range(n_codes[j])
    ]
    assert cells.tolist() == expected
    assert column_sums(cells, n_codes).tolist() == [sum(expected[:3]) % T, sum(expected[3:]) % T]
    theta = rng.integers(-9, 9, 8)
    assert row_sums(codes, n_codes, theta).tolist() == [int(theta[a] + theta[3 + b]) for a, b in codes.tolist()]
    assert cell_counts(codes, n_codes).sum() == 1400
