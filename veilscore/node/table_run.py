"""A job in one process on tables in memory, with what each step costs."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from veilscore.errors import JobError
from veilscore.node.local import LocalRun, open_job
from veilscore.reports import report
from veilscore.tasks import workflow
from veilscore.terms.policy import DatasetConfig, NodeConfig, NodePolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from veilscore.data.table import Table
    from veilscore.terms.job import Job
    from veilscore.wire.memory import Tamper
    from veilscore.wire.protocol import Session

R = TypeVar("R")

MEMORY = "memory"  # name of the data set in every party's catalogue
STEP_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class GivenTable(workflow.StepContext):
    """A context whose data set is already in memory."""

    given: Table | None

    def table(self) -> Table:
        """Return the party's table."""
        if self.given is None:
            raise JobError(f"{self.session.party} has no data in this job")
        return self.given


@dataclass
class TableRun(LocalRun):
    """A job on tables in memory that notes what each step costs."""

    tables: Mapping[str, Table] = field(default_factory=dict, repr=False)
    costs: list[report.Cost] = field(default_factory=list)

    def context(self, session: Session) -> GivenTable:
        """The same, with the party's table in place of its catalogue."""
        return GivenTable(**vars(super().context(session)), given=self.tables.get(session.party))

    def step(
        self,
        step: str,
        attempt: int = 1,
        *,
        tamper: Tamper | None = None,
        faults: Tamper | None = None,
        timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        """Run one step at all its parties and note what it cost."""
        start = time.perf_counter()
        before = {party: transcript.bytes_sent(party) for party, transcript in self.transcripts.items()}
        super().step(step, attempt, tamper=tamper, faults=faults, timeout_s=timeout_s)
        seconds = time.perf_counter() - start
        self.costs += [
            report.Cost(
                step=step,
                party=party,
                seconds=seconds,
                bytes_sent=self.transcripts[party].bytes_sent(party) - before[party],
            )
            for party in workflow.parties_in(step, self.job)
        ]


def run_on_tables(job: Job, tables: Mapping[str, Table], home: Path, *, policy: NodePolicy) -> TableRun:
    """Run a job to its end on tables in memory.

    Parameters
    ----------
    tables : party -> its data set, read and checked.
    home : folder with one home a party; models of earlier jobs are found there.
    policy : of every party.

    Raises
    ------
    VeilscoreError : as the steps raise it.
    """
    dataset = DatasetConfig(
        path=Path(MEMORY),
        password_env=None,
        id_column="id",
        label_column="label",
        weight_column="weight",
        date_column="date",
    )
    nodes = {
        party: NodeConfig(
            name=party, role="bank" if party == job.bank else "holder", datasets={MEMORY: dataset}, policy=policy
        )
        for party in job.parties
    }
    run = TableRun(**vars(open_job(job, nodes, home)), tables=tables)
    outside_loop(run.run)
    return run


def outside_loop(work: Callable[[], R]) -> R:
    """Run work that starts an event loop; a notebook has one already, so there it runs in a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
