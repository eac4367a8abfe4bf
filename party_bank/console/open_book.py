"""Holds the bank's book open for the console, and reads pages of its tables."""

from __future__ import annotations

import threading
from typing import Any

import sqlalchemy as sa

from party_bank.book import Book, Row
from party_bank.book_tables import FIRMS
from party_bank.settings import FILE, BankSettings, load_settings
from veilscore.console.desk import Visit
from veilscore.console.home import ConsoleHome, WhileUnchanged
from veilscore.console.page import PAGE_ROWS, Listing
from veilscore.data.ids import normalise_ids


class OpenBook:
    """Opens the book at the first page that needs it.

    home : of the bank; settings are read again when bank.yaml changed.
    """

    def __init__(self, home: ConsoleHome) -> None:
        self._home = home
        self._settings = WhileUnchanged(lambda: load_settings(home.path), home.path / FILE)
        self._lock = threading.Lock()
        self._book: Book | None = None

    @property
    def settings(self) -> BankSettings:
        """Return bank.yaml as it is now."""
        return self._settings()

    @property
    def book(self) -> Book:
        """Return the book."""
        with self._lock:
            if self._book is None:
                self._book = Book.of_home(self._home.path, self.settings)
            return self._book

    def close(self) -> None:
        """Close it."""
        with self._lock:
            if self._book is not None:
                self._book.close()
                self._book = None

    def id_of(self, firm: str) -> str:
        """Return a firm's id in the spelling of the book."""
        return str(normalise_ids([firm[:64]], self.settings.id_normaliser)[0])

    def firm(self, firm: str) -> Row:
        """Return a firm of the book; BookError if it has none of this id."""
        missing = f"the book has no firm {firm[:64]!r}: add it with `veilscore bank book import`"
        return self.book.row(sa.select(FIRMS).where(FIRMS.c.firm == self.id_of(firm)), missing)

    def listing(self, visit: Visit, query: sa.Select[Any], order: Any, **asked: str) -> Listing:
        """Return the page of a query that is asked for, and how many rows there are in all."""
        counted = sa.select(sa.func.count().label("n")).select_from(query.order_by(None).subquery())
        total = int(self.book.rows(counted)[0]["n"])
        number = visit.page_number()
        rows: list[Row] = []
        if (number - 1) * PAGE_ROWS < total:
            ordered = order if isinstance(order, tuple) else (order,)
            rows = self.book.rows(query.order_by(*ordered).limit(PAGE_ROWS).offset((number - 1) * PAGE_ROWS))
        return Listing(rows, total, number, asked)


def like(column: sa.Column[str], words: str) -> sa.ColumnElement[bool]:
    """Return whether a column has these words in it, whatever they are."""
    return column.contains(words, autoescape=True)
