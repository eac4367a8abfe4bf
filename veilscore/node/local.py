"""Runs a whole job in one process, over the in-memory channel: for notebooks, tests and trials.

The protocols, messages and files are those of real nodes; only the sockets are missing, and with them the separation
of the parties. Do not use it where the data of two owners must stay apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from veilscore.data.table import Kind, Table
from veilscore.errors import ColumnError, ConfigError, JobError, RefusedError, VeilscoreError
from veilscore.evidence.opening import begin
from veilscore.files.store import JobStore
from veilscore.models.versions import file_model, file_screening
from veilscore.node.ray_workers import engaged
from veilscore.protocols.adding import coordinator_add
from veilscore.reports.data import StepCost
from veilscore.reports.write import role_with_report
from veilscore.tasks.context import StepContext, account_of
from veilscore.tasks.panel import rows_taken
from veilscore.tasks.table import answer_to, hold, reads_of
from veilscore.terms.job import Job, new_job_id
from veilscore.terms.node_config import DatasetConfig, NodeConfig
from veilscore.terms.policy import NodePolicy
from veilscore.wire.memory import MemoryNetwork, Tamper, simulate
from veilscore.wire.protocol import Charge, Session
from veilscore.wire.transcript import Transcript


@dataclass
class LocalRun:
    """Runs one job and keeps its folders and transcripts, by party.

    stores : each party's job folder.
    transcripts : party -> all messages it saw, with content if `open_job` was told to keep it.
    audited : keep at the bank what an auditor needs.
    """

    job: Job
    job_id: str
    nodes: Mapping[str, NodeConfig]
    stores: dict[str, JobStore]
    transcripts: dict[str, Transcript] = field(default_factory=dict)
    audited: bool = False

    def context(self, session: Session) -> StepContext:
        """Return what the session's party has at hand."""
        party = session.party
        role: Literal["bank", "holder"] = "bank" if party == self.job.bank else "holder"
        workers = engaged(self.nodes[party])
        return StepContext(session, role, self.job, self.nodes[party], self.stores[party], workers=workers)

    def step(
        self,
        step: str,
        attempt: int = 1,
        *,
        tamper: Tamper | None = None,
        network: MemoryNetwork | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        """Run one step at all its parties; what it checkpointed before an error stays for the next attempt."""
        roles, sessions, record = {}, {}, None
        checkpoints: dict[str, list[dict[str, Any]]] = {}
        for party in self.job.parties_of(step):
            session = Session(f"{self.job_id}/{step}/{attempt}", party, self.job.bank, self.job.holders)
            sessions[party] = session
            if party == self.job.coordinator:
                roles[party] = coordinator_add(session)
                continue
            context = self.context(session)
            if self.audited and party == self.job.bank:
                reads = reads_of(self.job, step, self.job_id)
                record = begin(context.home(), session, self.job, self.nodes[party], reads)
                context = replace(context, opening=record.opening)
                self.transcripts[party].sink = record.add
            roles[party] = role_with_report(step, context)
        try:
            simulate(
                roles,
                sessions,
                tamper=tamper,
                network=network,
                timeout_s=timeout_s,
                transcripts=self.transcripts,
                checkpoints=checkpoints,
                spend={holder: self._spend(holder, sessions[holder]) for holder in self.job.holders},
            )
        except VeilscoreError:
            for party, states in checkpoints.items():
                if states:
                    self.stores[party].save_json(f"checkpoint_{step}", states[-1])
            raise
        finally:
            if record is not None:
                self.transcripts[self.job.bank].sink = None
                record.close()
        if step == self.job.steps[-1]:
            for store in self.stores.values():
                file_model(store.path.parent.parent, self.job_id, self.job.name)
                file_screening(store.path.parent.parent, self.job_id, self.job.name)

    def _spend(self, holder: str, session: Session) -> Callable[[Charge], None]:
        account = account_of(self.stores[holder].path.parent.parent, self.nodes[holder], self.job)
        return partial(account.spend, session.id)

    def run(self) -> LocalRun:
        """Run all steps."""
        for step in self.job.steps:
            self.step(step)
        return self


def open_job(
    job: Job, nodes: Mapping[str, NodeConfig], folder: Path, *, keep: bool = False, audited: bool = False
) -> LocalRun:
    """Prepare a job below `folder` (one home a party); RefusedError where a party's policy refuses it."""
    job_id = new_job_id(job)
    everyone = {**nodes, job.coordinator: NodeConfig(name=job.coordinator, role="coordinator")}
    for party in job.parties:
        answer = answer_to(job, everyone[party])
        if answer.status == "refused":
            raise RefusedError(answer.reason, party=party)
        hold(folder / party, everyone[party], job, job_id)
    stores = {party: JobStore(folder / party / "jobs" / job_id) for party in everyone}
    transcripts = {party: Transcript(keep=keep) for party in everyone}
    return LocalRun(job, job_id, everyone, stores, transcripts, audited)


R = TypeVar("R")

MEMORY = "memory"  # name of the data set in every party's catalogue
STEP_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class GivenTable(StepContext):
    """A step's context whose data set is already in memory."""

    given: Table | None

    def table(self) -> Table:
        """Return the party's table."""
        table = self.whole_table()
        return rows_taken(table, self.job.parameters) if self.role == "bank" else table

    def columns(self, names: tuple[str, ...] | None, kinds: Mapping[str, Kind] | None = None) -> Table:  # noqa: ARG002
        """Return the party's table with some columns; they were read as what they are."""
        table = self.table()
        if names is None:
            return table
        absent = [name for name in names if name not in table.columns]
        if absent:
            raise ColumnError(f"the data of {self.session.party} has no column {absent[0]!r}")
        return replace(table, columns={name: table.columns[name] for name in names})

    def whole_table(self) -> Table:
        """Return the party's table; it has the columns that a job may use, and no others."""
        if self.given is None:
            raise JobError(f"{self.session.party} has no data in this job")
        return self.given


@dataclass
class TableRun(LocalRun):
    """Runs a job on tables in memory and notes what each step costs."""

    tables: Mapping[str, Table] = field(default_factory=dict, repr=False)
    costs: list[StepCost] = field(default_factory=list)

    def context(self, session: Session) -> GivenTable:
        """Return the same, with the party's table in place of its catalogue."""
        return GivenTable(**vars(super().context(session)), given=self.tables.get(session.party))

    def step(
        self,
        step: str,
        attempt: int = 1,
        *,
        tamper: Tamper | None = None,
        network: MemoryNetwork | None = None,
        timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        """Run one step at all its parties and note what it cost."""
        start = time.perf_counter()
        before = {party: transcript.bytes_sent(party) for party, transcript in self.transcripts.items()}
        super().step(step, attempt, tamper=tamper, network=network, timeout_s=timeout_s)
        seconds = time.perf_counter() - start
        self.costs += [
            StepCost(
                step=step,
                party=party,
                seconds=seconds,
                bytes_sent=self.transcripts[party].bytes_sent(party) - before[party],
            )
            for party in self.job.parties_of(step)
        ]


def run_on_tables(job: Job, tables: Mapping[str, Table], home: Path, *, policy: NodePolicy) -> TableRun:
    """Run a job to its end on tables in memory.

    tables : party -> its data set, read and checked.
    home : folder with one home a party; models of earlier jobs are found there.
    policy : of every party.
    """
    of_firms = job.parameters.rows == "firms"
    for party, table in tables.items():
        if (table.panel is None) != of_firms:
            key = "one column" if of_firms else "two columns, of firms and of days"
            raise ConfigError(f"rows: {job.parameters.rows} needs a key of {key}; that of {party} is another (id=)")
    dataset = DatasetConfig(
        path=Path(MEMORY),
        password_env=None,
        id_column="id" if of_firms else None,
        id_columns=None if of_firms else ("id", "day"),
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
