"""Files of simulated processes: full disks, torn writes, a kill at any operation, and what a loss of power undoes.

`install` puts these in place of the system's functions for the rest of the (forked) process; whatever runs outside of
a simulated process is served as ever. Lost with the power: what a log did not sync, the newest renaming whose folder
was not synced, and the end of the journal of a database that does not sync at each commit.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtual_time import PROCESS, Process

_REAL = {
    name: getattr(os, name)
    for name in ("open", "write", "fsync", "replace", "link", "unlink", "mkdir", "ftruncate", "rename")
}
_CONNECT, _FLOCK = sqlite3.connect, fcntl.flock
_WAL_HEADER = 32  # bytes, with a salt that is new each time
_GROWS = {"open", "write", "mkdir", "link", "COMMIT", "INSERT", "REPLACE"}
INJECTED: Counter[str] = Counter()


@dataclass
class Disk:
    """The disk of one home.

    kill_at : operations until the process that makes them is killed.
    full : whether there is no space left.
    """

    home: Path
    rng: random.Random
    full: bool = False
    kill_at: int | None = None
    power_loss: bool = False
    operations: int = 0
    unsynced: dict[str, int] = field(default_factory=dict)  # file -> its size when it was synced last
    renamed: tuple[str, bytes | None] | None = None
    locks: list[int] = field(default_factory=list)
    open: list[FaultyConnection] = field(default_factory=list)
    lazy: set[str] = field(default_factory=set)  # databases that do not sync at each commit
    synced: dict[str, tuple[bytes, int]] = field(default_factory=dict)  # of these, the journal as it was synced last

    def sync_journal(self, database: str) -> None:
        """Note that all of a database's journal is on the disk."""
        wal = Path(f"{database}-wal")
        if wal.exists():
            data = wal.read_bytes()
            self.synced[database] = data[:_WAL_HEADER], len(data)

    def at(self, kind: str) -> bool:
        """Count an operation of a process; returns whether the process is to be killed once it is done."""
        process = PROCESS.get()
        assert process is not None
        process.check()
        self.operations += 1
        if self.full and kind in _GROWS:
            INJECTED["disk full"] += 1
            return False
        if self.kill_at is not None and self.operations >= self.kill_at:
            self.kill_at = None
            if self.rng.random() < 0.5:
                INJECTED["kill before an operation"] += 1
                process.kill()
                process.check()
            INJECTED["kill after an operation"] += 1
            return True
        return False

    def died(self, _process: Process) -> None:
        """Leave the files as the end of a process leaves them, or a loss of power."""
        kept = {path: path.read_bytes() for path in self.home.rglob("*.db*") if not path.name.endswith("-shm")}
        for connection in self.open:
            connection.really_close()
        for path in self.home.rglob("*.db-*"):
            _REAL["unlink"](path)
        for path, data in kept.items():
            path.write_bytes(data)
        for lock in self.locks:
            _FLOCK(lock, fcntl.LOCK_UN)
        if self.power_loss:
            self._lose_power()
        self.open, self.locks, self.unsynced, self.renamed, self.synced = [], [], {}, None, {}
        self.full, self.kill_at, self.power_loss = False, None, False

    def _lose_power(self) -> None:
        INJECTED["loss of power"] += 1
        for name, synced in self.unsynced.items():
            path = Path(name)
            if path.exists() and path.stat().st_size > synced:
                data, at = path.read_bytes(), self.rng.randint(synced, path.stat().st_size)
                zeros = bytes(len(data) - at) if self.rng.random() < 0.5 else b""
                path.write_bytes(data[:at] + zeros)
                INJECTED["torn write"] += 1
        if self.renamed is not None and self.rng.random() < 0.5:
            target, before = self.renamed
            if before is None:
                Path(target).unlink(missing_ok=True)
            else:
                Path(target).write_bytes(before)
            INJECTED["undone renaming"] += 1
        for name in self.lazy:
            wal = Path(f"{name}-wal")
            if wal.exists():
                data = wal.read_bytes()
                begun, size = self.synced.get(name, (b"", 0))
                least = size if data[:_WAL_HEADER] == begun else 0  # else it was begun anew, after a checkpoint
                wal.write_bytes(data[: self.rng.randint(least, len(data))])
                INJECTED["torn journal"] += 1


DISKS: dict[str, Disk] = {}  # of the simulated processes, by name


def _disk() -> Disk | None:
    process = PROCESS.get()
    return None if process is None else DISKS.get(process.name)


def _end(disk: Disk | None, killed: bool) -> None:
    process = PROCESS.get()
    if killed and process is not None:
        process.kill()
        process.check()


