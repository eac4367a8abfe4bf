"""Jobs: the list, one job with what it reveals and costs, its progress as it runs, and the steward's decision.

Who sees which: a steward and an auditor all jobs that this node was asked to take part in (as `veilscore job inbox`), a
modeller those that were submitted in the person's own name (as `veilscore job list` at the coordinator), and at the
coordinator an auditor all.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from starlette.responses import Response, StreamingResponse

from veilscore.console.desk import Visit
from veilscore.console.home import ConsoleHome
from veilscore.console.language import noted
from veilscore.console.page import Page, page_of
from veilscore.errors import JobError, PeerError, RefusedError, VeilscoreError
from veilscore.evidence.job_ledger import LedgerEntry
from veilscore.node.metrics import status_at
from veilscore.tasks.context import account_of
from veilscore.tasks.table import bins_charge, charges_by_step, leakage_table
from veilscore.tasks.task import EXACT
from veilscore.terms.job import ENDED, Job, parse_job
from veilscore.terms.people import AUDITOR, MODELLER, STEWARD
from veilscore.terms.privacy import best_guess, total
from veilscore.v1 import control_pb2 as pb

SEES = frozenset({MODELLER, STEWARD, AUDITOR})
STATUSES = (
    noted("pending"),
    noted("waiting"),
    noted("running"),
    noted("accepted"),
    noted("done"),
    noted("failed"),
    noted("refused"),
    noted("cancelled"),
)
_POLL_S, _SESSION_S, _WHOLE_S = 1.0, 10.0, 3600.0
_MOST_STREAMS = 4  # of one person


@dataclass(frozen=True)
class SeenJob:
    """One job as this node's people see it.

    status : of the whole job, as far as it is known here; own : of this node's answer.
    said : reason or error.
    """

    job_id: str
    job: Job
    status: str
    own: str
    said: str
    at_s: float
    steps: dict[str, str]

    @property
    def waits(self) -> bool:
        """Return whether this node has still to answer."""
        return self.own == "pending"


def _local(home: ConsoleHome) -> list[SeenJob]:
    """Return the jobs of the node's own ledger, the newest first."""
    return [_of_entry(home.name, entry) for entry in home.jobs()]


def _of_entry(party: str, entry: LedgerEntry) -> SeenJob:
    steps = {s: "done" if s in entry.done else "failed" if s in entry.failures else "begun" for s in entry.attempts}
    said = "; ".join(f"{step}: {text}" for step, text in entry.failures.items()) or entry.reason
    return SeenJob(entry.job_id, entry.job, status_at(party, entry), entry.status, said, entry.received_s, steps)


async def seen(visit: Visit) -> list[SeenJob]:
    """Return the jobs that the person may see, the newest first."""
    coordinator = visit.desk.home.role == "coordinator"
    found = [] if coordinator else await asyncio.to_thread(_local, visit.desk.home)
    if not coordinator and visit.roles & {STEWARD, AUDITOR}:
        return found
    if visit.desk.home.role == "holder":
        return []  # a modeller submits at a bank; a holder is told nobody's name
    listed = (await visit.desk.link.coordinator("List", pb.Empty(), pb.JobList)).jobs
    local = {one.job_id: one for one in found}
    every, mine = coordinator and AUDITOR in visit.roles, visit.desk.store.submitted_by(visit.person)
    jobs = []
    for info in reversed(listed):
        if every or info.submitted_by == visit.person or info.job_id in mine:
            own = local[info.job_id].own if info.job_id in local else ""
            job = _parsed(info.job_yaml, info.job_id)
            jobs.append(SeenJob(info.job_id, job, info.status, own, info.error, info.created_s, {}))
    return jobs


@lru_cache(maxsize=4096)
def _parsed(text: str, job_id: str) -> Job:
    """Return a job; its text never changes, and a list of many is read again at each request."""
    return parse_job(text, job_id)


def is_own(visit: Visit, whole: pb.JobInfo) -> bool:
    """Return whether the person submitted a job: with the own key, or in this console."""
    return visit.person in {whole.submitted_by, visit.desk.store.submitter(whole.job_id)}


async def seen_job(visit: Visit) -> SeenJob:
    """Return the job that the path names; JobError where there is none, or the person may not see it."""
    wanted = visit.part("job")
    visit.subject = wanted[:120]
    for job in await seen(visit):
        if job.job_id == wanted:
            return job
    raise JobError("there is no such job here, or it is not yours to see")


async def listing(visit: Visit) -> Response:
    """Show the jobs, searched and paged."""
    words, status = visit.asked("q").lower(), visit.asked("status", 20)
    found = [
        job
        for job in await seen(visit)
        if (not status or status in {job.status, job.own})
        and (not words or words in f"{job.job_id} {job.job.task} {job.job.bank} {job.job.purpose}".lower())
    ]
    jobs = page_of(found, visit.page_number(), {"q": visit.asked("q"), "status": status})
    return visit.show("jobs.html", jobs=jobs, statuses=STATUSES, words=visit.asked("q"), status=status)


