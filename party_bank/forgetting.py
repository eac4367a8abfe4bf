"""What a bank keeps of a firm besides its node: book, portal, reports, rows written for a campaign.

Rows of the book stay under a pseudonym, without what they told of the firm: they are the bank's own count of bits and
limits. A contract holds all of it for as long as the law says (`retention.lending_years` in bank.yaml).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from party_bank.assistants.sections import folder_of
from party_bank.book import Book, BookEntry, Row
from party_bank.book_tables import (
    CASES,
    CONSENTS,
    CONTRACTS,
    DECISIONS,
    FIRMS,
    HISTORY,
    LENT,
    LINES,
    OFFERS,
    REPORTS,
    WORK,
    metadata,
)
from party_bank.portal.store import FOLDER as PORTAL
from party_bank.portal.store import OwnerStore
from party_bank.settings import BOOK, FILE, BankSettings, load_settings
from veilscore.console.store import FILE as PORTAL_FILE
from veilscore.evidence.erasures import FORGOTTEN
from veilscore.files.naming import naming
from veilscore.node.forgetting import Keeper, KeptThing, Subject, rewritten
from veilscore.terms.node_config import NodeConfig

ACTOR = "forget"
_DAYS = 365.25
# what rows told of a firm; where a decision rested on a filed basis, or came of a job, that stays
_TOLD: dict[str, dict[str, Any]] = {
    FIRMS.name: {"name": "", "industry": "", "region": "", "manager": ""},
    LINES.name: {"reason": ""},
    DECISIONS.name: {"inputs": {}, "reasons": []},
    CASES.name: {"next_step": "", "note": ""},
    REPORTS.name: {"path": ""},
    WORK.name: {"result": ""},
}
_STAYING_INPUTS = ("basis", "job")
_TRIGGERS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'history'"


def keepers(home: Path, _node: NodeConfig) -> Sequence[Keeper]:
    """Return the bank's places; none where there is no bank.yaml."""
    if not (home / FILE).is_file():
        return ()
    settings = load_settings(home)
    book = BookRows(home, settings)
    return (book, Owners(home, book), Reports(home, book), CampaignRows(home))


class BookRows(Keeper):
    """The rows of the book."""

    def __init__(self, home: Path, settings: BankSettings) -> None:
        self._home, self._settings = home, settings

    @contextlib.contextmanager
    def _open(self) -> Iterator[Book | None]:
        if self._settings.book.url is None and not (self._home / BOOK).is_file():
            yield None
            return
        book = Book.of_home(self._home, self._settings)
        try:
            yield book
        finally:
            book.close()

    def held(self, firm: Subject) -> str:
        """Return why the book has to keep the firm; "" where it may go."""
        with self._open() as book:
            query = sa.select(CONTRACTS.c.status, CONTRACTS.c.ends_on).where(CONTRACTS.c.firm.in_(firm.names))
            return "" if book is None else _held(book.rows(query), self._settings, book.today())

    def lent(self, firm: Subject) -> bool:
        """Return whether a contract of the firm runs."""
        query = sa.select(CONTRACTS.c.id).where(CONTRACTS.c.firm.in_(firm.names), CONTRACTS.c.status != "ended")
        with self._open() as book:
            return book is not None and bool(book.rows(query))

    def find(self, firm: Subject) -> Iterator[KeptThing]:
        """Yield how many rows of each table name the firm."""
        why = self.held(firm)
        with self._open() as book:
            if book is None:
                return
            database = self._home / BOOK
            paths = (database, database.with_name(f"{database.name}-wal"))
            for table in metadata.sorted_tables:
                with book.reading() as entry:
                    count = sum(1 for _ in _renamed(entry, table, firm.names, firm.stand_in))
                if count:
                    yield KeptThing(
                        f"book: {table.name}", f"table {table.name} of the book", count, why, paths * bool(why)
                    )

    def forget(self, firm: Subject) -> None:
        """Put the pseudonym in place of the id and blank what was told, in one transaction."""
        if self.held(firm):
            return
        with self._open() as book:
            if book is None:
                return
            for name in firm.names:
                with book.writing(ACTOR) as entry:
                    if entry.rows(sa.select(FIRMS.c.id).where(FIRMS.c.firm == name)):
                        _end(entry, name)
                        entry.note(FORGOTTEN, name, {})
                        entry.write_history()
                    with _changeable(entry):
                        _rename(entry, name, firm.stand_in)

    def finish(self) -> None:
        """Write the file anew; a database server cleans up by itself."""
        if self._settings.book.url is None and (self._home / BOOK).is_file():
            rewritten(self._home / BOOK)

    def over(self) -> list[str]:
        """Return the firms whose time is over: nothing came of it, or what was lent ended long ago."""
        with self._open() as book:
            return [] if book is None else _over(book, self._settings)


