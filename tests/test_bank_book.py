"""The bank's book on SQLite: the contract, its file, other versions, and the state machine by random histories."""

from __future__ import annotations

import datetime as dt
import sqlite3
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from bank_trial import NOON, SETTINGS, Clock, add_firms, add_line, new_url, one
from book_contract import BookContract
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from party_bank import book_version
from party_bank.book import Book
from party_bank.book_check import check_book
from party_bank.book_tables import CASES, CONTRACTS, FIRMS, LENT, LINES, STATES, TRANSITIONS
from party_bank.contracts import draft_contract, draw, end, months_after, repay, sign
from party_bank.settings import BankSettings, load_settings, read_amount, shown_amount
from veilscore.errors import BookError, ConfigError, StateError
from veilscore.files.database import open_engine


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    return new_url(tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="module")
def clock():
    return Clock()


@pytest.fixture(scope="module")
def book(url, clock):
    book = Book(url, clock=clock)
    yield book
    book.close()


class TestSqlite(BookContract):
    pass


class Lending(RuleBasedStateMachine):
    """Does to one line whatever comes, beside a model of a few lines: a refusal changes nothing, and sums balance."""

    @initialize()
    def begin(self):
        self.folder = TemporaryDirectory()
        self.clock, self.n = Clock(), 0
        self.book = Book(new_url(Path(self.folder.name)), clock=self.clock)
        add_firms(self.book, ["F"])
        self.state, self.line, self.contract = "closed", 0, None
        self.owed = self.limit = 0

    def attempt(self, allowed, action):
        if allowed:
            return action()
        with pytest.raises(BookError):
            action()
        return None

    @rule()
    def open_a_line(self):
        def action():
            with self.book.writing("test") as entry:
                return add_line(entry, "F")

        made = self.attempt(self.state == "closed", action)
        if made:
            self.line, self.state, self.contract, self.owed = made, "prospect", None, 0

    @rule(state=st.sampled_from(STATES))
    def move(self, state):
        needs_contract = state in LENT and self.contract is None
        if not self.line or needs_contract or (state == "closed" and self.contract):
            return  # services move so, below

        def action():
            with self.book.writing("test") as entry:
                entry.move(self.line, state)

        self.attempt(state in TRANSITIONS[self.state], action)
        self.state = state if state in TRANSITIONS[self.state] else self.state

    @rule(amount=st.sampled_from([5_000_000, 20_000_000, 20_000_001]))
    def approve(self, amount):
        if self.state != "applied":
            return

        def action():
            with self.book.writing("test") as entry:
                made = draft_contract(entry, SETTINGS, one(entry, LINES, self.line), amount, 12, 435)
                entry.move(self.line, "approved")
                return one(entry, CONTRACTS, made)["number"]

        made = self.attempt(amount <= 20_000_000, action)
        if made:
            self.contract, self.state, self.limit = made, "approved", amount
            sign(self.book, made, "test")

    @rule(amount=st.integers(1, 25_000_000), again=st.booleans())
    def draw(self, amount, again):
        if not self.contract:
            return
        self.n += 1
        for _ in range(1 + again):
            self.attempt(
                amount <= self.limit - self.owed or (_ and self.drew),
                lambda: draw(self.book, self.contract, amount, f"d{self.n}", "test"),
            )
            if not _:
                self.drew = amount <= self.limit - self.owed
                self.owed += amount if self.drew else 0
        if self.drew and self.state == "approved":
            self.state = "drawn"

    @rule(amount=st.integers(1, 25_000_000))
    def repay(self, amount):
        if self.contract:
            self.n += 1
            allowed = amount <= self.owed
            self.attempt(allowed, lambda: repay(self.book, self.contract, amount, f"r{self.n}", "test"))
            self.owed -= amount if allowed else 0

    @rule()
    def end(self):
        if self.contract:
            self.attempt(not self.owed, lambda: end(self.book, self.contract, "test"))
            if not self.owed:
                self.contract, self.state = None, "closed"

    @rule(hours=st.integers(-20, 300))
    def time_passes(self, hours):
        self.clock.now_s = max(self.clock.now_s + hours * 3600, NOON)
        try:
            self.book.today()
        except BookError:
            self.book.confirm_date(dt.datetime.fromtimestamp(self.clock.now_s).astimezone().date(), "test")
        self.clock.now_s = min(self.clock.now_s, NOON + 300 * 86400)  # within the term

    @invariant()
    def the_book_says_so(self):
        if self.line:
            state = self.book.rows(sa.select(LINES.c.state).where(LINES.c.id == self.line))[0]["state"]
            assert state == self.state

    def teardown(self):
        assert check_book(self.book) == []
        self.book.close()
        self.folder.cleanup()


TestLending = Lending.TestCase
TestLending.settings = hypothesis_settings(max_examples=12, stateful_step_count=25, deadline=None)


