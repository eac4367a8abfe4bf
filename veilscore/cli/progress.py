"""Shows the progress of a job while it runs, and all of it afterwards."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from veilscore.cli.display import coloured, line, megabytes, styled, table
from veilscore.terms.job import ENDED
from veilscore.v1 import control_pb2

_LINE_EVERY_S = 1.0  # a tree takes longer; of what is quicker not every piece is a line


class JobProgress:
    """Shows bars for each party and step on a terminal; elsewhere a line for each change of status and each tree."""

    def __init__(self, out: Console) -> None:
        self.status = ""
        self.error = ""
        self._out = out
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._paces: dict[tuple[str, str], _Pace] = {}
        self._progress = Progress(
            SpinnerColumn("line"),  # characters of every terminal
            TextColumn("{task.fields[step]}", markup=False),
            TextColumn("{task.fields[party]}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.description}", markup=False),
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
            return
        if not event.step:
            return
        pace = self._paces.setdefault((event.step, event.text), _Pace())
        news = event.total > 1 and event.status not in ENDED and pace.took(event.done, time.monotonic())
        text = event.text if event.total <= 1 else f"{event.text} {event.done} of {event.total}{pace.left(event.total)}"
        if event.party:
            self._show_bar(event, text)
        if not self._out.is_terminal:
            where = f"{event.step} {event.party}".strip()
            if event.status in ENDED or event.status == "retry":
                self._out.print(line(f"{where}:", coloured(event.status), event.text), soft_wrap=True)
            elif news:
                self._out.print(f"{event.step}: {text}", soft_wrap=True)

    def _show_status(self, event: control_pb2.JobEvent) -> None:
        if event.status == self.status:
            return
        self.status, self.error = event.status, event.text
        out = self._progress.console
        out.print(line("job", coloured(event.status), event.text if event.status == "waiting" else ""), soft_wrap=True)
        if event.status == "done" and event.text:
            out.print(styled("[yellow]{}[/yellow]", event.text), soft_wrap=True)
        if event.status == "waiting":
            out.print("a party's people have to approve: `veilscore job inbox` at that party", soft_wrap=True)

    def _show_bar(self, event: control_pb2.JobEvent, text: str) -> None:
        key = (event.step, event.party)
        if key not in self._bars:
            self._bars[key] = self._progress.add_task("", total=None, step=event.step, party=event.party)
        done = event.status == "done"
        total = event.total or None
        self._progress.update(
            self._bars[key],
            description=(event.status if event.status in ENDED else text)[:60],
            total=(total or 1) if done else total,
            completed=(total or 1) if done else event.done,
        )


class _Pace:
    """Foretells when a count of equal pieces, like trees, will be through."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._last = (-1, 0.0)
        self._told_s = float("-inf")

    def took(self, done: int, now_s: float) -> bool:
        """Take in how many are done, and return whether that deserves a line: parties tell of the same ones."""
        if done <= self._last[0]:
            return False
        self._first = self._first or (done, now_s)
        self._last = (done, now_s)
        if now_s - self._told_s < _LINE_EVERY_S:
            return False
        self._told_s = now_s
        return True

    def left(self, total: int) -> str:
        """Say how long the rest takes if it is as quick as what was seen; nothing after the first piece alone."""
        if self._first is None or self._last[0] <= self._first[0]:
            return ""
        rate_s = (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
        return f", about {max(total - self._last[0], 0) * rate_s:.0f} s left"


def show_job(out: Console, info: control_pb2.JobInfo) -> None:
    """Print everything about one job."""
    out.print(line(styled("[bold]{}[/bold]", info.job_id), info.task, coloured(info.status)), soft_wrap=True)
    if info.error:
        out.print(styled("[red]{}[/red]", info.error))
    if info.receipt and info.receipt != "kept":
        out.print(styled("[yellow]{}[/yellow]", info.receipt), soft_wrap=True)
    elif info.receipt:
        out.print("receipt: kept at every party (`veilscore evidence receipt`)", soft_wrap=True)
    answers = [
        (a.party, "accepted" if a.accepted else "waits" if a.pending else "refused", a.reason) for a in info.acceptances
    ]
    if answers:
        out.print(table("Acceptances", ("party", "answer", "reason"), answers))
    rows: list[tuple[object, ...]] = []
    said: list[str] = []  # a sentence would make a column of numbers hundreds of lines high
    for step in info.steps:
        rows.append(
            (
                step.step,
                step.attempt,
                "all",
                _word(step.status),
                f"{step.seconds:.2f}" if step.seconds else "",
                "",
                "",
                "",
                "",
            )
        )
        for party, status in sorted(step.party_status.items()):
            measured = _measured(step.party_done[party]) if party in step.party_done else ("",) * 5
            rows.append(("", "", party, _word(status), *measured))
            if status != _word(status):
                said.append(f"{step.step}, try {step.attempt}, {party}: {status}")
    names = ("step", "try", "party", "status", "wall s", "CPU s", "sent MB", "got MB", "peak MB")
    if rows:
        out.print(table("Steps", names, rows))
    for text in said:
        out.print(text)


def _word(status: str) -> str:
    return status.partition(":")[0]


def _measured(done: control_pb2.StepDone) -> tuple[str, ...]:
    sizes = (done.bytes_sent, done.bytes_received, done.peak_memory_bytes)
    return (f"{done.seconds:.2f}", f"{done.cpu_seconds:.2f}", *(megabytes(size) for size in sizes))
