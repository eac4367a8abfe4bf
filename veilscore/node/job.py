"""A job: who computes what, on which data sets, for which purpose. Names and parameters only, never data.

A job is typed by a user as YAML, travels in its canonical form (JSON with every default filled in, keys
sorted), and every party accepts its SHA-256. Two versions with different defaults therefore never agree on a
job by accident.
"""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - pydantic resolves annotations at run time
import hashlib
import json
import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from veilscore.errors import ConfigError, JobError
from veilscore.node.settings import Strict, parse, parse_yaml, read_text

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]
JOB_ID = re.compile(r"(?P<name>[a-z][a-z0-9_-]{0,39})-[0-9a-f]{8}-(?P<digest>[0-9a-f]{16})")


class Columns(Strict):
    """Which columns of one party take part: all (default), only `include`, or all but `exclude`."""

    include: tuple[ColumnName, ...] | None = None
    exclude: tuple[ColumnName, ...] = ()


class TrainScorecard(Strict):
    """Parameters of `train_scorecard`: align, bin, train, evaluate."""

    max_bin: int = Field(default=20, ge=2, le=64, description="most bins of a column")
    min_bin_fraction: float = Field(default=0.05, gt=0, le=0.5, description="smallest share of the rows in a bin")
    holdout_fraction: float = Field(default=0.25, ge=0, lt=1, description="share of rows set aside before binning")
    holdout_seed: int = Field(default=0, ge=0, lt=2**63)
    holdout_from: dt.date | None = Field(default=None, description="rows from this date on are the hold-out")
    holdout_scores: bool = Field(default=True, description="score the hold-out and report AUC, KS, bands on it")
    monotone: bool = Field(default=False, description="WOE monotone in each column, by merging adjacent bins")
    sign: Literal["positive"] | None = Field(default=None, description="'positive': no coefficient of the wrong sign")
    C: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="inverse L2 strength, as in scikit-learn")
    min_iv: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="columns below this IV are left out")
    max_correlation: float | None = Field(default=None, gt=0, le=1)
    max_openings: int = Field(default=120, ge=1, le=2000, description="most gradient openings")
    gradient_bits: int | None = Field(default=None, ge=8, le=40, description="None: ceil(log2 n) + 14")
    standard_errors: bool = False
    base_score: float = Field(default=600, allow_inf_nan=False)
    base_odds: float = Field(default=50, gt=0, allow_inf_nan=False, description="good:bad at the base score")
    pdo: float = Field(default=20, gt=0, allow_inf_nan=False, description="points that double the odds")
    population_bad_rate: float | None = Field(default=None, gt=0, lt=1, description="prior correction")
    points_decimals: int = Field(default=2, ge=0, le=3, description="decimals of released points")
    calibrate: bool = Field(default=False, description="recalibrate PD on the hold-out: slope and intercept")
    bands: dict[str, int] = Field(default_factory=dict, description="name of a band: its lowest score")
    weights: bool = Field(default=False, description="use the bank's weight_column")
    columns: dict[Name, Columns] = Field(default_factory=dict, description="per party")
    id_normaliser: str = Field(default="uscc", pattern=r"^[a-z][a-z0-9_]{0,39}$")

    @model_validator(mode="after")
    def _one_correction(self) -> Self:
        if self.calibrate and self.population_bad_rate is not None:
            raise ValueError("calibrate and population_bad_rate both set the level of PD; choose one")
        return self

    @field_validator("bands")
    @classmethod
    def _distinct_bands(cls, bands: dict[str, int]) -> dict[str, int]:
        if len(set(bands.values())) != len(bands):
            raise ValueError("two bands have the same lowest score")
        return bands


class ScoreBatch(Strict):
    """Parameters of `score_batch`: score the firms of the bank's data set with a trained model."""

    model: Name
    on_missing: Literal["fail", "missing_code"] = Field(
        "fail", description="a firm that a holder does not know: fail, or use the bin of missing values"
    )
    min_batch: int = Field(default=30, ge=1, description="fewer firms are refused")
    id_normaliser: str = Field(default="uscc", pattern=r"^[a-z][a-z0-9_]{0,39}$")


PARAMETERS: dict[str, type[Strict]] = {"train_scorecard": TrainScorecard, "score_batch": ScoreBatch}


