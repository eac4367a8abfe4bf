"""Secure product against plain integers; refusals; what the key owner sees."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.bfv import element_bytes
from veilscore.lattice.params import PRODUCT, PRODUCT_OPEN, SCORE_T, T
from veilscore.lattice.product import (
    PUBLIC_BYTES,
    REPLY_BYTES,
    L,
    N,
    ProductEvaluator,
    ProductKey,
    ciphertext_bytes,
)
from veilscore.lattice.ring import unpack

LABEL = b"test product"


@pytest.fixture(scope="module")
def parties():
    key = ProductKey(LABEL)
    return key, ProductEvaluator(key.public(), LABEL)


def joined(a, b):
    return (a.astype(object) + b) % T


@settings(max_examples=8, deadline=None)
@given(
    n=st.sampled_from([1, 379, 2731, 4096, 4097, 8191, 8192, 8193, 8192 + 4000]),
    V=st.sampled_from([1, 2, 13]),
    outputs=st.sampled_from([None, 1, 2]),
    seed=st.integers(0, 1 << 32),
)
def test_products_are_exact(parties, n, V, outputs, seed):
    key, evaluator = parties
    rng = np.random.default_rng(seed)
    u = rng.integers(0, T, (V, n), dtype=np.uint64)
    v = rng.integers(0, T, (V, n) if outputs is None else (outputs, V, n), dtype=np.uint64)
    reply, share = evaluator.multiply_sum(key.encrypt(u), v)
    other = key.decrypt(iter(reply), n, outputs)
    assert share.shape == other.shape == ((n,) if outputs is None else (outputs, n))
    assert max(share.max(), other.max()) < T
    assert (joined(share, other) == (u.astype(object) * v).sum(axis=-2) % T).all()


@pytest.mark.parametrize("value", [0, 1, T - 1, T // 2, T // 2 + 1])
def test_extreme_values(parties, value):
    """All slots alike: the polynomial is one constant, the largest that occurs."""
    key, evaluator = parties
    x = np.full((30, N), value, np.uint64)
    reply, share = evaluator.multiply_sum(key.encrypt(x), x)
    assert (joined(share, key.decrypt(reply, N)) == 30 * value * value % T).all()


def test_sizes_on_the_wire(parties):
    key, evaluator = parties
    u = np.zeros((3, N + 1), np.uint64)
    chunks = list(key.encrypt(u))
    reply, _ = evaluator.multiply_sum(chunks, np.zeros((2, 3, N + 1), np.uint64))
    # the last row's three products lie side by side
    assert [len(c) for c in chunks] == [ciphertext_bytes(3), ciphertext_bytes(1)]
    assert [len(c) for c in reply] == [REPLY_BYTES] * 4
    assert ciphertext_bytes(1) == REPLY_BYTES == PUBLIC_BYTES + 32 == 26 * N + 32


@pytest.mark.parametrize(("n", "V", "folded"), [(4096, 3, 2), (4097, 3, 3), (379, 40, 2), (2048, 4, 1)])
def test_short_vectors_share_ciphertexts(parties, n, V, folded):
    key, _ = parties
    assert [len(c) for c in key.encrypt(np.zeros((V, n), np.uint64))] == [ciphertext_bytes(folded)]


def test_the_same_input_is_encrypted_and_masked_afresh(parties):
    key, evaluator = parties
    u = np.zeros((1, 1), np.uint64)
    first, second = (list(key.encrypt(u)) for _ in range(2))
    assert first[0][:32] != second[0][:32]
    replies = [evaluator.multiply_sum(first, u) for _ in range(2)]
    seeds, halves = zip(
        *((reply[0][:32], unpack(reply[0][32:], (L, N), PRODUCT.primes)) for reply, _ in replies), strict=True
    )
    # a repeated c1 would show v, a repeated seed of c0 the difference of two
    assert seeds[0] != seeds[1]
    assert (halves[0] != halves[1]).mean() > 0.999
    assert (replies[0][1] != replies[1][1]).all()


def test_reply_and_shares_are_uniform(parties):
    key, evaluator = parties
    u = np.zeros((1, N), np.uint64)
    reply, share = evaluator.multiply_sum(key.encrypt(u), u)
    half = unpack(reply[0][32:], (L, N), PRODUCT.primes) / np.array(PRODUCT.primes)[:, None]
    for sample in (share / T, key.decrypt(reply, N) / T, half):
        flat = np.sort(np.asarray(sample).ravel())
        steps = np.arange(1, flat.size + 1) / flat.size
        # passed by chance with probability below 1e-8
        assert np.abs(flat - steps).max() < 3.2 / math.sqrt(flat.size)


def test_another_key_decrypts_to_nothing(parties):
    key, evaluator = parties
    u = np.ones((1, 5), np.uint64)
    reply, share = evaluator.multiply_sum(key.encrypt(u), u)
    assert (joined(share, ProductKey(LABEL).decrypt(reply, 5)) != 1).all()


@pytest.mark.parametrize("damage", ["short", "long", "residue", "missing", "more"])
def test_damaged_ciphertexts_are_refused(parties, damage):
    key, evaluator = parties
    u = np.zeros((2, 5), np.uint64)
    (chunk,) = key.encrypt(u)
    bad = {
        "short": [chunk[:-1]],
        "long": [chunk + b"\0"],
        "residue": [chunk[:32] + b"\xff" * (len(chunk) - 32)],
        "missing": [],
        "more": [chunk, chunk],
    }[damage]
    with pytest.raises(MessageError):
        evaluator.multiply_sum(bad, u)


@pytest.mark.parametrize("damage", ["short", "long", "residue", "missing", "more"])
def test_damaged_replies_are_refused(parties, damage):
    key, evaluator = parties
    u = np.zeros((1, 5), np.uint64)
    (chunk,), _ = evaluator.multiply_sum(key.encrypt(u), u)
    bad = {
        "short": [chunk[:-1]],
        "long": [chunk + b"\0"],
        "residue": [b"\xff" * len(chunk)],
        "missing": [],
        "more": [chunk, chunk],
    }[damage]
    with pytest.raises(MessageError):
        key.decrypt(bad, 5)


@pytest.mark.parametrize("public", [b"", bytes(PUBLIC_BYTES - 1), b"\xff" * PUBLIC_BYTES])
def test_damaged_public_keys_are_refused(public):
    with pytest.raises(MessageError):
        ProductEvaluator(public, LABEL)


def test_wrong_values_are_refused(parties):
    key, evaluator = parties
    good = np.zeros((1, 5), np.uint64)
    for bad in (good.astype(np.int64), good + np.uint64(T), good[:, :0], good[0], good[None, None]):
        with pytest.raises(ParameterError):
            evaluator.multiply_sum(key.encrypt(good), bad)
        with pytest.raises(ParameterError):
            key.encrypt(bad)
    with pytest.raises(ParameterError):
        key.decrypt([], 0)


def test_openings_of_a_key_are_counted():
    key = ProductKey(LABEL, openings=2 * N)
    evaluator = ProductEvaluator(key.public(), LABEL)
    u = np.zeros((1, N + 1), np.uint64)
    reply, _ = evaluator.multiply_sum(key.encrypt(u), u)
    key.decrypt(reply, N + 1)
    with pytest.raises(ParameterError, match="new key"):
        key.decrypt(reply, N + 1)
    with pytest.raises(ParameterError):
        ProductKey(LABEL, openings=1 << 50)


def test_repr_hides_the_key(parties):
    assert [repr(p) for p in parties] == ["<ProductKey>", "<ProductEvaluator>"]


@pytest.fixture(scope="module")
def opened():
    key = ProductKey(LABEL, params=PRODUCT_OPEN, openings=1 << 18)
    return key, ProductEvaluator(key.public(), LABEL, params=PRODUCT_OPEN, openings=1 << 18)


@pytest.mark.parametrize("n", [1, 379, 4096, 4097, 8192])
@pytest.mark.parametrize("largest", [2, SCORE_T])
def test_opened_product_in_chunks(opened, n, largest):
    """Factors of either sign by bits, and by anything below t: one block, its vectors in several chunks."""
    key, evaluator = opened
    rng = np.random.default_rng(n)
    u = rng.integers(0, SCORE_T, (21, n), dtype=np.uint64)
    v = rng.integers(0, largest, (21, n), dtype=np.uint64)
    groups = [slice(0, 8), slice(8, 16), slice(16, 21)]
    sums = [evaluator.partial_sum(*key.encrypt(u[g]), v[g]) for g in groups]
    reply, share = evaluator.close_sum(sums, 21, n)
    other = key.decrypt([reply], n)
    assert len(reply) == 32 + element_bytes(PRODUCT_OPEN)
    assert max(share.max(), other.max()) < SCORE_T
    assert ((share + other) % SCORE_T == (u.astype(object) * v).sum(axis=0) % SCORE_T).all()


def test_opened_product_of_extreme_values(opened):
    key, evaluator = opened
    x = np.full((64, N), SCORE_T // 2, np.uint64)
    reply, share = evaluator.multiply_sum(key.encrypt(x), x)
    assert ((share + key.decrypt(reply, N)) % SCORE_T == 64 * (SCORE_T // 2) ** 2 % SCORE_T).all()


def test_opened_product_refuses_what_is_not_its_own(opened):
    key, evaluator = opened
    (chunk,) = key.encrypt(np.zeros((2, N), np.uint64))
    for data in (chunk[:-1], chunk + b"0", chunk[:32] + b"\xff" * (len(chunk) - 32)):
        with pytest.raises(MessageError):
            evaluator.partial_sum(data, np.zeros((2, N), np.uint64))
    with pytest.raises(ParameterError):
        evaluator.partial_sum(chunk, np.full((2, N), SCORE_T, np.uint64))
    with pytest.raises(ParameterError):
        evaluator.partial_sum(chunk, np.zeros((2, N + 1), np.uint64))
    with pytest.raises(ParameterError):
        ProductKey(LABEL, params=PRODUCT_OPEN, openings=1 << 40)
    with pytest.raises(MessageError):  # a key of the other set
        ProductEvaluator(ProductKey(LABEL).public(), LABEL, params=PRODUCT_OPEN, openings=1 << 18)
