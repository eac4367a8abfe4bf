"""Stacking on shares: margins, level two and losses against the plaintext, and what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from random_trees import random_tree
from scipy.optimize import minimize

from veilscore.crypto import shares
from veilscore.errors import DataError, MessageError, ParameterError
from veilscore.models import stack_form, stacked
from veilscore.models.loss import for_bound, log_loss, sigmoid
from veilscore.models.softplus import softplus_series
from veilscore.models.stack_form import (
    BankStack,
    CellsColumn,
    ClearColumn,
    Gradient,
    HolderStack,
    Losses,
    Moments,
    OpenScores,
    StackLimits,
    TreesColumn,
)
from veilscore.models.trees import tree_values
from veilscore.protocols import stacking
from veilscore.protocols.stacking import bank_stack, holder_stack
from veilscore.v1 import stacking_pb2 as pb
from veilscore.wire.framing import kind_of
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session, decode, encode

if TYPE_CHECKING:
    from veilscore.wire.transcript import Transcript

LIMITS = StackLimits(moments=5, gradients=200, losses=5, scores=1)


@dataclass
class World:
    """A bank and holders with a scorecard, trees and a score of the bank's own, fold by fold."""

    data: BankStack
    holders: dict[str, HolderStack]
    x: np.ndarray

    @property
    def y(self):
        return self.data.target.astype(float)


def make_world(n_holders=2, n=900, *, k=3, seed=0, n_trees=6, bank_codes=(4, 3)):
    rng = np.random.default_rng(seed)
    names = ("tax", "registry", "power")[:n_holders]
    n_codes = {"bank": np.array(bank_codes, np.int64), **{h: np.array([5, 3, 4][: 2 + len(h) % 2]) for h in names}}
    codes = {
        p: np.stack([rng.integers(0, c, n) for c in sizes], 1).astype(np.uint8)
        if sizes.size
        else np.zeros((n, 0), np.uint8)
        for p, sizes in n_codes.items()
    }
    fold = stacked.folds(n, k, seed)
    theta = {p: rng.normal(0, 0.5, (k, int(s.sum()))) for p, s in n_codes.items()}
    cells = CellsColumn(theta, rng.normal(-1, 0.1, k))
    sides = ("bank", "holder") if len(bank_codes) else ("holder",)
    grown = tuple(
        tuple(
            random_tree(rng, names[t % n_holders], {"bank": n_codes["bank"], "holder": n_codes[names[t % n_holders]]},
                        sides=sides, n_leaves=6)
            for t in range(n_trees + f)
        )
        for f in range(k)
    )  # fmt: skip
    trees = TreesColumn(grown, rng.normal(-1, 0.1, k))
    own = rng.normal(0, 1, n)
    x = np.zeros((n, 3))
    x[:, 2] = own
    for f in range(k):
        rows = fold == f
        x[rows, 0] = cells.intercept[f]
        for p, sizes in n_codes.items():
            at = np.concatenate(([0], np.cumsum(sizes)))
            for j in range(sizes.size):
                x[rows, 0] += theta[p][f][at[j] : at[j + 1]][codes[p][rows, j]]
        x[rows, 1] = trees.base[f]
        for tree in grown[f]:
            both = {"bank": codes["bank"][rows], "holder": codes[tree.holder][rows]}
            sizes = {"bank": n_codes["bank"], "holder": n_codes[tree.holder]}
            x[rows, 1] += tree_values(tree, both, sizes, np.array(tree.weights))
    y = (rng.random(n) < sigmoid(0.9 * x[:, 0] + 1.5 * x[:, 1] + 0.4 * own + 1)).astype(np.int8)
    data = BankStack(
        codes["bank"], n_codes["bank"], {h: n_codes[h] for h in names}, fold, (cells, trees, ClearColumn(own)), y,
        np.ones(n),
    )  # fmt: skip
    parts = {
        h: HolderStack(
            codes[h],
            n_codes[h],
            fold,
            ("cells", tuple(tuple(t.shape() for t in g if t.holder == h) for g in grown), "clear"),
        )
        for h in names
    }
    return World(data, parts, x)


def run(world, requests, *, limits=LIMITS, **options):
    names = tuple(world.holders)
    sessions = {p: Session("j/stack/1", p, "bank", names) for p in ("bank", *names)}
    roles = {"bank": bank_stack(sessions["bank"], world.data, requests, limits)}
    roles |= {h: holder_stack(sessions[h], part, limits) for h, part in world.holders.items()}
    return simulate(roles, sessions, timeout_s=options.pop("timeout_s", 60), **options)


