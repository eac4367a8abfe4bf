"""Simulate small firms of a bank, a tax bureau and a business registry: seeded, realistic, with known true effects.

Every firm has a latent quality and size that all parties' columns depend on, so the parties are correlated.
The label depends on the columns alone: log-odds = intercept + drift * time + sum of coefficient * effect, an
effect being a column's value moved and scaled. Values go missing after the label is drawn. What columns a party has
is said in its own package (`party_tax/simulated.py`), found by the entry points of the group "veilscore.simulated".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np

from veilscore.arrays import Vector
from veilscore.data.ids import Ids, uscc_from_stems
from veilscore.data.notation import literal
from veilscore.data.table import Column, Table
from veilscore.errors import ConfigError, StateError

PARTIES = ("bank", "tax", "registry")
ABSENT_SHARE = {"bank": 0.05, "tax": 0.03, "registry": 0.03}  # share of firms that a party does not know
ID_COLUMN, LABEL_COLUMN, DATE_COLUMN = "uscc", "default", "observation_date"
FIRST_DAY, N_DAYS = np.datetime64("2022-01-01"), 3 * 365
Floats = Vector
Format = Literal["csv", "parquet"]


@dataclass(frozen=True)
class Effect:
    """True effect of one column: coefficient * (transform(value) - centre) / scale, or of one level."""

    column: str
    transform: Literal["identity", "log1p", "asinh", "level"]
    coefficient: float
    centre: float = 0.0
    scale: float = 1.0
    level: str = ""

    def log_odds(self, values: Column) -> Floats:
        """Contribution of each row to the log-odds, (n,) float64."""
        if self.transform == "level":
            return np.where(values == self.level, self.coefficient, 0.0)
        numbers: Floats = values
        if self.transform == "log1p":
            numbers = np.log1p(numbers)
        elif self.transform == "asinh":
            numbers = np.arcsinh(numbers)
        return self.coefficient * (numbers - self.centre) / self.scale


@dataclass(frozen=True)
class SimulatedColumns:
    """What a party has of simulated firms: how columns are drawn, what they do, which share goes missing."""

    draw: Callable[[np.random.Generator, Floats, Floats], dict[str, Column]]
    effects: tuple[Effect, ...]
    missing: Mapping[str, float]


def sigmoid(x: Floats) -> Floats:
    """Logistic function."""
    return np.asarray(1 / (1 + np.exp(-x)), dtype=np.float64)


def draw_levels(rng: np.random.Generator, n: int, shares: Mapping[str, float]) -> Column:
    """Draw a category column, (n,) object array."""
    names = np.array(list(shares), dtype=object)
    return np.asarray(names[rng.choice(len(names), n, p=list(shares.values()))])


@cache
def simulated_columns(party: str) -> SimulatedColumns:
    """Return the columns of a party of `PARTIES`."""
    for entry in entry_points(group="veilscore.simulated", name=party):
        found = entry.load()
        if isinstance(found, SimulatedColumns):
            return found
    raise StateError(f"no installed package says what columns {party} has; install veilscore again")


@dataclass(frozen=True)
class Simulation:
    """Tables of the three parties, and the truth: effects, intercept, drift, oracle AUCs (JSON values)."""

    parties: Mapping[str, Table]
    truth: Mapping[str, Any]

    def write(self, folder: Path, fmt: Format = "csv") -> None:
        """Write one file per party and truth.json."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, table in self.parties.items():
                _write_table(table, folder / f"{name}.{fmt}", fmt)
            (folder / "truth.json").write_text(json.dumps(self.truth, indent=2) + "\n", encoding="utf-8")
        except (OSError, duckdb.Error) as error:
            raise StateError(f"cannot write simulated data to {folder}: {type(error).__name__}") from error


def simulate(
    n_firms: int,
    seed: int,
    folder: Path | str | None = None,
    *,
    bad_rate: float = 0.08,
    drift: float = 0.0,
    columns: Mapping[str, int] | None = None,
    fmt: Format = "csv",
) -> Simulation:
    """Simulate firms of three parties.

    n_firms : number of firms, of which each party knows a few percent fewer.
    seed : the same seed gives the same data.
    folder : where to write files, or None.
    bad_rate : expected share of bad firms at the first date, in (0, 1).
    drift : rise of the log-odds from the first to the last observation date; firms get worse with it.
    columns : party -> number of feature columns; those beyond the 7 + 9 + 6 standard ones have no effect.
    """
    if n_firms < 100 or not 0 < bad_rate < 1:
        raise ConfigError(f"{n_firms} firms at a bad rate of {bad_rate}: use 100 firms or more, a rate in (0, 1)")
    if fmt not in ("csv", "parquet"):
        raise ConfigError(f"format {fmt!r} is unknown; use 'csv' or 'parquet'")
    rng = np.random.default_rng(seed)
    time = rng.random(n_firms)
    quality = rng.standard_normal(n_firms) - 0.25 * drift * time
    size = rng.standard_normal(n_firms)
    kinds = {party: simulated_columns(party) for party in PARTIES}
    features = {party: kind.draw(rng, quality, size) for party, kind in kinds.items()}
    log_odds = {party: np.zeros(n_firms) for party in PARTIES}
    for party, kind in kinds.items():
        for effect in kind.effects:
            log_odds[party] += effect.log_odds(features[party][effect.column])
    total = np.sum(list(log_odds.values()), axis=0)
    intercept = _intercept(total, bad_rate)
    eta = intercept + drift * time + total
    label = (rng.random(n_firms) < sigmoid(eta)).astype(np.float64)
    truth = _truth(label, eta, log_odds, intercept=intercept, drift=drift, seed=seed)
    for party in PARTIES:
        _pad(rng, party, features[party], quality, (columns or {}).get(party, 0))
        _lose_values(rng, features[party], kinds[party].missing)
    simulation = Simulation(_tables(rng, features, label, time), truth)
    if folder is not None:
        simulation.write(Path(folder), fmt)
    return simulation


