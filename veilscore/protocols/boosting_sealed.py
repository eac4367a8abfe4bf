"""Grows one tree of joint boosting with nothing opened but its leaves: splits are chosen on shares; both roles.

Source   : `sealed_argmax.py`; docs/adr/0007. Messages, assumptions and aborts: `boosting.py`.
Reveals  : Each party learns which nodes split, on whose column, and its own splits; the bank two sums a leaf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from veilscore.arrays import Integers, Mask, Words
from veilscore.crypto import shares
from veilscore.lattice.product import OPENINGS
from veilscore.models.boosting_form import EXACT_BITS, SCALE, Growth, HolderColumns
from veilscore.models.split_search import Ranked
from veilscore.models.trees import Split, Tree
from veilscore.protocols.boosting_nodes import (
    GrowingNode,
    check_vectors,
    keep_cells,
    members,
    rounded,
    subtract,
    together,
    tree_of,
)
from veilscore.protocols.boosting_shares import BankShares, HolderShares
from veilscore.protocols.sealed_argmax import BankKeys, HolderKeys, Winners, bank_argmax, holder_argmax, openings
from veilscore.protocols.sealed_gain import GainRule, Sums
from veilscore.v1 import boosting_pb2 as pb
from veilscore.wire.protocol import Protocol, Send, receive, receive_parts, send_parts


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


def gain_rule(growth: Growth, n_bank: int, n_holder: int) -> GainRule:
    """What both parties know about the comparison of one tree."""
    rows = float((~growth.validation).sum()) * growth.max_weight
    rules = growth.rules
    return GainRule(
        n_bank=n_bank,
        n_holder=n_holder,
        scale_bits=SCALE,
        max_g=rows,
        max_h=rows * 0.26,  # p (1 - p) <= 1/4 and the error of the series
        reg_lambda=rules.reg_lambda,
        min_child_weight=rules.least_h,
        gamma=rules.gamma,
    )


def trees_of_keys(growth: Growth, n_cells: int) -> int:
    """Trees that one set-up of `sealed_argmax` serves at least, whatever is split: its keys open so much and no more.

    n_cells : codes of all columns of both sides.
    """
    candidates = 2 * n_cells  # a threshold at each code, missing values on either side
    tree = sum(openings(candidates, 1 << depth) for depth in range(growth.max_depth))
    return max(1, OPENINGS // max(1, tree))


def _sums(nodes: list[GrowingNode], sides: tuple[tuple[Candidates, Ranked], tuple[Candidates, Ranked]]) -> Sums:
    """One party's shares of all candidates of a level."""
    at = sides[0][1].n_cells
    left = [
        np.concatenate(
            [
                sides[0][0].left_sums(node.cells[:, :at], sides[0][1]),
                sides[1][0].left_sums(node.cells[:, at:], sides[1][1]),
            ],
            axis=1,
        )
        for node in nodes
    ]
    stacked = np.stack(left, axis=1)
    totals = np.stack([shares.sum_shares(node.vectors) for node in nodes], axis=1)
    return Sums(stacked[0], stacked[1], totals[0], totals[1])


def _leaf_shares(leaves: list[GrowingNode]) -> Words:
    """Share (2, n_leaves) of g and h of the leaves, in the order of their numbers."""
    ordered = sorted(leaves, key=lambda node: node.number)
    return np.stack([shares.sum_shares(node.vectors) for node in ordered], axis=1)


