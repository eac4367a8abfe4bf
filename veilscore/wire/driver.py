"""The one loop that runs protocols: it drives a role over a channel, whatever the channel is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from typing import Protocol as Interface

from google.protobuf.message import Message

from veilscore.errors import ProtocolError, VeilscoreError
from veilscore.wire.inbox import SENT_AHEAD
from veilscore.wire.protocol import Charge, Progress, Protocol, Receive, Send, Session, decode, encode
from veilscore.wire.transcript import Transcript

R = TypeVar("R")
W = TypeVar("W")


class Channel(Interface):
    """Ordered, reliable, authenticated delivery between the parties of one session."""

    async def send(self, to: str, payload: bytes, digest: bytes | None = None) -> None:
        """Deliver `payload`, whose SHA-256 may be known, to party `to`; returns when the peer has it.

        Calls may overlap where the digest is given: what they carry is read in the order in which they began.
        """

    async def receive(self, sender: str) -> bytes:
        """Next message from `sender`, in the order sent."""


async def run(
    protocol: Protocol[R],
    channel: Channel,
    session: Session,
    *,
    transcript: Transcript | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Callable[[dict[str, Any]], None] | None = None,
    spend: Callable[[Charge], None] | None = None,
) -> R:
    """Drive one role over a channel until it returns; errors leave with session and party.

    The generator computes in a worker thread, so that a node goes on answering while it works. A role that opens
    something of a holder's records needs `spend`, which writes the charge down or refuses it.
    """
    try:
        return await _drive(protocol, channel, session, transcript or Transcript(), progress, checkpoint, spend)
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
    spend: Callable[[Charge], None] | None,
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
            elif isinstance(command, Charge):
                if spend is None:
                    raise ProtocolError(f"nobody keeps an account of what is opened here ({command.opening})")
                await asyncio.to_thread(spend, command)
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

        Returns whether it ended, what it says, and the bytes that it sends with their digest.
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
        self._rooms: dict[str, asyncio.Semaphore] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def put(self, to: str, sent: tuple[bytes, bytes]) -> None:
        """Take one message and its digest; waits while `SENT_AHEAD` others for the same party are under way.

        A role is held up here, whatever the channel: what it makes in the meantime would fill the memory.
        """
        room = self._rooms.setdefault(to, asyncio.Semaphore(SENT_AHEAD))
        await self.unless_failed(room.acquire())
        task = asyncio.create_task(self._deliver(to, sent, room))  # tasks begin in the order of these calls
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, to: str, sent: tuple[bytes, bytes], room: asyncio.Semaphore) -> None:
        try:
            await self._channel.send(to, *sent)
        except Exception as error:  # noqa: BLE001 - raised where the role waits next
            if not self._failed.done():
                self._failed.set_result(error)
        finally:
            room.release()

    async def flush(self) -> None:
        """Return when everything was delivered."""
        await self.unless_failed(asyncio.gather(*self._tasks))

    async def unless_failed(self, waited: Awaitable[W]) -> W:
        """Wait for `waited`, or raise what a delivery met meanwhile."""
        task = asyncio.ensure_future(waited)
        either: tuple[asyncio.Future[Any], ...] = (task, self._failed)
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                raise self._failed.result()
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Drop what was not delivered."""
        self._failed.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
