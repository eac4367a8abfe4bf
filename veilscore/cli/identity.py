"""`veilscore identity`: a node's key and certificate."""

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, table
from veilscore.cli.new_home import AskOption, DaysOption, PassphraseOption, new_home
from veilscore.cli.partner import PartnerOption
from veilscore.keys.identity import CERTIFICATE_FILE, current_folder, load_identity
from veilscore.keys.voice_words import voice_words
from veilscore.terms.key_settings import KeyConfig
from veilscore.terms.node_config import load_node_config

app = typer.Typer(no_args_is_help=True)


@app.command(epilog="Example: veilscore identity create /srv/tax --name tax --role holder")
def create(
    home: Annotated[Path, typer.Argument(help="The node's home; identity/ and node.yaml are made in it.")],
    *,
    name: Annotated[str, typer.Option(help="Name that jobs and the federation file use.")],
    role: Annotated[str, typer.Option(help="bank, holder, coordinator or operator.")],
    days: DaysOption = 365,
    passphrase_file: PassphraseOption = None,
    ask: AskOption = False,
    partner: PartnerOption = None,
) -> None:
    """Make a key and a certificate that peers pin; the key never leaves the folder.

    The key is encrypted if there is a passphrase: by option, VEILSCORE_KEY_PASSPHRASE_FILE, VEILSCORE_KEY_PASSPHRASE,
    or the `key` section of a node.yaml that is there already (programs of a key service). Move identity/recovery.pem
    to a safe place. Send only identity/certificate.pem to the other members.
    """
    new_home(home, name, role, days, passphrase_file=passphrase_file, ask=ask, partner=partner)
    console().print(f"Send {home / 'identity' / CERTIFICATE_FILE} to the other members, and read them the fingerprint.")


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
