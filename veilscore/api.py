"""Offer joint scorecards, boosted trees and stacks in one process, with the habits of scikit-learn; for notebooks.

All parties run in this process over the in-memory channel, with the protocols, messages and files of real nodes but
without what separates the parties. Use nodes where the data of two owners must stay apart.

    card = JointScorecard(disclosure="exact").fit(bank, {"tax": tax, "registry": registry})
    risk = card.predict_proba(later, parties)[:, 1]   # parties may be left out: then the data of fit is searched by id
    card.save("card.veilscore"); JointScorecard.load("card.veilscore"); card.export("card.pmml")

X is the bank's data, a data frame with the firms' ids; y its label. Holders' data is no X: they have other rows, in
another order, which alignment finds by id, so it goes along whole in `parties` while folds cut the bank's rows:

    search = GridSearchCV(JointScorecard(disclosure="exact", holdout_fraction=0), {"C": [0.1, 1.0]}, scoring="roc_auc")
    search.fit(bank, bank["default"], parties={"tax": tax, "registry": registry})

`score` is the AUC. A fold is the hold-out, so the job needs none. What reorders or replaces columns before the
estimator (pipelines with scalers) does not apply: bins stand for all of it, and ids must stay. With
`disclosure="private"` each fit draws noise of its own and scores in steps.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from veilscore.decider import Decision
from veilscore.estimator import JointModel, NotFittedError, Report
from veilscore.files.store import JobStore
from veilscore.models.boosted import Boosted
from veilscore.models.importance import importance
from veilscore.models.model import Scorecard, ScoreModel
from veilscore.terms.selection import SelectModel
from veilscore.terms.training import TrainBoosting, Training, TrainScorecard, TrainStack

__all__ = ("Decision", "JointBoosting", "JointScorecard", "JointSelection", "JointStack", "NotFittedError", "Report")


class JointScorecard(JointModel):
    """Trains and applies a joint scorecard of a bank and data holders in this process.

    name, purpose : of the job and the model.
    folder : where the parties keep their files; None: a temporary folder, removed with this object.
    publish_column_names : whether holders show the bank their columns' names rather than numbers.
    **training : the parameters of `veilscore.terms.parameters.TrainScorecard` by name, with its defaults.

    After `fit`:
    model_ : `veilscore.models.model.Scorecard`, as the bank files it.
    report_ : the bank's report; shows itself in a notebook, has `save(path)` and `data`.
    holder_reports_, merged_report_ : each holder's report by name, and all views joined.
    leakage_ : rows of who learned what in each step.
    coef_, intercept_, feature_names_in_ : (1, d), (1,) and (d,) of the columns in the model; a feature is the weight
        of evidence of a column's bin, in log-odds of bad.
    classes_, n_features_in_, n_iter_ : [0, 1], d, and the number of gradients opened, (1,).

    >>> from veilscore.api import JointScorecard
    >>> from veilscore.data.simulate import simulate
    >>> firms = simulate(2000, seed=7).parties
    >>> holders = {"tax": firms["tax"], "registry": firms["registry"]}
    >>> card = JointScorecard(disclosure="exact", max_bin=8, sign=None, pdo=40)
    >>> card.fit(firms["bank"], holders)
    JointScorecard(max_bin=8, pdo=40, sign=None, disclosure='exact')
    >>> card.coef_.shape[1] == len(card.feature_names_in_)
    True
    >>> risk = card.predict_proba(firms["bank"], holders)
    >>> risk.shape == (firms["bank"].n_rows, 2)
    True
    >>> card.report_
    Report(audience='bank', job='scorecard')
    >>> bool(card.report_.data.improvement.auc > 0)
    True
    """

    _TASK = "train_scorecard"
    _PARAMETERS = TrainScorecard
    _MODEL = Scorecard

    def _learn(self, store: JobStore) -> None:
        fitted = store.load_json("fit")
        self.coef_ = np.array([fitted["beta"]])
        self.intercept_ = np.array([self.model_.intercept])
        self.feature_names_in_ = np.array(fitted["names"], dtype=object)
        self.n_features_in_ = len(fitted["names"])
        self.n_iter_ = np.array([fitted["n_evaluations"]])


class JointBoosting(JointModel):
    """Trains and applies joint boosted trees of a bank and data holders in this process.

    name, purpose, folder, publish_column_names : as for `JointScorecard`.
    **training : the parameters of `veilscore.terms.parameters.TrainBoosting` by name, with its defaults.

    After `fit`:
    model_ : `veilscore.models.boosted.Boosted`, as the bank files it.
    report_, holder_reports_, merged_report_, leakage_, classes_ : as of `JointScorecard`.
    feature_names_in_, feature_importances_ : (d,) columns that trees use, and their share of the gain.
    n_features_in_, n_iter_ : d, and the number of trees in the model, (1,).
    """

    _TASK = "train_boosting"
    _PARAMETERS = TrainBoosting
    _MODEL = Boosted
    model_: Boosted
    _OWN: ClassVar[dict[str, Any]] = {**JointModel._OWN, "name": "trees"}  # noqa: SLF001 - same file

    def _learn(self, store: JobStore) -> None:
        found, fitted = importance(self.model_), store.load_json("fit")
        self.feature_names_in_ = np.array([f"{item.party}: {item.column}" for item in found], dtype=object)
        self.feature_importances_ = np.array([item.gain for item in found])
        self.n_features_in_, self.n_iter_ = len(found), np.array([fitted["n_kept"]])


class JointStack(JointModel):
    """Trains a private stack, or by `disclosure="exact"` puts a scorecard and trees together on folds, in this process.

    name, purpose, folder, publish_column_names : as for `JointScorecard`.
    **training : the parameters of `veilscore.terms.parameters.TrainStack` by name, with its defaults.

    After `fit`:
    model_ : `veilscore.models.chained.Chained`, as the bank files it; `veilscore.models.boosted.Stacked` of exact sums.
    report_, holder_reports_, merged_report_, leakage_, classes_ : as of `JointScorecard`.
    candidates_ : loss of every member, of the stack and of the bank's own columns alone, out of fold; best first;
        of a private selection noised AUC by kind; empty of a private stack, which has no folds.
    weights_ : member -> level two's weight; empty likewise.
    """

    _TASK = "train_stack"
    _PARAMETERS: ClassVar[type[Training]] = TrainStack
    _MODEL: ClassVar[type[ScoreModel]] = ScoreModel
    _OWN: ClassVar[dict[str, Any]] = {**JointModel._OWN, "name": "stack"}  # noqa: SLF001 - same file

    def _learn(self, store: JobStore) -> None:
        self.weights_ = dict(store.load_json("selection")["weights"]) if store.has("selection") else {}
        selection = self.report_.data.selection
        self.candidates_ = selection.candidates if selection is not None else ()


class JointSelection(JointStack):
    """Files the best of several kinds of model, by noised curves; by `disclosure="exact"`, of a grid by loss on folds.

    **training : the parameters of `veilscore.terms.selection.SelectModel` by name, with its defaults; else as
        `JointStack`, `model_` being of the kind that won.
    """

    _TASK = "select_model"
    _PARAMETERS = SelectModel
    _MODEL = ScoreModel
    _OWN: ClassVar[dict[str, Any]] = {**JointModel._OWN, "name": "selected"}  # noqa: SLF001 - same file
