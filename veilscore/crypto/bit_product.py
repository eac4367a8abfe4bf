"""Products of one party's bits with the other's numbers modulo T, as shares: correlated oblivious transfer.

Source: Asharov, Lindell, Schneider and Zohner 2013, section 5.1 (correlated transfers), over the extension of
    `oblivious.py`. Its rows q (sender) and q xor bit * offset (receiver) are hashed as in `garbled.py`; the hashes of q
    and q xor offset are the sender's two pads r0, r1. It sends y = x + r0 - r1, so the receiver, who knows the pad of
    its bit, has r0 + bit * x; the sender's share is -r0.
Parties: the bit owner (receiver) and the value owner (sender).
Messages: points, once; then 16 bytes a bit from the bit owner, whose columns are checked, and 8 bytes a bit and value
    from the value owner.
Reveals: how many bits.
Assumes: semi-honest parties, computational Diffie-Hellman in ristretto255, AES as a random permutation.
Aborts: MessageError on a message of wrong size or range, an invalid point, or bits that do not agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from veilscore.arrays import Mask, Words
from veilscore.crypto.garbled import TweakedHash
from veilscore.crypto.oblivious import LabelReceiver, LabelSender
from veilscore.crypto.shares import shares_from_bytes, shares_to_bytes
from veilscore.errors import MessageError
from veilscore.kernels import inlined, kernel
from veilscore.lattice.params import T

u64 = np.uint64
_T = u64(T)
_TOP = u64((1 << 64) % T)  # for the upper word of a hash, with its quotient as in `ntt.shoup`
_TOP_SHOUP = u64(((1 << 64) % T << 64) // T)
_LOW = u64(0xFFFFFFFF)


class BitOwner:
    """The side with bits.

    Parameters
    ----------
    label : names protocol, session and direction; equal on both sides.
    """

    def __init__(self, label: bytes) -> None:
        self._labels = LabelReceiver(label)
        self._hash = TweakedHash(b"bit product" + label)
        self._waiting: list[tuple[Mask, Words]] = []

    def __repr__(self) -> str:
        """Show the role alone."""
        return "<BitOwner>"

    def base(self) -> bytes:
        """Return the base point, 32 bytes."""
        return self._labels.base()

    def accept(self, points: bytes) -> None:
        """Take the value owner's base choices (`MessageError` on wrong size or an invalid point)."""
        self._labels.accept(points)

    def choose(self, bits: Mask) -> bytes:
        """Return the message for some bits (n,); products are then taken in the same order."""
        message, rows = self._labels.extend(bits)
        self._waiting.append((bits, rows))
        return message

    def product(self, reply: bytes, n_values: int) -> Words:
        """Return this side's share (n_values, n) of the products of the next bits.

        Raises
        ------
        MessageError : wrong size, a word that is not below T, or no bits were chosen.
        """
        if not self._waiting:
            raise MessageError("products arrived for bits that were not chosen")
        bits, rows = self._waiting.pop(0)
        words = shares_from_bytes(reply, (n_values, bits.size))
        blocks = np.empty((n_values, bits.size, 2), np.uint64)
        _tweaked(rows, np.zeros(2, np.uint64), self._hash.advance(_gates(n_values, bits.size)), blocks)
        out = np.empty((n_values, bits.size), np.uint64)
        _take(blocks, self._hash.permute(blocks), bits, words, out)
        return out


class ValueOwner:
    """The side with numbers.

    Parameters
    ----------
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

    def multiply(self, choice: bytes, values: Words) -> tuple[bytes, Words]:
        """Return the reply and this side's share (k, n) of the products of the next n bits with values (k, n) below T.

        Raises
        ------
        MessageError : the message is not of the size of n bits.
        """
        n_values, n = values.shape
        rows = self._labels.extend(choice, (n,))
        tweak = self._hash.advance(_gates(n_values, n))
        blocks = np.empty((2, n_values, n, 2), np.uint64)
        _tweaked(rows, np.zeros(2, np.uint64), tweak, blocks[0])
        _tweaked(rows, self._labels.offset, tweak, blocks[1])
        share, reply = np.empty((n_values, n), np.uint64), np.empty((n_values, n), np.uint64)
        _give(blocks, self._hash.permute(blocks), np.ascontiguousarray(values), share, reply)
        return shares_to_bytes(reply), share


def _gates(n_values: int, n: int) -> int:
    return -(-n_values * n // 2)  # `advance` counts in pairs of tweaks


@kernel("(u8[:,::1], u8[::1], u8, u8[:,:,::1])")
def _tweaked(rows: Any, offset: Any, tweak: Any, blocks: Any) -> None:
    """sigma(row xor offset) xor tweak for each value and row: (k, n, 2)."""
    n = rows.shape[0]
    for v in range(blocks.shape[0]):
        for i in range(n):
            left = rows[i, 0] ^ offset[0]
            blocks[v, i, 0] = left ^ rows[i, 1] ^ offset[1]
            blocks[v, i, 1] = left ^ (tweak + u64(v * n + i))


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


@kernel("(u8[:,:,:,::1], u8[:,:,:,::1], u8[:,::1], u8[:,::1], u8[:,::1])")
def _give(y: Any, pi: Any, values: Any, share: Any, reply: Any) -> None:
    """The value owner's share -r0, and its reply x + r0 - r1."""
    for v in range(values.shape[0]):
        for i in range(values.shape[1]):
            r0 = _residue(y[0, v, i, 0] ^ pi[0, v, i, 0], y[0, v, i, 1] ^ pi[0, v, i, 1])
            r1 = _residue(y[1, v, i, 0] ^ pi[1, v, i, 0], y[1, v, i, 1] ^ pi[1, v, i, 1])
            negative = _T - r0
            share[v, i] = min(negative, negative - _T)
            total = values[v, i] + r0 + (_T - r1)
            total = min(total, total - u64(2) * _T)
            reply[v, i] = min(total, total - _T)


@kernel("(u8[:,:,::1], u8[:,:,::1], b1[::1], u8[:,::1], u8[:,::1])")
def _take(y: Any, pi: Any, bits: Any, words: Any, out: Any) -> None:
    """The bit owner's share: the pad of its bit, and the word sent where the bit is set."""
    for v in range(words.shape[0]):
        for i in range(words.shape[1]):
            pad = _residue(y[v, i, 0] ^ pi[v, i, 0], y[v, i, 1] ^ pi[v, i, 1])
            total = pad + (words[v, i] & (u64(0) - u64(bits[i])))
            out[v, i] = min(total, total - _T)
