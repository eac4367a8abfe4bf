"""What bank and holders keep of online scores so that an auditor can run the bank's role again (docs/adr/0017).

    HOME/audit/online/PLACE.json         of one spare that was used: seed, model, what was asked and opened (secret)
                      PLACE.reply        what the holder had answered with the spare
                      COMMITMENT.spare   what it had sent for spares that were made together; of unused ones this alone
                      pools/COMMITMENT   of a pool of transfers: its seed, and what the lead had answered
                      models/HASH.json   models that were evaluated
                      keys/HASH          holders' public keys

PLACE is the commitment; of one of several spares that were made together, with its number behind it (`place_of`). A
commitment goes to the holder before it answers under it. Before it opens, the holder logs it with the digests of the
messages between the two (`ShareOpened`, `BandOpened`). The bank's files are written after the response has left,
without waiting for the disk: a score whose file a crash or the bound on disk took cannot be audited, and is shown so.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from google.protobuf.message import Message
from pydantic import Field

from veilscore.errors import EvidenceError, MessageError, StateError
from veilscore.evidence.documents import Digest, DigestOrNone, Document, Party, Text, canonical, digest
from veilscore.evidence.opening import software
from veilscore.files.private import private_folder
from veilscore.terms.bands import MAX_STEPS
from veilscore.terms.node_config import AuditRules
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.randomness import SEED_BYTES

FOLDER, MODELS, KEYS, POOLS = "audit/online", "models", "keys", "pools"
COMMITMENT_BYTES = 32
_DOMAIN = b"veilscore/1 online opening\0"
_DAY_S = 86400.0
_ROOM = 0.9  # of the bound that is left when it was passed: files are looked through seldom
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGESTS = ("model", "commitment", "keys", "bands", "decision")  # of what holders log, where they are there
Hex = Annotated[str, Field(max_length=1 << 20, pattern=r"^([0-9a-f]{2})*$")]
Use = Literal["spare", "pool"]


class OnlineOpening(Document):
    """What the bank is bound to before a holder answers it.

    use : what it is for, a spare or a pool of transfers; `id` is that of the spare or pool.
    seed : of all that the bank draws for it; never of another.
    software : versions that the same bytes need.
    """

    kind: Literal["online_opening"] = "online_opening"
    bank: Party
    holder: Party
    use: Use
    id: Text
    seed: Digest = Field(repr=False)
    software: dict[Text, Text]

    @property
    def commitment(self) -> bytes:
        """Return the SHA-256 of the opening; it hides while the seed is secret."""
        return hashlib.sha256(_DOMAIN + self.to_bytes()).digest()

    @property
    def seed_bytes(self) -> bytes:
        """Return the seed as bytes."""
        return bytes.fromhex(self.seed)


class LabelsKept(Document):
    """What the bank asked the lead of a band for.

    pool, circuit : id of the pool, and which of its circuits.
    choices : bits of its share, each xor the random bit of its transfer.
    own_codes : the bank's own codes, 2 bytes each: its share follows from them.
    """

    pool: Text
    circuit: int = Field(ge=0)
    choices: Hex = Field(repr=False)
    own_codes: Hex = Field(repr=False)


class OnlineRecord(Document):
    """What was opened for one score at one holder.

    opening : of the spare that was used.
    n_spares, spare : how many were made with it; its id, where that is not the opening's, as there are several.
    request, model : id as the holder knows the request; SHA-256 of the model.
    own_codes : the bank's own codes, 2 bytes each, where its replies follow from them: for trees.
    purpose, on_missing, fresh, bands, steps : as in the EncryptRecord; of the firm and its consent nothing is kept.
    parties, share_keys : with whom the holder was to open, and with which keys, as in the OpenPartial.
    labels : at the lead of a band.
    """

    kind: Literal["online_record"] = "online_record"
    opening: OnlineOpening
    request: Text
    model: Digest
    own_codes: Hex = Field(repr=False)
    purpose: Text
    on_missing: Text
    fresh: bool
    bands: DigestOrNone
    steps: Annotated[tuple[int, ...], Field(max_length=MAX_STEPS)]
    parties: Annotated[tuple[Party, ...], Field(max_length=1000)]
    share_keys: dict[Party, Digest]
    labels: LabelsKept | None
    spare: str = Field(default="", max_length=200)
    n_spares: int = Field(default=1, ge=1, le=1 << 16)

    def to_bytes(self) -> bytes:
        """Return the canonical form; of a spare that was made alone it is that of earlier versions."""
        body = self.model_dump(mode="json")
        if self.n_spares == 1:
            del body["spare"], body["n_spares"]
        return canonical(body)


class PoolRecord(Document):
    """What an auditor needs of a pool of transfers; `made` is what the lead had answered."""

    kind: Literal["online_pool"] = "online_pool"
    opening: OnlineOpening
    made: Hex


def place_of(commitment: str, spare_id: str) -> str:
    """Return the name of the files of one spare: of several that were made together each has its number."""
    number = spare_id.rpartition(".")[2] if "." in spare_id else ""
    return f"{commitment}.{number}" if number.isdecimal() else commitment


@functools.cache
def software_online() -> dict[str, str]:
    """Return the versions of what computes here, the encryption library included."""
    return {**software(), "tenseal": importlib.metadata.version("tenseal")}


def draw_opening(bank: str, holder: str, use: Use, ident: str) -> OnlineOpening:
    """Draw the opening of one reply, before the holder is asked."""
    seed = secrets.token_hex(SEED_BYTES)
    return OnlineOpening(bank=bank, holder=holder, use=use, id=ident, seed=seed, software=software_online())


def check_commitment(commitment: bytes, bank: str) -> None:
    """Holder: refuse a bank that is bound to no seed of its reply; MessageError."""
    if len(commitment) != COMMITMENT_BYTES:
        raise MessageError("the bank is bound to no seed of its reply: both need the same version", party=bank)


# --- what holders log ------------------------------------------------------------------------------------------------


def digests_of(*messages: Message) -> dict[str, str]:
    """Return the SHA-256 of messages by kind, hexadecimal; of an EncryptRecord without firm and consent."""
    found = {}
    for message in messages:
        logged = type(message)()
        logged.CopyFrom(message)
        if isinstance(logged, pb.EncryptRecord):
            logged.ClearField("firm_id")
            logged.ClearField("consent")
        found[type(message).__name__] = digest(logged.SerializeToString(deterministic=True))
    return found


@dataclass(frozen=True, kw_only=True)
class OpeningLogged:
    """Base of what a holder, whose log it is, writes down before something leaves it; `kind` is that of the entry.

    commitment : of the bank, from before the holder answered.
    messages : kind -> digest of each message between the two under it.
    """

    kind: ClassVar[str]
    holder: str
    bank: str
    request: str
    commitment: str
    messages: Mapping[str, str]

    def entry(self) -> dict[str, Any]:
        """Return the form in the log."""
        body = {"kind": self.kind, **vars(self)}
        del body["holder"]
        return body

    @classmethod
    def read(cls, holder: str, body: Mapping[str, Any]) -> Self:
        """Read an entry; what an earlier version did not log is empty. EvidenceError if a digest is none."""
        texts = {f.name: str(body.get(f.name, "")) for f in fields(cls) if f.name not in {"holder", "messages"}}
        found = body.get("messages", {})
        messages = {str(kind): str(found[kind]) for kind in found} if isinstance(found, dict) else {"": ""}
        given = [texts[name] for name in _DIGESTS if texts.get(name)]
        if not all(_SHA256.fullmatch(one) for one in (*messages.values(), *given)):
            raise EvidenceError(f"{holder}'s log holds an opened part or band without proper digests", party=holder)
        return cls(holder=holder, messages=messages, **texts)


@dataclass(frozen=True, kw_only=True)
class ShareOpened(OpeningLogged):
    """What a holder logs before its part of a score leaves it.

    model : SHA-256, as the bank told it; named : its name here, that of the job that trained it.
    purpose : for which the bank asked.
    part : hash of its code map, for trees followed by that of its part of the model.
    spare : id of the spare that was used.
    keys : SHA-256 of the public keys that it was made with.
    """

    kind = "share_opened"
    model: str
    part: str
    spare: str
    keys: str
    named: str = ""
    purpose: str = ""


@dataclass(frozen=True, kw_only=True)
class BandOpened(OpeningLogged):
    """What a lead logs before the circuit of one band leaves it.

    pool, circuit : whose transfers gave the labels, and their number; `commitment` is that of the pool.
    bands : digest of the cut-offs.
    """

    kind = "band_opened"
    pool: str
    circuit: str
    bands: str


@dataclass(frozen=True, kw_only=True)
class PartsOpened(OpeningLogged):
    """What a holder logs before its parts of a decision leave it; `commitment` is empty.

    decision : SHA-256, as the bank told it and as it is filed here.
    parts : JSON, measure -> part, spare, keys and commitment as of `ShareOpened`, where cells were encrypted. Messages
        of its spare stand under their kind and the name of the measure.
    """

    kind = "decision_part_opened"
    decision: str
    parts: str
    named: str = ""
    purpose: str = ""


@dataclass(frozen=True, kw_only=True)
class DecisionOpened(OpeningLogged):
    """What a lead logs before the circuit of one decision leaves it; as `BandOpened`, with the decision's digest."""

    kind = "decision_opened"
    pool: str
    circuit: str
    decision: str