class SealedBankTree:
    """Grows one tree at the bank."""

    def __init__(self, bank: BankShares, holder: str, columns: tuple[Integers, Integers], root: Words) -> None:
        self.bank, self.holder, self.columns = bank, holder, columns
        self.growth, self.rules = bank.growth, bank.growth.rules
        self.own = bank.data.own
        self.root = GrowingNode(0, root)
        self.next_number = 1
        self.records: list[tuple[int, int, int, Split]] = []

    def grow(self) -> Protocol[Tree]:
        """Split level by level on shares, then open the sums of the leaves."""
        other = self.bank.holder_ranked[self.holder]
        mine, theirs = Candidates.of(self.own.ranked, self.columns[0]), Candidates.of(other, self.columns[1])
        rule = gain_rule(self.growth, mine.codes.size, theirs.codes.size)
        keys: BankKeys = self.bank.sealed[self.holder]
        yield from self._sum_cells([self.root])
        frontier, ended = [self.root], list[GrowingNode]()
        for depth in range(1, self.growth.max_depth + 1):
            sides = ((mine, self.own.ranked), (theirs, other))
            winners = yield from bank_argmax(keys, rule, _sums(frontier, sides))
            plans = [self._plan(node, winners, i, mine) for i, node in enumerate(frontier) if winners.splits[i]]
            ended += [node for i, node in enumerate(frontier) if not winners.splits[i]]
            frontier = []
            if not plans:
                break
            computed = yield from self._members([(node, split) for node, split, _ in plans])
            for (node, _, numbers), vectors in zip(plans, computed, strict=True):
                left = GrowingNode(numbers[0], vectors)
                right = GrowingNode(numbers[1], subtract(node.vectors, vectors))
                frontier += [left, right]
            if depth < self.growth.max_depth:
                yield from self._sum_cells(frontier[::2])
                for (node, _, _), left, right in zip(plans, frontier[::2], frontier[1::2], strict=True):
                    right.cells = subtract(node.cells, left.cells)
        return (yield from self._weigh(ended + frontier))

    def _plan(
        self, node: GrowingNode, winners: Winners, i: int, mine: Candidates
    ) -> tuple[GrowingNode, Split, tuple[int, int]]:
        split = Split(side="holder", column=-1, codes=(), left=0, right=0)
        if winners.mine[i]:
            column, codes = mine.split(int(winners.candidate[i]), self.own)
            split = Split(side="bank", column=column, codes=codes, left=0, right=0)
        numbers = (self.next_number, self.next_number + 1)
        self.next_number += 2
        self.records.append((node.number, *numbers, split))
        return node, split, numbers

    def _weigh(self, leaves: list[GrowingNode]) -> Protocol[Tree]:
        """Leaf weights from the opened sums of the leaves; covers and gains of the splits from the same sums."""
        share = _leaf_shares(leaves)
        reply = yield from receive(self.holder, pb.BoostHolderSums)
        opened = shares.shares_from_bytes(reply.sums, share.shape)
        g, h = shares.open_rounded(share, opened, SCALE - EXACT_BITS, SCALE)
        tree, numbers = tree_of(self.holder, self.records)
        totals = {n: (float(g[k]), max(float(h[k]), 0.0)) for k, n in enumerate(numbers)}
        weights = tuple(self.rules.learning_rate * self.rules.weight(*totals[n], (-np.inf, np.inf)) for n in numbers)
        splits = list(tree.splits)
        for k in reversed(range(len(self.records))):
            node, left, right, _ = self.records[k]
            both = totals[left], totals[right]
            totals[node] = (both[0][0] + both[1][0], both[0][1] + both[1][1])
            gain = sum(self._score(*side) for side in both) - self._score(*totals[node])
            splits[k] = splits[k].model_copy(update={"gain": gain, "cover": totals[node][1]})
        covers = tuple(totals[n][1] for n in numbers)
        return tree.model_copy(update={"weights": weights, "covers": covers, "splits": tuple(splits)})

    def _score(self, g: float, h: float) -> float:
        return g * g / max(h + self.rules.reg_lambda, 1e-9)

    def _members(self, plans: list[tuple[GrowingNode, Split]]) -> Protocol[list[Words]]:
        rows = [self._goes(split) if split.side == "bank" else None for _, split in plans]
        vectors = [node.vectors for node, _ in plans]
        return (yield from members(self.bank.bits[self.holder], list(zip(vectors, rows, strict=True))))

    def _goes(self, split: Split) -> Mask:
        table = np.zeros(int(self.own.ranked.n_codes[split.column]), bool)
        table[list(split.codes)] = True
        goes: Mask = table[self.bank.data.codes[:, split.column]]
        return goes

    def _sum_cells(self, nodes: list[GrowingNode]) -> Protocol[None]:
        """Share the nodes' sums over the bank's cells and the holder's, some nodes at once."""
        bank, n_codes = self.bank, self.own.ranked.n_codes
        for some in together(nodes, bank.n):
            vectors = np.concatenate([node.vectors for node in some])
            bank_cells = np.zeros((vectors.shape[0], self.own.ranked.n_cells), np.uint64)
            holder_cells = np.zeros((vectors.shape[0], bank.holder_ranked[self.holder].n_cells), np.uint64)
            if self.columns[1].size:
                query, holder_cells = bank.vectors[self.holder].query(vectors)
                yield from send_parts(self.holder, pb.BoostBankVectors, query.pack())
            if self.columns[0].size:
                own = shares.cell_sums(bank.ranked_codes, n_codes, vectors)
                codes = bank.cells[self.holder]
                due = vectors.shape[0] * codes.query_bytes
                data = yield from receive_parts(self.holder, pb.BoostHolderVectors, due)
                share = codes.evaluate(codes.unpack(data))
                check_vectors(share, some, self.holder)
                bank_cells = shares.add(share, own)
            keep_cells(some, bank_cells, holder_cells)


