"""A pool of numbered random transfers between two parties: one set-up, and each transfer spent once, for one circuit.

Source: Beaver 1995 (random transfers made ahead, put to use by one bit), over the extension of `oblivious.py`: of
    transfer j the sender has q_j, the receiver a random bit r_j and t_j = q_j xor r_j * offset. To use it for a bit x,
    the receiver sends d = x xor r_j; the false label of the wire is q_j xor d * offset, and t_j is that of x. So a
    request for labels takes a bit a wire, which rides on any message, and nothing comes back.
Parties: the sender (garbler; a lead), the receiver (evaluator; a bank).
Messages: base point, base choices, once; extensions of 16 bytes a transfer; then a bit a wire.
Reveals: to the sender nothing: r_j is uniform, and serves one bit.
Assumes: as `oblivious.py`. One offset serves all circuits of a pool: ADR 15 says why that is sound. It needs that
    - no two arrays of gates under it have the same key: `garbler` and `evaluator` bind theirs to the number of their
      circuit's first transfer;
    - the receiver's bits are fixed before the tables leave, and a transfer serves one circuit: spent ones are refused;
    - a receiver that gave columns different bits gets no second guess: the pool is given up.
Aborts: MessageError on a message of wrong size, out of order, or with columns that do not agree, and on transfers that
    were not made; SecretReuseError on a transfer, an extension or a circuit for the second time.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from veilscore.arrays import Mask
from veilscore.crypto.garbled import Evaluator, Garbler
from veilscore.crypto.oblivious import LabelReceiver, LabelSender, message_bytes
from veilscore.crypto.tweaked_hash import Labels
from veilscore.errors import MessageError, ParameterError, SecretReuseError
from veilscore.wire.protocol import pack_fields
from veilscore.wire.randomness import SEED_BYTES, derived, secret_bytes, seeded

STEP = 64  # transfers are made in multiples of it
MOST_WAITING = 1 << 18  # transfers made and not spent: 4 MB a side
MOST = 1 << 24  # transfers under one offset
_NUMBER_BYTES = 8


def extension_bytes(n: int) -> int:
    """Return the size of the message that makes n transfers."""
    return _NUMBER_BYTES + message_bytes(n)


def _circuit(names: bytes, at: int) -> bytes:
    return pack_fields(b"veilscore/pool circuit/v1", names, at.to_bytes(_NUMBER_BYTES, "little"))


@dataclass
class _Extension:
    """Transfers of one message: labels, the receiver's bits, and which of them are not spent."""

    start: int
    labels: Labels = field(repr=False)
    bits: Mask = field(repr=False)
    fresh: Mask = field(repr=False)


class _Stock:
    """Transfers that were made and not spent, by number; those of a spent extension are dropped."""

    def __init__(self) -> None:
        self.made = 0
        self.waiting = 0
        self._extensions: dict[int, _Extension] = {}

    def room(self, n: int) -> None:
        """Refuse an extension that is too large (`MessageError`)."""
        if n < STEP or n % STEP:
            raise MessageError(f"transfers are made in multiples of {STEP}, not {n}")
        if self.waiting + n > MOST_WAITING:
            raise MessageError(f"{self.waiting} transfers wait to be used; no more than {MOST_WAITING} may")
        if self.made + n > MOST:
            raise MessageError(f"{self.made} transfers were made under one offset; set up a new pool")

    def add(self, labels: Labels, bits: Mask) -> None:
        """Take in the next transfers."""
        self._extensions[self.made] = _Extension(self.made, labels, bits, np.ones(len(labels), bool))
        self.made += len(labels)
        self.waiting += len(labels)

    def spend(self, at: int, n: int) -> tuple[Labels, Mask]:
        """Return labels and bits of transfers at, at + 1, ...; all of them or none."""
        if n < 1 or at < 0 or at + n > self.made:
            raise MessageError(f"{n} transfers from number {at} on are not among the {self.made} that were made")
        pieces = [(e, slice(max(at, e.start) - e.start, at + n - e.start)) for e in self._of(at, n)]
        if sum(int(e.fresh[part].sum()) for e, part in pieces) < n:
            raise SecretReuseError(f"one of {n} transfers from number {at} on was to serve twice")
        for extension, part in pieces:
            extension.fresh[part] = False
            if not extension.fresh.any():
                del self._extensions[extension.start]
        self.waiting -= n
        return np.concatenate([e.labels[p] for e, p in pieces]), np.concatenate([e.bits[p] for e, p in pieces])

    def _of(self, at: int, n: int) -> list[_Extension]:
        return [e for e in self._extensions.values() if e.start < at + n and at < e.start + len(e.fresh)]


