"""boosting_search.py: which thresholds are compared first, and the best split by both parties against the clear."""

import numpy as np
import pytest
from chances import uniform

from veilscore.crypto import shares
from veilscore.lattice.params import T
from veilscore.models.split_search import Ranked
from veilscore.protocols import boosting_search
from veilscore.protocols.bit_products import bit_products, bit_setup
from veilscore.protocols.boosting_nodes import GrowingNode, subtract
from veilscore.protocols.boosting_search import Search, SplitSide, coarse_step
from veilscore.protocols.sealed_argmax import bank_argmax, bank_setup, holder_argmax, holder_setup
from veilscore.protocols.sealed_gain import GainRule
from veilscore.v1 import boosting_pb2 as pb
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session

BITS = 33
RANKED = (
    Ranked(np.array([33, 12]), np.array([True, False]), np.zeros(2, np.int64)),
    Ranked(np.array([32, 5]), np.array([False, True]), np.zeros(2, np.int64)),
)
RNG = np.random.default_rng(4)


def sides(columns=(2, 2), *, coarse=True):
    return tuple(SplitSide.of(r, np.arange(d), coarse=coarse) for r, d in zip(RANKED, columns, strict=True))


@pytest.mark.parametrize(("count", "step"), [(1, 1), (10, 1), (11, 2), (31, 3), (32, 3), (64, 6)])
def test_at_most_ten_thresholds_of_a_column_come_first(count, step):
    assert coarse_step(count) == step
    assert count // step <= 10


def test_every_threshold_is_among_the_first_or_around_one_of_them():
    for side in sides():
        reached = {int(one) for row in side.around for one in row}
        assert reached == set(range(side.every.codes.size))
        for first, around in zip(side.first, side.around, strict=True):
            assert first in around
            same = side.every.some(around)
            assert set(same.columns) == {side.every.columns[first]}
            assert set(same.missing_left) == {side.every.missing_left[first]}
    every = sides(coarse=False)
    assert [side.width for side in every] == [0, 0]
    assert [side.first.tolist() for side in every] == [list(range(side.every.codes.size)) for side in every]


def world(signal, nodes=3, rows=4000, at=9):
    """g and h of each node's rows by cell, (nodes, 2, cells): bad odds rise from `at` in a column of side `signal`."""
    codes = [np.stack([RNG.integers(0, k, rows) for k in r.n_codes], axis=1) for r in RANKED]
    node, n_codes = RNG.integers(0, nodes, rows), np.concatenate([RANKED[0].n_codes, RANKED[1].n_codes])
    bad = RNG.random(rows) < np.where(codes[signal][:, 0] > at + 5 * node, 0.6, 0.2)
    cells = np.concatenate(codes, axis=1) + np.concatenate([[0], np.cumsum(n_codes)[:-1]])
    found = np.zeros((nodes, 2, n_codes.sum()))
    for k, values in enumerate((bad.mean() - bad, np.full(rows, 0.2))):
        np.add.at(found[:, k], (node[:, None], cells), np.repeat(values[:, None], n_codes.size, axis=1))
    return found


def gains(sums, side, columns):
    """Gain of each candidate of one side, in the clear, by XGBoost's criterion with lambda 1."""
    ranked, at = RANKED[side], RANKED[0].n_codes.sum()
    cells = sums[:, :at] if side == 0 else sums[:, at:]
    first = np.concatenate([[0], np.cumsum(ranked.n_codes)])
    total, found = sums[:, : RANKED[0].n_codes[0]].sum(axis=1), []
    every = columns[side].every
    for column, code, missing in zip(every.columns, every.codes, every.missing_left, strict=True):
        left = cells[:, first[column] : first[column] + code + 1].sum(axis=1)
        left = left + (cells[:, first[column + 1] - 1] if missing else 0)
        (gl, hl), (gr, hr) = left, total - left
        found.append(gl**2 / (hl + 1) + gr**2 / (hr + 1) - total[0] ** 2 / (total[1] + 1))
    return np.array(found)


