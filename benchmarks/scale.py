"""How processor time and memory of each node grow with firms: 30k to 1M x 20 columns, four real processes.

Every job is the default one: a scorecard (alignment, bins, training, hold-out), a batch of steps, a screening. Printed:
what each step of each size cost, and what a million firms more would: processor seconds, megabytes sent, gigabytes of
memory. A quick run: `--firms 10000 20000`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import trial
from result import emit

from veilscore.data.simulate import simulate
from veilscore.fabric.process import running_pid
from veilscore.node.founding import PORTAL
from veilscore.release.issuer import Issuer, import_consent
from veilscore.release.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SIZES = (30_000, 100_000, 300_000, 1_000_000)
COLUMNS = {"bank": 6, "tax": 8, "registry": 6}
PARTIES = ("bank", "tax", "registry")
NODES = (*PARTIES, "coordinator")
PURPOSE = "credit scoring of small firms"
MAX_GB = 2.0
MILLION = 1_000_000
JOBS: Mapping[str, dict[str, Any]] = {
    "train": {"task": "train_scorecard"},
    "batch": {"task": "score_batch", "parameters": {"model": "train", "on_missing": "missing_code"}},
    "screen": {"task": "screen_features"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--firms", type=int, nargs="+", default=SIZES, help="10,000 at least: fewer drown in noise")
    parser.add_argument(
        "--jobs", nargs="+", choices=tuple(JOBS), default=tuple(JOBS), help="a batch needs train before"
    )
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for n_firms in args.firms:
        rows += _run(n_firms, args.jobs)
    worst = max(row["peak_gb"] for row in rows)
    emit(
        "scale",
        round(worst, 3),
        "GB",
        MAX_GB,
        worst <= MAX_GB,
        firms=list(args.firms),
        rows=rows,
        a_million_more={job: _slopes([row for row in rows if row["job"] == job]) for job in args.jobs},
    )


def _run(n_firms: int, jobs: Sequence[str]) -> list[dict[str, Any]]:
    """Run the jobs one after another on a new federation; return one row a job."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        firms = simulate(n_firms, 1, root / "data", columns=COLUMNS, fmt="parquet").parties["bank"].ids
        with trial.federation(root / "f", root / "data") as folder:
            _let_all_be_scored(folder, firms.tolist())
            del firms  # the nodes need the memory
            for name in jobs:
                _forget_peaks(folder)
                began = time.perf_counter()
                info = _run_job(folder, root, name)
                wall_s = time.perf_counter() - began
                rows.append(_row(n_firms, name, info, wall_s))
    return rows


def _let_all_be_scored(folder: Path, firms: list[str]) -> None:
    scope = Scope(PURPOSE, expires_s=time.time() + 86400)
    import_consent(folder / "bank", Issuer.load(folder / PORTAL).list(firms, scope), "list", "everybody")


def _run_job(folder: Path, root: Path, name: str) -> Any:
    common = {
        "purpose": PURPOSE,
        "bank": "bank",
        "holders": ["tax", "registry"],
        "datasets": dict.fromkeys(PARTIES, "main"),
    }
    path = root / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, **common, **JOBS[name]}), encoding="utf-8")
    return trial.run_job(folder, path)


def _forget_peaks(folder: Path) -> None:
    """Let each node's peak of memory begin anew with this job."""
    for node in NODES:
        pid = running_pid(folder / node)
        with contextlib.suppress(OSError):  # a kernel without it: peaks are then those of all jobs so far
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def _row(n_firms: int, name: str, info: Any, wall_s: float) -> dict[str, Any]:
    cpu_s, sent_mb, peak_mb = {}, {}, {}
    for step in info.steps:
        costs = {party: step.party_done[party] for party in sorted(step.party_done)}
        cpu_s[step.step] = {party: round(done.cpu_seconds, 2) for party, done in costs.items()}
        sent_mb[step.step] = round(trial.bytes_sent(info, (step.step,)) / 1e6, 1)
        peak_mb[step.step] = {party: round(done.peak_memory_bytes / 1e6) for party, done in costs.items()}
        for party in costs:
            print(
                f"{n_firms:>9,} {name:<12}{step.step:<10}{party:<12}{cpu_s[step.step][party]:9.2f} s of processor "
                f"{peak_mb[step.step][party]:7,} MB",
                flush=True,
            )
    return {
        "firms": n_firms,
        "job": name,
        "wall_s": round(wall_s, 1),
        "cpu_s": cpu_s,
        "sent_mb": sent_mb,
        "peak_mb": peak_mb,
        "total_cpu_s": round(sum(sum(costs.values()) for costs in cpu_s.values()), 2),
        "total_sent_mb": round(sum(sent_mb.values()), 1),
        "peak_gb": max(max(costs.values()) for costs in peak_mb.values()) / 1e3,
    }


def _slopes(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return what a million firms more cost, by least squares; nothing of one size."""
    firms = np.array([row["firms"] for row in rows]) / MILLION
    if firms.size < 2:
        return {}
    figures = {"cpu_s": "total_cpu_s", "sent_mb": "total_sent_mb", "peak_gb": "peak_gb"}
    return {name: round(float(np.polyfit(firms, [row[key] for row in rows], 1)[0]), 2) for name, key in figures.items()}


if __name__ == "__main__":
    main()
