"""Packed sums against plain counting, and what each side sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.errors import MessageError, ParameterError, ProtocolError, SecretReuseError
from veilscore.lattice import packed_sums as packed
from veilscore.lattice.packed_sums import SumsEvaluator, SumsKey, block_rows, query_bytes, reply_bytes
from veilscore.lattice.params import T
from veilscore.lattice.ring import unpack

RNG = np.random.default_rng(0)


def run(codes, n_codes, x, wanted, label=b"test"):
    key = SumsKey(label, x.size)
    evaluator = SumsEvaluator(label, x.size, key.public())
    size = 0
    for chunk in key.encrypt(x):
        evaluator.add(chunk)
        size += len(chunk)
    assert size == query_bytes(x.size)
    reply, share = evaluator.sums(codes, n_codes, wanted)
    assert len(reply) == reply_bytes(x.size, int(wanted.sum()))
    own = key.share(reply, int(wanted.sum()))
    return own, share, reply


def plain(codes, n_codes, x, wanted):
    sums = [int(x[codes[:, j] == c].astype(object).sum()) % T for j, n in enumerate(n_codes) for c in range(n)]
    return np.array(sums, object)[wanted]


def assert_exact(found, expected):
    own, share, _ = found
    distance = (own.astype(object) + share - expected) % T
    assert max(min(int(d), T - int(d)) for d in distance) <= 1


@pytest.mark.parametrize("n", [1, 63, 64, 65, 300, 5000])
def test_sums_are_exact_at_every_size(n):
    n_codes = np.array([3, 1, 70, 20])
    codes = np.stack([RNG.integers(0, k, n) for k in n_codes], 1).astype(np.uint8)
    x = RNG.integers(0, T, n, dtype=np.uint64)
    wanted = RNG.random(int(n_codes.sum())) < 0.7
    wanted[0] = True
    assert_exact(run(codes, n_codes, x, wanted), plain(codes, n_codes, x, wanted))


def test_larger_blocks():
    n = 70_001  # blocks of 128 rows, so 32 cells a reply
    assert block_rows(n) == 128
    n_codes = np.array([40, 5])
    codes = np.stack([RNG.integers(0, k, n) for k in n_codes], 1).astype(np.uint16)
    x = RNG.integers(0, T, n, dtype=np.uint64)
    wanted = np.ones(45, bool)
    assert_exact(run(codes, n_codes, x, wanted), plain(codes, n_codes, x, wanted))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 200), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 1 << 30))
def test_any_shape(n, sizes, seed):
    rng = np.random.default_rng(seed)
    n_codes = np.array(sizes)
    codes = np.stack([rng.integers(0, k, n) for k in n_codes], 1).astype(np.uint8)
    x = rng.integers(0, T, n, dtype=np.uint64)
    wanted = rng.random(int(n_codes.sum())) < 0.5
    wanted[-1] = True
    assert_exact(run(codes, n_codes, x, wanted), plain(codes, n_codes, x, wanted))


def test_what_is_sent_and_kept_is_uniform():
    n, d = 256, 40
    codes, n_codes = np.zeros((n, d), np.uint8), np.full(d, 16)
    wanted = np.ones(16 * d, bool)
    own, share, reply = run(codes, n_codes, np.zeros(n, np.uint64), wanted)
    for words in (own, share):
        assert abs(words.astype(float).mean() / T - 0.5) < 0.1
    groups = 16 * d * block_rows(n) // packed.N
    c1 = unpack(reply[: groups * packed.ELEMENT_BYTES], (groups, packed.L, packed.N), packed.PRIMES)
    for limb, p in enumerate(packed.PRIMES):
        assert abs(c1[:, limb].astype(float).mean() / p - 0.5) < 0.01
    # the same codes twice: nothing of a reply repeats
    again = run(codes, n_codes, np.zeros(n, np.uint64), wanted)[2]
    assert again[:64] != reply[:64]
    assert again[-64:] != reply[-64:]


def test_a_key_encrypts_one_vector():
    key = SumsKey(b"once", 10)
    x = np.zeros(10, np.uint64)
    list(key.encrypt(x))
    with pytest.raises(SecretReuseError, match="one vector"):
        key.encrypt(x)
    assert "SumsKey" in repr(key)


def test_bad_input_is_refused():
    key = SumsKey(b"bad", 100)
    with pytest.raises(ParameterError, match="below t"):
        key.encrypt(np.full(100, T, np.uint64))
    with pytest.raises(ParameterError, match="uint64"):
        key.encrypt(np.zeros(99, np.uint64))
    with pytest.raises(MessageError):
        SumsEvaluator(b"bad", 100, key.public()[:-1])
    evaluator = SumsEvaluator(b"bad", 100, key.public())
    codes, n_codes = np.zeros((100, 1), np.uint8), np.array([2])
    with pytest.raises(ProtocolError, match="before all ciphertexts"):
        evaluator.sums(codes, n_codes, np.ones(2, bool))
    (chunk,) = key.encrypt(np.zeros(100, np.uint64))
    for wrong in (b"", chunk[:-1], chunk * 2, b"\xff" * len(chunk)):
        with pytest.raises(MessageError):
            evaluator.add(wrong)
    evaluator.add(chunk)
    for wrong_codes, wanted in ((codes[:9], np.ones(2, bool)), (codes, np.zeros(2, bool)), (codes, np.ones(3, bool))):
        with pytest.raises(ParameterError):
            evaluator.sums(wrong_codes, n_codes, wanted)
    reply, _ = evaluator.sums(codes, n_codes, np.ones(2, bool))
    for wrong in (reply[:-1], reply + b"0", b"\xff" * len(reply)):
        with pytest.raises(MessageError):
            key.share(wrong, 2)
    with pytest.raises(ParameterError, match="at most"):
        block_rows(1 << 23)
