"""Garbled circuits over arrays of wires: half gates, free XOR, a public permutation.

Source: Zahur, Rosulek and Evans 2015 (half gates); Kolesnikov and Schneider 2008 (free XOR); the hash is
    pi(y) xor y with y = sigma(label) xor tweak, sigma the linear orthomorphism of Guo et al. 2020, pi AES-128 under a
    public key of each array of gates. Tweaks count up and are never used twice under one offset.
Parties: the garbler, who knows both labels of each wire, and the evaluator, who knows one.
Reveals: to the evaluator, the outputs that `Garbler.decoding` is sent for; nothing else to either.
Assumes: semi-honest parties; AES with a known key behaves as a random permutation. An evaluator that tries 2^k blocks
    finds the offset with chance 2^k gates / 2^128, counting the gates of one key alone (Guo et al. 2020b): hence a key
    an array, not one for the billion gates of a session.

A circuit is a function of an engine (`Garbler`, `Evaluator`, `Plain`) and words. A word is an array whose first axis
is its bits, low bit first, and whose other axes are instances computed side by side; labels have a last axis of two
64-bit words. XOR of words is `^`, for all engines.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from veilscore.arrays import Mask, Words
from veilscore.errors import MessageError
from veilscore.kernels import kernel

Labels = Words


GATE_BYTES = 32
KEY_BYTES = 16
BLOCK_BYTES = 16


class Engine(Protocol):
    """What a circuit may ask of whoever runs it."""

    def conjunction(self, left: Any, right: Any) -> Any:
        """AND of two words of equal shape."""

    def invert(self, word: Any) -> Any:
        """NOT of a word."""

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """Word of public zeros."""


class Plain:
    """Runs a circuit on bits in the clear; the oracle of the other two. Counts the ANDs it does."""

    def __init__(self) -> None:
        self.gates = 0

    def conjunction(self, left: Mask, right: Mask) -> Mask:
        """AND."""
        both = left & right
        self.gates += both.size
        return both

    def invert(self, word: Mask) -> Mask:
        """NOT."""
        return ~word

    def zeros(self, shape: tuple[int, ...]) -> Mask:
        """Public zeros."""
        return np.zeros(shape, bool)


class TweakedHash:
    """The permutations of a session and the tweaks used so far; both sides count alike."""

    def __init__(self, label: bytes) -> None:
        self._label = hashlib.shake_256(b"veilscore/garbled/v2" + label).digest(32)
        self.tweak = 0

    def permute(self, blocks: Labels) -> Labels:
        """Return pi of each block (..., 2), by the key of the latest `advance`."""
        out = np.empty(blocks.size + 2, np.uint64)  # OpenSSL wants room for a block more than it writes
        self._cipher.update_into(blocks.reshape(-1).view(np.uint8).data, out.view(np.uint8).data)
        return out[: blocks.size].reshape(blocks.shape)

    def advance(self, n_gates: int) -> np.uint64:
        """Return the first of 2 n_gates fresh tweaks (two a gate); the permutation is a new one."""
        first = self.tweak
        key = hashlib.shake_256(self._label + first.to_bytes(8, "little")).digest(KEY_BYTES)
        # single blocks under a public key are the point: it is a permutation, not a mode of encryption
        self._cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
        self.tweak += 2 * n_gates
        return np.uint64(first)


class Garbler:
    """Makes the tables; knows both labels of every wire (`false label`, and that xor the offset).

    Parameters
    ----------
    label : names protocol, session and purpose; equal on both sides.
    offset : uint64 (2,), secret, its lowest bit set; the difference of the two labels of every wire.
    """

    def __init__(self, label: bytes, offset: Labels) -> None:
        self._hash = TweakedHash(label)
        self._offset = offset
        self._tables: list[Labels] = []

    def __repr__(self) -> str:
        """Show nothing of the offset."""
        return "<Garbler>"

    def own(self, bits: Mask) -> Labels:
        """Return false labels of the garbler's inputs: the evaluator's label is zero, so that nothing is sent."""
        labels: Labels = bits[..., None] * self._offset
        return labels

    def conjunction(self, left: Labels, right: Labels) -> Labels:
        """AND; keeps a table for the evaluator."""
        a, b = _flat(left), _flat(right)
        blocks = np.empty((4, *a.shape), np.uint64)
        _garbler_blocks(a, b, self._offset, self._hash.advance(len(a)), blocks)
        out = np.empty_like(a)
        table = np.empty((len(a), 4), np.uint64)
        _garble(blocks, self._hash.permute(blocks), a, b, self._offset, out, table)
        self._tables.append(table)
        return out.reshape(left.shape)

    def invert(self, word: Labels) -> Labels:
        """NOT: the labels change roles."""
        return word ^ self._offset

    def zeros(self, shape: tuple[int, ...]) -> Labels:
        """Public zeros."""
        return np.zeros((*shape, 2), np.uint64)

    def tables(self) -> bytes:
        """Return the tables made since the last call, in order."""
        data = b"".join([table.tobytes() for table in self._tables])
        self._tables.clear()
        return data

    def decoding(self, word: Labels) -> Mask:
        """Return the bits with which the evaluator reads this word: it learns the word and nothing else."""
        return (word[..., 0] & np.uint64(1)).astype(bool)


class Evaluator:
    """Runs garbled tables; knows one label of each wire.

    Parameters
    ----------
    label : as the garbler's.
    """

    def __init__(self, label: bytes) -> None:
        self._hash = TweakedHash(label)
        self._tables: Labels = np.empty((0, 4), np.uint64)

    def own(self, shape: tuple[int, ...]) -> Labels:
        """Return this side's labels of the garbler's inputs."""
        return np.zeros((*shape, 2), np.uint64)

    def feed(self, data: bytes) -> None:
        """Take the tables of the gates that come next.

        Raises
        ------
        MessageError : not whole tables, or the last ones were not used up.
        """
        if len(data) % GATE_BYTES or len(self._tables):
            raise MessageError(f"{len(data)} bytes of garbled tables do not fit the circuit")
        self._tables = np.frombuffer(data, "<u8").reshape(-1, 4)

    def done(self) -> None:
        """Refuse tables that no gate asked for (`MessageError`)."""
        if len(self._tables):
            raise MessageError(f"{len(self._tables)} garbled tables too many")

    def conjunction(self, left: Labels, right: Labels) -> Labels:
        """AND; takes the next tables.

        Raises
        ------
        MessageError : there are too few.
        """
        a, b = _flat(left), _flat(right)
        if len(self._tables) < len(a):
            raise MessageError(f"garbled tables end {len(a) - len(self._tables)} gates too early")
        table, self._tables = self._tables[: len(a)], self._tables[len(a) :]
        blocks = np.empty((2, *a.shape), np.uint64)
        _evaluator_blocks(a, b, self._hash.advance(len(a)), blocks)
        out = np.empty_like(a)
        _evaluate(blocks, self._hash.permute(blocks), a, b, table, out)
        return out.reshape(left.shape)

    def invert(self, word: Labels) -> Labels:
        """NOT: the same label means the opposite."""
        return word

    def zeros(self, shape: tuple[int, ...]) -> Labels:
        """Public zeros."""
        return np.zeros((*shape, 2), np.uint64)

    def decode(self, word: Labels, decoding: Mask) -> Mask:
        """Read a word with the garbler's decoding bits."""
        return (word[..., 0] & np.uint64(1)).astype(bool) ^ decoding


