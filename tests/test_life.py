"""Simulated lives of firms: seeded, block by block, and what the shipped catalogues make of them."""

from __future__ import annotations

import hashlib
import json

import duckdb
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.data import life
from veilscore.data.ids import check_ids
from veilscore.errors import ConfigError
from veilscore.features.build import build
from veilscore.features.catalogue import find_catalogue, shipped_catalogues
from veilscore.features.leaks import find_leaks

AS_OF = "2025-01-01"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("life")
    life.simulate_life(where, 1_500, 3)
    return where


FROZEN = {
    "bank/balances.parquet": "66e991c81869fa2c",
    "bank/bookings.parquet": "916c53a3defeb6a3",
    "bank/defaults.parquet": "9634d1781cacb685",
    "bank/loans.parquet": "56e7c8824ff709d2",
    "bank/repayments.parquet": "32a6535cd3ad9fc7",
    "bureau/enquiries.parquet": "0dd0a691f0c1c29e",
    "bureau/trade_lines.parquet": "57852c1470d25604",
    "court/cases.parquet": "e5829d2085e9cc5b",
    "court/dishonest_list.parquet": "1373fc1aedc54fb5",
    "court/enforcement.parquet": "8297319f2a63b8f2",
    "registry/annual_reports.parquet": "8da103770eec135d",
    "registry/changes.parquet": "a93a7f0cb14e6394",
    "registry/firms.parquet": "ef78b92bfa43c2a5",
    "registry/patents.parquet": "2e6167731be8a2bb",
    "registry/penalties.parquet": "705414ccfac75fa8",
    "tax/filings.parquet": "0dbe1d8ca8ad132a",
    "tax/invoices.parquet": "858f2a6161c71120",
    "truth/hazard.parquet": "a7859cae8842de50",
}


def digests(folder):
    """A digest of the values of each table, whatever wrote the file; fractions to a thousandth."""
    found = {}
    for path in sorted(folder.rglob("*.parquet")):
        digest = hashlib.sha256()
        for name, values in duckdb.execute(f"SELECT * FROM '{path}'").fetchnumpy().items():
            plain = np.ma.filled(np.round(values.astype(float), 3), np.nan) if values.dtype.kind == "f" else values
            digest.update(f"{name} {len(plain)} {plain.tolist()}".encode())
        found[path.relative_to(folder).as_posix()] = digest.hexdigest()[:16]
    return found


def test_the_simulation_is_frozen(folder):
    """Goals of what is built on it cannot be met by tuning it: a change of these values is a new simulation."""
    assert digests(folder) == FROZEN


def rows(statement):
    return duckdb.execute(statement).fetchall()


