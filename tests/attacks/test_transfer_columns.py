"""A receiver of oblivious transfers who gives the columns different bits, to learn the sender's offset bit by bit.

With the offset a bank opens every wire of every circuit of a pool: the lead's share of each total, so each score. The
control is the same attack where the sender does not compare the parities of the columns.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from lying_parties import flip_columns

from veilscore.crypto import oblivious
from veilscore.crypto.circuits import to_bits
from veilscore.crypto.garbled import Garbler
from veilscore.crypto.oblivious import WIDTH
from veilscore.crypto.transfer_pool import PoolReceiver, PoolSender
from veilscore.errors import MessageError

RNG = np.random.default_rng(3)
SECRET = RNG.integers(0, 1 << 24, 1).astype(np.uint64)


def two_pools():
    receiver = PoolReceiver(b"attack", os.urandom(32))
    sender = PoolSender(b"attack", receiver.base())
    receiver.accept(sender.choices())
    return receiver, sender


def attack(receiver, sender):
    """Return the offset: transfer k differs in column k alone, so that its label tells bit k of the offset."""
    flip_columns(receiver._receiver, np.eye(WIDTH, dtype=bool))
    sender.extend(receiver.extend(WIDTH), WIDTH)
    found = np.zeros(WIDTH, bool)
    for k in range(WIDTH):
        bits, labels = receiver.take(k, 1)
        zero = sender.take(k, bits)  # asks for the label of 0
        garbler = sender.garbler(k)
        word = np.broadcast_to(zero, (40, 2))
        out = garbler.conjunction(word, word)
        tables, decoding = garbler.tables(), garbler.decoding(out)
        guess = labels ^ np.packbits(np.eye(WIDTH, dtype=bool)[k], bitorder="little").view(np.uint64)
        reads_zero = []
        for label in (labels, guess):  # 0 AND 0, forty times: only the right label reads as 0 throughout
            evaluator = receiver.evaluator(k)
            evaluator.feed(tables)
            wire = np.broadcast_to(label, (40, 2))
            reads_zero.append(not evaluator.decode(evaluator.conjunction(wire, wire), decoding).any())
        assert sum(reads_zero) == 1
        found[k] = reads_zero[1]
    return np.packbits(found, bitorder="little").view(np.uint64)


def read_lead(receiver, sender, offset):
    """Read the lead's word of a circuit that says only whether all its bits are set: the offset opens each gate."""
    n = 24
    sender.extend(receiver.extend(64), 64)
    at = WIDTH
    bits, labels = receiver.take(at, n)
    zero = sender.take(at, bits)
    garbler = sender.garbler(at)
    garbler.conjunction(zero, garbler.own(to_bits(SECRET, n)[:, 0]))
    tables = garbler.tables()
    read = []
    for set_bit in (False, True):
        evaluator = receiver.evaluator(at)
        evaluator.feed(tables)
        read.append(evaluator.conjunction(labels ^ offset * np.uint64(set_bit), evaluator.own((n,))))
    return (read[0] != read[1]).any(axis=1)  # x AND y depends on x where y is set


def test_inconsistent_columns_give_nothing():
    receiver, sender = two_pools()
    with pytest.raises(MessageError, match="do not agree"):
        attack(receiver, sender)
    with pytest.raises(MessageError, match="given up"):
        sender.take(0, np.zeros(1, bool))


def test_without_the_comparison_they_give_the_offset_and_every_share(monkeypatch):
    monkeypatch.setattr(oblivious, "parities", lambda _, columns: np.zeros((len(columns), 2), np.uint64))
    receiver, sender = two_pools()
    offset = attack(receiver, sender)
    assert np.array_equal(offset, sender._offset)
    own, wrapped = receiver._receiver._columns
    receiver._receiver._columns = own, wrapped.honest
    assert np.array_equal(read_lead(receiver, sender, offset), to_bits(SECRET, 24)[:, 0])


def test_one_guessed_bit_passes_for_half_of_all_offsets():
    """What is left to a cheat: it passes where it guessed right, and there learns what it guessed."""
    asked = []
    for _ in range(24):
        receiver, sender = two_pools()
        flipped = np.zeros((WIDTH, 64), bool)
        flipped[5, 3] = True
        flip_columns(receiver._receiver, flipped)
        message = receiver.extend(128)
        asked.append(bool(int(sender._offset[0]) >> 5 & 1))
        if asked[-1]:
            with pytest.raises(MessageError, match="do not agree"):
                sender.extend(message, 128)
        else:
            sender.extend(message, 128)  # the column was not asked: nothing is learnt but that
    assert 0 < sum(asked) < 24


@pytest.mark.parametrize("columns", [range(128), range(10, 100)])
def test_many_columns_do_not_pass(columns):
    receiver, sender = two_pools()
    flipped = np.zeros((WIDTH, 64), bool)
    flipped[list(columns), 3] = True
    flip_columns(receiver._receiver, flipped)
    with pytest.raises(MessageError, match="do not agree"):
        sender.extend(receiver.extend(64), 64)


def test_one_key_for_two_circuits_would_give_the_offset():
    """Why a circuit's key is bound to its transfers: tables of equal gates under one key differ by the offset alone."""
    receiver, sender = two_pools()
    sender.extend(receiver.extend(64), 64)
    offset = sender._offset
    tables = []
    for bit in (False, True):
        garbler = Garbler(b"the same", offset)
        wire = garbler.own(np.array([bit]))
        garbler.conjunction(garbler.own(np.array([True])), wire)
        tables.append(np.frombuffer(garbler.tables(), np.uint64))
    assert np.array_equal((tables[0] ^ tables[1])[:2], offset)
    bound = []
    for at, bit in ((0, False), (1, True)):
        sender.take(at, np.zeros(1, bool))
        garbler = sender.garbler(at)
        garbler.conjunction(garbler.own(np.array([True])), garbler.own(np.array([bit])))
        bound.append(np.frombuffer(garbler.tables(), np.uint64))
    assert not np.array_equal((bound[0] ^ bound[1])[:2], offset)
