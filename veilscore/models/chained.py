"""Define a model of private trees as the bank files it: its own boosted trees, and a chain of small trees a holder.

A tree of a chain is a coded column of the holder times a cut of the bank: a leaf weight for each cell by the cut's
answer. For a row the bank adds up all trees on a column to a value for each cell; the holder has a bit for each cell
but the last. So a chain is scored as boosted trees are, with one tree for each column: `partition_tree`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from veilscore.arrays import CodeArray, Integers, Mask, Vector
from veilscore.errors import SchemaError
from veilscore.models.boosted import Boosted
from veilscore.models.model import Filed
from veilscore.models.tree_paths import BankRecord
from veilscore.models.trees import Split, Tree, coefficients, shapes_digest

Leaves = tuple[tuple[float, ...], tuple[float, ...]]  # of each cell, where the answer is no and where it is yes


class BankCut(Filed):
    """A question on the bank's own columns: the codes of a column for which the answer is yes, or a score's most.

    column : number of the column; -1 for the score of its own trees.
    codes : with a column, in the code map's numbers.
    most : with the score, the largest for which it is yes, in units.
    """

    column: int = Field(ge=-1)
    codes: tuple[int, ...] = ()
    most: int = 0

    def answers(self, codes: CodeArray, score: Integers) -> Mask:
        """Return the answer for rows (n,) with these codes (n, d) and scores (n,)."""
        if self.column < 0:
            return np.asarray(score <= self.most)
        table = np.zeros(256, bool)
        table[list(self.codes)] = True
        found: Mask = table[codes[:, self.column]]
        return found


class ChainTree(Filed):
    """A tree of a chain: log-odds of bad and noised sums of W of its leaves, and its gain."""

    column: int = Field(ge=0)
    cut: BankCut
    weights: Leaves
    covers: Leaves
    gain: float

    @model_validator(mode="after")
    def _leaves_of_the_same_cells(self) -> ChainTree:
        if len({len(part) for part in (*self.weights, *self.covers)}) != 1:
            raise ValueError("a tree's leaves are not those of one column's cells")
        return self


class Chained(Boosted):
    """The bank's own trees (of which it is the holder), and the chain of each holder.

    chains : holder -> trees, with weights in log-odds of bad.
    chain_points : holder -> units of the leaves of each tree.
    """

    format: Literal["veilscore-chained/1"] = "veilscore-chained/1"  # type: ignore[assignment]
    chains: dict[str, tuple[ChainTree, ...]]
    chain_points: dict[str, tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]]

    @model_validator(mode="after")
    def _points_of_all_chains(self) -> Chained:
        cells = {h: [(len(t.weights[0]),) * 2 for t in chain] for h, chain in self.chains.items()}
        points = {h: [(len(no), len(yes)) for no, yes in chain] for h, chain in self.chain_points.items()}
        if cells != points or set(self.holder_sha256) != set(cells):
            raise ValueError("points do not belong to the leaves of chains")
        for holder, chain in self.chains.items():
            n_codes = self.part(holder).n_codes
            if any(t.column >= n_codes.size or len(t.weights[0]) != n_codes[t.column] for t in chain):
                raise ValueError("a chain's tree is not on a column of its holder")
        return self

    @property
    def partners(self) -> set[str]:
        """Return the holders without whose part no row can be scored."""
        return set(self.chains)

    def columns_of(self, holder: str) -> tuple[int, ...]:
        """Return the coded columns that a chain uses, in order."""
        return tuple(sorted({tree.column for tree in self.chains[holder]}))

    def parts_of(self, holder: str) -> tuple[Tree, ...]:
        """Return the trees that a holder scores: one for each coded column that its chain uses."""
        return partition_trees(holder, self.columns_of(holder), self.part(holder).n_codes)

    def own_score(self, codes: CodeArray) -> Integers:
        """Return the sum of the bank's own trees for rows (n, d), without base points: (n,)."""
        total = np.zeros(codes.shape[0], np.int64)
        for tree, points in zip(self.trees, self.points, strict=True):
            total += coefficients(tree, np.array(points, np.int64), codes, self.parts[0].n_codes)[0]
        return total

    def factors(self, holder: str, chosen: Sequence[int], codes: CodeArray) -> tuple[Integers, Integers]:
        """Return the bank's value of rows at the last cells of columns (n,), and what the other cells add (bits, n)."""
        columns = self.columns_of(holder)
        wanted = {columns[place] for place in chosen}
        n_codes, score = self.part(holder).n_codes, self.own_score(codes)
        values = {column: np.zeros((int(n_codes[column]), codes.shape[0]), np.int64) for column in sorted(wanted)}
        answers: dict[BankCut, Integers] = {}
        for tree, points in zip(self.chains[holder], self.chain_points[holder], strict=True):
            if tree.column not in wanted:
                continue
            if tree.cut not in answers:
                answers[tree.cut] = tree.cut.answers(codes, score).astype(np.int64)
            values[tree.column] += np.array(points, np.int64).T[:, answers[tree.cut]]
        constant = np.sum([value[-1] for value in values.values()], axis=0)
        return constant, np.concatenate([value[:-1] - value[-1] for value in values.values()])

    def expected(self, holder: str, codes: CodeArray) -> tuple[Vector, float]:
        """Return the mean of a chain's units for rows (n, d) given the bank's answers (n,), and their variance.

        The partitions of a column are taken to go together, columns of the holder not to.
        """
        chain, score = self.chains[holder], self.own_score(codes)
        mean, effect = np.zeros(codes.shape[0]), dict[int, Vector]()
        cover = dict[int, Vector]()
        for tree, points in zip(chain, self.chain_points[holder], strict=True):
            units, weight = np.array(points, np.float64), np.maximum(np.array(tree.covers), 1e-9)
            answers = tree.cut.answers(codes, score).astype(np.int64)
            mean += ((units * weight).sum(axis=1) / weight.sum(axis=1))[answers]
            by_cell = (units * weight).sum(axis=0) / weight.sum(axis=0)
            effect[tree.column] = effect.get(tree.column, 0.0) + by_cell
            cover[tree.column] = cover.get(tree.column, 0.0) + weight.sum(axis=0)
        sources = sources_of([column.name for column in self.part(holder).columns])
        spread = np.zeros(int(sources.max()) + 1)
        for column, units in effect.items():
            share = cover[column] / cover[column].sum()
            spread[sources[column]] += np.sqrt(share @ (units - share @ units) ** 2)
        return mean, float((spread**2).sum())

    def extremes(self) -> tuple[int, int]:
        """Return the smallest and the largest total that the model allows, in units."""
        low, high = super().extremes()
        leaves = [[*no, *yes] for chain in self.chain_points.values() for no, yes in chain]
        return low + sum(map(min, leaves)), high + sum(map(max, leaves))

    def largest_units(self) -> int:
        """Return a bound of a total in units, which must fit the ring that totals are opened in."""
        leaves = ((*no, *yes) for chain in self.chain_points.values() for no, yes in chain)
        return super().largest_units() + sum(max(map(abs, points)) for points in leaves)


