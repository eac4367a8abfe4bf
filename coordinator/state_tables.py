"""The tables of the coordinator's state (`coordinator.state`), and their rows as values."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

SCHEMA_VERSION = 2

metadata = sa.MetaData()

META = sa.Table("veilscore_meta", metadata, sa.Column("version", sa.Integer, primary_key=True))


def _job_key() -> sa.Column[str]:
    return sa.Column("job_id", sa.String(80), sa.ForeignKey("jobs.job_id"), primary_key=True)


JOBS = sa.Table(
    "jobs",
    metadata,
    sa.Column("job_id", sa.String(80), primary_key=True),
    sa.Column("name", sa.String(40), nullable=False),
    sa.Column("task", sa.String(40), nullable=False),
    sa.Column("status", sa.String(20), nullable=False, index=True),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("yaml", sa.Text, nullable=False),
    sa.Column("submitted_by", sa.String(80), nullable=False),
    sa.Column("created_s", sa.Double, nullable=False),
    sa.Column("updated_s", sa.Double, nullable=False),
)

ACCEPTANCES = sa.Table(
    "acceptances",
    metadata,
    _job_key(),
    sa.Column("party", sa.String(80), primary_key=True),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("bound", sa.Text, nullable=False),
)

STEPS = sa.Table(
    "steps",
    metadata,
    _job_key(),
    sa.Column("step", sa.String(80), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("started_s", sa.Double, nullable=False),
    sa.Column("finished_s", sa.Double),
)

PARTY_STEPS = sa.Table(
    "party_steps",
    metadata,
    sa.Column("job_id", sa.String(80), primary_key=True),
    sa.Column("step", sa.String(80), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("party", sa.String(80), primary_key=True),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("done", sa.LargeBinary, nullable=False),
    sa.ForeignKeyConstraint(["job_id", "step", "attempt"], ["steps.job_id", "steps.step", "steps.attempt"]),
)

EVENTS = sa.Table(
    "events",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.String(80), sa.ForeignKey("jobs.job_id"), nullable=False, index=True),
    sa.Column("at_s", sa.Double, nullable=False),
    sa.Column("party", sa.String(80), nullable=False),
    sa.Column("step", sa.String(80), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)


@dataclass(frozen=True)
class JobRow:
    """One job as the coordinator keeps it; times in seconds since the epoch."""

    job_id: str
    name: str
    task: str
    status: str
    error: str
    yaml: str
    submitted_by: str
    created_s: float
    updated_s: float


@dataclass(frozen=True)
class AcceptanceRow:
    """One party's answer: pending, accepted or refused; `bound` is what it signed besides the job."""

    party: str
    status: str
    reason: str
    sha256: bytes
    signature: bytes
    bound: str = ""


@dataclass(frozen=True)
class PartyStepRow:
    """How one party fared in one attempt; `done` is a serialised StepDone."""

    party: str
    status: str
    error: str
    done: bytes


@dataclass(frozen=True)
class StepRow:
    """One attempt at one step, which is running, done or failed."""

    step: str
    position: int
    attempt: int
    status: str
    error: str
    started_s: float
    finished_s: float | None
    parties: tuple[PartyStepRow, ...]


@dataclass(frozen=True)
class EventRow:
    """One line of a job's history."""

    at_s: float
    party: str
    step: str
    text: str
