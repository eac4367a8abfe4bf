"""Garbled circuits over arrays of wires: half gates and free XOR.

Source: Kolesnikov and Schneider 2008 (free XOR); Zahur, Rosulek and Evans 2015 (half gates, in `half_gates.py`).
Parties: the garbler, who knows both labels of each wire, and the evaluator, who knows one.
Reveals: to the evaluator, the outputs that `Garbler.decoding` is sent for; nothing else to either.
Assumes: semi-honest parties; AES with a known key behaves as a random permutation (`tweaked_hash.py`).

A circuit is a function of an engine (`Garbler`, `Evaluator`, `Plain`) and words. A word is an array whose first axis
is its bits, low bit first, and whose other axes are instances computed side by side; labels have a last axis of two
64-bit words. XOR of words is `^`, for all engines.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from veilscore.arrays import Mask
from veilscore.crypto import aes
from veilscore.crypto.gate_list import GateList
from veilscore.crypto.half_gates import AND, CARRIES, CHOICE, evaluate, garble
from veilscore.crypto.tweaked_hash import Labels, TweakedHash
from veilscore.errors import MessageError

GATE_BYTES = 32
_LEAST_ROOM = 1 << 10  # gates


class Engine(Protocol):
    """What a circuit may ask of whoever runs it."""

    def conjunction(self, left: Any, right: Any) -> Any:
        """AND of two words of equal shape."""

    def carries(self, left: Any, right: Any) -> Any:
        """Carry out of each bit of the sum of two words: one AND a bit."""

    def choose(self, condition: Any, if_true: Any, if_false: Any) -> Any:
        """One of two words, by a bit: one AND a bit of theirs."""

    def invert(self, word: Any) -> Any:
        """NOT of a word."""


class Plain:
    """Runs a circuit on bits in the clear; the oracle of the other two. Counts the ANDs it does."""

    def __init__(self) -> None:
        self.gates = 0

    def conjunction(self, left: Mask, right: Mask) -> Mask:
        """AND."""
        both = left & right
        self.gates += both.size
        return both

    def carries(self, left: Mask, right: Mask) -> Mask:
        """Carries of a sum."""
        found: list[Mask] = []
        carry = np.zeros(left.shape[1:], bool)
        for a, b in zip(left, right, strict=True):
            carry = self.conjunction(a ^ carry, b ^ carry) ^ carry
            found.append(carry)
        return np.stack(found)

    def choose(self, condition: Mask, if_true: Mask, if_false: Mask) -> Mask:
        """One of two words."""
        return self.conjunction(np.broadcast_to(condition, if_true.shape), if_true ^ if_false) ^ if_false

    def invert(self, word: Mask) -> Mask:
        """NOT."""
        return ~word


class _Gates:
    """What garbler and evaluator have in common: the kinds of gates, of labels."""

    def __init__(self, label: bytes) -> None:
        self._hash = TweakedHash(label)

    def _gates(self, kind: int, left: Labels, right: Labels, base: Labels) -> Labels:
        raise NotImplementedError

    def conjunction(self, left: Labels, right: Labels) -> Labels:
        """AND."""
        both: Labels = self._gates(AND, left[None], right[None], left[None])[0]
        return both

    def carries(self, left: Labels, right: Labels) -> Labels:
        """Carries of a sum."""
        return self._gates(CARRIES, left, right, left)

    def choose(self, condition: Labels, if_true: Labels, if_false: Labels) -> Labels:
        """One of two words."""
        return self._gates(CHOICE, if_true, condition[None], if_false)


class Garbler(_Gates):
    """Makes the tables; knows both labels of every wire (`false label`, and that xor the offset).

    label : names protocol, session and purpose; equal on both sides, and of no other circuit under this offset.
    offset : uint64 (2,), secret, its lowest bit set; the difference of the two labels of every wire.
    """

    def __init__(self, label: bytes, offset: Labels) -> None:
        super().__init__(label)
        self._offset = offset
        self._tables: Labels = np.empty((0, 4), np.uint64)
        self._made = 0

    def __repr__(self) -> str:
        """Show nothing of the offset."""
        return "<Garbler>"

    def own(self, bits: Mask) -> Labels:
        """Return false labels of the garbler's inputs: the evaluator's label is zero, so that nothing is sent."""
        labels: Labels = bits[..., None] * self._offset
        return labels

    def _gates(self, kind: int, left: Labels, right: Labels, base: Labels) -> Labels:
        """Garble; keeps the tables for the evaluator."""
        n_gates = left.size // 2
        table = self._room(n_gates)
        return garble(kind, (left, right, base), self._offset, self._hash.advance(2 * n_gates), table)

    def _room(self, n_gates: int) -> Labels:
        """Return where the tables of the next gates go; one buffer serves all, as fresh memory is slow."""
        start, self._made = self._made, self._made + n_gates
        if self._made > len(self._tables):
            grown = np.empty((max(self._made, 2 * len(self._tables), _LEAST_ROOM), 4), np.uint64)
            grown[:start] = self._tables[:start]
            self._tables = grown
        return self._tables[start : self._made]

    def invert(self, word: Labels) -> Labels:
        """NOT: the labels change roles."""
        return word ^ self._offset

    def run(self, gates: GateList, theirs: Labels, own: Mask) -> tuple[bytes, Mask]:
        """Garble one row of a circuit; return its tables, and the bits that decode its output.

        theirs : (n, 1, 2) false labels of the evaluator's word; own : (n, 1) bits of the garbler's.
        """
        if not aes.has_aes():
            word = gates.circuit(self, theirs, self.own(own))
            return self.tables(), self.decoding(word)
        table, out = gates.garble(theirs[:, 0], self.own(own)[:, 0], self._offset, self._hash)
        return table.tobytes(), self.decoding(out)[:, None]

    def tables(self) -> bytes:
        """Return the tables made since the last call, in order."""
        data = self._tables[: self._made].tobytes()
        self._made = 0
        return data

    def decoding(self, word: Labels) -> Mask:
        """Return the bits with which the evaluator reads this word: it learns the word and nothing else."""
        return (word[..., 0] & np.uint64(1)).astype(bool)


class Evaluator(_Gates):
    """Runs garbled tables; knows one label of each wire.

    label : as the garbler's.
    """

    def __init__(self, label: bytes) -> None:
        super().__init__(label)
        self._tables: Labels = np.empty((0, 4), np.uint64)

    def own(self, shape: tuple[int, ...]) -> Labels:
        """Return this side's labels of the garbler's inputs."""
        return np.zeros((*shape, 2), np.uint64)

    def feed(self, data: bytes) -> None:
        """Take the tables of the gates that come next.

        Raises MessageError: not whole tables, or the last ones were not used up.
        """
        if len(data) % GATE_BYTES or len(self._tables):
            raise MessageError(f"{len(data)} bytes of garbled tables do not fit the circuit")
        self._tables = np.frombuffer(data, "<u8").reshape(-1, 4)

    def run(self, gates: GateList, theirs: Labels, tables: bytes, decoding: Mask) -> Mask:
        """Evaluate one row of a circuit; return the bits (n_outputs, 1) of its output.

        theirs : (n, 1, 2) labels of this side's word; decoding : (n_outputs, 1).
        Raises MessageError: the tables are not those of the circuit.
        """
        if len(tables) != GATE_BYTES * gates.gates:
            raise MessageError(f"{len(tables)} bytes of garbled tables do not fit the circuit")
        own = self.own((gates.n_own, 1))
        if aes.has_aes():
            table = np.frombuffer(tables, "<u8").reshape(-1, 4)
            return self.decode(gates.evaluate(theirs[:, 0], own[:, 0], table, self._hash)[:, None], decoding)
        self.feed(tables)
        word = gates.circuit(self, theirs, own)
        self.done()
        return self.decode(word, decoding)

    def done(self) -> None:
        """Refuse tables that no gate asked for (`MessageError`)."""
        if len(self._tables):
            raise MessageError(f"{len(self._tables)} garbled tables too many")

    def _gates(self, kind: int, left: Labels, right: Labels, base: Labels) -> Labels:
        """Evaluate with the next tables; MessageError if there are too few."""
        n_gates = left.size // 2
        if len(self._tables) < n_gates:
            raise MessageError(f"garbled tables end {n_gates - len(self._tables)} gates too early")
        table, self._tables = self._tables[:n_gates], self._tables[n_gates:]
        return evaluate(kind, (left, right, base), self._hash.advance(2 * n_gates), table)

    def invert(self, word: Labels) -> Labels:
        """NOT: the same label means the opposite."""
        return word

    def decode(self, word: Labels, decoding: Mask) -> Mask:
        """Read a word with the garbler's decoding bits."""
        return (word[..., 0] & np.uint64(1)).astype(bool) ^ decoding
