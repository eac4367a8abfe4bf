"""Key sources give the passphrase with which a private key is encrypted at rest.

A key at rest is PKCS #8 under scrypt and AES-256. The passphrase is a person's, or 256 random bits that a key
management service or a hardware token wraps: then `passphrase.wrapped` lies beside the key and only the service can
open it. gRPC must be given the private key itself, so the key is in this process's memory while the node runs; a
token that signs without giving the key out cannot serve TLS here.

Source: RFC 5958 (PKCS #8), RFC 8018 (PBES2), RFC 7914 (scrypt).
Protects: a copied disk or backup.
Does not protect: against whoever can run the unwrapping program or read the place of the passphrase.
"""

from __future__ import annotations

import base64
import getpass
import importlib
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from veilscore.errors import ConfigError
from veilscore.files.private import private_folder

PASSPHRASE_VARIABLE = "VEILSCORE_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable, not a passphrase
PASSPHRASE_FILE_VARIABLE = "VEILSCORE_KEY_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable
WRAPPED_FILE = "passphrase.wrapped"
COMMAND_S = 30.0
_MOST_BYTES = 64 * 1024
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 14, 8, 5  # 16 MB a try (OWASP); OpenSSL reads up to 32 MB


class KeySource(Protocol):
    """Gives the passphrase of the identity in a folder."""

    def secret(self, folder: Path) -> str | None:
        """Return the passphrase of the key in `folder`; None if this source has none.

        Raises ConfigError where the source is there but cannot be used; it says what to do, never the passphrase.
        """

    def new_secret(self, folder: Path) -> str | None:
        """Return the passphrase for a key about to be made in `folder`; with None the key stays unencrypted."""


@dataclass(frozen=True)
class EnvironmentSource:
    """Takes the passphrase from an environment variable."""

    variable: str = PASSPHRASE_VARIABLE

    def secret(self, _folder: Path) -> str | None:
        """Return the value of the variable; None if it is unset or empty."""
        return os.environ.get(self.variable) or None

    def new_secret(self, folder: Path) -> str | None:
        """Return the same."""
        return self.secret(folder)


@dataclass(frozen=True)
class FileSource:
    """Takes the passphrase from the first line of a file of mode 0600, kept outside the home."""

    path: Path

    def secret(self, _folder: Path) -> str | None:
        """Return the first line of the file."""
        try:
            with self.path.open(encoding="utf-8") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise ConfigError(f"passphrase file {self.path} can be read by other users: chmod 600 it")
                line = file.readline(_MOST_BYTES).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise ConfigError(f"passphrase file {self.path} cannot be read: {reason}") from error
        if not line:
            raise ConfigError(f"passphrase file {self.path} is empty: put the passphrase on its first line")
        return line

    def new_secret(self, folder: Path) -> str | None:
        """Return the same."""
        return self.secret(folder)


@dataclass(frozen=True)
class PromptSource:
    """Lets a person type the passphrase; a node that starts in the background cannot use it."""

    def secret(self, folder: Path) -> str | None:
        """Ask for it once."""
        if not sys.stdin.isatty():
            raise ConfigError(
                f"the passphrase of {folder} must be typed, and there is no terminal: start the node in the "
                f"foreground, or set {PASSPHRASE_FILE_VARIABLE}"
            )
        return getpass.getpass(f"Passphrase of the key in {folder}: ") or None

    def new_secret(self, folder: Path) -> str | None:
        """Ask for it twice."""
        first = self.secret(folder)
        if first != getpass.getpass("The same again: "):
            raise ConfigError("the two passphrases differ")
        return first


@dataclass(frozen=True)
class CommandSource:
    """Lets an external program wrap 256 random bits: the hook for a key management service.

    wrap : program and arguments; gets the passphrase on standard input and writes the wrapped form.
    unwrap : the opposite. No shell is involved; its standard error is not shown, since it may hold secrets.
    """

    unwrap: tuple[str, ...]
    wrap: tuple[str, ...] = ()
    timeout_s: float = COMMAND_S

    def secret(self, folder: Path) -> str | None:
        """Unwrap what lies beside the key."""
        wrapped = _read_wrapped(folder)
        return _text(self._run(self.unwrap, wrapped), self.unwrap[0])

    def new_secret(self, folder: Path) -> str | None:
        """Draw a passphrase, wrap it, and see that it can be unwrapped before anything depends on it."""
        if not self.wrap:
            raise ConfigError("key.wrap in node.yaml is missing: the program that wraps a new passphrase")
        fresh = secrets.token_hex(32)
        wrapped = self._run(self.wrap, fresh.encode())
        if fresh.encode() in wrapped:
            raise ConfigError(f"{self.wrap[0]} gave the passphrase back unencrypted: it does not wrap")
        if _text(self._run(self.unwrap, wrapped), self.unwrap[0]) != fresh:
            raise ConfigError(f"{self.unwrap[0]} does not undo {self.wrap[0]}: no key was made")
        _write_wrapped(folder, wrapped)
        return fresh

    def _run(self, command: tuple[str, ...], given: bytes) -> bytes:
        try:
            done = subprocess.run(  # noqa: S603 - the program that the node's own configuration names
                command, input=given, capture_output=True, timeout=self.timeout_s, check=False
            )
        except (OSError, ValueError) as error:  # a ValueError where an argument has a zero byte
            reason = getattr(error, "strerror", error)
            raise ConfigError(f"key program {command[0]} cannot be run: {reason}") from error
        except subprocess.TimeoutExpired:
            raise ConfigError(f"key program {command[0]} gave no answer within {self.timeout_s:g} s") from None
        if done.returncode != 0 or not 0 < len(done.stdout) <= _MOST_BYTES:
            raise ConfigError(
                f"key program {command[0]} failed (exit code {done.returncode}, {len(done.stdout)} bytes): run it "
                "by hand to see why"
            )
        return done.stdout


