"""Stacks models: out-of-fold margins of level-one models stay shares, and a few weights on them are fitted from shares.

Source   : Design page, section 7; `scorecard.py` for the sigmoid on shares; docs/protocols/boosting.md.
Parties  : The bank has the label, the level-one models and the weights; the holders have codes and their part of the
           trees; the lead holds the other holders' shares too.
Messages : Once: StackBankKey, StackHolderHints, StackBankQuery (a table of cells a fold), StackBankBlock ->
           StackHolderBlock (trees of a fold), StackHolderShare (the others to the lead). For each request of the bank:
           StackBankStep, StackBankBlock -> StackHolderBlock (log-odds, sigmoid, inner products), StackHolderOpened.
Reveals  : The bank learns rounded sums over all rows: second moments of the margins once a fit, M + 1 gradient
           components a step, one loss a fold and candidate; with `scores` (which the policy of every holder must allow)
           the rounded out-of-fold log-odds of each row. The lead learns number and kind of requests, the range R and
           the members of each, and the largest margin as a power of two; no weight, no margin. Folds are drawn by row
           number, so all parties know them.
Assumes  : Parties are semi-honest, and ring-LWE is hard. The bank together with the lead learns the other holders' part
           of a margin.
Aborts   : MessageError on any wrong size, range or order, and on more requests than the job allows.

A margin is an integer modulo T in units of 2**-MARGIN_BITS log-odds. A multiple of it by an integer is exact modulo T;
log-odds of level two are such multiples in units of 2 L / T, so that a turn of the ring is a period of the series.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import numpy as np

from veilscore.arrays import Integers, Vector, Words
from veilscore.crypto import shares
from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.lookup import LookupCodes, LookupTable
from veilscore.lattice.params import HISTOGRAM, T
from veilscore.lattice.product import ProductEvaluator, ProductKey
from veilscore.models.loss import BOUNDS, TURN, SigmoidSeries, sigmoid_series
from veilscore.models.softplus import softplus_series
from veilscore.models.stack_form import (
    MARGIN_BITS,
    OPEN_BITS,
    BankStack,
    CellsColumn,
    ClearColumn,
    Gradient,
    HolderStack,
    Losses,
    Moments,
    OpenScores,
    StackLimits,
    StackRequest,
    TreesColumn,
    leaf_units,
    of_own_fold,
    own_cells,
    product_groups,
    table_bits,
)
from veilscore.models.trees import Tree, coefficients, indicators
from veilscore.protocols.blocks import bank_product, holder_product, receive_hints, send_hints
from veilscore.v1 import stacking_pb2 as pb
from veilscore.wire.protocol import Checkpoint, Progress, Protocol, Send, Session, receive, receive_parts, send_parts

WEIGHT_BITS = 14  # fraction bits of level two's weights where scores are opened
MOMENT_BITS = 6  # fraction bits of an opened second moment, of which level two takes its first curvature
SCORE_BITS = 6  # an opened score is right to 1/64 of log-odds
MAX_REACH_BITS = 7
MAX_MEMBERS = 4  # of one request
_KINDS = (pb.StackBankBlock, pb.StackHolderBlock)
_STEPS: dict[type[StackRequest], Any] = {
    Moments: pb.StackBankStep.MOMENTS,
    Gradient: pb.StackBankStep.GRADIENT,
    Losses: pb.StackBankStep.LOSSES,
    OpenScores: pb.StackBankStep.SCORES,
}
_LIMITS = dict(zip(_STEPS.values(), ("moments", "gradients", "losses", "scores"), strict=True))
R = TypeVar("R")


# --- the bank --------------------------------------------------------------------------------------------------------


def bank_stack(
    session: Session, data: BankStack, requests: Generator[StackRequest, Any, R], limits: StackLimits
) -> Protocol[R]:
    """Bank: share the margins, then answer what the fit requests; return the fit's result.

    limits : what the holders answer at most.
    Raises ParameterError where margins or rows are too large for the ring.
    """
    bank, most = _Bank(session, data), sum(getattr(limits, name) for name in _LIMITS.values())
    yield from bank.margins()
    try:
        request, number = next(requests), 0
        while True:
            answer = yield from bank.answer(request)
            number += 1
            yield Progress("sums on shares", number, most)
            request = requests.send(answer)
    except StopIteration as stop:
        yield Send(session.lead, pb.StackBankStep(kind=pb.StackBankStep.FINISHED))
        return stop.value  # type: ignore[no-any-return]


class _Bank:
    """Holds the bank's shares of the margins."""

    def __init__(self, session: Session, data: BankStack) -> None:
        self.session, self.data, self.n = session, data, data.target.size
        largest = max(1.0, *(float(np.abs(side).max()) for side in data.bounds))
        self.reach_bits = math.ceil(math.log2(largest + 2.0**-MARGIN_BITS))
        if self.reach_bits > MAX_REACH_BITS:
            raise ParameterError(f"margins may reach {largest:.0f} log-odds: lower learning_rate or n_estimators")
        self.bits = table_bits(self.n, self.reach_bits)
        self.residual_bits = sum(self.bits)
        self.x = np.zeros((len(data.columns), self.n), np.uint64)

    def margins(self) -> Protocol[None]:
        """Share every column's margins with the lead."""
        session, data = self.session, self.data
        keys = {}
        for holder in session.holders:
            keys[holder] = ProductKey(session.label("stack product", session.bank, holder))
            yield Send(holder, pb.StackBankKey(product_public=keys[holder].public(), reach_bits=self.reach_bits))
        self.key = keys[session.lead]
        for c, column in enumerate(data.columns):
            if isinstance(column, ClearColumn):
                self.x[c] = shares.encode(column.values, MARGIN_BITS)
        for holder in session.holders:
            if any(isinstance(column, CellsColumn) for column in data.columns):
                yield from self._look_up(holder)
            yield from self._trees(holder, keys[holder])
            yield Progress("out-of-fold margins", 1 + session.holders.index(holder), len(session.holders))
        for f in range(int(data.fold.max()) + 1):
            self._own(f)

    def _own(self, f: int) -> None:
        """Add what needs no holder: intercepts and the bank's own cells."""
        rows = self.data.fold == f
        for c, column in enumerate(self.data.columns):
            if isinstance(column, TreesColumn):
                value = np.full(int(rows.sum()), float(column.base[f]))
            elif isinstance(column, CellsColumn):
                value = float(column.intercept[f]) + own_cells(self.data, column, f, self.data.codes[rows])
            else:
                continue
            self.x[c, rows] = shares.add(self.x[c, rows], shares.encode(value, MARGIN_BITS))

    def _look_up(self, holder: str) -> Protocol[None]:
        """Share a holder's part of scorecards: one table a column and fold, of which each row keeps its own fold's."""
        session, data = self.session, self.data
        label = session.label("stack cells", holder, session.bank)
        table = LookupTable(self.n, data.holder_n_codes[holder], label, params=HISTOGRAM)
        yield from receive_hints(holder, pb.StackHolderHints, table)
        cells = [(c, column) for c, column in enumerate(data.columns) if isinstance(column, CellsColumn)]
        theta = np.concatenate([column.theta[holder] for _, column in cells])
        query, found = table.query_many(np.rint(np.ldexp(theta, MARGIN_BITS)).astype(np.int64))
        yield from send_parts(holder, pb.StackBankQuery, query.pack())
        for (c, _), share in zip(cells, of_own_fold(found, data.fold, len(cells)), strict=True):
            self.x[c] = shares.add(self.x[c], share)

    def _trees(self, holder: str, key: ProductKey) -> Protocol[None]:
        """Share the trees with a holder, fold by fold."""
        data = self.data
        for c, column in enumerate(data.columns):
            if not isinstance(column, TreesColumn):
                continue
            for f, all_trees in enumerate(column.trees):
                rows = np.flatnonzero(data.fold == f)
                trees = [tree for tree in all_trees if tree.holder == holder]
                for group in product_groups(trees):
                    yield from self._group(holder, key, c, rows, group)
                for tree in (tree for tree in trees if not tree.holder_splits):
                    value = coefficients(tree, leaf_units(tree), data.codes[rows], data.n_codes)[0]
                    self.x[c, rows] = shares.add(self.x[c, rows], shares.to_ring(value))

    def _group(self, holder: str, key: ProductKey, c: int, rows: Integers, trees: list[Tree]) -> Protocol[None]:
        parts = [coefficients(tree, leaf_units(tree), self.data.codes[rows], self.data.n_codes) for tree in trees]
        u = shares.to_ring(np.concatenate([part[1:] for part in parts]))
        product = yield from bank_product(holder, key, rows.size, lambda r: u[:, r], None, _KINDS)
        own = shares.to_ring(np.sum([part[0] for part in parts], axis=0))
        self.x[c, rows] = shares.add(self.x[c, rows], shares.add(own, product))

    def answer(self, request: StackRequest) -> Protocol[Any]:
        """Announce a request to the lead and return what the fit asked for."""
        radius = request.radius if isinstance(request, Gradient | Losses) else 0.0
        kind = _STEPS[type(request)]
        yield Send(self.session.lead, pb.StackBankStep(kind=kind, radius=radius, columns=request.columns))
        x = self.x[list(request.columns)]
        if isinstance(request, Moments):
            return (yield from self._moments(x))
        if isinstance(request, Gradient):
            return (yield from self._gradient(request, x))
        if isinstance(request, Losses):
            return (yield from self._losses(request, x))
        return (yield from self._scores(request, x))

    def _product(self, u: Words, n_outputs: int | None = None) -> Protocol[Words]:
        lead = self.session.lead
        return (yield from bank_product(lead, self.key, self.n, lambda r: u[:, r], n_outputs, _KINDS))

    def _open(self, own: Words, scale: Sequence[int], keep: int) -> Protocol[Vector]:
        """Open sums, each of its own scale, from own shares and the lead's, which are rounded to `keep` bits."""
        message = yield from receive(self.session.lead, pb.StackHolderOpened)
        rounded = shares.shares_from_bytes(message.rounded, own.shape)
        one = [slice(i, i + 1) for i in range(len(scale))]
        opened = [shares.open_rounded(own[i], rounded[i], max(0, s - keep), s) for i, s in zip(one, scale, strict=True)]
        return np.concatenate(opened)

    def _moments(self, x: Words) -> Protocol[tuple[Vector, Vector]]:
        pairs = _pairs(len(x))
        product = yield from self._product(x, len(pairs))
        opened = yield from self._open(*_moments(x, product), MOMENT_BITS)
        second = np.zeros((len(x), len(x)))
        for (j, k), value in zip(pairs, opened, strict=False):
            second[j, k] = second[k, j] = value
        return second, opened[len(pairs) :]

    def _eta(self, x: Words, factors: Integers, constant: Integers) -> Protocol[Words]:
        """Return the share modulo T of sum_m factors_m x_m + constant; factors are (M,) or (M, n), constant (n,)."""
        ring = shares.to_ring(factors)
        u = np.ascontiguousarray(np.broadcast_to(ring[:, None] if ring.ndim == 1 else ring, x.shape))
        product = yield from self._product(u)
        own = shares.sum_shares(shares.times(x, u), axis=0)
        return shares.add(shares.add(own, product), shares.to_ring(constant))

    def _turn(self, request: Gradient | Losses, x: Words, series: SigmoidSeries) -> Protocol[Words]:
        """Return the share modulo 2**24 of the log-odds, of which a turn is a period of the series."""
        beta, intercept = np.asarray(request.beta), np.asarray(request.intercept)
        if beta.ndim == 2:
            beta, intercept = beta[self.data.fold].T, intercept[self.data.fold]
        per_unit = T / (2.0 * series.L)
        factors = _wrap(np.rint(beta * (per_unit * 2.0**-MARGIN_BITS)))
        constant = np.broadcast_to(_wrap(np.rint(intercept * per_unit)), (self.n,))
        return _to_turn((yield from self._eta(x, factors, constant)))

    def _gradient(self, request: Gradient, x: Words) -> Protocol[Vector]:
        series = sigmoid_series(int(request.radius))
        turn = yield from self._turn(request, x, series)
        table = np.concatenate(series.tables(turn)) * np.ldexp(request.weight, self.bits[0])
        product = yield from self._product(shares.to_ring(np.rint(table).astype(np.int64)))
        known = shares.encode(request.weight * (0.5 - self.data.target), self.residual_bits)
        r = shares.add(product, known)
        cross = yield from self._product(np.concatenate([r[None], x]), len(x))
        return (yield from self._open(*_inner_products(x, r, cross, self.residual_bits), OPEN_BITS))

    def _losses(self, request: Losses, x: Words) -> Protocol[Vector]:
        series = sigmoid_series(int(request.radius))
        turn = yield from self._turn(request, x, series)
        sines, cosines = series.tables(turn)
        data, bits = self.data, self.residual_bits
        table = np.rint(np.ldexp(np.concatenate([cosines, sines]), self.bits[0])).astype(np.int64)
        lean = 0.5 - data.target  # log(1 + e^eta) - y eta = c(eta) + (1/2 - y) eta, c even
        factors = np.rint(np.ldexp(lean * request.beta[data.fold].T, bits - MARGIN_BITS)).astype(np.int64)
        u = np.concatenate([shares.to_ring(table), shares.to_ring(factors)])
        product = yield from self._product(u)
        known = shares.encode(softplus_series(request.radius).constant + lean * request.intercept[data.fold], bits)
        clear = shares.sum_shares(shares.times(x, shares.to_ring(factors)), axis=0)
        sums = _fold_sums(shares.add(clear, shares.add(product, known)), data.fold)
        return (yield from self._open(sums, [bits] * sums.size, OPEN_BITS))

    def _scores(self, request: OpenScores, x: Words) -> Protocol[Vector]:
        fold = self.data.fold
        factors = np.rint(np.ldexp(request.beta[fold].T, WEIGHT_BITS)).astype(np.int64)
        scale = WEIGHT_BITS + MARGIN_BITS
        constant = np.rint(np.ldexp(request.intercept[fold], scale)).astype(np.int64)
        eta = yield from self._eta(x, factors, constant)
        message = yield from receive_parts(self.session.lead, pb.StackHolderShare, 8 * self.n)
        rounded = shares.shares_from_bytes(message, (self.n,))
        return shares.open_rounded(eta, rounded, scale - SCORE_BITS, scale)


