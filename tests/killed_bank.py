"""Runs one story of lending, killed before each commit in turn and repeated; prints JSON: commits, what is wrong.

Each run is a fork of this process, on a copy of the same book; what the holders were asked goes to a file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import sqlalchemy as sa
from bank_trial import SETTINGS, Clock, Joint, add_firms, consent, new_url, table_of

from party_bank import alarms, applications, campaigns, renewals
from party_bank.applications import ApplicationRequest, by_ladder
from party_bank.book import Book
from party_bank.book_check import check_book
from party_bank.book_tables import (
    ALARMS,
    APPLICATIONS,
    CASES,
    CONTRACTS,
    DECISIONS,
    DRAWS,
    LINES,
    OFFERS,
    RENEWALS,
    REPAYMENTS,
)
from party_bank.contracts import draw, sign
from party_bank.offers import expire, secret_of

FIRMS = ["A", "B", "C"]
KEY = bytes(32)


class WrittenJoint(Joint):
    """Writes down what it is asked, so that the question outlives the process."""

    def __init__(self, steps, path) -> None:
        super().__init__(steps)
        self.path = path

    def __call__(self, firms, *, model, purpose, reference):
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([reference, firms]) + "\n")
        return super().__call__(firms, model=model, purpose=purpose, reference=reference)


def story(folder: Path, kill_at: int = 0) -> int:
    """Do everything; returns how many commits it took."""
    clock = Clock()
    book = Book(f"sqlite:///{folder / 'book.db'}", clock=clock)
    commits = 0

    def count(_db):
        nonlocal commits
        commits += 1
        if commits == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(book._engine, "commit", count)
    joint = WrittenJoint({"A": 2, "B": 1, "C": 0}, folder / "asked")
    campaigns.create(book, SETTINGS, "spring", "tax", "test")
    campaigns.run(book, SETTINGS, joint, "spring", KEY, "test")
    number = book.rows(sa.select(OFFERS.c.number).where(OFFERS.c.firm == "A"))[0]["number"]
    asked = ApplicationRequest("r1", "A", "tax", 6_000_000, 6, number, secret_of(KEY, number))
    contract = applications.apply(book, SETTINGS, joint, by_ladder, asked, "test")["contract"]
    online = ApplicationRequest("r2", "C", "flow", 1_000_000, 6)
    joint.steps["C"] = 1
    other = applications.apply(book, SETTINGS, joint, by_ladder, online, "test")["contract"]
    for one in (contract, other):
        if book.rows(sa.select(CONTRACTS.c.status).where(CONTRACTS.c.number == one)) == [{"status": "draft"}]:
            sign(book, one, "test")  # the first one has ended in a run after its renewal
        draw(book, one, 500_000, f"d-{one}", "test")
    alarms.run(book, SETTINGS, joint, book.today(), "test")
    alarms.settle(book, "W0000001", "true", "lost a customer", "li")
    renewals.prepare(book, SETTINGS, joint, contract, "test")
    renewals.accept(book, SETTINGS, contract, "test")
    clock.days(31)
    expire(book)
    clock.days(-31)  # the run after a kill begins where the first began
    book.close()
    return commits


def outcome(folder: Path) -> dict[str, list]:
    """What the book says at the end, without times and numbers."""
    book = Book(f"sqlite:///{folder / 'book.db'}", clock=Clock())
    keys = ("firm", "product", "state", "status", "amount", "step", "outcome", "kind", "months", "reference", "level",
            "feedback", "bits")  # fmt: skip
    tables = (LINES, OFFERS, DECISIONS, APPLICATIONS, CONTRACTS, DRAWS, REPAYMENTS, RENEWALS, ALARMS, CASES)
    found = {t.name: sorted(str([row.get(key) for key in keys]) for row in table_of(book, t)) for t in tables}
    found["check"] = check_book(book)
    book.close()
    return found


def forked(function, *words) -> int:
    """Run a function in a fork and return how it ended."""
    if (child := os.fork()) == 0:
        try:
            function(*words)
        except BaseException as error:  # noqa: BLE001 - a fork must not go on as its parent
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    base = Path(sys.argv[1])
    start = base / "start"
    start.mkdir()
    book = Book(new_url(start), clock=Clock())
    add_firms(book, FIRMS)
    consent(book, FIRMS, "proactive", "application", "renewal", "watch")
    book.close()

    whole = Path(shutil.copytree(start, base / "whole"))
    n = story(whole)
    wanted, wrong = outcome(whole), []
    questions = set((whole / "asked").read_text().splitlines())
    for kill_at in range(1, n + 1):
        folder = Path(shutil.copytree(start, base / f"killed-{kill_at}"))
        if (code := forked(story, folder, kill_at)) != -signal.SIGKILL:
            wrong.append(f"{kill_at}: not killed but {code}")
        if found := outcome(folder)["check"]:
            wrong.append(f"{kill_at}: after the kill {found}")
        if code := forked(story, folder):
            wrong.append(f"{kill_at}: the repeat ended with {code}")
        if outcome(folder) != wanted:
            wrong.append(f"{kill_at}: ends differently {outcome(folder)} {wanted}")
        if set((folder / "asked").read_text().splitlines()) != questions:
            wrong.append(f"{kill_at}: holders were asked something else")
        shutil.rmtree(folder)
    sys.stdout.write(json.dumps([n, wrong]))


if __name__ == "__main__":
    main()
