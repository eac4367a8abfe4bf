"""The door's gRPC: the same requests and answers as over HTTP, as messages of `protos/veilscore/v1/door.proto`."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import BaseModel

from veilscore.errors import ConfigError
from veilscore.fabric.connections import Callers
from veilscore.fabric.grpc_channel import Caller, GrpcServer, Pems, Stream, Unary
from veilscore.online.door import DoorDesk, ProblemError
from veilscore.online.door_callers import DoorCallers
from veilscore.terms.door import PROBLEMS, Problem
from veilscore.v1 import door_pb2
from veilscore.wire.inbox import WireLimits

SERVICE = "veilscore.door.v1.Door"


class GrpcDoor:
    """Listens for callers by gRPC.

    desk, callers : answers them; who they are.
    certificate, key, passphrase : files of the server's certificate and of its key.
    """

    def __init__(
        self, desk: DoorDesk, callers: DoorCallers, certificate: Path, key: Path, passphrase: str | None
    ) -> None:
        self._desk, self._callers = desk, callers
        try:
            private = serialization.load_pem_private_key(key.read_bytes(), passphrase.encode() if passphrase else None)
            self._own = (
                private.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                ),
                certificate.read_bytes(),
            )
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"key {key} of the door cannot be read: damaged, or a wrong passphrase") from error
        self._served: object = None
        self._connections = Callers()
        limits = WireLimits(control_bytes=desk.door.most_bytes)
        self._server = GrpcServer(self._find, None, self._pems, limits, SERVICE)
        self.port: int | None = None

    def __repr__(self) -> str:
        """Show nothing of the key."""
        return f"<GrpcDoor, port {self.port}>"

    async def start(self) -> None:
        """Listen; ConfigError if the address cannot be bound."""
        door = self._desk.door
        host = f"[{door.host}]" if ":" in door.host else door.host
        try:
            self.port = await self._server.start(f"{host}:{door.grpc_port}")
        except RuntimeError as error:
            raise ConfigError(
                f"the door cannot listen on {host}:{door.grpc_port} (grpc_port in the door section of node.yaml): the "
                "port is in use, or the host is not this machine"
            ) from error

    def cut_silent(self) -> int:
        """Shut down connections that made no call, and return how many (`fabric.connections`)."""
        return 0 if self.port is None else self._connections.cut_silent(self.port)

    async def stop(self, grace_s: float) -> None:
        """Give running requests some time, then close all connections."""
        await self._server.stop(grace_s)

    def _pems(self) -> Pems | None:
        """Return key, certificate and whom to trust; None if nobody came or went since the last connection."""
        signature = self._callers.signature()
        if signature == self._served:
            return None
        self._served = signature
        return *self._own, self._callers.roots() or self._own[1]  # gRPC takes no empty trust; nobody else has that key

    def _find(self, name: str) -> tuple[Unary, None] | tuple[None, Stream] | None:
        answers: dict[str, Unary] = {"Score": self._score, "Decide": self._decide, "Health": self._health}
        return (answers[name], None) if name in answers else None

    def _seen(self, caller: Caller) -> bytes:
        """Note that a connection says something, and return the certificate (DER) of its caller."""
        certificate = ssl.PEM_cert_to_DER_cert(caller.certificate.decode())
        self._connections.seen(hashlib.sha256(certificate).hexdigest(), caller.address)
        return certificate

    async def _score(self, request: bytes, caller: Caller) -> bytes:
        async def read() -> dict[str, Any]:
            return _fields(door_pb2.ScoreAsked, request)

        answer = partial(self._desk.score, self._seen(caller), read, caller.remaining_s)
        return await _told(caller, answer, door_pb2.ScoreAnswer)

    async def _decide(self, request: bytes, caller: Caller) -> bytes:
        async def read() -> dict[str, Any]:
            return _fields(door_pb2.DecisionAsked, request)

        answer = partial(self._desk.decide, self._seen(caller), read, caller.remaining_s)
        return await _told(caller, answer, door_pb2.DecisionReply)

    async def _health(self, _request: bytes, caller: Caller) -> bytes:
        return await _told(caller, partial(self._desk.health, self._seen(caller)), door_pb2.HealthAnswer)


def _fields(kind: type[Message], data: bytes) -> dict[str, Any]:
    """Return the fields of a message that say something; ProblemError where it says what this version does not know."""
    try:
        message = kind.FromString(data)
    except DecodeError:
        raise ProblemError(Problem.of("malformed", f"the message is no {kind.__name__}")) from None
    if len(UnknownFieldSet(message)):
        raise ProblemError(Problem.of("unusable", "the message has fields that this version of the door does not know"))
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


async def _told(caller: Caller, answer: Callable[[], Awaitable[BaseModel]], kind: type[Message]) -> bytes:
    """Return an answer as a message, or end the call with what stands in its way."""
    try:
        found = (await answer()).model_dump(mode="json", exclude_none=True)
    except ProblemError as error:
        problem = error.problem
    else:
        return json_format.ParseDict(found, kind()).SerializeToString()
    return await caller.end(PROBLEMS[problem.kind][1], problem.detail[:300], json.dumps(problem.body()).encode())
