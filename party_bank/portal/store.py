"""Keeps which owners may enter the portal and who is in it: HOME/portal/console.db.

It is a console's file (sessions, passkeys, one-time links as digests, acts) whose people are firms. They stand there
under a digest, which is all that logs get; one table says which firm a digest is of.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from veilscore.console.store import ConsoleSession, ConsoleStore, sha256
from veilscore.files.sqlite_file import transaction
from veilscore.release.pseudonyms import firm_digest

FOLDER = "portal"
LINK = "link"  # how a session was entered; by an offer's code, the offer's number stands there
_PASSKEY_HOURS = 0.1
COMMAND = "(command line)"  # who makes a link there, as acts call it
LINK_MADE, FORGOTTEN = "portal: make a link", "portal: forget"
BY_BANK = (LINK_MADE, FORGOTTEN)
BY_OWNER = ("portal: enter", "portal: make a passkey", "portal: remove a passkey")
_USE_CODE = "INSERT INTO codes VALUES (?, ?) ON CONFLICT DO NOTHING"
_TABLES = (
    "CREATE TABLE IF NOT EXISTS owners (person VARCHAR(80) NOT NULL PRIMARY KEY, firm VARCHAR(64) NOT NULL)",
    "CREATE TABLE IF NOT EXISTS codes (sha256 VARCHAR(64) NOT NULL PRIMARY KEY, ended_s DOUBLE NOT NULL)",
    "CREATE INDEX IF NOT EXISTS acts_by_subject ON acts (json_extract(body, '$.subject'))",
)


class OwnerStore(ConsoleStore):
    """Opens the file for one process; a firm's name as a person of it is `person_of`."""

    def __init__(
        self, home: Path, idle_s: float = 900.0, whole_s: float = 3600.0, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(home, idle_s, whole_s, clock, folder=FOLDER, tables=_TABLES)
        self._home = home

    def person_of(self, firm: str) -> str:
        """Return what stands for a firm (its id as the book has it), and remember it."""
        person = f"firm {firm_digest(self._home, firm)}"
        self._all("INSERT INTO owners VALUES (?, ?) ON CONFLICT DO NOTHING", person, firm)
        return person

    def firm_of(self, person: str) -> str | None:
        """Return the firm for which a digest stands; None if the store does not know it."""
        found = self._one("SELECT firm FROM owners WHERE person = ?", person)
        return None if found is None else str(found[0])

    def knows(self, firm: str) -> bool:
        """Return whether anybody was ever let in for a firm."""
        return self._one("SELECT 1 FROM owners WHERE firm = ?", firm) is not None

    def forget_firm(self, firm: str) -> None:
        """Remove every way in for a firm, and which digest is its; what was done stays under the digest."""
        if self.knows(firm):
            self.forget(self.person_of(firm), COMMAND, FORGOTTEN)
            self._all("DELETE FROM owners WHERE firm = ?", firm)

    def link(self, firm: str, hours: float, codes: Sequence[str], made_by: str) -> str:
        """Return the secret of a link for a firm's owner, which works once; older links, codes and sessions end.

        All of it happens at once, so that of two links that are made together one works, and who made each is known.
        codes : SHA-256 of the secrets in the QR codes of the firm's offers.
        """
        person = self.person_of(firm)
        with self._lock, self._told(), transaction(self._db):
            for table in ("invitations", "sessions"):  # whoever entered by a code that was not theirs is out
                self._db.execute(f"DELETE FROM {table} WHERE person = ?", (person,))  # noqa: S608 - fixed words
            self._db.executemany(_USE_CODE, [(code, self.clock()) for code in codes])
            self._noted(made_by, LINK_MADE, person, "done")
            return self._invited(person, hours)

    def enter_by_link(self, secret: str) -> tuple[str, ConsoleSession] | None:
        """Use a link up for a session of its firm, as `begin`; None if it is unknown, used or over."""
        with self._lock, self._told(), transaction(self._db):
            query = "DELETE FROM invitations WHERE token_sha256 = ? AND expires_s >= ? RETURNING person"
            found = self._db.execute(query, (sha256(secret), self.clock())).fetchall()
            return self._begun(str(found[0][0]), LINK) if found else None

    def enter_by_code(self, firm: str, number: str, code: str) -> tuple[str, ConsoleSession] | None:
        """Use up the code of an offer for a session that sees this offer; None if it was used or has ended.

        code : SHA-256 of the code's secret.
        """
        person = self.person_of(firm)
        with self._lock, self._told(), transaction(self._db):
            found = self._db.execute(f"{_USE_CODE} RETURNING 1", (code, self.clock())).fetchall()
            return self._begun(person, number) if found else None

    def ways_in(self, person: str, most: int = 20) -> list[tuple[float, str, str]]:
        """Return what was done to let somebody into a firm, the latest first: when, the act, and who did it.

        What the bank did is among the latest of its own kind: however often somebody enters, it is not pushed out.
        """
        query = (
            "SELECT number, at_s, json_extract(body, '$.act'), json_extract(body, '$.person') FROM acts "
            "WHERE json_extract(body, '$.subject') = ? AND json_extract(body, '$.outcome') = 'done' "
            "AND json_extract(body, '$.act') IN (SELECT value FROM json_each(?)) ORDER BY number DESC LIMIT ?"
        )
        found = [row for kind in (BY_BANK, BY_OWNER) for row in self._all(query, person, json.dumps(kind), most)]
        return [(at_s, act, who) for _, at_s, act, who in sorted(found, reverse=True)]

    def begin_passkey(self, person: str) -> str:
        """Return the secret by which a passkey is made within a session; it stays at the server."""
        return self.invite(person, _PASSKEY_HOURS)
