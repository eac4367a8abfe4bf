"""Reports of a real job: figures against the plaintext, what each reader sees, what is said where data is absent."""

from __future__ import annotations

import datetime as dt
import shutil
import stat

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tests.conftest import shared_data
from veilscore.data.codes import CodeMap, ColumnMap
from veilscore.data.column_bins import NumberBins
from veilscore.errors import StateError
from veilscore.files.store import JobStore
from veilscore.models.filed import load_model
from veilscore.node.local import open_job
from veilscore.reports import report
from veilscore.reports import write as reporting
from veilscore.reports.bank import bank_report, range_label
from veilscore.reports.data import StepCost
from veilscore.reports.holder import holder_report
from veilscore.reports.page import render
from veilscore.tasks.context import StepContext
from veilscore.terms.job import parse_job
from veilscore.terms.node_config import DatasetConfig, NodeConfig
from veilscore.terms.policy import NodePolicy
from veilscore.wire.protocol import Session

HOLDERS = ("tax", "registry")
JOB = parse_job("""
name: kz
purpose: credit
task: train_scorecard
bank: bank
holders: [tax, registry]
datasets: {bank: d, tax: d, registry: d}
parameters: {max_bin: 5, disclosure: exact, max_openings: 12, bands: {A: 650, B: 600, C: 550, D: 0}}
""")


def with_parameters(**changes):
    return JOB.model_copy(update={"parameters": JOB.training.model_copy(update=changes)})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One job on real data, stopped before it converges."""
    folder = shared_data("kz_corporate")
    nodes = {
        party: NodeConfig(
            name=party,
            role="bank" if party == "bank" else "holder",
            datasets={
                "d": DatasetConfig(
                    path=folder / f"{party}.csv",
                    id_column="uscc",
                    label_column="default" if party == "bank" else None,
                )
            },
            policy=NodePolicy(accept="auto", exact_for={"bank": dt.date.max}),
        )
        for party in JOB.parties
    }
    return open_job(JOB, nodes, tmp_path_factory.mktemp("kz")).run()


@pytest.fixture(scope="module")
def bank(run):
    return bank_report(run.stores["bank"], JOB)


@pytest.fixture(scope="module")
def holders(run):
    return {party: holder_report(run.stores[party], JOB, party) for party in HOLDERS}


@pytest.fixture
def copied(run, tmp_path):
    """Copy of the bank's folder, to spoil."""
    return JobStore(shutil.copytree(run.stores["bank"].path, tmp_path / run.job_id))


def test_metrics_are_those_of_the_holdout_scores(run, bank):
    held = run.stores["bank"].load_arrays("holdout")
    joint, own = bank.evaluations
    assert (joint.kind, own.kind) == ("joint", "bank only")
    assert joint.discrimination.auc == pytest.approx(roc_auc_score(held["target"], -held["units"]), abs=1e-12)
    assert bank.improvement.auc == pytest.approx(joint.discrimination.auc - own.discrimination.auc, abs=1e-12)
    assert bank.improvement.standard_error > 0
    assert bank.calibration.observed == pytest.approx(held["target"].mean())
    assert sum(bank.distribution.good) + sum(bank.distribution.bad) == held["target"].size


def test_the_bank_only_score_is_the_plaintext_fit_of_the_banks_columns(run, bank):
    rows = run.stores["bank"].load_arrays("rows")
    columns = load_model(run.stores["bank"].path / "model.json").part("bank").columns
    X = np.stack(
        [np.array(c.woe)[rows["codes"][:, j]] for j, c in enumerate(columns) if c.coefficient is not None], axis=1
    )
    train, y = rows["train"], rows["target"]
    plain = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(X[train], y[train])
    expected = roc_auc_score(y[~train], plain.decision_function(X[~train]))
    assert bank.evaluations[1].discrimination.auc == pytest.approx(expected, abs=2e-3)


