"""Codes and the secret map: bins that survive, one bin per value everywhere, schema checks."""

import itertools
import json

import numpy as np
import pytest
from conftest import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.data.codes import CodeMap, Codes
from veilscore.data.ingest import read_table
from veilscore.data.table import Table
from veilscore.errors import ConfigError, DataError, SchemaError

GENERATOR_SEED = 3
floats = st.floats(allow_nan=True, allow_infinity=False, width=64)
few = st.sampled_from([0.0, -0.0, 1.0, 2.0, float(2**53), float(2**53 + 2), 1e308, -1e308, 5e-324, np.nan])
number_columns = st.lists(st.one_of(few, floats), min_size=2, max_size=120)
level_columns = st.lists(st.sampled_from([None, "a", "b", "c", "d", "e", "é|"]), min_size=2, max_size=120)


def table_of(**columns):
    arrays = {
        name: np.array(values, dtype=object if any(isinstance(v, str) for v in values) else np.float64)
        for name, values in columns.items()
    }
    n = len(next(iter(arrays.values())))
    return Table(np.array([f"id{i}" for i in range(n)]), arrays)


def counts_by_label(code_map, codes, name):
    column = code_map.names.index(name)
    counts = np.bincount(codes.codes[:, column], minlength=codes.n_codes[column])
    return dict(zip(code_map.labels(name), counts.tolist(), strict=True))


def fit_or_none(table, **options):
    try:
        return CodeMap.fit(table, **options)
    except DataError:
        return None  # every column constant


@given(number_columns, st.integers(2, 64), st.sampled_from([0.0, 0.05, 0.3]), st.booleans())
def test_number_codes(values, max_bin, fraction, ordered):
    table = table_of(x=values)
    code_map = fit_or_none(table, max_bin=max_bin, min_bin_fraction=fraction, ordered=ordered)
    if code_map is None:
        return
    codes = code_map.transform(table)
    column, n_codes = codes.codes[:, 0], int(codes.n_codes[0])
    assert n_codes <= max_bin + 1
    assert (column < n_codes).all()
    assert sorted(code_map.columns[0].permutation.tolist()) == list(range(n_codes))
    counts = code_map.columns[0].counts
    np.testing.assert_array_equal(np.bincount(column, minlength=n_codes)[code_map.columns[0].permutation], counts)
    missing = np.isnan(table.columns["x"])
    assert ((column == code_map.missing[0]) == missing).all()
    # one value, one code: also where a row stands alone, and where other values stand beside it
    for row in range(len(values)):
        assert code_map.transform(table.take(np.array([row]))).codes[0, 0] == column[row]
    if ordered:
        order = np.argsort(table.columns["x"][~missing], kind="stable")
        steps = np.diff(column[~missing][order].astype(int))
        assert (steps >= 0).all() or (steps <= 0).all()
        assert code_map.public_order()[0].kind == "ordered"
        assert code_map.public_order()[0].missing == n_codes - 1


@given(level_columns, st.integers(2, 5), st.sampled_from([0.0, 0.05, 0.3]))
def test_level_codes(values, max_bin, fraction):
    table = table_of(x=[*values, "a"])
    code_map = fit_or_none(table, max_bin=max_bin, min_bin_fraction=fraction)
    if code_map is None:
        return
    codes = code_map.transform(table)
    assert codes.n_codes[0] <= max_bin + 1
    missing = np.array([value is None for value in table.columns["x"]])
    assert ((codes.codes[:, 0] == code_map.missing[0]) == missing).all()
    code_of = {}
    for value, code in zip(table.columns["x"], codes.codes[:, 0].tolist(), strict=True):
        assert code_of.setdefault(value, code) == code


@given(number_columns, level_columns, st.booleans())
def test_json_roundtrip(numbers, levels, ordered):
    n = min(len(numbers), len(levels))
    table = table_of(x=numbers[:n], y=[*levels[: n - 1], "a"], z=list(range(n)))
    code_map = CodeMap.fit(table, min_bin_fraction=0.0, ordered=ordered)
    text = code_map.to_json()
    again = CodeMap.from_json(text)
    assert again.hash == code_map.hash
    assert again.to_json() == text
    assert again.warnings == code_map.warnings
    np.testing.assert_array_equal(again.transform(table).codes, code_map.transform(table).codes)


def test_damaged_maps_are_refused():
    text = CodeMap.fit(table_of(x=list(range(100)))).to_json()
    body = json.loads(text)
    for damaged, match in (
        ("{}", "no code map"),
        ("[1]", "no code map"),
        ("nonsense", "no code map"),
        (json.dumps({**body, "version": 99}), "version 99"),
        (json.dumps({**body, "ordered": True}), "damaged"),
    ):
        with pytest.raises(SchemaError, match=match):
            CodeMap.from_json(damaged)