class Owners(Keeper):
    """Who may enter the portal for the firm."""

    def __init__(self, home: Path, book: BookRows) -> None:
        self._home, self._book = home, book

    @contextlib.contextmanager
    def _open(self) -> Iterator[OwnerStore | None]:
        if not (self._home / PORTAL / PORTAL_FILE).is_file():
            yield None
            return
        store = OwnerStore(self._home)
        try:
            yield store
        finally:
            store.close()

    def find(self, firm: Subject) -> Iterator[KeptThing]:
        """Yield whether the portal knows the firm."""
        with self._open() as store:
            count = 0 if store is None else sum(store.knows(name) for name in firm.names)
        if count:
            lent = self._book.lent(firm)
            path = self._home / PORTAL / PORTAL_FILE
            paths = (path, path.with_name(f"{path.name}-wal")) if lent else ()
            why = "a contract of the firm runs, and its owner enters by it" if lent else ""
            yield KeptThing("portal", "who may enter the portal for it", count, why, paths)

    def forget(self, firm: Subject) -> None:
        """Remove links, passkeys, sessions, and which digest is the firm's."""
        if self._book.lent(firm):
            return
        with self._open() as store:
            if store is None:
                return
            for name in firm.names:
                store.forget_firm(name)

    def finish(self) -> None:
        """Write the file anew."""
        if (self._home / PORTAL / PORTAL_FILE).is_file():
            rewritten(self._home / PORTAL / PORTAL_FILE)


class Reports(Keeper):
    """Credit reports on the firm and holders' sections."""

    def __init__(self, home: Path, book: BookRows) -> None:
        self._home, self._book = home, book

    def find(self, firm: Subject) -> Iterator[KeptThing]:
        """Yield the folder of the firm's reports."""
        why = self._book.held(firm)
        for name in firm.names:
            files = [path for path in folder_of(self._home, name).rglob("*") if path.is_file()]
            if files:
                yield KeptThing("reports", "credit reports and sections", len(files), why, tuple(files) if why else ())

    def forget(self, firm: Subject) -> None:
        """Remove the folder."""
        if not self._book.held(firm):
            for name in firm.names:
                shutil.rmtree(folder_of(self._home, name), ignore_errors=True)


class CampaignRows(Keeper):
    """Rows that a campaign copied for its job, which copies them anew each time."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "batches"

    def find(self, firm: Subject) -> Iterator[KeptThing]:
        """Yield the files that have the firm's row."""
        for path in naming(self._folder, firm.names):
            yield KeptThing("batches", f"batches/{path.name}", 1)

    def forget(self, firm: Subject) -> None:
        """Remove the files: a campaign that goes on writes them again, from firms of the book."""
        for path in naming(self._folder, firm.names):
            path.unlink(missing_ok=True)


def _held(contracts: Sequence[dict[str, Any]], settings: BankSettings, today: dt.date) -> str:
    if any(row["status"] != "ended" for row in contracts):
        return "a contract of the firm runs: end it first"
    ends = [row["ends_on"] for row in contracts]
    until = max(ends, default=today) + dt.timedelta(days=round(settings.retention.lending_years * _DAYS))
    if not ends or until <= today:
        return ""
    return f"the law keeps what was lent until {until.isoformat()} (retention.lending_years in bank.yaml)"


def _over(book: Book, settings: BankSettings) -> list[str]:
    rows: dict[str, list[dict[str, Any]]] = {
        row["firm"]: [] for row in book.rows(sa.select(FIRMS.c.firm)) if not row["firm"].startswith(FORGOTTEN)
    }
    for row in book.rows(sa.select(CONTRACTS.c.firm, CONTRACTS.c.status, CONTRACTS.c.ends_on)):
        rows.get(row["firm"], []).append(row)
    with book.reading() as entry:
        today, before_s = entry.today, entry.at_s - settings.retention.prospects_days * 86400.0
        last = sa.select(HISTORY.c.firm, sa.func.max(HISTORY.c.at_s).label("at_s")).group_by(HISTORY.c.firm)
        lately = {row["firm"] for row in entry.rows(last) if row["at_s"] > before_s}
        open_lines = {row["firm"] for row in entry.rows(sa.select(LINES.c.firm).where(LINES.c.state.in_(LENT)))}
    return [
        firm
        for firm, contracts in rows.items()
        if firm not in lately and firm not in open_lines and not _held(contracts, settings, today)
    ]


def _texts(table: sa.Table) -> list[sa.Column[Any]]:
    return [column for column in table.columns if isinstance(column.type, (sa.String, sa.JSON))]


