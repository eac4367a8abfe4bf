"""Grows one tree of joint boosting whose splits the bank chooses from noised sums; both roles.

Source   : design page, section 6; docs/protocols/boosting.md. Messages, reveals and aborts: `boosting.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from veilscore.arrays import Integers, Mask, Vector, Words
from veilscore.crypto import shares
from veilscore.errors import MessageError, RefusedError
from veilscore.models.boosting_form import EXACT_BITS, MAX_WIDTH, NOISE_MARGIN, ROUNDING_BITS, SCALE, SURE
from veilscore.models.split_search import (
    CELLS_PER_ROW,
    Coarse,
    FoundSplit,
    Ranked,
    best_split,
    child_bounds,
    left_codes,
)
from veilscore.models.trees import MAX_SPLITS, Split, Tree
from veilscore.protocols.boosting_nodes import (
    GrowingNode,
    check_vectors,
    keep_cells,
    members,
    noised,
    subtract,
    together,
    tree_of,
)
from veilscore.protocols.boosting_shares import BankShares, HolderShares
from veilscore.v1 import boosting_pb2 as pb
from veilscore.wire.protocol import Checkpoint, Protocol, Send, receive, receive_parts, send_parts


def opened_layout(
    nodes: list[Any], own: Ranked, other: Ranked, columns: tuple[Integers, Integers]
) -> tuple[list[tuple[Coarse | None, Coarse | None]], list[int]]:
    """Return the coarse cells of each node on both sides, and how many cells of each column all nodes open together."""
    layouts, totals = [], np.zeros(columns[0].size + columns[1].size, np.int64)
    for node in nodes:
        bank = own.coarse(node.bank_width, columns[0]) if node.bank_width else None
        holder = other.coarse(node.holder_width, columns[1]) if node.holder_width else None
        if bank is not None:
            totals[: columns[0].size] += bank.n_bins
        if holder is not None:
            totals[columns[0].size :] += holder.n_bins
        layouts.append((bank, holder))
    return layouts, [int(k) for k in totals if k]


def coarse_cells(cells: Words, layout: tuple[Coarse | None, Coarse | None], first_holder: int) -> Words:
    """Return the share (2, opened) of one node's opened sums, the bank's side first."""
    bank, holder = layout
    parts = []
    if bank is not None:
        parts.append(shares.merge_cells(cells, bank.starts, bank.ends))
    if holder is not None:
        parts.append(shares.merge_cells(cells, holder.starts + first_holder, holder.ends + first_holder))
    return np.concatenate(parts, axis=1)


class BankTree:
    """Grows one tree at the bank."""

    def __init__(
        self, bank: BankShares, holder: str, columns: tuple[Integers, Integers], root: Words, n_rows: int
    ) -> None:
        self.bank, self.holder, self.columns = bank, holder, columns
        self.growth = bank.growth
        noise = NOISE_MARGIN * self.growth.noise_rows * self.growth.max_weight
        self.rules = replace(self.growth.rules, noise=noise)
        self.own, self.other = bank.data.own, bank.data.columns[holder]
        self.root = GrowingNode(0, 0, root, least_rows=float(n_rows))
        self.next_number = 1
        self.records: list[tuple[int, int, int, Split]] = []
        self.leaves: dict[int, float] = {}

    def grow(self) -> Protocol[Tree]:
        """Open, choose and split until nothing gains; return the tree with its leaf weights."""
        growth = self.growth
        most = growth.max_leaves or 1 << growth.max_depth
        yield from self._sum_cells([self.root])
        fresh, candidates = [self.root], list[tuple[GrowingNode, FoundSplit]]()
        n_leaves = 1
        while fresh or candidates:
            candidates += yield from self._choose(fresh)
            candidates.sort(key=lambda item: -item[1].gain)
            count = max(0, min(1 if growth.leaf_wise else len(candidates), most - n_leaves))
            batch, candidates = candidates[:count], candidates[count:]
            n_leaves += len(batch)
            if not batch:
                for node, _ in candidates:
                    self._leaf(node)
                break
            if not growth.leaf_wise:
                for node, _ in candidates:
                    self._leaf(node)
                candidates = []
            fresh = yield from self._split(batch)
        tree, leaves = tree_of(self.holder, self.records)
        weights = tuple(self.leaves[number] for number in leaves)
        return tree.model_copy(update={"weights": weights})

    def _leaf(self, node: GrowingNode) -> None:
        rules = self.rules
        self.leaves[node.number] = rules.learning_rate * rules.weight(*node.total, node.weight_bounds)

    def _choose(self, nodes: list[GrowingNode]) -> Protocol[list[tuple[GrowingNode, FoundSplit]]]:
        """Open the sums of nodes and find their splits; a node that may open nothing, or gains nothing, is a leaf."""
        opened = [(node, self.bank.widths(self.holder, self.columns, node.least_rows)) for node in nodes]
        asked = [(node, widths) for node, widths in opened if any(widths)]
        for node, widths in opened:
            if not any(widths):
                self._leaf(node)
        message = pb.BoostBankStep(
            kind=pb.BoostBankStep.OPEN,
            nodes=[pb.BoostNode(node=n.number, bank_width=w[0], holder_width=w[1]) for n, w in asked],
        )
        layouts, cells = opened_layout(list(message.nodes), self.own.ranked, self.other.ranked, self.columns)
        accountant = self.bank.accountants[self.holder]
        if not asked or (self.growth.bounds and not accountant.allows(cells)):
            for node, _ in asked:
                self._leaf(node)
            return []
        accountant.charge(cells)
        yield Send(self.holder, message)
        first = self.own.ranked.n_cells
        mine = [coarse_cells(node.cells, layout, first) for (node, _), layout in zip(asked, layouts, strict=True)]
        reply = yield from receive(self.holder, pb.BoostHolderSums)
        width = sum(part.shape[1] for part in mine)
        theirs = shares.shares_from_bytes(reply.sums, (2, width))
        drop = SCALE - (ROUNDING_BITS if self.growth.noise_rows else EXACT_BITS)
        sums = shares.open_rounded(np.concatenate(mine, axis=1), theirs, drop, SCALE)
        found, at = [], 0
        for (node, _), layout, part in zip(asked, layouts, mine, strict=True):
            best = self._best(node, layout, sums[:, at : at + part.shape[1]])
            at += part.shape[1]
            if best is None:
                self._leaf(node)
            else:
                found.append((node, best))
        return found

    def _best(self, node: GrowingNode, layout: tuple[Coarse | None, Coarse | None], sums: Vector) -> FoundSplit | None:
        """Return the best split of one node, or None; also set its total, the mean over the opened columns."""
        sides = [
            (side, ranked, coarse)
            for side, ranked, coarse in zip(
                ("bank", "holder"), (self.own.ranked, self.other.ranked), layout, strict=True
            )
            if coarse is not None
        ]
        n_columns = sum(coarse.n_bins.size for _, _, coarse in sides)
        g, h = sums.sum(axis=1) / n_columns
        node.total = (float(g), max(float(h), 0.0))
        best: FoundSplit | None = None
        at = 0
        for side, ranked, coarse in sides:
            part = sums[:, at : at + coarse.starts.size]
            at += coarse.starts.size
            found = best_split(
                side, ranked, coarse, (part[0].copy(), part[1].copy()), node.total, self.rules, node.weight_bounds
            )
            if found is not None and (best is None or found.gain > best.gain):
                best = found
        return best

    def _split(self, batch: list[tuple[GrowingNode, FoundSplit]]) -> Protocol[list[GrowingNode]]:
        """Tell the holder the splits, and make the children that may grow."""
        grows = batch[0][0].depth + 1 < self.growth.max_depth or self.growth.max_depth == 0
        messages, plans = [], []
        for node, found in batch:
            ranked = self.own if found.side == "bank" else self.other
            codes = ranked.unrank(found.column, left_codes(ranked.ranked, found))
            left = found.left[1] <= found.right[1]
            split = Split(
                side="bank" if found.side == "bank" else "holder",
                column=found.column,
                codes=codes,
                left=0,
                right=0,
                gain=found.gain,
                cover=node.total[1],
            )
            numbers = (self.next_number, self.next_number + 1)
            self.next_number += 2
            self.records.append((node.number, *numbers, split))
            mine = found.side == "bank"
            messages.append(
                pb.BoostNode(
                    node=node.number,
                    bank_side=mine,
                    column=0 if mine else found.column,
                    codes=() if mine else codes,
                    left_computed=left,
                    grows=grows,
                )
            )
            plans.append((node, found, split, numbers, left))
        yield Send(self.holder, pb.BoostBankStep(kind=pb.BoostBankStep.SPLIT, nodes=messages))
        computed = []
        if grows:
            computed = yield from self._members([(node, split, left) for node, _, split, _, left in plans])
        fresh: list[GrowingNode] = []
        families: list[tuple[GrowingNode, GrowingNode, GrowingNode]] = []
        for i, (node, found, _, numbers, left) in enumerate(plans):
            children = self._children(node, found, numbers)
            if not grows:
                for child in children:
                    self._leaf(child)
                continue
            first, second = children if left else children[::-1]
            first.vectors = computed[i]
            second.vectors = subtract(node.vectors, first.vectors)
            families.append((node, first, second))
            fresh += children
        yield from self._sum_cells([first for _, first, _ in families])
        for node, first, second in families:
            second.cells = subtract(node.cells, first.cells)
        return fresh

    def _children(
        self, node: GrowingNode, found: FoundSplit, numbers: tuple[int, int]
    ) -> tuple[GrowingNode, GrowingNode]:
        bounds = child_bounds(found, node.weight_bounds, self.rules)
        ranked = self.own.ranked if found.side == "bank" else self.other.ranked
        # the noise of h is a quarter of g's, and at most all cells of the column are summed
        doubt = SURE * self.growth.noise_rows * math.sqrt(ranked.n_codes[found.column])
        made = []
        for number, total, bound in zip(numbers, (found.left, found.right), bounds, strict=True):
            rows = min(node.least_rows, max(0.0, 4.0 * total[1] / self.growth.max_weight - doubt))
            made.append(
                GrowingNode(
                    number,
                    node.depth + 1,
                    np.zeros((2, 0), np.uint64),
                    total=total,
                    weight_bounds=bound,
                    least_rows=rows,
                )
            )
        return made[0], made[1]

    def _members(self, plans: list[tuple[GrowingNode, Split, bool]]) -> Protocol[list[Words]]:
        rows = [self._goes(split, left=left) if split.side == "bank" else None for _, split, left in plans]
        vectors = [node.vectors for node, _, _ in plans]
        return (yield from members(self.bank.bits[self.holder], list(zip(vectors, rows, strict=True))))

    def _goes(self, split: Split, *, left: bool) -> Mask:
        table = np.zeros(int(self.own.ranked.n_codes[split.column]), bool)
        table[list(split.codes)] = True
        goes = table[self.bank.data.codes[:, split.column]]
        return goes if left else ~goes

    def _sum_cells(self, nodes: list[GrowingNode]) -> Protocol[None]:
        """Share the nodes' sums over the bank's cells and the holder's, some nodes at once."""
        bank = self.bank
        for some in together(nodes, bank.n):
            vectors = np.concatenate([node.vectors for node in some])
            bank_cells = np.zeros((vectors.shape[0], self.own.ranked.n_cells), np.uint64)
            holder_cells = np.zeros((vectors.shape[0], self.other.ranked.n_cells), np.uint64)
            if self.columns[1].size:
                query, holder_cells = bank.vectors[self.holder].query(vectors)
                yield from send_parts(self.holder, pb.BoostBankVectors, query.pack())
            if self.columns[0].size:
                own = shares.cell_sums(bank.ranked_codes, self.own.ranked.n_codes, vectors)
                codes = bank.cells[self.holder]
                due = vectors.shape[0] * codes.query_bytes
                data = yield from receive_parts(self.holder, pb.BoostHolderVectors, due)
                share = codes.evaluate(codes.unpack(data))
                check_vectors(share, some, self.holder)
                bank_cells = shares.add(share, own)
            keep_cells(some, bank_cells, holder_cells)