def _full(path: Any = None) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _name(descriptor: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return ""


def _open(path: Any, flags: int, *args: Any, **options: Any) -> int:
    disk = _disk()
    if disk is None or not flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
        return _REAL["open"](path, flags, *args, **options)
    killed = disk.at("open")
    if disk.full and flags & os.O_CREAT and not Path(path).exists():
        raise _full(path)
    found = _REAL["open"](path, flags, *args, **options)
    _end(disk, killed)
    return found


def _write(descriptor: int, data: Any) -> int:
    disk = _disk()
    if disk is None:
        return _REAL["write"](descriptor, data)
    name = _name(descriptor)
    disk.unsynced.setdefault(name, os.fstat(descriptor).st_size)
    killed = disk.at("write")
    if disk.full:
        some = disk.rng.randint(0, len(data))  # the last blocks of a disk take the beginning of a write
        if not some:
            raise _full(name)
        return _REAL["write"](descriptor, data[:some])
    if killed:
        INJECTED["torn write"] += 1
        _REAL["write"](descriptor, data[: disk.rng.randint(0, len(data))])
        _end(disk, killed)
    return _REAL["write"](descriptor, data)


def _fsync(descriptor: int) -> None:
    disk = _disk()
    if disk is None:
        return
    killed = disk.at("fsync")
    name = _name(descriptor)
    disk.unsynced.pop(name, None)
    if disk.renamed is not None and str(Path(disk.renamed[0]).parent) == name:
        disk.renamed = None
    _end(disk, killed)


def _replace(source: Any, target: Any, **options: Any) -> None:
    disk = _disk()
    if disk is None:
        return _REAL["replace"](source, target, **options)
    killed = disk.at("replace")
    old = Path(target)
    disk.renamed = (str(old.absolute()), old.read_bytes() if old.is_file() else None) if not old.is_dir() else None
    _REAL["replace"](source, target, **options)
    _end(disk, killed)
    return None


def _plain(name: str) -> Any:
    def act(*args: Any, **options: Any) -> Any:
        disk = _disk()
        if disk is None:
            return _REAL[name](*args, **options)
        killed = disk.at(name)
        if disk.full and name in _GROWS:
            raise _full(args[0])
        found = _REAL[name](*args, **options)
        _end(disk, killed)
        return found

    return act


def _flock(descriptor: Any, operation: int) -> None:
    _FLOCK(descriptor, operation)
    disk = _disk()
    if disk is not None and operation & fcntl.LOCK_EX:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        disk.locks.append(os.dup(number))  # the lock is of the open file: also once its own number is closed


class _Cursor(sqlite3.Cursor):
    def execute(self, sql: str, *args: Any) -> Any:
        with_hook(sql, super().execute, sql, *args)
        return self

    def executemany(self, sql: str, *args: Any) -> Any:
        with_hook(sql, super().executemany, sql, *args)
        return self


def with_hook(sql: str, act: Any, *args: Any) -> Any:
    disk = _disk()
    if disk is None:
        return act(*args)
    word = sql.split(None, 1)[0].upper()
    if word in {"SELECT", "PRAGMA"}:
        return act(*args)
    killed = disk.at(word)
    if disk.full and word in _GROWS:
        raise sqlite3.OperationalError("database or disk is full")
    found = act(*args)
    _end(disk, killed)
    return found


class FaultyConnection(sqlite3.Connection):
    """A connection that is closed when its process is killed, its transaction undone."""

    path = ""
    full = False  # whether it syncs at each commit now

    def really_close(self) -> None:
        super().close()

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or _Cursor)

    def execute(self, sql: str, *args: Any) -> Any:
        disk = _disk()
        if sql.startswith("PRAGMA synchronous="):
            self.full = sql.endswith("FULL")
            if disk is not None and not self.full:
                disk.lazy.add(self.path)
        found = self.cursor().execute(sql, *args)
        if disk is not None and self.full and not self.in_transaction and self.path in disk.lazy:
            disk.sync_journal(self.path)
        return found

    def executemany(self, sql: str, *args: Any) -> Any:
        return self.cursor().executemany(sql, *args)

    def commit(self) -> None:
        with_hook("COMMIT", super().commit) if self.in_transaction else super().commit()

    def rollback(self) -> None:
        process = PROCESS.get()
        if process is None or process.alive:
            super().rollback()


def _connect(database: Any, *args: Any, **options: Any) -> sqlite3.Connection:
    disk = _disk()
    if disk is None:
        return _CONNECT(database, *args, **options)
    disk.at("connect")
    made = _CONNECT(database, *args, **{**options, "factory": FaultyConnection})
    made.path = str(database)
    disk.open.append(made)
    return made


def install() -> None:
    """Serve simulated processes from here on."""
    os.open, os.write, os.fsync, os.replace = _open, _write, _fsync, _replace
    for name in ("link", "unlink", "mkdir", "ftruncate", "rename"):
        setattr(os, name, _plain(name))
    os.remove = os.unlink
    fcntl.flock = _flock
    sqlite3.connect = sqlite3.dbapi2.connect = _connect
