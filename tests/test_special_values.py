"""Values that mean something of their own have bins of their own: fitted, fixed, cut for trees, kept in files."""

import json

import numpy as np
import pytest

from veilscore.data.codes import CodeMap
from veilscore.data.column_bins import CategoryBins, NumberBins, bins_from_json, bins_to_json
from veilscore.data.fixed_bins import FixedBins
from veilscore.data.partitions import partitions
from veilscore.data.table import Table
from veilscore.errors import SchemaError
from veilscore.models.stability import population_stability
from veilscore.models.trees import Split
from veilscore.models.trees_part import bank_test

N = 20_000


def table(special=None):
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, N)
    x[:300], x[300:310], x[400:500] = -999, -998, np.nan
    level = rng.choice(np.array(["a", "b", "c"], dtype=object), N)
    level[:4], level[4:9] = "refused", None
    said = {"x": (-999.0, -998.0), "level": ("refused",)} if special is None else special
    return Table(np.array([f"f{i}" for i in range(N)]), {"x": x, "level": level}, special=said)


def shares(chart, name, data):
    place = chart.names.index(name)
    counts = np.bincount(chart.transform(data).codes[:, place], minlength=chart.n_codes[place])
    return dict(zip(chart.labels(name), counts.tolist(), strict=True))


@pytest.mark.parametrize("ordered", [False, True])
def test_bins_of_their_own_however_rare(ordered):
    data = table()
    chart = CodeMap.fit(data, max_bin=8, ordered=ordered)
    found = shares(chart, "x", data)
    assert [found[label] for label in ("= -999", "= -998", "missing")] == [300, 10, 100]
    assert min(count for label, count in found.items() if "(" in label) > 0.05 * N
    assert all(label.startswith("(-inf") or "-9" not in label for label in found if "(" in label)
    assert shares(chart, "level", data)["refused"] == 4
    assert max(chart.n_codes) <= 9
    assert chart.public_order()[0].kind == "unordered"
    again = CodeMap.from_json(chart.to_json())
    np.testing.assert_array_equal(again.transform(data).codes, chart.transform(data).codes)
    assert "special" not in CodeMap.fit(table({})).to_json()  # so that the hashes of maps without any stay


def test_a_special_value_may_lie_among_the_others():
    bins = NumberBins((0.0, 10.0), special=(5.0,))
    assert bins.apply(np.array([-1, 0, 5, 6, 10, 11, np.nan]))[0].tolist() == [0, 0, 3, 1, 1, 2, 4]
    assert bins.labels() == ("(-inf, 0]", "(0, 10]", "(10, inf)", "= 5", "missing")
    joined = NumberBins((0.0,), joined=1, special=(5.0,))
    assert joined.apply(np.array([np.nan, 5, 9]))[0].tolist() == [1, 2, 1]
    assert bins_from_json(bins_to_json(joined)) == joined
    for bad in ([5.0, 5.0], [float("inf")]):
        with pytest.raises(ValueError, match="special values"):
            bins_from_json({"kind": "number", "edges": [0.0], "special": bad})


def test_fixed_bins_count_them_apart_and_must_be_made_anew_for_new_ones():
    data = table()
    made = FixedBins.make(data, "2026-11-30")
    assert FixedBins.from_json(made.to_json()).hash == made.hash
    chart = made.code_map(data, 8)
    found = shares(chart, "x", data)
    assert [found[label] for label in ("= -999", "= -998", "missing")] == [300, 10, 100]
    assert shares(chart, "level", data)["refused"] == 4
    assert max(chart.n_codes) <= 9
    counts = dict(
        zip(chart.labels("x"), chart.columns[0].counts[np.argsort(chart.columns[0].permutation)], strict=True)
    )
    assert len(chart.columns[0].counts) == chart.n_codes[0]
    assert abs(made.columns["x"].counts[-3] - 300) < 6 * made.sigma
    assert counts
    assert "make a new one" in made.code_map(table({"x": (-999.0,), "level": ("refused",)}), 8).dropped["x"]
    assert "special" not in FixedBins.make(table({}), "2026-11-30").to_json()
    body = json.loads(made.to_json())
    body["columns"]["x"]["special"] = [-999.0]
    with pytest.raises(SchemaError, match="damaged"):
        FixedBins.from_json(json.dumps(body))


def test_partitions_for_trees_keep_them_apart():
    data = table()
    parts = partitions(FixedBins.make(data, "2026-11-30").code_map(data, 20), least=1e9)
    codes = parts.transform(data).codes
    for place, column in enumerate(parts.columns):
        if column.name == "x":
            alone = codes[:300, place]
            assert len(set(alone.tolist())) == 1
            assert not np.isin(codes[500:, place], alone[0]).any()
            assert column.counts.size == column.bins.n_bins


def test_a_split_of_special_values_is_exported_as_ranges():
    chart = CodeMap.fit(table(), max_bin=8)
    column = chart.columns[0]
    left = [0, column.bins.n_ranges, column.bins.missing]
    codes = tuple(sorted(int(column.permutation[b]) for b in left))
    split = Split(side="bank", column=0, codes=codes, left=-1, right=-2, gain=1.0, cover=1.0)
    assert bank_test(split, column) == {
        "column": "x",
        "ranges": [[None, column.bins.edges[0]]],
        "special": [-999.0],
        "missing": "left",
    }


def test_a_level_named_missing_is_not_the_missing_bin():
    bins = CategoryBins((("missing",), ("other", "x"), ("a | b",)), 1)
    assert bins.labels() == ("'missing'", "'other' | x | other", "'a | b'", "missing")
    assert bins.apply(np.array(["missing", None, "other", "new"], dtype=object))[0].tolist() == [0, 3, 1, 1]


def test_bins_that_are_empty_on_both_sides_change_no_stability():
    alone = population_stability([50, 30, 20], [40, 40, 20])
    assert population_stability([50, 30, 20, 0, 0], [40, 40, 20, 0, 0]) == alone
    assert population_stability([0, 50, 30, 20], [0, 40, 40, 20]) == alone
    assert population_stability([10, 0], [10, 0]) == 0
    assert alone == pytest.approx(-0.1 * np.log(0.8) + 0.1 * np.log(4 / 3))
