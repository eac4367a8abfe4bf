"""libsodium, loaded for compiled loops when this module is first imported (`crypto/group.py` does so)."""

from __future__ import annotations

import llvmlite.binding as llvm

from veilscore.errors import StateError
from veilscore.files.machine import remove_file

try:
    from rbcl import crypto_core_ristretto255_add, crypto_core_ristretto255_sub
    from rbcl._sodium import _sodium, lib_path
except OSError as error:  # rbcl unpacks its library into a temporary file
    raise StateError(
        f"libsodium cannot be loaded from a temporary file ({error}); set TMPDIR to a folder that can be written and "
        "whose files may be run"
    ) from error

__all__ = ["crypto_core_ristretto255_add", "crypto_core_ristretto255_sub"]

llvm.load_library_permanently(lib_path)
_sodium.sodium_init()
remove_file(lib_path)  # rbcl leaves its temporary file there at each import
