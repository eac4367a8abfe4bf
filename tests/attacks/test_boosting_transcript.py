"""Attacks on recorded boosting runs: labels from node sets, bins from splits, bins from totals and improvements.

An attacker uses all that its party received and was left with, row by row (`recorded_boosting.py`), and more: it knows
the truth of some rows and learns from them. Its guesses are held against `guess`: the commoner value in each group of
rows that its own data and its legitimate results form, told to the guesser for free. By default no attack beats that by
more than 2 points; with the control that stops it switched off, each finds over 80 % of the bits.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from random_trees import boosted, part
from recorded_boosting import (
    gradient,
    growth,
    guess,
    learn,
    one_hot,
    record,
)

from veilscore.crypto import shares
from veilscore.lattice.params import SCORE_T
from veilscore.models.trees import coefficients, goes_left, indicators, shapes_digest, tree_values
from veilscore.protocols import scoring
from veilscore.protocols.adding import coordinator_add
from veilscore.protocols.scoring import HolderAnswer, holder_receive
from veilscore.protocols.tree_scoring import bank_score_trees, holder_score_trees
from veilscore.v1 import score_pb2
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session

pytestmark = pytest.mark.slow
N = 2000
POINTS = 0.02


def drawn(n, widths, bins, strength, seed):
    """Independent codes of every party, and labels that follow their sums with these strengths; half are bad."""
    rng = np.random.default_rng(seed)
    codes = {p: rng.integers(0, bins[p], (n, d)).astype(np.uint8) for p, d in widths.items()}
    eta = sum(
        (c / (bins[p] - 1) - 0.5) @ np.array(strength[p] + [0.0] * (c.shape[1] - len(strength[p])))
        for p, c in codes.items()
    )
    return codes, (rng.random(n) < 1 / (1 + np.exp(-(eta - np.median(eta))))).astype(np.int8)


# --- labels, by a holder ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled():
    bins = {"bank": 16, "tax": 6}
    codes, target = drawn(N, {"bank": 6, "tax": 2}, bins, {"bank": [14.0, 8.0], "tax": [6.0]}, 1)
    return record(codes, bins, target, growth(N, trees=6, depth=3, rate=0.3))


def labels_from(run, *more):
    """Labels guessed by the holder from its codes, its node sets and all it got, knowing every other label."""
    known = np.arange(N) % 2 == 0
    codes, bits = run.codes["tax"], run.data.target.astype(bool)
    sets = [indicators(tree, codes, run.n_codes("tax")) for tree in run.trees]
    found = learn([one_hot(codes, run.bins["tax"]), *sets], [*run.words["tax"], *more], known, bits)
    return (found == bits)[~known].mean(), guess(codes[~known], bits[~known])


def test_a_holder_does_not_find_labels(labelled):
    assert sum(len(w) for w in labelled.words["tax"]) > 300  # it has much to try
    accuracy, guessed = labels_from(labelled)
    assert accuracy <= guessed + POINTS


def test_node_sets_of_the_bank_would_give_labels_away(labelled):
    """As where the partner hears which rows are in a node (SecureBoost)."""
    codes = labelled.codes["bank"]
    told = [goes_left(s, codes, labelled.n_codes("bank")) for t in labelled.trees for s in t.splits if s.side == "bank"]
    accuracy, guessed = labels_from(labelled, *told)
    assert accuracy > max(0.8, guessed + 0.1)


def test_gradients_that_are_not_shared_would_give_labels_away(labelled):
    g = gradient([labelled.shares_of_g[p][0] for p in ("bank", "tax")])
    assert ((g < 0) == labelled.data.target).all()


# --- bins, by the bank -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split():
    """Data whose first tree is split by the holder first."""
    bins = {"bank": 32, "tax": 16}
    codes, target = drawn(N, {"bank": 20, "tax": 2}, bins, {"bank": [1.0], "tax": [9.0, 3.0]}, 2)
    return bins, codes, target


@pytest.fixture(scope="module")
def sealed(split):
    bins, codes, target = split
    return record(codes, bins, target, growth(N, trees=4, depth=3, rate=0.3))


def from_leaf_sums(run):
    """Most likely sides at the holder's splits of the first tree, given its leaves' sums, weights and shape."""
    tree, target = run.trees[0], run.data.target
    codes, n_codes = run.codes["bank"], run.n_codes("bank")
    p, rules = target.mean(), run.data.growth.rules
    h = np.array(tree.covers)
    g = -np.array(tree.weights) / rules.learning_rate * (np.maximum(h, rules.min_rows / 4) + rules.reg_lambda)
    rows, sums = [], []
    for leaf in range(tree.n_leaves):
        c = coefficients(tree, np.eye(tree.n_leaves)[leaf], codes, n_codes)
        for value, total in ((p - target, g[leaf]), (np.full(N, p * (1 - p)), h[leaf])):
            rows.append((c[1:] * value).ravel())
            sums.append(total - (c[0] * value).sum())
    a, b = np.array(rows), np.array(sums)
    # normal prior around one half; the sums are as they are
    gain = a.T @ np.linalg.inv(a @ a.T / 4 + 1e-4 * np.eye(len(b))) / 4
    return (0.5 + gain @ (b - a.sum(axis=1) / 2)).reshape(-1, N)


def test_a_holder_does_not_find_labels_by_what_its_splits_were_refined_from(sealed):
    told = np.concatenate(sealed.refined_from["tax"])
    own = [codes for tree in sealed.trees for codes in indicators(tree, sealed.codes["tax"], sealed.n_codes("tax"))]
    assert sum(all((one != mine).any() for mine in own) for one in told) > 3  # thresholds that it did not split by
    accuracy, guessed = labels_from(sealed, told)
    assert accuracy <= guessed + POINTS


@pytest.mark.parametrize("thresholds", [False, True])
def test_the_bank_does_not_find_bins(sealed, thresholds):
    """By all it got; with the thresholds that its own splits were refined from."""
    tree, target = sealed.trees[0], sealed.data.target
    assert tree.splits[0].side == "holder"
    truth = indicators(tree, sealed.codes["tax"], sealed.n_codes("tax"))
    likely, known = from_leaf_sums(sealed), np.arange(N) % 2 == 0
    paths = [goes_left(s, sealed.codes["bank"], sealed.n_codes("bank")) for s in tree.splits if s.side == "bank"]
    groups = np.column_stack([target, *paths])
    own, told = [target, *paths], sealed.refined_from["bank"] if thresholds else []
    assert sum(map(len, told)) > 3 or not thresholds
    right, learnt, guessed = [], [], []
    for s, bits in enumerate(truth):
        right.append(((likely[s] > 0.5) == bits).mean())
        found = learn([*own, likely[s]], [*sealed.words["bank"], *told], known, bits)
        learnt.append((found == bits)[~known].mean())
        guessed.append(guess(groups, bits))
    assert sum(len(w) for w in sealed.words["bank"]) > 150
    assert np.mean(right) <= np.mean(guessed) + POINTS
    assert np.mean(learnt) <= np.mean(guessed) + POINTS


def test_the_digest_of_a_holders_part_confirms_no_guess():
    """One split in all: there are few to try."""
    bins = {"bank": 4, "tax": 16}
    codes, target = drawn(600, {"bank": 1, "tax": 2}, bins, {"bank": [], "tax": [8.0]}, 3)
    run = record(codes, bins, target, growth(600, trees=1, depth=1, rate=0.3))
    tree = run.trees[0]
    assert [s.side for s in tree.splits] == ["holder"]
    told = run.received("bank", "BoostHolderPart")[0].sha256

    def tries(digest):
        for column, last in itertools.product(range(2), range(15)):
            changed = tree.splits[0].model_copy(update={"column": column, "codes": tuple(range(last + 1))})
            if shapes_digest([tree.model_copy(update={"splits": (changed,)})]) == digest:
                yield column, changed.codes

    assert not list(tries(told))
    assert list(tries(shapes_digest([tree]))) == [(tree.splits[0].column, tree.splits[0].codes)]  # without the salt
    assert shapes_digest([tree], run.found["tax"].salt) == told


# --- bins, by the bank, from totals and improvements -----------------------------------------------------------------

WIDTH, BINS = 3, 6


class Scored:
    """A model of several holders, and new rows scored by the protocol; the bank knows every split."""

    def __init__(self, holders, n=500, seed=5, n_trees=12, decimals=1):
        self.holders = holders
        self.bins = {"bank": 8} | dict.fromkeys(holders, BINS)
        widths = {"bank": 3} | dict.fromkeys(holders, WIDTH)
        strength = {"bank": [2.0]} | {h: [5.0, 3.0, 2.0] for h in holders}
        codes, target = drawn(N + n, widths, self.bins, strength, seed)
        self.trained = {p: c[:N] for p, c in codes.items()}
        self.codes = {p: c[N:] for p, c in codes.items()}
        self.n = n
        run = record(self.trained, self.bins, target[:N], growth(N, trees=n_trees, depth=3, rate=0.3))
        self.n_codes = {p: run.n_codes(p) for p in codes}
        parts = [part("bank", "bank", self.n_codes["bank"]), *(part(h, "holder", self.n_codes[h]) for h in holders)]
        self.model = boosted(run.trees, parts, decimals=decimals)
        self.every = np.array(list(itertools.product(range(BINS), repeat=WIDTH)), np.uint8)  # bins of a row of a holder

    def score(self):
        """Totals, what the bank decrypted of each holder's part, and the partials that the coordinator got."""
        parties = ("bank", "coordinator", *self.holders)
        sessions = {p: Session("job/score/1", p, "bank", self.holders) for p in parties}
        rows, transcripts, shared = np.ones(self.n, bool), {}, {}

        def holder(name):
            request = yield from holder_receive(sessions[name], self.n)
            answer = HolderAnswer(self.codes[name], self.n_codes[name], np.zeros(self.n, bool), False, "")
            mine = tuple(tree.shape() for tree in self.model.trees_of(name))
            return (yield from holder_score_trees(sessions[name], "coordinator", request, answer, mine))

        with pytest.MonkeyPatch.context() as patch:
            from veilscore.protocols import tree_scoring

            multiply = tree_scoring._BankTrees.multiply

            def keep(plan, *args):
                shared[plan._holder] = yield from multiply(plan, *args)
                return shared[plan._holder]

            patch.setattr(tree_scoring._BankTrees, "multiply", keep)
            roles = {
                "bank": bank_score_trees(sessions["bank"], "coordinator", rows, self.codes["bank"], self.model),
                "coordinator": coordinator_add(sessions["coordinator"]),
            } | {h: holder(h) for h in self.holders}
            done = simulate(roles, sessions, transcripts=transcripts, timeout_s=60)
        partials = {
            e.sender: shares.shares_from_bytes(m.data, (self.n,), below=SCORE_T).astype(np.int64)
            for e, m in transcripts["coordinator"].messages
            if isinstance(m, score_pb2.BatchHolderPartial)
        }
        return done["bank"].points, shared, partials

    def possible(self, holder):
        """A holder's part of every row's total for every bin its columns could have: (n, combinations)."""
        out = np.zeros((self.n, len(self.every)), np.int64)
        own, place = np.unique(self.codes["bank"], axis=0, return_inverse=True)
        for tree, points in zip(self.model.trees, self.model.points, strict=True):
            if tree.holder != holder:
                continue
            a, b = np.repeat(np.arange(len(own)), len(self.every)), np.tile(np.arange(len(self.every)), len(own))
            sides = {"bank": own[a], "holder": self.every[b]}
            n_codes = {"bank": self.n_codes["bank"], "holder": self.n_codes[holder]}
            values = tree_values(tree, sides, n_codes, np.array(points, np.int64)).reshape(len(own), -1)
            out += values[place.ravel()]
        return out

    def prior(self, holder):
        """How often each combination is, were columns independent: from the counts per bin that the bank has."""
        counts = [np.bincount(self.trained[holder][:, j], minlength=BINS) / N for j in range(WIDTH)]
        return np.prod([c[self.every[:, j]] for j, c in enumerate(counts)], axis=0)

    def bits(self, holder):
        """Sides of all splits of the model, for every combination (k, combinations) and for the rows (k, n)."""
        splits = [s for tree in self.model.trees_of(holder) for s in tree.splits if s.side == "holder"]
        asked = sorted({(s.column, s.codes) for s in splits})
        table = np.array([np.isin(self.every[:, column], codes) for column, codes in asked])
        truth = np.array([np.isin(self.codes[holder][:, column], codes) for column, codes in asked])
        return table, truth

    def accuracy(self, holder, weight):
        """Share of bits that are right, given how likely each combination is for each row (n, combinations)."""
        table, truth = self.bits(holder)
        total = weight.sum(axis=1, keepdims=True)
        weight = np.where(total > 0, weight / np.maximum(total, 1e-30), self.prior(holder))
        return (((weight @ table.T).T > 0.5) == truth).mean()

    def from_parts(self, holder, found):
        """Given what is claimed to be the holder's part of each total."""
        possible = self.possible(holder)
        distance = (possible - np.asarray(found)[:, None] + SCORE_T // 2) % SCORE_T - SCORE_T // 2
        return self.accuracy(holder, self.prior(holder) * (distance == 0))

    def from_totals(self, holder, totals):
        """The best use of totals alone: every pair of combinations of two holders that adds up to the total."""
        (other,) = [h for h in self.holders if h != holder]
        rest = totals - self.model.base_points
        mine, theirs = self.possible(holder), self.possible(other)
        weight = np.zeros_like(mine, dtype=float)
        for i in range(self.n):
            order = np.argsort(theirs[i])
            summed = np.concatenate([[0.0], np.cumsum(self.prior(other)[order])])
            wanted, values = rest[i] - mine[i], theirs[i][order]
            low, high = np.searchsorted(values, wanted, "left"), np.searchsorted(values, wanted, "right")
            weight[i] = summed[high] - summed[low]
        return weight * self.prior(holder)


@pytest.fixture(scope="module")
def two_holders():
    return Scored(("tax", "registry"))


def test_transcripts_of_scoring_tell_no_more_of_a_holder_than_totals_do(two_holders):
    """Totals are what the bank is meant to get: their best use is the guess that its other words must not beat."""
    totals, shared, partials = two_holders.score()
    weight = two_holders.from_totals("tax", totals)
    guessed = two_holders.accuracy("tax", weight)
    blind = two_holders.accuracy("tax", np.tile(two_holders.prior("tax"), (two_holders.n, 1)))
    # its shares of the part, with what the coordinator got from the holder too
    for claimed in (shared["tax"], shared["tax"] + partials["tax"]):
        assert two_holders.from_parts("tax", claimed) <= blind + POINTS
    table, truth = two_holders.bits("tax")
    likely = (weight @ table.T).T / np.maximum(weight.sum(axis=1), 1e-30)
    words = np.array([*shared.values(), *partials.values(), totals]) / SCORE_T
    known = np.arange(two_holders.n) % 5 == 0
    learnt = [
        (learn([b, one_hot(two_holders.codes["bank"], 8)], [words], known, bits) == bits)[~known].mean()
        for b, bits in zip(likely, truth, strict=True)
    ]
    assert np.mean(learnt) <= guessed + POINTS


def test_partials_without_shares_of_zero_give_bins_away(two_holders, monkeypatch):
    """The bank with the coordinator, where the holders leave out their masks."""
    monkeypatch.setattr(scoring, "zero_share", lambda party, keys, context, n, modulus: np.zeros(n, np.uint64))
    totals, shared, partials = two_holders.score()
    accuracy = two_holders.from_parts("tax", shared["tax"] + partials["tax"])
    assert accuracy > max(0.8, two_holders.accuracy("tax", two_holders.from_totals("tax", totals)) + 0.05)


def from_improvements(run, improvements):
    """Likely bins (rows, bins) of one holder's only column on the validation rows; the bank knows every split.

    Each improvement is linear in the bins once g and h are known: in the first tree they are, later they are taken at
    the likely margins, twice over.
    """
    rows, bins = run.data.growth.validation, run.bins["tax"]
    target, own = run.data.target[rows], run.codes["bank"][rows]
    n = int(rows.sum())
    train = run.codes["tax"][~rows, 0], run.data.target[~rows]
    prior = np.array([np.bincount(train[0][train[1] == y], minlength=bins) / (train[1] == y).sum() for y in (0, 1)])
    prior = prior[target]
    every = {"bank": np.repeat(own, bins, axis=0), "holder": np.tile(np.arange(bins, dtype=np.uint8), n)[:, None]}
    n_codes = {"bank": run.n_codes("bank"), "holder": run.n_codes("tax")}
    values = np.array([tree_values(t, every, n_codes, np.array(t.weights)).reshape(n, bins) for t in run.trees])
    likely = prior
    for _ in range(2):
        margin = run.data.base + np.concatenate([np.zeros((1, n)), np.cumsum((values * likely).sum(axis=2), axis=0)])
        p = 1 / (1 + np.exp(-margin[:-1, :, None]))
        a = -((p - target[:, None]) * values + p * (1 - p) * values**2 / 2)
        spread = a * prior - prior * (a * prior).sum(axis=2, keepdims=True)  # a times the covariance of a row's bins
        flat, around = a.reshape(len(a), -1), spread.reshape(len(a), -1)
        noise = 1e-4 * np.trace(flat @ around.T) / len(a) * np.eye(len(a))
        gain = np.linalg.solve(flat @ around.T + noise, np.array(improvements) - flat @ prior.ravel())
        likely = prior + (gain @ around).reshape(n, bins)
    return likely


def test_improvements_tell_the_bank_no_bins_of_one_holder():
    """With one holder, and scores of the hold-out refused, one number a tree is all there is of rows."""
    bins, validation = {"bank": 8, "tax": 8}, np.arange(N) % 4 == 0
    codes, target = drawn(N, {"bank": 3, "tax": 1}, bins, {"bank": [2.0], "tax": [6.0]}, 6)
    run = record(codes, bins, target, growth(N, trees=30, depth=3, rate=0.2, validation=validation))
    improvements = run.found["bank"].improvements
    assert len(improvements) == 30
    likely, truth = from_improvements(run, improvements), codes["tax"][validation, 0]
    asked = sorted({s.codes for t in run.trees for s in t.splits if s.side == "holder"})
    right = [((likely[:, list(k)].sum(axis=1) > 0.5) == np.isin(truth, k)).mean() for k in asked]
    assert len(asked) > 3
    assert np.mean(right) <= np.mean([guess(target[validation], np.isin(truth, k)) for k in asked]) + POINTS


def test_with_one_holder_totals_are_its_part():
    """What `holdout_scores: refuse` and the release ledger are for."""
    one = Scored(("tax",))
    totals, _, _ = one.score()
    assert one.from_parts("tax", totals - one.model.base_points) > 0.8
