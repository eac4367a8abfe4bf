"""Options by which a user says whose home a command uses."""

import os
from pathlib import Path
from typing import Annotated

import typer

from veilscore.errors import ConfigError
from veilscore.keys.identity import Identity, load_identity
from veilscore.node.founding import homes_in
from veilscore.terms.node_config import load_node_config

HOME_VARIABLE = "VEILSCORE_HOME"
HomeOption = Annotated[
    Path | None, typer.Option("--home", help=f"Your party's home; default ${HOME_VARIABLE}, or the current folder.")
]
FederationOption = Annotated[
    Path | None, typer.Option("--federation", help="Folder of a local federation, in place of --home.")
]
PartyOption = Annotated[str | None, typer.Option("--party", help="With --federation: whose home; default the bank's.")]


def identity_of(person: Path) -> Identity:
    """Return the identity in a person's own home, or of a folder that is an identity itself."""
    inside = person / "identity"
    return load_identity(inside if inside.is_dir() else person)


def find_home(home: Path | None, federation: Path | None = None, party: str | None = None) -> Path:
    """Return the home whose identity the command uses.

    home : given by the user, or VEILSCORE_HOME, or the current folder if it is a home.
    federation : folder of a local federation; then it is `party`'s home in it, or that of its only bank.
    Raises ConfigError where there is no such home, or more than one could be meant.
    """
    if home is not None and federation is not None:
        raise ConfigError("give --home or --federation, not both")
    if federation is None:
        home = home or Path(os.environ.get(HOME_VARIABLE) or ".")
        if not (home / "node.yaml").is_file():
            raise ConfigError(
                f"{home.resolve()} is no node's home: give --home HOME, --federation FOLDER (a local federation), or "
                f"set {HOME_VARIABLE}"
            )
        return home
    homes = homes_in(federation)
    if party is not None:
        if party not in homes:
            raise ConfigError(f"{federation} has no home of {party}; it has {', '.join(homes)}")
        return homes[party]
    banks = [path for path in homes.values() if load_node_config(path).role == "bank"]
    if len(banks) != 1:
        raise ConfigError(f"{federation} has {len(banks)} banks; say whose home with --home")
    return banks[0]
