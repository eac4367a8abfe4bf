"""The curve of a score on the hold-out: goods and bads by step of the score, noised, and no total of a firm.

Source   : docs/protocols/curve.md; `banding.py` (steps by a garbled circuit), `bit_products.py` (shares of counts).
Parties  : the bank (labels, points of every cell), the holders (codes); the lead adds up the holders' shares.
Messages : BatchBankRound1 -> BatchHolderRound1, BatchHolderKey, BatchHolderHints -> BatchBankQuery, BandHolderPartial
           to the lead, as for bands. Then CurveBankSteps, BoostPoints both ways, BandBankBase -> BandLeadBase, and for
           each piece of rows BandBankLabels -> BandLeadTables, BoostChoices -> BoostProducts; CurveLeadCounts.
Reveals  : to the bank, noised counts of goods and bads by step, charged at every holder beforehand; to a holder, which
           rows are held out and the model's hash; to the lead, the limits of the steps.
Assumes  : semi-honest parties; ring-LWE, computational Diffie-Hellman in ristretto255, AES as a random permutation. The
           lead draws the noise for all holders: together, bank and lead know the counts as they know the totals.
Aborts   : RefusedError where a holder refuses; MessageError on any wrong size or range.

Which step a row is in stays as bits whose XOR tells it: the bank has one a row and step (colours of its labels), the
lead another. With the bank's labels y and the lead's bit b and the bank's c, y (b xor c) = y c + b y (1 - 2 c), so that
one product of a bit of the lead and a number of the bank gives shares of each count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from veilscore.arrays import CodeArray, Integers, Mask, Vector, Words
from veilscore.crypto import shares
from veilscore.crypto.circuits import one_hot
from veilscore.crypto.garbled import Evaluator, Garbler
from veilscore.crypto.zero_share import PairwiseKey
from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.params import SCORE_T, T
from veilscore.models.boosted import Boosted
from veilscore.models.curve import sensitivity
from veilscore.models.loss import TURN
from veilscore.models.trees import Tree
from veilscore.protocols.banding import BandCircuit, bank_garbled, lead_garbled
from veilscore.protocols.bit_products import NO_BITS, NO_VALUES, bit_products, bit_setup
from veilscore.protocols.residual import noised
from veilscore.protocols.scoring import (
    BatchRequest,
    HolderAnswer,
    HolderPart,
    accept,
    bank_shares,
    lead_share,
    points_share,
)
from veilscore.protocols.tree_scoring import bank_tree_shares, holder_tree_share
from veilscore.terms.bands import MOST_STEPS
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.protocol import Charge, Protocol, Send, Session, receive

COUNT_BITS = 16  # below the point of an opened count, so that its noise is as good as continuous
_CLASSES = 2  # goods, bads


class StepCircuit(BandCircuit):
    """Computes a bit for each step, set where the total is in it, from shares of the total."""

    def __call__(self, engine: Any, left: Any, right: Any) -> Any:
        """Words of two shares (n_bits, rows), one of them lifted, to the bits (steps, rows)."""
        return one_hot(engine, super().__call__(engine, left, right))[: len(self.limits) + 1]


@dataclass(frozen=True)
class Scored:
    """What the bank scores: rows (n_samples,) that are held out, its own points (n_scored,), and the model's parts."""

    rows: Mask
    own_points: Integers
    parts: dict[str, HolderPart]
    model_hash: bytes


def bank_curve(session: Session, scored: Scored, bad: Mask, limits: tuple[int, ...]) -> Protocol[Vector]:
    """Bank: return noised counts (2, steps) of goods and bads in each step of the total.

    bad : (n_scored,) labels; every row counts once, whatever its weight.
    limits : lowest total of each step but the first, in units, ascending.
    """
    total, _ = yield from bank_shares(session, scored.rows, scored.own_points, scored.parts, scored.model_hash)
    return (yield from bank_counts(session, total, bad, limits, TURN))


def holder_curve(session: Session, request: BatchRequest, answer: HolderAnswer, charge: Charge) -> Protocol[None]:
    """Holder: take part with its codes; `charge` is what the curve tells of a record here."""
    keys = yield from accept(session, request, answer)
    share = yield from points_share(session, answer.codes, answer.n_codes)
    yield from holder_counts(session, request, share, keys, charge, TURN)


def bank_trees_curve(
    session: Session, rows: Mask, own_codes: CodeArray, model: Boosted, bad: Mask, limits: tuple[int, ...]
) -> Protocol[Vector]:
    """Bank: `bank_curve` of trees; rows and codes as in `bank_score_trees`."""
    StepCircuit(limits, SCORE_T).check_totals(*model.extremes())
    total, _ = yield from bank_tree_shares(session, rows, own_codes, model)
    return (yield from bank_counts(session, total, bad, limits, SCORE_T))


