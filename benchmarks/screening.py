"""Feature screening: 10,000 columns x 30k rows at a bank and two holders, four real processes, private; exact: 2,000.

Printed: seconds of each step, peak memory and bytes of each node; what the label's sums over all cells cost in
processor time and bytes by packed sums (one encrypted label) and by hints (one a cell), both sides together; and how
many of 20 informative columns (information values of .02 to .3) the noisy choice finds, by mu, drawn in the clear.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import trial
from result import emit

from veilscore.data.simulate import simulate
from veilscore.lattice.histogram import HistogramCodes, HistogramVectors
from veilscore.lattice.packed_sums import SumsEvaluator, SumsKey
from veilscore.models.best_columns import best, gumbel, noise_scale

COLUMNS = {"private": {"bank": 100, "tax": 4950, "registry": 4950}, "exact": {"bank": 100, "tax": 950, "registry": 950}}
N_FIRMS = 31_600  # of which the bank knows 95 %
MAX_WALL_S, MAX_PEAK_GB = {"private": 150.0, "exact": 300.0}, 1.5
CODES, HINT_COLUMNS, SUMS_COLUMNS = 21, 4, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", choices=("csv", "parquet"), default="parquet", help="built variables are Parquet")
    parser.add_argument("--firms", type=int, default=N_FIRMS)
    parser.add_argument("--disclosure", choices=("exact", "private"), help="only one of both")
    args = parser.parse_args()
    for disclosure in (args.disclosure,) if args.disclosure else ("exact", "private"):
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            simulate(args.firms, 1, root / "data", columns=COLUMNS[disclosure], fmt=args.format)
            with trial.federation(root / "f", root / "data") as folder:
                job = root / f"{disclosure}.yaml"
                job.write_text(json.dumps(_job(disclosure)), encoding="utf-8")
                began = time.perf_counter()
                info = trial.run_job(folder, job)
                wall_s = time.perf_counter() - began
                path = folder / "bank" / "screenings" / disclosure / "screening.json"
                _show(disclosure, info, wall_s, json.loads(path.read_text(encoding="utf-8")), args.format)


def _show(disclosure: str, info: Any, wall_s: float, body: dict[str, Any], fmt: str) -> None:
    steps = {step.step: step for step in info.steps}
    peaks = {
        f"{party}_{name}_gb": round(done.peak_memory_bytes / 1e9, 3)
        for name, step in steps.items()
        for party, done in sorted(step.party_done.items())
    }
    n_rows, n_columns = body["n_train"] + body["n_holdout"], len(body["columns"])
    reasons = [c["reason"].split(" ")[0] if not c["kept"] else "kept" for c in body["columns"]]
    found = {f"found_of_20_mu_{mu:g}": found_of_20(30_000, n_columns, mu) for mu in (0.1, 0.3, 0.5)}
    found = found if disclosure == "private" else _forms(body["n_train"], n_columns)
    enough = found.get("found_of_20_mu_0.3", 20) >= 19
    print(f"{n_columns:,} columns x {n_rows:,} rows, {fmt}, {disclosure}")
    worst = max(peaks.values())
    emit(
        "screening" if disclosure == "private" else "screening_exact",
        round(wall_s, 1),
        "s",
        MAX_WALL_S[disclosure],
        wall_s <= MAX_WALL_S[disclosure] and worst <= MAX_PEAK_GB and enough,
        rows=n_rows,
        columns=n_columns,
        outcome={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        step_s={name: round(step.seconds, 1) for name, step in steps.items()},
        cpu_s={p: round(done.cpu_seconds, 1) for p, done in sorted(steps["screen"].party_done.items())},
        sent_mb={name: round(trial.bytes_sent(info, (name,)) / 1e6, 1) for name in steps},
        peak_bound_gb=MAX_PEAK_GB,
        **peaks,
        **found,
    )


def found_of_20(n: int, d: int, mu: float, draws: int = 12, k: int = 50, rate: float = 0.2) -> float:
    """Return how many informative columns of d a choice of k finds in the mean, for n rows with this rate of bads."""
    found, places = [], np.linspace(-0.9, 0.9, 10)  # middles of ten bins
    slopes = np.zeros(d)
    slopes[:20] = [_slope_of_iv(iv, places) for iv in np.geomspace(0.02, 0.3, 20)]
    for seed in range(draws):
        rng, rows = np.random.default_rng(seed), np.zeros((2, d))
        for kind, (sign, count) in enumerate(((1, round(n * rate)), (-1, n - round(n * rate)))):
            chance = np.exp(sign * np.outer(slopes, places) / 2)
            rows[kind] = rng.multinomial(count, chance / chance.sum(axis=1, keepdims=True)) @ places
        scores = np.abs((1 - rate) * rows[0] - rate * rows[1])
        found.append(best(scores + gumbel(noise_scale(mu, k), d), k)[:20].sum())
    return round(float(np.mean(found)), 1)


def _slope_of_iv(iv: float, places: np.ndarray) -> float:
    """Return the slope of log-odds over places that gives an information value, by halving."""
    low, high = 0.0, 5.0
    for _ in range(50):
        middle = (low + high) / 2
        bad, good = (np.exp(sign * middle * places / 2) for sign in (1, -1))
        less = float(((bad / bad.sum() - good / good.sum()) * middle * places).sum()) < iv
        low, high = (middle, high) if less else (low, middle)
    return low


def _job(disclosure: str) -> dict[str, object]:
    return {
        "name": disclosure,
        "parameters": {"disclosure": disclosure},
        "purpose": "credit scoring of small firms",
        "task": "screen_features",
        "bank": "bank",
        "holders": ["tax", "registry"],
        "datasets": dict.fromkeys(("bank", "tax", "registry"), "main"),
    }


def _forms(n_rows: int, n_columns: int) -> dict[str, float]:
    """Processor seconds and megabytes of the two forms, scaled up from a few columns to all."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, CODES, (n_rows, SUMS_COLUMNS)).astype(np.uint8)
    n_codes = np.full(SUMS_COLUMNS, CODES)
    label = (rng.random(n_rows) < 0.1).astype(np.uint64) << np.uint64(24)
    for warm in (True, False):  # compile first: the figures are those of running nodes
        rows = slice(0, 10 if warm else n_rows)
        packed = _packed(codes[rows], n_codes, label[rows], n_columns)
        hints = _hints(codes[rows, :HINT_COLUMNS], n_codes[:HINT_COLUMNS], label[rows], n_columns)
    return {**packed, **hints}


