"""The most that any reader of simulated events can foretell: a Bayes filter that knows the laws of the simulation.

Distress, of which firms fail, is hidden; events show it through noise that no variable takes away. The filter knows all
that `veilscore/data/life.py` and the `life.py` of each holder say (rates, effects, shocks of industries, which firms
draw money on round trips) except the draws, reads the events of all holders when they are known, and gives the
probability that a firm fails in the next three months. No model that has to learn from labels can do better on average.
Texts are read by their last sentence alone; enforcement, patents, revenue and the counterparties of bookings are not.
With told=False it knows the laws and not what no event of a firm says: the shocks of industries, and who is a fraud.

Source: Doucet, de Freitas, Gordon, Rao-Blackwellised particle filtering for dynamic Bayesian networks, 2000: distress
is drawn, quality and size are Gaussian given its path, and so are the logs of amounts.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from veilscore.data.life import BLOCK, EFFECTS, MONTHS, START, World, _shocks, make_world
from veilscore.data.simulate import firm_ids, sigmoid

PARTICLES, AT_ONCE = 400, 2000
HORIZON = 3
YEAR_ENDS = (11, 23)  # months whose annual reports are read
_TABLES: dict[str, tuple[str, str, str, dict[str, str]]] = {  # what is read: table, day, rows, values of a month
    "bookings": ("bank/bookings", "booked_on", "true", {"n": "count(*)", "y": "avg(ln(greatest(amount, 0.01)))"}),
    "balances": ("bank/balances", "month_end", "true",
                 {"y": "avg(ln(greatest(balance, 0.01)))", "overdrawn": "max((overdraft_days > 0)::INT)"}),
    "repayments": ("bank/repayments", "due_on", "true",
                   {"y": "avg(ln(greatest(amount, 0.01)))", "late": "max((timely = 'late')::INT)"}),
    "loans": ("bank/loans", "drawn_on", "true", {"y": "avg(ln(greatest(amount, 1)))"}),
    "filings": ("tax/filings", "period_end", "true",
                {"y": "avg(ln(greatest(declared, 0.01)))", "late": "max((timely = 'late')::INT)"}),
    **{side: ("tax/invoices", "issued_on", f"side = '{side}' AND status <> 'void'",
              {"n": "count(*)", "y": "avg(ln(greatest(abs(amount), 0.01)))", "red": "sum((status = 'red')::INT)"})
       for side in ("out", "in")},
    "changes": ("registry/changes", "changed_on", "true", {"n": "count(*)"}),
    "penalties": ("registry/penalties", "decided_on", "true", {"n": "count(*)"}),
    "reports": ("registry/annual_reports", "year_end", "true",
                {"leverage": "avg(liabilities / assets)", "margin": "avg(profit / revenue)",
                 "employees": "avg(ln(employees))", "known": "max(epoch(filed_on) / 86400)"}),
    "cases": ("court/cases", "filed_on", "true",
              {"n": "count(*)", "strained": "max((role = 'defendant' AND content SIMILAR TO "
               "'.*(冻结被告账户|失信被执行人名单|法定代表人失联)。')::INT)",
               "calm": "max((role = 'defendant' AND content NOT SIMILAR TO "
               "'.*(yuan|liable).*|.*(冻结被告账户|失信被执行人名单|法定代表人失联)。')::INT)"}),
    "enquiries": ("bureau/enquiries", "asked_on", "true", {"n": "count(*)"}),
    "lines": ("bureau/trade_lines", "reported_on", "true",
              {"n": "count(*)", "use": "avg(balance / limit_amount)", "overdue": "sum((overdue_days > 0)::INT)"}),
}  # fmt: skip
Seen = dict[str, dict[str, np.ndarray]]


def world_of(n_firms: int, seed: int) -> tuple[World, np.ndarray]:
    """Return the first block of a simulated life, and the shocks of industries (industries, 36)."""
    ids = firm_ids(np.random.default_rng([seed, 7]), n_firms)[:BLOCK]
    shocks = _shocks(np.random.default_rng([seed, 8]))
    return make_world(len(ids), (seed, 0), ids, shocks), shocks


def read_events(folder: Path, ids: np.ndarray) -> Seen:
    """Return what the events of each month say, (n, 36) each, NaN where there was none."""
    found: Seen = {}
    with duckdb.connect() as db:
        db.execute("SET threads = 1")
        db.register("asked", {"uscc": ids.astype(object), "i": np.arange(ids.size)})
        for name, (table, day, where, values) in _TABLES.items():
            month = f"(year({day}) - {START.astype(object).year}) * 12 + month({day}) - 1"
            chosen = ", ".join(f"{sql} AS {value}" for value, sql in values.items())
            source = f"FROM '{folder}/{table}.parquet' JOIN asked USING (uscc) WHERE {where}"
            query = f"SELECT i, {month} AS m, {chosen} {source} AND {month} BETWEEN 0 AND {MONTHS - 1} GROUP BY ALL"
            rows = db.execute(query).fetchnumpy()
            found[name] = {}
            for value in values:
                grid = np.full((ids.size, MONTHS), np.nan, np.float32)
                grid[np.asarray(rows["i"]), np.asarray(rows["m"])] = np.ma.filled(rows[value].astype(float), np.nan)
                found[name][value] = grid
        query = f"SELECT i, ln(capital) AS y FROM '{folder}/registry/firms.parquet' JOIN asked USING (uscc)"  # noqa: S608
        rows, grid = db.execute(query).fetchnumpy(), np.full((ids.size, MONTHS), np.nan, np.float32)
        grid[np.asarray(rows["i"]), 0] = rows["y"]
        found["firms"] = {"y": grid}
    return found


class BayesFilter:
    """Follows the distress of n firms by P particles each.

    distress, quality, size : (n, P), the latter two as means given the particle's path, with variances (n, 1).
    log_weight : (n, P) since the particles were drawn anew.
    """

    def __init__(self, seen: Seen, world: World, shocks: np.ndarray, at: np.ndarray, *, told: bool = True) -> None:
        self.seen = {name: {key: grid[at] for key, grid in one.items()} for name, one in seen.items()}
        self.rng = np.random.default_rng(at[:1])
        self.shock, self.fraud = shocks[world.industry[at]] * told, world.fraud[at][:, None] & told
        self.open = world.open[at]
        months = np.arange(MONTHS)[None, :] + 1.5 * world.industry[at][:, None]
        self.season = 0.25 * np.sin(2 * np.pi * months / 12)
        effects = (
            EFFECTS["distress"] * (world.distress[0, 0] - 0.5)
            + EFFECTS["quality"] * world.quality[0]
            + EFFECTS["industry_shock"] * shocks[world.industry[0], 0]
            + EFFECTS["fraud"] * (world.fraud[0] and world.open[0, 0])
        )
        self.intercept = np.log(world.hazard[0, 0] / (1 - world.hazard[0, 0])) - effects
        shape = (at.size, PARTICLES)
        self.distress = np.sqrt(0.9).astype(np.float32) * self.rng.standard_normal(shape, np.float32)
        self.before = self.distress
        self.quality, self.quality_var = -0.3 * self.distress / 0.9, np.full((at.size, 1), 0.9, np.float32)
        self.size, self.size_var = np.zeros(shape, np.float32), np.ones((at.size, 1), np.float32)
        self.log_weight = np.zeros(shape, np.float32)
        self._size_is((self.seen["firms"]["y"][:, 0] - 13) / 1.1, 0.64 / 1.21)

    def copied(self) -> BayesFilter:
        """Return a filter that goes on from here by itself."""
        other = copy.copy(self)
        for name in ("distress", "quality", "quality_var", "size", "size_var", "log_weight"):
            setattr(other, name, getattr(self, name).copy())
        other.rng = copy.deepcopy(self.rng)
        return other

    def step(self, month: int, *, lately: bool = False, report: bool = False) -> None:
        """Move to a month and weigh the particles by its events.

        lately : read only what is known on the month's last day; report : the annual report of the year that ends, too.
        """
        self._move(month)
        if report:
            self._read_report(month)
        strain = np.clip(self.distress, -2, 4)
        self._read_amounts(month, lately=lately)
        s = self.seen
        self._flag(s["repayments"]["late"][:, month], 0.06 * np.exp(strain))
        for name, rate, slope in (("enquiries", 0.1, 0.7), ("changes", 0.02, 0.6)):
            self._count(s[name]["n"][:, month], rate * np.exp(slope * strain))
        if not lately:
            self._flag(s["balances"]["overdrawn"][:, month], 0.08 * np.exp(0.9 * strain))
            self._flag(np.isfinite(s["filings"]["y"][:, month]).astype(float), 1 - 0.01 * np.exp(0.6 * strain))
            self._flag(s["filings"]["late"][:, month], 0.05 * np.exp(0.9 * strain))
            self._count(s["penalties"]["n"][:, month], 0.006 * np.exp(0.6 * strain))
            self._count(s["cases"]["n"][:, month], 0.01 * np.exp(strain))
            for name, above in (("strained", True), ("calm", False)):
                told = (s["cases"][name][:, month] > 0)[:, None]
                self.log_weight -= np.where(told & ((self.distress > 1.2) != above), 20.0, 0.0)
            self._read_lines(month, strain)
        self.log_weight += np.log1p(-np.clip(self._hazard(month, self.distress), 0, 0.99))  # it did not fail

    def risk(self, month: int) -> np.ndarray:
        """Return the expected number of failures in the three months after a month, (n,)."""
        weight = np.exp(self.log_weight - self.log_weight.max(axis=1, keepdims=True))
        ahead, spread, shock, total = self.distress, 0.0, self.shock[:, month, None], np.zeros_like(self.distress)
        for _ in range(HORIZON):
            shock = 0.8 * shock
            ahead = 0.92 * ahead + 0.25 * shock - 0.04 * self.quality + 0.02  # own shocks: 2 in a hundredth of months
            spread = 0.92**2 * spread + 0.4**2 + 0.04
            total += self._hazard(month, ahead, shock, EFFECTS["distress"] ** 2 * spread / 2)
        return (weight * total).sum(axis=1) / weight.sum(axis=1)

    def draw(self) -> None:
        """Draw the particles anew by their weights (systematic resampling)."""
        weight = np.exp(self.log_weight - self.log_weight.max(axis=1, keepdims=True)).astype(np.float64)
        cumulated = np.cumsum(weight / weight.sum(axis=1, keepdims=True), axis=1)
        upto = np.clip(np.ceil(PARTICLES * cumulated - self.rng.random((weight.shape[0], 1))), 0, PARTICLES).astype(int)
        upto[:, -1] = PARTICLES
        place = np.repeat(np.arange(weight.size), np.diff(upto, axis=1, prepend=0).ravel()).reshape(weight.shape)
        for name in ("distress", "quality", "size"):
            setattr(self, name, getattr(self, name).ravel()[place])
        self.log_weight = np.zeros_like(self.log_weight)

    def _hazard(self, month: int, distress: Any, shock: Any = None, more: float = 0.0) -> np.ndarray:
        shock = self.shock[:, month, None] if shock is None else shock
        quality = EFFECTS["quality"] * self.quality + EFFECTS["quality"] ** 2 * self.quality_var / 2
        other = EFFECTS["industry_shock"] * shock + EFFECTS["fraud"] * (self.fraud & self.open[:, month, None])
        return sigmoid(self.intercept + EFFECTS["distress"] * (distress - 0.5) + quality + other + more)

    def _move(self, month: int) -> None:
        own = 2.0 * (self.rng.random(self.distress.shape, np.float32) < 0.01)
        mean = 0.92 * self.distress + 0.25 * self.shock[:, month, None] - 0.04 * self.quality + own
        var = 0.4**2 + 0.04**2 * self.quality_var
        self.before = self.distress
        self.distress = (mean + np.sqrt(var) * self.rng.standard_normal(mean.shape, np.float32)).astype(np.float32)
        self.quality = self.quality - 0.04 * self.quality_var / var * (self.distress - mean)
        self.quality_var = self.quality_var * (1 - 0.04**2 * self.quality_var / var)

    def _read_report(self, month: int) -> None:
        """Read an annual report: liabilities tell distress to the digit, profit quality, and employees size."""
        report = self.seen["reports"]
        lever = report["leverage"][:, month, None]
        told = (lever > 0.06) & (lever < 1.49)
        exact = np.where(told, (lever - 0.5) / 0.1, 0)
        mean = 0.92 * self.before + 0.25 * self.shock[:, month, None] - 0.04 * self.quality
        var = 0.4**2 + 0.04**2
        usual, struck = (np.exp(-((exact - mean - own) ** 2) / (2 * var)) for own in (0, 2))
        density = 0.99 * usual + 0.01 * struck
        self.log_weight += np.where(told, np.log(density + 1e-30), 0)
        self.distress = np.where(told, exact, self.distress).astype(np.float32)
        quality = (report["margin"][:, month, None] - 0.05 + 0.03 * self.distress) / 0.03
        known, var = np.isfinite(quality), (0.05 / 0.03) ** 2
        off = np.where(known, quality - self.quality, 0)
        self.log_weight -= np.where(known, off**2 / (2 * (self.quality_var + var)), 0)
        gain = np.where(known[:, :1], self.quality_var / (self.quality_var + var), 0)
        self.quality, self.quality_var = self.quality + gain * off, self.quality_var * (1 - gain)
        self._size_is((report["employees"][:, month] - 2) / 0.8, 0.09 / 0.64)

    def _size_is(self, size: np.ndarray, var: float) -> None:
        known = np.isfinite(size)[:, None]
        off = np.where(known, np.where(known, size[:, None], 0) - self.size, 0)
        gain = np.where(known, self.size_var / (self.size_var + var), 0)
        self.log_weight -= np.where(known, off**2 / (2 * (self.size_var + var)), 0)
        self.size, self.size_var = self.size + gain * off, self.size_var * (1 - gain)

    def _read_amounts(self, month: int, *, lately: bool) -> None:
        """Read amounts, whose logs are Gaussian about the month's turnover, and how many there were."""
        s, d = self.seen, self.distress
        mean = 11.5 + 1.1 * self.size + self.season[:, month, None] - 0.45 * d
        var, shared = 1.21 * self.size_var + 0.15**2, 1.1 * self.size_var  # shared: covariance of turnover and size

        def is_about(seen: np.ndarray, noise: Any) -> None:
            nonlocal mean, var, shared
            known = np.isfinite(seen)
            off, whole = np.where(known, np.where(known, seen, 0) - mean, 0), var + noise
            self.log_weight -= np.where(known, off**2 / (2 * whole) + np.log(whole) / 2, 0)
            gain, known = var / whole, known[:, :1]
            mean, self.size = mean + gain * off, self.size + shared / whole * off
            self.size_var = np.where(known, self.size_var - shared**2 / whole, self.size_var)
            shared, var = np.where(known, shared * (1 - gain), shared), np.where(known, var * (1 - gain), var)

        is_about(s["repayments"]["y"][:, month, None] + 2.5, 4e-4)
        if not lately:
            is_about(s["filings"]["y"][:, month, None] - np.log(1.3) * self.fraud, 0.1**2)
            is_about(s["balances"]["y"][:, month, None] + 0.8 * d + 0.5, 0.5**2)
            is_about(s["loans"]["y"][:, month, None] - 0.7, 0.3**2)
        n = {name: np.nan_to_num(s[name]["n"][:, month, None]) for name in ("bookings", "out", "in")}
        is_about(s["bookings"]["y"][:, month, None] + np.log(3), 0.8**2 / np.maximum(n["bookings"], 1))
        for side in ("out", "in"):
            about = (s[side]["y"][:, month, None] - 0.35 * 11.5 + 0.7 + 0.4) / 0.65
            is_about(np.where(self.fraud, np.nan, about), (0.9 / 0.65) ** 2 / np.maximum(n[side], 1))
        self._count(s["bookings"]["n"][:, month], 3 * np.exp(0.25 * (mean - 11.5)))
        for side, share in (("out", 1.0), ("in", 0.7)):
            rate = share * np.exp(0.35 * (mean - 11.5) + 0.7)
            red = np.nan_to_num(s[side]["red"][:, month, None])
            p = np.clip(0.012 * np.exp(0.35 * np.clip(d, -2, 4)), 0, 0.9)
            told = n[side] * np.log(rate) - rate + red * np.log(p) + (n[side] - red) * np.log1p(-p)
            self.log_weight += np.where(self.fraud, 0, told)

    def _read_lines(self, month: int, strain: np.ndarray) -> None:
        lines = {key: grid[:, month, None] for key, grid in self.seen["lines"].items()}
        known = np.isfinite(lines["n"])
        n, use, overdue = (np.where(known, lines[key], 1) for key in ("n", "use", "overdue"))
        p = np.clip(0.02 * np.exp(0.8 * strain), 0, 0.9)
        told = -((use - np.clip(0.45 + 0.18 * self.distress, 0, 1.1)) ** 2) * n / (2 * 0.1**2)
        told += overdue * np.log(p) + (n - overdue) * np.log1p(-p)
        self.log_weight += np.where(known, told, 0)

    def _flag(self, seen: np.ndarray, p: np.ndarray) -> None:
        known, p = np.isfinite(seen)[:, None], np.clip(p, 1e-6, 1 - 1e-6)
        self.log_weight += np.where(known, np.where(seen[:, None] > 0, np.log(p), np.log1p(-p)), 0)

    def _count(self, seen: np.ndarray, rate: np.ndarray) -> None:
        self.log_weight += np.nan_to_num(seen)[:, None] * np.log(rate) - rate