def ask(*requests):
    """Answers to fixed requests."""
    found = []
    for request in requests:
        answer = yield request
        found.append(answer)
    return found


def scores(world, beta, intercept=0.0, columns=(0, 1, 2)):
    k = int(world.data.fold.max()) + 1
    return OpenScores(columns, np.tile(np.asarray(beta, float), (k, 1)), np.full(k, float(intercept)))


@pytest.mark.parametrize("n_holders", [1, 2, 3])
def test_shared_margins_are_the_out_of_fold_margins(n_holders):
    world = make_world(n_holders)
    for c in range(3):
        done = run(world, ask(scores(world, np.eye(3)[c])))
        assert np.abs(done["bank"][0] - world.x[:, c]).max() < 2 * 2.0**-stacking.SCORE_BITS


def test_a_bank_without_columns_and_trees_without_splits():
    world = make_world(1, bank_codes=())
    assert np.abs(run(world, ask(scores(world, [1, 1, 0])))["bank"][0] - world.x[:, :2].sum(1)).max() < 0.05


def test_sums_are_those_of_the_plaintext():
    world = make_world(2, n=8500, seed=3)
    beta, weight = np.array([0.7, 1.2]), np.random.default_rng(1).choice([0.0, 0.5, 2.0], 8500)
    series = for_bound(16.0)
    k = 3
    betas, intercepts = np.tile(beta, (k, 1)) * np.array([[1.0], [0.5], [0.8]]), np.array([0.1, 0.2, -0.3])
    moments, gradient, losses = run(
        world,
        ask(
            Moments((0, 1)),
            Gradient((0, 1), beta, 0.3, series.R, weight),
            Losses((0, 1), betas, intercepts, series.R),
        ),
    )["bank"]
    x = world.x[:, :2]
    # margins are rounded to 2**-12, once a tree, so sums are right to some 1e-4 of themselves
    assert np.abs(moments[0] - x.T @ x).max() < 1e-4 * np.trace(x.T @ x)
    assert np.abs(moments[1] - x.sum(0)).max() < 1e-4 * np.abs(x).sum()
    residual = weight * (series.probability(x @ beta + 0.3) - world.y)
    expected = np.append(x.T @ residual, residual.sum())
    # rounded margins and tables of 12 bits and more: 0.002 of a sum of n unit deviates
    assert np.abs(gradient - expected).max() < 0.002 * np.sqrt(8500)
    eta = (x * betas[world.data.fold]).sum(1) + intercepts[world.data.fold]
    for f in range(k):
        rows = world.data.fold == f
        assert abs(losses[f] - log_loss(eta[rows], world.y[rows])) < 0.002 * np.sqrt(8500)


def oracle(x, y, weight):
    """Non-negative logistic regression by scipy, with level two's penalty."""

    def value(theta):
        eta = x @ theta[:-1] + theta[-1]
        residual = weight * (sigmoid(eta) - y)
        loss = weight @ (np.logaddexp(0, eta) - y * eta) + theta[:-1] @ theta[:-1] / (2 * stacked.C)
        return loss, np.append(x.T @ residual + theta[:-1] / stacked.C, residual.sum())

    start = np.zeros(x.shape[1] + 1)
    limits = [(0, None)] * x.shape[1] + [(None, None)]
    return minimize(value, start, jac=True, bounds=limits, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}).x


@pytest.mark.parametrize("left_out", [None, 1])
def test_level_two_is_the_oracles(left_out):
    world = make_world(2, n=4000, seed=5)
    weight = np.ones(4000) if left_out is None else (world.data.fold != left_out).astype(float)
    done = run(world, stacked.fit_level_two(world.data, (0, 1, 2), weight))
    found, expected = done["bank"], oracle(world.x, world.y, weight)
    assert found.converged
    assert found.n_gradients == done["tax"]["gradients"] <= 30
    assert np.abs(found.beta - expected[:-1]).max() < 1e-3
    assert abs(found.intercept - expected[-1]) < 2e-3


def test_no_weight_is_negative():
    world = make_world(1, n=2000, seed=6)
    world.data.target[:] = np.random.default_rng(0).random(2000) < sigmoid(-world.x[:, 2] - 1)
    found = run(world, stacked.fit_level_two(world.data, (1, 2), np.ones(2000)))["bank"]
    assert found.beta[1] == 0.0
    assert np.abs(found.beta - oracle(world.x[:, 1:], world.y, np.ones(2000))[:-1]).max() < 1e-3


