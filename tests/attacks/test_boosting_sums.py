"""Attack: rows of a holder's split from the sums that boosting opens, by a linear program over the first tree.

In the first tree the bank knows g and h of every row. Sums over its own cells in a child of a holder's split are linear
equations in the holder's bits; opened without bounds, a linear program solves them (design page, section 6).
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import coo_matrix, csr_matrix, hstack, identity, vstack

from veilscore.models.boosting_form import BankBoosting
from veilscore.models.split_search import Ranked, Rules
from veilscore.protocols import boosting_tree
from veilscore.protocols.boosting import Growth, HolderColumns, bank_boost, holder_boost
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session

N, COLUMNS, BINS = 2000, 20, 32


def growth(**changes) -> Growth:
    rules = Rules(0.1, 1.0, 0.0, 1.0, 0.0, 30)
    plain = {
        "n_estimators": 1,
        "max_depth": 2,
        "max_leaves": 0,
        "leaf_wise": False,
        "max_bin": BINS,
        "subsample": 1.0,
        "colsample_bytree": 1.0,
        "own_columns": False,
        "early_stopping_rounds": 0,
        "max_weight": 1.0,
        "bounds": True,
        "noise_rows": 3.0,
        "share": 1.0,
        "validation": np.zeros(N, bool),
        "rules": rules,
    }
    return Growth(**{**plain, **changes})


def columns_of(n_columns: int, bins: int) -> HolderColumns:
    ranked = Ranked(np.full(n_columns, bins), np.zeros(n_columns, bool), np.zeros(n_columns, np.int64))
    return HolderColumns(ranked, np.tile(np.arange(bins), n_columns))


def first_tree(plan: Growth, monkeypatch: pytest.MonkeyPatch):
    """What the bank sees of a first tree whose root is split by the holder, and the truth."""
    rng = np.random.default_rng(7)
    own = rng.integers(0, BINS, (N, COLUMNS)).astype(np.uint8)
    theirs = rng.integers(0, 16, (N, 1)).astype(np.uint8)
    risk = np.where(theirs[:, 0] < 7, 0.15, 0.75)
    target = (rng.random(N) < risk).astype(np.int8)
    seen = []
    best = boosting_tree.BankTree._best

    def watch(self, node, layout, sums):
        seen.append((node.number, layout[0], sums.copy()))
        return best(self, node, layout, sums)

    monkeypatch.setattr(boosting_tree.BankTree, "_best", watch)
    base = float(np.log(target.mean() / (1 - target.mean())))
    data = BankBoosting(own, columns_of(COLUMNS, BINS), {"tax": columns_of(1, 16)}, target, np.ones(N), base, plan)
    sessions = {p: Session("attack/boost/1", p, "bank", ("tax",)) for p in ("bank", "tax")}
    found = simulate(
        {
            "bank": bank_boost(sessions["bank"], data),
            "tax": holder_boost(sessions["tax"], theirs, np.array([16]), plan),
        },
        sessions,
    )
    root = found["bank"].trees[0].splits[0]
    assert root.side == "holder"
    truth = np.isin(theirs[:, 0], root.codes)
    p = target.mean()
    return own, p - target, np.full(N, p * (1 - p)), seen, truth


def solve(own, g, h, opened) -> np.ndarray:
    """Bits x in [0, 1] that fit the opened sums of the left child best, least absolute deviations."""
    _, coarse, sums = next(item for item in opened if item[0] == 1 and item[1] is not None)
    k = coarse.starts.size
    first = np.arange(COLUMNS) * BINS
    fine = own.astype(np.int64) + first
    cell = np.searchsorted(coarse.starts, fine.ravel(), side="right") - 1
    rows = np.repeat(np.arange(N), COLUMNS)
    blocks = [csr_matrix(coo_matrix((np.repeat(v, COLUMNS), (cell, rows)), shape=(k, N))) for v in (g, h)]
    A = vstack(blocks)
    b = np.concatenate([sums[0][:k], sums[1][:k]])
    slack = identity(2 * k)
    full = hstack([A, slack, -slack]).tocsr()
    cost = np.concatenate([np.zeros(N), np.ones(4 * k)])
    bounds = [(0, 1)] * N + [(0, None)] * (4 * k)
    x = linprog(cost, A_eq=full, b_eq=b, bounds=bounds, method="highs-ipm").x[:N]
    return x > 0.5


def test_bounds_hold_the_linear_program_to_guessing(monkeypatch):
    own, g, h, opened, truth = first_tree(growth(), monkeypatch)
    accuracy = (solve(own, g, h, opened) == truth).mean()
    # the bank always knows the labels, and what the leaf weights say of each label
    labels = g < 0
    by_label = [max((truth & group).sum(), (~truth & group).sum()) for group in (labels, ~labels)]
    guess = sum(by_label) / N
    assert accuracy <= guess + 0.02


@pytest.mark.slow
def test_without_bounds_the_linear_program_succeeds(monkeypatch):
    plan = growth(bounds=False, noise_rows=0.0, share=None)
    own, g, h, opened, truth = first_tree(plan, monkeypatch)
    assert (solve(own, g, h, opened) == truth).mean() > 0.8
