"""Plaintext oracle of boosting: the algorithm of veilscore.protocols.boosting on pooled codes, written anew.

Exact sums, no noise, no coarsening; a node is a mask of rows, sums are bincounts, the sigmoid is the protocol's series.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Column:
    """Ranked codes (n,) of one column; the last code is that of missing values where `missing`."""

    side: str
    index: int
    codes: np.ndarray
    n_codes: int
    missing: bool
    constraint: int = 0


@dataclass
class Rules:
    learning_rate: float = 0.1
    reg_lambda: float = 1.0
    gamma: float = 0.0
    min_child_weight: float = 1.0
    min_rows: int = 0
    max_depth: int = 4
    max_leaves: int = 0
    leaf_wise: bool = False
    slack: float = 1.0  # of the least weight of a child


@dataclass
class Node:
    mask: np.ndarray
    depth: int
    low: float = -np.inf
    high: float = np.inf
    split: tuple | None = None
    children: list = field(default_factory=list)
    weight: float = 0.0
    runner_up: float = 0.0


def weight(g, h, rules, low=-np.inf, high=np.inf):
    return min(max(-g / (max(h, rules.min_rows / 4, 0) + rules.reg_lambda), low), high)


def score(g, h, w, rules):
    return -(2 * g * w + (h + rules.reg_lambda) * w * w)


def raw_weight(g, h, rules, low, high):
    return min(max(-g / (h + rules.reg_lambda), low), high)


def splits_of(node, columns, g, h, rules):
    """All allowed splits as (gain, side, column, code, missing_left, left sums)."""
    rows = node.mask
    G, H = g[rows].sum(), h[rows].sum()
    parent = score(G, H, raw_weight(G, H, rules, node.low, node.high), rules)
    least = max(rules.min_child_weight, rules.min_rows / 4) / rules.slack
    found = []
    for column in columns:
        cell_g = np.bincount(column.codes[rows], weights=g[rows], minlength=column.n_codes)
        cell_h = np.bincount(column.codes[rows], weights=h[rows], minlength=column.n_codes)
        bins = column.n_codes - column.missing
        for missing_left in (False, True) if column.missing else (False,):
            extra = (cell_g[bins], cell_h[bins]) if missing_left else (0.0, 0.0)
            for code in range(bins - (not column.missing or missing_left)):
                gl = extra[0] + cell_g[: code + 1].sum()
                hl = extra[1] + cell_h[: code + 1].sum()
                gr, hr = G - gl, H - hl
                if hl < least or hr < least:
                    continue
                wl, wr = (raw_weight(a, b, rules, node.low, node.high) for a, b in ((gl, hl), (gr, hr)))
                if column.constraint * (wr - wl) < 0:
                    continue
                gain = score(gl, hl, wl, rules) + score(gr, hr, wr, rules) - parent
                if gain > rules.gamma:
                    found.append((gain, column.side, column.index, code, missing_left, (gl, hl), (gr, hr)))
    return found


def grow(columns, g, h, rows, rules, forced=None):  # noqa: C901 - the whole algorithm in one place
    """One tree; returns the root, and leaf weight of each row (n,). `forced(node, found)` may choose the split."""
    root = Node(rows, 0)
    frontier, leaves, n_leaves = [root], [], 1
    most = rules.max_leaves or 1 << rules.max_depth
    candidates = []
    while frontier or candidates:
        for node in frontier:
            found = (
                sorted(splits_of(node, columns, g, h, rules), key=lambda f: -f[0])
                if node.depth < (rules.max_depth or 1 << 30)
                else []
            )
            if found:
                node.split = found[0] if forced is None else forced(node, found)
            if found and node.split is not None:
                node.runner_up = found[1][0] if len(found) > 1 else 0.0
                candidates.append(node)
            else:
                leaves.append(node)
        candidates.sort(key=lambda node: -node.split[0])
        count = max(0, min(1 if rules.leaf_wise else len(candidates), most - n_leaves))
        batch, rest = candidates[:count], candidates[count:]
        n_leaves += count
        if not batch or not rules.leaf_wise:
            for node in rest:
                node.split = None
                leaves.append(node)
            rest = []
        candidates = rest
        frontier = []
        for node in batch:
            _, side, index, code, missing_left, left, right = node.split
            column = next(c for c in columns if (c.side, c.index) == (side, index))
            goes = column.codes <= code
            if column.missing:
                goes = np.where(column.codes == column.n_codes - 1, missing_left, goes)
            bounds = [(node.low, node.high)] * 2
            if column.constraint:
                middle = sum(weight(*s, rules, node.low, node.high) for s in (left, right)) / 2
                bounds = [(node.low, middle), (middle, node.high)]
                if column.constraint < 0:
                    bounds = [(middle, node.high), (node.low, middle)]
            node.children = [
                Node(node.mask & side, node.depth + 1, *bound)
                for side, bound in zip((goes, ~goes), bounds, strict=True)
            ]
            node.goes = goes
            frontier += node.children
    for node in leaves:
        node.weight = rules.learning_rate * weight(g[node.mask].sum(), h[node.mask].sum(), rules, node.low, node.high)
    return root


def values(root, n):
    """Leaf weight of every row, in or out of the tree's sample."""
    out = np.zeros(n)
    stack = [(root, np.ones(n, bool))]
    while stack:
        node, reach = stack.pop()
        if node.split is None:
            out[reach] = node.weight
        else:
            stack += [(node.children[0], reach & node.goes), (node.children[1], reach & ~node.goes)]
    return out
