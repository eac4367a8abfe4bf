"""Columns that a bank might have of simulated firms, and their true effects on the log-odds of default.

Amounts are in yuan, times in days, months and years.
"""

from __future__ import annotations

import numpy as np

from veilscore.data.simulate import Effect, Floats, SimulatedColumns, draw_levels, sigmoid
from veilscore.data.table import Column


def columns(rng: np.random.Generator, quality: Floats, size: Floats) -> dict[str, Column]:
    """Draw the columns, each (n,), from latent quality and size, each (n,) standard normal."""
    n = len(quality)
    balance = np.sinh(8 + 1.6 * size + 1.2 * quality + 1.2 * rng.standard_t(4, n).clip(-8, 8))
    overdrawn = rng.random(n) < sigmoid(-1.2 - 0.8 * quality)
    days = np.where(overdrawn, np.minimum(rng.geometric(0.08, n), 90), 0)
    age_like = np.exp(1.4 + 0.3 * quality + 0.6 * rng.standard_normal(n))
    return {
        "account_balance": np.round(np.where(rng.random(n) < 0.04, -0.1 * balance, balance), 2),
        "overdraft_days": days.astype(np.float64),
        "previous_loans": rng.poisson(np.exp(0.2 + 0.2 * quality)).clip(0, 12).astype(np.float64),
        "loan_amount": np.round(np.exp(12 + 0.8 * size + 0.5 * rng.standard_normal(n)), -3),
        "loan_term_months": rng.choice([6.0, 12.0, 24.0, 36.0, 60.0], n, p=[0.1, 0.4, 0.25, 0.2, 0.05]),
        "collateral": draw_levels(rng, n, {"none": 0.45, "property": 0.3, "guarantee": 0.2, "equipment": 0.05}),
        "relationship_years": np.round(np.minimum(age_like, 40), 1),
    }


simulated = SimulatedColumns(
    draw=columns,
    effects=(
        Effect("account_balance", "asinh", -0.35, centre=8.0, scale=5.0),
        Effect("overdraft_days", "log1p", 0.45, centre=0.6, scale=1.0),
        Effect("previous_loans", "identity", -0.20, centre=1.5, scale=1.2),
        Effect("collateral", "level", 0.40, level="none"),
        Effect("relationship_years", "log1p", -0.25, centre=1.6, scale=0.7),
    ),
    missing={"relationship_years": 0.06, "account_balance": 0.02},
)
