"""A portfolio of 100,000 limits within budgets over 20 industries and 31 regions: time, and that it is the best one.

That it is the best one is checked by its prices alone: whatever the limits, the budgets at these prices and what firms
earn beyond them are worth no less than any portfolio earns (weak duality), so that equality proves the optimum.
"""

from __future__ import annotations

import time

import numpy as np
from result import emit

from party_bank.portfolio import LimitCandidates, PortfolioPlan, plan_portfolio
from party_bank.settings import Budget, amount_of

N_FIRMS, INDUSTRIES, REGIONS = 100_000, 20, 31
BOUND_S = 30.0


def made() -> tuple[LimitCandidates, Budget]:
    rng = np.random.default_rng(1)
    amount = amount_of(1) * rng.choice([50_000, 100_000, 200_000, 300_000, 500_000, 750_000, 1_000_000], N_FIRMS)
    industry = rng.zipf(1.4, N_FIRMS) % INDUSTRIES
    region = rng.integers(0, REGIONS, N_FIRMS)
    whole = int(amount.sum()) // amount_of(1)
    shares = np.bincount(industry, amount, INDUSTRIES) / amount_of(1)
    budget = Budget(
        total=whole // 3,
        industries={f"industry {k}": max(1, int(shares[k] * (0.25 if k % 3 else 0.8))) for k in range(INDUSTRIES)},
        regions={f"region {k}": int(whole / REGIONS * (0.2 if k % 4 == 0 else 0.9)) for k in range(REGIONS)},
    )
    return (
        LimitCandidates(
            [f"{n:06d}" for n in range(N_FIRMS)],
            amount,
            rng.normal(0.015, 0.02, N_FIRMS),
            [f"industry {k}" for k in industry],
            [f"region {k}" for k in region],
        ),
        budget,
    )


def dual(plan: PortfolioPlan, budget: Budget) -> tuple[float, float]:
    """What the budgets and the firms are worth at the plan's prices, and how much of a budget is passed at most."""
    c, prices = plan.candidates, plan.prices
    caps = {"total": budget.total}
    caps |= {f"industry {name}": most for name, most in budget.industries.items()}
    caps |= {f"region {name}": most for name, most in budget.regions.items()}
    worth = np.array([
        prices["total"] + prices.get(f"industry {i}", 0.0) + prices.get(f"region {r}", 0.0)
        for i, r in zip(c.industry, c.region, strict=True)
    ])  # fmt: skip
    value = sum(prices[name] * amount_of(most) for name, most in caps.items())
    value += float((c.amount * np.maximum(0.0, c.earns - worth)).sum())
    used = {"total": int(c.amount[plan.granted].sum())}
    for name in budget.industries:
        used[f"industry {name}"] = int(c.amount[plan.granted & (np.array(c.industry) == name)].sum())
    for name in budget.regions:
        used[f"region {name}"] = int(c.amount[plan.granted & (np.array(c.region) == name)].sum())
    return value, max(used[name] - amount_of(most) for name, most in caps.items())


def main() -> None:
    candidates, budget = made()
    started = time.perf_counter()
    plan = plan_portfolio(candidates, budget)
    planned_s = time.perf_counter() - started
    reasons = [plan.reason(row) for row in range(N_FIRMS)]
    total_s = time.perf_counter() - started
    value, passed = dual(plan, budget)
    gap = abs(value - plan.bound) / plan.bound
    scarce = sum(price > 0 for price in plan.prices.values())
    agree = all(reason.startswith("yes") == bool(yes) for reason, yes in zip(reasons, plan.granted, strict=True))
    print(f"{N_FIRMS:,} firms, {len(plan.prices)} budgets, {scarce} of them scarce: {planned_s:.1f} s, {total_s:.1f} s")
    print(f"granted {int(plan.granted.sum()):,}; whole limits earn {plan.earned / plan.bound:.4%} of the optimum")
    print(f"first: {reasons[0]}\nlast:  {reasons[-1]}")
    emit(
        "portfolio",
        round(total_s, 2),
        "s",
        BOUND_S,
        total_s <= BOUND_S and gap < 1e-6 and passed <= 0 and agree and plan.earned / plan.bound > 0.999,
        planned_s=round(planned_s, 2),
        granted=int(plan.granted.sum()),
        scarce=scarce,
        duality_gap=gap,
        of_optimum=plan.earned / plan.bound,
    )


if __name__ == "__main__":
    main()