class PoolReceiver:
    """The receiver's side; usable from several threads.

    names : protocol, parties and a fresh id of the pool; equal on both sides.
    seed : of all that this side draws; of no other pool. The same seed and choices give the same messages again.
    """

    def __init__(self, names: bytes, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ParameterError(f"a seed has {SEED_BYTES} bytes")
        self._names, self._seed = names, seed
        self._receiver = seeded(derived(seed, "base"), lambda: LabelReceiver(names))
        self._stock, self._lock = _Stock(), threading.Lock()

    def __repr__(self) -> str:
        """Show how many transfers there are."""
        return f"<PoolReceiver, {self._stock.waiting} of {self._stock.made} transfers left>"

    @property
    def made(self) -> int:
        """Transfers made so far; they have the numbers below it."""
        return self._stock.made

    def base(self) -> bytes:
        """Return the base point for the sender."""
        return self._receiver.base()

    def accept(self, choices: bytes) -> None:
        """Take the sender's base choices, once (`MessageError` on a wrong size or an invalid point)."""
        self._receiver.accept(choices)

    def extend(self, n: int) -> bytes:
        """Make n more transfers; returns the message for the sender, who must get each of them, in order.

        Raises MessageError: n is no multiple of `STEP`, or too many are waiting.
        """
        with self._lock:
            start = self._stock.made
            self._stock.room(n)

            def work() -> tuple[Mask, bytes, Labels]:
                bits = np.unpackbits(np.frombuffer(secret_bytes(n // 8), np.uint8)).astype(bool)
                return bits, *self._receiver.extend(bits)

            bits, message, labels = seeded(derived(self._seed, f"extension {start}"), work)
            self._stock.add(labels, bits)
        return start.to_bytes(_NUMBER_BYTES, "little") + message

    def take(self, at: int, n: int) -> tuple[Mask, Labels]:
        """Spend n transfers from number `at` on: their random bits (n,) and labels (n, 2).

        Raises MessageError: they were not made.
        Raises SecretReuseError: one of them was spent.
        """
        with self._lock:
            labels, bits = self._stock.spend(at, n)
        return bits, labels

    def evaluator(self, at: int) -> Evaluator:
        """Return the engine of the circuit whose first transfer is `at`."""
        return Evaluator(_circuit(self._names, at))


class PoolSender:
    """The sender's side, who draws the offset; usable from several threads.

    names : as the receiver's.
    point : the receiver's base point.
    mark : of an earlier pool of these names that a restart has lost: numbers below it are refused, so that a number
        of `names` stands for one circuit for ever. Keep `mark` on disk before tables leave.
    Raises MessageError: the point is not valid.
    """

    def __init__(self, names: bytes, point: bytes, mark: int = 0) -> None:
        if not 0 <= mark <= MOST:
            raise ParameterError(f"{mark} is no number of a transfer")
        self._names, self._floor, self.mark = names, mark, mark
        self._sender: LabelSender | None = LabelSender(names, point)
        self._choices, self._offset = self._sender.choices(), self._sender.offset
        self._stock, self._lock = _Stock(), threading.Lock()
        self._circuits: set[int] = set()

    def __repr__(self) -> str:
        """Show how many transfers there are."""
        return f"<PoolSender, {self._stock.waiting} of {self._stock.made} transfers left>"

    @property
    def made(self) -> int:
        """Transfers made so far; they have the numbers below it."""
        return self._stock.made

    def choices(self) -> bytes:
        """Return the base choices for the receiver."""
        return self._choices

    def extend(self, message: bytes, n: int) -> None:
        """Take the receiver's message that makes n more transfers.

        Raises MessageError: wrong size, too many, or others belong before it (nothing has changed); columns that do not
            agree (the pool cannot be used any more).
        Raises SecretReuseError: these transfers were made already.
        """
        with self._lock:
            sender = self._usable()
            self._stock.room(n)
            if len(message) != extension_bytes(n):
                raise MessageError(f"{n} transfers take {extension_bytes(n)} bytes, got {len(message)}")
            start = int.from_bytes(message[:_NUMBER_BYTES], "little")
            if start < self._stock.made:
                raise SecretReuseError(f"transfers from number {start} on were to be made twice")
            if start > self._stock.made:
                raise MessageError(f"transfers from number {start} on do not follow the {self._stock.made} made")
            self._sender = None  # whoever guesses bits of the offset has one guess
            labels = sender.extend(message[_NUMBER_BYTES:], (n,))
            self._sender = sender
            self._stock.add(labels, np.zeros(n, bool))

    def take(self, at: int, bits: Mask) -> Labels:
        """Spend a transfer for each of the receiver's masked bits (n,), from number `at` on: false labels (n, 2).

        Raises MessageError: they were not made, or the pool was given up.
        Raises SecretReuseError: one of them was spent, or is below the mark.
        """
        with self._lock:
            self._usable()
            if 0 <= at < self._floor:
                raise SecretReuseError(f"transfer {at} may have been spent before a restart: set up a new pool")
            labels, _ = self._stock.spend(at, bits.size)
            self.mark = max(self.mark, at + bits.size)
            self._circuits.add(at)
        labels ^= bits[:, None] * self._offset
        return labels

    def garbler(self, at: int) -> Garbler:
        """Return the engine of the circuit whose first transfer is `at`, once (else `SecretReuseError`)."""
        with self._lock:
            if at not in self._circuits:
                raise SecretReuseError(f"transfer {at} was taken for no circuit, or for one that was garbled")
            self._circuits.remove(at)
        return Garbler(_circuit(self._names, at), self._offset)

    def _usable(self) -> LabelSender:
        if self._sender is None:
            raise MessageError("this pool of transfers was given up: its columns did not agree; set up a new one")
        return self._sender
