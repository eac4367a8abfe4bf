"""Simulate three years of small firms as their data holders see them: event tables, and the truth behind them.

Every firm has a latent quality and size, and each month a latent distress that moves slowly, with shocks of its
industry and its own. The monthly hazard of failing depends on distress, quality, the industry's shock and fraud;
events of every holder depend on distress before the failure shows. What a holder keeps is said in its own package
(`party_tax/life.py`), found by the entry points of the group "veilscore.life". Firms are made in blocks, each from a
seed of its own, so that memory does not grow with their number.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Array, Integers, Mask, Vector
from veilscore.data.ids import Ids
from veilscore.data.notation import literal
from veilscore.data.simulate import firm_ids, sigmoid
from veilscore.errors import ConfigError, StateError

START, MONTHS = np.datetime64("2023-01-01"), 36
HOLDERS = ("bank", "tax", "registry", "court", "bureau")
INDUSTRIES = ("trade", "manufacturing", "construction", "transport", "software", "catering", "farming", "services")
BLOCK = 20_000  # firms made at a time
MEAN_HAZARD = 0.005  # a month
EFFECTS = {"distress": 1.3, "quality": -0.5, "industry_shock": 0.8, "fraud": 1.2}
_TERM = 12  # months of a loan
_MONTH_STARTS = (START.astype("datetime64[M]") + np.arange(MONTHS + 1)).astype("datetime64[D]").astype(np.int64)
Tables = Mapping[str, Mapping[str, Array]]


@dataclass(frozen=True, repr=False)
class World:
    """A block of firms: what no holder sees as such. n firms, t = 0..35 months.

    ids : (n,); quality, size : (n,) standard normal; industry : (n,) place in INDUSTRIES; founded : (n,) day.
    distress, hazard, sales : (n, 36); sales is the log of a month's expected turnover.
    fails : (n,) month of failure, 36 for none; fraud : (n,) whether it draws money on round-trip invoices.
    drawn : (n, 36) whether a loan is drawn in that month; open : (n, 36) whether one is open.
    """

    seed: tuple[int, int]
    ids: Ids
    quality: Vector
    size: Vector
    industry: Integers
    founded: Integers
    distress: Vector
    hazard: Vector
    sales: Vector
    fails: Integers
    fraud: Mask
    drawn: Mask
    open: Mask

    @property
    def n(self) -> int:
        """Return the number of firms."""
        return len(self.ids)

    @property
    def month(self) -> Integers:
        """Return 0..35."""
        return np.arange(MONTHS)

    @property
    def alive(self) -> Mask:
        """Return which firms still do business, (n, 36): they go on for three months after they fail."""
        return self.month[None, :] < self.fails[:, None] + 3

    def rng(self, holder: str) -> np.random.Generator:
        """Return the random numbers of one holder, which no other holder's events change."""
        return np.random.default_rng([*self.seed, HOLDERS.index(holder)])

    def occur(self, rng: np.random.Generator, rate: Array) -> Occurrences:
        """Draw events at monthly rates (n, 36); a firm that is gone has none."""
        counts = rng.poisson(np.where(self.alive, rate, 0.0)).ravel()
        cells = np.repeat(np.arange(counts.size), counts)
        firm, month = np.divmod(cells, MONTHS)
        span = _MONTH_STARTS[month + 1] - _MONTH_STARTS[month]
        return Occurrences(firm, month, _MONTH_STARTS[month] + np.floor(rng.random(len(cells)) * span).astype(np.int64))


@dataclass(frozen=True, repr=False)
class Occurrences:
    """Events: the firm, month and day (from 1970-01-01) of each, all (m,)."""

    firm: Integers
    month: Integers
    day: Integers

    @property
    def n(self) -> int:
        """Return the number of events."""
        return len(self.firm)

    def take(self, which: Array) -> Occurrences:
        """Return some of the events."""
        return Occurrences(self.firm[which], self.month[which], self.day[which])


def dates(days: Integers) -> NDArray[np.datetime64]:
    """Return days from 1970-01-01 as dates."""
    return days.astype("datetime64[D]")


def month_start(month: Integers) -> Integers:
    """Return the first day of months 0..36."""
    starts: Integers = _MONTH_STARTS[month]
    return starts


def pick(rng: np.random.Generator, levels: Mapping[str, float], n: int) -> Array:
    """Draw n levels with these shares."""
    names, shares = np.array(list(levels), dtype=object), np.array(list(levels.values()))
    return np.asarray(names[rng.choice(len(names), n, p=shares / shares.sum())])


