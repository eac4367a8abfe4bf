"""Records what a party saw of a session: each message by its digest, and its content where somebody keeps it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.message import Message


class Payload(bytes):
    """The bytes of a message that arrived, with the SHA-256 that was compared on the way in."""

    digest: bytes

    @classmethod
    def checked(cls, data: bytes | memoryview, digest: bytes) -> Payload:
        """Return the bytes of a message whose digest was compared already."""
        payload = cls(data)
        payload.digest = digest
        return payload


def sha256_of(payload: bytes) -> bytes:
    """Return the SHA-256 of a message, without taking it again where it is known."""
    return payload.digest if isinstance(payload, Payload) else hashlib.sha256(payload).digest()


@dataclass(frozen=True)
class TranscriptEntry:
    """One message as a party saw it: no content, only its digest."""

    session: str
    sender: str
    recipient: str
    sequence: int
    kind: str
    size_bytes: int
    sha256: str


@dataclass
class Transcript:
    """Lists one party's messages in both directions, with their digests; it only grows.

    keep : whether content is kept too, for tests that attack a recorded run.
    sink : takes each entry with its bytes as the message passes.
    """

    keep: bool = False
    entries: list[TranscriptEntry] = field(default_factory=list)
    messages: list[tuple[TranscriptEntry, Message]] = field(default_factory=list, repr=False)
    sink: Callable[[TranscriptEntry, bytes], None] | None = field(default=None, repr=False)

    def add(self, session: str, sender: str, recipient: str, sequence: int, message: Message, payload: bytes) -> bytes:
        """Record one message and return its digest."""
        digest = sha256_of(payload)
        entry = TranscriptEntry(
            session, sender, recipient, sequence, type(message).__name__, len(payload), digest.hex()
        )
        self.entries.append(entry)
        if self.keep:
            self.messages.append((entry, message))
        if self.sink is not None:
            self.sink(entry, payload)
        return digest

    def bytes_sent(self, party: str) -> int:
        """Return how many bytes a party sent."""
        return sum(e.size_bytes for e in self.entries if e.sender == party)
