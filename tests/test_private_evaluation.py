"""The evaluation of a private job: noised counts alone are opened, charged, audited, shown with their error bars."""

import numpy as np
import pytest
from chances import of_deviation_one
from local_jobs import firms, job, nodes, write
from rich.console import Console
from trial_audit import audit, audited_run

from veilscore.cli.measures import show_counts, show_measures
from veilscore.cli.planning import planned, show_plan
from veilscore.errors import ConfigError, DataError, RefusedError
from veilscore.models import curve_tables, metrics
from veilscore.models.curve import NoisedCurve, plain_counts, sensitivity
from veilscore.models.filed import load_model
from veilscore.node.local import open_job
from veilscore.reports.report import read_report
from veilscore.tasks.context import account_of
from veilscore.tasks.curve import load_curve
from veilscore.tasks.table import charges_of, leakage_table, step_of
from veilscore.terms.bands import Bands
from veilscore.terms.privacy import total

BANDS = {"A": 540, "B": 515, "C": 495}
ASKED = {
    "disclosure": "private",
    "mu": 1.0,
    "bands": BANDS,
    "calibrate": True,
    "weights": True,
    "holdout_fraction": 0.4,
}
SPENDER = {"privacy": {"job": 1.0, "year": 3.0}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curve")
    configs = nodes(write(folder / "data", firms(2600, seed=6)), holder_policy=SPENDER)
    return open_job(job(**ASKED), configs, folder / "homes", keep=True, audited=True).run()


@pytest.fixture(scope="module")
def exact(run):
    """Totals and labels of the hold-out, from everybody's files."""
    store = run.stores["bank"]
    card, rows = load_model(store.path / "model.json"), store.load_arrays("rows")
    units = card.own_units(rows["codes"]).astype(np.int64)
    for part in card.parts[1:]:
        codes = run.stores[part.party].load_arrays("rows")["codes"].astype(int)
        units += part.points[codes + np.concatenate(([0], np.cumsum(part.n_codes)))[:-1]].sum(axis=1)
    return units[~rows["train"]], rows["target"][~rows["train"]] == 1


def test_the_bank_gets_the_counts_of_its_model_but_for_the_noise(run, exact):
    kept = run.stores["bank"].load_arrays("curve")
    curve, plain = load_curve(kept), plain_counts(*exact, tuple(kept["limits"].tolist()))
    assert curve.sigma == pytest.approx(sensitivity() / 1.0)
    assert of_deviation_one((curve.counts - plain) / curve.sigma)
    assert np.array_equal(curve.known, plain.sum(axis=1))
    assert set(Bands.of({k: float(v) for k, v in BANDS.items()}, 100).limits) <= set(kept["limits"].tolist())
    assert not run.stores["bank"].has("holdout")
    kinds = {entry.kind for entry in run.transcripts["bank"].entries}
    assert "CurveLeadCounts" in kinds
    assert not kinds & {"BatchCoordinatorTotal", "BandLeadDecoding"}


def test_every_holder_is_charged_once_and_the_job_costs_no_more_for_it(run):
    for holder in run.job.holders:
        home = run.stores[holder].path.parent.parent
        (line,) = [x for x in account_of(home, run.nodes[holder], run.job).lines() if x.step == "evaluate"]
        assert (line.charge.opening, line.charge.rows, line.charge.mu2) == ("curve", "holdout", 1.0)
    assert total(charges_of(run.job.parameters)) == pytest.approx(1.0)


def test_the_audit_confirms_every_step_and_finds_a_label_that_was_changed(run, tmp_path):
    found = audit(run)
    assert {key: f.verdict for key, f in found.items()} == dict.fromkeys(
        ("align.1", "bin.1", "train.1", "evaluate.1"), "confirmed"
    ), found
    asked = {**ASKED, "bands": {}, "mu": 0.5}
    other = audited_run(tmp_path, parts=firms(700, seed=7), **asked)
    for step in ("align", "bin", "train"):
        other.step(step)
    store = other.stores["bank"]
    rows = store.load_arrays("rows")
    held = np.flatnonzero(~rows["train"])
    rows["target"][held[:1]] ^= 1
    store.save_arrays("rows", **rows)
    other.step("evaluate")
    finding = audit(other)["evaluate.1"]
    assert finding.verdict == "differs"
    assert "rows.npz is not what step bin gives" in finding.detail


def test_every_message_is_in_the_table_and_the_table_says_what_is_told(run):
    p = run.job.parameters
    assert run.job.coordinator not in run.job.parties_of("evaluate")
    rows = {(leak.kind, leak.to) for leak in step_of(run.job, "evaluate").learns}
    seen = set()
    for party, transcript in run.transcripts.items():
        roles = {"bank"} if party == "bank" else {"holder", "lead"} if party == "tax" else {"holder"}
        for entry in transcript.entries:
            if entry.recipient == party and entry.session.split("/")[1] == "evaluate":
                matching = {(entry.kind, role) for role in roles} & rows
                assert matching, f"{entry.kind} to {party} is not in the table"
                seen |= matching
    assert seen == rows
    (row,) = [row for row in leakage_table(p) if row.step == "evaluate"]
    assert "noised counts of goods and bads" in row.bank
    assert "points" not in row.bank


def test_the_report_and_job_show_have_error_bars(run, exact):
    store = run.stores["bank"]
    report, page = read_report(store.path / "report.json"), (store.path / "report.html").read_text()
    joint, alone = report.evaluations
    units, bad = exact
    d, table = joint.discrimination, metrics.score_table(bad.astype(int), units, points=True)
    assert abs(d.auc - table.auc()) < 6 * d.auc_noise + 0.01
    assert abs(d.ks - table.ks().value) < 6 * d.ks_noise + 0.03
    assert d.auc_noise < d.auc_se < 2 * table.auc_se() + d.auc_noise
    assert alone.discrimination.auc_noise is None
    assert [c.band for c in report.cutoffs] == ["A", "B", "C", "below all bands"]
    for row in report.cutoffs:
        inside = (units >= -(1 << 40) if row.low is None else units >= 100 * row.low) & (
            units < (1 << 40) if row.high is None else units < 100 * row.high
        )
        assert abs(row.n - inside.sum()) < 6 * d.ks_se * inside.size
        assert abs(row.bad_rate - bad[inside].mean()) < 6 * row.bad_rate_se
    assert report.calibration.observed == pytest.approx(bad.mean())
    assert all(g.observed_low < g.observed < g.observed_high for g in report.calibration.rows)
    assert "of which noise" in page
    assert page.count('<span class="quiet">±') >= 10 + 2 * len(report.cutoffs)
    said = " ".join(report.warnings)
    assert "with noise of deviation 1.4 on each count" in said
    assert "weights of rows do not enter it" in said
    assert "recalibrated on this hold-out" in said
    holder = read_report(run.stores["tax"].path / "report.json")
    assert not holder.evaluations
    assert any(row.step == "evaluate" for row in holder.learned)
    out = Console(record=True, width=160)
    show_measures(out, store.path / "report.json")
    text = out.export_text()
    assert f"{d.auc:.4f} ± {d.auc_se:.4f}" in text
    assert f"{d.ks:.4f} ± {d.ks_se:.4f}" in text
    assert "below all bands" in text
    show_measures(out, store.path / "absent.json")
    show_counts(out, store.path / "absent")
    assert not out.export_text()
    assert not (store.path / "absent").exists(), "who only looks makes no folder"


def test_a_plan_says_how_far_noise_moves_the_curve():
    for parameters, shown in (
        (ASKED, True),
        ({**ASKED, "holdout_scores": False, "calibrate": False}, False),
        ({}, False),
    ):
        out = Console(record=True, width=160)
        show_plan(out, planned(job(**parameters)))
        text = " ".join(out.export_text().split())
        assert ("300 │ ± 0.0100 │ ± 0.0133" in text) == shown


def test_bands_of_single_firms_are_no_private_output():
    with pytest.raises(ConfigError, match="holdout_output needs exact sums"):
        job(disclosure="private", bands=BANDS, holdout_output="band")


def test_a_holdout_that_says_nothing_is_refused_before_anything_is_spent(tmp_path):
    parts = firms(1200, seed=8)
    run = open_job(
        job(disclosure="private", holdout_fraction=0.02), nodes(write(tmp_path / "data", parts)), tmp_path / "homes"
    )
    for step in ("align", "bin", "train"):
        run.step(step)
    with pytest.raises(DataError, match=r"to evaluate it takes both classes and 30 rows"):
        run.step("evaluate", timeout_s=5)
    account = account_of(run.stores["tax"].path.parent.parent, run.nodes["tax"], run.job)
    assert "curve" not in {x.charge.opening for x in account.lines()}


def test_a_holder_refuses_rows_that_trained_and_a_model_of_another_version(tmp_path):
    run = open_job(job(disclosure="private"), nodes(write(tmp_path / "data", firms(1200, seed=9))), tmp_path / "homes")
    for step in ("align", "bin", "train"):
        run.step(step)
    store = run.stores["bank"]
    rows = store.load_arrays("rows")
    trained = rows["train"].copy()
    trained[np.flatnonzero(trained)[0]] = False
    store.save_arrays("rows", **{**rows, "train": trained})
    with pytest.raises(RefusedError, match="score rows that trained"):
        run.step("evaluate", timeout_s=5)


# --- what tables are made of -----------------------------------------------------------------------------------------


def counts():
    rng = np.random.default_rng(2)
    bad = rng.random(8000) < 0.15
    units = (rng.normal(50_000, 1500, 8000) - 1500 * bad).astype(int)
    limits = np.quantile(units, np.arange(1, 24) / 24).astype(int)
    plain = plain_counts(units, bad, tuple(limits.tolist()))
    return units, bad, limits, NoisedCurve(plain, plain.sum(axis=1), 1e-9)


def test_tables_of_a_curve_without_noise_are_those_of_the_rows():
    units, bad, limits, curve = counts()
    lowest = curve_tables.lowest_points(limits, 100)
    exact = metrics.score_table(bad.astype(int), units / 100, points=True)
    found, line = curve_tables.ranking(curve, lowest)
    assert found.auc == pytest.approx(exact.auc(), abs=0.002)
    assert found.ks_score == pytest.approx(exact.ks().score, abs=5)
    assert len(line.score) == 25
    for row, other in zip(curve_tables.gains(curve, lowest), exact.gains(), strict=True):
        assert row.captured == pytest.approx(other.captured, abs=0.01)
        assert 0 <= row.captured_se < 0.02
    edges = limits[[5, 11, 17]] / 100
    rows = curve_tables.cutoffs(curve, lowest, edges, None)
    for row, other in zip(rows, metrics.cutoff_table(bad, units / 100, edges), strict=True):
        assert row.n == pytest.approx(other.n)
        assert row.bad_rate == pytest.approx(other.bad_rate)
        assert row.bad_rate_se == pytest.approx(np.sqrt(row.bad_rate * (1 - row.bad_rate) / row.n), rel=0.15)
        assert row.bads_declined == pytest.approx(other.bads_declined)
    assert curve_tables.fifths(curve, lowest).size == 4


def test_calibration_of_a_curve_holds_where_probabilities_do_and_fails_where_they_do_not():
    units, bad, limits, curve = counts()
    step = np.searchsorted(limits, units, side="right")
    risk = np.array([bad[step == k].mean() for k in range(limits.size + 1)])
    good = curve_tables.calibration(curve, risk)
    assert good.p_value > 0.99
    assert good.observed == pytest.approx(good.predicted)
    assert all(g.observed_low < g.predicted < g.observed_high for g in good.rows)
    assert [g.predicted for g in good.rows] == sorted(g.predicted for g in good.rows)
    assert curve_tables.calibration(curve, np.clip(2 * risk, 0, 1)).p_value < 1e-6
    loud = NoisedCurve(curve.counts, curve.known, 40.0)
    wide, narrow = (curve_tables.calibration(c, risk).rows for c in (loud, curve))
    assert wide[0].observed_high - wide[0].observed_low > 1.5 * (narrow[0].observed_high - narrow[0].observed_low)
    bars = curve_tables.distribution(curve, curve_tables.lowest_points(limits, 100))
    assert sum(bars.good) == pytest.approx(curve.known[0])
    assert sum(bars.bad) == pytest.approx(curve.known[1])
