"""Small federations on loopback with real TLS, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from veilscore.fabric.fabric import Fabric
from veilscore.keys.identity import Identity, create_identity
from veilscore.terms.federation import Federation, Member, make_federation, member_of
from veilscore.v1 import wire_pb2
from veilscore.wire.inbox import WireLimits
from veilscore.wire.protocol import VERSION, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

ROLES = {
    "bank": "bank",
    "tax": "holder",
    "registry": "holder",
    "coordinator": "coordinator",
    "operator": "operator",
}
QUICK = WireLimits(retry_s=1.5, receive_timeout_s=1.5, deliver_timeout_s=1.5, connect_timeout_s=1.0)


def make_identity(name: str, role: str, days: float = 365) -> Identity:
    """Identity that no other has, in a folder of its own that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return create_identity(Path(folder), name, role, days, passphrase=lambda: None)


IDENTITIES = {name: make_identity(name, role) for name, role in ROLES.items()}


def federation_of(identities: Iterable[Identity]) -> Federation:
    """Federation with placeholder addresses; `network` sets the real ones."""
    members = [
        member_of(i.certificate, None if i.role == "operator" else f"127.0.0.1:{number + 1}")
        for number, i in enumerate(identities)
    ]
    return make_federation("test", members)


FEDERATION = federation_of(IDENTITIES.values())


def accepted_member(federation: Federation, fingerprint: str, now_s: float | None = None) -> Member | None:
    """Member with an accepted key of this fingerprint, if any."""
    key = federation.history.find(fingerprint)
    if key is None or key.refusal(time.time() if now_s is None else now_s) is not None:
        return None
    return federation.member(key.certificate.name)


async def point(fabric: Fabric, name: str, port: int) -> None:
    """Let a node reach a member at another port from now on, as if its federation file said so."""
    old = fabric.federation
    members = [m.model_copy(update={"address": f"127.0.0.1:{port}"}) if m.name == name else m for m in old.members]
    await fabric.renew(Federation.model_construct(name=old.name, members=tuple(members), statements=old.statements))
    peer = fabric._peers._peers.pop(name, None)
    if peer is not None:
        await peer.connection.close()


def session(party: str, number: int = 1) -> Session:
    return Session(f"job/step/{number}", party, "bank", ("tax", "registry"))


def make_fabric(name: str, **options: Any) -> Fabric:
    defaults: dict[str, Any] = {"accept_session": lambda _s, _p: True, "limits": QUICK}
    if name != "operator":
        defaults["listen"] = "127.0.0.1:0"
    federation = options.pop("federation", FEDERATION)
    return Fabric(options.pop("identity", IDENTITIES[name]), federation, **(defaults | options))


@contextlib.asynccontextmanager
async def running(*fabrics: Fabric) -> AsyncIterator[None]:
    """Start these nodes and tell each where the others listen."""
    try:
        for fabric in fabrics:
            await fabric.start()
        for fabric in fabrics:
            for other in fabrics:
                if other.port:
                    await point(fabric, other.name, other.port)
        yield
    finally:
        for fabric in fabrics:
            await fabric.stop(0.1)


def header(payload: bytes, **changes: Any) -> wire_pb2.Chunk:
    """Header of a message from bank to tax, with changes."""
    fields: dict[str, Any] = {
        "session": "job/step/1",
        "sender": "bank",
        "recipient": "tax",
        "sequence": 0,
        "size_bytes": len(payload),
        "sha256": hashlib.sha256(payload).digest(),
    }
    return wire_pb2.Chunk(header=wire_pb2.Header(**(fields | changes)))


@contextlib.asynccontextmanager
async def raw_channel(to: Fabric, identity: Identity, pinned: Identity | None = None) -> AsyncIterator[Any]:
    """gRPC channel without any of the fabric's manners."""
    certificate = (pinned or IDENTITIES[to.name]).certificate
    credentials = grpc.ssl_channel_credentials(certificate.pem, identity.key_pem(), identity.certificate.pem)
    options = [("grpc.ssl_target_name_override", to.name), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{to.port}", credentials, options) as channel:
        yield channel


async def deliver_raw(
    to: Fabric, chunks: Iterable[bytes | wire_pb2.Chunk], *, sender: str = "bank", version: str = VERSION
) -> wire_pb2.Ack:
    """Send these chunks as they are; grpc.aio.AioRpcError if refused."""
    async with raw_channel(to, IDENTITIES[sender]) as channel:
        call = channel.stream_unary("/veilscore.v1.Fabric/Deliver")(
            iter([c if isinstance(c, bytes) else c.SerializeToString() for c in chunks]),
            metadata=(("veilscore-version", version),),
            timeout=1.5,
        )
        return wire_pb2.Ack.FromString(await call)


def on_network(scenario: Any, *names: str, **options: Any) -> Any:
    """Run `scenario` with a started fabric for each name."""

    async def main() -> Any:
        fabrics = [make_fabric(name, **options) for name in names]
        async with running(*fabrics):
            return await scenario(*fabrics)

    return asyncio.run(main())
