"""Prints for `veilscore job plan`, `show` and `inbox` what a job would do, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from veilscore.cli.display import styled, table
from veilscore.node.founding import homes_in
from veilscore.tasks.job_plan import JobPlan, PlanPart, PlanTable, asked_of, plan_of, proposal_of, spent_of
from veilscore.terms.job import Job
from veilscore.terms.node_config import load_node_config


def planned(
    job: Job,
    home: Path | None = None,
    federation: Path | None = None,
    *,
    rows: dict[str, int] | None = None,
    bads: int | None = None,
    columns: dict[str, int] | None = None,
) -> JobPlan:
    """Return a job with what the user said of it, and with the homes on this machine."""
    found = {} if federation is None else homes_in(federation)
    if home is not None:
        found = {load_node_config(home).name: home}
    homes = {party: (place, load_node_config(place)) for party, place in found.items()}
    return JobPlan(job, homes, federation is not None, rows or {}, bads, columns or {})


def show_plan(out: Console, plan: JobPlan) -> None:
    """Print parties and approvals, steps, cost, who learns what and how much; RefusedError at the end, as foreseen."""
    job = plan.job
    out.print(
        styled("[bold]{}[/bold]: {}, purpose: {}, digest {}", job.name, job.task, job.purpose, job.sha256.hex()[:16])
    )
    _show(out, plan_of(plan))


def show_proposal(out: Console, job: Job, home: Path) -> None:
    """Print for whoever decides on a job: its parameters, who learns what, and what it would spend at this party."""
    _show_head(out, job)
    _show(out, proposal_of(planned(job, home)))


def show_asked(out: Console, job: Job) -> None:
    """Print what a job asks for: its parameters, and who learns what."""
    _show_head(out, job)
    _show(out, asked_of(job))


def show_spent(out: Console, job: Job, job_id: str, home: Path) -> None:
    """Print what a job was charged at a holder so far, where this is the holder's own home."""
    _show(out, spent_of(job, job_id, home, load_node_config(home)))


def _show_head(out: Console, job: Job) -> None:
    out.print(styled("\n[bold]{}[/bold]: {} of {}, purpose: {}", job.name, job.task, job.bank, job.purpose))


def _show(out: Console, parts: Iterable[PlanPart]) -> None:
    for part in parts:
        out.print(table(part.title, part.heads, part.rows) if isinstance(part, PlanTable) else part)