def test_the_same_seed_gives_the_same_tables_and_blocks_are_like_each_other(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(life, "BLOCK", 1_500)
    life.simulate_life(tmp_path / "again", 1_500, 3)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.parquet"))
    assert len(files) == 18
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    with pytest.raises(ConfigError, match="1,000 to 300,000"):
        life.simulate_life(tmp_path / "few", 10, 1)


def test_the_truth_tells_the_hazard_and_who_fails(folder):
    truth = json.loads((folder / "truth" / "truth.json").read_text(encoding="utf-8"))
    hazard = duckdb.execute(f"SELECT * FROM '{folder / 'truth' / 'hazard.parquet'}'").fetchnumpy()
    assert abs(hazard["hazard"].mean() - truth["mean_hazard"]) < 1e-6
    assert hazard["fails"].sum() == truth["failed"] > 50
    check_ids(np.unique(hazard["uscc"].astype(str)))
    at_risk = ~hazard["failed_before"]
    expected = hazard["hazard"][at_risk].sum()
    assert abs(hazard["fails"].sum() - expected) < 4 * np.sqrt(expected)
    assert 0.65 < truth["auc_of_hazard_at_24_months_for_the_third_year"] < 0.9


def test_events_tell_of_what_they_should(folder):
    invoices = f"'{folder / 'tax' / 'invoices.parquet'}'"
    ((voided, late),) = rows(
        f"SELECT count(*), count(*) FILTER (v.reported_on > o.reported_on) FROM {invoices} v JOIN {invoices} o "
        f"USING (uscc, invoice_no) WHERE v.status = 'void' AND o.status != 'void'"
    )
    assert voided == late > 100
    assert rows(f"SELECT count(*) FROM {invoices} WHERE (status = 'red') != (amount < 0) AND status != 'void'") == [
        (0,)
    ]
    assert rows(f"SELECT count(*) FROM {invoices} WHERE issued_on > reported_on") == [(0,)]
    cases = f"'{folder / 'court' / 'cases.parquet'}'"
    ((chinese, english),) = rows(
        f"SELECT count(*) FILTER (content LIKE '%元%'), count(*) FILTER (content LIKE '% yuan%') FROM {cases}"
    )
    assert chinese > english > 10
    ((before, after),) = rows(
        f"SELECT count(*) FILTER (paid_on < defaulted_on - 120), count(*) FILTER (paid_on > defaulted_on) "
        f"FROM '{folder / 'bank' / 'repayments.parquet'}' JOIN '{folder / 'bank' / 'defaults.parquet'}' USING (uscc)"
    )
    assert before > 0 == after


@pytest.mark.parametrize(
    "holder",
    [pytest.param(h, marks=pytest.mark.slow) if h in {"tax", "registry"} else h for h in life.HOLDERS],
)
def test_every_shipped_catalogue_builds_and_does_not_leak(folder, tmp_path, holder):
    assert set(shipped_catalogues()) == set(life.HOLDERS)
    catalogue = find_catalogue(holder)
    made = build(catalogue, folder / holder, tmp_path / f"{holder}.parquet", AS_OF)
    assert len(made.variables) > 150
    assert made.n_rows > 250
    assert [one for one in find_leaks(catalogue, folder / holder, AS_OF) if one.leaks] == []


def test_the_command_writes_a_folder_for_each_holder(tmp_path):
    said = CliRunner().invoke(app, ["simulate", str(tmp_path / "life"), "--life", "--firms", "1000", "--seed", "2"])
    assert said.exit_code == 0, said.output
    assert "mean_hazard" in said.stdout
    assert {path.name for path in (tmp_path / "life").iterdir()} == {*life.HOLDERS, "truth"}


@pytest.mark.slow
def test_variables_of_all_holders_together_foresee_failures_better_than_the_banks_alone(tmp_path):
    """Distress shows at every holder; the true hazard is the most that anybody could know."""
    life.simulate_life(tmp_path, 12_000, 5)
    truth = f"'{tmp_path / 'truth' / 'hazard.parquet'}'"
    database = duckdb.connect()
    database.execute(
        f"CREATE TABLE label AS SELECT uscc, max(fails::INT) AS bad, any_value(hazard) FILTER (month = '{AS_OF}') AS h "
        f"FROM {truth} WHERE month >= '{AS_OF}' AND uscc IN "
        f"(SELECT uscc FROM {truth} WHERE month = '{AS_OF}' AND NOT failed_before AND loan_open) GROUP BY uscc"
    )
    for holder in life.HOLDERS:
        build(find_catalogue(holder), tmp_path / holder, tmp_path / f"{holder}.parquet", AS_OF)
    bad, oracle = (database.execute("SELECT bad, h FROM label ORDER BY uscc").fetchnumpy()[c] for c in ("bad", "h"))

    def auc(holders):
        parts = []
        for holder in holders:
            joined = (
                f"SELECT b.* FROM label LEFT JOIN '{tmp_path / f'{holder}.parquet'}' b USING (uscc) ORDER BY label.uscc"
            )
            columns = database.execute(joined).fetchnumpy()
            numbers = [v for k, v in columns.items() if k != "uscc" and v.dtype.kind in "if"]
            parts += [np.nan_to_num(np.ma.filled(v.astype(float), 0)) for v in numbers]
        x = np.column_stack(parts)
        x = np.sign(x) * np.log1p(np.abs(x))
        train = np.arange(len(bad)) % 2 == 0
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=2000)).fit(x[train], bad[train])
        return roc_auc_score(bad[~train], model.decision_function(x[~train]))

    alone, together, best = auc(["bank"]), auc(life.HOLDERS), roc_auc_score(bad, oracle)
    assert 0.6 < alone < together < best
