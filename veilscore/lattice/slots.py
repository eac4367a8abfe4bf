"""Slots of a product's block: vectors shorter than half a block lie side by side and are summed in the clear.

A sum over V products of r rows needs V r slots, so it takes ceil(V / g) ciphertexts of g = floor(N / r) vectors each
instead of V; each party then adds up its shares of the g groups. Both derive g from the number of rows alone.
"""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Words
from veilscore.lattice.params import PRODUCT, ParameterSet
from veilscore.lattice.rounding import exact_scale

N = PRODUCT.N  # and of the opened product


def block_rows(n_samples: int, block: int) -> int:
    """Return the number of rows of a block."""
    return min(n_samples - block * N, N)


def n_folded(n_vectors: int, n_rows: int) -> int:
    """Return the number of ciphertexts of a block that sums `n_vectors` products of `n_rows` rows."""
    return -(-n_vectors // (N // n_rows))


def fold(values: Words, block: int) -> Words:
    """Return one block of vectors (..., V, n) as slots (..., n_folded, N), zero where there is no row."""
    part = values[..., block * N : (block + 1) * N]
    *lead, V, r = part.shape
    g, count = N // r, n_folded(V, r)
    grouped = np.zeros((*lead, count * g, r), np.uint64)
    grouped[..., :V, :] = part
    out = np.zeros((*lead, count, N), np.uint64)
    out[..., : g * r] = grouped.reshape(*lead, count, g * r)
    return out


def unfold(shares: Words, n_samples: int, params: ParameterSet = PRODUCT) -> Words:
    """Return shares modulo t (outputs, n_samples) from those of all blocks (outputs, K, N), their groups added up."""
    whole = shares.reshape(shares.shape[0], -1)[:, :n_samples].copy()
    last = shares.shape[1] - 1
    r = block_rows(n_samples, last)
    g = N // r
    scale = exact_scale(params)
    groups = scale.split(shares[:, last, : g * r].reshape(-1, g, r)).astype(np.uint64)
    sums = groups.sum(axis=1) % scale.message[:, None]
    whole[:, last * N :] = scale.join(sums.astype(np.uint32))
    return whole
