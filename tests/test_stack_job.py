"""Stacks and model selection as jobs: against plaintext sums of what each party keeps, and what goes wrong."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from consent_issuer import give_list
from local_jobs import HOLDERS, firms, job, nodes, write
from pooled_margins import card_margins, part_of, tree_margins
from scipy.optimize import minimize

from veilscore.errors import ConfigError, DataError, MessageError, RefusedError, VeilscoreError
from veilscore.files.store import JobStore
from veilscore.models import stacked
from veilscore.models.boosted import Boosted, Stacked
from veilscore.models.filed import load_model
from veilscore.models.loss import log_loss, sigmoid
from veilscore.models.model import Scorecard
from veilscore.models.steps import steps_of
from veilscore.node.local import open_job
from veilscore.reports.report import read_report
from veilscore.tasks import exact_rows
from veilscore.tasks.binning import load_counts
from veilscore.tasks.stack import checked_choice
from veilscore.terms.training import TrainStack
from veilscore.v1 import stacking_pb2 as pb
from veilscore.wire.framing import kind_of
from veilscore.wire.protocol import decode, encode

if TYPE_CHECKING:
    from veilscore.wire.memory import Tamper

K = 3
SMALL = {
    "name": "stack",
    "max_bin": 6,
    "folds": K,
    "scorecard": {"max_openings": 8},  # what is put together need not be the best
    "boosting": {"n_estimators": 3, "max_depth": 2, "min_leaf_rows": 10, "learning_rate": 0.4},
}


def open_run(folder, parts=None, *, task="train_stack", policy=None, **parameters):
    write(folder / "data", firms(900, seed=5) if parts is None else parts)
    configs = nodes(folder / "data", holder_policy=policy)
    return open_job(job(task, **{**SMALL, **parameters}), configs, folder / "homes")


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    return open_run(
        tmp_path_factory.mktemp("stack"),
        policy={"fold_scores": "allow", "disclose_unknown": True},
        own_scores=["limit"],
        fold_scores=True,
        bands={"A": 520, "B": 480},
    ).run()


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    return open_run(
        tmp_path_factory.mktemp("selected"),
        task="select_model",
        folds=2,
        boosting={"max_depth": 2, "n_estimators": 2, "min_leaf_rows": 10},
        boosting_grid={"learning_rate": [0.2, 0.4]},
        population_bad_rate=0.05,
        choose="boosting",
    ).run()


# --- what every party keeps, put together ----------------------------------------------------------------------------


def rows_of(run):
    return {party: run.stores[party].load_arrays("rows") for party in run.job.parties}


def margins(run):
    """Out-of-fold margins of the scorecard, the trees and the bank's own score, with labels and folds: (n, 3)."""
    saved = rows_of(run)
    train = saved["bank"]["train"]
    codes = {party: rows["codes"][train].astype(np.int64) for party, rows in saved.items()}
    fold = stacked.folds(int(train.sum()), run.job.of(TrainStack).folds, 0)
    x = np.zeros((fold.size, 3))
    for f in range(run.job.of(TrainStack).folds):
        rows = fold == f
        these = {party: c[rows] for party, c in codes.items()}
        card = load_model(run.stores["bank"].path / f"scorecard.fold{f + 1}" / "model.json", Scorecard)
        trees = load_model(run.stores["bank"].path / f"boosting.fold{f + 1}" / "model.json", Boosted)
        parts = {h: part_of(run, h, f"boosting.fold{f + 1}") for h in HOLDERS}
        x[rows, 0] = card_margins(card, these)
        x[rows, 1] = trees.intercept + tree_margins(trees, parts, these)
        limit = [column.name for column in card.parts[0].columns].index("limit")
        x[rows, 2] = np.array(card.parts[0].columns[limit].woe)[these["bank"][:, limit]]
    return x, saved["bank"]["target"][train].astype(float), fold


def oracle(x, y):
    def value(theta):
        eta = x @ theta[:-1] + theta[-1]
        r = sigmoid(eta) - y
        loss = np.logaddexp(0, eta).sum() - y @ eta + theta[:-1] @ theta[:-1] / (2 * stacked.C)
        return loss, np.append(x.T @ r + theta[:-1] / stacked.C, r.sum())

    limits = [(0, None)] * x.shape[1] + [(None, None)]
    start = np.zeros(x.shape[1] + 1)
    return minimize(value, start, jac=True, bounds=limits, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}).x


