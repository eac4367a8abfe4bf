"""Cuts the totals of a model into the few steps that a coarse score tells.

Steps of equally many firms cost least of the ranking; they are those of a normal law, wider than what is expected of
firms, so that its tails are told apart too. Limits of bands are among them, so that a step lies in one band.
"""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from veilscore.arrays import Integers
from veilscore.models.boosted import Boosted
from veilscore.models.chained import Chained
from veilscore.models.model import ScoreModel
from veilscore.terms.bands import MOST_STEPS, Bands

_WIDER = 1.25
# columns of one model go together, and the more so boosted trees, each of which goes on where the last one stopped;
# trees of a chain are on random cuts, with noise
_COLUMNS, _TREES, _CHAIN = 0.1, 0.3, 0.02  # mean correlation of two


def steps_of(model: ScoreModel, most: int = MOST_STEPS) -> Bands:
    """Return the steps of a model, `most` or one or two fewer, lowest totals first."""
    units = model.scaling.units
    fixed = Bands.of(model.bands, units).limits if model.bands else ()
    fixed = fixed if len(fixed) < most else ()
    mean, deviation = expected(model)
    law = NormalDist(mean, max(_WIDER * deviation, float(most)))  # at least a unit or two a step
    n_steps = most - len(fixed)
    return Bands.steps(sorted({*fixed, *(round(law.inv_cdf(k / n_steps)) for k in range(1, n_steps))}), most)


def middles(steps: Bands) -> Integers:
    """Return the total in the middle of each step (n,), as if the outer ones were as wide as their neighbours."""
    limits = steps.limits
    low, high = (limits[1] - limits[0], limits[-1] - limits[-2]) if len(limits) > 1 else (1, 1)
    ends = limits[0] - max(low // 2, 1), limits[-1] + high // 2
    return np.array([ends[0], *((a + b) // 2 for a, b in pairwise(limits)), ends[1]], np.int64)


def expected(model: ScoreModel) -> tuple[float, float]:
    """Return mean and deviation, in units, of a training firm's total, by the rows of each bin or leaf."""
    if isinstance(model, Boosted):
        covers = (tree.covers or (1.0,) * tree.n_leaves for tree in model.trees)
        groups = [(_TREES, [_moments(points, cover) for points, cover in zip(model.points, covers, strict=True)])]
    else:
        groups = [(_COLUMNS, [_moments(column.points, column.rows) for part in model.parts for column in part.columns])]
    if isinstance(model, Chained):
        for holder, chain in model.chains.items():
            leaves = zip(model.chain_points[holder], chain, strict=True)
            groups.append((_CHAIN, [_moments(np.ravel(points), np.ravel(tree.covers)) for points, tree in leaves]))
    mean, variance = float(model.base_points), 0.0
    for correlation, terms in groups:
        means, deviations = np.array([(0.0, 0.0), *terms]).T
        alone = float((deviations**2).sum())
        mean += float(means.sum())
        variance += alone + correlation * (float(deviations.sum()) ** 2 - alone)
    return mean, math.sqrt(variance)


def _moments(points: ArrayLike, rows: ArrayLike) -> tuple[float, float]:
    values, weights = np.asarray(points, np.float64), np.maximum(np.asarray(rows, np.float64), 0.0)
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(values.size, 1 / values.size)
    mean = float(weights @ values)
    return mean, float(np.sqrt(weights @ (values - mean) ** 2))
