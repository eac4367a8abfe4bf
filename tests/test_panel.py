"""Rows that are firms at dates: reading, alignment, jobs and scoring; the unit of what is counted stays the firm."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from veilscore.api import JointBoosting, JointScorecard
from veilscore.cli import app
from veilscore.data.ingest import read_table
from veilscore.data.panel import drawn, most_rows, newest, numbered
from veilscore.data.table import make_table
from veilscore.errors import ConfigError, IdError, MessageError, RefusedError
from veilscore.node.local import open_job
from veilscore.protocols.align import AlignLimits, bank_align, holder_align
from veilscore.tasks import panel
from veilscore.tasks.align import _limits
from veilscore.tasks.context import split
from veilscore.tasks.panel import held_out, rows_taken
from veilscore.terms.job import Job, parse_job
from veilscore.terms.node_config import NodeConfig, load_node_config
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session

DAYS = [f"2025-{month:02d}-28" for month in range(1, 13)]
KEY = ("firm", "as_of")


def world(n_firms=400, n_days=6, seed=3):
    """Bank and tax bureau with several dates of each firm; both columns change with time, and so does the label."""
    rng = np.random.default_rng(seed)
    firm, day = np.repeat(np.arange(n_firms), n_days), np.tile(np.arange(n_days), n_firms)
    own, other = rng.normal(size=firm.size), rng.normal(size=firm.size)
    bad = rng.random(firm.size) < 1 / (1 + np.exp(1.2 - own - 1.5 * other))
    ids, days = np.char.add("firm ", firm.astype(str)), np.array(DAYS)[day]
    bank = {"firm": ids, "as_of": days, "own": own, "default": bad.astype(float)}
    known = rng.permutation(np.flatnonzero(firm % 20 != 0))
    tax = {"firm": ids[known], "as_of": days[known], "other": other[known]}
    return bank, tax


def panel_job(task="train_scorecard", **parameters) -> Job:
    parameters = {"id_normaliser": "text", "rows": "firm_dates", **parameters}
    body = {"name": "p", "purpose": "panels", "task": task, "bank": "bank", "holders": ["tax"]}
    return Job.model_validate({**body, "datasets": {"bank": "d", "tax": "d"}, "parameters": parameters})


def table_of(bank):
    return make_table(bank["firm"], {"own": bank["own"]}, bank["default"], days=bank["as_of"], normaliser="text")


def test_a_file_of_firms_at_dates_is_read_with_both_as_its_key(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("firm,as_of,x\na,2025-01-31,1\nb,2025-01-31,2\na,2025-02-28,3\n")
    with pytest.raises(IdError, match="1 duplicate"):
        read_table(path, "firm", normaliser="text")
    table = read_table(path, KEY, normaliser="text")
    assert table.ids.tolist() == ["a@2025-01-31", "b@2025-01-31", "a@2025-02-28"]
    assert table.firms.tolist() == ["a", "b", "a"]
    assert list(table.columns) == ["x"]
    assert table.take(np.array([2])).firms.tolist() == ["a"]
    path.write_text(path.read_text().replace("2025-02-28", "2025-01-31"))
    with pytest.raises(IdError, match=r"1 of the same firm and date \(row 3\): keep one row per firm and date"):
        read_table(path, KEY, normaliser="text")


def test_draws_are_of_firms():
    bank, _ = world(60)
    table = table_of(bank)
    firm = numbered(table.firms)
    assert firm.tolist() == np.repeat(np.arange(60), 6).tolist()
    kept = drawn(firm, 2, np.random.default_rng(0))
    assert np.bincount(firm[kept]).tolist() == [2] * 60
    assert set(table.panel.days[kept].astype(str)) == set(DAYS[:6])  # no date is preferred
    assert set(table.panel.days[newest(table.panel)].astype(str)) == {DAYS[5]}


@pytest.mark.parametrize("k", [1, 3])
def test_whole_firms_are_held_out_and_few_rows_of_each_take_part(k):
    bank, _ = world()
    p = panel_job(rows_per_firm=k)
    taken = rows_taken(table_of(bank), p.parameters)
    train = split(taken, p)
    assert most_rows(numbered(taken.firms)) == k
    assert not np.intersect1d(taken.firms[train], taken.firms[~train]).size
    assert 0.15 < 1 - train.mean() < 0.35
    assert np.array_equal(~train, held_out(taken.firms, p.parameters))


def test_a_hold_out_by_date_takes_later_dates_of_other_firms():
    bank, _ = world()
    p = panel_job(rows_per_firm=6, holdout_from="2025-05-01")
    taken = rows_taken(table_of(bank), p.parameters)
    train = split(taken, p)
    assert (taken.dates[train] < np.datetime64("2025-05-01")).all()
    assert (taken.dates[~train] >= np.datetime64("2025-05-01")).all()
    assert not np.intersect1d(taken.firms[train], taken.firms[~train]).size


def test_the_padded_size_hides_a_firm_of_many_rows():
    context = SimpleNamespace(node=NodeConfig(name="tax", role="holder"))
    for n_days, step in ((1, 1000), (4, 4000), (6, 8000)):
        assert _limits(context, table_of(world(20, n_days)[0]).panel).size_step == step


def test_a_job_says_what_its_rows_are():
    text = "{name: p, purpose: x, task: %s, bank: b, holders: [t], datasets: {b: d, t: d}, parameters: %s}"
    for task, parameters, said in (
        ("train_scorecard", "{rows_per_firm: 3}", "rows_per_firm is for rows: firm_dates"),
        ("train_scorecard", "{firm_weight: shared}", "firm_weight: shared is for scorecards on rows: firm_dates"),
        ("train_boosting", "{rows: firm_dates, firm_weight: shared}", "is for scorecards"),
        (
            "train_scorecard",
            "{rows: firm_dates, holdout_from: 2025-05-01, holdout_fraction: 0}",
            "give it as well",
        ),
        ("score_batch", "{model: m, dates: all}", "dates is for rows: firm_dates"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_job(text % (task, parameters))


def auc_of(model, n_firms, n_days):
    model.fit(*parties(world(n_firms, n_days)), id=KEY)
    return model.score(*parties(world(200, n_days, seed=8)))


def parties(made):
    bank, tax = made
    return bank, {"tax": tax}


def test_a_scorecard_on_firms_at_dates():
    """Exact, so that what is checked is the panel: matched by date, scored at every date, minimum counts by firm."""
    options = {"rows": "firm_dates", "disclosure": "exact", "id_normaliser": "text"}
    card = JointScorecard(rows_per_firm=4, max_bin=5, **options)
    assert auc_of(card, 220, 4) > 0.8  # another date of a firm is of no use: columns are drawn anew at each
    assert card.report_.data.improvement.auc > 0.1
    assert any(row.step == "align, of firms at dates" for row in card.leakage_)
    paths = sorted(card._fitted.home.glob("bank/jobs/*/scores.csv"))
    with paths[-1].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 800
    assert rows[7]["id"] == "firm 1@2025-04-28"
    firms = make_table(["a", "b"], {"own": [1.0, 2.0]}, [0, 1], normaliser="text")
    with pytest.raises(ConfigError, match="two columns, of firms and of days"):
        JointScorecard(**options).fit(firms, {"tax": world()[1]}, id=KEY)


OPTIONS = {"rows": "firm_dates", "id_normaliser": "text", "despite_noise": True}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(JointScorecard(rows_per_firm=3, firm_weight="shared", **OPTIONS), id="shared weights"),
        pytest.param(JointScorecard(**OPTIONS), id="one date", marks=pytest.mark.slow),
        pytest.param(JointBoosting(**OPTIONS), id="trees", marks=pytest.mark.slow),
    ],
)
def test_private_models_of_firms_at_dates(model):
    """One date of each firm, or all of them with its weight shared: the noise is that of one row."""
    assert auc_of(model, 1500, 3) > 0.65
    assert model.report_.data.job.n_train > 0


def test_a_holder_counts_no_more_held_out_rows_of_a_firm_than_the_noise_is_for(monkeypatch):
    """Weights are shared in training; each held-out row counts in full, hence one of a firm, which may be forgotten."""
    monkeypatch.setattr(panel, "Training", SimpleNamespace)
    model = JointScorecard(rows_per_firm=3, firm_weight="shared", **OPTIONS)
    with pytest.raises(RefusedError, match="3 held-out rows of a firm counted, the noise is for 1"):
        model.fit(*parties(world(1500, 3)), id=KEY)


def test_a_job_has_variables_made_at_its_firms_own_dates(tmp_path):
    """The holder's file is as of one day; the job names the days of its rows, and only pairs in common are built."""
    rng = np.random.default_rng(2)
    firms, days = [f"firm {k}" for k in range(120)], ["2025-03-01", "2025-06-01", "2025-09-01"]
    ages = rng.integers(1, 300, 4000)
    events = {
        "uscc": rng.choice(firms, 4000),
        "paid_on": np.datetime64("2025-09-10") - ages,
        "amount": rng.exponential(9, 4000),
    }
    tables = {"paid": {"source": "paid.csv", "firm": "uscc", "time": "paid_on", "known_after": "0d"}}
    tables["paid"]["numbers"] = ["amount"]
    sums = {"table": "paid", "of": "amount", "windows": ["90d"], "aggregate": ["sum", "count"]}
    catalogue = {"name": "paid", "id_normaliser": "text", "tables": tables, "variables": [sums]}
    bank = {"uscc": np.repeat(firms[10:], 3), "as_of": np.tile(days, 110), "own": rng.normal(size=330)}
    bank["default"] = (np.arange(330) % 3 == 1).astype(float)
    homes = {}
    for party, columns in (("tax", events), ("bank", bank)):
        homes[party] = tmp_path / party
        homes[party].mkdir(mode=0o700)
        name = "paid.csv" if party == "tax" else "bank.csv"
        rows = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        (homes[party] / name).write_text("\n".join(rows) + "\n")
    (homes["tax"] / "paid.yaml").write_text(json.dumps(catalogue))
    source = {"catalogue": "paid.yaml", "events": "."}
    datasets = {
        "tax": {"path": "made.parquet", "id_columns": ["uscc", "as_of"], "features": source},
        "bank": {"path": "bank.csv", "id_columns": ["uscc", "as_of"], "label_column": "default"},
    }
    policy = {"accept": "auto", "min_overlap": 1, "exact_for": {"bank": "9999-12-31"}, "release": {"control": "off"}}
    for party, entry in datasets.items():
        role = "bank" if party == "bank" else "holder"
        node = {"name": party, "role": role, "datasets": {"d": entry}, "policy": policy}
        (homes[party] / "node.yaml").write_text(json.dumps(node))
    said = CliRunner().invoke(app, ["features", "build", "d", "--as-of", "2025-09-01", "--home", str(homes["tax"])])
    assert "120 firms at dates as of 2025-09-01" in " ".join(said.stdout.split())
    nodes = {party: load_node_config(home) for party, home in homes.items()}
    job = panel_job(rows_per_firm=3, disclosure="exact", min_iv=0, holdout_fraction=0, as_of=days)
    run = open_job(job, nodes, tmp_path)
    run.step("align")
    run.step("bin")
    row_of = run.stores["tax"].load_arrays("row_of")["row_of"]
    assert (row_of >= 0).all()
    made = read_table(run.stores["tax"].path / "pairs.parquet", ("uscc", "as_of"), normaliser="text")
    assert made.n_rows == 330
    keys = make_table(bank["uscc"], {"own": bank["own"]}, days=bank["as_of"], normaliser="text").ids
    assert np.array_equal(made.ids[row_of], keys)
    for row in (0, 100, 329):
        firm, day = keys[row].split("@")
        own = events["amount"][
            (events["uscc"] == firm)
            & (events["paid_on"] < np.datetime64(day))
            & (events["paid_on"] >= np.datetime64(day) - 90)
        ]
        assert made.columns["paid.amount.sum.90d"][row_of[row]] == pytest.approx(own.sum())
    assert run.stores["tax"].load_json("columns")["names"]


@pytest.mark.parametrize(("firm", "dated"), [(None, True), (np.array([0, 0, 1]), False)])
def test_a_bank_and_a_holder_whose_rows_are_not_alike_do_not_align(firm, dated):
    sessions = {party: Session("job/align/1", party, "bank", ("tax",)) for party in ("bank", "tax")}
    limits = AlignLimits(size_step=10)
    roles = {
        "bank": bank_align(sessions["bank"], "tax", ["a@1", "a@2", "b@1"], limits, firm=firm),
        "tax": holder_align(sessions["tax"], ["a@1", "b@1"], dated=dated, limits=limits),
    }
    with pytest.raises(MessageError, match="firms of rows are missing, too many, or were not asked for"):
        simulate(roles, sessions)