# --- holders ---------------------------------------------------------------------------------------------------------


def holder_stack(
    session: Session, data: HolderStack, limits: StackLimits, *, asked: int = 0
) -> Protocol[dict[str, int]]:
    """Holder: share the margins and, as the lead, answer what the bank requests, up to the limits.

    asked : requests answered in earlier attempts; kept in a checkpoint before each answer.
    Returns how many requests of each kind were answered.
    """
    holder = _Holder(session, data)
    yield from holder.margins()
    counts = dict.fromkeys(_LIMITS.values(), 0)
    if session.party != session.lead:
        return counts
    while True:
        step = yield from receive(session.bank, pb.StackBankStep)
        if step.kind == pb.StackBankStep.FINISHED:
            return counts
        if step.kind not in _LIMITS:
            raise MessageError("the bank asks for something that does not exist", party=session.bank)
        name = _LIMITS[step.kind]
        counts[name] += 1
        most = getattr(limits, name)
        if counts[name] > most:
            raise MessageError(f"the bank asks for more than the {most} {name} of the job", party=session.bank)
        yield Checkpoint({"asked": asked + sum(counts.values())})
        yield from holder.answer(step)


class _Holder:
    """Holds a holder's shares of the margins."""

    def __init__(self, session: Session, data: HolderStack) -> None:
        self.session, self.data, self.n = session, data, data.codes.shape[0]
        self.x = np.zeros((len(data.columns), self.n), np.uint64)

    def margins(self) -> Protocol[None]:
        """Share its part of every column's margins; all but the lead pass theirs on to the lead."""
        session, data = self.session, self.data
        start = yield from receive(session.bank, pb.StackBankKey)
        if start.reach_bits > MAX_REACH_BITS:
            raise MessageError("the bank's margins are out of range", party=session.bank)
        self.bits = table_bits(self.n, start.reach_bits)
        label = session.label("stack product", session.bank, session.party)
        self.evaluator = ProductEvaluator(bytes(start.product_public), label)
        if "cells" in data.columns:
            yield from self._look_up()
        for c, trees in enumerate(data.columns):
            if not isinstance(trees, str):
                yield from self._trees(c, trees)
        if session.party != session.lead:
            yield from send_parts(session.lead, pb.StackHolderShare, shares.shares_to_bytes(self.x))
            self.x[:] = 0  # the lead has it now
            return
        for other in session.holders[1:]:
            message = yield from receive_parts(other, pb.StackHolderShare, 8 * self.x.size)
            self.x = shares.add(self.x, shares.shares_from_bytes(message, self.x.shape))

    def _look_up(self) -> Protocol[None]:
        session, data = self.session, self.data
        label = session.label("stack cells", session.party, session.bank)
        lookup = LookupCodes(data.codes, data.n_codes, label, params=HISTOGRAM)
        yield from send_hints(session.bank, pb.StackHolderHints, lookup)
        cells = [c for c, column in enumerate(data.columns) if column == "cells"]
        n_tables = len(cells) * (int(data.fold.max()) + 1)
        message = yield from receive_parts(session.bank, pb.StackBankQuery, n_tables * lookup.query_bytes)
        found = lookup.evaluate_many(lookup.unpack(message))
        if found.shape[0] != n_tables:
            raise MessageError(f"{n_tables} tables were due, {found.shape[0]} came", party=session.bank)
        for c, share in zip(cells, of_own_fold(found, data.fold, len(cells)), strict=True):
            self.x[c] = shares.add(self.x[c], share)

    def _trees(self, c: int, trees: tuple[tuple[Tree, ...], ...]) -> Protocol[None]:
        data = self.data
        for f, fold_trees in enumerate(trees):
            rows = np.flatnonzero(data.fold == f)
            for group in product_groups(fold_trees):
                bits = [indicators(tree, data.codes[rows], data.n_codes) for tree in group]
                product = yield from self._product(np.concatenate(bits).astype(np.uint64))
                self.x[c, rows] = shares.add(self.x[c, rows], product)

    def answer(self, step: Any) -> Protocol[None]:
        """Check one request and answer it."""
        columns = list(step.columns)
        if not 1 <= len(columns) == len(set(columns)) <= MAX_MEMBERS or max(columns) >= len(self.x):
            raise MessageError("the bank names members that are not there", party=self.session.bank)
        x = self.x[columns]
        if step.kind == pb.StackBankStep.MOMENTS:
            yield from self._moments(x)
        elif step.kind == pb.StackBankStep.SCORES:
            yield from self._scores(x)
        elif step.radius not in BOUNDS:
            raise MessageError("the bank asks for a sigmoid series that does not exist", party=self.session.bank)
        elif step.kind == pb.StackBankStep.GRADIENT:
            yield from self._gradient(x, sigmoid_series(int(step.radius)))
        else:
            yield from self._losses(x, int(step.radius))

    def _product(self, v: Words) -> Protocol[Words]:
        return (yield from holder_product(self.session.bank, self.evaluator, v.shape[-1], lambda r: v[..., r], _KINDS))

    def _send(self, sums: Words, scale: Sequence[int], keep: int) -> Protocol[None]:
        rounded = [shares.round_dithered(sums[i : i + 1], s - keep) for i, s in enumerate(scale)]
        yield Send(self.session.bank, pb.StackHolderOpened(rounded=shares.shares_to_bytes(np.concatenate(rounded))))

    def _moments(self, x: Words) -> Protocol[None]:
        pairs = _pairs(len(x))
        v = np.zeros((len(pairs), len(x), self.n), np.uint64)
        for i, (j, k) in enumerate(pairs):
            v[i, j] = shares.add(v[i, j], x[k])
            v[i, k] = shares.add(v[i, k], x[j])
        product = yield from self._product(v)
        yield from self._send(*_moments(x, product), MOMENT_BITS)

    def _gradient(self, x: Words, series: SigmoidSeries) -> Protocol[None]:
        turn = _to_turn((yield from self._product(x)))
        sines, cosines = series.encoded_tables(turn, self.bits[1], weighted=True)
        r = yield from self._product(shares.to_ring(np.concatenate([cosines, sines])))
        v = np.zeros((len(x), 1 + len(x), self.n), np.uint64)
        v[:, 0] = x
        v[np.arange(len(x)), 1 + np.arange(len(x))] = r
        cross = yield from self._product(v)
        yield from self._send(*_inner_products(x, r, cross, sum(self.bits)), OPEN_BITS)

    def _losses(self, x: Words, radius: int) -> Protocol[None]:
        turn = _to_turn((yield from self._product(x)))
        sines, cosines = sigmoid_series(radius).tables(turn)
        d = np.ldexp(softplus_series(radius).cosines, self.bits[1])[: len(cosines), None]
        table = np.rint(np.concatenate([d * cosines, -d * sines])).astype(np.int64)
        product = yield from self._product(np.concatenate([shares.to_ring(table), x]))
        sums = _fold_sums(product, self.data.fold)
        yield from self._send(sums, [sum(self.bits)] * sums.size, OPEN_BITS)

    def _scores(self, x: Words) -> Protocol[None]:
        eta = yield from self._product(x)
        rounded = shares.round_dithered(eta, WEIGHT_BITS + MARGIN_BITS - SCORE_BITS)
        yield from send_parts(self.session.bank, pb.StackHolderShare, shares.shares_to_bytes(rounded))