async def one(visit: Visit) -> Response:
    """Show one job."""
    job = await seen_job(visit)
    whole: pb.JobInfo | None = None
    if visit.desk.home.role != "holder":  # a holder is shown none by the coordinator
        try:
            whole = await visit.desk.link.coordinator("Show", pb.JobRef(job_id=job.job_id), pb.JobInfo)
        except VeilscoreError:
            whole = None
    content = await asyncio.to_thread(_revealed, visit, job)
    own = visit.desk.home.role == "bank" and MODELLER in visit.roles and whole is not None and is_own(visit, whole)
    decides = job.own in {"pending", "accepted"} and STEWARD in visit.roles and job.status != "done"
    parameters = job.job.parameters.model_dump(mode="json", exclude_none=True, exclude_defaults=False)
    return visit.show(
        "job.html",
        job=job,
        whole=whole,
        steps=_steps(job, whole, visit.desk.home.name),
        answers=() if whole is None else whole.acceptances,
        parameters=[(name, json.dumps(value, ensure_ascii=False)) for name, value in parameters.items()],
        decides=decides,
        submitter=await asyncio.to_thread(visit.desk.store.submitter, job.job_id),
        cancels=own and whole is not None and whole.status not in ENDED,
        resumes=own and whole is not None and whole.status == "failed",
        report=(visit.desk.home.path / "jobs" / job.job_id / "report.html").is_file(),
        live=(job.status if whole is None else whole.status) not in ENDED,
        **content,
    )


def _steps(job: SeenJob, whole: pb.JobInfo | None, own: str) -> list[dict[str, Any]]:
    """Return the steps in their order, with what is known of each."""
    known = {} if whole is None else {step.step: step for step in whole.steps}
    rows = []
    for number, name in enumerate(job.job.steps, start=1):
        step = known.get(name)
        mine = None if step is None or own not in step.party_done else step.party_done[own]
        rows.append(
            {
                "number": number,
                "name": name,
                "parties": job.job.parties_of(name),
                "status": step.status if step is not None else job.steps.get(name, "waits"),
                "attempt": 0 if step is None else step.attempt,
                "seconds": 0.0 if step is None else step.seconds,
                "sent": None if mine is None else mine.bytes_sent,
                "said": [] if step is None else [f"{p}: {s}" for p, s in sorted(step.party_status.items()) if ":" in s],
            }
        )
    return rows


def _revealed(visit: Visit, job: SeenJob) -> dict[str, Any]:
    """Return who learns what, what it costs the account, and what the account has left after it."""
    home, config, p = visit.desk.home, visit.desk.home.config, job.job.parameters
    content: dict[str, Any] = {"learned": leakage_table(p), "charges": (), "mu": None, "account": None, "exact": False}
    by_step = dict(charges_by_step(p))
    content["exact"] = any(charge is EXACT or charge.mu2 == math.inf for some in by_step.values() for charge in some)
    if content["exact"] or not any(by_step.values()):
        return content
    if home.role == "holder" and home.name in job.job.datasets and job.job.datasets[home.name] in config.datasets:
        bins = bins_charge(home.path, config, job.job)
        by_step = {noted("bin (once a version)"): bins, **by_step} if bins else by_step
        account = account_of(home.path, config, job.job)
        held, spent = account.held().get(job.job_id, 0.0), account.by_job().get(job.job_id)
        left, needed_mu2 = account.left(), total([charge for some in by_step.values() for charge in some])
        open_ = job.own == "pending"
        content["account"] = {
            "name": account.name,
            "year": account.rules.year,
            "left": math.sqrt(left),
            "after": math.sqrt(max(0.0, left - needed_mu2)) if open_ else math.sqrt(left),
            "enough": left - needed_mu2 > -1e-9 or not open_,
            "held": math.sqrt(held),
            "spent": 0.0 if spent is None else math.sqrt(spent[1]),
            "open": open_,
            "void": account.voided_since() is not None,
        }
    charges = [(step, charge) for step, some in by_step.items() for charge in some]
    whole = total([charge for _, charge in charges])
    content["mu"], content["guess"] = math.sqrt(whole), best_guess(math.sqrt(whole))
    content["charges"] = [(step, c.opening, c.rows, math.sqrt(c.mu2), c.mu2 / whole) for step, c in charges]
    return content


async def decide(visit: Visit) -> Response:
    """Approve or reject a job, as `veilscore job approve` does; the node signs the answer."""
    job = await seen_job(visit)
    answer, reason = visit.form.get("answer", ""), visit.form.get("reason", "").strip()[:120]
    if answer not in {"approve", "reject"}:
        raise JobError("say which: approve or reject")
    visit.subject = f"{job.job_id}: {answer}"
    said = f"{'approved' if answer == 'approve' else 'rejected'} by {visit.person} in the console"
    request = pb.Acceptance(
        job_id=job.job_id, accepted=answer == "approve", reason=f"{said}: {reason}" if reason else said
    )
    await visit.desk.link.own("Decide", request, pb.Acceptance)
    return visit.go_to(f"/jobs/{job.job_id}", "approved" if answer == "approve" else "rejected")


