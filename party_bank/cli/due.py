"""`veilscore bank due`: the recurring work."""

from typing import Annotated

import typer

from party_bank.cli.homes import opened
from party_bank.cli.joint import DecisionsOption, HoldersOption, JobOption, OnlineOption, StepsOption, joint_decision
from party_bank.due import do_due, open_work
from party_bank.recurring import tasks
from party_bank.renewals import own_inflow
from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption
from veilscore.terms.settings import read_day

app = typer.Typer()


@app.command(epilog="Example: veilscore bank due --home /srv/bank")
def due(
    *,
    date: Annotated[str, typer.Option(help="Today's date: says that the clock is right although it jumped.")] = "",
    only_list: Annotated[bool, typer.Option("--list", help="Show what is planned and not done; do nothing.")] = False,
    decisions: DecisionsOption = None,
    steps: StepsOption = 31,
    holders: HoldersOption = "",
    online: OnlineOption = False,
    job: JobOption = None,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Do what is due, once, however often it is called.

    Exit code 1 if something failed, which the next call tries again.
    """
    out = console()
    with (
        opened(home, federation) as bank,
        joint_decision(bank, decisions, steps, holders, online=online, job=job) as joint,
    ):
        if date:
            bank.book.confirm_date(read_day(date, "--date"), bank.actor)
        work = tasks(bank.settings, joint, own_inflow(bank.settings, bank.node))
        if only_list:
            rows = open_work(bank.book, work)
            shown = [(r["due_on"], r["task"], r["firm"], r["status"], r["result"]) for r in rows]
        else:
            done = do_due(bank.book, work)
            shown = [(d.due_on, d.task, d.firm, d.status, d.result) for d in done]
    if shown:
        out.print(table("Recurring work", ("due", "task", "firm", "status", "result"), shown))
    else:
        out.print("nothing is due")
    if any(row[3] == "failed" for row in shown) and not only_list:
        raise typer.Exit(1)
