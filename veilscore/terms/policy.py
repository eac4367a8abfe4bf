"""What a node allows: its configuration (node.yaml) and its policy on jobs.

A node decides alone. `NodePolicy.decide` says Accept, Refuse (with the reason the bank may hear) or Pending
(a person at the node approves or rejects). Bounds that need the data (overlap, bin sizes) are checked by the
step that has it.
"""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from veilscore.errors import ConfigError
from veilscore.terms.bands import Bands
from veilscore.terms.job import (
    ColumnName,
    Job,
    Name,
    ScoreBatch,
    ScreenFeatures,
    Task,
    TrainBoosting,
    Training,
    TrainScorecard,
    TrainStack,
)
from veilscore.terms.key_settings import KeyConfig
from veilscore.terms.people import PersonRole  # noqa: TC001 - pydantic reads the type
from veilscore.terms.rules import PublicKeyHex, ReleaseRules, StandingRule, in_period
from veilscore.terms.settings import Strict, load


@dataclass(frozen=True)
class Accept:
    """The job may run."""

    reason: str = "accepted by policy"


@dataclass(frozen=True)
class Refuse:
    """The job may not run; `reason` is told to the bank."""

    reason: str


@dataclass(frozen=True)
class Pending:
    """A person at the node decides."""

    reason: str = "waits for approval at this node"


Decision = Accept | Refuse | Pending