@dataclass(frozen=True)
class TokenSource:
    """Lets a secret AES key in a PKCS #11 token wrap 256 random bits; needs the library python-pkcs11.

    module : the token maker's shared library.
    token, label : of the token and of the AES key in it (CKA_ENCRYPT and CKA_DECRYPT).
    pin_variable : environment variable with the token's PIN.
    """

    module: Path
    token: str
    label: str
    pin_variable: str = field(default="VEILSCORE_TOKEN_PIN", repr=False)

    def secret(self, folder: Path) -> str | None:
        """Let the token open what lies beside the key."""
        wrapped = _read_wrapped(folder)
        if len(wrapped) <= 16:  # no more than the initial vector
            raise ConfigError(f"{folder / WRAPPED_FILE} is too short")
        return _text(self._with_key("decrypt", wrapped[16:], wrapped[:16]), "the token")

    def new_secret(self, folder: Path) -> str | None:
        """Draw a passphrase and let the token wrap it (AES-CBC; the file begins with the initial vector)."""
        fresh, vector = secrets.token_hex(32), secrets.token_bytes(16)
        _write_wrapped(folder, vector + self._with_key("encrypt", fresh.encode(), vector))
        return fresh

    def _with_key(self, what: str, data: bytes, vector: bytes) -> bytes:
        try:
            pkcs11: Any = importlib.import_module("pkcs11")
        except ImportError as error:
            raise ConfigError(
                "key.source pkcs11 needs the library python-pkcs11: pip install python-pkcs11, or use key.source "
                "command with your token's own program"
            ) from error
        pin = os.environ.get(self.pin_variable)
        if not pin:
            raise ConfigError(f"set {self.pin_variable} to the PIN of token {self.token}")
        try:
            token = pkcs11.lib(str(self.module)).get_token(token_label=self.token)
            with token.open(user_pin=pin) as session:
                key = session.get_key(label=self.label, object_class=pkcs11.ObjectClass.SECRET_KEY)
                return bytes(getattr(key, what)(data, mechanism_param=vector))
        except (pkcs11.PKCS11Error, pkcs11.NoSuchToken, RuntimeError) as error:
            raise ConfigError(f"token {self.token} did not {what}: {type(error).__name__}") from error


def default_source() -> KeySource:
    """Return the file that VEILSCORE_KEY_PASSPHRASE_FILE names, or else the variable VEILSCORE_KEY_PASSPHRASE."""
    path = os.environ.get(PASSPHRASE_FILE_VARIABLE)
    return FileSource(Path(path)) if path else EnvironmentSource()


def encrypt_pkcs8(der: bytes, passphrase: str) -> bytes:
    """Return the PEM of a PKCS #8 key under scrypt and AES-256-CBC, which OpenSSL reads too.

    It is written here because `cryptography` writes PKCS #8 with 2048 rounds of PBKDF2 only; it reads this form.
    """
    salt, vector = os.urandom(16), os.urandom(16)
    key = Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P).derive(passphrase.encode())
    pad = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(vector)).encryptor()
    encrypted = encryptor.update(pad.update(der) + pad.finalize()) + encryptor.finalize()
    numbers = b"".join(_integer(n) for n in (_SCRYPT_N, _SCRYPT_R, _SCRYPT_P))
    kdf = _der(0x30, _OID_SCRYPT + _der(0x30, _der(0x04, salt) + numbers))
    cipher = _der(0x30, _OID_AES256_CBC + _der(0x04, vector))
    scheme = _der(0x30, _OID_PBES2 + _der(0x30, kdf + cipher))
    return _pem("ENCRYPTED PRIVATE KEY", _der(0x30, scheme + _der(0x04, encrypted)))


_OID_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_OID_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_OID_AES256_CBC = bytes.fromhex("060960864801650304012a")


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))  # DER integers have a sign bit


def _pem(kind: str, der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----", ""]).encode()


def _read_wrapped(folder: Path) -> bytes:
    try:
        with (folder / WRAPPED_FILE).open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError as error:
        raise ConfigError(
            f"{folder / WRAPPED_FILE} cannot be read ({error.strerror}): it is made with the key"
        ) from error


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not be there yet (FileExistsError), whole or not at all, with its mode from the start."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _write_wrapped(folder: Path, wrapped: bytes) -> None:
    try:
        private_folder(folder)
        write_new(folder / WRAPPED_FILE, wrapped, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{folder / WRAPPED_FILE} exists already: move the old identity away first") from error
    except OSError as error:
        raise ConfigError(f"{folder / WRAPPED_FILE} cannot be written: {error.strerror}") from error


def _text(secret: bytes, who: str) -> str:
    try:
        text = secret.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise ConfigError(f"{who} gave no passphrase (UTF-8 text expected)")
    return text
