"""Secure inner products against plain integers; refusals; what the key owner sees."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.errors import MessageError, ParameterError, ProtocolError, SecretReuseError
from veilscore.lattice.bfv import chunk_bytes
from veilscore.lattice.inner_product import PUBLIC_BYTES, InnerEvaluator, InnerKey, N, T, reply_bytes
from veilscore.lattice.params import INNER, INNER_REPLY, INNER_T_PRIMES, check_inner
from veilscore.lattice.ring import unpack

LABEL = b"test inner product"
TERMS = np.array([[(0, 0), (1, 1)], [(2, 1), (0, 2)], [(1, 0), (1, 2)]])


@pytest.fixture(scope="module")
def key():
    return InnerKey(LABEL)


def residues(v):
    return np.stack([v % np.uint64(p) for p in INNER_T_PRIMES], axis=1).astype(np.uint32)


def error(first, second, expected):
    """Largest distance modulo t of two shares' sum from what is expected."""
    off = (first.astype(object) + second - expected) % T
    return int(np.minimum(off, T - off).max())


def run(key, blocks, terms=TERMS):
    evaluator = InnerEvaluator(key.public(), LABEL, terms)
    for u, v in blocks:
        evaluator.add(key.encrypt(u), len(u), residues(v))
    reply, share = evaluator.reply()
    return reply, share, key.share(reply, len(terms))


@settings(max_examples=6, deadline=None)
@given(n_blocks=st.sampled_from([1, 3]), most=st.sampled_from([2, 1 << 20, T]), seed=st.integers(0, 1 << 32))
def test_sums_are_right_within_a_unit(key, n_blocks, most, seed):
    rng = np.random.default_rng(seed)
    blocks = [rng.integers(0, most, (2, 3, N), dtype=np.uint64) for _ in range(n_blocks)]
    reply, share, other = run(key, blocks)
    plain = [sum(int((u[i].astype(object) * v[m]).sum()) for u, v in blocks for i, m in one) % T for one in TERMS]
    assert len(reply) == reply_bytes(3)
    assert max(share.max(), other.max()) < T
    assert error(share, other, np.array(plain, object)) <= 1


@pytest.mark.parametrize("value", [0, 1, T - 1, T // 2])
def test_extreme_values(key, value):
    x = np.full((3, N), value, np.uint64)
    _, share, other = run(key, [(x, x)])
    assert error(share, other, np.full(3, 2 * N * value * value % T, object)) <= 1


def test_errors_are_as_rare_as_the_budget_says(key):
    """A share is off by a unit where the mask is near a boundary: here of 600 sums hardly one."""
    terms = np.tile(TERMS, (200, 1, 1))
    x = np.random.default_rng(1).integers(0, T, (2, 3, N), dtype=np.uint64)
    _, share, other = run(key, [x], terms)
    plain = [sum(int((x[0, i].astype(object) * x[1, m]).sum()) for i, m in one) % T for one in TERMS]
    wrong = (share.astype(object) + other - np.tile(np.array(plain, object), 200)) % T != 0
    assert check_inner(2).log2_failure < -10
    assert wrong.sum() <= 5


def test_replies_and_shares_are_uniform_and_fresh(key):
    terms = np.tile(TERMS[:1], (300, 1, 1))
    u = np.zeros((3, N), np.uint64)
    replies = [run(key, [(u, u)], terms) for _ in range(2)]
    assert replies[0][0][:32] != replies[1][0][:32]
    c1 = unpack(replies[0][0][32:], (300, 3, N), INNER_REPLY.primes) / np.array(INNER_REPLY.primes)[:, None]
    for sample in (replies[0][1] / T, replies[0][2] / T, c1[:3], c1[0] - c1[1] + (c1[0] < c1[1])):
        flat = np.sort(np.asarray(sample).ravel())
        steps = np.arange(1, flat.size + 1) / flat.size
        # passed by chance with probability below 1e-8
        assert np.abs(flat - steps).max() < 3.2 / math.sqrt(flat.size)


def test_another_key_reads_nothing(key):
    u = np.ones((3, N), np.uint64)
    reply, share, _ = run(key, [(u, u)])
    assert error(share, InnerKey(LABEL).share(reply, 3), np.full(3, 2 * N, object)) > 1 << 30


def test_sizes_on_the_wire(key):
    assert len(key.public()) == PUBLIC_BYTES == 15 * N
    assert len(key.encrypt(np.zeros((2, N), np.uint64))) == chunk_bytes(2, INNER) == 32 + 2 * 15 * N
    assert reply_bytes(7) == 32 + 7 * 9 * N


def test_what_is_damaged_is_refused(key):
    u = np.zeros((3, N), np.uint64)
    chunk, v = key.encrypt(u), residues(u)
    for bad in (chunk[:-1], chunk + b"\0", chunk[:32] + b"\xff" * (len(chunk) - 32)):
        with pytest.raises(MessageError):
            InnerEvaluator(key.public(), LABEL, TERMS).add(bad, 3, v)
    reply, *_ = run(key, [(u, u)])
    for bad in (b"", reply[:-1], reply + b"\0", b"\xff" * len(reply)):
        with pytest.raises(MessageError):
            key.share(bad, 3)
    for bad in (b"", bytes(PUBLIC_BYTES - 1), b"\xff" * PUBLIC_BYTES):
        with pytest.raises(MessageError):
            InnerEvaluator(bad, LABEL, TERMS)


def test_wrong_use_is_refused(key):
    u = np.zeros((3, N), np.uint64)
    for bad in (u.astype(np.int64), u + np.uint64(T), u[:, :-1], u[0]):
        with pytest.raises(ParameterError):
            key.encrypt(bad)
    evaluator = InnerEvaluator(key.public(), LABEL, TERMS)
    with pytest.raises(ProtocolError):
        evaluator.reply()
    evaluator.add(key.encrypt(u), 3, residues(u))
    for again in (InnerEvaluator(key.public(), LABEL, TERMS + np.array([1, 0])), evaluator):
        with pytest.raises(ParameterError, match="not there"):
            again.add(key.encrypt(u), 3 if again is not evaluator else 2, residues(u))
    evaluator.reply()
    for use in (evaluator.reply, lambda: evaluator.add(key.encrypt(u), 3, residues(u))):
        with pytest.raises(SecretReuseError, match="reply was given"):
            use()


@pytest.mark.parametrize("terms", [np.zeros((1, 13, 2), int), np.zeros((1, 0, 2), int), -TERMS, TERMS[0]])
def test_terms_that_are_none_are_refused(key, terms):
    with pytest.raises(ParameterError, match="1 to 12 terms"):
        InnerEvaluator(key.public(), LABEL, terms)


def test_more_products_than_the_noise_allows_are_refused():
    assert check_inner(3 * 1024).log2_failure < -5, "four million rows"
    with pytest.raises(ParameterError, match="does not fit"):
        check_inner(3 * 4096)


def test_repr_hides_the_key(key):
    assert repr(key) == "<InnerKey>"
    assert repr(InnerEvaluator(key.public(), LABEL, TERMS)) == "<InnerEvaluator>"
