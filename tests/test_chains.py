"""Private trees: chains against their plain form, noise against what is charged, what one firm moves, own trees."""

import math
from dataclasses import replace

import boosting_reference as oracle
import numpy as np
import pytest
import xgboost
from chances import of_deviation_one
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.crypto import shares
from veilscore.data.codes import CodeMap
from veilscore.data.fixed_bins import FixedBins
from veilscore.data.partitions import MOST, part_names, partitions
from veilscore.data.table import Table
from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.params import SCALE_BITS
from veilscore.models import chain_growth as growing
from veilscore.models.boosting_form import Growth, HolderColumns
from veilscore.models.chain_growth import (
    AT_ONCE,
    BOUND,
    Chain,
    ChainColumns,
    ChainRows,
    Reach,
    leaves_sensitivity,
    plain_chain,
)
from veilscore.models.chained import sources_of
from veilscore.models.counts import BinnedColumns
from veilscore.models.own_trees import grow_own
from veilscore.models.split_search import Ranked, Rules
from veilscore.models.trees import tree_values
from veilscore.protocols import chains
from veilscore.protocols.chains import ChainTerms, bank_chains, bank_columns, holder_chain, holder_columns
from veilscore.v1 import chains_pb2 as pb
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Charge, Send, Session

HOLDERS = ("tax", "registry")
QUIET = Charge("leaves", "train", 1e16)  # noise far below a unit
CELLS = {"tax": np.array([4, 3, 4, 2]), "registry": np.array([3, 4])}
COLUMNS = {
    "tax": ChainColumns(CELLS["tax"], np.array([0, 0, 1, 2])),
    "registry": ChainColumns(CELLS["registry"], np.array([0, 1])),
}


