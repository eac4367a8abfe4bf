"""Products of one party's bits with the other's numbers modulo T, as shares: correlated oblivious transfer.

Source: Asharov, Lindell, Schneider and Zohner 2013, section 5.1 (correlated transfers), over the extension of
    `oblivious.py`. Its rows q (sender) and q xor bit * offset (receiver) are hashed as in `tweaked_hash.py`; the hashes
    of q and q xor offset are the sender's two pads r0, r1. It sends y = x + r0 - r1, so the receiver, who knows the pad
    of its bit, has r0 + bit * x; the sender's share is -r0.
Parties: the bit owner (receiver) and the value owner (sender).
Messages: points, once; then 16 bytes a bit from the bit owner, whose columns are checked, and 8 bytes a bit and value
    from the value owner. Chosen bits may be multiplied any number of times: each call hashes the rows under a key of
    its own, as several values of one call are hashed with tweaks of their own.
Reveals: how many bits.
Assumes: semi-honest parties, computational Diffie-Hellman in ristretto255, AES as a random permutation.
Aborts: MessageError on a message of wrong size or range, an invalid point, or bits that do not agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from veilscore.arrays import Mask, Words
from veilscore.crypto.oblivious import LabelReceiver, LabelSender
from veilscore.crypto.shares import shares_from_bytes, shares_to_bytes
from veilscore.crypto.tweaked_hash import NO_OFFSET, TweakedHash
from veilscore.kernels import inlined, kernel
from veilscore.lattice.params import T

u64 = np.uint64
_T = u64(T)
_TOP = u64((1 << 64) % T)  # for the upper word of a hash, with its quotient as in `ntt.shoup`
_TOP_SHOUP = u64(((1 << 64) % T << 64) // T)
_LOW = u64(0xFFFFFFFF)
_PART = 1 << 12


class BitOwner:
    """The side with bits.

    label : names protocol, session and direction; equal on both sides.
    """

    def __init__(self, label: bytes) -> None:
        self._labels = LabelReceiver(label)
        self._hash = TweakedHash(b"bit product" + label)

    def __repr__(self) -> str:
        """Show the role alone."""
        return "<BitOwner>"

    def base(self) -> bytes:
        """Return the base point, 32 bytes."""
        return self._labels.base()

    def accept(self, points: bytes) -> None:
        """Take the value owner's base choices (`MessageError` on wrong size or an invalid point)."""
        self._labels.accept(points)

    def choose(self, bits: Mask) -> tuple[bytes, Words]:
        """Return the message for some bits (n,), and their rows (n, 2), which `product` takes."""
        return self._labels.extend(bits)

    def product(self, bits: Mask, rows: Words, reply: bytes, n_values: int) -> Words:
        """Return this side's share (n_values, n) of the products of chosen bits; both sides multiply in one order.

        Raises MessageError: wrong size, or a word that is not below T.
        """
        words = shares_from_bytes(reply, (n_values, bits.size))
        key, out = self._hash.advance(n_values * bits.size), np.empty((n_values, bits.size), np.uint64)
        for v, part in _parts(n_values, bits.size):
            pads = key.digests(rows[part], NO_OFFSET, start=v * bits.size + part.start)
            _take(pads, bits[part], words[v, part], out[v, part])
        return out


class ValueOwner:
    """The side with numbers.

    label : as the bit owner's.
    base : the bit owner's base point.
    """

    def __init__(self, label: bytes, base: bytes) -> None:
        self._labels = LabelSender(label, base)
        self._hash = TweakedHash(b"bit product" + label)

    def __repr__(self) -> str:
        """Show the role alone."""
        return "<ValueOwner>"

    def choices(self) -> bytes:
        """Return the base choices."""
        return self._labels.choices()

    def rows(self, choice: bytes, n: int) -> Words:
        """Return this side's rows (n, 2) of the next n bits; MessageError: the message is not of that many bits."""
        return self._labels.extend(choice, (n,))

    def multiply(self, rows: Words, values: Words) -> tuple[bytes, Words]:
        """Return the reply and this side's share (k, n) of the products of chosen bits with values (k, n) below T."""
        n_values, n = values.shape
        key = self._hash.advance(n_values * n)
        share, reply = np.empty((n_values, n), np.uint64), np.empty((n_values, n), np.uint64)
        values = np.ascontiguousarray(values)
        for v, part in _parts(n_values, n):
            start = v * n + part.start
            pad0, pad1 = (key.digests(rows[part], o, start=start) for o in (NO_OFFSET, self._labels.offset))
            _give(pad0, pad1, values[v, part], share[v, part], reply[v, part])
        return shares_to_bytes(reply), share


def _parts(n_values: int, n: int) -> Iterator[tuple[int, slice]]:
    """Cut the rows of each value into parts whose hashes stay in the processor's cache."""
    return ((v, slice(start, min(start + _PART, n))) for v in range(n_values) for start in range(0, n, _PART))


@inlined
def _residue(low: Any, high: Any) -> Any:
    """(low + 2^64 high) modulo T: uniform below T but for 2^-68, if both words are."""
    # upper half of high * _TOP_SHOUP, from products of 32 bits
    h0, h1 = high & _LOW, high >> u64(32)
    s0, s1 = _TOP_SHOUP & _LOW, _TOP_SHOUP >> u64(32)
    middle = h1 * s0 + ((h0 * s0) >> u64(32))
    quotient = h1 * s1 + (middle >> u64(32)) + (((middle & _LOW) + h0 * s1) >> u64(32))
    upper = high * _TOP - quotient * _T  # below 2 T
    lower = low - (low >> u64(60)) * _T  # below T + 2^52
    total = upper + lower
    total = min(total, total - u64(2) * _T)
    return min(total, total - _T)


@kernel("(u8[:,::1], u8[:,::1], u8[::1], u8[::1], u8[::1])")
def _give(pad0: Any, pad1: Any, values: Any, share: Any, reply: Any) -> None:
    """The value owner's share -r0, and its reply x + r0 - r1."""
    for i in range(values.shape[0]):
        r0 = _residue(pad0[i, 0], pad0[i, 1])
        r1 = _residue(pad1[i, 0], pad1[i, 1])
        negative = _T - r0
        share[i] = min(negative, negative - _T)
        total = values[i] + r0 + (_T - r1)
        total = min(total, total - u64(2) * _T)
        reply[i] = min(total, total - _T)


@kernel("(u8[:,::1], b1[::1], u8[::1], u8[::1])")
def _take(pads: Any, bits: Any, words: Any, out: Any) -> None:
    """The bit owner's share: the pad of its bit, and the word sent where the bit is set."""
    for i in range(words.shape[0]):
        pad = _residue(pads[i, 0], pads[i, 1])
        total = pad + (words[i] & (u64(0) - u64(bits[i])))
        out[i] = min(total, total - _T)
