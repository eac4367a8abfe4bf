"""How many firms a decision would put at each step: counts with noise, and no step of a firm.

Source   : `decision.py` up to the totals, its circuit; `bit_products.py` (shares of counts), as the curve of a score.
Parties  : the bank (its points, its own bound of each firm; evaluates), the holders, the first of them as lead.
Messages : as `decision` up to the circuit. Then BoostPoints both ways, BandBankBase -> BandLeadBase, and for each piece
           of rows BandBankLabels -> BandLeadTables, BoostChoices -> BoostProducts; CurveLeadCounts. DecisionBankCounts
           to each holder, where the bank tells them.
Reveals  : to the bank, noised counts by step, charged at every holder beforehand. To a holder, which decision; where
           the bank tells them the counts, with noise of the bank's own on top: the lead knows its own.
Assumes  : as `decision` and `curve`: bank and lead together know the counts.
Aborts   : RefusedError where a holder refuses; MessageError on any wrong size or range.

Which step a row is at stays as bits whose XOR tells it: b of the lead and c of the bank, one a row and step. As
b xor c = c + b (1 - 2 c), a product of a bit of the lead and a number of the bank gives shares of each count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from veilscore.arrays import Integers, Vector, Words
from veilscore.crypto import shares
from veilscore.crypto.circuits import one_hot
from veilscore.crypto.garbled import Evaluator, Garbler, Plain
from veilscore.errors import MessageError
from veilscore.lattice.gaussian import discrete_gaussian
from veilscore.lattice.params import T
from veilscore.models.curve import sensitivity
from veilscore.protocols.banding import bank_evaluated, lead_garbles
from veilscore.protocols.bit_products import NO_BITS, NO_VALUES, bit_products, bit_setup
from veilscore.protocols.curve import COUNT_BITS, bank_receives_counts, lead_opens_counts
from veilscore.protocols.decision import (
    BankMeasure,
    DecisionAnswer,
    DecisionRequest,
    bank_totals,
    holder_totals,
)
from veilscore.protocols.decision_circuit import DecisionCircuit
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.protocol import Charge, Protocol, Send, Session, receive


class StepsCircuit:
    """The circuit of a decision up to a bit for each step, set where the row is at it.

    decision : whose steps; which measure decides is not told by counts.
    """

    def __init__(self, decision: DecisionCircuit) -> None:
        self._decision = replace(decision, tell_measure=False)
        self.n_bank_bits, self.n_lead_bits = decision.n_bank_bits, decision.n_lead_bits
        self.n_steps = decision.n_steps + 1

    def gates(self) -> int:
        """Return the ANDs of one row."""
        plain = Plain()
        self(plain, np.zeros((self.n_bank_bits, 1), bool), np.zeros((self.n_lead_bits, 1), bool))
        return plain.gates

    def __call__(self, engine: Any, bank: Any, lead: Any) -> Any:
        """Words of bank and lead, as of `DecisionCircuit`, to the bits (n_steps, rows); none is the first."""
        return one_hot(engine, self._decision(engine, bank, lead))[: self.n_steps]


# --- bank ------------------------------------------------------------------------------------------------------------


def bank_size(
    session: Session,
    request: DecisionRequest,
    circuit: DecisionCircuit,
    measures: Mapping[str, BankMeasure],
    bound: Integers,
    charge: Charge,
    *,
    tell_holders: bool = False,
) -> Protocol[Vector]:
    """Bank: return noised counts (n_steps + 1,) of rows by how many cut-offs they reach; arguments of `bank_decide`.

    charge : what the counts cost, whose deviation the noise that is told holders has too.
    """
    _, parts = yield from bank_totals(session, request, circuit, measures)
    counts = yield from bank_step_counts(session, circuit, parts, bound)
    if tell_holders:
        yield from bank_tells_counts(session, counts + noise_told(charge.sigma(sensitivity()), counts.size))
    return counts


def noise_told(sigma: float, n_steps: int) -> Vector:
    """Return noise (n_steps,) of the bank's own for counts that it tells holders: discrete, in units of 2^-16."""
    drawn = discrete_gaussian(float(np.ldexp(sigma, COUNT_BITS)), n_steps)
    noise: Vector = np.ldexp(drawn.astype(np.float64), -COUNT_BITS)
    return noise


