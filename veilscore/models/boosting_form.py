"""Define what all parts of boosting share: parameters known to every party, ranked columns, fixed point."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import CodeArray, Integers, Mask, Vector
from veilscore.models.accountant import Accountant
from veilscore.models.counts import offsets
from veilscore.models.split_search import Ranked, Rules
from veilscore.models.trees import Tree

SCALE = 33  # fraction bits of shared g and h
ROUNDING_BITS = 6  # fraction bits of an opened sum that carries noise
EXACT_BITS = 16  # and of one that carries none
NOISE_MARGIN = 2.0**0.5  # a gain must beat twice what noise alone brings: the best of many candidates is picked
SURE = 5.0  # deviations of the noise that a bound on a number of rows leaves room for
MAX_WIDTH = 64


@dataclass(frozen=True)
class Growth:
    """Parameters of training that all parties know from the job.

    noise_rows : deviation of the noise of an opened sum of g, in rows; 0 opens exact sums (`bounds` off).
    bounds : at most n_node / 10 cells are opened a node and side, within the accountant's budget.
    share : of rows times columns that opened sums may tell, see `accountant`.
    validation : (n,) rows that are not trained on but measured, for early stopping.
    sealed : splits are chosen on shares and only noised sums of leaves are opened; else from noised sums of cells.
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
    bounds: bool
    noise_rows: float
    share: float | None
    validation: Mask
    rules: Rules
    seed: int = 0
    sealed: bool = False

    def accountant(self, n_codes: Integers, spent: float = 0.0) -> Accountant:
        """Return a count of what one holder's opened sums tell, on from the bits of earlier attempts."""
        n_train = int((~self.validation).sum())
        share = self.share if self.bounds else None
        return Accountant(n_train, tuple(n_codes.tolist()), self.noise_rows, self.max_weight, share, spent)


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
    trees, improvements, spent : what an interrupted attempt had grown, and the bits it told.
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
    spent: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Grown:
    """The bank's result.

    trees : the kept ones, in order.
    improvements : (n grown,) fall of the validation loss by each tree, where there are validation rows.
    spent : holder -> bits told of `Accountant.budget`.
    stopped : why training ended before `n_estimators`, or "".
    holder_sha256 : digest of each holder's part of the model (`trees.HolderTrees`).
    """

    trees: tuple[Tree, ...]
    improvements: tuple[float, ...]
    spent: dict[str, float]
    stopped: str
    holder_sha256: dict[str, str] = field(default_factory=dict)