class NodePolicy(Strict):
    """What jobs a node takes part in and what it lets others learn."""

    accept: Literal["auto", "manual"] = Field(
        default="manual", description="manual: a person decides on what no agreement covers"
    )
    purposes: tuple[str, ...] = Field(default=(), description="allowed purposes, word for word; empty: any")
    tasks: tuple[Task, ...] = Field(default=get_args(Task), description="allowed tasks")
    banks: tuple[Name, ...] = Field(default=(), description="banks it works for; empty: any of the federation")
    min_overlap: int = Field(default=30, ge=1, description="with fewer firms in common it refuses to go on")
    min_bin_count: int = Field(default=5, ge=1, description="fewest training rows in a bin whose counts it shows")
    max_set_size: int = Field(default=2_000_000, ge=1, description="most rows of the bank's job or its own set")
    publish_column_names: bool = Field(default=False, description="false: the bank sees c1, c2, ...")
    publish_screening: bool = Field(
        default=True, description="tell missing rate, population stability and associated pairs of columns"
    )
    allow_order: bool = Field(default=False, description="tell the order of bins, which monotone WOE needs")
    boosting_bounds: Literal["required", "off"] = Field(
        default="required", description="required: jobs limit what the sums that boosting opens tell (noise, budget)"
    )
    tell_split_columns: bool = Field(
        default=True, description="tell the bank which anonymous column a sealed split of this node uses"
    )
    min_noise_rows: float = Field(default=3.0, ge=0, description="least noise of sums that boosting opens, in rows")
    max_disclosure: float = Field(
        default=1.0, gt=0, description="largest budget of the sums that a boosting job opens, in rows times columns"
    )
    max_disclosure_total: float = Field(
        default=4.0, gt=0, description="the same for all boosting jobs on a data set together"
    )
    holdout_scores: Literal["allow", "refuse"] = Field(
        default="allow", description="whether the bank may get scores of hold-out rows"
    )
    fold_scores: Literal["allow", "refuse"] = Field(
        default="refuse", description="whether the bank may get out-of-fold scores of training rows"
    )
    allow_standard_errors: bool = Field(
        default=False, description="allow standard errors of coefficients, by further openings"
    )
    disclose_unknown: bool = Field(default=False, description="tell the bank which of its firms are unknown here")
    reason_columns: tuple[ColumnName, ...] = Field(default=(), description="columns that reason codes may name")
    online_scoring: bool = Field(default=True, description="answer online scores of single firms")
    online_without_others: bool = Field(
        default=False, description="open its part of an online score although other holders are missing"
    )
    valid_from: dt.date | None = Field(default=None, description="before this day it takes part in nothing new")
    valid_to: dt.date | None = Field(default=None, description="after this day it takes part in nothing new")
    agreements: tuple[StandingRule, ...] = Field(default=(), description="with accept: manual, what needs no person")
    consent: Literal["required", "off"] = Field(
        default="required", description="required: a firm consents before it is scored"
    )
    consent_issuers: dict[Name, PublicKeyHex] = Field(
        default_factory=dict, description="Ed25519 key of each issuer of consents"
    )
    release: ReleaseRules = Field(default=ReleaseRules(), description="what it lets out through scores")

    @field_validator("consent", "boosting_bounds", mode="before")
    @classmethod
    def _yaml_off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML reads a bare off as false

    def decide(self, job: Job, node: NodeConfig) -> Decision:
        """Decide on `job` for the node of this configuration."""
        refusal = self._refusal(job, node)
        if refusal is not None:
            return Refuse(refusal)
        if self.accept == "auto":
            return Accept()
        asked = {"bank": job.bank, "purpose": job.purpose, "task": job.task, "dataset": job.datasets[node.name]}
        for number, rule in enumerate(self.agreements, start=1):
            if rule.covers(**asked, today=_today()):
                return Accept(f"accepted by agreement {number} of the policy")
        return Pending()

    def _refusal(self, job: Job, node: NodeConfig) -> str | None:
        if node.name not in job.parties:
            return f"{node.name} is not a party of this job"
        checks = (
            (
                (node.role == "bank") == (job.bank == node.name),
                f"{node.name} has role {node.role}, not the role this job gives it",
            ),
            (
                job.datasets[node.name] in node.datasets,
                f"{node.name} has no data set named {job.datasets[node.name]!r}",
            ),
            (
                not self.purposes or job.purpose in self.purposes,
                f"purpose {job.purpose!r} is not among the purposes {node.name} allows",
            ),
            (job.task in self.tasks, f"{node.name} does not allow task {job.task}"),
            (not self.banks or job.bank in self.banks, f"{node.name} does not work for {job.bank}"),
            (in_period(self.valid_from, self.valid_to, _today()), f"the policy of {node.name} is not valid today"),
        )
        for holds, text in checks:
            if not holds:
                return text
        return _bank_refusal(job, node) if node.role == "bank" else self._holder_refusal(job, node)

    def _holder_refusal(self, job: Job, node: NodeConfig) -> str | None:
        p = job.parameters
        unbanded = self._band_refusal(job)
        if unbanded:
            return f"{node.name} {unbanded}"
        if isinstance(p, ScoreBatch):
            if p.on_missing == "fail" and not self.disclose_unknown:
                return f"{node.name} does not say which firms it knows; set on_missing: missing_code"
            return None
        if isinstance(p, ScreenFeatures):
            hides = p.max_correlation is not None and not self.publish_screening
            text = f"{node.name} does not tell which of its columns are associated; set max_correlation: null"
            return text if hides else None
        checks: list[tuple[bool, bool, str]] = []
        for candidate in (c.parameters for c in job.candidates):
            if isinstance(candidate, TrainBoosting):
                checks += self._boosting_checks(candidate)
            else:
                checks += self._scorecard_checks(candidate)
        if isinstance(p, TrainStack):
            text = "scores of training rows are not allowed; set fold_scores: false"
            checks.append((p.fold_scores, self.fold_scores == "allow", text))
        held = (
            p.holdout_scores,
            self.holdout_scores == "allow",
            "hold-out scores are not allowed; set holdout_scores: false",
        )
        for asked, allowed, text in (*checks, held):
            if asked and not allowed:
                return f"{node.name}: {text}"
        return None

    def _band_refusal(self, job: Job) -> str:
        """Why a job asks for more than bands; a batch's own bands are held against its model when it runs."""
        p = job.parameters
        scores = isinstance(p, ScoreBatch) or (isinstance(p, Training) and p.holdout_scores)
        if self.release.bands_only and isinstance(p, TrainStack) and p.fold_scores:
            return "releases bands only; set fold_scores: false"
        if not scores or not self.release.bands_only:
            return ""
        if job.output == "score":
            return f"releases bands only; set {'output' if isinstance(p, ScoreBatch) else 'holdout_output'}: band"
        if isinstance(p, Training):
            units = int(10**p.points_decimals)
            refusal = self.release.bands_refusal(Bands.of(p.bands, units), units, p.pdo)
            return f"does not take these bands: {refusal}" if refusal else ""
        return ""

    def _scorecard_checks(self, p: TrainScorecard) -> tuple[tuple[bool, bool, str], ...]:
        return (
            (p.monotone, self.allow_order, "monotone (order of bins) is not allowed; set monotone: false"),
            (
                p.standard_errors,
                self.allow_standard_errors,
                "standard_errors is not allowed; set standard_errors: false",
            ),
        )

    def _boosting_checks(self, p: TrainBoosting) -> tuple[tuple[bool, bool, str], ...]:
        bounded = self.boosting_bounds == "required"
        return (
            (p.tells_order, self.allow_order, "ordered (order of bins) is not allowed; set ordered: false"),
            (bounded, p.bounds, "boosting without bounds on opened sums is not allowed; set bounds: true"),
            (
                bounded,
                p.noise_rows >= self.min_noise_rows,
                f"noise of {p.noise_rows:g} rows is too little; set noise_rows: {self.min_noise_rows:g} or more",
            ),
            (
                bounded,
                p.disclosure <= self.max_disclosure,
                f"a budget of {p.disclosure:g} is too large; set disclosure: {self.max_disclosure:g} or less",
            ),
        )


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


def _bank_refusal(job: Job, node: NodeConfig) -> str | None:
    dataset = node.datasets[job.datasets[node.name]]
    p = job.parameters
    if isinstance(p, ScoreBatch):
        return None
    for asked, column, key in (
        (True, dataset.label_column, "label_column"),
        (isinstance(p, TrainScorecard) and p.weights, dataset.weight_column, "weight_column"),
        (p.holdout_from is not None, dataset.date_column, "date_column"),
    ):
        if asked and column is None:
            return f"data set {job.datasets[node.name]!r} of {node.name} has no {key}; name it in node.yaml"
    return None


