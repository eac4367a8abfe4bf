"""The option by which a holder says how much it tells a partner, which is asked for where nobody typed it."""

import sys
from typing import Annotated, get_args

import typer

from veilscore.terms.policy import Partner

PartnerOption = Annotated[
    Partner | None,
    typer.Option(help="How much holders tell: trusted, standard or strict; asked for in a terminal, else standard."),
]


def chosen_partner(partner: Partner | None) -> Partner:
    """Return the preset as given, or as typed where somebody sits at a terminal."""
    if partner is not None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return partner or "standard"
    typer.echo("How much do holders tell the bank of their columns? `veilscore explain policy` says what each sets.")
    while (typed := typer.prompt("trusted, standard or strict", default="standard")) not in get_args(Partner):
        typer.echo(f"{typed!r} is none of them")
    return next(one for one in get_args(Partner) if one == typed)
