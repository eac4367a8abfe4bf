"""A party's node answers proposals by its policy and runs its part of the steps that the coordinator orders.

Order of a job at a node: 1. Propose (answer signed, or pending until a person at the node decides), 2. RunStep for
each step in the order of the job, each attempt once, 3. Cancel at any time. Anything else raises. What was accepted
and which attempts have begun is on disk before it has an effect, so a restart forgets nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from veilscore.errors import ConfigError, JobError, PeerError, RefusedError, VeilscoreError
from veilscore.evidence.console_acts import Pulse, serve_console_calls
from veilscore.evidence.exchange import CrossSigning
from veilscore.evidence.head_watch import FIRST_CALL_S, HeadWatch
from veilscore.evidence.job_ledger import Ledger, LedgerEntry
from veilscore.evidence.opening import StepRecord, begin
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.fabric import Fabric
from veilscore.fabric.key_watch import KeyWatch
from veilscore.fabric.step_run import StepRun, parse_session_id, session_id
from veilscore.fabric.watches import Watches
from veilscore.files.store import JobStore
from veilscore.files.unfinished import remove_unfinished
from veilscore.kernels import keep_in
from veilscore.keys.identity import ROLES
from veilscore.node.filing import Filing
from veilscore.node.leftovers import settle
from veilscore.node.policy_watch import PolicyWatch
from veilscore.node.ray_workers import engaged
from veilscore.node.sections import SectionService
from veilscore.node.state import LoggedState, counts_of
from veilscore.online.service import door_side, online_side
from veilscore.release.binding import bound_now, canonical, check_bound
from veilscore.release.revocation_watch import RevocationWatch
from veilscore.release.revocations import RevocationLists
from veilscore.reports.write import role_with_report
from veilscore.tasks.context import StepContext, account_of
from veilscore.tasks.table import JobAnswer, answer_to, hold, reads_of, request_of, stop_if_drowned
from veilscore.terms.acceptance import sign_acceptance
from veilscore.terms.federation import Member
from veilscore.terms.job import Job, check_job_id, parse_job
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import load_node_config
from veilscore.terms.people import authoriser, is_own
from veilscore.v1 import control_pb2
from veilscore.wire.inbox import WireLimits
from veilscore.wire.protocol import Charge, Session

_ATTEMPTS_AHEAD = 16  # a peer may have begun attempts that this node was not told of yet, but not many


class Node:
    """Runs one party: bank or data holder.

    home : folder with node.yaml, identity/, federation.yaml; state/ and jobs/ are made in it.
    limits : bounds of the fabric.
    Raises ConfigError, IdentityError or StateError where the home cannot be used, and says what to do.
    """

    def __init__(self, home: Path | str, *, limits: WireLimits | None = None) -> None:
        self.home = Path(home)
        keep_in(self.home / "cache")
        self.config = load_node_config(self.home)
        if self.config.role not in {"bank", "holder"}:
            raise ConfigError(f"{self.home} is the home of a {self.config.role}, not of a bank or holder")
        identity, federation = load_membership(self.home, self.config)
        self.name = identity.name
        self.ledger = Ledger(self.home / "state" / "jobs")
        self._runs: dict[str, StepRun] = {}
        self._early: dict[str, set[str]] = {}
        self._log = structlog.get_logger("veilscore.node.node").bind(party=self.name)
        self.fabric = Fabric(
            identity,
            federation,
            accept_session=self._accept_session,
            limits=limits,
            listen=self.config.listen,
            authorise=self._authorise,
        )
        self.keys = KeyWatch(self.home, self.config, self.fabric)
        self._register()
        self._online = online_side(self.home, self.config, self.ledger)
        self._online.register(self.fabric)
        self.evidence = EvidenceRecorder(
            self.home, self.config, lambda: self.fabric.identity, lambda: self.fabric.federation
        )
        self._online.evidence = self.evidence
        serve_console_calls(self.fabric, self.evidence, self.name, self.config.role, self.pulse)
        self.door = door_side(self.home, self.config, self._online)
        self._allowed = authoriser(self.config)
        self.heads, self.watches = HeadWatch(self.evidence, self.fabric), Watches(self.name)
        self.policy = PolicyWatch(self.home, self.config, self.evidence, self._policy_changed)
        self.filing = Filing(self.home, self.ledger, self.evidence, self.fabric, self._own_steps)
        self.revocations: RevocationWatch | None = None
        if self.config.role == "holder":
            issuers = dict(self.config.policy.consent_issuers)
            self.revocations = RevocationWatch(RevocationLists(self.home, issuers), issuers, self.fabric)
            SectionService(self.home, lambda: self.config, self.fabric)

    def pulse(self) -> Pulse:
        """Return what only the running node knows."""
        return Pulse(running=len(self._runs), spares=self._online.spares(), clocks=self.fabric.clocks)

    def _policy_changed(self) -> None:
        self._online.policy_changed()
        if self.revocations is not None:
            self.revocations.trust(dict(self.config.policy.consent_issuers))

    def _register(self) -> None:
        own: set[str] = {self.config.role, "operator"}
        for method, roles, request, handler in (
            ("Propose", {"coordinator"}, control_pb2.JobProposal, self._propose),
            ("Cancel", {"coordinator"}, control_pb2.CancelOrder, self._cancel),
            ("Ping", set(ROLES), control_pb2.Empty, _ping),
            ("Inbox", own, control_pb2.Empty, self._inbox),
            ("Decide", own, control_pb2.Acceptance, self._decide),
        ):
            self.fabric.register(method, roles, request, handler)
        self.fabric.register("RunStep", {"coordinator"}, control_pb2.StepOrder, self._run_step, stream=True)
        self.fabric.register("Evidence", {"coordinator"}, control_pb2.EvidenceCall, self._cross_sign)

    def _authorise(self, method: str, peer: Member) -> None:
        self._allowed(method, peer)
        self.heads.check_call(method)

    async def start(self) -> None:
        """Open the log, compare it with the state files and with what others saw of it, and listen."""
        state = LoggedState(self.home, self.config)
        await asyncio.to_thread(self.evidence.open, asyncio.get_running_loop(), state.visit)
        await asyncio.to_thread(state.check, self.ledger, self.evidence.log)
        await asyncio.to_thread(remove_unfinished, self.home)
        await self.heads.compare_first()
        await asyncio.to_thread(settle, self.home, self.ledger, self.evidence, self.filing.is_done)
        await asyncio.to_thread(self.filing.finish)
        await self.filing.note_switches()
        await self.filing.ask_all(FIRST_CALL_S)
        if self.revocations is not None:
            await self.revocations.fetch_all(FIRST_CALL_S)
            self.watches.start("the watch over revocations", self.revocations.watch())
        await asyncio.to_thread(self._note_state)
        await self._online.start()
        await self.fabric.start()
        if self.door is not None:
            await self.door.start()
            self.watches.start("the watch over callers of the door", self.door.watch())
        self.watches.start("the watch over keys", self.keys.watch())
        self.watches.start("the watch over the policy", self.policy.watch())
        self.watches.start("the watch over the own log", self.heads.watch())
        self.watches.start("the watch over ended jobs", self.filing.watch())
        self.watches.start("the server", self.fabric.serving())
        self.watches.start("the guard of connections", self.fabric.guard())
        self._log.info("node started", role=self.config.role)

    async def stop(self, grace_s: float = 2.0) -> None:
        """Stop what runs, tell the coordinator, close all connections."""
        await self.watches.stop()
        for run in list(self._runs.values()):
            await run.stop("the node is stopping")
        if self.door is not None:
            await self.door.stop(grace_s)
        await self.fabric.stop(grace_s)
        await self._online.close()
        with contextlib.suppress(VeilscoreError):  # a file that cannot be read now is found at the next start
            self._note_state()
        self.evidence.close()
        self._log.info("node stopped")

    def _note_state(self) -> None:
        """Log how far the state files have grown, for the next start to compare."""
        self.evidence.state_grown(counts_of(self.home))

    def job_store(self, job_id: str) -> JobStore:
        """Return the files of one job."""
        return JobStore(self.home / "jobs" / check_job_id(job_id))

    # proposals

    async def _propose(self, request: control_pb2.JobProposal, _peer: Member) -> control_pb2.Acceptance:
        entry = self.ledger.get(request.job_id)
        job = parse_job(request.job_yaml, "proposed job")
        check_job_id(request.job_id, job)
        if job.sha256 != request.job_sha256 or (entry is not None and entry.job != job):
            raise JobError("the proposed job does not have the digest that came with it", party=self.name)
        if entry is None:
            if self.evidence.answer_to(request.job_id):  # its attempts are lost, so none may run under its id again
                raise JobError("this job was answered here before and its record is lost: submit a new job")
            answer = answer_to(job, self.config)
            if answer.status == "accepted":
                answer = await asyncio.to_thread(self._hold, request.job_id, job, answer)
            refused = answer.status == "refused"
            bound = {} if refused else await asyncio.to_thread(bound_now, self.home, self.config, job)
            # looked up again: the same proposal may have come twice while the digests were made
            entry = self.ledger.get(request.job_id) or self.ledger.add(
                request.job_id, job, answer.status, answer.reason, bound
            )
            self._log.info("job proposed", job=entry.job_id, answer=entry.status, purpose=job.purpose)
        await self._log_answer(entry)  # also of one that was kept and, on a full disk, not logged
        return self._answer(entry)

    async def _log_answer(self, entry: LedgerEntry) -> None:
        """Log the answer to a job unless the log has it."""
        if self.evidence.answer_to(entry.job_id) != entry.status:
            await asyncio.to_thread(self.evidence.job_answered, entry)

    def _hold(self, job_id: str, job: Job, answer: JobAnswer) -> JobAnswer:
        """Keep from the account what the job may spend, or refuse it; the bank refuses what its noise would drown."""
        try:
            stop_if_drowned(self.config, job)
            hold(self.home, self.config, job, job_id)
        except RefusedError as refusal:
            return JobAnswer("refused", refusal.message)
        return answer

    def _let_go(self, entry: LedgerEntry) -> None:
        """Give back to the account what a job that is over held and did not spend."""
        if self.config.role == "holder":
            account_of(self.home, self.config, entry.job).let_go(entry.job_id)

    def _answer(self, entry: LedgerEntry) -> control_pb2.Acceptance:
        if entry.status == "pending":
            return control_pb2.Acceptance(job_id=entry.job_id, party=self.name, pending=True, reason=entry.reason)
        accepted = entry.status == "accepted"
        bound = canonical(entry.bound) if accepted else ""
        return sign_acceptance(
            self.fabric.identity, entry.job_id, entry.job, accepted=accepted, reason=entry.reason, bound=bound
        )

    async def _decide(self, request: control_pb2.Acceptance, peer: Member) -> control_pb2.Acceptance:
        self._own_people(peer)
        reason = request.reason[:200] or f"{'approved' if request.accepted else 'rejected'} by {peer.name}"
        status = "accepted" if request.accepted else "refused"
        job = self.ledger.entry(request.job_id).job
        if request.accepted:
            await asyncio.to_thread(hold, self.home, self.config, job, request.job_id)
        bound = await asyncio.to_thread(bound_now, self.home, self.config, job) if request.accepted else None
        entry = self.ledger.answer(request.job_id, status, reason, bound)
        await self._log_answer(entry)
        if not request.accepted:
            await self._stop_job(request.job_id, reason)
            await asyncio.to_thread(self._let_go, entry)
        self._log.info("job decided", job=entry.job_id, answer=entry.status, by=peer.name)
        return self._answer(entry)

    async def _inbox(self, _request: control_pb2.Empty, peer: Member) -> control_pb2.JobList:
        self._own_people(peer)
        return control_pb2.JobList(jobs=[self._job_info(entry) for entry in self.ledger.entries()])

    def _job_info(self, entry: LedgerEntry) -> control_pb2.JobInfo:
        info = _job_info(entry)
        info.receipt = self.filing.receipt(entry)
        less = self.config.policy.promises_less(entry.job.bank) if self.config.role == "holder" else ()
        if less and entry.status == "pending":
            info.error += f"; the policy here promises less than the default: {'; '.join(less)}"
        return info

    def _own_people(self, peer: Member) -> None:
        if not is_own(self.config, peer):
            raise RefusedError(
                f"{peer.name} may not decide at {self.name}: use {self.name}'s own identity, or a person named "
                "in its node.yaml",
                party=self.name,
            )

    async def _cancel(self, request: control_pb2.CancelOrder, _peer: Member) -> control_pb2.Empty:
        entry = self.ledger.get(request.job_id)
        if entry is not None and entry.status in {"pending", "accepted", "cancelled"}:  # again: the disk was full
            entry = self.ledger.answer(request.job_id, "cancelled", request.reason[:200])
            await self._log_answer(entry)
            await self._stop_job(request.job_id, "the job was cancelled")
            await asyncio.to_thread(self._let_go, entry)
        return control_pb2.Empty()

    # steps

    async def _run_step(self, request: control_pb2.StepOrder, _peer: Member) -> AsyncIterator[control_pb2.StepEvent]:
        job_id, step, attempt = request.job_id, request.step, request.attempt
        entry = self._may_run(job_id, step)
        check_bound(entry.bound, await asyncio.to_thread(bound_now, self.home, self.config, entry.job), self.name)
        record = await asyncio.to_thread(self._bind, entry, step, attempt)
        entry = self._may_run(job_id, step)  # again: the job may have been cancelled while files were read
        await self._stop_job(job_id, "a new attempt began", keep=session_id(job_id, step, attempt))
        busy = [name for name in self._runs if name != job_id]
        if len(busy) >= self.config.limits.max_jobs:
            raise PeerError(f"{self.name} works on {len(busy)} jobs already; try later", party=self.name)
        entry = self.ledger.begin(job_id, step, attempt)
        run = self._open(entry, step, attempt, request.deadline_s, record)
        self._runs[job_id] = run  # in one go with its beginning: messages of an attempt that is not here are refused
        try:
            if record is None:
                await asyncio.to_thread(self.evidence.step_begun, run.session.id)
            async with contextlib.aclosing(run.events()) as events:
                async for event in events:
                    if event.WhichOneof("event") == "done":
                        await asyncio.to_thread(self.evidence.step_finished, run.session.id, run.transcript)
                        self.ledger.finish(job_id, step, attempt)
                        await asyncio.to_thread(self._note_state)
                        if step == self._own_steps(entry.job)[-1]:
                            await asyncio.to_thread(self._let_go, entry)
                    yield event
        finally:
            if self._runs.get(job_id) is run:
                del self._runs[job_id]
            if run.failure is not None:
                self.ledger.fail(job_id, step, run.failure)
                self.evidence.step_failed(run.session.id, run.transcript)

    async def _cross_sign(self, request: control_pb2.EvidenceCall, _peer: Member) -> control_pb2.EvidenceReply:
        exchange = CrossSigning(self.evidence, self._finished_job)
        body = await asyncio.to_thread(exchange.answer, request.ask, check_job_id(request.job_id), request.body)
        return control_pb2.EvidenceReply(body=body)

    def _finished_job(self, job_id: str) -> Job:
        entry = self.ledger.entry(job_id)
        if not self.filing.is_done(entry):
            raise JobError(f"job {job_id} is not done at {self.name}", party=self.name)
        return entry.job

    def _bind(self, entry: LedgerEntry, step: str, attempt: int) -> StepRecord | None:
        """Draw at the bank the seed of a new attempt, keep its opening, and log what it is bound to."""
        if self.config.role != "bank" or attempt <= entry.attempts.get(step, 0):  # begun before: the ledger refuses it
            return None
        session = Session(session_id(entry.job_id, step, attempt), self.name, entry.job.bank, entry.job.holders)
        record = begin(self.home, session, entry.job, self.config, reads_of(entry.job, step, entry.job_id))
        self.evidence.step_bound(session.id, record.opening.commitment)
        return record

    def _open(
        self, entry: LedgerEntry, step: str, attempt: int, deadline_s: float, record: StepRecord | None
    ) -> StepRun:
        job = entry.job
        session = Session(session_id(entry.job_id, step, attempt), self.name, job.bank, job.holders)
        store = self.job_store(entry.job_id)
        role: Literal["bank", "holder"] = "bank" if self.config.role == "bank" else "holder"
        opening = None if record is None else record.opening
        context = StepContext(session, role, job, self.config, store, opening=opening, workers=engaged(self.config))
        limit_s = self.config.limits.step_deadline_s
        deadline_s = min(deadline_s, limit_s) if deadline_s > 0 else limit_s
        spend = partial(self._spend, context) if role == "holder" else None
        return StepRun(self.fabric, session, role_with_report(step, context), store, deadline_s, record, spend)

    def _spend(self, context: StepContext, charge: Charge) -> None:
        """Write what an opening costs into the account, then into the log; it leaves after that."""
        account = context.account()
        account.spend(context.session.id, charge)
        self.evidence.opening_charged(context.session.id, account.name, account.bank, charge)

    def _may_run(self, job_id: str, step: str) -> LedgerEntry:
        """Check that the job was accepted and that this step is next (or is the last one once more)."""
        entry = self.ledger.entry(job_id)
        if entry.status != "accepted":
            raise RefusedError(f"job {job_id} is {entry.status} at {self.name}", party=self.name)
        self.config.policy.allows(request_of(entry.job, self.config), self.name)
        mine = self._own_steps(entry.job)
        if step not in mine:
            raise JobError(f"{step[:60]!r} is no step of {self.name} in job {job_id}", party=self.name)
        place = mine.index(step)
        for other in mine[:place]:
            if other not in entry.done:
                raise JobError(f"step {step} was ordered before {other} is done", party=self.name)
        for other in mine[place + 1 :]:
            if other in entry.attempts:
                raise JobError(f"step {step} was ordered again after {other} had begun", party=self.name)
        return entry

    def _own_steps(self, job: Job) -> tuple[str, ...]:
        return tuple(s for s in job.steps if self.name in job.parties_of(s))

    async def _stop_job(self, job_id: str, reason: str, *, keep: str = "") -> None:
        run = self._runs.pop(job_id, None)
        if run is not None:
            await run.stop(reason)
        for session in self._early.pop(job_id, set()) - {keep}:
            self.fabric.close_session(session, reason)

    def _accept_session(self, session: str, sender: str) -> bool:
        """Return whether messages of a session may come in from `sender`, perhaps before this node starts the step."""
        job_id, step, attempt = parse_session_id(session)
        entry = self.ledger.get(job_id)
        if entry is None or entry.status != "accepted":
            return False
        if step not in self._own_steps(entry.job) or sender not in entry.job.parties_of(step):
            return False
        begun = entry.attempts.get(step, 0)
        run = self._runs.get(job_id)
        if attempt < begun or (attempt == begun and (run is None or run.session.id != session)):
            raise PeerError("this attempt is over here; wait for the next one", session=session, party=self.name)
        if attempt > begun + _ATTEMPTS_AHEAD:
            return False
        if attempt > begun:
            self._early.setdefault(job_id, set()).add(session)
        return True


async def _ping(_request: control_pb2.Empty, _peer: Member) -> control_pb2.Empty:
    return control_pb2.Empty()


def _job_info(entry: LedgerEntry) -> control_pb2.JobInfo:
    failures = "; ".join(f"{step}: {text}" for step, text in entry.failures.items())
    return control_pb2.JobInfo(
        job_id=entry.job_id,
        name=entry.job.name,
        task=entry.job.task,
        status=entry.status,
        error=failures or entry.reason,
        created_s=entry.received_s,
        job_yaml=entry.job.canonical().decode(),
        steps=[
            control_pb2.StepInfo(step=s, attempt=a, status="done" if s in entry.done else "begun")
            for s, a in entry.attempts.items()
        ],
    )
