"""Offer joint scorecards, boosted trees and stacks in one process, with the habits of scikit-learn; for notebooks.

All parties run in this process over the in-memory channel, with the protocols, messages and files of real nodes but
without what separates the parties. Use nodes where the data of two owners must stay apart.
"""

from __future__ import annotations

import csv
import datetime as dt
import difflib
import html
import inspect
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from veilscore.arrays import Integers, Vector
from veilscore.data.table import Kind
from veilscore.data.table_source import Source, TableReader
from veilscore.errors import ConfigError, JobError
from veilscore.files.store import JobStore
from veilscore.models.boosted import Boosted
from veilscore.models.filed import load_model
from veilscore.models.importance import importance
from veilscore.models.model import Scorecard, ScoreModel
from veilscore.node.local import MEMORY, run_on_tables
from veilscore.reports import report
from veilscore.reports import write as reporting
from veilscore.reports.bank import bank_report
from veilscore.reports.data import ReportData
from veilscore.reports.holder import holder_report
from veilscore.reports.page import render
from veilscore.tasks.table import leakage_table
from veilscore.terms.job import Job
from veilscore.terms.policy import NodePolicy
from veilscore.terms.reading import ReadingRules
from veilscore.terms.rules import ReleaseRules
from veilscore.terms.selection import SelectModel
from veilscore.terms.settings import parse
from veilscore.terms.training import TrainBoosting, Training, TrainScorecard, TrainStack

BANK, COORDINATOR = "bank", "coordinator"


class NotFittedError(JobError, AttributeError):
    """Something was asked for that only `fit` makes."""


