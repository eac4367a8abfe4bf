"""Event tables that a credit bureau keeps of simulated firms: trade lines with other lenders, and enquiries.

A bureau has no package of its own: a holder by configuration alone.
"""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Array
from veilscore.data.life import MONTHS, Tables, World, dates, month_start, pick


def events(world: World) -> Tables:
    """Return the tables of a block of firms."""
    rng = world.rng("bureau")
    strain = np.exp(0.7 * np.clip(world.distress, -2, 4))
    found = world.occur(rng, 0.1 * strain)
    return {
        "trade_lines": _lines(world, rng),
        "enquiries": {
            "uscc": world.ids[found.firm].astype(object),
            "asked_on": dates(found.day),
            "received_on": dates(found.day + 1),
            "lender": (found.firm * 13 + rng.integers(0, 20, found.n)).astype(np.int64) % 200,
            "purpose": pick(rng, {"new_loan": 0.6, "review": 0.3, "guarantee": 0.1}, found.n),
        },
    }


def _lines(world: World, rng: np.random.Generator) -> dict[str, Array]:
    """Return what each other lender reports at the end of each quarter."""
    lenders = np.minimum(rng.poisson(0.9, world.n), 5)
    quarters = np.arange(2, MONTHS, 3)
    firm = np.repeat(np.arange(world.n), lenders)
    number = np.concatenate([np.arange(k) for k in lenders]) if len(firm) else firm
    limit = np.round(np.exp(12 + 0.8 * world.size[firm] + 0.5 * rng.standard_normal(len(firm))), -3)
    line, month = np.repeat(np.arange(len(firm)), len(quarters)), np.tile(quarters, len(firm))
    alive = world.alive[firm[line], month]
    line, month = line[alive], month[alive]
    distress = world.distress[firm[line], month]
    use = np.clip(0.45 + 0.18 * distress + 0.1 * rng.standard_normal(len(line)), 0, 1.1)
    failed = month >= world.fails[firm[line]]
    overdue = failed | (rng.random(len(line)) < 0.02 * np.exp(0.8 * np.clip(distress, -2, 4)))
    end = month_start(month + 1) - 1
    return {
        "uscc": world.ids[firm[line]].astype(object),
        "reported_on": dates(end),
        "received_on": dates(end + rng.integers(3, 12, len(line))),
        "lender": ((firm[line] * 17 + number[line] * 31) % 200).astype(np.int64),
        "product": pick(rng, {"credit": 0.6, "mortgage": 0.3, "lease": 0.1}, len(line)),
        "limit_amount": limit[line],
        "balance": np.round(limit[line] * use, 0),
        "overdue_days": np.where(overdue, rng.integers(5, 90, len(line)), 0).astype(np.float64),
    }
