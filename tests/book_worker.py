"""A second process on a book, run by `book_contract.py`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import sqlalchemy as sa
from bank_trial import Clock, add_line, one

from party_bank.book import Book
from party_bank.book_tables import LINES
from party_bank.contracts import draft_contract, draw
from party_bank.due import Recurring, daily, do_due
from party_bank.settings import BankSettings
from veilscore.errors import BookError

CAPPED = BankSettings.model_validate(
    {"products": {"capped": {"ladder": [5_000], "months": 12, "rate_bp": 1, "cap": 40_000}}}
)
NAMES = [f"work-{n}" for n in range(10)]


def say(name):
    sys.stdout.write(f"{name}\n")
    return ""


def take_and_die(_book, _firm, _day):
    sys.stdout.write("taken\n")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    url, what, *words = sys.argv[1:]
    last = Book(url)  # begins where the last entry is, whatever the clock of this machine says
    with last._engine.connect() as db:
        now_s = db.execute(sa.text("SELECT max(at_s) FROM history")).scalar()
    last.close()
    book = Book(url, clock=Clock(now_s))
    if what == "work":
        for n in range(10):
            draw(book, words[0], 1000, f"{os.getpid()}-{n}", "worker")
        do_due(book, [Recurring(name, daily, lambda *_, name=name: say(name)) for name in NAMES])
        for n in range(12):
            with contextlib.suppress(BookError), book.writing("worker") as entry:
                entry.lock_firm(firm := f"cap-{n:03d}")
                if entry.scalar(sa.select(LINES.c.id).where(LINES.c.firm == firm)) is None:
                    line = one(entry, LINES, add_line(entry, firm, "capped"))
                    draft_contract(entry, CAPPED, line, 500_000, 12, 1)
    elif what == "die":
        if os.fork() == 0:
            do_due(book, [Recurring("die", daily, take_and_die)])
        os.wait()


if __name__ == "__main__":
    main()
