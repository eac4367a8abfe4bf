"""The best k of a holder's columns, chosen with noise: what is summed, what one firm moves, and what the choice costs.

A column is judged by whether bad firms have larger or smaller values than good ones: the sum over training rows of
(y - mean y) v, v in [-1, 1] the row's place among all rows of the owner's table, (those below - those above) / rows; 0
where the value is missing. This is the statistic of Mann and Whitney but for its scale. A category column is judged by
groups of levels, each for itself: v is 2 in the group and 0 outside. Each of these is a *pattern*; a column is kept if
one of its patterns is among the k of largest absolute sum plus Gumbel noise. Which patterns there are follows from the
kinds of columns alone.

Replacing one firm's record moves no sum by more than `SENSITIVITY`, although it moves the places of others: all labels
less their mean lie in a range of one, and what one place gains the others lose (docs/protocols/disclosure.md).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Array, Integers, Mask, Vector
from veilscore.data.table import kind_of, missing_in
from veilscore.lattice.gaussian import exponential

USUAL_BEST = 50  # columns of a holder that are kept where a job does not say how many
SENSITIVITY = 2.0
LABEL_BITS = 16  # fraction bits of a centred label
LEVEL_GROUPS = 8  # of a category column, by a public hash of the level: their number tells nothing of the rows
MOST_NOISE = 50.0  # in scales: 64 random bits give no draw further from `-LEAST_NOISE`
LEAST_NOISE = 4.0


def noise_scale(mu: float, k: int) -> float:
    """Return the scale of Gumbel noise with which a choice of the best k costs mu.

    A choice of one is an exponential mechanism of bounded range eta = 2 SENSITIVITY / scale, so it is
    eta sqrt(2 pi) / 4-GDP, and k of them one after the other sqrt(k) times that.
    """
    return SENSITIVITY * math.sqrt(k * math.pi / 2) / mu


def found_at_auc(mu: float, k: int, n: int, bads: float, goods: float) -> float:
    """Return the AUC that a column by itself needs to be kept half the time, beside n others that tell nothing."""
    rows = noise_scale(mu, k) * math.log(max(n / k, 1.0))  # where the k-th largest of n draws of noise lies
    return min(1.0, 0.5 + rows * (bads + goods) / max(2 * bads * goods, 1.0))


def gumbel(scale: float, size: int) -> Vector:
    """Draw Gumbel noise from this party's own secure source, moved up so that none is negative."""
    drawn: Vector = scale * (LEAST_NOISE - np.log(exponential(size)))
    return drawn


def centred(target: Array) -> Integers:
    """Return y less its mean in units of 2^-16, exactly one apart, (n,): both lie in [-1, 1]."""
    mean = round(float(target.mean()) * (1 << LABEL_BITS))
    return (target.astype(np.int64) << LABEL_BITS) - mean


def patterns(values: Array) -> NDArray[np.int32]:
    """Return the weights v of a column's patterns times the rows of its table: (n_patterns, n_rows).

    values : (n_rows,) of the owner's whole table, so that they do not depend on a job.
    """
    n = values.size
    present = ~missing_in(values)
    if kind_of(values) == "category":
        group = np.full(n, -1)
        levels, place = np.unique(values[present].astype(str), return_inverse=True)
        group[present] = np.array([_group_of(level) for level in levels.tolist()], np.int64)[place]
        inside: Mask = group[None] == np.arange(LEVEL_GROUPS)[:, None]
        return np.where(inside, 2 * n, 0).astype(np.int32)
    weight = np.zeros((1, n), np.int32)
    _, place, count = np.unique(values[present], return_inverse=True, return_counts=True)
    end = np.cumsum(count)
    weight[0, present] = (end - count + end - place.size)[place]
    return weight


def _group_of(level: str) -> int:
    return hashlib.sha256(level.encode()).digest()[0] % LEVEL_GROUPS


def plain_scores(weights: NDArray[np.int32], target: Array, n_rows: int) -> Vector:
    """Return the absolute sums in rows, (n_patterns,), in the clear: the oracle of the protocol.

    weights : (n_patterns, n) of the training rows; n_rows : of the owner's table.
    """
    sums: Integers = np.abs(weights.astype(np.int64) @ centred(target))
    return sums / float(n_rows << LABEL_BITS)


def best(scores: Vector, k: int) -> Mask:
    """Return which scores (n,) are among the k largest."""
    chosen = np.zeros(scores.size, bool)
    chosen[np.argsort(-scores, kind="stable")[:k]] = True
    return chosen
