"""Folders of finished jobs, made once for the code as it is and shared by all tests: train once, copy often.

They stay in pytest's cache folder, so that a second run with the same code trains nothing. Never change one, which ends
the session with an error: take a copy, as `trial_scoring.copy_of` does.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import inspect
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS = Path(__file__).resolve().parent
KEPT_S = 2 * 86_400.0

_kept: list[Path] = []  # the folder of all of them, set by conftest
_used: dict[Path, str] = {}  # what this process was given, with its state then


def keep_in(folder: Path) -> None:
    """Keep finished jobs in this folder, and remove there what nobody asked for lately: it is of older code."""
    _kept[:] = [folder]
    for old in folder.iterdir():
        if time.time() - old.stat().st_mtime > KEPT_S:
            shutil.rmtree(old, ignore_errors=True)


def finished(make: Callable[..., object], *arguments: Any) -> Path:
    """Return the folder that ``make(folder, *arguments)`` fills; one worker makes it, the others wait."""
    key = hashlib.sha256(f"{_code_of(Path(inspect.getfile(make)))} {arguments!r}".encode()).hexdigest()[:16]
    place = _kept[0] / f"{make.__module__}.{make.__name__}.{key}"
    place.mkdir(exist_ok=True)
    os.utime(place)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = place / "homes"
        done = place / "done"
        if not done.exists() or done.read_text() != _state(folder):  # interrupted, or changed by a wrong test
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder, *arguments)
            done.write_text(_state(folder))
        _used.setdefault(folder, done.read_text())
    return folder


def changed() -> list[Path]:
    """Return the folders that a test of this process changed."""
    return [folder for folder, state in _used.items() if _state(folder) != state]


def _state(folder: Path) -> str:
    """Return the digest of names, sizes and times of all files."""
    files = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    state = [(str(path.relative_to(folder)), status.st_size, status.st_mtime_ns) for path, status in files]
    return hashlib.sha256(repr(state).encode()).hexdigest()


@functools.cache
def _code_of(maker: Path) -> str:
    """Return the digest of all that decides what becomes of a folder: product, tests' helpers, packages, Python."""
    from veilscore.files.digests import code_digest  # imports most of the product, which few tests need

    helpers = [path for path in TESTS.rglob("*.py") if not path.name.startswith("test_")]
    digest = hashlib.sha256(f"{code_digest()} {sys.version}".encode())
    for path in (*sorted(helpers), maker, TESTS.parent / "requirements-dev.lock"):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
