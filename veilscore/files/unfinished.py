"""Removes at a node's start the temporary files of writes that a crash cut off (`store.write_atomically`)."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

_UNFINISHED = re.compile(r"\..*\.part|\..*\.part-journal")
_OWN = ("state", "evidence", "jobs")  # only a running node writes there, and it has the home's lock
_OTHERS_S = 3600.0  # elsewhere commands write too: what is older was not finished


def remove_unfinished(home: Path) -> list[Path]:
    """Remove the temporary files of writes that a crash cut off, and return them; nobody reads such a file."""
    found: list[Path] = []
    for own in (True, False):
        tops = [home / name for name in _OWN] if own else [one for one in home.glob("*") if _is_for_all(one)]
        for top in tops:
            for folder, _, files in os.walk(top):
                found += [path for name in files if _is_left(path := Path(folder, name), own=own)]
    for path in found:
        with contextlib.suppress(OSError):  # on a disk that cannot be written it stays for the next start
            path.unlink()
    return found


def _is_for_all(top: Path) -> bool:
    return top.name not in _OWN and not top.is_symlink()  # what is linked lies elsewhere and may be somebody else's


def _is_left(path: Path, *, own: bool) -> bool:
    if not _UNFINISHED.fullmatch(path.name):
        return False
    with contextlib.suppress(OSError):
        return own or time.time() - path.stat().st_mtime > _OTHERS_S
    return False
