"""`veilscore bank portal`: the site of firms' owners, and the links by which they enter."""

import time
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, moment
from veilscore.cli.homes import FederationOption, HomeOption, find_home
from veilscore.errors import ConfigError
from veilscore.files.extras import missing_of

app = typer.Typer(invoke_without_command=True, epilog="Example: veilscore bank portal --home /srv/bank")


@app.callback()
def serve(context: typer.Context, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Serve the portal of firms' owners, over TLS, until it is stopped."""
    missing = missing_of("console")
    if missing:
        raise ConfigError(f"the portal needs {', '.join(missing)}: run `pip install 'veilscore[bank,console]'`")
    if context.invoked_subcommand is not None:
        return
    from party_bank.portal.serve import RunningPortal, serve_portal  # noqa: PLC0415 - loads every protocol

    def told(running: RunningPortal) -> None:
        out = console()
        out.print(f"portal of {running.home.name}: {running.desk.origin}", soft_wrap=True)
        out.print(f"its certificate, for browsers to trust: {running.certificate}", soft_wrap=True)
        out.print("let an owner in: `veilscore bank portal link FIRM`; stop with Ctrl-C", soft_wrap=True)

    serve_portal(find_home(home, federation), told)


@app.command("link", epilog="Example: veilscore bank portal link 91310000MA1K35TQ6F --home /srv/bank")
def link(
    firm: Annotated[str, typer.Argument(help="The firm's id.")],
    *,
    hours: Annotated[float, typer.Option(min=0.1, max=168, help="How long the link works.")] = 24,
    code: Annotated[Path | None, typer.Option(help="SVG to write with the link as a QR code, mode 0600.")] = None,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Print a link by which a firm's owner enters, once; older links, codes and sessions of the firm end."""
    from party_bank.offers import write_code  # noqa: PLC0415
    from party_bank.portal.links import link_for  # noqa: PLC0415 - loads the extra

    found, n_passkeys = link_for(find_home(home, federation), firm, hours)
    if code is not None:
        write_code(code, found)
    console().print(found, soft_wrap=True, highlight=False)
    console(stderr=True).print(
        f"for the owner alone, once, until {moment(time.time() + hours * 3600)}: whoever has it can act for the firm",
        soft_wrap=True,
    )
    if n_passkeys:
        console(stderr=True).print(
            f"{n_passkeys} passkeys open the firm besides: if the owner did not make each of them, "
            f"`veilscore bank portal forget {firm}` first",
            soft_wrap=True,
            markup=False,
        )


@app.command("list", epilog="Example: veilscore bank portal list --home /srv/bank")
def sign_list(*, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Sign one list of all owners who agreed to offers in the portal and are on none yet, before a campaign."""
    from party_bank.portal.links import list_of_agreed  # noqa: PLC0415 - loads the extra

    number, count = list_of_agreed(find_home(home, federation))
    console().print(f"{count:,} firms on list {number}" if count else "nobody waits: no list was signed")


@app.command("forget", epilog="Example: veilscore bank portal forget 91310000MA1K35TQ6F --home /srv/bank")
def forget(
    firm: Annotated[str, typer.Argument(help="The firm's id.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Remove the passkeys, links and sessions of a firm's owner at once, as when a phone was lost."""
    from party_bank.portal.links import forget as forget_owner  # noqa: PLC0415 - loads the extra

    count = forget_owner(find_home(home, federation), firm)
    console().print(f"{count} passkeys removed; `veilscore bank portal link` lets the owner in again")
