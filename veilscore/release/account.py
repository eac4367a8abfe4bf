"""What a bank was told of a data set, counted: one append-only account a data set and bank, in mu squared.

Every opening is written down before it leaves (`wire.protocol.Charge`), under the job, step and attempt that it is of;
an attempt that is repeated is charged again. A job costs the larger of what it spends on training and on hold-out
rows; jobs add up over a rolling year. Jobs that wait or run hold what they may still spend, so that no two of them
count on the same rest. A job in exact mode voids the promise for the data set from then on, and the rows that it is
about are kept: exact sums over rows that differ by one firm from those of an earlier job would be that firm's record.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from veilscore.arrays import Words
from veilscore.errors import RefusedError
from veilscore.files.sqlite_file import open_sqlite, told, transaction
from veilscore.terms.privacy import PrivacyRules, total
from veilscore.wire.protocol import Charge

FILE = "state/account.db"
YEAR_S = 365 * 86400.0
_SLACK = 1e-9  # sums of floats
_TABLES = (
    """CREATE TABLE IF NOT EXISTS lines (number INTEGER NOT NULL PRIMARY KEY, account VARCHAR(80) NOT NULL,
    bank VARCHAR(80) NOT NULL, job_id VARCHAR(160) NOT NULL, step VARCHAR(80) NOT NULL, attempt INTEGER NOT NULL,
    opening VARCHAR(80) NOT NULL, rows VARCHAR(10) NOT NULL, mu2 DOUBLE NOT NULL, at_s DOUBLE NOT NULL,
    UNIQUE (account, bank, job_id, step, attempt, opening))""",
    """CREATE TABLE IF NOT EXISTS held (account VARCHAR(80) NOT NULL, bank VARCHAR(80) NOT NULL,
    job_id VARCHAR(160) NOT NULL, mu2 DOUBLE NOT NULL, PRIMARY KEY (account, bank, job_id))""",
    """CREATE TABLE IF NOT EXISTS voided (account VARCHAR(80) NOT NULL, bank VARCHAR(80) NOT NULL,
    job_id VARCHAR(160) NOT NULL, at_s DOUBLE NOT NULL, PRIMARY KEY (account, bank, job_id))""",
    # digests of rows (release/pseudonyms.py), 8 bytes each, ordered
    """CREATE TABLE IF NOT EXISTS exact_rows (account VARCHAR(80) NOT NULL, bank VARCHAR(80) NOT NULL,
    job_id VARCHAR(160) NOT NULL, part VARCHAR(10) NOT NULL, digests BLOB NOT NULL,
    PRIMARY KEY (account, bank, job_id, part))""",
)


@dataclass(frozen=True)
class Line:
    """One opening that was charged."""

    job_id: str
    step: str
    attempt: int
    charge: Charge
    at_s: float


@dataclass(frozen=True)
class AccountLine:
    """One opening with the data set and the bank that it is of; `key` names it in the file."""

    account: str
    bank: str
    line: Line

    @property
    def key(self) -> tuple[str, ...]:
        """Return what the file has once."""
        line = self.line
        return (self.account, self.bank, line.job_id, line.step, str(line.attempt), line.charge.opening)


@dataclass(frozen=True)
class Account:
    """The account of one data set with one bank.

    path : the SQLite file of the node, made if absent.
    name : of the account: that of the data set, unless its entry in node.yaml names another.
    bank : whom the openings go to.
    rules : what the policy allows.
    Raises StateError: from every method: the file cannot be read or written; names it.
    """

    path: Path
    name: str
    bank: str
    rules: PrivacyRules
    clock: Callable[[], float] = time.time

    def hold(self, job_id: str, mu2: float) -> None:
        """Keep what an accepted job may spend from others; RefusedError if there is not enough left."""
        with self._writing() as db:
            self._check(db, job_id, mu2)
            db.execute("REPLACE INTO held VALUES (?, ?, ?, ?)", (self.name, self.bank, job_id, mu2))

    def let_go(self, job_id: str) -> None:
        """Forget what a job held that is over."""
        with self._writing() as db:
            db.execute("DELETE FROM held WHERE account = ? AND bank = ? AND job_id = ?", (self.name, self.bank, job_id))

    def spend(self, session: str, charge: Charge) -> None:
        """Write an opening down; RefusedError, and nothing written, if the year's limit does not allow it.

        session : "job/step/attempt"; the same opening of the same attempt is written once.
        charge : infinite for exact sums, which have no bound and void the account.
        """
        job_id, step, attempt = session.split("/")
        if charge.mu2 == math.inf:
            self.void(job_id)
            return
        with self._writing() as db:
            if not math.isfinite(charge.mu2) or charge.mu2 <= 0:
                raise RefusedError(f"an opening ({charge.opening}) without a cost cannot be charged")
            row = (self.name, self.bank, job_id, step, int(attempt), charge.opening)
            if db.execute(f"SELECT 1 FROM lines WHERE {_LINE}", row).fetchone():  # noqa: S608 - fixed words
                raise RefusedError(f"{charge.opening} was opened in this attempt already")
            values = (*row, charge.rows, charge.mu2, self.clock())
            db.execute(f"INSERT INTO lines ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608
            self._check(db, job_id, 0.0)

    def knows(self, opening: str) -> bool:
        """Return whether an opening of this name was ever charged, as a version of bins is once."""
        with self._reading() as db:
            query = "SELECT 1 FROM lines WHERE account = ? AND bank = ? AND opening = ?"
            return db.execute(query, (self.name, self.bank, opening)).fetchone() is not None

    def check(self, mu2: float) -> None:
        """Refuse, without keeping anything, what a new job could not spend; RefusedError says when it could."""
        with self._reading() as db:
            self._check(db, "", mu2)

    def refills(self) -> list[tuple[float, str, float]]:
        """Return when what was spent comes back, the soonest first: second since the epoch, job, square of mu."""
        return sorted((last_s + YEAR_S, job_id, mu2) for job_id, (last_s, mu2) in self.by_job().items())

    def void(self, job_id: str) -> None:
        """Note that a job in exact mode opened something: no mu is promised for this data set from now on."""
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO voided VALUES (?, ?, ?, ?)", (self.name, self.bank, job_id, self.clock()))

    def take_exact_rows(self, job_id: str, parts: Mapping[str, Words], least: int) -> None:
        """Keep which rows an exact job is about; RefusedError where some nearly are those of an earlier job.

        parts : digests of its rows, such as those that train; least : firms by which two jobs' rows differ, if at all.
        """
        with self._writing() as db:
            query = "SELECT part, digests FROM exact_rows WHERE account = ? AND bank = ? AND job_id != ?"
            for part, kept in db.execute(query, (self.name, self.bank, job_id)):
                earlier = np.frombuffer(kept, "<u8")
                for name, rows in parts.items():
                    if 0 < np.setxor1d(earlier, rows).size < least:
                        raise RefusedError(
                            f"the {name} rows differ from the {part} rows of an earlier exact job by fewer than "
                            f"{least} firms (release.min_difference): take the same firms, or others by more"
                        )
            for name, rows in parts.items():
                digests = np.unique(rows).astype("<u8").tobytes()
                db.execute(
                    "REPLACE INTO exact_rows VALUES (?, ?, ?, ?, ?)", (self.name, self.bank, job_id, name, digests)
                )

    def voided_since(self) -> float | None:
        """Second since the epoch from which no mu is promised, or None."""
        with self._reading() as db:
            query = "SELECT MIN(at_s) FROM voided WHERE account = ?"  # other banks' jobs do not matter to this bank
            row = db.execute(f"{query} AND bank = ?", (self.name, self.bank)).fetchone()
        return None if row[0] is None else float(row[0])

    def lines(self) -> tuple[Line, ...]:
        """All that was ever opened, oldest first."""
        with self._reading() as db:
            return tuple(self._lines(db, 0.0))

    def spent(self) -> float:
        """Square of mu of all jobs within the last year."""
        with self._reading() as db:
            return sum(self._by_job(db).values())

    def by_job(self) -> dict[str, tuple[float, float]]:
        """Return, of every job of the last year, its last opening (seconds since the epoch) and its square of mu."""
        with self._reading() as db:
            last = {line.job_id: line.at_s for line in self._lines(db, self.clock() - YEAR_S)}
            return {job_id: (last[job_id], mu2) for job_id, mu2 in self._by_job(db).items()}

    def held(self) -> dict[str, float]:
        """Square of mu that each accepted job may still spend beyond what it spent."""
        with self._reading() as db:
            return self._held(db, self._by_job(db))

    def left(self) -> float:
        """Square of mu that a new job could spend now."""
        with self._reading() as db:
            by_job = self._by_job(db)
            return max(0.0, self.rules.year**2 - sum(by_job.values()) - sum(self._held(db, by_job).values()))

    # within one transaction

    def _check(self, db: sqlite3.Connection, job_id: str, mu2: float) -> None:
        """Refuse where all that was spent and is held, and `mu2` for this job, exceed the year's limit."""
        by_job = self._by_job(db)
        others = {job: kept for job, kept in self._held(db, by_job).items() if job != job_id}
        own = max(by_job.pop(job_id, 0.0), mu2)
        before = sum(by_job.values()) + sum(others.values())
        if before + own <= self.rules.year**2 + _SLACK:
            return
        raise RefusedError(
            f"the account of data set {self.name!r} with {self.bank} is exhausted: mu {math.sqrt(before):.2f} of "
            f"{self.rules.year:g} is spent or held and this job needs {math.sqrt(own):.2f}; {self._refills(db, own)}; "
            "the holder's steward can raise privacy.year"
        )

    def _refills(self, db: sqlite3.Connection, needed: float) -> str:
        """Say when enough of the year has passed for a job that needs so much."""
        last: dict[str, float] = {}
        for line in self._lines(db, self.clock() - YEAR_S):
            last[line.job_id] = max(last.get(line.job_id, 0.0), line.at_s)
        by_job = self._by_job(db)
        rest = sum(by_job.values())
        for job_id, at_s in sorted(last.items(), key=lambda item: item[1]):
            rest -= by_job[job_id]
            if rest + needed <= self.rules.year**2 + _SLACK:
                day = dt.datetime.fromtimestamp(at_s + YEAR_S, dt.UTC).date() + dt.timedelta(days=1)
                return f"it has refilled enough on {day.isoformat()}"
        return "it never refills enough for this: ask for less (mu)"

    def _lines(self, db: sqlite3.Connection, since_s: float) -> Iterator[Line]:
        query = f"SELECT {_COLUMNS} FROM lines WHERE account = ? AND bank = ? AND at_s >= ? ORDER BY number"  # noqa: S608
        found = db.execute(query, (self.name, self.bank, since_s))
        for _, _, job_id, step, attempt, opening, rows, mu2, at_s in found:
            yield Line(job_id, step, attempt, Charge(opening, rows, mu2), at_s)

    def _by_job(self, db: sqlite3.Connection) -> dict[str, float]:
        """Square of mu by job, of all that was opened within the last year."""
        charges: dict[str, list[Charge]] = defaultdict(list)
        for line in self._lines(db, self.clock() - YEAR_S):
            charges[line.job_id].append(line.charge)
        return {job_id: total(one) for job_id, one in charges.items()}

    def _held(self, db: sqlite3.Connection, by_job: dict[str, float]) -> dict[str, float]:
        query = "SELECT job_id, mu2 FROM held WHERE account = ? AND bank = ?"
        rows: Iterable[tuple[str, float]] = db.execute(query, (self.name, self.bank))
        return {job_id: max(0.0, mu2 - by_job.get(job_id, 0.0)) for job_id, mu2 in rows}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._told(), contextlib.closing(open_sqlite(self.path, _TABLES)) as db:
            yield db

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._told(), contextlib.closing(open_sqlite(self.path, _TABLES)) as db, transaction(db):
            yield db

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return told(f"account {self.path}", "restore the file from backup; nothing is opened meanwhile")


