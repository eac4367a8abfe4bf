"""The fabric: gRPC between nodes. The only file that imports grpc.

Every connection is mutual TLS. A server trusts exactly the certificates of the federation file, a client
exactly those of the peer it calls (two while a key is being replaced); there is no other way in. Keys change while
connections live: calls that run end over the connection they began on, those of a revoked key are cut. Each call
is checked (handshake.py) before a byte of its request is parsed. Protocol messages travel directly between parties
(`Deliver`), in pieces, with back-pressure (framing.py, inbox.py); control messages are calls and streams that the
node registers.

Aborts: status and error class are a fixed table. What a peer says of an error is cut to plain text and
trusted for nothing beyond its class; an error outside the tree reaches the peer as "internal error" only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from veilscore import errors
from veilscore.errors import (
    ConfigError,
    IdentityError,
    MessageError,
    ParameterError,
    PeerError,
    RefusedError,
    StateError,
    VeilscoreError,
)
from veilscore.fabric.connections import Callers
from veilscore.fabric.exchange import AcceptSession, Exchanges, KindTraffic, Sessions
from veilscore.fabric.handshake import Handshake
from veilscore.keys.identity import ROLES, Identity
from veilscore.terms.federation import Federation, Member
from veilscore.v1 import control_pb2, wire_pb2
from veilscore.wire.framing import PIECE_BYTES, Assembly, data_of, header_of, parse, pieces
from veilscore.wire.inbox import MIB, QueueFullError, WireLimits
from veilscore.wire.protocol import VERSION, Session
from veilscore.wire.transcript import sha256_of

Code = grpc.StatusCode
M = TypeVar("M", bound=Message)
R = TypeVar("R")
Handler = Callable[[Any, Member], Any]

SERVICE = "veilscore.v1.Fabric"
_VERSION_KEY = "veilscore-version"
_ERROR_KEY = "veilscore-error-bin"
_TEXT_LIMIT = 1000
_SENDERS = ("bank", "holder", "coordinator")  # an operator takes part in no protocol

# Sent to the peer: the nearest class in the tree counts.
_STATUS_OF_ERROR: dict[type, grpc.StatusCode] = {
    VeilscoreError: Code.FAILED_PRECONDITION,
    ConfigError: Code.INVALID_ARGUMENT,
    MessageError: Code.INVALID_ARGUMENT,
    ParameterError: Code.INVALID_ARGUMENT,
    StateError: Code.INTERNAL,
    QueueFullError: Code.RESOURCE_EXHAUSTED,
    PeerError: Code.ABORTED,
    IdentityError: Code.UNAUTHENTICATED,
    RefusedError: Code.PERMISSION_DENIED,
}
# Received without an error of ours, so made by gRPC itself.
_ERROR_OF_STATUS: dict[grpc.StatusCode, tuple[type[VeilscoreError], str]] = {
    Code.UNAVAILABLE: (PeerError, "cannot be reached: it is not running, or refused the connection"),
    Code.DEADLINE_EXCEEDED: (PeerError, "did not answer in time"),
    Code.CANCELLED: (PeerError, "stopped while answering"),
    Code.RESOURCE_EXHAUSTED: (PeerError, "is overloaded"),
    Code.UNIMPLEMENTED: (PeerError, "does not offer this call: another kind of node, or another version"),
    Code.UNAUTHENTICATED: (IdentityError, "refused this node's identity"),
    Code.PERMISSION_DENIED: (RefusedError, "refused"),
}
_CLASS_OF_NAME: dict[str, type[VeilscoreError]] = {
    cls.__name__: cls
    for cls in (*vars(errors).values(), QueueFullError)
    if isinstance(cls, type) and issubclass(cls, VeilscoreError)
}

_OPTIONS = [
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.lookahead_bytes", 4 * MIB),
    ("grpc.http2.max_frame_size", MIB),
]


@dataclass(frozen=True)
class _Method:
    name: str
    roles: frozenset[str]
    request_type: type[Message]
    handler: Handler
    stream: bool


@dataclass
class _Peer:
    """Connection to one peer."""

    member: Member
    channel: Any
    pinned: frozenset[str] = frozenset()
    greeted: bool = False
    greeting: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

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
            await self.channel.close()


class Fabric:
    """One node's connections to all others; belongs to one event loop.

    Parameters
    ----------
    identity : this node's key and certificate; must be the one pinned in `federation`.
    federation : members, their addresses and certificates.
    accept_session : called as (session id, sender) when a sender's first message of a session arrives,
        perhaps before this node starts the step; False, or any error of the tree, refuses it.
    listen : host:port to bind where it differs from this member's address; port 0 takes a free one (`port`).
    clock : seconds since the epoch.
    authorise : called as (method, caller) before a control call is parsed; raises RefusedError to refuse it.

    Raises
    ------
    IdentityError : the identity is not a member, or its certificate is not valid now.
    """

    def __init__(
        self,
        identity: Identity,
        federation: Federation,
        *,
        accept_session: AcceptSession,
        limits: WireLimits | None = None,
        listen: str | None = None,
        clock: Callable[[], float] = time.time,
        version: str = VERSION,
        authorise: Callable[[str, Member], None] | None = None,
    ) -> None:
        self.name = identity.name
        self.limits = limits or WireLimits()
        self.port: int | None = None
        self.federation = federation
        self._handshake = Handshake(identity, federation, self.limits.clock_skew_s, clock, version)
        self._listen = listen or federation.member(self.name).address
        self._exchanges = Exchanges(self.name, self.limits, accept_session)
        self._methods: dict[str, _Method] = {}
        self._peers: dict[str, _Peer] = {}
        self._draining: set[asyncio.Task[None]] = set()
        self._callers = Callers()
        self._authorise = authorise
        self._served: object = None
        self._server: Any = None
        self._metadata = ((_VERSION_KEY, version),)
        self._log = structlog.get_logger("veilscore.fabric").bind(party=self.name)
        self.register("Hello", set(ROLES), control_pb2.Hello, self._hello)

    # --- as a server ---

    def register(
        self, method: str, roles: set[str], request_type: type[M], handler: Handler, *, stream: bool = False
    ) -> None:
        """Offer a control call, before or after `start`.

        Parameters
        ----------
        roles : who may call it.
        handler : handler(request, peer) gives an awaitable reply; an async iterator of them if `stream`.
        """
        if unknown := roles - set(ROLES):
            raise ConfigError(f"method {method}: unknown roles {', '.join(sorted(unknown))}")
        self._methods[method] = _Method(method, frozenset(roles), request_type, handler, stream)

    async def start(self) -> None:
        """Listen; a member without an address only calls others.

        Raises
        ------
        ConfigError : the port is in use; names the address.
        """
        if self._listen is None:
            return
        options = [
            *_OPTIONS,
            ("grpc.so_reuseport", 0),  # two nodes on one port must fail, not share it
            ("grpc.max_receive_message_length", max(self.limits.control_bytes, PIECE_BYTES + 64)),
            ("grpc.max_send_message_length", self.limits.control_bytes),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=512)
        server.add_generic_rpc_handlers((_Router(self._route),))
        credentials = grpc.dynamic_ssl_server_credentials(
            self._tls_of_next_connection(), self._tls_of_next_connection, require_client_authentication=True
        )
        try:
            self.port = server.add_secure_port(self._listen, credentials)
        except RuntimeError as error:
            await server.stop(None)
            raise ConfigError(
                f"{self.name} cannot listen on {self._listen}: the port is in use (is the node running already?)"
                ", or the host is not this machine",
                party=self.name,
            ) from error
        await server.start()
        self._server = server

    async def stop(self, grace_s: float = 1.0) -> None:
        """End all sessions, give running calls `grace_s` seconds, close every connection."""
        self._exchanges.close_all("the node is stopping")
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(grace_s)
        peers, self._peers = list(self._peers.values()), {}
        for peer in peers:
            await peer.channel.close()
        for task in self._draining:
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)

    # --- keys ---

    @property
    def identity(self) -> Identity:
        """This node's identity, the one in use now."""
        return self._handshake.identity

    async def renew(self, federation: Federation | None = None, identity: Identity | None = None) -> None:
        """Go on with other key statements or another own identity; also when the time of a key is over.

        Calls that run end over their old connections, except those with a revoked key: they are cut.

        Raises
        ------
        IdentityError : the identity is not an accepted key of this node.
        """
        handshake = self._handshake
        federation = federation or self.federation
        if identity is not None:
            handshake.check_own(identity, federation)
            handshake.identity = identity
        self.federation = handshake.federation = federation
        revoked = federation.history.revoked(handshake.clock())
        for name, peer in list(self._peers.items()):
            if identity is None and peer.pinned == self._pins(name):
                continue
            del self._peers[name]
            if peer.pinned & revoked:
                await peer.channel.close()
                continue
            task = asyncio.create_task(peer.drain())
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        self._callers.cut(revoked)

    def _pins(self, name: str) -> frozenset[str]:
        accepted = self.federation.history.accepted(name, self._handshake.clock())
        return frozenset(c.fingerprint for c in accepted)

    def _tls_of_next_connection(self) -> Any:
        """Own certificate and all that are accepted; None if the same as for the last connection."""
        identity, history, now_s = self.identity, self.federation.history, self._handshake.clock()
        roots = [c for name in history.keys for c in history.accepted(name, now_s)]
        wanted = (identity.fingerprint, frozenset(c.fingerprint for c in roots))
        if wanted == self._served:
            return None
        self._served = wanted
        pair = (identity.key_pem(), identity.certificate.pem)
        return grpc.ssl_server_certificate_configuration([pair], b"".join(c.pem for c in roots))

    def _route(self, path: str) -> Any:
        """Find what gRPC shall call; without a deserialiser bytes stay unparsed until the caller is checked."""
        service, _, name = path.lstrip("/").rpartition("/")
        if service != SERVICE:
            return None
        if name == "Deliver":
            return grpc.stream_unary_rpc_method_handler(self._serve_deliver)
        method = self._methods.get(name)
        if method is None:
            return None

        async def unary(request: bytes, context: Any) -> bytes:
            return await self._serve_unary(method, request, context)

        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            async for reply in self._serve_stream(method, request, context):
                yield reply

        if method.stream:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)

    def _check_caller(self, context: Any, roles: Collection[str]) -> Member:
        pem = next(iter(context.auth_context().get("x509_pem_cert", ())), b"")
        version = dict(context.invocation_metadata() or ()).get(_VERSION_KEY, "no version")
        peer = self._handshake.check_caller(pem, str(version), roles)
        self._callers.seen(self._handshake.fingerprint(pem), context.peer())
        return peer

    def _admit(self, context: Any, method: _Method) -> Member:
        peer = self._check_caller(context, method.roles)
        if self._authorise is not None:
            self._authorise(method.name, peer)
        return peer

    @property
    def methods(self) -> frozenset[str]:
        """Names of all control calls that this node offers."""
        return frozenset(self._methods)

    async def _hello(self, request: control_pb2.Hello, peer: Member) -> control_pb2.HelloReply:
        return self._handshake.answer(request, peer)

    async def _serve_unary(self, method: _Method, request: bytes, context: Any) -> bytes:
        try:
            peer = self._admit(context, method)
            reply = await method.handler(parse(method.request_type, request, peer.name), peer)
            return reply.SerializeToString()  # type: ignore[no-any-return]
        except Exception as error:  # noqa: BLE001 - nothing may reach a peer but the table's errors
            failure = error
        return await self._abort(context, failure)

    async def _serve_stream(self, method: _Method, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            peer = self._admit(context, method)
            async for reply in method.handler(parse(method.request_type, request, peer.name), peer):
                yield reply.SerializeToString()
        except Exception as error:  # noqa: BLE001 - nothing may reach a peer but the table's errors
            failure = error
        else:
            return
        await self._abort(context, failure)

    async def _serve_deliver(self, _chunks: Any, context: Any) -> bytes:
        try:
            peer = self._check_caller(context, _SENDERS)
            return (await self._take(peer, context)).SerializeToString()
        except Exception as error:  # noqa: BLE001 - nothing may reach a peer but the table's errors
            failure = error
        return await self._abort(context, failure)

    async def _take(self, peer: Member, context: Any) -> wire_pb2.Ack:
        """Receive one message: header, checks, space, data, digest, inbox."""
        async with _at_most(self.limits.deliver_timeout_s, f"header of a message from {peer.name}"):
            first = await context.read()
        header = header_of(b"" if first is grpc.aio.EOF else first, peer.name)
        exchange = self._exchanges.incoming(header, peer.name)
        if exchange.inbox.has_it(header):
            return wire_pb2.Ack(duplicate=True)
        limit_s = min(self.limits.attempt_s(header.size_bytes), context.time_remaining() or float("inf"))
        wait_s = min(self.limits.queue_wait_s, 0.8 * limit_s)
        what = f"message {header.sequence} from {peer.name}"
        async with (
            _at_most(limit_s, what, header.session),
            exchange.inbox.space(peer.name, header.size_bytes, wait_s),
        ):
            assembly = Assembly(header)
            while (chunk := await context.read()) is not grpc.aio.EOF:
                assembly.add(data_of(chunk, peer.name))
            payload = assembly.finish()
        duplicate = exchange.inbox.put(header, payload)
        if not duplicate:
            exchange.count(peer.name, self.name, payload)
        return wire_pb2.Ack(duplicate=duplicate)

    async def _abort(self, context: Any, failure: Exception) -> bytes:
        """Answer with the table's status, and what the caller needs to rebuild the error."""
        if isinstance(failure, VeilscoreError):
            code = next(_STATUS_OF_ERROR[cls] for cls in type(failure).__mro__ if cls in _STATUS_OF_ERROR)
            if isinstance(failure, IdentityError):
                self._log.warning("refused", reason=failure.message)
        else:
            frames = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(failure.__traceback__)]
            self._log.error("internal error", error=type(failure).__name__, frames=frames[-5:])
            failure = PeerError(f"internal error, see the log of {self.name}")
            code = Code.INTERNAL
        name = type(failure).__name__
        body = {
            "error": name,
            "message": failure.message[:_TEXT_LIMIT],
            "session": failure.session,
            "party": failure.party or self.name,
        }
        metadata = ((_ERROR_KEY, json.dumps(body, ensure_ascii=False).encode()),)
        await context.abort(code, f"{name}: {failure.message[:200]}", metadata)
        return b""

    # --- as a client ---

    async def set_address(self, name: str, address: str) -> None:
        """Reach member `name` at another address from now on."""
        self.federation = self._handshake.federation = self.federation.with_address(name, address)
        old = self._peers.pop(name, None)
        if old is not None:
            await old.channel.close()

    def _peer(self, name: str) -> _Peer:
        if name in self._peers:
            return self._peers[name]
        member = self.federation.member(name)
        if member.address is None:
            raise ConfigError(f"{name} has no address in the federation file and cannot be called")
        identity, trusted = self.identity, self._handshake.trusted(name)
        roots = b"".join(certificate.pem for certificate in trusted)
        credentials = grpc.ssl_channel_credentials(roots, identity.key_pem(), identity.certificate.pem)
        options = [
            *_OPTIONS,
            ("grpc.ssl_target_name_override", name),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),  # retries are ours: identical bytes, one bound on the whole
            ("grpc.max_receive_message_length", self.limits.control_bytes),
            ("grpc.max_send_message_length", max(self.limits.control_bytes, PIECE_BYTES + 64)),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 5_000),  # also the deadline of one connection attempt
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ]
        channel = grpc.aio.secure_channel(member.address, credentials, options)
        return self._peers.setdefault(name, _Peer(member, channel, self._pins(name)))

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

        Parameters
        ----------
        timeout_s : for everything, retries included.
        retry : repeat while the peer cannot be reached; the call must then be safe to repeat.

        Raises
        ------
        VeilscoreError : what the peer raised; PeerError or IdentityError if it cannot be reached or trusted.
        """
        data = request.SerializeToString()

        async def attempt(peer: _Peer, remaining_s: float) -> M:
            stub = peer.channel.unary_unary(f"/{SERVICE}/{method}")
            raw = await stub(data, timeout=remaining_s, metadata=self._metadata)
            return parse(reply_type, raw, peer_name)

        return await self._retrying(peer_name, attempt, timeout_s, retry=retry)

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
        await self._retrying(peer_name, _nothing, self.limits.connect_timeout_s, retry=True)
        peer = self._peer(peer_name)
        with peer.in_use():
            call = peer.channel.unary_stream(f"/{SERVICE}/{method}")(
                request.SerializeToString(), timeout=timeout_s, metadata=self._metadata
            )
            try:
                async for raw in call:
                    yield parse(reply_type, raw, peer_name)
            except grpc.aio.AioRpcError as error:
                raise _error_of(error, peer.member) from error
            except asyncio.CancelledError as error:
                raise _cut_or(error, peer.member) from error
            finally:
                call.cancel()

    async def _retrying(
        self, peer_name: str, attempt: Callable[[_Peer, float], Awaitable[R]], total_s: float, *, retry: bool
    ) -> R:
        """Greet the peer if need be, then run `attempt`; back off and repeat while it cannot be reached."""
        end_s = time.monotonic() + total_s
        delay_s = 0.1
        while True:
            peer = self._peer(peer_name)  # anew each time: its keys or this node's may have changed
            self._handshake.check_callee(peer.member)
            try:
                with peer.in_use():
                    await self._greet(peer, max(end_s - time.monotonic(), 0.01))
                    return await attempt(peer, max(end_s - time.monotonic(), 0.01))
            except asyncio.CancelledError as error:
                raise _cut_or(error, peer.member) from error
            except grpc.aio.AioRpcError as error:
                failure = _error_of(error, peer.member)
                if error.code() is Code.UNAVAILABLE:
                    peer.greeted = False
                pause_s = delay_s * random.uniform(0.5, 1.5)  # noqa: S311 - jitter is no secret
                again = retry and _may_repeat(error, failure)
                if not again or time.monotonic() + pause_s >= end_s:
                    raise failure from error
            await asyncio.sleep(pause_s)
            delay_s = min(2 * delay_s, 5.0)

    async def _greet(self, peer: _Peer, timeout_s: float) -> None:
        """Exchange versions and clocks, once for each connection."""
        # The lock may be held by a greeting with a longer deadline than this call's.
        async with _at_most(timeout_s, f"greeting of {peer.member.name}"), peer.greeting:
            if peer.greeted:
                return
            asked_s = self._handshake.clock()
            raw = await peer.channel.unary_unary(f"/{SERVICE}/Hello")(
                self._handshake.hello().SerializeToString(), timeout=timeout_s, metadata=self._metadata
            )
            reply = parse(control_pb2.HelloReply, raw, peer.member.name)
            self._handshake.check_answer(reply, peer.member, asked_s)
            peer.greeted = True

    # --- sessions ---

    def channel(self, session: Session) -> SessionChannel:
        """Channel of this node in one session; PeerError if the session was closed."""
        self._exchanges.get(session.id).inbox.check_open()
        return SessionChannel(self, session.id)

    def close_session(self, session_id: str, reason: str = "the step has ended") -> None:
        """End a session: unread messages are dropped, whoever waits in it gets PeerError."""
        self._exchanges.close(session_id, reason)

    def traffic(self, session_id: str) -> list[KindTraffic]:
        """Messages and bytes of one session by sender, recipient and kind; still there after its end."""
        return self._exchanges.traffic(session_id)

    def bytes_sent(self, session_id: str) -> int:
        """Bytes that this node sent in one session."""
        return sum(t.bytes for t in self.traffic(session_id) if t.sender == self.name)

    def bytes_received(self, session_id: str) -> int:
        """Bytes that this node received in one session."""
        return sum(t.bytes for t in self.traffic(session_id) if t.recipient == self.name)

    async def send_message(self, session_id: str, to: str, payload: bytes, digest: bytes | None = None) -> None:
        """Deliver one protocol message; see `SessionChannel`."""
        exchange = self._exchanges.get(session_id)
        self._peer(to)
        if len(payload) > self.limits.message_bytes:
            raise MessageError(
                f"message of {len(payload)} bytes to {to} is over the limit of {self.limits.message_bytes}",
                session=session_id,
            )
        if digest is None:
            digest = await asyncio.to_thread(sha256_of, payload)
        async with exchange.sending.setdefault(to, asyncio.Lock()):
            sequence = exchange.begin(to, digest)
            header = wire_pb2.Header(
                session=session_id,
                sender=self.name,
                recipient=to,
                sequence=sequence,
                size_bytes=len(payload),
                sha256=digest,
            )

            async def attempt(peer: _Peer, remaining_s: float) -> None:
                await self._deliver(exchange, peer, header, payload, remaining_s)

            total_s = max(self.limits.retry_s, self.limits.attempt_s(len(payload)))
            await self._retrying(to, attempt, total_s, retry=True)
            exchange.confirm(to)
            exchange.count(self.name, to, payload)

    async def _deliver(
        self, exchange: Sessions, peer: _Peer, header: wire_pb2.Header, payload: bytes, remaining_s: float
    ) -> None:
        """Make one attempt; the pieces are the same bytes each time."""
        exchange.inbox.check_open()
        timeout_s = min(remaining_s, self.limits.attempt_s(len(payload)))
        call = peer.channel.stream_unary(f"/{SERVICE}/Deliver")(timeout=timeout_s, metadata=self._metadata)
        exchange.calls.add(call)
        try:
            # A call that ended early takes no more data; awaiting it then says why.
            with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                for chunk in pieces(header, payload):
                    await call.write(chunk)
                await call.done_writing()
            parse(wire_pb2.Ack, await call, peer.member.name)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                exchange.inbox.check_open()
            raise
        finally:
            exchange.calls.discard(call)
            call.cancel()

    async def receive_message(self, session_id: str, sender: str) -> bytes:
        """Wait for one protocol message; see `SessionChannel`."""
        self.federation.member(sender)
        return await self._exchanges.get(session_id).inbox.get(sender, self.limits.receive_timeout_s)


class SessionChannel:
    """`veilscore.wire.memory.Channel` over the fabric: ordered, repeated until it arrives, bounded."""

    def __init__(self, fabric: Fabric, session_id: str) -> None:
        self._fabric = fabric
        self._session_id = session_id

    async def send(self, to: str, payload: bytes, digest: bytes | None = None) -> None:
        """Deliver `payload` to party `to`; returns when the peer has it.

        After an error or a cancellation it may have arrived or not: only the same bytes can be sent next.
        """
        await self._fabric.send_message(self._session_id, to, payload, digest)

    async def receive(self, sender: str) -> bytes:
        """Next message from `sender`, in the order sent."""
        return await self._fabric.receive_message(self._session_id, sender)


class _Router:
    """What grpc calls a generic handler; it looks a method up for each call."""

    def __init__(self, route: Callable[[str], Any]) -> None:
        self._route = route

    def service(self, details: Any) -> Any:
        return self._route(details.method)


@contextlib.asynccontextmanager
async def _at_most(limit_s: float, what: str, session: str | None = None) -> AsyncIterator[None]:
    """Turn the end of a time limit into a PeerError."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise PeerError(f"{what} did not arrive whole within {limit_s:.1f} s", session=session) from error


