"""Apply a decision over fitted joint models in one process; for notebooks, as `veilscore.api` has the models."""

from __future__ import annotations

import csv
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from veilscore.arrays import Integers
from veilscore.data.panel import newest
from veilscore.data.table import Table
from veilscore.data.table_source import Source
from veilscore.errors import ConfigError
from veilscore.estimator import BANK, COORDINATOR, JointModel
from veilscore.node.local import MEMORY, run_on_tables
from veilscore.terms.decision import DecisionModel, parse_decision
from veilscore.terms.job import Job
from veilscore.terms.settings import parse, read_text


class Decision:
    """Applies a decision to firms in this process: the least step over fitted joint models and the bank's own columns.

    form : the decision, as `veilscore.terms.decision.DecisionModel` has it: a dictionary, or the path of a YAML file.
    *models : fitted estimators, by whose `name` the measures of the decision name their models. All have the same
        holders, whose data `fit` was given with every column that a knock-out names.

    >>> from veilscore.api import Decision, JointScorecard
    >>> from veilscore.data.simulate import simulate
    >>> firms = simulate(1500, seed=7).parties
    >>> holders = {"tax": firms["tax"], "registry": firms["registry"]}
    >>> card = JointScorecard(name="card", disclosure="exact", max_bin=6).fit(firms["bank"], holders)
    >>> limit = Decision(
    ...     {
    ...         "name": "limit",
    ...         "purpose": "proactive",
    ...         "steps": [50_000, 200_000],
    ...         "measures": {"risk": {"model": "card", "cutoffs": [520, 550]}, "room": {"column": "loan_amount"}},
    ...     },
    ...     card,
    ... )
    >>> steps = limit.decide(firms["bank"])
    >>> steps.shape == (firms["bank"].n_rows,), sorted(set(steps.tolist()))
    (True, [0, 1, 2])
    >>> limit.names(steps[:0])
    ()
    """

    def __init__(self, form: Mapping[str, Any] | Path | str, *models: JointModel) -> None:
        given = {model.name: model for model in models}
        if isinstance(form, Mapping):
            self.model = parse(DecisionModel, dict(form), "decision")
        else:
            self.model = parse_decision(read_text(Path(form), "decision"), str(form))
        missing = sorted(set(self.model.models.values()) - set(given))
        if missing:
            raise ConfigError(f"decision {self.model.name} needs model {missing[0]!r}: pass its fitted estimator")
        if not self.model.models:
            raise ConfigError(f"decision {self.model.name} has no measure of a joint model")
        self._models = [given[name] for name in dict.fromkeys(self.model.models.values())]
        self._folder: Path | None = None
        self._filed = False
        self._last: str | None = None  # job of the month before, of a watch

    def __repr__(self) -> str:
        """Say what it decides by."""
        return f"Decision({self.model.name!r}, {len(self.model.steps)} steps)"

    @property
    def holders(self) -> tuple[str, ...]:
        """Return the names of the holders, the lead first."""
        holders: tuple[str, ...] = self._models[0]._ready().job.holders  # noqa: SLF001 - a friend of the estimators
        return holders

    def decide(self, bank: Source, parties: Mapping[str, Source] | None = None) -> Integers:
        """Return the number of the step of each of the bank's rows, (n,); 0 is none.

        bank, parties : as in `predict_proba` of the estimators. Of a watch each call is the next month: levels, which
            stand in place of steps, only rise. Of models on firms at dates, each firm is decided on at its newest one.
        """
        fitted = [model._ready() for model in self._models]  # noqa: SLF001 - a friend of the estimators
        first, policy = fitted[0], self._models[0]._policy()  # noqa: SLF001
        holders = first.parties if parties is None else parties
        if holders is None:
            raise ConfigError("a loaded estimator has no data of holders: pass theirs, decide(bank, parties)")
        kinds = {party: {k: v for one in fitted for k, v in one.kinds[party].items()} for party in first.kinds}
        if set(holders) != set(kinds) - {BANK} or any(set(one.kinds) != set(kinds) for one in fitted):
            raise ConfigError(f"the models of decision {self.model.name} and parties must have the same holders")
        tables = {
            party: _one_row_a_firm(first.reader.again(party, source, kinds[party]))
            for party, source in {BANK: bank, **holders}.items()
        }
        published = tuple(dict.fromkeys(one.column for one in self.model.knock_outs))
        policy = policy.model_copy(update={"publish_bins": published, "tell_measure": True})
        run = partial(run_on_tables, tables=tables, home=self._home(fitted), policy=policy)
        if not self._filed:
            run(self._job(first, "file_decision", {"decision": self.model.model_dump(mode="json")}))
            self._filed = True
        asked = {
            "decision": self.model.name,
            "watch": self.model.watch,
            "last": self._last,
            "min_batch": 1,
            "on_missing": "missing_code",
        }
        done = run(self._job(first, "decide", asked))
        self._last = done.job_id if self.model.watch else None
        with (done.stores[BANK].path / "decisions.csv").open(encoding="utf-8", newline="") as file:
            return np.array([int(row["step"]) for row in csv.DictReader(file)], np.int64)

    def _job(self, fitted: Any, task: str, parameters: Mapping[str, Any]) -> Job:
        body = {
            "name": self.model.name,
            "purpose": self.model.purpose,
            "task": task,
            "bank": BANK,
            "coordinator": COORDINATOR,
            "holders": fitted.job.holders,
            "datasets": dict.fromkeys(fitted.job.parties, MEMORY),
            "parameters": {**parameters, "id_normaliser": fitted.job.training.id_normaliser},
        }
        return parse(Job, body, type(self).__name__)

    def _home(self, fitted: Sequence[Any]) -> Path:
        """Return a folder with a home a party, which has the parts of all models; it goes with this object."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="veilscore-"))
            weakref.finalize(self, shutil.rmtree, str(self._folder), ignore_errors=True)
            for one in fitted:
                for party in one.job.parties:
                    kept = Path(party) / "models" / one.job.name
                    shutil.copytree(one.home / kept, self._folder / kept, dirs_exist_ok=True)
        return self._folder

    def names(self, steps: Iterable[int]) -> tuple[str, ...]:
        """Return the names of steps by number."""
        return tuple(self.model.name_of(int(step)) for step in steps)


def _one_row_a_firm(table: Table) -> Table:
    """Return a table with one row a firm, of firms at dates the newest, so that months of a watch link by firm."""
    if table.panel is None:
        return table
    latest = table.take(newest(table.panel))
    return replace(latest, ids=latest.firms, panel=None)
