"""Arrays of half gates: tables at the garbler, labels at the evaluator.

Source: Zahur, Rosulek and Evans 2015, over the hash of `tweaked_hash.py`: two tweaks a gate, a key an array.

Every gate computes a AND b, and xors a third label m to it:
    AND      a = left,        b = right,        m = 0
    CARRIES  a = left xor m,  b = right xor m,  m the carry of the bit before (none for the first)
    CHOICE   a = left xor m,  b = right,        m = base; right is one bit for all of left's
so that a sum, a comparison or a choice is one pass over its labels, under one key. Words are labels (bits, ..., 2); a
row of a table holds the garbler's and the evaluator's half. With AES instructions it is one compiled loop; elsewhere
bits go one by one through hashes of whole arrays. Both give the same tables.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from veilscore.crypto import aes
from veilscore.crypto.aes import expand_key
from veilscore.crypto.tweaked_hash import NO_OFFSET, ArrayHash, Labels, hash_label
from veilscore.kernels import inlined, kernel

AND, CARRIES, CHOICE = range(3)
_VIEW = "Array(u8, 3, 'A', True)"  # of any strides
_READ = "Array(u8, 2, 'C', True)"
_SIGNATURE = f"(i8, {_VIEW}, {_VIEW}, {_VIEW}, Array(u8, 1, 'C', True), u8, Array(u4, 1, 'C', True), u8[:,:,::1], "
_SIGNATURE += "Array(u8, 2, 'C'{writable}))"


def garble(kind: int, words: tuple[Labels, Labels, Labels], offset: Labels, key: ArrayHash, table: Labels) -> Labels:
    """Fill in the table (gates, 4); returns false labels, of the shape of `left`.

    words : left, right, base.
    """
    left, right, base = _by_bits(words)
    out = np.empty(left.shape, np.uint64)
    if aes.has_aes():
        _garble(kind, left, right, base, offset, key.first, key.words, out, table)
        return out.reshape(words[0].shape)
    rows = table.reshape(*left.shape[:2], 4)
    for bit in range(len(left)):
        a, b, m = _operands(kind, bit, left, right, base, out)
        start = 2 * bit * len(a)
        ha, ga = (key.digests(a, o, start=start, step=2) for o in (NO_OFFSET, offset))
        hb, gb = (key.digests(b, o, start=start + 1, step=2) for o in (NO_OFFSET, offset))
        _garble_hashed(ha, ga, hb, gb, a, b, offset, out[bit], rows[bit])
        out[bit] ^= m
    return out.reshape(words[0].shape)


def evaluate(kind: int, words: tuple[Labels, Labels, Labels], key: ArrayHash, table: Labels) -> Labels:
    """Return the evaluator's labels, of the shape of `left`; see `garble`."""
    left, right, base = _by_bits(words)
    out = np.empty(left.shape, np.uint64)
    if aes.has_aes():
        _evaluate(kind, left, right, base, NO_OFFSET, key.first, key.words, out, table)
        return out.reshape(words[0].shape)
    rows = table.reshape(*left.shape[:2], 4)
    for bit in range(len(left)):
        a, b, m = _operands(kind, bit, left, right, base, out)
        start = 2 * bit * len(a)
        ha, hb = (key.digests(w, NO_OFFSET, start=start + wire, step=2) for wire, w in enumerate((a, b)))
        _evaluate_hashed(ha, hb, a, b, rows[bit], out[bit])
        out[bit] ^= m
    return out.reshape(words[0].shape)


def _by_bits(words: tuple[Labels, Labels, Labels]) -> tuple[Labels, ...]:
    """View words as (bits, instances, 2), mostly without a copy."""
    n = math.prod(words[0].shape[1:-1])
    return tuple(word.reshape(len(word), n, 2) for word in words)


@inlined
def _mask(word: Any) -> Any:
    """All ones where the lowest bit of a label, its pointer into the table, is set."""
    return np.uint64(0) - (word & np.uint64(1))


@inlined
def garbled_gate(a0: Any, a1: Any, b0: Any, b1: Any, o0: Any, o1: Any, tweak: Any, schedule: Any) -> Any:
    """Half gates of false labels a and b under the offset o: the garbler's half, the evaluator's, the false output."""
    ha0, ha1 = hash_label(a0, a1, tweak, schedule)
    ga0, ga1 = hash_label(a0 ^ o0, a1 ^ o1, tweak, schedule)
    hb0, hb1 = hash_label(b0, b1, tweak + np.uint64(1), schedule)
    gb0, gb1 = hash_label(b0 ^ o0, b1 ^ o1, tweak + np.uint64(1), schedule)
    pa, pb = _mask(a0), _mask(b0)
    g0, g1 = ha0 ^ ga0 ^ (pb & o0), ha1 ^ ga1 ^ (pb & o1)
    e0, e1 = hb0 ^ gb0 ^ a0, hb1 ^ gb1 ^ a1
    c0, c1 = ha0 ^ (pa & g0) ^ hb0 ^ (pb & (e0 ^ a0)), ha1 ^ (pa & g1) ^ hb1 ^ (pb & (e1 ^ a1))
    return g0, g1, e0, e1, c0, c1


