"""Columns that a business registry might have of simulated firms, and their true effects on the log-odds of default.

Capital is in yuan, age in years; cases and changes are counts of the last twelve months.
"""

from __future__ import annotations

import numpy as np

from veilscore.data.simulate import Effect, Floats, SimulatedColumns, draw_levels, sigmoid
from veilscore.data.table import Column


def columns(rng: np.random.Generator, quality: Floats, size: Floats) -> dict[str, Column]:
    """Draw the columns, each (n,), from latent quality and size, each (n,) standard normal."""
    n = len(quality)
    forms = {"limited": 0.7, "sole proprietor": 0.2, "partnership": 0.06, "joint stock": 0.03, "cooperative": 0.01}
    return {
        "firm_age_years": np.round(np.exp(1.8 + 0.3 * quality + 0.6 * rng.standard_normal(n)).clip(0.1, 60), 1),
        "legal_form": draw_levels(rng, n, forms),
        "registered_capital": np.round(np.exp(13.5 + 1.1 * size + 0.9 * rng.standard_normal(n)), -4),
        "court_cases": rng.poisson(np.exp(-2.3 - 0.8 * quality)).clip(0, 50).astype(np.float64),
        "ownership_changes": rng.poisson(np.exp(-1.0 - 0.2 * quality)).clip(0, 8).astype(np.float64),
        "abnormal_listing": (rng.random(n) < sigmoid(-5 - 0.7 * quality)).astype(np.float64),
    }


simulated = SimulatedColumns(
    draw=columns,
    effects=(
        Effect("firm_age_years", "log1p", -0.35, centre=1.9, scale=0.7),
        Effect("legal_form", "level", 0.30, level="sole proprietor"),
        Effect("court_cases", "log1p", 0.55, centre=0.1, scale=0.4),
        Effect("ownership_changes", "identity", 0.20, centre=0.4, scale=0.7),
        Effect("abnormal_listing", "identity", 1.50),
    ),
    missing={"registered_capital": 0.03, "ownership_changes": 0.05},
)