async def cancel(visit: Visit) -> Response:
    """Cancel an own job at the coordinator and all parties."""
    return await _of_own(visit, "CancelJob", "cancelled")


async def resume(visit: Visit) -> Response:
    """Go on with an own job that failed, from its last completed step."""
    return await _of_own(visit, "Resume", "resumed")


async def _of_own(visit: Visit, method: str, done: str) -> Response:
    job = await seen_job(visit)
    ref = pb.JobRef(job_id=job.job_id)
    if not is_own(visit, await visit.desk.link.coordinator("Show", ref, pb.JobInfo)):
        raise RefusedError("a modeller cancels and resumes own jobs alone")
    await visit.desk.link.coordinator(method, ref, pb.JobInfo)
    return visit.go_to(f"/jobs/{job.job_id}", done)


# --- progress --------------------------------------------------------------------------------------------------------

_streams: dict[str, int] = {}


async def events(visit: Visit) -> Response:
    """Send the progress of a job as server-sent events until it or the session ends."""
    job = await seen_job(visit)
    if _streams.get(visit.person, 0) >= _MOST_STREAMS:
        raise RefusedError(f"{_MOST_STREAMS} pages of yours follow jobs already: close one")

    async def sent() -> AsyncIterator[bytes]:
        _streams[visit.person] = _streams.get(visit.person, 0) + 1
        try:
            async with asyncio.timeout(_WHOLE_S), aclosing(_progress(visit, job)) as progress:
                async for event in progress:
                    yield b"data: " + json.dumps(event).encode() + b"\n\n"
        except TimeoutError:
            pass
        except VeilscoreError as error:
            yield b"event: over\ndata: " + json.dumps({"text": error.message}).encode() + b"\n\n"
            return
        finally:
            _streams[visit.person] -= 1
            if not _streams[visit.person]:
                del _streams[visit.person]
        yield b"event: over\ndata: {}\n\n"

    return StreamingResponse(sent(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _progress(visit: Visit, job: SeenJob) -> AsyncGenerator[dict[str, Any], None]:
    """Yield what happens in a job, and an empty event now and then, with a look whether the session lasts."""
    follow = _of_ledger(visit, job) if visit.desk.home.role == "holder" else _of_coordinator(visit, job)
    async with aclosing(follow) as found:
        looked_s = time.monotonic()
        waiting: asyncio.Task[dict[str, Any]] | None = None
        try:
            while True:
                waiting = waiting or asyncio.ensure_future(anext(found))
                done, _ = await asyncio.wait({waiting}, timeout=_SESSION_S)
                if time.monotonic() - looked_s >= _SESSION_S:
                    looked_s = time.monotonic()
                    if not _lasts(visit):
                        return
                    yield {}
                if done:
                    task, waiting = waiting, None
                    try:
                        yield task.result()
                    except StopAsyncIteration:
                        return
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)


def _lasts(visit: Visit) -> bool:
    """Return whether the session and a role that sees jobs are still there; looking is no request of the session."""
    return (
        visit.session is not None
        and any(one.key == visit.session.key for one in visit.desk.store.sessions(visit.person))
        and bool(visit.desk.home.roles(visit.person) & SEES)
    )


async def _of_coordinator(visit: Visit, job: SeenJob) -> AsyncGenerator[dict[str, Any], None]:
    try:
        async for e in visit.desk.link.watch(job.job_id):
            yield {
                "step": e.step,
                "party": e.party,
                "text": e.text,
                "done": e.done,
                "total": e.total,
                "status": e.status,
            }
    except PeerError as error:
        yield {"step": "", "party": "", "text": error.message, "done": 0, "total": 0, "status": ""}


async def _of_ledger(visit: Visit, job: SeenJob) -> AsyncGenerator[dict[str, Any], None]:
    """Yield changes of the node's own record of a job; no step is told twice in one state."""
    told: dict[str, str] = {}
    own = job.own
    while True:
        entry = await asyncio.to_thread(visit.desk.home.job, job.job_id)
        now = job if entry is None else _of_entry(visit.desk.home.name, entry)
        for step, status in now.steps.items():
            if told.get(step) != status:
                told[step] = status
                yield {"step": step, "party": "", "text": "", "done": 0, "total": 0, "status": status}
        if now.status in ENDED or now.own != own:
            yield {"step": "", "party": "", "text": "", "done": 0, "total": 0, "status": now.status}
            return
        await asyncio.sleep(_POLL_S)


PAGES = (
    Page("/jobs", listing, SEES, name=noted("Jobs"), section=noted("Work")),
    Page("/jobs/{job}", one, SEES),
    Page("/jobs/{job}/events", events, SEES, kind="events"),
    Page("/jobs/{job}/decide", decide, frozenset({STEWARD}), "POST", act="decide on a job", roles=("bank", "holder")),
    Page("/jobs/{job}/cancel", cancel, frozenset({MODELLER}), "POST", act="cancel a job", roles=("bank",)),
    Page("/jobs/{job}/resume", resume, frozenset({MODELLER}), "POST", act="resume a job", roles=("bank",)),
)
