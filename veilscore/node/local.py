"""A whole job in one process, over the in-memory channel: for notebooks, tests and trials.

The protocols, messages and files are those of real nodes; only the sockets are missing, and with them the separation
of the parties. Do not use it where the data of two owners must stay apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from veilscore.errors import JobError, RefusedError, VeilscoreError
from veilscore.evidence.opening import begin
from veilscore.files.store import JobStore
from veilscore.tasks import workflow
from veilscore.terms.job import Job, new_job_id
from veilscore.terms.policy import NodeConfig, Refuse
from veilscore.wire.memory import Tamper, simulate
from veilscore.wire.protocol import Session, Transcript

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass
class LocalRun:
    """A job's folders and transcripts, by party.

    Attributes
    ----------
    stores : each party's job folder.
    transcripts : party -> all messages it saw, with content if `keep` was asked for.
    audited : keep at the bank what an auditor needs.
    """

    job: Job
    job_id: str
    nodes: Mapping[str, NodeConfig]
    stores: dict[str, JobStore]
    transcripts: dict[str, Transcript] = field(default_factory=dict)
    audited: bool = False

    def context(self, session: Session) -> workflow.StepContext:
        """What the session's party has at hand."""
        party, role = session.party, self.nodes[session.party].role
        if role == "operator":
            raise JobError("an operator has no part in a step", party=party)
        return workflow.StepContext(session, role, self.job, self.nodes[party], self.stores[party])

    def step(
        self,
        step: str,
        attempt: int = 1,
        *,
        tamper: Tamper | None = None,
        faults: Tamper | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        """Run one step at all its parties; what it checkpointed before an error is kept for the next attempt."""
        roles, sessions, record = {}, {}, None
        checkpoints: dict[str, list[dict[str, Any]]] = {}
        for party in workflow.parties_in(step, self.job):
            session = Session(f"{self.job_id}/{step}/{attempt}", party, self.job.bank, self.job.holders)
            context = self.context(session)
            if self.audited and party == self.job.bank:
                record = begin(context.home(), session, self.job, self.nodes[party])
                context = replace(context, opening=record.opening)
                self.transcripts[party].sink = record.add
            roles[party], sessions[party] = workflow.protocol_for(step, context), session
        try:
            simulate(
                roles,
                sessions,
                tamper=tamper,
                faults=faults,
                timeout_s=timeout_s,
                transcripts=self.transcripts,
                checkpoints=checkpoints,
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

    def run(self) -> LocalRun:
        """Run all steps."""
        for step in workflow.steps_for(self.job):
            self.step(step)
        return self


def open_job(
    job: Job, nodes: Mapping[str, NodeConfig], folder: Path, *, keep: bool = False, audited: bool = False
) -> LocalRun:
    """Prepare a job below `folder` (one home per party); policies are asked as real nodes ask them.

    Raises
    ------
    RefusedError : a party's policy refuses the job.
    """
    job_id = new_job_id(job)
    everyone = {**nodes, job.coordinator: NodeConfig(name=job.coordinator, role="coordinator")}
    for party in job.parties:
        decision = everyone[party].policy.decide(job, everyone[party])
        if isinstance(decision, Refuse):
            raise RefusedError(decision.reason, party=party)
    stores = {party: JobStore(folder / party / "jobs" / job_id) for party in everyone}
    transcripts = {party: Transcript(keep=keep) for party in everyone}
    return LocalRun(job, job_id, everyone, stores, transcripts, audited)
