"""Masked sums of encrypted cells: equals the plain sum of points, and each party sees uniform numbers only."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.crypto import encrypted_cells, he
from veilscore.crypto.zero_share import PairwiseKey, pairwise_key, share_context, zero_share
from veilscore.errors import MessageError, ParameterError, SchemaError
from veilscore.protocols import adding

NAMES = ("court", "registry", "tax")


@pytest.fixture(scope="module")
def keys():
    """Name -> the holder's HE keys, as it and as the bank has them."""
    secret = {name: he.SecretContext() for name in NAMES}
    return {name: (secret[name], he.PublicContext(secret[name].public_bytes)) for name in NAMES}


def pairwise(names):
    """Name -> peer -> key, agreed as nodes do it."""
    private = {name: X25519PrivateKey.generate() for name in names}
    public = {name: private[name].public_key().public_bytes_raw() for name in names}
    return {
        a: {b: pairwise_key(private[a], public[b], "|".join(sorted((a, b))).encode()) for b in names if b != a}
        for a in names
    }


def case(rng, n_records, n_columns, max_codes):
    n_codes = rng.integers(1, max_codes + 1, n_columns)
    codes = np.stack([rng.integers(0, n_codes) for _ in range(n_records)])
    return codes, n_codes, rng.integers(-900, 900, n_codes.sum())


def plain_sum(codes, n_codes, points):
    offsets = np.concatenate([[0], np.cumsum(n_codes)[:-1]])
    return points[offsets + codes].sum(axis=1)


def total_points(partial_sum, masks, own):
    """Whole points of each record, all parties together, as the bank lifts them from the ring."""
    total = (partial_sum.astype(np.int64) - np.sum(np.stack(masks).astype(np.int64), axis=0) + own) % he.T
    return np.where(total > he.T // 2, total - he.T, total)


def encrypt(secret, codes, n_codes):
    return encrypted_cells.encrypt_cells(secret, encrypted_cells.one_hot(codes, n_codes))


def score(keys, cases, own, request="request-1"):
    """Run all parties; returns totals and the partials that the coordinator saw."""
    names = sorted(cases)
    shared = pairwise(names)
    context = share_context(request, names, b"model", b"firm")
    partials, masks = [], []
    for name in names:
        (secret, public), (codes, n_codes, points) = keys[name], cases[name]
        query = encrypt(secret, codes, n_codes)
        done = encrypted_cells.evaluate(public, query, encrypted_cells.encode_points(points, len(codes)))
        share = zero_share(name, shared[name], context, len(codes), he.T)
        partial = encrypted_cells.open_partial(secret, done.reply, len(codes), len(points), share)
        partials.append(adding.parse_partial(adding.pack_partial(partial), len(codes), name))
        masks.append(done.mask_total)
    return total_points(adding.add_partials(partials), masks, own), partials


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    names=st.sampled_from([NAMES, NAMES[1:], NAMES[:1]]),
    n_records=st.integers(1, 4),
    n_columns=st.integers(1, 12),
    max_codes=st.integers(1, 20),
)
def test_equals_the_plain_sum_to_the_point(keys, seed, names, n_records, n_columns, max_codes):
    rng = np.random.default_rng(seed)
    cases = {name: case(rng, n_records, n_columns, max_codes) for name in names}
    own = rng.integers(-1000, 1000, n_records)
    total, _ = score(keys, cases, own)
    assert total.tolist() == (own + sum(plain_sum(*c) for c in cases.values())).tolist()


@pytest.mark.parametrize(("n_records", "n_columns", "max_codes"), [(60, 30, 12), (2, 400, 40)])
def test_records_and_cells_beyond_one_ciphertext(keys, n_records, n_columns, max_codes):
    one = case(np.random.default_rng(1), n_records, n_columns, max_codes)
    query = encrypt(keys["tax"][0], *one[:2])
    assert len(query) == encrypted_cells.n_ciphertexts(n_records, len(one[2])) > 1
    total, _ = score(keys, {"tax": one}, np.zeros(n_records, np.int64))
    assert np.array_equal(total, plain_sum(*one))


def test_coordinator_and_holder_see_uniform_numbers(keys):
    rng = np.random.default_rng(3)
    one = case(rng, 1, 3, 4)
    codes = np.repeat(one[0], 2000, axis=0)  # the same record over and over: only masks differ
    total, partials = score(keys, {"tax": (codes, *one[1:]), "court": (codes, *one[1:])}, np.zeros(2000, int))
    assert len(np.unique(total)) == 1
    for partial in (*partials, adding.add_partials(partials)):
        fractions = partial / he.T
        assert len(np.unique(partial)) > 1990
        assert abs(fractions.mean() - 0.5) < 0.04  # sd 0.0065
        assert np.abs(np.histogram(fractions, 10, (0, 1))[0] - 200).max() < 80  # sd 13


def test_prepared_masks_are_used_once(keys):
    secret, public = keys["tax"]
    codes, n_codes, points = case(np.random.default_rng(5), 1, 4, 4)
    query, encoded = encrypt(secret, codes, n_codes), encrypted_cells.encode_points(points)
    first = encrypted_cells.evaluate(public, query, encoded, [public.blind()])
    second = encrypted_cells.evaluate(public, query, encoded)
    assert first.mask_total != second.mask_total
    with pytest.raises(ParameterError):
        encrypted_cells.evaluate(public, query, encoded, [public.blind(), public.blind()])
    assert "array" not in repr(first)


