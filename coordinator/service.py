"""The coordinator's node: what the bank, operators and parties may call of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import structlog

from coordinator.cross_sign import cross_sign
from coordinator.scheduler import Patience, Scheduler
from coordinator.state import UNFINISHED, State
from coordinator.state_tables import AcceptanceRow, JobRow, StepRow
from coordinator.totals import Totals
from coordinator.watch import Watchers
from veilscore.errors import ConfigError, EvidenceError, RefusedError
from veilscore.evidence.console_acts import Pulse, serve_console_calls
from veilscore.evidence.exchange import CrossSigning
from veilscore.evidence.head_watch import HeadWatch
from veilscore.evidence.log import FOLDER
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.fabric import Fabric
from veilscore.fabric.key_watch import KeyWatch
from veilscore.fabric.step_run import StepRun, parse_session_id, session_id
from veilscore.fabric.watches import Watches
from veilscore.files.store import JobStore
from veilscore.files.unfinished import remove_unfinished
from veilscore.keys.identity import ROLES
from veilscore.protocols.adding import coordinator_add
from veilscore.terms.federation import Member
from veilscore.terms.job import Job, check_job_id, parse_job
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import database_url, load_node_config
from veilscore.terms.people import authoriser, sees_job
from veilscore.v1 import control_pb2
from veilscore.wire.inbox import WireLimits
from veilscore.wire.protocol import Session

_SUBMITTERS = {"bank", "operator"}
_READERS = {*_SUBMITTERS, "coordinator"}  # its own console reads what it keeps
_SIGN_TIMES, _SIGN_PAUSE_S = 3, 0.3


class Coordinator:
    """Serves one federation: it keeps the state of jobs, schedules them and adds up what the holders mask.

    home : folder with node.yaml (role coordinator), identity/ and federation.yaml; state/ is made in it.
    patience : waiting times and number of attempts.
    """

    def __init__(self, home: Path | str, *, limits: WireLimits | None = None, patience: Patience | None = None) -> None:
        self.home = Path(home)
        self.config = load_node_config(self.home)
        if self.config.role != "coordinator":
            raise ConfigError(f"{self.home} is the home of a {self.config.role}, not of a coordinator")
        identity, federation = load_membership(self.home, self.config)
        self.name = identity.name
        self.state = State(self._state_url())
        self.watchers = Watchers()
        self._log = structlog.get_logger("coordinator").bind(party=self.name)
        self.fabric = Fabric(
            identity,
            federation,
            accept_session=self._accept_session,
            limits=limits,
            listen=self.config.listen,
            authorise=self._authorise,
        )
        self.keys = KeyWatch(self.home, self.config, self.fabric)
        self.scheduler = Scheduler(
            self.state, self.fabric, self.watchers, self._local_step, patience or Patience(), self._cross_sign
        )
        self._register(Totals())
        self.evidence = EvidenceRecorder(
            self.home, self.config, lambda: self.fabric.identity, lambda: self.fabric.federation
        )
        serve_console_calls(self.fabric, self.evidence, self.name, self.config.role, self.pulse)
        self._allowed, self._crossing = authoriser(self.config), asyncio.Lock()
        self.heads, self.watches = HeadWatch(self.evidence, self.fabric), Watches(self.name)

    def pulse(self) -> Pulse:
        """Return what only the running coordinator knows."""
        return Pulse(clocks=self.fabric.clocks)

    def _state_url(self) -> str:
        if self.config.state_url is not None:
            return database_url(self.config.state_url, self.config.state_password_env)
        folder = JobStore(self.home / "state").path
        return f"sqlite:///{folder.absolute() / 'coordinator.db'}"

    def _register(self, totals: Totals) -> None:
        for method, roles, request, handler in (
            ("Submit", _SUBMITTERS, control_pb2.SubmitJob, self._submit),
            ("List", _READERS, control_pb2.Empty, self._list),
            ("Show", _READERS, control_pb2.JobRef, self._show),
            ("CancelJob", _SUBMITTERS, control_pb2.JobRef, self._cancel),
            ("Resume", _SUBMITTERS, control_pb2.JobRef, self._resume),
            ("JobEnded", {"bank", "holder"}, control_pb2.JobRef, self._job_ended),
            ("AddPartial", {"holder"}, control_pb2.AddPartial, totals.add_partial),
            ("TotalRequest", {"bank"}, control_pb2.TotalRequest, totals.total),
            ("Ping", set(ROLES), control_pb2.Empty, _ping),
        ):
            self.fabric.register(method, roles, request, handler)
        self.fabric.register("WatchJob", _READERS, control_pb2.JobRef, self._watch, stream=True)

    def _authorise(self, method: str, peer: Member) -> None:
        self._allowed(method, peer)
        self.heads.check_call(method)

    async def start(self) -> None:
        """Listen, and go on with every unfinished job."""
        await asyncio.to_thread(self.evidence.open)
        await asyncio.to_thread(remove_unfinished, self.home)
        await self.heads.compare_first()
        await self.fabric.start()
        self.watches.start("the watch over keys", self.keys.watch())
        self.watches.start("the watch over the own log", self.heads.watch())
        self.watches.start("the server", self.fabric.serving())
        self.watches.start("the guard of connections", self.fabric.guard())
        self.scheduler.resume_all()
        self._log.info("coordinator started")

    async def stop(self, grace_s: float = 2.0) -> None:
        """Stop; unfinished jobs go on at the next start."""
        await self.watches.stop()
        await self.scheduler.stop()
        self.watchers.close_all()
        await self.fabric.stop(grace_s)
        self.state.close()
        self.evidence.close()
        self._log.info("coordinator stopped")

    # calls

    async def _submit(self, request: control_pb2.SubmitJob, peer: Member) -> control_pb2.JobInfo:
        self._may_touch(peer, parse_job(request.job_yaml, "submitted job").bank, peer.name)
        return self._info(self.scheduler.submit(request.job_yaml, peer.name))

    async def _list(self, _request: control_pb2.Empty, peer: Member) -> control_pb2.JobList:
        jobs = [
            row
            for row in self.state.jobs()
            if sees_job(self.config, peer, self.scheduler.job(row.job_id).bank, row.submitted_by)
        ]
        return control_pb2.JobList(jobs=[_job_info(row, (), {}) for row in jobs])

    async def _show(self, request: control_pb2.JobRef, peer: Member) -> control_pb2.JobInfo:
        return self._info(self._resolve(request, peer))

    async def _cancel(self, request: control_pb2.JobRef, peer: Member) -> control_pb2.JobInfo:
        job_id = self._resolve(request, peer)
        await self.scheduler.cancel(job_id, f"cancelled by {peer.name}")
        return self._info(job_id)

    async def _resume(self, request: control_pb2.JobRef, peer: Member) -> control_pb2.JobInfo:
        job_id = self._resolve(request, peer)
        self.scheduler.resume(job_id)
        return self._info(job_id)

    async def _job_ended(self, request: control_pb2.JobRef, peer: Member) -> control_pb2.JobEnd:
        job_id = check_job_id(request.job_id)
        if peer.name not in self.scheduler.job(job_id).parties:
            raise RefusedError(f"{peer.name} takes no part in this job", party=self.name)
        done = self.state.job(job_id).status == "done"
        return control_pb2.JobEnd(job_id=job_id, done=done, no_receipt=self._without_receipt(job_id) if done else "")

    def _without_receipt(self, job_id: str) -> str:
        """Return why a job that is done has no receipt here; empty where it has one."""
        if (self.home / FOLDER / "receipts" / f"{job_id}.json").is_file():
            return ""
        return self.scheduler.no_receipt(job_id) or "the logs were not cross-signed"

    async def _watch(self, request: control_pb2.JobRef, peer: Member) -> AsyncGenerator[control_pb2.JobEvent, None]:
        """Yield the status now, then events until the job ends, then the last status."""
        job_id = self._resolve(request, peer)
        yield self._status_event(job_id)

        def ended() -> bool:
            return self.state.job(job_id).status not in UNFINISHED

        async for event in self.watchers.follow(job_id, ended):
            yield event
        yield self._status_event(job_id)

    def _status_event(self, job_id: str) -> control_pb2.JobEvent:
        row = self.state.job(job_id)
        return control_pb2.JobEvent(job_id=job_id, status=row.status, text=row.error)

    def _resolve(self, request: control_pb2.JobRef, peer: Member) -> str:
        job_id = check_job_id(request.job_id)
        self._may_touch(peer, self.scheduler.job(job_id).bank, self.state.job(job_id).submitted_by)
        return job_id

    def _may_touch(self, peer: Member, bank: str, submitted_by: str) -> None:
        if not sees_job(self.config, peer, bank, submitted_by):
            raise RefusedError(
                f"{peer.name} may not submit or see this job of {bank}: use {bank}'s identity, or a person named in "
                f"{self.name}'s node.yaml: a modeller for own jobs, an auditor for all",
                party=self.name,
            )

    def _info(self, job_id: str) -> control_pb2.JobInfo:
        info = _job_info(self.state.job(job_id), self.state.steps(job_id), self.state.acceptances(job_id))
        if info.status == "done":
            why = self._without_receipt(job_id)
            info.receipt = f"no receipt, because {why}" if why else "kept"
        return info

    # the coordinator's own part of a step

    async def _local_step(
        self, job_id: str, job: Job, step: str, attempt: int
    ) -> AsyncGenerator[control_pb2.StepEvent, None]:
        session = Session(session_id(job_id, step, attempt), self.name, job.bank, job.holders)
        store = JobStore(self.home / "jobs" / check_job_id(job_id))
        limit_s = self.config.limits.step_deadline_s
        run = StepRun(self.fabric, session, coordinator_add(session), store, limit_s)
        try:
            async for event in run.events():
                if event.WhichOneof("event") == "done":
                    await asyncio.to_thread(self.evidence.step_finished, session.id, run.transcript)
                yield event
        finally:
            if run.failure is not None:
                self.evidence.step_failed(session.id, run.transcript)

    async def _cross_sign(self, job_id: str, job: Job) -> None:
        """Let all sign, one job after the other: heads of one would outrun the proofs of another."""
        async with self._crossing:
            for left in reversed(range(_SIGN_TIMES)):
                try:
                    await cross_sign(self.fabric, CrossSigning(self.evidence, lambda _: job), job_id, job)
                except EvidenceError:  # a head that was seen between two rounds; the next time all go on from that
                    if not left:
                        raise
                    await asyncio.sleep(_SIGN_PAUSE_S)
                else:
                    return

    def _accept_session(self, session: str, sender: str) -> bool:
        """Say whether messages of this session may come in: only those of a running attempt that both take part in."""
        job_id, step, attempt = parse_session_id(session)
        job = self.scheduler.job(check_job_id(job_id))
        parties = job.parties_of(step) if step in job.steps else ()
        running = {(r.step, r.attempt) for r in self.state.steps(job_id) if r.status == "running"}
        return self.name in parties and sender in parties and (step, attempt) in running


async def _ping(_request: control_pb2.Empty, _peer: Member) -> control_pb2.Empty:
    return control_pb2.Empty()


def _job_info(row: JobRow, steps: tuple[StepRow, ...], acceptances: dict[str, AcceptanceRow]) -> control_pb2.JobInfo:
    return control_pb2.JobInfo(
        job_id=row.job_id,
        name=row.name,
        task=row.task,
        status=row.status,
        error=row.error,
        created_s=row.created_s,
        job_yaml=row.yaml,
        submitted_by=row.submitted_by,
        steps=[_step_info(step) for step in steps],
        acceptances=[
            control_pb2.Acceptance(
                job_id=row.job_id,
                party=a.party,
                accepted=a.status == "accepted",
                pending=a.status == "pending",
                reason=a.reason,
                job_sha256=a.sha256,
                signature=a.signature,
                bound=a.bound,
            )
            for a in acceptances.values()
        ],
    )


def _step_info(row: StepRow) -> control_pb2.StepInfo:
    info = control_pb2.StepInfo(
        step=row.step,
        status=row.status,
        attempt=row.attempt,
        seconds=(row.finished_s - row.started_s) if row.finished_s is not None else 0.0,
    )
    for party in row.parties:
        info.party_status[party.party] = f"{party.status}: {party.error}" if party.error else party.status
        if party.done:
            info.party_done[party.party].ParseFromString(party.done)
    return info
