"""`veilscore bank limits`: ladders, caps and what is lent."""

import typer

from party_bank.cli.homes import opened
from party_bank.limits import check_settings, product_exposure
from party_bank.settings import amount_of, shown_amount
from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption

app = typer.Typer()


@app.command(epilog="Example: veilscore bank limits --home /srv/bank")
def limits(*, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Show each product's ladder, cap and what is lent; refuse caps of bank.yaml that are below it."""
    with opened(home, federation) as bank:
        check_settings(bank.book, bank.settings)
        lent = product_exposure(bank.book)
        settings = bank.settings
    rows = (
        (
            name,
            " ".join(f"{step:,}" for step in product.ladder),
            "none" if product.cap is None else shown_amount(amount_of(product.cap)),
            shown_amount(lent.get(name, 0)),
        )
        for name, product in settings.products.items()
    )
    console().print(table(f"Limits, {settings.currency}", ("product", "ladder", "cap", "lent"), rows))
