"""The only file that speaks gRPC: a server and connections to peers, in bytes; fabric.py gives them a meaning.

Every connection is mutual TLS 1.3. A server trusts exactly the certificates of the federation file, a client exactly
those of the peer it calls (two while a key is being replaced); there is no other way in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

# gRPC for Python has no setting for the lowest version of TLS. Its list of cipher suites concerns TLS 1.2 alone (that
# of TLS 1.3 is fixed), and the one suite left here needs a pre-shared key that nobody has: a handshake of TLS 1.2 finds
# no suite, at a server and at a client. gRPC reads the list once, when it is first imported.
_SUITES, _NONE_OF_TLS_1_2 = "GRPC_SSL_CIPHER_SUITES", "ECDHE-PSK-AES128-CBC-SHA"
_ONLY_TLS_1_3 = "grpc" not in sys.modules or os.environ.get(_SUITES) == _NONE_OF_TLS_1_2
os.environ[_SUITES] = _NONE_OF_TLS_1_2

import grpc  # noqa: E402 - after the line above

from veilscore.errors import ConfigError, VeilscoreError  # noqa: E402
from veilscore.fabric.connections import HANDSHAKE_S, most_connections  # noqa: E402
from veilscore.fabric.failures import INTERNAL, failure_of, status_of, text_of, told  # noqa: E402
from veilscore.fabric.traces import HEADER, carried  # noqa: E402
from veilscore.terms.federation import Member  # noqa: E402
from veilscore.wire.framing import PIECE_BYTES  # noqa: E402
from veilscore.wire.inbox import MIB, WireLimits  # noqa: E402

SERVICE = "veilscore.v1.Fabric"
HEALTH = "grpc.health.v1.Health"
_VERSION_KEY = "veilscore-version"
_ERROR_KEY = "veilscore-error-bin"
PROBLEM_KEY = "veilscore-problem-bin"  # at the door of a bank: problem details as JSON

Pems = tuple[bytes, bytes, bytes]  # own key, own certificate, trusted certificates

_OPTIONS = [
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # no limit: a party may compute for minutes before it sends
    ("grpc.http2.lookahead_bytes", 4 * MIB),
    ("grpc.http2.max_frame_size", MIB),
]


def _check_tls() -> None:
    if not _ONLY_TLS_1_3:
        raise ConfigError(
            "another library loaded gRPC before Veilscore, so connections of TLS 1.2 would be taken too: import "
            f"veilscore.fabric.fabric first, or start the program with {_SUITES}={_NONE_OF_TLS_1_2}"
        )


class Caller:
    """One call as it came in: says who calls, in which version, and gives the pieces of a message."""

    def __init__(self, context: Any) -> None:
        self._context = context

    @cached_property
    def certificate(self) -> bytes:
        """Return the PEM of the certificate that TLS has checked, the same as long as the call lasts."""
        return next(iter(self._context.auth_context().get("x509_pem_cert", ())), b"")

    @cached_property
    def version(self) -> str:
        """Return the version of Veilscore that the caller states, for as long as the call lasts."""
        return str(dict(self._context.invocation_metadata() or ()).get(_VERSION_KEY, "no version"))

    @cached_property
    def trace(self) -> str:
        """Return to which span of the caller the call belongs, by its own word; "" where it says none."""
        return str(dict(self._context.invocation_metadata() or ()).get(HEADER, ""))

    @cached_property
    def address(self) -> str:
        """Return address and port of the connection."""
        return str(self._context.peer())

    @property
    def remaining_s(self) -> float:
        """Return the seconds until the caller gives up."""
        return self._context.time_remaining() or float("inf")

    async def piece(self) -> bytes | None:
        """Return the next piece of a streamed request; None after the last."""
        read = await self._context.read()
        return None if read is grpc.aio.EOF else read

    async def write(self, data: bytes) -> None:
        """Send a message of a streamed reply."""
        await self._context.write(data)

    async def refuse(self, failure: VeilscoreError, party: str, *, internal: bool) -> bytes:
        """End the call with an error of the tree."""
        code = grpc.StatusCode[INTERNAL if internal else status_of(failure)]
        await self._context.abort(code, text_of(failure), ((_ERROR_KEY, told(failure, party)),))
        return b""

    async def end(self, status: str, text: str, problem: bytes) -> bytes:
        """End the call with a status of gRPC, by name, and problem details."""
        await self._context.abort(grpc.StatusCode[status], text, ((PROBLEM_KEY, problem),))
        return b""


Unary = Callable[[bytes, Caller], Awaitable[bytes]]
Stream = Callable[[bytes, Caller], AsyncIterator[bytes]]


class GrpcServer:
    """Listens for one node.

    find : method -> its handler, as one that replies or one that streams; None if there is none.
    deliver : takes a streamed request; None where the service has none.
    talk : method -> what takes and answers messages as long as they come; None if it is none of these.
    tls : own key and what is trusted; None if the same as for the last connection.
    service : name of the service, with its package.
    health : answers the checks of grpc.health.v1; None: there are none.
    """

    def __init__(
        self,
        find: Callable[[str], tuple[Unary, None] | tuple[None, Stream] | None],
        deliver: Callable[[Caller], Awaitable[bytes]] | None,
        tls: Callable[[], Pems | None],
        limits: WireLimits,
        service: str = SERVICE,
        talk: Callable[[str], Callable[[Caller], Awaitable[object]] | None] = lambda _: None,
        health: Unary | None = None,
    ) -> None:
        self._talk, self._health = talk, health
        self._find, self._deliver, self._tls, self._limits = find, deliver, tls, limits
        self._name = service
        self._server: Any = None

    async def start(self, address: str) -> int:
        """Listen and return the port; RuntimeError if the address cannot be bound."""
        _check_tls()
        options = [
            *_OPTIONS,
            ("grpc.so_reuseport", 0),  # two nodes on one port must fail, not share it
            (
                "grpc.max_receive_message_length",
                max(self._limits.control_bytes, PIECE_BYTES + 64 if self._deliver is not None else 0),
            ),
            ("grpc.max_send_message_length", self._limits.control_bytes),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.server_handshake_timeout_ms", int(1000 * HANDSHAKE_S)),
            ("grpc.max_allowed_incoming_connections", most_connections()),
        ]
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=512)
        server.add_generic_rpc_handlers((self,))
        credentials = grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._configuration, require_client_authentication=True
        )
        try:
            port: int = server.add_secure_port(address, credentials)
        except RuntimeError:
            await server.stop(None)
            raise
        await server.start()
        self._server = server
        return port

    async def serving(self) -> None:
        """Return when the server has ended."""
        if self._server is not None:
            # shielded: gRPC waits for the very future that `stop` waits for, and a cancellation would reach it
            await asyncio.shield(self._server.wait_for_termination())

    async def stop(self, grace_s: float) -> None:
        """Give running calls some time, then stop."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(grace_s)

    def _configuration(self) -> Any:
        pems = self._tls()
        if pems is None:
            return None
        key, certificate, roots = pems
        return grpc.ssl_server_certificate_configuration([(key, certificate)], roots)

    def service(self, details: Any) -> Any:
        """Find what gRPC shall call; without a deserialiser bytes stay unparsed until the caller is checked."""
        service, _, name = details.method.lstrip("/").rpartition("/")
        if (service, name) == (HEALTH, "Check") and self._health is not None:
            return self._unary(self._health)
        if service != self._name:
            return None
        streamed = self._streamed(name)
        if streamed is not None:
            return streamed
        found = self._find(name)
        if found is None:
            return None
        unary, stream = found
        if unary is not None:
            return self._unary(unary)

        async def answers(request: bytes, context: Any) -> AsyncIterator[bytes]:
            async for reply in stream(request, Caller(context)):  # type: ignore[misc]
                yield reply

        return grpc.unary_stream_rpc_method_handler(answers)

    def _unary(self, unary: Unary) -> Any:
        async def answer(request: bytes, context: Any) -> bytes:
            return await unary(request, Caller(context))

        return grpc.unary_unary_rpc_method_handler(answer)

    def _streamed(self, name: str) -> Any:
        """Find what takes a request in pieces, or many of them; None if the call is not of these."""
        take, talk = self._deliver, self._talk(name)
        if name == "Deliver" and take is not None:

            async def deliver(_pieces: Any, context: Any) -> bytes:
                return await take(Caller(context))

            return grpc.stream_unary_rpc_method_handler(deliver)
        if talk is not None:

            async def converse(_messages: Any, context: Any) -> None:
                await talk(Caller(context))

            return grpc.stream_stream_rpc_method_handler(converse)
        return None


