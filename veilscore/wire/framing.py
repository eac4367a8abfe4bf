"""Cuts one message for the wire into a header and pieces of at most 1 MiB, and puts it together again; no I/O.

Source: protos/veilscore/v1/wire.proto (`Chunk`, `Header`). Every byte comes from a peer who may lie, so sizes are
counted as pieces arrive, and the digest is checked last.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from veilscore.errors import MessageError
from veilscore.v1 import wire_pb2
from veilscore.wire.protocol import varint
from veilscore.wire.transcript import Payload

M = TypeVar("M", bound=Message)
PIECE_BYTES = 1 << 20

_KIND_OF_FIELD: dict[int, str] = {
    f.number: f.message_type.name  # type: ignore[union-attr]
    for f in wire_pb2.Body.DESCRIPTOR.oneofs_by_name["kind"].fields
}


def kind_of(payload: bytes) -> str:
    """Return the name of the message type in a serialised `Body`; only its first tag is read."""
    tag = 0
    for position, byte in enumerate(payload[:4]):
        tag |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return _KIND_OF_FIELD.get(tag >> 3, "unknown")
    return "unknown"


def parse(kind: type[M], data: bytes, sender: str) -> M:
    """Parse bytes that `sender` sent; MessageError if they are not a `kind`."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise MessageError(f"{kind.__name__} from {sender} cannot be parsed", party=sender) from error


def data_prefix(size: int) -> bytes:
    """Return the first bytes of `Chunk(data=...)`: joining them to the data saves two copies of it."""
    return b"\x12" + varint(size)


def data_of(chunk: bytes, sender: str) -> bytes | memoryview:
    """Take the data out of a serialised `Chunk`, without a copy where it begins with `data_prefix`."""
    for length in (4, 2, 3):
        size = len(chunk) - length
        if size > 0 and chunk[:length] == data_prefix(size):
            return memoryview(chunk)[length:]
    parsed = parse(wire_pb2.Chunk, chunk, sender)
    if parsed.WhichOneof("part") != "data":
        raise MessageError(f"message from {sender}: a second header where data was expected")
    return parsed.data


def header_of(chunk: bytes, sender: str) -> wire_pb2.Header:
    """Parse the first `Chunk` of a message; MessageError if it is no header."""
    parsed = parse(wire_pb2.Chunk, chunk, sender)
    if parsed.WhichOneof("part") != "header":
        raise MessageError(f"message from {sender} does not begin with a header")
    return parsed.header


def pieces(header: wire_pb2.Header, payload: bytes) -> Iterator[bytes]:
    """Yield the serialised chunks of a message; each piece is copied once."""
    yield wire_pb2.Chunk(header=header).SerializeToString()
    view = memoryview(payload)
    for start in range(0, len(payload), PIECE_BYTES):
        piece = view[start : start + PIECE_BYTES]
        yield b"".join((data_prefix(len(piece)), piece))


class Assembly:
    """One message while its pieces arrive; no more than its header declared is kept."""

    def __init__(self, header: wire_pb2.Header) -> None:
        self._header = header
        self._buffer = io.BytesIO()
        self._hash = hashlib.sha256()

    def add(self, piece: bytes | memoryview) -> None:
        """Take the next piece; MessageError if it is empty, over 1 MiB, or more than was declared."""
        if not 0 < len(piece) <= PIECE_BYTES:
            raise self._wrong(f"a piece of {len(piece)} bytes; pieces have 1 to {PIECE_BYTES}")
        if self._buffer.tell() + len(piece) > self._header.size_bytes:
            raise self._wrong(f"more data than the {self._header.size_bytes} bytes declared")
        self._hash.update(piece)
        self._buffer.write(piece)

    def finish(self) -> Payload:
        """Return the whole message; MessageError if it is shorter than declared or its digest differs."""
        if self._buffer.tell() != self._header.size_bytes:
            raise self._wrong(f"truncated: {self._buffer.tell()} of {self._header.size_bytes} bytes arrived")
        digest = self._hash.digest()
        if digest != self._header.sha256:
            raise self._wrong("its bytes do not have the digest in its header")
        return Payload.checked(self._buffer.getbuffer(), digest)

    def _wrong(self, what: str) -> MessageError:
        header = self._header
        return MessageError(f"message {header.sequence} from {header.sender} refused: {what}", session=header.session)
