"""gRPC between simulated processes, in memory: the classes of `fabric/grpc_channel.py` on a wire with faults.

All above stays the product's: handshake, retries, frames, inboxes, streams, errors. As under TCP a stream loses,
doubles or reorders nothing by itself; what is lost is a connection: before a call arrives, in its middle, or when it
was answered and nobody learns it. Whoever tries again then doubles it, late repeats overtake others, and calls side by
side arrive in any order.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from virtual_time import PROCESS, Process

from veilscore.fabric.failures import INTERNAL, failure_of, status_of, text_of, told

INJECTED: Counter[str] = Counter()
_NOBODY = contextvars.Context()


@dataclass
class Network:
    """All listeners, and how ill the wire is.

    lost, late, doubled : probabilities at each call.
    cut : pairs of names that cannot reach each other.
    seen : called with (sender, recipient, method, piece) for each piece that arrives.
    """

    rng: random.Random
    lost: float = 0.0
    late: float = 0.0
    doubled: float = 0.0
    cut: set[frozenset[str]] = field(default_factory=set)
    servers: dict[str, MemoryServer] = field(default_factory=dict)
    seen: Callable[[str, str, str, bytes], None] = lambda *_: None

    def delay_s(self) -> float:
        if self.rng.random() < self.late:
            INJECTED["delayed"] += 1
            return self.rng.choice((0.3, 2.0, 8.0, 40.0)) * self.rng.random()
        return 0.002 * self.rng.random()

    def fault(self) -> str:
        """Draw what befalls a call."""
        if self.rng.random() < self.lost:
            kind = self.rng.choice(("before it arrived", "in its middle", "with its answer"))
            INJECTED[f"connection lost {kind}"] += 1
            return kind
        return ""


NETWORK: Network | None = None


class _AbortedError(Exception):
    def __init__(self, status: str, text: str, said: bytes | None) -> None:
        super().__init__(status)
        self.end = (status, text, said)


class _Exchange:
    """One call, both ways; what was sent arrives in order, a moment later."""

    def __init__(
        self, sender: str, pem: bytes, version: str, member: Any, method: str, timeout_s: float | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.method, self.certificate, self.version, self.sender, self.member = method, pem, version, sender, member
        self.address = f"ipv4:127.0.0.1:{abs(hash(sender)) % 60000}"
        self.ends_s = None if timeout_s is None else loop.time() + timeout_s
        self.up: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.down: asyncio.Queue[Any] = asyncio.Queue()
        self._due = {True: 0.0, False: 0.0}
        self.fault, self.broken, self.ended = NETWORK.fault(), False, False
        self._handler: asyncio.Task[None] | None = None
        self._timer = None if timeout_s is None else loop.call_later(timeout_s, self._late, context=_NOBODY.copy())
        process = PROCESS.get()
        if process is not None:
            process.on_death.append(lambda _: self._gone())
        if self._unreachable() or self.fault == "before it arrived":
            self._later(self._fail, "UNAVAILABLE", "failed to connect to all addresses")
        else:
            server = NETWORK.servers[self.member.address]
            self._server_process = server.process
            server.process.on_death.append(lambda _: self._later(self._fail, "UNAVAILABLE", "connection reset by peer"))
            context = server.context.copy()
            self._later(lambda: self._begin(server, context))

    def _unreachable(self) -> bool:
        server = NETWORK.servers.get(self.member.address)
        return server is None or not server.process.alive or frozenset((self.sender, self.member.name)) in NETWORK.cut

    def _begin(self, server: MemoryServer, context: contextvars.Context) -> None:
        if not self.ended and server.process.alive and not self.broken:
            self._handler = asyncio.get_running_loop().create_task(server.serve(self), context=context)

    def _later(self, act: Callable[..., None], *args: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(NETWORK.delay_s(), act, *args, context=_NOBODY.copy())

    def _carry(self, up: bool, act: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._due[up] = max(self._due[up] + 1e-7, loop.time() + NETWORK.delay_s())  # timers of one time have no order
        loop.call_at(self._due[up], act, context=_NOBODY.copy())

    def _fail(self, status: str, text: str, said: bytes | None = None) -> None:
        if not self.broken:
            self.broken = True
            self.down.put_nowait((status, text, said))
            if self._handler is not None:
                self._later(self._gone)

    def _late(self) -> None:
        self._fail("DEADLINE_EXCEEDED", "")

    def _gone(self) -> None:
        """The server learns that nobody waits any more."""
        if self._handler is not None and not self._handler.done():
            self._handler.cancel()

    def send_up(self, piece: bytes | None) -> None:
        def arrive() -> None:
            if piece is not None:
                NETWORK.seen(self.sender, self.member.name, self.method, piece)
            self.up.put_nowait(piece)

        if piece is not None and self.fault == "in its middle":
            self.fault = ""
            self._carry(True, lambda: self._fail("UNAVAILABLE", "connection reset by peer"))
        self._carry(True, arrive)

    def send_down(self, item: Any) -> None:
        if self.fault == "with its answer":
            self.fault = ""
            self._carry(False, lambda: self._fail("UNAVAILABLE", "connection reset by peer"))
        elif not self.broken:
            self._carry(False, lambda: None if self.broken else self.down.put_nowait(item))

    async def read(self) -> bytes | None:
        """Next message of the server; None at the end."""
        item = await self.down.get()
        if item is None or isinstance(item, bytes):
            return item
        if isinstance(item, asyncio.CancelledError):
            raise item
        raise failure_of(*item, self.member)

    def close(self) -> None:
        """The caller leaves."""
        if not self.ended:
            self.ended = self.broken = True
            if self._timer is not None:
                self._timer.cancel()
            self._later(self._gone)

    def cancel(self) -> None:
        """The session ends while the call runs: its waiter gets a cancellation that nobody asked for."""
        self.down.put_nowait(asyncio.CancelledError())


class MemoryCaller:
    """What a handler sees of a call."""

    trace = ""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self.certificate, self.version, self.address = exchange.certificate, exchange.version, exchange.address

    @property
    def remaining_s(self) -> float:
        ends_s = self._exchange.ends_s
        return float("inf") if ends_s is None else ends_s - asyncio.get_running_loop().time()

    async def piece(self) -> bytes | None:
        return await self._exchange.up.get()

    async def write(self, data: bytes) -> None:
        self._exchange.send_down(data)

    async def refuse(self, failure: Any, party: str, *, internal: bool) -> bytes:
        raise _AbortedError(INTERNAL if internal else status_of(failure), text_of(failure), told(failure, party))


class MemoryServer:
    """Stands for `GrpcServer`."""

    def __init__(self, find, deliver, tls, limits, service="", talk=lambda _: None, health=None) -> None:
        self._find, self._deliver, self._talk = find, deliver, talk
        self._ended: asyncio.Future[None] | None = None
        self._running: set[_Exchange] = set()

    async def start(self, address: str) -> int | None:
        self.process: Process = PROCESS.get()
        there = NETWORK.servers.get(address)
        if there is not None and there.process.alive:
            raise RuntimeError(address)
        self.context, self._address = contextvars.copy_context(), address
        self._ended = asyncio.get_running_loop().create_future()
        NETWORK.servers[address] = self
        return None

    async def serving(self) -> None:
        if self._ended is not None:
            await asyncio.shield(self._ended)

    async def stop(self, grace_s: float) -> None:
        if self._ended is not None and not self._ended.done():
            del NETWORK.servers[self._address]
            await asyncio.sleep(grace_s)
            for exchange in list(self._running):
                exchange._fail("UNAVAILABLE", "Socket closed")
            self._ended.set_result(None)

    async def serve(self, exchange: _Exchange) -> None:
        self._running.add(exchange)
        caller, method = MemoryCaller(exchange), exchange.method
        try:
            if method == "Deliver" and self._deliver is not None:
                exchange.send_down(await self._deliver(caller))
            elif (talk := self._talk(method)) is not None:
                await talk(caller)
            elif (found := self._find(method)) is None:
                exchange.send_down(("UNIMPLEMENTED", "Method not found!", None))
            else:
                unary, stream = found
                request = await exchange.up.get()
                if unary is not None:
                    exchange.send_down(await unary(request, caller))
                else:
                    async for reply in stream(request, caller):
                        exchange.send_down(reply)
            exchange.send_down(None)
        except _AbortedError as aborted:
            exchange.send_down(aborted.end)
        except asyncio.CancelledError:
            exchange.send_down(("CANCELLED", "", None))
            raise
        finally:
            self._running.discard(exchange)


class MemoryConnection:
    """Stands for `GrpcConnection`."""

    def __init__(self, member: Any, pems: Any, limits: Any, version: str) -> None:
        self._member, self._pem, self._version = member, pems[1], version
        self._open: set[_Exchange] = set()

    @contextlib.contextmanager
    def _call(self, method: str, timeout_s: float | None):
        exchange = self._begin(method, timeout_s)
        try:
            yield exchange
        finally:
            self._open.discard(exchange)
            exchange.close()

    def _begin(self, method: str, timeout_s: float | None) -> _Exchange:
        process = PROCESS.get()
        process.check()
        exchange = _Exchange(process.name, self._pem, self._version, self._member, method, timeout_s)
        self._open.add(exchange)
        return exchange

    async def close(self) -> None:
        for exchange in list(self._open):
            exchange.cancel()

    async def unary(self, method: str, request: bytes, timeout_s: float) -> bytes:
        with self._call(method, timeout_s) as exchange:
            exchange.send_up(request)
            return await exchange.read()

    def line(self, method: str) -> Any:
        return _Line(self._begin(method, None))

    async def stream(self, method: str, request: bytes, timeout_s: float | None):
        with self._call(method, timeout_s) as exchange:
            exchange.send_up(request)
            while (reply := await exchange.read()) is not None:
                yield reply

    async def deliver(self, chunks: Any, timeout_s: float, calls: set[Any]) -> bytes:
        pieces = list(chunks)
        with self._call("Deliver", timeout_s) as exchange:
            calls.add(exchange)
            try:
                for piece in (*pieces, None):
                    exchange.send_up(piece)
                if NETWORK.rng.random() < NETWORK.doubled:
                    INJECTED["doubled"] += 1
                    twin = self._begin("Deliver", timeout_s)
                    for piece in (*pieces, None):
                        twin.send_up(piece)
                return await exchange.read()
            finally:
                calls.discard(exchange)


class _Line:
    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self.read, self.close = exchange.read, exchange.close

    async def write(self, data: bytes) -> None:
        if self._exchange.broken:
            raise failure_of("UNAVAILABLE", "Socket closed", None, self._exchange.member)
        self._exchange.send_up(data)
