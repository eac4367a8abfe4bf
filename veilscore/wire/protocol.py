"""Protocols as state machines without I/O, and the one loop that runs them.

A protocol role is a generator: it yields what it needs (`Send`, `Receive`, `Progress`, `Checkpoint`) and returns its
result. It touches no socket, file or clock, so the same code runs over gRPC and in memory. The type it waits for
is part of the state: any other message, a message from another session or out of order raises.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import DecodeError, Message

from veilscore.errors import MessageError, ProtocolError, VeilscoreError
from veilscore.v1 import wire_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from veilscore.wire.memory import Channel

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


Command = Send | Receive | Progress | Checkpoint
R = TypeVar("R")
W = TypeVar("W")
M = TypeVar("M", bound=Message)
Protocol = Generator[Command, Message | None, R]


def receive(sender: str, kind: type[M]) -> Generator[Command, Message | None, M]:
    """Typed form of `yield Receive(...)`, used as ``msg = yield from receive("tax", AlignHolderRound1)``."""
    message = yield Receive(sender, kind)
    if not isinstance(message, kind):
        raise ProtocolError(f"expected {kind.__name__} from {sender}")
    return message


def interleave(parts: Mapping[str, Protocol[R]]) -> Protocol[dict[str, R]]:
    """Run protocols with several peers in turn: while one peer computes, this party works for the next."""
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
_SENT_AHEAD = 4


def send_parts(to: str, kind: type[Message], data: bytes) -> Generator[Command, Message | None, None]:
    """Send `data` in messages of type `kind` (fields part, parts, data) of at most `PART_BYTES` each."""
    parts = max(1, -(-len(data) // PART_BYTES))
    for part in range(parts):
        piece = data[part * PART_BYTES : (part + 1) * PART_BYTES]
        yield Send(to, kind(part=part, parts=parts, data=piece))


def receive_parts(sender: str, kind: type[Message], max_bytes: int) -> Generator[Command, Message | None, bytes]:
    """Receive what `send_parts` sent; more than `max_bytes`, or parts out of order, raise `MessageError`."""
    pieces: list[bytes] = []
    parts, size = 1, 0
    while len(pieces) < parts:
        message: Any = yield from receive(sender, kind)
        if not pieces:
            parts = message.parts
        size += len(message.data)
        in_order = message.part == len(pieces) and message.parts == parts
        if not in_order or not 1 <= parts <= max_bytes // PART_BYTES + 1 or size > max_bytes:
            raise MessageError(
                f"{kind.__name__}: part {message.part} of {message.parts} does not follow, "
                f"or more than {max_bytes} bytes",
                party=sender,
            )
        pieces.append(message.data)
    return b"".join(pieces)


def pack_fields(*fields: bytes) -> bytes:
    """Length-prefixed concatenation of byte strings."""
    return b"".join(len(f).to_bytes(8, "little") + f for f in fields)


def unpack_fields(data: bytes, n_fields: int) -> tuple[bytes, ...]:
    """Inverse of `pack_fields`; anything but exactly `n_fields` fields raises `MessageError`."""
    fields, at = [], 0
    for _ in range(n_fields):
        size = int.from_bytes(data[at : at + 8], "little")
        fields.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    if at != len(data):
        raise MessageError(f"a message of {len(data)} bytes is not made of {n_fields} whole fields: cut or lengthened")
    return tuple(fields)


@dataclass(frozen=True)
class Session:
    """One run of one step: who takes part, and the labels that separate its hashes and keys from all others.

    Parameters
    ----------
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


class Payload(bytes):
    """The bytes of a message that arrived, with the SHA-256 that was compared on the way in."""

    digest: bytes

    @classmethod
    def checked(cls, data: bytes | memoryview, digest: bytes) -> Payload:
        """Bytes whose digest is known."""
        payload = cls(data)
        payload.digest = digest
        return payload


def sha256_of(payload: bytes) -> bytes:
    """SHA-256 of a message, not taken again where it was."""
    return payload.digest if isinstance(payload, Payload) else hashlib.sha256(payload).digest()


@dataclass(frozen=True)
class TranscriptEntry:
    """One message as a party saw it (no content, only its digest)."""

    session: str
    sender: str
    recipient: str
    sequence: int
    kind: str
    size_bytes: int
    sha256: str


@dataclass
class Transcript:
    """Append-only list of messages of one party, with a running hash over both directions.

    Content is kept only where `keep` is set (tests that attack a recorded run); `sink` takes each message as it passes.
    """

    keep: bool = False
    entries: list[TranscriptEntry] = field(default_factory=list)
    messages: list[tuple[TranscriptEntry, Message]] = field(default_factory=list, repr=False)
    sink: Callable[[TranscriptEntry, bytes], None] | None = field(default=None, repr=False)

    def add(self, session: str, sender: str, recipient: str, sequence: int, message: Message, payload: bytes) -> bytes:
        """Record one message; returns its digest."""
        digest = sha256_of(payload)
        entry = TranscriptEntry(
            session,
            sender,
            recipient,
            sequence,
            type(message).__name__,
            len(payload),
            digest.hex(),
        )
        self.entries.append(entry)
        if self.keep:
            self.messages.append((entry, message))
        if self.sink is not None:
            self.sink(entry, payload)
        return digest

    def bytes_sent(self, party: str) -> int:
        """Bytes that `party` sent."""
        return sum(e.size_bytes for e in self.entries if e.sender == party)


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


