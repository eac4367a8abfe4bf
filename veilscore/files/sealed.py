"""Encrypts a stream of bytes under a passphrase, in pieces, so that a file of any size needs little memory.

Source  : scrypt (RFC 7914), AES-256-GCM; STREAM of Hoang, Reyhanitabar, Rogaway and Vizar (2015): a piece's nonce holds
          its number and whether it is the last, so that none can be changed, moved, dropped or added.
Form    : one line of JSON with the parameters, which every piece authenticates, then pieces of 1 MiB with a tag each.
Protects: what lies in the file, from whoever has the file alone; a guessed passphrase costs 128 MB and 0.3 s a try.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from veilscore.errors import ConfigError

MAGIC = b"veilscore sealed 1 "
MIN_PASSPHRASE = 12
PIECE_BYTES = 1 << 20
_TAG_BYTES, _PREFIX_BYTES, _SALT_BYTES = 16, 7, 32
_MOST_PIECES = 1 << 32
_HEADER_BYTES = 512
_LOG_N, _R, _P = 17, 8, 1  # OWASP's choice of scrypt parameters where memory is not scarce
_MOST_LOG_N, _MOST_R, _MOST_P = 20, 16, 4  # a file of others may cost 2 GB at most


def is_sealed(start: bytes) -> bool:
    """Return whether a file that begins like this was written by `Sealing`."""
    return start.startswith(MAGIC)


def check_passphrase(passphrase: str) -> str:
    """Return a passphrase that may encrypt something; ConfigError if it is too short."""
    if len(passphrase) < MIN_PASSPHRASE:
        raise ConfigError(f"the passphrase is shorter than {MIN_PASSPHRASE} characters: choose a longer one")
    return passphrase


class Sealing:
    """Takes bytes by `write` and writes them encrypted; without `close` the file is refused as cut."""

    def __init__(self, file: IO[bytes], passphrase: str) -> None:
        salt, self._prefix = os.urandom(_SALT_BYTES), os.urandom(_PREFIX_BYTES)
        stated = {"log_n": _LOG_N, "r": _R, "p": _P, "salt": salt.hex(), "prefix": self._prefix.hex()}
        self._header = MAGIC + json.dumps(stated, sort_keys=True).encode() + b"\n"
        self._key = AESGCM(_key_of(check_passphrase(passphrase), salt, _LOG_N, _R, _P))
        self._file, self._waiting, self._number = file, bytearray(), 0
        file.write(self._header)

    def write(self, data: bytes) -> int:
        """Take in bytes; whole pieces are written at once."""
        self._waiting += data
        while len(self._waiting) > PIECE_BYTES:  # the last piece is known as such only at the end
            self._put(bytes(self._waiting[:PIECE_BYTES]), last=False)
            del self._waiting[:PIECE_BYTES]
        return len(data)

    def flush(self) -> None:
        """Do nothing: a piece is written once it is whole."""

    def close(self) -> None:
        """Write what is left as the last piece; the file itself stays open."""
        self._put(bytes(self._waiting), last=True)
        self._waiting.clear()

    def _put(self, piece: bytes, *, last: bool) -> None:
        nonce = _nonce(self._prefix, self._number, last=last)
        self._file.write(self._key.encrypt(nonce, piece, self._header))
        self._number += 1


class Unsealing:
    """Gives by `read` the bytes that `Sealing` took; no byte of a piece is given before its tag was checked.

    passphrase : called once.
    Raises ConfigError where the passphrase is wrong or the file was changed or cut.
    """

    def __init__(self, file: IO[bytes], passphrase: Callable[[], str]) -> None:
        self._header = file.readline(_HEADER_BYTES)
        try:
            stated = json.loads(self._header[len(MAGIC) :])
            n, r, p = (int(stated[name]) for name in ("log_n", "r", "p"))
            salt, self._prefix = bytes.fromhex(stated["salt"]), bytes.fromhex(stated["prefix"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged("it does not begin like one") from error
        sizes = len(salt) == _SALT_BYTES and len(self._prefix) == _PREFIX_BYTES
        if not (sizes and 1 <= n <= _MOST_LOG_N and 1 <= r <= _MOST_R and 1 <= p <= _MOST_P):
            raise _damaged("it asks for parameters of scrypt that no version writes")
        self._key = AESGCM(_key_of(passphrase(), salt, n, r, p))
        self._file, self._waiting, self._number, self._ended = file, bytearray(), 0, False
        self._ahead = file.read(PIECE_BYTES + _TAG_BYTES)

    def read(self, size: int = -1) -> bytes:
        """Return up to so many bytes, fewer at the end only; all that are left if `size` is negative."""
        while not self._ended and (size < 0 or len(self._waiting) < size):
            self._waiting += self._next()
        found = bytes(self._waiting if size < 0 else self._waiting[:size])
        del self._waiting[: len(found)]
        return found

    def _next(self) -> bytes:
        piece, self._ahead = self._ahead, self._file.read(PIECE_BYTES + _TAG_BYTES)
        self._ended = not self._ahead
        if self._number >= _MOST_PIECES:
            raise _damaged("it is longer than any that was written")
        try:
            found = self._key.decrypt(_nonce(self._prefix, self._number, last=self._ended), piece, self._header)
        except InvalidTag as error:
            what = "the passphrase is wrong, or its beginning was changed" if not self._number else "it was changed"
            raise _damaged(f"{what}, or cut off") from error
        self._number += 1
        return found


def _nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes([last])


def _key_of(passphrase: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    try:
        return Scrypt(salt=salt, length=32, n=1 << log_n, r=r, p=p).derive(passphrase.encode())
    except MemoryError as error:
        raise ConfigError(f"there is no memory for scrypt, which takes {(128 * r) << log_n >> 20} MB") from error


def _damaged(why: str) -> ConfigError:
    return ConfigError(f"the encrypted file cannot be opened: {why}")
