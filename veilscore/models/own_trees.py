"""Grows boosted trees on the bank's own columns, in the clear: the score that chains of holders add to.

Source: Chen and Guestrin 2016 (XGBoost), by histograms; splits as in `split_search.py`. Nothing leaves the bank.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from veilscore.arrays import CodeArray, Integers, Mask, Vector
from veilscore.kernels import kernel
from veilscore.models.boosting_form import Growth, HolderColumns, rank_codes
from veilscore.models.counts import offsets
from veilscore.models.loss import sigmoid
from veilscore.models.split_search import FoundSplit, best_split, child_bounds, left_codes
from veilscore.models.trees import Split, Tree


@dataclass(frozen=True)
class OwnTrees:
    """The bank's trees, and the fall of the validation loss by each of all that were grown."""

    trees: tuple[Tree, ...]
    improvements: tuple[float, ...]


def grow_own(
    party: str, codes: CodeArray, own: HolderColumns, target: Integers, weight: Vector, base: float, growth: Growth
) -> OwnTrees:
    """Boost trees on one party's columns.

    codes : (n, d) codes of the training rows, validation rows included.
    own : ranks of its codes.
    target, weight : (n,) labels in {0, 1} and weights.
    base : log-odds of bad before the first tree.
    """
    rows = _Rows(rank_codes(codes, own), own, ~growth.validation)
    margin, draw = np.full(target.size, base), np.random.default_rng(growth.seed)
    trees, improvements = list[Tree](), list[float]()
    for _ in range(growth.n_estimators):
        if _no_better(improvements, growth.early_stopping_rounds):
            break
        p = sigmoid(margin)
        gradients = np.stack([weight * (p - target), weight * p * (1 - p)], axis=1)
        tree, value = _Growing(party, rows, gradients, growth, draw).grow()
        if growth.validation.any():
            held = growth.validation
            before, after = (_loss(m[held], target[held], weight[held]) for m in (margin, margin + value))
            improvements.append(before - after)
        margin += value
        trees.append(tree)
    if growth.early_stopping_rounds and improvements:
        trees = trees[: 1 + int(np.argmax(np.cumsum(improvements)))]
    return OwnTrees(tuple(trees), tuple(improvements))


def _no_better(improvements: list[float], rounds: int) -> bool:
    return bool(rounds) and len(improvements) - 1 - int(np.argmax(np.cumsum(improvements or [0.0]))) >= rounds


def _loss(margin: Vector, target: Integers, weight: Vector) -> float:
    return float((weight * (np.logaddexp(0.0, margin) - target * margin)).sum())


@dataclass(frozen=True, eq=False)
class _Rows:
    """Ranked codes (n, d) of all rows, the columns, and which rows are grown on (n,)."""

    codes: CodeArray
    own: HolderColumns
    grown: Mask


@dataclass(eq=False)
class _Node:
    """A node while its tree grows: its rows (m,), their sums by cell (cells, 2), and the split it may get."""

    number: int
    depth: int
    rows: Integers
    sums: Vector
    bounds: tuple[float, float]
    found: FoundSplit | None = None
    total: tuple[float, float] = field(default=(0.0, 0.0))