def holder_trees_curve(
    session: Session, request: BatchRequest, answer: HolderAnswer, trees: Sequence[Tree], charge: Charge
) -> Protocol[None]:
    """Holder: `holder_curve` of trees, its part of the model."""
    keys = yield from accept(session, request, answer)
    share = yield from holder_tree_share(session, answer.codes, answer.n_codes, trees)
    yield from holder_counts(session, request, share, keys, charge, SCORE_T)


def bank_counts(
    session: Session, total: Integers, bad: Mask, limits: tuple[int, ...], modulus: int
) -> Protocol[Vector]:
    """Bank: `bank_curve` from its share (n_scored,) of the totals, of any sign, in a ring of any model's points."""
    circuit = StepCircuit(limits, modulus)
    yield Send(session.lead, pb.CurveBankSteps(limits=limits))
    keys = yield from bit_setup(session, session.lead)
    n_steps, classes = len(limits) + 1, np.stack([~bad, bad])
    own = np.zeros((_CLASSES, n_steps), np.uint64)

    def count(piece: slice, evaluator: Evaluator, word: Any) -> Protocol[None]:
        nonlocal own
        colour = evaluator.decode(word, np.zeros(word.shape[:-1], bool))
        mine = classes[:, None, piece]
        factors = np.where(mine, np.where(colour, np.uint64(T - 1), np.uint64(1)), np.uint64(0))
        _, products = yield from bit_products(keys, NO_BITS, 1, factors.reshape(_CLASSES, -1))
        own = shares.add(own, shares.sum_shares(products.reshape(factors.shape)))
        own = shares.add(own, (mine & colour).sum(axis=-1, dtype=np.uint64))

    yield from bank_garbled(session, total, circuit, count, ahead=0)
    return (yield from bank_receives_counts(session, own))


def bank_receives_counts(session: Session, own: Words) -> Protocol[Vector]:
    """Bank: add the lead's shares of noised counts to its own, of any shape, and return the counts."""
    message = yield from receive(session.lead, pb.CurveLeadCounts)
    theirs = shares.shares_from_bytes(message.counts, own.shape)
    counts: Vector = np.ldexp(shares.from_ring(shares.add(_with_bits(own), theirs)), -COUNT_BITS)
    return counts


def holder_counts(
    session: Session,
    request: BatchRequest,
    share: Words,
    keys: dict[str, PairwiseKey],
    charge: Charge,
    modulus: int,
) -> Protocol[None]:
    """Holder: its side of `bank_counts`, from its own share (n_scored,) and the keys it agreed on with the others."""
    if session.party != session.lead:
        yield charge  # what the lead opens is made of this share
    total = yield from lead_share(session, request, share, keys, modulus)
    if total is not None:
        yield from lead_counts(session, total, charge, modulus)


def lead_counts(session: Session, total: Words, charge: Charge, modulus: int) -> Protocol[None]:
    """Lead: count with the holders' share (n_scored,) of the totals, and open the counts with noise."""
    steps = yield from receive(session.bank, pb.CurveBankSteps)
    if len(steps.limits) >= MOST_STEPS:
        raise MessageError(f"the bank asks for more than {MOST_STEPS} steps", party=session.bank)
    try:
        circuit = StepCircuit(tuple(steps.limits), modulus)
    except ParameterError as error:
        raise MessageError(f"the bank's steps are none: {error.message}", party=session.bank) from None
    keys = yield from bit_setup(session, session.bank)
    own = np.zeros((_CLASSES, len(circuit.limits) + 1), np.uint64)

    def count(garbler: Garbler, word: Any) -> Protocol[None]:
        nonlocal own
        bits = garbler.decoding(word)
        products, _ = yield from bit_products(keys, bits.reshape(-1), _CLASSES, NO_VALUES)
        own = shares.add(own, shares.sum_shares(products.reshape(_CLASSES, *bits.shape)))

    yield from lead_garbled(session, total, circuit, count)
    yield from lead_opens_counts(session, own, charge)


def lead_opens_counts(session: Session, own: Words, charge: Charge) -> Protocol[None]:
    """Lead: charge what its shares of counts, of any shape, are opened for, and send them with the noise of that."""
    yield charge
    opened = noised(_with_bits(own), charge.sigma(sensitivity()), COUNT_BITS)
    yield Send(session.bank, pb.CurveLeadCounts(counts=shares.shares_to_bytes(opened)))


def _with_bits(counts: Words) -> Words:
    return shares.scale(counts, np.array(1 << COUNT_BITS))
