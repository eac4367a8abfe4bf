"""`veilscore report`: a finished job's report."""

import webbrowser
from typing import Annotated

import typer

from veilscore.cli.connection import Connection, reach
from veilscore.cli.display import console
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.errors import JobError
from veilscore.reports.data import StepCost
from veilscore.reports.write import add_costs
from veilscore.v1 import control_pb2

app = typer.Typer()


@app.command(epilog="Example: veilscore report --federation trial --party tax")
def report(
    job: Annotated[
        str | None,
        typer.Argument(
            help="The job's id or how it begins; the newest job with a report if left out.", metavar="[JOB]"
        ),
    ] = None,
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = False,
) -> None:
    """Complete a finished job's report with times and bytes, and say where it is."""
    jobs = find_home(home, federation, party) / "jobs"
    written = {path.parent.name for path in jobs.glob("*/report.json")}

    async def found(connection: Connection) -> control_pb2.JobInfo:
        """Return the job that the user named, else the newest that has a report: another may run meanwhile."""
        text = job
        if text is None:
            listed = (await connection.coordinator("List", control_pb2.Empty(), control_pb2.JobList)).jobs
            text = next((one.job_id for one in reversed(listed) if one.job_id in written), None)
        return await connection.job(text)

    info = reach(find_home(home, federation), found)
    costs = [
        StepCost(step=s.step, party=p, seconds=d.seconds, bytes_sent=d.bytes_sent, cpu_seconds=d.cpu_seconds)
        for s in info.steps
        for p, d in sorted(s.party_done.items())
    ]
    folder = jobs / info.job_id
    if not (folder / "report.json").is_file():
        raise JobError(f"no report in {folder}: reports are written when a training job is done; it is {info.status}")
    page = add_costs(folder / "report.json", costs)
    console().print(f"report: {page.resolve()}")
    if browser:
        webbrowser.open(page.resolve().as_uri())
