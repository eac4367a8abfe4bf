"""Flatten all trees of a model with one holder, so that one record takes a few array operations.

Splits and leaves are numbered through, tree by tree. A condition "split k goes this way" is an entry; a target (a node,
a leaf, an indicator) is met where all its entries are. Every target begins with one entry on a split that does not
exist and always goes left, so that none is empty.

Explanations: E[node] is the mean of the leaf points below a node, weighted with cover. A split whose way is known
counts with P(node) (E[child] - E[node]), where P(node) is 0 or 1 for known splits on the path and the share of cover
for unknown ones. These contributions add up to the mean of the tree over what is not known, less E[root].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from veilscore.arrays import CodeArray, Integers, Mask, Vector, Words
from veilscore.models.trees import Tree, left_table


class Paths:
    """Keeps targets and the conditions on the way to them."""

    def __init__(self, targets: Iterable[Sequence[tuple[int, bool]]], n_splits: int) -> None:
        rows = [[(n_splits, True), *path] for path in targets]
        entries = [entry for row in rows for entry in row]
        self._split = np.array([k for k, _ in entries], dtype=np.int64)
        self._left = np.array([left for _, left in entries], dtype=bool)
        self._start = np.cumsum([0, *map(len, rows)])[:-1].astype(np.int64)

    def met(self, left: Mask) -> Mask:
        """Return which targets are reached, by the way of each split (n_splits,): (n_targets,)."""
        if not self._start.size:
            return np.zeros(0, bool)
        ways = np.append(left, True)
        reached: Mask = np.logical_and.reduceat(ways[self._split] == self._left, self._start)
        return reached

    def chance(self, share_left: Vector) -> Vector:
        """Return the chance of each target, by the chance that each split goes left (n_splits,): (n_targets,)."""
        if not self._start.size:
            return np.zeros(0)
        ways = np.append(share_left, 1.0)[self._split]
        product: Vector = np.multiply.reduceat(np.where(self._left, ways, 1.0 - ways), self._start)
        return product


class SplitTable:
    """Tells which way a record's codes go at each of one side's splits."""

    def __init__(self, trees: Sequence[Tree], side: str, n_codes: Integers) -> None:
        splits = [split for tree in trees for split in tree.splits]
        self.numbers = np.array([k for k, s in enumerate(splits) if s.side == side], dtype=np.int64)
        mine = [splits[k] for k in self.numbers]
        self.columns = np.array([s.column for s in mine], dtype=np.int64)
        self._rows = np.arange(len(mine))
        self._table = left_table(mine, n_codes)

    def left(self, codes: CodeArray) -> Mask:
        """Return which of the splits a record (n_columns,) goes left at."""
        ways: Mask = self._table[self._rows, codes[self.columns]]
        return ways


class HolderBits:
    """Gives a holder's indicators e_s of one record, from its part of the model and the codes (d,) of its columns."""

    def __init__(self, trees: Sequence[Tree], n_codes: Integers) -> None:
        self._splits = SplitTable(trees, "holder", n_codes)
        self._n_splits = sum(len(tree.splits) for tree in trees)
        targets = []
        for first, tree in _numbered(trees):
            above = _above(tree)
            for k in tree.holder_splits:
                own = [(j, left) for j, left in (*above[k], (k, True)) if tree.splits[j].side == "holder"]
                targets.append([(first + j, left) for j, left in own])
        self._paths = Paths(targets, self._n_splits)

    def of(self, codes: CodeArray) -> Words:
        """Return the indicators (n_bits,) as 0 and 1, of one record's codes (n_columns,)."""
        left = np.zeros(self._n_splits, bool)
        left[self._splits.numbers] = self._splits.left(codes)
        return self._paths.met(left).astype(np.uint64)


@dataclass(frozen=True, repr=False)
class BankRecord:
    """One record in the trees with one holder, as far as the bank knows it; in units.

    constant : what needs nothing of the holder.
    factors : (n_bits,) of the holder's indicators.
    lowest, highest, expected : of the sum of factors and indicators; the last for the average firm of training.
    """

    constant: int
    factors: Integers
    lowest: int
    highest: int
    expected: int