def _renamed(entry: BookEntry, table: sa.Table, names: Sequence[str], stand_in: str) -> Iterator[tuple[int, Row]]:
    """Yield number and new values of each row that names the firm: a text with another id, of which its is a part, not.

    Databases have no common search for words, so they find candidates and the rest is done here.
    """
    texts, words = _texts(table), [re.compile(rf"(?<![0-9A-Za-z_]){re.escape(name)}(?![0-9A-Za-z_])") for name in names]
    found = sa.or_(*(sa.cast(c, sa.Text).contains(name, autoescape=True) for c in texts for name in names))
    for row in entry.rows(sa.select(table.c.id, *texts).where(found)):
        values: Row = {}
        for column in texts:
            old = row[column.name]
            if column.name == "firm":  # an id alone, whatever signs it has
                new = stand_in if old in names else old
            elif isinstance(column.type, sa.JSON):
                new = json.loads(_with(words, stand_in, json.dumps(old, ensure_ascii=False)))
            else:
                new = old if old is None else _with(words, stand_in, old)
            if new != old:
                values[column.name] = new
        if values:
            yield row["id"], values


def _with(words: Sequence[re.Pattern[str]], stand_in: str, text: str) -> str:
    for word in words:
        text = word.sub(stand_in, text)
    return text


def _end(entry: BookEntry, firm: str) -> None:
    """Close what is open of a firm, as the book would: lines, offers, consents, work."""
    lines = entry.rows(sa.select(LINES.c.id).where(LINES.c.firm == firm, LINES.c.state.not_in((*LENT, "closed"))))
    entry.move_all([row["id"] for row in lines], "closed", FORGOTTEN)
    for row in entry.rows(sa.select(OFFERS.c.id).where(OFFERS.c.firm == firm, OFFERS.c.status == "open")):
        entry.change(OFFERS, row["id"], status="withdrawn")
    for row in entry.rows(sa.select(CONSENTS.c.id).where(CONSENTS.c.firm == firm, CONSENTS.c.revoked_s.is_(None))):
        entry.change(CONSENTS, row["id"], revoked_s=entry.at_s)
    for row in entry.rows(sa.select(CASES.c.id).where(CASES.c.firm == firm, CASES.c.status == "open")):
        entry.change(CASES, row["id"], status="closed", closed_s=entry.at_s, feedback="other")
    for row in entry.rows(sa.select(WORK.c.id).where(WORK.c.firm == firm, WORK.c.status != "done")):
        entry.change(WORK, row["id"], status="done")


@contextlib.contextmanager
def _changeable(entry: BookEntry) -> Iterator[None]:
    """Let the history be changed within this transaction, after which nobody may again."""
    if entry.db.dialect.name == "postgresql":
        entry.db.execute(sa.text("ALTER TABLE history DISABLE TRIGGER history_is_kept"))
        yield
        entry.db.execute(sa.text("ALTER TABLE history ENABLE TRIGGER history_is_kept"))
        return
    entry.db.exec_driver_sql("PRAGMA secure_delete=ON")
    triggers = [tuple(row) for row in entry.db.exec_driver_sql(_TRIGGERS)]
    for name, _ in triggers:
        entry.db.exec_driver_sql(f'DROP TRIGGER "{name}"')
    yield
    for _, made in triggers:
        entry.db.exec_driver_sql(made)


def _rename(entry: BookEntry, firm: str, stand_in: str) -> None:
    """Blank what rows told of a firm, and put the pseudonym in place of its id, wherever that stands."""
    _blank(entry, firm)
    found = entry.rows(sa.select(FIRMS).where(FIRMS.c.firm == firm))
    known = bool(entry.rows(sa.select(FIRMS.c.id).where(FIRMS.c.firm == stand_in)))
    if found and not known:  # children name their firm, so the new one comes before the old one goes
        values = {key: value for key, value in found[0].items() if key != "id"} | {"firm": stand_in}
        entry.db.execute(FIRMS.insert().values(**values))
    for table in metadata.sorted_tables:
        for number, values in list(_renamed(entry, table, [firm], stand_in)):
            if values := {name: one for name, one in values.items() if (table, name) != (FIRMS, "firm")}:
                entry.db.execute(table.update().where(table.c.id == number).values(**values))
    if found:
        entry.db.execute(FIRMS.delete().where(FIRMS.c.firm == firm))
        if not known:  # the history knows it by its number
            entry.db.execute(FIRMS.update().where(FIRMS.c.firm == stand_in).values(id=found[0]["id"]))


def _blank(entry: BookEntry, firm: str) -> None:
    for table in (one for one in metadata.sorted_tables if one.name in _TOLD):
        for row in entry.rows(sa.select(table).where(table.c.firm == firm)):
            values = _blanked(table.name, row)
            entry.db.execute(table.update().where(table.c.id == row["id"]).values(**values))
    for row in entry.rows(sa.select(HISTORY).where(HISTORY.c.firm == firm)):
        content = {**row["content"], **_blanked(row["subject"], row["content"])}
        entry.db.execute(HISTORY.update().where(HISTORY.c.id == row["id"]).values(content=content))


def _blanked(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return the new values of those columns of a row that told of the firm."""
    found = {key: value for key, value in _TOLD.get(table, {}).items() if key in row}
    if "inputs" in found:
        found["inputs"] = {key: row["inputs"][key] for key in _STAYING_INPUTS if key in row["inputs"]}
    return found
