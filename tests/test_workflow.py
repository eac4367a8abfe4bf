"""Whole jobs in one process, against the plaintext oracle."""

from __future__ import annotations

import csv
import datetime as dt

import numpy as np
import pytest
from consent_issuer import give_list
from local_jobs import EVERYTHING, HOLDERS, firms, job, nodes, pooled, run_job, skip_align, take, write, write_csv
from reference import load_parties, match_rows, pooled_logistic, sklearn_auc

from tests.conftest import shared_data
from veilscore.data.codes import CodeMap
from veilscore.data.table import make_table
from veilscore.errors import DataError, JobError, RefusedError, SchemaError, VeilscoreError
from veilscore.models.filed import load_model
from veilscore.models.steps import middles, steps_of
from veilscore.node.local import open_job
from veilscore.terms.job import parse_job
from veilscore.terms.node_config import DatasetConfig, NodeConfig
from veilscore.terms.policy import NodePolicy
from veilscore.terms.training import TrainScorecard
from veilscore.wire.framing import kind_of

PARITY, AUC_PARITY = 1e-3, 1e-4


# --- real data -------------------------------------------------------------------------------------------------------


def real_run(name, folder, **parameters):
    data = shared_data(name)
    parties = ("bank", *HOLDERS)
    configs = {
        party: NodeConfig(
            name=party,
            role="bank" if party == "bank" else "holder",
            datasets={
                "d": DatasetConfig(
                    path=data / f"{party}.csv",
                    id_column="uscc",
                    label_column="default" if party == "bank" else None,
                )
            },
            policy=NodePolicy(accept="auto", exact_for={"bank": dt.date.max}),
        )
        for party in parties
    }
    # three decimals: AUC then differs by what training did, not by rounding of the released points
    text = job(id_normaliser="uscc", max_bin=20, points_decimals=3, **parameters).canonical().decode()
    return open_job(parse_job(text), configs, folder)