def world(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    codes = {h: np.stack([rng.integers(0, k, n) for k in m], axis=1).astype(np.uint8) for h, m in CELLS.items()}
    own = rng.integers(0, 5, (n, 2)).astype(np.uint8)
    eta = -1.0 + 0.3 * own[:, 0]
    y = (rng.random(n) < 1 / (1 + np.exp(-eta - 0.8 * (codes["tax"][:, 0] == 2) * (own[:, 1] > 1)))).astype(float)
    p = 1 / (1 + np.exp(-eta))
    ranked = Ranked(np.array([5, 5]), np.array([True, False]), np.zeros(2, np.int64))
    rows = ChainRows(
        codes=own,
        own=HolderColumns(ranked, np.concatenate([np.arange(5), np.arange(5)])),
        score=np.rint(100 * eta).astype(np.int64),
        residual=y - p,
        weight=p * (1 - p),
        importance=np.array([0.7, 0.3]),
    )
    return rows, codes


def roles(rows, codes, terms, holders=HOLDERS):
    sessions = {party: Session("job-1/boost/1", party, "bank", holders) for party in ("bank", *holders)}
    spent = {h: [] for h in holders}
    parts = {"bank": bank_chains(sessions["bank"], rows, {h: COLUMNS[h] for h in holders}, terms)}
    parts |= {h: holder_chain(sessions[h], codes[h], CELLS[h], terms) for h in holders}
    return parts, sessions, spent


def grown(rows, codes, terms, holders=HOLDERS):
    parts, sessions, spent = roles(rows, codes, terms, holders)
    return simulate(parts, sessions, spend={h: spent[h].append for h in holders}), spent


def test_chains_equal_the_plain_ones_where_the_noise_is_small(monkeypatch):
    rows, codes = world()
    monkeypatch.setattr(chains, "secret_generator", lambda: np.random.default_rng(5))
    terms = ChainTerms(QUIET, n_trees=3 * AT_ONCE)
    found, spent = grown(rows, codes, terms)
    for h in HOLDERS:
        plain = Chain(rows, COLUMNS[h], terms.sigma, np.random.default_rng(5))
        plain_chain(plain, codes[h], terms.n_trees)
        trees = found["bank"][h].trees
        assert len(trees) == terms.n_trees
        assert [t.column for t in trees] == [t.column for t in plain.trees]
        assert found[h] == tuple(t.column for t in trees)
        assert [t.cut for t in trees] == [t.cut for t in plain.trees]
        np.testing.assert_allclose(
            np.concatenate([np.ravel(t.weights) for t in trees]),
            np.concatenate([np.ravel(t.weights) for t in plain.trees]),
            atol=1e-5,
        )
        assert max(np.abs(t.weights).max() for t in trees) > 0.001, "the chain learns something"
        assert spent[h] == [QUIET], "charged once, before the first sums leave"


def test_a_chain_that_begins_with_a_scorecard_grows_on_what_that_leaves(monkeypatch):
    rows, codes = world()
    monkeypatch.setattr(chains, "secret_generator", lambda: np.random.default_rng(5))
    terms, columns = ChainTerms(QUIET, n_trees=AT_ONCE), replace(COLUMNS["tax"], card=(0,))
    rng = np.random.default_rng(6)
    effects = [rng.normal(0, 0.4, 4) for _ in range(1)]
    weights = [np.full(4, 50.0)]
    sessions = {party: Session("job-1/boost/1", party, "bank", ("tax",)) for party in ("bank", "tax")}
    parts = {
        "bank": bank_chains(sessions["bank"], rows, {"tax": columns}, terms, lambda _h, c: c.begin(effects, weights)),
        "tax": holder_chain(sessions["tax"], codes["tax"], CELLS["tax"], terms, (0,)),
    }
    found = simulate(parts, sessions, spend={"tax": lambda _charge: None})
    plain = Chain(rows, columns, terms.sigma, np.random.default_rng(5))
    begun = plain.begin(effects, weights)
    score = sum(effect[codes["tax"][:, j]] for effect, j in zip(effects, (0,), strict=True))
    assert (begun.weight == rows.weight).mean() > 0.9, "few rows are held back by a scorecard of usual size"
    free = begun.weight == rows.weight
    np.testing.assert_allclose(
        begun.taken(codes["tax"])[free] / 2.0**SCALE_BITS, (rows.weight * score)[free], atol=1e-6
    )
    plain_chain(plain, codes["tax"], terms.n_trees, begun=begun)
    trees = found["bank"]["tax"].trees
    assert trees[0].column == 0
    assert not {t.column for t in trees[1:]} & {0}, "trees are drawn on partitions, where a column has some"
    for one, other in zip(trees, plain.trees, strict=True):
        assert (one.column, one.cut) == (other.column, other.cut)
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-5)


def test_the_noise_of_leaf_sums_is_what_the_charge_says(monkeypatch):
    rows, codes = world(1500)
    terms = ChainTerms(Charge("leaves", "train", 0.25), n_trees=AT_ONCE)
    assert terms.sigma == pytest.approx(math.sqrt(2 * AT_ONCE) * BOUND / 0.5)
    assert ChainTerms(replace(terms.charge, rows_per_firm=3), AT_ONCE).sigma == pytest.approx(3 * terms.sigma)
    errors, grow = [], Chain.grow

    def watched(self, drawn, sums):
        plain = growing._plain_sums(drawn, codes["tax"], CELLS["tax"], rows.residual, rows.weight)
        errors.extend(((found - true) / self.sigma).ravel() for found, true in zip(sums, plain, strict=True))
        return grow(self, drawn, sums)

    monkeypatch.setattr(Chain, "grow", watched)
    grown(rows, codes, terms, ("tax",))
    z = np.concatenate(errors)
    assert z.size > 150
    assert of_deviation_one(z)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 3.0, 50.0]))
