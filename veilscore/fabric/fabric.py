"""The fabric offers a node's calls and reaches its peers, over gRPC with pinned mutual TLS (grpc_channel.py).

Keys change while connections live: calls that run end over the connection they began on, those of a revoked key are
cut. Each call is checked (handshake.py) before a byte of its request is parsed. Protocol messages travel directly
between parties (`Deliver`), in pieces, with back-pressure (framing.py, inbox.py); control messages are calls and
streams that the node registers. Status and error class are a fixed table (failures.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog
from google.protobuf.message import Message

from veilscore.errors import (
    ConfigError,
    IdentityError,
    MessageError,
    PeerError,
    VeilscoreError,
)
from veilscore.fabric import batches
from veilscore.fabric.connections import Callers
from veilscore.fabric.failures import INTERNAL, status_of, text_of, told
from veilscore.fabric.grpc_channel import SERVICE, Caller, GrpcServer, Pems, Stream, Unary
from veilscore.fabric.handshake import Handshake
from veilscore.fabric.peers import Peer, Peers, at_most
from veilscore.fabric.sessions import AcceptSession, KindTraffic, Sessions, SessionState
from veilscore.fabric.traces import span
from veilscore.fabric.watches import described, for_ever
from veilscore.keys.identity import ROLES, Identity
from veilscore.terms.federation import Federation, Member
from veilscore.v1 import control_pb2, health_pb2, wire_pb2
from veilscore.wire.framing import Assembly, data_of, header_of, parse, pieces
from veilscore.wire.inbox import WireLimits
from veilscore.wire.protocol import VERSION, Session
from veilscore.wire.transcript import sha256_of

M = TypeVar("M", bound=Message)
R = TypeVar("R")
Handler = Callable[[Any, Member], Any]

_GUARD_S = 0.5
_SENDERS = ("bank", "holder", "coordinator")  # an operator takes part in no protocol


@dataclass(frozen=True)
class _Method:
    name: str
    roles: frozenset[str]
    request_type: type[Message]
    handler: Handler
    stream: bool


class Fabric:
    """Connects one node with all others; it belongs to one event loop.

    identity : this node's key and certificate; must be the one pinned in `federation`.
    federation : members, their addresses and certificates.
    accept_session : called as (session id, sender) when a sender's first message of a session arrives, perhaps before
        this node starts the step; False, or any error of the tree, refuses it.
    listen : host:port to bind where it differs from this member's address; port 0 takes a free one (`port`).
    clock : seconds since the epoch.
    authorise : called as (method, caller) before a control call is parsed; raises RefusedError to refuse it.
    Raises IdentityError where the identity is not a member or its certificate is not valid now.
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
        self._sessions = Sessions(self.name, self.limits, accept_session)
        self._methods: dict[str, _Method] = {}
        self._peers = Peers(self._handshake, self.limits, version)
        self._callers = Callers()
        self._authorise = authorise
        self._served: object = None
        self._server = GrpcServer(
            self._find,
            self._serve_deliver,
            self._tls_of_next_connection,
            self.limits,
            talk=lambda name: self._serve_batches if name == batches.STREAM else None,
            health=self._serve_health,
        )
        self.healthy: Callable[[], bool] = lambda: True  # what health checks of gRPC are told
        self._log = structlog.get_logger("veilscore.fabric").bind(party=self.name)
        self.register("Hello", set(ROLES), control_pb2.Hello, self._hello)

    # --- as a server ---

    def register(
        self, method: str, roles: set[str], request_type: type[M], handler: Handler, *, stream: bool = False
    ) -> None:
        """Offer a control call, before or after `start`.

        roles : who may call it.
        handler : handler(request, peer) returns an awaitable reply, or an async iterator of replies if `stream`.
        """
        if unknown := roles - set(ROLES):
            raise ConfigError(f"method {method}: unknown roles {', '.join(sorted(unknown))}")
        self._methods[method] = _Method(method, frozenset(roles), request_type, handler, stream)

    async def start(self) -> None:
        """Listen, unless the member has no address and only calls others; ConfigError if the port is in use."""
        if self._listen is None:
            return
        try:
            self.port = await self._server.start(self._listen)
        except RuntimeError as error:
            raise ConfigError(
                f"{self.name} cannot listen on {self._listen}: the port is in use (is the node running already?)"
                ", or the host is not this machine",
                party=self.name,
            ) from error

    async def serving(self) -> None:
        """Return when nothing listens any more, which nobody asked for before `stop`; at once if nothing listened."""
        await self._server.serving()

    async def guard(self) -> None:
        """Cut, for ever, connections of those who hold them open and say nothing."""

        async def cut() -> None:
            if self.port is not None and (n_cut := self._callers.cut_silent(self.port)):
                self._log.warning("silent connections cut", connections=n_cut)

        await for_ever(_GUARD_S, (cut,), lambda error: self._log.error("guard of connections", **described(error)))

    async def stop(self, grace_s: float = 1.0) -> None:
        """End all sessions, give running calls `grace_s` seconds, close every connection."""
        self._sessions.close_all("the node is stopping")
        await self._server.stop(grace_s)
        await self._peers.close()

    # --- keys ---

    @property
    def identity(self) -> Identity:
        """Return the identity that this node uses now; it changes when the key is rotated."""
        return self._handshake.identity

    async def renew(self, federation: Federation | None = None, identity: Identity | None = None) -> None:
        """Go on with other key statements or another own identity, or with neither where the time of a key may be over.

        Calls that run end over their old connections, except those of a revoked key, which are cut.
        Raises IdentityError where the identity is not an accepted key of this node.
        """
        handshake = self._handshake
        federation = federation or self.federation
        if identity is not None:
            handshake.check_own(identity, federation)
            handshake.identity = identity
        self.federation = handshake.federation = federation
        revoked = federation.history.revoked(handshake.clock())
        await self._peers.renew(revoked, all_of_them=identity is not None)
        self._callers.cut(revoked)

    def _tls_of_next_connection(self) -> Pems | None:
        """Return the own certificate and all that are accepted; None if they are those of the last connection."""
        identity, history, now_s = self.identity, self.federation.history, self._handshake.clock()
        roots = [c for name in history.keys for c in history.accepted(name, now_s)]
        wanted = (identity.fingerprint, frozenset(c.fingerprint for c in roots))
        if wanted == self._served:
            return None
        self._served = wanted
        return identity.key_pem(), identity.certificate.pem, b"".join(c.pem for c in roots)

    def _find(self, name: str) -> tuple[Unary, None] | tuple[None, Stream] | None:
        method = self._methods.get(name)
        if method is None:
            return None
        return (
            (None, partial(self._serve_stream, method)) if method.stream else (partial(self._serve_unary, method), None)
        )

    def _check_caller(self, caller: Caller, roles: Collection[str]) -> Member:
        peer = self._handshake.check_caller(caller.certificate, caller.version, roles)
        self._callers.seen(self._handshake.fingerprint(caller.certificate), caller.address)
        return peer

    def _admit(self, caller: Caller, method: _Method) -> Member:
        peer = self._check_caller(caller, method.roles)
        self._check_authority(peer, method)
        return peer

    def _check_authority(self, peer: Member, method: _Method) -> None:
        if self._authorise is not None:
            self._authorise(method.name, peer)

    @property
    def clocks(self) -> dict[str, float]:
        """Return by how many seconds other nodes' clocks were ahead when they greeted last."""
        return {m.name: ahead for m in self.federation.members
                if m.address is not None and (ahead := self._handshake.clocks.get(m.name)) is not None}  # fmt: skip

    @property
    def methods(self) -> frozenset[str]:
        """Return the names of all control calls that this node offers."""
        return frozenset(self._methods)

    async def _hello(self, request: control_pb2.Hello, peer: Member) -> control_pb2.HelloReply:
        return self._handshake.answer(request, peer)

    async def _serve_unary(self, method: _Method, request: bytes, caller: Caller) -> bytes:
        try:
            peer = self._admit(caller, method)
            with span(f"answer {method.name}", caller.trace, peer=peer.name):
                reply = await method.handler(parse(method.request_type, request, peer.name), peer)
            return reply.SerializeToString()  # type: ignore[no-any-return]
        except Exception as error:  # noqa: BLE001 - nothing may reach a peer but the table's errors
            failure = error
        return await self._abort(caller, failure)

    async def _serve_batches(self, caller: Caller) -> None:
        """Answer small calls that come over one stream (batches.py), each checked as one of its own."""

        def read(data: bytes) -> tuple[wire_pb2.CallBatch, Member]:
            peer = self._check_caller(caller, ROLES)
            return parse(wire_pb2.CallBatch, data, peer.name), peer

        async def answer(call: wire_pb2.OneCall, peer: Member) -> wire_pb2.OneReply:
            method = self._methods.get(call.method) if call.method in batches.BATCHED else None
            if method is None:
                return wire_pb2.OneReply(status="UNIMPLEMENTED", text="no such call over this stream")
            try:
                self._handshake.check_role(peer, method.roles)  # certificate, dates and version: `read`, just before
                self._check_authority(peer, method)
                reply = await method.handler(parse(method.request_type, call.request, peer.name), peer)
                return wire_pb2.OneReply(reply=reply.SerializeToString())
            except Exception as failure:  # noqa: BLE001 - nothing may reach a peer but the table's errors
                error, internal = self._failed(failure)
                status = INTERNAL if internal else status_of(error)
                return wire_pb2.OneReply(status=status, text=text_of(error), error=told(error, self.name))

        try:
            await batches.serve(caller.piece, caller.write, read, answer)
        except Exception as error:  # noqa: BLE001 - nothing may reach a peer but the table's errors
            failure = error
        else:
            return
        await self._abort(caller, failure)

    async def _serve_health(self, request: bytes, caller: Caller) -> bytes:
        """Answer a health check of any member; a common probe states no version of ours."""
        try:
            peer = self._handshake.check_caller(caller.certificate, self._handshake.version, ROLES)
            self._callers.seen(self._handshake.fingerprint(caller.certificate), caller.address)
            known = parse(health_pb2.HealthCheckRequest, request, peer.name).service in {"", SERVICE}
        except Exception as error:  # noqa: BLE001 - nothing may reach a peer but the table's errors
            return await self._abort(caller, error)
        if not known:
            return await caller.end("NOT_FOUND", "no such service", b"")
        status = health_pb2.HealthCheckResponse
        reply = status(status=status.SERVING if self.healthy() else status.NOT_SERVING)
        return reply.SerializeToString()

    async def _serve_stream(self, method: _Method, request: bytes, caller: Caller) -> AsyncIterator[bytes]:
        try:
            peer = self._admit(caller, method)
            async for reply in method.handler(parse(method.request_type, request, peer.name), peer):
                yield reply.SerializeToString()
        except Exception as error:  # noqa: BLE001 - nothing may reach a peer but the table's errors
            failure = error
        else:
            return
        await self._abort(caller, failure)

    async def _serve_deliver(self, caller: Caller) -> bytes:
        try:
            peer = self._check_caller(caller, _SENDERS)
            return (await self._take(peer, caller)).SerializeToString()
        except Exception as error:  # noqa: BLE001 - nothing may reach a peer but the table's errors
            failure = error
        return await self._abort(caller, failure)

    async def _take(self, peer: Member, caller: Caller) -> wire_pb2.Ack:
        """Receive one message: its header, then space for it, its data, and its digest."""
        async with at_most(self.limits.deliver_timeout_s, f"header of a message from {peer.name}"):
            first = await caller.piece()
        header = header_of(first or b"", peer.name)
        state = self._sessions.incoming(header, peer.name)
        if state.inbox.has_it(header):
            return wire_pb2.Ack(duplicate=True)
        limit_s = min(self.limits.attempt_s(header.size_bytes), caller.remaining_s)
        wait_s = min(self.limits.queue_wait_s, 0.8 * limit_s)  # the rest is for the data itself
        what = f"message {header.sequence} from {peer.name}"
        async with (
            at_most(limit_s, what, header.session),
            state.inbox.space(header, wait_s),
        ):
            assembly = Assembly(header)
            while (chunk := await caller.piece()) is not None:
                assembly.add(data_of(chunk, peer.name))
            payload = assembly.finish()
            await state.inbox.turn(header, 0.8 * limit_s)
        duplicate = state.inbox.put(header, payload)
        if not duplicate:
            state.count(peer.name, self.name, payload)
        return wire_pb2.Ack(duplicate=duplicate)

    async def _abort(self, caller: Caller, failure: Exception) -> bytes:
        """End a call with the table's status and what the caller needs to rebuild the error."""
        error, internal = self._failed(failure)
        return await caller.refuse(error, self.name, internal=internal)

    def _failed(self, failure: Exception) -> tuple[VeilscoreError, bool]:
        """Return the error that the caller learns of, and whether it is one outside the tree, which the log has."""
        if isinstance(failure, IdentityError):
            self._log.warning("refused", reason=failure.message)
        if isinstance(failure, VeilscoreError):
            return failure, False
        self._log.error("internal error", **described(failure))
        return PeerError(f"internal error, see the log of {self.name}"), True

    # --- as a client ---

    async def call(self, peer_name: str, method: str, request: Message, reply_type: type[M], **limits: Any) -> M:
        """Call a peer and return its reply; limits and errors are those of `Peers.call`."""
        with span(f"call {method}", peer=peer_name):
            return await self._peers.call(peer_name, method, request, reply_type, **limits)

    def stream(
        self, peer_name: str, method: str, request: Message, reply_type: type[M], *, timeout_s: float | None = None
    ) -> AsyncIterator[M]:
        """Call a peer and yield its replies as they come; not repeated once it has begun."""
        return self._peers.stream(peer_name, method, request, reply_type, timeout_s=timeout_s)

    # --- sessions ---

    def channel(self, session: Session) -> SessionChannel:
        """Return the channel of this node in one session; PeerError if the session was closed."""
        self._sessions.get(session.id).inbox.check_open()
        return SessionChannel(self, session.id)

    def close_session(self, session_id: str, reason: str = "the step has ended") -> None:
        """End a session: unread messages are dropped, whoever waits in it gets PeerError."""
        self._sessions.close(session_id, reason)

    def traffic(self, session_id: str) -> list[KindTraffic]:
        """Return messages and bytes of one session by sender, recipient and kind, also after its end."""
        return self._sessions.traffic(session_id)

    def bytes_sent(self, session_id: str) -> int:
        """Return how many bytes this node sent in one session."""
        return sum(t.bytes for t in self.traffic(session_id) if t.sender == self.name)

    def bytes_received(self, session_id: str) -> int:
        """Return how many bytes this node received in one session."""
        return sum(t.bytes for t in self.traffic(session_id) if t.recipient == self.name)

    async def send_message(self, session_id: str, to: str, payload: bytes, digest: bytes | None = None) -> None:
        """Deliver one protocol message; see `SessionChannel`."""
        state = self._sessions.get(session_id)
        self._peers.get(to)
        if len(payload) > self.limits.message_bytes:
            raise MessageError(
                f"message of {len(payload)} bytes to {to} is over the limit of {self.limits.message_bytes}",
                session=session_id,
            )
        if digest is None:
            digest = await asyncio.to_thread(sha256_of, payload)
        sending = state.sending_to(to)
        async with sending.numbered(digest) as sequence:
            total_s = max(self.limits.retry_s, self.limits.attempt_s(len(payload)))

            async def attempt(peer: Peer, remaining_s: float) -> None:
                header = wire_pb2.Header(
                    session=session_id,
                    sender=self.name,
                    recipient=to,
                    sequence=sequence,
                    size_bytes=len(payload),
                    sha256=digest,
                    acknowledged=sending.acknowledged,
                )
                await self._deliver(state, peer, header, payload, remaining_s)

            await self._peers.retrying(to, attempt, total_s, retry=True)
        state.count(self.name, to, payload)

    async def _deliver(
        self, state: SessionState, peer: Peer, header: wire_pb2.Header, payload: bytes, remaining_s: float
    ) -> None:
        """Make one attempt; the pieces are the same bytes each time."""
        state.inbox.check_open()
        timeout_s = min(remaining_s, self.limits.attempt_s(len(payload)))
        try:
            acknowledged = await peer.connection.deliver(pieces(header, payload), timeout_s, state.calls)
            parse(wire_pb2.Ack, acknowledged, peer.member.name)
        except asyncio.CancelledError:
            # the session's end cancels the call, not this task: then its reason is the error
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                state.inbox.check_open()
            raise

    async def receive_message(self, session_id: str, sender: str) -> bytes:
        """Wait for one protocol message; see `SessionChannel`."""
        self.federation.member(sender)
        return await self._sessions.get(session_id).inbox.get(sender, self.limits.receive_timeout_s)


class SessionChannel:
    """Carries a session's messages over the fabric: in order, repeated until they arrive, bounded."""

    def __init__(self, fabric: Fabric, session_id: str) -> None:
        self._fabric = fabric
        self._session_id = session_id

    async def send(self, to: str, payload: bytes, digest: bytes | None = None) -> None:
        """Deliver `payload` to party `to` and return when the peer has it.

        After an error or a cancellation it may have arrived or not: only the same bytes can be sent next.
        """
        await self._fabric.send_message(self._session_id, to, payload, digest)

    async def receive(self, sender: str) -> bytes:
        """Return the next message from `sender`, in the order sent."""
        return await self._fabric.receive_message(self._session_id, sender)