# --- against the oracle ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fold_knows_nothing_of_its_own_rows(stack):
    """The counts that a fold's scorecard is made of are those of the rows outside it."""
    saved = rows_of(stack)
    train, target = saved["bank"]["train"], saved["bank"]["target"]
    fold = stacked.folds(int(train.sum()), K, 0)
    for f in range(K):
        mask = train.copy()
        mask[np.flatnonzero(train)[fold == f]] = False
        counts = load_counts(JobStore(stack.stores["bank"].path / f"bin.fold{f + 1}"))
        for party, c in counts.items():
            codes = saved[party]["codes"][mask]
            np.concatenate(([0], np.cumsum(c.n_codes)))
            bad = np.concatenate(
                [np.bincount(codes[:, j], weights=target[mask], minlength=k) for j, k in enumerate(c.n_codes)]
            )
            shown = c.counts > 0
            assert np.array_equal(c.bad[shown], bad[shown])
            assert shown.mean() > 0.6


@pytest.mark.slow
def test_level_two_and_losses_are_the_oracles(stack):
    x, y, fold = margins(stack)
    saved = stack.stores["bank"].load_json("selection")
    expected = oracle(x, y)
    found = [saved["weights"][name] for name in ("scorecard", "boosting", "limit")]
    assert np.abs(np.array(found) - expected[:-1]).max() < 2e-3
    assert abs(saved["intercept"] - expected[-1]) < 2e-3
    rows = {one["name"]: one for one in saved["candidates"]}
    for name, margin in (("scorecard", x[:, 0]), ("boosting", x[:, 1])):
        for f in range(K):
            assert abs(rows[name]["losses"][f] - log_loss(margin[fold == f], y[fold == f])) < 0.1
    without = [oracle(x[fold != f], y[fold != f]) for f in range(K)]
    for f in range(K):
        eta = x[fold == f] @ without[f][:-1] + without[f][-1]
        assert abs(rows["stack"]["losses"][f] - log_loss(eta, y[fold == f])) < 0.2


@pytest.mark.slow
def test_a_hold_out_total_is_the_weighted_sum_of_the_members(stack):
    store = stack.stores["bank"]
    model = load_model(store.path / "model.json", Stacked)
    saved = rows_of(stack)
    held = ~saved["bank"]["train"]
    codes = {party: rows["codes"][held].astype(np.int64) for party, rows in saved.items()}
    weights = {member.name: member.weight for member in model.members}
    card = load_model(store.path / "scorecard" / "model.json", Scorecard)
    trees = load_model(store.path / "boosting" / "model.json", Boosted)
    parts = {h: part_of(stack, h, "boosting") for h in HOLDERS}
    eta = model.level_two_intercept + weights["scorecard"] * card_margins(card, codes)
    eta += weights["boosting"] * (trees.intercept + tree_margins(trees, parts, codes))
    limit = [column.name for column in card.parts[0].columns].index("limit")
    eta += weights["limit"] * np.array(card.parts[0].columns[limit].woe)[codes["bank"][:, limit]]
    units = store.load_arrays("holdout")["units"]
    # a unit of points a leaf is the rounding
    assert np.abs(model.scaling.log_odds_bad(units) - eta).max() < len(model.trees) / model.scaling.factor
    whole = {h: part_of(stack, h) for h in HOLDERS}
    exact = model.base_points + tree_margins(model, whole, codes, model.points)
    assert np.array_equal(units, np.rint(exact).astype(np.int64))


@pytest.mark.slow
def test_batch_scores_are_the_hold_out_totals(stack):
    run = stack
    homes = run.stores["bank"].path.parents[2]
    data = homes.parent / "data"
    scoring = job("score_batch", name="batch", model="stack", on_missing="missing_code", output="exact")
    give_list(homes / "bank", firms(900, seed=5)["bank"]["firm"])
    scored = open_job(scoring, nodes(data, holder_policy={"disclose_unknown": True}), homes).run()
    lines = (scored.stores["bank"].path / "scores.csv").read_text().splitlines()[1:]
    by_firm = {line.split(",")[0]: float(line.split(",")[1]) for line in lines}
    assert len(by_firm) == 900
    model = load_model(run.stores["bank"].path / "model.json", Stacked)
    held = run.stores["bank"].load_arrays("holdout")["units"]
    assert set(np.round(model.score(held), 2).tolist()) <= {round(v, 2) for v in by_firm.values()}
    coarse = scoring.model_copy(update={"parameters": scoring.parameters.model_copy(update={"output": "score"})})
    scored = open_job(coarse, nodes(data), homes).run()
    with (scored.stores["bank"].path / "scores.csv").open() as file:
        step = {row["id"]: int(row["step"]) for row in csv.DictReader(file)}
    units = np.rint(np.array(list(by_firm.values())) * model.scaling.units).astype(np.int64)
    assert [step[firm] for firm in by_firm] == steps_of(model).index(units).tolist()


