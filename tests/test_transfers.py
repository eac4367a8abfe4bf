"""Oblivious transfer of labels, and the pool of numbered transfers: honest runs, misuse, replay, threads, size."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rbcl
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.crypto import aes, group, parities, transfer_pool
from veilscore.crypto.circuits import add, exceeds, from_bits, to_bits
from veilscore.crypto.oblivious import LabelReceiver, LabelSender
from veilscore.crypto.transfer_pool import PoolReceiver, PoolSender, extension_bytes
from veilscore.errors import MessageError, ParameterError, SecretReuseError

RNG = np.random.default_rng(7)


def two_sides(label=b"test"):
    receiver = LabelReceiver(label)
    sender = LabelSender(label, receiver.base())
    receiver.accept(sender.choices())
    return receiver, sender


def test_labels_differ_by_the_offset_where_the_bit_is_set():
    receiver, sender = two_sides()
    for shape in [(3, 50), (1, 1), (2, 64), (0,)]:
        bits = RNG.random(shape) < 0.5
        message, labels = receiver.extend(bits)
        assert ((labels ^ sender.extend(message, shape)) == bits[..., None] * sender.offset).all()
    assert sender.offset[0] & np.uint64(1)


@pytest.mark.parametrize("place", [0, 130 * 8, -1, -17, -128 * 16 - 1])
def test_a_changed_byte_of_the_choices_is_refused(place):
    """Wherever it lies: the parities that are compared follow from the whole message."""
    receiver, sender = two_sides()
    message = bytearray(receiver.extend(np.ones(100, bool))[0])
    message[place] ^= 1
    with pytest.raises(MessageError, match="do not agree"):
        sender.extend(bytes(message), (100,))


def test_coefficients_follow_from_every_byte_sent():
    data = np.arange(12, dtype=np.uint64).reshape(3, 4)
    other = data.copy()
    other[2, 3] ^= np.uint64(1)
    seen = {
        parities.draw_coefficients(*drawn_by).tobytes()
        for drawn_by in ((b"l", 0, data), (b"m", 0, data), (b"l", 1, data), (b"l", 0, other))
    }
    assert len(seen) == 4
    assert np.array_equal(parities.draw_coefficients(b"l", 0, data), parities.draw_coefficients(b"l", 0, data.copy()))


def frozen(*shape):
    return np.frombuffer(RNG.bytes(8 * int(np.prod(shape))), "<u8").reshape(shape)


def test_parities_are_masked_and_linear():
    """Equal bits under equal keys: the parities differ as the random words do."""
    drawn, columns = frozen(3, 2), RNG.integers(0, 1 << 64, (3, 7), np.uint64)
    first, other = parities.parities(drawn, columns), columns.copy()
    other[:, 5:] ^= np.uint64(1)
    assert np.array_equal(parities.parities(drawn, other) ^ first, np.ones_like(first))
    both = parities.parities(drawn, (columns[0] ^ columns[1])[None])
    assert np.array_equal(both[0], first[0] ^ first[1])


@pytest.mark.parametrize("n_words", [1, 2, 5, 8])
@pytest.mark.parametrize("instructions", [True, False])
def test_parities_are_sums_over_the_field(n_words, instructions, monkeypatch):
    """Against carry-less arithmetic on Python integers, with instructions for it and by table."""
    if instructions and not aes.has_clmul():
        pytest.skip("no carry-less multiplication here")
    monkeypatch.setattr(aes, "has_clmul", lambda: instructions)

    def times(a, b):
        product = 0
        for k in range(128):
            product ^= (a << k) if b >> k & 1 else 0
        for k in range(254, 127, -1):
            product ^= (1 << k | 0x87 << k - 128) if product >> k & 1 else 0
        return product

    drawn, columns = frozen((n_words + 1) // 2, 2), RNG.integers(0, 1 << 64, (3, n_words + 2), np.uint64)
    for column, found in zip(columns.tolist(), parities.parities(drawn, columns).tolist(), strict=True):
        value, words = 0, column[:n_words] + [0] * (n_words % 2)
        for (a, b), low, high in zip(drawn.tolist(), words[::2], words[1::2], strict=True):
            value ^= times(low | high << 64, a | b << 64)
        assert found[0] | found[1] << 64 == value ^ column[-2] ^ column[-1] << 64


def test_hostile_base_transfers_are_refused():
    with pytest.raises(MessageError, match="not valid"):
        LabelSender(b"test", b"\xff" * 32)
    with pytest.raises(MessageError, match="expected 1 points"):
        LabelSender(b"test", bytes(64))
    receiver, sender = two_sides()
    with pytest.raises(MessageError, match="labels of 10 bits"):
        sender.extend(bytes(10), (10,))
    fresh = LabelReceiver(b"test")
    for choices in (bytes(128 * 32), sender.choices()[:-32], sender.choices()[:-32] + b"\xff" * 32):
        with pytest.raises(MessageError):
            fresh.accept(choices)
    with pytest.raises(MessageError, match="or the identity"):  # its own point: the other option would be known
        fresh.accept(sender.choices()[:-32] + fresh.base())
    with pytest.raises(MessageError, match="before the base"):
        fresh.extend(np.zeros(3, bool))
    assert "offset" not in repr(sender)
    assert repr(receiver) == "<LabelReceiver>"


# --- the pool ---


def two_pools(*sizes, names=b"pool", seed=None):
    receiver = PoolReceiver(names, seed or os.urandom(32))
    sender = PoolSender(names, receiver.base())
    receiver.accept(sender.choices())
    for n in sizes:
        sender.extend(receiver.extend(n), n)
    return receiver, sender


def larger(engine, left, right):
    return np.concatenate([add(engine, left, right), exceeds(engine, left, right)[None]])


def test_circuits_over_numbered_transfers_in_any_order():
    """Sums and comparisons with a word of the receiver's; some over two extensions, the last one first."""
    receiver, sender = two_pools(64, 128, 64)
    for at in (200, 50, 8, 240, 0, 216):
        mine, theirs = (RNG.integers(0, 256, 1).astype(np.uint64) for _ in range(2))
        bits, labels = receiver.take(at, 8)
        request = to_bits(mine, 8)[:, 0] ^ bits
        zero = sender.take(at, request)
        garbler, evaluator = sender.garbler(at), receiver.evaluator(at)
        word = larger(garbler, zero[:, None], garbler.own(to_bits(theirs, 8)))
        evaluator.feed(garbler.tables())
        found = larger(evaluator, labels[:, None], evaluator.own((8, 1)))
        evaluator.done()
        out = from_bits(evaluator.decode(found, garbler.decoding(word)))
        assert out[0] == (mine + theirs)[0] % 256 + 256 * (mine > theirs)[0]
    assert (sender.mark, sender.made, receiver.made) == (248, 256, 256)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 90)), max_size=20))
