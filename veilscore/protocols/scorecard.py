"""Trains a scorecard jointly: logistic regression on WOE that shows nobody the log-odds of a row.

Source   : Design page, sections 1 to 5.
Parties  : The bank has the label, the WOE and the coefficients; the lead holder and any number of others have codes.
Messages : Once: TrainBankRound0, TrainHolderHistogramHints, TrainHolderLookupHints, TrainBankHints. Per step:
           TrainBankStep, TrainBankEta -> shares of eta; TrainHolderEta (others to the lead); TrainBankTables ->
           TrainLeadSigmoid, TrainLeadCells (shares of the residual, of the bank's cells), TrainLeadResidual;
           TrainBankResidual -> TrainHolderGradient (the gradient of the holder's columns, rounded).
Reveals  : The bank learns d + 1 rounded gradient components a step; holders learn the number of steps and R of each.
Assumes  : Parties are semi-honest, and ring-LWE is hard. The bank together with the lead learns the other holders' eta.
Aborts   : MessageError on any wrong size, shape or range, and on more steps than the job allows.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import numpy as np

from veilscore.arrays import CodeArray, Integers, Vector, Words
from veilscore.crypto import shares
from veilscore.errors import MessageError
from veilscore.lattice.histogram import HistogramCodes, HistogramQuery, HistogramVectors
from veilscore.lattice.product import ProductEvaluator, ProductKey, chunks_of
from veilscore.lattice.row_lookup import TrainingTable, training_lookup_codes, training_lookup_table
from veilscore.models.counts import row_sums
from veilscore.models.logistic_problem import BankTraining, column_sums, scales
from veilscore.models.loss import BOUNDS, TURN, SigmoidSeries, sigmoid_series
from veilscore.models.optimise import GradientStep, OptimiserState
from veilscore.protocols.blocks import check_part, receive_hints, send_hints
from veilscore.v1 import scorecard_pb2 as pb
from veilscore.wire.protocol import (
    Checkpoint,
    Progress,
    Protocol,
    Send,
    Session,
    pack_fields,
    receive,
    receive_parts,
    send_parts,
    unpack_fields,
)

BLOCK = 8192  # rows of one product ciphertext
R = TypeVar("R")


def bank_train(
    session: Session,
    training: BankTraining,
    steps: Generator[GradientStep, Vector, R],
    state: OptimiserState,
    max_openings: int,
) -> Protocol[R]:
    """Bank: answer every gradient that the optimiser requests, and return the optimiser's result.

    steps : the optimiser, which yields steps and is sent (d + 1,) gradients, columns in party order, intercept last.
    state : what the optimiser appends its answers to; checkpointed after each step.
    """
    bank = _Bank(session, training)
    yield from bank.set_up()
    try:
        step = next(steps)
        while True:
            gradient = yield from bank.gradient(step)
            try:
                following = steps.send(gradient)
            finally:
                yield Checkpoint(state.to_dict())
            yield Progress("gradient", step.number + 1, max_openings)
            step = following
    except StopIteration as stop:
        for holder in session.holders:
            yield Send(holder, pb.TrainBankStep(finished=True))
        return stop.value  # type: ignore[no-any-return]


class _Bank:
    """Keeps the bank's keys and hints of one training session."""

    def __init__(self, session: Session, training: BankTraining) -> None:
        self.session = session
        self.data = training
        self.n = training.target.size
        self.own = training.columns[session.bank]
        self.key = ProductKey(session.label("product", session.bank, "holders"))
        self.histogram: dict[str, HistogramVectors] = {}
        self.lookup: dict[str, TrainingTable] = {}
        self.cells = (
            HistogramCodes(
                training.own_codes, self.own.n_codes, session.label("bank cells", session.bank, session.lead)
            )
            if self.own.n_cells
            else None
        )

    def set_up(self) -> Protocol[None]:
        """Exchange keys and hints with every holder."""
        session, columns = self.session, self.data.columns
        public = self.key.public()
        for holder in session.holders:
            woe = columns[holder].woe_units
            if holder == session.lead:
                woe = np.concatenate([woe, self.own.woe_units])
            chunks = list(self.key.encrypt(shares.to_ring(woe)[None, :]))
            lead_codes = self.own.n_codes.tolist() if holder == session.lead else []
            yield Send(holder, pb.TrainBankRound0(product_public=public, woe_enc=chunks, bank_n_codes=lead_codes))
        if self.cells is not None:
            yield from send_hints(session.lead, pb.TrainBankHints, self.cells)
        for holder in session.holders:
            n_codes = columns[holder].n_codes
            vectors = HistogramVectors(self.n, n_codes, session.label("residual", holder, session.bank))
            yield from receive_hints(holder, pb.TrainHolderHistogramHints, vectors)
            table = training_lookup_table(self.n, n_codes, session.label("eta", holder, session.bank))
            yield from receive_hints(holder, pb.TrainHolderLookupHints, table)
            self.histogram[holder], self.lookup[holder] = vectors, table

    def gradient(self, step: GradientStep) -> Protocol[Vector]:
        """Return one gradient: share eta, p and the cell sums, then open the inner products."""
        residual = yield from self._residual(step)
        own_cells = yield from self._own_cells(residual)
        cell_shares = {}
        for holder in self.session.holders:
            query, share = self.histogram[holder].query(residual[None, :])
            yield from send_parts(holder, pb.TrainBankResidual, pack_fields(query.b, query.beta, query.alpha))
            cell_shares[holder] = share[0]
        parts: dict[str, Vector] = {}
        intercept = 0.0
        for holder in self.session.holders:
            shown, rest = yield from self._open(holder, cell_shares[holder], own_cells, residual)
            parts[holder] = shown
            if holder == self.session.lead:
                parts[self.session.bank], intercept = rest
        selected = [parts[party][columns.selected] for party, columns in self.data.columns.items()]
        return np.concatenate([*selected, [intercept]])

    def _residual(self, step: GradientStep) -> Protocol[Words]:
        """Return the bank's share of w (p - y) at the residual's scale."""
        session, data, series = self.session, self.data, step.series
        eta = np.full(self.n, round(step.intercept / series.unit) % TURN, dtype=np.int64)
        at = 0
        for party, columns in data.columns.items():
            width = int(columns.selected.sum())
            theta = columns.theta_units(step.beta[at : at + width], series.unit, data.scales.woe)
            at += width
            if party == session.bank:
                eta += row_sums(data.own_codes, columns.n_codes, theta)
                continue
            yield Send(party, pb.TrainBankStep(step=step.number, radius=series.R))
            query, share = self.lookup[party].query(theta)
            yield from send_parts(party, pb.TrainBankEta, query.pack())
            eta += share.astype(np.int64)
        units = (eta % TURN).astype(np.uint64)
        n_blocks = -(-self.n // BLOCK)
        for block in range(n_blocks):
            rows = slice(block * BLOCK, (block + 1) * BLOCK)
            table = np.concatenate(series.tables(units[rows])) * np.ldexp(data.weight[rows], data.scales.bank_table)
            chunks = list(self.key.encrypt(shares.to_ring(np.rint(table).astype(np.int64))))
            yield Send(session.lead, pb.TrainBankTables(part=block, parts=n_blocks, ciphertexts=chunks))
        probability = np.empty(self.n, np.uint64)
        for block in range(n_blocks):
            reply = yield from receive(session.lead, pb.TrainLeadSigmoid)
            check_part(reply, block, n_blocks, session.lead)
            rows = slice(block * BLOCK, min((block + 1) * BLOCK, self.n))
            probability[rows] = self.key.decrypt([reply.reply], rows.stop - rows.start)
        return shares.add(probability, shares.encode(data.weight * (0.5 - data.target), data.scales.residual))

    def _own_cells(self, residual: Words) -> Protocol[Words]:
        """Return the bank's share of the residual's sums over its own cells: the lead's share meets them by a query."""
        if self.cells is None:
            return np.zeros(0, np.uint64)
        data = yield from receive_parts(self.session.lead, pb.TrainLeadCells, self.cells.fields_bytes(1))
        share = self.cells.evaluate(HistogramQuery(*unpack_fields(data, 3)))
        if share.shape[0] != 1:
            raise MessageError("the lead asked for more than one vector", party=self.session.lead)
        return shares.add(share[0], shares.cell_sums(self.data.own_codes, self.own.n_codes, residual[None])[0])

    def _open(
        self, holder: str, cells: Words, own_cells: Words, residual: Words
    ) -> Protocol[tuple[Vector, tuple[Vector, float]]]:
        """Return the gradient of a holder's columns and, from the lead, of the bank's own and of the intercept."""
        columns, lead = self.data.columns[holder], holder == self.session.lead
        message = yield from receive(holder, pb.TrainHolderGradient)
        woe, share = columns.woe_units, cells
        if lead:
            woe, share = np.concatenate([woe, self.own.woe_units]), np.concatenate([share, own_cells])
        known = shares.add(shares.scale(share, woe), self.key.decrypt(chunks_of(message.reply), share.size))
        sums = columns.column_sums(known[: columns.n_cells])
        if lead:
            sums = np.concatenate([sums, self.own.column_sums(known[columns.n_cells :])])
        opened = shares.shares_from_bytes(message.rounded, (sums.size + int(lead),))
        residual_bits = self.data.scales.residual
        scale = residual_bits + self.data.scales.woe
        values = shares.open_rounded(sums, opened[: sums.size], scale - self.data.fraction_bits, scale)
        if not lead:
            return values, (np.zeros(0), 0.0)
        total = shares.sum_shares(residual)[None]
        drop = residual_bits - self.data.fraction_bits
        intercept = shares.open_rounded(total, opened[-1:], drop, residual_bits)
        d = columns.n_codes.size
        return values[:d], (values[d:], float(intercept[0]))


def holder_train(
    session: Session, codes: CodeArray, n_codes: Integers, *, fraction_bits: int, max_openings: int, opened: int = 0
) -> Protocol[int]:
    """Holder: take part in training; return the number of gradients that it helped to open.

    codes, n_codes : (n, d) codes of the training rows and (d,) number of codes.
    fraction_bits : rounding of the gradient, from the job.
    max_openings : more steps than this, over all attempts at the job, are refused.
    opened : gradients opened in earlier attempts; the count is checkpointed before each gradient is opened.
    """
    holder = _Holder(session, codes, n_codes, fraction_bits)
    yield from holder.set_up()
    n_steps = 0
    while True:
        step = yield from receive(session.bank, pb.TrainBankStep)
        if step.finished:
            return n_steps
        n_steps += 1
        if opened + n_steps > max_openings:
            raise MessageError(
                f"the bank asks for more than the {max_openings} gradients of the job", party=session.bank
            )
        if step.radius not in BOUNDS:
            raise MessageError("the bank asks for a sigmoid series that does not exist", party=session.bank)
        yield Checkpoint({"opened": opened + n_steps})
        yield from holder.gradient(sigmoid_series(int(step.radius)))
        yield Progress("gradient", opened + n_steps, max_openings)


class _Holder:
    """Keeps a holder's hints and keys of one training session."""

    def __init__(self, session: Session, codes: CodeArray, n_codes: Integers, fraction_bits: int) -> None:
        self.session, self.codes, self.n_codes = session, codes, n_codes
        self.n, self.n_cells = codes.shape[0], int(n_codes.sum())
        self.scales, self.fraction_bits = scales(self.n), fraction_bits
        self.is_lead = session.party == session.lead
        self.histogram = HistogramCodes(codes, n_codes, session.label("residual", session.party, session.bank))
        self.lookup = training_lookup_codes(codes, n_codes, session.label("eta", session.party, session.bank))
        self.bank_cells: HistogramVectors | None = None
        self.bank_n_codes = np.zeros(0, np.int64)

    def set_up(self) -> Protocol[None]:
        """Exchange keys and hints with the bank."""
        session = self.session
        yield from send_hints(session.bank, pb.TrainHolderHistogramHints, self.histogram)
        yield from send_hints(session.bank, pb.TrainHolderLookupHints, self.lookup)
        start = yield from receive(session.bank, pb.TrainBankRound0)
        self.evaluator = ProductEvaluator(
            bytes(start.product_public), session.label("product", session.bank, "holders")
        )
        self.woe_enc = list(start.woe_enc)
        if not self.is_lead:
            return
        self.bank_n_codes = np.array(start.bank_n_codes, dtype=np.int64)
        if self.bank_n_codes.size == 0:
            return
        if self.bank_n_codes.min() < 1 or self.bank_n_codes.max() > 1 << 16:
            raise MessageError("the bank's number of codes is out of range", party=session.bank)
        self.bank_cells = HistogramVectors(
            self.n, self.bank_n_codes, session.label("bank cells", session.bank, session.lead)
        )
        yield from receive_hints(session.bank, pb.TrainBankHints, self.bank_cells)

    def gradient(self, series: SigmoidSeries) -> Protocol[None]:
        """Take part in one step, as the lead or as another holder."""
        session = self.session
        data = yield from receive_parts(session.bank, pb.TrainBankEta, self.lookup.query_bytes)
        eta = self.lookup.evaluate_bytes(data)
        if self.is_lead:
            residual = yield from self._lead_residual(series, eta)
            own, vector = np.zeros(0, np.uint64), None
            if self.bank_cells is not None:
                vector, own_cells = self.bank_cells.query(residual[None, :])
                yield from send_parts(session.bank, pb.TrainLeadCells, pack_fields(vector.b, vector.beta, vector.alpha))
                own = own_cells[0]
            for other in session.holders[1:]:
                yield Send(other, pb.TrainLeadResidual(share=shares.shares_to_bytes(residual)))
        else:
            yield Send(session.lead, pb.TrainHolderEta(share=shares.shares_to_bytes(eta)))
            message = yield from receive(session.lead, pb.TrainLeadResidual)
            residual, own = shares.shares_from_bytes(message.share, (self.n,)), np.zeros(0, np.uint64)
        data = yield from receive_parts(session.bank, pb.TrainBankResidual, self.histogram.fields_bytes(1))
        share = self.histogram.evaluate(HistogramQuery(*unpack_fields(data, 3)))
        if share.shape[0] != 1:
            raise MessageError("the bank asked for more than one vector", party=session.bank)
        cells = shares.add(share[0], shares.cell_sums(self.codes, self.n_codes, residual[None])[0])
        yield Send(session.bank, self._opened(np.concatenate([cells, own]), residual))

    def _lead_residual(self, series: SigmoidSeries, eta: Words) -> Protocol[Words]:
        """Return the lead's share of w (p - 1/2) at the residual's scale."""
        session = self.session
        for other in session.holders[1:]:
            message = yield from receive(other, pb.TrainHolderEta)
            eta = (eta + shares.shares_from_bytes(message.share, (self.n,), below=TURN)) % np.uint64(TURN)
        n_blocks = -(-self.n // BLOCK)
        residual = np.empty(self.n, np.uint64)
        for block in range(n_blocks):
            tables = yield from receive(session.bank, pb.TrainBankTables)
            check_part(tables, block, n_blocks, session.bank)
            rows = slice(block * BLOCK, min((block + 1) * BLOCK, self.n))
            sines, cosines = series.encoded_tables(eta[rows], self.scales.lead_table, weighted=True)
            own = shares.to_ring(np.concatenate([cosines, sines]))
            reply, residual[rows] = self.evaluator.multiply_sum(tables.ciphertexts, own)
            yield Send(session.bank, pb.TrainLeadSigmoid(part=block, parts=n_blocks, reply=b"".join(reply)))
        return residual

    def _opened(self, cells: Words, residual: Words) -> pb.TrainHolderGradient:
        """Multiply with the bank's WOE under encryption; only the rounded sums of each column are opened."""
        reply, share = self.evaluator.multiply_sum(self.woe_enc, cells[None, :])
        sums = column_sums(share, np.concatenate([self.n_codes, self.bank_n_codes]))
        drop = self.scales.residual - self.fraction_bits
        opened = shares.round_dithered(sums, drop + self.scales.woe)
        if self.is_lead:
            opened = np.concatenate([opened, shares.round_dithered(shares.sum_shares(residual)[None], drop)])
        return pb.TrainHolderGradient(reply=b"".join(reply), rounded=shares.shares_to_bytes(opened))
