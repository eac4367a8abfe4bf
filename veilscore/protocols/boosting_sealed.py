"""Grows one tree of joint boosting with nothing opened but its leaves: splits are chosen on shares; both roles.

Source   : `sealed_argmax.py`, `boosting_search.py`; docs/adr/0007. Messages, assumptions and aborts: `boosting.py`.
Reveals  : Each party learns which nodes split, on whose column, and its own splits; the bank two sums a leaf.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from veilscore.arrays import Integers, Mask, Words
from veilscore.crypto import shares
from veilscore.lattice.product import OPENINGS
from veilscore.models.boosting_form import EXACT_BITS, SCALE, Growth
from veilscore.models.split_search import Ranked
from veilscore.models.trees import Split, Tree
from veilscore.protocols.bit_products import BitKeys
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
from veilscore.protocols.boosting_search import MAX_AROUND, Argmax, Candidates, Search, SplitSide
from veilscore.protocols.boosting_shares import BankShares, HolderShares
from veilscore.protocols.sealed_argmax import BankKeys, HolderKeys, Winners, bank_argmax, holder_argmax, openings
from veilscore.protocols.sealed_gain import GainRule
from veilscore.v1 import boosting_pb2 as pb
from veilscore.wire.protocol import Protocol, Send, receive, receive_parts, send_parts


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


def search_of(
    growth: Growth,
    ranked: tuple[Ranked, Ranked],
    columns: tuple[Integers, Integers],
    mine: int,
    argmax: Argmax,
    keys: BankKeys | HolderKeys,
    bits: BitKeys,
) -> Search:
    """Return how one tree's splits are found: the bank's side first; `mine` is this party's."""
    sides = (
        SplitSide.of(ranked[0], columns[0], coarse=growth.coarse),
        SplitSide.of(ranked[1], columns[1], coarse=growth.coarse),
    )
    return Search(sides, mine, argmax, keys, bits, lambda n_bank, n_holder: gain_rule(growth, n_bank, n_holder))


def trees_of_keys(growth: Growth, n_cells: int) -> int:
    """Trees that one set-up of `sealed_argmax` serves at least, whatever is split: its keys open so much and no more.

    n_cells : codes of all columns of both sides.
    """
    candidates = 2 * n_cells  # a threshold at each code, missing values on either side
    around = 2 * min(n_cells, MAX_AROUND) if growth.coarse else 0  # of both sides, compared by themselves
    tree = sum(openings(candidates, 1 << depth) + openings(around, 1 << depth) for depth in range(growth.max_depth))
    return max(1, OPENINGS // max(1, tree))


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
        keys: BankKeys = self.bank.sealed[self.holder]
        ranked = self.own.ranked, self.bank.holder_ranked[self.holder]
        search = search_of(self.growth, ranked, self.columns, 0, bank_argmax, keys, self.bank.bits[self.holder])
        mine = search.sides[0].every
        yield from self._sum_cells([self.root])
        frontier, ended = [self.root], list[GrowingNode]()
        for depth in range(1, self.growth.max_depth + 1):
            winners = yield from search.best(frontier)
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
        own, keys = holder.columns, holder.sealed
        ranked = holder.bank_ranked, own.ranked
        search = search_of(growth, ranked, self.columns, 1, holder_argmax, keys, holder.bits)
        mine = search.sides[1].every
        yield from self._sum_cells([self.root])
        frontier, ended = [self.root], list[GrowingNode]()
        for depth in range(1, growth.max_depth + 1):
            winners = yield from search.best(frontier)
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
