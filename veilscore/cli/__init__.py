"""The `veilscore` command.

Exit codes: 0 done, 1 a job failed, was refused or cancelled, 2 something the user has to correct.
"""

import os
import sys
from typing import Annotated

import typer
from rich.panel import Panel

from veilscore import __version__
from veilscore.cli import (
    approvals,
    audit,
    consent,
    datasets,
    evidence,
    example,
    jobs,
    keys,
    models,
    nodes,
    policies,
    sandbox,
    scoring,
    screening,
    setup,
)
from veilscore.cli.display import errors_console
from veilscore.errors import VeilscoreError

_DEBUG = "VEILSCORE_DEBUG"

app = typer.Typer(
    name="veilscore",
    help=(
        "Banks and outside data holders score firms together; raw data never leaves its owner.\n\n"
        "A trial on one machine, three parties and a coordinator, each a process of its own:\n\n"
        "  veilscore simulate trial/data --firms 20000 --seed 1\n\n"
        "  veilscore init trial --data trial/data --party bank:bank --party tax:holder --party registry:holder\n\n"
        "  veilscore up trial\n\n"
        "  veilscore plan job.yaml --federation trial\n\n"
        "  veilscore run job.yaml --federation trial\n\n"
        "  veilscore down trial"
    ),
    epilog="Every command has its own --help with an example.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
setup.add_to(app)
app.add_typer(example.app)
keys.add_to(app)
nodes.add_to(app)
jobs.add_to(app)
approvals.add_to(app)
sandbox.add_to(app)
models.add_to(app)
scoring.add_to(app)
screening.add_to(app)
consent.add_to(app)
policies.add_to(app)
datasets.add_to(app)
evidence.add_to(app)
audit.add_to(app)


def _show_version(value: bool) -> None:  # noqa: FBT001 - signature of a typer callback
    if value:
        typer.echo(f"veilscore {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    debug: Annotated[
        bool, typer.Option("--debug", envvar=_DEBUG, help="Show the traceback of an error, for a bug report.")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ[_DEBUG] = "1"


def main() -> None:
    """Entry point: an error becomes one panel and exit code 2."""
    try:
        app()
    except VeilscoreError as error:
        if os.environ.get(_DEBUG):
            raise
        errors_console().print(Panel(str(error), title=type(error).__name__, border_style="red", title_align="left"))
        sys.exit(2)
