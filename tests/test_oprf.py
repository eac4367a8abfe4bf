"""The oblivious function of alignment and what it is made of: hash, code, store, each against an oracle of its own."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.crypto import blake2b, linear_code, okvs, oprf
from veilscore.crypto.bit_matrix import to_columns, to_rows
from veilscore.errors import IdError, MessageError, SecretReuseError
from veilscore.protocols.align import _match
from veilscore.wire.randomness import seeded

RNG = np.random.default_rng(11)


def random_words(*shape):
    return RNG.integers(0, 1 << 64, shape, np.uint64)


def as_number(words):
    return sum(int(word) << 64 * k for k, word in enumerate(words))


# --- the hash --------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=300), min_size=1, max_size=5), st.binary(min_size=32, max_size=32))
def test_texts_are_hashed_as_hashlib_does(texts, key):
    texts = [*texts, "x" * 128, "y" * 129, "é" * 64]  # a whole block, one more, a block of two-byte letters
    texts = [text.encode("utf-8", "ignore").decode() or "a" for text in texts]
    for text, digest in zip(texts, blake2b.hash_texts(texts, key), strict=True):
        assert digest.tobytes() == hashlib.blake2b(text.encode(), key=key, digest_size=32).digest()


# --- the code --------------------------------------------------------------------------------------------------------


def test_the_code_is_bch_511_76_171():
    """Its polynomial vanishes at powers 1 to 170 of X, so no word is lighter than 171; the parity bit makes it 172."""
    polynomial, powers = linear_code.generator_polynomial(), linear_code.powers_of_x()
    assert polynomial.bit_length() - 1 == 511 - 76
    assert len(set(powers)) == 511
    for root in range(1, 171):
        value = 0
        for k in range(436):
            value ^= powers[root * k % 511] if polynomial >> k & 1 else 0
        assert value == 0
    remainder = 1 << 511 | 1  # cyclic: it divides X^511 - 1
    while remainder.bit_length() > 435:
        remainder ^= polynomial << remainder.bit_length() - 436
    assert remainder == 0


def test_words_are_far_apart_and_of_even_weight():
    message = random_words(76, 40)
    out = np.zeros((512, 40), np.uint64)
    linear_code.add_code(message, out)
    weights = np.unpackbits(out.view(np.uint8), axis=1, bitorder="little").sum(axis=0)
    assert weights[weights > 0].min() >= linear_code.DISTANCE
    assert not (weights % 2).any()
    assert (np.bitwise_count(linear_code.ROWS).sum(axis=1) >= linear_code.DISTANCE).all()


@pytest.mark.parametrize("n_words", [1, 63, 64, 130])
def test_columns_and_rows_are_encoded_alike(n_words):
    message, out = random_words(76, n_words), random_words(512, n_words)
    before = out.copy()
    linear_code.add_code(message, out)
    padded = np.zeros((128, n_words), np.uint64)
    padded[:76] = message
    of_rows = np.zeros((80, 8), np.uint64)
    of_rows[:76] = linear_code.ROWS
    tables, rows = linear_code.tables(of_rows), to_rows(padded, n_words)
    found = to_rows(out ^ before, n_words)
    for k in RNG.integers(0, 64 * n_words, 20):
        number, expected = as_number(rows[k]), np.zeros(8, np.uint64)
        for g in range(10):
            expected ^= tables[g, number >> 8 * g & 255]
        assert np.array_equal(found[k], expected)


def test_matrices_of_bits_are_turned():
    rows, columns = random_words(192, 2), np.zeros((76, 5), np.uint64)
    to_columns(rows, columns)
    bits = np.unpackbits(rows.view(np.uint8), axis=1, bitorder="little")
    turned = np.unpackbits(columns.view(np.uint8), axis=1, bitorder="little")
    assert np.array_equal(turned[:, :192], bits[:, :76].T)
    assert not turned[:, 192:].any()
    wide = random_words(512, 3)
    turned = np.unpackbits(to_rows(wide, 2).view(np.uint8), axis=1, bitorder="little")
    assert np.array_equal(turned, np.unpackbits(wide.view(np.uint8), axis=1, bitorder="little")[:, :128].T)


# --- the store -------------------------------------------------------------------------------------------------------


def digests(n, key=b"k"):
    return blake2b.hash_texts([f"firm {k}" for k in range(n)], blake2b.derived_key(key))


def sum_of(slots, digest, segment):
    """Sum of a digest's slots and its value, on Python integers, as the module's description has it."""
    number = as_number(digest)
    total = 0
    for k in range(3):
        total ^= as_number(slots[segment * k + ((number >> 32 * k & 0xFFFFFFFF) * segment >> 32)])
    for k in range(64):
        total ^= as_number(slots[3 * segment + k]) * (number >> 128 + k & 1)
    return total, number >> 192 | (number >> 116 & 0xFFF) << 64


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(0, 5), st.binary(min_size=1, max_size=4))
def test_every_key_has_its_value_and_no_other_has(n, spare, key):
    found, segment = digests(n, key), okvs.segment_size(n + spare)
    slots = okvs.encode(found, segment)
    assert slots.shape == (okvs.n_slots(n + spare), 2)
    for digest in found:
        total, value = sum_of(slots, digest, segment)
        assert total == value
    for digest in digests(5, key + b"other"):
        total, value = sum_of(slots, digest, segment)
        assert total != value


def test_keys_that_peeling_leaves_are_solved_for():
    """Segments that are much too small: half of the keys are left."""
    found, segment = digests(420), 128
    order, own = np.empty(420, np.uint32), np.empty(420, np.uint32)
    assert okvs._peel(found, np.uint64(segment), order, own) < 300
    slots = okvs.encode(found, segment)
    assert all(total == value for total, value in (sum_of(slots, digest, segment) for digest in found))


def test_equal_keys_and_too_many_have_no_store():
    found = digests(40)
    found[3] = found[7]
    assert okvs.encode(found, 64) is None
    assert okvs.encode(digests(3 * 64 + 64 + 1), 64) is None


def test_sizes_follow_the_paper():
    """1.23 slots an id for a million; two sets of five million agree by chance at 2^-51."""
    assert okvs.n_slots(1 << 20) / (1 << 20) == pytest.approx(1.2275, abs=1e-3)
    assert [okvs.n_slots(n) for n in (1, 1000, 10_000)] == [256, 1600, 12_928]
    assert 8 * oprf.VALUE_BYTES - 2 * np.log2(5e6) > 51


@pytest.mark.slow
def test_stores_fail_as_rarely_as_the_paper_says(monkeypatch):
    """Where the formula is asked for 2^-4 in place of 2^-40, fewer than one of 16 fail to have few keys left."""
    monkeypatch.setattr(okvs, "_SECURITY", 4)
    segment, unsolved, many_left = okvs.segment_size(4000), 0, 0
    for k in range(400):
        found = digests(4000, k.to_bytes(2, "little"))
        order, own = np.empty(4000, np.uint32), np.empty(4000, np.uint32)
        many_left += okvs._peel(found, np.uint64(segment), order, own) < 4000 - 24
        unsolved += okvs.encode(found, segment) is None
    assert many_left <= 400 / 16
    assert unsolved == 0


# --- the function ----------------------------------------------------------------------------------------------------


def both(own, asked, n_padded=None, label=b"test"):
    receiver = oprf.Receiver(label, own, n_padded or len(own))
    sender = oprf.Sender(label, n_padded or len(own), receiver.key, receiver.point())
    receiver.accept(sender.choices())
    for _ in range(oprf.n_parts(n_padded or len(own))):
        sender.take(receiver.next_part())
    return receiver.values(), sender.values(asked)


@pytest.mark.parametrize("part", [64, 192, 1 << 16])
def test_both_sides_have_equal_values_where_ids_are_equal(part, monkeypatch):
    monkeypatch.setattr(oprf, "PART", part)
    own, asked = [f"firm {k}" for k in range(90)], [f"firm {k}" for k in range(60, 150)]
    ours, theirs = both(own, asked, 100)
    assert np.array_equal(ours[60:], theirs[:30])
    seen = {value.tobytes() for value in np.concatenate([ours, theirs])}
    assert len(seen) == 150
    assert max(value[1] for value in ours) < 1 << 32


def test_many_ids():
    ids = [f"91310000MA1K{k:07d}" for k in range(30_000)]
    ours, theirs = both(ids, ids[::-1])
    assert np.array_equal(ours, theirs[::-1])


def test_values_are_the_hash_of_a_masked_row():
    """By hashlib and Python integers: BLAKE2b of the row and the digest, under the key of the label."""
    receiver = oprf.Receiver(b"test", ["a", "b"], 2)
    sender = oprf.Sender(b"test", 2, receiver.key, receiver.point())
    receiver.accept(sender.choices())
    sender.take(receiver.next_part())
    secret, digest = as_number(sender._secret), oprf.digests_of(b"test", receiver.key, ["c"])[0]
    segment = okvs.segment_size(2)
    row, value = sum_of(sender._rows, digest, segment)
    for k in range(76):
        row ^= as_number(linear_code.ROWS[k]) & secret if value >> k & 1 else 0
    fields = [b"veilscore/oprf values/v1", b"test"]
    key = blake2b.derived_key(*(len(f).to_bytes(8, "little") + f for f in fields))
    expected = hashlib.blake2b(row.to_bytes(64, "little") + digest.tobytes(), key=key, digest_size=12).digest()
    low, high = sender.values(["c"])[0]
    assert int(low).to_bytes(8, "little") + int(high).to_bytes(4, "little") == expected


def test_the_same_seed_gives_the_same_messages_again():
    def run():
        receiver = oprf.Receiver(b"test", ["a", "b"], 2)
        sender = oprf.Sender(b"test", 2, receiver.key, receiver.point())
        receiver.accept(sender.choices())
        return receiver.point(), receiver.key, sender.choices(), receiver.next_part()

    seed = os.urandom(32)
    assert seeded(seed, run) == seeded(seed, run)
    assert seeded(seed, run) != seeded(os.urandom(32), run)


def test_misuse_is_refused():
    receiver = oprf.Receiver(b"test", ["a"], 2)
    with pytest.raises(MessageError, match="before the base transfers"):
        receiver.next_part()
    with pytest.raises(MessageError, match="32 bytes"):
        oprf.Sender(b"test", 2, b"", receiver.point())
    sender = oprf.Sender(b"test", 2, receiver.key, receiver.point())
    receiver.accept(sender.choices())
    with pytest.raises(SecretReuseError):
        receiver.accept(sender.choices())
    with pytest.raises(IdError, match="cannot be encoded"):
        oprf.Receiver(b"test", ["a", "a"], 2)
    assert repr(receiver) == "<Receiver>"
    assert repr(sender) == "<Sender>"


def test_values_that_begin_alike_are_told_apart():
    theirs = np.array([[5, 1], [7, 2], [5, 3], [9, 9]], np.uint64)
    own = np.array([[5, 3], [9, 8], [7, 2], [5, 1]], np.uint64)
    assert _match(theirs, own, "bank").tolist() == [3, 2, 0, -1]
    with pytest.raises(MessageError, match="same id twice"):
        _match(np.array([[5, 1], [5, 3], [5, 1]], np.uint64), own, "bank")
