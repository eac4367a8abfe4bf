"""`veilscore bank application`: applications from the first call to a contract."""

from typing import Annotated

import typer

from party_bank import applications
from party_bank.cli.homes import opened
from party_bank.cli.joint import DecisionsOption, HoldersOption, OnlineOption, StepsOption, joint_decision
from party_bank.settings import read_amount, shown_amount
from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption

app = typer.Typer(no_args_is_help=True, epilog="Example: veilscore bank application list")


@app.callback()
def group() -> None:
    """Take applications, and let a person decide on those that were referred."""


@app.command(
    "apply", epilog="Example: veilscore bank application apply 91310000MA1K35TQ6F --request w-17 --product flow"
)
def apply(
    firm: Annotated[str, typer.Argument(help="The firm's id.")],
    *,
    request: Annotated[str, typer.Option(help="Your id of it: the same again is the same application.")],
    product: Annotated[str, typer.Option(help="Product of bank.yaml.")],
    amount: Annotated[str, typer.Option(help="What it asks for, like 250000 or 250000.50.")],
    months: Annotated[int, typer.Option(min=1, max=120, help="For how long.")] = 12,
    offer: Annotated[str, typer.Option(help="Number of the offer that it answers.")] = "",
    secret: Annotated[str, typer.Option(help="With --offer: the secret of its QR code.", envvar="OFFER_SECRET")] = "",
    decisions: DecisionsOption = None,
    steps: StepsOption = 31,
    holders: HoldersOption = "",
    online: OnlineOption = False,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Take an application as far as it goes without a person; the same again goes on where it was."""
    with opened(home, federation) as bank, joint_decision(bank, decisions, steps, holders, online=online) as joint:
        asked = applications.ApplicationRequest(
            request, bank.id_of(firm), product, read_amount(amount), months, offer, secret
        )
        judge = applications.active_judge(bank.home, bank.node.name)
        found = applications.apply(bank.book, bank.settings, joint, judge, asked, bank.actor)
    contract = f", contract {found['contract']}" if found["contract"] else ""
    console().print(f"application {request}: {found['status']}{contract}", soft_wrap=True)
    for reason in found["reasons"]:
        console().print(f"  {reason}", soft_wrap=True)


@app.command("settle", epilog="Example: veilscore bank application settle w-17 --approve --reason 'orders seen'")
def settle(
    request: Annotated[str, typer.Argument(help="Id of the request.")],
    *,
    approve: Annotated[bool, typer.Option("--approve/--decline", help="What the person decides.")],
    reason: Annotated[list[str], typer.Option(help="Why; more than once for more than one.")],
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Write down a person's decision on a referred application."""
    with opened(home, federation) as bank:
        found = applications.settle(bank.book, bank.settings, request, bank.actor, approve=approve, reasons=reason)
    contract = f", contract {found['contract']}" if found["contract"] else ""
    console().print(f"application {request}: {found['status']}{contract}", soft_wrap=True)


@app.command("list", epilog="Example: veilscore bank application list --status referred --home /srv/bank")
def list_(
    *,
    status: Annotated[str, typer.Option(help="received, approved, referred or declined; default all.")] = "",
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """List applications with their reasons, the latest first."""
    with opened(home, federation) as bank:
        found = applications.listed(bank.book, status)
        currency = bank.settings.currency
    rows = (
        (
            r["request"],
            r["firm"],
            r["product"],
            shown_amount(r["amount"]),
            r["months"],
            r["status"],
            "; ".join(r["reasons"] or ()),
        )
        for r in found
    )
    columns = ("request", "firm", "product", f"amount {currency}", "months", "status", "reasons")
    console().print(table("Applications", columns, rows))