@pytest.mark.parametrize(
    ("name", "aligned"),
    [
        ("kz_corporate", True),
        pytest.param("polish_1year", True, marks=pytest.mark.slow),
        pytest.param("default_credit", False, marks=pytest.mark.slow),
        pytest.param("sba_loans", False, marks=pytest.mark.slow),
    ],
)
def test_parity_on_real_data(name, aligned, tmp_path):
    run = real_run(name, tmp_path)
    if aligned:
        run.step("align")
        parts = load_parties(shared_data(name))
        for holder in HOLDERS:
            expected = match_rows(parts["bank"]["ids"], parts[holder]["ids"])
            assert np.array_equal(run.stores[holder].load_arrays("row_of")["row_of"], expected)
    else:
        skip_align(run)
    for step in ("bin", "train", "evaluate"):
        run.step(step)
    fit = run.stores["bank"].load_json("fit")
    X, y, train, _ = pooled(run)
    beta, intercept = pooled_logistic(X[train], y[train])
    assert fit["converged"]
    assert np.abs(np.array(fit["beta"]) - beta).max() <= PARITY
    assert abs(fit["intercept"] - intercept) <= PARITY
    held = run.stores["bank"].load_arrays("holdout")
    assert np.array_equal(held["target"], y[~train])
    joint = sklearn_auc(held["target"], -held["units"])
    assert abs(joint - sklearn_auc(y[~train], X[~train] @ beta)) <= AUC_PARITY


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One job with all defaults; its models are used for scoring."""
    return run_job(tmp_path_factory.mktemp("trained"), firms(seed=1), policy={"disclose_unknown": True})


def bank_model(run):
    return load_model(run.stores["bank"].path / "model.json")


def assert_parity(run, **options):
    X, y, train, weight = pooled(run)
    fit = run.stores["bank"].load_json("fit")
    if options.pop("weighted", False):
        options["sample_weight"] = weight[train]
    beta, intercept = pooled_logistic(X[train], y[train], **options)
    assert np.abs(np.array(fit["beta"]) - beta).max() <= PARITY
    assert abs(fit["intercept"] - intercept) <= PARITY


def test_defaults(trained):
    assert trained.job.steps == ("align", "bin", "train", "evaluate")
    assert_parity(trained)
    rows = trained.stores["bank"].load_arrays("rows")
    held = ~rows["train"]
    assert abs(held.mean() - 0.25) < 0.01
    assert abs(rows["target"][held].mean() - rows["target"].mean()) < 0.01  # stratified
    # released points are the model's points of the holders' codes, to the last unit
    model = bank_model(trained)
    expected = model.own_units(rows["codes"][held])
    for part in model.parts[1:]:
        expected += points_of(part, trained.stores[part.party].load_arrays("rows")["codes"][held])
    assert np.array_equal(trained.stores["bank"].load_arrays("holdout")["units"], expected)


def points_of(part, codes):
    return sum(np.array(c.points, dtype=np.int64)[codes[:, j]] for j, c in enumerate(part.columns))


def test_binning_counts_are_exact(trained):
    rows = trained.stores["bank"].load_arrays("rows")
    train, y = rows["train"], rows["target"]
    for part in bank_model(trained).parts:
        saved = trained.stores[part.party].load_arrays("rows")
        assert np.array_equal(saved["train"], train)
        for j, column in enumerate(part.columns):
            codes, n = saved["codes"][:, j], len(column.woe)
            total = np.bincount(codes[train], minlength=n)
            shown = total >= 5 if part.role == "holder" else total >= 0
            assert np.array_equal(column.rows, np.where(shown, total, 0))
            bad = np.bincount(codes[train], weights=y[train], minlength=n)
            assert np.array_equal(column.bad, np.where(shown, bad, 0))
            assert np.array_equal(np.add(column.bad, column.good), column.rows)


def test_holders_columns_have_no_names_unless_published(tmp_path, trained):
    assert [c.name for c in bank_model(trained).part("tax").columns] == ["tax.c1", "tax.c2", "tax.c3"]
    run = run_job(tmp_path, firms(300, seed=2), policy={"publish_column_names": True}, holdout_fraction=0)
    assert [c.name for c in bank_model(run).part("tax").columns] == ["turnover", "arrears", "turnover_again"]
    assert run.job.steps == ("align", "bin", "train")


def test_weights_and_sign(tmp_path):
    run = run_job(tmp_path, firms(seed=3), weights=True, sign="positive")
    assert min(run.stores["bank"].load_json("fit")["beta"]) >= 0
    assert_parity(run, weighted=True, positive=True)


def test_out_of_time_holdout(tmp_path):
    parts = firms(seed=4)
    run = run_job(tmp_path, parts, holdout_from="2022-10-01")
    expected = np.array([day < "2022-10-01" for day in parts["bank"]["opened"]])
    train = run.stores["bank"].load_arrays("rows")["train"]
    assert np.array_equal(train, expected)
    assert bank_model(run).provenance.n_holdout == (~expected).sum()
    assert_parity(run)


def test_monotone(tmp_path):
    run = run_job(tmp_path, firms(900, seed=5), policy={"allow_order": True}, monotone=True, max_bin=10)
    checked = 0
    for part in bank_model(run).parts:
        maps = CodeMap.from_json(run.stores[part.party].load_json("code_map"))
        for column, own in zip(part.columns, maps.columns, strict=True):
            assert column.ordered == (own.bins.kind == "number")
            if not column.ordered:
                continue
            woe = [w for code, w in enumerate(column.woe) if code != own.missing]
            assert sorted(woe) in (woe, woe[::-1])
            checked += len(woe) > 3
    assert checked >= 3
    assert_parity(run)


def by_default(folder, *, policy=None, n=900, **parameters):
    """Train on the defaults that a scorecard has, not on every column."""
    usual = {name: TrainScorecard.model_fields[name].default for name in EVERYTHING}
    return run_job(folder, firms(n, seed=6), policy=policy, **{**usual, **parameters})


def test_defaults_are_accepted_by_a_standard_partner(tmp_path):
    run = by_default(tmp_path, n=500, max_correlation=1, rows_per_column=50)
    parts = {part.party: part for part in bank_model(run).parts}
    kept = [column for part in parts.values() for column in part.columns if column.coefficient is not None]
    bads = run.stores["bank"].load_arrays("rows")
    assert 0 < len(kept) <= (bads["target"][bads["train"]] == 1).sum() // 50
    assert all(column.coefficient >= 0 for column in kept)
    assert any("not among the" in column.left_out for part in parts.values() for column in part.columns)
    assert [column.name for column in parts["bank"].columns if column.ordered] == ["limit"]
    assert not any(column.ordered for column in parts["tax"].columns)
    report = (run.stores["bank"].path / "report.json").read_text()
    assert "tells no order of bins" in report
    assert "does not tell which of its columns" not in report


def test_what_a_holder_does_not_tell_is_a_warning(tmp_path):
    run = by_default(tmp_path, n=500, policy={"allow_order": True, "publish_screening": False})
    assert any(column.ordered for part in bank_model(run).parts[1:] for column in part.columns)
    report = (run.stores["bank"].path / "report.json").read_text()
    assert "does not tell which of its columns" in report
    assert "tells no order of bins" not in report


def test_columns_are_selected_by_iv_and_association(tmp_path):
    run = run_job(tmp_path, firms(900, seed=6), policy={"publish_column_names": True}, min_iv=0.08, max_correlation=0.6)
    columns = {c.name: c for part in bank_model(run).parts for c in part.columns}
    assert "below" in columns["noise"].left_out
    assert columns["noise"].coefficient is None
    assert not any(columns["noise"].points)
    twins = [columns["turnover"], columns["turnover_again"]]
    assert sorted(c.coefficient is None for c in twins) == [False, True]
    assert any("association" in c.left_out for c in twins)
    assert_parity(run)


def test_standard_errors(tmp_path):
    policy = {"allow_standard_errors": True}
    run = run_job(tmp_path, firms(seed=7), policy=policy, standard_errors=True, holdout_fraction=0)
    X, _, train, _ = pooled(run)
    fit = run.stores["bank"].load_json("fit")
    design = np.column_stack([X[train], np.ones(train.sum())])
    p = 1 / (1 + np.exp(-design @ np.append(fit["beta"], fit["intercept"])))
    hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag([*[1.0] * X.shape[1], 0.0])
    expected = np.sqrt(np.diag(np.linalg.inv(hessian)))[:-1]
    columns = [c for part in bank_model(run).parts for c in part.columns if c.coefficient is not None]
    assert np.abs(np.array([c.standard_error for c in columns]) / expected - 1).max() < 0.03


def test_population_bad_rate_and_bands(tmp_path):
    bands = {"A": 580, "B": 540}
    run = run_job(tmp_path, firms(seed=8), population_bad_rate=0.05, bands=bands, holdout_fraction=0)
    X, y, train, _ = pooled(run)
    _, intercept = pooled_logistic(X[train], y[train])
    rate = y[train].mean()
    shifted = intercept + np.log(0.05 / 0.95) - np.log(rate / (1 - rate))
    model = bank_model(run)
    assert abs(model.intercept - shifted) < 2e-3
    assert [model.band(score) for score in (580.0, 579.9, 540.0, 539.9)] == ["A", "B", "B", "below all bands"]


@pytest.mark.slow
def test_interrupted_training_resumes(tmp_path):
    folder = write(tmp_path / "data", firms(seed=9))
    run = open_job(job(holdout_fraction=0), nodes(folder), tmp_path)
    run.step("align")
    run.step("bin")
    steps = []

    def cut(sender, recipient, sequence, payload):
        if recipient == "tax" and kind_of(payload) == "TrainBankStep":
            steps.append(sequence)
        return [payload] if len(steps) <= 3 else []

    with pytest.raises(VeilscoreError):
        run.step("train", tamper=cut, timeout_s=5.0)
    assert len(run.stores["bank"].load_json("checkpoint_train")["evaluations"]) == 3
    opened = run.stores["registry"].load_json("checkpoint_train")["opened"]
    run.step("train", attempt=2)
    assert_parity(run)
    fit = run.stores["bank"].load_json("fit")
    assert run.stores["registry"].load_json("trained")["n_steps"] == fit["n_evaluations"] - 3 + opened
    assert not run.stores["bank"].has("checkpoint_train")


def test_openings_count_over_all_attempts(tmp_path):
    folder = write(tmp_path / "data", firms(300, seed=10))
    run = open_job(job(holdout_fraction=0, max_openings=4), nodes(folder), tmp_path)
    run.step("align")
    run.step("bin")
    run.stores["tax"].save_json("checkpoint_train", {"opened": 3})
    with pytest.raises(VeilscoreError, match="more than the 4 gradients"):
        run.step("train", timeout_s=5.0)


# --- scoring ---------------------------------------------------------------------------------------------------------


def batch(trained, parts, *, on_missing="missing_code", policy=None, min_batch=30, **parameters):
    """Score a new set of firms at the bank with the trained model."""
    home = trained.stores["bank"].path.parents[2]
    folder = write(home / f"batch{np.random.default_rng().integers(1 << 60)}", parts)
    config = job("score_batch", name="batch", model="card", on_missing=on_missing, min_batch=min_batch, **parameters)
    give_list(home / "bank", parts["bank"]["firm"], name=folder.name)
    return open_job(config, nodes(folder, holder_policy=policy or {"disclose_unknown": True}), home)


def new_firms(n=120, *, coverage=0.8):
    return firms(n, seed=77, prefix="new", coverage=coverage)


def scores(run):
    with (run.stores["bank"].path / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("output", ["exact", "score"])
def test_batch_scores_are_the_model_in_the_clear(trained, output):
    parts = new_firms()
    run = batch(trained, parts, output=output).run()
    model = bank_model(trained)
    found = scores(run)
    assert [row["id"] for row in found] == parts["bank"]["firm"]
    total = np.full(len(found), model.base_points, np.int64)
    for part in model.parts:
        code_map = CodeMap.from_json((run.stores[part.party].path.parents[1] / "models/card/code_map.json").read_text())
        columns = {k: v for k, v in parts[part.party].items() if k in code_map.kinds}
        table = make_table(parts[part.party]["firm"], columns, normaliser="text", kinds=code_map.kinds)
        codes = code_map.transform(table).codes
        row_of = match_rows(np.array(parts["bank"]["firm"]), np.array(parts[part.party]["firm"]))
        codes = np.vstack([codes, code_map.missing.astype(np.uint8)])[row_of]
        total += points_of(part, codes)
        if part.role == "holder":
            assert [row[f"{part.party}_status"] for row in found] == [
                "unknown" if row < 0 else "ok" for row in row_of.tolist()
            ]
    if output == "score":
        steps = steps_of(model)
        assert [int(row["step"]) for row in found] == steps.index(total).tolist()
        assert {row["step"] for row in found} >= {str(k) for k in range(10, 20)}
        total = middles(steps)[steps.index(total)]
    else:
        assert "step" not in found[0]
    decimals = model.scaling.decimals
    assert [row["score"] for row in found] == [f"{score:.{decimals}f}" for score in total / 10**decimals]
    stability = run.stores["bank"].load_json("stability")
    assert stability["training"] == model.provenance.job_id
    assert [row["name"] for row in stability["items"]] == ["score", "limit", "product"]
    assert sum(stability["score"]["batch"]) == pytest.approx(1)
    assert stability["score"]["psi"] < 0.6  # other firms of the same kind, of which 120 are a small sample
    risk = 1 / (1 + np.exp(-(model.scaling.offset - total) / model.scaling.factor))
    assert np.abs([float(row["probability_of_default"]) - p for row, p in zip(found, risk, strict=True)]).max() < 1e-6


def test_batch_with_one_holder_and_no_disclosure(tmp_path):
    folder = write(tmp_path / "data", firms(300, seed=12))
    one = ("tax",)
    open_job(job(holders=one, holdout_fraction=0), nodes(folder, holders=one), tmp_path).run()
    parts = new_firms()
    folder = write(tmp_path / "batch", parts)
    give_list(tmp_path / "bank", parts["bank"]["firm"])
    run = open_job(
        job("score_batch", name="batch", holders=one, model="card", on_missing="missing_code"),
        nodes(folder, holders=one),
        tmp_path,
    ).run()
    assert {row["tax_status"] for row in scores(run)} == {"not disclosed"}


def test_unknown_firms_fail_the_batch_if_the_job_says_so(trained):
    with pytest.raises(DataError, match=r"does not know \d+ of 120 firms; set on_missing: missing_code"):
        batch(trained, new_firms(), on_missing="fail").run()
    assert scores(batch(trained, new_firms(60, coverage=1.0), on_missing="fail").run())


def test_a_batch_that_fails_on_unknown_firms_needs_their_disclosure(trained):
    with pytest.raises(RefusedError, match="does not say which firms it knows; set on_missing"):
        batch(trained, new_firms(), on_missing="fail", policy={"disclose_unknown": False})


def test_small_batch_is_refused(trained):
    with pytest.raises(DataError, match="fewer than min_batch 130"):
        batch(trained, new_firms(), min_batch=130).run()


@pytest.mark.parametrize("party", ["bank", "tax"])
@pytest.mark.parametrize("change", ["missing", "type"])
def test_changed_schema_is_refused(trained, party, change):
    parts = new_firms()
    name = {"bank": "limit", "tax": "turnover"}[party]
    column = parts[party].pop(name)
    if change == "type":
        parts[party][name] = ["high" if value > 0 else "low" for value in column]
    run = batch(trained, parts)
    with pytest.raises(DataError, match=name):
        run.run()


def test_a_column_that_came_after_training_changes_no_score(trained):
    parts = new_firms()
    before = batch(trained, parts).run()
    for party, name in (("bank", "limit"), ("tax", "turnover")):
        parts[party]["extra"] = parts[party][name]
    after = batch(trained, parts).run()
    bank = [(run.stores["bank"].path / "scores.csv").read_text() for run in (before, after)]
    assert bank[0] == bank[1]


def test_another_code_map_is_refused(trained, tmp_path):
    run = batch(trained, new_firms())
    path = run.stores["tax"].path.parents[1] / "models/card/code_map.json"
    kept = path.read_text()
    parts = firms(300, seed=13)["tax"]
    other = CodeMap.fit(make_table(parts.pop("firm"), parts, normaliser="text"), max_bin=6)
    try:
        path.write_text(other.to_json())
        with pytest.raises(RefusedError, match="another version of this party's code map"):
            run.run()
        path.write_text(kept.replace('"version": 1', '"version": 1 ').replace("turnover", "turnovr", 1))
        with pytest.raises(SchemaError, match="damaged"):
            run.step("score", attempt=2)
        path.unlink()
        with pytest.raises(SchemaError, match="restore it from backup"):
            run.step("score", attempt=3)
    finally:
        path.write_text(kept)


def test_unknown_model_is_refused(trained):
    folder = write(trained.stores["bank"].path.parents[2] / "other", new_firms())
    config = job("score_batch", name="batch", model="absent", on_missing="missing_code")
    with pytest.raises(SchemaError, match="absent"):
        open_job(config, nodes(folder), trained.stores["bank"].path.parents[2]).run()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("party", ["bank", "tax"])
def test_rows_that_change_within_a_job_are_refused(tmp_path, party):
    parts = firms(320, seed=14)
    folder = write(tmp_path / "data", parts)
    run = open_job(job(), nodes(folder), tmp_path)
    run.step("align")
    write_csv(folder / f"{party}.csv", take(parts[party], range(len(parts[party]["firm"]))[::-1]))
    with pytest.raises(DataError, match=r"changed since this job was aligned; submit the job again"):
        run.step("bin")


@pytest.mark.parametrize(
    ("policy", "parameters", "message"),
    [
        ({"purposes": ("tax audit",)}, {}, "purpose 'credit' is not among"),
        ({"tasks": ("score_batch",)}, {}, "does not allow task train_scorecard"),
        ({"banks": ("other",)}, {}, "does not work for bank"),
        ({}, {"monotone": True}, "set monotone: false"),
        ({}, {"standard_errors": True}, "set standard_errors: false"),
        ({"holdout_scores": "refuse"}, {}, "set holdout_scores: false"),
    ],
)
def test_policies_refuse(tmp_path, policy, parameters, message):
    folder = write(tmp_path / "data", firms(60))
    with pytest.raises(RefusedError, match=message):
        open_job(job(**parameters), nodes(folder, holder_policy=policy), tmp_path)


@pytest.mark.parametrize(
    ("absent", "parameters"),
    [("label_column", {}), ("weight_column", {"weights": True}), ("date_column", {"holdout_from": "2022-01-01"})],
)
def test_bank_refuses_what_its_data_set_lacks(tmp_path, absent, parameters):
    configs = nodes(write(tmp_path / "data", firms(60)))
    dataset = configs["bank"].datasets["d"].model_copy(update={absent: None})
    configs["bank"] = configs["bank"].model_copy(update={"datasets": {"d": dataset}})
    with pytest.raises(RefusedError, match=f"has no {absent}; name it in node.yaml"):
        open_job(job(**parameters), configs, tmp_path)


def test_holdout_of_few_rows_or_one_class_is_refused(tmp_path):
    parts = firms(320, seed=15)
    folder = write(tmp_path / "data", parts)
    with pytest.raises(DataError, match="change the hold-out"):
        open_job(job(holdout_from="2000-01-01"), nodes(folder), tmp_path / "a").run()
    run = open_job(job(holdout_fraction=0.05), nodes(folder), tmp_path / "b")
    with pytest.raises(DataError, match=r"hold-out rows count as .* of equal weight; exact sums need 30"):
        run.run()


def test_no_column_left_is_refused(tmp_path):
    with pytest.raises(JobError, match="lower min_iv"):
        run_job(tmp_path, firms(320, seed=16), min_iv=50.0)
