"""Commands about jobs: plan, run, watch, list, show, cancel, resume."""

import contextlib
import datetime as dt
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.panel import Panel

from veilscore.cli.connection import Connection, connect, find_home, run
from veilscore.cli.display import ENDED, JobProgress, console, show_job, table
from veilscore.cli.planning import show_plan
from veilscore.errors import ConfigError, PeerError
from veilscore.release.binding import with_model_version
from veilscore.terms.job import load_job
from veilscore.v1 import control_pb2

JobFile = Annotated[Path, typer.Argument(help="The job: a YAML file.", metavar="JOB.yaml")]
JobText = Annotated[
    str | None, typer.Argument(help="The job's id or how it begins; the newest job if left out.", metavar="[JOB]")
]
HomeOption = Annotated[Path | None, typer.Option("--home", help="Home of the bank; default $VEILSCORE_HOME, or here.")]
FederationOption = Annotated[
    Path | None, typer.Option("--federation", help="Folder of a local federation, in place of --home.")
]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    for command, example in (
        (plan, "plan job.yaml --federation trial"),
        (run_job, "run job.yaml --federation trial"),
        (watch, "watch --federation trial"),
        (list_jobs, "list --federation trial"),
        (show, "show kz-corporate --federation trial"),
        (cancel, "cancel kz-corporate --home /srv/bank"),
        (resume, "resume kz-corporate --home /srv/bank"),
    ):
        name = {"run_job": "run", "list_jobs": "list"}.get(command.__name__, command.__name__)
        app.command(name, rich_help_panel="Jobs", epilog=f"Example: veilscore {example}")(command)


def plan(
    job: JobFile,
    *,
    federation: FederationOption = None,
    rows: Annotated[list[str] | None, typer.Option(help="PARTY=ROWS, to estimate time and bytes.")] = None,
) -> None:
    """Show what a job would do before anything runs: parties, approvals, steps, cost, who learns what."""
    sizes: dict[str, int] = {}
    for text in rows or []:
        party, _, number = text.partition("=")
        if not number.isdigit():
            raise ConfigError(f"--rows {text}: write PARTY=ROWS, for example --rows bank=120000")
        sizes[party] = int(number)
    show_plan(console(), load_job(job), federation, sizes)


def run_job(
    job: JobFile,
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Submit only; `veilscore watch` shows it later.")] = False,
) -> None:
    """Submit a job and watch it to its end; exit code 0 if it is done, 1 if it failed or was refused."""
    parsed = load_job(job)
    home = find_home(home, federation, parsed.bank if federation is not None else None)
    parsed = with_model_version(parsed, home)

    async def work() -> str:
        async with connect(home) as connection:
            request = control_pb2.SubmitJob(job_yaml=parsed.canonical().decode())
            info = await connection.coordinator("Submit", request, control_pb2.JobInfo)
            console().print(f"submitted [bold]{escape(info.job_id)}[/bold]")
            return "done" if detach else await _follow(connection, info.job_id)

    _exit(run(work()))


def watch(job: JobText = None, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Watch a job until it ends."""

    async def work() -> str:
        async with connect(find_home(home, federation)) as connection:
            return await _follow(connection, await connection.job_id(job))

    _exit(run(work()))


def list_jobs(*, home: HomeOption = None, federation: FederationOption = None) -> None:
    """List the bank's jobs at the coordinator, oldest first."""

    async def work() -> list[control_pb2.JobInfo]:
        async with connect(find_home(home, federation)) as connection:
            reply = await connection.coordinator("List", control_pb2.Empty(), control_pb2.JobList)
            return list(reply.jobs)

    rows = [
        (j.job_id, j.task, j.status, f"{dt.datetime.fromtimestamp(j.created_s, dt.UTC):%Y-%m-%d %H:%M} UTC")
        for j in run(work())
    ]
    console().print(table("Jobs", ("job", "task", "status", "submitted"), rows))


def show(job: JobText = None, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Show a job's acceptances, steps, attempts, times and bytes."""
    show_job(console(), _about(job, home, federation, "Show"))


def cancel(job: JobText = None, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Cancel a job at the coordinator and all parties; it cannot be resumed."""
    info = _about(job, home, federation, "CancelJob")
    console().print(f"{info.job_id} {info.status}")


def resume(job: JobText = None, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Go on with a failed job from its last completed step, and watch it."""

    async def work() -> str:
        async with connect(find_home(home, federation)) as connection:
            job_id = await connection.job_id(job)
            await connection.coordinator("Resume", control_pb2.JobRef(job_id=job_id), control_pb2.JobInfo)
            return await _follow(connection, job_id)

    _exit(run(work()))


def _about(job: str | None, home: Path | None, federation: Path | None, method: str) -> control_pb2.JobInfo:
    async def work() -> control_pb2.JobInfo:
        async with connect(find_home(home, federation)) as connection:
            ref = control_pb2.JobRef(job_id=await connection.job_id(job))
            return await connection.coordinator(method, ref, control_pb2.JobInfo)

    return run(work())


async def _follow(connection: Connection, job_id: str) -> str:
    """Show a job's progress until it ends, then its summary; returns its status."""
    ref = control_pb2.JobRef(job_id=job_id)
    out = console()
    with JobProgress(out) as progress:
        async for event in connection.fabric.stream(
            connection.federation.coordinator.name, "WatchJob", ref, control_pb2.JobEvent
        ):
            progress.show(event)
    info = await connection.coordinator("Show", ref, control_pb2.JobInfo)
    show_job(out, info)
    if info.status == "failed":
        await _show_own_errors(connection, job_id)
    if info.status not in ENDED:
        out.print("the coordinator is stopping; the job goes on when it starts again")
    return info.status


async def _show_own_errors(connection: Connection, job_id: str) -> None:
    """What this party's own node knows of the failure, which it did not tell the others."""
    with contextlib.suppress(PeerError):
        inbox = await connection.call(connection.name, "Inbox", control_pb2.Empty(), control_pb2.JobList)
        for entry in inbox.jobs:
            if entry.job_id == job_id and entry.error and entry.error != "accepted by policy":
                console().print(
                    Panel(escape(entry.error), title=f"at {connection.name}, not told to others", border_style="yellow")
                )


def _exit(status: str) -> None:
    if status != "done":
        raise typer.Exit(1)