def test_the_file_of_a_home_is_private(tmp_path):
    book = Book.of_home(tmp_path, BankSettings())
    add_firms(book, ["A"])
    for path in (tmp_path / "state").glob("book.db*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    book.close()


def altered(tmp_path, statement):
    url = new_url(tmp_path)
    with sqlite3.connect(tmp_path / "book.db") as db:
        db.execute(statement)
    db.close()
    return url


def test_who_reads_waits_for_no_writer_and_changes_nothing(tmp_path):
    book = Book(f"sqlite:///{tmp_path / 'book.db'}")
    try:
        add_firms(book, ["A"])
        with book.writing("test") as entry:
            entry.change(FIRMS, 1, name="new")
            with book.reading() as seen:  # with a lock this would wait for ten seconds and fail
                before = [row["name"] for row in seen.rows(sa.select(FIRMS))]
                assert [row["name"] for row in book.rows(sa.select(FIRMS))] == before != ["new"]
        assert one(book, FIRMS, 1)["name"] == "new"
    finally:
        book.close()


def test_a_newer_book_is_refused(tmp_path):
    url = altered(tmp_path, "UPDATE book_version SET version_num = '9999'")
    for action in (Book, book_version.upgrade):
        with pytest.raises(StateError, match="is of version 9999, newer than this program: install the newer one"):
            action(url)


def of_version(tmp_path, version):
    """A book as an earlier program made it."""
    from alembic import command
    from alembic.config import Config

    url = f"sqlite:///{tmp_path / 'book.db'}"
    with open_engine(url, "book.url").begin() as db:
        config = Config(attributes={"connection": db, "version_table": "book_version"})
        config.set_main_option("script_location", str(Path(book_version.__file__).with_name("migrations")))
        command.upgrade(config, version)
    return url


def test_an_older_book_is_upgraded_when_asked(tmp_path):
    url = of_version(tmp_path, "0001")
    with pytest.raises(StateError, match=r"older than this program: .* `veilscore bank book upgrade`"):
        Book(url)
    assert book_version.upgrade(url) == ("0001", book_version.VERSIONS[-1])
    book = Book(url)
    assert book.rows(sa.select(CASES)) == []
    book.close()


def test_an_older_book_with_alarms_of_somebody_else_is_kept(tmp_path):
    url = of_version(tmp_path, "0001")
    with sqlite3.connect(tmp_path / "book.db") as db:
        db.execute("INSERT INTO alarms VALUES (1, 'F', 1, 1, '2026-01-01', 1, 'open', '', '')")
    db.close()
    with pytest.raises(StateError, match="the book has alarms that this program did not write"):
        book_version.upgrade(url)


def test_foreign_tables_are_refused(tmp_path):
    url = altered(tmp_path, "DROP TABLE book_version")
    with pytest.raises(StateError, match="give the book a database of its own"):
        Book(url)


def test_without_alembic_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "alembic", None)
    with pytest.raises(ConfigError, match=r"run `pip install 'veilscore\[bank\]'`"):
        Book(f"sqlite:///{tmp_path / 'new.db'}")


def test_a_damaged_book(tmp_path):
    (tmp_path / "book.db").write_bytes(b"not a database, " * 1000)
    with pytest.raises(StateError, match="damaged; restore it from a backup"):
        Book(f"sqlite:///{tmp_path / 'book.db'}")


def test_a_password_is_not_shown():
    with pytest.raises(StateError) as caught:
        Book("postgresql+psycopg://user:topsecret@127.0.0.1:1/db?connect_timeout=2")
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(("text", "amount"), [("250000", 25_000_000), ("1,250,000.5", 125_000_050), ("0.07", 7)])
def test_amounts(text, amount):
    assert read_amount(text) == amount
    assert read_amount(shown_amount(amount)) == amount


@pytest.mark.parametrize("text", ["", "-1", "1.234", "1e6", "ten", "1" * 14, "²"])
def test_what_is_no_amount(text):
    with pytest.raises(ConfigError, match="is no amount"):
        read_amount(text)


def test_months():
    assert months_after(dt.date(2026, 1, 31), 1) == dt.date(2026, 2, 28)
    assert months_after(dt.date(2026, 12, 15), 12) == dt.date(2027, 12, 15)
    assert months_after(dt.date(2027, 11, 30), 3) == dt.date(2028, 2, 29)


def test_settings_name_what_is_wrong(tmp_path):
    (tmp_path / "bank.yaml").write_text("products: {flow: {ladder: [2, 1], rate_bp: 1}}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"products\.flow: the limits of a ladder must rise"):
        load_settings(tmp_path)
    (tmp_path / "bank.yaml").write_text("renewals: {from_days: 30, to_days: 30}", encoding="utf-8")
    with pytest.raises(ConfigError, match="from_days must be more than to_days"):
        load_settings(tmp_path)
    with pytest.raises(ConfigError, match=r"no product 'x' in bank\.yaml; it has: flow, tax"):
        SETTINGS.product("x")
