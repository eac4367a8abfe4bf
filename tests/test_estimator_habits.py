"""The habits of scikit-learn: data frames, search over parameters, files, other processes, its own checks, exports."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile

import joblib
import numpy as np
import onnxruntime
import pandas as pd
import pytest
from conftest import ROOT
from pmml_evaluator import evaluated
from sklearn.base import clone, is_classifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

from veilscore.api import JointBoosting, JointScorecard, JointSelection, JointStack, NotFittedError
from veilscore.data.codes import CodeMap
from veilscore.data.simulate import simulate
from veilscore.errors import ConfigError, LabelError

QUICK = {"disclosure": "exact", "max_bin": 4, "max_openings": 3, "holdout_fraction": 0.2}
FOLDS = {**QUICK, "holdout_fraction": 0}  # a fold is the hold-out


@pytest.fixture(scope="module")
def firms():
    """Data frames of 800 firms, as a notebook reads them."""
    parties = simulate(600, seed=7, bad_rate=0.3).parties
    frames = {name: pd.DataFrame({"uscc": table.ids, **table.columns}) for name, table in parties.items()}
    frames["bank"]["default"] = parties["bank"].label.astype(int)
    for name in ("tax", "registry"):
        frames[name] = frames[name].iloc[:, :4]
    frames["bank"] = frames["bank"][["uscc", "default", "account_balance", "loan_amount", "collateral"]]
    return frames


@pytest.fixture(scope="module")
def holders(firms):
    return {name: firms[name] for name in ("tax", "registry")}


@pytest.fixture(scope="module")
def card(firms, holders):
    return JointScorecard(**QUICK).fit(firms["bank"], holders)


@pytest.fixture(scope="module")
def risk(card, firms, holders):
    return card.predict_proba(firms["bank"], holders)


# --- fit, predict, score ---------------------------------------------------------------------------------------------


def test_frames_and_files_give_the_same_and_need_no_name_of_the_id(card, risk, firms, tmp_path):
    for name, frame in firms.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    paths = {name: tmp_path / f"{name}.csv" for name in ("tax", "registry")}
    assert np.array_equal(card.predict_proba(tmp_path / "bank.csv", paths), risk)
    assert np.array_equal(card.predict_proba(firms["bank"]), risk), "the holders' data of fit is the default"
    assert card.score(tmp_path / "bank.csv") == pytest.approx(roc_auc_score(firms["bank"]["default"], risk[:, 1]))


def test_predict_gives_classes_and_score_the_auc(card, risk, firms, holders):
    rows = firms["bank"].sample(60, random_state=1)
    classes = card.predict(rows.drop(columns="default"))
    assert set(classes) == set(card.classes_)
    assert np.array_equal(classes, (risk[rows.index, 1] >= 0.5).astype(int))
    auc = roc_auc_score(rows["default"], risk[rows.index, 1])
    assert card.score(rows) == pytest.approx(auc)
    assert card.score(rows.drop(columns="default"), rows["default"], parties=holders) == pytest.approx(auc)
    with pytest.raises(LabelError, match="one value only"):
        card.score(rows[rows["default"] == 1])


def test_labels_alone_say_what_to_pass_instead(firms, holders):
    with pytest.raises(ConfigError, match=r"fit\(bank, parties\).*\{'tax': tax\}"):
        JointScorecard().fit(firms["bank"], firms["bank"]["default"])
    with pytest.raises(ConfigError, match="beside the bank's"):
        JointScorecard().fit(firms["bank"])
    with pytest.raises(ConfigError, match="given parties twice"):
        JointScorecard().fit(firms["bank"], holders, parties=holders)
    with pytest.raises(ConfigError, match="labels beside a path"):
        JointScorecard().fit("bank.csv", firms["bank"]["default"], parties=holders)


# --- what scikit-learn does with estimators --------------------------------------------------------------------------


def test_it_is_a_classifier_that_can_be_cloned(card):
    for kind in (JointScorecard, JointBoosting, JointStack, JointSelection):
        assert is_classifier(kind())
        assert (
            clone(kind(C=3) if kind is JointScorecard else kind()).get_params()
            == kind(**({"C": 3} if kind is JointScorecard else {})).get_params()
        )
    check_is_fitted(card)
    with pytest.raises(NotFittedError, match="call fit"):
        clone(card).predict(None)


@pytest.mark.slow
def test_a_grid_is_searched_on_folds_of_the_banks_rows(firms, holders):
    bank = firms["bank"]
    grid = {"C": [0.1, 1.0]}
    search = GridSearchCV(JointScorecard(**FOLDS), grid, scoring="roc_auc", cv=2, refit=True, error_score="raise")
    search.fit(bank, bank["default"], parties=holders)
    assert search.best_params_["C"] in grid["C"]
    assert (search.cv_results_["mean_test_score"] > 0.5).all()
    assert search.best_score_ == search.cv_results_["mean_test_score"].max()
    assert search.predict(bank.head(20)).shape == (20,)
    assert search.best_estimator_.score(bank) > 0.55


@pytest.mark.slow
def test_folds_without_y_score_by_the_label_column(firms, holders):
    one = cross_val_score(
        JointScorecard(**FOLDS), firms["bank"], cv=2, params={"parties": holders}, error_score="raise"
    )
    assert one.shape == (2,)
    assert (one > 0.5).all()


APPLY = {
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_mixin_order",
}
# The rest fits a matrix without ids and holders, and gets the error of fit(X, y); some see it in other words.
FIT = "has no data of holders"
MATRIX_IN_OTHER_WORDS = {
    "check_positive_only_tag_during_fit",
    "check_estimator_sparse_tag",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
    "check_classifiers_one_label",
    "check_classifier_not_supporting_multiclass",
}
ERROR_OF_SCIKIT_LEARN = {"check_estimators_unfitted"}  # wants its own class, which the core does not import


@pytest.mark.parametrize("kind", [JointScorecard, JointBoosting])
@pytest.mark.filterwarnings("ignore")  # of checks that skip
def test_the_checks_of_scikit_learn_that_apply_pass(kind):
    results = check_estimator(kind(), on_fail=None, on_skip=None)
    assert {one["check_name"] for one in results if one["status"] == "passed"} >= APPLY
    for one in results:
        if one["status"] == "failed" and FIT not in str(one["exception"]):
            assert one["check_name"] in MATRIX_IN_OTHER_WORDS | ERROR_OF_SCIKIT_LEARN


# --- files and other processes ---------------------------------------------------------------------------------------

OTHER = """
import sys, joblib, numpy as np, pandas as pd
from veilscore.api import JointScorecard
folder = sys.argv[1]
bank, tax, registry = (pd.read_csv(f"{folder}/{name}.csv") for name in ("bank", "tax", "registry"))
parties = {"tax": tax, "registry": registry}
a, b = joblib.load(f"{folder}/card.joblib"), JointScorecard.load(f"{folder}/card.veilscore")
np.save(f"{folder}/risk.npy", [one.predict_proba(bank, parties) for one in (a, b)])
"""


@pytest.mark.slow
def test_another_process_predicts_from_the_file_and_from_joblib(firms, holders, tmp_path):
    gone = JointScorecard(**QUICK).fit(firms["bank"], holders)
    risk = gone.predict_proba(firms["bank"])
    gone.save(tmp_path / "card.veilscore")
    joblib.dump(gone, tmp_path / "card.joblib")
    home = gone._fitted.home
    del gone
    assert not home.exists()
    for name, frame in firms.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    subprocess.run([sys.executable, "-c", OTHER, tmp_path], cwd=ROOT, check=True, timeout=200)
    for found in np.load(tmp_path / "risk.npy"):
        assert np.array_equal(found, risk)


def test_what_is_loaded_is_what_was_saved_and_has_no_rows(card, firms, tmp_path):
    path = card.save(tmp_path / "card.veilscore")
    assert path.stat().st_mode & 0o777 == 0o600
    back = JointScorecard.load(path)
    assert repr(back) == repr(card)
    assert np.array_equal(back.coef_, card.coef_)
    assert back.report_.data == card.report_.data
    assert set(back.holder_reports_) == {"tax", "registry"}
    assert clone(back).get_params() == back.get_params()
    with pytest.raises(ConfigError, match="no data of holders"):
        back.predict(firms["bank"])
    with zipfile.ZipFile(path) as file:
        content = b"".join(file.read(name) for name in file.namelist())
    assert not any(firm.encode() in content for firm in firms["bank"]["uscc"])
    with pytest.raises(ConfigError, match="use JointScorecard"):
        JointBoosting.load(path)


def test_damaged_and_hostile_files_are_refused(card, tmp_path):
    path = card.save(tmp_path / "card.veilscore")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="no saved estimator"):
        JointScorecard.load(path)
    for name in ("homes/bank/models/../../../../evil", "/evil", "homes/bank/jobs/x", "evil.py"):
        content = io.BytesIO(whole)
        with zipfile.ZipFile(content, "a") as file:
            file.writestr(name, "x")
        path.write_bytes(content.getvalue())
        with pytest.raises(ConfigError, match="it has the file"):
            JointScorecard.load(path)
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(content, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(
                name, data.replace(b'"base_points": ', b'"base_points": 1') if name.endswith("model.json") else data
            )
    path.write_bytes(content.getvalue())
    with pytest.raises(ConfigError, match="changed after training"):
        JointScorecard.load(path)
    with pytest.raises(ConfigError, match="cannot read"):
        JointScorecard.load(tmp_path / "none")


def test_an_unfitted_estimator_is_pickled_too():
    back = pickle.loads(pickle.dumps(JointScorecard(C=2.0)))  # noqa: S301 - our own bytes
    assert back.C == 2.0
    assert not hasattr(back, "model_")
    with pytest.raises(NotFittedError):
        back.save("card")


@pytest.mark.slow
def test_a_model_replaced_in_a_shared_folder_is_not_scored_with(firms, holders, tmp_path):
    first = JointScorecard(folder=tmp_path, **QUICK).fit(firms["bank"], holders)
    JointScorecard(folder=tmp_path, **{**QUICK, "max_bin": 3}).fit(firms["bank"], holders)
    with pytest.raises(Exception, match="a later fit replaced scorecard"):
        first.predict(firms["bank"])


# --- exports ---------------------------------------------------------------------------------------------------------


def inputs_of(card, firms):
    """The bank's rows as they are, the holders' codes by their own maps, and missing codes for firms unknown there."""
    part = json.loads(card.export(card._fitted.home / "part.json").read_text())
    bank, codes = firms["bank"], {}
    for holder in part["holders"]:
        name = holder["holder"]
        kept = card._fitted.home / name / "models" / "scorecard" / "code_map.json"
        found = CodeMap.from_json(kept.read_text())
        table = card._fitted.reader.again(name, firms[name], found.kinds)
        place = {firm: row for row, firm in enumerate(table.ids.tolist())}
        own = np.vstack([np.asarray(found.transform(table).codes), found.missing])
        rows = own[[place.get(firm, len(place)) for firm in bank["uscc"]]]
        codes[name] = rows[:, [column["place"] for column in holder["columns"]]].astype(np.int64)
    return part, codes


def test_a_scorecard_in_onnx_gives_the_points_of_a_batch(card, risk, firms, tmp_path):
    part, codes = inputs_of(card, firms)
    session = onnxruntime.InferenceSession(card.export(tmp_path / "card.onnx").read_bytes())
    feed = {f"{name} codes": values for name, values in codes.items()}
    for column in part["columns"]:
        values = firms["bank"][column["name"]]
        number = column["kind"] == "number"
        feed[column["name"]] = (
            values.to_numpy(float) if number else np.array([v if isinstance(v, str) else "" for v in values], object)
        )[:, None]
    score, probability = session.run(["score", "probability"], feed)
    assert np.array_equal(score[:, 0], card.score_points(firms["bank"]))
    assert np.abs(probability[:, 0] - risk[:, 1]).max() < 1e-12
    with pytest.raises(ConfigError, match="end it in json, onnx, pmml"):
        card.export(tmp_path / "card.txt")


def test_a_scorecard_in_pmml_gives_the_points_of_a_batch(card, risk, firms, tmp_path):
    part, codes = inputs_of(card, firms)
    bank, points = firms["bank"], card.score_points(firms["bank"])
    rows, asked = range(0, len(bank), 19), []
    for row in rows:
        given = {column["name"]: bank[column["name"]].iloc[row] for column in part["columns"]}
        given = {k: None if pd.isna(v) else v if isinstance(v, str) else float(v) for k, v in given.items()}
        for holder in part["holders"]:
            for place, column in enumerate(holder["columns"]):
                given[f"{holder['holder']}: {column['name']}"] = int(codes[holder["holder"]][row, place])
        asked.append(given)
    found = evaluated(card.export(tmp_path / "card.pmml"), asked)
    assert [one["score"] for one in found] == pytest.approx(points[list(rows)], abs=1e-9)
    assert [one["probability"] for one in found] == pytest.approx(risk[list(rows), 1], abs=1e-9)
