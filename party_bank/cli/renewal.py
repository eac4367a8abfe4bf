"""`veilscore bank renewal`: contracts that end soon."""

from typing import Annotated

import typer

from party_bank import renewals
from party_bank.cli.homes import opened
from party_bank.cli.joint import DecisionsOption, HoldersOption, OnlineOption, StepsOption, joint_decision
from party_bank.settings import shown_amount
from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption

app = typer.Typer(no_args_is_help=True, epilog="Example: veilscore bank renewal list")
Number = Annotated[str, typer.Argument(help="Number of the contract that ends.")]


@app.callback()
def group() -> None:
    """Prepare renewals of contracts that end soon, and accept them for the firm."""


@app.command("list", epilog="Example: veilscore bank renewal list --home /srv/bank")
def list_(*, home: HomeOption = None, federation: FederationOption = None) -> None:
    """List the contracts whose renewal is to be prepared now."""
    with opened(home, federation) as bank, bank.book.reading() as entry:
        found = renewals.due_contracts(entry, bank.settings)
    rows = ((r["number"], r["firm"], r["product"], shown_amount(r["amount"]), r["ends_on"]) for r in found)
    console().print(table("Renewals due", ("contract", "firm", "product", "limit", "ends"), rows))


@app.command("prepare", epilog="Example: veilscore bank renewal prepare C0000001 --online --home /srv/bank")
def prepare(
    number: Number,
    *,
    decisions: DecisionsOption = None,
    steps: StepsOption = 31,
    holders: HoldersOption = "",
    online: OnlineOption = False,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Check a firm jointly and propose a renewal."""
    with opened(home, federation) as bank, joint_decision(bank, decisions, steps, holders, online=online) as joint:
        inflow = renewals.own_inflow(bank.settings, bank.node)
        found = renewals.prepare(bank.book, bank.settings, joint, number, bank.actor, inflow)
        currency = bank.settings.currency
    proposed = f": {shown_amount(found['amount'])} {currency} for {found['months']} months" if found["amount"] else ""
    console().print(f"renewal of {number}: {found['status']}{proposed}")


@app.command("accept", epilog="Example: veilscore bank renewal accept C0000001 --home /srv/bank")
def accept(number: Number, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Renew a contract as proposed, today: what is owed goes over to the new one."""
    with opened(home, federation) as bank:
        new = renewals.accept(bank.book, bank.settings, number, bank.actor)
    console().print(f"contract {number} is renewed by {new}")
