"""What `veilscore job show` says of a finished job's hold-out or decisions, from files in the party's own home."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from veilscore.cli.display import styled, table
from veilscore.errors import VeilscoreError
from veilscore.files.store import JobStore


def show_measures(out: Console, report_json: Path) -> None:
    """Print ranking and cut-offs with their standard errors, where the party's report has them."""
    from veilscore.reports.report import read_report  # noqa: PLC0415 - loads what draws pages

    if not report_json.is_file():
        return
    try:
        data = read_report(report_json)
    except VeilscoreError as error:
        out.print(styled("[yellow]no measures: {}[/yellow]", error.message))
        return
    rows = []
    for part in data.evaluations:
        d = part.discrimination
        noise = "" if d.auc_noise is None else f"AUC {d.auc_noise:.4f}, KS {d.ks_noise:.4f}"
        rows.append((part.name, _with_error(d.auc, d.auc_se), _with_error(d.ks, d.ks_se), noise))
    if rows:
        out.print(table("Hold-out (± standard error)", ("score", "AUC", "KS", "of which noise"), rows))
    if data.cutoffs:
        shown = [
            (c.band, f"{c.n:.0f}", _percent(c.bad_rate, c.bad_rate_se), _percent(c.bads_declined, c.bads_declined_se))
            for c in data.cutoffs
        ]
        out.print(table("Cut-offs by band", ("band", "firms", "bad rate", "bads declined"), shown))


def show_counts(out: Console, job: Path) -> None:
    """Print how many firms reached each step of a decision, from decided.json or sized.json of a job's folder."""
    if not job.is_dir():
        return  # no step began here; a store would make the folder
    store = JobStore(job)
    for name in ("decided", "sized"):
        if not store.has(name):
            continue
        try:
            said = store.load_json(name)
        except VeilscoreError as error:
            out.print(styled("[yellow]no counts by step: {}[/yellow]", error.message))
            continue
        noise = f", deviation of the noise {said['noise']}" if "noise" in said else ""
        title = f"Decision {said['decision']}: firms by step, of {said['n_rows']:,}{noise}"
        rows = [(step, f"{said['steps'][step]:,}") for step in said.get("order", said["steps"])]
        out.print(table(title, ("step", "firms"), rows))


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


def _percent(value: float | None, error: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}%" if error is None else f"{100 * value:.1f} ± {100 * error:.1f}%"