class GrpcLine:
    """A stream of messages both ways (`batches.BothWays`)."""

    def __init__(self, call: Any, failures: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._call, self._failures = call, failures

    async def write(self, data: bytes) -> None:
        """Send a message; raises what ended the stream."""
        await self._call.write(data)

    async def read(self) -> bytes | None:
        """Return the next message, None at the end; `CallFailure` where the stream broke."""
        with self._failures():
            read = await self._call.read()
        return None if read is grpc.aio.EOF else read

    def close(self) -> None:
        """End the stream."""
        self._call.cancel()


class GrpcConnection:
    """Calls one peer; what fails raises `CallFailure`."""

    def __init__(self, member: Member, pems: Pems, limits: WireLimits, version: str) -> None:
        _check_tls()
        key, certificate, roots = pems
        self._member = member
        self._metadata = ((_VERSION_KEY, version),)
        options = [
            *_OPTIONS,
            ("grpc.ssl_target_name_override", member.name),  # certificates name members, not hosts
            ("grpc.enable_http_proxy", 0),  # parties talk directly, whatever the environment says
            ("grpc.use_local_subchannel_pool", 1),  # a new channel opens a connection of its own, with the keys of now
            ("grpc.enable_retries", 0),  # retries are ours: identical bytes, one bound on the whole
            ("grpc.max_receive_message_length", limits.control_bytes),
            ("grpc.max_send_message_length", max(limits.control_bytes, PIECE_BYTES + 64)),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 5_000),  # also the deadline of one connection attempt
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ]
        credentials = grpc.ssl_channel_credentials(roots, key, certificate)
        self._channel = grpc.aio.secure_channel(f"dns:///{member.address}", credentials, options)

    async def close(self) -> None:
        """Close the connection; calls that run end."""
        await self._channel.close()

    async def unary(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """Call and return the reply."""
        with self._failures():
            stub = self._channel.unary_unary(f"/{SERVICE}/{method}")
            return bytes(await stub(request, timeout=timeout_s, metadata=(*self._metadata, *carried())))

    def line(self, method: str) -> GrpcLine:
        """Open a stream of messages both ways."""
        call = self._channel.stream_stream(f"/{SERVICE}/{method}")(metadata=self._metadata)
        return GrpcLine(call, self._failures)

    async def stream(self, method: str, request: bytes, timeout_s: float | None) -> AsyncGenerator[bytes, None]:
        """Call and yield the replies as they come."""
        stub = self._channel.unary_stream(f"/{SERVICE}/{method}")
        call = stub(request, timeout=timeout_s, metadata=self._metadata)
        try:
            with self._failures():
                async for raw in call:
                    yield raw
        finally:
            call.cancel()

    async def deliver(self, chunks: Iterable[bytes], timeout_s: float, calls: set[Any]) -> bytes:
        """Send a streamed request and return the reply; the call stands in `calls` while it runs, to be cancelled."""
        call = self._channel.stream_unary(f"/{SERVICE}/Deliver")(timeout=timeout_s, metadata=self._metadata)
        calls.add(call)
        try:
            with self._failures():
                # A call that ended early takes no more data; awaiting it then says why.
                with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    for chunk in chunks:
                        await call.write(chunk)
                    await call.done_writing()
                return bytes(await call)
        finally:
            calls.discard(call)
            call.cancel()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            sent = next((v for k, v in error.trailing_metadata() or () if k == _ERROR_KEY), None)
            raise failure_of(error.code().name, error.details() or "", sent, self._member) from error
