"""Words and comparisons as circuits: sum, order, binary logarithm, largest of many, a count.

Source: Kolesnikov, Sadeghi and Schneider 2009 (one AND a bit for a sum, an order and a choice).
Each function takes an engine of `veilscore.crypto.garbled` and words (first axis bits, low bit first).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from veilscore.arrays import Integers, Mask, Words
from veilscore.crypto.garbled import Engine


def to_bits(values: Words, n_bits: int) -> Mask:
    """Integers (...) as a word of bits (n_bits, ...)."""
    shifts = np.arange(n_bits, dtype=np.uint64).reshape(-1, *[1] * values.ndim)
    return ((values[None] >> shifts) & np.uint64(1)).astype(bool)


def from_bits(bits: Mask) -> Integers:
    """Inverse of `to_bits`."""
    weights = np.int64(1) << np.arange(bits.shape[0], dtype=np.int64)
    values: Integers = np.tensordot(weights, bits.astype(np.int64), axes=1)
    return values


def constant(engine: Engine, value: int, like: Any, n_bits: int) -> Any:
    """Public integer as a word of n_bits, instances as those of the bit `like`."""
    zero = like ^ like
    return np.stack([engine.invert(zero) if value >> i & 1 else zero for i in range(n_bits)])


def add(engine: Engine, left: Any, right: Any) -> Any:
    """Sum modulo 2^bits: one AND a bit but the last."""
    total = left ^ right
    if len(total) > 1:
        total[1:] ^= engine.carries(left[:-1], right[:-1])
    return total


def exceeds(engine: Engine, left: Any, right: Any) -> Any:
    """Bit: left > right, unsigned: the carry out of left + (2^bits - 1 - right); one AND a bit."""
    return engine.carries(left, engine.invert(right))[-1]


def none_set(engine: Engine, word: Any) -> Any:
    """Bit: all bits are zero; pairwise, so that few and wide ANDs are asked for."""
    level = engine.invert(word)
    while len(level) > 1:
        half = len(level) // 2
        both = engine.conjunction(level[:half], level[half : 2 * half])
        level = np.concatenate([both, level[2 * half :]])
    return level[0]


def lookup(engine: Engine, address: Any, table: Integers, n_bits: int) -> Any:
    """Public table at a secret address of m bits: 2^m - m - 1 ANDs (all monomials), then XOR alone."""
    monomials = [address[0]]
    for bit in address[1:]:
        products = engine.conjunction(np.broadcast_to(bit, (len(monomials), *bit.shape)), np.stack(monomials))
        monomials = [*monomials, bit, *products]
    every, zero = np.stack(monomials), address[0] ^ address[0]
    one = engine.invert(zero)
    found = []
    for inverted, terms in _normal_form(table.astype("<u8").tobytes(), n_bits):
        found.append(np.bitwise_xor.reduce(every[terms], axis=0, initial=0) ^ (one if inverted else zero))
    return np.stack(found)


@lru_cache(maxsize=1024)
def _normal_form(table: bytes, n_bits: int) -> tuple[tuple[bool, Integers], ...]:
    """Return for each bit of a public table its constant and which monomials it adds up; kept, as it takes longest."""
    form = to_bits(np.frombuffer(table, "<u8"), n_bits)
    for i in range(form.shape[1].bit_length() - 1):  # Moebius transform: truth table to coefficients of monomials
        folded = form.reshape(n_bits, -1, 2, 1 << i)
        folded[:, :, 1] ^= folded[:, :, 0]
    return tuple((bool(bit[0]), np.flatnonzero(bit[1:])) for bit in form)


def log_table(fraction_bits: int) -> Integers:
    """2^f log2(1 + (i + 1/2) / 2^m), f = m + 1 bits, for mantissas of m = `fraction_bits` - 1 bits."""
    size = 1 << (fraction_bits - 1)
    exact = np.log2(1 + (np.arange(size) + 0.5) / size) * (1 << fraction_bits)
    table: Integers = np.minimum(np.rint(exact), (1 << fraction_bits) - 1).astype(np.int64)
    return table


def log_bits(n_bits: int, fraction_bits: int) -> int:
    """Bits of the logarithm of a word of `n_bits`."""
    return (n_bits - 1).bit_length() + fraction_bits


def log2(engine: Engine, word: Any, fraction_bits: int) -> Any:
    """Binary logarithm with `fraction_bits` bits after the point; that of zero is that of the smallest word.

    The word counts from the top: its integer part is the place of the leading one in 2^p >= bits places.
    """
    top_first = word[::-1]
    mantissa_bits = fraction_bits - 1
    exponent = []
    shift = 1 << (len(word) - 1).bit_length()
    while shift > 1:
        shift //= 2
        none = none_set(engine, top_first[:shift])
        exponent.append(engine.invert(none))
        needed = min(len(top_first), shift + mantissa_bits)
        moved, kept = top_first[shift : shift + needed], top_first[:needed]
        padding = np.broadcast_to(none ^ none, (needed - len(moved), *none.shape))
        # where bits move, the first ones are zeros: no gate for those that padding would fill
        places = np.r_[: min(shift, len(moved)), shift:needed]
        top_first = kept.copy()
        top_first[places] = engine.choose(none, np.concatenate([moved, padding])[places], kept[places])
    mantissa = top_first[1 : 1 + mantissa_bits][::-1]
    fraction = lookup(engine, mantissa, log_table(fraction_bits), fraction_bits)
    return np.concatenate([fraction, np.stack(exponent[::-1])])


def largest(engine: Engine, word: Any) -> tuple[Any, Any]:
    """Largest word over the second axis of instances, and where it stands (the first of equals).

    word : (bits, groups, candidates).
    Returns words (bits, groups) and (index bits, groups).
    """
    index = word[:0]
    while word.shape[2] > 1:
        even = word.shape[2] // 2 * 2
        left, right = word[:, :, :even:2], word[:, :, 1:even:2]
        wins = exceeds(engine, right, left)
        both = np.concatenate([word, index])
        chosen = engine.choose(wins, both[:, :, 1:even:2], both[:, :, :even:2])
        kept = np.concatenate([chosen, wins[None]])
        if word.shape[2] > even:  # an odd one out goes to the next round
            last = both[:, :, even:]
            zero = last[:1] ^ last[:1]
            kept = np.concatenate([kept, np.concatenate([last, zero])], axis=2)
        word, index = kept[: len(word)], kept[len(word) :]
    return word[:, :, 0], index[:, :, 0]


def one_hot(engine: Engine, index: Any) -> Any:
    """Bits (2^m, ...), of which that at a secret index of m bits is set: 2^m - 2 ANDs."""
    found = [engine.invert(index[-1]), index[-1]]
    for bit in index[-2::-1]:  # high bits first, so that numbers come out in order
        both = engine.conjunction(np.broadcast_to(bit, (len(found), *bit.shape)), np.stack(found))
        found = [half for whole, one in zip(found, both, strict=True) for half in (whole ^ one, one)]
    return np.stack(found)


def count_set(engine: Engine, bits: Any) -> Any:
    """Return how many of some bits (n,) are set, as a word of one instance: about two ANDs a bit."""
    word = bits[None]
    while word.shape[1] > 1:
        if word.shape[1] % 2:
            word = np.concatenate([word, word[:, :1] ^ word[:, :1]], axis=1)
        left, right = word[:, ::2], word[:, 1::2]
        zero = left[:1] ^ left[:1]
        word = add(engine, np.concatenate([left, zero]), np.concatenate([right, zero]))
    return word
