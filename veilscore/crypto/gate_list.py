"""A circuit written down once as a list of gates, so that a single row of it is one call of compiled code.

A circuit is a function of an engine and words (`garbled.py`). For many rows numpy's own cost is spread over them; for
one row it is nearly all there is: some hundred calls for a few hundred gates of 30 ns each. So the function runs once
with an engine that notes its gates: each wire is a set of inputs and gates, whose labels add up (XOR) to its label.
Keys, tweaks and tables are those of the engines: a list and its function understand each other.

Source : half gates as in `half_gates.py`; only the order of work differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veilscore.crypto import aes
from veilscore.crypto.aes import expand_key
from veilscore.crypto.half_gates import evaluated_gate, garbled_gate
from veilscore.crypto.tweaked_hash import Labels, TweakedHash
from veilscore.kernels import kernel

Circuit = Callable[[Any, Any, Any], Any]
_ONE = 1  # the wire that is always true, as a set of wires
_ENDS, _NAMES = "Array(i4, 1, 'C', True)", "Array(u2, 1, 'C', True)"
_LIST = f"({_ENDS}, {_NAMES}, {_ENDS}, Array(u4, 2, 'C', True), u8, u8[:,::1], "


class _Notes:
    """An engine that notes gates; a word holds for each bit the set of its wires, as the bits of an int."""

    def __init__(self, n_inputs: int) -> None:
        self.n_wires = 1 + n_inputs
        self.sums: list[int] = []  # of each gate: its two inputs, and what is added to its output
        self.arrays: list[int] = []  # sizes; each has a key

    def _array(self, lefts: Any, rights: Any, added: Any) -> Any:
        out = np.empty(lefts.shape, object)
        for place in np.ndindex(lefts.shape):
            out[place] = self._gate(lefts[place], rights[place], added[place])
        self.arrays.append(out.size)
        return out

    def _gate(self, left: int, right: int, added: int) -> int:
        self.sums += (left, right, added)
        self.n_wires += 1
        return 1 << (self.n_wires - 1)

    def conjunction(self, left: Any, right: Any) -> Any:
        return self._array(left, right, np.zeros(left.shape, object))

    def carries(self, left: Any, right: Any) -> Any:
        out = np.zeros((len(left) + 1, *left.shape[1:]), object)
        for bit, (one, other) in enumerate(zip(left, right, strict=True)):
            for place in np.ndindex(one.shape):
                carry = out[bit][place]
                out[bit + 1][place] = self._gate(one[place] ^ carry, other[place] ^ carry, carry)
        self.arrays.append(left.size)
        return out[1:]

    def choose(self, condition: Any, if_true: Any, if_false: Any) -> Any:
        return self._array(if_true ^ if_false, np.broadcast_to(condition, if_true.shape), if_false)

    def invert(self, word: Any) -> Any:
        return word ^ _ONE


@dataclass(frozen=True, eq=False, repr=False)
class GateList:
    """The gates of a circuit with one row, for both sides.

    circuit : the function, for machines without AES instructions.
    n_theirs, n_own : bits of its two words: the evaluator's input and the garbler's.
    ends, names : wire sets, one behind another: of each gate three, then of each bit of the output.
    firsts : number of the first gate under each key, and at the end of all gates.
    """

    circuit: Circuit
    n_theirs: int
    n_own: int
    n_outputs: int
    ends: NDArray[np.int32] = field(repr=False)
    names: NDArray[np.uint16] = field(repr=False)
    firsts: NDArray[np.int32] = field(repr=False)

    @classmethod
    def of(cls, circuit: Circuit, n_theirs: int, n_own: int) -> GateList:
        """Write a circuit down."""
        notes = _Notes(n_theirs + n_own)
        inputs = np.array([1 << (1 + wire) for wire in range(n_theirs + n_own)], object)[:, None]
        outputs = circuit(notes, inputs[:n_theirs], inputs[n_theirs:])[:, 0]
        sets = [[wire for wire in range(one.bit_length()) if one >> wire & 1] for one in (*notes.sums, *outputs)]
        ends = np.cumsum([0, *map(len, sets)]).astype(np.int32)
        names = np.array([wire for one in sets for wire in one], np.uint16)
        firsts = np.cumsum([0, *notes.arrays]).astype(np.int32)
        return cls(circuit, n_theirs, n_own, len(outputs), ends, names, firsts)

    @property
    def gates(self) -> int:
        """Return the number of ANDs."""
        return int(self.firsts[-1])

    def garble(self, theirs: Labels, own: Labels, offset: Labels, hashes: TweakedHash) -> tuple[Labels, Labels]:
        """Return the table (gates, 4) and the false labels (n_outputs, 2) of the output.

        theirs, own : false labels (n, 2) of the two words.
        """
        wires, table = self._wires(offset, theirs, own), np.empty((self.gates, 4), np.uint64)
        first, keys = self._keys(hashes)
        return table, _garble_list(self.ends, self.names, self.firsts, keys, first, wires, table)

    def evaluate(self, theirs: Labels, own: Labels, table: Labels, hashes: TweakedHash) -> Labels:
        """Return the labels (n_outputs, 2) of the output; `theirs` and `own` are (n, 2), `table` is (gates, 4)."""
        wires = self._wires(np.zeros(2, np.uint64), theirs, own)
        first, keys = self._keys(hashes)
        out: Labels = _evaluate_list(self.ends, self.names, self.firsts, keys, first, wires, table)
        return out

    def _wires(self, one: Labels, theirs: Labels, own: Labels) -> Labels:
        """Return room for the labels of all wires, with those of the inputs."""
        wires = np.empty((1 + self.n_theirs + self.n_own + self.gates, 2), np.uint64)
        wires[0], wires[1 : 1 + self.n_theirs] = one, theirs
        wires[1 + self.n_theirs : 1 + self.n_theirs + self.n_own] = own
        return wires

    def _keys(self, hashes: TweakedHash) -> tuple[np.uint64, NDArray[np.uint32]]:
        """Return the first tweak, and the key of each array of gates, as the engines have them."""
        first, keys = np.uint64(hashes.tweak), [hashes.key(n) for n in self._tweaks]
        return first, np.frombuffer(b"".join(keys), "<u4").reshape(-1, 4)

    @cached_property
    def _tweaks(self) -> list[int]:
        """Return how many tweaks each array of gates uses up."""
        return [2 * int(n) for n in np.diff(self.firsts)]


@kernel()
def _sum_of(ends: Any, names: Any, wires: Any, number: Any) -> Any:
    """Label of the set of wires with this number."""
    low, high = np.uint64(0), np.uint64(0)
    for i in range(ends[number], ends[number + 1]):
        low ^= wires[names[i], 0]
        high ^= wires[names[i], 1]
    return low, high


@kernel(_LIST + "u8[:,::1])", needs=aes.has_aes, strict=True)
def _garble_list(ends: Any, names: Any, firsts: Any, keys: Any, tweak: Any, wires: Any, table: Any) -> Any:
    n, o0, o1 = table.shape[0], wires[0, 0], wires[0, 1]
    at = wires.shape[0] - n
    for array in range(firsts.size - 1):
        schedule = expand_key(keys[array])
        for gate in range(firsts[array], firsts[array + 1]):
            a0, a1 = _sum_of(ends, names, wires, 3 * gate)
            b0, b1 = _sum_of(ends, names, wires, 3 * gate + 1)
            m0, m1 = _sum_of(ends, names, wires, 3 * gate + 2)
            g0, g1, e0, e1, c0, c1 = garbled_gate(a0, a1, b0, b1, o0, o1, tweak, schedule)
            tweak += np.uint64(2)
            table[gate, 0], table[gate, 1], table[gate, 2], table[gate, 3] = g0, g1, e0, e1
            wires[at + gate, 0], wires[at + gate, 1] = c0 ^ m0, c1 ^ m1
    return _outputs(ends, names, wires, n)


@kernel(_LIST + "Array(u8, 2, 'C', True))", needs=aes.has_aes, strict=True)
def _evaluate_list(ends: Any, names: Any, firsts: Any, keys: Any, tweak: Any, wires: Any, table: Any) -> Any:
    n = table.shape[0]
    at = wires.shape[0] - n
    for array in range(firsts.size - 1):
        schedule = expand_key(keys[array])
        for gate in range(firsts[array], firsts[array + 1]):
            a0, a1 = _sum_of(ends, names, wires, 3 * gate)
            b0, b1 = _sum_of(ends, names, wires, 3 * gate + 1)
            m0, m1 = _sum_of(ends, names, wires, 3 * gate + 2)
            t0, t1, t2, t3 = table[gate, 0], table[gate, 1], table[gate, 2], table[gate, 3]
            c0, c1 = evaluated_gate(a0, a1, b0, b1, t0, t1, t2, t3, tweak, schedule)
            tweak += np.uint64(2)
            wires[at + gate, 0], wires[at + gate, 1] = c0 ^ m0, c1 ^ m1
    return _outputs(ends, names, wires, n)


@kernel()
def _outputs(ends: Any, names: Any, wires: Any, n_gates: Any) -> Any:
    """Labels of the output."""
    out = np.empty((ends.size - 1 - 3 * n_gates, 2), np.uint64)
    for bit in range(out.shape[0]):
        out[bit, 0], out[bit, 1] = _sum_of(ends, names, wires, 3 * n_gates + bit)
    return out
