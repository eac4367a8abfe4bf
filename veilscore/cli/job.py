"""`veilscore job`: a bank's jobs from plan to result, and a party's answers to those proposed to it."""

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.panel import Panel

from veilscore.cli.connection import Connection, named_job, reach
from veilscore.cli.display import coloured, console, line, moment, styled, table
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.cli.measures import show_counts, show_measures
from veilscore.cli.progress import JobProgress, show_job
from veilscore.errors import ConfigError, JobError, PeerError
from veilscore.terms.job import ENDED, load_job, parse_job
from veilscore.terms.node_config import load_node_config
from veilscore.v1 import control_pb2

JobFile = Annotated[Path, typer.Argument(help="The job: a YAML file.", metavar="JOB.yaml")]
JobText = Annotated[
    str | None, typer.Argument(help="The job's id or how it begins; the newest job if left out.", metavar="[JOB]")
]
Proposed = Annotated[str, typer.Argument(help="The job's id or how it begins.", metavar="JOB")]
Reason = Annotated[str, typer.Option("--reason", help="Kept with the answer and told to the bank.")]

app = typer.Typer(no_args_is_help=True)


@app.command(epilog="Example: veilscore job plan job.yaml --federation trial")
def plan(
    job: JobFile,
    *,
    home: Annotated[Path | None, typer.Option("--home", help="Your party's home: its data set and receipts.")] = None,
    federation: FederationOption = None,
    rows: Annotated[list[str] | None, typer.Option(help="PARTY=ROWS, to estimate time and bytes.")] = None,
    bads: Annotated[int | None, typer.Option(min=0, help="Bads among the bank's rows, to foretell noise.")] = None,
    columns: Annotated[list[str] | None, typer.Option(help="PARTY=COLUMNS of a holder, to foretell noise.")] = None,
) -> None:
    """Show what a job would do before anything runs: parties, approvals, steps, cost, who learns what and how much.

    A private job whose noise would drown its data ends with exit code 1 and the ways out.
    """
    from veilscore.cli.planning import planned, show_plan  # noqa: PLC0415 - loads every protocol

    if home is not None and federation is not None:
        raise ConfigError("give --home or --federation, not both")
    known = planned(
        load_job(job),
        home,
        federation,
        rows=_numbers("--rows", rows, "bank=120000"),
        bads=bads,
        columns=_numbers("--columns", columns, "tax=12"),
    )
    show_plan(console(), known)


def _numbers(option: str, texts: list[str] | None, example: str) -> dict[str, int]:
    """Return the numbers by party that a repeated option gives."""
    numbers = {}
    for text in texts or []:
        party, _, number = text.partition("=")
        if not number.isdecimal() or len(number) > 12:
            raise ConfigError(f"{option} {text}: write PARTY={option[2:].upper()}, for example {option} {example}")
        numbers[party] = int(number)
    return numbers


@app.command("run", epilog="Example: veilscore job run job.yaml --federation trial")
def run_job(
    job: JobFile,
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Submit only; `veilscore job watch` shows it later.")
    ] = False,
) -> None:
    """Submit a job and watch it to its end; exit code 0 if it is done, 1 if it failed or was refused."""
    from veilscore.release.binding import with_model_version  # noqa: PLC0415 - loads the models and their kernels

    parsed = load_job(job)
    home = find_home(home, federation, parsed.bank if federation is not None else None)
    parsed = with_model_version(parsed, home)

    async def work(connection: Connection) -> str:
        request = control_pb2.SubmitJob(job_yaml=parsed.canonical().decode())
        info = await connection.coordinator("Submit", request, control_pb2.JobInfo)
        console().print(styled("submitted [bold]{}[/bold]", info.job_id))
        return "done" if detach else await _follow(connection, info.job_id)

    _end(home, work)


