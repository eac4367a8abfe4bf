"""What secrets drawn as they should be give but once in a thousand million runs: exact laws, where they are known."""

from __future__ import annotations

import numpy as np
from scipy import stats

ONCE = 1e-9


def of_deviation_one(z):
    """Return whether z (any shape) may be draws around zero of deviation one, by the law of their sum of squares."""
    low, high = stats.chi2.interval(1 - ONCE, np.size(z))
    return bool(low < np.square(z).sum() < high)


def even(counts):
    """Return whether counts (k,) may be of draws that fall into k parts alike, neither uneven nor too even."""
    counts = np.asarray(counts, float)
    distance = float(((counts - counts.mean()) ** 2).sum() / counts.mean())
    low, high = stats.chi2.interval(1 - ONCE, counts.size - 1)
    return bool(low < distance < high)


def uniform(values, modulus, parts=16):
    """Return whether values look drawn from [0, modulus), by how many there are in each of so many equal parts."""
    place = (np.asarray(values).astype(np.float64).ravel() * parts / modulus).astype(np.int64)
    return even(np.bincount(place, minlength=parts))
