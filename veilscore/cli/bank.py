"""`veilscore bank`: the bank's own work.

Its commands are an institution's, found by the entry point `veilscore.commands` of pyproject.toml.
"""

from importlib.metadata import entry_points

import typer

from veilscore.errors import ConfigError
from veilscore.files.extras import missing_of


def _commands() -> typer.Typer:
    """Return the bank's group of commands; ConfigError where the extra is missing."""
    missing = missing_of("bank")
    if missing:
        raise ConfigError(f"`veilscore bank` needs {', '.join(missing)}: run `pip install 'veilscore[bank]'`")
    for entry in entry_points(group="veilscore.commands", name="bank"):
        found: typer.Typer = entry.load()
        return found
    raise ConfigError("the bank's commands are not installed: install veilscore again, then this works")


app = _commands()
