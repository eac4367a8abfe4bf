"""What the bank keeps of online scores so that an auditor can make its replies again (docs/adr/0012).

    HOME/audit/online/COMMITMENT.json    what was opened for one score at one holder: seed, model, request (secret);
                                         of a band also what was put into its circuit
                      COMMITMENT.query   the ciphertexts that the holder had sent; of an unused spare this alone
                      models/HASH.json   models that were evaluated
                      keys/HASH          holders' public keys

A commitment goes to the holder before it sends ciphertexts under it; the holder logs it with the digests of what it
sent and got. Files are written after the response has left, without waiting for the disk: a score whose file a crash
or the bound on disk took cannot be audited, and is shown so.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from google.protobuf.message import DecodeError
from pydantic import Field

from veilscore.crypto.he import PublicContext
from veilscore.errors import EvidenceError, MessageError, StateError
from veilscore.evidence.documents import Digest, Document, Party, Text
from veilscore.evidence.opening import software
from veilscore.files.private import private_folder
from veilscore.models.model import ScoreModel
from veilscore.terms.node_config import AuditRules
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import pack_fields
from veilscore.wire.randomness import SEED_BYTES

FOLDER, MODELS, KEYS = "audit/online", "models", "keys"
COMMITMENT_BYTES = 32
_DOMAIN = b"veilscore/1 online opening\0"
_DAY_S = 86400.0
_ROOM = 0.9  # of the bound that is left when it was passed: files are looked through seldom
Hex = Annotated[str, Field(max_length=1 << 20, pattern=r"^([0-9a-f]{2})*$")]


class OnlineOpening(Document):
    """What the bank's reply to one holder is bound to, for a record or a spare.

    Parameters
    ----------
    use : "record", id as the holder knows the request; or "spare" or "band" (set-up with the lead) and its id.
    seed : of all that the bank draws for this reply; never of another.
    software : versions that the same bytes need.
    """

    kind: Literal["online_opening"] = "online_opening"
    bank: Party
    holder: Party
    use: Literal["record", "spare", "band"]
    id: Text
    seed: Digest = Field(repr=False)
    software: dict[Text, Text]

    @property
    def commitment(self) -> bytes:
        """SHA-256 of the opening; it hides while the seed is secret."""
        return hashlib.sha256(_DOMAIN + self.to_bytes()).digest()

    @property
    def seed_bytes(self) -> bytes:
        """Seed for `protocols.online.make_blinds` and `random_factors`."""
        return bytes.fromhex(self.seed)


class OnlineRecord(Document):
    """What was opened for one score at one holder.

    Parameters
    ----------
    model : SHA-256 of the model.
    own_codes : of trees, the bank's own codes, 2 bytes each: its factors follow from them.
    request : the OpenPartial without what the auditor computes (evaluated ciphertexts, factors).
    """

    kind: Literal["online_record"] = "online_record"
    opening: OnlineOpening
    model: Digest
    own_codes: Hex = Field(repr=False)
    request: Hex


class BandRecord(Document):
    """What the bank put into the circuit of one band.

    Parameters
    ----------
    model : SHA-256 of the model.
    own_codes : the bank's own codes, 2 bytes each: its points follow from them.
    choices : what the lead sent for the set-up.
    differences : holder -> what it sent for a record under a spare: the bank's share follows from it too.
    """

    kind: Literal["online_band"] = "online_band"
    opening: OnlineOpening
    model: Digest
    request: Text
    own_codes: Hex = Field(repr=False)
    choices: Hex
    differences: dict[Party, Hex] = Field(repr=False)


@dataclass(frozen=True, repr=False)
class Asked:
    """The bank's side of one record until its file is written; `query` is empty where a spare's is on disk already."""

    opening: OnlineOpening
    query: tuple[bytes, ...]
    keys: PublicContext | None


@dataclass(frozen=True)
class Bound:
    """What a holder logs of one reply of the bank, beside the request that opens it.

    Attributes
    ----------
    commitment : of the bank, from before the holder sent anything.
    queries : digests of the ciphertexts that it sent then; several if a call was repeated on the way.
    reply : of a spare, digest of the ciphertexts that it opened; otherwise they stand in the request to open.
    spare : id of the spare, if one was used.
    part : hash of its code map, of trees followed by that of its part of the model.
    difference : of a spare, digest of what it sent for the record.
    """

    commitment: bytes = b""
    queries: tuple[str, ...] = ()
    reply: str = ""
    spare: str = ""
    part: bytes = b""
    difference: str = ""


@functools.cache
def software_online() -> dict[str, str]:
    """Versions of what computes here, the encryption library included."""
    return {**software(), "tenseal": importlib.metadata.version("tenseal")}


def draw_seed() -> str:
    """Draw the seed of one reply, hexadecimal."""
    return secrets.token_hex(SEED_BYTES)


def draw_opening(
    bank: str, holder: str, use: Literal["record", "spare", "band"], ident: str, seed: str | None = None
) -> OnlineOpening:
    """Opening of one reply, before the holder is asked; `seed` is drawn now if none was drawn for it before."""
    seed = seed or draw_seed()
    return OnlineOpening(bank=bank, holder=holder, use=use, id=ident, seed=seed, software=software_online())


def digest_of_ciphertexts(parts: Iterable[bytes]) -> str:
    """SHA-256 over ciphertexts, each with its length, hexadecimal."""
    return hashlib.sha256(pack_fields(*parts)).hexdigest()


def record_of(asked: Asked, model: str, own_codes: bytes, request: pb.OpenPartial) -> OnlineRecord:
    """Record of a request to open; what is in its ciphertexts and factors is left out."""
    bare = pb.OpenPartial()
    bare.CopyFrom(request)
    bare.ClearField("evaluated_enc")
    bare.ClearField("factors_share")
    return OnlineRecord(
        opening=asked.opening,
        model=model,
        own_codes=own_codes.hex(),
        request=bare.SerializeToString(deterministic=True).hex(),
    )


class OnlineArchive:
    """The bank's files for audits of online scores; all are kept up to a bound, then the oldest go first.

    Parameters
    ----------
    home : of the bank.
    rules : `audit` in node.yaml: days, and online_mb together.
    """

    def __init__(self, home: Path, rules: AuditRules) -> None:
        self._folder, self._rules = home / FOLDER, rules
        self._max_bytes = rules.online_mb << 20
        self._size = 0
        self._lock = threading.RLock()

    def start(self) -> None:
        """Forget what is too old, and the queries of spares that died with the process before."""
        if not self._folder.is_dir():
            return
        for query in self._folder.glob("*.query"):
            if not query.with_suffix(".json").exists():
                query.unlink(missing_ok=True)
        self._forget()

    def keep_query(self, asked: Asked) -> None:
        """Keep what a holder sent and its public keys; StateError if the disk does not take it."""
        if not self._max_bytes or asked.keys is None:
            return
        message = pb.PreparedSpare(ciphertext_enc=asked.query, keys_id=asked.keys.keys_id).SerializeToString()
        keys = self._folder / KEYS / asked.keys.keys_id.hex()
        with self._lock:
            self._write(asked.opening.commitment.hex() + ".query", message)
            if keys.exists():
                keys.touch()
            else:
                self._write(f"{KEYS}/{keys.name}", asked.keys.public_bytes)
            if self._size > self._max_bytes:
                self._forget()

    def keep(self, asked: Asked, record: OnlineRecord, model: ScoreModel) -> None:
        """Keep what was opened; StateError if the disk does not take it."""
        if not self._max_bytes:
            return
        if asked.query:
            self.keep_query(asked)
        self._keep(record, model)

    def keep_band(self, record: BandRecord, model: ScoreModel) -> None:
        """Keep what was put into a circuit; StateError if the disk does not take it."""
        if self._max_bytes:
            self._keep(record, model)

    def _keep(self, record: OnlineRecord | BandRecord, model: ScoreModel) -> None:
        path = self._folder / MODELS / f"{record.model}.json"
        with self._lock:
            if not path.exists():
                _make(path.parent)
                model.save(path)
            self._write(record.opening.commitment.hex() + ".json", record.to_bytes())

    def _write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all, as long as the machine runs; no wait for the disk."""
        path = self._folder / name
        _make(path.parent)
        try:
            part = path.with_name(path.name + ".part")
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
            part.replace(path)
        except OSError as error:
            raise _failed(path, error) from error
        self._size += len(data)

    def _forget(self) -> None:
        """Delete what is too old, and the oldest until there is room."""
        with self._lock, contextlib.suppress(OSError):
            oldest_s = time.time() - self._rules.days * _DAY_S
            files = [p for p in (*self._folder.iterdir(), *(self._folder / KEYS).glob("*")) if p.is_file()]
            found = sorted((stat.st_mtime, stat.st_size, path) for path in files for stat in (path.stat(),))
            self._size = sum(size for _, size, _ in found)
            bound = self._max_bytes if self._size <= self._max_bytes else int(_ROOM * self._max_bytes)
            for time_s, size, path in found:
                if time_s >= oldest_s and self._size <= bound:
                    break
                if time_s < oldest_s or path.parent == self._folder:
                    path.unlink(missing_ok=True)
                    self._size -= size


