"""A bad wire between roles of one process: frames, as over gRPC, that a test may lose, repeat, change or reorder."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable

from veilscore.errors import PeerError, ProtocolError
from veilscore.v1 import wire_pb2
from veilscore.wire.framing import PIECE_BYTES, Assembly, parse
from veilscore.wire.inbox import Inbox, WireLimits
from veilscore.wire.memory import MemoryNetwork

SESSION = "memory"  # the session that frames carry


class FaultyNetwork(MemoryNetwork):
    """Frames each message; `faults` returns what arrives in place of a frame, and receivers check it as a node does."""

    def __init__(self, faults: Callable[[str, str, int, bytes], list[bytes]], *, timeout_s: float = 60.0) -> None:
        super().__init__(timeout_s=timeout_s)
        self._faults = faults
        self._framed: Counter[tuple[str, str]] = Counter()
        self._inboxes: dict[str, Inbox] = {}

    async def deliver(self, sender: str, recipient: str, payload: bytes) -> None:
        sequence = self._framed[sender, recipient]
        self._framed[sender, recipient] += 1
        whole = frame(SESSION, sender, recipient, sequence, payload)
        for arriving in self._faults(sender, recipient, sequence, whole):
            await super().deliver(sender, recipient, arriving)

    async def take(self, sender: str, recipient: str) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_s):
                while not self._accept(await super().take(sender, recipient), sender, recipient):
                    pass
                return await self._inboxes[recipient].get(sender, self._timeout_s)
        except TimeoutError as error:
            raise PeerError(f"no message from {sender} within {self._timeout_s:g} s", party=recipient) from error

    def _accept(self, item: bytes, sender: str, recipient: str) -> bool:
        """Check a frame as a node does; False for a repeat."""
        end = 4 + int.from_bytes(item[:4], "little")
        header, payload = parse(wire_pb2.Header, item[4:end], sender), item[end:]
        if (header.session, header.sender, header.recipient) != (SESSION, sender, recipient):
            raise ProtocolError(f"message from {sender} is of another session or for another party", session=SESSION)
        whole = Assembly(header)
        for at in range(0, len(payload), PIECE_BYTES):
            whole.add(payload[at : at + PIECE_BYTES])
        inbox = self._inboxes.setdefault(recipient, Inbox(SESSION, WireLimits()))
        return not inbox.put(header, whole.finish())


def frame(session: str, sender: str, recipient: str, sequence: int, payload: bytes) -> bytes:
    """One message as it stands on a wire: header, length-prefixed, and content."""
    header = wire_pb2.Header(
        session=session,
        sender=sender,
        recipient=recipient,
        sequence=sequence,
        size_bytes=len(payload),
        sha256=hashlib.sha256(payload).digest(),
    ).SerializeToString()
    return len(header).to_bytes(4, "little") + header + payload
