"""The contract of alarms on a PostgreSQL server made for this test, apart: its book is changed by hand."""

from __future__ import annotations

import pytest
from alarm_contract import AlarmContract
from bank_trial import Clock
from database_servers import postgres

from party_bank.book import Book

pytestmark = pytest.mark.slow  # the same promises are tested on SQLite by `make test`


@pytest.fixture(scope="module")
def url():
    with postgres() as found:
        yield found


@pytest.fixture(scope="module")
def clock():
    return Clock()


@pytest.fixture(scope="module")
def book(url, clock):
    book = Book(url, clock=clock)
    yield book
    book.close()


class TestAlarms(AlarmContract):
    pass
