"""Secure histogram against plain integers; refusals; what each side sees."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.errors import MessageError, ParameterError, ProtocolError, SecretReuseError
from veilscore.lattice.histogram import CELL_BYTES, HistogramCodes, HistogramQuery, HistogramVectors, L, N
from veilscore.lattice.params import HISTOGRAM, MAX_VECTORS, T
from veilscore.lattice.ring import ring_of, unpack

LABEL = b"test histogram"


def make(rng, n, n_codes):
    codes = np.stack([rng.integers(0, k, n) for k in n_codes], axis=1)
    return codes, np.array(n_codes)


def plain(codes, n_codes, x):
    """Exact sums modulo t, in Python integers."""
    out = []
    for row in x.astype(object):
        sums = [sum(row[codes[:, c] == k]) % T for c, count in enumerate(n_codes) for k in range(count)]
        out.append(sums)
    return np.array(out, object)


def error(shares, expected):
    """Largest distance, in units of the last place."""
    total = (sum(s.astype(object) for s in shares) - expected) % T
    return int(np.max(np.minimum(total, T - total)))


def pair(codes, n_codes, label=LABEL):
    owner = HistogramCodes(codes, n_codes, label)
    return owner, HistogramVectors(codes.shape[0], n_codes, label, owner.hint_chunks())


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(1)
    codes, n_codes = make(rng, 10, [2, 3])
    return codes, n_codes, *pair(codes, n_codes)


@settings(max_examples=12, deadline=None)
@given(
    n=st.sampled_from([1, 2, 4095, 4096, 4097, 9000]),
    n_codes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    V=st.integers(1, 3),
    seed=st.integers(0, 1 << 32),
)
def test_sums_match_plain_integers(n, n_codes, V, seed):
    rng = np.random.default_rng(seed)
    codes, counts = make(rng, n, n_codes)
    x = rng.integers(0, T, (V, n), dtype=np.uint64)
    owner, vectors = pair(codes, counts)
    query, share = vectors.query(x)
    other = owner.evaluate(query)
    assert share.shape == other.shape == (V, sum(n_codes))
    assert max(share.max(), other.max()) < T
    assert error((share, other), plain(codes, n_codes, x)) <= 1


@pytest.mark.parametrize("value", [0, 1, T - 1, T // 2])
def test_extreme_values(small, value):
    codes, n_codes, owner, vectors = small
    x = np.full((1, 10), value, np.uint64)
    query, share = vectors.query(x)
    assert error((share, owner.evaluate(query)), plain(codes, n_codes, x)) <= 1


def test_many_codes_need_sixteen_bits():
    rng = np.random.default_rng(2)
    codes, n_codes = make(rng, 600, [300, 2])
    codes[:300, 0] = np.arange(300)
    x = rng.integers(0, T, (1, 600), dtype=np.uint64)
    owner, vectors = pair(codes.astype(np.uint16), n_codes)
    query, share = vectors.query(x)
    assert error((share, owner.evaluate(query)), plain(codes, n_codes, x)) <= 1


def test_largest_code_of_eight_bits_on_a_part_block():
    """Padding must not be taken for code 255 or 0."""
    codes = np.full((5, 1), 255, np.uint8)
    x = np.arange(5, dtype=np.uint64)[None]
    owner, vectors = pair(codes, np.array([256]))
    query, share = vectors.query(x)
    assert error((share, owner.evaluate(query)), plain(codes, [256], x)) <= 1


def test_threads_and_chunks_give_the_same_result():
    rng = np.random.default_rng(3)
    codes, n_codes = make(rng, 5000, [40, 30])
    owner = HistogramCodes(codes, n_codes, LABEL, workers=2)
    vectors = HistogramVectors(5000, n_codes, LABEL)
    data = owner.hints()
    for start in range(0, len(data), 7 * CELL_BYTES):
        assert not vectors.complete
        vectors.add_hints(data[start : start + 7 * CELL_BYTES])
    assert vectors.complete
    x = rng.integers(0, T, (1, 5000), dtype=np.uint64)
    query, share = vectors.query(x)
    assert error((share, owner.evaluate(query)), plain(codes, [40, 30], x)) <= 1


@pytest.mark.parametrize("columns", [[2], [3, 0], [0, 1, 2, 3]])
def test_sums_over_the_cells_of_some_columns(columns):
    rng = np.random.default_rng(4)
    codes, n_codes = make(rng, 5000, [4, 3, 5, 2])
    owner, vectors = pair(codes, n_codes)
    x = rng.integers(0, T, (2, 5000), dtype=np.uint64)
    some, part = vectors.columns(np.array(columns)), owner.columns(np.array(columns))
    query, share = some.query(x)
    assert len(query.pack()) == 2 * part.query_bytes
    assert part.query_bytes <= owner.query_bytes
    expected = plain(codes[:, columns], n_codes[columns], x)
    assert error((share, part.evaluate(part.unpack(query.pack()))), expected) <= 1
    query, share = vectors.query(x)  # all columns still are what they were
    assert error((share, owner.evaluate(query)), plain(codes, n_codes, x)) <= 1


def test_some_columns_need_all_hints(small):
    codes, n_codes, *_ = small
    with pytest.raises(ProtocolError, match="before all hints"):
        HistogramVectors(10, n_codes, LABEL).columns(np.array([0]))
    with pytest.raises(ProtocolError, match="before the hints"):
        HistogramCodes(codes, n_codes, LABEL).columns(np.array([0]))


def test_another_label_gives_noise(small):
    codes, n_codes, owner, _ = small
    other = HistogramVectors(10, n_codes, b"another label", [b"\0" * (5 * CELL_BYTES)])
    query, share = other.query(np.zeros((1, 10), np.uint64))
    assert error((share, owner.evaluate(query)), plain(codes, n_codes, np.zeros((1, 10), np.uint64))) > 1 << 40


def test_shares_and_messages_are_uniform(small):
    """The same vector, asked 200 times: fresh secrets, uniform masks and shares."""
    _, _, owner, vectors = small
    x = np.zeros((200, 10), np.uint64)
    query, share = vectors.query(x)
    other = owner.evaluate(query)
    primes = HISTOGRAM.primes
    b = unpack(query.b, (200, L, 10), primes).astype(np.float64) / np.array(primes)[:, None]
    assert len(query.beta) == 200 * 32, "masked products are drawn from seeds"
    for sample in (share / T, other / T, b):
        flat = np.asarray(sample).ravel()
        assert np.unique(flat).size > 0.999 * flat.size
        # Kolmogorov-Smirnov distance; 3.2 / sqrt(n) is passed with probability below 1e-8
        steps = np.arange(1, flat.size + 1) / flat.size
        assert np.abs(np.sort(flat) - steps).max() < 3.2 / math.sqrt(flat.size)


def test_noise_before_rounding_has_the_stated_size():
    """B2 of an empty cell is a' sigma + e: with sigma taken off, e is centred binomial."""
    codes = np.zeros((1, 1), np.int64)
    owner = HistogramCodes(codes, np.array([2]), LABEL)
    hints = unpack(owner.hints(), (2, L, N), HISTOGRAM.primes)
    _, a_prime = owner._shape.public()
    ring = ring_of(HISTOGRAM)
    masked = ring.intt(ring.multiply(ring.ntt(ring.lift(owner._sigma[1])), a_prime))
    e = hints[1].copy()
    ring.add_to(e, ring.negate(masked))
    signed = np.where(e > ring.primes_u32[:, None] // 2, e.astype(np.int64) - ring.primes_u32[:, None], e)
    assert (signed == signed[0]).all()
    assert np.abs(signed).max() <= 21
    assert abs(signed[0].mean()) < 6 * 3.24 / math.sqrt(N)
    assert abs(signed[0].var() - 10.5) < 6 * 10.5 * math.sqrt(2 / N)


def test_hints_are_made_once(small):
    _, _, owner, _ = small
    with pytest.raises(SecretReuseError):
        owner.hint_chunks()


def test_new_hints_of_the_same_codes_have_new_secrets(small):
    codes, n_codes, *_ = small
    assert HistogramCodes(codes, n_codes, LABEL).hints() != HistogramCodes(codes, n_codes, LABEL).hints()


def test_order_of_steps(small):
    codes, n_codes, _, vectors = small
    query, _ = vectors.query(np.zeros((1, 10), np.uint64))
    fresh = HistogramCodes(codes, n_codes, LABEL)
    with pytest.raises(ProtocolError, match="before the hints"):
        fresh.evaluate(query)
    next(iter(HistogramCodes(codes, n_codes, LABEL).hint_chunks()))
    with pytest.raises(ProtocolError, match="5 cells are missing"):
        HistogramVectors(10, n_codes, LABEL).query(np.zeros((1, 10), np.uint64))


@pytest.mark.parametrize("field", ["b", "beta", "alpha"])
@pytest.mark.parametrize("damage", ["short", "long", "empty", "residue"])
def test_damaged_queries_are_refused(small, field, damage):
    if (field, damage) == ("beta", "residue"):
        return  # every seed is one
    _, _, owner, vectors = small
    query, _ = vectors.query(np.zeros((2, 10), np.uint64))
    data = getattr(query, field)
    bad = {"short": data[:-1], "long": data + b"\0", "empty": b"", "residue": b"\xff" * len(data)}[damage]
    with pytest.raises(MessageError):
        owner.evaluate(dataclasses.replace(query, **{field: bad}))


def test_too_many_vectors_are_refused(small):
    _, _, owner, _ = small
    with pytest.raises(ParameterError, match="number of vectors"):
        owner.evaluate(HistogramQuery(b"", b"", bytes(CELL_BYTES) * (MAX_VECTORS + 1)))


@pytest.mark.parametrize("chunk", [b"", bytes(CELL_BYTES - 1), bytes(6 * CELL_BYTES), b"\xff" * CELL_BYTES])
def test_damaged_hints_are_refused(small, chunk):
    _, n_codes, *_ = small
    with pytest.raises(MessageError):
        HistogramVectors(10, n_codes, LABEL).add_hints(chunk)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((1, 9), np.uint64),
        np.zeros(10, np.uint64),
        np.zeros((1, 10), np.int64),
        np.zeros((0, 10), np.uint64),
        np.full((1, 10), T, np.uint64),
    ],
    ids=["rows", "axes", "type", "none", "range"],
)
def test_wrong_vectors_are_refused(small, x):
    with pytest.raises(ParameterError):
        small[3].query(x)


@pytest.mark.parametrize(
    ("codes", "n_codes"),
    [
        ([[0], [2]], [2]),
        ([[-1]], [2]),
        ([[0, 0]], [2]),
        ([0], [2]),
        ([[0.0]], [2]),
        ([[0]], [0]),
        ([[0]], []),
        ([[0]], [1.0]),
        ([[0]], [1 << 17]),
        (np.empty((0, 1), np.uint8), [1]),
        ([[0]], [1 << 15]),
    ],
)
def test_wrong_codes_are_refused(codes, n_codes):
    with pytest.raises(ParameterError):
        HistogramCodes(np.array(codes), np.array(n_codes), LABEL)


def test_repr_shows_sizes_alone(small):
    _, _, owner, vectors = small
    query, _ = vectors.query(np.zeros((1, 10), np.uint64))
    assert repr(owner) == "HistogramCodes(n_samples=10, n_cells=5)"
    assert repr(vectors) == "HistogramVectors(n_samples=10, n_cells=5)"
    assert repr(query) == f"VectorQuery({len(query.b) + len(query.beta) + len(query.alpha)} bytes)"
