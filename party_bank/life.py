"""Event tables that a bank keeps of simulated firms: bookings, balances, loans, repayments, and defaults."""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Array
from veilscore.data.life import MONTHS, Tables, World, dates, month_start, pick

_DAYS_TO_DEFAULT = 90  # overdue


def events(world: World) -> Tables:
    """Return the tables of a block of firms."""
    rng = world.rng("bank")
    return {
        "bookings": _bookings(world, rng),
        "balances": _balances(world, rng),
        "loans": _loans(world, rng),
        "repayments": _repayments(world, rng),
        "defaults": _defaults(world),
    }


def _bookings(world: World, rng: np.random.Generator) -> dict[str, Array]:
    found = world.occur(rng, 3.0 * np.exp(0.25 * (world.sales - 11.5)))
    incoming = rng.random(found.n) < 0.5
    size = world.sales[found.firm, found.month] - np.log(3.0)
    channels = pick(rng, {"transfer": 0.7, "payroll": 0.08, "tax": 0.07, "cash": 0.15}, found.n)
    channels[incoming & np.isin(channels, ("payroll", "tax"))] = "transfer"
    return {
        "uscc": world.ids[found.firm].astype(object),
        "booked_on": dates(found.day),
        "direction": np.where(incoming, "in", "out").astype(object),
        "channel": channels,
        "counterparty": (found.firm * 31 + np.minimum(rng.zipf(1.7, found.n), 30)).astype(np.int64),
        "amount": np.round(np.exp(size + 0.8 * rng.standard_normal(found.n)), 2),
    }


def _balances(world: World, rng: np.random.Generator) -> dict[str, Array]:
    firm, month = np.nonzero(world.alive)
    n, distress = len(firm), world.distress[firm, month]
    balance = np.exp(world.sales[firm, month] - 0.8 * distress + 0.5 * rng.standard_normal(n) - 0.5)
    overdrawn = rng.random(n) < 0.08 * np.exp(0.9 * np.clip(distress, -2, 4))
    return {
        "uscc": world.ids[firm].astype(object),
        "month_end": dates(month_start(month + 1) - 1),
        "balance": np.round(balance, 2),
        "overdraft_days": np.where(overdrawn, np.minimum(rng.geometric(0.15, n), 28), 0).astype(np.float64),
    }


def _loans(world: World, rng: np.random.Generator) -> dict[str, Array]:
    firm, month = np.nonzero(world.drawn & (world.month[None, :] < world.fails[:, None]))
    n = len(firm)
    drawn = month_start(month) + rng.integers(0, 28, n)
    return {
        "uscc": world.ids[firm].astype(object),
        "drawn_on": dates(drawn),
        "due_on": dates(drawn + 365),
        "product": pick(rng, {"credit": 0.5, "mortgage": 0.3, "guaranteed": 0.2}, n),
        "amount": np.round(np.exp(world.sales[firm, month] + 0.7 + 0.3 * rng.standard_normal(n)), -3),
    }


def _repayments(world: World, rng: np.random.Generator) -> dict[str, Array]:
    """Return a row for each month's instalment that was paid; what a failed firm owes is not paid."""
    firm, month = np.nonzero(world.open & (world.month[None, :] < world.fails[:, None]))
    n, distress = len(firm), np.clip(world.distress[firm, month], -2, 4)
    due = month_start(month) + 20
    late = rng.random(n) < 0.06 * np.exp(1.0 * distress)
    days = np.where(late, rng.geometric(0.1, n), 0)
    amount = np.exp(world.sales[firm, month] - 2.5)
    return {
        "uscc": world.ids[firm].astype(object),
        "due_on": dates(due),
        "paid_on": dates(due + days),
        "timely": np.where(late, "late", "timely").astype(object),
        "amount": np.round(amount, 2),
        "days_late": days.astype(np.float64),
    }


def _defaults(world: World) -> dict[str, Array]:
    month = np.minimum(world.fails, MONTHS - 1)
    firm = np.flatnonzero((world.fails < MONTHS) & world.open[np.arange(world.n), month])
    return {
        "uscc": world.ids[firm].astype(object),
        "defaulted_on": dates(month_start(world.fails[firm]) + 20 + _DAYS_TO_DEFAULT),
    }
