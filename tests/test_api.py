"""The scikit-learn-like estimator, on the run of its own docstring example and on real files."""

from __future__ import annotations

import asyncio
import doctest
import inspect
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from tests.conftest import shared_data
from veilscore.api import Decision, JointBoosting, JointScorecard, JointSelection, JointStack, NotFittedError
from veilscore.data.simulate import simulate
from veilscore.data.table_source import TableReader
from veilscore.errors import ColumnError, ConfigError, LabelError, SchemaError
from veilscore.models.chained import Chained
from veilscore.node.local import outside_loop
from veilscore.terms.training import TrainScorecard


@pytest.fixture(scope="module")
def example():
    """Names of the docstring's example after it ran as written."""
    source = inspect.getdoc(JointScorecard)
    names = {}
    test = doctest.DocTestParser().get_doctest(source, names, "JointScorecard", None, 0)
    found = []
    doctest.DocTestRunner(verbose=False).run(test, out=found.append, clear_globs=False)
    assert not found, "".join(found)
    return test.globs


@pytest.fixture(scope="module")
def card(example):
    return example["card"]


@pytest.fixture(scope="module")
def risk(example):
    return example["risk"]


def test_scores_are_those_of_the_filed_model(example, card, risk):
    bank = example["firms"]["bank"]
    points = card.score_points(bank, example["holders"])
    factor = 40 / np.log(2)
    log_odds = (600 - factor * np.log(50) - points) / factor
    assert risk.sum(axis=1) == pytest.approx(1)
    assert np.log(risk[:, 1] / risk[:, 0]) == pytest.approx(log_odds, abs=1e-9)
    assert roc_auc_score(bank.label, risk[:, 1]) > card.report_.data.evaluations[1].discrimination.auc


def test_scores_follow_the_rows_of_the_bank(example, card, risk):
    bank, rng = example["firms"]["bank"], np.random.default_rng(1)
    rows = rng.permutation(bank.n_rows)[:7]
    few = replace(bank.take(rows), label=None)
    assert card.decision_function(few, example["holders"]) == pytest.approx(np.log(risk[rows, 1] / risk[rows, 0]))


def test_fitted_attributes_have_the_shapes_of_scikit_learn(card):
    d = len(card.feature_names_in_)
    assert card.coef_.shape == (1, d)
    assert np.isfinite(card.coef_).all()
    assert card.intercept_.shape == (1,)
    assert card.n_features_in_ == d
    assert card.classes_.tolist() == [0, 1]
    assert 0 < card.n_iter_[0] <= card.max_openings
    assert "tax: turnover" in card.feature_names_in_
    assert card.model_.scaling.pdo == 40
    told = {"monotone WOE", "association"}  # where a holder's policy tells them
    assert {row.step for row in card.leakage_} == {"align", "bin", "train", "evaluate", *told}


def test_reports_show_themselves_and_save(card, tmp_path):
    shown = card.report_._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert shown.count("<") == 2
    page = card.report_.save(tmp_path / "report.html")
    assert "Scores compared" in page.read_text(encoding="utf-8")
    assert set(card.holder_reports_) == {"tax", "registry"}
    assert card.merged_report_.data.audience == "merged"
    sent = {(cost.step, cost.party): cost.bytes_sent for cost in card.report_.data.costs}
    assert sent["train", "bank"] > 1_000_000
    assert sent["evaluate", "coordinator"] > 0


def test_parameters_are_those_of_a_training_job():
    parameters = set(inspect.signature(JointScorecard).parameters)
    assert set(TrainScorecard.model_fields) <= parameters
    card = JointScorecard(max_bin=7, bands={"A": 600})
    assert set(card.get_params()) == parameters
    assert clone(card).get_params() == card.get_params()
    assert repr(card.set_params(max_bin=20)) == "JointScorecard(bands={'A': 600})"
    with pytest.raises(ConfigError, match="did you mean 'max_bin'"):
        JointScorecard(max_bins=7)
    with pytest.raises(ConfigError, match="no parameter"):
        card.set_params(depth=3)


