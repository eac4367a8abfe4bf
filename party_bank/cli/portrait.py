"""`veilscore bank portrait`: all that the bank knows of one firm."""

from typing import Annotated

import typer

from party_bank.cli.homes import opened
from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption

app = typer.Typer()


@app.command(epilog="Example: veilscore bank portrait 91310000MA1K35TQ6F --home /srv/bank")
def portrait(
    firm: Annotated[str, typer.Argument(help="The firm's id.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Show all that the bank knows of one firm: each field with source, time and owner, and the bits left."""
    from party_bank.portrait import make_portrait  # noqa: PLC0415 - loads what reads data sets

    with opened(home, federation) as bank:
        found = make_portrait(bank.book, bank.settings, bank.id_of(firm), bank.node)
    if as_json:
        typer.echo(found.as_json())
        return
    rows = (
        (f.group, f.name, "" if f.value is None else f"{f.value:,g}" if isinstance(f.value, float) else f.value,
         f.source, f.at, f.owner)
        for f in found.fields
    )  # fmt: skip
    columns = ("group", "field", "value", "source", "of", "owner")
    console().print(table(f"Portrait of {found.firm}, {found.at}", columns, rows))
