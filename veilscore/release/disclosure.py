"""A holder's count of what boosting told of each of its data sets, over all jobs, in bits (`modelling/accountant.py`).

One number a data set and job, in one SQLite file of the home. It is raised before anything is opened and never lowered;
a repeated attempt goes on from it, whatever became of the job's folder.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from veilscore.errors import RefusedError, StateError
from veilscore.protocol import Checkpoint, Protocol
from veilscore.release.ledger_tables import open_ledger_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from google.protobuf.message import Message

R = TypeVar("R")
metadata = sa.MetaData()

TOLD = sa.Table(
    "told",
    metadata,
    sa.Column("dataset", sa.String(80), primary_key=True),
    sa.Column("job_id", sa.String(160), primary_key=True),
    sa.Column("bits", sa.Double, nullable=False),
    sa.Column("at_s", sa.Double, nullable=False),
)


@dataclass(frozen=True)
class DisclosureLedger:
    """Bits told of one data set by one job and by all.

    Parameters
    ----------
    path : the SQLite file, made if absent.
    dataset : name of the data set at this node.
    job_id : the job that is counted here.
    most : bits of all jobs together; None only counts.

    Raises
    ------
    StateError : from every method: the file cannot be read or written; names it.
    """

    path: Path
    dataset: str
    job_id: str
    most: float | None

    def of_job(self) -> float:
        """Bits that this job has told."""
        return self._read(TOLD.c.job_id == self.job_id)

    def total(self) -> float:
        """Bits that all jobs on this data set have told."""
        return self._read(sa.true())

    def charge(self, bits: float, engine: sa.Engine | None = None) -> None:
        """Raise this job's count to `bits`, told by all its attempts.

        Parameters
        ----------
        engine : on the file, where it is open already.

        Raises
        ------
        RefusedError : all jobs together would tell more than the policy allows; nothing is counted then.
        """

        def write(db: sa.Connection) -> None:
            mine = TOLD.c.dataset == self.dataset, TOLD.c.job_id == self.job_id
            told = db.execute(sa.select(TOLD.c.bits).where(*mine)).scalar()
            if told is not None and bits <= told:
                return
            others = _sum(db, TOLD.c.dataset == self.dataset, TOLD.c.job_id != self.job_id)
            if self.most is not None and others + bits > self.most:
                raise RefusedError(
                    f"boosting jobs may tell no more of data set {self.dataset!r}: its budget over all jobs is used "
                    "up; open fewer sums (splits: sealed, fewer trees) or ask the holder to raise max_disclosure_total"
                )
            if told is None:
                db.execute(TOLD.insert().values(dataset=self.dataset, job_id=self.job_id, bits=bits, at_s=time.time()))
            else:
                db.execute(TOLD.update().where(*mine).values(bits=bits, at_s=time.time()))

        self._transaction(write, engine)

    def guard(self, protocol: Protocol[R]) -> Protocol[R]:
        """Run a holder's boosting; what its checkpoints say is spent, before each opening, is charged first."""
        answer: Message | None = None
        engine = open_ledger_file(self.path)  # kept open: opening and closing cost more than an entry
        try:
            while True:
                try:
                    command = protocol.send(answer)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                if isinstance(command, Checkpoint):
                    self.charge(float(command.state["spent"]), engine)
                answer = yield command
        finally:
            protocol.close()
            engine.dispose()

    def _read(self, *where: Any) -> float:
        return self._transaction(lambda db: _sum(db, TOLD.c.dataset == self.dataset, *where))

    def _transaction(self, act: Callable[[sa.Connection], R], kept: sa.Engine | None = None) -> R:
        engine = kept or open_ledger_file(self.path)
        try:
            with engine.begin() as db:  # immediate: what is read and written here is so together
                metadata.create_all(db)
                return act(db)
        except sa.exc.DBAPIError as error:
            raise StateError(
                f"disclosure ledger {self.path} cannot be read or written ({type(error.orig).__name__}): check disk "
                "space, owner and mode, or restore the file from backup; nothing is opened meanwhile"
            ) from error
        finally:
            if kept is None:
                engine.dispose()


def _sum(db: sa.Connection, *where: Any) -> float:
    return float(db.execute(sa.select(sa.func.coalesce(sa.func.sum(TOLD.c.bits), 0.0)).where(*where)).scalar_one())
