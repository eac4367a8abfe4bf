"""Secure lookup sum against plain integers; refusals."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson

from veilscore.errors import MessageError, ParameterError, ProtocolError, SecretReuseError
from veilscore.lattice.lookup import LookupCodes, LookupTable
from veilscore.lattice.params import HISTOGRAM, LOOKUP_INNER, MAX_CELLS, NOISE_ETA, T, check_lookup
from veilscore.lattice.ring import ring_of
from veilscore.lattice.rounding import scale_of
from veilscore.lattice.sampling import KEY_BYTES, PublicStream
from veilscore.models.residual import MOST_MOMENTS, MOVED_ROWS
from veilscore.wire.randomness import SEED_BYTES, seeded

LABEL = b"test lookup"
T24 = 1 << 24
ELEMENT = 7 * 2048  # bytes of a ring element in training
both = pytest.mark.parametrize("opened", [False, True])


def make(rng, n, n_codes):
    return np.stack([rng.integers(0, k, n) for k in n_codes], axis=1), np.array(n_codes)


def plain(codes, n_codes, theta):
    cells = codes + np.concatenate(([0], np.cumsum(n_codes)[:-1]))
    return theta.astype(np.int64)[..., cells].sum(axis=-1) % T24


def error(shares, expected):
    distance = (sum(s.astype(np.int64) for s in shares) - expected) % T24
    return int(np.minimum(distance, T24 - distance).max())


def pair(codes, n_codes, *, opened=False):
    owner = LookupCodes(codes, n_codes, LABEL, opened=opened)
    return owner, LookupTable(codes.shape[0], n_codes, LABEL, opened=opened, hints=owner.hint_chunks())


@pytest.mark.parametrize("n_codes", [[5], [3, 1, 4], [1, 1]])
@pytest.mark.parametrize("n", [7, 4097])
def test_cells_first_is_one_pass_with_the_same_sums(n, n_codes):
    rng = np.random.default_rng(8)
    codes, counts = make(rng, n, n_codes)
    theta = rng.integers(-(1 << 18), 1 << 18, sum(n_codes))
    owner = LookupCodes(codes, counts, LABEL, opened=True, workers=2)
    table = LookupTable(n, counts, LABEL, opened=True)
    cells, alpha = table.begin(theta)
    assert (len(cells), len(alpha)) == owner.begin_bytes
    with pytest.raises(ProtocolError, match="blocks are missing"):
        table.finish()
    table.add_hints(owner.begin(cells, alpha))
    beta, share = table.finish()
    assert len(beta) == owner.finish_bytes
    assert error((share, owner.finish(beta)), plain(codes, counts, theta)) == 0
    with pytest.raises(ProtocolError, match="before its cells"):
        owner.finish(beta)
    with pytest.raises(SecretReuseError):
        owner.begin(cells, alpha)
    with pytest.raises(ProtocolError, match="no table"):
        table.finish()


def test_last_codes_of_many_columns_do_not_wrap():
    """Of values of 60 bits the last codes of twenty columns add up to more than 64 bits."""
    codes, counts = make(np.random.default_rng(10), 20, [3] * 20)
    theta = np.full(60, T - 5, np.int64)
    owner = LookupCodes(codes, counts, LABEL, params=HISTOGRAM)
    query, share = LookupTable(20, counts, LABEL, params=HISTOGRAM, hints=owner.hint_chunks()).query(theta)
    total = [(int(a) + int(b) + 100) % T for a, b in zip(share, owner.evaluate(query), strict=True)]
    assert all(min(one, T - one) <= 1 for one in total)


@pytest.mark.parametrize("field", [0, 1, 2])
def test_damaged_parts_of_a_query_in_two_are_refused(field):
    codes, counts = make(np.random.default_rng(9), 10, [2, 3])
    table, owner = LookupTable(10, counts, LABEL, opened=True), LookupCodes(codes, counts, LABEL, opened=True)
    parts = [*table.begin(np.arange(5))]
    if field < 2:
        parts[field] = parts[field][:-1]
        with pytest.raises(MessageError):
            owner.begin(*parts)
        return
    owner.begin(*parts)
    with pytest.raises(MessageError):
        owner.finish(bytes(owner.finish_bytes - 1))


@pytest.fixture(scope="module")
def small():
    codes, n_codes = make(np.random.default_rng(1), 10, [2, 3])
    return codes, n_codes, *pair(codes, n_codes)


@both
@settings(max_examples=10, deadline=None)
@given(
    n=st.sampled_from([1, 2, 2047, 2049, 4096, 4097, 9000]),
    n_codes=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    seed=st.integers(0, 1 << 32),
)
def test_sums_match_plain_integers(opened, n, n_codes, seed):
    rng = np.random.default_rng(seed)
    codes, counts = make(rng, n, n_codes)
    theta = rng.integers(-(1 << 23), 1 << 24, sum(n_codes))
    owner, table = pair(codes, counts, opened=opened)
    query, share = table.query(theta)
    other = owner.evaluate(query)
    assert share.shape == other.shape == (n,)
    assert max(share.max(), other.max()) < T24
    # opened: exact but for 2^-50
    assert error((share, other), plain(codes, n_codes, theta)) <= (0 if opened else 1)


@both
def test_many_tables_at_once_over_many_blocks_and_threads(opened):
    rng = np.random.default_rng(2)
    n = 17 * 4096 + 3
    codes, n_codes = make(rng, n, [10, 7])
    theta = rng.integers(-(1 << 23), 1 << 23, (3, 17))
    owner = LookupCodes(codes, n_codes, LABEL, opened=opened, workers=2)
    table = LookupTable(n, n_codes, LABEL, opened=opened)
    assert not table.complete
    table.add_hints(owner.hints())
    query, share = table.query_many(theta)
    other = owner.evaluate_many(query)
    assert error((share, other), plain(codes, n_codes, theta)) <= (0 if opened else 1)
    with pytest.raises(MessageError, match="3 tables"):
        owner.evaluate(query)


@pytest.mark.parametrize("value", [0, -1, 1 << 23, (1 << 24) - 1, -(1 << 23)])
def test_extreme_values(small, value):
    codes, n_codes, owner, table = small
    theta = np.full(5, value)
    query, share = table.query(theta)
    assert error((share, owner.evaluate(query)), plain(codes, n_codes, theta)) <= 1


def test_the_same_table_is_encrypted_afresh(small):
    _, _, owner, table = small
    first, share = table.query(np.zeros(5, np.int64))
    second, again = table.query(np.zeros(5, np.int64))
    assert first.cells != second.cells
    assert (share != again).any()
    assert (owner.evaluate(first) == owner.evaluate(first)).all()


def test_shares_and_masks_are_uniform():
    codes, n_codes = make(np.random.default_rng(3), 8192, [3])
    owner, table = pair(codes, n_codes)
    query, share = table.query(np.zeros(3, np.int64))
    assert len(query.beta) == 32, "masked hints are drawn from a seed"
    for sample in (share / T24, owner.evaluate(query) / T24):
        flat = np.sort(np.asarray(sample).ravel())
        steps = np.arange(1, flat.size + 1) / flat.size
        # passed by chance with probability below 1e-8
        assert np.abs(flat - steps).max() < 3.2 / math.sqrt(flat.size)


def test_order_of_steps_and_reuse(small):
    codes, n_codes, owner, table = small
    query, _ = table.query(np.zeros(5, np.int64))
    with pytest.raises(SecretReuseError):
        owner.hint_chunks()
    with pytest.raises(ProtocolError, match="before the hints"):
        LookupCodes(codes, n_codes, LABEL).evaluate(query)
    with pytest.raises(ProtocolError, match="1 blocks are missing"):
        LookupTable(10, n_codes, LABEL).query(np.zeros(5, np.int64))


@pytest.mark.parametrize("field", ["cells", "beta", "alpha"])
@pytest.mark.parametrize("damage", ["short", "long", "empty", "residue"])
def test_damaged_queries_are_refused(small, field, damage):
    if (field, damage) == ("beta", "residue"):
        return  # every seed is one
    _, _, owner, table = small
    query, _ = table.query(np.zeros(5, np.int64))
    data = getattr(query, field)
    bad = {"short": data[:-1], "long": data + b"\0", "empty": b"", "residue": b"\xff" * len(data)}[damage]
    with pytest.raises(MessageError):
        owner.evaluate(dataclasses.replace(query, **{field: bad}))


def test_a_query_of_the_other_modulus_is_refused(small):
    codes, n_codes, owner, _ = small
    _, table = pair(codes, n_codes, opened=True)
    query, _ = table.query(np.zeros(5, np.int64))
    with pytest.raises(MessageError):
        owner.evaluate(query)


@pytest.mark.parametrize("chunk", [b"", bytes(ELEMENT - 1), bytes(2 * ELEMENT), b"\xff" * ELEMENT])
def test_damaged_hints_are_refused(small, chunk):
    with pytest.raises(MessageError):
        LookupTable(10, small[1], LABEL).add_hints(chunk)


@pytest.mark.parametrize(
    "theta",
    [
        np.zeros(4, np.int64),
        np.zeros(5),
        np.full(5, 1 << 24),
        np.full(5, -(1 << 23) - 1),
    ],
    ids=["cells", "type", "high", "low"],
)
def test_wrong_tables_are_refused(small, theta):
    with pytest.raises(ParameterError):
        small[3].query(theta)


def test_wrong_sizes_are_refused(small):
    with pytest.raises(ParameterError):
        small[3].query_many(np.zeros((0, 5), np.int64))
    with pytest.raises(ParameterError):
        LookupTable(10, np.array([MAX_CELLS + 1]), LABEL)
    with pytest.raises(ParameterError):
        LookupTable(0, np.array([2]), LABEL)


def test_repr_shows_sizes_alone(small):
    _, _, owner, table = small
    query, _ = table.query(np.zeros(5, np.int64))
    assert repr(owner) == "LookupCodes(n_samples=10, n_cells=5)"
    assert repr(table) == "LookupTable(n_samples=10, n_cells=5)"
    assert repr(query) == f"LookupQuery({4 * ELEMENT + 32} bytes)"


def looked_up(codes, n_codes, theta, rho, seed):
    """Units by which each row's looked-up value is off, all secrets and the mask given: (n,)."""
    theirs = {}

    class Masked(LookupTable):
        def _close(self, s, constant):
            ring = ring_of(LOOKUP_INNER)
            beta = ring.multiply(self._hints, s)
            ring.add_to(beta, rho)
            theirs["beta"] = beta
            return bytes(KEY_BYTES), (scale_of(LOOKUP_INNER).round(ring.intt(rho.copy())).reshape(-1) + constant) % t

    t = np.uint64(LOOKUP_INNER.t)

    def run():
        owner = LookupCodes(codes, n_codes, LABEL, params=LOOKUP_INNER)
        table = Masked(codes.shape[0], n_codes, LABEL, params=LOOKUP_INNER, hints=owner.hint_chunks())
        query, own = table.query(theta)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(owner._shape), "beta", lambda *_: theirs["beta"])
            return (own + owner.evaluate(query)) % t

    off = seeded(seed, run).astype(np.int64) - theta[codes[:, 0]] % LOOKUP_INNER.t
    return np.where(off > LOOKUP_INNER.t // 2, off - LOOKUP_INNER.t, off)


def test_a_record_moves_few_values_of_other_rows():
    """Where masks and secrets are the same, a row's code decides which values are off by a unit for few rows alone."""
    steps = np.arange(4 * NOISE_ETA + 1)
    by = np.abs(steps - 2 * NOISE_ETA) @ [math.comb(4 * NOISE_ETA, int(k)) / 2.0 ** (4 * NOISE_ETA) for k in steps]
    assert by == pytest.approx(3.65, abs=0.01)
    a_column = 4096 * by / LOOKUP_INNER.delta
    assert math.log2(poisson.sf(MOVED_ROWS, 1.05 * MOST_MOMENTS * a_column)) < -43
    rng, n_codes, runs, moved, off = np.random.default_rng(3), np.array([5]), 150, 0, 0
    codes = rng.integers(0, 5, (4096, 1))
    theta = rng.integers(-500, 500, 5)
    neighbour = codes.copy()
    codes[7], neighbour[7] = 0, 1
    for k in range(runs):
        seed = k.to_bytes(SEED_BYTES, "little")
        rho = PublicStream(LABEL, b"rho" + seed).uniform((1, 3, 4096), LOOKUP_INNER.primes)
        one, other = (looked_up(c, n_codes, theta, rho, seed) for c in (codes, neighbour))
        assert max(np.abs(one).max(), np.abs(other).max()) <= 1
        moved, off = moved + np.count_nonzero(one != other), off + np.count_nonzero(one)
    # fails by chance once in a million
    assert moved <= poisson.isf(1e-6, runs * a_column)
    assert 0 < off <= poisson.isf(1e-6, runs * 4096 * 2 ** check_lookup(LOOKUP_INNER, 4096, 1, 5).log2_failure)