def _packed(codes: np.ndarray, n_codes: np.ndarray, label: np.ndarray, n_columns: int) -> dict[str, float]:
    start = time.process_time()
    key = SumsKey(b"benchmark", label.size)
    chunks = list(key.encrypt(label))
    evaluator = SumsEvaluator(b"benchmark", label.size, key.public())
    for chunk in chunks:
        evaluator.add(chunk)
    once = time.process_time()
    wanted = np.ones(int(n_codes.sum()), bool)
    reply, _ = evaluator.sums(codes, n_codes, wanted)
    key.share(reply, wanted.size)
    times = n_columns / codes.shape[1]
    return {
        "packed_cpu_s": round(once - start + times * (time.process_time() - once), 2),
        "packed_mb": round((sum(map(len, chunks)) + times * len(reply)) / 1e6, 1),
    }


def _hints(codes: np.ndarray, n_codes: np.ndarray, label: np.ndarray, n_columns: int) -> dict[str, float]:
    start = time.process_time()
    owner = HistogramCodes(codes, n_codes, b"benchmark")
    vectors = HistogramVectors(label.size, n_codes, b"benchmark")
    size = 0
    for chunk in owner.hint_chunks():
        vectors.add_hints(chunk)
        size += len(chunk)
    query, _ = vectors.query(label[None])
    owner.evaluate(query)
    times = n_columns / codes.shape[1]
    return {
        "hints_cpu_s": round(times * (time.process_time() - start), 2),
        "hints_mb": round(times * size / 1e6, 1),
    }


if __name__ == "__main__":
    main()