def make_world(n: int, seed: tuple[int, int], ids: Ids, shocks: Vector) -> World:
    """Draw a block of firms.

    shocks : (industries, 36) of the whole economy.
    """
    rng = np.random.default_rng([*seed, 99])
    quality, size = rng.standard_normal(n), rng.standard_normal(n)
    industry = rng.integers(0, len(INDUSTRIES), n)
    founded = _MONTH_STARTS[0] - np.floor(np.exp(7.2 + 0.7 * rng.standard_normal(n))).astype(np.int64)
    distress = np.empty((n, MONTHS))
    now = 0.9 * rng.standard_normal(n) - 0.3 * quality
    for t in range(MONTHS):
        own = np.where(rng.random(n) < 0.01, 2.0, 0.0)  # a customer lost, a fire, a quarrel of owners
        now = 0.92 * now + 0.4 * rng.standard_normal(n) + 0.25 * shocks[industry, t] - 0.04 * quality + own
        distress[:, t] = now
    fraud = rng.random(n) < sigmoid(-4.2 - 0.3 * quality)
    drawn, loan_open = _loans(rng, n, fraud)
    log_odds = (
        EFFECTS["distress"] * (distress - 0.5)
        + EFFECTS["quality"] * quality[:, None]
        + EFFECTS["industry_shock"] * shocks[industry]
        + EFFECTS["fraud"] * (fraud[:, None] & loan_open)
    )
    hazard = sigmoid(_intercept(log_odds) + log_odds)
    failing = rng.random((n, MONTHS)) < hazard
    fails = np.where(failing.any(axis=1), failing.argmax(axis=1), MONTHS)
    season = 0.25 * np.sin(2 * np.pi * (np.arange(MONTHS)[None, :] + 1.5 * np.arange(len(INDUSTRIES))[:, None]) / 12)
    sales = 11.5 + 1.1 * size[:, None] + season[industry] - 0.45 * distress + 0.15 * rng.standard_normal((n, MONTHS))
    sales = np.where(np.arange(MONTHS)[None, :] >= fails[:, None], sales - 1.5, sales)
    return World(seed, ids, quality, size, industry, founded, distress, hazard, sales, fails, fraud, drawn, loan_open)


def _loans(rng: np.random.Generator, n: int, fraud: Mask) -> tuple[Mask, Mask]:
    """Draw the months in which loans are drawn and open: a loan runs twelve months and is renewed by seven in ten."""
    borrows = (rng.random(n) < 0.7) | fraud
    first = rng.integers(-_TERM + 1, 30, n)
    drawn, loan_open = np.zeros((n, MONTHS), dtype=np.bool_), np.zeros((n, MONTHS), dtype=np.bool_)
    goes_on = borrows.copy()
    for term in range(4):
        begin = first + term * _TERM
        rows = np.flatnonzero(goes_on & (begin >= 0) & (begin < MONTHS))
        drawn[rows, begin[rows]] = True
        for k in range(_TERM):
            month = begin + k
            rows = np.flatnonzero(goes_on & (month >= 0) & (month < MONTHS))
            loan_open[rows, month[rows]] = True
        goes_on &= rng.random(n) < 0.7
    return drawn, loan_open


def _intercept(log_odds: Vector) -> float:
    low, high = -20.0, 5.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(log_odds + middle).mean() < MEAN_HAZARD else (low, middle)
    return low


@cache
def holder_events(holder: str) -> Callable[[World], Tables]:
    """Return what makes the event tables of a holder of `HOLDERS`."""
    for entry in entry_points(group="veilscore.life", name=holder):
        found: Callable[[World], Tables] = entry.load()
        return found
    raise StateError(f"no installed package says what events {holder} has; install veilscore again")


