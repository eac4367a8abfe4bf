"""`veilscore report`: a finished job's report."""

import webbrowser
from typing import Annotated

import typer

from veilscore.cli.connection import reach
from veilscore.cli.display import console
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.cli.job import JobText
from veilscore.errors import JobError
from veilscore.reports.data import StepCost
from veilscore.reports.write import add_costs

app = typer.Typer()


@app.command(epilog="Example: veilscore report --federation trial --party tax")
def report(
    job: JobText = None,
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = False,
) -> None:
    """Complete a finished job's report with times and bytes, and say where it is."""
    info = reach(find_home(home, federation), lambda c: c.job(job))
    costs = [
        StepCost(step=s.step, party=p, seconds=d.seconds, bytes_sent=d.bytes_sent, cpu_seconds=d.cpu_seconds)
        for s in info.steps
        for p, d in sorted(s.party_done.items())
    ]
    folder = find_home(home, federation, party) / "jobs" / info.job_id
    if not (folder / "report.json").is_file():
        raise JobError(f"no report in {folder}: reports are written when a training job is done; it is {info.status}")
    page = add_costs(folder / "report.json", costs)
    console().print(f"report: {page.resolve()}")
    if browser:
        webbrowser.open(page.resolve().as_uri())
