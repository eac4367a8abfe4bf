"""`veilscore bank campaign`: proactive credit from candidates to offers, lists and the funnel."""

from pathlib import Path
from typing import Annotated

import typer

from party_bank import campaigns, offers
from party_bank.cli.homes import opened, print_firms
from party_bank.cli.joint import DecisionsOption, HoldersOption, JobOption, StepsOption, joint_decision
from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption
from veilscore.files.home_key import home_key

app = typer.Typer(no_args_is_help=True, epilog="Example: veilscore bank campaign create spring --product flow")
Name = Annotated[str, typer.Argument(help="Name of the campaign.")]


@app.callback()
def group() -> None:
    """Run campaigns: candidates, offers with number, validity and QR code, managers' lists, funnel."""


@app.command("create", epilog="Example: veilscore bank campaign create spring --product flow --home /srv/bank")
def create(
    name: Name,
    *,
    product: Annotated[str, typer.Option(help="Product of bank.yaml.")],
    basis: Annotated[str, typer.Option(help="Legal ground without consents, which two stewards filed.")] = "",
    steward: Annotated[list[str] | None, typer.Option(help="With --basis, twice: who filed it.")] = None,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Begin a campaign for a product."""
    with opened(home, federation) as bank:
        campaigns.create(bank.book, bank.settings, name, product, bank.actor, basis=basis, stewards=steward or ())
        n = len(campaigns.candidates(bank.book, name))
    console().print(f"campaign {name}: {n:,} candidates")


@app.command("candidates", epilog="Example: veilscore bank campaign candidates spring --home /srv/bank > firms.csv")
def candidates(name: Name, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Print the ids of the firms to decide on, as CSV."""
    with opened(home, federation) as bank:
        firms = campaigns.candidates(bank.book, name)
    print_firms(firms)


@app.command("run", epilog="Example: veilscore bank campaign run spring --job decide.yaml --home /srv/bank")
def run(
    name: Name,
    *,
    decisions: DecisionsOption = None,
    steps: StepsOption = 31,
    holders: HoldersOption = "",
    job: JobOption = None,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Make offers of what a joint decision told, within caps and budget; again, it does what is left."""
    with opened(home, federation) as bank, joint_decision(bank, decisions, steps, holders, job=job) as joint:
        ended = campaigns.run(bank.book, bank.settings, joint, name, home_key(bank.home), bank.actor)
    console().print(table(f"Campaign {name}", ("outcome", "firms"), sorted(ended.items())))


@app.command("lists", epilog="Example: veilscore bank campaign lists spring lists --home /srv/bank")
def lists(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Folder for the lists and QR codes.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Write account managers' lists (CSV, XLSX) and a QR code for each offer."""
    with opened(home, federation) as bank:
        with bank.book.reading() as entry:
            campaign = campaigns.find_campaign(entry, name)["id"]
        found = offers.write_lists(bank.book, bank.settings, campaign, folder, home_key(bank.home))
    console().print(table(f"Lists in {folder}", ("account manager", "offers"), sorted(found.items())))


@app.command("contacted", epilog="Example: veilscore bank campaign contacted O0000001 --home /srv/bank")
def contacted(
    number: Annotated[str, typer.Argument(help="Number of the offer.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Note that an account manager told a firm its number."""
    with opened(home, federation) as bank:
        offers.note_contact(bank.book, number, bank.actor)


@app.command("funnel", epilog="Example: veilscore bank campaign funnel spring --home /srv/bank")
def funnel(name: Name, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Show how many firms came how far."""
    with opened(home, federation) as bank:
        found = campaigns.funnel(bank.book, name)
    console().print(table(f"Campaign {name}", ("stage", "firms"), found.items()))
