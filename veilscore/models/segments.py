"""Divides a bank's firms by its own columns, greedily: the bank's side of rules over several parties, in plaintext.

Each split is that of a leaf and a column which explains most of who went bad (likelihood ratio), until there are enough
leaves. Codes of an ordered column are cut in order, those of levels in the order of their share of bads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from veilscore.arrays import CodeArray, Integers, Mask, Vector
from veilscore.models.counts import BinnedColumns

Conditions = dict[int, tuple[int, ...]]  # column -> codes that it may have
_LEAST_GAIN = 6.6  # a likelihood ratio that chance exceeds once in a hundred


@dataclass(frozen=True)
class Segments:
    """The leaves of a small tree and all its nodes.

    leaves : conditions of each leaf; nodes : of each node, the root first, with the leaves below it.
    """

    leaves: tuple[Conditions, ...]
    nodes: tuple[tuple[Conditions, tuple[int, ...]], ...]

    def of(self, codes: CodeArray) -> Integers:
        """Return the leaf of each row (n,) by its codes (n, d)."""
        leaf = np.zeros(codes.shape[0], np.int64)
        for number, conditions in enumerate(self.leaves):
            inside = np.ones(codes.shape[0], bool)
            for column, allowed in conditions.items():
                inside &= np.isin(codes[:, column], allowed)
            leaf[inside] = number
        return leaf


@dataclass
class _Leaf:
    conditions: Conditions
    rows: Mask
    path: tuple[int, ...]  # numbers of the nodes above it, itself last


def grow(columns: BinnedColumns, bad: Mask, train: Mask, *, most: int, least: int) -> Segments:
    """Return segments found on the training rows.

    bad, train : (n,); most : leaves; least : rows that a leaf has at least.
    """
    nodes: list[Conditions] = [{}]
    leaves = [_Leaf({}, train.copy(), (0,))]
    while len(leaves) < most:
        found = [(gain, k, column, left) for k, leaf in enumerate(leaves)
                 for gain, column, left in _splits(columns, bad, leaf, least)]  # fmt: skip
        best = max(found, key=lambda split: split[0], default=None)
        if best is None or best[0] < _LEAST_GAIN:
            break
        _, k, column, left = best
        leaf = leaves.pop(k)
        allowed = leaf.conditions.get(column, tuple(range(int(columns.n_codes[column]))))
        for codes in (left, tuple(code for code in allowed if code not in left)):
            conditions = {**leaf.conditions, column: codes}
            nodes.append(conditions)
            inside = leaf.rows & np.isin(columns.codes[:, column], codes)
            leaves.append(_Leaf(conditions, inside, (*leaf.path, len(nodes) - 1)))
    below = [tuple(k for k, leaf in enumerate(leaves) if node in leaf.path) for node in range(len(nodes))]
    return Segments(tuple(leaf.conditions for leaf in leaves), tuple(zip(nodes, below, strict=True)))


def _splits(columns: BinnedColumns, bad: Mask, leaf: _Leaf, least: int) -> Iterator[tuple[float, int, tuple[int, ...]]]:
    """Yield the best split of a leaf on each column: its gain, the column, and the codes of one side."""
    for column, size in enumerate(columns.n_codes.tolist()):
        codes = columns.codes[leaf.rows, column]
        n: Vector = np.bincount(codes, minlength=size).astype(np.float64)
        b: Vector = np.bincount(codes, bad[leaf.rows].astype(np.float64), size).astype(np.float64)
        allowed = np.array(leaf.conditions.get(column, range(size)))
        for order in _orders(allowed, n, b, columns.ordered[column], int(columns.missing_code[column])):
            left_n, left_b = np.cumsum(n[order])[:-1], np.cumsum(b[order])[:-1]
            right_n, right_b = n.sum() - left_n, b.sum() - left_b
            gain = _likelihood(left_n, left_b) + _likelihood(right_n, right_b) - _likelihood(n.sum(), b.sum())
            gain = np.where((left_n >= least) & (right_n >= least), 2.0 * gain, -np.inf)
            if gain.size and np.isfinite(gain.max()):
                yield float(gain.max()), column, tuple(sorted(order[: int(gain.argmax()) + 1].tolist()))


def _orders(allowed: Integers, n: Vector, b: Vector, ordered: np.bool_, missing: int) -> Iterator[Integers]:
    """Yield the orders in which codes may be cut: by value with missing at either end, or by share of bads."""
    if not ordered:
        share = b[allowed] / np.maximum(n[allowed], 1.0)
        yield allowed[np.argsort(share, kind="stable")]
        return
    valued, rest = allowed[allowed != missing], allowed[allowed == missing]
    yield np.concatenate([valued, rest])
    if rest.size:
        yield np.concatenate([rest, valued])


def _likelihood(n: Vector | float, b: Vector | float) -> Vector:
    """Return the greatest log-likelihood of so many bads among so many rows."""
    n, b = np.asarray(n, np.float64), np.asarray(b, np.float64)
    p = np.clip(b / np.maximum(n, 1.0), 1e-12, 1 - 1e-12)
    found: Vector = b * np.log(p) + (n - b) * np.log1p(-p)
    return found