# --- what the bank keeps ---------------------------------------------------------------------------------------------


class OnlineArchive:
    """Keeps the bank's files for audits of online scores up to a bound, beyond which the oldest go.

    home : of the bank.
    rules : `audit` in node.yaml: days, and online_mb together.
    """

    def __init__(self, home: Path, rules: AuditRules) -> None:
        self._folder, self._rules = home / FOLDER, rules
        self._max_bytes = rules.online_mb << 20
        self._size = 0
        self._lock = threading.RLock()

    def start(self) -> None:
        """Forget what is too old, and what spares that died with the process before had been sent."""
        if not self._folder.is_dir():
            return
        used = {path.name.partition(".")[0] for path in self._folder.glob("*.json")}
        for path in self._folder.glob("*.spare"):
            if path.stem not in used:
                path.unlink(missing_ok=True)
        self._forget()

    def keep_spare(self, opening: OnlineOpening, prepared: pb.PreparedSpare, keys: bytes) -> None:
        """Keep what a holder sent for a spare, and its public keys; StateError if the disk does not take it."""
        if self._max_bytes:
            path = self._folder / KEYS / digest(keys)
            with self._lock:
                self._write(f"{opening.commitment.hex()}.spare", prepared.SerializeToString())
                if path.exists():
                    path.touch()
                else:
                    self._write(f"{KEYS}/{path.name}", keys)
                if self._size > self._max_bytes:
                    self._forget()

    def keep_pool(self, opening: OnlineOpening, made: pb.MadePool) -> None:
        """Keep what an auditor needs of a pool; StateError if the disk does not take it."""
        if self._max_bytes:
            record = PoolRecord(opening=opening, made=made.SerializeToString().hex())
            with self._lock:
                self._write(f"{POOLS}/{opening.commitment.hex()}", record.to_bytes())

    def keep(self, record: OnlineRecord, reply: Message, save_model: Callable[[Path], object]) -> None:
        """Keep what was opened, what the holder had answered, and the model once; StateError if the disk is full."""
        if not self._max_bytes:
            return
        path = self._folder / MODELS / f"{record.model}.json"
        name = place_of(record.opening.commitment.hex(), record.spare)
        with self._lock:
            if not path.exists():
                _make(path.parent)
                save_model(path)
            self._write(f"{name}.reply", reply.SerializeToString())
            self._write(f"{name}.json", record.to_bytes())

    def _write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all, as long as the machine runs; no wait for the disk."""
        path = self._folder / name
        part, flags = f"{path}.part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            try:
                descriptor = os.open(part, flags, 0o600)
            except FileNotFoundError:  # looking at each folder above takes longer than the file itself
                _make(path.parent)
                descriptor = os.open(part, flags, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(part, path)  # noqa: PTH105 - as above
        except OSError as error:
            raise _failed(path, error) from error
        self._size += len(data)

    def _forget(self) -> None:
        """Delete what is too old, and the oldest until there is room."""
        with self._lock, contextlib.suppress(OSError):
            oldest_s = time.time() - self._rules.days * _DAY_S
            folders = self._folder, self._folder / KEYS, self._folder / POOLS
            files = [p for folder in folders for p in folder.glob("*") if p.is_file()]
            found = sorted((stat.st_mtime, stat.st_size, path) for path in files for stat in (path.stat(),))
            self._size = sum(size for _, size, _ in found)
            bound = self._max_bytes if self._size <= self._max_bytes else int(_ROOM * self._max_bytes)
            for time_s, size, path in found:
                if time_s >= oldest_s and self._size <= bound:
                    break
                if time_s < oldest_s or path.parent == self._folder:
                    path.unlink(missing_ok=True)
                    self._size -= size


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
