"""A consent issuer keeps in a folder its Ed25519 key, what it issued, and what it revoked since.

FOLDER/issuer.key      private key (mode 0600; encrypted if VEILSCORE_KEY_PASSPHRASE is set)
FOLDER/issuer.json     name and public key: holders put them into `consent_issuers` of their policy
FOLDER/issued/ID.json  every token and list
FOLDER/revoked.json    ids revoked so far
FOLDER/revoked_firms.json  firms that ended every consent, in clear, and the number of the last revocation list
FOLDER/revoking        locked while a list is made, so that of two processes none loses what the other revoked
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from veilscore.errors import ConfigError, StateError
from veilscore.files.private import private_file, private_folder
from veilscore.files.store import write_atomically, write_text
from veilscore.keys.identity import check_name, passphrase_from_environment
from veilscore.release.consent import (
    Consent,
    Signed,
    claim_of,
    issue_list,
    issue_revocations,
    issue_token,
    read_consent,
)
from veilscore.release.scope import Scope
from veilscore.terms.settings import parse_json, read_text

FIRMS_FILE = "revoked_firms.json"
J = TypeVar("J")


class Issuer:
    """Issues and revokes consents; the private key is absent from repr."""

    def __init__(self, folder: Path, name: str, key: Ed25519PrivateKey) -> None:
        self.folder = folder
        self.name = name
        self._key = key

    def __repr__(self) -> str:
        return f"Issuer({self.name!r})"

    @classmethod
    def create(cls, folder: Path, name: str) -> Self:
        """Make a key in a new folder; ConfigError if there is one already."""
        check_name(name)
        if (folder / "issuer.key").exists():
            raise ConfigError(f"{folder} has an issuer's key already; choose another folder")
        key, secret = Ed25519PrivateKey.generate(), passphrase_from_environment()
        encryption = serialization.BestAvailableEncryption(secret.encode()) if secret else serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        try:
            private_folder(folder / "issued")
        except OSError as error:
            raise StateError(f"{folder} cannot be made: {error.strerror}") from error
        write_atomically(folder / "issuer.key", lambda file: file.write(pem))
        made = cls(folder, name, key)
        stated = json.dumps({"name": name, "public_key": made.public_key}, indent=1).encode()
        write_atomically(folder / "issuer.json", lambda file: file.write(stated))
        return made

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the issuer of a folder; ConfigError if it has none or the passphrase is wrong."""
        stated = _json(folder / "issuer.json", dict)
        secret = passphrase_from_environment()
        pem = read_text(folder / "issuer.key", "issuer's key").encode()
        encrypted = b"ENCRYPTED" in pem
        try:
            key = serialization.load_pem_private_key(pem, secret.encode() if secret and encrypted else None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{folder / 'issuer.key'} cannot be read: damaged, or the passphrase is wrong") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{folder / 'issuer.key'} is not an Ed25519 key")
        return cls(folder, str(stated.get("name")), key)

    @property
    def public_key(self) -> str:
        """Return the public key as 64 hexadecimal digits, for `consent_issuers`."""
        return self._key.public_key().public_bytes_raw().hex()

    def token(self, firm: str, scope: Scope, *, once: bool = True) -> Signed:
        """Issue the consent of one firm (normalised id); ConfigError if it ended every consent here."""
        self._check_not_revoked([firm])
        return self._keep(issue_token(self._key, self.name, firm, scope, once=once))

    def list(self, firms: Sequence[str], scope: Scope) -> Signed:
        """Issue the consent of many firms (normalised ids); ConfigError if one ended every consent here."""
        self._check_not_revoked(firms)
        return self._keep(issue_list(self._key, self.name, firms, scope))

    def revoke(self, *ids: str, firms: Sequence[str] = (), lift: Sequence[str] = ()) -> Signed:
        """Revoke by id (ID:COMMITMENT for one firm of a list) or by firm, and return the signed list of all so far.

        firms : normalised ids of those that end every consent that they gave.
        lift : normalised ids of such firms that want to consent anew; what was revoked by id stays so.
        """
        known = {path.stem for path in (self.folder / "issued").glob("*.json")}
        unknown = [one for one in ids if one.partition(":")[0] not in known]
        if unknown:
            raise ConfigError(f"{len(unknown)} of the ids were not issued by {self.name}; see `veilscore consent list`")
        with self._alone():
            number, before = self._revoked_firms()
            if strange := set(lift) - before:
                raise ConfigError(f"{len(strange)} of the firms to lift are not revoked at {self.name}")
            revoked, ended = sorted({*self.revoked(), *ids}), sorted((before | set(firms)) - set(lift))
            write_text(self.folder / "revoked.json", json.dumps(revoked))
            write_text(self.folder / FIRMS_FILE, json.dumps({"number": number + 1, "firms": ended}))
            return issue_revocations(self._key, self.name, revoked, firms=ended, number=number + 1)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other process or thread make a list meanwhile; StateError where the folder cannot be written."""
        try:
            descriptor = private_file(self.folder / "revoking")
        except OSError as error:
            raise StateError(f"{self.folder} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def of_contract(self, contract: str) -> tuple[str, ...]:
        """Return the ids of all consents that end with a contract; ConfigError if none was issued."""
        found = tuple(one.id for one in self.issued() if contract and one.scope.contract == contract)
        if not found:
            raise ConfigError(f"{self.name} issued no consent that ends with contract {contract[:60]!r}")
        return found

    def revoked(self) -> frozenset[str]:
        """Return the ids revoked so far."""
        path = self.folder / "revoked.json"
        return frozenset(map(str, _json(path, list))) if path.is_file() else frozenset()

    def revoked_firms(self) -> frozenset[str]:
        """Return the firms that ended every consent."""
        return self._revoked_firms()[1]

    def _revoked_firms(self) -> tuple[int, frozenset[str]]:
        """Return the number of the last list, and the firms in it."""
        path = self.folder / FIRMS_FILE
        kept = _json(path, dict) if path.is_file() else {}
        try:
            return int(kept.get("number", 0)), frozenset(map(str, kept.get("firms", ())))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path} is damaged; restore it from backup") from error

    def _check_not_revoked(self, firms: Iterable[str]) -> None:
        ended = self.revoked_firms().intersection(firms)
        if ended:
            raise ConfigError(
                f"{len(ended)} of the firms ended every consent at {self.name}: leave them out, or, once they consent "
                "anew, `veilscore consent revoke --lift` first"
            )

    def issued(self) -> tuple[Consent, ...]:
        """Return all tokens and lists, the earliest to expire first."""
        issuers = {self.name: self.public_key}
        paths = (self.folder / "issued").glob("*.json")
        found = [read_consent(Signed.from_text(read_text(p, "consent"), str(p)), issuers) for p in paths]
        return tuple(sorted(found, key=lambda c: c.scope.expires_s))

    def _keep(self, signed: Signed) -> Signed:
        write_text(self.folder / "issued" / f"{claim_of(signed).id}.json", signed.to_text())
        return signed


def import_consent(home: Path, signed: Signed, kind: str, number: str) -> Path:
    """Put a document where a node's home keeps its kind, and return the file."""
    folder = home / "consents" / {"token": "tokens", "list": "lists", "revocations": "revocations"}[kind]
    try:
        private_folder(folder)
    except OSError as error:
        raise StateError(f"{folder} cannot be made: {os.strerror(error.errno or 0)}") from error
    write_text(folder / f"{number}.json", signed.to_text())
    return folder / f"{number}.json"


def _json(path: Path, kind: type[J]) -> J:
    with contextlib.suppress(ValueError):
        value = parse_json(read_text(path, "file of a consent issuer"))
        if isinstance(value, kind):
            return value
    raise ConfigError(f"{path} is damaged; restore it from backup")
