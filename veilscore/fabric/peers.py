"""A node's connections to its peers are greeted once, tried again for a while, and drained when keys change."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from google.protobuf.message import Message

from veilscore.errors import ConfigError, PeerError
from veilscore.fabric.batches import BATCHED, STREAM, Batches
from veilscore.fabric.failures import CallFailure, cut_or
from veilscore.fabric.grpc_channel import GrpcConnection
from veilscore.fabric.handshake import Handshake
from veilscore.terms.federation import Member
from veilscore.v1 import control_pb2
from veilscore.wire.framing import parse
from veilscore.wire.inbox import MIB, WireLimits

M = TypeVar("M", bound=Message)
R = TypeVar("R")


@dataclass
class Peer:
    """One connection to a peer, with the keys that were pinned when it was opened."""

    member: Member
    connection: GrpcConnection
    pinned: frozenset[str] = frozenset()
    greeted: bool = False
    greeting: asyncio.Lock = field(default_factory=asyncio.Lock)
    batches: Batches = field(init=False)
    calls: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Small calls go over one stream of the connection."""
        self.batches = Batches(partial(self.connection.line, STREAM), self.member)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Count a call, so that a connection with old keys ends with its last one."""
        self.calls += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.calls -= 1
            if self.calls == 0:
                self.idle.set()

    async def drain(self) -> None:
        """Close when the last call has ended."""
        try:
            if self.calls:
                await self.idle.wait()
        finally:
            await self.connection.close()


class Peers:
    """Keeps the connections that one node has opened, by member."""

    def __init__(self, handshake: Handshake, limits: WireLimits, version: str) -> None:
        self._handshake, self._limits, self._version = handshake, limits, version
        self._peers: dict[str, Peer] = {}
        self._draining: set[asyncio.Task[None]] = set()

    def pins(self, name: str) -> frozenset[str]:
        """Return the fingerprints that are accepted of a member now."""
        accepted = self._handshake.federation.history.accepted(name, self._handshake.clock())
        return frozenset(c.fingerprint for c in accepted)

    async def renew(self, revoked: frozenset[str], *, all_of_them: bool) -> None:
        """Forget connections that were opened with other keys or elsewhere; only calls of a revoked key are cut."""
        for name, peer in list(self._peers.items()):
            here = self._handshake.federation.member(name).address == peer.member.address
            if not all_of_them and here and peer.pinned == self.pins(name):
                continue
            del self._peers[name]
            if peer.pinned & revoked:
                await peer.connection.close()
                continue
            task = asyncio.create_task(peer.drain())
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    async def close(self) -> None:
        """Close every connection."""
        peers, self._peers = list(self._peers.values()), {}
        for peer in peers:
            await peer.connection.close()
        for task in self._draining:
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)

    def get(self, name: str) -> Peer:
        """Return the connection to a member, made when first needed."""
        if name in self._peers:
            return self._peers[name]
        member = self._handshake.federation.member(name)
        if member.address is None:
            raise ConfigError(f"{name} has no address in the federation file and cannot be called")
        roots = b"".join(certificate.pem for certificate in self._handshake.trusted(name))
        own = self._handshake.identity
        pems = own.key_pem(), own.certificate.pem, roots
        connection = GrpcConnection(member, pems, self._limits, self._version)
        return self._peers.setdefault(name, Peer(member, connection, self.pins(name)))

    async def call(
        self,
        peer_name: str,
        method: str,
        request: Message,
        reply_type: type[M],
        *,
        timeout_s: float,
        retry: bool = True,
    ) -> M:
        """Call a peer and return its reply.

        timeout_s : for everything, retries included.
        retry : repeat while the peer cannot be reached; the call must then be safe to repeat.
        Raises what the peer raised; PeerError or IdentityError if it cannot be reached or trusted.
        """
        data = request.SerializeToString()

        async def attempt(peer: Peer, remaining_s: float) -> M:
            call = peer.batches.call if method in BATCHED and len(data) <= MIB else peer.connection.unary
            return parse(reply_type, await call(method, data, remaining_s), peer_name)

        return await self.retrying(peer_name, attempt, timeout_s, retry=retry)

    async def stream(
        self,
        peer_name: str,
        method: str,
        request: Message,
        reply_type: type[M],
        *,
        timeout_s: float | None = None,
    ) -> AsyncIterator[M]:
        """Call a peer and yield its replies as they come; not repeated once it has begun."""
        await self.retrying(peer_name, _nothing, self._limits.connect_timeout_s, retry=True)
        peer = self.get(peer_name)
        with peer.in_use():
            try:
                async with contextlib.aclosing(
                    peer.connection.stream(method, request.SerializeToString(), timeout_s)
                ) as replies:
                    async for raw in replies:
                        yield parse(reply_type, raw, peer_name)
            except CallFailure as failure:
                raise failure.error from failure
            except asyncio.CancelledError as error:
                raise cut_or(error, peer.member) from error

    async def retrying(
        self, peer_name: str, attempt: Callable[[Peer, float], Awaitable[R]], total_s: float, *, retry: bool
    ) -> R:
        """Greet the peer if need be, run `attempt`, and while the peer cannot be reached, wait and repeat.

        Pauses grow to a twentieth of the whole time at most: a peer that came back is found while there is time.
        """
        end_s = time.monotonic() + total_s
        delay_s, longest_s = 0.1, min(5.0, total_s / 20)
        while True:
            peer = self.get(peer_name)  # anew each time: its keys or this node's may have changed
            self._handshake.check_callee(peer.member)
            try:
                with peer.in_use():
                    if not peer.greeted:
                        await self._greet(peer, max(end_s - time.monotonic(), 0.01))
                    return await attempt(peer, max(end_s - time.monotonic(), 0.01))
            except asyncio.CancelledError as error:
                raise cut_or(error, peer.member) from error
            except CallFailure as failure:
                if failure.unreachable:
                    peer.greeted = False
                pause_s = delay_s * random.uniform(0.5, 1.5)  # noqa: S311 - jitter is no secret
                if not (retry and failure.may_repeat) or time.monotonic() + pause_s >= end_s:
                    raise failure.error from failure
            await asyncio.sleep(pause_s)
            delay_s = min(2 * delay_s, longest_s)

    async def _greet(self, peer: Peer, timeout_s: float) -> None:
        """Exchange versions and clocks, once for each connection."""
        # The lock may be held by a greeting with a longer deadline than this call's.
        async with at_most(timeout_s, f"greeting of {peer.member.name}"), peer.greeting:
            if peer.greeted:
                return
            asked_s = self._handshake.clock()
            raw = await peer.connection.unary("Hello", self._handshake.hello().SerializeToString(), timeout_s)
            reply = parse(control_pb2.HelloReply, raw, peer.member.name)
            self._handshake.check_answer(reply, peer.member, asked_s)
            peer.greeted = True


@contextlib.asynccontextmanager
async def at_most(limit_s: float, what: str, session: str | None = None) -> AsyncIterator[None]:
    """Turn the end of a time limit into a PeerError."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise PeerError(f"{what} did not arrive whole within {limit_s:.1f} s", session=session) from error


async def _nothing(_peer: Peer, _remaining_s: float) -> None:
    return None
