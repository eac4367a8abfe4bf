"""The coordinator's memory: jobs, acceptances, attempts at steps and events, in SQLite or PostgreSQL.

Every change is one transaction, and a change of status names the statuses it may come from: an illegal one raises and
changes nothing. It holds names, sizes and times only. SQLite runs with a write-ahead log and full sync.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.state_engine import check_version
from coordinator.state_tables import (
    ACCEPTANCES,
    EVENTS,
    JOBS,
    PARTY_STEPS,
    STEPS,
    AcceptanceRow,
    EventRow,
    JobRow,
    PartyStepRow,
    StepRow,
    metadata,
)
from veilscore.errors import JobError, StateError
from veilscore.files.database import open_engine, reason

JOB_TRANSITIONS: dict[str, frozenset[str]] = {
    "proposed": frozenset({"waiting", "running", "refused", "failed", "cancelled"}),
    "waiting": frozenset({"running", "refused", "failed", "cancelled"}),
    "running": frozenset({"done", "failed", "cancelled"}),
    "failed": frozenset({"proposed", "cancelled"}),  # proposed again by resume
    "done": frozenset(),
    "refused": frozenset(),
    "cancelled": frozenset(),
}
UNFINISHED = ("proposed", "waiting", "running")


class State:
    """Keeps all that the coordinator decides behind one SQLAlchemy URL.

    url : such as ``sqlite:////home/state.db`` or ``postgresql+psycopg://user@host/database``.
    clock : seconds since the epoch.
    Every method raises StateError where the database cannot be read or written, is full or has another version's
    tables, and JobError for an unknown job or an illegal change of status.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._engine = open_engine(url, "state_url")
        self._where = self._engine.url.render_as_string(hide_password=True)
        try:
            with self._transaction() as db:
                metadata.create_all(db)
                check_version(db, self._where)
        except BaseException:
            self._engine.dispose()
            raise

    def __repr__(self) -> str:
        """Show the place alone, without its password."""
        return f"State({self._where!r})"

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # jobs

    def add_job(self, job_id: str, *, name: str, task: str, yaml: str, submitted_by: str) -> None:
        """Add a job as proposed; JobError if the id is taken."""
        now = self._clock()
        row = JobRow(job_id, name, task, "proposed", "", yaml, submitted_by, created_s=now, updated_s=now)
        with self._transaction() as db:
            if db.execute(sa.select(JOBS.c.job_id).where(JOBS.c.job_id == job_id)).first():
                raise JobError(f"job {job_id} exists already")
            db.execute(JOBS.insert().values(**vars(row)))
            self._event(db, job_id, f"submitted by {submitted_by}")

    def move_job(self, job_id: str, status: str, error: str = "") -> None:
        """Change a job's status; JobError if it may not go there from where it is."""
        sources = [s for s, targets in JOB_TRANSITIONS.items() if status in targets]
        with self._transaction() as db:
            moved = db.execute(
                JOBS.update()
                .where(JOBS.c.job_id == job_id, JOBS.c.status.in_(sources))
                .values(status=status, error=error, updated_s=self._clock())
            )
            if moved.rowcount != 1:
                now = db.execute(sa.select(JOBS.c.status).where(JOBS.c.job_id == job_id)).scalar()
                raise JobError(_unknown(job_id) if now is None else f"job {job_id} is {now}; it cannot become {status}")
            self._event(db, job_id, _told(status, error))

    def job(self, job_id: str) -> JobRow:
        """Return one job; JobError if it is unknown."""
        with self._transaction() as db:
            row = db.execute(sa.select(JOBS).where(JOBS.c.job_id == job_id)).mappings().first()
        if row is None:
            raise JobError(_unknown(job_id))
        return JobRow(**row)

    def jobs(self, statuses: Sequence[str] | None = None) -> tuple[JobRow, ...]:
        """Return all jobs (of some statuses), oldest first."""
        query = sa.select(JOBS).order_by(JOBS.c.created_s, JOBS.c.job_id)
        if statuses is not None:
            query = query.where(JOBS.c.status.in_(statuses))
        with self._transaction() as db:
            return tuple(JobRow(**row) for row in db.execute(query).mappings())

    # acceptances

    def save_acceptance(self, job_id: str, answer: AcceptanceRow) -> None:
        """Keep a party's answer; an accepted or refused job stays so, else JobError."""
        key = (ACCEPTANCES.c.job_id == job_id) & (ACCEPTANCES.c.party == answer.party)
        with self._transaction() as db:
            known = db.execute(sa.select(ACCEPTANCES.c.status).where(key)).scalar()
            if known == answer.status:
                return
            if known in {"accepted", "refused"}:
                raise JobError(f"{answer.party} has {known} job {job_id}; its answer cannot become {answer.status}")
            if known is not None:
                db.execute(ACCEPTANCES.delete().where(key))
            db.execute(ACCEPTANCES.insert().values(job_id=job_id, **vars(answer)))
            self._event(db, job_id, f"{answer.status}: {answer.reason}", party=answer.party)

    def acceptances(self, job_id: str) -> dict[str, AcceptanceRow]:
        """Return the answers by party."""
        query = sa.select(ACCEPTANCES).where(ACCEPTANCES.c.job_id == job_id).order_by(ACCEPTANCES.c.party)
        with self._transaction() as db:
            rows = [dict(row) for row in db.execute(query).mappings()]
        return {row["party"]: AcceptanceRow(**{k: v for k, v in row.items() if k != "job_id"}) for row in rows}

    # steps

    def begin_attempt(self, job_id: str, step: str, position: int, parties: Sequence[str]) -> int:
        """Open the next attempt at a step and return its number, which counts from 1 and is never used twice.

        Raises JobError where the job is not running, the step is done, or an attempt is under way.
        """
        with self._transaction() as db:
            status = db.execute(sa.select(JOBS.c.status).where(JOBS.c.job_id == job_id).with_for_update()).scalar()
            if status != "running":
                raise JobError(f"job {job_id} is {status or 'unknown'}; steps start only in a running job")
            of_step = (STEPS.c.job_id == job_id) & (STEPS.c.step == step)
            earlier = db.execute(sa.select(STEPS.c.attempt, STEPS.c.status).where(of_step)).all()
            open_now = {row.status for row in earlier} & {"running", "done"}
            if open_now:
                raise JobError(f"step {step} of job {job_id} is {open_now.pop()} already")
            attempt = 1 + max((int(row.attempt) for row in earlier), default=0)
            key = {"job_id": job_id, "step": step, "attempt": attempt}
            db.execute(
                STEPS.insert().values(**key, position=position, status="running", started_s=self._clock(), error="")
            )
            for party in parties:
                db.execute(PARTY_STEPS.insert().values(**key, party=party, status="running", error="", done=b""))
            self._event(db, job_id, f"attempt {attempt}", step=step)
        return attempt

    def finish_party(
        self, job_id: str, step: str, attempt: int, party: str, status: str, *, error: str = "", done: bytes = b""
    ) -> None:
        """Close one party's part of a running attempt as done, failed or stopped."""
        table = PARTY_STEPS
        key = sa.and_(
            table.c.job_id == job_id, table.c.step == step, table.c.attempt == attempt, table.c.party == party
        )
        with self._transaction() as db:
            self._close(db, table, key, {"status": status, "error": error, "done": done}, f"{party} in step {step}")
            self._event(db, job_id, _told(status, error), party=party, step=step)

    def finish_attempt(self, job_id: str, step: str, attempt: int, status: str, *, error: str = "") -> None:
        """Close a running attempt as done or failed; it is done only if every party is."""
        parts = (PARTY_STEPS.c.job_id == job_id, PARTY_STEPS.c.step == step, PARTY_STEPS.c.attempt == attempt)
        key = sa.and_(STEPS.c.job_id == job_id, STEPS.c.step == step, STEPS.c.attempt == attempt)
        with self._transaction() as db:
            left = sa.select(PARTY_STEPS.c.party).where(*parts, PARTY_STEPS.c.status != "done")
            if status == "done" and (open_party := db.execute(left).scalar()) is not None:
                raise JobError(f"step {step} of job {job_id} is not done at {open_party}")
            values = {"status": status, "error": error, "finished_s": self._clock()}
            self._close(db, STEPS, key, values, f"step {step}")
            db.execute(PARTY_STEPS.update().where(*parts, PARTY_STEPS.c.status == "running").values(status="stopped"))
            self._event(db, job_id, _told(status, error), step=step)

    def steps(self, job_id: str) -> tuple[StepRow, ...]:
        """Return all attempts of a job, by position and attempt."""
        with self._transaction() as db:
            parties = list(db.execute(sa.select(PARTY_STEPS).where(PARTY_STEPS.c.job_id == job_id)).mappings())
            query = sa.select(STEPS).where(STEPS.c.job_id == job_id).order_by(STEPS.c.position, STEPS.c.attempt)
            steps = list(db.execute(query).mappings())
        return tuple(
            StepRow(
                **{k: v for k, v in row.items() if k != "job_id"},
                parties=tuple(
                    PartyStepRow(p["party"], p["status"], p["error"], bytes(p["done"]))
                    for p in sorted(parties, key=lambda p: str(p["party"]))
                    if (p["step"], p["attempt"]) == (row["step"], row["attempt"])
                ),
            )
            for row in steps
        )

    def interrupt(self, job_id: str, reason: str) -> None:
        """Close attempts that a stopped coordinator left running."""
        for row in self.steps(job_id):
            if row.status == "running":
                self.finish_attempt(job_id, row.step, row.attempt, "failed", error=reason)

    # events

    def note(self, job_id: str, text: str) -> None:
        """Add a line to a job's history."""
        with self._transaction() as db:
            self._event(db, job_id, text)

    def events(self, job_id: str) -> tuple[EventRow, ...]:
        """Return a job's history, oldest first."""
        e = EVENTS.c
        query = sa.select(e.at_s, e.party, e.step, e.text).where(e.job_id == job_id).order_by(e.number)
        with self._transaction() as db:
            return tuple(EventRow(**row) for row in db.execute(query).mappings())

    def _event(self, db: Connection, job_id: str, text: str, *, party: str = "", step: str = "") -> None:
        db.execute(EVENTS.insert().values(job_id=job_id, at_s=self._clock(), party=party, step=step, text=text))

    def _close(
        self, db: Connection, table: sa.Table, key: sa.ColumnElement[bool], values: dict[str, Any], what: str
    ) -> None:
        changed = db.execute(table.update().where(key, table.c.status == "running").values(**values))
        if changed.rowcount != 1:
            raise JobError(f"{what} is not running; it cannot become {values['status']}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as db:
                yield db
        except sa.exc.DBAPIError as error:
            raise StateError(f"coordinator state {self._where}: {reason(error)}") from error


def _told(status: str, error: str) -> str:
    return f"{status}: {error}" if error else status


def _unknown(job_id: str) -> str:
    return f"no job {job_id} at this coordinator; `veilscore job list` shows those there are"