def test_one_firm_moves_the_sums_of_a_chain_by_no_more_than_is_charged(seed, mu):
    """Grow a chain on one record's noised sums, and follow what another record of that firm would have opened."""
    rows, codes = world(400, seed)
    rng, n_trees = np.random.default_rng(seed), 5 * AT_ONCE
    other = codes["tax"].copy()
    other[0] = [rng.integers(0, k) for k in CELLS["tax"]]
    chain = Chain(rows, COLUMNS["tax"], leaves_sensitivity(n_trees) / mu, rng)
    moved, distance = {0: 0, 1: 0}, 0.0
    for _ in range(n_trees // AT_ONCE):
        drawn = chain.next_trees()
        opened = []
        for which, record in enumerate((codes["tax"], other)):
            residual = rows.residual - np.ldexp(np.float64(1) * moved[which], -SCALE_BITS)
            assert (residual**2 + rows.weight**2 <= BOUND**2).all()
            opened.append(list(growing._plain_sums(drawn, record, CELLS["tax"], residual, rows.weight)))
        distance += sum(float(((a - b) ** 2).sum()) for a, b in zip(*opened, strict=True))
        noised = [part + rng.normal(0, chain.sigma, part.shape) for part in opened[0]]
        steps = chain.grow(drawn, noised)
        moved = {which: moved[which] + steps.taken(record) for which, record in enumerate((codes["tax"], other))}
    assert math.sqrt(distance) <= leaves_sensitivity(n_trees)


def test_steps_in_the_ring_are_those_of_the_oracle():
    rows, codes = world(700)
    chain = Chain(rows, COLUMNS["tax"], 1.0, np.random.default_rng(3))
    drawn = chain.next_trees()
    plain = growing._plain_sums(drawn, codes["tax"], CELLS["tax"], rows.residual, rows.weight)
    steps = chain.grow(drawn, list(plain))
    for place in range(len(steps.columns)):
        last, others = steps.of_column(place)
        np.testing.assert_array_equal(steps.in_ring(place), shares.to_ring(np.concatenate([last[None], others])))


@pytest.mark.parametrize("kept", [0, 20_000, 1 << 23])
def test_choices_that_are_kept_or_made_anew_give_the_same_chain(monkeypatch, kept):
    """Two columns fit the smaller room; of the others each tree chooses anew."""
    monkeypatch.setattr(chains, "_BITS_KEPT", kept)
    test_chains_equal_the_plain_ones_where_the_noise_is_small(monkeypatch)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 5))
def test_rows_stay_within_their_reach_whatever_is_added(seed, size):
    rng = np.random.default_rng(seed)
    p, w = rng.random(50), rng.random(50)
    residual, weight = w * ((rng.random(50) < 0.5) - p), w * p * (1 - p)
    reach = Reach(residual, weight)
    low, high = np.zeros(50), np.zeros(50)
    for _ in range(30):
        least = -size * rng.random(50) * (rng.random(50) < 0.7)
        most = size * rng.random(50) * (rng.random(50) < 0.7)
        part = reach.take(least, most)
        low, high = low + part * least, high + part * most
    for end in (low, high):
        assert ((residual - end) ** 2 + weight**2 <= BOUND**2).all()
    assert (high - low <= math.sqrt(2) * BOUND).all()


def test_a_step_of_one_direction_is_taken():
    reach = Reach(np.array([0.5, -0.5]), np.array([0.25, 0.25]))
    assert (reach.take(np.zeros(2), np.full(2, 0.1)) == 1).all()
    assert (reach.take(np.full(2, -0.1), np.zeros(2)) == 1).all()


def test_residuals_of_no_probability_are_refused():
    with pytest.raises(ParameterError, match="not those of a probability"):
        Reach(np.array([1.2]), np.array([0.1]))


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (pb.ChainBankTrees(exchange=1, columns=[0] * AT_ONCE, cuts=[0] * AT_ONCE), "other trees than are due"),
        (pb.ChainBankTrees(exchange=0, columns=[0] * 21, cuts=[0] * 21), "other trees than are due"),
        (pb.ChainBankTrees(exchange=0, columns=[4] * AT_ONCE, cuts=[0] * AT_ONCE), "not there"),
        (pb.ChainBankTrees(exchange=0, columns=[0] * AT_ONCE, cuts=[4] * AT_ONCE), "not there"),
    ],
)
def test_a_holder_opens_no_trees_but_those_due(monkeypatch, message, says):
    rows, codes = world(300)
    parts, sessions, spent = roles(rows, codes, ChainTerms(QUIET, AT_ONCE), ("tax",))

    def other(role):
        command = next(role)
        while True:
            if isinstance(command, Send) and isinstance(command.message, pb.ChainBankTrees):
                command = Send(command.to, message)
            command = role.send((yield command))

    with pytest.raises(MessageError, match=says):
        simulate({**parts, "bank": other(parts["bank"])}, sessions, spend={"tax": spent["tax"].append})
    assert not spent["tax"], "nothing was opened, so nothing is charged"


