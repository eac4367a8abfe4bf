"""`veilscore bank contract`: sign, draw, repay, end."""

from typing import Annotated

import typer

from party_bank import contracts
from party_bank.cli.homes import opened
from party_bank.settings import read_amount, shown_amount
from veilscore.cli.display import console
from veilscore.cli.homes import FederationOption, HomeOption

app = typer.Typer(no_args_is_help=True, epilog="Example: veilscore bank contract sign C0000001")
Number = Annotated[str, typer.Argument(help="Number of the contract.")]
Amount = Annotated[str, typer.Argument(help="Amount, like 250000 or 250000.50.")]
RequestId = Annotated[str, typer.Option("--request", help="Your id of it: the same again changes nothing.")]


@app.callback()
def group() -> None:
    """Sign contracts, and note what is drawn and repaid under them."""


@app.command("sign", epilog="Example: veilscore bank contract sign C0000001 --home /srv/bank")
def sign(number: Number, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Note that firm and bank signed a contract."""
    with opened(home, federation) as bank:
        contracts.sign(bank.book, number, bank.actor)
    console().print(f"contract {number}: signed")


@app.command("draw", epilog="Example: veilscore bank contract draw C0000001 50000 --request d-1 --home /srv/bank")
def draw(
    number: Number,
    amount: Amount,
    *,
    request: RequestId,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Draw on a contract."""
    with opened(home, federation) as bank:
        owed = contracts.draw(bank.book, number, read_amount(amount), request, bank.actor)
    console().print(f"contract {number}: {shown_amount(owed)} {bank.settings.currency} owed")


@app.command("repay", epilog="Example: veilscore bank contract repay C0000001 5000 --request r-1 --home /srv/bank")
def repay(
    number: Number,
    amount: Amount,
    *,
    request: RequestId,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Note a repayment of what was drawn."""
    with opened(home, federation) as bank:
        owed = contracts.repay(bank.book, number, read_amount(amount), request, bank.actor)
    console().print(f"contract {number}: {shown_amount(owed)} {bank.settings.currency} owed")


@app.command("end", epilog="Example: veilscore bank contract end C0000001 --home /srv/bank")
def end(number: Number, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """End a contract of which nothing is owed."""
    with opened(home, federation) as bank:
        contracts.end(bank.book, number, bank.actor)
    console().print(f"contract {number}: ended")
