"""`veilscore door`: who may call a bank's node from its loan systems, and how."""

import datetime as dt
import json
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, styled, table
from veilscore.cli.homes import FederationOption, HomeOption, find_home
from veilscore.errors import ConfigError
from veilscore.online.door_callers import DoorCallers, hand_over, server_files
from veilscore.online.door_openapi import openapi
from veilscore.terms.door import MAY, DoorConfig
from veilscore.terms.node_config import NodeConfig, load_node_config
from veilscore.terms.settings import read_text

app = typer.Typer(no_args_is_help=True)
CallerName = Annotated[str, typer.Argument(help="Name of the loan system, as the log will have it.")]


@app.command(epilog="Example: veilscore door add loan-desk --home /srv/bank --to handover --may band --may decide")
def add(
    name: CallerName,
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    may: Annotated[
        list[str] | None, typer.Option(help="What it may ask for: score, band, decide; again for more. Default: all.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Empty folder for the caller's key and certificate, made here, to hand over.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Instead: a self-signed certificate that the caller sent; its key stays there.")
    ] = None,
    days: Annotated[float, typer.Option(min=1, max=1095, help="Validity of a certificate made here.")] = 365,
) -> None:
    """Let a loan system call this bank's node, with a client certificate.

    It counts at once, also while the node runs.
    """
    own, config, door = _door(home, federation)
    if (to is None) == (certificate is None):
        raise ConfigError("give --to (make key and certificate here) or --certificate (the caller's own)")
    callers = DoorCallers(own, door)
    callers.check_new(name)
    server, _, _ = server_files(own, config, door)
    if certificate is not None:
        made = read_text(certificate, "certificate").encode()
    else:
        made = hand_over(to or Path(), name, days, server.read_bytes())
    caller = callers.add(name, may or MAY, made)
    out = console()
    out.print(styled("{} may ask for: {}", caller.name, ", ".join(caller.may)), soft_wrap=True)
    out.print(f"certificate {caller.certificate.fingerprint}, until {caller.certificate.not_after:%Y-%m-%d}")
    if to is not None:
        out.print(f"Hand {to} over on a safe way and delete it here: whoever has its key is {name}.", soft_wrap=True)
    else:
        out.print(f"Give the caller the door's certificate to trust: {server}", soft_wrap=True)


@app.command("list", epilog="Example: veilscore door list --home /srv/bank")
def list_(*, home: HomeOption = None, federation: FederationOption = None) -> None:
    """List who may call, what for, and until when."""
    own, _, door = _door(home, federation)
    now = dt.datetime.now(dt.UTC)
    rows = [
        (c.name, ", ".join(c.may), f"{c.certificate.not_after:%Y-%m-%d}", _left(c.certificate.not_after - now))
        for c in DoorCallers(own, door).all()
    ]
    rows += [(f"ca.{name}", ", ".join(may), "", "of client_ca") for name, may in door.client_ca_names.items()]
    console().print(table("Callers of the door", ("caller", "may ask for", "valid until", ""), rows))


@app.command(epilog="Example: veilscore door remove loan-desk --home /srv/bank")
def remove(name: CallerName, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Let a loan system call no longer; its next request is refused."""
    own, _, door = _door(home, federation)
    DoorCallers(own, door).remove(name)
    console().print(f"{name} is no caller any more")


@app.command("openapi", epilog="Example: veilscore door openapi > door.openapi.json")
def describe() -> None:
    """Print the description of the HTTP form (OpenAPI 3.1); the door serves the same at /v1/openapi.json."""
    typer.echo(json.dumps(openapi(), indent=1, ensure_ascii=False))


def _door(home: Path | None, federation: Path | None) -> tuple[Path, NodeConfig, DoorConfig]:
    own = find_home(home, federation)
    config = load_node_config(own)
    if config.door is None:
        raise ConfigError(
            f"{own / 'node.yaml'} has no door: add the section `door: {{}}`; `veilscore explain node` says what goes "
            "into it"
        )
    return own, config, config.door


def _left(left: dt.timedelta) -> str:
    return "expired" if left < dt.timedelta() else f"{left.days} days left"
