"""Where the splits of a level are searched: every threshold at once, or a few of each column and then those around.

Source   : `sealed_argmax.py`; docs/adr/0029. Messages, assumptions and aborts: `boosting.py`.
Reveals  : What `sealed_argmax.py` reveals; where a few thresholds are compared first, also to the owner of a split the
           one that it was refined from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from veilscore.arrays import Integers, Mask, Words
from veilscore.crypto import shares
from veilscore.models.boosting_form import HolderColumns
from veilscore.models.split_search import Ranked
from veilscore.protocols.bit_products import BitKeys, bit_products
from veilscore.protocols.boosting_nodes import GrowingNode
from veilscore.protocols.sealed_argmax import Winners
from veilscore.protocols.sealed_gain import GainRule, Sums
from veilscore.wire.protocol import Protocol

_FEW = 10  # at most so many thresholds of a column are compared first, of the usual 31
MAX_AROUND = 63  # more than are compared then of any column: of the most bins that one has, 64, these are 11


def coarse_step(count: int) -> int:
    """Return each which threshold of a column is compared first, for a number of thresholds."""
    return -(-(count + 1) // (_FEW + 1))


@dataclass(frozen=True, eq=False)
class Candidates:
    """Splits that one side offers: with missing values right, then left, thresholds in the order of the ranks.

    columns, codes : (k,) column and last ranked code that goes left.
    missing_left : (k,) bool.
    """

    columns: Integers
    codes: Integers
    missing_left: Mask

    @classmethod
    def of(cls, ranked: Ranked, chosen: Integers) -> Candidates:
        """All candidates of the chosen columns."""
        columns, codes, left = list[int](), list[int](), list[bool]()
        for j in chosen.tolist():
            bins, missing = int(ranked.n_codes[j] - ranked.missing[j]), bool(ranked.missing[j])
            runs = [(bins if missing else bins - 1, False)] + ([(bins - 1, True)] if missing else [])
            for count, goes in runs:
                columns += [j] * count
                codes += range(count)
                left += [goes] * count
        return cls(np.array(columns, np.int64), np.array(codes, np.int64), np.array(left, bool))

    def some(self, numbers: Integers) -> Candidates:
        """Return those of some numbers."""
        return Candidates(self.columns[numbers], self.codes[numbers], self.missing_left[numbers])

    def left_sums(self, cells: Words, ranked: Ranked) -> Words:
        """Share modulo T of the sums that would go left: (2, cells) to (2, k)."""
        first = np.concatenate(([0], np.cumsum(ranked.n_codes)))
        zero = np.zeros((2, 1), np.uint64)
        low = np.concatenate([zero, np.cumsum(cells & np.uint64((1 << 30) - 1), axis=1)], axis=1)
        high = np.concatenate([zero, np.cumsum(cells >> np.uint64(30), axis=1)], axis=1)
        start, end = first[self.columns], first[self.columns] + self.codes + 1
        missing = np.where(self.missing_left, first[self.columns + 1] - 1, 0)
        extra = np.where(self.missing_left, cells[:, missing], np.uint64(0))
        return shares.add(shares.join_halves(low[:, end] - low[:, start], high[:, end] - high[:, start]), extra)

    def split(self, candidate: int, columns: HolderColumns) -> tuple[int, tuple[int, ...]]:
        """Column, and codes of the owner's map that go left."""
        column = int(self.columns[candidate])
        ranks = list(range(int(self.codes[candidate]) + 1))
        if self.missing_left[candidate]:
            ranks.append(int(columns.ranked.n_codes[column]) - 1)
        return column, columns.unrank(column, tuple(ranks))


@dataclass(frozen=True, eq=False)
class SplitSide:
    """The candidates of one side, and in which order they are compared.

    first : (f,) numbers of those compared first.
    around : (f, w) of each of these, numbers of those compared then; none (w = 0) where the first are all.
    """

    ranked: Ranked
    every: Candidates
    first: Integers
    around: Integers

    @classmethod
    def of(cls, ranked: Ranked, chosen: Integers, *, coarse: bool) -> SplitSide:
        """Return the candidates of the chosen columns; `coarse`: a few of each first."""
        every = Candidates.of(ranked, chosen)
        k = every.codes.size
        if not coarse or not k:
            return cls(ranked, every, np.arange(k), np.zeros((k, 0), np.int64))
        starts = np.flatnonzero(every.codes == 0)
        counts = np.diff(np.append(starts, k))
        steps = np.array([coarse_step(int(count)) for count in counts], np.int64)
        first, around, reach = list[int](), list[Integers](), int(steps.max()) - 1
        for start, count, step in zip(starts.tolist(), counts.tolist(), steps.tolist(), strict=True):
            for code in range(step - 1, count, step):
                first.append(start + code)
                # a column of fewer thresholds repeats its outermost ones, which changes no choice
                window = np.clip(np.arange(code - reach, code + reach + 1), code - step + 1, code + step - 1)
                around.append(start + np.clip(window, 0, count - 1))
        return cls(ranked, every, np.array(first, np.int64), np.array(around, np.int64))

    @property
    def width(self) -> int:
        """How many are compared around the best of the first ones."""
        return int(self.around.shape[1])


