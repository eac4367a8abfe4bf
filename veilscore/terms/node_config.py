"""A node's own node.yaml says who it is, which data sets and people it has, and what its policy is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from veilscore.errors import ConfigError, RefusedError
from veilscore.terms.console import ConsoleConfig
from veilscore.terms.door import DoorConfig
from veilscore.terms.key_settings import KeyConfig
from veilscore.terms.language_model import LanguageModelConfig
from veilscore.terms.parameters import ColumnName, Name, Parameters, Sampled
from veilscore.terms.policy import NodePolicy
from veilscore.terms.reading import ReadingRules
from veilscore.terms.retention import RetentionRules
from veilscore.terms.settings import Strict, VariableName, load
from veilscore.terms.traces import TraceConfig
from veilscore.terms.training import Training
from veilscore.terms.watching import LogConfig, MetricsConfig
from veilscore.terms.workers import WorkersConfig

PersonRole = Literal["modeller", "steward", "auditor", "operator", "account_manager"]


def _without_password(url: str) -> str:
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - slow import, needed for databases only
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError("not a SQLAlchemy URL such as postgresql+psycopg://user@host/database") from None
    if parsed.password is not None:
        raise ValueError("a password in the URL; take it out and name its variable in password_env")
    return url


DatabaseUrl = Annotated[str, AfterValidator(_without_password)]


class EventSource(Strict):
    """Says from which event tables, by which catalogue, `veilscore features build` makes a data set's file."""

    catalogue: str = Field(
        min_length=1,
        max_length=400,
        description="catalogue of variables: a file (*.yaml; a relative path begins at the home), or one that is "
        "shipped: bank, tax, registry, court, bureau",
    )
    events: Path | None = Field(default=None, description="folder of event files; a relative path begins at the home")
    url: DatabaseUrl | None = Field(
        default=None, description="database, in place of events: SQLAlchemy URL without password"
    )
    password_env: VariableName | None = Field(None, description="environment variable with its password")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.events is None) == (self.url is None):
            raise ValueError("give either events (a folder) or url (a database)")
        if self.url is None and self.password_env:
            raise ValueError("password_env belongs to a database (url), not to a folder of files")
        return self

    @property
    def source(self) -> str | Path:
        """Return the folder, or the URL with its password: do not print or log it."""
        return self.events if self.events is not None else database_url(self.url or "", self.password_env)

    def below(self, home: Path) -> EventSource:
        """Return it with relative paths put below a home."""
        named = self.catalogue.endswith((".yaml", ".yml"))
        return self.model_copy(
            update={
                "catalogue": str(home / self.catalogue) if named else self.catalogue,
                "events": None if self.events is None else home / self.events,
            }
        )


