"""Protocols as state machines without I/O; `veilscore.wire.driver` and `veilscore.wire.calls` run them.

A protocol role is a generator: it yields what it needs (`Send`, `Receive`, `Progress`, `Checkpoint`, `Charge`) and
returns its result. It touches no socket, file or clock, so the same code runs over gRPC and in memory. The type it
waits for is part of the state: any other message, a message from another session or out of order raises.

Steps of jobs send and receive in a session. What is asked for one firm goes by calls between nodes, each with its
reply: the caller's role yields `Call`, the role that is called `Serve` and then `Send` or `Refuse`; several at once are
`Together`, and what takes time is `Work`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, overload

from google.protobuf.message import DecodeError, Message

from veilscore.errors import MessageError, ProtocolError, VeilscoreError
from veilscore.v1 import wire_pb2

# Of messages between nodes: raised by a release whose nodes cannot talk to those of the release before. It stands in
# the labels of sessions too, so an audit by replay runs with a program of the version that the job ran with.
VERSION = "veilscore/1"

_FIELD_OF_KIND: dict[str, str] = {
    f.message_type.name: f.name  # type: ignore[union-attr]
    for f in wire_pb2.Body.DESCRIPTOR.oneofs_by_name["kind"].fields
}


def varint(number: int) -> bytes:
    """Protobuf's form of a number of at least 0."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_TAG_OF_KIND: dict[str, bytes] = {
    f.message_type.name: varint(f.number << 3 | 2)  # type: ignore[union-attr]
    for f in wire_pb2.Body.DESCRIPTOR.oneofs_by_name["kind"].fields
}


@dataclass(frozen=True)
class Send:
    """Hand `message` to the party named `to`."""

    to: str
    message: Message


@dataclass(frozen=True)
class Receive:
    """Wait for the next message from `sender`; it must be of type `kind`."""

    sender: str
    kind: type[Message]


@dataclass(frozen=True)
class Progress:
    """Tell whoever watches how far the step is; carries no data of the job."""

    text: str
    done: int
    total: int


@dataclass(frozen=True)
class Checkpoint:
    """Keep `state` (JSON-able) so that an interrupted step goes on from here."""

    state: dict[str, Any]


Rows = Literal["train", "holdout", "all"]


@dataclass(frozen=True)
class Charge:
    """Write down what the next opening costs at this holder; the role goes on once that is done.

    opening : names it in the account, the log and reports.
    rows : which rows it is a sum over; a firm's training and hold-out rows are never the same.
    mu2 : square of mu (`veilscore.terms.privacy`).
    rows_per_firm : most rows of a firm that the sums are over; what is charged is the firm.
    """

    opening: str
    rows: Rows
    mu2: float
    rows_per_firm: int = field(default=1, compare=False)

    def sigma(self, sensitivity: float) -> float:
        """Deviation of the noise that sums need which one row moves by this sensitivity."""
        return sensitivity * self.rows_per_firm / math.sqrt(self.mu2)


@dataclass(frozen=True)
class Call:
    """Send `request` to the party named `to` and wait for its reply, of type `reply`.

    What the peer answers instead of it, or that it does not answer in `timeout_s`, is raised where the role waits.
    """

    to: str
    request: Message
    reply: type[Message]
    timeout_s: float = 10.0


@dataclass(frozen=True)
class Serve:
    """Wait for the next call of `sender`, of one of these kinds; a `Send` or `Refuse` to `sender` answers it."""

    sender: str
    kinds: tuple[type[Message], ...]


@dataclass(frozen=True)
class Refuse:
    """Answer the call of the party named `to` with an error, which is raised there; the role goes on."""

    to: str
    error: VeilscoreError


@dataclass(frozen=True)
class Work:
    """Do what takes time (heavy arithmetic, a disk) where it holds up nobody else; its result or error comes back.

    A coroutine function is awaited instead.
    """

    do: Callable[[], Any]


@dataclass(frozen=True)
class Together:
    """Run several protocols at once, which call others; ends as `together` says."""

    parts: Mapping[str, Protocol[Any]]
    enough: str = ""


Command = Send | Receive | Progress | Checkpoint | Charge | Call | Serve | Refuse | Work | Together
R = TypeVar("R")
M = TypeVar("M", bound=Message)
Protocol = Generator[Command, Any, R]