Argmax = Callable[[Any, GainRule, Sums], Protocol[Winners]]


@dataclass(frozen=True, eq=False)
class Search:
    """How the splits of a tree's levels are found, by either party.

    mine : number of this party's side: 0 the bank's, 1 the holder's.
    argmax, keys : this party's side of `sealed_argmax.py`.
    bits : secrets of bit products with the peer.
    rule : what both know about the comparison of so many candidates of each side.
    """

    sides: tuple[SplitSide, SplitSide]
    mine: int
    argmax: Argmax
    keys: Any
    bits: BitKeys
    rule: Callable[[int, int], GainRule]

    def best(self, nodes: list[GrowingNode]) -> Protocol[Winners]:
        """Return the best split of each node, this party's own by number among all of its candidates."""
        first = [side.every.some(side.first) for side in self.sides]
        left = np.concatenate([self._left(nodes, k, first[k]) for k in (0, 1)], axis=2)
        found = yield from self.argmax(
            self.keys, self.rule(first[0].codes.size, first[1].codes.size), _sums(nodes, left)
        )
        own = self.sides[self.mine]
        if max(side.width for side in self.sides) <= 1:
            return Winners(found.splits, found.mine, _numbers(own.first, found.candidate, found.mine))
        return (yield from self._refined(nodes, found))

    def _refined(self, nodes: list[GrowingNode], found: Winners) -> Protocol[Winners]:
        """Compare the candidates around each node's best one.

        Only its owner knows which these are: it has a bit for each of the first ones, and the other party its shares of
        the sums around each, so bit products give shares of the sums around the best.
        """
        own, other = self.sides[self.mine], self.sides[1 - self.mine]
        mine, theirs = np.flatnonzero(found.mine), np.flatnonzero(found.splits & ~found.mine)
        best = found.candidate[mine]
        bits = best[:, None] == np.arange(own.first.size)
        values = self._left([nodes[i] for i in theirs], 1 - self.mine, other.every)[:, :, other.around]
        values = values.transpose(0, 3, 1, 2).reshape(2 * other.width, theirs.size * other.first.size)
        taken, given = yield from bit_products(self.bits, bits.reshape(-1), 2 * own.width, values)
        chosen = own.around[best]
        left = self._left([nodes[i] for i in mine], self.mine, own.every)
        left = shares.add(_picked(taken, mine.size, own), np.take_along_axis(left, chosen[None], axis=2))
        parts = {self.mine: (mine, left), 1 - self.mine: (theirs, _picked(given, theirs.size, other))}
        splits, candidate = found.splits.copy(), np.full(len(nodes), -1, np.int64)
        for side in (0, 1):
            some, sums = parts[side]
            if some.size:
                rule = self.rule(*((self.sides[0].width, 0) if side == 0 else (0, self.sides[1].width)))
                won = yield from self.argmax(self.keys, rule, _sums([nodes[i] for i in some], sums))
                splits[some] = won.splits
                if side == self.mine:
                    candidate[some[won.mine]] = chosen[won.mine, won.candidate[won.mine]]
        return Winners(splits, candidate >= 0, candidate)

    def _left(self, nodes: list[GrowingNode], side: int, candidates: Candidates) -> Words:
        """Share (2, nodes, k) of the sums of g and h that candidates of one side would send left."""
        at = self.sides[0].ranked.n_cells
        own = slice(0, at) if side == 0 else slice(at, None)
        parts = [candidates.left_sums(node.cells[:, own], self.sides[side].ranked) for node in nodes]
        return np.stack(parts, axis=1) if parts else np.zeros((2, 0, candidates.codes.size), np.uint64)


def _picked(products: Words, n_nodes: int, side: SplitSide) -> Words:
    """Add up the products of each node: (2 w, nodes f) to (2, nodes, w)."""
    total = shares.sum_shares(products.reshape(2 * side.width, n_nodes, side.first.size))
    return total.reshape(2, side.width, n_nodes).transpose(0, 2, 1)


def _numbers(first: Integers, candidate: Integers, mine: Mask) -> Integers:
    found = np.full(candidate.size, -1, np.int64)
    found[mine] = first[candidate[mine]]
    return found


def _sums(nodes: list[GrowingNode], left: Words) -> Sums:
    """One party's shares of candidates (2, nodes, k), and of the nodes."""
    totals = np.stack([shares.sum_shares(node.vectors) for node in nodes], axis=1)
    return Sums(np.ascontiguousarray(left[0]), np.ascontiguousarray(left[1]), totals[0], totals[1])
