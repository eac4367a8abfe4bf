"""A consent issuer's folder: its Ed25519 key, what it issued, and what it revoked since.

FOLDER/issuer.key      private key (mode 0600; encrypted if VEILSCORE_KEY_PASSPHRASE is set)
FOLDER/issuer.json     name and public key: holders put them into `consent_issuers` of their policy
FOLDER/issued/ID.json  every token and list
FOLDER/revoked.json    ids revoked so far
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from veilscore.data.ids import check_ids, normalise_ids
from veilscore.errors import ConfigError, DataError, StateError
from veilscore.files.store import write_atomically
from veilscore.keys.identity import check_name, passphrase_from_environment
from veilscore.release.consent import (
    Consent,
    Scope,
    Signed,
    commit,
    issue_list,
    issue_revocations,
    issue_token,
    read_consent,
    stated_scope,
)
from veilscore.terms.settings import read_text


class Issuer:
    """One issuer; its key hides itself in repr.

    folder, name : of the issuer.
    key : its private key.
    """

    def __init__(self, folder: Path, name: str, key: Ed25519PrivateKey) -> None:
        self.folder = folder
        self.name = name
        self._key = key

    def __repr__(self) -> str:
        """Name only."""
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
            (folder / "issued").mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"{folder} cannot be made: {error.strerror}") from error
        write_atomically(folder / "issuer.key", lambda file: file.write(pem))
        made = cls(folder, name, key)
        stated = json.dumps({"name": name, "public_key": made.public_key}, indent=1).encode()
        write_atomically(folder / "issuer.json", lambda file: file.write(stated), mode=0o644)
        return made

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Issuer of a folder; ConfigError if it has none or the passphrase is wrong."""
        stated = _json(folder / "issuer.json")
        secret = passphrase_from_environment()
        pem = read_text(folder / "issuer.key", "issuer's key").encode()
        encrypted = b"ENCRYPTED" in pem
        try:
            key = serialization.load_pem_private_key(pem, secret.encode() if secret and encrypted else None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{folder / 'issuer.key'} cannot be read: damaged, or the passphrase is wrong") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{folder / 'issuer.key'} is not an Ed25519 key")
        return cls(folder, str(stated.get("name")), key)

    @property
    def public_key(self) -> str:
        """64 hexadecimal digits, for `consent_issuers`."""
        return self._key.public_key().public_bytes_raw().hex()

    def token(self, firm: str, scope: Scope, *, once: bool = True) -> Signed:
        """Consent of one firm (normalised id)."""
        return self._keep(issue_token(self._key, self.name, firm, scope, once=once))

    def list(self, firms: Sequence[str], scope: Scope) -> Signed:
        """Consent of many firms (normalised ids)."""
        return self._keep(issue_list(self._key, self.name, firms, scope))

    def revoke(self, *ids: str) -> Signed:
        """Revoke tokens and lists by id (or ID:COMMITMENT for a firm of a list); the list of all revoked so far."""
        known = {path.stem for path in (self.folder / "issued").glob("*.json")}
        unknown = [one for one in ids if one.partition(":")[0] not in known]
        if unknown:
            raise ConfigError(f"{len(unknown)} of the ids were not issued by {self.name}; see `veilscore consent list`")
        revoked = sorted({*self.revoked(), *ids})
        write_atomically(self.folder / "revoked.json", lambda file: file.write(json.dumps(revoked).encode()))
        return issue_revocations(self._key, self.name, revoked)

    def revoked(self) -> frozenset[str]:
        """Ids revoked so far."""
        path = self.folder / "revoked.json"
        return frozenset(_json(path)) if path.is_file() else frozenset()

    def issued(self) -> tuple[Consent, ...]:
        """All tokens and lists, the one that expires first first."""
        issuers = {self.name: self.public_key}
        paths = (self.folder / "issued").glob("*.json")
        found = [read_consent(Signed.from_text(read_text(p, "consent"), str(p)), issuers) for p in paths]
        return tuple(sorted(found, key=lambda c: c.scope.expires_s))

    def _keep(self, signed: Signed) -> Signed:
        number = json.loads(signed.body)["id"]
        text = signed.to_text().encode()
        write_atomically(self.folder / "issued" / f"{number}.json", lambda file: file.write(text))
        return signed


def import_consent(home: Path, signed: Signed, kind: str, number: str) -> Path:
    """Put a document where a node's home keeps its kind; returns the file."""
    folder = home / "consents" / {"token": "tokens", "list": "lists", "revocations": "revocations"}[kind]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"{folder} cannot be made: {os.strerror(error.errno or 0)}") from error
    text = signed.to_text().encode()
    write_atomically(folder / f"{number}.json", lambda file: file.write(text))
    return folder / f"{number}.json"


def token_for(home: Path, spellings: Sequence[str], now_s: float) -> tuple[Path, Signed] | None:
    """A token for online scoring of a firm in HOME/consents/tokens that has not expired; None if there is none.

    spellings : how the firm's id may be written, normalised or not.
    """
    for path in sorted((home / "consents" / "tokens").glob("*.json")):
        signed = Signed.from_text(read_text(path, "consent"), str(path))
        scope, salt = stated_scope(signed), bytes.fromhex(json.loads(signed.body).get("salt", ""))
        fits = "score_online" in scope.tasks and scope.not_before_s <= now_s < scope.expires_s
        if fits and signed.commitments in {row.tobytes() for row in commit(salt, spellings)}:
            return path, signed
    return None


def spellings(firm: str) -> tuple[str, ...]:
    """How a firm's id may be written: as it stands, and as each kind of id that it can be."""
    found = [firm]
    for normaliser in ("uscc", "text"):
        with contextlib.suppress(DataError):
            ids = normalise_ids([firm], normaliser)
            check_ids(ids, normaliser)
            found.append(str(ids[0]))
    return tuple(found)


def set_aside(path: Path, signed: Signed) -> None:
    """Move a token that served its one request to HOME/consents/used; a reusable one stays."""
    if json.loads(signed.body).get("once", True):
        used = path.parent.parent / "used"
        used.mkdir(mode=0o700, exist_ok=True)
        path.replace(used / path.name)


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path, "file of a consent issuer"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged; restore it from backup") from error
