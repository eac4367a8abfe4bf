"""Write a Parquet file column by column, so that ten thousand columns need the memory of one.

Source: the Apache Parquet format, version 1 data pages, PLAIN encoding, uncompressed; its metadata are in Thrift's
compact protocol. One row group holds all rows. Libraries that write Parquet want every column of a row group at once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from veilscore.arrays import Array, Mask

_MAGIC = b"PAR1"
_INT32, _INT64, _DOUBLE, _BYTE_ARRAY = 1, 2, 5, 6
_UTF8, _DATE = 0, 6  # converted types
_PLAIN, _RLE = 0, 3
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12  # types of Thrift's compact protocol


class ParquetFile:
    """Writes one file: `add` each column, then `close`; every column has the same number of rows.

    file : opened for writing bytes; it is not closed here.
    metadata : texts kept in the footer.
    """

    def __init__(self, file: IO[bytes], metadata: Mapping[str, str]) -> None:
        self._file = file
        self._metadata = dict(metadata)
        self._chunks: list[tuple[bytes, bytes]] = []  # schema element and column chunk of each column
        self._n_rows = 0
        self._bytes = 0
        self._at = file.write(_MAGIC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def add(self, name: str, values: Array) -> None:
        """Write a column: int32, float64 (NaN for missing), datetime64[D], or objects of str with None for missing."""
        self._n_rows = len(values)
        physical, converted, optional = _INT32, None, False
        parts: list[Any]  # arrays and bytes
        if values.dtype.kind == "M":
            converted, parts = _DATE, [values.astype("datetime64[D]").astype(np.int64).astype("<i4")]
        elif values.dtype.kind == "i":
            parts = [values.astype("<i4", copy=False, casting="same_kind")]
        elif values.dtype.kind == "f":
            filled = ~np.isnan(values)
            physical, optional = _DOUBLE, not filled.all()
            numbers = values.astype("<f8", copy=False)
            parts = [_which(filled), numbers[filled]] if optional else [numbers]
        else:
            filled = np.not_equal(values, np.array(None, dtype=object))
            encoded = [text.encode() for text in values[filled]]
            texts = b"".join(part for text in encoded for part in (struct.pack("<I", len(text)), text))
            physical, converted, optional, parts = _BYTE_ARRAY, _UTF8, True, [_which(filled), texts]
        data_page = _struct((1, _I32, len(values)), (2, _I32, _PLAIN), (3, _I32, _RLE), (4, _I32, _RLE))
        length = sum(memoryview(part).nbytes for part in parts)
        header = _struct((1, _I32, 0), (2, _I32, length), (3, _I32, length), (5, _STRUCT, data_page))
        start, size = self._at, len(header) + length
        self._file.write(header)
        for part in parts:
            self._file.write(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
        self._at += size
        self._bytes += size
        text = name.encode()
        element = [(1, _I32, physical), (3, _I32, int(optional)), (4, _BINARY, text)]
        element += [] if converted is None else [(6, _I32, converted)]
        meta = _struct(
            (1, _I32, physical),
            (2, _LIST, (_I32, [_zigzag(_PLAIN), _zigzag(_RLE)])),
            (3, _LIST, (_BINARY, [_varint(len(text)) + text])),
            (4, _I32, 0),
            (5, _I64, len(values)),
            (6, _I64, size),
            (7, _I64, size),
            (9, _I64, start),
        )
        self._chunks.append((_struct(*element), _struct((2, _I64, start), (3, _STRUCT, meta))))

    def close(self) -> None:
        """Write the footer."""
        root = _struct((4, _BINARY, b"schema"), (5, _I32, len(self._chunks)))
        chunks = [chunk for _, chunk in self._chunks]
        group = _struct((1, _LIST, (_STRUCT, chunks)), (2, _I64, self._bytes), (3, _I64, self._n_rows))
        pairs = [_struct((1, _BINARY, k.encode()), (2, _BINARY, v.encode())) for k, v in self._metadata.items()]
        footer = _struct(
            (1, _I32, 1),
            (2, _LIST, (_STRUCT, [root, *(element for element, _ in self._chunks)])),
            (3, _I64, self._n_rows),
            (4, _LIST, (_STRUCT, [group])),
            (5, _LIST, (_STRUCT, pairs)),
            (6, _BINARY, b"veilscore"),
        )
        self._file.write(footer + struct.pack("<I", len(footer)) + _MAGIC)


def _which(filled: Mask) -> bytes:
    """Return the definition levels of a page: one bit a row, 1 where it is filled."""
    bits = np.packbits(filled, bitorder="little").tobytes()
    levels = _varint(len(bits) << 1 | 1) + bits
    return struct.pack("<I", len(levels)) + levels


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _struct(*fields: tuple[int, int, object]) -> bytes:
    """Encode fields (number ascending by at most 15, type, value) as a struct of Thrift's compact protocol."""
    parts, last = [], 0
    for number, kind, value in fields:
        parts.append(bytes([(number - last) << 4 | kind]))
        last = number
        match value:
            case int():
                parts.append(_zigzag(value))
            case bytes() if kind == _BINARY:
                parts.append(_varint(len(value)) + value)
            case bytes():
                parts.append(value)
            case (int(of), list(items)):
                size = len(items)
                parts.append(bytes([size << 4 | of]) if size < 15 else bytes([0xF0 | of]) + _varint(size))
                parts += items
    return b"".join(parts) + b"\0"
