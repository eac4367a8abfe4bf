"""`veilscore backup` and `veilscore restore`: a home as one encrypted file, while its node runs or not."""

import getpass
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, moment
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.errors import ConfigError
from veilscore.files.backup import back_up
from veilscore.files.sealed import check_passphrase
from veilscore.keys.key_source import FileSource
from veilscore.node.restored import restore_home
from veilscore.terms.node_config import NodeConfig, load_node_config

VARIABLE = "VEILSCORE_BACKUP_PASSPHRASE"

app = typer.Typer()

PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help=f"File of mode 0600 with the passphrase on its first line; default ${VARIABLE}, or you are asked.",
    ),
]


@app.command(epilog="Example: veilscore backup /mnt/backups/tax-1130.veilscore --home /srv/tax")
def backup(
    file: Annotated[Path, typer.Argument(help="New file, best on another disk or machine.")],
    *,
    passphrase_file: PassphraseFile = None,
    plain: Annotated[bool, typer.Option("--plain", help="Do not encrypt it, although it holds keys and maps.")] = False,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Save everything a node keeps, encrypted, while the node runs or not.

    That is keys, log, consents, state, jobs and models. Without its code map a holder's part of a model cannot be
    applied any more, and without its state nobody knows what was opened.
    """
    source = find_home(home, federation, party)
    if plain and passphrase_file is not None:
        raise ConfigError("give --plain or --passphrase-file, not both")
    config = load_node_config(source)
    secret = None
    if not plain:
        secret = check_passphrase(_passphrase(passphrase_file, "Passphrase for the backup: ", twice=True))
    manifest = back_up(source, config.name, file, secret)
    count = len(manifest.files) + len(manifest.links)
    out = console()
    out.print(
        f"{file!s}: {count} files of {source!s}{', NOT encrypted: it holds keys' if plain else ''}",
        soft_wrap=True,
    )
    for place in _elsewhere(source, config):
        out.print(f"not in it: {place}", soft_wrap=True)


@app.command(epilog="Example: veilscore restore /mnt/backups/tax-1130.veilscore /srv/tax")
def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    home: Annotated[Path, typer.Argument(help="Where the home is to be; a folder that is not there yet.")],
    *,
    passphrase_file: PassphraseFile = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Move the home that is there aside, to HOME.replaced-TIME.")
    ] = False,
) -> None:
    """Restore a home from its backup, and verify every file, the log and the state.

    Its node then compares its log with what the others countersigned. If that is more than the backup holds, the node
    does nothing and says what to do: docs/evidence.md.
    """
    manifest, proved = restore_home(
        file, home, lambda: _passphrase(passphrase_file, f"Passphrase of {file}: ", twice=False), replace=replace
    )
    out = console()
    count = len(manifest.files) + len(manifest.links)
    saved = f"{count} files of {manifest.party}, saved {moment(manifest.made_s)}"
    out.print(f"{home!s}: {saved}, as they were", soft_wrap=True)
    for sentence in proved:
        out.print(f"  {sentence}", soft_wrap=True)
    out.print(f"Next: `veilscore node start {shlex.quote(str(home))}`", soft_wrap=True)


def _passphrase(file: Path | None, prompt: str, *, twice: bool) -> str:
    """Return the passphrase of a file, the environment or a person; ConfigError if there is none."""
    if file is not None:
        return FileSource(file).secret(file) or ""
    if found := os.environ.get(VARIABLE):
        return found
    if not sys.stdin.isatty():
        raise ConfigError(f"no passphrase: set {VARIABLE}, name a file with --passphrase-file, or use a terminal")
    first = getpass.getpass(prompt)
    if twice and check_passphrase(first) != getpass.getpass("The same again: "):
        raise ConfigError("the two passphrases differ")
    return first


def _elsewhere(home: Path, config: NodeConfig) -> list[str]:
    """Say what of a node lies outside its home, which its owner backs up by other means."""
    inside = home.resolve()
    places = {"its identity": config.identity, "its federation file": config.federation}
    places |= {f"data set {name}": d.path for name, d in config.datasets.items() if d.path is not None}
    found = [f"{what}, {path}" for what, path in places.items() if not path.resolve().is_relative_to(inside)]
    if config.state_url is not None:
        found.append("the jobs of the coordinator, which are in the database of state_url")
    if config.key.source != "default":
        found.append(f"what opens its key ({config.key.source}): without it the restored node does not start")
    return found
