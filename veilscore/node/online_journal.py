"""What a node has answered online, so that a repeat gets the same bytes, also after a restart."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING

from veilscore.errors import ProtocolError, StateError

if TYPE_CHECKING:
    from pathlib import Path

_KEEP_S = 90 * 86400.0
_BUSY_S = 10.0


class Journal:
    """Answers by key, in one SQLite file (mode 0600); usable from any thread.

    A write survives the end of the process, not a loss of power: every key that an answer depends on lives in memory
    and is lost with it, so an opening under new keys cannot meet an old one. Answers older than 90 days are forgotten
    when the node starts, never while its keys live.

    Raises
    ------
    StateError : the file cannot be read or written; names it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answered "
                "(key TEXT PRIMARY KEY, digest BLOB NOT NULL, body BLOB NOT NULL, time_s REAL NOT NULL) WITHOUT ROWID"
            )
            self._db.execute("DELETE FROM answered WHERE time_s < ?", (time.time() - _KEEP_S,))
        except (OSError, sqlite3.Error) as error:
            raise self._failed(error) from error

    def get(self, key: str) -> tuple[bytes, bytes] | None:
        """Digest of what was asked and the answer's bytes, if any."""
        try:
            with self._lock:
                row = self._db.execute("SELECT digest, body FROM answered WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return None if row is None else (bytes(row[0]), bytes(row[1]))

    def keep(self, key: str, digest: bytes, body: bytes) -> bytes:
        """Keep an answer before it leaves; returns the one that counts, which is the first.

        Raises
        ------
        ProtocolError : something else was answered under this key.
        """
        try:
            with self._lock:
                row = (key, digest, body, time.time())
                if self._db.execute("INSERT OR IGNORE INTO answered VALUES (?, ?, ?, ?)", row).rowcount:
                    return body
        except sqlite3.Error as error:
            raise self._failed(error) from error
        kept = self.get(key)
        if kept is None or kept[0] != digest:
            raise ProtocolError("another request was answered under this id; use a new request id")
        return kept[1]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _failed(self, error: Exception) -> StateError:
        return StateError(
            f"{self._path} cannot be read or written ({type(error).__name__}): check disk space, owner and mode, or "
            "move the file away if it is damaged"
        )
