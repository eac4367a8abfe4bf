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
from veilscore.crypto import aes
from veilscore.crypto.aes import multiply
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
        words = np.empty(WIDTH * n_words + 2, np.uint64)  # OpenSSL wants room for a block more than it writes
        room = words.view(np.uint8).data
        for number, cipher in enumerate(self._ciphers):
            cipher.update_into(zeros, room[number * len(zeros) :])
        return words[:-2].reshape(WIDTH, n_words)


class LabelReceiver:
    """The evaluator's side. It sends the base point and, as the extension goes, sends first in each round.

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

        Raises MessageError: wrong size or an invalid point.
        """
        points = parse_points(choices, WIDTH)
        transcript = self._point.tobytes() + choices
        secret = raise_points(points, self._scalar)
        own = raise_points(self._point, self._scalar)[0].tobytes()
        # (P / Q)^y = P^y / Q^y: one power serves both options
        others = parse_points(b"".join([subtract_points(s.tobytes(), own) for s in secret]), WIDTH)
        check_points(others)  # the identity, where the sender sent the base point itself
        keys = [[_key(self._label, i, transcript, s.tobytes()) for i, s in enumerate(x)] for x in (secret, others)]
        self._columns = (_Columns(keys[0]), _Columns(keys[1]))
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
        message = np.empty(message_bytes(bits.size) // 8, np.uint64)
        data = message[: own.size].reshape(own.shape)
        np.bitwise_xor(own, row, out=data)
        data ^= self._columns[1].read(row.size)
        point = _point(self._label, self._messages, data)
        self._messages += 1
        message[own.size :] = np.concatenate([_parities(point, own), _parities(point, row[None])]).reshape(-1)
        return message.tobytes(), _rows(own, n_words)[: bits.size].reshape(*bits.shape, 2)


class LabelSender:
    """The garbler's side: draws the offset.

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

        Raises MessageError: the message is not of the size of that many bits, or its columns do not agree.
        """
        count = int(np.prod(shape))
        n_words = -(-count // _WORD)
        if len(message) != message_bytes(count):
            raise MessageError(f"labels of {count} bits take {message_bytes(count)} bytes, got {len(message)}")
        words = np.frombuffer(message, "<u8")
        received, shown = np.split(words, [WIDTH * (n_words + _SPARE)])
        received, shown = received.reshape(WIDTH, -1), shown.reshape(WIDTH + 1, _SPARE)
        columns = self._columns.read(n_words + _SPARE)
        columns ^= received & self._chosen
        found = _parities(_point(self._label, self._messages, received), columns)
        self._messages += 1
        if not np.array_equal(found, shown[:WIDTH] ^ (shown[WIDTH] & self._chosen)):
            raise MessageError("columns of oblivious transfers do not agree on their bits")
        return _rows(columns, n_words)[:count].reshape(*shape, 2)


def _point(label: bytes, number: int, data: Labels) -> Labels:
    """Return the point of GF(2^128) that a message draws: nobody knows it before all columns are fixed."""
    drawn_by = hashlib.sha256(pack_fields(b"veilscore/parities/v2", label, number.to_bytes(8, "little")))
    drawn_by.update(data.data)
    return np.frombuffer(drawn_by.digest()[: WIDTH // 8], "<u8")


def _parities(point: Labels, columns: Labels) -> Labels:
    """Return 128 parities of each column (c, n_words + 2), masked by its last words: (c, 2).

    They are the value of a polynomial over GF(2^128) at the point; its coefficients are the words.
    """
    out = np.empty((columns.shape[0], 2), np.uint64)
    if aes.has_clmul():
        _evaluate(columns, point, out)
    else:
        _evaluate_by_table(columns, _multiples(point), out)
    return out


@inlined
def _product(a0: Any, a1: Any, b0: Any, b1: Any) -> Any:
    """Product in GF(2^128), X^128 = X^7 + X^2 + X + 1, by three products of 64 bits and two to reduce."""
    low0, low1 = multiply(a0, b0)
    high0, high1 = multiply(a1, b1)
    mixed0, mixed1 = multiply(a0 ^ a1, b0 ^ b1)
    mixed0, mixed1 = mixed0 ^ low0 ^ high0, mixed1 ^ low1 ^ high1
    low1 ^= mixed0
    high0 ^= mixed1
    back0, back1 = multiply(high1, np.uint64(0x87))
    low1 ^= back0
    back0, back1 = multiply(high0 ^ back1, np.uint64(0x87))
    return low0 ^ back0, low1 ^ back1


@kernel("(u8[:,::1], Array(u8, 1, 'C', True), u8[:,::1])", needs=aes.has_clmul, strict=True)
def _evaluate(columns: Any, point: Any, out: Any) -> None:
    """Horner's rule, two words a coefficient, the last ones added at the end; two columns at once hide the latency."""
    n_words, last = columns.shape[1] - 2, columns.shape[0] - 1
    p0, p1 = point[0], point[1]
    for c in range(0, last + 1, 2):
        x, y = columns[c], columns[min(c + 1, last)]
        x0, x1, y0, y1 = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
        for w in range(0, n_words, 2):
            x0 ^= x[w]
            y0 ^= y[w]
            if w + 1 < n_words:
                x1 ^= x[w + 1]
                y1 ^= y[w + 1]
            x0, x1 = _product(x0, x1, p0, p1)
            y0, y1 = _product(y0, y1, p0, p1)
        out[c, 0], out[c, 1] = x0 ^ x[n_words], x1 ^ x[n_words + 1]
        out[min(c + 1, last), 0], out[min(c + 1, last), 1] = y0 ^ y[n_words], y1 ^ y[n_words + 1]


# Without instructions for such products: multiples of the point, looked up by bytes. Memory is then touched by secret
# columns, which whoever shares the machine's caches may observe.


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
def _evaluate_by_table(columns: Any, multiples: Any, out: Any) -> None:
    """`_evaluate`, one column after the other."""
    n_words = columns.shape[1] - 2
    for c in range(columns.shape[0]):
        low, high = np.uint64(0), np.uint64(0)
        for w in range(0, n_words, 2):
            low ^= columns[c, w]
            if w + 1 < n_words:
                high ^= columns[c, w + 1]
            low, high = _times(low, high, multiples)
        out[c, 0], out[c, 1] = low ^ columns[c, n_words], high ^ columns[c, n_words + 1]


def _rows(columns: Labels, n_words: int) -> Labels:
    """Transpose the first words of a bit matrix (128, ...) to labels (64 n_words, 2)."""
    out = np.empty((n_words * _WORD, 2), np.uint64)
    _transpose(columns, out)
    return out


@kernel("(u8[:,::1], u8[:,::1])")
def _transpose(columns: Any, out: Any) -> None:
    """Blocks of 64 x 64 bits by halving (Warren, Hacker's Delight, 7-3), low bit first; two side by side."""
    block = np.empty((64, 2), np.uint64)
    for at in range(out.shape[0] // 64):
        for i in range(64):
            block[i, 0], block[i, 1] = columns[i, at], columns[64 + i, at]
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
        for i in range(64):
            out[64 * at + i, 0], out[64 * at + i, 1] = block[i, 0], block[i, 1]
