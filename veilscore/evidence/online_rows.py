"""Keeps what was opened of online scores and decisions as rows of one file: files of their own cost a score too much.

HOME/audit/online/opened.db   one row a part that a holder opened: the bank's record of it, what the holder had answered
NAME.json, NAME.reply         the same in files, in bundles for auditors and from earlier versions
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from veilscore.files.sqlite_file import open_sqlite, told, transaction

ROWS = "opened.db"
_TABLES = (
    """CREATE TABLE IF NOT EXISTS opened (name TEXT NOT NULL PRIMARY KEY, record BLOB NOT NULL, reply BLOB NOT NULL,
    time_s REAL NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS opened_when ON opened (time_s)",
)
_SLICE_S = 60.0  # rows go together that were kept within so long


@dataclass(frozen=True, repr=False)
class OpenedRow:
    """What is kept of one part: the bank's record (JSON), and the holder's answer as it came."""

    name: str
    record: bytes
    reply: bytes

    @property
    def size(self) -> int:
        """Return how many bytes it counts for."""
        return len(self.record) + len(self.reply)


class OpenedRows:
    """Writes rows, from any thread one at a time; they outlast the process, not always a loss of power.

    folder : of the file, which is made when the first row comes, and again where somebody deleted it.
    Every method raises StateError where the file cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ROWS
        self._db: sqlite3.Connection | None = None

    def keep(self, rows: Sequence[OpenedRow]) -> None:
        """Keep rows, in one write."""
        now_s = time.time()
        with self._told(), self._transaction() as db:
            values = [(one.name, one.record, one.reply, now_s) for one in rows]
            db.executemany("INSERT OR REPLACE INTO opened VALUES (?, ?, ?, ?)", values)

    def slices(self) -> list[tuple[float, int]]:
        """Return of each span of time in which rows were kept its end and how many bytes they are, the oldest first."""
        query = f"""SELECT CAST(time_s / {_SLICE_S} AS INTEGER) AS slice, SUM(LENGTH(record) + LENGTH(reply))
        FROM opened GROUP BY slice ORDER BY slice"""  # noqa: S608 - a constant
        if not self._path.exists():
            return []
        with self._told():
            return [((number + 1) * _SLICE_S, int(size)) for number, size in self._open().execute(query)]

    def forget(self, before_s: float) -> None:
        """Delete rows that were kept before a time."""
        with self._told(), self._transaction() as db:
            db.execute("DELETE FROM opened WHERE time_s < ?", (before_s,))

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None or not self._path.exists():
            self.close()
            self._db = open_sqlite(self._path, _TABLES, durable=False)
        return self._db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._open()
        with transaction(db):
            yield db

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return told(f"{self._path}, which auditors need,", "move it away if it is damaged")


class OpenedParts:
    """Reads what was kept in a folder, as rows or as files.

    `record` and `reply` raise OSError where there is none, StateError where the rows cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def record(self, name: str) -> bytes:
        """Return the bank's record of a part."""
        return self._column("record", name, f"{name}.json")

    def reply(self, name: str) -> bytes:
        """Return what the holder had answered."""
        return self._column("reply", name, f"{name}.reply")

    def records(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and record of all parts; what cannot be read is left out."""
        with self._rows() as db:
            for name, record in () if db is None else db.execute("SELECT name, record FROM opened"):
                yield name, bytes(record)
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(OSError):
                yield path.stem, path.read_bytes()

    def _column(self, column: str, name: str, file: str) -> bytes:
        with self._rows() as db:
            query = f"SELECT {column} FROM opened WHERE name = ?"  # noqa: S608 - one of two words
            row = None if db is None else db.execute(query, (name,)).fetchone()
        return (self._folder / file).read_bytes() if row is None else bytes(row[0])

    @contextlib.contextmanager
    def _rows(self) -> Iterator[sqlite3.Connection | None]:
        """Open the rows; None where there are only files, or a loss of power took the table with its first rows."""
        path = self._folder / ROWS
        if not path.is_file():
            yield None
            return
        with (
            told(f"{path}, which auditors need,", "restore it from backup"),
            contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as db,
        ):
            made = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'opened'").fetchone()
            yield None if made is None else db
