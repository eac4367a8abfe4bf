"""The noised curve of a score: goods and bads of the hold-out by step of points, what follows, and how far it may err.

The bank sets the steps beforehand, from its model and from sums that it got in training, never from hold-out rows. Of
the hold-out it gets one count a class and step, with noise; it knows by itself how many goods and bads there are. A
firm's record decides which step the firm is in, hence moves two counts of its class by one.

Every error bar is of two parts that are stated apart: the noise, whose deviation is known, and the sampling of firms.
Both are found by drawing again from the counts (Efron 1979), with the noise alone and with other firms alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from veilscore.arrays import Integers, Mask, Vector
from veilscore.terms.bands import MOST_STEPS

LEAST_STEPS = 10
_NOISE_OF_AUC = math.sqrt(2.0 / 12.0)  # of one step's noise, by mu and bads: sqrt 2 times a uniform place's deviation
_COARSE = 0.6  # steps of equal rows lower the AUC by about so much over their number squared
_DRAWS, _SEED = 400, 20240229  # drawn again for error bars; fixed, so that a report is made the same twice
_NORMAL_POINTS, _OWN_POINTS = 65, 257


def sensitivity() -> float:
    """Return how far one firm's record moves the counts: one less in a step, one more in another."""
    return math.sqrt(2.0)


def expected_errors(mu: float, bads: float) -> tuple[float, float]:
    """Return about how far noise moves AUC and KS, as deviations, with the most steps; before any row is scored."""
    return 3.0 / (mu * bads), 4.0 / (mu * bads)


def steps_for(mu: float, bads: float) -> int:
    """Return the number of steps that serves best: each adds noise, and fewer of them tell less of the ranking.

    The squared error of the AUC is K (a / (mu bads))^2 + (c / K^2)^2; its least is at K^5 = (2 c mu bads / a)^2.
    """
    best = (2.0 * _COARSE * mu * max(bads, 1.0) / _NOISE_OF_AUC) ** 0.4
    return int(np.clip(round(best), LEAST_STEPS, MOST_STEPS))