def check_commitment(commitment: bytes, bank: str) -> None:
    """Holder: refuse a bank that is bound to no seed; MessageError."""
    if len(commitment) != COMMITMENT_BYTES:
        raise MessageError("the bank is bound to no seed of its reply: both need the same version", party=bank)


def read_record(folder: Path, commitment: str) -> OnlineRecord:
    """Record of one commitment.

    Raises
    ------
    FileNotFoundError : none is kept.
    EvidenceError : it was changed.
    """
    return OnlineRecord.parse((folder / f"{commitment}.json").read_bytes())


def read_band(folder: Path, commitment: str) -> BandRecord:
    """Record of one circuit; errors as `read_record`."""
    return BandRecord.parse((folder / f"{commitment}.json").read_bytes())


def read_any(path: Path) -> OnlineRecord | BandRecord:
    """Record of either kind; errors as `read_record`."""
    data = path.read_bytes()
    try:
        return OnlineRecord.parse(data)
    except EvidenceError:
        return BandRecord.parse(data)


def read_query(folder: Path, commitment: str) -> tuple[bytes, ...]:
    """Ciphertexts that a holder sent; errors as `read_record`."""
    try:
        message = pb.PreparedSpare.FromString((folder / f"{commitment}.query").read_bytes())
    except DecodeError as error:
        raise EvidenceError("the ciphertexts that were kept cannot be read") from error
    return tuple(message.ciphertext_enc)


def _make(folder: Path) -> None:
    """Make a folder and those above it, for the owner alone."""
    try:
        if not folder.parent.is_dir():
            _make(folder.parent)
        private_folder(folder)
    except OSError as error:
        raise _failed(folder, error) from error


def _failed(path: Path, error: OSError) -> StateError:
    return StateError(
        f"cannot keep what an auditor needs of an online score at {path}: {error.strerror}; free space, or keep less "
        "(audit in node.yaml)"
    )
