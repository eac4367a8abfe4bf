"""The bank's book: what it knows, offered, decided, lent and got back of every firm, in SQLite or PostgreSQL.

Every change is one transaction, is written into a history that the database itself lets nobody change, and moves a
line along the one table of allowed transitions (`book_tables.TRANSITIONS`) or not at all. Two processes may write at
once: SQLite runs one transaction after the other, on PostgreSQL the rows that are changed are locked.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from party_bank.book_tables import FIRMS, HISTORY, LINES, TRANSITIONS
from party_bank.book_version import make_or_check
from party_bank.settings import BankSettings
from veilscore.errors import BookError, StateError
from veilscore.files.database import READS, open_engine, reason
from veilscore.files.private import private_folder

Row = dict[str, Any]
Where = sa.ColumnElement[bool]
_DAY_S = 86400.0
_LAST_ENTRY = sa.select(HISTORY.c.at_s).order_by(HISTORY.c.id.desc()).limit(1)
_MOST_BACK_S, _MOST_AHEAD_S = _DAY_S, 45 * _DAY_S  # that the clock may differ from the last entry


class Book:
    """Keeps the book behind one SQLAlchemy URL.

    clock : seconds since the epoch; days are those of this machine's time zone.
    Raises StateError where the database cannot be read or written, is damaged or of another version.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._seen = clock, threading.local()
        self._engine = open_engine(url, "book.url")
        self._where = self._engine.url.render_as_string(hide_password=True)
        try:
            with self._transaction() as db:
                make_or_check(db, self._where)
        except BaseException:
            self._engine.dispose()
            raise

    @classmethod
    def of_home(cls, home: Path, settings: BankSettings, *, clock: Callable[[], float] = time.time) -> Self:
        """Open the book of a bank's home."""
        private_folder(home / "state")
        return cls(settings.book_url(home), clock=clock)

    def __repr__(self) -> str:
        """Show the place alone, without its password."""
        return f"Book({self._where!r})"

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def writing(self, actor: str) -> Iterator[BookEntry]:
        """Run the block as one transaction; after an error nothing of it stays.

        actor : the person or task that history names.
        Raises BookError where the clock jumped against the last entry.
        """
        with self._transaction() as db:
            entry = BookEntry(db, actor, self._now_s(db))
            yield entry
            entry.write_history()

    @contextlib.contextmanager
    def reading(self) -> Iterator[BookEntry]:
        """Run the block on one state of the book; it waits for no writer, and may change nothing."""
        with self._snapshot() as db:
            yield BookEntry(db, "", self._now_s(db), reads=True)

    @contextlib.contextmanager
    def one_state(self) -> Iterator[None]:
        """Let all that this thread reads within the block see one state of the book, as a page of it has to."""
        with self._snapshot() as db:
            before, self._seen.db = getattr(self._seen, "db", None), db
            try:
                yield
            finally:
                self._seen.db = before

    def rows(self, query: sa.Select[Any]) -> list[Row]:
        """Return what a query finds."""
        with self._snapshot() as db:
            return [dict(row) for row in db.execute(query).mappings()]

    def row(self, query: sa.Select[Any], missing: str) -> Row:
        """Return the one row that a query finds; BookError says what is `missing`."""
        found = self.rows(query)
        if not found:
            raise BookError(missing)
        return found[0]

    def today(self) -> dt.date:
        """Return today's date by the book's clock, which is refused if it jumped."""
        with self._snapshot() as db:
            return day_of(self._now_s(db))

    def confirm_date(self, date: dt.date, actor: str) -> None:
        """Accept the clock although it jumped against the last entry; BookError if the date is another one.

        A person says the date, so that a machine with a wrong clock does not expire all offers.
        """
        now_s = self._clock()
        if date != day_of(now_s):
            raise BookError(f"the clock of this machine says {day_of(now_s)}, not {date}: mend it first")
        with self._transaction() as db:
            entry = BookEntry(db, actor, now_s)
            entry.note("clock", "", {"date": date})
            entry.write_history()

    def _now_s(self, db: Connection) -> float:
        """Return the time of a new entry, never before the last one."""
        now_s = self._clock()
        last_s = db.execute(_LAST_ENTRY).scalar()
        if last_s is None or last_s <= now_s <= last_s + _MOST_AHEAD_S:
            return now_s
        if 0 <= last_s - now_s <= _MOST_BACK_S:
            return float(last_s)
        raise BookError(
            f"the clock says {day_of(now_s)}, the last entry of the book is of {day_of(last_s)}: mend the clock, or if "
            f"it is right say so once with `veilscore bank due --date {day_of(now_s)}`"
        )

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        if (seen := getattr(self._seen, "db", None)) is not None:
            with self._told():
                yield seen
            return
        with self._told(), self._engine.connect().execution_options(**READS) as db:
            yield db  # closed without a commit

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._told(), self._engine.begin() as db:
            yield db

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.IntegrityError as error:  # each caller looks first, so only another process can have come between
            raise BookError("another process entered the same just now; nothing was changed, do it again") from error
        except sa.exc.DBAPIError as error:
            raise StateError(f"book {self._where}: {reason(error)}") from error


