"""A private selection as a job: each kind with its part of mu, one split of rows, the best by noised curves filed."""

import shutil

import numpy as np
import pytest
import test_private_boosting
from local_jobs import firms, job, nodes, write
from test_private_boosting import (  # the test runs here again, on the trees that were chosen
    codes_of,
    test_the_onnx_model_of_the_bank_gives_the_same_log_odds,
    units,
)

from veilscore.data.codes import CodeMap
from veilscore.data.fixed_bins import MU
from veilscore.errors import ConfigError, MessageError, RefusedError
from veilscore.files.store import JobStore
from veilscore.models import design as designing
from veilscore.models import stacked
from veilscore.models.chain_design import own_boosting
from veilscore.models.chained import Chained
from veilscore.models.counts import BinnedColumns
from veilscore.models.curve import plain_counts
from veilscore.models.filed import load_model
from veilscore.models.model import Scorecard
from veilscore.models.own_validation import fold_losses, predicted
from veilscore.models.residual_card import own_fit
from veilscore.models.tree_paths import HolderBits
from veilscore.models.trees import HolderTrees
from veilscore.node.local import open_job
from veilscore.online.model import ModelSides
from veilscore.reports.report import read_report
from veilscore.tasks.binning import load_counts
from veilscore.tasks.context import account_of
from veilscore.tasks.stack import filed_job
from veilscore.tasks.table import charges_of, leakage_table
from veilscore.terms.privacy import total
from veilscore.terms.selection import SelectModel
from veilscore.terms.training import TrainScorecard

__all__ = ("test_the_onnx_model_of_the_bank_gives_the_same_log_odds",)
PRIVATE = {
    "disclosure": "private",
    "despite_noise": True,
    "boosting": {"n_estimators": 12},
    "boosting_grid": {"max_depth": [1, 3]},
    "scorecard_grid": {"C": [1e-4, 1.0]},
}
CARD = {}  # what the choice of the scorecard left, kept before the trees are chosen


def home_of(run, party):
    return run.stores[party].path.parent.parent


def files_of(run, party, kind):
    return JobStore(run.stores[party].path / kind)


def favour(run, kind):
    """Let the curve of one kind look best, so that the choice does not hang on a draw of noise."""
    for one in run.job.parameters.kinds:
        store = files_of(run, "bank", one)
        kept = store.load_arrays("curve")
        counts = np.zeros_like(kept["counts"])
        low, high = (0, -1) if one == kind else (-1, 0)
        counts[0, high], counts[1, low] = kept["known"]
        store.save_arrays("curve", **{**kept, "counts": counts})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selection")
    data = write(folder / "data", firms(900, seed=3))
    run = open_job(job("select_model", name="trees", **PRIVATE), nodes(data), folder / "homes", keep=True)
    for step in run.job.steps[:-1]:
        run.step(step)
    curves = {kind: files_of(run, "bank", kind).load_arrays("curve") for kind in run.job.parameters.kinds}
    favour(run, "scorecard")
    run.step("choose")
    model = load_model(run.stores["bank"].path / "model.json")
    report = read_report(run.stores["bank"].path / "report.json")
    trees = [h for h in run.job.holders if (run.stores[h].path / "models" / "trees" / "trees.json").exists()]
    maps = {h: CodeMap.from_json(run.stores[h].load_json("code_map")).hash for h in run.job.holders}
    CARD.update(model=model, report=report, trees=trees, maps=maps, job=filed_job(run.job, run.stores["bank"]))
    usual = {name: TrainScorecard.model_fields[name].default for name in ("min_iv", "max_correlation", "missing_bin")}
    again = {"disclosure": "private", "max_bin": 32, "min_bin_fraction": 0.02, "holdout_scores": False, **usual}
    CARD["again"] = open_job(job(name="again", reuse="trees", C=0.001, **again), run.nodes, folder / "homes").run()
    for party in run.job.parties:  # filed once a job
        shutil.rmtree(home_of(run, party) / "models" / "trees")
    favour(run, "boosting")
    run.step("choose", 2)
    for kind, kept in curves.items():
        files_of(run, "bank", kind).save_arrays("curve", **kept)
    return run


