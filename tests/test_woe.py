"""WOE, IV, merging, selection."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import pooled_woe
from veilscore.errors import DataError, LabelError
from veilscore.models.woe import (
    ColumnSelection,
    join_tables,
    limit_columns,
    logistic_problem,
    select_columns,
    woe_table,
)


def table_of(bad, good, **options):
    bad, good = np.array(bad, float), np.array(good, float)
    return woe_table(np.array([len(bad)]), bad, good, total_bad=bad.sum(), total_good=good.sum(), **options)


def test_woe_and_iv_equal_the_definition_and_higher_is_riskier():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 5, 4000)
    y = (rng.random(4000) < 0.1 + 0.1 * codes).astype(float)
    bad, good = np.bincount(codes, y), np.bincount(codes, 1 - y)
    table = table_of(bad, good, min_class_fraction=0.0)
    expected = pooled_woe(codes, 5, y)
    assert np.allclose(table.woe, expected)
    assert (np.diff(table.woe) > 0).all()
    shares = (bad + 0.5) / (bad.sum() + 2.5) - (good + 0.5) / (good.sum() + 2.5)
    assert table.iv[0] == pytest.approx(shares @ expected)


def test_small_bins_merge_with_their_neighbour_in_an_ordered_column():
    table = table_of([2, 40, 60, 3], [300, 300, 200, 20], ordered=np.array([True]))
    assert table.group[2] == table.group[3]
    assert table.woe[2] == table.woe[3]


def test_small_levels_merge_with_the_most_similar_one():
    table = table_of([50, 4, 10], [100, 8, 400])
    assert table.group[0] == table.group[1] != table.group[2]


def test_a_rare_but_telling_flag_survives_and_is_not_wild():
    table = table_of([150, 60, 30], [6000, 3000, 6], ordered=np.array([True]))
    assert table.group[2] not in table.group[:2]
    assert table.woe[2] > 2
    tame = table_of([200, 3], [9000, 0])
    assert tame.group[0] != tame.group[1]
    assert 0 < tame.woe[1] < 3.5
    assert table_of([200, 0], [9000, 2]).woe[1] > -3


def test_missing_stays_apart_when_large_and_empty_cells_are_neutral():
    bad, good = [30, 40, 50, 60, 0], [400, 300, 200, 400, 0]
    table = table_of(bad, good, ordered=np.array([True]), missing_code=np.array([3]), monotone=True)
    assert (table.group[:3] != table.group[3]).all()
    unordered = table_of(bad, good)
    assert unordered.woe[4] == 0
    assert unordered.group[4] == -1


def test_missing_keeps_a_bin_of_its_own_however_few_they_are():
    bad, good, missing = [30, 40, 2, 60], [400, 300, 9, 400], np.array([2])
    for ordered in (np.array([True]), np.array([False])):
        merged = table_of(bad, good, ordered=ordered, missing_code=missing)
        apart = table_of(bad, good, ordered=ordered, missing_code=missing, missing_bin=True)
        assert (merged.group == merged.group[2]).sum() > 1
        assert (apart.group == apart.group[2]).sum() == 1
    tiny = table_of([2, 1, 40], [9, 5, 300], missing_code=np.array([2]), missing_bin=True)
    assert len(set(tiny.group)) == 3  # two bins of values remain beside that of missing ones


def test_columns_are_limited_by_the_highest_iv_of_all_parties():
    every = {party: ColumnSelection(np.ones(2, bool), ("", ""), ()) for party in ("bank", "tax")}
    kept = limit_columns(every, {"bank": np.array([0.1, 0.4]), "tax": np.array([0.3, 0.2])}, 2)
    assert kept["bank"].selected.tolist() == [False, True]
    assert kept["tax"].selected.tolist() == [True, False]
    assert "not among the 2" in kept["tax"].reasons[1]


def test_iv_by_chance_is_that_of_columns_that_say_nothing():
    rng, found = np.random.default_rng(3), []
    for _ in range(300):
        bad, good = rng.multinomial(200, np.full(8, 1 / 8)), rng.multinomial(900, np.full(8, 1 / 8))
        table = table_of(bad, good, min_class_fraction=0.0)
        found.append((table.iv[0], table.chance[0]))
    iv, chance = np.mean(found, axis=0)
    assert iv == pytest.approx(chance, rel=0.1)
    assert not select_columns(["a"], np.array([chance]), min_iv=0.02, chance=np.array([chance])).selected.any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 400)), min_size=2, max_size=20), st.booleans())
def test_monotone_woe_is_monotone_and_finite(counts, missing):
    bad, good = (np.array(v, float) for v in zip(*counts, strict=True))
    last = len(bad) - 1 if missing else -1
    if bad.sum() == 0 or good.sum() == 0:
        return
    table = table_of(
        bad, good, ordered=np.array([True]), monotone=True, missing_code=np.array([last]), min_class_fraction=0.0
    )
    plain = table.woe[:-1] if missing else table.woe
    filled = (bad + good)[: len(plain)] > 0
    steps = np.diff(table.group[: len(plain)][filled])
    assert np.isfinite(table.woe).all()
    assert np.isfinite(table.iv).all()
    rates = {
        g: bad[table.group == g].sum() / (bad + good)[table.group == g].sum() for g in table.group[: len(plain)][filled]
    }
    ordered = [rates[g] for g in dict.fromkeys(table.group[: len(plain)][filled])]
    assert (steps >= 0).all() or (steps <= 0).all()
    assert (np.diff(ordered) >= 0).all() or (np.diff(ordered) <= 0).all()


def test_a_column_of_another_shape_keeps_its_bins_unless_a_trend_is_demanded():
    """The bad rate falls and rises again: by trend most of what it tells is lost; chance alone makes no shape."""
    ordered, good = np.array([True]), [400, 500, 600, 500, 400]
    bad = [300, 150, 80, 150, 300]
    told = table_of(bad, good, ordered=ordered, monotone="told")
    forced = table_of(bad, good, ordered=ordered, monotone=True)
    assert len(set(told.group)) == 5
    assert told.iv[0] > 1.2 * forced.iv[0]
    assert len(set(forced.group)) < 5
    by_chance = table_of([90, 70, 75, 30], [100, 150, 140, 300], ordered=ordered, monotone="told")
    assert len(set(by_chance.group)) == 3


def test_monotone_direction_is_the_data_s():
    falling = table_of([90, 70, 75, 30], [100, 150, 140, 300], ordered=np.array([True]), monotone=True)
    assert (np.diff(falling.woe) <= 0).all()
    assert len(set(falling.group)) == 3


@pytest.mark.parametrize(
    ("change", "error"),
    [({"total_bad": 0.0}, LabelError), ({"min_class_fraction": 0.7}, DataError)],
)
def test_bad_input_is_refused(change, error):
    options = {"total_bad": 5.0, "total_good": 5.0} | change
    with pytest.raises(error):
        woe_table(np.array([2]), np.array([2.0, 3.0]), np.array([4.0, 1.0]), **options)


@pytest.mark.parametrize("bad", [[1.0, np.nan], [1.0, -1.0], [1.0, 2.0, 3.0]])
def test_bad_counts_are_refused(bad):
    with pytest.raises(DataError, match="counts"):
        woe_table(np.array([2]), np.array(bad), np.ones(len(bad)), total_bad=3.0, total_good=3.0)


def test_quantised_woe_is_exact_in_integers():
    table = table_of([10, 40, 90], [300, 300, 200])
    coarse = table.quantised(10)
    assert np.array_equal(coarse.woe * 1024, coarse.units(10))
    assert np.abs(coarse.woe - table.woe).max() <= 2.0**-11


def test_selection_by_evidence_and_association():
    association = np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]])
    chosen = select_columns(
        ["a", "b", "c"], np.array([0.3, 1.4, 0.01]), min_iv=0.02, association=association, max_association=0.8
    )
    assert chosen.selected.tolist() == [False, True, False]
    assert "b" in chosen.reasons[0]
    assert "0.02" in chosen.reasons[2]
    assert "b" in chosen.warnings[0]
    assert select_columns(["a"], np.array([0.0])).reasons == ("IV is 0",)


def test_problem_from_counts_equals_rows():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 4, (3000, 3))
    y = (rng.random(3000) < 0.2 + 0.1 * (codes[:, 0] > 1)).astype(float)
    tables = []
    for j in range(3):
        bad, good = np.bincount(codes[:, j], y), np.bincount(codes[:, j], 1 - y)
        tables.append(table_of(bad, good))
    table = join_tables(tables).quantised(12)
    x = table.transform(codes)
    problem = logistic_problem(table, x[:, :2], C=2.0)
    full = np.column_stack([x, np.ones(3000)])
    rate = y.mean()
    hessian = full.T @ full * rate * (1 - rate)
    means = x.mean(axis=0)
    hessian[2, :2] = hessian[:2, 2] = 3000 * rate * (1 - rate) * means[2] * means[:2]
    assert np.allclose(problem.curvature, hessian)
    assert np.linalg.eigvalsh(logistic_problem(table).curvature).min() > 0
    assert np.allclose(problem.first_gradient, full.T @ (rate - y))
    assert np.allclose(problem.high, x.max(axis=0))
    half = table.select(np.array([True, False, True]))
    assert np.array_equal(half.transform(codes[:, [0, 2]]), x[:, [0, 2]])