def simulate_life(folder: Path | str, n_firms: int, seed: int) -> dict[str, Any]:
    """Write FOLDER/HOLDER/TABLE.parquet of every holder, and FOLDER/truth; return the truth's figures.

    n_firms : 1,000 to 300,000; seed : the same seed gives the same tables.
    """
    if not 1_000 <= n_firms <= 300_000:
        raise ConfigError(f"{n_firms} firms: a simulated life has 1,000 to 300,000")
    folder = Path(folder)
    ids = firm_ids(np.random.default_rng([seed, 7]), n_firms)
    shocks = _shocks(np.random.default_rng([seed, 8]))
    figures: list[tuple[int, float, Vector, Mask]] = []
    names: dict[str, None] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix=".life-") as scratch,
            duckdb.connect(f"{scratch}/tables.duckdb") as database,
        ):
            database.execute("SET threads = 1; SET memory_limit = '1GB'")
            for block, start in enumerate(range(0, n_firms, BLOCK)):
                part = ids[start : start + BLOCK]
                world = make_world(len(part), (seed, block), part, shocks)
                for name, columns in _all_tables(world):
                    names[name] = None
                    _append(database, name, columns)
                figures.append(_figures(world))
            for name in names:
                target = folder / f"{name}.parquet"
                target.parent.mkdir(exist_ok=True)
                database.execute(f'COPY "{name}" TO {literal(str(target))} (FORMAT parquet)')
        truth = _truth(figures, n_firms, seed)
        (folder / "truth" / "truth.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    except (OSError, duckdb.Error) as error:
        raise StateError(f"cannot write simulated events to {folder}: {type(error).__name__}") from error
    return truth


def _all_tables(world: World) -> Iterator[tuple[str, Mapping[str, Array]]]:
    for holder in HOLDERS:
        for table, columns in holder_events(holder)(world).items():
            yield f"{holder}/{table}", columns
    yield "truth/hazard", _truth_table(world)


def _shocks(rng: np.random.Generator) -> Vector:
    """Draw shocks of industries (industries, 36): a slow common part, slow own parts, and one bad half-year each."""
    shocks = np.zeros((len(INDUSTRIES), MONTHS))
    common, own = 0.0, np.zeros(len(INDUSTRIES))
    for t in range(MONTHS):
        common = 0.8 * common + 0.15 * rng.standard_normal()
        own = 0.8 * own + 0.2 * rng.standard_normal(len(INDUSTRIES))
        shocks[:, t] = common + own
    for industry, begin in enumerate(rng.integers(6, MONTHS - 6, len(INDUSTRIES))):
        shocks[industry, begin : begin + 6] += 0.8
    return shocks


def _append(database: duckdb.DuckDBPyConnection, name: str, columns: Mapping[str, Array]) -> None:
    is_date = {column: values.dtype.kind == "M" for column, values in columns.items()}
    given = {c: v.astype("datetime64[us]") if is_date[c] else v for c, v in columns.items()}  # DuckDB takes no days
    shown = ", ".join(f"CAST({column} AS DATE) AS {column}" if is_date[column] else column for column in columns)
    database.register("made", given)
    known = database.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = ?", [name]).fetchall()[0][0]
    begin = f'INSERT INTO "{name}"' if known else f'CREATE TABLE "{name}" AS'
    database.execute(f"{begin} SELECT {shown} FROM made")  # noqa: S608 - names of columns of our own
    database.unregister("made")


def _truth_table(world: World) -> dict[str, Array]:
    n = world.n
    return {
        "uscc": np.repeat(world.ids.astype(object), MONTHS),
        "month": dates(np.tile(_MONTH_STARTS[:MONTHS], n)),
        "hazard": world.hazard.ravel(),
        "distress": world.distress.ravel(),
        "fails": (world.fails[:, None] == world.month[None, :]).ravel(),
        "failed_before": (world.fails[:, None] < world.month[None, :]).ravel(),
        "loan_open": world.open.ravel(),
        "fraud": np.repeat(world.fraud, MONTHS),
    }


def _figures(world: World) -> tuple[int, float, Vector, Mask]:
    """Return failures and mean hazard; of firms that lasted two years, the hazard then and whether they fail later."""
    lasted = world.fails >= 24
    failed = int((world.fails < MONTHS).sum())
    return failed, float(world.hazard.mean()), world.hazard[lasted, 24], world.fails[lasted] < MONTHS


def _truth(figures: list[tuple[int, float, Vector, Mask]], n_firms: int, seed: int) -> dict[str, Any]:
    hazard, fails = (np.concatenate([one[i] for one in figures]) for i in (2, 3))
    ranks = np.empty(len(hazard))
    ranks[np.argsort(hazard)] = np.arange(1, len(hazard) + 1)
    bad = int(fails.sum())
    auc = (ranks[fails.astype(bool)].sum() - bad * (bad + 1) / 2) / max(1, bad * (len(fails) - bad))
    return {
        "n_firms": n_firms,
        "seed": seed,
        "months": MONTHS,
        "start": str(START),
        "failed": sum(one[0] for one in figures),
        "mean_hazard": round(float(np.mean([one[1] for one in figures])), 6),
        "effects": EFFECTS,
        "failed_in_third_year": bad,
        "auc_of_hazard_at_24_months_for_the_third_year": round(float(auc), 4),
    }