@pytest.mark.parametrize("modulus", [2, he.T, 2**60 - 93])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_zero_shares_add_to_zero(modulus, n):
    names = [f"holder{i}" for i in range(n)]
    shared = pairwise(names)
    shares = np.stack([zero_share(a, shared[a], b"context", 500, modulus) for a in names])
    assert shares.max() < modulus
    assert not (np.sum(shares.astype(object), axis=0) % modulus).any()
    if n > 1:
        assert abs((shares / (modulus - 1)).mean(axis=1) - 0.5).max() < 0.12  # sd 0.022


def test_zero_share_depends_on_request_parties_model_firm_and_pair():
    contexts = [
        share_context("r1", ("a", "b"), b"m", b"f"),
        share_context("r2", ("a", "b"), b"m", b"f"),
        share_context("r1", ("a", "b", "c"), b"m", b"f"),
        share_context("r1", ("a", "b"), b"n", b"f"),
        share_context("r1a", ("b",), b"m", b"f"),
        share_context("r1", ("a", "b"), b"m", b"g"),
    ]
    one, other = PairwiseKey(b"1" * 32), PairwiseKey(b"2" * 32)
    shares = [zero_share("a", {"b": one}, c, 4, he.T).tolist() for c in contexts]
    shares.append(zero_share("a", {"b": other}, contexts[0], 4, he.T).tolist())
    assert len({tuple(s) for s in shares}) == 7
    assert share_context("r", ("b", "a"), b"m", b"f") == share_context("r", ("a", "b"), b"m", b"f")
    assert "1111" not in repr(one)


def test_one_holder_has_no_zero_share():
    assert zero_share("tax", {}, b"context", 3, he.T).tolist() == [0, 0, 0]


@pytest.mark.parametrize("public", [bytes(32), b"short", (1).to_bytes(32, "little")])
def test_bad_keys_for_zero_shares_are_refused(public):
    with pytest.raises(MessageError):
        pairwise_key(X25519PrivateKey.generate(), public, b"label")


def test_zero_share_refuses_itself_and_bad_moduli():
    key = PairwiseKey(bytes(32))
    with pytest.raises(ParameterError):
        zero_share("a", {"a": key}, b"", 1, he.T)
    with pytest.raises(ParameterError):
        zero_share("a", {"b": key}, b"", 1, 2**63)


def test_codes_outside_the_map_are_refused(keys):
    secret = keys["tax"][0]
    n_codes = np.array([3, 2])
    for codes in ([[3, 0]], [[-1, 0]], [[0, 0, 0]], [[0]]):
        with pytest.raises(SchemaError):
            encrypt(secret, np.array(codes), n_codes)
    with pytest.raises(ParameterError):
        encrypt(secret, np.zeros((0, 2), int), n_codes)


def test_wrong_counts_of_ciphertexts_are_refused(keys):
    secret, public = keys["tax"]
    codes, n_codes, points = case(np.random.default_rng(5), 1, 4, 4)
    query, encoded = encrypt(secret, codes, n_codes), encrypted_cells.encode_points(points)
    with pytest.raises(MessageError):
        encrypted_cells.evaluate(public, query * 2, encoded)
    reply = encrypted_cells.evaluate(public, query, encoded).reply
    zero = np.zeros(1, np.uint64)
    with pytest.raises(MessageError):
        encrypted_cells.open_partial(secret, reply * 2, 1, len(points), zero)
    with pytest.raises(ParameterError):
        encrypted_cells.open_partial(secret, reply, 1, len(points), np.zeros(2, np.uint64))


def test_a_reply_under_other_keys_opens_to_noise_not_points(keys):
    codes, n_codes, points = case(np.random.default_rng(5), 1, 4, 4)
    query = encrypt(keys["court"][0], codes, n_codes)
    done = encrypted_cells.evaluate(keys["tax"][1], query, encrypted_cells.encode_points(points))
    opened = encrypted_cells.open_partial(keys["court"][0], done.reply, 1, len(points), np.zeros(1, np.uint64))
    assert total_points(opened, [done.mask_total], np.zeros(1, int)) != plain_sum(codes, n_codes, points)


def test_partials_from_a_peer_are_checked():
    good = adding.pack_partial(np.array([1, he.T - 1], np.uint64))
    assert adding.parse_partial(good, 2, "tax").tolist() == [1, he.T - 1]
    for bad in (good[:-1], good + b"\0", b""):
        with pytest.raises(MessageError):
            adding.parse_partial(bad, 2, "tax")
    with pytest.raises(MessageError, match="tax"):
        adding.parse_partial(adding.pack_partial(np.array([he.T], np.uint64)), 1, "tax")


def test_totals_that_could_wrap_are_refused():
    n_codes = np.array([2, 1])
    points = np.array([-(he.T // 4), 3, he.T // 4 - 10])
    encrypted_cells.check_points_fit([(points, n_codes)], 5)
    with pytest.raises(ParameterError, match="scale points down"):
        encrypted_cells.check_points_fit([(points, n_codes)], -10)
    with pytest.raises(ParameterError):
        encrypted_cells.encode_points(np.array([he.T]))