def test_every_number_serves_once(taken):
    """Against a set: whatever is asked for, in whatever order, at both sides alike."""
    receiver, sender = POOL
    base = receiver.made
    for n in (128, 192):
        sender.extend(receiver.extend(n), n)
    spent = set()
    for start, n in taken:
        numbers = set(range(base + start, base + start + n))
        sides = (lambda a, n: receiver.take(a, n)[1], lambda a, n: sender.take(a, np.zeros(n, bool)))
        if start + n > 320:
            for take in sides:
                with pytest.raises(MessageError, match="not among"):
                    take(base + start, n)
        elif numbers & spent:
            for take in sides:
                with pytest.raises(SecretReuseError, match="twice"):
                    take(base + start, n)
        else:
            spent |= numbers
            mine, theirs = (take(base + start, n) for take in sides)
            offsets = np.unique(mine ^ theirs, axis=0)
            assert {tuple(row) for row in offsets.tolist()} <= {(0, 0), tuple(sender._offset.tolist())}
    for number in set(range(base, base + 320)) - spent:  # what is left: so that the pool never fills up
        receiver.take(number, 1)
        sender.take(number, np.zeros(1, bool))
    assert receiver._stock._extensions == sender._stock._extensions == {}


POOL = two_pools()


def test_misuse_of_extensions_is_refused_and_changes_nothing():
    receiver, sender = two_pools(64)
    second, third = receiver.extend(128), receiver.extend(64)
    with pytest.raises(MessageError, match="do not follow"):
        sender.extend(third, 64)
    with pytest.raises(SecretReuseError, match="made twice"):
        sender.extend((0).to_bytes(8, "little") + second[8:], 128)
    for wrong in (second[:-1], second + b"\0", b"", second[:8]):
        with pytest.raises(MessageError, match=f"take {extension_bytes(128)} bytes"):
            sender.extend(wrong, 128)
    with pytest.raises(MessageError, match="bytes, got"):
        sender.extend(second, 64)
    for n in (0, -64, 63, 100):
        for extend in (receiver.extend, lambda n: sender.extend(second, n)):
            with pytest.raises(MessageError, match="multiples of 64"):
                extend(n)
    sender.extend(second, 128)
    with pytest.raises(SecretReuseError, match="made twice"):
        sender.extend(second, 128)
    sender.extend(third, 64)
    zero, (bits, mine) = sender.take(250, np.zeros(6, bool)), receiver.take(250, 6)
    assert np.array_equal(zero ^ mine, bits[:, None] * sender._offset)


