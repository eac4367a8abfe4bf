"""Prices a loan: the rate of least expected loss after lost customers, as a table that is exact in the default risk.

A firm of grade g with probability of default p that is offered the annual rate r takes it with probability 1 - c(g, r),
c being the share of customers lost at that rate. Per yuan lent for a year it then brings r - f where it pays and loses
L + f where it does not, f being what the money costs and L the loss given default:

    value(r) = (1 - c) ((1 - p) (r - f) - p (L + f)) = (1 - c) ((r - f) - p (r + L)),

a straight line in p for each rate. The best rate is the upper envelope of these lines, so it changes at finitely many
p, which are the table's limits; beyond the last one every rate loses, and the firm gets no offer.
Left out: that who accepts a high rate may be a worse risk than who declines it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from party_bank.policy.tables import DecisionTable, Row, graph_of
from veilscore.errors import ConfigError, DataError

_DIGITS = 6  # of a limit, in probability of default


@dataclass(frozen=True)
class Churn:
    """Share of customers lost by annual rate and grade.

    rates : ascending, as parts of 1; lost : grade -> share lost at each rate.
    """

    rates: tuple[float, ...]
    lost: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Terms:
    """What a loan costs the bank: money, a year, and the part of a loan that a default loses, both as parts of 1."""

    funding: float
    loss_given_default: float

    def __post_init__(self) -> None:
        """Refuse what is no cost."""
        if not (0 <= self.funding < 1 and 0 < self.loss_given_default <= 1):
            raise ConfigError("funding must be from 0 to below 1, the loss given default above 0 and at most 1")


def read_churn(path: Path) -> Churn:
    """Read a CSV of `annual_rate` and one column `churn_GRADE` a grade; DataError says what is wrong with it."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        rates = tuple(float(row["annual_rate"]) for row in rows)
        grades = [name for name in rows[0] if name.startswith("churn_")]
        lost = {name.removeprefix("churn_"): tuple(float(row[name]) for row in rows) for name in grades}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, IndexError, TypeError, ValueError):
        raise DataError(f"{path} must have a column annual_rate and columns churn_GRADE with numbers") from None
    shares = [share for column in lost.values() for share in column]
    if not lost or not all(0 <= share <= 1 for share in shares) or not all(0 < rate < 1 for rate in rates):
        raise DataError(f"{path}: rates must be within (0, 1), and shares of customers lost within [0, 1]")
    if any(b <= a for a, b in pairwise(rates)):
        raise DataError(f"{path}: rates must ascend")
    return Churn(rates, lost)


def value(rate: float, lost: float, pd: float, terms: Terms) -> float:
    """Return what a yuan offered at a rate brings in a year, lost customers and defaults counted."""
    return (1 - lost) * ((rate - terms.funding) - pd * (rate + terms.loss_given_default))


def steps_of(rates: Sequence[float], lost: Sequence[float], terms: Terms) -> list[tuple[float, float]]:
    """Return each rate that is somewhere the best, with the probability of default from which it is.

    The last entry is (nan, from where no rate brings anything).
    """
    lines = [
        ((1 - c) * (r - terms.funding), (1 - c) * (r + terms.loss_given_default))
        for r, c in zip(rates, lost, strict=True)
    ]
    at, found = 0.0, list[tuple[float, float]]()
    best = max(range(len(lines)), key=lambda k: (lines[k][0], -lines[k][1]))
    while lines[best][0] - at * lines[best][1] > 0:
        found.append((rates[best], at))
        # lines that fall less steeply overtake the best one further on; the first to do so comes next
        a, b = lines[best]
        ahead = [((a - c) / (b - d), -d, k) for k, (c, d) in enumerate(lines) if d < b]
        zero = a / b
        overtaken = min(ahead, default=(zero, 0.0, best))
        if overtaken[0] >= zero:
            return [*found, (math.nan, zero)]
        at, best = overtaken[0], overtaken[2]
    return [*found, (math.nan, at)]


def pricing_graph(churn: Churn, terms: Terms) -> bytes:
    """Return the pricing policy as a JDM file: asked grade and pd, it answers `offer` and `annual_rate`."""
    rows = []
    for grade, lost in churn.lost.items():
        steps = [(rate, round(start, _DIGITS)) for rate, start in steps_of(churn.rates, lost, terms)]
        for (rate, low), (_, high) in pairwise(steps):
            if high > low:
                why = f"best of the rates for grade {grade} while pd is in [{low:g}, {high:g})"
                tests = {"grade": f"'{grade}'", "pd": f"[{low:g}..{high:g})"}
                rows.append(Row(tests, {"offer": "true", "annual_rate": f"{rate:g}"}, why))
        why = f"no rate brings what a firm of grade {grade} loses at such a pd"
        rows.append(
            Row({"grade": f"'{grade}'", "pd": f">= {steps[-1][1]:g}"}, {"offer": "false", "annual_rate": "0"}, why)
        )
    asked = {"grade": {"enum": list(churn.lost)}, "pd": {"type": "number", "minimum": 0, "maximum": 1}}
    answered = {"offer": {"type": "boolean"}, "annual_rate": {"type": "number", "minimum": 0, "exclusiveMaximum": 1}}
    return graph_of(asked, answered, DecisionTable("pricing", rows))
