"""Scores in the clear, from what all parties of a finished job keep: the oracle of stacks."""

from __future__ import annotations

import numpy as np

from veilscore.models import stacked
from veilscore.models.trees import HolderTrees, tree_values


def part_of(run, holder, step=""):
    """A holder's part of the filed model, or of one fit."""
    home = run.stores[holder].path / step if step else run.stores[holder].path.parents[1]
    return HolderTrees.from_json((home / "models" / run.job.name / "trees.json").read_text())


def card_margins(card, codes):
    """Log-odds (n,) of a scorecard from every party's codes (n, d)."""
    theta = stacked.scorecard_theta(card)
    total = np.full(codes["bank"].shape[0], card.intercept)
    for part in card.parts:
        at = np.concatenate(([0], np.cumsum(part.n_codes)))[:-1]
        total += theta[part.party][codes[part.party] + at].sum(axis=1)
    return total


def tree_margins(model, parts, codes, values=None):
    """Sum of trees with the holders' splits from their own files; `values` per tree replace the weights."""
    total = np.zeros(codes["bank"].shape[0])
    own = {h: list(part.trees) for h, part in parts.items()}
    for i, tree in enumerate(model.trees):
        if tree.asks == "bank" and not (own[tree.holder] and own[tree.holder][0].skeleton() == tree.skeleton()):
            theirs = tree  # a column of the bank's scorecard
        else:
            theirs = own[tree.holder].pop(0)
        splits = [b if b.side == "bank" else a for a, b in zip(theirs.splits, tree.splits, strict=True)]
        whole = tree.model_copy(update={"splits": tuple(splits)})
        n_codes = {"bank": model.parts[0].n_codes, "holder": model.part(tree.holder).n_codes}
        both = {"bank": codes["bank"], "holder": codes[tree.holder]}
        total += tree_values(whole, both, n_codes, np.array(tree.weights if values is None else values[i], float))
    assert not any(own.values())
    return total