def test_what_fit_makes_is_missing_before_it(example):
    card = JointScorecard()
    with pytest.raises(NotFittedError, match="call fit"):
        _ = card.coef_
    with pytest.raises(NotFittedError, match="call fit"):
        card.predict_proba(example["firms"]["bank"], example["holders"])
    assert not hasattr(card, "model_")
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = card.colour


def test_wrong_input_is_refused_before_anything_runs(example):
    bank, holders = example["firms"]["bank"], example["holders"]
    with pytest.raises(ConfigError, match="max_bin"):
        JointScorecard(max_bin=1).fit(bank, holders)
    with pytest.raises(ConfigError, match="parties is empty"):
        JointScorecard().fit(bank, {})
    with pytest.raises(ConfigError, match="stands twice"):
        JointScorecard().fit(bank, {"bank": holders["tax"]})
    with pytest.raises(LabelError, match="no label"):
        JointScorecard().fit(replace(bank, label=None), holders)
    with pytest.raises(ConfigError, match="weights=True"):
        JointScorecard(weights=True).fit(bank, holders)
    with pytest.raises(ConfigError, match="is a list"):
        JointScorecard().fit([1, 2], holders)
    with pytest.raises(ColumnError, match="no column 'ages'"):
        JointScorecard(columns={"tax": {"exclude": ["ages"]}}).fit(bank, holders)


def test_wrong_input_to_score_is_refused(example, card):
    bank, holders = example["firms"]["bank"], example["holders"]
    with pytest.raises(ConfigError, match="must be those of fit by name: tax, registry"):
        card.predict_proba(bank, {"tax": holders["tax"]})
    short = replace(bank, columns=dict(list(bank.columns.items())[1:]))
    with pytest.raises((ColumnError, SchemaError), match="no column"):
        card.predict_proba(short, holders)


def test_paths_tables_and_columns_by_name_read_the_same():
    path = shared_data("kz_corporate") / "bank.csv"
    reader = TableReader("uscc", "default", None, None, TrainScorecard(columns={"bank": {"exclude": ("wc", "lr")}}))
    table = reader.bank("bank", path)
    named = {
        "uscc": table.ids,
        "default": table.label,
        **table.columns,
        "wc": np.arange(table.n_rows),
        "lr": table.label,
    }
    other = reader.bank("bank", named)
    assert list(other.columns) == list(table.columns)
    assert "wc" not in table.columns
    for name, values in table.columns.items():
        np.testing.assert_array_equal(values, other.columns[name])
    again = reader.again("bank", path, table.kinds)
    assert again.label is None
    assert again.kinds == table.kinds == reader.again("bank", named, table.kinds).kinds
    with pytest.raises(ColumnError, match="did you mean 'default'"):
        TableReader("uscc", "defaults", None, None, TrainScorecard()).bank("bank", named)


def test_a_running_loop_as_in_a_notebook_is_no_hindrance():
    async def cell():
        return outside_loop(lambda: asyncio.run(asyncio.sleep(0, "done")))

    assert asyncio.run(cell()) == "done"


def test_the_temporary_folder_goes_with_the_estimator(example):
    bank, holders = example["firms"]["bank"], example["holders"]
    card = JointScorecard(max_bin=3, disclosure="exact", max_openings=1, holdout_fraction=0, publish_column_names=False)
    card.fit(bank.take(np.arange(700)), {"tax": holders["tax"]})
    home = card._fitted.home
    assert home.is_dir()
    assert "tax: tax.c1" in card.feature_names_in_
    assert "holdout_fraction: 0" in card.report_.data.warnings[0]
    del card
    assert not home.exists()