_COLUMNS = "account, bank, job_id, step, attempt, opening, rows, mu2, at_s"
_LINE = "account = ? AND bank = ? AND job_id = ? AND step = ? AND attempt = ? AND opening = ?"


def accounts(path: Path, rules: PrivacyRules) -> tuple[Account, ...]:
    """Return every account of a node that something was written to."""
    if not path.is_file():
        return ()
    with told(f"account {path}", "restore it from backup"), contextlib.closing(open_sqlite(path, _TABLES)) as db:
        query = "SELECT account, bank FROM lines UNION SELECT account, bank FROM voided ORDER BY 1, 2"
        return tuple(Account(path, name, bank, rules) for name, bank in db.execute(query))


def held_jobs(path: Path) -> set[str]:
    """Return the jobs that hold something in an account of a node."""
    if not path.is_file():
        return set()
    with told(f"account {path}", "restore it from backup"), contextlib.closing(open_sqlite(path, _TABLES)) as db:
        return {str(job_id) for (job_id,) in db.execute("SELECT DISTINCT job_id FROM held")}


def let_go(path: Path, job_id: str) -> None:
    """Forget what a job that is over held in any account of a node."""
    with (
        told(f"account {path}", "restore it from backup"),
        contextlib.closing(open_sqlite(path, _TABLES)) as db,
        transaction(db),
    ):
        db.execute("DELETE FROM held WHERE job_id = ?", (job_id,))


