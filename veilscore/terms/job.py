"""A job says who computes what, on which data sets, for which purpose: names and parameters only, never data.

A user types it as YAML, it travels in its canonical form (JSON with every default filled in, keys sorted), and every
party accepts its SHA-256. Two versions with different defaults therefore never agree on a job by accident.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from veilscore.errors import JobError
from veilscore.terms.decide import Decide  # noqa: F401 - enters its task in PARAMETERS
from veilscore.terms.decision import FileDecision  # noqa: F401 - enters its task in PARAMETERS
from veilscore.terms.mining import MineRules  # noqa: F401 - enters its task in PARAMETERS
from veilscore.terms.parameters import PARAMETERS, ChosenColumns, Name, Parameters, Sampled
from veilscore.terms.selection import SelectModel  # noqa: F401 - enters its task in PARAMETERS
from veilscore.terms.settings import Strict, parse, parse_yaml, read_text
from veilscore.terms.sizing import SizeDecision  # noqa: F401 - enters its task in PARAMETERS
from veilscore.terms.training import Candidate, TrainBoosting, Training
from veilscore.terms.written import WriteModel  # noqa: F401 - enters its task in PARAMETERS

JOB_ID = re.compile(r"(?P<name>[a-z][a-z0-9_-]{0,39})-[0-9a-f]{8}-(?P<digest>[0-9a-f]{16})")
WITH_COORDINATOR = frozenset({"evaluate", "score"})  # steps in which it adds masked partials of scores
ENDED = frozenset({"done", "failed", "refused", "cancelled"})  # statuses after which a job does nothing by itself
P = TypeVar("P", bound=Parameters)


def known_tasks() -> tuple[str, ...]:
    """Return the names of all tasks, those that train first."""
    return tuple(sorted(PARAMETERS, key=lambda task: not issubclass(PARAMETERS[task], Training)))


class Job(Strict):
    """A job as all parties see it: who computes what, on which data sets, for which purpose."""

    name: Name = Field(description="name of the job; of a training job also that of its model")
    purpose: str = Field(min_length=1, max_length=200, description="why; holders' policies and consents compare it")
    task: str = Field(description="what is computed")
    bank: Name = Field(description="the bank, which has label and result")
    coordinator: Name = Field(default="coordinator", description="who orders the steps and keeps their state")
    holders: tuple[Name, ...] = Field(min_length=1, max_length=16, description="data holders; the first is the lead")
    datasets: dict[Name, Name] = Field(description="for each party, the name of the data set in its own catalogue")
    # SerializeAsAny: the canonical form has every key of the task's own model
    parameters: SerializeAsAny[Parameters] = Field(
        default_factory=dict, validate_default=True, description="parameters of the task"
    )

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        if task not in PARAMETERS:
            raise ValueError(f"{task[:60]!r} is unknown; known tasks: {', '.join(known_tasks())}")
        return task

    @field_validator("parameters", mode="before")
    @classmethod
    def _of_the_task(cls, value: Any, info: ValidationInfo) -> Any:
        model = PARAMETERS.get(info.data.get("task", ""))
        if model is None:
            return Parameters()  # the task's own error says what is wrong
        if isinstance(value, model):
            return value
        return model.model_validate({} if value is None else value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if type(self.parameters) is not PARAMETERS[self.task]:
            raise ValueError(f"parameters are not those of task {self.task!r}")
        if len({*self.parties, self.coordinator}) != len(self.parties) + 1:
            raise ValueError("a party stands twice among bank, holders and coordinator")
        for party in self.parties:
            if party not in self.datasets:
                raise ValueError(f"datasets: no data set named for party {party!r}")
        extra = set(self.datasets) - set(self.parties)
        extra |= set(self.columns) - set(self.parties)
        if extra:
            raise ValueError(f"{', '.join(sorted(extra))}: has data sets or columns but is not a party of the job")
        self.parameters.check_job(self.name, self.purpose, self.bank, self.holders)
        for candidate in self.candidates:
            if isinstance(candidate.parameters, TrainBoosting):
                self._check_constraints(candidate.parameters.monotone_constraints)
        return self

    def _check_constraints(self, constraints: Mapping[str, object]) -> None:
        for name in constraints:
            party = name.split(".", 1)[0]
            if party not in self.parties or party == name:
                raise ValueError(f"monotone_constraints: {name!r} is not of the form party.column")
            if party != self.bank:  # here, not at the bank's first tree: by then holders would be charged for bins
                raise ValueError(f"monotone_constraints: {name!r} is of a holder; only the bank's own trees take them")

    @property
    def parties(self) -> tuple[str, ...]:
        """Return the bank, then the holders in order."""
        return (self.bank, *self.holders)

    @property
    def columns(self) -> dict[str, ChosenColumns]:
        """Return the choice of columns of each party; empty where the task has none."""
        return self.parameters.columns if isinstance(self.parameters, Sampled) else {}

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Return the models that a training job fits: one, or those of a stack or a selection."""
        return self.parameters.candidates if isinstance(self.parameters, Training) else ()

    def of_candidate(self, candidate: Candidate) -> Job:
        """Return the job that would fit one candidate alone, for the functions that fit it."""
        return self.model_copy(update={"task": candidate.task, "parameters": candidate.parameters})

    def of(self, kind: type[P]) -> P:
        """Return the parameters as those of a kind of task; JobError for another task."""
        if not isinstance(self.parameters, kind):
            raise JobError(f"job {self.name} is a {self.task} job, not {kind.task or 'one that trains'}")
        return self.parameters

    @property
    def training(self) -> Training:
        """Return the parameters of a training job of any kind; JobError for another task."""
        return self.of(Training)

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the names of the job's steps, in order."""
        return self.parameters.steps

    def parties_of(self, step: str) -> tuple[str, ...]:
        """Return the parties of a step; the coordinator adds masked partials where exact scores are opened."""
        adds = step in WITH_COORDINATOR and self.parameters.opens == "exact"
        return (*self.parties, self.coordinator) if adds else self.parties

    def canonical(self) -> bytes:
        """Return UTF-8 JSON with sorted keys and every default filled in: the same bytes at every party."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()

    @property
    def sha256(self) -> bytes:
        """Return the digest of the canonical form, which is what a party accepts."""
        return hashlib.sha256(self.canonical()).digest()


def parse_job(text: str, source: str = "job") -> Job:
    """Return the job of a YAML (or canonical JSON) text; ConfigError names the key at fault."""
    return parse(Job, parse_yaml(text, source), source)


def load_job(path: Path | str) -> Job:
    """Return the job of a YAML file."""
    path = Path(path)
    return parse_job(read_text(path, "job file"), str(path))


def new_job_id(job: Job) -> str:
    """Return a fresh id: name, 32 random bits (no session id is ever used twice), 64 bits of the job's digest.

    The digest stops a coordinator from giving two parties different jobs under one id.
    """
    return f"{job.name}-{secrets.token_hex(4)}-{job.sha256.hex()[:16]}"


def check_job_id(job_id: str, job: Job | None = None) -> str:
    """Return `job_id` if it is well-formed (it names a folder) and is of `job`, else raise JobError."""
    match = JOB_ID.fullmatch(job_id)
    if match is None:
        raise JobError("job id is malformed: expected NAME-NUMBER-DIGEST as `veilscore job list` shows it")
    if job is not None and (match["name"], match["digest"]) != (job.name, job.sha256.hex()[:16]):
        raise JobError("job id does not belong to this job: name or digest differ")
    return job_id
