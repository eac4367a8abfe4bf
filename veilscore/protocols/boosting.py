"""Boosts jointly: the bank grows each tree with one holder; rows, gradients and margins stay shared.

Source   : Design page, section 6; docs/protocols/boosting.md.
Parties  : The bank has the label and finds leaf weights; holders take part one a tree, in turn.
Messages : Once: BoostBankRound0, BoostHolderRound0, BoostBankHints, BoostHolderHints, BoostPoints. Per tree:
           BoostBankTree (BoostHolderMargin from the last partner), BoostBankTables -> BoostHolderGradients (shares of g
           and h); per level: BoostBankVectors and BoostHolderVectors (sums per cell), BoostSealed (all rounds of the
           choice, `sealed_argmax.py`), BoostChoices -> BoostProducts both ways (`bit_products.py`: shares of g and h in
           the children); then BoostHolderSums (of the leaves), BoostBankLeaves, BoostChoices -> BoostProducts (the
           margins), BoostBankBlock -> BoostHolderBlock and BoostHolderImprovement (`boosting_validation.py`).
Reveals  : The bank learns sums of g and h of each leaf, and the improvement on validation rows, one number a tree.
           Both parties of a tree learn its shape, and each its own splits.
Assumes  : Parties are semi-honest, and no two collude; ring-LWE and computational Diffie-Hellman in ristretto255 are
           hard; AES is a random permutation.
Aborts   : MessageError on any wrong size, range or order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from veilscore.arrays import CodeArray, Integers, Words
from veilscore.crypto import shares
from veilscore.errors import MessageError
from veilscore.lattice.histogram import HistogramCodes, HistogramVectors
from veilscore.lattice.product import ProductEvaluator, ProductKey
from veilscore.models import harmonics
from veilscore.models.boosting_form import SCALE, BankBoosting, Grown, Growth, HolderColumns, rank_codes
from veilscore.models.trees import Tree, coefficients, indicators, leaf_range, shapes_digest, skeletons_digest
from veilscore.protocols.bit_products import NO_BITS, NO_VALUES, bit_products, bit_setup
from veilscore.protocols.blocks import bank_product, holder_product, receive_hints, send_hints
from veilscore.protocols.boosting_nodes import subtract, vector_share
from veilscore.protocols.boosting_sealed import SealedBankTree, SealedHolderTree, trees_of_keys
from veilscore.protocols.boosting_shares import (
    BankShares,
    HolderShares,
    bank_ranked,
    chosen_columns,
    holder_columns,
    partners,
    remask,
    sampled_rows,
    tree_label,
)
from veilscore.protocols.boosting_validation import bank_improvement, holder_improvement, weight_bits
from veilscore.protocols.sealed_argmax import bank_setup, holder_setup
from veilscore.terms.settings import parse_json
from veilscore.v1 import boosting_pb2 as pb
from veilscore.wire.protocol import Checkpoint, Progress, Protocol, Send, Session, receive, receive_parts, send_parts
from veilscore.wire.randomness import secret_bytes

BANK_TABLE, HOLDER_TABLE = 15, 18  # the holder's tables carry the coefficients, so their error is not shrunk by them
SEED_BYTES = 32  # of a seed from which both parties draw alike


def bank_boost(session: Session, data: BankBoosting) -> Protocol[Grown]:
    """Bank: grow the trees."""
    bank = Bank(session, data)
    yield from bank.set_up()
    yield from bank.rebuild()
    growth, stopped = data.growth, ""
    order = partners(session, growth)
    for number in range(len(bank.trees), growth.n_estimators):
        if _no_better(bank.improvements, growth.early_stopping_rounds):
            stopped = f"no improvement on the validation rows in {growth.early_stopping_rounds} trees"
            break
        yield from bank.tree(number, *order[number])
        yield Progress("trees", number + 1, growth.n_estimators)
        yield Checkpoint(bank.state())
        if bank.saturated:
            stopped = f"margins reached {harmonics.LARGEST:.0f} log-odds, the largest sigmoid series"
            break
    kept = len(bank.trees)
    if growth.early_stopping_rounds:
        kept = 1 + int(np.argmax(np.cumsum(bank.improvements)))
    trees = tuple(bank.trees[:kept])
    digests = {}
    for holder in session.holders:
        trees, digests[holder] = yield from bank.close(holder, trees)
    return Grown(trees, tuple(bank.improvements), stopped, digests)


def _no_better(improvements: list[float], rounds: int) -> bool:
    """Say whether the best tree so far lies `rounds` back."""
    return bool(rounds) and len(improvements) - 1 - int(np.argmax(np.cumsum(improvements or [0.0]))) >= rounds


class Bank(BankShares):
    """Plays the bank's role, tree by tree."""

    def close(self, holder: str, trees: tuple[Tree, ...]) -> Protocol[tuple[tuple[Tree, ...], str]]:
        """Agree with a holder on its trees of the model; return all trees, with what it tells, and its digest."""
        own = [tree for tree in trees if tree.holder == holder]
        digest = skeletons_digest(own)
        yield Send(holder, pb.BoostBankTree(finished=True, kept=len(own), kept_sha256=digest))
        part = yield from receive(holder, pb.BoostHolderPart)
        if len(part.sha256) != len(digest):
            raise MessageError("the hash of the holder's part of the model has the wrong size", party=holder)
        if not part.columns:
            return trees, part.sha256.hex()
        count = sum(len(tree.holder_splits) for tree in own)
        if len(part.columns) != count or max(part.columns) >= self.holder_ranked[holder].n_codes.size:
            raise MessageError("the holder names columns that are not there", party=holder)
        columns = iter(part.columns)
        told = tuple(t.with_columns(columns) if t.holder == holder else t for t in trees)
        return told, part.sha256.hex()

    def set_up(self) -> Protocol[None]:
        """Exchange hints with every holder; they serve all trees."""
        session, own = self.session, self.data.own.ranked
        for holder, columns in self.data.columns.items():
            label = session.label("boost bank cells", session.bank, holder)
            codes = HistogramCodes(self.ranked_codes, own.n_codes, label)
            self.cells[holder] = codes
            start = pb.BoostBankRound0(
                bank_n_codes=own.n_codes.tolist(),
                ranks=columns.ranks.astype("<u2").tobytes(),
                missing=columns.ranked.missing.tolist(),
                bank_missing=own.missing.tolist(),
            )
            yield Send(holder, start)
            yield from send_hints(holder, pb.BoostBankHints, codes)
        for holder, columns in self.data.columns.items():
            reply = yield from receive(holder, pb.BoostHolderRound0)
            label = session.label("boost holder cells", holder, session.bank)
            vectors = HistogramVectors(self.n, columns.ranked.n_codes, label)
            yield from receive_hints(holder, pb.BoostHolderHints, vectors)
            self.vectors[holder] = vectors
            self.bits[holder] = yield from bit_setup(session, holder)
            missing = np.array(reply.missing, dtype=bool)
            if missing.size != columns.ranked.n_codes.size:
                raise MessageError("the holder's ranks do not fit its columns", party=holder)
            self.holder_ranked[holder] = replace(columns.ranked, missing=missing)
            self.sealed[holder] = yield from bank_setup(session, holder, pb.BoostSealed)

    def rebuild(self) -> Protocol[None]:
        """After an interruption: share the margins of the trees already grown anew."""
        for holder in self.session.holders:
            grown = [tree for tree in self.data.trees if tree.holder == holder]
            if not grown:
                continue
            shapes = json.dumps([tree.skeleton().model_dump(mode="json") for tree in grown]).encode()
            yield from self._turn_to(holder, len(self.data.trees), shapes=shapes)
            for tree in grown:
                yield from self._add_margin(tree)
        self.trees = list(self.data.trees)

    def _turn_to(self, holder: str, number: int, **more: Any) -> Protocol[None]:
        """Make `holder` the partner: the last one hands its margin share over, masked anew."""
        previous, seed = "", b""
        if self.partner != holder:  # the first partner's share is masked too: it may have no split of its own
            previous, seed = self.partner, secret_bytes(SEED_BYTES)
            if previous:
                yield Send(previous, pb.BoostBankTree(tree=number, hand_over_to=holder))
            self.margin = subtract(self.margin, remask(seed, self.n))
        self.partner = holder
        yield Send(holder, pb.BoostBankTree(tree=number, previous=previous, remask_seed=seed, **more))

    def tree(self, number: int, holder: str, sides: str) -> Protocol[None]:
        """Grow one tree."""
        columns = self._columns(number, holder, sides)
        series = harmonics.for_bound(float(np.abs(self.reach).max()) * (1 + 1e-9))
        seed = secret_bytes(SEED_BYTES) if self.growth.subsample < 1 else b""
        key = ProductKey(tree_label(self.session, number, holder))
        yield from self._turn_to(
            holder,
            number,
            product_public=key.public(),
            harmonic=series.r,
            rows_seed=seed,
            bank_columns=columns[0].tolist(),
            holder_columns=columns[1].tolist(),
        )
        n_cells = self.data.own.ranked.n_cells + self.holder_ranked[holder].n_cells
        if self.sealed_trees.get(holder, 0) >= trees_of_keys(self.growth, n_cells):
            self.sealed[holder] = yield from bank_setup(self.session, holder, pb.BoostSealed)
            self.sealed_trees[holder] = 0
        self.sealed_trees[holder] = self.sealed_trees.get(holder, 0) + 1
        gradients = yield from self._gradients(key, holder, series)
        rows = sampled_rows(self.growth, seed, self.n)
        grower = SealedBankTree(self, holder, columns, vector_share(gradients, rows))
        tree = self._within_reach((yield from grower.grow()))
        validate = bool(self.growth.validation.any())
        bits = weight_bits(self.growth, tree) if validate else 0
        yield Send(holder, pb.BoostBankLeaves(validate=validate, weight_bits=bits))
        yield from self._add_margin(tree)
        if validate:
            self.improvements.append((yield from bank_improvement(self, key, tree, gradients)))
        self.trees.append(tree)

    def _columns(self, number: int, holder: str, sides: str) -> tuple[Integers, Integers]:
        """Draw the columns that this tree may split on, on either side."""
        draw = np.random.default_rng((self.growth.seed, number))
        found = []
        for side, ranked in (("bank", self.data.own.ranked), ("holder", self.data.columns[holder].ranked)):
            d = ranked.n_codes.size
            count = max(1, round(self.growth.colsample_bytree * d)) if d and sides in {"both", side} else 0
            found.append(np.sort(draw.permutation(d)[:count]).astype(np.int64))
        return found[0], found[1]

    def _gradients(self, key: ProductKey, holder: str, series: harmonics.Harmonics) -> Protocol[Words]:
        """Return the share (2, n) of g = w (p - y) and h = w p (1 - p)."""
        weight = self.data.weight

        def tables(rows: slice) -> Words:
            both = np.concatenate(series.tables(self.margin[rows])) * np.ldexp(weight[rows], BANK_TABLE)
            return shares.to_ring(np.rint(both).astype(np.int64))

        kinds = (pb.BoostBankTables, pb.BoostHolderGradients)
        product = yield from bank_product(holder, key, self.n, tables, 2, kinds)
        own = np.stack([weight * (0.5 - self.data.target), weight * series.constant])
        return shares.add(product, shares.encode(own, SCALE))

    def _add_margin(self, tree: Tree) -> Protocol[None]:
        """Add the tree to the margins: the bank's constant, and a product with the holder's indicators."""
        units = np.array([round(w / harmonics.UNIT) for w in tree.weights], dtype=np.int64)
        c = coefficients(tree, units, self.data.codes, self.data.own.ranked.n_codes)
        self.margin = shares.add(self.margin, shares.to_ring(c[0]))
        self.reach += leaf_range(tree, self.data.codes, self.data.own.ranked.n_codes)
        if c.shape[0] == 1:
            return
        factors = shares.to_ring(c[1:]).reshape(1, -1)
        _, product = yield from bit_products(self.bits[tree.holder], NO_BITS, 1, factors)
        self.margin = shares.add(self.margin, shares.sum_shares(product.reshape(-1, self.n), axis=0))

    def _within_reach(self, tree: Tree) -> Tree:
        """Shrink the leaves where the margins could leave the largest series, and stop after."""
        limit = harmonics.LARGEST * (1 - 1e-6)
        reached, largest = float(np.abs(self.reach).max()), max(abs(w) for w in tree.weights)
        if reached + largest <= limit:
            return tree
        if np.abs(self.reach + leaf_range(tree, self.data.codes, self.data.own.ranked.n_codes)).max() <= limit:
            return tree
        self.saturated = True
        room = max(0.0, limit - reached)
        return tree.model_copy(update={"weights": tuple(w * room / largest for w in tree.weights)})