class DatasetConfig(ReadingRules):
    """Names a data set of a node's catalogue (a file, or a table or query of a database) and what its columns mean."""

    path: Path | None = Field(
        default=None, description="CSV, Parquet or Excel file; a relative path begins at the home"
    )
    url: DatabaseUrl | None = Field(
        default=None, description="database, in place of path: SQLAlchemy URL without password"
    )
    password_env: VariableName | None = Field(None, description="environment variable with its password")
    table: str | None = Field(default=None, description="table of the database")
    query: str | None = Field(default=None, description="SQL query, in place of table")
    id_column: ColumnName | None = Field(default=None, description="column with the ids of firms")
    id_columns: tuple[ColumnName, ColumnName] | None = Field(
        default=None,
        description="in place of id_column, where rows are firms at dates (rows: firm_dates in a job): the column with "
        "the ids of firms and that with the days",
    )
    label_column: ColumnName | None = Field(default=None, description="bank: column with the label, 1: bad, 0: good")
    weight_column: ColumnName | None = Field(default=None, description="bank: column with weights of rows")
    date_column: ColumnName | None = Field(default=None, description="bank: column with each row's day of observation")
    exclude: tuple[ColumnName, ...] = Field(default=(), description="columns that are never used")
    features: EventSource | None = Field(
        default=None, description="events and catalogue from which `veilscore features build` makes the file at path"
    )
    account: Name | None = Field(
        default=None,
        description="account that private jobs on it are charged to; null: its own; one for all data sets made "
        "from the same events",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either path (a file) or url (a database)")
        if (self.id_column is None) == (self.id_columns is None):
            raise ValueError("give either id_column, or id_columns: [firm, day] where rows are firms at dates")
        if self.url is not None and (self.table is None) == (self.query is None):
            raise ValueError("a database needs either table or query")
        if self.path is not None and (self.table or self.query or self.password_env):
            raise ValueError("table, query and password_env belong to a database (url), not to a file")
        if self.features is not None and (self.path is None or self.path.suffix != ".parquet"):
            raise ValueError("features are built into a file: give path, ending in .parquet")
        if self.url is not None and (self.sheet or self.encoding):
            raise ValueError("sheet and encoding belong to a file (path), not to a database")
        return self

    @property
    def key(self) -> str | tuple[str, str]:
        """Return the column with the ids of firms; of firms at dates that, and the column with the days."""
        return self.id_columns or self.id_column or ""

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Return the names of the columns of the key."""
        return self.id_columns or (self.id_column or "",)

    def check_rows(self, p: Parameters, named: str) -> None:
        """Refuse parameters whose rows are firms where those of the data set are firms at dates, or the reverse."""
        if (self.id_columns is None) != (p.rows == "firms"):
            key, other = ("id_column", "firms") if self.id_columns is None else ("id_columns", "firm_dates")
            raise RefusedError(f"{named} has {key}, so its jobs have rows: {other}; the job says rows: {p.rows}")

    def check_columns(self, p: Parameters, named: str) -> None:
        """Refuse parameters that need a column (label, weight, date) which the bank's data set does not name."""
        if not isinstance(p, Sampled):
            return
        for needed, column, key in (
            (True, self.label_column, "label_column"),
            (isinstance(p, Training) and p.weights, self.weight_column, "weight_column"),
            (p.holdout_from is not None and p.rows == "firms", self.date_column, "date_column"),
        ):
            if needed and column is None:
                raise RefusedError(f"{named} has no {key}; name it in node.yaml")

    @property
    def sources(self) -> tuple[tuple[str, ...], ...]:
        """Return what the rows come from: the file, table or query, and the events of which it was made."""
        own = (self.path, self.url, self.table, self.query, self.sheet)
        events = () if self.features is None else ((self.features.events, self.features.url),)
        return tuple(tuple(map(str, parts)) for parts in (own, *events))

    @property
    def source(self) -> str | Path:
        """Return what `ingest.read_table` takes, with the password of a database: do not print or log it."""
        if self.path is not None:
            return self.path
        return database_url(self.url or "", self.password_env)


def database_url(url: str, password_env: str | None) -> str:
    """Return the URL with the password of the environment variable put in; ConfigError if the variable is not set."""
    if password_env is None:
        return url
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - slow import, needed for databases only

    password = os.environ.get(password_env)
    if not password:
        raise ConfigError(f"environment variable {password_env} with the database password is not set")
    return make_url(url).set(password=password).render_as_string(hide_password=False)


class NodeLimits(Strict):
    """Bounds what a node takes from peers and spends on a job."""

    step_deadline_s: float = Field(default=3600, gt=0, le=7 * 86400, description="longest time of one step, seconds")
    max_jobs: int = Field(default=4, ge=1, le=64, description="jobs it computes for at one time")


class AuditRules(Strict):
    """Says what a bank keeps for an auditor; what is not kept cannot be audited."""

    steps: tuple[Name, ...] | Literal["all"] = Field(default="all", description="steps whose openings are kept")
    days: int = Field(default=90, ge=1, description="openings older than this many days are deleted")
    max_mb: int = Field(default=8192, ge=1, description="longest record of one attempt at a step, MB")
    online_mb: int = Field(
        default=8192,
        ge=0,
        description="records of online scores together, MB, about 7 kB a holder and score; 0: none are kept",
    )


RULES = ("policy", "people", "operators")  # keys of node.yaml that a running node takes anew


class NodeConfig(Strict):
    """Says who a node is, which data sets and people it has, and what its policy is."""

    name: Name = Field(description="name of the node, as in its certificate")
    role: Literal["bank", "holder", "coordinator", "operator"] = Field(description="operator: a person, not a node")
    federation: Path = Field(
        default=Path("federation.yaml"), description="the federation file; a relative path begins at the home"
    )
    identity: Path = Field(default=Path("identity"), description="folder with key and certificate")
    listen: str | None = Field(default=None, description="host:port to bind, if not the federation's")
    operators: tuple[Name, ...] = Field(default=(), description="people who have every role here")
    people: dict[Name, tuple[PersonRole, ...]] = Field(default_factory=dict, description="people and their roles here")
    works_at: Name | None = Field(default=None, description="operator: the party whose node this person works at")
    key: KeyConfig = Field(default=KeyConfig(), description="where the passphrase of the node's key comes from")
    state_url: DatabaseUrl | None = Field(
        default=None, description="coordinator: database of its jobs, SQLAlchemy URL without password; null: SQLite"
    )
    state_password_env: VariableName | None = Field(default=None, description="environment variable with its password")
    datasets: dict[Name, DatasetConfig] = Field(default_factory=dict, description="its catalogue, by name")
    policy: NodePolicy = Field(default=NodePolicy(), description="what it takes part in and lets out")
    limits: NodeLimits = Field(default=NodeLimits(), description="what it takes from peers and spends on a job")
    workers: WorkersConfig | None = Field(
        default=None, description="what runs its shards of batches (docs/scale.md); null: threads of the node"
    )
    audit: AuditRules = Field(default=AuditRules(), description="bank: what it keeps for an auditor")
    retention: RetentionRules = Field(
        default=RetentionRules(), description="how long it keeps what it no longer works with"
    )
    door: DoorConfig | None = Field(default=None, description="bank: how loan systems reach it; null: they do not")
    console: ConsoleConfig = Field(default=ConsoleConfig(), description="how `veilscore console` serves its people")

    metrics: MetricsConfig | None = Field(
        default=None, description="where the node answers /metrics and /health on this machine; null: nowhere"
    )
    log: LogConfig = Field(default=LogConfig(), description="where the node's log goes")
    traces: TraceConfig | None = Field(
        default=None, description="the party's own collector of OpenTelemetry traces; null: none are kept"
    )
    language_model: LanguageModelConfig | None = Field(
        default=None, description="bank: its own server that drafts sentences made of facts; null: none does"
    )

    @model_validator(mode="after")
    def _door_of_a_bank(self) -> Self:
        if self.door is not None and self.role != "bank":
            raise ValueError(f"door: a bank's node has one, this is a {self.role}'s")
        if self.language_model is not None and self.role != "bank":
            raise ValueError(f"language_model: a bank's node has one, this is a {self.role}'s")
        return self

    def take_rules(self, newer: NodeConfig) -> tuple[str, ...]:
        """Take policy and people of a newer reading, in place: each part of a running node that holds this has them.

        Return the other keys that differ, which hold from the next start.
        """
        self.__dict__.update({name: getattr(newer, name) for name in RULES})
        return tuple(name for name in type(self).model_fields if getattr(self, name) != getattr(newer, name))

    @model_validator(mode="after")
    def _one_account_a_source(self) -> Self:
        """Refuse two data sets of one source with two accounts: a bank would be told of each firm by either name."""
        first: dict[tuple[str, ...], str] = {}
        for name, dataset in self.datasets.items() if self.role == "holder" else ():
            for source in dataset.sources:
                other = first.setdefault(source, name)
                if (dataset.account or name) != (account := self.datasets[other].account or other):
                    raise ValueError(
                        f"data sets {other} and {name} are of the same source: set account: {account} at both"
                    )
        return self


def load_node_config(home: Path | str) -> NodeConfig:
    """Return node.yaml of a home, with relative paths put below the home."""
    home = Path(home)
    config = load(NodeConfig, home / "node.yaml", "node configuration")
    datasets = {
        name: d
        if d.path is None
        else d.model_copy(
            update={"path": home / d.path, "features": None if d.features is None else d.features.below(home)}
        )
        for name, d in config.datasets.items()
    }
    return config.model_copy(
        update={
            "datasets": datasets,
            "door": None if config.door is None else config.door.below(home),
            "console": config.console.below(home),
            "traces": None if config.traces is None else config.traces.below(home),
            "federation": home / config.federation,
            "identity": home / config.identity,
        }
    )