def sources_of(names: Sequence[str]) -> Integers:
    """Return which column each coded column is a partition of, by its name: "column#number" (d,)."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(map(source_name, names)))}
    return np.array([numbers[source_name(name)] for name in names], np.int64)


def card_places(names: Sequence[str], count: int) -> tuple[int, ...]:
    """Return the numbers of the coded columns that stand for a scorecard's: the first of each of `count` columns."""
    sources = sources_of(names)
    return tuple(int(np.flatnonzero(sources == source)[0]) for source in range(count))


def source_name(name: str) -> str:
    """Return the name of the column that a coded column is a partition of."""
    return name.rpartition("#")[0] or name


class BankChain:
    """The bank's side of one holder's chain, laid out so that one record takes a few array operations."""

    def __init__(self, model: Chained, holder: str) -> None:
        columns, n_codes = model.columns_of(holder), model.part(holder).n_codes
        sizes = n_codes[list(columns)]
        self._first, self._last = np.cumsum(sizes) - sizes, np.cumsum(sizes) - 1
        self.n_bits = int((sizes - 1).sum())
        chain, points = model.chains[holder], model.chain_points[holder]
        self._cuts = tuple(dict.fromkeys(tree.cut for tree in chain))
        number = {cut: k for k, cut in enumerate(self._cuts)}
        cut_of = np.array([number[tree.cut] for tree in chain])
        cells = [np.arange(len(tree.weights[0])) + self._first[columns.index(tree.column)] for tree in chain]
        self._cell, self._cut = np.concatenate(cells), np.repeat(cut_of, [part.size for part in cells])
        self._points = np.array([np.concatenate([p[side] for p in points]) for side in (0, 1)], np.int64)
        covers = [np.array(tree.covers) for tree in chain]
        chance = [one / np.maximum(one.sum(axis=1, keepdims=True), 1e-9) for one in covers]
        self._chance = np.concatenate(chance, axis=1)

    def record(self, codes: CodeArray, score: int) -> BankRecord:
        """Return one record's constant, factors and bounds, by the bank's codes (d,) and its own trees' score."""
        own = np.array([score])
        answers = np.array([cut.answers(codes[None], own)[0] for cut in self._cuts])[self._cut]
        value = np.where(answers, self._points[1], self._points[0])
        # float64 is exact here: whole units far below 2**53
        cells = np.rint(np.bincount(self._cell, value.astype(np.float64), self._last[-1] + 1)).astype(np.int64)
        constant = int(cells[self._last].sum())
        factors = np.delete(cells - np.repeat(cells[self._last], np.diff([*self._first, cells.size])), self._last)
        low, high = (int(end.reduceat(cells, self._first).sum()) for end in (np.minimum, np.maximum))
        expected = float((value * np.where(answers, self._chance[1], self._chance[0])).sum())
        return BankRecord(constant, factors, low - constant, high - constant, round(expected - constant))


def partition_tree(holder: str, column: int, n_cells: int) -> Tree:
    """Return what both parties know of all trees on one coded column: a question of the bank, then cell after cell.

    Its indicators are the bits "the row is in this cell", for all cells but the last.
    """
    inner = [
        Split(side="holder", column=column, codes=(cell,), left=-2 - cell, right=cell + 2)
        for cell in range(n_cells - 1)
    ]
    if inner:
        inner[-1] = inner[-1].model_copy(update={"right": -1 - n_cells})
    root = Split(side="bank", column=0, codes=(), left=1 if inner else -2, right=-1)
    return Tree(holder=holder, splits=(root, *inner), weights=())


def partition_trees(holder: str, columns: Sequence[int], n_codes: Integers) -> tuple[Tree, ...]:
    """Return the partition trees of some columns; SchemaError where one is not there."""
    if any(not 0 <= column < n_codes.size for column in columns):
        raise SchemaError("a chain uses a column that is not in this party's code map")
    return tuple(partition_tree(holder, column, int(n_codes[column])) for column in columns)


def chain_sha256(holder: str, columns: Sequence[int], n_codes: Integers) -> str:
    """Return the digest of a holder's part, which both sides find alike."""
    return shapes_digest(partition_trees(holder, columns, n_codes)).hex()
