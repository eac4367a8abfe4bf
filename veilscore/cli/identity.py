"""`veilscore identity`: a node's key and certificate."""

import datetime as dt
import shlex
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, styled, table
from veilscore.cli.partner import PartnerOption, chosen_partner
from veilscore.errors import ConfigError
from veilscore.keys.identity import (
    CERTIFICATE_FILE,
    KEY_FILE,
    RECOVERY_FILE,
    Identity,
    current_folder,
    load_identity,
)
from veilscore.keys.voice_words import voice_words
from veilscore.node.founding import make_home
from veilscore.terms.key_settings import KeyConfig
from veilscore.terms.node_config import load_node_config

app = typer.Typer(no_args_is_help=True)


@app.command(epilog="Example: veilscore identity create /srv/tax --name tax --role holder")
def create(
    home: Annotated[Path, typer.Argument(help="The node's home; identity/ and node.yaml are made in it.")],
    *,
    name: Annotated[str, typer.Option(help="Name that jobs and the federation file use.")],
    role: Annotated[str, typer.Option(help="bank, holder, coordinator or operator.")],
    days: Annotated[float, typer.Option(min=1, help="Validity of the certificate.")] = 365,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Encrypt the key with the first line of this file (mode 0600).")
    ] = None,
    ask: Annotated[bool, typer.Option("--ask-passphrase", help="Encrypt the key with a passphrase you type.")] = False,
    partner: PartnerOption = None,
) -> None:
    """Make a key and a certificate that peers pin; the key never leaves the folder.

    The key is encrypted if there is a passphrase: by option, VEILSCORE_KEY_PASSPHRASE_FILE, VEILSCORE_KEY_PASSPHRASE,
    or the `key` section of a node.yaml that is there already (programs of a key service). Move identity/recovery.pem
    to a safe place. Send only identity/certificate.pem to the other members.
    """
    key = key_section(passphrase_file, ask=ask)
    preset = chosen_partner(partner) if role == "holder" and not (home / "node.yaml").exists() else "standard"
    identity = make_home(home, name, role, days, key=key, partner=preset)
    show_made(home, identity)
    console().print(f"Send {home / 'identity' / CERTIFICATE_FILE} to the other members, and read them the fingerprint.")


def show_made(home: Path, identity: Identity) -> None:
    """Say what a new identity's owner has to look after, and its fingerprint."""
    folder = home / "identity"
    if b"ENCRYPTED" not in (folder / KEY_FILE).read_bytes():
        console().print(
            styled(
                "[yellow]warning[/yellow] the key is not encrypted; `veilscore keys check {}` says more",
                shlex.quote(str(home)),
            )
        )
    console().print(f"Move {folder / RECOVERY_FILE} to a safe place: it revokes this identity if the key is lost.")
    console().print(f"{identity.name} ({identity.role}), fingerprint {identity.fingerprint}")


def key_section(passphrase_file: Path | None, *, ask: bool) -> dict[str, str] | None:
    """Return the `key` section that the options of a passphrase say; None without any."""
    if ask and passphrase_file is not None:
        raise ConfigError("give --passphrase-file or --ask-passphrase, not both")
    if ask:
        return {"source": "prompt"}
    return None if passphrase_file is None else {"source": "file", "path": str(passphrase_file.resolve())}


@app.command(epilog="Example: veilscore identity show /srv/tax")
def show(home: Annotated[Path, typer.Argument(help="A node's home.")]) -> None:
    """Show name, role, fingerprint and validity; read the fingerprint to the other members by telephone."""
    folder = current_folder(home / "identity")
    config = load_node_config(home).key if (home / "node.yaml").exists() else KeyConfig()
    certificate = load_identity(folder, passphrase=lambda: config.open(home).secret(folder)).certificate
    left = certificate.not_after - dt.datetime.now(dt.UTC)
    rows = [
        ("name", certificate.name),
        ("role", certificate.role),
        ("fingerprint", certificate.fingerprint),
        ("its words", voice_words(certificate.fingerprint)),
        ("valid until", f"{certificate.not_after:%Y-%m-%d %H:%M} UTC ({left.days} days)"),
    ]
    console().print(table(str(home), ("what", "value"), rows))
