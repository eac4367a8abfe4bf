"""The SQLite file of a holder's ledger: how it is opened, and transactions on it.

By the driver itself: a single firm waits for these statements, and SQLAlchemy takes several times what they take.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING

from veilscore.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_BUSY_S = 10.0


def open_ledger_file(path: Path, tables: Sequence[str]) -> sqlite3.Connection:
    """Connection to one file (mode 0600) with these tables, for one thread at a time.

    Raises
    ------
    StateError : the file cannot be made.
    sqlite3.Error : it is no database, or cannot be read or written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StateError(f"ledger {path} cannot be opened: {error.strerror}") from error
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        # NORMAL survives the end of the process; a loss of power may drop the last entries, never damage the file
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
            db.execute(f"PRAGMA {pragma}")
        with transaction(db):
            for table in tables:
                db.execute(table)
    except BaseException:
        db.close()
        raise
    return db


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """What is read and written within is so together, against all processes; nothing of it stays after an error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.rollback()
        raise
