"""A backup is one file with everything that a home holds, but for what a start makes again; encrypted by default.

Form    : a compressed tar stream, in `sealed.py`'s form unless it is to be plain. The log comes first, then the rest,
          so that no state file is older than the log (`node/state.py`), and last a manifest: the digest of every file.
          SQLite files are copies by SQLite itself, which are whole while a node writes; hard links are noted as such.
Restore : into a new folder beside the home, where every file is compared with the manifest; what stands there before
          is moved aside, never written into.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from veilscore.errors import ConfigError, StateError
from veilscore.files.private import private_folder
from veilscore.files.sealed import Sealing, Unsealing, is_sealed
from veilscore.files.sqlite_file import told
from veilscore.files.store import write_atomically, write_text

MADE_AGAIN = {  # what a backup leaves out, and why
    r"log/.*": "lines that a node wrote for people; nothing reads them",
    r"cache/.*": "compiled code, which a start compiles again",
    r"state/node\.pid": "the number of the process that runs, and its lock",
    r".*-(wal|shm|journal)": "of an SQLite file, which is copied together with it",
    r"(.*/)?\.[^/]*\.part": "a file that was never finished",
}
MANIFEST = "manifest.json"
RESTORED = "state/restored.json"  # in a home that was restored, until the other members have compared its log
_LOG = "evidence/log.jsonl"
_SQLITE = b"SQLite format 3\0"
_PIECE = 1 << 20
_MODE = 0o755  # what a node lets others of the machine do: sandbox and catalogue are read by other accounts
_MOST_MANIFEST = 256 << 20
_LEFT_OUT = re.compile("|".join(f"(?:{pattern})" for pattern in MADE_AGAIN))


@dataclass
class BackupManifest:
    """What a backup holds.

    party : whose home it is; made_s : when it was begun, seconds since the epoch.
    files : name below the home -> SHA-256; links : name -> the file that it is a hard link of; folders : name -> mode.
    """

    party: str
    made_s: float
    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> BackupManifest:
        """Return the manifest that a backup ends with; ConfigError if it is none, or names a place outside a home."""
        try:
            found = cls(**json.loads(data))
            for name in (*found.files, *found.links, *found.links.values(), *found.folders):
                _check_name(name)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError("the backup's manifest is damaged") from error
        return found


def left_out(name: str) -> bool:
    """Return whether a file, named from the home, is one that a start makes again."""
    return _LEFT_OUT.fullmatch(name) is not None


def names_in(home: Path) -> Iterator[str]:
    """Yield the names of all files below a home that belong into its backup, the log first."""
    if (home / _LOG).is_file():
        yield _LOG
    for folder, folders, files in os.walk(home):
        folders.sort()
        for file in sorted(files):
            name = (Path(folder) / file).relative_to(home).as_posix()
            if name != _LOG and not left_out(name):
                yield name


def back_up(home: Path, party: str, target: Path, passphrase: str | None) -> BackupManifest:
    """Write a new backup of a home, whose node may run meanwhile; with None in place of a passphrase it is plain.

    Raises ConfigError for a passphrase that is too short, StateError where a file cannot be read or written, or is of a
        kind that no node makes.
    """
    if target.exists():
        raise StateError(f"{target} exists already; choose a new name, so that no older backup is lost")
    if target.resolve().is_relative_to(home.resolve()):
        raise StateError(f"{target} is in the home itself: a backup belongs on another disk")
    manifest = BackupManifest(party, time.time())

    def write(file: IO[bytes]) -> None:
        sealing = None if passphrase is None else Sealing(file, passphrase)
        with (
            gzip.GzipFile(filename="", mode="wb", compresslevel=3, fileobj=sealing or file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|") as archive,
        ):
            _fill(archive, home, manifest)
        if sealing is not None:
            sealing.close()

    write_atomically(target, write)
    return manifest


def _fill(archive: tarfile.TarFile, home: Path, manifest: BackupManifest) -> None:
    first: dict[tuple[int, int], str] = {}
    for name in names_in(home):
        path = home / name
        try:
            status = path.lstat()
            if not path.is_file() or path.is_symlink():
                raise StateError(f"{path} is no ordinary file: take it out of the home, no node makes such")
            known = first.setdefault((status.st_dev, status.st_ino), name)
            if known != name:
                manifest.links[name] = known
                continue
            with _content(path, name) as file:
                manifest.files[name] = _add(archive, name, file, status)
        except FileNotFoundError:  # replaced or deleted since the folder was listed; its successor counts
            first = {key: kept for key, kept in first.items() if kept != name}
        except OSError as error:
            raise StateError(f"{path} cannot be read for the backup: {error.strerror}") from error
    for folder, _, _ in os.walk(home):
        name = Path(folder).relative_to(home).as_posix()
        if name != "." and not left_out(f"{name}/x"):
            manifest.folders[name] = Path(folder).stat().st_mode & 0o777
    data = json.dumps(vars(manifest), sort_keys=True).encode()
    _add(archive, MANIFEST, io.BytesIO(data), None, len(data))


@contextlib.contextmanager
def _content(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open what is to be kept of a file: of the log whole batches, of an SQLite file SQLite's own copy."""
    with path.open("rb") as file:
        if name == _LOG:
            data = file.read()
            last = data.rfind(b"\nH ")  # a batch that is being written has no head yet, or half of one
            end = data.find(b"\n", last + 1)
            if end < 0:
                end = data.find(b"\n", data.rfind(b"\nH ", 0, max(last, 0)) + 1)
            yield io.BytesIO(data[: end + 1])
        elif file.read(len(_SQLITE)) == _SQLITE:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part") as copy:
                with (
                    told(f"state file {path}", "restore it from backup"),
                    contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as source,
                    contextlib.closing(sqlite3.connect(copy.name)) as snapshot,
                ):
                    source.backup(snapshot)
                    snapshot.execute("PRAGMA journal_mode=DELETE")  # one file, without one beside it
                with Path(copy.name).open("rb") as whole:
                    yield whole
        else:
            file.seek(0)
            yield file