def _flat(labels: Labels) -> Labels:
    return np.ascontiguousarray(labels).reshape(-1, 2)


@kernel(
    "(Array(u8, 2, 'C', True), u8[:,::1], u8[::1], u8, u8[:,:,::1])",
    "(u8[:,::1], u8[:,::1], u8[::1], u8, u8[:,:,::1])",
)
def _garbler_blocks(a: Any, b: Any, offset: Any, tweak: Any, blocks: Any) -> None:
    """sigma(label) xor tweak for both labels of both wires: (4, n, 2); sigma(l, r) = (l xor r, l)."""
    o0 = offset[0] ^ offset[1]
    o1 = offset[0]
    for i in range(a.shape[0]):
        j = tweak + np.uint64(2 * i)
        x0 = a[i, 0] ^ a[i, 1]
        x1 = a[i, 0] ^ j
        blocks[0, i, 0] = x0
        blocks[0, i, 1] = x1
        blocks[1, i, 0] = x0 ^ o0
        blocks[1, i, 1] = x1 ^ o1
        x0 = b[i, 0] ^ b[i, 1]
        x1 = b[i, 0] ^ (j + np.uint64(1))
        blocks[2, i, 0] = x0
        blocks[2, i, 1] = x1
        blocks[3, i, 0] = x0 ^ o0
        blocks[3, i, 1] = x1 ^ o1


