"""Random trees over the codes of a bank and holders, and boosted models of them, for tests and benchmarks."""

from __future__ import annotations

import numpy as np

from veilscore.models.boosted import Boosted
from veilscore.models.model import Column, PartyPart, Provenance, Scaling
from veilscore.models.trees import Split, Tree, shapes_digest, tree_values


def random_tree(rng, holder, n_codes, *, sides=("bank", "holder"), n_leaves=16, max_depth=4):
    """A tree grown at random leaves; `n_codes` are those of "bank" and "holder"."""
    nodes, open_leaves = [], [(None, "", 0)]
    while len(open_leaves) < n_leaves:
        places = [k for k, (_, _, depth) in enumerate(open_leaves) if depth < max_depth]
        if not places:
            break
        parent, way, depth = open_leaves.pop(int(rng.choice(places)))
        side = str(rng.choice(sides))
        column = int(rng.integers(n_codes[side].size))
        k = int(n_codes[side][column])
        left = np.flatnonzero(rng.random(k) < 0.5)
        node = {"side": side, "column": column, "codes": tuple(left.tolist()), "depth": depth}
        nodes.append(node)
        if parent is not None:
            parent[way] = len(nodes) - 1
        open_leaves += [(node, "left", depth + 1), (node, "right", depth + 1)]
    for leaf, (parent, way, _) in enumerate(open_leaves):
        if parent is not None:
            parent[way] = -1 - leaf
    covers = rng.uniform(1, 50, len(open_leaves))
    for node in reversed(nodes):
        ways = (node["left"], node["right"])
        node["cover"] = float(sum(covers[-1 - w] if w < 0 else nodes[w]["cover"] for w in ways))
    splits = tuple(Split(**{k: v for k, v in node.items() if k != "depth"}) for node in nodes)
    weights = tuple(rng.normal(0, 0.1, len(open_leaves)).tolist())
    return Tree(holder=holder, splits=splits, weights=weights, covers=tuple(covers.tolist()))


def part(party, role, n_codes, map_sha256="11" * 32, names=None):
    """A party's part with anonymous columns."""
    columns = []
    for j, k in enumerate(n_codes.tolist()):
        name = names[j] if names else f"{party}.c{j + 1}"
        none, counts = (0.0,) * k, (0,) * k
        columns.append(
            Column(
                name=name, coefficient=None, iv=0.0, woe=none, points=counts, bad=none, good=none, rows=counts,
                holdout_rows=counts,
            )
        )  # fmt: skip
    return PartyPart(party=party, role=role, map_sha256=map_sha256, columns=tuple(columns))


def boosted(trees, parts, *, name="boost", decimals=2, bands=None):
    """A model of these trees, with the points that its scaling gives them."""
    scaling = Scaling(decimals=decimals)
    points = tuple(tuple(round(-scaling.factor * w) for w in tree.weights) for tree in trees)
    provenance = Provenance(
        job_id="job", job_sha256="00" * 32, purpose="credit", trained_at="2026-01-01T00:00:00Z", veilscore="0",
        n_train=1, n_holdout=0, n_openings=0, converged=True,
    )  # fmt: skip
    return Boosted(
        name=name,
        version="1",
        scaling=scaling,
        intercept=-1.0,
        base_points=round(scaling.offset + scaling.factor),
        parts=tuple(parts),
        bands=bands or {},
        provenance=provenance,
        trees=tuple(trees),
        points=points,
        holder_sha256={
            p.party: shapes_digest([tree for tree in trees if tree.holder == p.party]).hex() for p in parts[1:]
        },
    )


def plain_units(model, codes):
    """Totals in the clear; codes by party, each (n, d)."""
    total = np.full(codes["bank"].shape[0], model.base_points, np.int64)
    n_codes = {p.party: p.n_codes for p in model.parts}
    for tree, points in zip(model.trees, model.points, strict=True):
        mine = {"bank": codes["bank"], "holder": codes[tree.holder]}
        counts = {"bank": n_codes["bank"], "holder": n_codes[tree.holder]}
        total += tree_values(tree, mine, counts, np.array(points, np.int64))
    return total
