"""crypto/bit_product.py and protocols/bit_products.py: bits of one party times numbers of the other, as shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from veilscore.crypto import bit_product, shares
from veilscore.crypto.bit_product import BitOwner, ValueOwner
from veilscore.crypto.oblivious import message_bytes
from veilscore.errors import MessageError
from veilscore.lattice.params import T
from veilscore.protocols import bit_products as protocol
from veilscore.protocols.bit_products import NO_BITS, NO_VALUES, bit_setup
from veilscore.v1 import boosting_pb2 as pb
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session, encode

RNG = np.random.default_rng(5)
WORD = st.integers(0, (1 << 64) - 1)


@pytest.fixture(scope="module")
def sides():
    return two_sides()


def two_sides(label=b"test"):
    bits = BitOwner(label)
    values = ValueOwner(label, bits.base())
    bits.accept(values.choices())
    return bits, values


def numbers(*shape):
    return RNG.integers(0, T, shape).astype(np.uint64)


def run(sides, bits, values):
    owner, other = sides
    choice, rows = owner.choose(bits)
    reply, theirs = other.multiply(other.rows(choice, bits.size), values)
    return owner.product(bits, rows, reply, values.shape[0]), theirs, choice, reply


@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_shares_add_up_to_the_products(sides, n, k):
    bits, values = RNG.random(n) < 0.3, numbers(k, n)
    mine, theirs, choice, reply = run(sides, bits, values)
    assert np.array_equal(shares.add(mine, theirs), bits * values)
    assert len(choice) == message_bytes(n)
    assert len(reply) == 8 * k * n


@pytest.mark.parametrize("value", [0, 1, T - 1])
def test_extreme_numbers(sides, value):
    for bit in (False, True):
        mine, theirs, *_ = run(sides, np.full(300, bit), np.full((2, 300), value, np.uint64))
        assert (shares.add(mine, theirs) == (value if bit else 0)).all()
        assert max(mine.max(), theirs.max()) < T


@njit
def residues(low, high, out):
    for i in range(low.size):
        out[i] = bit_product._residue(low[i], high[i])


@settings(deadline=None)  # the first one compiles
@given(st.lists(st.tuples(WORD, WORD), min_size=1, max_size=20))
def test_residues_of_128_bits_are_exact(pairs):
    low, high = (np.array(column, np.uint64) for column in zip(*pairs, strict=True))
    out = np.empty(low.size, np.uint64)
    residues(low, high, out)
    assert out.tolist() == [(a + (b << 64)) % T for a, b in pairs]


@pytest.mark.parametrize("low", [0, T - 1, T, (1 << 60) - 1, (1 << 64) - 1])
@pytest.mark.parametrize("high", [0, 1, T, (1 << 64) - 1])
def test_residues_at_the_edges(low, high):
    out = np.empty(1, np.uint64)
    residues(np.array([low], np.uint64), np.array([high], np.uint64), out)
    assert int(out[0]) == (low + (high << 64)) % T


def test_no_pad_is_used_twice():
    """Shares of the value owner are minus the pads: all differ, also for equal bits and numbers."""
    sides = two_sides()
    found = [run(sides, np.ones(500, bool), np.zeros((2, 500), np.uint64)) for _ in range(4)]
    theirs = np.concatenate([theirs.ravel() for _, theirs, _, _ in found])
    assert len(np.unique(theirs)) == theirs.size == 4 * 2 * 500
    assert len({choice for _, _, choice, _ in found}) == 4


def test_chosen_bits_serve_any_number_of_products_under_fresh_pads():
    owner, other = two_sides()
    bits, values = RNG.random(400) < 0.4, numbers(4, 1, 400)
    choice, mine = owner.choose(bits)
    rows, replies = other.rows(choice, 400), []
    for value in values:
        reply, theirs = other.multiply(rows, value)
        assert np.array_equal(shares.add(owner.product(bits, mine, reply, 1), theirs), bits * value)
        replies.append(np.frombuffer(reply, "<u8"))
    # of equal numbers under the same rows every word differs, so that none tells of a bit
    again = [np.frombuffer(other.multiply(rows, values[0])[0], "<u8") for _ in range(4)]
    assert np.unique(np.concatenate([*replies, *again])).size == 8 * 400


def test_neither_message_tells_bits_or_numbers():
    """Words and choice bits are uniform for bits all set and for numbers all equal."""
    sides = two_sides()
    mine, theirs, choice, reply = run(sides, np.ones(20_000, bool), np.full((1, 20_000), 7, np.uint64))
    for words, modulus in ((np.frombuffer(reply, "<u8"), T), (theirs, T), (mine, T)):
        deviation = (words.astype(np.float64) / modulus - 0.5) * np.sqrt(12)
        assert abs(deviation.mean()) * np.sqrt(words.size) < 6
    ones = np.unpackbits(np.frombuffer(choice, np.uint8)).mean()
    assert abs(ones - 0.5) * 2 * np.sqrt(8 * len(choice)) < 6


def test_hostile_messages_are_refused():
    owner, other = two_sides()
    bits = np.ones(70, bool)
    choice, rows = owner.choose(bits)
    with pytest.raises(MessageError, match="labels of 70 bits"):
        other.rows(choice[:-8], 70)
    with pytest.raises(MessageError, match="expected 70 words"):
        owner.product(bits, rows, bytes(8 * 69), 1)
    with pytest.raises(MessageError, match="outside the share ring"):
        owner.product(bits[:2], rows[:2], np.array([0, T], "<u8").tobytes(), 1)
    with pytest.raises(MessageError, match="not valid"):
        ValueOwner(b"test", b"\xff" * 32)
    with pytest.raises(MessageError):
        BitOwner(b"test").accept(bytes(128 * 32))
    with pytest.raises(MessageError, match="before the base"):
        BitOwner(b"test").choose(np.ones(2, bool))
    assert (repr(owner), repr(other)) == ("<BitOwner>", "<ValueOwner>")


# --- the protocol ---


def play(calls, *, tamper=None):
    """Run the protocol between two parties: `calls` gives (bits, n_theirs, values) of each, one pair a call."""
    sessions = {party: Session("bits/boost/1", party, "bank", ("tax",)) for party in ("bank", "tax")}

    def role(party, peer, side):
        keys = yield from bit_setup(sessions[party], peer)
        found = [None] * len(calls)
        for number, call in enumerate(calls):
            found[number] = yield from protocol.bit_products(keys, *call[side])
        return found

    roles = {"bank": role("bank", "tax", 0), "tax": role("tax", "bank", 1)}
    out = simulate(roles, sessions, timeout_s=20, tamper=tamper)
    return out["bank"], out["tax"]


@pytest.mark.parametrize("piece", [64, 100, 1 << 17])
def test_both_directions_at_once_in_pieces(piece, monkeypatch):
    monkeypatch.setattr(protocol, "PIECE", piece)
    bits = [RNG.random(n) < 0.5 for n in (300, 130)]
    values = [numbers(2, 130), numbers(3, 300)]
    one_way = ((NO_BITS, 1, numbers(1, 90)), (RNG.random(90) < 0.5, 1, NO_VALUES))
    calls = [((bits[0], 3, values[0]), (bits[1], 2, values[1])), one_way]
    bank, tax = play(calls)
    assert np.array_equal(shares.add(bank[0][0], tax[0][1]), bits[0] * values[1])
    assert np.array_equal(shares.add(tax[0][0], bank[0][1]), bits[1] * values[0])
    assert bank[1][0].shape == (1, 0)
    assert np.array_equal(shares.add(tax[1][0], bank[1][1]), one_way[1][0] * one_way[0][2])


@pytest.mark.parametrize("number", [1, 2, 3])  # base choices, bits, products
def test_a_cut_message_ends_the_session(number):
    def cut(sender, _recipient, sequence, payload):
        if (sender, sequence) != ("tax", number):
            return [payload]
        return [encode({1: pb.BoostPoints, 2: pb.BoostChoices, 3: pb.BoostProducts}[number]())]

    both = (RNG.random(50) < 0.5, 1, numbers(1, 50))
    with pytest.raises(MessageError):
        play([(both, both)], tamper=cut)
