"""Define what all parts of boosting share: parameters known to every party, ranked columns, fixed point."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import CodeArray, Integers, Mask, Vector
from veilscore.models.counts import offsets
from veilscore.models.split_search import Ranked, Rules
from veilscore.models.trees import Tree

SCALE = 33  # fraction bits of shared g and h
EXACT_BITS = 16  # fraction bits of an opened sum


@dataclass(frozen=True)
class Growth:
    """Parameters of training that all parties know from the job.

    validation : (n,) rows that are not trained on but measured, for early stopping.
    coarse : whether a few thresholds of each column are compared first, and then those around the best.
    """

    n_estimators: int
    max_depth: int
    max_leaves: int
    leaf_wise: bool
    max_bin: int
    subsample: float
    colsample_bytree: float
    own_columns: bool
    early_stopping_rounds: int
    max_weight: float
    validation: Mask
    rules: Rules
    seed: int = 0
    coarse: bool = False


@dataclass(frozen=True)
class HolderColumns:
    """One party's columns as the bank knows them; `ranks` (cells,) is the rank of each code in its column."""

    ranked: Ranked
    ranks: Integers

    def unrank(self, column: int, codes: tuple[int, ...]) -> tuple[int, ...]:
        """Return the codes of the holder's map that have these ranks."""
        at = offsets(self.ranked.n_codes)
        ranks = self.ranks[at[column] : at[column + 1]].tolist()
        return tuple(sorted(ranks.index(code) for code in codes))


def rank_codes(codes: CodeArray, columns: HolderColumns) -> CodeArray:
    """Put ranks in place of codes (n, d)."""
    out = np.empty_like(codes)
    for j, (start, stop) in enumerate(pairwise(offsets(columns.ranked.n_codes).tolist())):
        out[:, j] = columns.ranks[start:stop].astype(codes.dtype)[codes[:, j]]
    return out


@dataclass(frozen=True)
class BankBoosting:
    """All that the bank brings to the protocol.

    codes : (n, d_bank) codes of the training rows, validation rows included.
    own, columns : ranks of its own columns and of each holder's.
    target, weight : (n,) labels in {0, 1} and weights.
    base : log-odds of bad before the first tree.
    trees, improvements : what an interrupted attempt had grown.
    """

    codes: CodeArray
    own: HolderColumns
    columns: dict[str, HolderColumns]
    target: NDArray[np.int8]
    weight: Vector
    base: float
    growth: Growth
    trees: tuple[Tree, ...] = ()
    improvements: tuple[float, ...] = ()


@dataclass(frozen=True)
class Grown:
    """The bank's result.

    trees : the kept ones, in order.
    improvements : (n grown,) fall of the validation loss by each tree, where there are validation rows.
    stopped : why training ended before `n_estimators`, or "".
    holder_sha256 : digest of each holder's part of the model (`trees.HolderTrees`).
    """

    trees: tuple[Tree, ...]
    improvements: tuple[float, ...]
    stopped: str
    holder_sha256: dict[str, str] = field(default_factory=dict)
