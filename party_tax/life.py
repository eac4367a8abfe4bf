"""Event tables that a tax bureau keeps of simulated firms: VAT invoices and filings.

An invoice that is voided has a second row, known later; a red-letter invoice is one of its own, with a negative amount.
"""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Array
from veilscore.data.life import MONTHS, Tables, World, dates, month_start, pick


def events(world: World) -> Tables:
    """Return the tables of a block of firms."""
    rng = world.rng("tax")
    return {"invoices": _invoices(world, rng), "filings": _filings(world, rng)}


def _invoices(world: World, rng: np.random.Generator) -> dict[str, Array]:
    lead = np.zeros((world.n, MONTHS), dtype=np.bool_)  # the half-year before a fraudster draws a loan
    for back in range(1, 7):
        lead[:, :-back] |= world.drawn[:, back:]
    rings = world.fraud[:, None] & lead
    made = []
    for side, share in (("out", 1.0), ("in", 0.7)):
        rate = share * np.clip(np.exp(0.35 * (world.sales - 11.5) + 0.7), 0, 40) * np.where(rings, 2.0, 1.0)
        found = world.occur(rng, rate)
        n, round_trip = found.n, rings[found.firm, found.month] & (rng.random(found.n) < 0.5)
        spread = np.exp(0.9 * rng.standard_normal(n) - 0.4)
        amount = np.round(
            np.exp(world.sales[found.firm, found.month]) / rate[found.firm, found.month] * share * spread, 2
        )
        distress = np.clip(world.distress[found.firm, found.month], -2, 4)
        red = rng.random(n) < 0.012 * np.exp(0.35 * distress)
        # customers are few per firm and drawn with unequal weights; a ring's partner is the next firm of its block
        rank = np.minimum(rng.zipf(1.6, n), 40)
        partner = np.where(round_trip, -1 - (found.firm + 1) % world.n, (found.firm * 7919 + rank * 104_729) % 900_000)
        reported = found.day + rng.geometric(0.4, n) - 1
        made.append((found, side, np.where(red, -amount, amount), red, partner, reported))
    firm, day, amount, reported, partner = (
        np.concatenate(parts)
        for parts in (
            [one[0].firm for one in made],
            [one[0].day for one in made],
            [one[2] for one in made],
            [one[5] for one in made],
            [one[4] for one in made],
        )
    )
    sides = np.concatenate([np.full(one[0].n, one[1], dtype=object) for one in made])
    status = np.where(np.concatenate([one[3] for one in made]), "red", "valid").astype(object)
    number = np.arange(len(firm))
    voided = np.flatnonzero(rng.random(len(firm)) < 0.025)
    late = reported[voided] + rng.integers(1, 40, len(voided))
    rows = np.concatenate([number, voided])
    status = np.concatenate([status, np.full(len(voided), "void", dtype=object)])
    order = np.argsort(np.concatenate([reported, late]), kind="stable")
    rows, status, known = rows[order], status[order], np.concatenate([reported, late])[order]
    names = np.array([f"C{one:06d}" for one in range(900_000)], dtype=object) if len(firm) > 2_000_000 else None
    inside, outside = partner[rows] < 0, partner[rows]
    counterparty = np.empty(len(rows), dtype=object)
    counterparty[inside] = world.ids[(-1 - outside[inside])]
    others = outside[~inside]
    counterparty[~inside] = names[others] if names is not None else [f"C{one:06d}" for one in others.tolist()]
    rate = np.array([0.13, 0.09, 0.09, 0.09, 0.06, 0.06, 0.03, 0.06])[world.industry[firm[rows]]]
    return {
        "uscc": world.ids[firm[rows]].astype(object),
        "invoice_no": number[rows],
        "issued_on": dates(day[rows]),
        "reported_on": dates(known),
        "side": sides[rows],
        "status": status,
        "counterparty": counterparty,
        "amount": amount[rows],
        "tax": np.round(amount[rows] * rate, 2),
    }


def _filings(world: World, rng: np.random.Generator) -> dict[str, Array]:
    firm, month = np.nonzero(world.alive)
    distress = world.distress[firm, month]
    filed = rng.random(len(firm)) > 0.01 * np.exp(0.6 * np.clip(distress, -2, 4))
    firm, month, distress = firm[filed], month[filed], distress[filed]
    n, period_end = len(firm), month_start(month + 1) - 1
    due = period_end + 15
    late = rng.random(n) < 0.05 * np.exp(0.9 * np.clip(distress, -2, 4))
    filed_on = np.where(late, due + rng.geometric(0.08, n), due - rng.integers(0, 11, n))
    declared = np.exp(world.sales[firm, month] + 0.1 * rng.standard_normal(n)) * np.where(world.fraud[firm], 1.3, 1.0)
    paid = declared * 0.03 * np.where(late & (rng.random(n) < 0.3), 0.0, 1.0)
    return {
        "uscc": world.ids[firm].astype(object),
        "period_end": dates(period_end),
        "due_on": dates(due),
        "filed_on": dates(filed_on),
        "kind": pick(rng, {"vat": 0.75, "income": 0.25}, n),
        "timely": np.where(late, "late", "timely").astype(object),
        "declared": np.round(declared, 2),
        "paid": np.round(paid, 2),
        "days_late": np.maximum(filed_on - due, 0).astype(np.float64),
    }
