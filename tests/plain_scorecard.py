"""The private scorecard in the clear, noise and all: the oracle that measures what noise costs on real columns."""

from __future__ import annotations

import math

import numpy as np

from veilscore.lattice.gaussian import discrete_gaussian
from veilscore.models.counts import offsets
from veilscore.models.residual import (
    SHARES,
    WEIGHT_FACTOR,
    CellSums,
    HolderSums,
    cells_sensitivity,
    coefficients,
    gradient_sensitivity,
    moments_sensitivity,
    most_bins,
    plain_sums,
    quantised,
    tables,
)

_UNIT = 1 << 24  # of a sum, as noise is drawn in whole units


def private_part(code, bads, residual, weight, train, mu, max_bin=20, *, parts=False):
    """A holder's part of the score (n,) as a private scorecard makes it, by the product's own models.

    code : bins a column -> codes (n, d) and numbers of codes (d,).
    bads : training rows of the rarer class.
    residual, weight : (n,) r and W of the bank's own score.
    mu : of the job; math.inf for no noise.
    parts : return effects (cells,) and coefficients (d,) instead.
    """
    if math.isinf(mu):
        mu = 1e5
    d = code(max_bin)[1].size
    sigma = _sigma("cells", cells_sensitivity(d), mu)
    codes, n_codes = code(min(max_bin, most_bins(bads, sigma)))
    r, w = residual[train], weight[train]
    G, H = plain_sums(codes[train], n_codes, r, w)
    sums = CellSums(n_codes, G + _noise(sigma, G.size), H + _noise(sigma / WEIGHT_FACTOR, G.size), sigma)
    made = quantised(tables(sums, float(r.sum()), float(w.sum())))
    x = made.x[codes.astype(np.int64) + offsets(n_codes)[:-1]]
    sigma_gradient = _sigma("gradient", gradient_sensitivity(), mu) * made.for_gradient()[1]
    sigma_moments = _sigma("moments", moments_sensitivity(), mu) * made.for_moments()[1] ** 2
    moments = np.diag(np.add.reduceat(made.weight * made.x**2, offsets(n_codes)[:-1]))
    upper = np.triu_indices(d)
    chosen = np.abs(np.add.reduceat(np.abs(made.for_moments()[0]), offsets(n_codes)[:-1])) > 0
    opened = (x[train] * w[:, None]).T @ x[train]
    opened[upper] += _noise(sigma_moments, upper[0].size)
    both = np.ix_(chosen, chosen)
    moments[both] = (np.triu(opened) + np.triu(opened, 1).T)[both]
    gradient = x[train].T @ r + _noise(sigma_gradient, d)
    theta = coefficients(made, HolderSums(gradient, moments, sigma_gradient, sigma_moments)).theta
    return (made.x, theta) if parts else x @ theta


def _sigma(opening, sensitivity, mu):
    return sensitivity / (mu * math.sqrt(SHARES[opening]))


def _noise(sigma, size):
    return discrete_gaussian(max(1.0, sigma * _UNIT), size) / _UNIT
