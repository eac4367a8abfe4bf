"""A holder counts what boosting told of each of its data sets, over all jobs, in bits (`models/accountant.py`).

One number a data set and job, in one SQLite file of the home. It is raised before anything is opened and never lowered;
a repeated attempt goes on from it, whatever became of the job's folder.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from veilscore.errors import RefusedError
from veilscore.files.sqlite_file import open_sqlite, told, transaction
from veilscore.wire.protocol import Checkpoint, Protocol

R = TypeVar("R")
_TABLES = (
    """CREATE TABLE IF NOT EXISTS told (dataset VARCHAR(80) NOT NULL, job_id VARCHAR(160) NOT NULL,
    bits DOUBLE NOT NULL, at_s DOUBLE NOT NULL, PRIMARY KEY (dataset, job_id))""",
)


@dataclass(frozen=True)
class DisclosureLedger:
    """Counts the bits told of one data set by one job and by all.

    path : the SQLite file, made if absent.
    dataset : name of the data set at this node.
    job_id : the job that is counted here.
    most : bits of all jobs together; None only counts.
    Every method raises StateError where the file cannot be read or written.
    """

    path: Path
    dataset: str
    job_id: str
    most: float | None

    def of_job(self) -> float:
        """Return the bits that this job has told."""
        return self._transaction(lambda db: self._sum(db, "job_id = ?", self.job_id))

    def total(self) -> float:
        """Return the bits that all jobs on this data set have told."""
        return self._transaction(self._sum)

    def charge(self, bits: float, kept: sqlite3.Connection | None = None) -> None:
        """Raise this job's count to `bits`, told by all its attempts.

        kept : connection to the file, where it is open already.
        Raises RefusedError where all jobs together would tell more than the policy allows; nothing is counted then.
        """

        def write(db: sqlite3.Connection) -> None:
            if bits <= self._sum(db, "job_id = ?", self.job_id):
                return
            if self.most is not None and self._sum(db, "job_id <> ?", self.job_id) + bits > self.most:
                raise RefusedError(
                    f"boosting jobs may tell no more of data set {self.dataset!r}: its budget over all jobs is used "
                    "up; open fewer sums (splits: sealed, fewer trees) or ask the holder to raise max_disclosure_total"
                )
            db.execute("REPLACE INTO told VALUES (?, ?, ?, ?)", (self.dataset, self.job_id, bits, time.time()))

        self._transaction(write, kept)

    def guard(self, protocol: Protocol[R]) -> Protocol[R]:
        """Run a holder's boosting and charge what it is about to tell, which it checkpoints before each opening."""
        answer: Message | None = None
        # kept open: opening and closing cost more than an entry
        with closing(protocol), closing(self._open()) as kept:
            while True:
                try:
                    command = protocol.send(answer)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                if isinstance(command, Checkpoint):
                    self.charge(float(command.state["spent"]), kept)
                answer = yield command

    def _transaction(self, act: Callable[[sqlite3.Connection], R], kept: sqlite3.Connection | None = None) -> R:
        db = kept or self._open()
        try:
            with self._told(), transaction(db):
                return act(db)
        finally:
            if kept is None:
                db.close()

    def _open(self) -> sqlite3.Connection:
        with self._told():
            return open_sqlite(self.path, _TABLES)

    def _told(self) -> AbstractContextManager[None]:
        return told(f"disclosure ledger {self.path}", "restore the file from backup; nothing is opened meanwhile")

    def _sum(self, db: sqlite3.Connection, where: str = "1", *values: str) -> float:
        query = f"SELECT COALESCE(SUM(bits), 0.0) FROM told WHERE dataset = ? AND {where}"  # noqa: S608 - fixed words
        return float(db.execute(query, (self.dataset, *values)).fetchone()[0])
