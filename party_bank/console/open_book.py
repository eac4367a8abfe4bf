"""Holds the bank's book open for the console, and reads pages of its tables."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from party_bank.book import Book, Row
from party_bank.book_tables import FIRMS
from party_bank.settings import FILE, BankSettings, load_settings
from veilscore.console.desk import Visit
from veilscore.console.home import ConsoleHome, WhileUnchanged
from veilscore.console.page import ANYBODY, PAGE_ROWS, Answer, Listing, Page
from veilscore.data.ids import normalise_ids

COUNTED_S, CHOICES_S = 10.0, 300.0
_MOST_RECENT = 500


class OpenBook:
    """Opens the book at the first page that needs it.

    home : of the bank; settings are read again when bank.yaml changed.
    """

    def __init__(self, home: ConsoleHome) -> None:
        self._home = home
        self._settings = WhileUnchanged(lambda: load_settings(home.path), home.path / FILE)
        self._lock, self._counting = threading.Lock(), threading.Lock()
        self._book: Book | None = None
        self._recent: OrderedDict[tuple[Any, ...], tuple[float, list[Row]]] = OrderedDict()

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

    def in_one_state(self, pages: Sequence[Page]) -> tuple[Page, ...]:
        """Return pages of which each that is looked at shows one state of the book, whoever changes it meanwhile."""
        return tuple(replace(page, handle=self._of_one_state(page.handle)) if _reads(page) else page for page in pages)

    def _of_one_state(self, handle: Callable[[Any], Answer]) -> Callable[[Any], Answer]:
        @functools.wraps(handle)
        def run(visit: Visit) -> Answer:
            with self.book.one_state():
                return handle(visit)

        return run

    def recent(self, query: sa.Select[Any], seconds: float) -> list[Row]:
        """Return a query's rows as they were at most so long ago: counting 100,000 firms takes longer than a page."""
        compiled, now_s = query.compile(), time.monotonic()
        key = (str(compiled), *sorted((name, repr(value)) for name, value in compiled.params.items()))
        book, known = self.book, self._recent.get(key)
        if known is not None and now_s - known[0] < seconds:
            return known[1]
        # one at a time: who waits for the same count finds it, and who has an older one goes on with that
        if not self._counting.acquire(blocking=known is None):
            return [] if known is None else known[1]
        try:
            known = self._recent.get(key)
            if known is None or now_s - known[0] >= seconds:
                known = self._recent[key] = (time.monotonic(), book.rows(query))
                while len(self._recent) > _MOST_RECENT:
                    self._recent.popitem(last=False)
            return known[1]
        finally:
            self._counting.release()

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
        number, ordered = visit.page_number(), order if isinstance(order, tuple) else (order,)
        before = (number - 1) * PAGE_ROWS
        rows = self.book.rows(query.order_by(*ordered).limit(PAGE_ROWS).offset(before))
        # what came since the last count is on its page already
        total = max(int(self.recent(counted, COUNTED_S)[0]["n"]), before + len(rows) if rows else 0)
        return Listing(rows, total, number, asked)


def _reads(page: Page) -> bool:
    return page.method == "GET" and page.may is not ANYBODY and not inspect.iscoroutinefunction(page.handle)


def like(column: sa.Column[str], words: str) -> sa.ColumnElement[bool]:
    """Return whether a column has these words in it, whatever they are; by itself only SQLite minds no capitals."""
    return column.icontains(words, autoescape=True)