def run(sums, searched, transcripts=None):
    """Both parties' winners."""
    sessions = {p: Session("search/boost/1", p, "bank", ("tax",)) for p in ("bank", "tax")}
    encoded = shares.to_ring(np.rint(np.ldexp(sums, BITS)).astype(np.int64))
    theirs = RNG.integers(0, T, encoded.shape).astype(np.uint64)
    whole = RNG.integers(0, T, (len(sums), 2, 1)).astype(np.uint64)
    total = shares.sum_shares(encoded[:, :, : RANKED[0].n_codes[0]])[:, :, None]
    halves = (subtract(encoded, theirs), subtract(total, whole)), (theirs, whole)

    def rule(n_bank, n_holder):
        return GainRule(n_bank, n_holder, BITS, max_g=4000.0, max_h=1040.0)

    def role(party, peer, mine, setup, argmax):
        bits = yield from bit_setup(sessions[party], peer)
        keys = yield from setup
        cells, vectors = halves[mine]
        nodes = [GrowingNode(i, vectors[i], cells[i]) for i in range(len(sums))]
        return (yield from Search(searched, mine, argmax, keys, bits, rule).best(nodes))

    roles = {
        "bank": role("bank", "tax", 0, bank_setup(sessions["bank"], "tax", pb.BoostSealed), bank_argmax),
        "tax": role("tax", "bank", 1, holder_setup(sessions["tax"], pb.BoostSealed), holder_argmax),
    }
    found = simulate(roles, sessions, transcripts=transcripts)
    return found["bank"], found["tax"]


@pytest.mark.parametrize("signal", [0, 1])
def test_the_best_split_is_the_best_around_the_best_of_the_first(signal):
    sums, searched = world(signal), sides()
    winners = run(sums, searched)
    assert np.array_equal(winners[0].splits, winners[1].splits)
    assert winners[0].splits.all()
    assert np.array_equal(winners[0].mine, ~winners[1].mine)
    for i, one in enumerate(sums):
        gain = [gains(one, side, searched) for side in (0, 1)]
        few = [gain[side][searched[side].first] for side in (0, 1)]
        owner = int(np.argmax([part.max() for part in few]))
        assert winners[owner].mine[i]
        assert owner == signal
        assert winners[1 - owner].candidate[i] == -1
        around = searched[owner].around[few[owner].argmax()]
        found = winners[owner].candidate[i]
        assert found in around
        # logarithms with four fraction bits choose among near equals
        assert gain[owner][found] >= 0.6 * gain[owner][around].max()
        assert gain[owner][found] >= 0.9 * few[owner].max()


@pytest.mark.parametrize("columns", [(2, 0), (0, 2)])
def test_columns_of_one_side_alone(columns):
    owner = int(columns[0] == 0)
    winners = run(world(owner, nodes=2), sides(columns))
    assert winners[owner].mine.all()
    assert not winners[1 - owner].mine.any()


def test_all_thresholds_at_once_and_first_ones_agree_on_what_is_clear():
    sums = world(0, nodes=2, rows=20_000)
    few, every = (run(sums, sides(coarse=coarse))[0] for coarse in (True, False))
    searched = sides()
    for i, one in enumerate(sums):
        gain = gains(one, 0, searched)
        assert gain[few.candidate[i]] >= 0.9 * gain[every.candidate[i]]


@pytest.mark.parametrize("owner", ["bank", "tax"])
def test_a_party_could_draw_what_it_sees_from_what_it_learns(owner, monkeypatch):
    """Wherever the best first thresholds are, messages have the same kinds and sizes, and uniform words."""
    side, other = ("bank", "tax").index(owner), {"bank": "tax", "tax": "bank"}[owner]
    sizes, choices, products, left, places = [], [], [], [], []

    def keep(*args):
        found = yield from bit_products(*args)
        left.extend(words.reshape(-1) for words in found)
        return found

    monkeypatch.setattr(boosting_search, "bit_products", keep)
    for at in (3, 9, 3, 9, 3, 9):
        seen = {}
        winners = run(world(side, at=at), sides(), seen)
        assert winners[side].mine.all()
        places.append(winners[side].candidate.tolist())
        sizes.append({p: [(e.kind, e.size_bytes) for e, _ in seen[p].messages] for p in seen})
        messages = [(e, m) for p in seen for e, m in seen[p].messages if e.recipient == p]
        products += [np.frombuffer(m.data, "<u8") for e, m in messages if e.kind == "BoostProducts"]
        choices += [np.frombuffer(m.data, "<u8") for e, m in messages if e.kind == "BoostChoices"]
        assert {(e.recipient, e.kind) for e, _ in messages} >= {(owner, "BoostProducts"), (other, "BoostChoices")}
    assert places[0] != places[1]
    assert all(one == sizes[0] for one in sizes)
    assert uniform(np.concatenate(choices), 1 << 64)
    assert uniform(np.concatenate(products), T)
    assert uniform(np.concatenate(left), T)
