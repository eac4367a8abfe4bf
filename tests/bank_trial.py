"""A bank for a trial: settings, firms, a signed contract, and a clock that tests set."""

from __future__ import annotations

import datetime as dt
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import sqlalchemy as sa

from party_bank.book import Book
from party_bank.book_tables import CONTRACTS, FIRMS, LINES
from party_bank.contracts import draft_contract, sign
from party_bank.firms import note_consent
from party_bank.joint import OpenedSteps
from party_bank.settings import BankSettings

NOON = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC).timestamp()
SETTINGS = BankSettings.model_validate(
    {
        "products": {
            "flow": {"ladder": [50_000, 100_000, 200_000], "months": 12, "rate_bp": 435, "cap": 1_000_000},
            "tax": {"ladder": [30_000, 60_000], "months": 6, "rate_bp": 500},
        },
        "firm_cap": 220_000,
        "bits_per_year": {"tax": 10, "registry": 10},
        "decisions": {"proactive": "limit", "application": "limit", "renewal": "renew", "watch": "watch"},
    }
)


class Clock:
    def __init__(self, now_s: float = NOON) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def days(self, n: float) -> None:
        self.now_s += n * 86400


@cache
def empty_file() -> Path:
    """An empty book, made once: a copy is faster than alembic."""
    path = Path(mkdtemp(prefix="vs-book-")) / "book.db"
    Book(f"sqlite:///{path}").close()
    with sa.create_engine(f"sqlite:///{path}").connect() as db:
        db.exec_driver_sql("PRAGMA journal_mode=DELETE")
    return path


def new_url(folder: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_file(), folder / 'book.db')}"


def add_firms(book: Book, firms, manager="li") -> None:
    with book.writing("test") as entry:
        for number, firm in enumerate(firms):
            about = {"industry": ("building", "trade")[number % 2], "region": ("north", "south")[number // 2 % 2]}
            entry.add(FIRMS, firm=firm, name=f"Firm {firm}", manager=manager, since_s=entry.at_s, **about)


def add_line(entry, firm: str, product: str = "flow", state: str = "prospect") -> int:
    times = {"opened_s": entry.at_s, "changed_s": entry.at_s}
    return entry.add(LINES, firm=firm, product=product, state=state, reason="", **times)


def lend(book: Book, firm: str, amount: int = 10_000_000, product: str = "flow", settings=SETTINGS) -> str:
    """A signed contract, without the way to it; returns its number."""
    with book.writing("test") as entry:
        line = add_line(entry, firm, product)
        for state in ("applied", "approved"):
            entry.move(line, state)
        contract = draft_contract(entry, settings, one(entry, LINES, line), amount, 12, 435)
        number = one(entry, CONTRACTS, contract)["number"]
    sign(book, number, "test")
    return number


def one(entry, table, row_id):
    return entry.rows(sa.select(table).where(table.c.id == row_id))[0]


def table_of(book: Book, table):
    return book.rows(sa.select(table).order_by(table.c.id))


class Joint:
    """Stands for the holders: steps by firm, and what was asked of it."""

    def __init__(self, steps) -> None:
        self.steps, self.asked = steps, []

    def __call__(self, firms, *, model, purpose, reference):
        self.asked.append((reference, purpose, tuple(firms)))
        found = {firm: self.steps[firm] for firm in firms if firm in self.steps}
        return OpenedSteps(found, "ab" * 32, ("tax", "registry"), 1.6)


def consent(book, firms, *purposes, days=3650):
    with book.writing("test") as entry:
        for firm in firms:
            for purpose in purposes:
                about = {"document": f"{purpose}-{entry.at_s}", "issuer": "portal", "purpose": purpose}
                times = {"not_before_s": entry.at_s, "expires_s": entry.at_s + days * 86400}
                note_consent(entry, firm, holders=["tax", "registry"], **about, **times)
