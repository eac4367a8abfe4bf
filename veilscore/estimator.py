"""Run joint training and scoring of all parties in one process, with the habits of scikit-learn.

All parties run over the in-memory channel, with the protocols, messages and files of real nodes but without what
separates them. scikit-learn is imported where it asks itself; the habits need none of it.
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
from typing import Any, ClassVar, Self, get_args

import numpy as np
import numpy.typing as npt

from veilscore.arrays import Integers, Vector
from veilscore.data.simulate import ID_COLUMN
from veilscore.data.table import Kind
from veilscore.data.table_source import Source, TableReader, with_labels
from veilscore.errors import ConfigError, JobError
from veilscore.estimator_file import About, Saved, models_in, unpack
from veilscore.files.store import JobStore, write_atomically
from veilscore.models import metrics
from veilscore.models.exports import ExportFormat, exported
from veilscore.models.filed import load_model
from veilscore.models.model import ScoreModel
from veilscore.node.local import MEMORY, run_on_tables
from veilscore.reports import report
from veilscore.reports import write as reporting
from veilscore.reports.bank import bank_report
from veilscore.reports.data import ReportData
from veilscore.reports.holder import holder_report
from veilscore.reports.page import render
from veilscore.tasks.context import load_code_map
from veilscore.tasks.table import leakage_table
from veilscore.terms.job import Job
from veilscore.terms.policy import NodePolicy
from veilscore.terms.reading import ReadingRules
from veilscore.terms.rules import ReleaseRules
from veilscore.terms.settings import parse, parse_json
from veilscore.terms.training import Training

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


class JointModel:
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
        parties_or_y: Mapping[str, Source] | npt.ArrayLike | None = None,
        *,
        parties: Mapping[str, Source] | None = None,
        label: str = "default",
        id: str | tuple[str, str] = ID_COLUMN,  # noqa: A002 - the word that users expect
        weight: str | None = None,
        date: str | None = None,
        reading: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Self:
        """Align, bin, train and evaluate: `fit(bank, parties)`.

        bank : the bank's data with the label: a `Table`, a path of a CSV, Parquet or Excel file, or columns by name (a
            dictionary of arrays, a data frame).
        parties_or_y : name of each holder, and its data; the first is the lead. Where `parties` is given, the labels of
            the rows of `bank`, as `GridSearchCV(...).fit(bank, y, parties=parties)` passes those of a fold.
        parties : the holders' data, where the second place is y's.
        label, id, weight, date : names of these columns, for data that is not a `Table`; with `rows="firm_dates"` id
            names two, those of the firms and of the days.
        reading : party -> how its columns are read, with the keys of `ReadingRules` as in node.yaml, for example
            {"tax": {"kinds": {"code": "category"}, "special": {"turnover": [-999]}}}; scoring reads alike.
        Raises VeilscoreError: its child says what is wrong with parameters or data.
        """
        holders, y = _roles("fit", parties_or_y, parties)
        if holders is None:
            raise ConfigError("fit needs the holders' data beside the bank's: fit(bank, {'tax': tax})")
        if not holders:
            raise ConfigError("parties is empty: a joint model needs at least one data holder")
        asked = {name: getattr(self, name) for name in self._training_defaults()}
        job = self._job(self._TASK, tuple(holders), asked)
        for party in reading or {}:
            if party not in {BANK, *job.holders}:
                raise ConfigError(f"reading names {party!r}; the parties are {', '.join((BANK, *job.holders))}")
        rules = {party: parse(ReadingRules, said, f"reading of {party}") for party, said in (reading or {}).items()}
        reader = TableReader(id, label, weight, date, job.training, rules)
        tables = {
            BANK: reader.bank(BANK, bank if y is None else with_labels(bank, label, y)),
            **{party: reader.holder(party, holders[party]) for party in job.holders},
        }
        home = self._home()
        run = run_on_tables(job, tables, home, policy=self._policy())
        store = run.stores[BANK]
        data = bank_report(store, job, costs=run.costs)
        views = {h: holder_report(run.stores[h], job, h, costs=run.costs) for h in job.holders}
        reports = {**views, BANK: data, "merged": reporting.merged_report(data, list(views.values()))}
        kinds = {party: table.kinds for party, table in tables.items()}
        self._take(_Fitted(home, store.path, job, reader, kinds, dict(holders)), reports)
        return self

    def _take(self, fitted: _Fitted, reports: Mapping[str, ReportData]) -> None:
        """Set what `fit` and `load` leave behind."""
        self._fitted = fitted
        self.model_ = load_model(fitted.home / BANK / "models" / fitted.job.name / "model.json", self._MODEL)
        self.report_ = Report(reports[BANK])
        self.holder_reports_ = {holder: Report(reports[holder]) for holder in fitted.job.holders}
        self.merged_report_ = Report(reports["merged"])
        self.leakage_ = leakage_table(fitted.job.parameters)
        self.classes_ = np.array([0, 1])
        self._learn(JobStore(fitted.results))

    def _learn(self, store: JobStore) -> None:
        """Set the attributes that only this kind of model has, from the bank's job folder."""
        raise NotImplementedError

    def decision_function(self, bank: Source, parties: Mapping[str, Source] | None = None) -> Vector:
        """Return the log-odds of bad of the bank's rows, (n,); see `predict_proba`."""
        units = self._units(bank, parties)
        found = self.model_.calibration
        return found.intercept + found.slope * self.model_.scaling.log_odds_bad(units)

    def predict_proba(self, bank: Source, parties: Mapping[str, Source] | None = None) -> Vector:
        """Return the probabilities of good and bad of the bank's rows, (n, 2), by a batch scoring job.

        With `disclosure: private` a score is one of at most 32 steps, as a bank gets it, else it is exact.
        bank : as in `fit`, with the same columns; no label is needed.
        parties : the same holders' data; None: that of `fit`, whose firms are found by id. A firm that a holder does
            not know scores with that holder's bins of missing values.
        Raises NotFittedError where `fit` has not run.
        """
        units = self._units(bank, parties)
        risk = self.model_.probability(units)
        return np.column_stack([1.0 - risk, risk])

    def predict(self, bank: Source, parties: Mapping[str, Source] | None = None) -> Integers:
        """Return 1 where bad is at least as probable as good, else 0, (n,); banks decide by bands and cut-offs."""
        found: Integers = (self.predict_proba(bank, parties)[:, 1] >= 0.5).astype(np.int64)
        return found

    def score(
        self,
        bank: Source,
        parties_or_y: Mapping[str, Source] | npt.ArrayLike | None = None,
        *,
        parties: Mapping[str, Source] | None = None,
    ) -> float:
        """Return the area under the ROC curve of rows with labels; accuracy says nothing where few firms are bad.

        bank, parties_or_y, parties : as in `fit`; parties None: those of `fit`.
        """
        holders, y = _roles("score", parties_or_y, parties, known="_fitted" in vars(self))
        fitted = self._ready()
        labelled = bank if y is None else with_labels(bank, fitted.reader.label, y)
        table = fitted.reader.again(BANK, labelled, fitted.kinds[BANK], labelled=True)
        return metrics.auc(np.asarray(table.label), self._units(table, holders), points=True)

    def score_points(self, bank: Source, parties: Mapping[str, Source] | None = None) -> Vector:
        """Return the points of the bank's rows, (n,), higher is better; see `predict_proba`."""
        units = self._units(bank, parties)
        return self.model_.score(units)

    def _ready(self) -> _Fitted:
        if "_fitted" not in vars(self):
            raise NotFittedError(f"this {type(self).__name__} is not fitted; call fit first")
        return self._fitted

    def _units(self, bank: Source, given: Mapping[str, Source] | None) -> Integers:
        """Return the total points of each row in the model's units."""
        fitted = self._ready()
        holders = fitted.parties if given is None else given
        if holders is None:
            raise ConfigError("a loaded estimator has no data of holders: pass theirs, predict(bank, parties)")
        if not isinstance(holders, Mapping) or set(holders) != set(fitted.job.holders):
            raise ConfigError(f"parties must be those of fit by name: {', '.join(fitted.job.holders)}")
        filed = fitted.home / BANK / "models" / fitted.job.name / "model.json"
        if load_model(filed).sha256 != self.model_.sha256:
            raise JobError(f"a later fit replaced {fitted.job.name} in {fitted.home}: give each a name or folder")
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
            "rows": fitted.job.training.rows,
            "dates": "newest" if fitted.job.training.rows == "firms" else "all",
        }
        batch = self._job("score_batch", fitted.job.holders, wanted)
        run = run_on_tables(batch, tables, fitted.home, policy=self._policy())
        with (run.stores[BANK].path / "scores.csv").open(encoding="utf-8", newline="") as file:
            scores = np.array([float(row["score"]) for row in csv.DictReader(file)])
        units: Integers = np.rint(scores * self.model_.scaling.units).astype(np.int64)
        return units

    def export(self, path: Path | str) -> Path:
        """Write the bank's part of the model for other programs, as .json, .onnx or .pmml by the file's ending.

        Inputs are the bank's own columns in real values, and what each holder computes of its part (codes of bins of a
        scorecard, bits of splits of trees).
        """
        fitted, target = self._ready(), Path(path)
        form = target.suffix.lower().removeprefix(".")
        if form not in get_args(ExportFormat):
            raise ConfigError(f"{target.name} says no format; end it in {', '.join(get_args(ExportFormat))}")
        data = exported(self.model_, load_code_map(fitted.home / BANK / "models", fitted.job.name), form)  # type: ignore[arg-type]
        write_atomically(target, lambda file: file.write(data))
        return target

    def save(self, path: Path | str) -> Path:
        """Write the fitted estimator as one file that `load` reads, with all parties' maps and nobody's rows."""
        content, target = self._saved().pack(), Path(path)
        write_atomically(target, lambda file: file.write(content))
        return target

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read an estimator that `save` wrote; ConfigError where the file is another, damaged or of another class."""
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        saved = unpack(content, str(path))
        if saved.about.estimator != cls.__name__:
            raise ConfigError(f"{path} is a {saved.about.estimator[:40]}: use {saved.about.estimator[:40]}.load")
        job = saved.about.training_job()
        made = cls(**saved.about.own, **{name: getattr(job.training, name) for name in cls._training_defaults()})
        made._restore(saved)
        return made

    def _saved(self) -> Saved:
        fitted = self._ready()
        files = models_in(fitted.home, (BANK, *fitted.job.holders))
        reports = {BANK: self.report_, "merged": self.merged_report_, **self.holder_reports_}
        files |= {f"reports/{name}.json": one.data.model_dump_json().encode() for name, one in reports.items()}
        results = [fitted.results / name for name in ("fit.json", "selection.json")]
        files |= {f"job/{path.name}": path.read_bytes() for path in results if path.is_file()}
        r = fitted.reader
        about = About(
            estimator=type(self).__name__,
            own={name: getattr(self, name) for name in self._OWN if name != "folder"},
            job=parse_json(fitted.job.canonical().decode()),
            id=r.id,
            label=r.label,
            weight=r.weight,
            date=r.date,
            reading=dict(r.rules),
            kinds={party: dict(kinds) for party, kinds in fitted.kinds.items()},
        )
        return Saved(about, files)

    def _restore(self, saved: Saved) -> None:
        home = self._temporary()
        saved.lay_out(home)
        about, job = saved.about, saved.about.training_job()
        reader = TableReader(about.id, about.label, about.weight, about.date, job.training, about.reading)
        reports = {
            name: report.read_report(home / "reports" / f"{name}.json") for name in (BANK, "merged", *job.holders)
        }
        self._take(_Fitted(home / "homes", home / "job", job, reader, about.kinds, None), reports)

    def __getstate__(self) -> dict[str, Any]:
        """Return parameters and, once fitted, what `save` writes: so joblib takes it to another process."""
        content = self._saved().pack() if "_fitted" in vars(self) else None
        return {"parameters": self.get_params(), "saved": content}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.set_params(**state["parameters"])
        if state["saved"] is not None:
            self._restore(unpack(state["saved"], f"a pickled {type(self).__name__}"))

    def __sklearn_tags__(self) -> Any:
        """Say to scikit-learn that this is a classifier of two classes which reads data frames with missing values."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags  # noqa: PLC0415 - it asks, so it is there

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False),
            classifier_tags=ClassifierTags(multi_class=False),
            input_tags=InputTags(categorical=True, string=True, dict=True, allow_nan=True),
            non_deterministic=True,
            no_validation=True,
        )

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
        return self._temporary()

    def _temporary(self) -> Path:
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