def bank_tells_counts(session: Session, counts: Vector) -> Protocol[None]:
    """Bank: send every holder counts (n_steps + 1,) that have their noise already."""
    told = np.rint(np.ldexp(counts, COUNT_BITS)).astype(np.int64).tolist()
    for holder in session.holders:
        yield Send(holder, pb.DecisionBankCounts(counts=told))


def bank_step_counts(
    session: Session, circuit: DecisionCircuit, parts: Sequence[Integers], bound: Integers
) -> Protocol[Vector]:
    """Bank: return the counts from its shares (n_rows,) of each measure's totals."""
    steps = StepsCircuit(circuit)
    keys = yield from bit_setup(session, session.lead)
    own = np.zeros(steps.n_steps, np.uint64)

    def run(evaluator: Evaluator, labels: Any, piece: slice) -> Any:
        return steps(evaluator, labels, evaluator.own((steps.n_lead_bits, piece.stop - piece.start)))

    def count(_piece: slice, evaluator: Evaluator, word: Any) -> Protocol[None]:
        nonlocal own
        colour = evaluator.decode(word, np.zeros(word.shape[:-1], bool))
        factors = np.where(colour, np.uint64(T - 1), np.uint64(1))
        _, products = yield from bit_products(keys, NO_BITS, 1, factors.reshape(1, -1))
        own = shares.add(own, shares.sum_shares(products.reshape(factors.shape)))
        own = shares.add(own, colour.sum(axis=-1, dtype=np.uint64))

    bits = circuit.bank_bits(parts, bound)
    yield from bank_evaluated(session, bits, steps.gates(), run, count, ahead=0)
    return (yield from bank_receives_counts(session, own))


# --- holder ----------------------------------------------------------------------------------------------------------


def holder_size(
    session: Session,
    request: DecisionRequest,
    answer: DecisionAnswer,
    charge: Charge,
    *,
    told: bool = False,
) -> Protocol[Vector | None]:
    """Holder: take part, as in `holder_decide`; `charge` is what the counts tell of a record here.

    Returns the counts (n_steps + 1,) with more noise where the bank tells them, else None.
    """
    totals = yield from holder_totals(session, request, answer, charge)
    if totals is not None and answer.circuit is not None:
        yield from lead_step_counts(session, answer.circuit, totals, charge)
    if not told or answer.circuit is None:
        return None
    return (yield from holder_is_told(session, answer.circuit.n_steps))


def holder_is_told(session: Session, n_steps: int) -> Protocol[Vector]:
    """Holder: return the noised counts (n_steps + 1,) that the bank tells; MessageError where they are others."""
    message = yield from receive(session.bank, pb.DecisionBankCounts)
    if len(message.counts) != n_steps + 1:
        raise MessageError("counts of another number of steps than the decision has", party=session.bank)
    counts: Vector = np.ldexp(np.array(message.counts, np.float64), -COUNT_BITS)
    return counts


def lead_step_counts(
    session: Session, circuit: DecisionCircuit, totals: Sequence[Words], charge: Charge
) -> Protocol[None]:
    """Lead: count with the holders' shares (n_rows,) of each measure's totals, and open the counts with noise."""
    steps, bits = StepsCircuit(circuit), circuit.lead_bits(totals)
    keys = yield from bit_setup(session, session.bank)
    own = np.zeros(steps.n_steps, np.uint64)

    def run(garbler: Garbler, theirs: Any, piece: slice) -> Any:
        return steps(garbler, theirs, garbler.own(bits[:, piece]))

    def count(_piece: slice, garbler: Garbler, word: Any) -> Protocol[None]:
        nonlocal own
        found = garbler.decoding(word)
        products, _ = yield from bit_products(keys, found.reshape(-1), 1, NO_VALUES)
        own = shares.add(own, shares.sum_shares(products.reshape(found.shape)))

    yield from lead_garbles(session, (steps.n_bank_bits, totals[0].size), run, count)
    yield from lead_opens_counts(session, own, charge)
