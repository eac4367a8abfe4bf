"""What belongs to a party is for its own account alone: folders have mode 0700 and files 0600 from the start."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from veilscore.errors import ConfigError

_OTHERS = 0o077


def keep_private() -> None:
    """Let this process make files and folders for its own account alone, whatever the shell's umask was.

    It is the whole process's setting, so a node and the command call it at their start, a library never.
    """
    os.umask(_OTHERS)


def private_folder(folder: Path) -> Path:
    """Make a folder of mode 0700 and those above it that are missing, of the same mode, and return it.

    `Path.mkdir` gives its mode to the last folder alone. Raises OSError where one cannot be made.
    """
    for place in reversed(folder.parents):
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def private_file(path: Path) -> int:
    """Return a descriptor of a file of mode 0600, to write at its end; it is made if absent."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def open_folder(folder: Path) -> Path:
    """Make a folder that other accounts may read and enter, whatever the umask, and return it."""
    for place in (*reversed(folder.parents), folder):
        if not place.is_dir():
            place.mkdir(exist_ok=True)
            place.chmod(0o755)
    return folder


def check_private(folder: Path, what: str) -> None:
    """Refuse a folder that other accounts can read or enter, and name the command that mends it (ConfigError).

    what : identity folder or home; both hold a key.
    """
    try:
        mode = folder.stat().st_mode & 0o777
    except OSError as error:
        raise ConfigError(f"{what} {folder} cannot be read: {error.strerror}") from error
    if mode & _OTHERS:
        raise ConfigError(
            f"{what} {folder} has mode {mode:04o}, so other accounts of this machine get in: run "
            f"`chmod -R go-rwx {shlex.quote(str(folder))}`, and make a new identity if somebody may have read its key"
        )
