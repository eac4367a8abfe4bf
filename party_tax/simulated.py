"""Columns that a tax bureau might have of simulated firms, and their true effects on the log-odds of default.

Amounts are in yuan, growth is a fraction of the year before, delays are counts of the last twelve months.
"""

from __future__ import annotations

import numpy as np

from veilscore.data.simulate import Effect, Floats, SimulatedColumns, sigmoid
from veilscore.data.table import Column


def columns(rng: np.random.Generator, quality: Floats, size: Floats) -> dict[str, Column]:
    """Draw the columns, each (n,), from latent quality and size, each (n,) standard normal."""
    n = len(quality)
    turnover = np.exp(14 + 1.3 * size + 0.3 * quality + 0.4 * rng.standard_t(5, n).clip(-10, 10))
    small = turnover < 1.5e6
    rate = np.where(small, 0.01, 0.03) * np.exp(0.4 * rng.standard_normal(n))
    owes = rng.random(n) < sigmoid(-2.2 - 0.9 * quality)
    rating = 0.8 * quality + 0.6 * rng.standard_normal(n)
    ratings = np.array(["D", "C", "M", "B", "A"], dtype=object)
    return {
        "turnover": np.round(turnover, 2),
        "turnover_growth": np.round((0.1 * quality + 0.2 * rng.standard_t(4, n)).clip(-1, 20), 4),
        "vat_paid": np.round(np.where(turnover < 2e5, 0.0, rate * turnover), 2),
        "arrears": np.round(np.where(owes, np.exp(8 + 0.8 * size + rng.standard_normal(n)), 0.0), 2),
        "filing_delays": rng.poisson(np.exp(-0.4 - 0.5 * quality)).clip(0, 12).astype(np.float64),
        "headcount": np.ceil(np.exp(1.8 + 0.9 * size + 0.5 * rng.standard_normal(n))),
        "taxpayer_type": np.where(small, "small-scale", "general").astype(object),
        "tax_rating": ratings[np.searchsorted([-2.0, -1.0, -0.5, 0.8], rating)],
        "penalty_flag": (rng.random(n) < sigmoid(-5 - 0.8 * quality)).astype(np.float64),
    }


simulated = SimulatedColumns(
    draw=columns,
    effects=(
        Effect("turnover", "log1p", -0.30, centre=14.0, scale=1.5),
        Effect("turnover_growth", "identity", -0.45, centre=0.0, scale=0.35),
        Effect("arrears", "log1p", 0.35, centre=1.3, scale=3.5),
        Effect("filing_delays", "log1p", 0.40, centre=0.5, scale=0.6),
        Effect("tax_rating", "level", -0.50, level="A"),
        Effect("tax_rating", "level", 0.90, level="D"),
        Effect("penalty_flag", "identity", 1.20),
    ),
    missing={"turnover_growth": 0.12, "vat_paid": 0.04, "headcount": 0.08, "tax_rating": 0.10},
)