def test_rare_flags_survive_and_dominant_values_are_not_lost():
    n = 10_000
    flag = np.zeros(n)
    flag[:100] = 1
    counts = np.zeros(n)
    counts[:300] = np.arange(300) % 10 + 1
    table = table_of(flag=flag, counts=counts, too_rare=(np.arange(n) < 5).astype(float), x=np.arange(n))
    code_map = CodeMap.fit(table)
    codes = code_map.transform(table)
    assert counts_by_label(code_map, codes, "flag") == {"(-inf, 0]": 9900, "(0, inf)": 100, "missing": 0}
    assert counts_by_label(code_map, codes, "counts") == {"(-inf, 0]": 9700, "(0, inf)": 300, "missing": 0}
    assert list(code_map.dropped) == ["too_rare"]
    assert "'too_rare' was dropped: one value only" in code_map.warnings[0]


def test_bins_hold_the_minimum_and_are_many():
    rng = np.random.default_rng(0)
    n = 20_011
    table = table_of(
        tail=np.round(np.sinh(4 * rng.standard_normal(n)), 1),
        zeros=np.where(rng.random(n) < 0.5, 0.0, rng.exponential(1.0, n)),
        gaps=np.where(rng.random(n) < 0.3, np.nan, rng.exponential(1.0, n)),
        tied=rng.integers(0, 60, n),
    )
    code_map = CodeMap.fit(table)
    codes = code_map.transform(table)
    for column in code_map.columns:
        assert column.counts[:-1].min() >= np.ceil(0.05 * n), column.name
    assert counts_by_label(code_map, codes, "gaps")["missing"] == np.isnan(table.columns["gaps"]).sum()
    assert code_map.n_codes.tolist()[0] >= 19
    assert code_map.n_codes.tolist()[2] >= 13
    assert (CodeMap.fit(table, max_bin=64, min_bin_fraction=0.0).n_codes == [65, 65, 65, 61]).all()


def test_heavy_value_has_its_own_bin():
    values = np.concatenate([np.zeros(5000), np.linspace(-1, 1, 4000), np.full(1000, 0.5)])
    code_map = CodeMap.fit(table_of(x=values), min_bin_fraction=0.01)
    counts = counts_by_label(code_map, code_map.transform(table_of(x=values)), "x")
    assert 5000 in counts.values()
    assert 1000 in counts.values()


def test_categories_other_and_unseen():
    rare = [f"rare{i}" for i in range(40)]
    table = table_of(form=["A"] * 500 + ["B"] * 400 + ["C"] * 50 + rare, pair=["x", "y"] * 495)
    code_map = CodeMap.fit(table)
    counts = counts_by_label(code_map, code_map.transform(table), "form")
    named = "rare0 | rare1 | rare10 | rare11 | rare12 | rare13 | 34 more | other"
    assert counts == {"A": 500, "B": 400, "C": 50, named: 40, "missing": 0}
    new = table_of(form=["A", "NEW", None, "rare3"], pair=["x", "z", "y", None])
    codes, report = code_map.transform_with_report(new)
    by_code = code_map.labels("form")
    assert [by_code[code].split(" ")[-1] for code in codes.codes[:, 0]] == ["A", "other", "missing", "other"]
    assert [code_map.labels("pair")[code] for code in codes.codes[:, 1]] == ["x", "missing", "y", "missing"]
    assert report.unseen == {"form": 1, "pair": 1}
    assert report.missing == {"form": 1, "pair": 2}
    assert report.n_samples == 4


def test_too_few_rare_levels_join_a_small_level():
    code_map = CodeMap.fit(table_of(form=["A"] * 500 + ["B"] * 400 + ["C", "D"]))
    assert sorted(code_map.labels("form")) == ["A", "B | C | D | other", "missing"]


def test_constant_columns():
    table = table_of(
        one=[3.0] * 100, none=[np.nan] * 100, word=["a"] * 100, gap=[np.nan] * 40 + [1.0] * 60, x=range(100)
    )
    code_map = CodeMap.fit(table)
    assert code_map.names == ("gap", "x")
    assert code_map.dropped.keys() == {"one", "none", "word"}
    assert sorted(code_map.labels("gap")) == ["(-inf, inf)", "missing"]
    with pytest.raises(DataError, match="every column"):
        CodeMap.fit(table_of(one=[3.0] * 100))
    with pytest.raises(DataError, match="no rows"):
        CodeMap.fit(table, rows=np.array([], dtype=int))


def test_schema_changes_are_named():
    table = table_of(x=range(100), y=["a", "b"] * 50, z=range(100), one=[1.0] * 100)
    code_map = CodeMap.fit(table)
    with pytest.raises(SchemaError, match=r"missing: z; new: w; changed type: y \(category in training, number now\)"):
        code_map.transform(table_of(x=[1.0], y=[1.0], w=[2.0]))
    codes = code_map.transform(table_of(z=[1.0], y=[np.nan], x=[5.0]))  # any order, dropped column not needed
    assert codes.codes[0, 1] == code_map.missing[1]


