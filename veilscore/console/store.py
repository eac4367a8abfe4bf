"""Keeps who may enter the console and who is in it: HOME/console/console.db.

Invitations and sessions stand in it as SHA-256 of their secrets, so that the file lets nobody in. What people did waits
here until the node has written it into its own log (`link.py`).
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veilscore.errors import IdentityError, RefusedError
from veilscore.files.sqlite_file import open_sqlite, told, transaction

FOLDER = "console"
FILE = "console.db"
MOST_PASSKEYS = 10
_TOUCH_S = 15.0  # how often a session's last request is written down
_TABLES = (
    """CREATE TABLE IF NOT EXISTS invitations (token_sha256 BLOB NOT NULL PRIMARY KEY, person VARCHAR(80) NOT NULL,
    expires_s DOUBLE NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS passkeys (credential BLOB NOT NULL PRIMARY KEY, person VARCHAR(80) NOT NULL,
    public_key BLOB NOT NULL, sign_count INTEGER NOT NULL, made_s DOUBLE NOT NULL, used_s DOUBLE)""",
    """CREATE TABLE IF NOT EXISTS sessions (id_sha256 BLOB NOT NULL PRIMARY KEY, person VARCHAR(80) NOT NULL,
    entered_by VARCHAR(20) NOT NULL, certificate VARCHAR(64) NOT NULL, csrf VARCHAR(64) NOT NULL,
    began_s DOUBLE NOT NULL, seen_s DOUBLE NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS acts (number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, at_s DOUBLE NOT NULL,
    body TEXT NOT NULL, logged INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS vouches (credential BLOB NOT NULL PRIMARY KEY, certificate BLOB NOT NULL,
    vouch BLOB NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS submissions (job_id VARCHAR(80) NOT NULL PRIMARY KEY,
    person VARCHAR(80) NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS waiting_acts ON acts (number) WHERE logged = 0",
    # what somebody did stays as it was written
    """CREATE TRIGGER IF NOT EXISTS acts_stay BEFORE UPDATE OF number, at_s, body ON acts
    BEGIN SELECT RAISE(ABORT, 'acts stay as they are'); END""",
    """CREATE TRIGGER IF NOT EXISTS acts_remain BEFORE DELETE ON acts
    BEGIN SELECT RAISE(ABORT, 'acts stay as they are'); END""",
)


@dataclass(frozen=True)
class ConsoleSession:
    """One person's stay, from entering to leaving.

    entered_by : passkey, certificate or oidc.
    certificate : fingerprint of the client certificate that the session is bound to; "" of others.
    csrf : what its forms carry.
    """

    person: str
    entered_by: str
    certificate: str
    csrf: str = field(repr=False)
    began_s: float
    seen_s: float
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Passkey:
    """A person's public key of WebAuthn."""

    credential: bytes
    person: str
    public_key: bytes = field(repr=False)
    sign_count: int
    made_s: float
    used_s: float | None


class ConsoleStore:
    """Opens the file for one process; calls from any thread go one after the other, those that read beside the others.

    idle_s, whole_s : how long a session lasts after its last request, and at most.
    folder : below the home, of a site that is no console; tables : what else that site keeps.
    Raises StateError from every method where the file cannot be read or written.
    """

    def __init__(
        self,
        home: Path,
        idle_s: float = 1200.0,
        whole_s: float = 36_000.0,
        clock: Callable[[], float] = time.time,
        *,
        folder: str = FOLDER,
        tables: Sequence[str] = (),
    ) -> None:
        self._path = home / folder / FILE
        self._idle_s, self._whole_s, self.clock = idle_s, whole_s, clock
        self._lock, self._reading = threading.Lock(), threading.Lock()
        with self._told():
            self._db = open_sqlite(self._path, (*_TABLES, *tables))
            self._reads = open_sqlite(self._path, ())  # a page waits for no other's act to be on disk

    def close(self) -> None:
        """Let go of the file."""
        self._reads.close()
        self._db.close()

    def _told(self) -> Any:
        return told(f"console's file {self._path}", "move it away: people are then invited anew")

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        if query.startswith("SELECT"):
            with self._reading, self._told():
                return self._reads.execute(query, values).fetchall()
        with self._lock, self._told():
            return self._db.execute(query, values).fetchall()

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        found = self._all(query, *values)
        return found[0] if found else None

    # invitations

    def invite(self, person: str, hours: float, made_by: str = "") -> str:
        """Return the secret of a link by which this person may make a passkey, once, within these hours.

        made_by : who made it, which the acts say from then on; "" for a link that leaves the server with nobody.
        """
        with self._lock, self._told(), transaction(self._db):
            token = self._invited(person, hours)
            if made_by:
                self._noted(made_by, "invite", person, "done")
            return token

    def _invited(self, person: str, hours: float) -> str:
        """Make a link within a transaction."""
        token, now_s = secrets.token_urlsafe(32), self.clock()
        self._db.execute("DELETE FROM invitations WHERE expires_s < ?", (now_s,))
        self._db.execute("INSERT INTO invitations VALUES (?, ?, ?)", (sha256(token), person, now_s + hours * 3600))
        return token

    def invited(self, token: str) -> str | None:
        """Return whom an invitation is for, None if it is used, over or unknown."""
        found = self._one(
            "SELECT person FROM invitations WHERE token_sha256 = ? AND expires_s >= ?", sha256(token), self.clock()
        )
        return None if found is None else str(found[0])

    # passkeys

    def passkeys(self, person: str) -> tuple[Passkey, ...]:
        """Return a person's passkeys, the oldest first."""
        rows = self._all(f"SELECT {_PASSKEY} FROM passkeys WHERE person = ? ORDER BY made_s", person)  # noqa: S608
        return tuple(Passkey(*row) for row in rows)

    def passkey(self, credential: bytes) -> Passkey | None:
        """Return the passkey of a credential's id."""
        row = self._one(f"SELECT {_PASSKEY} FROM passkeys WHERE credential = ?", credential)  # noqa: S608
        return None if row is None else Passkey(*row)

    def keep_passkey(self, token: str, credential: bytes, public_key: bytes, sign_count: int) -> str:
        """Keep a new passkey and use the invitation up, both or neither; returns whose it is.

        Raises RefusedError where the invitation was used meanwhile, the key is known, or there are too many.
        """
        with self._lock, self._told(), transaction(self._db):
            used = self._db.execute(
                "DELETE FROM invitations WHERE token_sha256 = ? AND expires_s >= ? RETURNING person",
                (sha256(token), self.clock()),
            ).fetchall()
            if not used:
                raise RefusedError("this link was used or is over: ask for a new one (`veilscore console invite`)")
            person = str(used[0][0])
            count = self._db.execute("SELECT COUNT(*) FROM passkeys WHERE person = ?", (person,)).fetchone()[0]
            if count >= MOST_PASSKEYS:
                raise RefusedError(f"{person} has {count} passkeys already: remove one first")
            try:
                row = (credential, person, public_key, sign_count, self.clock(), None)
                self._db.execute("INSERT INTO passkeys VALUES (?, ?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                raise RefusedError("this passkey is known here already: enter with it") from None
        return person

    def passkey_used(self, passkey: Passkey, sign_count: int) -> bool:
        """Write down a use; False where another one came between, with the same or a later count."""
        query = "UPDATE passkeys SET sign_count = ?, used_s = ? WHERE credential = ? AND sign_count = ? RETURNING 1"
        return bool(self._all(query, sign_count, self.clock(), passkey.credential, passkey.sign_count))

    def vouch(self, credential: bytes, certificate: bytes, vouch: bytes) -> None:
        """Keep a person's own signature for a passkey, with the certificate (PEM) that it is of."""
        self._all("INSERT OR REPLACE INTO vouches VALUES (?, ?, ?)", credential, certificate, vouch)

    def vouched(self, credential: bytes) -> tuple[bytes, bytes] | None:
        """Return the certificate and the signature of whoever vouched for a passkey; None where nobody did."""
        row = self._one("SELECT certificate, vouch FROM vouches WHERE credential = ?", credential)
        return None if row is None else (bytes(row[0]), bytes(row[1]))

    def forget_passkey(self, person: str, credential: bytes, least: int = 0) -> bool:
        """Remove one passkey of a person, and the vouch for it; return whether there was one.

        least : how many have to be left, whoever else removes one now; RefusedError where fewer were.
        """
        with self._lock, self._told(), transaction(self._db):
            count = self._db.execute("SELECT COUNT(*) FROM passkeys WHERE person = ?", (person,)).fetchone()[0]
            if least and count <= least:
                raise RefusedError("this is your only passkey: make another one first, or ask an operator")
            query = "DELETE FROM passkeys WHERE person = ? AND credential = ?"
            known = bool(self._db.execute(query, (person, credential)).rowcount)
            self._db.execute(_UNKNOWN_VOUCHES)
            return known

    def forget(self, person: str, by: str, act: str = "forget") -> int:
        """Remove all passkeys, vouches, invitations and sessions of a person; return how many passkeys there were.

        by : who had them removed, which the acts say from then on.
        """
        with self._lock, self._told(), transaction(self._db):
            for table in ("invitations", "sessions"):
                self._db.execute(f"DELETE FROM {table} WHERE person = ?", (person,))  # noqa: S608 - fixed words
            count = self._db.execute("DELETE FROM passkeys WHERE person = ?", (person,)).rowcount
            self._db.execute(_UNKNOWN_VOUCHES)
            self._noted(by, act, person, "done")
            return count

    def people(self) -> dict[str, tuple[int, float | None]]:
        """Return how many passkeys each person has, and when one was used last."""
        rows = self._all("SELECT person, COUNT(*), MAX(used_s) FROM passkeys GROUP BY person ORDER BY person")
        return {person: (count, used_s) for person, count, used_s in rows}

    # sessions

    def begin(
        self, person: str, entered_by: str, certificate: str = "", credential: bytes | None = None
    ) -> tuple[str, ConsoleSession]:
        """Begin a session; returns the secret of its cookie, which is always a new one, and the session.

        credential : of the passkey that let the person in; IdentityError where it was removed since (`forget`).
        """
        with self._lock, self._told(), transaction(self._db):
            if credential is not None:
                query = "SELECT 1 FROM passkeys WHERE credential = ? AND person = ?"
                if not self._db.execute(query, (credential, person)).fetchall():
                    raise IdentityError("this passkey was removed: ask for a new link")
            return self._begun(person, entered_by, certificate)

    def _begun(self, person: str, entered_by: str, certificate: str = "") -> tuple[str, ConsoleSession]:
        """Begin a session within a transaction, so that what let the person in is used up by it or not at all."""
        secret, now_s = secrets.token_urlsafe(32), self.clock()
        session = ConsoleSession(
            person, entered_by, certificate, secrets.token_urlsafe(24), now_s, now_s, sha256(secret)
        )
        over = "DELETE FROM sessions WHERE began_s < ? OR seen_s < ?"
        self._db.execute(over, (now_s - self._whole_s, now_s - self._idle_s))
        row = (session.key, person, entered_by, certificate, session.csrf, now_s, now_s)
        self._db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return secret, session

    def session(self, secret: str) -> ConsoleSession | None:
        """Return the session of a cookie, which goes on by this request; None where it is unknown or over."""
        key, now_s = sha256(secret), self.clock()
        row = self._one(
            "SELECT person, entered_by, certificate, csrf, began_s, seen_s FROM sessions WHERE id_sha256 = ?", key
        )
        if row is None:
            return None
        person, entered_by, certificate, csrf, began_s, seen_s = row
        found = ConsoleSession(person, entered_by, certificate, csrf, began_s, seen_s, key)
        if now_s - found.began_s > self._whole_s or now_s - found.seen_s > self._idle_s:
            self.end(found)
            return None
        if now_s - found.seen_s > min(_TOUCH_S, self._idle_s / 4):
            self._all("UPDATE sessions SET seen_s = ? WHERE id_sha256 = ?", now_s, key)
        return found

    def end(self, session: ConsoleSession) -> None:
        """End a session."""
        self._all("DELETE FROM sessions WHERE id_sha256 = ?", session.key)

    def sessions(self, person: str = "") -> tuple[ConsoleSession, ...]:
        """Return the sessions that are not over, of one person or of all."""
        now_s = self.clock()
        rows = self._all(
            "SELECT person, entered_by, certificate, csrf, began_s, seen_s, id_sha256 FROM sessions "
            "WHERE began_s >= ? AND seen_s >= ? AND (? = '' OR person = ?) ORDER BY began_s",
            now_s - self._whole_s,
            now_s - self._idle_s,
            person,
            person,
        )
        return tuple(ConsoleSession(*row) for row in rows)

    # jobs that people submitted here: others learn the bank's name alone

    def note_job(self, job_id: str, person: str) -> None:
        """Write down who submitted a job."""
        self._all("INSERT INTO submissions VALUES (?, ?)", job_id, person)

    def submitted_by(self, person: str) -> frozenset[str]:
        """Return the ids of a person's jobs."""
        return frozenset(row[0] for row in self._all("SELECT job_id FROM submissions WHERE person = ?", person))

    def submitter(self, job_id: str) -> str:
        """Return who submitted a job here; "" where it was not submitted here."""
        row = self._one("SELECT person FROM submissions WHERE job_id = ?", job_id)
        return "" if row is None else str(row[0])

    # what people did

    def note(self, person: str, what: str, subject: str, outcome: str) -> None:
        """Write down what somebody did; it is on disk when this returns."""
        with self._lock, self._told():
            self._noted(person, what, subject, outcome)

    def _noted(self, person: str, what: str, subject: str, outcome: str) -> None:
        """Write down an act within a transaction, together with what was done, or by itself."""
        body = {"person": person[:80], "act": what, "subject": subject[:200], "outcome": outcome[:400]}
        row = (self.clock(), json.dumps(body, ensure_ascii=False))
        self._db.execute("INSERT INTO acts (at_s, body, logged) VALUES (?, ?, 0)", row)

    def not_logged(self, most: int = 100) -> list[tuple[int, float, dict[str, str]]]:
        """Return acts that the node's log does not have yet, the oldest first: number, time and what it was."""
        rows = self._all("SELECT number, at_s, body FROM acts WHERE logged = 0 ORDER BY number LIMIT ?", most)
        return [(number, at_s, json.loads(body)) for number, at_s, body in rows]

    def logged(self, number: int) -> None:
        """Note that the node's log has an act."""
        self._all("UPDATE acts SET logged = 1 WHERE number = ?", number)


_UNKNOWN_VOUCHES = "DELETE FROM vouches WHERE credential NOT IN (SELECT credential FROM passkeys)"
_PASSKEY = "credential, person, public_key, sign_count, made_s, used_s"


def sha256(secret: str) -> bytes:
    """Return what the file keeps of a secret."""
    return hashlib.sha256(secret.encode()).digest()
