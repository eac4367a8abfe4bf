"""A modeller's new job: an example or the own YAML, its plan before anything runs, and then the job itself.

The plan is that of `veilscore job plan`, and a job is submitted as by `veilscore job run`: with the bank's key, and
checked by whoever is to take part. Other parties learn the bank's name; whose job it is stands in the console's own
file and, as every act, in the node's log.
"""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from veilscore.console.desk import Visit
from veilscore.console.language import noted
from veilscore.console.page import Page
from veilscore.errors import JobError, VeilscoreError
from veilscore.release.binding import with_model_version
from veilscore.tasks.job_plan import JobPlan, PlanPart, plan_of
from veilscore.terms.example_jobs import about_example, example_jobs
from veilscore.terms.job import Job, parse_job
from veilscore.terms.people import MODELLER
from veilscore.v1 import control_pb2 as pb

SUBMITS = frozenset({MODELLER})
HEADS = (  # of the plan's tables
    noted("Parties"), noted("Steps"), noted("Who learns what"), noted("Parameters"), noted("party"),
    noted("role"), noted("data set"), noted("approval"), noted("step"), noted("parties"), noted("the bank"),
    noted("how much of a firm"), noted("a holder"), noted("the coordinator"), noted("opened, noised"),
    noted("rows"), noted("mu"), noted("of mu squared"), noted("bads held out"), noted("wall s"),
    noted("sent MB"), noted("Estimated cost (2 cores, local network)"), noted("what"), noted("value"),
    noted("Noise of the curve, at most about"),
)  # fmt: skip


def new(visit: Visit) -> Response:
    """Show the form of a job, with an example in it where one is asked for."""
    name = visit.asked("example", 40)
    return _form(visit, example_jobs().get(name, ""), example=name)


def change(visit: Visit) -> Response:
    """Show the form again with the job that was planned."""
    return _form(visit, visit.form.get("job", ""))


def _form(visit: Visit, text: str, *, example: str = "", problem: str = "") -> Response:
    return visit.show(
        "new_job.html",
        422 if problem else 200,
        text=text,
        example=example,
        about=about_example(example_jobs().get(example, "")),
        examples=list(example_jobs()),
        rows=visit.form.get("rows", "")[:9],
        problem=problem,
    )


def plan(visit: Visit) -> Response:
    """Show what a job would do; a job that cannot be read goes back into its form, with what is wrong."""
    text, rows = visit.form.get("job", ""), visit.form.get("rows", "")[:9]
    try:
        job = _job(visit, text)
    except VeilscoreError as error:
        return _form(visit, text, problem=error.message)
    known = {job.bank: int(rows)} if rows.isascii() and rows.isdigit() else {}
    home = visit.desk.home
    parts: list[PlanPart] = []
    refused = ""
    try:
        parts += plan_of(JobPlan(job, {home.name: (home.path, home.config)}, foretells=True, rows=known))
    except VeilscoreError as error:
        refused = error.message
    digest = job.sha256.hex()
    return visit.show("plan.html", job=job, digest=digest, parts=parts, refused=refused, text=text, rows=rows)


async def submit(visit: Visit) -> Response:
    """Submit the job that was planned; JobError where it would be another one by now."""
    job = await asyncio.to_thread(_job, visit, visit.form.get("job", ""))
    visit.subject = f"{job.name}, {job.task}"
    if job.sha256.hex() != visit.form.get("digest", ""):
        raise JobError("this is not the job of the plan, or its model has another version by now: show the plan again")
    request = pb.SubmitJob(job_yaml=job.canonical().decode())
    info = await visit.desk.link.coordinator("Submit", request, pb.JobInfo)
    visit.subject = info.job_id[:120]
    await asyncio.to_thread(visit.desk.store.note_job, info.job_id, visit.person)
    return visit.go_to(f"/jobs/{info.job_id}", "submitted")


def _job(visit: Visit, text: str) -> Job:
    return with_model_version(parse_job(text), visit.desk.home.path)


PAGES = (
    Page("/jobs/new", new, SUBMITS, roles=("bank",)),
    Page("/jobs/plan", plan, SUBMITS, "POST", roles=("bank",)),
    Page("/jobs/change", change, SUBMITS, "POST", roles=("bank",)),
    Page("/jobs/submit", submit, SUBMITS, "POST", act="submit a job", roles=("bank",)),
)
