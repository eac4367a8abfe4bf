"""Keeps what bank and holder have at hand while they boost: shares of margins, hints, keys, the trees so far.

It sends no message, but checks what a holder is told of columns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from veilscore.arrays import CodeArray, Integers, Mask, Words
from veilscore.errors import MessageError
from veilscore.lattice.histogram import HistogramCodes, HistogramVectors
from veilscore.lattice.params import PRODUCT
from veilscore.lattice.product import ProductEvaluator
from veilscore.lattice.rounding import exact_scale
from veilscore.lattice.sampling import PublicStream
from veilscore.models import harmonics
from veilscore.models.boosting_form import BankBoosting, Growth, HolderColumns, rank_codes
from veilscore.models.split_search import Ranked
from veilscore.models.trees import Tree
from veilscore.protocols.bit_products import BitKeys
from veilscore.protocols.sealed_argmax import BankKeys, HolderKeys
from veilscore.wire.protocol import Session


class _Dumped:
    """Trees as JSON, each made once: the checkpoint of a tree holds all trees before it."""

    def __init__(self) -> None:
        self._done: list[dict[str, Any]] = []

    def __call__(self, trees: list[Tree]) -> list[dict[str, Any]]:
        self._done += [tree.model_dump(mode="json") for tree in trees[len(self._done) :]]
        return list(self._done)


# --- the bank --------------------------------------------------------------------------------------------------------


class BankShares:
    """Keeps the bank's shares, keys and trees."""

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

    def state(self) -> dict[str, Any]:
        """Return what an interrupted training goes on from."""
        return {"trees": self._dumped(self.trees), "improvements": self.improvements}


class HolderShares:
    """Keeps a holder's shares, keys and shapes of trees; `boosting.Holder.set_up` sets what comes with the set-up."""

    bank_ranked: Ranked
    columns: HolderColumns
    ranked_codes: CodeArray
    vectors: HistogramVectors
    cells: HistogramCodes
    bits: BitKeys
    sealed: HolderKeys
    evaluator: ProductEvaluator

    def __init__(
        self, session: Session, codes: CodeArray, n_codes: Integers, growth: Growth, natural: HolderColumns
    ) -> None:
        self.session, self.codes, self.growth = session, codes, growth
        self.n, self.n_codes = codes.shape[0], n_codes
        self.margin = np.zeros(self.n, np.uint64)
        self.trees: list[Tree] = []
        self._dumped = _Dumped()
        self.n_trees = 0
        self.natural = natural
        self.earlier: tuple[Tree, ...] = ()
        self.sealed_trees = 0  # grown with the keys of `sealed`

    def state(self) -> dict[str, Any]:
        """Return what an interrupted training goes on from."""
        return {"trees": self._dumped(self.trees)}


# --- what both derive alike ------------------------------------------------------------------------------------------


def partners(session: Session, growth: Growth) -> list[tuple[str, str]]:
    """Return (holder, sides) of each tree in turn: with own columns alone, a tree is the bank's or a holder's."""
    if not growth.own_columns:
        order = [(holder, "both") for holder in session.holders]
    else:
        order = [(session.holders[-1], "bank"), *((holder, "holder") for holder in session.holders)]
    return [order[t % len(order)] for t in range(growth.n_estimators)]


def tree_label(session: Session, number: int, holder: str) -> bytes:
    """Return the label of a tree's product key."""
    return session.label(f"boost tree {number} {holder}", session.bank, holder)


def sampled_rows(growth: Growth, seed: bytes, n: int) -> Mask:
    """Return the rows that a tree is grown on: not validation rows and, with a seed, a sample of the others."""
    rows = ~growth.validation
    if seed:
        draw = PublicStream(seed, b"boosting rows").uniform((1, n), (1 << 29,))[0]
        rows &= draw < growth.subsample * float(1 << 29)
    return rows


def remask(seed: bytes, n: int) -> Words:
    """Return words uniform below T from a seed, by which a share is handed from one holder to the next."""
    scale = exact_scale(PRODUCT)
    return scale.join(PublicStream(seed, b"boosting remask").uniform((2, n), tuple(scale.message.tolist())))


# --- what the bank says of columns, checked by a holder ---------------------------------------------------------------


def bank_ranked(start: Any, bank: str) -> Ranked:
    """Return the bank's columns as its first message (BoostBankRound0) describes them."""
    n_codes, missing = np.array(start.bank_n_codes, dtype=np.int64), np.array(start.bank_missing, dtype=bool)
    if missing.size != n_codes.size or (n_codes.size and (n_codes.min() < 1 or n_codes.max() > 1 << 16)):
        raise MessageError("the bank's number of codes is out of range", party=bank)
    return Ranked(n_codes, missing, np.zeros(n_codes.size, np.int64))


def holder_columns(start: Any, n_codes: Integers, natural: HolderColumns, bank: str) -> HolderColumns:
    """Return the holder's columns as they are split: in the order of `natural`, or ranked by WOE as the bank says."""
    missing, cells = np.array(start.missing, dtype=bool), int(n_codes.sum())
    if missing.size != n_codes.size or len(start.ranks) != 2 * cells:
        raise MessageError("the bank's ranks do not fit this party's columns", party=bank)
    ranks = np.frombuffer(start.ranks, "<u2").astype(np.int64)
    first = np.concatenate(([0], np.cumsum(n_codes)))
    for at, k in zip(first[:-1].tolist(), n_codes.tolist(), strict=True):
        if not np.array_equal(np.sort(ranks[at : at + k]), np.arange(k)):
            raise MessageError("the bank's ranks do not number this party's codes", party=bank)
    columns = HolderColumns(Ranked(n_codes, missing, np.zeros(n_codes.size, np.int64)), ranks)
    has_order = natural.ranks[first[:-1]] >= 0
    ranks = np.where(np.repeat(has_order, n_codes), natural.ranks, ranks)
    missing = np.where(has_order, natural.ranked.missing, missing)
    return HolderColumns(replace(columns.ranked, missing=missing), ranks)


def chosen_columns(columns: Any, ranked: Ranked, bank: str) -> Integers:
    """Return the columns that a tree may split on, checked against those that there are."""
    chosen = np.array(columns, dtype=np.int64)
    if chosen.size and (np.any(np.diff(chosen) <= 0) or chosen[-1] >= ranked.n_codes.size):
        raise MessageError("the bank names columns that are not there", party=bank)
    return chosen
