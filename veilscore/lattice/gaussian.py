"""Noise of openings: the discrete Gaussian on whole numbers, drawn from this party's own secure source.

Source: Canonne, Kamath and Steinke, "The discrete Gaussian for differential privacy" (NeurIPS 2020), algorithms 2 and
3: a discrete Laplace draw is kept with a probability that turns its shape into the Gaussian's. Here whole arrays are
drawn at once, and probabilities are compared in double precision, so that each value's probability is right to a
relative 2^-40; values stay whole numbers throughout, so that no rounding of the noise tells what it was added to.
Theorem 7 there gives what `release.account` counts: adding it with deviation sigma to sums of sensitivity Delta is no
worse than adding Gaussian noise of that deviation, up to what is negligible for the sigmas used here (1000 and more).
"""

from __future__ import annotations

import math

import numpy as np

from veilscore.arrays import Integers, Vector, Words
from veilscore.errors import ParameterError
from veilscore.wire.randomness import secret_bytes

MAX_SIGMA = float(1 << 52)  # above it doubles no longer count by ones


def discrete_gaussian(sigma: float, size: int) -> Integers:
    """Draw `size` whole numbers, each k with a probability proportional to exp(-k^2 / (2 sigma^2)).

    Raises ParameterError: sigma is not in (0, 2^52).
    """
    if not 0 < sigma < MAX_SIGMA:
        raise ParameterError(f"a deviation of noise is above 0 and below 2^52, not {sigma:g}")
    scale = math.floor(sigma) + 1
    drawn = np.zeros(0, np.int64)
    while drawn.size < size:
        tried = 2 * (size - drawn.size) + 16  # about 0.76 of them are kept
        laplace = _discrete_laplace(scale, tried)
        excess = (np.abs(laplace).astype(np.float64) - sigma * sigma / scale) / sigma
        drawn = np.concatenate([drawn, laplace[exponential(laplace.size) > excess * excess / 2]])
    return drawn[:size]


def _discrete_laplace(scale: int, tried: int) -> Integers:
    """Keep those of `tried` draws that are of the discrete Laplace distribution of this scale."""
    low = _below(scale, tried)
    low = low[exponential(low.size) > low / scale]
    whole = np.floor(exponential(low.size)).astype(np.int64)
    value = low + whole * scale
    negative = (_words(low.size) & np.uint64(1)).astype(bool)
    counted: Integers = np.where(negative, -value, value)[~(negative & (value == 0))]  # zero has one sign
    return counted


def _words(size: int) -> Words:
    return np.frombuffer(secret_bytes(8 * size), np.uint64)


def _below(scale: int, size: int) -> Integers:
    """Uniform whole numbers below `scale`, without bias."""
    found = np.zeros(0, np.int64)
    mask = np.uint64((1 << max(1, (scale - 1).bit_length())) - 1)
    while found.size < size:
        words = _words(2 * (size - found.size) + 16) & mask
        found = np.concatenate([found, words[words < scale].astype(np.int64)])
    return found[:size]


def exponential(size: int) -> Vector:
    """Draw from the exponential distribution: `draw > x` has probability exp(-x)."""
    uniform = (_words(size).astype(np.float64) + 0.5) * 2.0**-64
    drawn: Vector = -np.log(np.minimum(uniform, 1.0))
    return drawn
