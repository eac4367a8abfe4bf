"""`veilscore features` at the owner: texts, ratios, leaks, quality, databases, refusals in one sentence."""

from __future__ import annotations

import gzip
import json

import duckdb
import numpy as np
import pytest
import sqlalchemy as sa
import yaml
from test_features import AS_OF, TABLES, catalogue, columns_of, make_events
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.errors import ConfigError, DataError, RefusedError, VeilscoreError
from veilscore.features.build import build, earlier_terms
from veilscore.features.built import check_built
from veilscore.features.catalogue import load_catalogue
from veilscore.features.expansion import expand, variable_hash
from veilscore.features.leaks import find_leaks
from veilscore.features.quality import measure
from veilscore.release.binding import dataset_version
from veilscore.terms.node_config import load_node_config

SUMS = {"table": "inv", "of": "amount", "where": {"status": ["valid", "*"]}, "windows": ["90d"], "aggregate": ["sum"]}


def sql(statement):
    return duckdb.execute(statement).fetchall()


def home_of(folder, content):
    """A holder's home whose data set `main` is built from folder/events by folder/catalogue.yaml."""
    home = folder / "home"
    home.mkdir(mode=0o700)
    (home / "catalogue.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    entry = {"path": "features/main.parquet", "id_column": "uscc"}
    entry["features"] = {"catalogue": "catalogue.yaml", "events": str(folder)}
    node = {"name": "tax", "role": "holder", "datasets": {"main": entry}}
    (home / "node.yaml").write_text(yaml.safe_dump(node), encoding="utf-8")
    return home


def run(*words, code=0):
    result = CliRunner().invoke(app, ["features", *map(str, words)], env={"COLUMNS": "200", "TERM": "dumb"})
    if isinstance(result.exception, VeilscoreError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def test_names_tell_all_and_hashes_follow_the_meaning():
    every = catalogue([{**SUMS, "aggregate": ["sum", "distinct(buyer)"]}])
    names = {one.name: one for one in expand(every)}
    assert set(names) == {
        "inv.amount.sum.90d[status=valid]", "inv.amount.sum.90d",
        "inv.distinct(buyer).90d[status=valid]", "inv.distinct(buyer).90d",
    }  # fmt: skip
    one = names["inv.amount.sum.90d"]
    other = catalogue([SUMS], {"inv": {**TABLES["inv"], "known": None, "known_after": "3d"}})
    assert variable_hash(every, one) != variable_hash(other, one)
    assert variable_hash(every, one) == variable_hash(catalogue([SUMS], name="renamed"), one)
    assert every.hash != other.hash


def test_ratios_and_differences(tmp_path):
    make_events(tmp_path)
    valid, total = "inv.amount.sum.{window}[status=valid]", "inv.amount.sum.{window}"
    derived = [
        {"name": "valid_share.{window}", "ratio": [valid, total], "windows": ["90d"]},
        {"name": "other", "difference": [total.format(window="90d"), valid.format(window="90d")]},
    ]
    made = columns_of(build(catalogue([SUMS], derived=derived), tmp_path, tmp_path / "m.parquet", AS_OF).path)
    one, other = made["inv.amount.sum.90d[status=valid]"], made["inv.amount.sum.90d"]
    np.testing.assert_allclose(made["valid_share.90d"], one / other)
    np.testing.assert_allclose(made["other"], other - one)
    with pytest.raises(
        ConfigError, match=r"derived.1 \(x\): there is no number variable 'inv.amount.sun.90d'; did you"
    ):
        expand(catalogue([SUMS], derived=[{"name": "x", "ratio": ["inv.amount.sun.90d", "inv.amount.sum.90d"]}]))


TEXTS = [
    "公司被列入失信被执行人名单",
    "借款合同纠纷。原告要求返还借款",
    "Guarantor liable; frozen assets",
    "ordinary sale",
    None,
]


def text_catalogue(**terms):
    table = {**TABLES["inv"], "texts": ["remark"]}
    return {
        "name": "texts",
        "id_normaliser": "text",
        "tables": {"inv": table},
        "terms": [{"table": "inv", "of": "remark", "windows": ["365d"], "max_share": 1, **terms}],
        "risks": [{"table": "inv", "of": "remark", "windows": ["90d", "365d"], "aggregate": ["any", "count"]}],
    }


def test_terms_and_risk_events_of_texts_are_variables(tmp_path):
    pytest.importorskip("rjieba")
    rng = np.random.default_rng(0)
    make_events(tmp_path, remark=rng.choice(np.array(TEXTS, dtype=object), 900))
    home = home_of(tmp_path, text_catalogue())
    run("build", "main", "--as-of", AS_OF, "--home", home)
    made = columns_of(home / "features" / "main.parquet")
    dated = f"(SELECT *, DATE '{AS_OF}' - issued AS age FROM '{tmp_path / 'inv.parquet'}')"
    seen = f"FROM {dated} WHERE issued < '{AS_OF}' AND reported < '{AS_OF}'"
    for name, phrase, days in (("dishonest_list", "失信", 90), ("guarantee", "Guarantor", 365)):
        found = dict(sql(f"SELECT seller, count(*) {seen} AND remark LIKE '%{phrase}%' AND age <= {days} GROUP BY 1"))
        counts = [found.get(firm, 0) for firm in made["uscc"]]
        assert made[f"inv.remark.risk({name}).count.{days}d"].tolist() == counts
        assert made[f"inv.remark.risk({name}).any.{days}d"].tolist() == [int(count > 0) for count in counts]
    assert {"inv.remark.term(借款).365d", "inv.remark.term(ordinary).365d"} <= set(made)
    # terms stay as they were chosen, whatever later texts say, until the owner renews them
    config, catalogue_file = load_node_config(home), load_catalogue(home / "catalogue.yaml")
    chosen = earlier_terms(config.datasets["main"].path, catalogue_file)
    make_events(tmp_path, remark=np.array(["brand new words"] * 900, dtype=object))
    run("build", "main", "--as-of", AS_OF, "--home", home)
    assert earlier_terms(config.datasets["main"].path, catalogue_file) == chosen
    run("build", "main", "--as-of", AS_OF, "--renew-terms", "--home", home)
    assert earlier_terms(config.datasets["main"].path, catalogue_file)[0] == ("brand", "new", "words")


def test_a_leaky_catalogue_is_caught_and_a_sound_one_passes(tmp_path):
    rng = np.random.default_rng(5)
    issued = np.datetime64("2021-06-01", "D") + rng.integers(0, 800, 900)
    voided = np.datetime_as_string(issued + rng.integers(0, 90, 900)).astype(object)
    make_events(
        tmp_path, issued=issued.astype("datetime64[us]"), reported=issued.astype("datetime64[us]"), voided=voided
    )
    leaky = {"name": "leaky", "id_normaliser": "text", "tables": TABLES, "variables": [SUMS]}
    home = home_of(tmp_path, leaky)
    shown = run("check", "main", "--as-of", AS_OF, "--home", home, code=1)
    assert "leak inv: 2 variables change" in shown
    assert "name that column as `known`" in shown
    sound = {**leaky, "tables": {"inv": {**TABLES["inv"], "known": "voided"}}}
    (home / "catalogue.yaml").write_text(yaml.safe_dump(sound), encoding="utf-8")
    early = run("check", "main", "--as-of", AS_OF, "--home", home, code=0)
    assert "no leak found" in early
    planned = {**leaky, "tables": {"inv": {**TABLES["inv"], "planned": ["voided"]}}}
    (home / "catalogue.yaml").write_text(yaml.safe_dump(planned), encoding="utf-8")
    assert "no leak found" in run("check", "main", "--as-of", AS_OF, "--home", home)


def test_a_known_date_that_cannot_be_one_and_an_earlier_extract(tmp_path):
    make_events(tmp_path)
    swapped = catalogue([SUMS], {"inv": {**TABLES["inv"], "time": "reported", "known": "issued"}})
    assert any("known before they happened" in one.text and one.leaks for one in find_leaks(swapped, tmp_path, AS_OF))
    trusted = catalogue([SUMS], {"inv": {**TABLES["inv"], "known": None, "known_after": "0d"}})
    assert any("taken on trust" in one.text and not one.leaks for one in find_leaks(trusted, tmp_path, AS_OF))
    (tmp_path / "then").mkdir()
    changed = "CASE WHEN amount > 150 THEN 'valid' ELSE status END AS status"
    source, then = tmp_path / "inv.parquet", tmp_path / "then" / "inv.parquet"
    sql(f"COPY (SELECT * REPLACE ({changed}) FROM '{source}') TO '{then}'")
    found = find_leaks(catalogue([SUMS]), tmp_path, AS_OF, earlier=tmp_path / "then")
    assert [one.variables for one in found if one.leaks] == [("inv.amount.sum.90d[status=valid]",)]


def test_quality_of_variables_and_its_page(tmp_path):
    make_events(tmp_path)
    content = {
        "name": "q",
        "id_normaliser": "text",
        "tables": TABLES,
        "variables": [{**SUMS, "aggregate": ["sum", "mean"]}],
    }
    home = home_of(tmp_path, content)
    run("describe", "main", "--as-of", AS_OF, "--months", 2, "--home", home)
    quality = measure(load_catalogue(home / "catalogue.yaml"), tmp_path, AS_OF, months=2, terms=None)
    made = columns_of(build(catalogue(content["variables"]), tmp_path, tmp_path / "m.parquet", AS_OF).path)
    for one in quality.variables:
        values = made[one.name]
        assert one.missing == np.isnan(values).mean()
        assert (one.least, one.greatest) == (np.nanmin(values), np.nanmax(values))
        assert one.distinct == len(np.unique(values[~np.isnan(values)]))
        assert len(one.stability) == 2
        assert all(shift >= 0 for shift in one.stability)
    page = (home / "features" / "main.quality.html").read_text(encoding="utf-8")
    assert all(one.name in page for one in quality.variables)
    assert "<script" not in page
    assert len((home / "features" / "main.quality.csv").read_text(encoding="utf-8").splitlines()) == 5


def test_the_catalogue_is_part_of_what_is_approved(tmp_path):
    make_events(tmp_path)
    content = {"name": "bound", "id_normaliser": "text", "tables": TABLES, "variables": [SUMS]}
    home = home_of(tmp_path, content)
    entry = load_node_config(home).datasets["main"]
    with pytest.raises(RefusedError, match="not built from its catalogue; run `veilscore features build`"):
        check_built(entry, "data set 'main' of tax")
    run("build", "main", "--as-of", AS_OF, "--home", home)
    check_built(entry, "data set 'main' of tax")
    before = dataset_version(home, entry)
    (home / "catalogue.yaml").write_text("# a comment\n" + yaml.safe_dump(content), encoding="utf-8")
    assert dataset_version(home, entry) == before
    content["variables"] = [{**SUMS, "windows": ["91d"]}]
    (home / "catalogue.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert dataset_version(home, entry) != before
    with pytest.raises(RefusedError, match="not built from its catalogue"):
        check_built(entry, "data set 'main' of tax")
    assert "1 variables of" not in run("build", "main", "--as-of", AS_OF, "--home", home)
    rebuilt = dataset_version(home, entry)
    run("build", "main", "--as-of", AS_OF, "--home", home)
    assert dataset_version(home, entry) == rebuilt  # the same events give the same version


def test_event_tables_of_a_database_and_of_csv_give_the_same(tmp_path):
    make_events(tmp_path, n=200)
    sql(f"COPY (FROM '{tmp_path / 'inv.parquet'}') TO '{tmp_path / 'inv.csv'}' (HEADER)")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'events.db'}")
    types = {"issued": sa.Date, "reported": sa.Date, "amount": sa.Numeric(12, 2, asdecimal=True), "tax": sa.Float}
    names = [row[0] for row in sql(f"DESCRIBE FROM '{tmp_path / 'inv.parquet'}'")]
    table = sa.Table("inv", sa.MetaData(), *(sa.Column(n, types.get(n, sa.String)) for n in names))
    rows = [dict(zip(names, row, strict=True)) for row in sql(f"FROM '{tmp_path / 'inv.parquet'}'")]
    with engine.begin() as connection:
        table.create(connection)
        connection.execute(table.insert(), [{**r, "amount": r["amount"] and round(r["amount"], 2)} for r in rows])
    engine.dispose()
    asked = [{**SUMS, "aggregate": ["sum", "count", "distinct(buyer)"]}]
    (tmp_path / "inv.csv.gz").write_bytes(gzip.compress((tmp_path / "inv.csv").read_bytes()))
    sources = {
        "inv.parquet": tmp_path,
        "inv.csv": tmp_path,
        "inv.csv.gz": tmp_path,
        "inv": f"sqlite:///{tmp_path / 'events.db'}",
    }
    made = [
        columns_of(
            build(
                catalogue(asked, {"inv": {**TABLES["inv"], "source": name}}), source, tmp_path / "m.parquet", AS_OF
            ).path
        )
        for name, source in sources.items()
    ]
    for other in made[1:]:
        assert all(np.allclose(other[k], v) if k != "uscc" else (other[k] == v).all() for k, v in made[0].items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"variables": [{**SUMS, "table": "inb"}]}, "variables.1: there is no table 'inb'; did you mean 'inv'?"),
        ({"variables": [{**SUMS, "of": "amout"}]}, "'amout' is not in numbers of the table; did you mean 'amount'?"),
        ({"variables": [{**SUMS, "where": {"status": "vlid"}}]}, "'vlid' is not in the levels of status"),
        ({"variables": [{**SUMS, "aggregate": ["summ"]}]}, "aggregate 'summ' is unknown; did you mean 'sum'?"),
        ({"variables": [{**SUMS, "windows": ["all"], "aggregate": ["trend"]}]}, "trend needs windows of 60d or more"),
        ({"variables": [{**SUMS, "aggregate": ["distinct(seller)"]}]}, "'seller' is not in parties of the table"),
        ({"tables": {"inv": {**TABLES["inv"], "known": None}}}, "say when a row was known"),
        ({"tables": {"inv": {**TABLES["inv"], "source": "x.parquet"}}}, "there is no file"),
        ({"tables": {"inv": {**TABLES["inv"], "time": "isued"}}}, "no column 'isued'; did you mean 'issued'?"),
        ({"zone": "Mars/Base"}, "no such time zone"),
        ({"terms": [{"table": "inv", "of": "remark", "windows": ["30d"]}]}, "'remark' is not in texts of the table"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, change, said):
    make_events(tmp_path, n=50)
    home = home_of(
        tmp_path, {"name": "wrong", "id_normaliser": "text", "tables": TABLES, "variables": [SUMS], **change}
    )
    with pytest.raises((ConfigError, DataError)) as refusal:
        run("build", "main", "--as-of", AS_OF, "--home", home)
    assert said in str(refusal.value)
    assert "catalogue" in str(refusal.value)


def test_cells_that_are_no_dates_or_numbers_are_named_by_column_alone(tmp_path):
    make_events(tmp_path, n=50)
    for column, word in (("amount", "no number"), ("issued", "no date")):
        bad = f"CASE WHEN random() < 2 THEN 'SECRET' END AS {column}"
        sql(f"COPY (SELECT * REPLACE ({bad}) FROM '{tmp_path / 'inv.parquet'}') TO '{tmp_path / 'inv.csv'}' (HEADER)")
        broken = catalogue([SUMS], {"inv": {**TABLES["inv"], "source": "inv.csv"}})
        with pytest.raises(DataError, match=rf"column '{column}' of inv.csv is {word} in 50 rows") as refusal:
            build(broken, tmp_path, tmp_path / "m.parquet", AS_OF)
        assert "SECRET" not in str(refusal.value)


def test_plan_reads_no_event(tmp_path):
    home = home_of(tmp_path, {"name": "planned", "id_normaliser": "text", "tables": TABLES, "variables": [SUMS]})
    assert "2 variables" in run("plan", "main", "--home", home)
    assert "inv.amount.sum.90d[status=valid]" in run("plan", "--catalogue", home / "catalogue.yaml", "--all")
    with pytest.raises(ConfigError, match="no catalogue 'nowhere' is shipped"):
        run("plan", "--catalogue", "nowhere")
    assert not (home / "features").exists()
    assert json.loads(json.dumps(load_node_config(home).model_dump(mode="json")))["datasets"]["main"]["features"]