# --- both ------------------------------------------------------------------------------------------------------------


def _to_turn(share: Words) -> Words:
    """Take a share modulo T to one modulo 2**24 of the same turn; two of them then add up within one unit."""
    return (np.rint(share.astype(np.float64) * (TURN / T)).astype(np.uint64)) % np.uint64(TURN)


def _pairs(n: int) -> list[tuple[int, int]]:
    return [(j, k) for j in range(n) for k in range(j, n)]


def _wrap(values: Vector) -> Integers:
    """Take whole numbers to the integers modulo T nearest zero: a turn more or less is none."""
    return (values - np.rint(values / T) * float(T)).astype(np.int64)


def _moments(x: Words, cross: Words) -> tuple[Words, list[int]]:
    """Return the share of the sums of x_j x_k and of x_j, and the scale of each.

    cross : share of what one party's factors make with the other's; each makes the rest of its own two.
    """
    pairs = _pairs(len(x))
    own = [shares.add(shares.times(x[j], x[k]), p) for (j, k), p in zip(pairs, cross, strict=True)]
    sums = shares.sum_shares(np.concatenate([np.stack(own), x]))
    return sums, [2 * MARGIN_BITS] * len(pairs) + [MARGIN_BITS] * len(x)


def _inner_products(x: Words, r: Words, cross: Words, bits: int) -> tuple[Words, list[int]]:
    """Return the share of the sums of r x_m and of r, at scale `bits`, and the scale of each; as in `_moments`."""
    own = shares.add(shares.times(x, np.broadcast_to(r, x.shape)), cross)
    return shares.sum_shares(np.concatenate([own, r[None]])), [bits + MARGIN_BITS] * len(x) + [bits]


def _fold_sums(share: Words, fold: Integers) -> Words:
    return np.array([shares.sum_shares(share[fold == f]) for f in range(int(fold.max()) + 1)], np.uint64)
