"""Options by which a command of the bank is given a joint decision: its steps in a file, or the way to decide now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from party_bank.alarms import WATCH
from party_bank.cli.homes import OpenBank
from party_bank.joint import DecisionsFile, JointDecision, OpenedSteps, no_joint_decision
from party_bank.own_node import OwnNode
from veilscore.cli.display import console
from veilscore.errors import ConfigError

DecisionsOption = Annotated[
    Path | None,
    typer.Option("--decisions", help="Folder of a decide job (HOME/jobs/JOB), or a CSV: id, step (empty: unknown)."),
]
StepsOption = Annotated[int, typer.Option("--steps", min=1, max=63, help="With a CSV: steps of the decision.")]
HoldersOption = Annotated[str, typer.Option("--holders", help="With a CSV: who took part, tax,registry.")]
OnlineOption = Annotated[
    bool, typer.Option("--online", help="Let the bank's node decide now, with the firm's token that was imported.")
]
JobOption = Annotated[
    Path | None,
    typer.Option("--job", help="Run this job of task decide for just these firms; the same again waits for it."),
]


@contextlib.contextmanager
def joint_decision(
    bank: OpenBank,
    decisions: Path | None,
    steps: int,
    holders: str,
    *,
    online: bool = False,
    job: Path | None = None,
) -> Iterator[JointDecision]:
    """Give the joint decision that the options name, or one that refuses to ask; a connection ends with the block.

    Of `due`, online and job may stand together: the job is then for the alarms, and what is about one firm is online.
    """
    if decisions is not None and (online or job is not None):
        raise ConfigError("give --decisions, or the way to decide now, not both")
    if decisions is not None:
        yield _of_file(decisions, steps, holders)
    elif online or job is not None:
        with OwnNode(bank.home) as node:
            yield _decided_now(bank, node, job, online=online)
    else:
        yield no_joint_decision


def _decided_now(bank: OpenBank, node: OwnNode, job: Path | None, *, online: bool) -> JointDecision:
    from party_bank.joint_batch import BatchJoint  # noqa: PLC0415 - loads the models
    from party_bank.joint_online import OnlineJoint  # noqa: PLC0415 - loads numpy

    one = OnlineJoint(bank.book, node)
    if job is None:
        return one
    if bank.settings.dataset is None:
        raise ConfigError("bank.yaml names no data set whose rows the job takes: write dataset: main")
    source, actor = bank.settings.dataset, bank.actor
    many = BatchJoint(bank.book, node, bank.node, job, source=source, actor=actor, told=_tell)

    def decide(firms: Sequence[str], *, model: str, purpose: str, reference: str) -> OpenedSteps:
        way = one if online and purpose != WATCH else many
        return way(firms, model=model, purpose=purpose, reference=reference)

    return decide


def _of_file(decisions: Path, steps: int, holders: str) -> DecisionsFile:
    if decisions.is_dir():
        return DecisionsFile.of_job(decisions)
    named = tuple(name.strip() for name in holders.split(",") if name.strip())
    if not named:
        raise ConfigError("a CSV of decisions needs --holders: who took part, and is charged its bits")
    return DecisionsFile(decisions, steps, named)


def _tell(job_id: str) -> None:
    console().print(f"waiting for job {job_id}; `veilscore job watch` shows its steps", soft_wrap=True)
