"""Gains of splits on shares: fixed point, the two products behind a gain, and the circuit that compares.

With a = HL + lambda, b = HR + lambda: GL^2/a + GR^2/b = (GL b - GR a)^2 / (a b (a+b)) + G^2/(a+b). Within a node a + b
and the last term are constant, so the best split has the largest C^2/D, where C = GL (a+b) - G a and D = a b are two
products on shares, and no quotient is needed: the circuit compares 2 log|C| - log D. `gamma` bounds C^2/(D (a+b)); it
exceeds XGBoost's loss change by at most lambda (G/(H+lambda))^2. min_child_weight is D at HL = min_child_weight,
compared by logarithm: with 4 fraction bits it holds to a factor of 1.18 in HL + lambda at worst. Of equal gains the
first candidate wins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from veilscore.arrays import Integers, Mask, Words
from veilscore.crypto import shares
from veilscore.crypto.circuits import to_bits
from veilscore.errors import ParameterError
from veilscore.lattice.params import PRODUCT, T
from veilscore.lattice.rounding import exact_scale

GUARD_BITS = 3  # of C and D after the point: a unit of 1/8 row^2
HESSIAN_BITS = 6  # of a node's H after the point
MAX_WORD_BITS = 48
_T = np.uint64(T)


@dataclass(frozen=True)
class GainRule:
    """What both parties know about the comparison.

    n_bank, n_holder : candidates of a node on each side; a candidate is a column and a threshold.
    scale_bits : fixed point of the shared sums.
    max_g, max_h : bounds of the sums of |g| and of h over all rows, real units.
    reg_lambda, min_child_weight, gamma : as in XGBoost; see above for the last two.
    fraction_bits : of logarithms; see `worst_kept_gain`.
    """

    n_bank: int
    n_holder: int
    scale_bits: int
    max_g: float
    max_h: float
    reg_lambda: float = 1.0
    min_child_weight: float = 1.0
    gamma: float = 0.0
    fraction_bits: int = 4

    def __post_init__(self) -> None:
        """Refuse what does not fit the share ring."""
        if min(self.n_bank, self.n_holder) < 0 or not 1 <= self.n_candidates < 1 << 16:
            raise ParameterError(f"a node has {self.n_candidates} candidate splits; between 1 and 65535 are possible")
        if not 2 <= self.fraction_bits <= 8:
            raise ParameterError("logarithms have between 2 and 8 fraction bits")
        if min(self.reg_lambda, self.min_child_weight, self.gamma) < 0 or min(self.max_g, self.max_h) <= 0:
            raise ParameterError("lambda, min_child_weight and gamma must not be negative, bounds of sums positive")
        largest_sum = max(self.max_g, self.max_h) * 2.0**self.scale_bits
        fits = largest_sum < T / 4 and self.drop_bits >= 0 and self.product_bits >= 4 and self.c_bits <= MAX_WORD_BITS
        if not fits or self.fixed(self.min_child_weight + self.reg_lambda) >= 1 << 28:
            raise ParameterError(
                f"sums up to {max(self.max_g, self.max_h):.3g} at 2^-{self.scale_bits} do not fit the comparison; "
                "use fewer rows or another scale"
            )

    @property
    def n_candidates(self) -> int:
        """Candidates of a node."""
        return self.n_bank + self.n_holder

    @property
    def max_a_plus_b(self) -> float:
        """Largest a + b."""
        return self.max_h + 2 * self.reg_lambda

    @property
    def product_bits(self) -> int:
        """Fixed point of a factor, so that C stays below T/4."""
        return int((math.log2(T / 4) - math.log2(self.max_g * self.max_a_plus_b)) / 2)

    @property
    def drop_bits(self) -> int:
        """Low bits that sums lose before they are multiplied."""
        return self.scale_bits - self.product_bits

    @property
    def c_bits(self) -> int:
        """Bits of |C|."""
        return math.ceil(math.log2(self.max_g * self.max_a_plus_b)) + GUARD_BITS

    @property
    def d_bits(self) -> int:
        """Bits of D."""
        return math.ceil(math.log2(self.max_a_plus_b**2 / 4 + 1)) + GUARD_BITS

    @property
    def h_bits(self) -> int:
        """Bits of a + b of a node."""
        return math.ceil(math.log2(self.max_a_plus_b + 1)) + HESSIAN_BITS

    @property
    def index_bits(self) -> int:
        """Bits of a candidate's number."""
        return (self.n_candidates - 1).bit_length()

    @property
    def worst_kept_gain(self) -> float:
        """Least share of the best gain that the chosen split has: logarithms are off by half a step and rounding."""
        error = (1 / math.log(2) + 0.5) * 2.0**-self.fraction_bits
        return float(2.0 ** (-6 * error))

    def fixed(self, value: float) -> int:
        """Public number at the fixed point of factors."""
        return round(value * (1 << self.product_bits))


@dataclass(frozen=True)
class Sums:
    """One party's shares modulo T of one level; the other party's must add to the sums.

    left_g, left_h : (nodes, candidates), sums over the rows that would go left; the bank's candidates first.
    g, h : (nodes,), sums over the node.
    """

    left_g: Words = field(repr=False)
    left_h: Words = field(repr=False)
    g: Words = field(repr=False)
    h: Words = field(repr=False)

    def flat(self, rule: GainRule) -> Words:
        """All sums side by side, after a check of their shapes."""
        nodes = self.g.size
        if nodes == 0 or self.left_g.shape != (nodes, rule.n_candidates) or self.left_h.shape != self.left_g.shape:
            raise ParameterError(f"sums of {nodes} nodes do not have {rule.n_candidates} candidates each")
        return np.concatenate([self.left_g.reshape(-1), self.left_h.reshape(-1), self.g, self.h])