class BookEntry:
    """One transaction on the book; what it adds, changes and moves is in the history.

    today, at_s : when it is; reads : whether it may change nothing.
    """

    def __init__(self, db: Connection, actor: str, at_s: float, *, reads: bool = False) -> None:
        self.db, self.actor, self.at_s, self.reads = db, actor, at_s, reads
        self.today = day_of(at_s)
        self._history: list[Row] = []  # written at once at the end, as a statement costs more than its rows

    def add(self, table: sa.Table, **values: Any) -> int:
        """Add a row and return its id."""
        return self.add_all(table, [values])[0]

    def add_all(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Add rows, each with the same keys, and return their ids in order."""
        if not rows:
            return []
        _check_lengths(table, rows)
        adding = table.insert().returning(table.c.id, sort_by_parameter_order=True)
        ids = [int(one) for one in self.db.execute(adding, list(rows)).scalars()]
        self._history += [self._told("added", table, one, row) for one, row in zip(ids, rows, strict=True)]
        return ids

    def add_once(self, table: sa.Table, **values: Any) -> int | None:
        """Add a row unless a unique key of it is taken; returns its id, or None."""
        _check_lengths(table, [values])
        dialect: Any = postgresql if self.db.dialect.name == "postgresql" else sqlite
        adding = dialect.insert(table).values(**values).on_conflict_do_nothing().returning(table.c.id)
        row_id = self.db.execute(adding).scalar()
        if row_id is not None:
            self._history.append(self._told("added", table, row_id, values))
        return None if row_id is None else int(row_id)

    def change(self, table: sa.Table, row_id: int, where: Where | None = None, **values: Any) -> bool:
        """Change a row if `where` still holds, and return whether it did."""
        _check_lengths(table, [values])
        found = table.c.id == row_id if where is None else sa.and_(table.c.id == row_id, where)
        whose = table.c.firm if "firm" in table.c else sa.literal("")
        changed = self.db.execute(table.update().where(found).values(**values).returning(whose)).scalars().all()
        self._history += [self._told("changed", table, row_id, {**values, "firm": firm}) for firm in changed]
        return bool(changed)

    def change_all(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Change rows of a table with a firm, each given with its id and firm and the same other keys."""
        if not rows:
            return
        _check_lengths(table, rows)
        keys = [key for key in rows[0] if key not in {"id", "firm"}]
        changing = table.update().where(table.c.id == sa.bindparam("the_id"))
        changing = changing.values({key: sa.bindparam(f"new_{key}", type_=table.c[key].type) for key in keys})
        self.db.execute(changing, [{"the_id": row["id"], **{f"new_{key}": row[key] for key in keys}} for row in rows])
        self._history += [
            self._told("changed", table, row["id"], {"firm": row["firm"], **{key: row[key] for key in keys}})
            for row in rows
        ]

    def move(self, line: int, state: str, why: str = "") -> None:
        """Move a line to another state; BookError where it may not go there from where it is."""
        self.move_all([line], state, why)

    def move_all(self, lines: Sequence[int], state: str, why: str = "") -> None:
        """Move lines to another state, all or none."""
        sources = [source for source, targets in TRANSITIONS.items() if state in targets]
        for some in _pieces(lines):
            query = sa.select(LINES.c.id, LINES.c.firm, LINES.c.state).where(LINES.c.id.in_(some)).with_for_update()
            found = {row.id: row for row in self.db.execute(query)}
            for line in some:
                if line not in found:
                    raise BookError(f"no line {line} in the book")
                if found[line].state not in sources:
                    raise BookError(f"line {line} is {found[line].state}; it cannot become {state}")
                what = {"firm": found[line].firm, "from": found[line].state, "to": state, "reason": why}
                self._history.append(self._told("moved", LINES, line, what))
            values = {"state": state, "changed_s": self.at_s, "reason": why[:400]}
            self.db.execute(LINES.update().where(LINES.c.id.in_(some)).values(**values))

    def firm(self, firm: str) -> Row:
        """Return a firm; BookError if it is unknown."""
        return self._firm(sa.select(FIRMS).where(FIRMS.c.firm == firm), firm)

    def lock_firm(self, firm: str) -> Row:
        """Return a firm, and let no other transaction lock it before this one ends; BookError if it is unknown."""
        if self.reads:  # SQLite would not mind, PostgreSQL would
            raise BookError("who reads the book locks nothing in it")
        return self._firm(sa.select(FIRMS).where(FIRMS.c.firm == firm).with_for_update(), firm)

    def _firm(self, query: sa.Select[Any], firm: str) -> Row:
        found = self.rows(query)
        if not found:
            raise BookError(f"the book has no firm {firm[:64]!r}: add it with `veilscore bank book import`")
        return found[0]

    def lock_name(self, name: str) -> None:
        """Let no other transaction lock this name before this one ends: of what is summed over many firms."""
        if self.db.dialect.name == "postgresql":  # SQLite runs one transaction after the other anyway
            self.db.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})

    def rows(self, query: sa.Select[Any]) -> list[Row]:
        """Return what a query finds within this transaction."""
        return [dict(row) for row in self.db.execute(query).mappings()]

    def scalar(self, query: sa.Select[Any]) -> Any:
        """Return the one value that a query finds, or None."""
        return self.db.execute(query).scalar()

    def note(self, event: str, firm: str, content: Mapping[str, Any]) -> None:
        """Write into the history what changes no row."""
        self._history.append(self._told(event, None, 0, {**content, "firm": firm}))

    def write_history(self) -> None:
        """Write what this transaction did into the history: the last thing before it is committed."""
        if self._history:
            self.db.execute(HISTORY.insert(), self._history)
            self._history = []

    def _told(self, event: str, table: sa.Table | None, row_id: int, values: Mapping[str, Any]) -> Row:
        content = {
            key: value.isoformat() if isinstance(value, dt.date) else value
            for key, value in values.items()
            if key != "firm"
        }
        return {
            "at_s": self.at_s,
            "actor": self.actor,
            "firm": str(values.get("firm") or ""),
            "event": event,
            "subject": "" if table is None else table.name,
            "subject_id": row_id,
            "content": content,
        }


def day_of(at_s: float) -> dt.date:
    """Return the date of a time in this machine's zone."""
    return dt.datetime.fromtimestamp(at_s).astimezone().date()


@functools.cache
def _lengths(table: sa.Table) -> dict[str, int]:
    return {c.name: c.type.length for c in table.columns if isinstance(c.type, sa.String) and c.type.length}


def _check_lengths(table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse texts that are longer than their column: PostgreSQL would with less to say, SQLite keeps them."""
    for name, most in _lengths(table).items():
        longest = max((len(row[name]) for row in rows if row.get(name)), default=0)
        if longest > most:
            raise BookError(f"{name} in {table.name} has {longest:,} letters; at most {most} are kept: shorten it")


def _pieces(lines: Sequence[int], most: int = 10_000) -> Iterator[Sequence[int]]:
    """Yield parts of a list, since a statement takes only so many values."""
    for start in range(0, len(lines), most):
        yield lines[start : start + most]
