"""A holder's memory of what it released: which firms by which models, in which batches, with which tokens.

Everything is in one SQLite file of the holder's home and survives restarts. Firms are kept as keyed hashes of 64 bits
(the key is in the file: it hides ids from a glance, not from a thief). Equal hashes of two firms, likely once in 2**23
ledgers of a million firms, make the ledger stricter, never laxer.

A model counts once for a firm, by its hash. Hold-out scores of training count under the code map that the training
made, as one model with the first that is scored on that map, since the bank may still calibrate it. Bands of a model
count by model and cut-offs: other cut-offs are another model, so that a search for the score by moving them runs out.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import secrets
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from veilscore.errors import RefusedError, StateError
from veilscore.release.ledger_tables import (
    ADD,
    META,
    NEWER,
    PINS,
    SCHEMA_VERSION,
    UNDER,
    USE,
    USED_BY,
    metadata,
    open_ledger_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from sqlalchemy.engine import Connection

    Firms = NDArray[np.uint64]

EVALUATION = "evaluation"
BATCH = "batch"
ONLINE = "online"
HOUR_S, DAY_S = 3600.0, 86400.0


def counted_map(code_map: bytes, bands: bytes) -> str:
    """What stands for a code map in a release: where bands alone are opened, the digest of their cut-offs is in it."""
    return (hashlib.sha256(code_map + bands).digest() if bands else code_map).hex()


@dataclass(frozen=True)
class Release:
    """One opening.

    Attributes
    ----------
    kind : batch, online or evaluation (hold-out scores).
    reference : job's session or request id, with the bank's name; unique.
    model, code_map : SHA-256, hexadecimal; of bands, `code_map` covers their cut-offs too.
    firms : (n,) keyed hashes in order, each once.
    record : digest of a single firm's codes, to tell a repeat from changed data; empty for batches.
    band : bands alone are opened; not kept.
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


