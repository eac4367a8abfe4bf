"""What bank and holder have at hand while they boost: shares of margins, hints, keys, the trees so far. No messages."""

from __future__ import annotations

from typing import Any

import numpy as np

from veilscore.arrays import CodeArray, Integers
from veilscore.lattice.histogram import HistogramCodes, HistogramVectors
from veilscore.lattice.product import ProductEvaluator
from veilscore.models import harmonics
from veilscore.models.boosting_form import MAX_WIDTH, BankBoosting, Growth, HolderColumns, rank_codes
from veilscore.models.split_search import CELLS_PER_ROW, Ranked
from veilscore.models.trees import Tree
from veilscore.protocols.bit_products import BitKeys
from veilscore.protocols.sealed_argmax import BankKeys, HolderKeys
from veilscore.wire.protocol import Session


class _Dumped:
    """Trees as JSON, each made once: a checkpoint a tree holds all trees before it."""

    def __init__(self) -> None:
        self._done: list[dict[str, Any]] = []

    def __call__(self, trees: list[Tree]) -> list[dict[str, Any]]:
        self._done += [tree.model_dump(mode="json") for tree in trees[len(self._done) :]]
        return list(self._done)


# --- the bank --------------------------------------------------------------------------------------------------------


class BankShares:
    """The bank's shares, keys and trees."""

    def __init__(self, session: Session, data: BankBoosting) -> None:
        self.session, self.data, self.growth = session, data, data.growth
        self.n = data.target.size
        self.ranked_codes = rank_codes(data.codes, data.own)
        self.margin = np.full(self.n, harmonics.to_units(np.array([data.base]))[0], np.uint64)
        self.reach = np.full((2, self.n), data.base)  # least and greatest margin that its own codes allow a row
        self.trees: list[Tree] = []
        self._dumped = _Dumped()
        self.improvements = list(data.improvements)
        self.partner = ""
        self.saturated = False
        self.cells: dict[str, HistogramCodes] = {}
        self.vectors: dict[str, HistogramVectors] = {}
        self.holder_ranked: dict[str, Ranked] = {}
        self.bits: dict[str, BitKeys] = {}
        self.sealed: dict[str, BankKeys] = {}
        self.sealed_trees: dict[str, int] = {}  # grown with these keys
        self.accountants = {
            h: data.growth.accountant(c.ranked.n_codes, data.spent.get(h, 0.0)) for h, c in data.columns.items()
        }

    def state(self) -> dict[str, Any]:
        """What an interrupted training goes on from."""
        return {
            "trees": self._dumped(self.trees),
            "improvements": self.improvements,
            "spent": {h: a.spent for h, a in self.accountants.items()},
        }

    def ranked_of(self, holder: str) -> Ranked:
        """A holder's columns as they are split: in sealed choice the holder ranks its codes itself."""
        return self.holder_ranked[holder]

    def widths(self, holder: str, columns: tuple[Any, Any], n_rows: float) -> tuple[int, int]:
        """Bins a column that a node of at least `n_rows` rows may open on the bank's and the holder's side."""
        most = n_rows / CELLS_PER_ROW if self.growth.bounds else np.inf
        own, other = self.data.own.ranked, self.data.columns[holder].ranked
        return (
            own.fit_width(MAX_WIDTH, columns[0], most) if columns[0].size else 0,
            other.fit_width(MAX_WIDTH, columns[1], most) if columns[1].size else 0,
        )


class HolderShares:
    """A holder's shares, keys and shapes of trees; what comes with the set-up is set by `boosting.Holder.set_up`."""

    bank_ranked: Ranked
    columns: HolderColumns
    ranked_codes: CodeArray
    vectors: HistogramVectors
    cells: HistogramCodes
    bits: BitKeys
    sealed: HolderKeys
    evaluator: ProductEvaluator

    def __init__(self, session: Session, codes: CodeArray, n_codes: Integers, growth: Growth, spent: float) -> None:
        self.session, self.codes, self.growth = session, codes, growth
        self.n, self.n_codes = codes.shape[0], n_codes
        self.accountant = growth.accountant(n_codes, spent)
        self.margin = np.zeros(self.n, np.uint64)
        self.trees: list[Tree] = []
        self._dumped = _Dumped()
        self.n_trees = 0
        self.natural: HolderColumns | None = None
        self.earlier: tuple[Tree, ...] = ()
        self.sealed_trees = 0  # grown with the keys of `sealed`

    def state(self) -> dict[str, Any]:
        """What an interrupted training goes on from."""
        state: dict[str, Any] = {"spent": self.accountant.spent, "n_sums": self.accountant.n_sums}
        if self.growth.sealed:
            state["trees"] = self._dumped(self.trees)
        return state
