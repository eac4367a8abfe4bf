"""What the noise of a private job will cost, foretold from public numbers before anything is opened.

Columns of holders are made up: each adds a multiple of a normal score to the log-odds, the strongest most, the others
by 1 / rank, together with a variance of `_SIGNAL`. Their sums by cell follow from the public sizes alone, so that no
row is drawn; the product's own tables and coefficients are made of them with the job's noise and again with hardly
any, and both models' AUC follow from the variance that each has in common with the truth. What is foretold is the
difference. Of chains no tree is drawn either: a column's effect is learned by a part with each tree on it, which falls
with the noise of its leaves, and that noise adds up.

Source: the form of the AUC is that of two normal distributions of equal variance (Green and Swets 1966). `_SIGNAL` and
`_OWN` were set so that what is foretold is within a factor of two of what was measured, at mu .3 to 1, on
default_credit, polish_1year and made-up firms from 300 to 3,000; `_SIGNAL_OF_TREES` and `_SEEN` so that it is within a
factor of three of chains on made-up firms from 900 to 20,000 (`tests/test_noise_cost.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from veilscore.arrays import Vector
from veilscore.errors import RefusedError
from veilscore.models.chain_growth import LEARNING_RATE, TREES, leaves_sensitivity
from veilscore.models.counts import offsets
from veilscore.models.curve import expected_errors
from veilscore.models.residual import (
    MOST_BINS,
    SHARES,
    WEIGHT_FACTOR,
    CellSums,
    HolderSums,
    cells_sensitivity,
    coefficients,
    gradient_sensitivity,
    moments_sensitivity,
    most_bins,
    quantised,
    tables,
)

MOST_LOSS = 0.03  # of AUC; a job that loses more than the noise leaves is not worth its mu
MOST_CURVE_ERROR = 0.05
_SIGNAL, _OWN = 3.0, 1.0  # variance of log-odds: of all holders' columns; of the bank's score, an AUC of .76
_EXPLAINED = 0.85  # of p (1 - p) is left as W by the bank's own score
_SIGNAL_OF_TREES, _SEEN = 1.0, 0.6  # the same of what chains find; part of a column's effect that one tree sees
_LEAVES = 6  # of a tree: three cells on two sides of a cut
_NO_NOISE = 1e4  # as mu
_MOST_DRAWS, _COLUMN_DRAWS = 12, 240


@dataclass(frozen=True)
class KnownSizes:
    """What the bank knows of a job beforehand.

    train, bads : training rows and the bads among them, weights scaled to at most 1.
    bads_held : bads of the hold-out.
    columns : holder -> number of its columns.
    """

    train: float
    bads: float
    bads_held: float
    columns: Mapping[str, int]

    @property
    def rarer(self) -> float:
        """Return training rows of the rarer class."""
        return min(self.bads, self.train - self.bads)


@dataclass(frozen=True)
class NoiseCost:
    """What noise is expected to cost: loss of AUC, and the deviation of the curve's AUC and KS (None: no curve)."""

    auc: float
    curve_auc: float | None = None
    curve_ks: float | None = None

    @property
    def drowned(self) -> str:
        """Return what the noise drowns, in words, or "" if the job is worth its mu."""
        found = []
        if self.auc > MOST_LOSS:
            found.append(f"costs the model about {self.auc:.3f} of AUC (at most {MOST_LOSS:g} is worth it)")
        if self.curve_auc is not None and self.curve_auc > MOST_CURVE_ERROR:
            found.append(f"moves the measured AUC by about {self.curve_auc:.3f} (at most {MOST_CURVE_ERROR:g})")
        return " and ".join(found)

    def refuse_if_drowned(self, party: str) -> None:
        """Raise RefusedError with the ways out where the noise drowns the data."""
        if self.drowned:
            raise RefusedError(
                f"the noise of this job drowns its data: it {self.drowned}; take more firms or fewer columns, or agree "
                "with the holders on a larger mu (their privacy.job) or on exact sums (their exact_for); "
                "despite_noise: true goes on anyway",
                party=party,
            )


def noise_cost(loss: float, sizes: KnownSizes, curve_mu: float | None) -> NoiseCost:
    """Return a model's expected loss with the errors of its curve; `curve_mu` is what the hold-out's curve spends."""
    if curve_mu is None:
        return NoiseCost(loss)
    auc, ks = expected_errors(curve_mu, max(sizes.bads_held, 1.0))
    return NoiseCost(loss, min(1.0, auc), min(1.0, ks))