@pytest.mark.slow
def test_selection_files_the_best_of_the_kind_that_was_asked(selected):
    saved = selected.stores["bank"].load_json("selection")
    rows = {one["name"]: one for one in saved["candidates"]}
    assert set(rows) == {"scorecard", "boosting1", "boosting2", "stack", "bank's own columns"}
    best = min(("boosting1", "boosting2"), key=lambda name: sum(rows[name]["losses"]))
    assert [name for name, one in rows.items() if one["filed"]] == [best]
    model = load_model(selected.stores["bank"].path / "model.json", Boosted)
    alone = load_model(selected.stores["bank"].path / best / "model.json", Boosted)
    assert model.trees == alone.trees
    assert model.intercept < alone.intercept  # corrected to a population with fewer bads
    assert model.provenance.job_sha256 == selected.job.sha256.hex()
    for holder in HOLDERS:
        assert part_of(selected, holder).sha256.hex() == model.holder_sha256[holder]
    assert all(one["auc"] is None for name, one in rows.items() if name != "bank's own columns")


@pytest.mark.slow
def test_the_report_compares_all_candidates(stack, selected):
    for run, filed in ((stack, "stack"), (selected, None)):
        data = read_report(run.stores["bank"].path / "report.json")
        kinds = {one.kind for one in data.selection.candidates}
        assert kinds == {"scorecard", "boosting", "stack", "bank only"}
        losses = [one.loss for one in data.selection.candidates]
        assert losses == sorted(losses)
        assert sum(one.filed for one in data.selection.candidates) == 1
        page = (run.stores["bank"].path / "report.html").read_text()
        assert "Candidates compared" in page
        for holder in HOLDERS:
            view = read_report(run.stores[holder].path / "report.json")
            assert view.selection is None
            assert view.trees.n_trees > 0
        assert filed is None or next(one for one in data.selection.candidates if one.filed).name == filed
    assert read_report(stack.stores["bank"].path / "report.json").selection.candidates[0].auc is not None


@pytest.mark.slow
def test_what_all_fits_of_trees_told_counts_together(stack):
    fits = [
        stack.stores["tax"].path / step / "boosted.json"
        for step in ("boosting", *(f"boosting.fold{f}" for f in (1, 2, 3)))
    ]
    opened = [json.loads(path.read_text())["n_sums"] for path in fits]
    assert stack.stores["tax"].load_json("boosted")["n_sums"] == sum(opened) > 0


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_holder_that_leaves_during_a_fold_is_waited_for(tmp_path):
    run = open_run(tmp_path, folds=2, boosting={**SMALL["boosting"], "n_estimators": 5})
    steps = list(run.job.steps)
    for step in steps[: steps.index("boosting.fold1")]:
        run.step(step)

    grown = []

    def leave(sender, recipient, sequence, payload):
        grown.append(kind_of(payload) == "BoostBankTables")
        return [] if sum(grown) == 4 and sender == "bank" and grown[-1] else [payload]

    with pytest.raises(VeilscoreError):
        run.step("boosting.fold1", tamper=leave, timeout_s=6)
    assert len(run.stores["bank"].load_json("checkpoint_boosting.fold1")["trees"]) >= 1
    run.step("boosting.fold1", 2)
    for step in steps[steps.index("boosting.fold1") + 1 :]:
        run.step(step)
    assert isinstance(load_model(run.stores["bank"].path / "model.json"), Stacked)


def test_a_fold_of_one_class(tmp_path, monkeypatch):
    monkeypatch.setattr(exact_rows, "MIN_ROWS", 0)
    parts = firms(400, seed=1)
    labels = [0] * len(parts["bank"]["default"])
    labels[0] = labels[1] = labels[2] = 1
    parts["bank"]["default"] = labels
    run = open_run(tmp_path, parts, folds=4)
    run.step("align")
    run.step("bin")
    with pytest.raises(DataError, match="one class only: use fewer folds"):
        run.step("bin.fold1")


def test_an_own_score_that_is_not_there(tmp_path):
    run = open_run(tmp_path, folds=2, own_scores=["limt"], boosting={"n_estimators": 1, "max_depth": 1})
    with pytest.raises(VeilscoreError, match="no column 'limt'"):
        run.run()
    assert not run.stores["bank"].has("checkpoint_scorecard")
    assert run.job.steps.index("bin.fold1") < run.job.steps.index("scorecard")