@dataclass(frozen=True, eq=False)
class Expected:
    """What the bank expects of totals before it sees any: (m,) equally likely totals in units, ascending."""

    units: Vector

    @classmethod
    def of(cls, own: Integers, parts: Iterable[tuple[float, float]]) -> Expected:
        """Return the totals of its own points (n,) in training, plus normal parts of a mean and variance each."""
        parts = tuple(parts)
        mean, deviation = sum(m for m, _ in parts), math.sqrt(sum(v for _, v in parts))
        quantiles = np.quantile(own, (np.arange(_OWN_POINTS) + 0.5) / _OWN_POINTS)
        normal = [NormalDist().inv_cdf((k + 0.5) / _NORMAL_POINTS) for k in range(_NORMAL_POINTS)]
        return cls(np.sort(np.add.outer(quantiles, mean + deviation * np.array(normal)).ravel()))

    def limits(self, n_steps: int, fixed: Iterable[int] = ()) -> tuple[int, ...]:
        """Return the lowest total of each step but the first: those that are fixed, the rest for steps of equal rows.

        fixed : limits of bands, so that their rows are counted whole; the largest steps are halved until there are
        enough of them.
        """
        chosen = sorted(set(fixed))[: MOST_STEPS - 1]
        ranks = np.searchsorted(self.units, chosen).tolist()
        while len(chosen) < n_steps - 1:
            bounds = [0, *sorted(ranks), self.units.size]
            size, at = max((b - a, a) for a, b in pairwise(bounds))
            # as many parts at once as this step deserves, so that without fixed limits all are equal
            parts = min(n_steps - len(chosen), max(2, round(n_steps * size / self.units.size)))
            cuts = [at + size * k // parts for k in range(1, parts)]
            found = {int(np.ceil(self.units[cut])): cut for cut in cuts} if size > 1 else {}
            new = {limit: cut for limit, cut in found.items() if limit not in chosen}
            if not new:
                break
            chosen, ranks = sorted([*chosen, *new]), [*ranks, *new.values()]
        return tuple(chosen)

    def middles(self, limits: tuple[int, ...]) -> Vector:
        """Return the mean total (steps,) expected within each step; its limit where none is expected there."""
        step = np.searchsorted(np.array(limits), self.units, side="right")
        n = np.bincount(step, minlength=len(limits) + 1)
        sums = np.bincount(step, self.units, len(limits) + 1)
        at_limit = np.array([*limits, limits[-1]], np.float64)
        return np.where(n > 0, sums / np.maximum(n, 1), at_limit)


def plain_counts(units: Integers, bad: Mask, limits: tuple[int, ...]) -> Vector:
    """Return the counts (2, steps) of goods and bads in the clear: the oracle of the protocol."""
    step = np.searchsorted(np.array(limits), units, side="right")
    return np.stack([np.bincount(step[kind], minlength=len(limits) + 1) for kind in (~bad, bad)]).astype(np.float64)


@dataclass(frozen=True, eq=False)
class NoisedCurve:
    """Noised counts of goods and bads by step, the lowest totals first.

    counts : (2, steps) goods and bads, as opened.
    known : (2,) goods and bads of the hold-out, which the bank knows.
    sigma : deviation of the noise of each count.
    """

    counts: Vector
    known: Vector
    sigma: float

    @cached_property
    def balanced(self) -> Vector:
        """Return the counts made to add up to what is known, by as much each: unbiased, and perhaps negative."""
        return _balanced(self.counts, self.known)

    @cached_property
    def fitted(self) -> Vector:
        """Return the nearest counts that are not negative and add up to what is known, for tables."""
        return _nearest(self.counts, self.known)

    def auc(self) -> float:
        """Return the probability that a random bad is in a lower step than a random good, ties counted half."""
        return float(_auc(self.balanced, self.known))

    def ks(self) -> float:
        """Return the largest distance of goods and bads at a limit of steps, less what noise adds to a largest one."""
        _, noise, _ = self._drawn
        excess = float(noise.ks.mean()) - float(_ks(self.fitted, self.known))
        return min(1.0, max(0.0, float(_ks(self.balanced, self.known)) - max(0.0, excess)))

    def errors(self) -> Errors:
        """Return the error bars of what is read off the curve."""
        whole, noise, sampling = self._drawn
        return Errors(
            auc=float(whole.auc.std()),
            auc_noise=float(noise.auc.std()),
            auc_sampling=float(sampling.auc.std()),
            ks=float(whole.ks.std()),
            ks_noise=float(noise.ks.std()),
            ks_sampling=float(sampling.ks.std()),
        )

    def deviation(self, steps: Mask) -> tuple[float, float]:
        """Return the deviations of the bad rate within some steps, and of the share of all bads that is in them."""
        good, bad = self.drawn_again[:, :, steps].sum(axis=2).T
        bads = self.drawn_again[:, 1].sum(axis=1)
        return float((bad / np.maximum(good + bad, 1e-9)).std()), float((bad / bads).std())

    @property
    def drawn_again(self) -> Vector:
        """Return counts (draws, 2, steps) as other firms and other noise would give them, fitted like these."""
        return self._drawn[0].fitted

    @cached_property
    def _drawn(self) -> tuple[_Draws, _Draws, _Draws]:
        """Draw again from the fitted counts: other firms and noise, noise alone, other firms alone."""
        rng = np.random.default_rng(_SEED)
        cells = self.fitted.ravel() / self.known.sum()
        other = (
            rng.multinomial(round(self.known.sum()), cells, _DRAWS).reshape(-1, *self.fitted.shape).astype(np.float64)
        )
        known = np.maximum(other.sum(axis=2), 1.0)
        noise = self.sigma * rng.standard_normal(other.shape)
        alone = _Draws.of(self.fitted + noise, np.broadcast_to(self.known, known.shape))
        return _Draws.of(other + noise, known), alone, _Draws.of(other, known)


@dataclass(frozen=True)
class Errors:
    """Standard errors of AUC and KS: of both causes, of the noise alone, of the sampling of firms alone."""

    auc: float
    auc_noise: float
    auc_sampling: float
    ks: float
    ks_noise: float
    ks_sampling: float


@dataclass(frozen=True, eq=False)
class _Draws:
    """What was drawn again: counts (draws, 2, steps) as they are used in tables, AUC and KS (draws,)."""

    fitted: Vector
    auc: Vector
    ks: Vector

    @classmethod
    def of(cls, counts: Vector, known: Vector) -> _Draws:
        balanced = _balanced(counts, known)
        return cls(_nearest(counts, known), _auc(balanced, known), _ks(balanced, known))


def _balanced(counts: Vector, known: Vector) -> Vector:
    excess = counts.sum(axis=-1) - known
    balanced: Vector = counts - excess[..., None] / counts.shape[-1]
    return balanced


def _auc(counts: Vector, known: Vector) -> Vector:
    """Return the AUC of counts (..., 2, steps)."""
    good, bad = counts[..., 0, :], counts[..., 1, :]
    above = known[..., :1] - np.cumsum(good, axis=-1) + good / 2
    area: Vector = (above * bad).sum(axis=-1) / known.prod(axis=-1)
    return np.clip(area, 0.0, 1.0)


def _ks(counts: Vector, known: Vector) -> Vector:
    shares = counts / known[..., None]
    gap = np.cumsum(shares[..., 1, :] - shares[..., 0, :], axis=-1)
    largest: Vector = np.abs(gap[..., :-1]).max(axis=-1)
    return np.minimum(largest, 1.0)


def _nearest(counts: Vector, known: Vector) -> Vector:
    """Return the nearest (Euclidean) non-negative counts (..., 2, steps) of these sums (Held, Wolfe, Crowder 1974)."""
    falling = -np.sort(-counts, axis=-1)
    excess = (np.cumsum(falling, axis=-1) - known[..., None]) / np.arange(1, counts.shape[-1] + 1)
    last = np.maximum((falling > excess).sum(axis=-1) - 1, 0)
    nearest: Vector = np.maximum(counts - np.take_along_axis(excess, last[..., None], axis=-1), 0.0)
    return nearest
