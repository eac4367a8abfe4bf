"""Circuits by their list of gates: byte for byte what the engines make of the function, and the oracle's outputs."""

from __future__ import annotations

import os

import numpy as np
import pytest

from veilscore.crypto import aes
from veilscore.crypto.circuits import count_set, from_bits, largest, log2, to_bits
from veilscore.crypto.garbled import Evaluator, Garbler, Plain
from veilscore.crypto.gate_list import GateList
from veilscore.crypto.he import T
from veilscore.errors import MessageError
from veilscore.models.loss import TURN
from veilscore.protocols.banding import BandCircuit
from veilscore.protocols.decision_circuit import FAILURES_RING, DecisionCircuit, MeasureCircuit

RNG = np.random.default_rng(5)
BANDS = BandCircuit((-300, 12, 400, 9000), T)
DECISION = DecisionCircuit(
    (MeasureCircuit((10, 20, 20), T), MeasureCircuit((-5, 5, 900), TURN), MeasureCircuit((0, 0, 0), FAILURES_RING)),
    knock_outs=True,
    tell_measure=True,
)


def mixed(engine, left, right):
    """Every kind of gate that there is, also of several instances side by side."""
    several = np.concatenate([left[:6], right[:6]]).reshape(2, 1, 6, *left.shape[2:])
    word, index = largest(engine, several)
    ones = count_set(engine, np.concatenate([left, right])[:, 0])
    return np.concatenate([word.reshape(-1, *left.shape[1:]), index, log2(engine, right[:8], 4), ones])


CIRCUITS = [
    (BANDS, BANDS.n_bits, BANDS.n_bits),
    (DECISION, DECISION.n_bank_bits, DECISION.n_lead_bits),
    (mixed, 9, 9),
]


def labels_of(bits, offset):
    """False labels, and those of the bits."""
    false = RNG.integers(0, 1 << 63, (*bits.shape, 2), np.uint64)
    return false, false ^ bits[..., None] * offset


@pytest.mark.parametrize(("circuit", "n_theirs", "n_own"), CIRCUITS, ids=["bands", "decision", "mixed"])
def test_a_list_is_its_circuit(circuit, n_theirs, n_own, monkeypatch):
    gates, plain = GateList.of(circuit, n_theirs, n_own), Plain()
    for _ in range(20):
        theirs, own = (RNG.integers(0, 2, (n, 1)).astype(bool) for n in (n_theirs, n_own))
        expected = circuit(plain, theirs, own)
        offset = RNG.integers(0, 1 << 63, 2, np.uint64) | np.uint64(1)
        false, known = labels_of(theirs, offset)
        name = os.urandom(8)
        by_function = Garbler(name, offset)
        word = circuit(by_function, false, by_function.own(own))
        tables, decoding = Garbler(name, offset).run(gates, false, own)
        assert tables == by_function.tables()
        assert np.array_equal(decoding, by_function.decoding(word))
        assert np.array_equal(Evaluator(name).run(gates, known, tables, decoding), expected)
    assert gates.gates == plain.gates / 20
    monkeypatch.setattr(aes, "has_aes", lambda: False)  # the same by the function
    assert Garbler(name, offset).run(gates, false, own)[0] == tables
    assert np.array_equal(Evaluator(name).run(gates, known, tables, decoding), expected)


def test_tables_of_another_size_are_refused():
    gates = GateList.of(*CIRCUITS[0])
    for size in (0, 32 * gates.gates - 32, 32 * gates.gates + 32, 32 * gates.gates - 1):
        with pytest.raises(MessageError, match="do not fit the circuit"):
            Evaluator(b"x").run(gates, np.zeros((BANDS.n_bits, 1, 2), np.uint64), bytes(size), np.zeros((3, 1), bool))


def test_a_total_by_its_list_is_in_its_band():
    gates = GateList.of(*CIRCUITS[0])
    for total in (-301, -300, 11, 12, 9000, 8999, 400):
        share = int(RNG.integers(0, T))
        lifted, lead = (np.array([(v) % T], np.uint64) for v in (total + BANDS.half - share, share))
        offset = RNG.integers(0, 1 << 63, 2, np.uint64) | np.uint64(1)
        theirs, own = to_bits(lifted, BANDS.n_bits), to_bits(lead, BANDS.n_bits)
        false, known = labels_of(theirs, offset)
        tables, decoding = Garbler(b"y", offset).run(gates, false, own)
        found = Evaluator(b"y").run(gates, known, tables, decoding)
        assert from_bits(found)[0] == np.searchsorted(np.array(BANDS.limits), total, side="right")
