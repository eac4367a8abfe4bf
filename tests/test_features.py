"""Variables from event tables: equal to plain SQL, point in time, named, hashed, refused where they are wrong."""

from __future__ import annotations

import json

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from veilscore.data.ingest import read_table
from veilscore.features.build import build, build_rows, lineage_path
from veilscore.features.catalogue import Catalogue
from veilscore.features.expansion import expand
from veilscore.terms.settings import parse

AS_OF = "2023-06-01"
TABLES = {
    "inv": {
        "source": "inv.parquet",
        "firm": "seller",
        "time": "issued",
        "known": "reported",
        "numbers": ["amount", "tax"],
        "categories": {"side": ["out", "in"], "status": ["valid", "void"], "rated": ["A", "B"]},
        "bands": {"size": {"of": "amount", "edges": [-50, 100]}},
        "parties": ["buyer"],
    }
}


def make_events(folder, seed=0, n=900, firms=12, **changes):
    rng = np.random.default_rng(seed)
    time = rng.integers(0, 800, n)
    columns = {
        "seller": np.array([f"F{i}" for i in rng.integers(0, firms, n)], dtype=object),
        "issued": np.datetime64("2021-06-01", "us") + time * np.timedelta64(1, "D"),
        "reported": np.datetime64("2021-06-01", "us") + (time + rng.geometric(0.2, n) - 1) * np.timedelta64(1, "D"),
        "amount": np.where(rng.random(n) < 0.1, np.nan, np.round(rng.normal(50, 120, n), 2)),
        "tax": rng.integers(-3, 4, n).astype(float),
        "side": rng.choice(np.array(["out", "in", "other"], dtype=object), n),
        "status": rng.choice(np.array(["valid", "void", None], dtype=object), n),
        "rated": rng.choice(np.array(["A", "B"], dtype=object), n),
        "buyer": rng.choice(np.array(["x", "y", "z", "w", None], dtype=object), n),
        **changes,
    }
    database = duckdb.connect()
    database.register("given", columns)
    shown = ", ".join(
        f"CAST({c} AS DATE) AS {c}"
        if c in {"issued", "reported"}
        else f"CASE WHEN isnan({c}) THEN NULL ELSE {c} END AS {c}"
        if c in {"amount", "tax"}
        else c
        for c in columns
    )
    database.execute(f"COPY (SELECT {shown} FROM given) TO '{folder / 'inv.parquet'}'")
    return folder


def catalogue(variables=(), tables=None, **more):
    content = {
        "name": "test",
        "id_normaliser": "text",
        "tables": tables or TABLES,
        "variables": list(variables),
        **more,
    }
    return parse(Catalogue, content, "test.yaml")