class _Growing:
    """One tree: nodes are numbered as they are made; `splits` maps an inner node to its split and children."""

    def __init__(self, party: str, rows: _Rows, gradients: Vector, growth: Growth, draw: np.random.Generator) -> None:
        self.party, self.rows, self.gradients, self.growth = party, rows, gradients, growth
        ranked = rows.own.ranked
        d = ranked.n_codes.size
        kept = max(1, round(growth.colsample_bytree * d))
        self.chosen = ranked.chosen(np.sort(draw.permutation(d)[:kept]).astype(np.int64))
        drawn = draw.random(rows.grown.size) < growth.subsample if growth.subsample < 1 else True
        self.first = offsets(ranked.n_codes)[:-1]
        self.used = np.flatnonzero(rows.grown & drawn)
        self.splits: dict[int, tuple[Split, int, int]] = {}
        self.leaves: dict[int, tuple[float, float]] = {}
        self.value = np.zeros(rows.grown.size)
        self.node_of = np.zeros(rows.grown.size, np.int64)  # every row's node, for the values of rows not grown on
        self.count = 1

    def grow(self) -> tuple[Tree, Vector]:
        """Split until nothing gains or the tree is full; return it and its value of every row (n,)."""
        growth = self.growth
        most = growth.max_leaves or max(2, self.used.size)
        whole = (-np.inf, np.inf)
        g, h = self.gradients[self.used].sum(axis=0).tolist()
        waiting = self._candidates([_Node(0, 0, self.used, self._sums(self.used), whole, total=(g, h))])
        n_leaves = 1
        while waiting:
            waiting.sort(key=lambda node: -node.found.gain if node.found else 0.0)
            count = min(1 if growth.leaf_wise else len(waiting), most - n_leaves)
            batch, waiting = waiting[:count], waiting[count:]
            if not batch:
                break
            n_leaves += len(batch)
            fresh = [child for node in batch for child in self._split(node)]
            if not growth.leaf_wise:
                for node in waiting:
                    self._leaf(node)
                waiting = []
            waiting += self._candidates(fresh)
        for node in waiting:
            self._leaf(node)
        return self._tree()

    def _candidates(self, nodes: list[_Node]) -> list[_Node]:
        """Find the split of each node; one that has none becomes a leaf."""
        found = []
        for node in nodes:
            g, h = np.ascontiguousarray(node.sums[self.chosen.cells].T)
            if self.growth.max_depth == 0 or node.depth < self.growth.max_depth:
                node.found = best_split(
                    self.rows.own.ranked, self.chosen, (g, h), node.total, self.growth.rules, node.bounds
                )
            if node.found is None:
                self._leaf(node)
            else:
                found.append(node)
        return found

    def _split(self, node: _Node) -> list[_Node]:
        """Make the two children; the sums of the larger are those of the node less those of the smaller."""
        found = node.found
        if found is None:
            return []
        ranked = self.rows.own.ranked
        ranks = left_codes(ranked, found)
        goes_left = np.zeros(int(ranked.n_codes[found.column]), bool)
        goes_left[list(ranks)] = True
        left, right = self.count, self.count + 1
        self.count += 2
        split = Split(
            side="bank",
            column=found.column,
            codes=self.rows.own.unrank(found.column, ranks),
            left=0,
            right=0,
            gain=found.gain,
            cover=node.total[1],
        )
        self.splits[node.number] = split, left, right
        here = np.flatnonzero(self.node_of == node.number)
        self.node_of[here] = np.where(goes_left[self.rows.codes[here, found.column]], left, right)
        ways = goes_left[self.rows.codes[node.rows, found.column]]
        parts = node.rows[ways], node.rows[~ways]
        small = 0 if parts[0].size <= parts[1].size else 1
        sums = self._sums(parts[small])
        both = (sums, node.sums - sums) if small == 0 else (node.sums - sums, sums)
        limits = child_bounds(found, node.bounds, self.growth.rules)
        return [
            _Node(number, node.depth + 1, part, cells, bounds, total=total)
            for number, part, cells, bounds, total in zip(
                (left, right), parts, both, limits, (found.left, found.right), strict=True
            )
        ]

    def _leaf(self, node: _Node) -> None:
        rules = self.growth.rules
        self.leaves[node.number] = rules.learning_rate * rules.weight(*node.total, node.bounds), node.total[1]

    def _sums(self, rows: Integers) -> Vector:
        out = np.zeros((self.rows.own.ranked.n_cells, 2))
        _add(self.rows.codes, self.first, rows, self.gradients, out)
        return out

    def _tree(self) -> tuple[Tree, Vector]:
        inner = {number: k for k, number in enumerate(self.splits)}
        leaves = sorted(self.leaves)
        place = {number: -1 - i for i, number in enumerate(leaves)} | inner
        splits = tuple(
            split.model_copy(update={"left": place[left], "right": place[right]})
            for split, left, right in self.splits.values()
        )
        weights = tuple(self.leaves[number][0] for number in leaves)
        covers = tuple(self.leaves[number][1] for number in leaves)
        by_node = np.zeros(self.count)
        by_node[leaves] = weights
        return Tree(holder=self.party, splits=splits, weights=weights, covers=covers), by_node[self.node_of]


@kernel(
    "(u1[:,::1], i8[::1], i8[::1], f8[:,::1], f8[:,::1])",
    "(u2[:,::1], i8[::1], i8[::1], f8[:,::1], f8[:,::1])",
)
def _add(codes: CodeArray, first: Integers, rows: Integers, values: Vector, out: Vector) -> None:
    """Add both values of every row to its cells."""
    for i in rows:
        for j in range(codes.shape[1]):
            cell = first[j] + np.int64(codes[i, j])
            out[cell, 0] += values[i, 0]
            out[cell, 1] += values[i, 1]
