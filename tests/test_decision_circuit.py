"""The circuit of a decision is the plain decision: any rings, cut-offs, knock-outs, bounds, last month's steps."""

from __future__ import annotations

import numpy as np
import pytest
from decision_oracle import decided
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.crypto.circuits import to_bits
from veilscore.crypto.garbled import Evaluator, Garbler, Plain
from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.params import SCORE_T
from veilscore.models.loss import TURN
from veilscore.protocols.decision_circuit import DecisionCircuit, MeasureCircuit

RNG = np.random.default_rng(23)
ROWS = 24


def circuit_of(limits, moduli, **options):
    return DecisionCircuit(tuple(MeasureCircuit(tuple(c), m) for c, m in zip(limits, moduli, strict=True)), **options)


def inputs(circuit, totals, bound):
    """The words of bank and lead, from fresh shares of the totals."""
    lead = [RNG.integers(0, m.modulus, total.size) for m, total in zip(circuit.measures, totals, strict=True)]
    bank = circuit.bank_bits([total - share for total, share in zip(totals, lead, strict=True)], bound)
    return bank, circuit.lead_bits([share.astype(np.uint64) for share in lead])


@st.composite
def decisions(draw):
    """Limits, moduli, options and totals near the limits, at both ends of the ring and anywhere."""
    n_steps = draw(st.sampled_from([1, 2, 3, 5, 7, 8, 31, 63]))
    n_measures = draw(st.integers(1, 4))
    seeded = np.random.default_rng(draw(st.integers(0, 2**32)))
    moduli = [draw(st.sampled_from([TURN, SCORE_T, 1 << 9, 8191])) for _ in range(n_measures)]
    knock_outs = draw(st.booleans())
    limits, totals = [], []
    for modulus in moduli:
        half = modulus // 2
        room = min(half, 50_000)
        cuts = np.sort(seeded.integers(-room + 1, room, n_steps))
        if draw(st.booleans()):  # equal cut-offs, as knock-outs and skipped steps have
            cuts[:] = cuts[0]
        near = seeded.choice(cuts, ROWS) + seeded.integers(-1, 2, ROWS)
        far = seeded.integers(1 - half, half, ROWS)
        total = np.where(seeded.random(ROWS) < 0.7, near, far)
        total[:2] = 1 - half, modulus - half - 1
        totals.append(np.clip(total, 1 - half, modulus - half - 1))
        limits.append(cuts.tolist())
    options = {"knock_outs": knock_outs}
    options["tell_measure"] = draw(st.booleans()) and n_measures > knock_outs
    bound = seeded.integers(0, n_steps + 1, ROWS)
    bound[seeded.random(ROWS) < 0.5] = n_steps
    last = seeded.integers(0, n_steps + 1, ROWS) if draw(st.booleans()) else None
    return limits, moduli, options, totals, bound, last


@given(decisions())
@settings(max_examples=60, deadline=None)
def test_the_circuit_is_the_plain_decision(drawn):
    limits, moduli, options, totals, bound, last = drawn
    circuit = circuit_of(limits, moduli, **options)
    bank, lead = inputs(circuit, totals, bound)
    before = None if last is None else to_bits(last.astype(np.uint64), circuit.step_bits)
    bits = circuit(Plain(), bank, lead, before)
    assert bits.shape == (circuit.output_bits, ROWS)
    steps, which = circuit.read(bits)
    expected, binding = decided(limits, totals, bound, knock_outs=options["knock_outs"], last=last)
    assert np.array_equal(steps, expected)
    if options["tell_measure"]:
        assert np.array_equal(which, binding)
    else:
        assert which is None


def test_garbled_it_is_the_same():
    limits = [[-5, 0, 12], [100, 100, 400], [0, 0, 0]]
    circuit = circuit_of(limits, [TURN, SCORE_T, TURN], knock_outs=True, tell_measure=True)
    totals = [RNG.integers(-9, 16, 300), RNG.integers(0, 600, 300), -RNG.integers(0, 2, 300)]
    bound = RNG.integers(0, 4, 300)
    for step, total in enumerate([-6, -5, 0, 12]):  # each step by at least one firm, whatever was drawn
        totals[0][step], totals[1][step], totals[2][step], bound[step] = total, 500, 0, 3
    bank, lead = inputs(circuit, totals, bound)
    offset = RNG.integers(0, 2**63, 2).astype(np.uint64) | np.uint64(1)
    garbler, evaluator = Garbler(b"test", offset), Evaluator(b"test")
    false = RNG.integers(0, 2**63, (*bank.shape, 2)).astype(np.uint64)
    made = circuit(garbler, false, garbler.own(lead))
    tables = garbler.tables()
    assert len(tables) == 32 * 300 * circuit.gates()
    evaluator.feed(tables)
    word = circuit(evaluator, false ^ (bank[..., None] * offset), evaluator.own(lead.shape))
    evaluator.done()
    steps, which = circuit.read(evaluator.decode(word, garbler.decoding(made)))
    expected, binding = decided(limits, totals, bound, knock_outs=True)
    assert np.array_equal(steps, expected)
    assert np.array_equal(which, binding)
    assert set(steps.tolist()) == {0, 1, 2, 3}
    assert set(which.tolist()) == {0, 1, 2}


def test_a_knock_out_looks_like_a_low_total_of_the_first_measure():
    circuit = circuit_of([[0, 9], [0, 9], [0, 0]], [TURN] * 3, knock_outs=True, tell_measure=True)
    firms = {"knocked out": (20, 20, -1), "low": (-1, 20, 0), "both": (-1, 20, -1), "all low": (-1, -1, -1)}
    totals = [np.array(column) for column in zip(*firms.values(), strict=True)]
    steps, which = circuit.read(circuit(Plain(), *inputs(circuit, totals, np.array([2, 2, 1, 0]))))
    assert (steps.tolist(), which.tolist()) == ([0] * 4, [0] * 4)


def test_it_is_as_small_as_was_planned():
    """A stack and a hand-written measure in 31 steps with knock-outs stay below 550 ANDs, 20 kB with the labels."""
    cuts = [*range(31)]
    circuit = circuit_of([cuts, cuts, [0] * 31], [SCORE_T, TURN, TURN], knock_outs=True)
    assert circuit.gates() < 550
    assert 32 * circuit.gates() + 16 * circuit.n_bank_bits < 20_000


def test_decisions_that_cannot_be():
    for limits in ([], [[]], [[3, 1]], [list(range(64))], [[1, 2], [1]], [[1]] * 10):
        with pytest.raises(ParameterError):
            circuit_of(limits, [TURN] * len(limits))
    with pytest.raises(ParameterError, match="tell_measure: false"):
        circuit_of([[0]], [TURN], knock_outs=True, tell_measure=True)
    circuit = circuit_of([[1, 2]], [TURN], tell_measure=True)
    for bound in (3, -1):
        with pytest.raises(ParameterError, match="from 0 to 2"):
            circuit.bank_bits([np.zeros(1, np.int64)], np.array([bound]))
    assert [int(x[0]) for x in circuit.read(np.array([[1], [0], [1]], bool))] == [1, 1]
    with pytest.raises(MessageError, match="there is not"):
        circuit.read(np.array([[1], [1], [0]], bool))