def best_reader(
    folder: Path, n_firms: int, seed: int, months: range, wanted: set[str], *, told: bool = True
) -> dict[tuple[str, int], float]:
    """Return the best forecast of failure at ends of months, by firm and month, of wanted firms of the first block.

    months : of the third year. An annual report counts from the day on which it was filed.
    told : whether it knows the shocks of industries, and which firms draw money on round trips.
    """
    world, shocks = world_of(n_firms, seed)
    seen, found = read_events(folder, world.ids), {}
    rows = np.flatnonzero(np.isin(world.ids, np.array(sorted(wanted))))
    for start in range(0, rows.size, AT_ONCE):
        at = rows[start : start + AT_ONCE]
        one, other = (
            BayesFilter(seen, world, shocks, at, told=told),
            None,
        )  # other: has read the report of the second year
        filed = np.nan_to_num(seen["reports"]["known"][at, YEAR_ENDS[1]], nan=np.inf)
        for month in range(months.stop):
            if month in months:
                risks = []
                for each in (one, other or one):
                    now = each.copied()
                    now.step(month, lately=True)
                    risks.append(now.risk(month))
                last = (START.astype("datetime64[M]") + month + 1).astype("datetime64[D]").astype(int) - 1
                risk = np.where(filed < last, risks[1], risks[0])
                found |= {(str(world.ids[row]), month): float(value) for row, value in zip(at, risk, strict=True)}
            if month == YEAR_ENDS[1]:
                other = one.copied()
                other.step(month, report=True)
                other.draw()
            elif other is not None:
                other.step(month)
                other.draw()
            one.step(month, report=month == YEAR_ENDS[0])
            one.draw()
    return found