async def _nothing(_peer: _Peer, _remaining_s: float) -> None:
    return None


def _error_of(error: grpc.aio.AioRpcError, peer: Member) -> VeilscoreError:
    """Error of the tree for a failed call."""
    sent = next((v for k, v in error.trailing_metadata() or () if k == _ERROR_KEY), None)
    if sent is not None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            body = json.loads(sent)
            cls = _CLASS_OF_NAME.get(str(body["error"]), PeerError)
            session, party = (_plain(body[key]) if body[key] else None for key in ("session", "party"))
            return cls(_plain(body["message"]), session=session, party=party)
    text = error.details() or ""
    where = f"{peer.name} at {peer.address}"
    if "CERTIFICATE_VERIFY_FAILED" in text or "TSI_PROTOCOL_FAILURE" in text or "Hostname" in text:
        return IdentityError(
            f"{where} does not show the certificate that the federation file pins for it: another node is "
            "there, it has a new identity, or its certificate has expired",
            party=peer.name,
        )
    if error.code() is Code.UNAVAILABLE and "failed to connect" in text and "Socket closed" in text:
        return PeerError(
            f"{where} closed the connection at once: it does not know this node's certificate (compare the "
            "federation files), finds it expired, or is stopping",
            party=peer.name,
        )
    if error.code() is Code.RESOURCE_EXHAUSTED and "larger than max" in text:
        return MessageError(f"message to or from {where} is over the size limit", party=peer.name)
    cls, what = _ERROR_OF_STATUS.get(error.code(), (PeerError, "failed"))
    return cls(f"{where} {what} ({error.code().name}: {_plain(text)[:200]})", party=peer.name)


def _cut_or(error: asyncio.CancelledError, peer: Member) -> BaseException:
    """PeerError if the call ended because its connection was closed here; the cancellation if this task's was asked."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return error
    return PeerError(
        f"the connection to {peer.name} was closed at this node: it stops, or a key changed", party=peer.name
    )


def _may_repeat(error: grpc.aio.AioRpcError, failure: VeilscoreError) -> bool:
    if isinstance(failure, QueueFullError):
        return True
    made_by_grpc = (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.CANCELLED)
    return type(failure) is PeerError and error.code() in made_by_grpc


def _plain(text: object) -> str:
    """Text from a peer, printable and short."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:_TEXT_LIMIT])
