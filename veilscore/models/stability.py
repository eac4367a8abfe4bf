"""Measure how far a population has moved from an earlier one, in a column or in a score.

Source: Siddiqi, "Credit Risk Scorecards" (2006), population stability index.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from veilscore.arrays import Vector
from veilscore.errors import ConfigError, DataError
from veilscore.terms.settings import parse_json

EXPECTED = "expected.json"  # beside a model: what the job that trained it opened of its hold-out


@dataclass(frozen=True)
class ScoreStability:
    """Population stability index of a score and the shares it came from (`edges`: inner ones only)."""

    psi: float
    edges: tuple[float, ...]
    expected: tuple[float, ...]
    actual: tuple[float, ...]


def population_stability(expected: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Return the population stability index of two sets of bin counts (n_bins,), neither all zero."""
    e, a = (np.asarray(part, dtype=np.float64) for part in (expected, actual))
    if e.shape != a.shape or e.ndim != 1:
        raise DataError("population stability needs two sets of counts over the same bins")
    if not (np.isfinite(e).all() and np.isfinite(a).all()) or (e < 0).any() or (a < 0).any():
        raise DataError("population stability needs finite counts that are not negative")
    if e.sum() <= 0 or a.sum() <= 0:
        raise DataError("population stability needs at least one row on each side")
    seen = (e > 0) | (a > 0)
    # a bin that is empty on one side counts as half a row there, so that the index stays finite
    p, q = (np.maximum(part[seen], 0.5) / part.sum() for part in (e, a))
    return float(np.sum((q - p) * np.log(q / p)))


def score_stability(expected: npt.ArrayLike, actual: npt.ArrayLike, *, n_bins: int = 10) -> ScoreStability:
    """Return the population stability of a score, in bins of equal size of the expected scores."""
    first, second = (np.asarray(part, dtype=np.float64) for part in (expected, actual))
    if first.size == 0 or second.size == 0:
        raise DataError("stability of a score needs at least one row on each side")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DataError("scores must be finite")
    edges = np.unique(np.quantile(first, np.linspace(0, 1, n_bins + 1)[1:-1]))
    e, a = (
        np.bincount(np.searchsorted(edges, part, side="left"), minlength=edges.size + 1).astype(np.float64)
        for part in (first, second)
    )
    shares = (tuple((part / part.sum()).tolist()) for part in (e, a))
    return ScoreStability(population_stability(e, a), tuple(edges.tolist()), *shares)


def load_expected(path: Path) -> tuple[Vector, Vector] | None:
    """Return limits of totals and the rows of a hold-out below, between and above them; None where there is no file.

    Raises ConfigError where it is damaged.
    """
    if not path.is_file():
        return None
    try:
        kept = parse_json(path.read_text(encoding="utf-8"))
        limits, counts = np.array(kept["limits"], np.float64), np.maximum(np.array(kept["counts"], np.float64), 0.0)
        whole = limits.ndim == 1 and counts.shape == (limits.size + 1,) and bool((np.diff(limits) > 0).all())
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ConfigError(f"{path} is damaged; restore it from backup, or remove it: it serves reports alone")
    return limits, counts
