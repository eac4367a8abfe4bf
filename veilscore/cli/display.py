"""The command shows tables, and the progress of a job while it runs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from veilscore.v1 import control_pb2

_COLOUR = {"done": "green", "accepted": "green", "failed": "red", "refused": "red", "cancelled": "yellow"}
_COLOUR |= {"confirmed": "green", "differs": "red", "cannot be audited": "yellow"}
ENDED = frozenset({"done", "failed", "refused", "cancelled"})


def console() -> Console:
    """Return standard output as it is now, since tests replace it."""
    return Console()


def errors_console() -> Console:
    """Return standard error."""
    return Console(stderr=True)


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    """Return a table of plain values; columns that end in a unit hold numbers, which stand to the right."""
    names = list(columns)
    result = Table(title=title, title_justify="left")
    for name in names:
        result.add_column(name, justify="right" if name.endswith((" s", " MB", "try")) else "left", overflow="fold")
    for row in rows:
        result.add_row(*(coloured(str(value)) for value in row))
    return result


def coloured(text: str) -> str:
    """Return a status word in its colour, and everything else as it is."""
    colour = _COLOUR.get(text.split(":", maxsplit=1)[0])
    return f"[{colour}]{escape(text)}[/{colour}]" if colour else escape(text)


def megabytes(n_bytes: float) -> str:
    """Return bytes as MB with two digits after the point."""
    return f"{n_bytes / 1e6:.2f}"


def moment(at_s: float, *, seconds: bool = False) -> str:
    """Return seconds since the epoch as a date; a peer may state one that no calendar has."""
    try:
        return f"{dt.datetime.fromtimestamp(at_s, dt.UTC):{'%Y-%m-%d %H:%M:%S' if seconds else '%Y-%m-%d %H:%M UTC'}}"
    except (ValueError, OverflowError, OSError):
        return "no date"


class JobProgress:
    """Shows bars for each party and step on a terminal, and one line a change of status elsewhere."""

    def __init__(self, out: Console) -> None:
        self.status = ""
        self.error = ""
        self._out = out
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[step]:<10}"),
            TextColumn("{task.fields[party]:<12}"),
            BarColumn(bar_width=30),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=out,
            disable=not out.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: control_pb2.JobEvent) -> None:
        """Take in one event."""
        if not event.step and not event.party:
            self._show_status(event)
        elif event.party and event.step:
            self._show_bar(event)
        if not self._out.is_terminal and event.step and (event.status in ENDED or event.status == "retry"):
            self._say(event)

    def _show_status(self, event: control_pb2.JobEvent) -> None:
        if event.status != self.status:
            self.status, self.error = event.status, event.text
            text = event.text if event.status == "waiting" else ""
            self._progress.console.print(f"job {coloured(event.status)} {escape(text)}".rstrip())
            if event.status == "done" and event.text:
                self._progress.console.print(f"[yellow]{escape(event.text)}[/yellow]", soft_wrap=True)
            if event.status == "waiting":
                self._progress.console.print("a party's people have to approve: `veilscore job inbox` at that party")

    def _show_bar(self, event: control_pb2.JobEvent) -> None:
        key = (event.step, event.party)
        if key not in self._bars:
            self._bars[key] = self._progress.add_task("", total=None, step=event.step, party=event.party)
        done = event.status == "done"
        total = event.total or None
        self._progress.update(
            self._bars[key],
            description=escape(event.status if event.status in ENDED else event.text)[:60],
            total=(total or 1) if done else total,
            completed=(total or 1) if done else event.done,
        )

    def _say(self, event: control_pb2.JobEvent) -> None:
        where = f"{event.step} {event.party}".strip()
        self._out.print(f"{where}: {coloured(event.status)} {escape(event.text)}".rstrip())


def show_job(out: Console, info: control_pb2.JobInfo) -> None:
    """Print everything about one job."""
    out.print(f"[bold]{escape(info.job_id)}[/bold]  {escape(info.task)}  {coloured(info.status)}")
    if info.error:
        out.print(f"[red]{escape(info.error)}[/red]")
    if info.receipt and info.receipt != "kept":
        out.print(f"[yellow]{escape(info.receipt)}[/yellow]", soft_wrap=True)
    elif info.receipt:
        out.print("receipt: kept at every party (`veilscore evidence receipt`)", soft_wrap=True)
    answers = [
        (a.party, "accepted" if a.accepted else "waits" if a.pending else "refused", a.reason) for a in info.acceptances
    ]
    if answers:
        out.print(table("Acceptances", ("party", "answer", "reason"), answers))
    rows: list[tuple[object, ...]] = []
    for step in info.steps:
        rows.append((step.step, step.attempt, "all", step.status, f"{step.seconds:.2f}", "", "", "", ""))
        for party, status in sorted(step.party_status.items()):
            measured = _measured(step.party_done[party]) if party in step.party_done else ("",) * 5
            rows.append(("", "", party, status, *measured))
    names = ("step", "try", "party", "status", "wall s", "CPU s", "sent MB", "got MB", "peak MB")
    if rows:
        out.print(table("Steps", names, rows))


def _measured(done: control_pb2.StepDone) -> tuple[str, ...]:
    sizes = (done.bytes_sent, done.bytes_received, done.peak_memory_bytes)
    return (f"{done.seconds:.2f}", f"{done.cpu_seconds:.2f}", *(megabytes(size) for size in sizes))