# --- a holder --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HolderResult:
    """What a holder keeps: the model's trees that it took part in, as it knows them, and sums opened for all trees."""

    trees: tuple[Tree, ...]
    n_sums: int
    salt: bytes = field(repr=False)  # of the digest that the bank learns, which does not know the splits


def holder_boost(
    session: Session,
    codes: CodeArray,
    n_codes: Integers,
    growth: Growth,
    natural: HolderColumns,
    *,
    earlier: tuple[Tree, ...] = (),
    tell_columns: bool = True,
) -> Protocol[HolderResult]:
    """Holder: take part in the trees that the bank grows with it.

    codes, n_codes : (n, d) codes of the training rows and (d,) codes of each column.
    natural : ranks of the codes in the order of their values, -1 in columns that have none.
    earlier : this party's trees of earlier attempts, from its checkpoint.
    tell_columns : tell the bank which anonymous column each split is on (for importances).
    """
    holder = Holder(session, codes, n_codes, growth, natural)
    holder.earlier = earlier
    yield from holder.set_up()
    while True:
        message = yield from receive(session.bank, pb.BoostBankTree)
        if message.finished:
            trees = holder.kept(message)
            told = [s.column for t in trees for s in t.splits if s.side == "holder"] if tell_columns else []
            salt = secret_bytes(SEED_BYTES)  # splits are the holder's own: some could be guessed from a bare digest
            yield Send(session.bank, pb.BoostHolderPart(sha256=shapes_digest(trees, salt), columns=told))
            return HolderResult(trees, sum(2 * tree.n_leaves for tree in holder.trees), salt)
        if message.hand_over_to:
            yield from holder.hand_over(message.hand_over_to)
            continue
        yield from holder.begin(message)
        if message.shapes:
            yield from holder.rebuild(bytes(message.shapes))
        else:
            yield from holder.tree(message)
            yield Progress("trees", int(message.tree) + 1, growth.n_estimators)


