"""A node remembers of each job it was asked to take part in its answer and the attempts it has begun.

An attempt is written down before it starts and never starts again, so that no one-time secret is used twice,
also after a crash.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from veilscore.errors import JobError, StateError
from veilscore.files.store import JobStore
from veilscore.terms.job import Job, check_job_id, parse_job

_GRAIN_NS = 50_000_000  # of times of folders
_ANSWERS = {"pending": {"accepted", "refused", "cancelled"}, "accepted": {"cancelled", "refused"}}


@dataclass(frozen=True)
class LedgerEntry:
    """One job as this node knows it.

    status : pending, accepted, refused or cancelled.
    attempts : step -> highest attempt begun.
    done : step -> attempt that finished.
    failures : step -> full text of its last error; stays at this node.
    bound : digests of what was accepted (`veilscore.release.binding`).
    """

    job_id: str
    job: Job
    status: str
    reason: str
    received_s: float
    attempts: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    bound: dict[str, str] = field(default_factory=dict)


class Ledger:
    """Keeps entries in one folder, one file each, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._store = JobStore(folder)
        self._entries: dict[str, LedgerEntry] = {}
        for name in self._store.names():
            self._entries[name] = _from_json(name, self._store.load_json(name))

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Return all jobs, oldest first."""
        return tuple(sorted(self._entries.values(), key=lambda e: e.received_s))

    def get(self, job_id: str) -> LedgerEntry | None:
        """Return one job, if it is known."""
        return self._entries.get(job_id)

    def entry(self, job_id: str) -> LedgerEntry:
        """Return one job; JobError if it is unknown."""
        entry = self._entries.get(job_id)
        if entry is None:
            raise JobError("no such job at this node: it was never proposed to it, or its home was replaced")
        return entry

    def add(self, job_id: str, job: Job, status: str, reason: str, bound: dict[str, str] | None = None) -> LedgerEntry:
        """Remember a proposal and the first answer to it."""
        check_job_id(job_id, job)
        return self._save(LedgerEntry(job_id, job, status, reason, time.time(), bound=bound or {}))

    def answer(self, job_id: str, status: str, reason: str, bound: dict[str, str] | None = None) -> LedgerEntry:
        """Change the answer: pending to accepted or refused, an accepted job to cancelled."""
        entry = self.entry(job_id)
        if entry.status == status:
            return entry
        if status not in _ANSWERS.get(entry.status, set()):
            raise JobError(f"job {job_id} is {entry.status} here; it cannot become {status}")
        return self._save(replace(entry, status=status, reason=reason, bound=entry.bound if bound is None else bound))

    def begin(self, job_id: str, step: str, attempt: int) -> LedgerEntry:
        """Write down that an attempt starts; JobError if this or a later one has begun."""
        entry = self.entry(job_id)
        if attempt <= entry.attempts.get(step, 0):
            raise JobError(f"attempt {attempt} of step {step} was begun already; start a new attempt")
        done = {name: number for name, number in entry.done.items() if name != step}
        return self._save(replace(entry, attempts={**entry.attempts, step: attempt}, done=done))

    def finish(self, job_id: str, step: str, attempt: int) -> LedgerEntry:
        """Write down that an attempt finished."""
        entry = self.entry(job_id)
        failures = {name: text for name, text in entry.failures.items() if name != step}
        return self._save(replace(entry, done={**entry.done, step: attempt}, failures=failures))

    def fail(self, job_id: str, step: str, text: str) -> LedgerEntry:
        """Keep the full text of an error for this node's own people."""
        entry = self.entry(job_id)
        return self._save(replace(entry, failures={**entry.failures, step: text}))

    def _save(self, entry: LedgerEntry) -> LedgerEntry:
        self._store.save_json(
            entry.job_id,
            {
                "job": entry.job.canonical().decode(),
                "status": entry.status,
                "reason": entry.reason,
                "received_s": entry.received_s,
                "attempts": entry.attempts,
                "done": entry.done,
                "failures": entry.failures,
                "bound": entry.bound,
            },
        )
        self._entries[entry.job_id] = entry
        return entry


class LedgerReader:
    """Reads the entries that another process writes: each file again once it changed, and no other.

    A file is replaced whole, so that the folder's own time tells of every change; calls may come from any thread.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._seen = -1
        self._read: dict[str, tuple[tuple[int, int], LedgerEntry]] = {}
        self._newest: tuple[LedgerEntry, ...] = ()

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Return all jobs as they stand now, the newest first."""
        with self._lock:
            self._look()
            return self._newest

    def get(self, job_id: str) -> LedgerEntry | None:
        """Return one job as it stands now, if it is known."""
        with self._lock:
            self._look()
            found = self._read.get(job_id)
            return None if found is None else found[1]

    def _look(self) -> None:
        try:
            changed = self._folder.stat().st_mtime_ns
            if changed == self._seen:
                return
            with os.scandir(self._folder) as files:
                stamps = {f.name[:-5]: _stamp(f.stat()) for f in files if f.name.endswith(".json") and f.name[0] != "."}
        except OSError:  # no job was proposed yet
            self._seen, self._read, self._newest = -1, {}, ()
            return
        store, kept = JobStore(self._folder), self._read
        self._read = {
            name: kept[name]
            if name in kept and kept[name][0] == stamp
            else (stamp, _from_json(name, store.load_json(name)))
            for name, stamp in stamps.items()
        }
        self._newest = tuple(sorted((e for _, e in self._read.values()), key=lambda e: e.received_s, reverse=True))
        # a change within the clock's grain of this look could bear the same time: then the next look reads once more
        self._seen = changed if time.time_ns() - changed > _GRAIN_NS else -1


def _stamp(found: os.stat_result) -> tuple[int, int]:
    return (found.st_mtime_ns, found.st_ino)


def _from_json(job_id: str, value: Any) -> LedgerEntry:
    try:
        job = parse_job(value.pop("job"), f"stored job {job_id}")
        check_job_id(job_id, job)  # the id holds the job's digest: another job in the record is found
        return LedgerEntry(job_id=job_id, job=job, **value)
    except (TypeError, KeyError, AttributeError, JobError) as error:
        raise StateError(f"record of job {job_id} is damaged; restore this node's state folder") from error
