"""Commands of a party's own people: inbox, approve, reject."""

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from veilscore.cli.connection import Connection, connect, find_home, run
from veilscore.cli.display import coloured, console, table
from veilscore.errors import JobError
from veilscore.terms.job import parse_job
from veilscore.v1 import control_pb2

HomeOption = Annotated[Path | None, typer.Option("--home", help="The party's home; default $VEILSCORE_HOME, or here.")]
Reason = Annotated[str, typer.Option("--reason", help="Kept with the answer and told to the bank.")]
JobText = Annotated[str, typer.Argument(help="The job's id or how it begins.", metavar="JOB")]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    panel = "A party's own decisions"
    app.command(rich_help_panel=panel, epilog="Example: veilscore inbox --home /srv/tax")(inbox)
    app.command(rich_help_panel=panel, epilog="Example: veilscore approve kz-corporate --home /srv/tax")(approve)
    app.command(
        rich_help_panel=panel, epilog='Example: veilscore reject kz --home /srv/tax --reason "purpose not allowed"'
    )(reject)


def inbox(*, home: HomeOption = None) -> None:
    """Show the jobs proposed to this party, what each asks for, and errors that stayed at this node."""

    async def work() -> list[control_pb2.JobInfo]:
        async with connect(find_home(home, None)) as connection:
            return await _jobs(connection)

    jobs = run(work())
    rows = []
    for info in jobs:
        job = parse_job(info.job_yaml, info.job_id)
        submitted = f"{dt.datetime.fromtimestamp(info.created_s, dt.UTC):%Y-%m-%d %H:%M} UTC"
        rows.append((info.job_id, info.task, job.bank, job.purpose, info.status, info.error, submitted))
    console().print(table("Inbox", ("job", "task", "bank", "purpose", "answer", "reason or error", "received"), rows))
    if any(info.status == "pending" for info in jobs):
        console().print("decide with `veilscore approve JOB` or `veilscore reject JOB`")


def approve(job: JobText, *, home: HomeOption = None, reason: Reason = "") -> None:
    """Approve a job that waits at this party; the answer is signed with the node's key."""
    _decide(job, home, reason, accepted=True)


def reject(job: JobText, *, home: HomeOption = None, reason: Reason = "") -> None:
    """Reject a job at this party, also one that runs."""
    _decide(job, home, reason, accepted=False)


def _decide(text: str, home: Path | None, reason: str, *, accepted: bool) -> None:
    async def work() -> control_pb2.Acceptance:
        async with connect(find_home(home, None)) as connection:
            found = [j.job_id for j in await _jobs(connection) if j.job_id.startswith(text)]
            if len(found) != 1:
                raise JobError(f"{len(found) or 'no'} jobs here whose id begins with {text!r}; see `veilscore inbox`")
            answer = control_pb2.Acceptance(job_id=found[0], accepted=accepted, reason=reason)
            return await connection.call(connection.node, "Decide", answer, control_pb2.Acceptance)

    answer = run(work())
    console().print(
        f"{escape(answer.job_id)} {coloured('accepted' if answer.accepted else 'refused')}: {escape(answer.reason)}"
    )


async def _jobs(connection: Connection) -> list[control_pb2.JobInfo]:
    reply = await connection.call(connection.node, "Inbox", control_pb2.Empty(), control_pb2.JobList)
    return list(reply.jobs)