def expected_loss(sizes: KnownSizes, mu: float, max_bin: int) -> float:
    """Return the AUC that a residual scorecard is expected to lose to the noise of `mu` at each holder."""
    if sizes.rarer <= 0:
        return 0.5  # one class: there is nothing to lose but the whole
    columns = tuple(sizes.columns.values())
    draws = max(2, min(_MOST_DRAWS, _COLUMN_DRAWS // max(1, sum(columns))))
    losses = [
        _auc(sizes, columns, _NO_NOISE, max_bin, np.random.default_rng(seed))
        - _auc(sizes, columns, mu, max_bin, np.random.default_rng(seed))
        for seed in range(draws)
    ]
    return max(0.0, float(np.mean(losses)))


def expected_loss_of_chains(sizes: KnownSizes, mu: float) -> float:
    """Return the AUC that private trees are expected to lose to the noise of `mu` at each holder."""
    if sizes.rarer <= 0:
        return 0.5
    return max(0.0, _auc_of_chains(sizes, _NO_NOISE) - _auc_of_chains(sizes, mu))


def _auc_of_chains(sizes: KnownSizes, mu: float) -> float:
    sigma, columns = leaves_sensitivity() / mu, tuple(sizes.columns.values())
    weight = _EXPLAINED * sizes.rarer * (1.0 - sizes.rarer / sizes.train) / _LEAVES  # sum of W in a leaf
    floor = max(weight, 0.5 * sigma, 1.0)
    leaf = floor + 1.0 + sigma**2 / floor
    step = LEARNING_RATE * _SEEN * weight / leaf if weight >= 0.5 * sigma else 0.0  # leaves below the noise are cut off
    strength, found = np.arange(1.0, sum(columns) + 1) ** -2, []
    for seed in range(_MOST_DRAWS):
        effects = np.random.default_rng(seed).permutation(_SIGNAL_OF_TREES * strength / strength.sum())
        common, own = _OWN, _OWN
        for part in np.split(effects, np.cumsum(columns)[:-1]):
            left = (1.0 - step) ** (TREES / part.size)
            one = (LEARNING_RATE / leaf) ** 2 * (sigma**2 + weight)  # variance of what one tree adds to a row
            noise = one * (1 - left**2) / (1 - (1 - step) ** 2) if step else 0.0
            common += float(part.sum()) * (1 - left)
            own += float(part.sum()) * (1 - left) ** 2 + noise * part.size
        found.append(NormalDist().cdf(common / math.sqrt(2.0 * own)))
    return float(np.mean(found))


def _auc(sizes: KnownSizes, columns: tuple[int, ...], mu: float, max_bin: int, draw: np.random.Generator) -> float:
    """Draw the sums of every holder once, and return the AUC of the scorecard that is made of them."""
    strength = np.arange(1.0, sum(columns) + 1) ** -2
    effects = np.sqrt(draw.permutation(_SIGNAL * strength / strength.sum()))
    common, own = _OWN, _OWN
    for part in np.split(effects, np.cumsum(columns)[:-1]):
        with_truth, variance = _holder(sizes, part, mu, max_bin, draw)
        common, own = common + with_truth, own + variance
    return NormalDist().cdf(common / math.sqrt(2.0 * own))


def _holder(
    sizes: KnownSizes, effects: Vector, mu: float, max_bin: int, draw: np.random.Generator
) -> tuple[float, float]:
    """Return the covariance with the truth, and the variance, of one holder's part of the score.

    effects : (d,) log-odds of one deviation of each column.
    """
    d, shares = effects.size, {name: mu * math.sqrt(share) for name, share in SHARES.items()}
    sigma = cells_sensitivity(d) / shares["cells"]
    m = min(max_bin, MOST_BINS, most_bins(sizes.rarer, sigma))
    weight = _EXPLAINED * sizes.rarer * (1.0 - sizes.rarer / sizes.train)
    truth, H = np.outer(effects, _normal_bins(m)).ravel(), np.full(d * m, weight / m)
    G = H * truth + np.sqrt(H) * draw.standard_normal(H.size)
    noise = draw.standard_normal((2, H.size))
    n_codes = np.full(d, m)
    sums = CellSums(n_codes, G + sigma * noise[0], H + sigma / WEIGHT_FACTOR * noise[1], sigma)
    made = quantised(tables(sums, float(G.sum()) / d, weight))
    at = offsets(n_codes)[:-1]
    sigma_gradient = gradient_sensitivity() / shares["gradient"] * made.for_gradient()[1]
    sigma_moments = moments_sensitivity() / shares["moments"] * made.for_moments()[1] ** 2
    gradient = np.add.reduceat(made.x * G, at) + sigma_gradient * draw.standard_normal(d)
    upper = np.triu(sigma_moments * draw.standard_normal((d, d)))
    moments = upper + np.triu(upper, 1).T + np.diag(np.add.reduceat(made.x**2 * H, at))
    theta = coefficients(made, HolderSums(gradient, moments, sigma_gradient, sigma_moments)).theta
    part = np.repeat(theta, m) * made.x
    return float(part @ truth) / m, float(part @ part) / m


def _normal_bins(m: int) -> Vector:
    """Return the mean of a normal score within each of `m` bins of equal probability: m times a density's fall."""
    normal = NormalDist()
    density = [0.0, *(normal.pdf(normal.inv_cdf(k / m)) for k in range(1, m)), 0.0]
    return m * -np.diff(density)