class ReleaseLedger:
    """Releases of one holder; usable from any thread.

    Parameters
    ----------
    path : the SQLite file, made if absent.
    clock : seconds since the epoch.

    Raises
    ------
    StateError : from every method: the file cannot be read or written; names it.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.RLock()
        self._db: Connection | None = None  # of the transaction under way
        self._current = False  # whether all that the file holds is in memory, within a transaction
        self._seen = 0  # number of the newest release in memory
        self._many: list[Release] = []
        self._single: dict[int, list[Release]] = {}
        self._times: dict[tuple[str, str], list[float]] = {}
        self._engine = open_ledger_file(path)
        try:
            with self.exclusive() as db:
                metadata.create_all(db)
                self._key = self._own_key(db)
        except BaseException:
            self._engine.dispose()
            raise

    def __repr__(self) -> str:
        """Place only."""
        return f"ReleaseLedger({str(self._path)!r})"

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def now_s(self) -> float:
        """Seconds since the epoch by this ledger's clock."""
        return self._clock()

    def firms(self, ids: Iterable[str]) -> Firms:
        """Keyed hashes (n,) of normalised ids, in their order."""
        base = hashlib.blake2b(key=self._key, digest_size=8)

        def one(firm: str) -> bytes:
            digest = base.copy()
            digest.update(firm.encode())
            return digest.digest()

        return np.frombuffer(b"".join([one(firm) for firm in ids]), "<u8").astype(np.uint64)

    def record_digest(self, codes: NDArray[np.unsignedinteger]) -> bytes:
        """Keyed digest of a firm's codes (1, n_columns)."""
        return hashlib.blake2b(codes.astype("<u8").tobytes(), key=self._key, digest_size=16).digest()

    # what was released

    def releases(self, since_s: float) -> tuple[Release, ...]:
        """All releases since a time, oldest first."""
        with self.exclusive():
            self._catch_up()
            found = [*self._many, *(r for one in self._single.values() for r in one)]
        return tuple(sorted((r for r in found if r.at_s >= since_s), key=lambda r: r.at_s))

    def of_firm(self, firm: int, since_s: float) -> tuple[Release, ...]:
        """Releases of one firm, oldest first, each as if of this firm alone."""
        alone = np.array([firm], np.uint64)
        with self.exclusive():
            self._catch_up()
            batches = (replace(r, firms=alone) for r in self._many if _holds(r.firms, firm))
            found = [*self._single.get(firm, []), *batches]
        return tuple(sorted((r for r in found if r.at_s >= since_s), key=lambda r: r.at_s))

    def count_since(self, bank: str, kind: str, since_s: float) -> int:
        """Releases of a bank and kind since a time."""
        with self.exclusive():
            self._catch_up()
            times = self._times.get((bank, kind), [])
            return len(times) - bisect.bisect_left(times, since_s)

    def released_under(self, reference: str) -> bool:
        """Whether something was released under this reference."""
        with self.exclusive() as db:
            return db.execute(UNDER, {"reference": reference}).first() is not None

    def add(self, release: Release, token: tuple[str, str] | None = None) -> None:
        """Write a release down before it leaves, and use up a token (issuer, id); all or nothing.

        Raises
        ------
        RefusedError : the token was used for another request.
        """
        with self.exclusive() as db:
            if token is not None:
                self._use(db, token, release.reference)
            if db.execute(UNDER, {"reference": release.reference}).first() is None:
                row = {
                    "kind": release.kind,
                    "bank": release.bank,
                    "reference": release.reference,
                    "model": release.model,
                    "code_map": release.code_map,
                    "firms": np.sort(release.firms).astype("<u8").tobytes(),
                    "record": release.record,
                    "at_s": self._clock(),
                }
                db.execute(ADD, row)
                self._current = False

    # tokens

    def token_used(self, issuer: str, token: str, reference: str) -> bool:
        """Whether a token was used up by another request than this one."""
        with self.exclusive() as db:
            found = db.execute(USED_BY, {"issuer": issuer, "token": token}).scalar()
        return found is not None and found != reference

    def spend(self, token: tuple[str, str], reference: str) -> None:
        """Use a token (issuer, id) up for a request; RefusedError if it served another."""
        with self.exclusive() as db:
            self._use(db, token, reference)

    def _use(self, db: Connection, token: tuple[str, str], reference: str) -> None:
        issuer, number = token
        found = db.execute(USED_BY, {"issuer": issuer, "token": number}).scalar()
        if found is None:
            db.execute(USE, {"issuer": issuer, "token": number, "reference": reference, "at_s": self._clock()})
        elif found != reference:
            raise RefusedError("the consent token was used for another request")

    # models of jobs

    def pin_model(self, job_id: str, model: str) -> None:
        """Bind a job to the model that its first attempt named; RefusedError if a later one names another."""
        with self.exclusive() as db:
            found = db.execute(sa.select(PINS.c.model).where(PINS.c.job_id == job_id)).scalar()
            if found is None:
                db.execute(PINS.insert().values(job_id=job_id, model=model))
            elif found != model:
                raise RefusedError("model version differs from the one this job was first run with; submit a new job")

    def _own_key(self, db: Connection) -> bytes:
        row = db.execute(sa.select(META.c.version, META.c.key)).first()
        if row is None:
            key = secrets.token_bytes(32)
            db.execute(META.insert().values(version=SCHEMA_VERSION, key=key))
            return key
        if row.version != SCHEMA_VERSION:
            raise StateError(f"release ledger {self._path} is of version {row.version}: use the program that wrote it")
        return bytes(row.key)

    def _catch_up(self) -> None:
        """Read releases that are new since the last time, once a transaction; another process may have written some."""
        with self.exclusive() as db:
            rows = () if self._current else db.execute(NEWER, {"seen": self._seen}).all()
            self._current = True
        for row in rows:
            firms = np.frombuffer(row.firms, "<u8").astype(np.uint64)
            release = Release(
                row.kind, row.bank, row.reference, row.model, row.code_map, firms, bytes(row.record), row.at_s
            )
            if row.kind == ONLINE:
                self._single.setdefault(int(firms[0]), []).append(release)
            else:
                self._many.append(release)
            bisect.insort(self._times.setdefault((row.bank, row.kind), []), row.at_s)
            self._seen = row.number

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[Connection]:
        """One transaction; what is checked and written within it is so together, against all threads and processes."""
        with self._lock:
            if self._db is not None:
                yield self._db
                return
            try:
                with self._engine.begin() as self._db:
                    yield self._db
            except sa.exc.DBAPIError as error:
                raise StateError(
                    f"release ledger {self._path} cannot be read or written ({type(error.orig).__name__}): check disk "
                    "space, owner and mode, or restore the file from backup; nothing is released meanwhile"
                ) from error
            finally:
                self._db, self._current = None, False


def _holds(firms: Firms, firm: int) -> bool:
    place = int(np.searchsorted(firms, np.uint64(firm)))
    return place < firms.size and int(firms[place]) == firm
