"""Recurring work: a row of the book for each task, firm and due date, so that a repeat does nothing.

One command (`veilscore bank due`) is run by a timer as often as one likes. A row is taken by one process at a time;
what a process that died had taken is free again at once on the same machine, and after its lease elsewhere.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from party_bank.book import Book, BookEntry, Row
from party_bank.book_tables import WORK
from veilscore.errors import BookError, VeilscoreError

_LEASE_S = 900.0
_LONGEST = 400  # characters of a result


@dataclass(frozen=True)
class Recurring:
    """Names a task that comes back.

    plan : yields (firm or "" for all, due date) of what is due by now; what was planned before is left out by the book.
    run : does it for a firm and a due date and says in a few words what was done. It may be killed anywhere and run
        again: whatever it does must be harmless to repeat.
    """

    name: str
    plan: Callable[[BookEntry], Iterable[tuple[str, dt.date]]]
    run: Callable[[Book, str, dt.date], str]


@dataclass(frozen=True)
class Done:
    """Says how one piece of work ended: done, or failed with the reason; a failed one is tried at the next call."""

    task: str
    firm: str
    due_on: dt.date
    status: str
    result: str


def do_due(book: Book, tasks: Sequence[Recurring], *, worker: str = "") -> list[Done]:
    """Do what is due and was not done, and return what this call did.

    worker : default host and process.
    """
    worker = worker or f"{socket.gethostname()[:60]}:{os.getpid()}"
    by_name = {task.name: task for task in tasks}
    with book.writing("due") as entry:
        for task in tasks:
            for firm, due_on in task.plan(entry):
                row = {"task": task.name, "firm": firm, "due_on": due_on, "status": "waiting", "worker": ""}
                entry.add_once(WORK, **row, lease_s=0.0, attempts=0, result="")
        waiting = entry.rows(_open(by_name, entry.today))
    return [done for row in waiting if (done := _do(book, by_name[row["task"]], row, worker)) is not None]


def open_work(book: Book, tasks: Sequence[Recurring]) -> list[Row]:
    """Return the rows that are planned and not done, oldest first; nothing is planned or done."""
    return book.rows(_open({task.name: task for task in tasks}, dt.date.max))


def _open(names: Iterable[str], today: dt.date) -> sa.Select[tuple[int]]:
    found = sa.select(WORK).where(WORK.c.task.in_(list(names)), WORK.c.status != "done", WORK.c.due_on <= today)
    return found.order_by(WORK.c.due_on, WORK.c.id)


def _do(book: Book, task: Recurring, row: Row, worker: str) -> Done | None:
    """Do one row unless another process has it or did it meanwhile."""
    with book.writing("due") as entry:
        held = sa.and_(WORK.c.status == "running", WORK.c.lease_s > entry.at_s)
        free = sa.and_(WORK.c.status != "done", sa.not_(held))
        if row["status"] == "running" and _is_dead(row["worker"]):
            free = sa.or_(free, sa.and_(WORK.c.status == "running", WORK.c.worker == row["worker"]))
        taken = {"status": "running", "worker": worker, "lease_s": entry.at_s + _LEASE_S}
        if not entry.change(WORK, row["id"], free, **taken, attempts=row["attempts"] + 1):
            return None
    status, result = "failed", "stopped by an error of the program"
    try:
        status, result = "done", task.run(book, row["firm"], row["due_on"])
    except VeilscoreError as error:
        status, result = "failed", str(error)
    finally:
        with book.writing("due") as entry:
            mine = sa.and_(WORK.c.status == "running", WORK.c.worker == worker)
            kept = entry.change(WORK, row["id"], mine, status=status, result=result[:_LONGEST], lease_s=0.0)
    if not kept:
        raise BookError(f"{task.name} took longer than {_LEASE_S / 60:.0f} minutes, and another process took it over")
    return Done(task.name, row["firm"], row["due_on"], status, result)


def _is_dead(worker: str) -> bool:
    """Return whether a worker was a process of this machine that is no more."""
    host, _, number = worker.rpartition(":")
    if host != socket.gethostname()[:60] or not number.isdigit():
        return False
    with contextlib.suppress(PermissionError):  # somebody else's process: it lives
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            return True
    return False


def daily(entry: BookEntry) -> Iterator[tuple[str, dt.date]]:
    """Plan work for all firms once a day."""
    yield "", entry.today


def monthly(entry: BookEntry) -> Iterator[tuple[str, dt.date]]:
    """Plan work for all firms on the first of each month."""
    yield "", entry.today.replace(day=1)