def test_bands_and_fifths_cut_the_holdout(run, bank, copied):
    assert [row.band for row in bank.cutoffs][:4] == ["A", "B", "C", "D"]
    assert sum(row.n for row in bank.cutoffs) == bank.job.n_holdout
    model = load_model(copied.path / "model.json").model_copy(update={"bands": {}})
    model.save(copied.path / "model.json")
    fifths = bank_report(copied, JOB).cutoffs
    assert fifths[0].band == "best fifth"
    assert fifths[-1].band == "worst fifth"
    assert fifths[0].bad_rate < fifths[-1].bad_rate


def test_bins_are_whole_and_named_only_where_the_bank_owns_them(run, bank):
    for column in bank.bins:
        codes = [code for cell in column.bins for code in cell.codes]
        assert sorted(codes) == list(range(len(codes)))
        assert sum(cell.share for cell in column.bins) == pytest.approx(1)
        assert all((cell.label is not None) == (column.party == "bank") for cell in column.bins)
    page = render(bank)
    public = {cell.label for column in bank.bins for cell in column.bins}
    for holder in HOLDERS:
        code_map = CodeMap.from_json(run.stores[holder].load_json("code_map"))
        labels = {label for name in code_map.names for label in code_map.labels(name)}
        assert not any(f">{name}<" in page for name in code_map.names)
        assert not any(f">{label}<" in page for label in labels - public)


@pytest.mark.parametrize(
    ("bins", "label"),
    [
        ([0, 1], "(-inf, 2]"),
        ([3, 1, 2], "(1, inf)"),
        ([0, 2, 3, 4], "(-inf, 1] or (2, inf) or missing"),
        ([4], "missing"),
    ],
)
def test_neighbouring_ranges_merged_by_the_bank_read_as_one(bins, label):
    column = ColumnMap("age", NumberBins((1.0, 2.0, 3.5)), np.array([3, 0, 4, 1, 2]), np.zeros(5, np.int64))
    assert range_label(column, column.permutation[bins].tolist()) == label


def test_the_bank_hears_what_to_look_at(bank):
    text = "\n".join(bank.warnings)
    assert "stopped at 12 openings" in text
    assert not bank.convergence.converged
    assert len(bank.convergence.gradient_norm) == 12
    assert {row.step for row in bank.learned} == {"align", "bin", "train", "evaluate", "monotone WOE", "association"}
    assert bank.job.holdout == "25% drawn at random within goods and bads, seed 0"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "`evaluate` has not finished"),
        ({"holdout_scores": False}, "holdout_scores: false"),
    ],
)
def test_without_holdout_scores_the_report_says_why(copied, changes, said):
    copied.delete("holdout")
    data = bank_report(copied, with_parameters(**changes))
    assert said in data.warnings[0]
    assert not data.evaluations
    assert data.calibration is None
    assert {row.step for row in data.learned} == {"align", "bin", "train", "monotone WOE", "association"}
    assert said in render(data)


def test_a_holdout_of_one_class_gives_no_metrics(copied):
    held = copied.load_arrays("holdout")
    copied.save_arrays("holdout", **{**held, "target": np.zeros_like(held["target"])})
    data = bank_report(copied, JOB)
    assert "one class only" in data.warnings[0]
    assert not data.evaluations


def test_weighted_rows_have_no_standard_error_of_the_gain(copied):
    held = copied.load_arrays("holdout")
    weight = np.where(held["target"] == 1, 0.5, 1.5)
    copied.save_arrays("holdout", **{**held, "weight": weight})
    data = bank_report(copied, JOB)
    expected = roc_auc_score(held["target"], -held["units"], sample_weight=weight)
    assert data.evaluations[0].discrimination.auc == pytest.approx(expected, abs=1e-12)
    assert data.improvement is None
    assert any("weights" in line for line in data.warnings)


