"""Oblivious transfer of wire labels: the receiver gets, for each of its bits, the label of that bit.

Source: Ishai, Kilian, Nissim and Petrank 2003 (extension); Chou and Orlandi 2015 (the 128 base transfers, in
    ristretto255). Rows of the extension are used as labels as they are: q and q xor offset are the two labels of a
    wire, and the receiver holds q xor (bit * offset). So nothing is sent back.
    A receiver that gave columns different bits could learn the offset bit by bit. So it adds random bits and shows 128
    parities of each column and of its bits, which those hide; the sender compares (Keller, Orsini and Scholl 2015, with
    a linear hash as in Roy 2022). Which parities follows from the message (Fiat and Shamir 1986).
Parties: the sender (garbler), who knows the offset; the receiver (evaluator), who knows its bits.
Messages: base point, base choices, once; then 16 bytes a bit from the receiver, and 4 KB a message.
Reveals: how many bits.
Assumes: semi-honest parties, computational Diffie-Hellman in ristretto255, AES-256-CTR as a pseudo-random generator,
    SHA-256 as a random oracle. A receiver that cheats is refused but for the bits of the offset that it guesses.
Aborts: MessageError on a message of wrong size, an invalid point, or columns that do not agree.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from rbcl import crypto_core_ristretto255_add as add_points
from rbcl import crypto_core_ristretto255_sub as subtract_points

from veilscore.arrays import Mask, Words
from veilscore.crypto.group import Scalar, check_points, hash_to_group, parse_points, raise_points
from veilscore.errors import MessageError
from veilscore.kernels import inlined, kernel
from veilscore.wire.protocol import pack_fields
from veilscore.wire.randomness import secret_bytes

Labels = Words


WIDTH = 128  # bits of a label, and base transfers
_WORD = 64
_SPARE = WIDTH // _WORD  # words of random bits after the receiver's own, as many as parities
_PARITY_BYTES = (WIDTH + 1) * WIDTH // 8


def message_bytes(n_bits: int) -> int:
    """Return the size of the receiver's message for some bits."""
    return WIDTH * 8 * (-(-n_bits // _WORD) + _SPARE) + _PARITY_BYTES


def _key(label: bytes, index: int, transcript: bytes, point: bytes) -> bytes:
    parts = (b"veilscore/oblivious/v1", label, index.to_bytes(4, "little"), transcript, point)
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "little") + part for part in parts)).digest()


def _generator(label: bytes) -> NDArray[np.uint8]:
    return hash_to_group(label, ["base"])


class _Columns:
    """One key stream a base transfer, read side by side."""

    def __init__(self, keys: list[bytes]) -> None:
        self._ciphers = [Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor() for key in keys]

    def read(self, n_words: int) -> Labels:
        """Return the next words of each stream: (128, n_words)."""
        zeros = bytes(8 * n_words)
        return np.frombuffer(b"".join([c.update(zeros) for c in self._ciphers]), "<u8").reshape(WIDTH, n_words)


