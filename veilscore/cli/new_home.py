"""Makes a new home by the options that `veilscore identity create` and `veilscore join request` have in common."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, styled
from veilscore.cli.partner import chosen_partner
from veilscore.errors import ConfigError
from veilscore.keys.identity import KEY_FILE, RECOVERY_FILE, Identity
from veilscore.node.founding import make_home
from veilscore.terms.policy import Partner

DaysOption = Annotated[float, typer.Option(min=1, help="Validity of the certificate.")]
PassphraseOption = Annotated[
    Path | None, typer.Option(help="Encrypt the key with the first line of this file (mode 0600).")
]
AskOption = Annotated[bool, typer.Option("--ask-passphrase", help="Encrypt the key with a passphrase you type.")]


def new_home(
    home: Path,
    name: str,
    role: str,
    days: float,
    *,
    passphrase_file: Path | None,
    ask: bool,
    partner: Partner | None,
) -> Identity:
    """Make a home as these options say, tell its owner what to look after, and return the identity."""
    key = _key_section(passphrase_file, ask=ask)
    preset = chosen_partner(partner) if role == "holder" and not (home / "node.yaml").exists() else "standard"
    identity = make_home(home, name, role, days, key=key, partner=preset)
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
    return identity


def _key_section(passphrase_file: Path | None, *, ask: bool) -> dict[str, str] | None:
    """Return the `key` section that the options of a passphrase say; None without any."""
    if ask and passphrase_file is not None:
        raise ConfigError("give --passphrase-file or --ask-passphrase, not both")
    if ask:
        return {"source": "prompt"}
    return None if passphrase_file is None else {"source": "file", "path": str(passphrase_file.resolve())}
