"""The contracts of the bank's book, lending and alarms, each on a PostgreSQL server of its own."""

from __future__ import annotations

import pytest
from alarm_contract import AlarmContract
from bank_trial import Clock
from book_contract import BookContract
from database_servers import postgres
from lending_contract import LendingContract

from party_bank.book import Book

pytestmark = pytest.mark.slow  # the same promises are tested on SQLite by `make test`


@pytest.fixture(scope="class")
def url():
    with postgres() as found:
        yield found


@pytest.fixture(scope="class")
def clock():
    return Clock()


@pytest.fixture(scope="class")
def book(url, clock):
    book = Book(url, clock=clock)
    yield book
    book.close()


class TestLending(LendingContract):
    pass


class TestPostgres(BookContract):
    pass


class TestAlarms(AlarmContract):
    pass
