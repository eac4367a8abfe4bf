"""What bank and holders write down of online scores and decisions so that an auditor can run the bank's role again.

Source: docs/adr/0017. A commitment goes to the holder before it answers under it. Before it opens, the holder logs it
with the digests of the messages between the two (`LOGGED`). The bank's records (`veilscore.evidence.online_archive`)
are written after the response has left, without waiting for the disk: a score whose file a crash or the bound on disk
took cannot be audited, and is shown so.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, Self

from google.protobuf.message import Message
from pydantic import Field, SerializerFunctionWrapHandler, TypeAdapter, model_serializer

from veilscore.errors import EvidenceError, MessageError
from veilscore.evidence.documents import Digest, DigestOrNone, Document, Party, Text, digest
from veilscore.evidence.opening import software
from veilscore.terms.bands import MAX_STEPS
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.randomness import SEED_BYTES

NOT_LEFT = "not_left"  # kind of a holder's entry: openings that it logged and could not count, so that nothing left
COMMITMENT_BYTES = 32
_DOMAIN = b"veilscore/1 online opening\0"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGESTS = ("model", "commitment", "keys", "bands", "decision")  # of what holders log, where they are there
Hex = Annotated[str, Field(max_length=1 << 20, pattern=r"^([0-9a-f]{2})*$")]
Use = Literal["spare", "pool"]


class OnlineOpening(Document):
    """What the bank is bound to before a holder answers it.

    use : what it is for, a spare or a pool of transfers; `id` is that of the spare or pool.
    seed : of all that the bank draws for it; never of another.
    software : versions that the same bytes need.
    n_spares : how many are made together under it; a form without it, as of earlier versions, is of one.
    """

    kind: Literal["online_opening"] = "online_opening"
    bank: Party
    holder: Party
    use: Use
    id: Text
    seed: Digest = Field(repr=False)
    software: dict[Text, Text]
    n_spares: int = Field(default=1, ge=1, le=1 << 16)

    @model_serializer(mode="wrap")
    def _form(self, form: SerializerFunctionWrapHandler) -> dict[str, Any]:
        body: dict[str, Any] = form(self)
        if self.n_spares == 1:
            del body["n_spares"]
        return body

    @functools.cached_property
    def commitment(self) -> bytes:
        """Return the SHA-256 of the opening; it hides while the seed is secret."""
        return hashlib.sha256(_DOMAIN + self.to_bytes()).digest()

    @property
    def seed_bytes(self) -> bytes:
        """Return the seed as bytes."""
        return bytes.fromhex(self.seed)


class LabelsKept(Document):
    """What the bank asked the lead of a band or decision for.

    pool, circuit : id of the pool, and which of its circuits; of a decision the first of them.
    choices : bits of what it puts in, each xor the random bit of its transfer.
    own_codes : of a band the bank's own codes, 2 bytes each: its share follows from them.
    """

    pool: Text
    circuit: int = Field(ge=0)
    choices: Hex = Field(repr=False)
    own_codes: Hex = Field(repr=False)


class _Kept(Document):
    """Base of what the bank keeps of what one holder opened.

    request : id as the holder knows it.
    purpose, on_missing, fresh : as in the EncryptRecord; of the firm and its consent nothing is kept.
    parties, share_keys : with whom the holder was to open, and with which keys, as in the OpenPartial.
    labels : at the lead of a band or decision.
    """

    request: Text
    purpose: Text
    on_missing: Text
    fresh: bool
    parties: Annotated[tuple[Party, ...], Field(max_length=1000)]
    share_keys: dict[Party, Digest]
    labels: LabelsKept | None


class OnlineRecord(_Kept):
    """What was opened for one score at one holder.

    opening : of the spare that was used.
    model : SHA-256 of the model.
    own_codes : the bank's own codes, 2 bytes each, where its replies follow from them: for trees.
    bands, steps : as in the EncryptRecord.
    """

    kind: Literal["online_record"] = "online_record"
    opening: OnlineOpening
    model: Digest
    own_codes: Hex = Field(repr=False)
    bands: DigestOrNone
    steps: Annotated[tuple[int, ...], Field(max_length=MAX_STEPS)]

    @property
    def openings(self) -> tuple[OnlineOpening, ...]:
        """Return the openings of all spares that were used."""
        return (self.opening,)


class DecisionRecord(_Kept):
    """What was opened for one decision at one holder.

    spares : measure -> opening of its spare, of the measures in which the holder has encrypted cells.
    decision : SHA-256 of the decision.
    own_codes : measure -> the bank's own codes, 2 bytes each.
    bound : index that its own columns and knock-outs allowed the firm.
    """

    kind: Literal["online_decision"] = "online_decision"
    spares: dict[Text, OnlineOpening]
    decision: Digest
    own_codes: dict[Text, Hex] = Field(repr=False)
    bound: int = Field(ge=0, repr=False)

    @property
    def openings(self) -> tuple[OnlineOpening, ...]:
        """Return the openings of all spares that were used."""
        return tuple(self.spares.values())


def record_of(data: bytes) -> OnlineRecord | DecisionRecord:
    """Read what was kept of a score or a decision; EvidenceError where it is neither."""
    of_decision = b'"kind":"online_decision"' in data
    return DecisionRecord.parse(data) if of_decision else OnlineRecord.parse(data)


def decision_name(request: str, holder: str) -> str:
    """Return under which name the bank keeps what a holder opened of a decision."""
    return digest(f"veilscore/1 decision {request} {holder}".encode())


class PoolRecord(Document):
    """What an auditor needs of a pool of transfers; `made` is what the lead had answered."""

    kind: Literal["online_pool"] = "online_pool"
    opening: OnlineOpening
    made: Hex


@functools.cache
def software_online() -> dict[str, str]:
    """Return the versions of what computes here, the encryption library included."""
    return {**software(), "tenseal": importlib.metadata.version("tenseal")}


def draw_opening(bank: str, holder: str, use: Use, ident: str, n_spares: int = 1) -> OnlineOpening:
    """Draw the opening of one reply, before the holder is asked."""
    seed, software = secrets.token_hex(SEED_BYTES), software_online()
    return OnlineOpening(bank=bank, holder=holder, use=use, id=ident, seed=seed, software=software, n_spares=n_spares)


def place_of(commitment: str, spare_id: str) -> str:
    """Return under which name the bank keeps a spare that was used: of several made together, with its number."""
    number = spare_id.rpartition(".")[2] if "." in spare_id else ""
    return f"{commitment}.{number}" if number.isdecimal() else commitment


def check_commitment(commitment: bytes, bank: str) -> None:
    """Holder: refuse a bank that is bound to no seed of its reply; MessageError."""
    if len(commitment) != COMMITMENT_BYTES:
        raise MessageError("the bank is bound to no seed of its reply: both need the same version", party=bank)


# --- what holders log ------------------------------------------------------------------------------------------------


def digests_of(*messages: Message) -> dict[str, str]:
    """Return the SHA-256 of messages by kind, hexadecimal; of an EncryptRecord without firm and consent."""
    found = {}
    for message in messages:
        logged = message
        if isinstance(message, pb.EncryptRecord):
            logged = pb.EncryptRecord()
            logged.CopyFrom(message)
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
class RecordTold(OpeningLogged):
    """What a holder logs before a record leaves it that tells something by itself; fields as of `ShareOpened`.

    It may never be opened, so no audit replays it; `commitment` is empty.
    """

    kind = "record_told"
    model: str
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


class SpareLogged(Document):
    """What a holder logs of the spare of one measure, as `ShareOpened` of a score's."""

    part: Hex
    spare: Text
    keys: Digest
    commitment: Digest


