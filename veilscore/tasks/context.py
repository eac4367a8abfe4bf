"""What a party has at hand in one step of a job: its data set, its files of the job, and what it keeps of models."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from veilscore.arrays import Mask
from veilscore.data.codes import CodeMap
from veilscore.data.ingest import list_columns, read_table
from veilscore.data.table import Kind, Table
from veilscore.errors import ConfigError, DataError, SchemaError
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.opening import Opening
from veilscore.files.private import private_folder
from veilscore.files.store import JobStore, write_text
from veilscore.models import screening
from veilscore.models.filed import load_model
from veilscore.models.model import ScoreModel
from veilscore.models.trees import HolderTrees
from veilscore.models.versions import SCREENINGS, STAGED, with_map
from veilscore.protocols.shards import Threads, Workers
from veilscore.release.account import FILE, Account
from veilscore.release.batch import BatchGuard
from veilscore.tasks.panel import held_out, rows_taken
from veilscore.terms.bands import KeptBands
from veilscore.terms.job import Job
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.parameters import AppliesFiled, AppliesModel, Sampled, ScoreBatch, ScreenFeatures
from veilscore.terms.settings import parse_json
from veilscore.terms.training import Training
from veilscore.wire.protocol import Session

CONSENT_LISTS = "consents/lists/*.json"


@dataclass(frozen=True)
class StepContext:
    """What one party has at hand in one step."""

    session: Session
    role: Literal["bank", "holder", "coordinator"]
    job: Job
    node: NodeConfig
    store: JobStore
    whole: Path | None = field(default=None, kw_only=True)  # of a fit within a job: the job's folder
    opening: Opening | None = field(default=None, kw_only=True)  # bank: what this attempt is bound to
    workers: Callable[[], Workers] = field(default=Threads, kw_only=True)  # engages what runs shards

    @property
    def job_id(self) -> str:
        """Return the id of the job that the step is of."""
        return self.session.id.split("/", maxsplit=1)[0]

    def table(self) -> Table:
        """Read and check the party's data set of the job."""
        return self.columns(self._included())

    def columns(self, names: tuple[str, ...] | None, kinds: Mapping[str, Kind] | None = None) -> Table:
        """Read and check some features of the party's data set (None: all).

        kinds : of the columns, where a batch does not apply the model's version in use here.
        """
        p = self.job.parameters
        if kinds is None:
            kinds = dict(self.code_map().kinds) if isinstance(p, ScoreBatch) else {}
        dataset = self.node.datasets[self.job.datasets[self.session.party]]
        chosen = self.job.columns.get(self.session.party)
        labelled = self.role == "bank" and isinstance(p, Sampled)
        special = {
            "label_column": dataset.label_column if labelled else None,
            "weight_column": dataset.weight_column if labelled and isinstance(p, Training) and p.weights else None,
            "date_column": dataset.date_column if labelled and isinstance(p, Sampled) and p.holdout_from else None,
        }
        # a column with a meaning that this task does not use is never a feature
        unused = {dataset.label_column, dataset.weight_column, dataset.date_column} - set(special.values())
        unused -= set(dataset.key_columns)  # the day of a row may be its date_column too
        asked = self.pairs_file.is_file()
        table = read_table(
            self.pairs_file if asked else dataset.source,
            dataset.key,
            columns=names,
            exclude=(*dataset.exclude, *(chosen.exclude if chosen else ()), *sorted(filter(None, unused))),
            normaliser=p.id_normaliser,
            rules=dataset,
            table=dataset.table,
            query=dataset.query,
            kinds=JobStore(self.pairs_file.parent).load_json("pairs") | dict(kinds) if asked else kinds,
            **special,
        )
        return rows_taken(table, p) if self.role == "bank" else table

    @functools.cached_property
    def jobs(self) -> Ledger | None:
        """Return the jobs that this party took part in, as they were first asked for in this step.

        None where all parties are in one process, which keeps no such record: there is one bank then.
        """
        accepted = self.home() / "state" / "jobs"
        return Ledger(accepted) if accepted.is_dir() else None

    @property
    def pairs_file(self) -> Path:
        """Return where a holder's variables are that were made for the job's own dates (`tasks/asked_dates.py`)."""
        return (self.whole or self.store.path) / "pairs.parquet"

    def whole_table(self) -> Table:
        """Return the party's data set with all columns that any job may use, whatever this job names."""
        dataset = self.node.datasets[self.job.datasets[self.session.party]]
        named = {dataset.label_column, dataset.weight_column, dataset.date_column} - set(dataset.key_columns)
        return read_table(
            dataset.source,
            dataset.key,
            exclude=(*dataset.exclude, *sorted(filter(None, named))),
            normaliser=self.job.parameters.id_normaliser,
            rules=dataset,
            table=dataset.table,
            query=dataset.query,
        )

    def _included(self) -> tuple[str, ...] | None:
        """Return the feature columns to read: those the job names, or those the model was trained on; None for all."""
        p = self.job.parameters
        if isinstance(p, ScoreBatch):
            return tuple(self.code_map().kinds)
        if isinstance(p, AppliesFiled):
            return ()  # for the ids alone: each measure of a decision has columns of its own
        if isinstance(p, ScreenFeatures):
            return self.feature_names()[:1]  # for the ids alone: the others are read chunk by chunk
        if isinstance(p, Training) and p.columns_from is not None:
            return self._kept_columns(p.columns_from)
        chosen = self.job.columns.get(self.session.party)
        return chosen.include if chosen else None

    def feature_names(self) -> tuple[str, ...]:
        """Return the party's columns that the job may use, in the order of its data set; DataError if there is none."""
        names = usable_columns(self.node, self.job)
        if not names:
            party = self.session.party
            raise DataError(f"data set {self.job.datasets[party]!r} has no column to screen", party=party)
        return names

    def screening_folder(self, name: str) -> Path:
        """Return where the party keeps what it kept in a screening."""
        return self.home() / SCREENINGS / name

    def _kept_columns(self, columns_from: str) -> tuple[str, ...]:
        """Return the party's own names of the columns that a screening kept, named "name" or "name@hash".

        Raises SchemaError if this node has no such screening, it is damaged, or it is another one of the name, and
        DataError if it kept no column of this party.
        """
        name, _, wanted = columns_from.partition("@")
        path, party = self.screening_folder(name) / "kept.json", self.session.party
        if not path.is_file():
            raise SchemaError(
                f"no screening {name!r} at {path}: run the screening job first, or restore it", party=party
            )
        try:
            body = parse_json(path.read_text(encoding="utf-8"))
            columns, found, stated = tuple(body["columns"]), str(body["screening"]), body["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            raise SchemaError(f"{path} is no list of kept columns; run the screening job again", party=party) from None
        if stated != screening.digest(body):
            raise SchemaError(f"{path} was changed: its hash does not match; run the screening job again", party=party)
        if wanted and not found.startswith(wanted):
            raise SchemaError(
                f"screening {name!r} at {party} has hash {found[:16]}, the job asks for {wanted}: run the screening "
                "again, or name the hash that all parties have",
                party=party,
            )
        if not columns:
            raise DataError(f"screening {name!r} kept no column of {party}; lower min_iv or leave it out", party=party)
        return columns

    def home(self) -> Path:
        """Return the node's home."""
        return (self.whole or self.store.path).parent.parent

    def guard(self) -> BatchGuard:
        """Holder: return the consent and release control of this attempt."""
        return BatchGuard(self.home(), self.node.policy, self.job, self.session)

    def account(self) -> Account:
        """Holder: return the account of its data set with the job's bank."""
        return account_of(self.home(), self.node, self.job)

    def models(self) -> Path:
        """Return the folder of the models this node keeps; of a job that makes one, of this until it is filed."""
        return self.store.path / STAGED if self.job.parameters.makes_model else self.home() / "models"

    def code_map(self, map_hash: bytes = b"") -> CodeMap:
        """Return the party's code map of the model that the job applies (or has just trained).

        map_hash : holder: of the version that the bank applies; without it, of the one in use here.
        """
        if isinstance(self.job.parameters, Training):
            return CodeMap.from_json(self.store.load_json("code_map"))
        folder = self.version(map_hash) if map_hash else self.models() / self.job.of(ScoreBatch).model
        return load_code_map(folder.parent, folder.name)

    def version(self, map_hash: bytes) -> Path:
        """Holder: return the folder of its part of the model that the job names, of the version with this code map.

        The bank may have gone back to another version than the newest. Without one of it, it is the version in use.
        """
        p = self.job.parameters
        if isinstance(p, Training):
            return self.models() / self.job.name
        name = self.job.of(ScoreBatch).model
        return with_map(self.home(), name, map_hash.hex()) or self.models() / name

    def model(self) -> ScoreModel:
        """Bank: return the model that is trained or applied."""
        if isinstance(self.job.parameters, Training):
            return load_model(self.store.path / "model.json")
        return load_model(self.models() / self.job.of(ScoreBatch).model / "model.json")


def usable_columns(node: NodeConfig, job: Job) -> tuple[str, ...]:
    """Return the names of a party's columns that a job may use, in the order of its data set."""
    dataset, chosen = node.datasets[job.datasets[node.name]], job.columns.get(node.name)
    special = {*dataset.key_columns, dataset.label_column, dataset.weight_column, dataset.date_column}
    left_out = special | {*dataset.exclude, *dataset.left_out} | set(chosen.exclude if chosen else ())
    available = list_columns(dataset.source, rules=dataset, table=dataset.table, query=dataset.query)
    wanted = available if chosen is None or chosen.include is None else chosen.include
    return tuple(name for name in wanted if name not in left_out)


def account_of(home: Path, node: NodeConfig, job: Job) -> Account:
    """Return the account of the data set that a job uses at a holder, with the job's bank."""
    dataset = job.datasets[node.name]
    return Account(home / FILE, node.datasets[dataset].account or dataset, job.bank, node.policy.privacy)


def load_code_map(models: Path, name: str) -> CodeMap:
    """Return the code map of a model this node keeps; SchemaError if it is not there."""
    path = models / name / "code_map.json"
    if not path.is_file():
        raise SchemaError(
            f"no code map of model {name!r} at {path}: this node never trained it or lost it; restore it from backup"
        )
    return CodeMap.from_json(path.read_text(encoding="utf-8"))


def digest_of_ids(table: Table) -> str:
    """Return the digest of a data set's ids in order: steps refuse a data set that changed under a job."""
    return hashlib.sha256("\n".join(table.ids.tolist()).encode()).hexdigest()


def aligned_table(
    context: StepContext, columns: tuple[str, ...] | None = None, kinds: Mapping[str, Kind] | None = None
) -> Table:
    """Return the party's data set, or some columns of it; DataError if its rows are not those that were aligned.

    kinds : of the columns of a code map that a batch applies, which are then read.
    """
    if kinds is not None:
        table = context.columns(tuple(kinds), kinds)
    else:
        table = context.table() if columns is None else context.columns(columns)
    if digest_of_ids(table) != context.store.load_json("aligned")["ids"]:
        raise DataError(
            f"the rows of {table.source} changed since this job was aligned; submit the job again",
            party=context.session.party,
        )
    return table


def split(table: Table, job: Job) -> Mask:
    """Return which rows train, (n_rows,): not those held out by date, or by a seeded draw stratified on the label.

    Of firms at dates whole firms are held out, as `panel.rows_taken` drew them.
    """
    p = job.of(Sampled)
    if table.panel is not None:
        train: Mask = ~held_out(table.firms, p)
    elif p.holdout_from is not None:
        if table.dates is None:
            raise DataError("holdout_from needs a date_column in the bank's data set", party=job.bank)
        train = table.dates < np.datetime64(p.holdout_from)
    else:
        generator = np.random.default_rng(p.holdout_seed)
        train = np.ones(table.n_rows, bool)
        for label in (0.0, 1.0):
            rows = generator.permutation(np.flatnonzero(table.label == label))
            train[rows[: round(p.holdout_fraction * rows.size)]] = False
    if table.label is None or np.unique(table.label[train]).size < 2:
        raise DataError("the training rows hold one class only; change the hold-out", party=job.bank)
    return train


def keep_code_map(context: StepContext, code_map: CodeMap) -> None:
    """Keep the map for the end of the job, when it is filed where scoring finds it; without it the model is dead.

    A holder keeps the job's bands too: later it lets out bands by them alone, whatever the bank has then.
    """
    folder, p = context.models() / context.job.name, context.job.training
    private_folder(folder)
    write_text(folder / "code_map.json", code_map.to_json())
    if context.role == "holder":
        bands = {name: float(lowest) for name, lowest in p.bands.items()}
        KeptBands(bands=bands, decimals=p.points_decimals, pdo=p.pdo, map_sha256=code_map.hash).save(folder)


def keep_model(context: StepContext, model: ScoreModel) -> None:
    """Save the model in the job's folder, also for the end of the job, when it is filed where scoring finds it."""
    model.save(context.store.path / "model.json")
    folder = context.models() / context.job.name
    private_folder(folder)
    model.save(folder / "model.json")


def keep_trees(context: StepContext, part: HolderTrees, code_map: CodeMap, **counts: int) -> None:
    """Keep a holder's part of a model of trees; `counts` are what the job says of it: n_trees, n_splits, n_sums."""
    keep_code_map(context, code_map)
    write_text(context.models() / part.model / "trees.json", part.to_json())
    context.store.save_json("boosted", {**counts, "sha256": part.sha256.hex()})


def load_trees(models: Path, name: str) -> HolderTrees:
    """Return this party's part of a boosted model; ConfigError if it is missing or was changed."""
    path = models / name / "trees.json"
    if not path.is_file():
        raise ConfigError(f"this party's part of model {name} is missing; restore it from backup")
    return HolderTrees.from_json(path.read_text(encoding="utf-8"))


def no_files(_parameters: Any) -> tuple[str, ...]:
    """Name no file below the home but the job's own."""
    return ()


def files_of_columns(p: Any) -> tuple[str, ...]:
    """Name the files below the home that say which columns of a data set are read."""
    if isinstance(p, ScoreBatch):
        return (f"models/{p.model}/model.json", f"models/{p.model}/code_map.json")
    if isinstance(p, AppliesModel):
        return (f"models/{p.applied}/decision.json",)  # which consent lists cover it follows from it
    if isinstance(p, Training) and p.columns_from is not None:
        return (f"screenings/{p.columns_from.partition('@')[0]}/kept.json",)
    return ()
