"""Keeps who may call the bank's door, and the certificate that the door itself shows: HOME/door.

One file a caller, `callers/NAME.json`, so that one is added or removed while the node runs. A caller's key is made here
and handed over, or stays with the caller, who sends a certificate.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from cryptography import x509
from pydantic import BaseModel, ConfigDict

from veilscore.errors import ConfigError, IdentityError, StateError
from veilscore.files.private import private_folder
from veilscore.files.store import write_atomically
from veilscore.keys.door_certificates import ShownCertificate, hosts_of, key_pem, make_certificate, read_authority
from veilscore.keys.key_source import WRAPPED_FILE, write_new
from veilscore.terms.door import MAY, DoorConfig, May
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.settings import read_text

FOLDER, CERTIFICATE, KEY = "door", "certificate.pem", "key.pem"
CALLER_CERTIFICATE, CALLER_KEY, SERVER_CERTIFICATE = "caller.pem", "caller-key.pem", "door.pem"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_SERVER_DAYS = 1095


class _Kept(BaseModel):
    """A caller's file."""

    model_config = ConfigDict(extra="forbid")
    may: tuple[May, ...]
    certificate: str


@dataclass(frozen=True)
class DoorCaller:
    """Who calls, and what for.

    may : score (steps and exact scores), band, decide.
    """

    name: str
    may: tuple[May, ...]
    certificate: ShownCertificate = field(repr=False)