def left_sums(cells: Words, n_codes: Integers) -> Words:
    """Shares of sums over codes <= k for each column and k but its last: (nodes, cells) to (nodes, candidates).

    Codes must stand in the order in which they may be cut.
    """
    out = []
    for column in np.split(cells, np.cumsum(n_codes)[:-1], axis=1):
        running = np.zeros(len(cells), np.uint64)
        for k in range(column.shape[1] - 1):
            running = shares.add(running, column[:, k])
            out.append(running)
    return np.stack(out, axis=1) if out else np.zeros((len(cells), 0), np.uint64)


@dataclass(frozen=True)
class Factors:
    """One party's shares at the fixed point of factors, spread over candidates: (nodes * candidates,)."""

    gl: Words = field(repr=False)
    ab: Words = field(repr=False)
    g: Words = field(repr=False)
    a: Words = field(repr=False)
    node_ab: Words = field(repr=False)

    @classmethod
    def of(cls, narrow: Words, nodes: int, rule: GainRule, *, bank: bool) -> Factors:
        """From `narrow`; the bank takes off its offset and adds lambda."""
        rows = nodes * rule.n_candidates
        gl, hl, g, h = np.split(narrow, [rows, 2 * rows, 2 * rows + nodes])
        if bank:
            offset = T - (T // 4 >> rule.drop_bits)
            gl, hl, g, h = (plus(part, offset) for part in (gl, hl, g, h))
            hl = plus(hl, rule.fixed(rule.reg_lambda))
            h = plus(h, 2 * rule.fixed(rule.reg_lambda))
        return cls(gl, np.repeat(h, rule.n_candidates), np.repeat(g, rule.n_candidates), hl, h)

    def holder_side(self) -> Words:
        """Vectors the holder encrypts."""
        return np.stack([self.gl, self.ab, self.g, self.a])

    def bank_side(self) -> Words:
        """What they are multiplied with, for C and for D: (2, 4, rows)."""
        zero = np.zeros_like(self.a)
        for_c = [self.ab, self.gl, negate(self.a), negate(self.g)]
        for_d = [zero, self.a, zero, shares.add(self.ab, negate(shares.add(self.a, self.a)))]
        return np.stack([np.stack(for_c), np.stack(for_d)])

    def words(self, cross: Words, rule: GainRule, *, bank: bool) -> tuple[Mask, Mask]:
        """This party's words of the circuit: of candidates and of nodes."""
        nodes = self.node_ab.size
        c = shares.add(shares.add(_multiply(self.gl, self.ab), negate(_multiply(self.g, self.a))), cross[0])
        d = shares.add(_multiply(self.a, shares.add(self.ab, negate(self.a))), cross[1])
        least = rule.fixed(rule.min_child_weight + rule.reg_lambda)
        smallest = shares.scale(self.node_ab, np.array(least))
        point = 2 * rule.product_bits - GUARD_BITS
        if bank:
            smallest = plus(smallest, T - least * least)
            d = plus(d, 2 << point)  # rounding must not take an empty child below zero
        candidates = [_word(c, point, rule.c_bits + 1), _word(d, point, rule.d_bits)]
        level = [
            _word(smallest, point, rule.d_bits),
            _word(self.node_ab, rule.product_bits - HESSIAN_BITS, rule.h_bits),
        ]
        return np.concatenate(candidates).reshape(-1, nodes, rule.n_candidates), np.concatenate(level)


def upper_bit(share: Words) -> Words:
    """Bit: the share is at least T/2. Shares of a value in [0, T/2) wrap exactly if one of them has it."""
    return (share > np.uint64(T // 2)).astype(np.uint64)


def narrow(share: Words, both: Words, rule: GainRule) -> Words:
    """Shares of the value without its low bits, to within two units.

    `both` is this party's share of (T >> drop) where both parties' upper bits are set.
    """
    wrap = upper_bit(share) * np.uint64(T >> rule.drop_bits)
    return shares.add(shares.add(share >> np.uint64(rule.drop_bits), negate(wrap)), both)


def _word(share: Words, point: int, n_bits: int) -> Mask:
    """Share modulo T of a value at 2^-(point + guard) as one modulo 2^n_bits at 2^-guard: T becomes a power of two.

    Both shares are rounded, so the sum is off by at most one unit.
    """
    scaled = np.rint(share * (2.0 ** (60 - point) / T)).astype(np.uint64)
    return to_bits(scaled, n_bits)


def _multiply(left: Words, right: Words) -> Words:
    """Element by element product modulo T, by its two primes."""
    scale = exact_scale(PRODUCT)
    product = scale.split(left).astype(np.uint64) * scale.split(right) % scale.message[:, None]
    return scale.join(product.astype(np.uint32))


def plus(share: Words, value: int) -> Words:
    """Share plus a public integer in [0, T)."""
    return shares.add(share, np.array(value, np.uint64))


def negate(share: Words) -> Words:
    """Share of the negative."""
    return np.where(share > 0, _T - share, share)