@dataclass(frozen=True, repr=False)
class Report:
    """Shows a report in place in a notebook; `data` has its figures."""

    data: ReportData

    def __repr__(self) -> str:
        """Show whose report it is."""
        return f"Report(audience={self.data.audience!r}, job={self.data.job.name!r})"

    def _repr_html_(self) -> str:
        page = html.escape(render(self.data), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:48em;border:0" title="Veilscore report"></iframe>'

    def save(self, path: Path | str) -> Path:
        """Write the page as one HTML file that opens offline; StateError where it cannot be written."""
        return report.write_report(self.data, Path(path))


class _JointModel:
    """Holds what all kinds of joint models share: parameters by name, the run of a job, and scoring."""

    _TASK: ClassVar[str]
    _PARAMETERS: ClassVar[type[Training]]
    _MODEL: ClassVar[type[ScoreModel]]
    model_: ScoreModel
    _OWN: ClassVar[dict[str, Any]] = {
        "name": "scorecard",
        "purpose": "trial in one process",
        "folder": None,
        "publish_column_names": True,
    }

    def __init_subclass__(cls) -> None:
        """Let notebooks complete and show the parameters by name."""
        keyword = inspect.Parameter.KEYWORD_ONLY
        shown = [inspect.Parameter(name, keyword, default=value) for name, value in cls._defaults().items()]
        cls.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]

    def __init__(self, **parameters: Any) -> None:
        self.set_params(**{**self._defaults(), **self._known(parameters)})

    @classmethod
    def _training_defaults(cls) -> dict[str, Any]:
        fields = cls._PARAMETERS.model_fields.items()
        return {name: info.get_default(call_default_factory=True) for name, info in fields}

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        return {**cls._OWN, **cls._training_defaults()}

    @classmethod
    def _known(cls, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the parameters, if all names are known."""
        known = list(cls._defaults())
        for name in parameters:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
                raise ConfigError(f"{cls.__name__} has no parameter {name!r}; {hint}")
        return parameters

    def __repr__(self) -> str:
        """Show the parameters that are not the defaults."""
        defaults = self._defaults()
        changed = {name: value for name, value in self.get_params().items() if value != defaults[name]}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def __getattr__(self, name: str) -> Any:
        """Say that `fit` is due where a fitted attribute is asked for."""
        if name.endswith("_") and not name.startswith("_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted, so it has no {name}; call fit first")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002 - as in scikit-learn
        """Return all parameters by name."""
        return {name: getattr(self, name) for name in self._defaults()}

    def set_params(self, **parameters: Any) -> Self:
        """Change parameters; an unknown name raises ConfigError, values are checked by `fit`."""
        for name, value in self._known(parameters).items():
            setattr(self, name, value)
        return self

    def fit(
        self,
        bank: Source,
        holders: Mapping[str, Source],
        *,
        label: str = "default",
        id: str = "id",  # noqa: A002 - the word that users expect
        weight: str | None = None,
        date: str | None = None,
        reading: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Self:
        """Align, bin, train and evaluate.

        bank : the bank's data with the label: a `Table`, a path of a CSV, Parquet or Excel file, or columns by name (a
            dictionary of arrays, a data frame).
        holders : name of each holder, and its data; the first is the lead.
        label, id, weight, date : names of these columns, for data that is not a `Table`.
        reading : party -> how its columns are read, with the keys of `ReadingRules` as in node.yaml, for example
            {"tax": {"kinds": {"code": "category"}, "special": {"turnover": [-999]}}}; scoring reads alike.
        Raises VeilscoreError: its child says what is wrong with parameters or data.
        """
        if not holders:
            raise ConfigError("holders is empty: a joint model needs at least one data holder")
        asked = {name: getattr(self, name) for name in self._training_defaults()}
        job = self._job(self._TASK, tuple(holders), asked)
        for party in reading or {}:
            if party not in {BANK, *job.holders}:
                raise ConfigError(f"reading names {party!r}; the parties are {', '.join((BANK, *job.holders))}")
        rules = {party: parse(ReadingRules, said, f"reading of {party}") for party, said in (reading or {}).items()}
        reader = TableReader(id, label, weight, date, job.training, rules)
        tables = {
            BANK: reader.bank(BANK, bank),
            **{party: reader.holder(party, holders[party]) for party in job.holders},
        }
        home = self._home()
        run = run_on_tables(job, tables, home, policy=self._policy())
        store = run.stores[BANK]
        data = bank_report(store, job, costs=run.costs)
        views = [holder_report(run.stores[h], job, h, costs=run.costs) for h in job.holders]
        self._fitted = _Fitted(home, job, reader, {party: table.kinds for party, table in tables.items()})
        self.model_ = load_model(store.path / "model.json", self._MODEL)
        self.report_ = Report(data)
        self.holder_reports_ = {view.party: Report(view) for view in views}
        self.merged_report_ = Report(reporting.merged_report(data, views))
        self.leakage_ = leakage_table(job.parameters)
        self.classes_ = np.array([0, 1])
        self._learn(store)
        return self

    def _learn(self, store: JobStore) -> None:
        """Set the attributes that only this kind of model has, from the bank's job folder."""
        raise NotImplementedError

    def decision_function(self, bank: Source, holders: Mapping[str, Source]) -> Vector:
        """Return the log-odds of bad of the bank's rows, (n,); see `predict_proba`."""
        units = self._units(bank, holders)
        found = self.model_.calibration
        return found.intercept + found.slope * self.model_.scaling.log_odds_bad(units)

    def predict_proba(self, bank: Source, holders: Mapping[str, Source]) -> Vector:
        """Return the probabilities of good and bad of the bank's rows, (n, 2), by a batch scoring job.

        With `disclosure: private` a score is one of at most 32 steps, as a bank gets it, else it is exact.
        bank, holders : as in `fit`, with the same columns and the same holders; no label is needed. A firm that a
            holder does not know scores with that holder's bins of missing values.
        Raises NotFittedError where `fit` has not run.
        """
        units = self._units(bank, holders)
        risk = self.model_.probability(units)
        return np.column_stack([1.0 - risk, risk])

    def score_points(self, bank: Source, holders: Mapping[str, Source]) -> Vector:
        """Return the points of the bank's rows, (n,), higher is better; see `predict_proba`."""
        units = self._units(bank, holders)
        return self.model_.score(units)

    def _units(self, bank: Source, holders: Mapping[str, Source]) -> Integers:
        """Return the total points of each row in the model's units."""
        if "_fitted" not in vars(self):
            raise NotFittedError(f"this {type(self).__name__} is not fitted; call fit before scoring")
        fitted = self._fitted
        if set(holders) != set(fitted.job.holders):
            raise ConfigError(f"holders must be those of fit: {', '.join(fitted.job.holders)}")
        tables = {
            party: fitted.reader.again(party, source, fitted.kinds[party])
            for party, source in {BANK: bank, **holders}.items()
        }
        wanted = {
            "model": fitted.job.name,
            "output": "score" if fitted.job.training.private else "exact",
            "on_missing": "missing_code",
            "min_batch": 1,
            "id_normaliser": fitted.job.training.id_normaliser,
        }
        batch = self._job("score_batch", fitted.job.holders, wanted)
        run = run_on_tables(batch, tables, fitted.home, policy=self._policy())
        with (run.stores[BANK].path / "scores.csv").open(encoding="utf-8", newline="") as file:
            scores = np.array([float(row["score"]) for row in csv.DictReader(file)])
        units: Integers = np.rint(scores * self.model_.scaling.units).astype(np.int64)
        return units

    def _job(self, task: str, holders: tuple[str, ...], parameters: Mapping[str, Any]) -> Job:
        body = {
            "name": self.name,
            "purpose": self.purpose,
            "task": task,
            "bank": BANK,
            "coordinator": COORDINATOR,
            "holders": holders,
            "datasets": dict.fromkeys((BANK, *holders), MEMORY),
            "parameters": parameters,
        }
        return parse(Job, body, type(self).__name__)

    def _home(self) -> Path:
        if self.folder is not None:
            return Path(self.folder)
        home = tempfile.mkdtemp(prefix="veilscore-")
        weakref.finalize(self, shutil.rmtree, home, ignore_errors=True)
        return Path(home)

    def _policy(self) -> NodePolicy:
        """Return the policy of all parties: this process decides for them, so they allow what is asked."""
        return NodePolicy(
            accept="auto",
            min_overlap=1,
            publish_column_names=bool(self.publish_column_names),
            allow_order=True,
            allow_standard_errors=True,
            fold_scores="allow",
            consent="off",
            exact_for={BANK: dt.date.max},
            release=ReleaseRules(control="off"),
        )


class JointScorecard(_JointModel):
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
    JointScorecard(max_bin=8, sign=None, pdo=40, disclosure='exact')
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


class JointBoosting(_JointModel):
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
    _OWN: ClassVar[dict[str, Any]] = {**_JointModel._OWN, "name": "trees"}  # noqa: SLF001 - same file

    def _learn(self, store: JobStore) -> None:
        found, fitted = importance(self.model_), store.load_json("fit")
        self.feature_names_in_ = np.array([f"{item.party}: {item.column}" for item in found], dtype=object)
        self.feature_importances_ = np.array([item.gain for item in found])
        self.n_features_in_, self.n_iter_ = len(found), np.array([fitted["n_kept"]])


class JointStack(_JointModel):
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
    _OWN: ClassVar[dict[str, Any]] = {**_JointModel._OWN, "name": "stack"}  # noqa: SLF001 - same file

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
    _OWN: ClassVar[dict[str, Any]] = {**_JointModel._OWN, "name": "selected"}  # noqa: SLF001 - same file


@dataclass(frozen=True)
class _Fitted:
    """Keeps what scoring needs of a fit beside the model."""

    home: Path
    job: Job
    reader: TableReader
    kinds: Mapping[str, Mapping[str, Kind]]
