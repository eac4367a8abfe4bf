"""Opens and writes in one way the SQLite files that a single firm's score waits for: ledgers and journals.

They are used through the driver itself, because SQLAlchemy takes several times as long as such a statement.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from veilscore.errors import StateError
from veilscore.files.private import private_folder

_BUSY_S = 10.0


def open_sqlite(
    path: Path, tables: Sequence[str], *, durable: bool = True, migrations: Sequence[str] = ()
) -> sqlite3.Connection:
    """Open a file of mode 0600 with these tables, for one thread at a time; it is made if absent.

    durable : what is written outlasts a loss of power, for an fsync each time; otherwise the end of the process alone,
        and a loss of power may drop the last entries, never damage the file.
    migrations : statements that bring a file of version 1 to 2, of 2 to 3 and so on; its version is SQLite's
        `user_version`, and a file without one is of version 1.
    Raises StateError if the file cannot be made or a newer program wrote it, sqlite3.Error if it is no database or
        cannot be read or written.
    """
    try:
        private_folder(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StateError(f"{path} cannot be opened: {error.strerror}; check disk space, owner and mode") from error
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("journal_mode=WAL", f"synchronous={'FULL' if durable else 'NORMAL'}"):
            db.execute(f"PRAGMA {pragma}")
        with transaction(db):
            new = db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
            if not new:
                _migrate(db, path, migrations)
            for table in tables:
                db.execute(table)
            _stamp(db, 1 + len(migrations))
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    found, known = db.execute("PRAGMA user_version").fetchone()[0] or 1, 1 + len(migrations)
    if found > known:
        raise StateError(
            f"{path} is of version {found}, and this program knows {known}: it was written by a newer program; install "
            "that again, or restore the backup that was made before the upgrade"
        )
    for statement in migrations[found - 1 :]:
        db.execute(statement)


def _stamp(db: sqlite3.Connection, version: int) -> None:
    if db.execute("PRAGMA user_version").fetchone()[0] != version:
        db.execute(f"PRAGMA user_version={version}")


@contextlib.contextmanager
def told(what: str, instead: str) -> Iterator[None]:
    """Turn an error of SQLite into a StateError that says which file it is (`what`) and what to do (`instead`)."""
    try:
        yield
    except sqlite3.Error as error:
        raise StateError(
            f"{what} cannot be read or written ({type(error).__name__}): check disk space, owner and mode, or {instead}"
        ) from error


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Run the block as one transaction against all processes; after an error nothing of it stays."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.rollback()
        raise