class Holder(HolderShares):
    """Plays a holder's role, tree by tree."""

    def set_up(self) -> Protocol[None]:
        """Exchange hints with the bank; they serve all trees."""
        session, bank = self.session, self.session.bank
        start = yield from receive(bank, pb.BoostBankRound0)
        self.bank_ranked = bank_ranked(start, bank)
        self.columns = holder_columns(start, self.n_codes, self.natural, bank)
        yield Send(bank, pb.BoostHolderRound0(missing=self.columns.ranked.missing.tolist()))
        self.ranked_codes = rank_codes(self.codes, self.columns)
        label = session.label("boost bank cells", bank, session.party)
        self.vectors = HistogramVectors(self.n, self.bank_ranked.n_codes, label)
        label = session.label("boost holder cells", session.party, bank)
        self.cells = HistogramCodes(self.ranked_codes, self.n_codes, label)
        yield from send_hints(bank, pb.BoostHolderHints, self.cells)
        yield from receive_hints(bank, pb.BoostBankHints, self.vectors)
        self.bits = yield from bit_setup(session, bank)
        self.sealed = yield from holder_setup(session, pb.BoostSealed)

    def kept(self, message: Any) -> tuple[Tree, ...]:
        """Return the model's trees with this holder; MessageError if the parties do not know the same ones."""
        trees = tuple(self.trees[: message.kept])
        digest = skeletons_digest(trees)
        if message.kept > len(self.trees) or digest != bytes(message.kept_sha256):
            raise MessageError("the bank's trees are not those grown with this party", party=self.session.bank)
        return trees

    def hand_over(self, to: str) -> Protocol[None]:
        """Pass this party's share of the margins on; it is uniform without the bank's."""
        if to not in self.session.holders or to == self.session.party:
            raise MessageError("the bank names a party that is not another holder", party=self.session.bank)
        yield from send_parts(to, pb.BoostHolderMargin, shares.shares_to_bytes(self.margin))
        self.margin = np.zeros(self.n, np.uint64)

    def begin(self, message: Any) -> Protocol[None]:
        """Take over the margins where another holder had them."""
        session, bank = self.session, self.session.bank
        if message.previous:
            if message.previous not in session.holders or message.previous == session.party:
                raise MessageError("the previous partner is not another holder", party=bank)
            data = yield from receive_parts(message.previous, pb.BoostHolderMargin, 8 * self.n)
            self.margin = shares.add(self.margin, shares.shares_from_bytes(data, (self.n,)))
        if message.remask_seed:
            if len(message.remask_seed) != SEED_BYTES:
                raise MessageError(f"a seed has {SEED_BYTES} bytes", party=bank)
            self.margin = shares.add(self.margin, remask(bytes(message.remask_seed), self.n))

    def rebuild(self, shapes: bytes) -> Protocol[None]:
        """Share the margins of trees from before an interruption anew."""
        try:
            trees = [Tree.model_validate(body) for body in parse_json(shapes)]
        except (ValueError, TypeError) as error:
            raise MessageError("shapes of earlier trees cannot be read", party=self.session.bank) from error
        if len(trees) > self.growth.n_estimators or any(t.holder != self.session.party for t in trees):
            raise MessageError("shapes of earlier trees are not this holder's", party=self.session.bank)
        own = self.earlier[: len(trees)]
        if [tree.skeleton() for tree in own] != trees:
            raise MessageError("earlier trees are not those in this holder's checkpoint", party=self.session.bank)
        for tree in own:
            yield from self._add_margin(tree)
            self.trees.append(tree)
        self.n_trees = len(own)

    def tree(self, message: Any) -> Protocol[None]:
        """Take part in one tree, from gradients to margins."""
        bank = self.session.bank
        if self.n_trees >= self.growth.n_estimators:
            raise MessageError("the bank asks for more trees than the job has", party=bank)
        self.n_trees += 1
        label = tree_label(self.session, int(message.tree), self.session.party)
        self.evaluator = ProductEvaluator(bytes(message.product_public), label)
        series = harmonics.harmonics(int(message.harmonic))
        seed = bytes(message.rows_seed)
        if len(seed) not in {0, SEED_BYTES}:
            raise MessageError(f"a seed has {SEED_BYTES} bytes", party=bank)
        columns = (
            chosen_columns(message.bank_columns, self.bank_ranked, bank),
            chosen_columns(message.holder_columns, self.columns.ranked, bank),
        )
        # the keys of a set-up open so much and no more: both parties count alike
        n_cells = self.bank_ranked.n_cells + self.columns.ranked.n_cells
        if self.sealed_trees >= trees_of_keys(self.growth, n_cells):
            self.sealed, self.sealed_trees = (yield from holder_setup(self.session, pb.BoostSealed)), 0
        self.sealed_trees += 1
        gradients = yield from self._gradients(series)
        rows = sampled_rows(self.growth, seed, self.n)
        grower = SealedHolderTree(self, columns, vector_share(gradients, rows))
        tree, step = yield from grower.follow()
        yield from self._add_margin(tree)
        if step.validate:
            yield from holder_improvement(self, tree, gradients, int(step.weight_bits))
        self.trees.append(tree)
        yield Checkpoint(self.state())

    def _gradients(self, series: harmonics.Harmonics) -> Protocol[Words]:
        def tables(rows: slice) -> Words:
            sines, cosines = series.tables(self.margin[rows])
            c, d = np.ldexp(series.sines, HOLDER_TABLE)[:, None], np.ldexp(series.cosines, HOLDER_TABLE)[:, None]
            both = np.stack([np.concatenate([c * cosines, c * sines]), np.concatenate([-d * sines, d * cosines])])
            return shares.to_ring(np.rint(both).astype(np.int64))

        kinds = (pb.BoostBankTables, pb.BoostHolderGradients)
        return (yield from holder_product(self.session.bank, self.evaluator, self.n, tables, kinds))

    def _add_margin(self, tree: Tree) -> Protocol[None]:
        e = indicators(tree, self.codes, self.n_codes)
        if e.shape[0] == 0:
            return
        product, _ = yield from bit_products(self.bits, e.reshape(-1), 1, NO_VALUES)
        self.margin = shares.add(self.margin, shares.sum_shares(product.reshape(-1, self.n), axis=0))
