"""`veilscore policy`: a party's own rules and what it would answer to a job; a bank's lending policies as well.

The verbs about lending policies are the bank's own (`veilscore.commands` in pyproject.toml).
"""

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer
import yaml

from veilscore.cli.display import coloured, console, line
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.errors import ConfigError
from veilscore.tasks.table import answer_to
from veilscore.terms.job import load_job
from veilscore.terms.node_config import load_node_config

app = typer.Typer(no_args_is_help=True)
LENDING = [
    verb for one in entry_points(group="veilscore.commands", name="policy") for verb in one.load().registered_commands
]


@app.command("show", epilog="Example: veilscore policy show --home /srv/tax")
def show(
    lending: Annotated[
        str | None, typer.Argument(help="A bank's lending policy, in place of the rules: NAME, NAME@VERSION or a file.")
    ] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print a lending policy as the editor of JDM reads it.")] = False,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Show the policy with every default filled in, as the node reads it from node.yaml; or a lending policy."""
    if lending is not None:
        shown = [verb.callback for verb in LENDING if verb.name == "show"]
        if not shown or shown[0] is None:
            raise ConfigError("lending policies are not installed: run `pip install 'veilscore[bank]'`")
        shown[0](lending, home=home, federation=federation, json=json)
        return
    config = load_node_config(find_home(home, federation, party))
    text = yaml.safe_dump({"policy": config.policy.model_dump(mode="json")}, sort_keys=False, allow_unicode=True)
    console().print(text, soft_wrap=True)


@app.command("check", epilog="Example: veilscore policy check job.yaml --home /srv/tax")
def check(
    job: Annotated[Path, typer.Argument(help="Job file.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Say what this party would answer to a job; nothing is sent. Exit code 1 if it would refuse."""
    config = load_node_config(find_home(home, federation, party))
    answer = answer_to(load_job(job), config)
    console().print(line(f"{config.name}:", coloured(answer.status), f"({answer.reason})"))
    if answer.status == "refused":
        raise typer.Exit(1)


app.registered_commands += [verb for verb in LENDING if verb.name != "show"]
