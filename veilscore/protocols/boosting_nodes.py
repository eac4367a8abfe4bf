"""Keeps the nodes of a tree of joint boosting while it grows, and makes the shares of their children.

`boosting_sealed.py` chooses the splits; messages, reveals and aborts: `boosting.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from veilscore.arrays import Mask, Words
from veilscore.crypto import shares
from veilscore.errors import MessageError
from veilscore.lattice.params import T
from veilscore.lattice.sampling import dither
from veilscore.models.boosting_form import EXACT_BITS, SCALE
from veilscore.models.trees import Split, Tree
from veilscore.protocols.bit_products import NO_BITS, BitKeys, bit_products
from veilscore.wire.protocol import Protocol

MAX_WORDS = 1 << 20  # of the vectors summed at once; 14 bytes of message each
_T = np.uint64(T)


@dataclass(eq=False)
class GrowingNode:
    """A node of the growing tree; both parties keep the same numbers, each its own shares."""

    number: int
    vectors: Words  # (2, n) share of g and h in the node's rows
    cells: Words = field(default_factory=lambda: np.zeros((2, 0), np.uint64))  # share of their sums per cell


def vector_share(values: Words, rows: Mask) -> Words:
    """Return the share of values (..., n) in some rows, zero elsewhere."""
    return np.where(rows, values, np.uint64(0))


def subtract(left: Words, right: Words) -> Words:
    """Return the difference of shares modulo T."""
    return shares.add(left, np.where(right > 0, _T - right, np.uint64(0)))


def members(keys: BitKeys, plans: list[tuple[Words, Mask | None]]) -> Protocol[list[Words]]:
    """Return the share (2, n) of g and h in the computed child of each node.

    plans : share (2, n) of each node, and the rows of the child where this party has the split, else None.
    """
    bits = [rows for _, rows in plans if rows is not None]
    numbers = [vectors for vectors, rows in plans if rows is None]
    none = np.zeros((2, 0), np.uint64)
    products = yield from bit_products(
        keys, np.concatenate([NO_BITS, *bits]), 2, np.concatenate([none, *numbers], axis=1)
    )
    n = plans[0][0].shape[1]
    taken, given = (iter([part[:, at : at + n] for at in range(0, part.shape[1], n)]) for part in products)
    return [
        next(given) if rows is None else shares.add(vector_share(vectors, rows), next(taken)) for vectors, rows in plans
    ]


def tree_of(holder: str, records: list[tuple[int, int, int, Split]]) -> tuple[Tree, list[int]]:
    """Return the tree of splits in the order they were made, and the node number of each leaf."""
    index = {node: k for k, (node, _, _, _) in enumerate(records)}
    children = {child for _, left, right, _ in records for child in (left, right)} or {0}
    leaves = sorted(child for child in children if child not in index)
    place = {node: -1 - i for i, node in enumerate(leaves)} | index
    splits = tuple(
        split.model_copy(update={"left": place[left], "right": place[right]}) for _, left, right, split in records
    )
    return Tree(holder=holder, splits=splits, weights=()), leaves


def together(nodes: list[GrowingNode], n_rows: int) -> list[list[GrowingNode]]:
    """Return nodes in groups whose sums are made at once: more of them cost less each, but memory."""
    size = max(1, MAX_WORDS // (2 * n_rows))
    return [nodes[start : start + size] for start in range(0, len(nodes), size)]


def check_vectors(share: Words, nodes: list[GrowingNode], party: str) -> None:
    """Refuse sums of another number of vectors than g and h of each node."""
    if share.shape[0] != 2 * len(nodes):
        raise MessageError(
            f"histograms of g and h of {len(nodes)} nodes have two vectors each, not {share.shape[0]} in all",
            party=party,
        )


def keep_cells(nodes: list[GrowingNode], bank_cells: Words, holder_cells: Words) -> None:
    """Give each node its shares of the sums per cell, the bank's side first."""
    cells = np.concatenate([bank_cells, holder_cells], axis=1)
    for i, node in enumerate(nodes):
        node.cells = cells[2 * i : 2 * i + 2]


def rounded(share: Words) -> Words:
    """Dither the share of an opened sum and round it."""
    # bare rounding would leak sums of the encryption noise, which the bank knows
    return shares.round_share(shares.add(share, dither(share.shape, sd=float(1 << 16))), SCALE - EXACT_BITS)