def described(names):
    n_codes = np.full(len(names), 3)
    none = np.full(len(names), -1)
    return BinnedColumns(names, np.zeros((8, len(names)), np.uint8), n_codes, none > 0, none, bytes(32))


def shapes(columns):
    sessions = {party: Session("job-1/bin/1", party, "bank", ("tax",)) for party in ("bank", "tax")}
    train = np.arange(8) % 4 > 0
    parts = {"bank": bank_columns(sessions["bank"], train), "tax": holder_columns(sessions["tax"], columns, 8)}
    return simulate(parts, sessions), train


def test_the_bank_learns_the_shape_of_columns_and_no_count():
    found, train = shapes(described(("a#1", "a#2", "b#1")))
    assert (found["tax"] == train).all()
    counts = found["bank"]["tax"]
    assert counts.n_codes.tolist() == [3, 3, 3]
    assert sources_of(counts.names).tolist() == [0, 0, 1]
    assert not any(part.any() for part in (counts.counts, counts.holdout_counts, counts.bad, counts.good))


def test_a_bank_refuses_columns_out_of_order():
    with pytest.raises(MessageError, match="not in the order of their columns"):
        shapes(described(("a#1", "b#1", "a#2")))


# --- partitions of a holder's columns ---------------------------------------------------------------------------------


def table(n=4000):
    rng = np.random.default_rng(1)
    amount = np.exp(rng.normal(9, 2, n))
    amount[rng.random(n) < 0.1] = np.nan
    kind = rng.choice(np.array(["a", "b", "c"], dtype=object), n, p=[0.6, 0.3, 0.1])
    columns = {"amount": amount, "whole": rng.normal(0, 1, n), "kind": kind}
    return Table(np.array([f"f{i}" for i in range(n)]), columns, source="made up")


def test_partitions_are_coarse_random_and_of_neighbouring_values():
    data = table()
    fixed = FixedBins.make(data, "2026-01-01", mu=10)
    made = partitions(fixed.code_map(data, 32), fixed.least, generator=np.random.default_rng(3))
    assert made.names == ("amount",) * MOST + ("whole",) * MOST + ("kind",)
    public = part_names(made, "tax", names=False)
    assert public[:2] == ("tax.c1#1", "tax.c1#2")
    assert part_names(made, "tax", names=True)[-1] == "kind#1"
    assert sources_of(public).tolist() == [0] * MOST + [1] * MOST + [2]
    codes = made.transform(data).codes
    assert made.n_codes.tolist()[:-1] == [4] * MOST + [3] * MOST, "missing values have a cell where there are any"
    assert CodeMap.from_json(made.to_json()).hash == made.hash
    for j in range(MOST):
        cells = codes[:, j]
        order = np.argsort(data.columns["amount"], kind="stable")[: int((~np.isnan(data.columns["amount"])).sum())]
        assert (np.diff(cells[order].astype(int)) != 0).sum() == 2, "three runs of neighbouring values"
        assert np.unique(cells[np.isnan(data.columns["amount"])]).size == 1
    assert len({column.bins.edges for column in made.columns[:MOST]}) == MOST
    assert {tuple(sorted(set(codes[data.columns["kind"] == level, -1].tolist()))) for level in "abc"} == {
        (code,) for code in np.unique(codes[:, -1]).tolist()
    }