class DatasetConfig(Strict):
    """One entry of a node's catalogue: a file or a database table or query, and what its columns mean."""

    path: Path | None = Field(default=None, description="CSV or Parquet file; a relative path begins at the home")
    url: str | None = Field(default=None, description="database, in place of path: SQLAlchemy URL without password")
    password_env: str | None = Field(
        None, pattern=r"^[A-Z_][A-Z0-9_]*$", description="environment variable with its password"
    )
    table: str | None = Field(default=None, description="table of the database")
    query: str | None = Field(default=None, description="SQL query, in place of table")
    id_column: ColumnName = Field(description="column with the ids of firms")
    label_column: ColumnName | None = Field(default=None, description="bank: column with the label, 1: bad, 0: good")
    weight_column: ColumnName | None = Field(default=None, description="bank: column with weights of rows")
    date_column: ColumnName | None = Field(default=None, description="bank: column with each row's day of observation")
    exclude: tuple[ColumnName, ...] = Field(default=(), description="columns that are never used")

    @field_validator("url")
    @classmethod
    def _no_password(cls, url: str | None) -> str | None:
        return None if url is None else _without_password(url)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either path (a file) or url (a database)")
        if self.url is not None and (self.table is None) == (self.query is None):
            raise ValueError("a database needs either table or query")
        if self.path is not None and (self.table or self.query or self.password_env):
            raise ValueError("table, query and password_env belong to a database (url), not to a file")
        return self

    @property
    def source(self) -> str | Path:
        """What `ingest.read_table` takes; the password, if any, comes from the environment.

        Do not print or log it.
        """
        if self.path is not None:
            return self.path
        return database_url(self.url or "", self.password_env)


def _without_password(url: str) -> str:
    """Return `url` if it parses and holds no password; ValueError otherwise."""
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - slow import, needed for databases only
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError("not a SQLAlchemy URL such as postgresql+psycopg://user@host/database") from None
    if parsed.password is not None:
        raise ValueError("a password in the URL; take it out and name its variable in password_env")
    return url


def database_url(url: str, password_env: str | None) -> str:
    """URL with the password of the environment variable put in; ConfigError if the variable is not set."""
    if password_env is None:
        return url
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - slow import, needed for databases only

    password = os.environ.get(password_env)
    if not password:
        raise ConfigError(f"environment variable {password_env} with the database password is not set")
    return make_url(url).set(password=password).render_as_string(hide_password=False)


class NodeLimits(Strict):
    """Bounds of what a node takes from peers and spends on a job."""

    step_deadline_s: float = Field(default=3600, gt=0, le=7 * 86400, description="longest time of one step, seconds")
    max_jobs: int = Field(default=4, ge=1, le=64, description="jobs it computes for at one time")


class AuditRules(Strict):
    """What a bank keeps for an auditor (`veilscore.evidence.opening`); what is not kept cannot be audited."""

    steps: tuple[Literal["align", "bin", "screen", "train", "boost", "stack", "evaluate", "score"], ...] = Field(
        default=(
            "align",
            "bin",
            "screen",
            "train",
            "boost",
            "stack",
            "evaluate",
            "score",
        ),
        description="steps whose openings are kept",
    )
    days: int = Field(default=90, ge=1, description="openings older than this many days are deleted")
    max_mb: int = Field(default=8192, ge=1, description="longest record of one attempt at a step, MB")
    online_mb: int = Field(
        default=8192,
        ge=0,
        description="records of online scores together, MB, about 0.2 MB a holder and score; 0: none are kept",
    )


class NodeConfig(Strict):
    """A node's own node.yaml."""

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
    state_url: str | None = Field(
        default=None, description="coordinator: database of its jobs, SQLAlchemy URL without password; null: SQLite"
    )
    state_password_env: str | None = Field(
        default=None, pattern=r"^[A-Z_][A-Z0-9_]*$", description="environment variable with its password"
    )
    datasets: dict[Name, DatasetConfig] = Field(default_factory=dict, description="its catalogue, by name")
    policy: NodePolicy = Field(default=NodePolicy(), description="what it takes part in and lets out")
    limits: NodeLimits = Field(default=NodeLimits(), description="what it takes from peers and spends on a job")
    audit: AuditRules = Field(default=AuditRules(), description="bank: what it keeps for an auditor")

    @field_validator("state_url")
    @classmethod
    def _no_password(cls, url: str | None) -> str | None:
        return None if url is None else _without_password(url)


def load_node_config(home: Path | str) -> NodeConfig:
    """node.yaml of a home; relative data paths become paths under the home."""
    home = Path(home)
    config = load(NodeConfig, home / "node.yaml", "node configuration")
    datasets = {
        name: d.model_copy(update={"path": home / d.path}) if d.path is not None else d
        for name, d in config.datasets.items()
    }
    return config.model_copy(
        update={
            "datasets": datasets,
            "federation": home / config.federation,
            "identity": home / config.identity,
        }
    )