def test_policies_decide_on_every_candidate(tmp_path):
    with pytest.raises(RefusedError, match="fold_scores: false"):
        open_run(tmp_path / "a", fold_scores=True)
    with pytest.raises(RefusedError, match="order of bins"):
        open_run(tmp_path / "b", scorecard={"monotone": True})
    with pytest.raises(RefusedError, match="does not allow task train_stack"):
        open_run(tmp_path / "d", policy={"tasks": ("train_scorecard",)})


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"boosting": {"max_bin": 3}}, "max_bin is the same for all candidates"),
        ({"boosting": {"disclosure": "private"}}, "disclosure is the same for all candidates"),
        ({"boosting": {"max_dept": 3}}, "did you mean 'max_depth'"),
        ({"boosting": {"max_depth": 99}}, "max_depth"),
        ({"scorecard": {"standard_errors": True}}, "train the chosen scorecard alone"),
        ({"weights": True}, "a stack takes none"),
        ({"folds": 1}, "folds"),
    ],
)
def test_parameters(parameters, text):
    with pytest.raises(ConfigError, match=text):
        job("train_stack", **{**SMALL, **parameters})


def test_grids():
    with pytest.raises(ConfigError, match="12 candidates"):
        job("select_model", boosting_grid={"max_depth": [1, 2, 3, 4, 5], "learning_rate": [0.1, 0.2, 0.3]})
    with pytest.raises(ConfigError, match="12 candidates"):
        job("select_model", boosting_grid={"max_depth": []})
    with pytest.raises(ConfigError, match="stands in boosting and in boosting_grid"):
        job("select_model", boosting={"max_depth": 2}, boosting_grid={"max_depth": [1, 2]})


def change(which, /, **fields) -> Tamper:
    def tamper(sender, recipient, sequence, payload):
        if kind_of(payload) != which:
            return [payload]
        message = decode(payload, getattr(pb, which), session="", sender=sender)
        for name, value in fields.items():
            setattr(message, name, value)
        return [encode(message)]

    return tamper


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"boosting": 0}, "none of the job's candidates"),
        ({"scorecard": 9}, "none of the job's candidates"),
        ({"kind": 1}, "another kind of model"),
        ({"kind": 9}, "another kind of model"),
    ],
)
def test_a_choice_that_is_none(wrong, text):
    asked, right = job("train_stack", **SMALL), {"kind": 3, "scorecard": 0, "boosting": 1}
    assert checked_choice(asked, pb.StackBankChoice(**right)) == {**right, "kind": "stack"}
    with pytest.raises(MessageError, match=text):
        checked_choice(asked, pb.StackBankChoice(**right | wrong))


@pytest.mark.slow
def test_a_bad_choice_ends_the_step_and_a_new_attempt_succeeds(stack):
    for attempt, (tamper, text) in enumerate(
        (
            (change("StackBankChoice", boosting=0), "none of the job's candidates"),
            (change("StackHolderPart", sha256=b"short"), "wrong length"),
        ),
        2,
    ):
        with pytest.raises(MessageError, match=text):
            stack.step("stack", attempt, tamper=tamper)
    stack.step("stack", 4)


@pytest.mark.slow
def test_a_bank_that_bins_other_rows(stack):
    def shift(sender, recipient, sequence, payload):
        if kind_of(payload) != "BinBankRound1":
            return [payload]
        from veilscore.v1 import scorecard_pb2

        message = decode(payload, scorecard_pb2.BinBankRound1, session="", sender=sender)
        mask = np.unpackbits(np.frombuffer(message.train_mask, np.uint8), bitorder="little")[: message.n_samples]
        a, b = np.flatnonzero(mask)[0], np.flatnonzero(mask == 0)[0]
        mask[a], mask[b] = 0, 1
        message.train_mask = np.packbits(mask, bitorder="little").tobytes()
        return [encode(message)]

    with pytest.raises(MessageError, match="other rows than those outside fold"):
        stack.step("bin.fold1", 2, tamper=shift)


@pytest.mark.slow
def test_a_part_of_another_version_is_refused(stack):
    path = stack.stores["tax"].path / "models" / "stack" / "trees.json"
    kept = path.read_text()
    fold = stack.stores["tax"].path / "boosting.fold1" / "models" / "stack" / "trees.json"
    try:
        path.write_text(fold.read_text())
        with pytest.raises(RefusedError, match="changed or of another version"):
            stack.step("evaluate", 2)
    finally:
        path.write_text(kept)
