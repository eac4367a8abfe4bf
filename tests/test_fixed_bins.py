"""Bins fixed by the owner: noised counts, monotone grid, merging; what a single firm moves."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilscore.data import fixed_bins
from veilscore.data.fixed_bins import LEVELS, FixedBins, _grid, _parts_of, _upper_end
from veilscore.data.table import Table
from veilscore.errors import DataError, SchemaError

N = 20_000


def table(seed=0, n=N):
    rng = np.random.default_rng(seed)
    amount = np.round(np.exp(rng.normal(9, 2, n)), 2)
    amount[rng.random(n) < 0.1] = np.nan
    kind = rng.choice(np.array(["a", "b", "c"], dtype=object), n, p=[0.6, 0.3, 0.1])
    kind[:7] = "rare"
    return Table(
        np.array([f"f{i}" for i in range(n)]),
        {
            "amount": amount,
            "signed": rng.normal(0, 1, n),
            "flag": (rng.random(n) < 0.2).astype(float),
            "constant": np.ones(n),
            "kind": kind,
        },
        source="made up",
    )


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=30))
def test_the_grid_keeps_the_order_and_its_ends_are_the_largest_of_a_cell(values):
    numbers = np.array(values, float)
    cells = _grid(numbers)
    order = np.argsort(numbers, kind="stable")
    assert (np.diff(cells[order]) >= 0).all()
    for value, cell in zip(numbers.tolist(), cells.tolist(), strict=True):
        end = _upper_end(cell, 0)
        assert math.isnan(end) or value <= end
        below = _upper_end(cell - 1, 0)
        assert math.isnan(below) or below < value or value == below == 0.0


def test_bins_follow_the_table_and_the_map_gives_codes():
    made = FixedBins.make(table(), "2026-11-30")
    assert made.sigma == pytest.approx(math.sqrt(1 + 4 * 2 * LEVELS + 3) / fixed_bins.MU)
    chart = made.code_map(table(), 8)
    assert chart.names == ("amount", "signed", "flag", "kind")
    assert chart.dropped == {"constant": "one value only, or nearly"}
    codes = chart.transform(table()).codes
    for j, column in enumerate(chart.columns):
        share = np.bincount(codes[:, j], minlength=column.bins.n_bins)[column.permutation] / N
        assert np.abs(share - column.counts / N).max() < 6 * made.sigma * math.sqrt(LEVELS * 16) / N
    amount = np.bincount(codes[:, 0])
    assert sorted(amount.tolist())[1] > N / 8 / 3, "no bin is far smaller than an equal part"
    assert chart.columns[3].bins.groups[:3] == (("a",), ("b",), ("c",))


def test_a_rare_level_is_not_named_and_goes_with_the_others():
    chart = FixedBins.make(table(), "2026-11-30").code_map(table(), 8)
    kind = chart.columns[3].bins
    assert "rare" not in {level for group in kind.groups for level in group}
    assert kind.apply(np.array(["rare", "never seen"], dtype=object))[0].tolist() == [kind.other, kind.other]


def test_one_replaced_record_moves_ten_counts_of_a_number_column(monkeypatch):
    monkeypatch.setattr(fixed_bins, "discrete_gaussian", lambda _sigma, size: np.zeros(size, np.int64))
    seen = []
    real = fixed_bins._parts_of
    monkeypatch.setattr(
        fixed_bins, "_parts_of", lambda whole, noised: (seen.append(noised.copy()), real(whole, noised))[1]
    )
    values = np.random.default_rng(1).normal(0, 1, 3000)
    fixed_bins._number_cells(values, 1.0, 3000)
    first = list(seen)
    seen.clear()
    values[5] = 400.0
    fixed_bins._number_cells(values, 1.0, 3000)
    assert len(first) == len(seen)
    moved = sum(float(((a - b) ** 2).sum()) for a, b in zip(first, seen, strict=True))
    assert 0 < moved <= 2 * LEVELS


def test_one_replaced_record_moves_three_counts_of_a_category_column(monkeypatch):
    """From a level that is kept to one that is not: one less, one more, and one more in the rest."""
    seen = []
    monkeypatch.setattr(fixed_bins, "discrete_gaussian", lambda _sigma, size: np.zeros(size, np.int64))
    for rare in (4, 5):
        levels = np.array(["a"] * (100 - rare) + ["b"] * 100 + ["rare"] * rare, dtype=object)
        cells = fixed_bins._level_cells(levels, 1.0, 200)
        seen.append([*cells.counts.tolist(), rare])  # the count of a level that is not kept is compared, so opened
    assert seen[0][1] == seen[1][1] == 100
    assert sum((a - b) ** 2 for a, b in zip(*seen, strict=True)) == fixed_bins._LEVELS_MOVED


def test_empty_cells_do_not_look_like_rows():
    noised = np.random.default_rng(2).normal(0, 100, 400).round().astype(int)
    noised[7] += 5000
    parts = _parts_of(5000.0, noised)
    assert parts.min() >= 0
    assert parts.sum() == pytest.approx(5000)
    assert parts[7] > 4500
    assert _parts_of(-3.0, noised).sum() == 0


def test_two_versions_differ_and_damage_is_found():
    made, again = FixedBins.make(table(), "2026-11-30"), FixedBins.make(table(), "2026-11-30")
    assert made.hash != again.hash
    assert FixedBins.from_json(made.to_json()).hash == made.hash
    body = json.loads(made.to_json())
    body["columns"]["amount"]["counts"][0] += 1
    for text in (json.dumps(body), "{}", "[]", "x", made.to_json()[:-20]):
        with pytest.raises(SchemaError, match="damaged"):
            FixedBins.from_json(text)


def test_new_columns_are_left_out_and_other_kinds_refused():
    """A column that came and went with one firm's odd cell would tell of that firm, so no job goes on without it."""
    made = FixedBins.make(table(), "2026-11-30")
    changed = table()
    columns = dict(changed.columns)
    columns["new"] = columns["signed"]
    chart = made.code_map(Table(changed.ids, columns, source="changed"), 8)
    assert set(chart.dropped) == {"constant", "new"}
    columns["kind"] = np.full(N, np.nan)  # of no kind: what one value more or less decides
    chart = made.code_map(Table(changed.ids, columns, source="changed"), 8)
    assert chart.names == ("amount", "signed", "flag", "kind")
    assert chart.transform(Table(changed.ids, columns, source="changed")).codes.shape == (N, 4)
    columns["flag"] = changed.columns["kind"]
    with pytest.raises(SchemaError, match="'flag' of changed was a number when its bins were fixed and is a category"):
        made.code_map(Table(changed.ids, columns, source="changed"), 8)
    columns = dict(changed.columns)
    with pytest.raises(DataError, match="more than one bin"):
        made.code_map(Table(changed.ids, {"constant": columns["constant"]}, source="changed"), 8)
    with pytest.raises(DataError, match="no rows"):
        FixedBins.make(Table(np.array([], dtype=str), {}, source="empty"), "2026-11-30")