def _roles(
    method: str, given: Any, parties: Mapping[str, Source] | None, *, known: bool = False
) -> tuple[Mapping[str, Source] | None, Any]:
    """Return holders' data and labels from what stands in the second place and in `parties`."""
    if parties is None and isinstance(given, Mapping):
        return given, None
    if parties is not None and not isinstance(parties, Mapping):
        raise ConfigError(f"parties is a {type(parties).__name__}; pass each holder's data by name, {{'tax': tax}}")
    if given is not None and parties is None and not known:
        raise ConfigError(
            f"{method}(X, y) has no data of holders; pass {method}(bank, parties): the bank's data with its label in a "
            f"column, and a dictionary such as {{'tax': tax}}; or {method}(bank, y, parties=parties)"
        )
    if given is not None and isinstance(given, Mapping):
        raise ConfigError(f"{method} was given parties twice; in the second place, beside parties=, stand labels")
    return parties, given


@dataclass(frozen=True, repr=False)
class _Fitted:
    """Keeps what scoring needs of a fit beside the model.

    results : the bank's folder of what the job found.
    parties : the holders' data of `fit`, which files of an estimator do not keep.
    """

    home: Path
    results: Path
    job: Job
    reader: TableReader
    kinds: Mapping[str, Mapping[str, Kind]]
    parties: Mapping[str, Source] | None