def receive(sender: str, kind: type[M]) -> Generator[Command, Any, M]:
    """Typed form of `yield Receive(...)`, used as ``msg = yield from receive("tax", AlignHolderRound1)``."""
    message = yield Receive(sender, kind)
    if not isinstance(message, kind):
        raise ProtocolError(f"expected {kind.__name__} from {sender}")
    return message


def call(to: str, request: Message, reply: type[M], timeout_s: float = 10.0) -> Generator[Command, Any, M]:
    """Typed form of `yield Call(...)`."""
    message = yield Call(to, request, reply, timeout_s)
    if not isinstance(message, reply):
        raise ProtocolError(f"expected {reply.__name__} from {to}")
    return message


@overload
def work(do: Callable[[], Coroutine[Any, Any, R]]) -> Generator[Command, Any, R]: ...
@overload
def work(do: Callable[[], R]) -> Generator[Command, Any, R]: ...
def work(do: Callable[[], Any]) -> Generator[Command, Any, Any]:
    """Typed form of `yield Work(...)`."""
    return (yield Work(do))


def together(parts: Mapping[str, Protocol[R]], enough: str = "") -> Generator[Command, Any, dict[str, R]]:
    """Run protocols at once that call others; returns the results of those that have ended.

    The first error ends the others where they wait, and is raised here.

    enough : the part whose end is waited for; the others then go on, and nobody looks at what becomes of them. Empty:
        all are waited for.
    """
    return (yield Together(parts, enough))  # type: ignore[no-any-return]


def interleave(parts: Mapping[str, Protocol[R]]) -> Protocol[dict[str, R]]:
    """Run protocols with several peers in turn: while one peer computes, this party works for the next.

    The order of messages is always the same, where `together` takes replies as they come.
    """
    results: dict[str, R] = {}
    waiting: dict[str, Message | None] = dict.fromkeys(parts)
    while waiting:
        for name in list(waiting):
            try:
                command = parts[name].send(waiting[name])
                while not isinstance(command, Receive):
                    yield command
                    command = parts[name].send(None)
                waiting[name] = yield command
            except StopIteration as stop:
                results[name] = stop.value
                del waiting[name]
    return {name: results[name] for name in parts}


PART_BYTES = 8 << 20
_FIELD_BYTES = 8


