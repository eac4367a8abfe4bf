"""A portfolio of new limits within a budget over industries and regions, as a linear programme.

Each firm's limit is granted, or not, so that what the limits earn together is most. The shadow price of a budget is
what one more unit of it would earn: a firm gets its limit if it earns more than the budgets that it takes from are
worth, which is the one-line reason of its yes or no.

Source: Dantzig, Discrete-variable extremum problems, 1957 (the relaxed knapsack and its prices); solved by HiGHS
(Huangfu and Hall, Parallelizing the dual revised simplex method, 2018). At an optimal vertex at most as many limits are
split as budgets bind; those are granted whole while they fit, in order of what they earn, else not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from party_bank.settings import Budget, amount_of
from veilscore.arrays import Integers, Mask, Vector
from veilscore.errors import BookError, ConfigError

_WHOLE = 1 - 1e-7
_TOTAL = "total"


@dataclass(frozen=True, repr=False)
class LimitCandidates:
    """Firms that would get a limit, (n,) each.

    amount : of each limit, in hundredths, positive; earns : what a year of it earns after expected losses, as a share
        of the limit (0.021: 2.1 %), perhaps negative; industry, region : of each firm.
    """

    firms: Sequence[str]
    amount: Integers
    earns: Vector
    industry: Sequence[str]
    region: Sequence[str]


@dataclass(frozen=True, repr=False)
class PortfolioPlan:
    """Which limits are granted and why.

    granted : (n,); prices : budget -> what a unit more of it would earn, as a share; earned : hundredths a year of what
        is granted; bound : hundredths a year that no choice of limits can pass.
    """

    candidates: LimitCandidates
    granted: Mask
    prices: Mapping[str, float]
    earned: float
    bound: float

    def reason(self, row: int) -> str:
        """Return in one line why a candidate gets its limit or not."""
        c = self.candidates
        earns = f"earns {c.earns[row]:.2%} of its limit a year"
        budgets = (_TOTAL, f"industry {c.industry[row]}", f"region {c.region[row]}")
        scarce = {name: self.prices[name] for name in budgets if self.prices.get(name, 0.0) > 0}
        worth = " + ".join(f"{price:.2%} ({name})" for name, price in scarce.items())
        if self.granted[row]:
            return f"yes: {earns}; " + (f"the budgets it takes are worth {worth}" if scarce else "no budget is scarce")
        if c.earns[row] <= 0:
            return f"no: {earns}, which is no gain"
        if c.earns[row] < sum(scarce.values()) * (1 - 1e-9):
            return f"no: {earns}; the budgets it would take are worth {worth}"
        return f"no: {earns}, just what the budgets are worth ({worth}), and its limit no longer fits whole"


def plan_portfolio(
    candidates: LimitCandidates, budget: Budget, used: Mapping[str, int] | None = None, *, limit_s: float = 30.0
) -> PortfolioPlan:
    """Choose which limits to grant.

    used : budget -> hundredths of it that are lent already ("total", "industry NAME", "region NAME").
    limit_s : longest time that the solver takes.
    Raises BookError where a budget is below what is lent already, or there is no solution in time.
    """
    c = candidates
    n = len(c.firms)
    if not len(c.amount) == len(c.earns) == len(c.industry) == len(c.region) == n:
        raise ConfigError("firms, amounts, earnings, industries and regions of candidates must be equally many")
    if n and (c.amount.min() <= 0 or not np.isfinite(c.earns).all()):
        raise ConfigError("each candidate needs a positive amount and a finite share that it earns")
    caps = _caps(budget, used or {})
    rows = {name: number for number, name in enumerate(caps)}
    value = c.amount * c.earns
    if not n:
        return PortfolioPlan(c, np.zeros(0, bool), dict.fromkeys(caps, 0.0), 0.0, 0.0)
    taken = [
        np.full(n, rows[_TOTAL]),
        np.array([rows.get(f"industry {name}", -1) for name in c.industry]),
        np.array([rows.get(f"region {name}", -1) for name in c.region]),
    ]
    left = np.array([float(cap) for cap in caps.values()])
    share, price, bound = _solve(c.amount.astype(float), value, np.stack(taken, axis=1), left, limit_s)
    granted = _whole(share, c, np.stack(taken, axis=1), left)
    earned = float(value[granted].sum())
    return PortfolioPlan(c, granted, dict(zip(caps, price.tolist(), strict=True)), earned, bound)


def _caps(budget: Budget, used: Mapping[str, int]) -> dict[str, int]:
    """Return what is left of each budget in hundredths."""
    caps = {_TOTAL: budget.total}
    caps |= {f"industry {name}": most for name, most in budget.industries.items()}
    caps |= {f"region {name}": most for name, most in budget.regions.items()}
    left = {name: amount_of(most) - used.get(name, 0) for name, most in caps.items()}
    for name, amount in left.items():
        if amount < 0:
            raise BookError(
                f"the budget of {name} is {caps[name]:,} and {used[name] / 100:,.2f} is lent already: raise it in "
                "bank.yaml, or end contracts first"
            )
    return left


def _solve(
    amount: Vector, value: Vector, taken: Integers, left: Vector, limit_s: float
) -> tuple[Vector, Vector, float]:
    """Maximise value @ x with 0 <= x <= 1 within the budgets; return x, the shadow prices and the optimum."""
    import highspy  # noqa: PLC0415 - an extra
    from highspy._core import _Highs  # noqa: PLC0415 - the public class prints a banner before it can be silenced

    scale = max(1.0, float(amount.mean()))
    lp = highspy.HighsLp()
    n, m = len(amount), len(left)
    lp.num_col_, lp.num_row_ = n, m
    lp.sense_ = highspy.ObjSense.kMaximize
    lp.col_cost_ = value / scale
    lp.col_lower_, lp.col_upper_ = np.zeros(n), np.ones(n)
    lp.row_lower_, lp.row_upper_ = np.full(m, -highspy.kHighsInf), left / scale
    used = taken >= 0
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.concatenate([[0], used.sum(axis=1).cumsum()]).astype(np.int32)
    lp.a_matrix_.index_ = taken[used].astype(np.int32)
    lp.a_matrix_.value_ = np.repeat(amount / scale, used.sum(axis=1))
    solver = _Highs()
    # with few rows and many columns presolve takes longer than the simplex without it, 20 times as long at worst
    for option, setting in (
        ("output_flag", False),
        ("presolve", "off"),
        ("solver", "simplex"),
        ("time_limit", limit_s),
    ):
        solver.setOptionValue(option, setting)
    solver.passModel(lp)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        state = solver.modelStatusToString(solver.getModelStatus())
        raise BookError(f"no portfolio was found in {limit_s:.0f} s ({state}): split the candidates, or wait longer")
    solution = solver.getSolution()
    price = np.maximum(np.array(solution.row_dual), 0.0)
    return np.array(solution.col_value), price, float(solver.getInfo().objective_function_value) * scale


def _whole(share: Vector, c: LimitCandidates, taken: Integers, left: Vector) -> Mask:
    """Return which limits are granted whole: all that the solution has whole, and of the split ones what still fits."""
    granted: Mask = share >= _WHOLE
    left = left.copy()
    for column in taken.T:
        there = granted & (column >= 0)
        np.subtract.at(left, column[there], c.amount[there].astype(float))
    split = np.flatnonzero((share > 1e-7) & ~granted)
    for row in split[np.argsort(-c.earns[split], kind="stable")]:
        budgets = taken[row][taken[row] >= 0]
        if (left[budgets] >= c.amount[row]).all():
            granted[row] = True
            left[budgets] -= c.amount[row]
    return granted