def simulate_to_folder(
    folder: Path | str, n_firms: int, seed: int, fmt: Format = "csv", *, bad_rate: float = 0.08, drift: float = 0.0
) -> dict[str, Any]:
    """Write bank, tax and registry files and truth.json to a folder; return the truth."""
    return dict(simulate(n_firms, seed, folder, bad_rate=bad_rate, drift=drift, fmt=fmt).truth)


def _pad(rng: np.random.Generator, party: str, columns: dict[str, Column], quality: Vector, n_columns: int) -> None:
    """Add columns that go along with quality but have no effect of their own."""
    for i in range(len(columns), n_columns):
        noise = rng.standard_normal(len(quality))
        columns[f"{party}_ratio_{i + 1}"] = np.round(np.sinh(0.3 * quality + noise), 4)


def _lose_values(rng: np.random.Generator, columns: dict[str, Column], shares: Mapping[str, float]) -> None:
    for name in sorted(shares):
        columns[name] = columns[name].copy()
        lost = rng.random(len(columns[name])) < shares[name]
        columns[name][lost] = None if columns[name].dtype == object else np.nan


def _tables(
    rng: np.random.Generator, features: Mapping[str, Mapping[str, Column]], label: Vector, time: Vector
) -> dict[str, Table]:
    n_firms = len(label)
    ids = firm_ids(rng, n_firms)
    dates = FIRST_DAY + np.floor(time * N_DAYS).astype("timedelta64[D]")
    tables = {}
    for party in PARTIES:
        known = np.flatnonzero(rng.random(n_firms) >= ABSENT_SHARE[party])
        rows = rng.permutation(known)
        is_bank = party == "bank"
        tables[party] = Table(
            ids[rows],
            {name: values[rows] for name, values in features[party].items()},
            label=label[rows] if is_bank else None,
            dates=dates[rows] if is_bank else None,
            source=f"simulated {party}",
        )
    return tables


def firm_ids(rng: np.random.Generator, n_firms: int) -> Ids:
    """Make distinct valid codes: department 91, six digits of region, nine letters of which five number the firm."""
    stems = np.empty((n_firms, 17), dtype=np.int64)
    stems[:, 0], stems[:, 1] = 9, 1
    stems[:, 2:8] = rng.integers(0, 10, (n_firms, 6))
    stems[:, 8:12] = rng.integers(0, 31, (n_firms, 4))
    numbers = (np.arange(n_firms) * 11_238_541 + int(rng.integers(31**5))) % 31**5  # odd prime: a bijection
    stems[:, 12:] = numbers[:, None] // 31 ** np.arange(5) % 31
    return uscc_from_stems(stems)


def _intercept(total: Vector, bad_rate: float) -> float:
    """Find the intercept that gives the expected bad rate, by bisection."""
    low, high = -40.0, 40.0
    sample = total[:100_000]
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(sample + middle).mean() < bad_rate else (low, middle)
    return round((low + high) / 2, 6)


def _auc(label: Vector, score: Vector) -> float:
    """Return the area under the ROC curve; scores are continuous, so ties do not matter."""
    ranks = np.empty(len(score))
    ranks[np.argsort(score)] = np.arange(1, len(score) + 1)
    n_bad = label.sum()
    n_good = len(label) - n_bad
    if not (n_bad and n_good):
        return 0.5
    return float((ranks[label == 1].sum() - n_bad * (n_bad + 1) / 2) / (n_bad * n_good))


def _truth(
    label: Vector, eta: Vector, log_odds: Mapping[str, Vector], *, intercept: float, drift: float, seed: int
) -> dict[str, Any]:
    return {
        "n_firms": len(label),
        "seed": seed,
        "bad_rate": round(float(label.mean()), 6),
        "intercept": intercept,
        "drift": drift,
        "oracle_auc": round(_auc(label, eta), 6),
        "oracle_auc_of_party": {party: round(_auc(label, part), 6) for party, part in log_odds.items()},
        "effects": [
            {"party": party, **vars(effect)} for party in PARTIES for effect in simulated_columns(party).effects
        ],
    }


def _write_table(table: Table, path: Path, fmt: Format) -> None:
    """Write a table through DuckDB, id, label and date first."""
    columns: dict[str, Column] = {ID_COLUMN: table.ids.astype(object)}
    if table.label is not None:
        columns[LABEL_COLUMN] = table.label.astype(np.int64)
    if table.dates is not None:
        columns[DATE_COLUMN] = table.dates.astype("datetime64[us]")  # DuckDB takes no days
    columns |= table.columns
    arrays = {f"c{i}": values for i, values in enumerate(columns.values())}
    selected = ", ".join(f"{_sql(name, values, f'c{i}')} AS {name}" for i, (name, values) in enumerate(columns.items()))
    options = "FORMAT parquet" if fmt == "parquet" else "FORMAT csv, HEADER true"
    with duckdb.connect() as database:
        database.register("simulated", arrays)
        database.execute(f"COPY (SELECT {selected} FROM simulated) TO {literal(str(path))} ({options})")  # noqa: S608


def _sql(name: str, values: Column, alias: str) -> str:
    """Write the SQL of one column: NaN is missing, so it becomes NULL; dates go without their time."""
    if name == DATE_COLUMN:
        return f"CAST({alias} AS DATE)"
    return f"CASE WHEN isnan({alias}) THEN NULL ELSE {alias} END" if values.dtype.kind == "f" else alias