def charged(path: Path) -> dict[tuple[str, ...], Charge]:
    """Return what every account of a node was charged, by `AccountLine.key`."""
    if not path.is_file():
        return {}
    with told(f"account {path}", "restore it from backup"), contextlib.closing(open_sqlite(path, _TABLES)) as db:
        rows = db.execute(f"SELECT {_COLUMNS} FROM lines")  # noqa: S608 - fixed words
        return {(*map(str, row[:6]),): Charge(*row[5:8]) for row in rows}


def voided(path: Path) -> set[tuple[str, ...]]:
    """Return account, bank and job of every exact job that the file of a node knows."""
    if not path.is_file():
        return set()
    with told(f"account {path}", "restore it from backup"), contextlib.closing(open_sqlite(path, _TABLES)) as db:
        return {(*map(str, row),) for row in db.execute("SELECT account, bank, job_id FROM voided")}


def write_back(path: Path, lines: Iterable[AccountLine]) -> None:
    """Put lines that the file lost, or that it holds with another cost, in their place."""
    with (
        told(f"account {path}", "restore it from backup"),
        contextlib.closing(open_sqlite(path, _TABLES)) as db,
        transaction(db),
    ):
        for one in lines:
            line, charge = one.line, one.line.charge
            if charge.mu2 == math.inf:
                db.execute("REPLACE INTO voided VALUES (?, ?, ?, ?)", (one.account, one.bank, line.job_id, line.at_s))
                continue
            row = (one.account, one.bank, line.job_id, line.step, line.attempt, charge.opening)
            values = (*row, charge.rows, charge.mu2, line.at_s)
            db.execute(f"REPLACE INTO lines ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608
