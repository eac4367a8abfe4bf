"""`veilscore policy`: a party's own rules, and what it would answer to a job."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from veilscore.cli.display import coloured, console, line
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.tasks.table import answer_to
from veilscore.terms.job import load_job
from veilscore.terms.node_config import load_node_config

app = typer.Typer(no_args_is_help=True)


@app.command("show", epilog="Example: veilscore policy show --home /srv/tax")
def show(*, home: HomeOption = None, federation: FederationOption = None, party: PartyOption = None) -> None:
    """Show the policy with every default filled in, as the node reads it from node.yaml."""
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
