"""Boosting runs in memory, with every row-by-row number that a party received or was left with, for attacks on them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from veilscore.crypto import bit_product, shares
from veilscore.lattice import hints, product
from veilscore.lattice.params import T
from veilscore.models.boosting_form import SCALE, BankBoosting, Growth, HolderColumns
from veilscore.models.split_search import Ranked, Rules
from veilscore.protocols import blocks, boosting, boosting_sealed, boosting_search
from veilscore.protocols.boosting import bank_boost, holder_boost
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session

if TYPE_CHECKING:
    from veilscore.models.trees import Tree
    from veilscore.wire.transcript import Transcript

RING_ROWS = 4096  # rows of the smallest ring


@dataclass
class Run:
    """A recorded run.

    Attributes
    ----------
    words : party -> what stands row by row in the messages it received (ring elements) and in its shares, (k, n) each.
    refined_from : party -> which rows would go left by the thresholds that its splits were refined from, (k, n) each.
    trees : the model's, with the holders' own splits put back.
    """

    codes: dict[str, Any]
    bins: dict[str, int]
    data: BankBoosting
    found: dict[str, Any] = field(default_factory=dict)
    transcripts: dict[str, Transcript] = field(default_factory=dict)
    words: dict[str, list[Any]] = field(default_factory=dict)
    refined_from: dict[str, list[Any]] = field(default_factory=dict)
    shares_of_g: dict[str, list[Any]] = field(default_factory=dict)
    trees: list[Tree] = field(default_factory=list)

    @property
    def n(self) -> int:
        return self.data.target.size

    def n_codes(self, party: str) -> Any:
        return np.full(self.codes[party].shape[1], self.bins[party])

    def received(self, party: str, kind: str) -> list[Any]:
        return [m for e, m in self.transcripts[party].messages if e.recipient == party and e.kind == kind]


def columns_of(n_columns: int, bins: int) -> HolderColumns:
    ranked = Ranked(np.full(n_columns, bins), np.zeros(n_columns, bool), np.zeros(n_columns, np.int64))
    return HolderColumns(ranked, np.tile(np.arange(bins), n_columns))


def growth(n: int, *, trees: int, depth: int, rate: float, validation: Any = None) -> Growth:
    return Growth(
        n_estimators=trees, max_depth=depth, max_leaves=0, leaf_wise=False, max_bin=32, subsample=1.0,
        colsample_bytree=1.0, own_columns=False, early_stopping_rounds=0, max_weight=1.0,
        validation=np.zeros(n, bool) if validation is None else validation,
        rules=Rules(rate, 1.0, 0.0, 1.0, 0.0, 30), coarse=True,
    )  # fmt: skip


def record(codes: dict[str, Any], bins: dict[str, int], target: Any, plan: Growth) -> Run:
    """Grow trees of the bank with all other parties of `codes`."""
    holders = tuple(p for p in codes if p != "bank")
    columns = {p: columns_of(c.shape[1], bins[p]) for p, c in codes.items()}
    base = float(np.log(target.mean() / (1 - target.mean())))
    held = {h: columns[h] for h in holders}
    data = BankBoosting(codes["bank"], columns["bank"], held, target, np.ones(target.size), base, plan)
    run = Run(codes, bins, data)
    sessions = {p: Session("attack/boost/1", p, "bank", holders) for p in codes}
    with pytest.MonkeyPatch.context() as patch:
        watch = _Watch(run)
        watch.install(patch)
        roles = {"bank": watch.playing("bank", bank_boost(sessions["bank"], data))}
        for h in holders:
            grows = holder_boost(sessions[h], codes[h], run.n_codes(h), plan, held[h])
            roles[h] = watch.playing(h, grows)
        run.found = simulate(roles, sessions, transcripts=run.transcripts, timeout_s=120)
    own = {h: list(run.found[h].trees) for h in holders}
    for tree in run.found["bank"].trees:
        theirs = own[tree.holder].pop(0)
        splits = [b if b.side == "bank" else a for a, b in zip(theirs.splits, tree.splits, strict=True)]
        run.trees.append(tree.model_copy(update={"splits": tuple(splits)}))
    return run


class _Watch:
    """Notes what stands row by row, for the party whose turn it is."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._turn = threading.local()  # parties compute side by side

    def playing(self, party: str, role: Any) -> Any:
        """A role that says when it is at work."""
        answer = None
        while True:
            self._turn.party = party
            try:
                item = role.send(answer)
            except StopIteration as end:
                return end.value
            finally:
                self._turn.party = None
            answer = yield item

    def note(self, values: Any, modulus: int) -> None:
        n = self.run.n
        if values.shape[-1] >= n:
            centred = values.reshape(-1, values.shape[-1])[:, :n].astype(np.float64) / modulus - 0.5
            self.run.words.setdefault(self._turn.party, []).append(centred.astype(np.float32))

    def pool(self, workers: int) -> ThreadPoolExecutor:
        """A pool whose threads work for the party that hands them work."""
        turn = self._turn

        class Pool(ThreadPoolExecutor):
            def submit(self, work: Any, *args: Any, **named: Any) -> Any:
                party = turn.party

                def done() -> Any:
                    turn.party = party
                    return work(*args, **named)

                return super().submit(done)

        return Pool(workers)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(blocks, "ThreadPoolExecutor", self.pool)
        for module in (hints, product):
            patch.setattr(module, "unpack", self._unpacking(module.unpack))
        for cls in (boosting.Bank, boosting.Holder):
            self._keep(patch, cls, "_add_margin", lambda role, _: [role.margin])
            self._keep(patch, cls, "_gradients", self._gradients)
        for cls in (boosting_sealed.SealedBankTree, boosting_sealed.SealedHolderTree):
            self._keep(patch, cls, "_members", lambda _, result: result)
        self._see_thresholds(patch)
        self._hear_bit_products(patch)

    def _unpacking(self, original: Any) -> Any:
        def unpack(data: Any, shape: Any, primes: Any) -> Any:
            found = original(data, shape, primes)
            if shape[-1] >= RING_ROWS:
                self.note(found[..., 0, :], primes[0])
            return found

        return unpack

    def _see_thresholds(self, patch: pytest.MonkeyPatch) -> None:
        """Note which thresholds a party's splits are refined from; codes are ranks here."""
        refined = boosting_search.Search._refined

        def refine(search: Any, nodes: Any, found: Any) -> Any:
            own, codes = search.sides[search.mine], self.run.codes[self._turn.party]
            first = own.every.some(own.first[found.candidate[found.mine]])
            self.run.refined_from.setdefault(self._turn.party, []).append((codes[:, first.columns] <= first.codes).T)
            return (yield from refined(search, nodes, found))

        patch.setattr(boosting_search.Search, "_refined", refine)

    def _hear_bit_products(self, patch: pytest.MonkeyPatch) -> None:
        """Note what either side of a bit product is sent, row by row; those of thresholds are not by row."""
        words, extend, n = bit_product.shares_from_bytes, bit_product.LabelSender.extend, self.run.n

        def products(data: Any, shape: Any) -> Any:
            found = words(data, shape)
            if found.size % n == 0:
                self.note(found.reshape(-1, n), T)
            return found

        class Sender(bit_product.LabelSender):
            def extend(sender: Any, message: bytes, shape: Any) -> Any:  # noqa: N805 - self is the watch
                rows = extend(sender, message, shape)
                for half in np.moveaxis(rows, -1, 0):
                    if half.size % n == 0:
                        self.note(half.reshape(-1, n), 1 << 64)
                return rows

        patch.setattr(bit_product, "shares_from_bytes", products)
        patch.setattr(bit_product, "LabelSender", Sender)

    def _gradients(self, _: Any, result: Any) -> list[Any]:
        self.run.shares_of_g.setdefault(self._turn.party, []).append(result[0])
        return [result]

    def _keep(self, patch: pytest.MonkeyPatch, cls: Any, name: str, take: Any) -> None:
        original = getattr(cls, name)

        def method(role: Any, *args: Any) -> Any:
            result = yield from original(role, *args)
            for share in take(role, result):
                self.note(share, T)
            return result

        patch.setattr(cls, name, method)


