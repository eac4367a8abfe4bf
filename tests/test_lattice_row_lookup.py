"""Lookup sum by rows against plain integers and against the lookup by cells; choice of the form; refusals."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.errors import MessageError, ParameterError, ProtocolError, SecretReuseError
from veilscore.lattice.hints import VectorQuery
from veilscore.lattice.lookup import LookupCodes, LookupTable
from veilscore.lattice.params import MAX_CELLS, MAX_VECTORS
from veilscore.lattice.row_lookup import (
    RowLookupCodes,
    RowLookupTable,
    training_lookup,
    training_lookup_codes,
    training_lookup_table,
)

LABEL = b"test lookup by rows"
T24 = 1 << 24
HINT = 7 * 2048  # bytes of a row's hint


def make(rng, n, n_codes):
    return np.stack([rng.integers(0, k, n) for k in n_codes], axis=1), np.array(n_codes)


def plain(codes, n_codes, theta):
    cells = codes + np.concatenate(([0], np.cumsum(n_codes)[:-1]))
    return theta.astype(np.int64)[cells].sum(axis=-1) % T24


def error(shares, expected):
    distance = (sum(s.astype(np.int64) for s in shares) - expected) % T24
    return int(np.minimum(distance, T24 - distance).max())


def pair(codes, n_codes):
    owner = RowLookupCodes(codes, n_codes, LABEL)
    return owner, RowLookupTable(codes.shape[0], n_codes, LABEL, hints=owner.hint_chunks())


@pytest.fixture(scope="module")
def small():
    codes, n_codes = make(np.random.default_rng(1), 10, [2, 3])
    return codes, n_codes, *pair(codes, n_codes)


@settings(max_examples=12, deadline=None)
@given(
    n=st.sampled_from([1, 2, 145, 147, 300]),
    n_codes=st.lists(st.sampled_from([1, 2, 19, 256, 300, 2047, 2048, 2049]), min_size=1, max_size=5),
    seed=st.integers(0, 1 << 32),
)
def test_sums_match_plain_integers(n, n_codes, seed):
    rng = np.random.default_rng(seed)
    codes, counts = make(rng, n, n_codes)
    theta = rng.integers(-(1 << 23), 1 << 24, sum(n_codes))
    owner, table = pair(codes, counts)
    query, share = table.query(theta)
    data = query.pack()
    other = owner.evaluate_bytes(data)
    assert len(data) == owner.query_bytes
    assert share.shape == other.shape == (n,)
    assert max(share.max(), other.max()) < T24
    assert error((share, other), plain(codes, n_codes, theta)) <= 1


@pytest.mark.parametrize("value", [0, -1, 1 << 23, (1 << 24) - 1, -(1 << 23)])
def test_extreme_values(small, value):
    codes, n_codes, owner, table = small
    theta = np.full(5, value)
    query, share = table.query(theta)
    assert error((share, owner.evaluate(query)), plain(codes, n_codes, theta)) <= 1


def test_errors_are_rare_and_of_one_unit():
    """At 2^-21 a row, 40 steps of 500 rows are right but for a row or two."""
    rng = np.random.default_rng(2)
    codes, n_codes = make(rng, 500, [7] * 20)
    owner, table = pair(codes, n_codes)
    wrong = 0
    for _ in range(40):
        theta = rng.integers(0, T24, 140)
        query, share = table.query(theta)
        distance = (share.astype(np.int64) + owner.evaluate(query).astype(np.int64)) - plain(codes, n_codes, theta)
        distance = (distance + T24 // 2) % T24 - T24 // 2
        assert np.abs(distance).max() <= 1
        wrong += np.count_nonzero(distance)
    assert wrong <= 2


def test_threads_and_chunks_give_the_same_result():
    rng = np.random.default_rng(3)
    codes, n_codes = make(rng, 200, [40, 30])
    owner = RowLookupCodes(codes, n_codes, LABEL, workers=2)
    table = RowLookupTable(200, n_codes, LABEL)
    data = owner.hints()
    for start in range(0, len(data), 7 * HINT):
        assert not table.complete
        table.add_hints(data[start : start + 7 * HINT])
    assert table.complete
    theta = rng.integers(0, T24, 70)
    query, share = table.query(theta)
    assert error((share, owner.evaluate(query)), plain(codes, [40, 30], theta)) <= 1


def test_shares_and_masks_are_uniform():
    codes, n_codes = make(np.random.default_rng(4), 4000, [3])
    owner, table = pair(codes, n_codes)
    query, share = table.query(np.zeros(3, np.int64))
    assert len(query.beta) == 32, "masked products are drawn from a seed"
    for sample in (share / T24, owner.evaluate(query) / T24):
        flat = np.sort(np.asarray(sample).ravel())
        steps = np.arange(1, flat.size + 1) / flat.size
        # passed by chance with probability below 1e-8
        assert np.abs(flat - steps).max() < 3.2 / math.sqrt(flat.size)


def test_the_same_table_is_encrypted_afresh(small):
    _, _, owner, table = small
    first, share = table.query(np.zeros(5, np.int64))
    second, again = table.query(np.zeros(5, np.int64))
    assert first.b != second.b
    assert (share != again).any()
    assert (owner.evaluate(first) == owner.evaluate(first)).all()


def test_order_of_steps_and_reuse(small):
    codes, n_codes, owner, table = small
    query, _ = table.query(np.zeros(5, np.int64))
    with pytest.raises(SecretReuseError):
        owner.hint_chunks()
    with pytest.raises(ProtocolError, match="before the hints"):
        RowLookupCodes(codes, n_codes, LABEL).evaluate(query)
    with pytest.raises(ProtocolError, match="10 rows are missing"):
        RowLookupTable(10, n_codes, LABEL).query(np.zeros(5, np.int64))


@pytest.mark.parametrize("field", ["b", "beta", "alpha"])
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


def test_messages_of_another_size_or_several_tables_are_refused(small):
    _, _, owner, table = small
    data = table.query(np.zeros(5, np.int64))[0].pack()
    for bad in (b"", data[:-1], data + b"\0"):
        with pytest.raises(MessageError):
            owner.evaluate_bytes(bad)
    with pytest.raises(MessageError, match="2 tables"):
        owner.evaluate(table.query_many(np.zeros((2, 5), np.uint64))[0])
    with pytest.raises(ParameterError, match="number of vectors"):
        owner.evaluate(VectorQuery(b"", b"", bytes(HINT) * (MAX_VECTORS + 1)))


@pytest.mark.parametrize("chunk", [b"", bytes(HINT - 1), bytes(11 * HINT), b"\xff" * HINT])
def test_damaged_hints_are_refused(small, chunk):
    with pytest.raises(MessageError):
        RowLookupTable(10, small[1], LABEL).add_hints(chunk)


@pytest.mark.parametrize(
    "theta",
    [np.zeros(4, np.int64), np.zeros(5), np.full(5, 1 << 24), np.full(5, -(1 << 23) - 1)],
    ids=["cells", "type", "high", "low"],
)
def test_wrong_tables_are_refused(small, theta):
    with pytest.raises(ParameterError):
        small[3].query(theta)


def test_too_many_rows_are_refused():
    with pytest.raises(ParameterError, match="number of samples"):
        RowLookupTable(MAX_CELLS + 1, np.array([2]), LABEL)


def test_sums_cannot_be_opened(small):
    codes, n_codes, *_ = small
    with pytest.raises(TypeError):
        RowLookupCodes(codes, n_codes, LABEL, opened=True)


@pytest.mark.parametrize(
    ("n_samples", "n_codes", "form"),
    [
        (285, [20] * 32, "rows"),
        (5_270, [20] * 60, "rows"),
        (MAX_CELLS, [2], "cells"),
        (MAX_CELLS, [20] * 100, "rows"),
        (MAX_CELLS + 1, [20] * 100, "cells"),
        (1_000_000, [10] * 20, "cells"),
    ],
)
def test_the_cheaper_form_is_chosen(n_samples, n_codes, form):
    assert training_lookup(n_samples, np.array(n_codes)) == form


@pytest.mark.parametrize("steps", [1, 30])
def test_choice_counts_the_bytes_that_are_sent(steps):
    """The form chosen, tried on either side of the turning point, is the one that sends less."""
    rng = np.random.default_rng(5)
    for n in (4, 100):
        codes, n_codes = make(rng, n, [3, 2])
        sent = {}
        for name, Codes, Table in (("rows", RowLookupCodes, RowLookupTable), ("cells", LookupCodes, LookupTable)):
            owner = Codes(codes, n_codes, LABEL)
            hints = owner.hints()
            query, _ = Table(n, n_codes, LABEL, hints=[hints]).query(np.zeros(5, np.int64))
            sent[name] = len(hints) + steps * len(query.pack())
        assert training_lookup(n, n_codes, steps) == min(sent, key=sent.get)


@pytest.mark.parametrize("n", [4, 4000])
def test_both_forms_serve_training_alike(n):
    rng = np.random.default_rng(6)
    codes, n_codes = make(rng, n, [3, 2])
    owner = training_lookup_codes(codes, n_codes, LABEL)
    table = training_lookup_table(n, n_codes, LABEL)
    assert isinstance(owner, RowLookupCodes if n == 4 else LookupCodes)
    table.add_hints(b"".join(owner.hint_chunks()))
    theta = rng.integers(0, T24, 5)
    query, share = table.query(theta)
    data = query.pack()
    assert len(data) == owner.query_bytes
    assert error((share, owner.evaluate_bytes(data)), plain(codes, n_codes, theta)) <= 1
    with pytest.raises(MessageError):
        owner.evaluate_bytes(data[:-1])


def test_repr_shows_sizes_alone(small):
    _, _, owner, table = small
    query, _ = table.query(np.zeros(5, np.int64))
    assert repr(owner) == "RowLookupCodes(n_samples=10, n_cells=5)"
    assert repr(table) == "RowLookupTable(n_samples=10, n_cells=5)"
    assert repr(query) == f"VectorQuery({owner.query_bytes} bytes)"