async def run(
    protocol: Protocol[R],
    channel: Channel,
    session: Session,
    *,
    transcript: Transcript | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Callable[[dict[str, Any]], None] | None = None,
) -> R:
    """Drive one role over a channel until it returns; errors leave with session and party.

    The generator computes in a worker thread, so that a node goes on answering while it works.
    """
    try:
        return await _drive(protocol, channel, session, transcript or Transcript(), progress, checkpoint)
    except VeilscoreError as error:
        error.session, error.party = error.session or session.id, error.party or session.party
        raise


async def _drive(
    protocol: Protocol[R],
    channel: Channel,
    session: Session,
    transcript: Transcript,
    progress: Callable[[Progress], None] | None,
    checkpoint: Callable[[dict[str, Any]], None] | None,
) -> R:
    role, outbox = _Role(protocol, session, transcript), _Outbox(channel)
    asked, arrived = None, b""
    try:
        while True:
            finished, command, sent = await asyncio.to_thread(role.turn, asked, arrived)
            asked, arrived = None, b""
            if isinstance(command, Send):
                await outbox.put(command.to, sent)
            elif isinstance(command, Receive):
                asked, arrived = command, await outbox.unless_failed(channel.receive(command.sender))
            elif isinstance(command, Progress):
                if progress:
                    progress(command)
            else:
                await outbox.flush()
                if finished:
                    return command  # type: ignore[no-any-return]
                if checkpoint:
                    await asyncio.to_thread(checkpoint, command.state)
    finally:
        await outbox.close()


class _Role:
    """One party's generator, and what passes between it and the wire."""

    def __init__(self, protocol: Protocol[Any], session: Session, transcript: Transcript) -> None:
        self._protocol = protocol
        self._session = session
        self._transcript = transcript
        self._numbers: Counter[tuple[str, str]] = Counter()

    def turn(self, asked: Receive | None, arrived: bytes) -> tuple[bool, Any, tuple[bytes, bytes]]:
        """Decode what arrived, compute and encode, in one visit to a worker thread.

        Returns
        -------
        Whether it ended, what it says, and the bytes that it sends with their digest.
        """
        session, answer = self._session, None
        if asked is not None:
            answer = decode(arrived, asked.kind, session=session.id, sender=asked.sender)
            self._record(asked.sender, session.party, answer, arrived)
        try:
            command = self._protocol.send(answer)
        except StopIteration as stop:  # cannot cross a future
            return True, stop.value, (b"", b"")
        if not isinstance(command, Send):
            return False, command, (b"", b"")
        payload = encode(command.message)
        return False, command, (payload, self._record(session.party, command.to, command.message, payload))

    def _record(self, sender: str, recipient: str, message: Message, payload: bytes) -> bytes:
        number = self._numbers[sender, recipient]
        self._numbers[sender, recipient] += 1
        return self._transcript.add(self._session.id, sender, recipient, number, message, payload)


class _Outbox:
    """Delivery in the background, in order for each recipient; its failure is raised where the role waits next."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._queues: dict[str, asyncio.Queue[tuple[bytes, bytes]]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def put(self, to: str, sent: tuple[bytes, bytes]) -> None:
        """Take one message and its digest; waits while `_SENT_AHEAD` others for the same party are under way."""
        if to not in self._queues:
            self._queues[to] = asyncio.Queue(_SENT_AHEAD)
            self._tasks.append(asyncio.create_task(self._deliver(to, self._queues[to])))
        await self.unless_failed(self._queues[to].put(sent))

    async def _deliver(self, to: str, queue: asyncio.Queue[tuple[bytes, bytes]]) -> None:
        while True:
            payload, digest = await queue.get()
            await self._channel.send(to, payload, digest)
            queue.task_done()

    async def flush(self) -> None:
        """Return when everything was delivered."""
        for queue in self._queues.values():
            await self.unless_failed(queue.join())

    async def unless_failed(self, waited: Coroutine[Any, Any, W]) -> W:
        """Wait for `waited`, or raise what a delivery met meanwhile."""
        task = asyncio.ensure_future(waited)
        try:
            await asyncio.wait({task, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            for delivery in self._tasks:
                if delivery.done():
                    delivery.result()
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Drop what was not delivered."""
        tasks, self._tasks = self._tasks, []  # ended tasks refer to this object through their errors
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
