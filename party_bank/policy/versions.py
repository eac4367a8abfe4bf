"""Versions of policies at the bank, and the two people without whom none of them decides.

A version is filed once, under its hash, with who wrote it. It becomes active when two different stewards of the bank,
neither of them its author, have signed for it, each with the own key; each signature names policy, version, hash,
author and the activation before it, so none serves twice.
An active graph is given out only after hash and both signatures were verified again.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from party_bank.policy.check import refuse_if_unsound
from party_bank.policy.graph import Graph, parse_graph
from veilscore.errors import ConfigError, IdentityError, RefusedError, StateError
from veilscore.files.sqlite_file import open_sqlite, told, transaction
from veilscore.keys.identity import Certificate, Identity, parse_certificate
from veilscore.keys.passkey_word import PasskeyWord
from veilscore.terms.federation import Federation
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.people import STEWARD, roles_of

FILE = "state/policies.db"
PURPOSE = "policy activation"
EYES = 2  # people
_TABLES = (
    """CREATE TABLE IF NOT EXISTS versions (policy VARCHAR(80) NOT NULL, version INTEGER NOT NULL,
    sha256 VARCHAR(64) NOT NULL, graph BLOB NOT NULL, filed_s DOUBLE NOT NULL, PRIMARY KEY (policy, version),
    UNIQUE (policy, sha256))""",
    """CREATE TABLE IF NOT EXISTS words (policy VARCHAR(80) NOT NULL, version INTEGER NOT NULL,
    activation INTEGER NOT NULL, person VARCHAR(80) NOT NULL, reason VARCHAR(400) NOT NULL, certificate BLOB NOT NULL,
    signature BLOB NOT NULL, at_s DOUBLE NOT NULL, PRIMARY KEY (policy, version, activation, person))""",
    """CREATE TABLE IF NOT EXISTS activations (policy VARCHAR(80) NOT NULL, activation INTEGER NOT NULL,
    version INTEGER NOT NULL, at_s DOUBLE NOT NULL, PRIMARY KEY (policy, activation))""",
    """CREATE TABLE IF NOT EXISTS authors (policy VARCHAR(80) NOT NULL, version INTEGER NOT NULL,
    person VARCHAR(80) NOT NULL, PRIMARY KEY (policy, version))""",
)


@dataclass(frozen=True)
class Word:
    """A person's signed word for a version: who, why, and when (seconds since the epoch)."""

    person: str
    reason: str
    at_s: float


@dataclass(frozen=True)
class PolicyVersion:
    """A version as it stands.

    author : who filed it, and may not sign for it; "" where nobody was named.
    active : whether it decides; words : who signed for the activation that is due or that made it active.
    """

    policy: str
    version: int
    sha256: str
    filed_s: float
    author: str
    active: bool
    words: tuple[Word, ...]

    @property
    def status(self) -> str:
        """Return its status in words."""
        if self.active:
            return f"active: {' and '.join(word.person for word in self.words)}"
        return f"waits for a second steward: {self.words[0].person}" if self.words else "filed"


