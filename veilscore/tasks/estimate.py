"""What a job will cost, before anything runs: rough seconds and bytes from row counts alone.

Rates were measured on two cores of a current server with all parties on it (benchmarks/); bytes follow from the
parameters of the kernel. Columns and codes are not known beforehand, so usual ones are assumed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from veilscore.terms.job import TrainBoosting, TrainStack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from veilscore.terms.job import Job

_COLUMNS, _CODES, _STEPS, _K = 12, 15, 25, 15  # a holder's columns, their codes, gradients, terms of the sigmoid
_HINT_BYTES = 4096 * 14  # one ring element of the secure histogram
_CELL_BYTES = 4096 * 8  # of the lookup in training
_SCREENED = 1000  # columns of a holder that is worth screening
_OPEN_BYTES = 4096 * 16  # of the opened lookup
_ALIGN_S = 121e-6 / 2  # per id and side
_PRODUCT_BYTES = 26  # of one value in a product ciphertext
_ROW_S = 1.1e-5  # per row and gradient, all parties
_TREE = {  # of a tree of depth 4: bytes a row and in all, seconds a row and in all
    "bounded": (1300.0, 3e6, 1.2e-5, 0.02),
    "sealed": (2200.0, 6e7, 2e-5, 0.2),
}
_TREE_SCORE_BYTES = 120  # of a row in a tree
_BAND_BYTES, _BAND_S = 4400, 1.6e-5  # of a row in ten bands, both sides
_BYTES_PER_S = 1.5e8  # through TLS, hashing on both sides


@dataclass(frozen=True)
class Estimate:
    """Rough cost of one step over all parties."""

    step: str
    seconds: float
    bytes: float


def estimate(job: Job, sizes: Mapping[str, int]) -> tuple[Estimate, ...]:
    """Cost of each step.

    Parameters
    ----------
    sizes : party -> rows; a holder that is missing counts as many rows as the bank.
    """
    n = sizes[job.bank]
    m = len(job.holders)
    others = [sizes.get(holder, n) for holder in job.holders]
    cells = _COLUMNS * _CODES
    align = Estimate("align", _ALIGN_S * sum(n + k for k in others) + 0.3, 32.0 * sum(n + 2 * k for k in others))
    if job.task == "score_batch":
        return (align, _with_bands(job, n, _scored("score", n, m, cells)))
    if job.task == "screen_features":
        columns = m * _SCREENED
        sent = m * n / 64 * _HINT_BYTES + columns * 20 / 64 * _HINT_BYTES
        return (align, _costed("screen", sent, columns * (n * 4e-7 + _SCREENED * n * 1e-9)))
    p = job.training
    held = 0.0 if p.holdout_from else p.holdout_fraction * n
    train = n - held
    hints = float(cells * _HINT_BYTES)
    binning = _costed("bin", m * (hints + 28 * train), 0.3)
    step_bytes = m * min(cells * _CELL_BYTES, 14 * (cells + train)) + (2 * _K + 2) * _PRODUCT_BYTES * train
    step_bytes += (m + 1) * 14 * train + 2 * m * 426_000
    held_back = p.holdout_scores and (p.holdout_from or held)
    training = _costed("train", 2 * m * hints + _STEPS * step_bytes, _STEPS * (_ROW_S * train + 0.05))
    result = [align, binning]
    if isinstance(p, TrainStack):
        result += _stacked(p, train, binning, training)
    else:
        result.append(_boosted(p, train) if isinstance(p, TrainBoosting) else training)
    if held_back:
        trees = [c.parameters for c in job.candidates if isinstance(c.parameters, TrainBoosting)]
        scored = _scored("evaluate", held or n / 4, m, cells)
        scored = _trees_scored(trees[-1], held or n / 4, n) if trees else scored
        result.append(_with_bands(job, held or n / 4, scored))
    return tuple(result)


def _stacked(p: TrainStack, train: float, binning: Estimate, training: Estimate) -> list[Estimate]:
    """All steps of a stack between binning and evaluation."""
    numbers = range(1, p.folds + 1)
    result = [replace(binning, step=f"bin.fold{f}") for f in numbers]
    for c in p.candidates:
        one = _boosted(c.parameters, train) if isinstance(c.parameters, TrainBoosting) else training
        result += [replace(one, step=step) for step in (c.name, *(f"{c.name}.fold{f}" for f in numbers))]
    gradients = (p.folds + 1) * _STEPS
    sent = gradients * (2 * _K + 8) * _PRODUCT_BYTES * train
    return [*result, _costed("stack", sent, gradients * (_ROW_S * train + 0.05))]


def _trees_scored(p: TrainBoosting, n_scored: float, n: float) -> Estimate:
    return _costed("evaluate", p.n_estimators * _TREE_SCORE_BYTES * n_scored, p.n_estimators * n * 1e-6)


def _boosted(p: TrainBoosting, train: float) -> Estimate:
    row_bytes, tree_bytes, row_s, tree_s = _TREE[p.splits]
    trees = p.n_estimators
    return _costed("boost", trees * (row_bytes * train + tree_bytes), trees * (row_s * train + tree_s))


def _scored(step: str, n: float, m: int, cells: int) -> Estimate:
    blocks = n // 4096 + 1
    return _costed(step, m * (cells + 2 * blocks) * float(_OPEN_BYTES), m * n * 5e-6)


def _with_bands(job: Job, n: float, scored: Estimate) -> Estimate:
    """The scoring of n rows and, where the job asks for them, their bands."""
    if job.output == "score":
        return scored
    bands = _costed(scored.step, _BAND_BYTES * n, _BAND_S * n)
    return Estimate(scored.step, scored.seconds + bands.seconds, scored.bytes + bands.bytes)


def _costed(step: str, n_bytes: float, compute_s: float) -> Estimate:
    return Estimate(step, compute_s + n_bytes / _BYTES_PER_S, n_bytes)