class BankTrees:
    """The bank's side of all trees with one holder.

    trees : whole, in the order of the model.
    points : units of each tree's leaves.
    n_codes, holder_n_codes : (d,), codes of the bank's columns and of the holder's.
    """

    def __init__(
        self, trees: Sequence[Tree], points: Sequence[Sequence[int]], n_codes: Integers, holder_n_codes: Integers
    ) -> None:
        self._n_splits = sum(len(tree.splits) for tree in trees)
        self.own = SplitTable(trees, "bank", n_codes)
        self.others = SplitTable(trees, "holder", holder_n_codes)
        self._points = np.array([p for tree_points in points for p in tree_points], dtype=np.int64)
        self._first_leaf = np.cumsum([0, *(tree.n_leaves for tree in trees)])[:-1].astype(np.int64)
        self.n_bits = int(self.others.numbers.size)
        self._compile(trees)
        self._expect(trees, points)

    def _compile(self, trees: Sequence[Tree]) -> None:
        """Collect the conditions of leaves and nodes, and which factors a leaf's points go to."""
        leaves, nodes = list[list[tuple[int, bool]]](), list[list[tuple[int, bool]]]()
        terms = list[tuple[int, int, int]]()
        bit = {int(k): i + 1 for i, k in enumerate(self.others.numbers)}
        for first, tree in _numbered(trees):
            nodes += [[(first + k, left) for k, left in path] for path in _above(tree)]
            paths = dict(tree.paths())
            for leaf in range(tree.n_leaves):
                path = [(first + k, left, tree.splits[k].side) for k, left in paths[leaf]]
                signs = {0: 1}  # as in `trees.coefficients`
                for k, left, side in path:
                    if side == "holder":
                        signs = {bit[k]: 1} if left else {**signs, bit[k]: -1}
                terms += [(len(leaves), to, sign) for to, sign in signs.items()]
                leaves.append([(k, left) for k, left, side in path if side == "bank"])
        self._leaves, self._nodes = Paths(leaves, self._n_splits), Paths(nodes, self._n_splits)
        self._terms = np.array(terms, dtype=np.int64).reshape(-1, 3).T

    def _expect(self, trees: Sequence[Tree], points: Sequence[Sequence[int]]) -> None:
        """Compute the mean points below each node's children, and the share of cover that goes left."""
        below, shares, self.mean = [], [], 0.0
        for tree, tree_points in zip(trees, points, strict=True):
            leaf_cover = _leaf_covers(tree)
            value = {-1 - leaf: float(p) for leaf, p in enumerate(tree_points)}
            cover = {-1 - leaf: c for leaf, c in enumerate(leaf_cover)}
            found = []
            for k in range(len(tree.splits) - 1, -1, -1):
                ways = tree.splits[k].left, tree.splits[k].right
                cover[k] = cover[ways[0]] + cover[ways[1]]
                share = cover[ways[0]] / cover[k] if cover[k] > 0 else 0.5
                value[k] = share * value[ways[0]] + (1 - share) * value[ways[1]]
                found.append((value[ways[0]] - value[k], value[ways[1]] - value[k], share))
            self.mean += value[0 if tree.splits else -1]
            below += [f[:2] for f in reversed(found)]
            shares += [f[2] for f in reversed(found)]
        self._gain = np.array(below, dtype=np.float64).reshape(-1, 2)
        self._share = np.array(shares, dtype=np.float64)

    def record(self, codes: CodeArray) -> BankRecord:
        """Return one record's constant, factors and bounds, by the bank's codes (n_columns,)."""
        left = np.zeros(self._n_splits, bool)
        left[self.own.numbers] = self.own.left(codes)
        reached = self._leaves.met(left)
        leaf, to, sign = self._terms
        # float64 is exact here: whole units far below 2**53
        weights = (sign * np.where(reached, self._points, 0)[leaf]).astype(np.float64)
        c = np.rint(np.bincount(to, weights, self.n_bits + 1)).astype(np.int64)
        far = np.iinfo(np.int64).max
        if not self._points.size:
            return BankRecord(0, c[1:], 0, 0, 0)
        low = np.minimum.reduceat(np.where(reached, self._points, far), self._first_leaf).sum()
        high = np.maximum.reduceat(np.where(reached, self._points, -far), self._first_leaf).sum()
        expected = self.mean + float(self.contributions([(self.own.numbers, left[self.own.numbers])]).sum())
        return BankRecord(int(c[0]), c[1:], int(low - c[0]), int(high - c[0]), round(expected - c[0]))

    def lost(self, codes: CodeArray, n_columns: int) -> Vector:
        """Return the units that a record of the bank (d,) loses against the average firm, by its columns."""
        out = np.zeros(n_columns)
        each = self.contributions([(self.own.numbers, self.own.left(codes))])[self.own.numbers]
        np.subtract.at(out, self.own.columns, each)
        return out

    def contributions(self, known: Sequence[tuple[Integers, Mask]]) -> Vector:
        """Return the contribution of each split (n_splits,) in units; 0 where its way is not known.

        known : numbers of splits and whether the record goes left at them.
        """
        share, is_known = self._share.copy(), np.zeros(self._n_splits, bool)
        for numbers, left in known:
            share[numbers], is_known[numbers] = left, True
        gain = np.where(share == 1.0, self._gain[:, 0], self._gain[:, 1])
        return np.where(is_known, self._nodes.chance(share) * gain, 0.0)


def _numbered(trees: Sequence[Tree]) -> Iterable[tuple[int, Tree]]:
    """Pair each tree with the number of its first split."""
    first = 0
    for tree in trees:
        yield first, tree
        first += len(tree.splits)


def _above(tree: Tree) -> list[list[tuple[int, bool]]]:
    """Return the splits on the way to each inner node, and whether it lies to their left."""
    above: list[list[tuple[int, bool]]] = [[] for _ in tree.splits]
    for k, split in enumerate(tree.splits):
        for child, left in ((split.left, True), (split.right, False)):
            if child >= 0:
                above[child] = [*above[k], (k, left)]
    return above


def _leaf_covers(tree: Tree) -> tuple[float, ...]:
    """Return the cover of each leaf; where it was not kept, what is left of the parent's, shared by its leaves."""
    if tree.covers or not tree.splits:
        return tree.covers or (1.0,)
    covers = [0.0] * tree.n_leaves
    for split in tree.splits:
        ways = split.left, split.right
        leaves = [-1 - way for way in ways if way < 0]
        rest = split.cover - sum(tree.splits[way].cover for way in ways if way >= 0)
        for leaf in leaves:
            covers[leaf] = max(rest, 0.0) / len(leaves)
    return tuple(covers)