@dataclass(frozen=True)
class Policies:
    """The policies of a bank's home; StateError from every method if its file cannot be read or written."""

    home: Path
    clock: Callable[[], float] = time.time

    def file(self, graph: Graph, author: str = "") -> int:
        """File a graph after its check; return its version, the earlier one if it was filed before."""
        refuse_if_unsound(graph)
        with self._writing() as db:
            found = db.execute(
                "SELECT version FROM versions WHERE policy = ? AND sha256 = ?", (graph.name, graph.sha256)
            ).fetchone()
            if found is not None:
                return int(found[0])
            newest = db.execute("SELECT MAX(version) FROM versions WHERE policy = ?", (graph.name,)).fetchone()[0]
            version = (newest or 0) + 1
            values = (graph.name, version, graph.sha256, graph.canonical, self.clock())
            db.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?)", values)
            if author:
                db.execute("INSERT INTO authors VALUES (?, ?, ?)", (graph.name, version, author[:80]))
            return version

    def sign(
        self, name: str, version: int, person: Identity, node: NodeConfig, federation: Federation, reason: str = ""
    ) -> PolicyVersion:
        """Add a steward's word for a version; it is active with the second one.

        Raises RefusedError where the person is no steward here or has signed already, IdentityError where the key is
        not the one that the federation knows.
        """

        def signed(content: bytes) -> tuple[bytes, bytes]:
            signature = person.sign(content, PURPOSE)
            federation.keys_of(person.name).verify(content, signature, PURPOSE)
            return person.certificate.pem, signature

        return self._with_word(name, version, person.name, node, federation, reason, signed)

    def sign_by_passkey(
        self,
        name: str,
        version: int,
        person: str,
        word: tuple[PasskeyWord, bytes],
        node: NodeConfig,
        federation: Federation,
        reason: str = "",
    ) -> PolicyVersion:
        """Add a steward's word that a passkey signed (`to_sign`); raises as `sign` does.

        word : with the certificate (PEM) of the person's own key, which has vouched for the passkey.
        """

        def signed(content: bytes) -> tuple[bytes, bytes]:
            given, certificate = word[0], parse_certificate(word[1])
            accepted = {one.fingerprint for one in federation.history.accepted(person, self.clock())}
            if certificate.name != person or certificate.fingerprint not in accepted:
                raise IdentityError(f"the key of {person} that vouched for this passkey no longer counts: vouch again")
            given.verify(certificate, node.name, content, PURPOSE)
            return certificate.pem, given.to_bytes()

        return self._with_word(name, version, person, node, federation, reason, signed)

    def to_sign(self, name: str, version: int, person: str, node: NodeConfig, federation: Federation) -> bytes:
        """Return what a steward's word for a version signs; raises where `sign` would refuse the person."""
        graph = self._offered(name, version, person, node, federation)
        with self._reading() as db:
            due, _ = self._due(db, graph, person, node)
            return _signed_bytes(node.name, graph, due, self._author(db, graph.name, graph.version))

    def _with_word(
        self,
        name: str,
        version: int,
        person: str,
        node: NodeConfig,
        federation: Federation,
        reason: str,
        signed: Callable[[bytes], tuple[bytes, bytes]],
    ) -> PolicyVersion:
        """Keep a word; signed : takes the content and returns certificate and signature."""
        graph = self._offered(name, version, person, node, federation)
        with self._writing() as db:
            due, others = self._due(db, graph, person, node)
            certificate, signature = signed(_signed_bytes(node.name, graph, due, self._author(db, name, version)))
            now = self.clock()
            db.execute(
                "INSERT INTO words VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (name, version, due, person, reason[:400], certificate, signature, now),
            )
            if len(others) + 1 == EYES:
                db.execute("INSERT INTO activations VALUES (?, ?, ?, ?)", (name, due, version, now))
        return next(one for one in self.versions(name) if one.version == version)

    def _offered(self, name: str, version: int, person: str, node: NodeConfig, federation: Federation) -> Graph:
        """Return the graph of a version that a steward may sign for; RefusedError for anybody else."""
        if STEWARD not in roles_of(node, person) or federation.member(person).role != "operator":
            raise RefusedError(
                f"{person} is no steward of {node.name}: activating a policy needs two, named under `people` in "
                f"{node.name}'s node.yaml with a key of their own",
                party=node.name,
            )
        graph = self.graph(name, version)
        refuse_if_unsound(graph)
        return graph

    def _due(self, db: sqlite3.Connection, graph: Graph, person: str, node: NodeConfig) -> tuple[int, list[str]]:
        """Return the number of the activation that is due and who has signed for it; RefusedError where it is not."""
        name, version = graph.name, graph.version
        if person == self._author(db, name, version):
            raise RefusedError(
                f"{person} wrote version {version} of policy {name!r}: two other stewards have to look at it",
                party=node.name,
            )
        due = self._last(db, name) + 1
        others = [word.person for word in self._words(db, name, version, due)]
        if person in others:
            raise RefusedError(
                f"{person} has signed for version {version} of policy {name!r} already: a second steward has to look "
                "at it",
                party=node.name,
            )
        if self._active(db, name) == version:
            raise RefusedError(f"version {version} of policy {name!r} is active already", party=node.name)
        return due, others

    def graph(self, name: str, version: int | None = None) -> Graph:
        """Return a version, the newest one if none is named; ConfigError if there is none."""
        with self._reading() as db:
            query = "SELECT version, sha256, graph FROM versions WHERE policy = ? AND version = COALESCE(?, version)"
            row = db.execute(f"{query} ORDER BY version DESC LIMIT 1", (name, version)).fetchone()
        if row is None:
            which = f"version {version} of policy" if version else "policy"
            raise ConfigError(f"no {which} {name[:64]!r} is filed here; `veilscore policy list` shows what there is")
        return self._verified(name, *row)

    def active(self, name: str, party: str) -> Graph:
        """Return the active version of a policy, verified; RefusedError if none is active.

        party : the bank's name, which the signatures are for.
        """
        with self._reading() as db:
            version, activation = self._active(db, name), self._last(db, name)
            author = "" if version is None else self._author(db, name, version)
            rows = db.execute(
                "SELECT person, certificate, signature FROM words WHERE policy = ? AND version = ? AND activation = ?",
                (name, version, activation),
            ).fetchall()
        if version is None:
            raise RefusedError(f"no version of policy {name[:64]!r} is active: two stewards have to activate one")
        graph, people = self.graph(name, version), set()
        for person, pem, signature in rows:
            certificate = parse_certificate(pem)
            try:
                _verify(certificate, party, _signed_bytes(party, graph, activation, author), signature)
            except IdentityError as error:
                raise StateError(f"a signature for policy {name!r} was changed: restore {FILE} from backup") from error
            people |= {person} if certificate.name == person else set()
        if len(people) != EYES:
            raise StateError(f"policy {name!r} is active without {EYES} signatures: restore {FILE} from backup")
        return graph

    def versions(self, name: str | None = None) -> list[PolicyVersion]:
        """Return all versions, or those of one policy, oldest first."""
        with self._reading() as db:
            query = "SELECT policy, version, sha256, filed_s FROM versions WHERE policy = COALESCE(?, policy)"
            found = []
            for policy, version, sha256, filed_s in db.execute(f"{query} ORDER BY policy, version", (name,)).fetchall():
                active, last = self._active(db, policy) == version, self._last(db, policy)
                words = tuple(self._words(db, policy, version, last if active else last + 1))
                author = self._author(db, policy, version)
                found.append(PolicyVersion(policy, version, sha256, filed_s, author, active, words))
        return found

    def _verified(self, name: str, version: int, sha256: str, data: bytes) -> Graph:
        graph = parse_graph(data, name, version)
        if graph.sha256 != sha256:
            raise StateError(f"version {version} of policy {name!r} was changed: restore {FILE} from backup")
        return graph

    @staticmethod
    def _last(db: sqlite3.Connection, name: str) -> int:
        row = db.execute("SELECT MAX(activation) FROM activations WHERE policy = ?", (name,)).fetchone()
        return row[0] or 0

    @staticmethod
    def _active(db: sqlite3.Connection, name: str) -> int | None:
        query = "SELECT version FROM activations WHERE policy = ? ORDER BY activation DESC LIMIT 1"
        row = db.execute(query, (name,)).fetchone()
        return None if row is None else int(row[0])

    @staticmethod
    def _author(db: sqlite3.Connection, name: str, version: int) -> str:
        query = "SELECT person FROM authors WHERE policy = ? AND version = ?"
        row = db.execute(query, (name, version)).fetchone()
        return "" if row is None else str(row[0])

    @staticmethod
    def _words(db: sqlite3.Connection, name: str, version: int, activation: int) -> list[Word]:
        query = (
            "SELECT person, reason, at_s FROM words WHERE policy = ? AND version = ? AND activation = ? ORDER BY at_s"
        )
        return [Word(*row) for row in db.execute(query, (name, version, activation))]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._told(), contextlib.closing(open_sqlite(self.home / FILE, _TABLES)) as db:
            yield db

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as db, transaction(db):
            yield db

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return told(f"policies {self.home / FILE}", "restore the file from backup")


def _verify(person: Certificate, party: str, content: bytes, signature: bytes) -> None:
    """Check a word: a signature of the person's own key, or of a passkey that this key has vouched for."""
    if PasskeyWord.looks_so(signature):
        PasskeyWord.from_bytes(signature).verify(person, party, content, PURPOSE)
    else:
        person.verify(content, signature, PURPOSE)


def _signed_bytes(party: str, graph: Graph, activation: int, author: str) -> bytes:
    word = {"party": party, "policy": graph.name, "version": graph.version, "sha256": graph.sha256}
    word |= {"author": author} if author else {}  # words for versions without one stay what they were
    return json.dumps(word | {"activation": activation}, sort_keys=True).encode()