def send_parts(to: str, kind: type[Message], data: bytes) -> Generator[Command, Any, None]:
    """Send `data` in messages of type `kind` (fields part, parts, data) of at most `PART_BYTES` each."""
    parts = max(1, -(-len(data) // PART_BYTES))
    for part in range(parts):
        piece = data[part * PART_BYTES : (part + 1) * PART_BYTES]
        yield Send(to, kind(part=part, parts=parts, data=piece))


def send_chunks(to: str, kind: type[Message], n_bytes: int, chunks: Iterable[bytes]) -> Generator[Command, Any, None]:
    """Send what `send_parts` would send of all chunks together, `n_bytes` in all, each part as soon as it is made."""
    parts, part, waiting = max(1, -(-n_bytes // PART_BYTES)), 0, bytearray()
    for chunk in chunks:
        waiting += chunk
        while len(waiting) > PART_BYTES:
            yield Send(to, kind(part=part, parts=parts, data=bytes(waiting[:PART_BYTES])))
            part, waiting = part + 1, waiting[PART_BYTES:]
    yield Send(to, kind(part=part, parts=parts, data=bytes(waiting)))


def receive_parts(sender: str, kind: type[Message], n_bytes: int) -> Generator[Command, Any, bytes]:
    """Receive the `n_bytes` that `send_parts` sent; parts out of order or of any other size raise `MessageError`.

    n_bytes : follows from sizes that both parties know before the message comes.
    """
    pieces: list[bytes] = []
    yield from receive_chunks(sender, kind, n_bytes, 1, pieces.append)
    return b"".join(pieces)


def receive_chunks(
    sender: str, kind: type[Message], n_bytes: int, unit: int, take: Callable[[bytes], None]
) -> Generator[Command, Any, None]:
    """Receive as `receive_parts`, and give each part to `take` as it comes, in whole multiples of `unit` bytes."""
    parts, rest = max(1, -(-n_bytes // PART_BYTES)), b""
    for part in range(parts):
        message: Any = yield from receive(sender, kind)
        due = min(PART_BYTES, n_bytes - part * PART_BYTES)
        if (message.part, message.parts, len(message.data)) != (part, parts, due):
            raise MessageError(
                f"{kind.__name__}: part {message.part} of {message.parts} with {len(message.data)} bytes came, due is "
                f"part {part} of {parts} with {due}",
                party=sender,
            )
        rest += message.data
        whole = len(rest) // unit * unit
        if whole:
            take(rest[:whole])
            rest = rest[whole:]


def receive_parts_within(sender: str, kind: type[Message], most_bytes: int) -> Generator[Command, Any, bytes]:
    """Receive what `send_parts` sent where only a bound on its size is known; `MessageError` beyond it or out of order.

    It is for what depends on the sender's own data: consent lists, pairs of associated columns.
    """
    pieces: list[bytes] = []
    parts, size = 1, 0
    while len(pieces) < parts:
        message: Any = yield from receive(sender, kind)
        if not pieces:
            parts = message.parts
        size += len(message.data)
        in_order = message.part == len(pieces) and message.parts == parts
        if not in_order or not 1 <= parts <= most_bytes // PART_BYTES + 1 or size > most_bytes:
            raise MessageError(
                f"{kind.__name__}: part {message.part} of {message.parts} does not follow, "
                f"or more than {most_bytes} bytes",
                party=sender,
            )
        pieces.append(message.data)
    return b"".join(pieces)


def fields_bytes(*sizes: int) -> int:
    """Return the bytes of `pack_fields` of fields of these sizes."""
    return sum(_FIELD_BYTES + size for size in sizes)


def pack_fields(*fields: bytes) -> bytes:
    """Length-prefixed concatenation of byte strings."""
    return b"".join(len(f).to_bytes(_FIELD_BYTES, "little") + f for f in fields)


def unpack_fields(data: bytes, n_fields: int) -> tuple[bytes, ...]:
    """Inverse of `pack_fields`; anything but exactly `n_fields` fields raises `MessageError`."""
    fields, at = [], 0
    for _ in range(n_fields):
        size = int.from_bytes(data[at : at + _FIELD_BYTES], "little")
        fields.append(data[at + _FIELD_BYTES : at + _FIELD_BYTES + size])
        at += _FIELD_BYTES + size
    if at != len(data):
        raise MessageError(f"a message of {len(data)} bytes is not made of {n_fields} whole fields: cut or lengthened")
    return tuple(fields)


@dataclass(frozen=True)
class Session:
    """One run of one step: who takes part, and the labels that separate its hashes and keys from all others.

    id : "job/step/attempt", unique for ever.
    party : this party's name.
    bank : the label holder's name.
    holders : names of the feature holders, in the order of the job; the first is the lead.
    """

    id: str
    party: str
    bank: str
    holders: tuple[str, ...]

    @property
    def lead(self) -> str:
        """The holder that sums the other holders' masked shares."""
        return self.holders[0]

    def label(self, purpose: str, sender: str, recipient: str) -> bytes:
        """Domain-separation label: protocol version, session, purpose, sender and recipient, length-prefixed."""
        fields = (VERSION, self.id, purpose, sender, recipient)
        return b"".join(len(f.encode()).to_bytes(2, "little") + f.encode() for f in fields)


def encode(message: Message) -> bytes:
    """Serialise a protocol message as the `Body` around it; written by hand, which saves a copy."""
    content = message.SerializeToString(deterministic=True)
    return b"".join((_TAG_OF_KIND[type(message).__name__], varint(len(content)), content))


def decode(payload: bytes, kind: type[Message], *, session: str, sender: str) -> Message:
    """Parse a `Body` and demand that it holds a message of type `kind`."""
    body = wire_pb2.Body()
    try:
        body.ParseFromString(payload)
    except DecodeError as error:
        raise MessageError(
            "message cannot be parsed: truncated or not a Veilscore message", session=session, party=sender
        ) from error
    which = body.WhichOneof("kind")
    if which != _FIELD_OF_KIND[kind.__name__]:
        raise ProtocolError(
            f"message out of order: expected {kind.__name__}, got {which or 'nothing known to this version'}",
            session=session,
            party=sender,
        )
    return getattr(body, which)  # type: ignore[no-any-return]