@pytest.mark.parametrize("place", [8, 9000, -1])
def test_columns_that_do_not_agree_end_the_pool(place):
    """A second message would be a second guess at bits of the offset."""
    receiver, sender = two_pools(128)
    message = bytearray(receiver.extend(512))
    message[place] ^= 4
    with pytest.raises(MessageError, match="do not agree"):
        sender.extend(bytes(message), 512)
    message[place] ^= 4
    for use in (lambda: sender.extend(bytes(message), 512), lambda: sender.take(0, np.zeros(4, bool))):
        with pytest.raises(MessageError, match="given up"):
            use()


def test_misuse_of_transfers_is_refused():
    fresh = PoolReceiver(b"pool", os.urandom(32))
    with pytest.raises(MessageError, match="before the base"):
        fresh.extend(64)
    with pytest.raises(MessageError, match="not among the 0"):
        fresh.take(0, 1)
    receiver, sender = two_pools(64)
    for at, n in ((-1, 2), (0, 0), (64, 1), (60, 5), (1 << 70, 1)):
        for take in (receiver.take, lambda at, n: sender.take(at, np.zeros(n, bool))):
            with pytest.raises(MessageError, match="not among the 64"):
                take(at, n)
    with pytest.raises(SecretReuseError, match="for no circuit"):
        sender.garbler(0)
    sender.take(0, np.zeros(4, bool))
    sender.garbler(0)
    for at in (0, 1):
        with pytest.raises(SecretReuseError, match="no circuit, or for one"):
            sender.garbler(at)
    for point in (bytes(32), b"\xff" * 32, b""):
        with pytest.raises(MessageError):
            PoolSender(b"pool", point)
    with pytest.raises(ParameterError):
        PoolReceiver(b"pool", b"short")
    assert repr(receiver) == "<PoolReceiver, 64 of 64 transfers left>"
    assert repr(sender) == "<PoolSender, 60 of 64 transfers left>"


def test_numbers_below_the_mark_are_refused():
    """After a restart the pool is made anew under its names: no number of them stands for two circuits."""
    receiver, sender = two_pools(64)
    sender.take(10, np.zeros(5, bool))
    sender.take(3, np.zeros(2, bool))
    assert sender.mark == 15
    fresh = PoolReceiver(b"pool", os.urandom(32))
    again = PoolSender(b"pool", fresh.base(), mark=sender.mark)
    fresh.accept(again.choices())
    again.extend(fresh.extend(64), 64)
    for at in (0, 14):
        with pytest.raises(SecretReuseError, match="before a restart"):
            again.take(at, np.zeros(3, bool))
    assert again.mark == 15
    again.take(15, np.zeros(3, bool))
    assert again.mark == 18
    with pytest.raises(ParameterError, match="no number"):
        PoolSender(b"pool", receiver.base(), mark=-1)


def test_a_pool_is_bounded(monkeypatch):
    """Whoever asks for more without using any, or for ever, is refused."""
    monkeypatch.setattr(transfer_pool, "MOST_WAITING", 128)
    monkeypatch.setattr(transfer_pool, "MOST", 192)
    receiver, sender = two_pools(128)
    for extend in (receiver.extend, lambda n: sender.extend(bytes(extension_bytes(n)), n)):
        with pytest.raises(MessageError, match="wait to be used"):
            extend(64)
    receiver.take(0, 128)
    sender.take(0, np.zeros(128, bool))
    sender.extend(receiver.extend(64), 64)
    receiver.take(128, 64)
    with pytest.raises(MessageError, match="set up a new pool"):
        receiver.extend(64)


