"""Trees flattened for one record against the trees themselves."""

from __future__ import annotations

import numpy as np
import pytest
from random_trees import random_tree

from veilscore.errors import SchemaError
from veilscore.models.tree_paths import BankTrees, HolderBits, _leaf_covers
from veilscore.models.trees import coefficients, indicators, tree_values

N_CODES = {"bank": np.array([6, 3, 9]), "holder": np.array([5, 7, 4])}


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(5)
    kinds = [("bank", "holder")] * 8 + [("bank",), ("holder",)]
    trees = [random_tree(rng, "tax", N_CODES, sides=sides) for sides in kinds]
    trees.append(random_tree(rng, "tax", N_CODES, n_leaves=1))
    points = [rng.integers(-900, 900, tree.n_leaves).tolist() for tree in trees]
    codes = {p: np.stack([rng.integers(0, k, 200) for k in c], 1).astype(np.uint8) for p, c in N_CODES.items()}
    return trees, points, codes, BankTrees(trees, points, N_CODES["bank"], N_CODES["holder"])


def test_record_by_record_as_all_at_once(case):
    trees, points, codes, bank = case
    holder = HolderBits([tree.shape() for tree in trees], N_CODES["holder"])
    bits = np.concatenate([indicators(tree, codes["holder"], N_CODES["holder"]) for tree in trees])
    c = [coefficients(t, np.array(p), codes["bank"], N_CODES["bank"]) for t, p in zip(trees, points, strict=True)]
    total = sum(tree_values(t, codes, N_CODES, np.array(p)) for t, p in zip(trees, points, strict=True))
    for i in range(200):
        record, e = bank.record(codes["bank"][i]), holder.of(codes["holder"][i])
        assert np.array_equal(e, bits[:, i])
        assert record.constant == sum(one[0, i] for one in c)
        assert np.array_equal(record.factors, np.concatenate([one[1:, i] for one in c]))
        part = int(record.factors @ e.astype(np.int64))
        assert record.constant + part == total[i]
        assert record.lowest <= part <= record.highest


def test_contributions_add_up(case):
    """All ways known: to the value less the mean; none known: to nothing; in between: to the mean over the rest."""
    trees, points, codes, bank = case
    total = sum(tree_values(t, codes, N_CODES, np.array(p)) for t, p in zip(trees, points, strict=True))
    for i in range(50):
        own = bank.own.numbers, bank.own.left(codes["bank"][i])
        others = bank.others.numbers, bank.others.left(codes["holder"][i])
        assert bank.mean + bank.contributions([own, others]).sum() == pytest.approx(total[i])
        assert not bank.contributions([]).any()
        partly = bank.contributions([own])
        assert not partly[others[0]].any()
        assert bank.mean + partly.sum() == pytest.approx(expected_given_bank(trees, points, codes["bank"][i]))


def expected_given_bank(trees, points, codes):
    """Plain recursion: known splits followed, the holder's averaged by cover."""

    def value(tree, tree_points, covers, node):
        if node < 0:
            return float(tree_points[-1 - node]), covers[-1 - node]
        split = tree.splits[node]
        ways = [value(tree, tree_points, covers, way) for way in (split.left, split.right)]
        cover = ways[0][1] + ways[1][1]
        if split.side == "bank":
            return ways[0 if codes[split.column] in split.codes else 1][0], cover
        return (ways[0][0] * ways[0][1] + ways[1][0] * ways[1][1]) / cover, cover

    return sum(
        value(t, p, t.covers, 0 if t.splits else -1)[0] if t.splits else p[0]
        for t, p in zip(trees, points, strict=True)
    )


def test_covers_that_were_not_kept_are_shared(case):
    trees, *_ = case
    for tree in trees:
        bare = tree.model_copy(update={"covers": ()})
        assert sum(_leaf_covers(bare)) == pytest.approx(sum(tree.covers) if tree.splits else 1.0)


def test_a_split_outside_the_map_is_refused(case):
    trees, points, *_ = case
    with pytest.raises(SchemaError, match="code map"):
        HolderBits(trees, N_CODES["holder"][:1])
    with pytest.raises(SchemaError, match="code map"):
        BankTrees(trees, points, N_CODES["bank"] - 2, N_CODES["holder"])
