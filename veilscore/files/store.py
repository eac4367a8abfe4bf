"""Keeps the files of one job at one party: arrays (npz, never pickled) and JSON, each written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from veilscore.arrays import Array
from veilscore.errors import StateError
from veilscore.files.private import private_folder

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
# numpy reads headers with `ast`, which fails at random when threads parse at once (CPython gh-106905, to 3.11.7)
_READING = threading.Lock()


class JobStore:
    """Keeps the files of one job in a folder (mode 0700, files 0600), which is made if absent.

    Every method raises StateError, which names the path: disk full, no permission, a file that is missing or damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            private_folder(self.path)
        except OSError as error:
            raise _state_error("make", self.path, error) from error

    def __repr__(self) -> str:
        """Show the path alone."""
        return f"JobStore({str(self.path)!r})"

    def has(self, name: str) -> bool:
        """Say whether arrays or JSON of this name were saved."""
        return self._file(name, ".npz").exists() or self._file(name, ".json").exists()

    def names(self) -> tuple[str, ...]:
        """Return the names of all that was saved, sorted."""
        return tuple(sorted({p.stem for p in self.path.iterdir() if p.suffix in {".npz", ".json"}}))

    def save_arrays(self, name: str, **arrays: Array) -> Path:
        """Save named arrays of plain numbers in place of what had this name."""
        for key, array in arrays.items():
            if np.asarray(array).dtype.hasobject:
                raise StateError(f"array {key!r} of {name!r} has object dtype; only plain numbers are stored")
        target = self._file(name, ".npz")
        write_atomically(target, lambda file: np.savez(file, allow_pickle=False, **arrays))
        return target

    def load_arrays(self, name: str) -> dict[str, Array]:
        """Return the arrays saved under a name."""
        source = self._file(name, ".npz")
        try:
            with _READING, source.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
        except FileNotFoundError:
            raise StateError(f"nothing saved as {name!r} in {self.path}; run the step that makes it") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise _state_error("read", source, error) from error

    def save_json(self, name: str, value: Any, *, for_people: bool = True) -> Path:
        """Save a JSON-able value in place of what had this name; on one line, not `for_people`, it is much faster."""
        text, target = _json(name, value, 1 if for_people else None), self._file(name, ".json")
        write_atomically(target, lambda file: file.write(text.encode()))
        return target

    def keep_first_json(self, name: str, value: Any) -> Any:
        """Save a JSON-able value unless there is one of this name; return the one that is kept, the first of many."""
        text, target = _json(name, value, 1), self._file(name, ".json")
        write_atomically(target, lambda file: file.write(text.encode()), only_first=True)
        return self.load_json(name)

    def load_json(self, name: str) -> Any:
        """Return the value saved under a name."""
        source = self._file(name, ".json")
        try:
            return json.loads(source.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StateError(f"nothing saved as {name!r} in {self.path}; run the step that makes it") from None
        except (OSError, ValueError, RecursionError) as error:
            raise _state_error("read", source, error) from error

    def take_over(self, other: JobStore, *files: str) -> None:
        """Save under the same names what another store has in these files, such as "rows.npz" and "counts.json"."""
        for file in files:
            name, _, suffix = file.rpartition(".")
            if suffix == "npz":
                self.save_arrays(name, **other.load_arrays(name))
            else:
                self.save_json(name, other.load_json(name))

    def delete(self, name: str) -> None:
        """Remove what has this name, if there is anything."""
        for suffix in (".npz", ".json"):
            try:
                self._file(name, suffix).unlink(missing_ok=True)
            except OSError as error:
                raise _state_error("delete", self._file(name, suffix), error) from error

    def _file(self, name: str, suffix: str) -> Path:
        if not _NAME.match(name):
            raise StateError(f"{name!r} is not a name for a stored file: letters, digits, _ . - only")
        return self.path / f"{name}{suffix}"


def write_atomically(
    target: Path, write: Callable[[IO[bytes]], object], *, mode: int = 0o600, only_first: bool = False
) -> None:
    """Write a temporary file beside `target`, sync and rename it: a crash leaves the old file or the new one.

    only_first : leave a file that is there as it is, also one that another process has just made.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
    except OSError as error:
        raise _state_error("write", target, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if only_first:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, target)
        else:
            Path(temporary).replace(target)
        sync_folder(target.parent)  # or a loss of power could undo the renaming
    except OSError as error:
        raise _state_error("write", target, error) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _json(name: str, value: Any, indent: int | None) -> str:
    try:
        return json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StateError(f"{name!r} cannot be stored as JSON: {error}") from error


def _state_error(verb: str, path: Path, error: Exception) -> StateError:
    code = getattr(error, "errno", None)
    if code in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return StateError(f"cannot {verb} {path}: disk full or over quota; free space, then resume the job")
    if code in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return StateError(f"cannot {verb} {path}: no permission; check owner and mode of the folder")
    reason = os.strerror(code) if code else f"file is damaged ({type(error).__name__})"
    return StateError(f"cannot {verb} {path}: {reason}")


def write_text(path: Path, text: str) -> None:
    """Write a text file of mode 0600 whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))
