"""`veilscore bank book`: make, check and fill the book."""

from pathlib import Path
from typing import Annotated

import typer

from party_bank.book_check import check_book
from party_bank.book_version import upgrade as upgrade_book
from party_bank.cli.homes import opened
from party_bank.firms import import_consents, import_firms, withdraw_consent
from party_bank.settings import load_settings
from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption, find_home

app = typer.Typer(no_args_is_help=True, epilog="Example: veilscore bank book check --home /srv/bank")


@app.callback()
def group() -> None:
    """Make, check and fill the bank's book."""


@app.command("import", epilog="Example: veilscore bank book import firms.csv --home /srv/bank")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or Excel: id, name, industry, region, manager.")],
    *,
    id_column: Annotated[str, typer.Option("--id", help="Column with the ids of firms.")] = "uscc",
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Add the firms of a file to the book, and change what differs."""
    with opened(home, federation) as bank:
        n = import_firms(bank.book, file, bank.actor, id_column=id_column, normaliser=bank.settings.id_normaliser)
    console().print(f"{n:,} firms added or changed")


@app.command("consents", epilog="Example: veilscore bank book consents --home /srv/bank")
def consents(
    *,
    withdrawn: Annotated[str, typer.Option(help="A firm that withdrew its consents.")] = "",
    purpose: Annotated[str, typer.Option(help="With --withdrawn: for this purpose alone.")] = "",
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Note which firms the consents cover that `veilscore consent import` took in, or that one withdrew."""
    with opened(home, federation) as bank:
        if withdrawn:
            n = withdraw_consent(bank.book, bank.id_of(withdrawn), purpose, bank.actor)
            console().print(f"{n:,} consents ended")
        else:
            console().print(f"{import_consents(bank.book, bank.home, bank.actor):,} consents added")


@app.command("check", epilog="Example: veilscore bank book check --home /srv/bank")
def check(*, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Check that the book is what its history says and that it balances; exit code 1 if not."""
    with opened(home, federation) as bank:
        wrong = check_book(bank.book)
    for text in wrong:
        console().print(text, soft_wrap=True)
    if wrong:
        raise typer.Exit(1)
    console().print("the book balances")


@app.command("history", epilog="Example: veilscore bank book history 91310000MA1K35TQ6F --home /srv/bank")
def history(
    firm: Annotated[str, typer.Argument(help="The firm's id.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Show every change that concerned a firm, by whom and when."""
    import sqlalchemy as sa  # noqa: PLC0415 - slow import

    from party_bank.book_tables import HISTORY  # noqa: PLC0415 - loads it
    from veilscore.cli.display import moment  # noqa: PLC0415

    with opened(home, federation) as bank:
        found = bank.book.rows(sa.select(HISTORY).where(HISTORY.c.firm == bank.id_of(firm)).order_by(HISTORY.c.id))
    rows = (
        (moment(r["at_s"], seconds=True), r["actor"], r["event"], f"{r['subject']} {r['subject_id']}",
         ", ".join(f"{key} {value}" for key, value in r["content"].items()))
        for r in found
    )  # fmt: skip
    console().print(table("History", ("when", "who", "what", "of", "content"), rows))


@app.command("upgrade", epilog="Example: veilscore bank book upgrade --home /srv/bank")
def upgrade(*, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Bring a book that an older program wrote to this one's version; save it before."""
    own = find_home(home, federation)
    before, after = upgrade_book(load_settings(own).book_url(own))
    console().print(f"version {before or 'none'} -> {after}")
