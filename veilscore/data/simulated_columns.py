"""Draw the columns of simulated firms, and state their true effects on the log-odds of default.

Amounts are in yuan, growth is a fraction, delays and changes are counts of the last twelve months.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from veilscore.arrays import Vector
from veilscore.data.table import Column

MISSING_SHARE = {
    "relationship_years": 0.06,
    "account_balance": 0.02,
    "turnover_growth": 0.12,
    "vat_paid": 0.04,
    "headcount": 0.08,
    "tax_rating": 0.10,
    "registered_capital": 0.03,
    "ownership_changes": 0.05,
}


@dataclass(frozen=True)
class Effect:
    """True effect of one column: coefficient * (transform(value) - centre) / scale, or of one level."""

    party: str
    column: str
    transform: Literal["identity", "log1p", "asinh", "level"]
    coefficient: float
    centre: float = 0.0
    scale: float = 1.0
    level: str = ""

    def log_odds(self, values: Column) -> Vector:
        """Return the contribution of each row to the log-odds, (n,) float64."""
        if self.transform == "level":
            return np.where(values == self.level, self.coefficient, 0.0)
        numbers: Vector = values
        if self.transform == "log1p":
            numbers = np.log1p(numbers)
        elif self.transform == "asinh":
            numbers = np.arcsinh(numbers)
        return self.coefficient * (numbers - self.centre) / self.scale


EFFECTS = (
    Effect("bank", "account_balance", "asinh", -0.35, centre=8.0, scale=5.0),
    Effect("bank", "overdraft_days", "log1p", 0.45, centre=0.6, scale=1.0),
    Effect("bank", "previous_loans", "identity", -0.20, centre=1.5, scale=1.2),
    Effect("bank", "collateral", "level", 0.40, level="none"),
    Effect("bank", "relationship_years", "log1p", -0.25, centre=1.6, scale=0.7),
    Effect("tax", "turnover", "log1p", -0.30, centre=14.0, scale=1.5),
    Effect("tax", "turnover_growth", "identity", -0.45, centre=0.0, scale=0.35),
    Effect("tax", "arrears", "log1p", 0.35, centre=1.3, scale=3.5),
    Effect("tax", "filing_delays", "log1p", 0.40, centre=0.5, scale=0.6),
    Effect("tax", "tax_rating", "level", -0.50, level="A"),
    Effect("tax", "tax_rating", "level", 0.90, level="D"),
    Effect("tax", "penalty_flag", "identity", 1.20),
    Effect("registry", "firm_age_years", "log1p", -0.35, centre=1.9, scale=0.7),
    Effect("registry", "legal_form", "level", 0.30, level="sole proprietor"),
    Effect("registry", "court_cases", "log1p", 0.55, centre=0.1, scale=0.4),
    Effect("registry", "ownership_changes", "identity", 0.20, centre=0.4, scale=0.7),
    Effect("registry", "abnormal_listing", "identity", 1.50),
)


def sigmoid(x: Vector) -> Vector:
    """Return the logistic function (that of `models.loss` is a layer above)."""
    return np.asarray(1 / (1 + np.exp(-x)), dtype=np.float64)


def bank_columns(rng: np.random.Generator, quality: Vector, size: Vector) -> dict[str, Column]:
    """Return the bank's columns, each (n,), from latent quality and size, each (n,) standard normal."""
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
        "collateral": _levels(rng, n, {"none": 0.45, "property": 0.3, "guarantee": 0.2, "equipment": 0.05}),
        "relationship_years": np.round(np.minimum(age_like, 40), 1),
    }


def tax_columns(rng: np.random.Generator, quality: Vector, size: Vector) -> dict[str, Column]:
    """Return the tax bureau's columns, each (n,), from latent quality and size, each (n,) standard normal."""
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


def registry_columns(rng: np.random.Generator, quality: Vector, size: Vector) -> dict[str, Column]:
    """Return the business registry's columns, each (n,), from latent quality and size, each (n,) standard normal."""
    n = len(quality)
    forms = {"limited": 0.7, "sole proprietor": 0.2, "partnership": 0.06, "joint stock": 0.03, "cooperative": 0.01}
    return {
        "firm_age_years": np.round(np.exp(1.8 + 0.3 * quality + 0.6 * rng.standard_normal(n)).clip(0.1, 60), 1),
        "legal_form": _levels(rng, n, forms),
        "registered_capital": np.round(np.exp(13.5 + 1.1 * size + 0.9 * rng.standard_normal(n)), -4),
        "court_cases": rng.poisson(np.exp(-2.3 - 0.8 * quality)).clip(0, 50).astype(np.float64),
        "ownership_changes": rng.poisson(np.exp(-1.0 - 0.2 * quality)).clip(0, 8).astype(np.float64),
        "abnormal_listing": (rng.random(n) < sigmoid(-5 - 0.7 * quality)).astype(np.float64),
    }


def _levels(rng: np.random.Generator, n: int, shares: Mapping[str, float]) -> Column:
    names = np.array(list(shares), dtype=object)
    return np.asarray(names[rng.choice(len(names), n, p=list(shares.values()))])