def test_softplus_series():
    for radius in (4, 16, 64):
        assert softplus_series(radius).max_error < 1e-4


def test_products_in_the_ring():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, stacking.T, 50).astype(np.uint64) for _ in range(2))
    assert shares.times(a, b).tolist() == [int(x) * int(y) % stacking.T for x, y in zip(a, b, strict=True)]


# --- what the lead sees, and what goes wrong -------------------------------------------------------------------------


def test_the_lead_sees_no_weight():
    world = make_world(2, n=600)
    record: dict[str, Transcript] = {}
    requests = [Gradient((0, 1), np.array(beta), 0.0, 16.0, np.ones(600)) for beta in ([0.3, 0.4], [1.0, 0.0])]
    run(world, ask(*requests), transcripts=record)
    steps = [m for entry, m in record["tax"].messages if entry.kind == "StackBankStep"]
    assert [s.SerializeToString() for s in steps[:1]] == [s.SerializeToString() for s in steps[1:2]]


@pytest.mark.parametrize("kind", ["gradients", "moments", "losses", "scores"])
def test_the_lead_refuses_more_than_the_job_allows(kind):
    world = make_world(1, n=300)
    k = 3
    request = {
        "gradients": Gradient((0,), np.ones(1), 0.0, 8.0, np.ones(300)),
        "moments": Moments((0,)),
        "losses": Losses((0,), np.ones((k, 1)), np.zeros(k), 8.0),
        "scores": scores(world, [1.0], columns=(0,)),
    }[kind]
    limits = StackLimits(**{name: 1 if name == kind else 0 for name in ("moments", "gradients", "losses", "scores")})
    with pytest.raises(MessageError, match=f"more than the 1 {kind}"):
        run(world, ask(request, request), limits=limits)


def change(which, /, **fields):
    def tamper(sender, recipient, sequence, payload):
        if kind_of(payload) != which:
            return [payload]
        message = decode(payload, getattr(pb, which), session="", sender=sender)
        for name, value in fields.items():
            if name == "columns":
                del message.columns[:]
                message.columns.extend(value)
            else:
                setattr(message, name, value)
        return [encode(message)]

    return tamper


@pytest.mark.parametrize(
    ("tamper", "text"),
    [
        (change("StackBankStep", columns=[7]), "not there"),
        (change("StackBankStep", columns=[0, 0]), "not there"),
        (change("StackBankStep", columns=[]), "not there"),
        (change("StackBankStep", radius=9.5), "does not exist"),
        (change("StackBankStep", kind=0), "does not exist"),
        (change("StackBankKey", reach_bits=60), "out of range"),
        (change("StackHolderOpened", rounded=b"1"), "8 bytes"),
        (change("StackHolderShare", data=b"\xff" * 8 * 3 * 300), "share ring"),
        (change("StackHolderShare", data=b""), "with 0 bytes came, due is"),
        (change("StackHolderHints", data=b"12"), "with 2 bytes came, due is"),
        (change("StackBankQuery", data=b"12"), "with 2 bytes came, due is"),
        (change("StackBankBlock", part=5), "was due"),
    ],
)
def test_bad_messages(tamper, text):
    world = make_world(2, n=300)
    with pytest.raises(MessageError, match=text):
        run(world, ask(Gradient((0,), np.ones(1), 0.0, 8.0, np.ones(300))), tamper=tamper, timeout_s=10)


def test_folds():
    fold = stacked.folds(1000, 4, 7)
    assert np.bincount(fold).tolist() == [250] * 4
    assert np.array_equal(fold, stacked.folds(1000, 4, 7))
    assert not np.array_equal(fold, stacked.folds(1000, 4, 8))
    with pytest.raises(DataError, match="folds"):
        stacked.folds(3, 4, 0)
    target = np.ones(1000, np.int8)
    target[fold == 2] = 0
    with pytest.raises(DataError, match="fold 1 of 4"):
        stacked.check_folds(fold, target)


def test_margins_out_of_range():
    world = make_world(1, n=300)
    far = ClearColumn(np.full(300, 1000.0))
    data = replace(world.data, columns=(far,))
    with pytest.raises(ParameterError, match="margins may reach"):
        run(World(data, world.holders, world.x), ask(Moments((0,))))
    with pytest.raises(ParameterError, match="rows do not fit"):
        stack_form.table_bits(1 << 24, 7)