class LabelReceiver:
    """The evaluator's side. It sends the base point and, as the extension goes, sends first in each round.

    Parameters
    ----------
    label : names protocol, session and purpose; equal on both sides.
    """

    def __init__(self, label: bytes) -> None:
        self._label = label
        self._scalar = Scalar()
        self._point = raise_points(_generator(label), self._scalar)
        self._columns: tuple[_Columns, _Columns] | None = None
        self._messages = 0

    def __repr__(self) -> str:
        """Show nothing of the keys."""
        return "<LabelReceiver>"

    def base(self) -> bytes:
        """Return the base point."""
        return self._point.tobytes()

    def accept(self, choices: bytes) -> None:
        """Take the sender's base choices.

        Raises
        ------
        MessageError : wrong size or an invalid point.
        """
        points = parse_points(choices, WIDTH)
        check_points(points)
        own = self._point.tobytes()
        shifted = [subtract_points(p.tobytes(), own) for p in points]
        transcript = own + choices
        keys = []
        for option in (points, parse_points(b"".join(shifted), WIDTH)):
            secret = raise_points(option, self._scalar)
            keys.append(_Columns([_key(self._label, i, transcript, s.tobytes()) for i, s in enumerate(secret)]))
        self._columns = (keys[0], keys[1])
        self._scalar.destroy()

    def extend(self, bits: Mask) -> tuple[bytes, Labels]:
        """Return the message for the sender and this side's labels (..., 2) of `bits`."""
        if self._columns is None:
            raise MessageError("labels were asked for before the base transfers")
        n_words = -(-bits.size // _WORD)
        row = np.zeros(n_words + _SPARE, np.uint64)
        packed = np.packbits(bits, bitorder="little")
        row.view(np.uint8)[: packed.size] = packed
        row[n_words:] = np.frombuffer(secret_bytes(8 * _SPARE), "<u8")
        own = self._columns[0].read(row.size)
        data = (own ^ self._columns[1].read(row.size) ^ row).tobytes()
        parities = _parities(self._label, self._messages, data, np.concatenate([own, row[None]]))
        self._messages += 1
        return data + parities.tobytes(), _rows(own[:, :n_words])[: bits.size].reshape(*bits.shape, 2)


class LabelSender:
    """The garbler's side: draws the offset.

    Parameters
    ----------
    label : as the receiver's.
    base : the receiver's base point.
    """

    def __init__(self, label: bytes, base: bytes) -> None:
        point = parse_points(base, 1)
        check_points(point)
        self._label = label
        self._messages = 0
        self.offset: Labels = np.frombuffer(secret_bytes(WIDTH // 8), np.uint64).copy()
        self.offset[0] |= np.uint64(1)  # the low bit of a label is the evaluator's pointer into a table
        chosen = np.unpackbits(self.offset.view(np.uint8), bitorder="little").astype(bool)
        scalars = [Scalar() for _ in range(WIDTH)]
        own = np.concatenate([raise_points(_generator(label), scalar) for scalar in scalars])
        offers = [add_points(p.tobytes(), base) if bit else p.tobytes() for p, bit in zip(own, chosen, strict=True)]
        self._choices = b"".join(offers)
        secret = np.concatenate([raise_points(point, scalar) for scalar in scalars])
        transcript = base + self._choices
        self._columns = _Columns([_key(label, i, transcript, s.tobytes()) for i, s in enumerate(secret)])
        for scalar in scalars:
            scalar.destroy()
        self._chosen = np.where(chosen, ~np.uint64(0), np.uint64(0))[:, None]

    def __repr__(self) -> str:
        """Show nothing of the offset."""
        return "<LabelSender>"

    def choices(self) -> bytes:
        """Return the base choices."""
        return self._choices

    def extend(self, message: bytes, shape: tuple[int, ...]) -> Labels:
        """Return the false labels (*shape, 2) of the receiver's bits.

        Raises
        ------
        MessageError : the message is not of the size of that many bits, or its columns do not agree.
        """
        count = int(np.prod(shape))
        n_words = -(-count // _WORD)
        if len(message) != message_bytes(count):
            raise MessageError(f"labels of {count} bits take {message_bytes(count)} bytes, got {len(message)}")
        data, shown = message[:-_PARITY_BYTES], np.frombuffer(message[-_PARITY_BYTES:], "<u8").reshape(-1, _SPARE)
        received = np.frombuffer(data, "<u8").reshape(WIDTH, n_words + _SPARE)
        columns = self._columns.read(n_words + _SPARE) ^ (received & self._chosen)
        found = _parities(self._label, self._messages, data, columns)
        self._messages += 1
        if not np.array_equal(found, shown[:WIDTH] ^ (shown[WIDTH] & self._chosen)):
            raise MessageError("columns of oblivious transfers do not agree on their bits")
        return _rows(columns[:, :n_words])[:count].reshape(*shape, 2)


def _parities(label: bytes, number: int, data: bytes, columns: Labels) -> Labels:
    """Return 128 parities of each column (c, n_words + 2), masked by its last words: (c, 2).

    They are the value of a polynomial over GF(2^128) at a point that the message draws; its coefficients are the words.
    """
    drawn_by = pack_fields(b"veilscore/parities/v1", label, number.to_bytes(8, "little"), data)
    point = hashlib.sha256(drawn_by).digest()[: WIDTH // 8]
    out = np.empty((columns.shape[0], 2), np.uint64)
    _evaluate(np.ascontiguousarray(columns), _multiples(np.frombuffer(point, "<u8").copy()), out)
    return out


@kernel("(u8[::1],)")
def _multiples(point: Any) -> Any:
    """Products of a point with each value of each byte, modulo X^128 + X^7 + X^2 + X + 1: (16, 256, 2)."""
    out = np.zeros((16, 256, 2), np.uint64)
    low, high = point[0], point[1]
    for byte in range(16):
        for bit in range(8):
            step = 1 << bit
            for value in range(step):
                out[byte, step + value, 0] = out[byte, value, 0] ^ low
                out[byte, step + value, 1] = out[byte, value, 1] ^ high
            over = high >> np.uint64(63)
            high = (high << np.uint64(1)) | (low >> np.uint64(63))
            low = (low << np.uint64(1)) ^ (over * np.uint64(0x87))
    return out


@inlined
def _times(low: Any, high: Any, multiples: Any) -> Any:
    a, b = np.uint64(0), np.uint64(0)
    for byte in range(8):
        shift = np.uint64(8 * byte)
        i, j = (low >> shift) & np.uint64(255), (high >> shift) & np.uint64(255)
        a ^= multiples[byte, i, 0] ^ multiples[8 + byte, j, 0]
        b ^= multiples[byte, i, 1] ^ multiples[8 + byte, j, 1]
    return a, b


@kernel("(u8[:,::1], u8[:,:,::1], u8[:,::1])")
def _evaluate(columns: Any, multiples: Any, out: Any) -> None:
    """Horner's rule, two words a coefficient, the last ones added at the end; two columns at once hide the latency."""
    n_words, last = columns.shape[1] - 2, columns.shape[0] - 1
    for c in range(0, last + 1, 2):
        x, y = columns[c], columns[min(c + 1, last)]
        x0, x1, y0, y1 = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
        for w in range(0, n_words, 2):
            x0 ^= x[w]
            y0 ^= y[w]
            if w + 1 < n_words:
                x1 ^= x[w + 1]
                y1 ^= y[w + 1]
            x0, x1 = _times(x0, x1, multiples)
            y0, y1 = _times(y0, y1, multiples)
        out[c, 0], out[c, 1] = x0 ^ x[n_words], x1 ^ x[n_words + 1]
        out[min(c + 1, last), 0], out[min(c + 1, last), 1] = y0 ^ y[n_words], y1 ^ y[n_words + 1]


def _rows(columns: Labels) -> Labels:
    """Transpose a bit matrix (128, 64 n) to labels (64 n, 2)."""
    out = np.empty((columns.shape[1] * _WORD, 2), np.uint64)
    _transpose(np.ascontiguousarray(columns), out)
    return out


@kernel("(u8[:,::1], u8[:,::1])")
def _transpose(columns: Any, out: Any) -> None:
    """Blocks of 64 x 64 bits by halving (Warren, Hacker's Delight, 7-3), low bit first."""
    block = np.empty(64, np.uint64)
    for at in range(columns.shape[1]):
        for half in range(2):
            for i in range(64):
                block[i] = columns[64 * half + i, at]
            width = 32
            mask = np.uint64(0x00000000FFFFFFFF)
            while width:
                shift = np.uint64(width)
                for i in range(64):
                    if not i & width:
                        swap = ((block[i] >> shift) ^ block[i | width]) & mask
                        block[i | width] ^= swap
                        block[i] ^= swap << shift
                width >>= 1
                mask ^= mask << np.uint64(width)
            for i in range(64):
                out[64 * at + i, half] = block[i]
