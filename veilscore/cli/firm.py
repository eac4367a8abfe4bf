"""`veilscore firm`: what a node keeps of one firm, and its deletion on request."""

from typing import Annotated

import typer

from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.terms.node_config import load_node_config

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """What a node keeps of one firm, and its deletion on request."""


@app.command("forget", epilog="Example: veilscore firm forget 91310000MA1K0LCX8Q --home /srv/tax")
def forget(
    firm: Annotated[str, typer.Argument(help="The firm's id, as the data set or the book has it.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only show what would go and stay.")] = False,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Show what a node keeps of a firm, or delete it; the node may run.

    Ledgers of what was opened stay, under keyed hashes; so does what the law keeps. The log gets a proof
    without the id.
    Exit code 1 where files still name the firm for no reason that is told.
    """
    from veilscore.node import forgetting  # noqa: PLC0415 - loads the log's own modules

    own, out = find_home(home, federation, party).resolve(), console()
    node = load_node_config(own)
    keepers, subject = forgetting.keepers_of(own, node), forgetting.Subject.of(own, firm)
    done = forgetting.forget(own, node, keepers, subject) if yes else forgetting.plan(keepers, subject)
    going = [(f.place, str(f.count)) for f in done.findings if not f.stays]
    if going:
        out.print(table("Gone" if yes else "Would go", ("what", "rows or files"), going))
    elif not any(f.stays for f in done.findings):
        out.print("Nothing here is about this firm.")
    if staying := [(f.place, str(f.count), f.stays) for f in done.findings if f.stays]:
        out.print(table("Stays", ("what", "rows or files", "why"), staying))
    days = node.retention.backups_days
    if not yes:
        out.print("Nothing was changed. The same with --yes does it.")
        return
    logged = "" if done.logged else "; it was forgotten before, and nothing is new"
    out.print(f"In the log the firm is {subject.digest}{logged}.", soft_wrap=True)
    out.print(
        f"Backups made before now have it for {days} days more (retention.backups_days): after a restore from one, "
        "do this again.",
        soft_wrap=True,
    )
    for path in done.unknown:
        out.print(f"still names it, and nothing says why: {path!s}: look at it, and remove it by hand", soft_wrap=True)
    if done.unknown:
        raise typer.Exit(1)
