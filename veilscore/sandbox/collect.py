"""Takes declared outputs out of a folder that hostile code has written; nobody may be writing to it any more."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

Declared = dict[str, int]  # name of a file -> most bytes


def collect(folder: int, declared: Mapping[str, int]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the content of each declared file by its name, and why others were not taken.

    folder : open descriptor of the folder; declared : name -> most bytes.
    Names of undeclared files are the code's to choose and could carry data, so they are only counted.
    """
    taken: dict[str, bytes] = {}
    refused: list[str] = []
    for name, most in declared.items():
        try:
            taken[name] = _read(folder, name, most)
        except _NotTaken as reason:
            refused.append(f"{name}: {reason}")
    with os.scandir(folder) as entries:
        n_others = sum(entry.name not in declared for entry in entries)
    if n_others:
        refused.append(f"{n_others} undeclared files or folders stay behind")
    return taken, tuple(refused)


class _NotTaken(Exception):  # noqa: N818 - a reason, not an error
    pass


def _read(folder: int, name: str, most: int) -> bytes:
    # O_NONBLOCK: a named pipe in place of a file would hold the owner up for ever
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        raise _NotTaken("was not written") from None
    except OSError:
        raise _NotTaken("is not a regular file") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _NotTaken("is not a regular file")
        if found.st_nlink != 1:
            raise _NotTaken("has other names (hard links)")
        if found.st_size > most:
            raise _NotTaken(f"is longer than the {most} bytes declared")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise _NotTaken(f"is longer than the {most} bytes declared")
    return content
