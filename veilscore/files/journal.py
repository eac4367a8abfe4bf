"""Keeps what a node has answered online, so that a repeated request gets the same bytes, even after a restart."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from veilscore.errors import ProtocolError, VeilscoreError
from veilscore.files.sqlite_file import open_sqlite, told, transaction

_KEEP_S = 90 * 86400.0
CUT = b"cut"  # digest of no request: of an id that a kill used up, which is kept for ever
_KEEP = "INSERT OR IGNORE INTO answered VALUES (?, ?, ?, ?)"
_TABLES = (
    """CREATE TABLE IF NOT EXISTS answered
    (key TEXT PRIMARY KEY, digest BLOB NOT NULL, body BLOB NOT NULL, time_s REAL NOT NULL) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS unfinished (key TEXT PRIMARY KEY, rest BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS marks (key TEXT PRIMARY KEY, mark INTEGER NOT NULL) WITHOUT ROWID",
)


@dataclass(frozen=True, repr=False)
class Answer:
    """An answer to be kept: see `Journal.keep`."""

    key: str
    digest: bytes
    body: bytes
    rest: bytes = b""


class Journal:
    """Keeps answers by key in one SQLite file of mode 0600, which any thread may use.

    A write survives the end of the process, not a loss of power: every key that an answer depends on lives in memory
    and is lost with it, so an opening under new keys cannot meet an old one. Answers older than 90 days are forgotten
    when the node starts, never while its keys live. Answers are looked up by a connection of their own, which waits for
    no write.
    Every method raises StateError, which names the file, if it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock, self._looking = threading.Lock(), threading.Lock()  # of the connection that writes, of the other
        with self._told():
            self._db = open_sqlite(path, _TABLES, durable=False)
            self._reads = open_sqlite(path, (), durable=False)
            self._db.execute("DELETE FROM answered WHERE time_s < ? AND digest <> ?", (time.time() - _KEEP_S, CUT))
            self._db.execute("DELETE FROM unfinished WHERE key NOT IN (SELECT key FROM answered)")

    def get(self, key: str) -> tuple[bytes, bytes] | None:
        """Return the digest of the request and the bytes of the answer, or None."""
        with self._told(), self._looking:
            row = self._reads.execute("SELECT digest, body FROM answered WHERE key = ?", (key,)).fetchone()
        return None if row is None else (bytes(row[0]), bytes(row[1]))

    def keep(self, key: str, digest: bytes, body: bytes, rest: bytes = b"") -> bytes:
        """Keep an answer before it leaves, and return the one that counts: the first under this key.

        rest : what is left to be done once the answer has left; `unfinished` lists it until it is said to be
            `finished`.
        Raises ProtocolError where another request was answered under this key.
        """
        (kept,) = self.keep_all([Answer(key, digest, body, rest)])
        if isinstance(kept, VeilscoreError):
            raise kept
        return kept

    def keep_all(self, answers: Sequence[Answer]) -> list[bytes | VeilscoreError]:
        """Keep several answers as `keep` does, in one write; return for each what counts, or the error."""
        now_s, new = time.time(), list[bool]()
        single = len(answers) == 1 and not answers[0].rest
        with self._told(), self._lock, nullcontext() if single else transaction(self._db):
            for one in answers:
                new.append(self._db.execute(_KEEP, (one.key, one.digest, one.body, now_s)).rowcount > 0)
                if new[-1] and one.rest:
                    self._db.execute("INSERT OR REPLACE INTO unfinished VALUES (?, ?)", (one.key, one.rest))
        return [one.body if kept else self._before(one) for one, kept in zip(answers, new, strict=True)]

    def _before(self, answer: Answer) -> bytes | VeilscoreError:
        """Return what was kept before under the key; the error where that was of another request."""
        kept = self.get(answer.key)
        if kept is not None and kept[0] == answer.digest:
            return kept[1]
        return ProtocolError("another request was answered under this id; use a new request id")

    def unfinished(self) -> list[tuple[str, bytes, bytes]]:
        """Return key, answer and rest of every answer after which something is left to be done."""
        query = "SELECT key, body, rest FROM unfinished JOIN answered USING (key)"
        with self._told(), self._lock:
            return [(key, bytes(body), bytes(rest)) for key, body, rest in self._db.execute(query)]

    def finished(self, keys: Sequence[str]) -> None:
        """Record that nothing is left to be done after some answers."""
        with self._told(), self._lock, transaction(self._db):
            self._db.executemany("DELETE FROM unfinished WHERE key = ?", [(key,) for key in keys])

    def mark(self, key: str) -> int:
        """Return the mark of a counter, 0 at first; unlike answers marks are kept for ever."""
        with self._told(), self._lock:
            row = self._db.execute("SELECT mark FROM marks WHERE key = ?", (key,)).fetchone()
        return 0 if row is None else int(row[0])

    def raise_mark(self, key: str, mark: int) -> None:
        """Keep a mark, unless a higher one is kept; it outlasts a loss of power, since what it counts leaves next."""
        query = "INSERT INTO marks VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET mark = MAX(mark, excluded.mark)"
        with self._told(), self._lock:
            self._db.execute("PRAGMA synchronous=FULL")
            try:
                self._db.execute(query, (key, mark))
            finally:
                self._db.execute("PRAGMA synchronous=NORMAL")

    def close(self) -> None:
        """Close the file."""
        with self._lock, self._looking:
            self._reads.close()
            self._db.close()

    def _told(self) -> AbstractContextManager[None]:
        return told(str(self._path), "move the file away if it is damaged")