class SealedHolderTree:
    """Follows one tree at the holder."""

    def __init__(self, holder: HolderShares, columns: tuple[Integers, Integers], root: Words) -> None:
        self.holder, self.columns, self.growth = holder, columns, holder.growth
        self.bank = holder.session.bank
        self.root = GrowingNode(0, root)
        self.next_number = 1
        self.records: list[tuple[int, int, int, Split]] = []

    def follow(self) -> Protocol[tuple[Tree, Any]]:
        """Do the holder's side of `SealedBankTree.grow`; return the tree, and the step that ended it."""
        holder, growth = self.holder, self.growth
        own, other = holder.columns, holder.bank_ranked
        theirs, mine = Candidates.of(other, self.columns[0]), Candidates.of(own.ranked, self.columns[1])
        rule = gain_rule(growth, theirs.codes.size, mine.codes.size)
        keys: HolderKeys = holder.sealed
        yield from self._sum_cells([self.root])
        frontier, ended = [self.root], list[GrowingNode]()
        for depth in range(1, growth.max_depth + 1):
            winners = yield from holder_argmax(keys, rule, _sums(frontier, ((theirs, other), (mine, own.ranked))))
            plans = []
            for i, node in enumerate(frontier):
                if not winners.splits[i]:
                    ended.append(node)
                    continue
                split, goes = Split(side="bank", column=0, codes=(), left=0, right=0), None
                if winners.mine[i]:
                    column, codes = mine.split(int(winners.candidate[i]), own)
                    split = Split(side="holder", column=column, codes=codes, left=0, right=0)
                    goes = self._goes(split)
                numbers = (self.next_number, self.next_number + 1)
                self.next_number += 2
                self.records.append((node.number, *numbers, split))
                plans.append((node, goes, numbers))
            frontier = []
            if not plans:
                break
            computed = yield from self._members([(node, goes) for node, goes, _ in plans])
            for (node, _, numbers), vectors in zip(plans, computed, strict=True):
                left = GrowingNode(numbers[0], vectors)
                right = GrowingNode(numbers[1], subtract(node.vectors, vectors))
                frontier += [left, right]
            if depth < growth.max_depth:
                yield from self._sum_cells(frontier[::2])
                for (node, _, _), left, right in zip(plans, frontier[::2], frontier[1::2], strict=True):
                    right.cells = subtract(node.cells, left.cells)
        share = _leaf_shares(ended + frontier)
        yield Send(self.bank, pb.BoostHolderSums(sums=shares.shares_to_bytes(rounded(share))))
        step = yield from receive(self.bank, pb.BoostBankLeaves)
        return tree_of(holder.session.party, self.records)[0], step

    def _goes(self, split: Split) -> Mask:
        table = np.zeros(int(self.holder.n_codes[split.column]), bool)
        table[list(split.codes)] = True
        goes: Mask = table[self.holder.codes[:, split.column]]
        return goes

    def _members(self, plans: list[tuple[GrowingNode, Mask | None]]) -> Protocol[list[Words]]:
        found = yield from members(self.holder.bits, [(node.vectors, goes) for node, goes in plans])
        return found

    def _sum_cells(self, nodes: list[GrowingNode]) -> Protocol[None]:
        holder = self.holder
        for some in together(nodes, holder.n):
            vectors = np.concatenate([node.vectors for node in some])
            bank_cells = np.zeros((vectors.shape[0], holder.bank_ranked.n_cells), np.uint64)
            holder_cells = np.zeros((vectors.shape[0], holder.columns.ranked.n_cells), np.uint64)
            if self.columns[0].size:
                query, bank_cells = holder.vectors.query(vectors)
                yield from send_parts(self.bank, pb.BoostHolderVectors, query.pack())
            if self.columns[1].size:
                own = shares.cell_sums(holder.ranked_codes, holder.n_codes, vectors)
                due = vectors.shape[0] * holder.cells.query_bytes
                data = yield from receive_parts(self.bank, pb.BoostBankVectors, due)
                share = holder.cells.evaluate(holder.cells.unpack(data))
                check_vectors(share, some, self.bank)
                holder_cells = shares.add(share, own)
            keep_cells(some, bank_cells, holder_cells)
