"""A node's own secret, from which whatever has to be told apart but not read by others is derived."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from veilscore.errors import StateError
from veilscore.files.private import private_folder
from veilscore.files.store import write_atomically

FILE = "state/binding.key"
KEY_BYTES = 32


def home_key(home: Path) -> bytes:
    """Return the secret of a home, made when first needed (mode 0600); StateError if it cannot be used."""
    path = home / FILE
    try:
        if not path.is_file():
            private_folder(path.parent)
            fresh = os.urandom(KEY_BYTES)
            write_atomically(path, lambda file: file.write(fresh))
        key = path.read_bytes()
    except OSError as error:
        raise StateError(f"{path} cannot be read or written: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise StateError(f"{path} has {len(key)} bytes instead of {KEY_BYTES}: restore it from backup")
    return key


def key_for(home: Path, *use: str) -> bytes:
    """Return a key of 32 bytes for one use, derived from the home's secret; no use tells another's."""
    label = b"".join(len(word.encode()).to_bytes(4, "little") + word.encode() for word in use)
    return hashlib.blake2b(label, key=home_key(home), digest_size=KEY_BYTES).digest()