class _Digested:
    """Reads a file once and takes its digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data


def _add(
    archive: tarfile.TarFile, name: str, file: IO[bytes], status: os.stat_result | None, size: int | None = None
) -> str:
    """Add a file as long as it is now, should it grow meanwhile, and return its SHA-256."""
    info = tarfile.TarInfo(name)
    info.size = file.seek(0, os.SEEK_END) if size is None else size
    file.seek(0)
    if status is not None:
        info.mtime, info.mode = status.st_mtime, status.st_mode & 0o777
    read = _Digested(file)
    archive.addfile(info, read)
    return read.sha256.hexdigest()


# restoring


def restore(source: Path, home: Path, passphrase: Callable[[], str], *, replace: bool = False) -> BackupManifest:
    """Unpack a backup as a home and return what it held; nothing is at `home` before all of it was compared.

    passphrase : called if the backup is encrypted.
    replace : move a home that stands there aside, to HOME.replaced-TIME.
    Raises ConfigError where the backup is damaged, no backup or under another passphrase, or where a home stands there
        and that was not allowed; StateError where files cannot be written.
    """
    there = home.is_dir() and any(home.iterdir()) if home.exists() else False
    if home.exists() and not home.is_dir():
        raise ConfigError(f"{home} is a file: name the folder of the home")
    if there and not replace:
        raise ConfigError(f"{home} is there already: choose another folder, or say --replace to have it moved aside")
    part = home.with_name(f".{home.name}.restoring")
    try:
        shutil.rmtree(part, ignore_errors=True)
        private_folder(part)
        with source.open("rb") as file:
            manifest = _unpack(file, part, passphrase)
        write_text(part / RESTORED, json.dumps({"made_s": manifest.made_s, "restored_s": time.time()}))
        if there:
            home.rename(_aside(home))
        part.rename(home)
    except OSError as error:
        if isinstance(error, (gzip.BadGzipFile, EOFError)):
            raise ConfigError(f"{source} is no backup, or was cut off") from error
        where = error.filename or home
        raise StateError(f"the backup cannot be restored: {where}: {error.strerror or error}") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ConfigError(f"{source} is no backup, or is damaged or cut off") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _aside(home: Path) -> Path:
    """Return a name beside a home that nothing has."""
    name = f"{home.name}.replaced-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    names = (home.with_name(name if number == 0 else f"{name}-{number}") for number in itertools.count())
    return next(path for path in names if not path.exists())


def _unpack(file: IO[bytes], folder: Path, passphrase: Callable[[], str]) -> BackupManifest:
    start = file.read(64)
    file.seek(0)
    stream: Any = Unsealing(file, passphrase) if is_sealed(start) else file
    found: dict[str, str] = {}
    manifest: BackupManifest | None = None
    with tarfile.open(fileobj=stream, mode="r|gz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is None or manifest is not None:
                raise ConfigError("the backup holds what no backup holds: it was changed")
            if member.name == MANIFEST:
                if member.size > _MOST_MANIFEST:
                    raise ConfigError("the backup's manifest is damaged")
                manifest = BackupManifest.parse(content.read())
            else:
                found[member.name] = _take(content, folder / _check_name(member.name), member)
    while stream.read(_PIECE):  # to the end, so that every piece's tag is checked
        pass
    if manifest is None or found != manifest.files:
        differing = {*found.items()} ^ {*manifest.files.items()} if manifest else set(found.items())
        said = ", ".join(sorted({name for name, _ in differing})[:3]) or MANIFEST
        raise ConfigError(f"the backup was changed or cut off: {said} is not what its manifest says")
    for name, first in manifest.links.items():
        private_folder((folder / name).parent)
        (folder / name).hardlink_to(folder / first)
    for name, mode in manifest.folders.items():
        private_folder(folder / name).chmod(int(mode) & _MODE | 0o700)
    return manifest


def _take(content: IO[bytes], target: Path, member: tarfile.TarInfo) -> str:
    private_folder(target.parent)
    digest = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        while piece := content.read(_PIECE):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    os.utime(target, (member.mtime, member.mtime))
    target.chmod(member.mode & _MODE | 0o600)
    return digest.hexdigest()


def _check_name(name: str) -> str:
    """Return the name of a file below a home; ConfigError where it leads out of it."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name or path.as_posix() != name:
        raise ConfigError("the backup names a file outside the home: it was changed")
    return name
