"""Options by which a command of the bank is given the steps of a joint decision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from party_bank.joint import DecisionsFile, JointDecision, no_joint_decision
from veilscore.errors import ConfigError

DecisionsOption = Annotated[
    Path | None, typer.Option("--decisions", help="CSV of a joint decision: id, step (empty: unknown), maybe measure.")
]
StepsOption = Annotated[int, typer.Option("--steps", min=1, max=63, help="With --decisions: steps of the model.")]
HoldersOption = Annotated[str, typer.Option("--holders", help="With --decisions: who took part, tax,registry.")]


def joint_from(decisions: Path | None, steps: int, holders: str) -> JointDecision:
    """Return the joint decision that the options name, or one that refuses to ask."""
    if decisions is None:
        return no_joint_decision
    named = tuple(name.strip() for name in holders.split(",") if name.strip())
    if not named:
        raise ConfigError("--decisions needs --holders: who took part, and is charged its bits")
    return DecisionsFile(decisions, steps, named)