def test_a_receiver_is_replayed_from_its_seed():
    """An auditor who has seed and choices gets every byte again, at other times and beside other draws."""
    seed = os.urandom(32)
    receiver, sender = two_pools(seed=seed)
    first = [receiver.base(), receiver.extend(128), receiver.take(100, 20), receiver.extend(64), receiver.take(130, 7)]
    again = PoolReceiver(b"pool", seed)
    base = again.base()
    again.accept(sender.choices())
    second = [base, again.extend(128), again.take(100, 20), again.extend(64), again.take(130, 7)]
    for one, other in zip(first, second, strict=True):
        assert one == other if isinstance(one, bytes) else all(map(np.array_equal, one, other))
    other_seed = PoolReceiver(b"pool", os.urandom(32))
    other_seed.accept(sender.choices())
    assert other_seed.extend(128) != first[1]
    other_names = PoolReceiver(b"other", seed)
    other_names.accept(sender.choices())
    assert other_names.extend(128) != first[1]


def test_neither_requests_nor_extensions_tell_bits():
    """Words that are all zeros and all ones ask for uniform bits."""
    receiver, _ = two_pools()
    message = receiver.extend(1 << 14)
    bits, _ = receiver.take(0, 1 << 14)
    for sent in (bits, np.unpackbits(np.frombuffer(message[8:], np.uint8))):
        assert abs(sent.mean() - 0.5) * 2 * np.sqrt(sent.size) < 6


def test_threads_never_share_a_transfer():
    receiver, sender = two_pools(1024)
    begin = threading.Barrier(8)

    def work(k):
        begin.wait()
        mine = []
        for number in range(0, 1024, 4):
            try:
                bits, labels = receiver.take(number, 4)
            except SecretReuseError:
                continue
            zero = sender.take(number, bits)
            mine.append((k, number, np.array_equal(zero, labels)))
        return mine

    with ThreadPoolExecutor(8) as pool:
        done = [one for mine in pool.map(work, range(8)) for one in mine]
    assert sorted(number for _, number, _ in done) == list(range(0, 1024, 4))
    assert all(right for _, _, right in done)  # a request for the bit that is masked by itself: the label of zero


def test_a_pool_is_small_and_quick():
    n = 1 << 16
    receiver, sender = two_pools(64)
    receiver.take(0, 64)
    sender.take(0, np.zeros(64, bool))
    tracemalloc.start()
    message = receiver.extend(n)
    receiver_bytes = tracemalloc.get_traced_memory()[0] - len(message)
    sender.extend(message, n)
    both = tracemalloc.get_traced_memory()[0] - len(message)
    tracemalloc.stop()
    assert max(receiver_bytes, both - receiver_bytes) < 1.5 * (1 << 20)
    assert len(message) == extension_bytes(n) < 17 * n
    took_s = []
    for _ in range(3):
        started = time.process_time()
        sender.extend(receiver.extend(n), n)
        took_s.append(time.process_time() - started)
    assert min(took_s) < 1e-3 * n / 1000  # half of a millisecond for 1,000 on each side


def test_scalar_is_hidden_destroyed_and_not_copied():
    points = group.parse_points(b"".join(rbcl.crypto_core_ristretto255_from_hash(bytes([k] * 64)) for k in (1, 2)), 2)
    with group.Scalar() as scalar:
        raised = group.raise_points(points, scalar)
        assert "secret" in repr(scalar)
        secret = scalar.reveal_to_kernel()
        expected = rbcl.crypto_scalarmult_ristretto255(secret.tobytes(), points[0].tobytes())
        base = rbcl.crypto_scalarmult_ristretto255_base(secret.tobytes())
        assert group.raise_generator(scalar).tobytes() == base
    assert raised[0].tobytes() == expected
    assert not secret.any()
    with pytest.raises(SecretReuseError):
        group.raise_points(points, scalar)
    with pytest.raises(SecretReuseError):
        scalar.__reduce__()
