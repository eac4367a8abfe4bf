"""Shows for `veilscore job plan` what a job would do, before anything runs."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from veilscore.cli.display import megabytes, table
from veilscore.models.curve import expected_errors
from veilscore.node.founding import homes_in
from veilscore.tasks.table import answer_to, charges_of, estimate, leakage_table
from veilscore.terms.job import Job
from veilscore.terms.node_config import load_node_config

_BADS = (100, 300, 1_000, 3_000)  # how many a hold-out has is not known before the bank's labels are read


def show_plan(out: Console, job: Job, federation: Path | None, sizes: dict[str, int]) -> None:
    """Print parties and approvals, steps, cost, and the table of who learns what."""
    out.print(f"[bold]{job.name}[/bold]: {job.task}, purpose: {escape(job.purpose)}, digest {job.sha256.hex()[:16]}")
    rows = [(p, _role(job, p), job.datasets[p], _approval(job, p, federation)) for p in job.parties]
    out.print(table("Parties", ("party", "role", "data set", "approval"), rows))
    steps = [(n, s, ", ".join(job.parties_of(s))) for n, s in enumerate(job.steps, start=1)]
    out.print(table("Steps", ("", "step", "parties"), steps))
    _show_cost(out, job, sizes)
    _show_errors(out, job)
    learned = leakage_table(job.parameters)
    out.print(
        table(
            "Who learns what",
            ("step", "the bank", "a holder", "the coordinator"),
            ((row.step, row.bank, row.holder, row.coordinator) for row in learned),
        )
    )


def _role(job: Job, party: str) -> str:
    if party == job.bank:
        return "bank"
    return "holder, lead" if party == job.holders[0] and len(job.holders) > 1 else "holder"


def _approval(job: Job, party: str, federation: Path | None) -> str:
    """Return the answer that the party's policy would give, where its home is on this machine."""
    if federation is None:
        return "its policy decides when the job is submitted"
    home = homes_in(federation).get(party)
    if home is None:
        return "no home here: its policy decides"
    config = load_node_config(home)
    answer = answer_to(job, config)
    if answer.status == "pending":
        return "a person approves: `veilscore job inbox`"
    return f"refused: {answer.reason}" if answer.status == "refused" else "accepted: by its policy"


def _show_errors(out: Console, job: Job) -> None:
    """Print how far the noise of a private job's curve moves what is read off it."""
    mu = [math.sqrt(charge.mu2) for charge in charges_of(job.parameters) if charge.opening == "curve"]
    if not mu:
        return
    errors = [(bads, *expected_errors(mu[0], bads)) for bads in _BADS]
    rows = [(f"{bads:,}", f"± {auc:.4f}", f"± {ks:.4f}") for bads, auc, ks in errors]
    out.print(table("Noise of the curve, at most about", ("bads held out", "AUC", "KS"), rows))


def _show_cost(out: Console, job: Job, sizes: dict[str, int]) -> None:
    if job.bank not in sizes:
        out.print(f"Time and bytes: give the number of rows, for example --rows {job.bank}=120000")
        return
    rows = [(name, f"{cost.seconds:.1f}", megabytes(cost.bytes)) for name, cost in estimate(job, sizes).items()]
    out.print(table("Estimated cost (2 cores, local network)", ("step", "wall s", "sent MB"), rows))