def test_each_kind_is_charged_its_part_and_all_together_cost_what_the_job_says(run):
    assert total(charges_of(run.job.parameters)) == pytest.approx(0.25)
    for holder in run.job.holders:
        lines = account_of(home_of(run, holder), run.nodes[holder], run.job).lines()
        found = [(x.step, x.charge.opening.split()[0], x.charge.rows, round(x.charge.mu2, 6)) for x in lines]
        products = ("scorecard.train", "moments", "train", 0.01875)
        if products not in found:  # noise may leave a holder no column with an effect, and then there are none to open
            found.insert(3, products)
        assert found == [
            ("scorecard.bin", "bins", "all", MU**2),
            ("scorecard.bin", "cells", "train", 0.075),
            ("scorecard.train", "gradient", "train", 0.03125),
            ("scorecard.train", "moments", "train", 0.01875),
            ("scorecard.evaluate", "curve", "holdout", 0.125),
            ("boosting.boost", "leaves", "train", 0.125),
            ("boosting.evaluate", "curve", "holdout", 0.125),
        ]
    three = SelectModel(kinds=("scorecard", "boosting", "stack"), mu=0.9)
    assert total(charges_of(three)) == pytest.approx(0.81)
    assert {round(c.mu2, 6) for c in charges_of(three) if c.opening == "curve"} == {0.27}
    table = {row.step: row for row in leakage_table(run.job.parameters)}
    assert set(table) == {"align", "bin", "train", "boost", "evaluate", "choose", "monotone WOE"}
    assert {name: row.how_much for name, row in table.items()} == {
        "align": "nothing",
        "bin": f"mu 0.27; mu {MU:.2f} once for a version of bins",
        "train": "mu 0.22",
        "boost": "mu 0.35",
        "evaluate": "mu 0.50",
        "choose": "nothing",
        "monotone WOE": "nothing",
    }


def test_curves_are_those_of_the_models_of_each_kind(run):
    for kind in run.job.parameters.kinds:
        stores = {party: files_of(run, party, kind) for party in run.job.parties}
        model, kept = load_model(stores["bank"].path / "model.json"), stores["bank"].load_arrays("curve")
        rows = {party: store.load_arrays("rows") for party, store in stores.items()}
        codes, bank = {party: one["codes"] for party, one in rows.items()}, rows["bank"]
        assert all(np.array_equal(one["train"], bank["train"]) for one in rows.values())
        if isinstance(model, Scorecard):
            found = model.own_units(codes["bank"])
            for part in model.parts[1:]:
                at = np.concatenate(([0], np.cumsum(part.n_codes)[:-1]))
                found = found + np.array(part.points)[codes[part.party] + at].sum(axis=1)
        else:
            found = units(model, codes)
        held = ~bank["train"]
        plain = plain_counts(found[held], bank["target"][held] == 1, tuple(kept["limits"].tolist()))
        assert kept["sigma"] == pytest.approx(np.sqrt(2 / 0.125))
        assert abs((kept["counts"] - plain) / kept["sigma"]).max() < 7


def test_the_kind_of_the_best_curve_is_filed_at_all_parties(run):
    assert isinstance(CARD["model"], Scorecard)
    assert CARD["model"].provenance.job_sha256 == run.job.sha256.hex()
    assert not CARD["trees"]
    assert CARD["maps"] == {part.party: part.map_sha256 for part in CARD["model"].parts[1:]}
    assert CARD["job"].parameters.C == 1.0
    model = load_model(home_of(run, "bank") / "models" / "trees" / "model.json")
    assert isinstance(model, Chained)
    assert model.provenance.job_sha256 == run.job.sha256.hex()
    for holder in run.job.holders:
        assert run.stores[holder].load_json("scored")["model"] == model.sha256.hex()
        folder = home_of(run, holder) / "models" / "trees"
        assert HolderTrees.from_json((folder / "trees.json").read_text()).sha256.hex() == model.holder_sha256[holder]
        assert CodeMap.from_json((folder / "code_map.json").read_text()).hash == model.part(holder).map_sha256


def test_a_chosen_scorecard_is_refitted_for_nothing(run):
    card = load_model(CARD["again"].stores["bank"].path / "model.json")
    assert not charges_of(CARD["again"].job.parameters)
    tight, first = (
        sum((c.coefficient or 0) ** 2 for part in m.parts[1:] for c in part.columns) for m in (card, CARD["model"])
    )
    assert 0 < tight < 0.5 * first


def test_a_batch_is_scored_as_the_chosen_model_says(run, tmp_path):
    test_private_boosting.test_a_batch_is_scored_as_the_model_says(run, "score", tmp_path)


