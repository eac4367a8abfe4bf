"""A private screening as a job: what it files, what it spends, what the plan says, and what a training makes of it."""

import csv
import json

import numpy as np
import pytest
from local_jobs import firms, job, nodes, take, write

from veilscore.cli import app
from veilscore.data.codes import CodeMap
from veilscore.errors import RefusedError
from veilscore.node.local import open_job
from veilscore.release.account import FILE, accounts
from veilscore.tasks import align, best_columns, screened
from veilscore.tasks.table import leakage_table
from veilscore.terms.parameters import ScreenFeatures
from veilscore.terms.privacy import PrivacyRules

PRIVATE = {"disclosure": "private", "max_columns": 6}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, parts = tmp_path_factory.mktemp("screening"), firms(4000, seed=5)
    rng, n = np.random.default_rng(5), len(parts["tax"]["firm"])
    parts["tax"] |= {f"noise_{k:02d}": np.round(rng.normal(size=n), 3).tolist() for k in range(60)}
    write(folder / "data", parts)
    return open_job(job("screen_features", name="wide", **PRIVATE), nodes(folder / "data"), folder / "homes").run()


def kept_at(run, party):
    return json.loads((run.stores[party].path / "kept.json").read_text())


def test_the_columns_that_tell_are_among_the_best(run):
    kept = kept_at(run, "tax")["columns"]
    assert 1 <= len(kept) <= 6
    assert {"turnover", "arrears"} & set(kept)


def test_the_bank_learns_which_columns_are_kept_and_no_figure_of_a_holder(run):
    body = json.loads((run.stores["bank"].path / "screening.json").read_text())
    tax = [row for row in body["columns"] if row["party"] == "tax"]
    assert len(tax) > 60
    assert [row["name"] for row in tax if row["kept"]] == kept_at(run, "tax")["aliases"]
    assert all(row[figure] is None for row in tax for figure in ("iv", "missing_rate", "stability"))
    assert {row["reason"] for row in tax} == {"", "not among the 6 best (chosen with noise)"}
    assert any(row["iv"] for row in body["columns"] if row["party"] == "bank")
    with (run.stores["bank"].path / "screening.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(body["columns"])


def test_a_holder_with_few_columns_keeps_all_and_is_not_charged(run):
    lines = {}
    for holder in run.job.holders:
        home = run.stores[holder].path.parent.parent
        lines[holder] = [line for account in accounts(home / FILE, PrivacyRules()) for line in account.lines()]
    assert [(x.step, x.charge.opening, x.charge.rows, x.charge.mu2) for x in lines["tax"]] == [
        ("screen", "columns", "all", 0.25)
    ]
    assert not lines["registry"]
    assert len(kept_at(run, "registry")["columns"]) <= 6


def test_a_private_training_takes_the_columns_kept(run):
    folder = run.stores["bank"].path.parents[3]
    asked = {"columns_from": "wide", "disclosure": "private", "holdout_scores": False, "mu": 0.3}
    training = open_job(job(name="card", **asked), run.nodes, folder / "homes")
    training.step("align")
    training.step("bin")
    names = CodeMap.from_json(training.stores["tax"].load_json("code_map")).names
    assert set(names) <= set(kept_at(run, "tax")["columns"])


def test_more_than_a_policy_allows_is_refused(run, tmp_path):
    folder = run.stores["bank"].path.parents[3]
    with pytest.raises(RefusedError, match=r"asks for 0\.7; lower mu"):
        open_job(job("screen_features", mu=0.7, **PRIVATE), run.nodes, tmp_path / "homes")
    configs = nodes(folder / "data", holder_policy={"exact_for": {}})
    with pytest.raises(RefusedError, match="refuses exact sums"):
        open_job(job("screen_features"), configs, tmp_path / "others")


def test_the_table_says_how_much(run):
    rows = {row.step: row for row in leakage_table(run.job.parameters)}
    assert rows["screen"].how_much == "mu 0.50"
    assert "among the best" in rows["screen"].bank
    assert ScreenFeatures().private


def test_the_plan_says_what_a_column_must_tell(run, tmp_path, capsys):
    path = tmp_path / "job.json"
    path.write_text(run.job.canonical().decode())
    rows = ["--rows", "bank=4000", "--bads", "900", "--columns", "tax=63", "--columns", "registry=2"]
    app(["job", "plan", str(path), *rows], standalone_mode=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "Of tax the best 6 of 63 columns are kept: a column that alone has an AUC of 0.5" in said
    assert "Of registry all 2 columns are kept" in said
    assert "bin (once" not in said


@pytest.mark.parametrize("parameters", [PRIVATE, {"disclosure": "exact"}])
def test_chunks_of_columns_do_not_tell_of_one_firm_more(tmp_path, monkeypatch, parameters):
    """Their number followed from the true number of rows, where the padded one is all that a bank may learn."""
    monkeypatch.setattr(best_columns, "CHUNK_VALUES", 1000)
    monkeypatch.setattr(screened, "CHUNK_VALUES", 1000)
    monkeypatch.setattr(align, "size_offset", lambda *_: 0)
    parts, sent = firms(700, seed=5), []
    for n in (500, 501):
        world = tmp_path / str(n)
        write(world / "data", parts | {"tax": take(parts["tax"], range(n))})
        asked = job("screen_features", name="wide", **parameters)
        run = open_job(asked, nodes(world / "data"), world / "homes", keep=True).run()
        sent.append([e.kind for e in run.transcripts["tax"].entries if (e.sender, e.recipient) == ("tax", "bank")])
    assert "ScreenHolderChunk" in sent[0]
    assert sent[0] == sent[1]
