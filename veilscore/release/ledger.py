"""A holder remembers what it released: which firms by which models, in which batches, with which tokens.

Everything is in one SQLite file of the holder's home and survives restarts. Firms are kept as keyed hashes of 64 bits
(the key is in the file: it hides ids from a glance, not from a thief). Equal hashes of two firms, likely once in 2**23
ledgers of a million firms, make the ledger stricter, never laxer. Beside the firms that the holder knows stand the
digests of all rows that the bank submitted (`release/pseudonyms.py`): what may refuse a batch is counted in those.
Beside each firm of a batch stands a digest of its record with what the bank put in: the same opening again tells
nothing new.

A model counts once for a firm, by its hash. Hold-out scores of training count under the code map that the training
made, as one model with the first that is scored on that map, since the bank may still calibrate it. Bands of a model
count by model and cut-offs: other cut-offs are another model, so that a search for the score by moving them runs out.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import math
import secrets
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import CodeArray, Words
from veilscore.errors import RefusedError, StateError
from veilscore.files.sqlite_file import open_sqlite, told, transaction
from veilscore.release.pseudonyms import keyed

Firms = Words


EVALUATION = "evaluation"
LEDGER = "state/release.db"
BATCH = "batch"
ONLINE = "online"
WATCH = "watch"  # a month of one; its firms are those whose contract year begins
HOUR_S, DAY_S = 3600.0, 86400.0
EXACT_BITS = math.inf  # of a score that is not in steps; no sum of bounded bits reaches it
_EXACT_BEFORE = 25.0  # what stood for it in older files

_SCHEMA_VERSION = 1
_TABLES = (
    "CREATE TABLE IF NOT EXISTS release_meta (version INTEGER NOT NULL PRIMARY KEY, key BLOB NOT NULL)",
    # one row a batch, hold-out or single firm; firms are keyed hashes, 8 bytes each, ordered
    """CREATE TABLE IF NOT EXISTS releases (number INTEGER NOT NULL PRIMARY KEY, kind VARCHAR(20) NOT NULL,
    bank VARCHAR(80) NOT NULL, reference VARCHAR(160) NOT NULL UNIQUE, model VARCHAR(64) NOT NULL,
    code_map VARCHAR(64) NOT NULL, firms BLOB NOT NULL, record BLOB NOT NULL, at_s DOUBLE NOT NULL,
    bits DOUBLE NOT NULL DEFAULT 0)""",
    """CREATE TABLE IF NOT EXISTS tokens (issuer VARCHAR(80) NOT NULL, token VARCHAR(32) NOT NULL,
    reference VARCHAR(160) NOT NULL, at_s DOUBLE NOT NULL, PRIMARY KEY (issuer, token)) WITHOUT ROWID""",
    # what a job was bound to at its first step: the model it names must stay that one
    "CREATE TABLE IF NOT EXISTS pins (job_id VARCHAR(80) NOT NULL PRIMARY KEY, model VARCHAR(64) NOT NULL)",
    # of a batch or hold-out: the digests of its rows, 8 bytes each, ordered; and of each bank the key of its digests
    "CREATE TABLE IF NOT EXISTS submitted (reference VARCHAR(160) NOT NULL PRIMARY KEY, digests BLOB NOT NULL)",
    # of a batch: digest of what the bank put in; of each firm, in order, of its record with that
    "CREATE TABLE IF NOT EXISTS inputs (reference VARCHAR(160) NOT NULL PRIMARY KEY, inputs BLOB, records BLOB)",
    "CREATE TABLE IF NOT EXISTS digest_keys (bank VARCHAR(80) NOT NULL PRIMARY KEY, key_id BLOB NOT NULL)",
)
_BITS = "ALTER TABLE releases ADD COLUMN bits DOUBLE NOT NULL DEFAULT 0"  # of files from before it
_NEWER = """SELECT kind, bank, r.reference, model, code_map, firms, record, at_s, bits, COALESCE(digests, X''),
 COALESCE(inputs, X''), COALESCE(records, X''), number
 FROM releases r LEFT JOIN submitted s ON s.reference = r.reference
 LEFT JOIN inputs i ON i.reference = r.reference WHERE number > ? ORDER BY number"""
# a caller waits for these: one statement each instead of a look beforehand
_ADD = """INSERT INTO releases (kind, bank, reference, model, code_map, firms, record, at_s, bits)
 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (reference) DO NOTHING"""
_SUBMIT = "INSERT INTO submitted (reference, digests) VALUES (?, ?) ON CONFLICT (reference) DO NOTHING"
_PUT_IN = "INSERT INTO inputs (reference, inputs, records) VALUES (?, ?, ?) ON CONFLICT (reference) DO NOTHING"
_SAME = """SELECT at_s FROM releases WHERE kind = ? AND bank = ? AND reference = ? AND model = ? AND code_map = ?
 AND firms = ? AND record = ? AND bits >= ?"""
_USE = "INSERT INTO tokens (issuer, token, reference, at_s) VALUES (?, ?, ?, ?) ON CONFLICT (issuer, token) DO NOTHING"


def counted_map(code_map: bytes, bands: bytes) -> str:
    """Return what stands for a code map in a release; of bands, the digest of their cut-offs is in it."""
    return (hashlib.sha256(code_map + bands).digest() if bands else code_map).hex()


@dataclass(frozen=True)
class Release:
    """One opening, as the ledger counts it.

    kind : batch, online, watch or evaluation (hold-out scores).
    reference : job's session or request id, with the bank's name; unique.
    model, code_map : SHA-256, hexadecimal; of bands, `code_map` covers their cut-offs too.
    firms : (n,) keyed hashes of the firms that the holder knows, in order, each once.
    record : digest of a single firm's codes, to tell a repeat from changed data; empty for batches.
    band : bands alone are opened; not kept.
    bits : the most that it tells of a single firm: of a band or a step, log2 of how many there are, at each of its
        dates; EXACT_BITS of exact scores.
    rows : (m,) the bank's digests of all firms of a batch or hold-out, known here or not, in order, each once.
    inputs : of a batch, the bank's digest of what it put in itself; empty otherwise.
    records : (n,) of a batch, digests of the firms' codes with `inputs`, in the order of `firms`; empty otherwise.
    """

    kind: str
    bank: str
    reference: str
    model: str
    code_map: str
    firms: Firms = field(repr=False)
    record: bytes = field(default=b"", repr=False)
    at_s: float = 0.0
    band: bool = False
    bits: float = 0.0
    rows: Words = field(default_factory=lambda: np.zeros(0, np.uint64), repr=False)
    inputs: bytes = b""
    records: Words = field(default_factory=lambda: np.zeros(0, np.uint64), repr=False)

    def record_of(self, firm: int) -> int | None:
        """Return the digest of one firm's record with the bank's inputs; None where there is none."""
        return int(self.records[self.firms.searchsorted(np.uint64(firm))]) if self.records.size else None


def firms_by_bits(releases: Iterable[Release]) -> dict[str, Counter[float]]:
    """Return, by bank, of how many firms how many bits were told; exact ones do not count.

    A batch with nothing changed counts once, as in the budget; of a single firm each opening does.

    releases : of the time that counts.
    """
    told: dict[str, dict[tuple[int, object], float]] = defaultdict(dict)
    for r in releases:
        if r.kind != EVALUATION and r.bits < EXACT_BITS:
            records = r.records.tolist() if r.records.size else [r.reference] * r.firms.size
            for firm, record in zip(r.firms.tolist(), records, strict=True):
                told[r.bank][firm, (r.model, r.code_map, record)] = r.bits
    by_bank: dict[str, Counter[float]] = {}
    for bank, openings in told.items():
        bits: dict[int, float] = defaultdict(float)
        for (firm, _), more in openings.items():
            bits[firm] += more
        by_bank[bank] = Counter(round(one, 3) for one in bits.values())
    return by_bank


class ReleaseLedger:
    """Keeps the releases of one holder; it may be used from any thread.

    Who only looks waits for no transaction: one connection writes, another reads. A release whose transaction is still
    waiting for the disk counts for them already, or not yet: what decides is `exclusive`.

    path : the SQLite file, made if absent.
    clock : seconds since the epoch.
    Every method raises StateError where the file cannot be read or written.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.RLock()  # of `_db`: it is held while a transaction waits for the disk
        self._memory = threading.RLock()  # of `_reads` and all below: it is held for as long as a look takes
        self._busy = 0  # the thread whose transaction is under way
        self._current = False  # whether all that the file holds is in memory, within a transaction
        self._steady = False  # within `steady`
        self._wrote = self._ahead = False  # within a transaction: it has written, and memory has what it wrote
        self._seen = 0  # number of the newest release in memory
        self._many: list[Release] = []
        self._single: dict[int, list[Release]] = {}
        self._times: dict[tuple[str, str], list[float]] = {}
        with self._told():
            self._db = self._reads = open_sqlite(path, _TABLES)
            if "bits" not in {column[1] for column in self._db.execute("PRAGMA table_info(releases)")}:
                self._db.execute(_BITS)
        try:
            self._key = self._own_key()
            with self._told():
                self._reads = open_sqlite(path, ())
                self._reads.execute("PRAGMA query_only=ON")
        except BaseException:
            self._db.close()
            raise

    def __repr__(self) -> str:
        return f"ReleaseLedger({str(self._path)!r})"

    def close(self) -> None:
        """Close the file."""
        self._reads.close()
        self._db.close()

    def now_s(self) -> float:
        """Return the seconds since the epoch by this ledger's clock."""
        return self._clock()

    def firms(self, ids: Iterable[str]) -> Firms:
        """Return keyed hashes (n,) of normalised ids, in their order."""
        return keyed(self._key, ids)

    def record_digest(self, codes: CodeArray) -> bytes:
        """Return the keyed digest of a firm's codes (1, n_columns)."""
        return hashlib.blake2b(codes.astype("<u8").tobytes(), key=self._key, digest_size=16).digest()

    def record_digests(self, firms: Firms, inputs: bytes, codes: CodeArray) -> Words:
        """Return keyed digests (n,) of firms (n,), their codes (n, n_columns) and what a bank put into a batch."""
        base = hashlib.blake2b(inputs, key=self._key, digest_size=8)
        wide = np.hstack([firms[:, None].astype("<u8"), codes.astype("<u8")])

        def one(row: NDArray[np.uint64]) -> bytes:
            digest = base.copy()
            digest.update(row.tobytes())
            return digest.digest()

        return np.frombuffer(b"".join(map(one, wide)), "<u8").astype(np.uint64)

    # what was released

    def releases(self, since_s: float) -> tuple[Release, ...]:
        """Return all releases since a time, oldest first."""
        with self._reading():
            self._catch_up()
            found = [*self._many, *(r for one in self._single.values() for r in one)]
        return tuple(sorted((r for r in found if r.at_s >= since_s), key=lambda r: r.at_s))

    def of_firm(self, firm: int, since_s: float, *, singly: bool = False) -> tuple[Release, ...]:
        """Return the releases that one firm is in, oldest first; those of batches are left out where asked `singly`."""
        with self._reading():
            self._catch_up()
            found = list(self._single.get(firm, []))
            if not singly:
                found += [r for r in self._many if _holds(r.firms, firm)]
        return tuple(sorted((r for r in found if r.at_s >= since_s), key=lambda r: r.at_s))

    def count_since(self, bank: str, kind: str, since_s: float) -> int:
        """Return how many releases of a bank and kind there were since a time."""
        with self._reading():
            self._catch_up()
            times = self._times.get((bank, kind), [])
            return len(times) - bisect.bisect_left(times, since_s)

    def add(self, release: Release, token: tuple[str, str] | None = None) -> None:
        """Write a release down before it leaves, and use up a token (issuer, id), both or neither.

        The same release of a single firm is free under its request id for an hour, for a request that a crash or a
        lost call cut in two. Later it is refused, as the journal, which gives an answer again, may have forgotten it.

        Raises RefusedError where the token was used for another request, or something else was counted under the id.
        """
        with self.exclusive():
            if token is not None:
                self._use(token, release.reference)
            order = np.argsort(release.firms)
            row = (
                release.kind,
                release.bank,
                release.reference,
                release.model,
                release.code_map,
                release.firms[order].astype("<u8").tobytes(),
                release.record,
                self._clock(),
                release.bits,
            )
            if not self._db.execute(_ADD, row).rowcount:
                found = self._one(_SAME, *row[:7], release.bits)
                if found is None:
                    raise RefusedError("another release was counted under this request id or session; use a new one")
                if release.kind == ONLINE and self._clock() - found[0] > HOUR_S:
                    raise RefusedError("a release was counted under this request id long ago; use a new one")
            if release.rows.size:
                self._db.execute(_SUBMIT, (release.reference, np.sort(release.rows).astype("<u8").tobytes()))
            if release.inputs:
                records = release.records[order].astype("<u8").tobytes()
                self._db.execute(_PUT_IN, (release.reference, release.inputs, records))
            self._current, self._wrote = False, True

    def knows(self, reference: str) -> bool:
        """Return whether a release of this reference was written down."""
        with self._reading():
            return self._one("SELECT 1 FROM releases WHERE reference = ?", reference) is not None

    # tokens

    def token_used(self, issuer: str, token: str, reference: str) -> bool:
        """Return whether a token was used up by another request than this one."""
        with self._reading():
            found = self._used_by(issuer, token)
        return found is not None and found != reference

    def spend(self, token: tuple[str, str], reference: str) -> None:
        """Use a token (issuer, id) up for a request; RefusedError if it served another."""
        with self.exclusive():
            self._use(token, reference)

    def _use(self, token: tuple[str, str], reference: str) -> None:
        row = (*token, reference, self._clock())
        if not self._db.execute(_USE, row).rowcount and self._used_by(*token) != reference:
            raise RefusedError("the consent token was used for another request")

    def _used_by(self, issuer: str, token: str) -> str | None:
        row = self._one("SELECT reference FROM tokens WHERE issuer = ? AND token = ?", issuer, token)
        return None if row is None else str(row[0])

    # models of jobs

    def pin_model(self, job_id: str, model: str) -> None:
        """Bind a job to the model that its first attempt named; RefusedError if a later one names another."""
        with self.exclusive():
            found = self._one("SELECT model FROM pins WHERE job_id = ?", job_id)
            if found is None:
                self._db.execute("INSERT INTO pins (job_id, model) VALUES (?, ?)", (job_id, model))
            elif found[0] != model:
                raise RefusedError("model version differs from the one this job was first run with; submit a new job")

    def same_key(self, bank: str, key_id: bytes) -> bool:
        """Note the key of a bank's row digests; return whether it is the one before, or the first."""
        with self.exclusive():
            found = self._one("SELECT key_id FROM digest_keys WHERE bank = ?", bank)
            self._db.execute("REPLACE INTO digest_keys (bank, key_id) VALUES (?, ?)", (bank, key_id))
        return found is None or bytes(found[0]) == key_id

    def _own_key(self) -> bytes:
        with self.exclusive():
            row = self._one("SELECT version, key FROM release_meta")
            if row is None:
                key = secrets.token_bytes(32)
                self._db.execute("INSERT INTO release_meta (version, key) VALUES (?, ?)", (_SCHEMA_VERSION, key))
                return key
        if row[0] != _SCHEMA_VERSION:
            raise StateError(f"release ledger {self._path} is of version {row[0]}: use the program that wrote it")
        return bytes(row[1])

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        return found

    @property
    def _connection(self) -> sqlite3.Connection:
        """Return the connection that sees what this thread wrote, within its transaction too."""
        return self._db if self._busy == threading.get_ident() else self._reads

    def _catch_up(self) -> None:
        """Read the releases that are new, at most once a transaction; another process may have written some."""
        writing = self._busy == threading.get_ident()
        steady = self._current if writing else self._steady
        rows = () if steady else self._connection.execute(_NEWER, (self._seen,)).fetchall()
        if writing:
            self._current, self._ahead = True, self._ahead or self._wrote
        for *named, digests, inputs, packed, number in rows:
            kind, bank, reference, model, code_map, hashes, record, at_s, bits = named
            firms, submitted, records = (
                np.frombuffer(data, "<u8").astype(np.uint64) for data in (hashes, digests, packed)
            )
            if bits == _EXACT_BEFORE and (kind == ONLINE or inputs):  # dates of a firm, which added up to it, have none
                bits = EXACT_BITS
            release = Release(
                kind, bank, reference, model, code_map, firms, record, at_s,
                bits=bits, rows=submitted, inputs=bytes(inputs), records=records,
            )  # fmt: skip
            if kind == ONLINE:
                self._single.setdefault(int(firms[0]), []).append(release)
            else:
                self._many.append(release)
            bisect.insort(self._times.setdefault((bank, kind), []), at_s)
            self._seen = number

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Hold the memory for one look, which needs no transaction of its own."""
        with self._memory, self._told():
            yield

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold one transaction: no other thread or process writes between what is checked and what is written in it."""
        with self._lock:
            if self._busy:
                yield
                return
            try:
                with self._told(), transaction(self._db):
                    self._busy = threading.get_ident()
                    yield
            except BaseException:
                if self._ahead:  # memory has releases that were not written down after all: read anew
                    with self._memory:
                        self._seen, self._many, self._single, self._times = 0, [], {}, {}
                raise
            finally:
                self._busy = 0
                self._current = self._wrote = self._ahead = False

    @contextlib.contextmanager
    def steady(self) -> Iterator[None]:
        """Read what is new once for a block that only looks; what is written meanwhile is seen by `exclusive` later."""
        with self._memory, self._told():
            self._catch_up()
            self._steady = True
            try:
                yield
            finally:
                self._steady = False

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """Run the block within `exclusive` so that an error undoes what it wrote, and nothing else."""
        self._db.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK TO part")
                self._db.execute("RELEASE part")
            raise
        self._db.execute("RELEASE part")

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return told(f"release ledger {self._path}", "restore the file from backup; nothing is released meanwhile")


def _holds(firms: Firms, firm: int) -> bool:
    place = int(firms.searchsorted(np.uint64(firm)))
    return place < firms.size and int(firms[place]) == firm