# --- the bank's own trees ---------------------------------------------------------------------------------------------


def growth(n, **changes):
    rules = Rules(0.1, 1.0, 0.0, 1.0, 0.0, 0)
    form = Growth(
        n_estimators=30,
        max_depth=3,
        max_leaves=0,
        leaf_wise=False,
        max_bin=32,
        subsample=1.0,
        colsample_bytree=1.0,
        own_columns=True,
        early_stopping_rounds=0,
        max_weight=1.0,
        validation=np.zeros(n, bool),
        rules=rules,
    )
    return replace(form, **changes)


def own_world(n=4000):
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 20, (n, 4)).astype(np.uint8)
    eta = -1 + 0.1 * codes[:, 0] - 0.8 * (codes[:, 1] > 12) * (codes[:, 2] < 9)
    y = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(np.int64)
    ranked = Ranked(np.full(4, 20), np.zeros(4, bool), np.zeros(4, np.int64))
    return codes, HolderColumns(ranked, np.tile(np.arange(20), 4)), y


def test_own_trees_are_those_of_xgboost():
    codes, own, y = own_world()
    found = grow_own("bank", codes, own, y, np.ones(y.size), 0.0, growth(y.size))
    theirs = xgboost.train(
        {
            "objective": "binary:logistic",
            "max_depth": 3,
            "eta": 0.1,
            "lambda": 1.0,
            "tree_method": "exact",
            "base_score": 0.5,
            "nthread": 1,
        },
        xgboost.DMatrix(codes.astype(float), label=y),
        30,
    )
    n_codes = {"bank": np.full(4, 20), "holder": np.zeros(0, np.int64)}
    nothing = np.zeros((y.size, 0), np.uint8)
    margin = sum(tree_values(t, {"bank": codes, "holder": nothing}, n_codes, np.array(t.weights)) for t in found.trees)
    np.testing.assert_allclose(
        margin, theirs.predict(xgboost.DMatrix(codes.astype(float)), output_margin=True), atol=2e-3
    )


def test_own_trees_stop_where_the_validation_rows_gain_no_more():
    codes, own, y = own_world(1500)
    validation = np.arange(y.size) % 4 == 0
    form = growth(y.size, n_estimators=300, early_stopping_rounds=5, validation=validation)
    found = grow_own(
        "bank", codes, own, y, np.ones(y.size), 0.0, replace(form, rules=replace(form.rules, learning_rate=0.3))
    )
    assert len(found.trees) < 100
    assert len(found.improvements) == len(found.trees) + 5


@pytest.mark.parametrize("leaf_wise", [False, True])
def test_own_trees_keep_to_directions_and_to_leaves(leaf_wise):
    """One tree against the oracle's, with a falling column, and with the node that gains most split first."""
    codes, own, y = own_world(2000)
    own = replace(own, ranked=replace(own.ranked, constraints=np.array([-1, 0, 1, 0])))
    form = growth(y.size, n_estimators=1, max_depth=0 if leaf_wise else 3, max_leaves=5 if leaf_wise else 0)
    (tree,) = grow_own("bank", codes, own, y, np.ones(y.size), 0.0, replace(form, leaf_wise=leaf_wise)).trees
    columns = [oracle.Column("bank", j, codes[:, j], 20, False, int(own.ranked.constraints[j])) for j in range(4)]
    rules = oracle.Rules(0.1, 1.0, 0.0, 1.0, 0, form.max_depth, form.max_leaves, leaf_wise)
    root = oracle.grow(columns, 0.5 - y, np.full(y.size, 0.25), np.ones(y.size, bool), rules)
    n_codes = {"bank": np.full(4, 20), "holder": np.zeros(0, np.int64)}
    found = tree_values(
        tree, {"bank": codes, "holder": np.zeros((y.size, 0), np.uint8)}, n_codes, np.array(tree.weights)
    )
    np.testing.assert_allclose(found, oracle.values(root, y.size), atol=1e-9)