@dataclass(frozen=True, kw_only=True)
class PartsOpened(OpeningLogged):
    """What a holder logs before its parts of a decision leave it; `commitment` is empty.

    decision : SHA-256, as the bank told it and as it is filed here.
    parts : JSON, measure -> `SpareLogged`, where cells were encrypted. Messages of its spare stand under their kind and
        the name of the measure.
    """

    kind = "decision_part_opened"
    decision: str
    parts: str
    named: str = ""
    purpose: str = ""

    @classmethod
    def read(cls, holder: str, body: Mapping[str, Any]) -> Self:
        """Read an entry; EvidenceError also where what it says of spares cannot be read."""
        found = super().read(holder, body)
        found.spares  # noqa: B018 - it checks
        return found

    @property
    def spares(self) -> dict[str, SpareLogged]:
        """Return what was logged of each measure's spare; EvidenceError if it cannot be read."""
        try:
            return _SPARES.validate_json(self.parts)
        except ValueError as error:
            raise EvidenceError(
                f"{self.holder}'s log holds unreadable parts of a decision", party=self.holder
            ) from error


@dataclass(frozen=True, kw_only=True)
class DecisionOpened(OpeningLogged):
    """What a lead logs before the circuit of one decision leaves it; as `BandOpened`, with the decision's digest."""

    kind = "decision_opened"
    pool: str
    circuit: str
    decision: str


PartOpened = ShareOpened | PartsOpened
CircuitOpened = BandOpened | DecisionOpened
LOGGED: tuple[type[PartOpened | CircuitOpened], ...] = (ShareOpened, PartsOpened, BandOpened, DecisionOpened)
_SPARES = TypeAdapter(dict[str, SpareLogged])