@app.command(epilog="Example: veilscore job watch --federation trial")
def watch(job: JobText = None, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Watch a job until it ends."""

    async def work(connection: Connection) -> str:
        return await _follow(connection, await connection.job_id(job))

    _end(find_home(home, federation), work)


@app.command("list", epilog="Example: veilscore job list --federation trial")
def list_jobs(*, home: HomeOption = None, federation: FederationOption = None, party: PartyOption = None) -> None:
    """List jobs, oldest first: a bank's at the coordinator, or those that a holder was asked to take part in."""
    home = find_home(home, federation, party)

    async def found(connection: Connection) -> control_pb2.JobList:
        if connection.is_holder:
            return await _inbox(connection)
        return await connection.coordinator("List", control_pb2.Empty(), control_pb2.JobList)

    rows = [(j.job_id, j.task, j.status, _steps_done(j), moment(j.created_s)) for j in reach(home, found).jobs]
    console().print(table("Jobs", ("job", "task", "status", "steps done", "submitted"), rows))


def _steps_done(info: control_pb2.JobInfo) -> str:
    return ", ".join(step.step for step in info.steps if step.status == "done")


@app.command(epilog="Example: veilscore job show kz-corporate --federation trial")
def show(
    job: JobText = None, *, home: HomeOption = None, federation: FederationOption = None, party: PartyOption = None
) -> None:
    """Show a job's acceptances, steps, attempts, times and bytes, what it measured or how many firms reached each step.

    At a holder: its answer, parameters, who learns what, charges to its account, and how many firms reached each step.
    """
    home = find_home(home, federation, party)

    async def found(connection: Connection) -> tuple[bool, control_pb2.JobInfo]:
        if not connection.is_holder:
            return False, await connection.job(job)
        jobs = (await _inbox(connection)).jobs
        return True, named_job(jobs, job, "no job was proposed here yet")

    at_holder, info = reach(home, found)
    show_job(console(), info)
    if at_holder:
        from veilscore.cli.planning import show_asked, show_proposal, show_spent  # noqa: PLC0415 - loads every protocol

        asked = parse_job(info.job_yaml, info.job_id)
        if info.status == "pending":
            show_proposal(console(), asked, home)
            return
        show_asked(console(), asked)
        show_spent(console(), asked, info.job_id, home)
        show_counts(console(), home / "jobs" / info.job_id)
        return
    show_counts(console(), home / "jobs" / info.job_id)
    show_measures(console(), home / "jobs" / info.job_id / "report.json")


@app.command(epilog="Example: veilscore job cancel kz-corporate --home /srv/bank")
def cancel(job: JobText = None, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Cancel a job at the coordinator and all parties; it cannot be resumed."""
    info = reach(find_home(home, federation), lambda c: c.job(job, "CancelJob"))
    console().print(f"{info.job_id} {info.status}")


@app.command(epilog="Example: veilscore job resume kz-corporate --home /srv/bank")
def resume(job: JobText = None, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Go on with a failed job from its last completed step, and watch it."""

    async def work(connection: Connection) -> str:
        return await _follow(connection, (await connection.job(job, "Resume")).job_id)

    _end(find_home(home, federation), work)


@app.command(epilog="Example: veilscore job inbox --home /srv/tax")
def inbox(*, home: HomeOption = None) -> None:
    """Show the jobs proposed to this party, what each asks for, and errors that stayed at this node."""
    rows = []
    jobs = reach(find_home(home), _inbox).jobs
    for info in jobs:
        job = parse_job(info.job_yaml, info.job_id)
        said = info.error if info.receipt in {"", "kept"} else f"{info.error}; {info.receipt}"
        rows.append((info.job_id, info.task, job.bank, job.purpose, info.status, said, moment(info.created_s)))
    console().print(table("Inbox", ("job", "task", "bank", "purpose", "answer", "reason or error", "received"), rows))
    node = load_node_config(find_home(home))
    for less in node.policy.promises_less() if node.role == "holder" else ():
        console().print(styled("[yellow]The policy here promises less than the default[/yellow]: {}.", less))
    waiting = [parse_job(info.job_yaml, info.job_id) for info in jobs if info.status == "pending"]
    if waiting:
        from veilscore.cli.planning import show_proposal  # noqa: PLC0415 - loads every protocol

        for job in waiting:
            show_proposal(console(), job, find_home(home))
        console().print("decide with `veilscore job approve JOB` or `veilscore job reject JOB`")


@app.command(epilog="Example: veilscore job approve kz-corporate --home /srv/tax")
def approve(job: Proposed, *, home: HomeOption = None, reason: Reason = "") -> None:
    """Approve a job that waits at this party; the answer is signed with the node's key."""
    _decide(job, home, reason, accepted=True)


@app.command(epilog='Example: veilscore job reject kz --home /srv/tax --reason "purpose not allowed"')
def reject(job: Proposed, *, home: HomeOption = None, reason: Reason = "") -> None:
    """Reject a job at this party, also one that runs."""
    _decide(job, home, reason, accepted=False)


def _decide(text: str, home: Path | None, reason: str, *, accepted: bool) -> None:
    async def work(connection: Connection) -> control_pb2.Acceptance:
        found = [j.job_id for j in (await _inbox(connection)).jobs if j.job_id.startswith(text)]
        if len(found) != 1:
            raise JobError(f"{len(found) or 'no'} jobs here whose id begins with {text!r}; see `veilscore job inbox`")
        answer = control_pb2.Acceptance(job_id=found[0], accepted=accepted, reason=reason)
        return await connection.call(connection.node, "Decide", answer, control_pb2.Acceptance)

    answer = reach(find_home(home), work)
    console().print(
        line(
            answer.job_id,
            coloured("accepted" if answer.accepted else "refused"),
            f"({answer.reason})" if answer.reason else "",
        )
    )


async def _inbox(connection: Connection) -> control_pb2.JobList:
    return await connection.call(connection.node, "Inbox", control_pb2.Empty(), control_pb2.JobList)


async def _follow(connection: Connection, job_id: str) -> str:
    """Show a job's progress until it ends, then its summary, and return its status."""
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
    """Show what this party's own node knows of the failure and did not tell the others."""
    with contextlib.suppress(PeerError, ConfigError):  # a person may have no node, or no right to its inbox
        for entry in (await _inbox(connection)).jobs:
            if entry.job_id == job_id and entry.error and entry.error != "accepted by policy":
                where = f"at {connection.node}, not told to others"
                console().print(Panel(entry.error, title=where, border_style="yellow"))


def _end(home: Path, work: Callable[[Connection], Awaitable[str]]) -> None:
    """Exit with code 1 unless the work ends with a job that is done."""
    if reach(home, work) != "done":
        raise typer.Exit(1)
