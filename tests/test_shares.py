"""Shares against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from veilscore.crypto import shares
from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.params import T

EDGES = [0, 1, 2, T - 1, T - 2, T // 2, T // 2 - 1, T // 2 + 1, (1 << 30) - 1, 1 << 30, 1 << 32, (1 << 32) - 1]
word = st.one_of(st.sampled_from(EDGES), st.integers(0, T - 1))
words = st.lists(word, min_size=1, max_size=60)
signed = st.integers(-(T // 4) + 1, T // 4 - 1)


def array(values, dtype=np.uint64):
    return np.array(values, dtype=dtype)


@given(st.lists(st.one_of(signed, st.sampled_from([0, 1, -1, T // 2 - 1, -(T // 2)])), min_size=1))
def test_ring_and_back(values):
    ring = shares.to_ring(array(values, np.int64))
    assert ring.tolist() == [v % T for v in values]
    assert shares.from_ring(ring).tolist() == values


@given(words, st.data())
def test_add(left, data):
    right = data.draw(st.lists(word, min_size=len(left), max_size=len(left)))
    expected = [(a + b) % T for a, b in zip(left, right, strict=True)]
    assert shares.add(array(left), array(right)).tolist() == expected


@given(words)
def test_sum(values):
    assert int(shares.sum_shares(array(values))) == sum(values) % T


@given(st.integers(1, 5), st.integers(1, 40), st.data())
def test_sum_along_each_axis(rows, columns, data):
    matrix = data.draw(hnp.arrays(np.uint64, (rows, columns), elements=word))
    for axis in (0, 1):
        lines = matrix.T.tolist() if axis == 0 else matrix.tolist()
        assert shares.sum_shares(matrix, axis).tolist() == [sum(line) % T for line in lines]


def test_sum_of_many_large_shares():
    values = np.full(1_000_003, T - 1, np.uint64)
    assert int(shares.sum_shares(values)) == -1_000_003 % T
    assert int(shares.sum_shares(values[:0])) == 0


@given(words, st.data())
def test_scale(values, data):
    limit = T // 2 - 1
    factor = st.one_of(st.sampled_from([0, 1, -1, limit, -limit]), st.integers(-limit, limit))
    factors = data.draw(st.lists(factor, min_size=len(values), max_size=len(values)))
    expected = [v * f % T for v, f in zip(values, factors, strict=True)]
    assert shares.scale(array(values), array(factors, np.int64)).tolist() == expected


@pytest.mark.parametrize("factor", [T // 2, -(T // 2) - 1, 1 << 62])
def test_scale_refuses_what_would_wrap(factor):
    with pytest.raises(ParameterError, match="below"):
        shares.scale(array([1]), array([factor], np.int64))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.integers(0, 30))
def test_encode(values, bits):
    encoded = shares.encode(np.array(values), bits)
    assert shares.from_ring(encoded).tolist() == [round(v * 2**bits) for v in values]


@pytest.mark.parametrize("value", [T / 4, -T / 4, 1e300])
def test_encode_refuses_what_would_wrap(value):
    with pytest.raises(ParameterError, match="does not fit"):
        shares.encode(np.array([value]), 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_encode_refuses_what_is_no_number(value):
    with pytest.raises(ParameterError):
        shares.encode(np.array([1.0, value]))


@settings(max_examples=200)
@given(st.integers(-(1 << 56), 1 << 56), word, st.integers(1, 40))
def test_open_rounded_is_within_half_a_step(value, own, drop):
    other = (value - own) % T
    opened = shares.round_share(array([other]), drop)
    shown = shares.open_rounded(array([own]), opened, drop, 0)
    assert abs(int(shown[0]) - value) <= (1 << drop >> 1) + abs(value) * 2**-52


@given(words, st.integers(1, 40))
def test_rounded_share_tells_high_bits_only(values, drop):
    expected = [(v + (1 << drop >> 1)) >> drop for v in values]
    assert shares.round_share(array(values), drop).tolist() == expected


@given(words)
def test_bytes_and_back(values):
    data = shares.shares_to_bytes(array(values))
    assert data == b"".join(v.to_bytes(8, "little") for v in values)
    assert shares.shares_from_bytes(data, (len(values),)).tolist() == values


@given(st.binary(max_size=200), st.integers(0, 20))
def test_bytes_of_a_peer_are_parsed_or_refused(data, n):
    parsed = [int.from_bytes(data[k : k + 8], "little") for k in range(0, len(data), 8)]
    if len(data) == 8 * n and all(v < T for v in parsed):
        assert shares.shares_from_bytes(data, (n,)).tolist() == parsed
    else:
        with pytest.raises(MessageError):
            shares.shares_from_bytes(data, (n,))


@pytest.mark.parametrize("bad", [T, T + 1, (1 << 64) - 1])
def test_a_word_outside_the_ring_is_refused(bad):
    with pytest.raises(MessageError, match="outside the share ring"):
        shares.shares_from_bytes(b"".join(v.to_bytes(8, "little") for v in (0, bad)), (2,))
    with pytest.raises(MessageError, match="outside the share ring"):
        shares.shares_from_bytes((7).to_bytes(8, "little"), (1,), below=7)


@given(st.lists(st.booleans(), max_size=70))
def test_bits_and_back(bits):
    data = shares.bits_to_bytes(np.array(bits, bool))
    assert shares.bits_from_bytes(data, len(bits)).tolist() == bits


@given(st.binary(max_size=12), st.integers(0, 90))
def test_bits_of_a_peer_are_parsed_or_refused(data, n):
    whole = int.from_bytes(data, "little")
    if len(data) == -(-n // 8) and whole < 1 << n:
        assert shares.bits_from_bytes(data, n).tolist() == [bool(whole >> k & 1) for k in range(n)]
    else:
        with pytest.raises(MessageError):
            shares.bits_from_bytes(data, n)
