"""Write the reports of a training job, made from what each party keeps in its job folder.

The bank's report has metrics, weights and bins by number; a holder's has its own columns with their own labels. What
neither may show is checked by `veilscore.reports.data`; here is only where each figure comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from veilscore.files.store import write_atomically
from veilscore.reports import report
from veilscore.reports.bank import bank_report
from veilscore.reports.data import ReportData, StepCost
from veilscore.reports.holder import holder_report
from veilscore.reports.page import render
from veilscore.reports.tables import write_tables
from veilscore.tasks.context import StepContext
from veilscore.tasks.table import protocol_for
from veilscore.terms.training import Training
from veilscore.wire.protocol import Protocol


def write_reports(context: StepContext) -> None:
    """Write report.html and report.json of the party of a finished training job into its job folder.

    Raises StateError where the folder lacks what the steps save, or cannot be written.
    """
    if context.role == "coordinator" or not isinstance(context.job.parameters, Training):
        return
    if context.role == "bank":
        data = bank_report(context.store, context.job)
    else:
        data = holder_report(
            context.store,
            context.job,
            context.session.party,
            account=context.account(),
            promises_less=context.node.policy.promises_less(context.job.bank),
        )
    save_report(data, context.store.path)


def save_report(data: ReportData, folder: Path) -> Path:
    """Write report.json, report.html and its tables, mode 0600, and return the path of the page."""
    text, page = data.model_dump_json(indent=1), render(data)
    write_atomically(folder / "report.json", lambda file: file.write(text.encode()))
    write_atomically(folder / "report.html", lambda file: file.write(page.encode("utf-8", "replace")))
    write_tables(data, folder)
    return folder / "report.html"


def add_costs(report_json: Path, costs: Iterable[StepCost]) -> Path:
    """Put times and bytes, known only when a job is over, into a written report and its page.

    A holder's report takes its own costs only.
    """
    data = report.read_report(report_json)
    shown = [cost for cost in costs if data.audience != "holder" or cost.party == data.party]
    return save_report(data.changed(costs=shown), report_json.parent)


def merged_report(bank: ReportData, holders: Sequence[ReportData]) -> ReportData:
    """Join all views under the holders' own column names; for demonstrations only, and the page says so."""
    renamed: dict[tuple[str, str], str] = {}
    for view in holders:
        published = [column.column for column in bank.bins if column.party == view.party]
        own = [column.column for column in view.bins]
        if len(published) == len(own):  # both in the order of the owner's code map
            renamed |= {(view.party, alias): title for alias, title in zip(published, own, strict=True)}

    def titled(parts: Iterable[Any]) -> list[Any]:
        return [part.changed(column=renamed.get((part.party, part.column), part.column)) for part in parts]

    changes: dict[str, Any] = {"bins": titled(bank.bins)}
    if bank.model:
        changes["model"] = bank.model.changed(rows=titled(bank.model.rows), dropped=titled(bank.model.dropped))
    if bank.boosting:
        trees = bank.boosting
        changes["boosting"] = trees.changed(importance=titled(trees.importance), unused=titled(trees.unused))
    if bank.stability:
        changes["stability"] = bank.stability.changed(columns=titled(bank.stability.columns))
    return report.merge(bank.changed(**changes), holders)


def role_with_report(step: str, context: StepContext) -> Protocol[None]:
    """Run one party's role in a step and, after the last step of a job, write the party's report of it."""
    yield from protocol_for(step, context)
    if step == context.job.steps[-1]:
        write_reports(context)