class Job(Strict):
    """One job as all parties see it."""

    name: Name
    purpose: str = Field(min_length=1, max_length=200, description="why; holders' policies compare it")
    task: Literal["train_scorecard", "score_batch"]
    bank: Name
    coordinator: Name = "coordinator"
    holders: tuple[Name, ...] = Field(min_length=1, max_length=16, description="the first is the lead")
    datasets: dict[Name, Name] = Field(description="party: name of the data set in its own catalogue")
    parameters: TrainScorecard | ScoreBatch = Field(default_factory=dict, validate_default=True)

    @field_validator("parameters", mode="before")
    @classmethod
    def _of_the_task(cls, value: Any, info: ValidationInfo) -> Any:
        model = PARAMETERS.get(info.data.get("task", ""))
        if model is None or isinstance(value, model):
            return value
        return model.model_validate({} if value is None else value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not isinstance(self.parameters, PARAMETERS[self.task]):
            raise ValueError(f"parameters are not those of task {self.task!r}")  # noqa: TRY004 - pydantic wants ValueError
        if len({*self.parties, self.coordinator}) != len(self.parties) + 1:
            raise ValueError("a party stands twice among bank, holders and coordinator")
        for party in self.parties:
            if party not in self.datasets:
                raise ValueError(f"datasets: no data set named for party {party!r}")
        extra = set(self.datasets) - set(self.parties)
        extra |= set(self.columns) - set(self.parties)
        if extra:
            raise ValueError(f"{', '.join(sorted(extra))}: has data sets or columns but is not a party of the job")
        return self

    @property
    def parties(self) -> tuple[str, ...]:
        """Bank first, then the holders in order."""
        return (self.bank, *self.holders)

    @property
    def columns(self) -> dict[str, Columns]:
        """Column choice per party; empty where the task has none."""
        return self.parameters.columns if isinstance(self.parameters, TrainScorecard) else {}

    @property
    def training(self) -> TrainScorecard:
        """Parameters of a training job; JobError for another task."""
        if not isinstance(self.parameters, TrainScorecard):
            raise JobError(f"job {self.name} is a {self.task} job, not train_scorecard")
        return self.parameters

    @property
    def scoring(self) -> ScoreBatch:
        """Parameters of a batch scoring job; JobError for another task."""
        if not isinstance(self.parameters, ScoreBatch):
            raise JobError(f"job {self.name} is a {self.task} job, not score_batch")
        return self.parameters

    def canonical(self) -> bytes:
        """UTF-8 JSON, keys sorted, every default filled in; the same bytes at every party."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()

    @property
    def sha256(self) -> bytes:
        """Digest of the canonical form: what a party accepts."""
        return hashlib.sha256(self.canonical()).digest()


def parse_job(text: str, source: str = "job") -> Job:
    """Job from YAML (or canonical JSON) text; ConfigError names the key at fault."""
    return _parse(parse_yaml(text, source), source)


def load_job(path: Path | str) -> Job:
    """Job from a YAML file."""
    path = Path(path)
    return parse_job(read_text(path, "job file"), str(path))


def _parse(data: dict[str, Any], source: str) -> Job:
    task = data.get("task")
    if "task" in data and task not in PARAMETERS:
        raise ConfigError(f"{source}: task: {task!r} is unknown; known tasks: {', '.join(PARAMETERS)}")
    return parse(Job, data, source)


def new_job_id(job: Job) -> str:
    """Fresh id: name, 32 random bits (no session id is ever used twice), 64 bits of the job's digest.

    The digest stops a coordinator from giving two parties different jobs under one id.
    """
    return f"{job.name}-{secrets.token_hex(4)}-{job.sha256.hex()[:16]}"


def check_job_id(job_id: str, job: Job | None = None) -> str:
    """Return `job_id` if it is well-formed (it names a folder) and is of `job`, else raise JobError."""
    match = JOB_ID.fullmatch(job_id)
    if match is None:
        raise JobError("job id is malformed: expected NAME-NUMBER-DIGEST as `veilscore list` shows it")
    if job is not None and (match["name"], match["digest"]) != (job.name, job.sha256.hex()[:16]):
        raise JobError("job id does not belong to this job: name or digest differ")
    return job_id