def test_calibration_takes_the_prior_correction_back(bank, copied):
    model = load_model(copied.path / "model.json")
    moved = -2.0
    corrected = model.model_copy(
        update={
            "intercept": model.intercept + moved,
            "base_points": model.base_points - round(model.scaling.factor * moved),
        }
    )
    corrected.save(copied.path / "model.json")
    held = copied.load_arrays("holdout")
    copied.save_arrays("holdout", **{**held, "units": held["units"] - round(model.scaling.factor * moved)})
    data = bank_report(copied, with_parameters(population_bad_rate=0.12))
    assert data.calibration.predicted == pytest.approx(bank.calibration.predicted, abs=1e-3)
    assert any("0.12" in line for line in data.warnings)


def test_a_holder_sees_its_own_columns_and_no_outcome(run, holders):
    for party, data in holders.items():
        code_map = CodeMap.from_json(run.stores[party].load_json("code_map"))
        assert [c.column for c in data.bins] == [f"{n} ({party}.c{j + 1})" for j, n in enumerate(code_map.names)]
        for column, name in zip(data.bins, code_map.names, strict=True):
            assert {(cell.codes[0], cell.label) for cell in column.bins} == set(enumerate(code_map.labels(name)))
            assert sum(cell.share for cell in column.bins) == pytest.approx(1)
        own = next(p for p in data.parties if p.name == party)
        assert "12 steps of training" in own.detail
        assert "helped to score" in own.detail
        assert data.stability.columns
        page = render(data)
        assert "AUC" not in page
        assert "Bad rate" not in page


def test_merged_joins_the_views_under_the_holders_names(bank, holders):
    merged = reporting.merged_report(bank, list(holders.values()))
    assert all(cell.label is not None for column in merged.bins for cell in column.bins)
    titles = {c.column for data in holders.values() for c in data.bins}
    assert {row.column for row in merged.model.rows if row.party in HOLDERS} <= titles
    assert {c.column for c in merged.stability.columns if c.party in HOLDERS} <= titles
    assert "This is a merged report" in render(merged)


def test_reports_are_written_privately_and_costs_come_later(run, tmp_path):
    for party, role in (("bank", "bank"), ("tax", "holder")):
        store = JobStore(shutil.copytree(run.stores[party].path, tmp_path / party / run.job_id))
        session = Session(f"{run.job_id}/evaluate/1", party, JOB.bank, JOB.holders)
        reporting.write_reports(StepContext(session, role, JOB, run.nodes[party], store))
        for name in ("report.json", "report.html"):
            assert stat.S_IMODE((store.path / name).stat().st_mode) == 0o600
        before = report.read_report(store.path / "report.json")
        costs = [StepCost(step="train", party=p, seconds=1.5, bytes_sent=2_500_000) for p in ("bank", "tax")]
        page = reporting.add_costs(store.path / "report.json", costs).read_text(encoding="utf-8")
        after = report.read_report(store.path / "report.json")
        assert [cost.party for cost in after.costs] == (["bank", "tax"] if role == "bank" else ["tax"])
        assert after.bins == before.bins
        assert "2.5\u00a0MB" in page


def test_a_folder_without_the_steps_files_is_refused(tmp_path):
    with pytest.raises(StateError, match="nothing saved as 'rows'"):
        bank_report(JobStore(tmp_path), JOB)
    with pytest.raises(StateError, match="run the step that makes it"):
        holder_report(JobStore(tmp_path), JOB, "tax")


def test_calibration_is_that_before_recalibration_on_the_same_rows(bank, copied):
    model = load_model(copied.path / "model.json")
    recalibrated = model.calibration.model_copy(update={"slope": 0.8, "intercept": -0.1})
    model.model_copy(update={"calibration": recalibrated}).save(copied.path / "model.json")
    data = bank_report(copied, JOB)
    assert data.calibration == bank.calibration
    assert any("slope 0.800, intercept -0.100" in line for line in data.warnings)
