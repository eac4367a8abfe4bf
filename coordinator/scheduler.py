"""Takes jobs from proposal to end: acceptances, then the steps in order, with new attempts after lost peers.

Every decision is in `State` before it has an effect; `resume_all` goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache

import structlog

from coordinator.attempt import Outcome, cause, run_attempt, step_error
from coordinator.state import UNFINISHED, State
from coordinator.state_tables import AcceptanceRow
from coordinator.watch import Watchers
from veilscore.errors import ConfigError, JobError, PeerError, RefusedError, VeilscoreError
from veilscore.fabric.fabric import Fabric
from veilscore.fabric.watches import is_cancelled
from veilscore.terms.acceptance import verify_acceptance
from veilscore.terms.federation import Member
from veilscore.terms.job import Job, new_job_id, parse_job
from veilscore.v1 import control_pb2

NO_RECEIPT = "no receipt: "  # begins a line of a job's history
_AGAIN_S = 10.0  # until the end of a job is written that could not be


@dataclass(frozen=True)
class Patience:
    """How long the scheduler waits (seconds) and how often it tries."""

    attempts: int = 3  # at one step, before the job fails
    propose_s: float = 15.0  # for a party to answer a proposal
    poll_s: float = 1.0  # between two questions to a party whose people have not decided
    reconnect_s: float = 60.0  # for a lost party to answer again before the next attempt
    step_s: float = 3600.0  # deadline of a step


class Scheduler:
    """Runs all jobs of one coordinator, each in a task of its own.

    local_step : runs the coordinator's own part of a step as (job id, job, step, attempt).
    cross_sign : lets the parties of a finished job sign each other's logs.
    """

    def __init__(
        self,
        state: State,
        fabric: Fabric,
        watchers: Watchers,
        local_step: Callable[[str, Job, str, int], AsyncIterator[control_pb2.StepEvent]],
        patience: Patience,
        cross_sign: Callable[[str, Job], Awaitable[None]] | None = None,
    ) -> None:
        self._state = state
        self._fabric = fabric
        self._watchers = watchers
        self._local_step = local_step
        self._patience = patience
        self._cross_sign = cross_sign
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._unwritten: dict[str, asyncio.TimerHandle] = {}  # jobs whose end is not in the state yet
        self._log = structlog.get_logger("coordinator").bind(party=fabric.name)

    # what the service calls

    def submit(self, text: str, submitted_by: str) -> str:
        """Check a job, keep it and begin; return its id."""
        job = parse_job(text, "submitted job")
        self._check_members(job)
        job_id = new_job_id(job)
        self._state.add_job(
            job_id, name=job.name, task=job.task, yaml=job.canonical().decode(), submitted_by=submitted_by
        )
        self._begin(job_id)
        return job_id

    def resume(self, job_id: str) -> None:
        """Go on with a failed job, or with an unfinished one that has no task."""
        status = self._state.job(job_id).status
        if job_id in self._tasks and not self._tasks[job_id].done():
            return
        self._drop_unwritten(job_id)
        if status not in {*UNFINISHED, "failed"}:
            raise JobError(f"job {job_id} is {status}; only an unfinished or failed job can be resumed")
        self._state.interrupt(job_id, "the coordinator was stopped")  # an open attempt would block the next one
        if status == "failed":
            self._state.move_job(job_id, "proposed")
        self._begin(job_id)

    def resume_all(self) -> None:
        """Go on with every unfinished job after a restart."""
        for row in self._state.jobs(UNFINISHED):
            self.resume(row.job_id)

    async def cancel(self, job_id: str, reason: str) -> None:
        """Cancel a job here and at all parties; a party that cannot be reached learns of it by a refusal later."""
        job = self.job(job_id)
        self._state.move_job(job_id, "cancelled", reason)
        self._drop_unwritten(job_id)
        await self._end_task(job_id)
        self._state.interrupt(job_id, "the job was cancelled")
        order = control_pb2.CancelOrder(job_id=job_id, reason=reason)
        await asyncio.gather(
            *(self._fabric.call(party, "Cancel", order, control_pb2.Empty, timeout_s=5) for party in job.parties),
            return_exceptions=True,
        )
        self._tell(job_id, "cancelled", reason)
        self._watchers.close(job_id)

    async def stop(self) -> None:
        """Stop all work; jobs stay unfinished and go on at the next start."""
        for job_id in list(self._unwritten):
            self._drop_unwritten(job_id)
        for job_id in list(self._tasks):
            await self._end_task(job_id)

    def job(self, job_id: str) -> Job:
        """Return the parsed job of one row."""
        return _parsed(job_id, self._state.job(job_id).yaml)

    # one job

    def _check_members(self, job: Job) -> None:
        if job.coordinator != self._fabric.name:
            raise ConfigError(f"the job names {job.coordinator} as coordinator, this is {self._fabric.name}")
        for party in job.parties:
            member = self._fabric.federation.member(party)
            wanted = "bank" if party == job.bank else "holder"
            if member.role != wanted:
                raise ConfigError(f"{party} has role {member.role} in the federation, the job needs a {wanted}")

    def _begin(self, job_id: str) -> None:
        task = asyncio.create_task(self._run(job_id))
        self._tasks[job_id] = task

        def forget(_: object) -> None:
            if self._tasks.get(job_id) is task:
                del self._tasks[job_id]

        task.add_done_callback(forget)

    async def _end_task(self, job_id: str) -> None:
        task = self._tasks.pop(job_id, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, job_id: str) -> None:
        try:
            job = self.job(job_id)
            await self._collect_acceptances(job_id, job)
            if self._state.job(job_id).status != "running":
                self._move(job_id, "running")
            done = {row.step for row in self._state.steps(job_id) if row.status == "done"}
            for position, step in enumerate(job.steps):
                if step not in done:
                    await self._run_step(job_id, job, step, position)
            no_receipt = await self._gather_evidence(job_id, job)
            self._state.move_job(job_id, "done")  # from here on nothing can fail any more: all may file what was made
            await self._end_at_parties(job_id, job, no_receipt)
            self._tell(job_id, "done", f"no receipt, because {no_receipt}" if no_receipt else "")
            self._watchers.close(job_id)
            self._log.info("job", job=job_id, status="done", error="")
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            self._end(job_id, PeerError("a call to a party was cut off; resume the job"))
        except Exception as error:  # noqa: BLE001 - a job must not stay running without a task
            self._end(job_id, error)

    async def _gather_evidence(self, job_id: str, job: Job) -> str:
        """Have the logs cross-signed; results stand without it, so the job is done anyway, and why is returned."""
        if self._cross_sign is None:
            return "the coordinator signs no logs"
        try:
            await self._cross_sign(job_id, job)
        except VeilscoreError as error:
            self._log.error("logs were not cross-signed", job=job_id, message=str(error))
            self._state.note(job_id, f"{NO_RECEIPT}{error}"[:1000])
            self._tell(job_id, "running", f"{NO_RECEIPT}{error}"[:1000])
            return str(error)[:900]
        return ""

    async def _end_at_parties(self, job_id: str, job: Job, no_receipt: str) -> None:
        """Tell all parties that the job is done, so that they file what it made; one that is down asks for it later."""
        end = control_pb2.JobEnd(job_id=job_id, done=True, no_receipt=no_receipt)
        wait_s = self._patience.propose_s
        answers = await asyncio.gather(
            *(
                self._fabric.call(party, "EndJob", end, control_pb2.Empty, timeout_s=wait_s, retry=False)
                for party in job.parties
            ),
            return_exceptions=True,
        )
        for party, answer in zip(job.parties, answers, strict=True):
            if isinstance(answer, BaseException):
                self._log.warning("party was not told that the job is done", job=job_id, party=party)
                self._tell(job_id, "running", f"{party} files the model when it answers again", party=party)

    def no_receipt(self, job_id: str) -> str:
        """Return why a job that is done has no receipt, by its history; empty where it does not say."""
        said = [event.text for event in self._state.events(job_id) if event.text.startswith(NO_RECEIPT)]
        return said[-1].removeprefix(NO_RECEIPT) if said else ""

    def _end(self, job_id: str, error: Exception) -> None:
        """Write down and tell why a job ended, whatever it met; who watches it learns of it in any case.

        Where it cannot be written, as on a full disk, that is tried until it works: a job that nobody works on must not
        stay `running`.
        """
        if not isinstance(error, VeilscoreError):
            self._log.error("job failed", job=job_id, exc_info=error)
        text = _told(error)
        try:
            # once it runs, a refusal is that of a step: the job may be resumed
            refused = isinstance(error, RefusedError) and self._state.job(job_id).status != "running"
            self._state.interrupt(job_id, text)
            self._move(job_id, "refused" if refused else "failed", text)
        except Exception as worse:  # noqa: BLE001 - tried again, unless the job is resumed before
            self._log.error("job state cannot be written", job=job_id, exc_info=worse)
            self._unwritten[job_id] = asyncio.get_running_loop().call_later(_AGAIN_S, self._end, job_id, error)
            self._tell(job_id, "failed", _told(worse))
            self._watchers.close(job_id)

    def _drop_unwritten(self, job_id: str) -> None:
        timer = self._unwritten.pop(job_id, None)
        if timer is not None:
            timer.cancel()

    def _move(self, job_id: str, status: str, error: str = "") -> None:
        self._state.move_job(job_id, status, error)
        self._log.info("job", job=job_id, status=status, error=error)
        self._tell(job_id, status, error)
        if status not in UNFINISHED:
            self._watchers.close(job_id)

    def _tell(self, job_id: str, status: str, text: str = "", *, party: str = "", step: str = "") -> None:
        self._watchers.publish(control_pb2.JobEvent(job_id=job_id, party=party, step=step, status=status, text=text))

    # acceptances

    async def _collect_acceptances(self, job_id: str, job: Job) -> None:
        """Ask every party until all have accepted; RefusedError as soon as one refuses."""
        known = self._state.acceptances(job_id)
        open_parties = [p for p in job.parties if p not in known or known[p].status != "accepted"]
        while open_parties:
            members = [self._fabric.federation.member(party) for party in open_parties]
            answers = await asyncio.gather(*(self._propose(member, job_id, job) for member in members))
            for party, row in zip(open_parties, answers, strict=True):
                self._state.save_acceptance(job_id, row)
                self._tell(job_id, row.status, row.reason, party=party)
            for row in answers:
                if row.status == "refused":
                    raise RefusedError(f"{row.party} refused the job: {row.reason}", party=row.party)
            open_parties = [row.party for row in answers if row.status == "pending"]
            if open_parties:
                if self._state.job(job_id).status == "proposed":
                    self._move(job_id, "waiting")
                await asyncio.sleep(self._patience.poll_s)

    async def _propose(self, member: Member, job_id: str, job: Job) -> AcceptanceRow:
        """Ask one party whether it accepts a job, and check its answer."""
        proposal = control_pb2.JobProposal(job_id=job_id, job_yaml=job.canonical().decode(), job_sha256=job.sha256)
        party, wait_s = member.name, self._patience.propose_s
        try:
            answer = await self._fabric.call(party, "Propose", proposal, control_pb2.Acceptance, timeout_s=wait_s)
        except PeerError as error:
            raise type(error)(
                f"{party} did not answer the proposal: {error.message}; see that its node runs, then "
                f"`veilscore job resume {job_id}`",
                party=party,
            ) from error
        if answer.pending:
            return AcceptanceRow(party, "pending", answer.reason[:1000], b"", b"")
        verify_acceptance(answer, self._fabric.federation.keys_of(party), job_id, job)
        status = "accepted" if answer.accepted else "refused"
        return AcceptanceRow(party, status, answer.reason[:1000], answer.job_sha256, answer.signature, answer.bound)

    # steps

    async def _run_step(self, job_id: str, job: Job, step: str, position: int) -> None:
        parties = job.parties_of(step)
        for tries in range(1, self._patience.attempts + 1):
            attempt = self._state.begin_attempt(job_id, step, position, parties)
            self._tell(job_id, "running", f"attempt {attempt}", step=step)
            outcomes = await self._attempt(job_id, job, step, attempt, parties)
            failure = cause(outcomes)
            self._write_down(job_id, step, attempt, outcomes, failure)
            if failure is None:
                return
            self._tell(job_id, "retry" if failure.retryable else "failed", failure.text, step=step)
            if not failure.retryable or tries == self._patience.attempts:
                raise step_error(job_id, step, failure, tries)
            await self._wait_for(parties)

    async def _attempt(
        self, job_id: str, job: Job, step: str, attempt: int, parties: tuple[str, ...]
    ) -> dict[str, Outcome]:
        deadline_s = self._patience.step_s
        order = control_pb2.StepOrder(job_id=job_id, step=step, attempt=attempt, deadline_s=deadline_s)
        streams = {
            party: self._local_step(job_id, job, step, attempt)
            if party == self._fabric.name
            else self._fabric.stream(party, "RunStep", order, control_pb2.StepEvent, timeout_s=deadline_s + 60)
            for party in parties
        }

        def progress(party: str, p: control_pb2.StepProgress) -> None:
            self._watchers.publish(
                control_pb2.JobEvent(
                    job_id=job_id,
                    party=party,
                    step=step,
                    text=p.text[:200],
                    done=p.done,
                    total=p.total,
                    status="running",
                )
            )

        return await run_attempt(streams, progress)

    def _write_down(
        self, job_id: str, step: str, attempt: int, outcomes: dict[str, Outcome], failure: Outcome | None
    ) -> None:
        for party, o in outcomes.items():
            self._state.finish_party(
                job_id, step, attempt, party, o.status, error=o.text if o.status == "failed" else "", done=o.done
            )
            self._tell(job_id, o.status, o.text, party=party, step=step)
        status = "done" if failure is None else "failed"
        error = "" if failure is None else f"{failure.party}: {failure.text}"
        self._state.finish_attempt(job_id, step, attempt, status, error=error)

    async def _wait_for(self, parties: tuple[str, ...]) -> None:
        """Return when all answer again, or after `reconnect_s` (the next attempt then says who does not)."""
        remote = [p for p in parties if p != self._fabric.name]
        hello = control_pb2.Empty()
        await asyncio.gather(
            *(
                self._fabric.call(p, "Ping", hello, control_pb2.Empty, timeout_s=self._patience.reconnect_s)
                for p in remote
            ),
            return_exceptions=True,
        )


def _told(error: Exception) -> str:
    known = isinstance(error, VeilscoreError)
    return str(error) if known else "internal error at the coordinator; its log has the details"


@lru_cache(maxsize=64)
def _parsed(job_id: str, text: str) -> Job:
    return parse_job(text, f"job {job_id}")