class DoorCallers:
    """Tells callers by the certificate that TLS has checked.

    home : of the bank; what is added or removed there counts from the next request on.
    """

    def __init__(self, home: Path, door: DoorConfig) -> None:
        self._folder, self._door = home / FOLDER / "callers", door
        self._authority: x509.Certificate | None = None
        self._authority_pem = b""
        if door.client_ca is not None:
            self._authority_pem = read_text(door.client_ca, "client_ca").encode()
            self._authority = read_authority(self._authority_pem, str(door.client_ca))
        self._signature: object = None
        self._pinned: dict[str, DoorCaller] = {}

    def all(self) -> list[DoorCaller]:
        """Return the pinned callers by name; ConfigError names a file that is damaged."""
        return sorted(self._read().values(), key=lambda caller: caller.name)

    def signature(self) -> object:
        """Return what changes when callers are added or removed."""
        try:
            found = [(entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(self._folder)]
        except FileNotFoundError:
            return ()
        return tuple(sorted(found))

    def roots(self) -> bytes:
        """Return all that TLS is to trust, as PEM; empty if nobody is admitted."""
        return b"".join(caller.certificate.pem for caller in self.all()) + self._authority_pem

    def admitted(self, shown: ShownCertificate) -> DoorCaller:
        """Return the caller of a certificate that TLS has checked; IdentityError if it is nobody's any more."""
        caller = self._read().get(shown.fingerprint)
        if caller is not None:
            return caller
        may = self._door.client_ca_names.get(shown.name)
        if self._authority is None or may is None or shown.fingerprint in self._door.refused:
            raise IdentityError("this certificate is no caller's here (any more)")
        if not shown.issued_by(self._authority):
            raise IdentityError("this certificate is not one that the bank's authority issued itself")
        return DoorCaller(f"ca.{shown.name}", may, shown)

    def check_new(self, name: str) -> None:
        """Refuse a name that no new caller can have; ConfigError."""
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"caller {name[:60]!r}: lower-case letters, digits, - and _, beginning with a letter, at most 32"
            )
        if self._path(name).exists():
            raise ConfigError(f"there is a caller {name} already; remove it first: veilscore door remove {name}")

    def add(self, name: str, may: Sequence[str], certificate: bytes) -> DoorCaller:
        """Pin a caller's certificate; ConfigError if name, certificate or what it may do cannot be used."""
        self.check_new(name)
        if not may or not set(may) <= set(MAY):
            raise ConfigError(f"caller {name} may do nothing of this: use {', '.join(MAY)}")
        shown = ShownCertificate.read(certificate, name)
        if not shown.self_signed:
            raise ConfigError(
                f"the certificate of {name} was issued by an authority: name that as client_ca in the door section of "
                "node.yaml, or take a self-signed one"
            )
        for other in self.all():
            if other.certificate.fingerprint == shown.fingerprint:
                raise ConfigError(f"this certificate is that of caller {other.name} already")
        kept = _Kept(may=cast("tuple[May, ...]", tuple(m for m in MAY if m in may)), certificate=shown.pem.decode())
        try:
            private_folder(self._folder)
        except OSError as error:
            raise StateError(f"{self._folder} cannot be made: {error.strerror}") from error
        write_atomically(self._path(name), lambda file: file.write(kept.model_dump_json(indent=1).encode()))
        return DoorCaller(name, kept.may, shown)

    def remove(self, name: str) -> None:
        """Admit a caller no longer; ConfigError if there is none of that name."""
        try:
            self._path(name).unlink()
        except OSError:
            known = ", ".join(caller.name for caller in self.all()) or "none"
            raise ConfigError(f"there is no caller {name[:60]!r} here; there are: {known}") from None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name if _NAME.fullmatch(name) else '-'}.json"

    def _read(self) -> dict[str, DoorCaller]:
        signature = self.signature()
        if signature != self._signature:
            paths = sorted(self._folder.glob("*.json")) if self._folder.is_dir() else []
            callers = [caller for path in paths if (caller := self._one(path)) is not None]
            self._pinned = {caller.certificate.fingerprint: caller for caller in callers}
            self._signature = signature
        return self._pinned

    def _one(self, path: Path) -> DoorCaller | None:
        try:
            kept = _Kept.model_validate(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None  # removed meanwhile
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is damaged: remove it and add the caller anew") from error
        return DoorCaller(path.stem, kept.may, ShownCertificate.read(kept.certificate.encode(), str(path)))


def hand_over(folder: Path, name: str, days: float, server: bytes) -> bytes:
    """Make a caller's key and certificate in a folder, with the door's to trust; returns the certificate, as PEM.

    The key lies there unencrypted, mode 0600: whoever gets the folder is the caller.
    """
    key, certificate = make_certificate(name, (), "client", days)
    try:
        private_folder(folder)
        for file, content in ((CALLER_KEY, key_pem(key, None)), (CALLER_CERTIFICATE, certificate)):
            write_new(folder / file, content, 0o600)
        write_new(folder / SERVER_CERTIFICATE, server, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{error.filename} exists already: give an empty folder") from error
    except OSError as error:
        raise StateError(f"{folder} cannot be written: {error.strerror}") from error
    return certificate


class ServedTo(Protocol):
    """What a section of node.yaml says of the certificate of its server."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return host names and addresses by which it is reached."""

    @property
    def certificate(self) -> Path | None:
        """Return a certificate of the party's own, or None."""

    @property
    def key(self) -> Path | None:
        """Return its key, or None."""


def server_files(home: Path, node: NodeConfig, served: ServedTo, what: str = FOLDER) -> tuple[Path, Path, str | None]:
    """Return certificate, key and passphrase of a server; they are made at first use, in HOME/`what`.

    what : "door" or "console".
    Raises ConfigError where they cannot be read, or the certificate lacks a name of the configuration.
    """
    if served.certificate is not None and served.key is not None:
        return served.certificate, served.key, None
    folder = home / what
    source = node.key.open(home)
    if not (folder / CERTIFICATE).exists():
        key, certificate = make_certificate(f"{what} of {node.name}", served.names, "server", _SERVER_DAYS)
        try:
            private_folder(folder)
            wrapped = (folder / WRAPPED_FILE).exists()  # by a program, which wraps a passphrase once
            content = key_pem(key, source.secret(folder) if wrapped else source.new_secret(folder))
            write_atomically(folder / KEY, lambda file: file.write(content))
            write_atomically(folder / CERTIFICATE, lambda file: file.write(certificate))
        except OSError as error:
            raise StateError(f"{folder} cannot be written: {error.strerror}") from error
    pem = read_text(folder / CERTIFICATE, f"certificate of the {what}").encode()
    missing = set(served.names) - hosts_of(pem)
    if missing:
        raise ConfigError(
            f"the {what}'s certificate does not name {', '.join(sorted(missing))}: move {folder / CERTIFICATE} and "
            f"{folder / KEY} away, start again, and give callers the new certificate"
        )
    encrypted = "ENCRYPTED" in read_text(folder / KEY, f"key of the {what}")
    return folder / CERTIFICATE, folder / KEY, source.secret(folder) if encrypted else None
