"""Circuits in the clear and garbled: arithmetic, half gates with and without AES instructions, wrong tables."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.crypto import aes, half_gates
from veilscore.crypto.circuits import add, constant, exceeds, from_bits, largest, log2, lookup, none_set, to_bits
from veilscore.crypto.garbled import GATE_BYTES, Evaluator, Garbler, Plain
from veilscore.crypto.tweaked_hash import NO_OFFSET, TweakedHash
from veilscore.errors import MessageError

RNG = np.random.default_rng(7)
X, Y = (RNG.integers(0, 1 << 20, 300).astype(np.uint64) for _ in range(2))
needs_aes = pytest.mark.skipif(not aes.has_aes(), reason="no AES instructions here")


# --- circuits in the clear ---


def test_arithmetic_and_order():
    plain, x, y = Plain(), to_bits(X, 20), to_bits(Y, 20)
    assert (from_bits(add(plain, x, y)) == (X + Y) % (1 << 20)).all()
    assert (exceeds(plain, x, y) == (X > Y)).all()
    assert not exceeds(plain, x, x).any()
    assert (from_bits(plain.choose(X > Y, x, y)) == np.maximum(X, Y)).all()
    assert (from_bits(constant(plain, 11, x[0], 5)) == 11).all()
    assert plain.gates == 300 * (19 + 20 + 20 + 20)


def test_lookup_is_the_table():
    table = RNG.integers(0, 64, 32)
    address = np.arange(32, dtype=np.uint64)
    plain = Plain()
    assert (from_bits(lookup(plain, to_bits(address, 5), table, 6)) == table).all()
    assert plain.gates == 32 * 26


@pytest.mark.parametrize("n_bits", [17, 20, 31, 32, 33])
@pytest.mark.parametrize("fraction_bits", [3, 4, 6])
def test_logarithm(n_bits, fraction_bits):
    values = np.unique(
        np.concatenate([[1, 2, 3, (1 << n_bits) - 1], 2 ** RNG.uniform(0, n_bits, 500)]).astype(np.int64)
    )
    found = from_bits(log2(Plain(), to_bits(values.astype(np.uint64), n_bits), fraction_bits))
    offset = (1 << (n_bits - 1).bit_length()) - n_bits
    error = found / (1 << fraction_bits) - offset - np.log2(values)
    assert np.abs(error).max() <= (1 / np.log(2) + 0.5) * 2.0**-fraction_bits
    assert (np.diff(found) >= 0).all()
    zero = to_bits(np.zeros(1, np.uint64), n_bits)
    assert from_bits(log2(Plain(), zero, fraction_bits))[0] <= found.min()


@pytest.mark.parametrize("n_candidates", [1, 2, 3, 7, 8, 100])
def test_largest_and_first_of_equals(n_candidates):
    values = RNG.integers(0, 9, (50, n_candidates)).astype(np.uint64)
    best, index = largest(Plain(), to_bits(values, 4))
    assert (from_bits(best) == values.max(axis=1)).all()
    assert (from_bits(index) == values.argmax(axis=1)).all()


# --- garbled ---


def words(*shape, seed=3):
    return np.random.default_rng(seed).integers(0, 1 << 64, (*shape, 2), np.uint64)


def new_offset(seed=11):
    offset = words(seed=seed)
    offset[0] |= np.uint64(1)
    return offset


def garbled(circuit, left, right):
    """Bits of a circuit of the evaluator's word and the garbler's, and the tables."""
    offset, false_labels = new_offset(), words(*left.shape)
    garbler, evaluator = Garbler(b"c", offset), Evaluator(b"c")
    word = circuit(garbler, false_labels, garbler.own(right))
    tables = garbler.tables()
    evaluator.feed(tables)
    found = circuit(evaluator, false_labels ^ left[..., None] * offset, evaluator.own(right.shape))
    evaluator.done()
    # the evaluator has one of the two labels of each output, and the right one
    bits = evaluator.decode(found, garbler.decoding(word))
    assert np.array_equal(found ^ word, bits[..., None] * offset)
    return bits, tables


def everything(engine, left, right):
    """Return a word of all that a circuit is made of."""
    total = add(engine, left, engine.invert(right))
    more = exceeds(engine, left, right)
    chosen = engine.choose(more, right, total)
    table = np.arange(8) * 5 % 8
    parts = [total, more[None], chosen, log2(engine, chosen, 3), none_set(engine, right[::-1])[None]]
    parts += [lookup(engine, chosen[:3], table, 3), constant(engine, 5, more, 3)]
    return np.concatenate(parts)


@pytest.fixture(params=["instructions", "portable"])
def path(request, monkeypatch):
    """Both ways to garble."""
    if request.param == "portable":
        monkeypatch.setattr(aes, "has_aes", lambda: False)
    elif not aes.has_aes():
        pytest.skip("no AES instructions here")


SHAPES = st.sampled_from([(0,), (1,), (2,), (65,), (3, 0), (1, 1), (2, 5)])


def same_as_plain(n_bits, shape, seed):
    rng = np.random.default_rng(seed)
    left, right = (rng.random((n_bits, *shape)) < 0.5 for _ in range(2))
    plain = Plain()
    expected = everything(plain, left, right)
    found, tables = garbled(everything, left, right)
    assert np.array_equal(found, expected)
    assert len(tables) == GATE_BYTES * plain.gates


@settings(deadline=None, max_examples=60)  # the first one compiles
@given(st.integers(3, 20), SHAPES, st.integers(0, 2**32))
def test_any_circuit_of_any_size_is_the_plain_one(n_bits, shape, seed):
    same_as_plain(n_bits, shape, seed)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("shape", [(0,), (1,), (40,), (3, 7)])
def test_a_circuit_is_the_plain_one_on_either_path(shape):
    same_as_plain(12, shape, 5)
    bits = RNG.random((4, 6, 5)) < 0.5
    best, at = (np.concatenate(largest(engine, bits)) for engine in (Plain(), Plain()))
    found, _ = garbled(lambda engine, left, _: np.concatenate(largest(engine, left)), bits, bits[:0])
    assert np.array_equal(found, best)
    assert np.array_equal(best, at)


@needs_aes
@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([half_gates.AND, half_gates.CARRIES, half_gates.CHOICE]),
    st.integers(1, 9),
    st.integers(0, 70),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_tables_and_labels_are_the_same_bit_by_bit_on_either_path(kind, bits, n, seed, views):
    """Whatever the labels are, and however they lie in memory."""
    left, base, offset = words(bits, n, seed=seed), words(bits, n, seed=seed + 1), new_offset(seed + 2)
    right = words(1 if kind == half_gates.CHOICE else bits, n, seed=seed + 3)
    if views:
        left, right = left[::-1], np.broadcast_to(right[:, :1], right.shape)
    made = []
    for has_aes in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(aes, "has_aes", lambda has_aes=has_aes: has_aes)
            key = TweakedHash(b"same").advance(2 * bits * n)
            table = np.empty((bits * n, 4), np.uint64)
            labels = half_gates.garble(kind, (left, right, base), offset, key, table)
            active = half_gates.evaluate(kind, (left, right ^ offset, base), key, table)
            made.append((table.tobytes(), labels.tobytes(), active.tobytes(), labels.shape))
    assert made[0] == made[1]
    assert made[0][3] == left.shape


@needs_aes
def test_hashes_are_the_definition_on_either_path(monkeypatch):
    """Against AES of OpenSSL, label by label; the tweak counts on in steps, the offset is added first."""
    labels, offset = words(5), new_offset()
    hashes = TweakedHash(b"d")
    hashes.advance(40)
    key = hashes.advance(10)
    assert key.first == 40
    expected = []
    for i, (low, high) in enumerate((labels ^ offset).tolist()):
        block = np.array([low ^ high, low ^ (40 + 3 + 2 * i)], np.uint64)
        cipher = Cipher(algorithms.AES(key.key), modes.ECB()).encryptor()  # noqa: S305 - one block
        expected.append(np.frombuffer(cipher.update(block.tobytes()), np.uint64) ^ block)
    assert np.array_equal(key.digests(labels, offset, start=3, step=2), expected)
    monkeypatch.setattr(aes, "has_aes", lambda: False)
    assert np.array_equal(key.digests(labels, offset, start=3, step=2), expected)
    assert not np.array_equal(key.digests(labels, NO_OFFSET, start=3, step=2), expected)


@pytest.mark.usefixtures("path")
def test_an_evaluators_labels_alone_say_nothing():
    x, y = to_bits(X, 20), to_bits(Y, 20)
    offset, false_labels = new_offset(), words(*x.shape)
    garbler, evaluator, plain = Garbler(b"c", offset), Evaluator(b"c"), Plain()
    word = everything(garbler, false_labels, garbler.own(y))[:41]
    evaluator.feed(garbler.tables())
    found = everything(evaluator, false_labels ^ x[..., None] * offset, evaluator.own(y.shape))[:41]
    expected = everything(plain, x, y)[:41]
    assert (evaluator.decode(found, garbler.decoding(word)) == expected).all()
    assert 0.45 < ((found[..., 0] & np.uint64(1)).astype(bool) == expected).mean() < 0.55


@pytest.mark.usefixtures("path")
def test_equal_gates_have_unlike_tables():
    """A fresh permutation an array and a fresh tweak a gate: what is learnt of one gate is of no use for another."""
    garbler = Garbler(b"c", new_offset())
    wire = np.broadcast_to(garbler.own(np.ones(1, bool)), (40, 2))
    keys, tables = set(), []
    for make in (garbler.conjunction, garbler.conjunction, lambda a, b: garbler.choose(a, b[None], a[None])):
        make(wire, wire)
        tables.append(garbler.tables())
        keys.add(garbler._hash.advance(0).key)
    rows = np.frombuffer(b"".join(tables), np.uint8).reshape(-1, GATE_BYTES // 2)
    assert len(np.unique(rows, axis=0)) == 3 * 40 * 2
    assert len(keys) == 3
    assert garbler._hash.tweak == 3 * 2 * 40


def test_many_threads_garble_at_once():
    """The compiled loops hold no interpreter lock and share nothing."""
    bits = [np.random.default_rng(k).random((16, 300)) < 0.5 for k in range(4)]

    def work(k):
        return garbled(everything, bits[k % 4], bits[(k + 1) % 4])[1]

    alone = [work(k) for k in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(16)))
    assert together == alone * 4


def test_tables_of_wrong_size_are_refused():
    evaluator = Evaluator(b"c")
    with pytest.raises(MessageError, match="do not fit"):
        evaluator.feed(bytes(33))
    evaluator.feed(bytes(GATE_BYTES))
    wires = evaluator.own((2, 1))
    for make in (evaluator.conjunction, evaluator.carries, lambda a, b: evaluator.choose(a[0], a, b)):
        with pytest.raises(MessageError, match="too early"):
            make(wires, wires)
    with pytest.raises(MessageError, match="too many"):
        evaluator.done()
    assert "offset" not in repr(Garbler(b"c", new_offset()))