class HolderTree:
    """Follows one tree at the holder."""

    def __init__(self, holder: HolderShares, columns: tuple[Integers, Integers], root: Words, n_rows: int) -> None:
        self.holder, self.columns, self.growth = holder, columns, holder.growth
        self.bank = holder.session.bank
        self.nodes = {0: GrowingNode(0, 0, root)}
        self.rows: dict[int, Mask | None] = {0: None}  # that this party's own splits allow
        self.n_rows = n_rows
        self.next_number = 1
        self.records: list[tuple[int, int, int, Split]] = []
        self.opened: set[int] = set()

    def follow(self) -> Protocol[tuple[Tree, Any]]:
        """Do what the bank requests until the tree is whole; return it, and the step that ended it."""
        yield from self._sum_cells([self.nodes[0]])
        while True:
            step = yield from receive(self.bank, pb.BoostBankStep)
            if step.kind == pb.BoostBankStep.LEAVES:
                self.check_leaves(step)
                return tree_of(self.holder.session.party, self.records)[0], step
            if step.kind == pb.BoostBankStep.OPEN:
                yield from self._open(step)
            elif step.kind == pb.BoostBankStep.SPLIT:
                yield from self._split(step)
            else:
                raise MessageError("a step of a kind that this version does not know", party=self.bank)

    def check_leaves(self, step: Any) -> None:
        """Refuse another step where the leaves are due."""
        if step.kind != pb.BoostBankStep.LEAVES or step.nodes:
            raise MessageError("the leaves of the tree were due", party=self.bank)

    def _node(self, number: int) -> GrowingNode:
        if number not in self.nodes:
            raise MessageError(f"the bank names node {number}, which does not stand", party=self.bank)
        return self.nodes[number]

    def _open(self, step: Any) -> Protocol[None]:
        growth, accountant = self.growth, self.holder.accountant
        numbers = [node.node for node in step.nodes]
        if not numbers or len(set(numbers)) != len(numbers) or self.opened & set(numbers):
            raise MessageError("a node is opened once", party=self.bank)
        if any(max(n.bank_width, n.holder_width) > MAX_WIDTH for n in step.nodes):
            raise MessageError(f"a column opens at most {MAX_WIDTH} bins", party=self.bank)
        ranked = (self.holder.bank_ranked, self.holder.columns.ranked)
        layouts, cells = opened_layout(list(step.nodes), *ranked, self.columns)
        self._check_cells(numbers, layouts)
        accountant.charge(cells)
        self.opened |= set(numbers)
        yield Checkpoint(self.holder.state())
        first = ranked[0].n_cells
        share = np.concatenate(
            [coarse_cells(self._node(n).cells, layout, first) for n, layout in zip(numbers, layouts, strict=True)],
            axis=1,
        )
        yield Send(self.bank, pb.BoostHolderSums(sums=shares.shares_to_bytes(noised(share, growth))))

    def _check_cells(self, numbers: list[int], layouts: list[tuple[Coarse | None, Coarse | None]]) -> None:
        """Refuse more cells than a tenth of the rows that this party's own splits leave in the node."""
        if not self.growth.bounds:
            return
        for number, layout in zip(numbers, layouts, strict=True):
            rows = self.rows.get(number)
            most = (self.n_rows if rows is None else int(rows.sum())) / CELLS_PER_ROW
            for side in layout:
                if side is not None and side.starts.size > most:
                    raise RefusedError(f"{side.starts.size} sums of a node with room for {most:.0f} were asked")

    def _split(self, step: Any) -> Protocol[None]:
        plans = []
        if len(self.records) + len(step.nodes) > MAX_SPLITS or not step.nodes:
            raise MessageError("a tree of that many splits is not allowed", party=self.bank)
        for message in step.nodes:
            node = self._node(message.node)
            split = Split(
                side="bank" if message.bank_side else "holder",
                column=0 if message.bank_side else message.column,
                codes=() if message.bank_side else tuple(message.codes),
                left=0,
                right=0,
            )
            numbers = (self.next_number, self.next_number + 1)
            self.next_number += 2
            self.records.append((node.number, *numbers, split))
            goes = None if message.bank_side else self._goes(split)
            plans.append((node, message, goes, numbers))
            del self.nodes[node.number]
        if not all(message.grows for message in step.nodes):
            return
        computed = yield from self._members([(node, goes, bool(m.left_computed)) for node, m, goes, _ in plans])
        children = []
        for (node, message, _, numbers), vectors in zip(plans, computed, strict=True):
            first, second = numbers if message.left_computed else numbers[::-1]
            other = GrowingNode(second, node.depth + 1, subtract(node.vectors, vectors))
            children.append((GrowingNode(first, node.depth + 1, vectors), other))
        yield from self._sum_cells([child for child, _ in children])
        for (node, _, goes, numbers), (child, other) in zip(plans, children, strict=True):
            other.cells = subtract(node.cells, child.cells)
            self.nodes |= {child.number: child, other.number: other}
            rows = self.rows[node.number]
            for number, side in zip(numbers, (goes, None if goes is None else ~goes), strict=True):
                self.rows[number] = rows if side is None else side if rows is None else rows & side

    def _goes(self, split: Split) -> Mask:
        n_codes = self.holder.n_codes
        if split.column >= n_codes.size or any(code >= n_codes[split.column] for code in split.codes):
            raise MessageError("the bank splits on a column or code that is not there", party=self.bank)
        table = np.zeros(int(n_codes[split.column]), bool)
        table[list(split.codes)] = True
        return table[self.holder.codes[:, split.column]]

    def _members(self, plans: list[tuple[GrowingNode, Mask | None, bool]]) -> Protocol[list[Words]]:
        rows = [goes if goes is None or left else ~goes for _, goes, left in plans]
        vectors = [node.vectors for node, _, _ in plans]
        return (yield from members(self.holder.bits, list(zip(vectors, rows, strict=True))))

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
