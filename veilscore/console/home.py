"""What the console reads of its node's home: each file again when it changed, and not at every request.

The log is read from where the last look at it ended, so that a page of a long one costs what is new in it.
"""

from __future__ import annotations

import json
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from veilscore.console.store import ConsoleStore
from veilscore.errors import IdentityError, StateError
from veilscore.evidence.job_ledger import LedgerEntry, LedgerReader
from veilscore.evidence.log import FOLDER, LOG_FILE
from veilscore.keys.door_certificates import ShownCertificate, read_authority
from veilscore.terms.federation import Federation, load_federation
from veilscore.terms.node_config import NodeConfig, load_node_config
from veilscore.terms.people import roles_of
from veilscore.terms.settings import read_text

T = TypeVar("T")


class WhileUnchanged(Generic[T]):
    """Gives what was read of some paths, and reads again once one of them changed."""

    def __init__(self, read: Callable[[], T], *paths: Path) -> None:
        self._read, self._paths = read, paths
        self._lock = threading.Lock()
        self._seen: object = None
        self._kept: T | None = None

    def __call__(self) -> T:
        """Return what stands there now."""
        with self._lock:
            seen = tuple(_stamp(path) for path in self._paths)
            if self._kept is None or seen != self._seen:
                self._kept, self._seen = self._read(), seen
            return self._kept


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


class ConsoleHome:
    """Reads one home; nothing here writes.

    Raises ConfigError or StateError, with the file and what to do, where something cannot be read.
    """

    def __init__(self, home: Path) -> None:
        self.path = home
        first = load_node_config(home)
        self.name, self.role = first.name, first.role
        self._config = WhileUnchanged(lambda: load_node_config(home), home / "node.yaml")
        self._federation = WhileUnchanged(lambda: load_federation(self.config.federation), first.federation)
        self._jobs = LedgerReader(home / "state" / "jobs")
        self.log = LogIndex(home / FOLDER / LOG_FILE)

    @property
    def config(self) -> NodeConfig:
        """Return node.yaml as it is now."""
        return self._config()

    @property
    def federation(self) -> Federation:
        """Return federation.yaml as it is now."""
        return self._federation()

    def jobs(self) -> tuple[LedgerEntry, ...]:
        """Return the jobs that this node was asked to take part in, the newest first; of a coordinator none."""
        return () if self.role == "coordinator" else self._jobs.entries()

    def job(self, job_id: str) -> LedgerEntry | None:
        """Return one of these jobs."""
        return None if self.role == "coordinator" else self._jobs.get(job_id)

    def roles(self, person: str) -> frozenset[str]:
        """Return what a person may do here; nothing if the federation revoked the person's own key."""
        known = any(member.name == person for member in self.federation.members)
        if known and not self.federation.history.accepted(person, time.time()):
            return frozenset()
        return roles_of(self.config, person)

    # client certificates

    def roots(self) -> bytes:
        """Return the certificates that TLS is to let through, PEM: of people with a role here, and of the authority."""
        now_s, federation = time.time(), self.federation
        people = [m.name for m in federation.with_role("operator") if self.roles(m.name)]
        pinned = [one.pem for name in people for one in federation.history.accepted(name, now_s)]
        ca = self.config.console.client_ca
        return b"".join(pinned) + (b"" if ca is None else read_text(ca, "client_ca").encode())

    def person_of(self, certificate: bytes) -> tuple[str, str]:
        """Return whose certificate (DER) TLS has checked, and its fingerprint; IdentityError if it is nobody's here."""
        shown = ShownCertificate.shown(certificate)
        now_s, federation, config = time.time(), self.federation, self.config.console
        for member in federation.with_role("operator"):
            if any(one.fingerprint == shown.fingerprint for one in federation.history.accepted(member.name, now_s)):
                return member.name, shown.fingerprint
        if config.client_ca is not None and shown.fingerprint not in config.refused and shown.name:
            authority = read_authority(read_text(config.client_ca, "client_ca").encode(), str(config.client_ca))
            if shown.issued_by(authority):
                return shown.name, shown.fingerprint
        raise IdentityError("this certificate is nobody's here")


class LogIndex:
    """Knows where each entry of a node's log begins, of which kind it is, and reads the entries of one page.

    It checks no signature: `veilscore evidence verify-log` and the page of the log's verification do.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._inode = self._end = 0
        self._places, self._sizes, self._kinds = array("Q"), array("L"), array("H")
        self.kinds: list[str] = []
        self.head: dict[str, Any] = {}

    def __len__(self) -> int:
        self.look()
        return len(self._places)

    def look(self) -> None:
        """Read what is new behind the last intact line; StateError if the file cannot be read."""
        with self._lock:
            try:
                found = self._path.stat()
            except OSError:
                return self._forget()
            if found.st_ino != self._inode or found.st_size < self._end:
                self._forget()
                self._inode = found.st_ino
            if found.st_size == self._end:
                return None
            try:
                with self._path.open("rb") as file:
                    file.seek(self._end)
                    for line in file:
                        if not line.endswith(b"\n"):
                            break
                        self._take(line)
            except OSError as error:
                raise StateError(f"log {self._path} cannot be read: {error.strerror}") from error

    def _take(self, line: bytes) -> None:
        try:
            if line.startswith(b"E "):
                kind = str(json.loads(line[2:]).get("kind", ""))
                if kind not in self.kinds:
                    self.kinds.append(kind)
                self._places.append(self._end + 2)
                self._sizes.append(len(line) - 3)
                self._kinds.append(self.kinds.index(kind))
            elif line.startswith(b"H "):
                self.head = json.loads(line[2:])
        except (ValueError, AttributeError) as error:
            raise StateError(f"log {self._path} was changed: run `veilscore evidence verify-log`") from error
        self._end += len(line)

    def numbers(self, kind: str = "") -> Sequence[int]:
        """Return the numbers of all entries, or of those of one kind, the newest first."""
        self.look()
        if not kind:
            return range(len(self._places) - 1, -1, -1)
        if kind not in self.kinds:
            return ()
        wanted = self.kinds.index(kind)
        return [number for number in range(len(self._kinds) - 1, -1, -1) if self._kinds[number] == wanted]

    def entries(self, numbers: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
        """Return entries by number."""
        if not numbers:
            return []
        with self._lock:
            places = [(number, self._places[number], self._sizes[number]) for number in numbers]
        try:
            with self._path.open("rb") as file:
                return [(number, json.loads(_read(file, at, size))) for number, at, size in places]
        except (OSError, ValueError) as error:
            raise StateError(f"log {self._path} cannot be read") from error


def _read(file: Any, at: int, size: int) -> bytes:
    file.seek(at)
    return bytes(file.read(size))


def people_of(home: ConsoleHome, store: ConsoleStore) -> list[tuple[str, list[str], int, float | None, int]]:
    """Return who has a role, by node.yaml: name, roles, number of passkeys, when one was last used, open sessions."""
    made, open_ = store.people(), [session.person for session in store.sessions()]
    names = sorted({*home.config.people, *home.config.operators})
    return [(name, sorted(home.roles(name)), *made.get(name, (0, None)), open_.count(name)) for name in names]
