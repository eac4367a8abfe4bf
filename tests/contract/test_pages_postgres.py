"""The console's pages of a bank whose book is on PostgreSQL: those of the same book on SQLite, to the letter."""

from __future__ import annotations

import re
from difflib import unified_diff

import pytest
import sqlalchemy as sa
import yaml
from console_bank import FIRM, filled_bank
from console_visits import OpenedConsole, with_people
from database_servers import postgres
from trial_federation import make_homes

from party_bank.book import Book
from party_bank.book_tables import metadata

pytestmark = pytest.mark.slow  # a server of its own

PATHS = (
    "/portfolio", "/firms", "/firms?q=jade+RIVER", "/firms?q=%25", "/firms?q=_", "/firms?q=%5C", "/firms?q=9131&page=2",
    "/firms?region=%E5%8D%8E%E4%B8%9C&industry=food", f"/firms/{FIRM}", f"/firms/{FIRM.lower()}", "/firms/none",
    "/applications", "/applications?status=referred", "/applications/w-0", "/applications/none", "/campaigns",
    "/campaigns/spring", "/campaigns/spring?manager=lin&status=open", "/renewals", "/renewals?status=due", "/alarms",
    "/alarms?status=open&manager=wang", "/firms?page=999999", "/campaigns/" + 90 * "x",
)  # fmt: skip


def copied(path, url):
    """A book of SQLite, on a server as well."""
    Book(url).close()
    both = sa.create_engine(f"sqlite:///{path}"), sa.create_engine(url)
    with both[0].connect() as source, both[1].begin() as target:
        for table in metadata.sorted_tables:
            if rows := [dict(row) for row in source.execute(sa.select(table)).mappings()]:
                target.execute(table.insert(), rows)
    for engine in both:
        engine.dispose()


def read(home):
    opened = OpenedConsole(home)
    try:
        browser = opened.browser("all")
        found = {path: browser.get(path) for path in PATHS}
    finally:
        opened.close()
    return {path: (one.status, plain(one.text)) for path, one in found.items()}


def plain(text):
    """A page without what is new in each."""
    return re.sub(r'name="csrf" value="[^"]*"|<code>[0-9a-f]{16}</code>|data-csrf="[^"]*"', "", text)


def test_pages_are_those_of_sqlite(tmp_path):
    home = with_people(make_homes(tmp_path) / "bank", per_minute=100_000)
    filled_bank(home)
    on_sqlite = read(home)
    with postgres() as url:
        copied(home / "state" / "book.db", url)
        settings = home / "bank.yaml"
        content = yaml.safe_load(settings.read_text())
        settings.write_text(yaml.safe_dump(content | {"book": {"url": url}}))
        on_server = read(home)
    told = {path: differences(on_sqlite[path], on_server[path]) for path in PATHS}
    assert {path: found for path, found in told.items() if found} == {}
    assert {path for path, (status, _) in on_sqlite.items() if status == 500} == set()


def differences(one, other):
    """Status and words of a page that differ from another's."""
    words = unified_diff(one[1].split(), other[1].split(), lineterm="", n=0)
    return [f"{one[0]} {other[0]}"] * (one[0] != other[0]) + [word for word in words if word[1:2] not in "-+@"]