def test_a_single_record_is_scored_as_the_chosen_model_says(run):
    model = load_model(home_of(run, "bank") / "models" / "trees" / "model.json")
    codes = {party: codes_of(run, party) for party in run.job.parties}
    expected, sides = units(model, codes), ModelSides.of(model)
    bits = {h: HolderBits(model.parts_of(h), model.part(h).n_codes) for h in run.job.holders}
    for row in range(0, 400, 40):
        one = sides.of_record(codes["bank"][row][None])
        found = one.own_units(codes["bank"][row][None])
        for holder in run.job.holders:
            found += int(one.holders[holder].cells @ bits[holder].of(codes[holder][row]).astype(np.int64))
        assert found == expected[row]


def test_the_report_shows_what_was_compared_and_how_near_it_was(run):
    report = CARD["report"]
    rows = {one.name: one for one in report.selection.candidates}
    assert set(rows) == {"scorecard1", "scorecard2", "boosting1", "boosting2"}
    assert report.selection.candidates[0].name == "scorecard2"
    assert rows["scorecard2"].filed
    assert rows["scorecard2"].auc_noise > 0
    assert rows["scorecard1"].auc is None
    assert rows["scorecard1"].loss > rows["scorecard2"].loss
    assert report.privacy.mu == pytest.approx(0.5)
    page = (run.stores["bank"].path / "report.html").read_text()
    assert "Deviation by noise" in page
    assert "Weights of the stack" not in page


def test_a_grid_is_chosen_by_folds_of_the_banks_own_columns(run):
    p = run.job.parameters
    for kind in p.kinds:
        store = files_of(run, "bank", kind)
        rows, counts = store.load_arrays("rows"), load_counts(store)["bank"]
        code_map = CodeMap.from_json(store.load_json("code_map"))
        columns = BinnedColumns(
            counts.names, rows["codes"], counts.n_codes, counts.ordered, counts.missing_code, counts.map_hash
        )
        fold = stacked.folds(int(rows["train"].sum()), p.folds, p.fold_seed)
        kept = store.load_json("tuned")
        for candidate, losses in zip(p.points(kind), kept["losses"], strict=True):
            asked = run.job.of_candidate(candidate)
            # codes of a category were drawn anew afterwards, and ties between them decide which cells are merged
            np.testing.assert_allclose(fold_losses(asked, columns, rows, code_map, fold), losses, rtol=0.05)
            again = predicted(asked, counts, rows, code_map, rows["codes"][rows["train"]])
            if kind == "scorecard":  # on rows of its own training a fit is known otherwise
                own = own_fit(asked, counts, rows)
                np.testing.assert_allclose(again, designing.own_log_odds(own.design, own.fitted.result), atol=2e-3)
            else:
                residual = own_boosting(asked, counts, rows, code_map).rows.residual
                bad = rows["target"][rows["train"]]
                np.testing.assert_allclose(1 / (1 + np.exp(-again)), bad - residual, atol=1e-9)
        assert kept["point"] == np.sum(kept["losses"], axis=1).argmin()
    assert files_of(run, "bank", "scorecard").load_json("tuned")["point"] == 1


def test_all_kinds_train_on_the_same_rows(tmp_path):
    data = write(tmp_path / "data", firms(900, seed=1))
    run = open_job(job("select_model", disclosure="private", despite_noise=True), nodes(data), tmp_path / "homes")
    for step in ("align", "scorecard.bin"):
        run.step(step)
    split = run.stores["tax"].load_arrays("split")["train"]
    run.stores["tax"].save_arrays("split", train=np.roll(split, 1))
    with pytest.raises((RefusedError, MessageError), match="other rows train"):
        run.step("boosting.bin")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"choose": "stack"}, "choose needs exact sums"),
        ({"fold_scores": True}, "fold_scores needs exact sums"),
        ({"kinds": ["stack", "stack"]}, "a kind stands there twice"),
        ({"kinds": ["stack"]}, "kinds"),
        ({"holdout_fraction": 0}, "leave holdout_scores on"),
        ({"disclosure": "exact", "kinds": ["boosting", "stack"]}, "an exact job compares all kinds"),
    ],
)
def test_what_a_selection_cannot_do_is_said(options, said):
    with pytest.raises(ConfigError, match=said):
        job("select_model", **{"disclosure": "private"} | options)
    assert SelectModel().private
