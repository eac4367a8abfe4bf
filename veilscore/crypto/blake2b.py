"""BLAKE2b of whole arrays under one key, as hashlib computes it one by one.

Source: RFC 7693, with a key of 32 bytes. It stands for a random oracle; its time does not depend on what is hashed, but
    for the length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from veilscore.arrays import Words
from veilscore.kernels import inlined, kernel

KEY_BYTES = 32
BLOCK_BYTES = 128

# square roots of the first primes, as in SHA-512
_START = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    np.uint64,
)

_ORDER = np.array(  # of the words of a message, in each round
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    ],
    np.uint8,
)


def derived_key(*fields: bytes) -> bytes:
    """Return the key of one purpose, from self-delimiting fields that name it."""
    return hashlib.blake2b(b"".join(fields), digest_size=KEY_BYTES).digest()


def keyed_state(key: bytes, digest_bytes: int) -> Words:
    """Return the state (8,) after the block of the key, equal for all that is hashed under it."""
    state = _START.copy()
    state[0] ^= np.uint64(0x01010000 ^ KEY_BYTES << 8 ^ digest_bytes)
    return np.array(_after_key(state, np.frombuffer(key.ljust(BLOCK_BYTES, b"\0"), "<u8")), np.uint64)


def hash_texts(texts: Sequence[str], key: bytes) -> Words:
    """Return the digests of texts that are not empty, 32 bytes as four words each: (n, 4)."""
    joined = "".join(texts)
    pieces = texts if joined.isascii() else [text.encode() for text in texts]
    ends = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(texts)))
    out = np.empty((len(texts), 4), np.uint64)
    _hash_pieces(np.frombuffer(joined.encode(), np.uint8), ends, keyed_state(key, 32), out)
    return out


@inlined
def _turn(x: Any, y: Any, by: Any) -> Any:
    z = x ^ y
    return (z >> np.uint64(by)) | (z << np.uint64(64 - by))


@kernel()
def _mix(a: Any, b: Any, c: Any, d: Any, x: Any, y: Any) -> Any:
    a = a + b + x
    d = _turn(d, a, 32)
    c = c + d
    b = _turn(b, c, 24)
    a = a + b + y
    d = _turn(d, a, 16)
    c = c + d
    return a, _turn(b, c, 63), c, d


@kernel()
def _round(v: Any, m: Any, r: Any) -> Any:
    """One round on 16 words; m are those of the message (16,)."""
    o = _ORDER[r]
    v0, v4, v8, v12 = _mix(v[0], v[4], v[8], v[12], m[o[0]], m[o[1]])
    v1, v5, v9, v13 = _mix(v[1], v[5], v[9], v[13], m[o[2]], m[o[3]])
    v2, v6, v10, v14 = _mix(v[2], v[6], v[10], v[14], m[o[4]], m[o[5]])
    v3, v7, v11, v15 = _mix(v[3], v[7], v[11], v[15], m[o[6]], m[o[7]])
    v0, v5, v10, v15 = _mix(v0, v5, v10, v15, m[o[8]], m[o[9]])
    v1, v6, v11, v12 = _mix(v1, v6, v11, v12, m[o[10]], m[o[11]])
    v2, v7, v8, v13 = _mix(v2, v7, v8, v13, m[o[12]], m[o[13]])
    v3, v4, v9, v14 = _mix(v3, v4, v9, v14, m[o[14]], m[o[15]])
    return v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15


@kernel()
def compress(h: Any, m: Any, counted: Any, last: Any) -> Any:
    """The state (8 words) after one more block, of bytes `counted` in all; returns the new one, and changes nothing."""
    s, whole = _START, np.uint64(0xFFFFFFFFFFFFFFFF)
    end = s[6] ^ whole if last else s[6]
    v = (
        h[0],
        h[1],
        h[2],
        h[3],
        h[4],
        h[5],
        h[6],
        h[7],
        s[0],
        s[1],
        s[2],
        s[3],
        s[4] ^ np.uint64(counted),
        s[5],
        end,
        s[7],
    )
    for r in range(12):
        v = _round(v, m, r)
    return (
        h[0] ^ v[0] ^ v[8],
        h[1] ^ v[1] ^ v[9],
        h[2] ^ v[2] ^ v[10],
        h[3] ^ v[3] ^ v[11],
        h[4] ^ v[4] ^ v[12],
        h[5] ^ v[5] ^ v[13],
        h[6] ^ v[6] ^ v[14],
        h[7] ^ v[7] ^ v[15],
    )


@kernel("(u8[::1], Array(u8, 1, 'C', True))")
def _after_key(start: Any, key: Any) -> Any:
    return compress(start, key, BLOCK_BYTES, False)


@kernel("(Array(u1, 1, 'C', True), i8[::1], u8[::1], u8[:,::1])")
def _hash_pieces(data: Any, ends: Any, state: Any, out: Any) -> None:
    """Digest of each piece of `data`, which ends where `ends` says."""
    block = np.zeros(BLOCK_BYTES, np.uint8)
    words = block.view(np.uint64)
    at = 0
    for i in range(ends.size):
        h = (state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7])
        end, counted = ends[i], BLOCK_BYTES
        while at < end:
            size = min(BLOCK_BYTES, end - at)
            for k in range(size):
                block[k] = data[at + k]
            for k in range(size, BLOCK_BYTES):
                block[k] = 0
            at += size
            counted += size
            h = compress(h, words, counted, at == end)
        for k in range(4):
            out[i, k] = h[k]