@kernel(
    "(u8[:,:,::1], u8[:,:,::1], Array(u8, 2, 'C', True), u8[:,::1], u8[::1], u8[:,::1], u8[:,::1])",
    "(u8[:,:,::1], u8[:,:,::1], u8[:,::1], u8[:,::1], u8[::1], u8[:,::1], u8[:,::1])",
)
def _garble(y: Any, pi: Any, a: Any, b: Any, offset: Any, out: Any, table: Any) -> None:
    """Half gates: table (n, 4) holds the garbler's and the evaluator's row."""
    for i in range(a.shape[0]):
        pa = np.uint64(0) - (a[i, 0] & np.uint64(1))  # all ones where the permute bit is set
        pb = np.uint64(0) - (b[i, 0] & np.uint64(1))
        for w in range(2):
            ha0 = pi[0, i, w] ^ y[0, i, w]
            ha1 = pi[1, i, w] ^ y[1, i, w]
            hb0 = pi[2, i, w] ^ y[2, i, w]
            hb1 = pi[3, i, w] ^ y[3, i, w]
            tg = ha0 ^ ha1 ^ (pb & offset[w])
            te = hb0 ^ hb1 ^ a[i, w]
            table[i, w] = tg
            table[i, 2 + w] = te
            out[i, w] = ha0 ^ (pa & tg) ^ hb0 ^ (pb & (te ^ a[i, w]))


@kernel("(Array(u8, 2, 'C', True), u8[:,::1], u8, u8[:,:,::1])", "(u8[:,::1], u8[:,::1], u8, u8[:,:,::1])")
def _evaluator_blocks(a: Any, b: Any, tweak: Any, blocks: Any) -> None:
    """sigma(label) xor tweak for the one label of both wires: (2, n, 2)."""
    for i in range(a.shape[0]):
        j = tweak + np.uint64(2 * i)
        blocks[0, i, 0] = a[i, 0] ^ a[i, 1]
        blocks[0, i, 1] = a[i, 0] ^ j
        blocks[1, i, 0] = b[i, 0] ^ b[i, 1]
        blocks[1, i, 1] = b[i, 0] ^ (j + np.uint64(1))


@kernel(
    "(u8[:,:,::1], u8[:,:,::1], Array(u8, 2, 'C', True), u8[:,::1], Array(u8, 2, 'C', True), u8[:,::1])",
    "(u8[:,:,::1], u8[:,:,::1], u8[:,::1], u8[:,::1], Array(u8, 2, 'C', True), u8[:,::1])",
)
def _evaluate(y: Any, pi: Any, a: Any, b: Any, table: Any, out: Any) -> None:
    """Half gates, the evaluator's side."""
    for i in range(a.shape[0]):
        sa = np.uint64(0) - (a[i, 0] & np.uint64(1))
        sb = np.uint64(0) - (b[i, 0] & np.uint64(1))
        for w in range(2):
            left = pi[0, i, w] ^ y[0, i, w] ^ (sa & table[i, w])
            right = pi[1, i, w] ^ y[1, i, w] ^ (sb & (table[i, 2 + w] ^ a[i, w]))
            out[i, w] = left ^ right
