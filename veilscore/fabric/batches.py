"""Carries small calls, of which many come at once, over one stream a connection: those that wait travel together.

A call of its own costs gRPC for Python more than what a node does for it. So calls for single firms (`BATCHED`) go as
`CallBatch` and come back as `ReplyBatch`: whatever has come while the last message was being sent leaves with the next
one. While few calls are under way nothing waits for others; while many are, messages leave some milliseconds apart, as
each costs both nodes more than a call in it. Each call is checked like one of its own, with its own deadline and error;
a reply goes out when it is ready, in any order. No gRPC here: `grpc_channel.py` has the stream.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, TypeVar
from typing import Protocol as Interface

from google.protobuf.message import Message

from veilscore.errors import MessageError
from veilscore.fabric.failures import CallFailure, failure_of
from veilscore.terms.federation import Member
from veilscore.v1 import wire_pb2
from veilscore.wire.framing import parse
from veilscore.wire.inbox import MIB

BATCHED = frozenset({"Score", "EncryptRecord", "OpenPartial", "BandPartial", "AddPartial", "TotalRequest", "ShareKey"})
STREAM = "Batches"
MOST_CALLS = 256  # of one stream that are answered at once; a caller with more of them waits
_MOST_BYTES = MIB  # of one message, unless a single call is larger
_LONGEST_S = 3600.0  # of one call, whatever its caller says
_PIECES = 256  # calls or replies of one message
_MANY, _APART_S = 8, 0.004  # calls under way from which messages leave so far apart

C = TypeVar("C")  # who calls
O = TypeVar("O", bound=Message)  # noqa: E741 - one call or one reply


class BothWays(Interface):
    """A stream to a peer, one message a turn."""

    async def write(self, data: bytes) -> None:
        """Send a message; raises what ended the stream."""

    async def read(self) -> bytes | None:
        """Return the next message, None at the end; CallFailure where the stream broke."""

    def close(self) -> None:
        """End the stream."""


class _Outgoing(Generic[O]):
    """What is to leave over a stream; all that comes while a message is being sent goes with the next.

    under_way : how many calls of the stream are.
    """

    def __init__(self, send: Callable[[list[O]], Awaitable[None]], under_way: Callable[[], int]) -> None:
        self._send, self._under_way = send, under_way
        self._waiting: list[O] = []
        self._sending: asyncio.Task[None] | None = None

    def put(self, one: O) -> None:
        """Send one; a stream that has ended drops it, as whoever reads from the stream learns of the end."""
        self._waiting.append(one)
        if self._sending is None:
            # a task of its own: a caller that gives up in the middle of a message must not break the stream
            self._sending = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                n = _fitting(self._waiting)
                leaving, self._waiting = self._waiting[:n], self._waiting[n:]
                await self._send(leaving)
                if self._under_way() >= _MANY:
                    await asyncio.sleep(_APART_S)
        except Exception:  # noqa: BLE001 - the stream has ended, which its reader says
            self._waiting.clear()
        finally:
            self._sending = None


class _Deadlines:
    """Ends calls that have taken too long, by one timer for all: most of them end long before.

    expire : called with the number of a call whose time is over.
    """

    def __init__(self, expire: Callable[[int], object]) -> None:
        self._expire = expire
        self._ends: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = math.inf  # by the timer

    def add(self, number: int, limit_s: float) -> None:
        """Have a call end after so many seconds, at once where that is no positive number."""
        end_s = asyncio.get_running_loop().time() + (min(limit_s, _LONGEST_S) if limit_s > 0 else 0.0)
        self._ends[number] = end_s
        if end_s < self._due_s:
            self._set(end_s)

    def remove(self, number: int) -> None:
        """Forget a call that has ended."""
        self._ends.pop(number, None)

    def close(self) -> None:
        """End no call any more."""
        self._ends.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, end_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due_s = asyncio.get_running_loop().call_at(end_s, self._due), end_s

    def _due(self) -> None:
        self._timer, self._due_s, now_s = None, math.inf, asyncio.get_running_loop().time()
        for number in [number for number, end_s in self._ends.items() if end_s <= now_s]:
            del self._ends[number]
            self._expire(number)
        if self._ends:
            self._set(min(self._ends.values()))


def _fitting(waiting: Sequence[Message]) -> int:
    """Return how many of the first go into one message: at least one."""
    size = 0
    for n, one in enumerate(waiting[:_PIECES]):
        size += one.ByteSize()
        if size > _MOST_BYTES:
            return max(n, 1)
    return min(len(waiting), _PIECES)


# --- who calls -------------------------------------------------------------------------------------------------------


class Batches:
    """Calls one peer over a stream that is opened when it is first needed, and again after it has ended.

    begin : opens a stream.
    """

    def __init__(self, begin: Callable[[], BothWays], member: Member) -> None:
        self._begin, self._member = begin, member
        self._stream: _Stream | None = None

    async def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """Call and return the reply; CallFailure as of a call of its own."""
        if self._stream is None or self._stream.ended:
            self._stream = _Stream(self._begin(), self._member)
        return await self._stream.call(method, request, timeout_s)


class _Stream:
    """One stream, until it ends; calls without a reply then fail with what ended it."""

    def __init__(self, line: BothWays, member: Member) -> None:
        self._line, self._member = line, member
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[wire_pb2.OneReply]] = {}
        self._outgoing: _Outgoing[wire_pb2.OneCall] = _Outgoing(self._send, lambda: len(self._asked))
        self._deadlines = _Deadlines(self._late)
        self.ended = False
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        number = next(self._numbers)
        answered = self._asked[number] = asyncio.get_running_loop().create_future()
        self._outgoing.put(wire_pb2.OneCall(number=number, method=method, request=request, timeout_s=timeout_s))
        self._deadlines.add(number, timeout_s)
        try:
            reply = await answered
        finally:
            del self._asked[number]
            self._deadlines.remove(number)
        if reply.status:
            raise failure_of(reply.status, reply.text, reply.error or None, self._member)
        return bytes(reply.reply)

    def _late(self, number: int) -> None:
        asked = self._asked.get(number)
        if asked is not None and not asked.done():
            asked.set_exception(failure_of("DEADLINE_EXCEEDED", "", None, self._member))

    async def _send(self, calls: list[wire_pb2.OneCall]) -> None:
        await self._line.write(wire_pb2.CallBatch(calls=calls).SerializeToString())

    async def _read(self) -> None:
        failure: BaseException = failure_of("UNAVAILABLE", "the stream ended", None, self._member)
        try:
            while (data := await self._line.read()) is not None:
                for reply in parse(wire_pb2.ReplyBatch, data, self._member.name).replies:
                    asked = self._asked.get(reply.number)
                    if asked is not None and not asked.done():  # its caller may have given up
                        asked.set_result(reply)
        except CallFailure as broken:
            failure = broken
        except MessageError as error:
            failure = CallFailure(error, may_repeat=False, unreachable=False)
        except asyncio.CancelledError as error:
            failure = error  # closed at this node: each caller says so (`failures.cut_or`)
            raise
        finally:
            self.ended = True
            self._line.close()
            self._deadlines.close()
            for asked in self._asked.values():
                if asked.done():
                    continue
                if isinstance(failure, asyncio.CancelledError):
                    asked.cancel()
                else:
                    asked.set_exception(failure)


# --- who answers -----------------------------------------------------------------------------------------------------


async def serve(
    receive: Callable[[], Awaitable[bytes | None]],
    write: Callable[[bytes], Awaitable[None]],
    read: Callable[[bytes], tuple[wire_pb2.CallBatch, C]],
    answer: Callable[[wire_pb2.OneCall, C], Awaitable[wire_pb2.OneReply]],
) -> None:
    """Answer the calls of one stream until it ends; those that run then are given up, as there is no caller any more.

    receive, write : of the stream, as of a `BothWays`.
    read : checks the caller, then parses a message; returns who it was besides.
    answer : checks and answers one call of a caller that was checked; it raises nothing.
    """

    async def send(replies: list[wire_pb2.OneReply]) -> None:
        await write(wire_pb2.ReplyBatch(replies=replies).SerializeToString())

    outgoing: _Outgoing[wire_pb2.OneReply] = _Outgoing(send, lambda: len(running))
    running: dict[int, asyncio.Task[None]] = {}
    deadlines, places = _Deadlines(lambda place: running[place].cancel()), itertools.count()

    async def one(call: wire_pb2.OneCall, caller: C) -> None:
        reply = await answer(call, caller)  # cancelled where it takes too long: the caller has given up by itself
        reply.number = call.number
        outgoing.put(reply)

    def ended(place: int, _: object) -> None:
        deadlines.remove(place)
        del running[place]

    try:
        while (data := await receive()) is not None:
            batch, caller = read(data)
            for call in batch.calls:
                while len(running) >= MOST_CALLS:  # what is not read makes the caller wait, not this node's memory
                    await asyncio.wait(running.values(), return_when=asyncio.FIRST_COMPLETED)
                place = next(places)
                running[place] = asyncio.get_running_loop().create_task(one(call, caller))
                running[place].add_done_callback(partial(ended, place))
                deadlines.add(place, call.timeout_s)
    finally:
        deadlines.close()
        for task in running.values():
            task.cancel()
