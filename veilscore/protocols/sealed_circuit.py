"""The circuit of a level of a tree: which candidate of each node has the largest gain (see `sealed_gain.py`)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from veilscore.crypto.circuits import add, constant, exceeds, largest, log2, log_bits
from veilscore.crypto.garbled import Plain
from veilscore.protocols.sealed_gain import GUARD_BITS, HESSIAN_BITS, GainRule


def best_splits(engine: Any, rule: GainRule, candidates: tuple[Any, Any], level: tuple[Any, Any], mask: Any) -> Any:
    """The circuit of a level.

    candidates : both parties' words of C and D: (c_bits + 1 + d_bits, nodes, candidates).
    level : both parties' words of the smallest D and of a + b: (d_bits + h_bits, nodes).
    mask : (index_bits, nodes), hides the winner from the bank.
    Returns (2 + index_bits, nodes): the node splits; the holder wins; number of the winner, masked.
    """
    (own, other), cut = candidates, rule.c_bits + 1
    signed = add(engine, own[:cut], other[:cut])
    log_c = log2(engine, signed[:-1] ^ signed[-1], rule.fraction_bits)  # one's complement: off by a unit below zero
    log_d = log2(engine, add(engine, own[cut:], other[cut:]), rule.fraction_bits)
    (own, other), cut = level, rule.d_bits
    smallest = log2(engine, add(engine, own[:cut], other[:cut]), rule.fraction_bits)
    a_plus_b = add(engine, own[cut:], other[cut:])
    spread = np.broadcast_to(np.expand_dims(smallest, 2), log_d.shape)
    enough = engine.invert(exceeds(engine, spread, log_d))
    score = _score(engine, log_c, log_d)
    best, index = largest(engine, np.concatenate([score, enough[None]]))
    size = constant(engine, _fixed_h(2 * (rule.min_child_weight + rule.reg_lambda)), a_plus_b[0], rule.h_bits)
    valid = engine.conjunction(best[-1], engine.invert(exceeds(engine, size, a_plus_b)))
    if rule.gamma > 0:
        valid = engine.conjunction(valid, _worth(engine, rule, best[:-1], a_plus_b))
    holder = valid
    if rule.n_bank:
        bank_last = constant(engine, rule.n_bank - 1, valid, len(index))
        holder = engine.conjunction(valid, exceeds(engine, index, bank_last)) if len(index) else valid ^ valid
    hidden = engine.conjunction(np.broadcast_to(valid, index.shape), index) ^ mask
    return np.concatenate([valid[None], holder[None], hidden])


def _score(engine: Any, log_c: Any, log_d: Any) -> Any:
    """2 log_c - log_d, shifted by a constant so that it is not negative."""
    n_bits = max(len(log_c) + 1, len(log_d)) + 1
    zero = log_c[:1] ^ log_c[:1]
    doubled = np.concatenate([zero, log_c, *[zero] * (n_bits - 1 - len(log_c))])
    return add(engine, doubled, np.concatenate([engine.invert(log_d), *[zero] * (n_bits - len(log_d))]))


def _worth(engine: Any, rule: GainRule, score: Any, a_plus_b: Any) -> Any:
    """Bit: C^2 / (D (a+b)) > gamma, by logarithms."""
    log_h = log2(engine, a_plus_b, rule.fraction_bits)
    points = [
        _point(bits, guard)
        for bits, guard in ((rule.c_bits, GUARD_BITS), (rule.d_bits, GUARD_BITS), (rule.h_bits, HESSIAN_BITS))
    ]
    shift = math.log2(rule.gamma) + 2 * points[0] - points[1] - points[2]
    least = (1 << log_bits(rule.d_bits, rule.fraction_bits)) - 1 + round(shift * (1 << rule.fraction_bits))
    n_bits = len(score) + 1
    zero = score[:1] ^ score[:1]
    threshold = constant(engine, min(max(least, 0), (1 << (n_bits - 1)) - 1), score[0], n_bits)
    bound = add(engine, threshold, np.concatenate([log_h, *[zero] * (n_bits - len(log_h))]))
    return exceeds(engine, np.concatenate([score, zero]), bound)


def _point(n_bits: int, guard_bits: int) -> int:
    """What `log2` of a word adds to the logarithm of the number it stands for."""
    return (1 << (n_bits - 1).bit_length()) - n_bits + guard_bits


def _fixed_h(value: float) -> int:
    return round(value * (1 << HESSIAN_BITS))


@lru_cache(maxsize=64)
def gates_of_node(rule: GainRule) -> int:
    """Return how many ANDs the circuit of a node has, as counted by running it once in the clear."""
    engine, n = Plain(), rule.n_candidates
    words = np.zeros((rule.c_bits + 1 + rule.d_bits, 1, n), bool)
    level, mask = np.zeros((rule.d_bits + rule.h_bits, 1), bool), np.zeros((rule.index_bits, 1), bool)
    best_splits(engine, rule, (words, words), (level, level), mask)
    return engine.gates