def plain(values):
    """Fetched values without a mask: NaN or None where they are missing."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    return (
        np.where(np.ma.getmaskarray(values), None, values.data)
        if values.dtype.kind == "O"
        else values.astype(float).filled(np.nan)
    )


def columns_of(path):
    return {k: plain(v) for k, v in duckdb.execute(f"SELECT * FROM '{path}'").fetchnumpy().items()}


def plain_sql(one, day, source):
    """One variable as one writes it by hand, a query of its own."""
    known = f"issued < DATE '{day}' AND reported < DATE '{day}'"
    size = "CASE WHEN amount < -50 THEN 'b0' WHEN amount < 100 THEN 'b1' WHEN amount >= 100 THEN 'b2' END AS size"
    passing = [f"{c} IN ({', '.join(repr(x) for x in levels)})" for c, levels in one.where]
    seen = f"(SELECT *, DATE '{day}' - issued AS age, {size} FROM '{source}' WHERE {known})"
    base = f"(SELECT * FROM {seen} WHERE {' AND '.join(['true', *passing])})"
    within = f"(SELECT * FROM {base} WHERE age <= {one.days or 99999})"
    x, total = one.column, f"COALESCE(sum({one.column}), 0)" if one.column else "count(*)"
    simple = {
        "sum": f"COALESCE(sum({x}), 0)", "count": "count(*)", "mean": f"avg({x})", "std": f"stddev_samp({x})",
        "min": f"min({x})", "max": f"max({x})", "days_since": "min(age)",
        "active_months": "count(DISTINCT (age - 1) // 30)", "distinct": "count(DISTINCT buyer)",
    }  # fmt: skip
    if one.aggregate in simple:
        return f"SELECT seller, {simple[one.aggregate]} AS v FROM {within} GROUP BY seller"
    if one.aggregate in {"top_share", "concentration"}:
        amount = f"greatest(COALESCE(sum({x}), 0), 0)" if x else "count(*)"
        share = "max(s) / nullif(sum(s), 0)" if one.aggregate == "top_share" else "sum(s * s) / nullif(sum(s) ** 2, 0)"
        each = f"SELECT seller, buyer, {amount} AS s FROM {within} WHERE buyer IS NOT NULL GROUP BY seller, buyer"
        return f"SELECT seller, {share} AS v FROM ({each}) GROUP BY seller"
    if one.aggregate == "growth":
        new, old = (
            f"(SELECT seller, {total} AS s FROM {base} WHERE age > {low} AND age <= {high} GROUP BY seller)"
            for low, high in ((0, one.days), (one.days, 2 * one.days))
        )
        diff = "(COALESCE(n.s, 0) - COALESCE(o.s, 0)) / nullif(abs(COALESCE(n.s, 0)) + abs(COALESCE(o.s, 0)), 0)"
        return f"SELECT seller, {diff} AS v FROM {new} n FULL JOIN {old} o USING (seller)"
    if one.aggregate == "trend":
        each = (
            f"SELECT f.seller, -p AS x, {total.replace('*', 'age')} AS y FROM (SELECT DISTINCT seller FROM {base}) f "
            f"CROSS JOIN range({one.days // 30}) r(p) "
            f"LEFT JOIN {base} b ON b.seller = f.seller AND (b.age - 1) // 30 = p GROUP BY ALL"
        )
        return f"SELECT seller, regr_slope(y, x) / nullif(avg(abs(y)), 0) AS v FROM ({each}) GROUP BY seller"
    assert one.aggregate == "latest"
    return f"SELECT seller, arg_max({x}, (issued, reported, {x})) AS v FROM {within} WHERE {x} IS NOT NULL GROUP BY 1"


def assert_equals_sql(path, variables, day, source):
    made = columns_of(path)
    for one in variables:
        found = dict(duckdb.execute(plain_sql(one, day, source)).fetchall())
        empty = 0 if one.aggregate in {"sum", "count", "active_months", "distinct"} else np.nan
        for firm, value in zip(made["uscc"], made[one.name], strict=True):
            expected = found.get(firm, empty)
            if one.kind == "category":
                assert value == (None if expected is empty else expected), (one.name, firm)
            else:
                expected = np.nan if expected is None else float(expected)
                np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9, err_msg=f"{one.name} of {firm}")


PARTIES = ["distinct(buyer)", "top_share(buyer)", "concentration(buyer)"]
DATED = ["trend", "growth", "active_months"]
EVERY = ["sum", "mean", "std", "min", "max", "count", "days_since", *DATED, *PARTIES]
windows = st.lists(st.sampled_from(["60d", "75d", "90d", "180d", "365d", "700d"]), min_size=1, max_size=3)
choices = {
    "side": ["out", "in", "out|in", "*"],
    "status": ["valid", "void", "*"],
    "rated": ["A", "*"],
    "size": ["b0", "b1|b2", "*"],
}
filters = st.dictionaries(st.sampled_from(sorted(choices)), st.none(), max_size=2).flatmap(
    lambda names: st.fixed_dictionaries(
        {n: st.lists(st.sampled_from(choices[n]), min_size=1, max_size=2) for n in names}
    )
)
groups = st.fixed_dictionaries(
    {
        "table": st.just("inv"),
        "of": st.sampled_from([["amount"], ["amount", "tax"]]),
        "where": filters,
        "windows": windows,
        "aggregate": st.lists(st.sampled_from(EVERY), min_size=1, max_size=5),
    }
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(groups, min_size=1, max_size=2), st.integers(0, 5))
def test_every_aggregate_equals_plain_sql(tmp_path, asked, seed):
    make_events(tmp_path, seed, n=150, firms=6)
    every = catalogue(asked)
    made = build(every, tmp_path, tmp_path / "out" / "main.parquet", AS_OF)
    assert set(made.variables) == set(expand(every))
    assert_equals_sql(made.path, made.variables, AS_OF, tmp_path / "inv.parquet")


def test_each_aggregate_once_over_all_time_too(tmp_path):
    make_events(tmp_path)
    where, undated = {"side": ["out", "*"], "size": "b1|b2"}, [a for a in EVERY if a not in DATED]
    asked = [
        {"table": "inv", "of": ["amount", "tax"], "where": where, "windows": ["90d", "all"], "aggregate": undated},
        {"table": "inv", "windows": ["75d", "365d"], "aggregate": [*DATED, "top_share(buyer)"]},
        {"table": "inv", "of": ["amount", "status", "size"], "windows": ["90d", "all"], "aggregate": ["latest"]}
        | {"where": {"side": ["out"]}},
    ]
    made = build(catalogue(asked), tmp_path, tmp_path / "main.parquet", AS_OF)
    assert len(made.variables) == 82
    assert_equals_sql(made.path, made.variables, AS_OF, tmp_path / "inv.parquet")


EVERYTHING = [
    {"table": "inv", "of": "amount", "where": {"side": ["out", "*"]}, "windows": ["90d", "365d"], "aggregate": EVERY},
    {"table": "inv", "of": ["amount", "status"], "windows": ["all"], "aggregate": ["latest"]},
]


def test_what_is_known_or_happens_on_the_day_or_later_never_counts(tmp_path):
    """Late corrections, events of the as-of day and events entered later are planted; no variable moves."""
    (tmp_path / "planted").mkdir()
    make_events(tmp_path, seed=3)
    database = duckdb.connect()
    before = ", ".join(f"least({day}, DATE '{AS_OF}' - 1) AS {day}" for day in ("issued", "reported"))
    numbered = f"* REPLACE ({before}), row_number() OVER () AS no"
    database.execute(f"CREATE TABLE clean AS SELECT {numbered} FROM '{tmp_path / 'inv.parquet'}'")
    planted = (
        f"SELECT * REPLACE (DATE '{AS_OF}' AS issued, DATE '{AS_OF}' AS reported, -1 AS no, 1e6 AS amount) FROM clean",
        f"SELECT * REPLACE (DATE '{AS_OF}' AS reported, 1e6 AS amount) FROM clean",  # a correction of each row
        f"SELECT * REPLACE (DATE '{AS_OF}' + 40 AS reported, -1e6 AS amount, 'void' AS status) FROM clean",
        "SELECT * REPLACE (NULL AS reported, 2e6 AS amount, -3 AS no) FROM clean",
        "SELECT * REPLACE (NULL AS issued, 2e6 AS amount, -4 AS no) FROM clean",
    )
    database.execute(f"COPY clean TO '{tmp_path / 'inv.parquet'}'")
    every = " UNION ALL ".join(["SELECT * FROM clean", *planted])
    database.execute(f"COPY ({every}) TO '{tmp_path / 'planted' / 'inv.parquet'}'")
    keyed = catalogue(EVERYTHING, {"inv": {**TABLES["inv"], "key": ["no"]}})
    for one in (keyed, catalogue(EVERYTHING)):
        before = build(one, tmp_path, tmp_path / "before.parquet", AS_OF)
        after = build(one, tmp_path / "planted", tmp_path / "after.parquet", AS_OF)
        assert before.variables == after.variables
        first, second = columns_of(before.path), columns_of(after.path)
        for name, values in first.items():
            np.testing.assert_array_equal(values, second[name], err_msg=name)
    later = build(keyed, tmp_path / "planted", tmp_path / "later.parquet", "2023-06-02")
    assert columns_of(later.path)["inv.amount.max.365d"].max() == 1e6


def test_a_correction_takes_the_place_of_what_was_known_before(tmp_path):
    days = np.array(["2023-01-01", "2023-02-01", "2023-03-01"], dtype="datetime64[us]")
    same = {
        c: np.array([v] * 3, dtype=object)
        for c, v in {"seller": "A", "side": "out", "status": "valid", "rated": "A", "buyer": "x"}.items()
    }
    make_events(
        tmp_path,
        n=3,
        **{
            **same,
            "issued": days[[0, 0, 0]],
            "reported": days,
            "amount": np.array([1.0, 20.0, 300.0]),
            "tax": np.ones(3),
        },
    )
    keyed = catalogue(
        [{"table": "inv", "of": "amount", "windows": ["all"], "aggregate": ["sum", "count"]}],
        {"inv": {**TABLES["inv"], "key": ["side"]}},
    )
    rows = build_rows(
        keyed,
        tmp_path,
        tmp_path / "panel.parquet",
        ["A"] * 4 + ["B"],
        ["2023-01-02", "2023-02-01", "2023-02-02", "2023-06-01", "2023-06-01"],
    )
    found = duckdb.execute(
        f'SELECT as_of::VARCHAR, "inv.amount.sum.all", "inv.count.all" FROM \'{rows.path}\''
    ).fetchall()
    assert found == [
        ("2023-01-02", 1, 1),
        ("2023-02-01", 1, 1),
        ("2023-02-02", 20, 1),
        ("2023-06-01", 300, 1),
        ("2023-06-01", 0, 0),
    ]


def test_a_panel_holds_what_builds_of_its_dates_hold(tmp_path):
    make_events(tmp_path, seed=4)
    every, days = catalogue(EVERYTHING), ["2022-09-01", "2023-01-15", AS_OF]
    single = [columns_of(build(every, tmp_path, tmp_path / "one.parquet", day).path) for day in days]
    pairs = [(firm, day) for day, columns in zip(days, single, strict=True) for firm in columns["uscc"]]
    panel = build_rows(every, tmp_path, tmp_path / "panel.parquet", *zip(*pairs, strict=True))
    found = duckdb.execute(f"SELECT * FROM '{panel.path}'").fetchnumpy()
    for one in panel.variables:
        together = np.concatenate([columns[one.name] for columns in single])
        values = found[one.name]
        if one.kind == "number":
            np.testing.assert_array_equal(together.astype(float), plain(values).astype(float))
        else:
            assert together.tolist() == plain(values).tolist()


def test_a_built_set_is_read_as_a_data_set_and_the_same_events_give_the_same_bytes(tmp_path):
    make_events(tmp_path)
    every = catalogue(EVERYTHING)
    first, second = (build(every, tmp_path, tmp_path / f"{n}.parquet", AS_OF) for n in "ab")
    assert first.path.read_bytes() == second.path.read_bytes()
    table = read_table(first.path, "uscc", normaliser="text")
    assert {one.name: one.kind for one in first.variables} == table.kinds
    assert np.isnan(table.columns["inv.amount.std.90d[side=out]"]).any() or table.n_rows
    about = dict(
        duckdb.execute(f"SELECT decode(key), decode(value) FROM parquet_kv_metadata('{first.path}')").fetchall()
    )
    assert about["veilscore.catalogue"] == every.hash
    lineage = json.loads(lineage_path(first.path).read_text(encoding="utf-8"))
    assert [one["name"] for one in lineage["variables"]] == [one.name for one in first.variables]
    assert lineage["sources"]["inv"]["rows"] == 900
    assert lineage_path(first.path).stat().st_mode & 0o077 == 0 == first.path.stat().st_mode & 0o077
