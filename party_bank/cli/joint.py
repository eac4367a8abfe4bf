"""Options by which a command of the bank is given the steps of a joint decision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from party_bank.joint import DecisionsFile, JointDecision, no_joint_decision
from veilscore.errors import ConfigError

DecisionsOption = Annotated[
    Path | None,
    typer.Option("--decisions", help="Folder of a decide job (HOME/jobs/JOB), or a CSV: id, step (empty: unknown)."),
]
StepsOption = Annotated[int, typer.Option("--steps", min=1, max=63, help="With a CSV: steps of the decision.")]
HoldersOption = Annotated[str, typer.Option("--holders", help="With a CSV: who took part, tax,registry.")]


def joint_from(decisions: Path | None, steps: int, holders: str) -> JointDecision:
    """Return the joint decision that the options name, or one that refuses to ask."""
    if decisions is None:
        return no_joint_decision
    if decisions.is_dir():
        return DecisionsFile.of_job(decisions)
    named = tuple(name.strip() for name in holders.split(",") if name.strip())
    if not named:
        raise ConfigError("a CSV of decisions needs --holders: who took part, and is charged its bits")
    return DecisionsFile(decisions, steps, named)
