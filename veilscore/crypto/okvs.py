"""A key-value store in which no key can be seen: a vector of slots whose sums, at places that a key names, are values.

Source: Pinkas, Rosulek, Trieu and Yanai 2020 (a probe-and-XOR of strings); Garimella, Pinkas, Rosulek, Trieu and Yanai
    2021 (three places each, found by peeling); Raghuraman and Rindal 2022 (how many slots).
A key is a digest of 256 bits (`veilscore.crypto.blake2b`). Bits 0 to 95 name a slot in each of three segments, 128 to
    191 which of the 64 dense slots at the end go into the sum; the value is 76 others. So values are random, and
    independent of places.
Slots: a key's sum is linear in them, so whoever adds to slots adds to sums. Slots that no key asks for are zero: the
    vector never leaves its owner in the clear.
Fails: with chance 2^-40 under a random key of the digests, whatever the ids (`segment_size`); the owner draws another.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from veilscore.arrays import Words
from veilscore.crypto.bit_matrix import WORD
from veilscore.kernels import inlined, kernel

DENSE = 64
VALUE_BITS = 76
_HIGH_BITS = VALUE_BITS - 64
_SECURITY = 40
_MOST_LEFT = 2000  # keys that peeling may leave; far more than ever occur


def segment_size(n_keys: int) -> int:
    """Return the slots of each of three segments for `n_keys`, a multiple of 64.

    The factor is that of Raghuraman and Rindal for three places: peeling then leaves, but with chance 2^-40, keys with
    at most log(2^40) / log(1.2 n) more conditions than slots (ten for two keys, one for a million); 64 dense bits fail
    to meet them with chance 2^-40 as long as they are at most 24.
    """
    factor = 1.223 + (_SECURITY + 9.2) / (5.05 * max(n_keys, 2) ** 0.555)
    return WORD * -(-int(np.ceil(factor * n_keys / 3)) // WORD)


def n_slots(n_keys: int) -> int:
    """Return the number of slots for `n_keys`, a multiple of 64."""
    return 3 * segment_size(n_keys) + DENSE


@inlined
def places(digest: Any, segment: Any) -> Any:
    """Return the three slots of a digest (4,), one a segment of so many slots (uint64)."""
    low = np.uint64(0xFFFFFFFF)
    first = np.int64(((digest[0] & low) * segment) >> np.uint64(32))
    second = np.int64(((digest[0] >> np.uint64(32)) * segment) >> np.uint64(32))
    third = np.int64(((digest[1] & low) * segment) >> np.uint64(32))
    size = np.int64(segment)
    return first, size + second, size + size + third


@inlined
def dense_bits(digest: Any) -> Any:
    """Return which dense slots are in the sum of a digest (4,)."""
    return digest[2]


@inlined
def value_of(digest: Any) -> Any:
    """Return the value of a digest (4,): 64 bits and 12."""
    return digest[3], digest[1] >> np.uint64(64 - _HIGH_BITS)


def encode(digests: Words, segment: int) -> Words | None:
    """Return slots (n_slots, 2) whose sum for each digest is its value, or None where there are none.

    digests : (n, 4), all different.
    """
    n = len(digests)
    order, own = np.empty(n, np.uint32), np.empty(n, np.uint32)
    done = _peel(digests, np.uint64(segment), order, own)
    slots = np.zeros((3 * segment + DENSE, 2), np.uint64)
    if done < n:
        left = np.ones(n, bool)
        left[order[:done]] = False
        solved = _solve(digests[left], segment)
        if solved is None:
            return None
        for slot, value in solved.items():
            slots[slot] = value & (1 << 64) - 1, value >> 64
    _fill(digests, np.uint64(segment), order[:done], own, slots)
    return slots


@kernel("(u8[:,::1], u8, u4[::1], u4[::1])")
def _peel(digests: Any, segment: Any, order: Any, own: Any) -> int:
    """Take away, again and again, a key with a slot to itself; returns how many went, in what order, and the slots.

    A cell holds how many keys a slot has, and the XOR of their numbers.
    """
    one, number = np.uint64(1) << np.uint64(32), np.uint64(0xFFFFFFFF)
    n_cells = 3 * np.int64(segment)
    cells = np.zeros(n_cells, np.uint64)
    for i in range(digests.shape[0]):
        for slot in places(digests[i], segment):
            cells[slot] = (cells[slot] + one) ^ np.uint64(i)
    waiting, n_waiting, done = np.empty(n_cells, np.uint32), 0, 0
    for start in range(n_cells):
        if cells[start] >> np.uint64(32) == np.uint64(1):
            waiting[0], n_waiting = start, 1
        while n_waiting:
            n_waiting -= 1
            at = np.int64(waiting[n_waiting])
            if cells[at] >> np.uint64(32) != np.uint64(1):
                continue
            i = cells[at] & number
            order[done], own[done] = i, at
            done += 1
            for slot in places(digests[np.int64(i)], segment):
                cells[slot] = (cells[slot] - one) ^ i
                if cells[slot] >> np.uint64(32) == np.uint64(1):
                    waiting[n_waiting] = slot
                    n_waiting += 1
    return done


def _solve(digests: Words, segment: int) -> dict[int, int] | None:
    """Solve for the slots of keys that peeling left, by Gaussian elimination; the rest of their slots are zero.

    A row has the value in its lowest bits, then the dense slots, then the others that occur.
    """
    if len(digests) > _MOST_LEFT:
        return None
    slot_of = list(range(3 * segment, 3 * segment + DENSE))
    bit_of: dict[int, int] = {}
    pivots: dict[int, int] = {}
    for parts in _parts(digests, np.uint64(segment)):
        low, high, dense, *of_key = map(int, parts)
        row = low | high << 64 | dense << VALUE_BITS
        for slot in of_key:
            if slot not in bit_of:
                bit_of[slot] = VALUE_BITS + len(slot_of)
                slot_of.append(slot)
            row ^= 1 << bit_of[slot]
        while (lead := row.bit_length() - 1) in pivots:
            row ^= pivots[lead]
        if lead < VALUE_BITS:
            return None
        pivots[lead] = row
    values: dict[int, int] = {}
    for lead in sorted(pivots):
        row = pivots[lead] ^ 1 << lead
        value = row & (1 << VALUE_BITS) - 1
        while (bit := row.bit_length() - 1) >= VALUE_BITS:
            row ^= 1 << bit
            value ^= values.get(bit, 0)
        values[lead] = value
    return {slot_of[lead - VALUE_BITS]: value for lead, value in values.items()}


@kernel("(u8[:,::1], u8)")
def _parts(digests: Any, segment: Any) -> Any:
    """Value (two words), dense bits and places of each digest: (n, 6)."""
    out = np.empty((digests.shape[0], 6), np.uint64)
    for i in range(digests.shape[0]):
        out[i, 0], out[i, 1] = value_of(digests[i])
        out[i, 2] = dense_bits(digests[i])
        out[i, 3], out[i, 4], out[i, 5] = places(digests[i], segment)
    return out


@kernel("(u8[:,::1], u8, u4[::1], u4[::1], u8[:,::1])")
def _fill(digests: Any, segment: Any, order: Any, own: Any, slots: Any) -> None:
    """Give each peeled key's own slot what its sum lacks, those that went last first."""
    dense = slots[3 * np.int64(segment) :]
    some = dense.any()  # only where peeling left keys
    for r in range(order.size - 1, -1, -1):
        digest = digests[order[r]]
        first, second, third = places(digest, segment)
        low, high = value_of(digest)
        low ^= slots[first, 0] ^ slots[second, 0] ^ slots[third, 0]
        high ^= slots[first, 1] ^ slots[second, 1] ^ slots[third, 1]
        for k in range(DENSE if some else 0):
            take = np.uint64(0) - (dense_bits(digest) >> np.uint64(k) & np.uint64(1))
            low ^= dense[k, 0] & take
            high ^= dense[k, 1] & take
        slots[own[r], 0], slots[own[r], 1] = low, high