def test_joint_boosting():
    parties = simulate(700, seed=7, bad_rate=0.3).parties
    holders = {"tax": parties["tax"], "registry": parties["registry"]}
    model = JointBoosting(disclosure="exact", n_estimators=4, max_depth=3, max_bin=8, min_leaf_rows=10)
    model.fit(parties["bank"], holders)
    assert "n_estimators=4" in repr(model)
    assert model.feature_importances_.sum() == pytest.approx(1.0)
    assert len(model.feature_names_in_) == model.n_features_in_
    assert model.n_iter_.tolist() == [4]
    risk = model.predict_proba(parties["bank"], holders)
    assert roc_auc_score(parties["bank"].label, risk[:, 1]) > 0.6
    assert np.allclose(1 / (1 + np.exp(-model.decision_function(parties["bank"], holders))), risk[:, 1])
    assert "on shares" in model.report_.data.boosting.limits
    with pytest.raises(ConfigError, match="did you mean 'max_depth'"):
        JointBoosting(maxdepth=3)


def test_joint_boosting_is_private_by_default():
    parties = simulate(2000, seed=7, bad_rate=0.3).parties
    holders = {"tax": parties["tax"], "registry": parties["registry"]}
    model = JointBoosting(n_estimators=8, max_depth=3, max_bin=8, despite_noise=True).fit(parties["bank"], holders)
    assert isinstance(model.model_, Chained)
    assert model.feature_importances_.sum() == pytest.approx(1.0)
    assert any(name.startswith("tax: ") for name in model.feature_names_in_)
    assert "noise alone" in model.report_.data.boosting.limits
    assert model.leakage_[-1].how_much == "mu 0.50"
    risk = model.predict_proba(parties["bank"], holders)
    assert 8 < np.unique(risk[:, 1]).size <= 32  # scores come in steps, as a bank gets them
    assert roc_auc_score(parties["bank"].label, risk[:, 1]) > 0.6


@pytest.mark.slow
def test_a_stack_and_a_selection():
    firms = simulate(900, seed=3, bad_rate=0.3).parties
    holders = {"tax": firms["tax"], "registry": firms["registry"]}
    small = {"scorecard": {"max_openings": 6}, "boosting": {"n_estimators": 1, "max_depth": 2, "min_leaf_rows": 10}}
    stack = JointStack(disclosure="exact", max_bin=6, folds=2, **small).fit(firms["bank"], holders)
    assert {one.kind for one in stack.candidates_} == {"scorecard", "boosting", "stack", "bank only"}
    assert set(stack.weights_) == {"scorecard", "boosting"}
    risk = stack.predict_proba(firms["bank"], holders)[:, 1]
    assert roc_auc_score(firms["bank"].label, risk) > 0.6
    grid = {"C": [0.1, 1.0]}
    chosen = JointSelection(disclosure="exact", max_bin=6, folds=2, scorecard_grid=grid, choose="scorecard", **small)
    chosen.fit(firms["bank"], holders)
    assert chosen.model_.format == "veilscore-scorecard/1"
    assert next(one.varied for one in chosen.candidates_ if one.filed)["C"] in {"0.1", "1.0"}


def test_a_decision_over_it(card, example):
    bank, tax = example["firms"]["bank"], example["holders"]["tax"]
    limit = Decision(
        {
            "name": "limit",
            "purpose": "proactive",
            "steps": [50_000, 100_000, 200_000],
            "measures": {
                "risk": {"model": card.name, "cutoffs": [500, 530, 560]},
                "room": {"column": "loan_amount"},
            },
            "knock_outs": [{"party": "tax", "column": "filing_delays", "above": 0}],
        },
        card,
    )
    points, amounts = card.score_points(bank), np.asarray(bank.columns["loan_amount"], float)
    late = dict(zip(tax.ids.tolist(), np.asarray(tax.columns["filing_delays"], float) > 0, strict=True))
    steps = np.minimum(
        np.searchsorted([500, 530, 560], points, side="right"),
        np.searchsorted([50_000, 100_000, 200_000], amounts, side="right"),
    )
    steps[[late.get(firm, False) for firm in bank.ids.tolist()]] = 0
    assert np.array_equal(limit.decide(bank), steps)
    assert set(steps.tolist()) == {0, 1, 2, 3}
    assert limit.names([0, 3]) == ("none", "200000")
    assert repr(limit) == "Decision('limit', 3 steps)"
    with pytest.raises(ConfigError, match="needs model 'scorecard': pass its fitted estimator"):
        Decision(limit.model.model_dump(mode="json"))