@inlined
def evaluated_gate(
    a0: Any, a1: Any, b0: Any, b1: Any, t0: Any, t1: Any, t2: Any, t3: Any, tweak: Any, schedule: Any
) -> Any:
    """Label of the output from labels a and b and the table's row t."""
    ha0, ha1 = hash_label(a0, a1, tweak, schedule)
    hb0, hb1 = hash_label(b0, b1, tweak + np.uint64(1), schedule)
    pa, pb = _mask(a0), _mask(b0)
    return ha0 ^ (pa & t0) ^ hb0 ^ (pb & (t2 ^ a0)), ha1 ^ (pa & t1) ^ hb1 ^ (pb & (t3 ^ a1))


@kernel(_SIGNATURE.format(writable=""), needs=aes.has_aes, strict=True)
def _garble(
    kind: Any, left: Any, right: Any, base: Any, offset: Any, tweak: Any, key: Any, out: Any, table: Any
) -> None:
    schedule = expand_key(key)
    o0, o1 = offset[0], offset[1]
    row = 0
    for bit in range(left.shape[0]):
        other = min(bit, right.shape[0] - 1)
        for i in range(left.shape[1]):
            m0, m1 = np.uint64(0), np.uint64(0)
            if kind == CHOICE:
                m0, m1 = base[bit, i, 0], base[bit, i, 1]
            elif kind == CARRIES and bit > 0:
                m0, m1 = out[bit - 1, i, 0], out[bit - 1, i, 1]
            a0, a1, b0, b1 = left[bit, i, 0] ^ m0, left[bit, i, 1] ^ m1, right[other, i, 0], right[other, i, 1]
            if kind == CARRIES:
                b0, b1 = b0 ^ m0, b1 ^ m1
            g0, g1, e0, e1, c0, c1 = garbled_gate(a0, a1, b0, b1, o0, o1, tweak, schedule)
            tweak += np.uint64(2)
            table[row, 0], table[row, 1], table[row, 2], table[row, 3] = g0, g1, e0, e1
            out[bit, i, 0], out[bit, i, 1] = c0 ^ m0, c1 ^ m1
            row += 1


@kernel(_SIGNATURE.format(writable=", True"), needs=aes.has_aes, strict=True)
def _evaluate(
    kind: Any, left: Any, right: Any, base: Any, _offset: Any, tweak: Any, key: Any, out: Any, table: Any
) -> None:
    schedule = expand_key(key)
    row = 0
    for bit in range(left.shape[0]):
        other = min(bit, right.shape[0] - 1)
        for i in range(left.shape[1]):
            m0, m1 = np.uint64(0), np.uint64(0)
            if kind == CHOICE:
                m0, m1 = base[bit, i, 0], base[bit, i, 1]
            elif kind == CARRIES and bit > 0:
                m0, m1 = out[bit - 1, i, 0], out[bit - 1, i, 1]
            a0, a1, b0, b1 = left[bit, i, 0] ^ m0, left[bit, i, 1] ^ m1, right[other, i, 0], right[other, i, 1]
            if kind == CARRIES:
                b0, b1 = b0 ^ m0, b1 ^ m1
            t0, t1, t2, t3 = table[row, 0], table[row, 1], table[row, 2], table[row, 3]
            c0, c1 = evaluated_gate(a0, a1, b0, b1, t0, t1, t2, t3, tweak, schedule)
            tweak += np.uint64(2)
            out[bit, i, 0], out[bit, i, 1] = c0 ^ m0, c1 ^ m1
            row += 1


# --- without AES instructions ---


def _operands(
    kind: int, bit: int, left: Labels, right: Labels, base: Labels, out: Labels
) -> tuple[Labels, Labels, Labels]:
    """Return a, b and m of one bit."""
    a, b = np.ascontiguousarray(left[bit]), np.ascontiguousarray(right[min(bit, len(right) - 1)])
    if kind == AND or (kind == CARRIES and bit == 0):
        return a, b, np.zeros_like(a)
    m = base[bit] if kind == CHOICE else out[bit - 1]
    return a ^ m, b if kind == CHOICE else b ^ m, m


@kernel(f"({', '.join([_READ] * 6)}, Array(u8, 1, 'C', True), u8[:,::1], u8[:,::1])", strict=True)
def _garble_hashed(ha: Any, ga: Any, hb: Any, gb: Any, a: Any, b: Any, offset: Any, out: Any, table: Any) -> None:
    """Half gates from hashes made before; m is left to the caller."""
    for i in range(a.shape[0]):
        pa, pb = _mask(a[i, 0]), _mask(b[i, 0])
        for w in range(2):
            g = ha[i, w] ^ ga[i, w] ^ (pb & offset[w])
            e = hb[i, w] ^ gb[i, w] ^ a[i, w]
            table[i, w], table[i, 2 + w] = g, e
            out[i, w] = ha[i, w] ^ (pa & g) ^ hb[i, w] ^ (pb & (e ^ a[i, w]))


@kernel(f"({', '.join([_READ] * 5)}, u8[:,::1])", strict=True)
def _evaluate_hashed(ha: Any, hb: Any, a: Any, b: Any, table: Any, out: Any) -> None:
    for i in range(a.shape[0]):
        pa, pb = _mask(a[i, 0]), _mask(b[i, 0])
        for w in range(2):
            out[i, w] = ha[i, w] ^ (pa & table[i, w]) ^ hb[i, w] ^ (pb & (table[i, 2 + w] ^ a[i, w]))