def test_fitting_rows_only():
    table = table_of(x=[*range(100), *range(1000, 1100)], flag=[0, 1] * 100)
    code_map = CodeMap.fit(table, rows=np.arange(100), min_bin_fraction=0.1)
    edges = {column.name: column.bins.edges for column in code_map.columns}
    assert max(edges["x"]) < 100
    assert edges["flag"] == (0.0,)
    assert sum(code_map.columns[0].counts) == 100
    with pytest.raises(SchemaError, match="no column 'nil'"):
        code_map.labels("nil")


def test_permutations_come_from_the_operating_system_and_vary():
    table = table_of(**{f"x{i}": np.arange(200) for i in range(6)})
    maps = [CodeMap.fit(table) for _ in range(2)]
    first, second = (np.concatenate([column.permutation for column in one.columns]) for one in maps)
    assert (first != second).any()
    assert all(column.kind == "unordered" and column.missing is None for column in maps[0].public_order())
    directions = {CodeMap.fit(table, ordered=True).columns[0].permutation[0] for _ in range(60)}
    assert len(directions) == 2


def test_secrets_hide_in_repr():
    table = table_of(secret_name=range(100), level=["hush", "b"] * 50)
    code_map = CodeMap.fit(table)
    shown = repr(
        (code_map, code_map.columns, code_map.columns[0].bins, code_map.columns[1].bins, code_map.transform(table))
    )
    assert "hush" not in shown
    assert "secret_name" not in shown
    assert "permutation" not in shown


@settings(max_examples=30)
@given(st.lists(st.integers(-1, 9), max_size=20))
def test_take_rows(index):
    table = table_of(x=range(10), y=["a", "b"] * 5)
    code_map = CodeMap.fit(table, generator=np.random.default_rng(GENERATOR_SEED))
    codes = code_map.transform(table)
    taken = codes.take_rows(np.array(index, dtype=np.int64))
    expected = [codes.codes[i] if i >= 0 else code_map.missing for i in index]
    np.testing.assert_array_equal(taken.codes, np.array(expected).reshape(-1, 2))
    np.testing.assert_array_equal(code_map.unknown_firms(2).codes, [code_map.missing] * 2)


def test_codes_are_checked():
    good = Codes(np.array([[0, 1], [1, 2]], dtype=np.uint8), np.array([2, 3]))
    assert (good.n_samples, good.n_columns, good.n_cells) == (2, 2, 5)
    for codes, n_codes in (
        (good.codes, [2, 2]),
        (good.codes, [2]),
        (good.codes.astype(np.int64), [2, 3]),
        (good.codes[0], [2, 3]),
        (np.zeros((1, 1), np.uint8), [0]),
    ):
        with pytest.raises(DataError):
            Codes(codes, np.array(n_codes))
    with pytest.raises(DataError, match="which code is missing"):
        good.take_rows(np.array([-1]))
    for index in ([2], [-2]):
        with pytest.raises(DataError, match="out of range"):
            good.take_rows(np.array(index))


@pytest.mark.parametrize("options", [{"max_bin": 1}, {"max_bin": 65}, {"min_bin_fraction": 0.6}, {"min_bin_count": 0}])
def test_limits(options):
    with pytest.raises(ConfigError):
        CodeMap.fit(table_of(x=range(9)), **options)


def test_labels_read_back():
    values = [0.1, 0.2, 0.30000000000000004, 1e22, -5]
    code_map = CodeMap.fit(table_of(x=values * 50))
    ends = [label.strip("(])[").split(", ") for label in code_map.labels("x") if label != "missing"]
    ends.sort(key=lambda pair: float(pair[0]))
    assert [float(end) for _, end in ends[:-1]] == list(code_map.columns[0].bins.edges)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ends))


def test_a_million_rows_are_coded_as_their_first_thousand():
    rng = np.random.default_rng(1)
    n = 1_000_000
    table = Table(np.empty(n, dtype="<U1"), {f"x{i}": rng.standard_normal(n) for i in range(20)})
    code_map = CodeMap.fit(table, rows=np.arange(50_000))
    whole, part = code_map.transform(table), code_map.transform(table.take(np.arange(1000)))
    assert whole.n_samples == n
    assert (whole.codes[:1000] == part.codes).all()


@pytest.mark.parametrize("name", ["kz_corporate", "polish_1year", "default_credit", "sba_loans"])
def test_real_data(name):
    for path in shared_data(name).glob("*.csv"):
        table = read_table(path, "uscc", "default" if path.stem == "bank" else None)
        code_map = CodeMap.fit(table)
        codes, report = code_map.transform_with_report(table)
        assert not report.unseen
        assert len(code_map.dropped) <= 1
        assert codes.n_columns >= 3