def gradient(parts: list[Any]) -> Any:
    """What shares of g add up to, in rows."""
    total = parts[0]
    for more in parts[1:]:
        total = shares.add(total, more)
    return shares.from_ring(total) / 2.0**SCALE


def one_hot(codes: Any, bins: int) -> Any:
    return np.concatenate([(codes[:, j : j + 1] == np.arange(bins)).T for j in range(codes.shape[1])]).astype(float)


def learn(own: list[Any], words: list[Any], known: Any, bits: Any, *, most: int = 60) -> Any:
    """Guess of every row's bit by someone who knows the `known` ones: by logistic models of features (k, n).

    One of its own data, one with the likeliest words besides; the better one on the rows it knows is taken.
    """
    plain, more = (np.concatenate([np.atleast_2d(f) for f in part]).T.astype(np.float64) for part in (own, words))
    y = bits[known].astype(float)

    def strength(x: Any, rows: Any, y: Any) -> Any:
        return np.abs((x[rows] - x[rows].mean(axis=0)).T @ (y - y.mean())) / np.maximum(x[rows].std(axis=0), 1e-9)

    def fitted(x: Any, rows: Any) -> Any:
        z = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)
        return LogisticRegression(C=0.1, max_iter=1000).fit(z[rows], bits[rows]).predict(z).astype(bool)

    half, other = (np.flatnonzero(known)[k::2] for k in range(2))
    tried = np.concatenate([plain, more[:, np.argsort(-strength(more, half, bits[half].astype(float)))[:most]]], axis=1)
    worth = [(fitted(x, half)[other] == bits[other]).mean() for x in (plain, tried)]
    if worth[0] >= worth[1]:
        return fitted(plain, known)
    best = np.argsort(-strength(more, known, y))[:most]
    return fitted(np.concatenate([plain, more[:, best]], axis=1), known)


def guess(groups: Any, bits: Any) -> float:
    """Share of bits that are right for someone told the commoner value in each group of rows, and nothing else."""
    _, place = np.unique(np.atleast_2d(np.asarray(groups).T).T.reshape(bits.size, -1), axis=0, return_inverse=True)
    ones = np.bincount(place.ravel(), weights=bits)
    return float(np.maximum(ones, np.bincount(place.ravel()) - ones).sum() / bits.size)
