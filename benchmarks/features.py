"""Variables from a million events of 30,000 firms on one core: tiles against one FILTER per aggregate.

The plain form is timed on a part of the sums, counts, means and extremes and scaled to the number of variables, since
all of them would take minutes; both forms give the same values, which is checked on that part.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
from result import emit

from veilscore.features.build import build
from veilscore.features.catalogue import Catalogue
from veilscore.features.expansion import Variable, expand
from veilscore.terms.settings import parse

N_EVENTS, N_FIRMS = 1_000_000, 30_000
AS_OF = "2023-06-01"
BOUNDS_S = {1_000: 5.0, 10_000: 15.0}
MAX_GB = 1.0
PLAIN_PART = 100  # aggregates of the plain form that are timed

TABLE = {
    "source": "invoices.parquet",
    "firm": "seller",
    "time": "issued_on",
    "known": "reported_on",
    "numbers": ["amount", "tax"],
    "categories": {"direction": ["out", "in"], "status": ["valid", "void", "red"]},
    "bands": {"size": {"of": "amount", "edges": [1000, 10000]}},
    "parties": ["buyer"],
}


def make_events(folder: Path) -> None:
    rng = np.random.default_rng(1)
    firm = np.where(rng.random(N_EVENTS) < 0.5, rng.integers(0, N_FIRMS, N_EVENTS), rng.zipf(1.3, N_EVENTS) % N_FIRMS)
    time_ = rng.integers(0, 1095, N_EVENTS)
    columns = {
        "firm": firm,
        "t": time_,
        "kn": time_ + rng.geometric(0.3, N_EVENTS),
        "d": rng.integers(0, 2, N_EVENTS),
        "s": rng.integers(0, 3, N_EVENTS),
        "amount": np.round(np.exp(rng.normal(8, 2, N_EVENTS)), 2),
        "tax": np.round(np.exp(rng.normal(5, 2, N_EVENTS)), 2),
        "b": rng.integers(0, 5000, N_EVENTS),
    }
    with duckdb.connect() as database:
        database.register("made", columns)
        database.execute(
            f"COPY (SELECT 'F' || firm AS seller, DATE '2021-01-01' + t::INT AS issued_on, "
            f"DATE '2021-01-01' + kn::INT AS reported_on, ['out', 'in'][d + 1] AS direction, "
            f"['valid', 'void', 'red'][s + 1] AS status, amount, tax, 'B' || b AS buyer FROM made) "
            f"TO '{folder / 'invoices.parquet'}'"
        )


def catalogue(n: int) -> Catalogue:
    days = ["30d", "60d", "90d", "120d", "180d", "240d", "270d", "365d", "450d", "540d", "630d", "730d"]
    numbers = {"table": "invoices", "of": ["amount", "tax"], "aggregate": ["sum", "mean", "std", "min", "max", "count"]}
    of_parties = ["distinct(buyer)", "top_share(buyer)", "concentration(buyer)", "trend", "growth", "active_months"]
    small = {"direction": ["out", "in"], "status": ["valid", "void", "red", "*"]}
    large = {"direction": ["out", "in", "*"], "status": ["valid", "void", "red", "*"], "size": ["b0", "b1", "b2", "*"]}
    parties = {"table": "invoices", "of": "amount", "where": {"direction": ["out", "in"], "status": "valid"}}
    groups = [
        {**numbers, "where": small if n <= 1_000 else large, "windows": days},
        {**parties, "windows": ["90d", "180d", "365d", "730d"], "aggregate": of_parties},
    ]
    if n > 1_000:
        spans = [f"{30 * k}d" for k in range(1, 25) if f"{30 * k}d" not in days]
        groups.append({**numbers, "where": {**large, "size": ["b0", "*"]}, "windows": spans})
    content = {"name": "speed", "id_normaliser": "text", "tables": {"invoices": TABLE}, "variables": groups}
    return parse(Catalogue, content, "speed")


def one_build(folder: Path, n: int) -> None:
    """Build about n variables in a process of its own and print figures."""
    asked = catalogue(n)
    started, cpu = time.perf_counter(), time.process_time()
    made = build(asked, folder, folder / f"built{n}.parquet", AS_OF)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    size = made.path.stat().st_size / 1e6
    print(len(made.variables), time.process_time() - cpu, time.perf_counter() - started, peak, size)


_PLAIN = {"sum": "COALESCE(sum({x}) {f}, 0)", "count": "count(*) {f}", "mean": "avg({x}) {f}"}
_PLAIN |= {"min": "min({x}) {f}", "max": "max({x}) {f}", "std": "stddev_samp({x}) {f}"}


def plain_sql(one: Variable) -> str:
    tests = [f"age <= {one.days}", *(f"{c} IN ({', '.join(repr(x) for x in levels)})" for c, levels in one.where)]
    return _PLAIN[one.aggregate].format(x=one.column, f=f"FILTER (WHERE {' AND '.join(tests)})")


def plain_form(folder: Path) -> tuple[float, bool]:
    """Return seconds an aggregate of the plain form, and whether it gives what the tiles gave."""
    chosen = [one for one in expand(catalogue(1_000)) if one.aggregate in _PLAIN][:: 1 + 900 // PLAIN_PART][:PLAIN_PART]
    parts = ", ".join(f"{plain_sql(one)} AS v{i}" for i, one in enumerate(chosen))
    seen = (
        f"SELECT *, DATE '{AS_OF}' - issued_on AS age FROM '{folder / 'invoices.parquet'}' "
        f"WHERE issued_on < DATE '{AS_OF}' AND reported_on < DATE '{AS_OF}'"
    )
    with duckdb.connect() as database:
        database.execute("SET threads = 1")
        started = time.process_time()
        plain = database.execute(f"SELECT {parts} FROM ({seen}) GROUP BY seller ORDER BY seller").fetchnumpy()
        seconds = (time.process_time() - started) / len(chosen)
        names = ", ".join(f'"{one.name}" AS v{i}' for i, one in enumerate(chosen))
        tiles = database.execute(f"SELECT {names} FROM '{folder / 'built1000.parquet'}' ORDER BY uscc").fetchnumpy()
    as_float = lambda v: np.ma.filled(np.ma.asarray(v).astype(float), np.nan)  # noqa: E731
    same = all(np.allclose(as_float(plain[c]), as_float(tiles[c]), rtol=1e-9, atol=1e-6, equal_nan=True) for c in plain)
    return seconds, same


def main() -> None:
    if len(sys.argv) == 3:
        one_build(Path(sys.argv[1]), int(sys.argv[2]))
        return
    figures: dict[str, object] = {}
    holds = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_events(folder)
        one_core = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        for n, bound in BOUNDS_S.items():
            command = [sys.executable, __file__, temporary, str(n)]
            done = subprocess.run(command, env=one_core, check=True, capture_output=True, text=True)
            count, cpu, wall, peak, size = map(float, done.stdout.split())
            print(
                f"{count:7.0f} variables: {cpu:5.2f} s of one core, {wall:5.2f} s of wall, {peak:.2f} GB, {size:.0f} MB"
            )
            figures[f"{n}_s"], figures[f"{n}_gb"], figures[f"{n}_variables"] = round(cpu, 2), round(peak, 2), int(count)
            holds &= count >= n and cpu <= bound and peak <= MAX_GB
        each, same = plain_form(folder)
    print(f"a FILTER per aggregate: {1000 * each:.0f} ms each ({PLAIN_PART} timed), so {1000 * each:.0f} s per 1,000")
    print(f"both give the same: {same}")
    worst = float(str(figures["10000_s"]))
    emit("features", worst, "s", BOUNDS_S[10_000], holds and same, plain_ms_each=round(1000 * each, 1), **figures)


if __name__ == "__main__":
    main()
