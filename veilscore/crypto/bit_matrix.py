"""Turns matrices of bits on their side: columns packed into words to rows packed into words, and back.

Source: blocks of 64 x 64 bits by halving (Warren, Hacker's Delight, 7-3), low bit first. Two blocks side by side keep
    the processor's units busy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from veilscore.arrays import Words
from veilscore.kernels import inlined, kernel

WORD = 64


def to_rows(columns: Words, n_words: int) -> Words:
    """Return the rows (64 n_words, c / 64) of the first words of c columns (c, ...); c is a multiple of 128."""
    out = np.empty((n_words * WORD, columns.shape[0] // WORD), np.uint64)
    _to_rows(columns, out)
    return out


def to_columns(rows: Words, out: Words) -> None:
    """Write the first columns of rows (64 n, 2) into the first n words of each column of `out` (c <= 128, >= n)."""
    _to_columns(rows, out)


@inlined
def _turn(block: Any) -> None:
    """Turn two blocks of 64 x 64 bits (64, 2), in place."""
    width = 32
    mask = np.uint64(0x00000000FFFFFFFF)
    while width:
        shift = np.uint64(width)
        for base in range(0, 64, 2 * width):
            for i in range(base, base + width):
                for half in range(2):
                    swap = ((block[i, half] >> shift) ^ block[i + width, half]) & mask
                    block[i + width, half] ^= swap
                    block[i, half] ^= swap << shift
        width >>= 1
        mask ^= mask << np.uint64(width)


@kernel("(u8[:,::1], u8[:,::1])")
def _to_rows(columns: Any, out: Any) -> None:
    block = np.empty((64, 2), np.uint64)
    for at in range(out.shape[0] // 64):
        for pair in range(0, out.shape[1], 2):
            for i in range(64):
                block[i, 0], block[i, 1] = columns[64 * pair + i, at], columns[64 * pair + 64 + i, at]
            _turn(block)
            for i in range(64):
                out[64 * at + i, pair], out[64 * at + i, pair + 1] = block[i, 0], block[i, 1]


@kernel("(u8[:,::1], u8[:,::1])")
def _to_columns(rows: Any, out: Any) -> None:
    block = np.empty((64, 2), np.uint64)
    second = out.shape[0] - 64
    for at in range(rows.shape[0] // 64):
        for i in range(64):
            block[i, 0], block[i, 1] = rows[64 * at + i, 0], rows[64 * at + i, 1]
        _turn(block)
        for i in range(min(64, out.shape[0])):
            out[i, at] = block[i, 0]
        for i in range(second):
            out[64 + i, at] = block[i, 1]
