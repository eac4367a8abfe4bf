"""Oblivious transfer of wire labels: the receiver gets, for each of its bits, the label of that bit.

Source: Ishai, Kilian, Nissim and Petrank 2003 (extension); Chou and Orlandi 2015 (the 128 base transfers, in
    ristretto255). Rows of the extension are used as labels as they are: q and q xor offset are the two labels of a
    wire, and the receiver holds q xor (bit * offset). So nothing is sent back.
    A receiver that gave columns different bits could learn the offset bit by bit. So it adds random bits and shows 128
    parities of each column and of its bits, which those hide; the sender compares (Keller, Orsini and Scholl 2015).
    Which parities follows from the message (`parities.py`).
Parties: the sender (garbler), who knows the offset; the receiver (evaluator), who knows its bits.
Messages: base point, base choices, once; then 16 bytes a bit from the receiver, and 4 KB a message.
Reveals: how many bits.
Assumes: semi-honest parties, computational Diffie-Hellman in ristretto255, AES-256-CTR as a pseudo-random generator,
    SHA-256 as a random oracle. A receiver that cheats is refused but for the bits of the offset that it guesses.
Aborts: MessageError on a message of wrong size, an invalid point, or columns that do not agree.
"""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Mask, Words
from veilscore.crypto.base_transfers import Columns, Offerer, choose
from veilscore.crypto.bit_matrix import to_rows
from veilscore.crypto.parities import SPARE, draw_coefficients, parities
from veilscore.errors import MessageError
from veilscore.wire.randomness import secret_bytes

Labels = Words


WIDTH = 128  # bits of a label, and base transfers
_WORD = 64
_PARITY_BYTES = (WIDTH + 1) * WIDTH // 8


def message_bytes(n_bits: int) -> int:
    """Return the size of the receiver's message for some bits."""
    return WIDTH * 8 * (-(-n_bits // _WORD) + SPARE) + _PARITY_BYTES


class LabelReceiver:
    """The evaluator's side. It sends the base point and, as the extension goes, sends first in each round.

    label : names protocol, session and purpose; equal on both sides.
    """

    def __init__(self, label: bytes) -> None:
        self._label = label
        self._offerer = Offerer(label, WIDTH)
        self._columns: tuple[Columns, Columns] | None = None
        self._messages = 0

    def __repr__(self) -> str:
        """Show nothing of the keys."""
        return "<LabelReceiver>"

    def base(self) -> bytes:
        """Return the base point."""
        return self._offerer.point()

    def accept(self, choices: bytes) -> None:
        """Take the sender's base choices.

        Raises MessageError: wrong size or an invalid point.
        """
        self._columns = self._offerer.accept(choices)

    def extend(self, bits: Mask) -> tuple[bytes, Labels]:
        """Return the message for the sender and this side's labels (..., 2) of `bits`."""
        if self._columns is None:
            raise MessageError("labels were asked for before the base transfers")
        n_words = -(-bits.size // _WORD)
        row = np.zeros(n_words + SPARE, np.uint64)
        packed = np.packbits(bits, bitorder="little")
        row.view(np.uint8)[: packed.size] = packed
        row[n_words:] = np.frombuffer(secret_bytes(8 * SPARE), "<u8")
        own = self._columns[0].read(row.size)
        message = np.empty(message_bytes(bits.size) // 8, np.uint64)
        data = message[: own.size].reshape(own.shape)
        np.bitwise_xor(own, row, out=data)
        data ^= self._columns[1].read(row.size)
        drawn = draw_coefficients(self._label, self._messages, data)
        self._messages += 1
        message[own.size :] = np.concatenate([parities(drawn, own), parities(drawn, row[None])]).reshape(-1)
        return message.tobytes(), to_rows(own, n_words)[: bits.size].reshape(*bits.shape, 2)


class LabelSender:
    """The garbler's side: draws the offset.

    label : as the receiver's.
    base : the receiver's base point.
    """

    def __init__(self, label: bytes, base: bytes) -> None:
        self._label = label
        self._messages = 0
        self.offset: Labels = np.frombuffer(secret_bytes(WIDTH // 8), np.uint64).copy()
        self.offset[0] |= np.uint64(1)  # the low bit of a label is the evaluator's pointer into a table
        chosen = np.unpackbits(self.offset.view(np.uint8), bitorder="little").astype(bool)
        self._choices, self._columns = choose(label, base, chosen)
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
        received, shown = np.split(words, [WIDTH * (n_words + SPARE)])
        received, shown = received.reshape(WIDTH, -1), shown.reshape(WIDTH + 1, SPARE)
        columns = self._columns.read(n_words + SPARE)
        columns ^= received & self._chosen
        found = parities(draw_coefficients(self._label, self._messages, received), columns)
        self._messages += 1
        if not np.array_equal(found, shown[:WIDTH] ^ (shown[WIDTH] & self._chosen)):
            raise MessageError("columns of oblivious transfers do not agree on their bits")
        return to_rows(columns, n_words)[:count].reshape(*shape, 2)
