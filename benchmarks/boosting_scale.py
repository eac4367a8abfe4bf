"""Cost of one boosted tree against rows, columns, bins, depth and holders: a table and a plot, with memory and bytes.

The protocol runs in memory, all parties in one process on simulated codes, so seconds and memory are those of one
machine doing everything; the set-up (hints, keys) is given apart. Each row of the table changes one size of BASE.
"""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from result import emit

from veilscore.models.boosting_form import BankBoosting, Growth, HolderColumns
from veilscore.models.split_search import Ranked, Rules
from veilscore.protocols.boosting import bank_boost, holder_boost
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Progress, Session
from veilscore.wire.transcript import Transcript

mpl.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from veilscore.wire.protocol import Protocol

BASE = {"rows": 30_000, "columns": 20, "bins": 32, "depth": 4, "holders": 2}
SWEEPS: dict[str, tuple[int, ...]] = {
    "rows": (10_000, 30_000, 100_000, 300_000, 1_000_000),
    "columns": (10, 20, 50, 100),
    "bins": (8, 16, 32, 64),
    "depth": (2, 3, 4, 6),
    "holders": (1, 2, 4),
}
TREES = 4  # the first one, with the set-up, is not counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most-rows", type=int, default=1_000_000)
    parser.add_argument("--plot", type=Path, default=Path("boosting_scale.png"))
    parser.add_argument("--sweeps", nargs="*", choices=list(SWEEPS), default=list(SWEEPS))
    args = parser.parse_args()
    for holders in (1, 2):
        measure({**BASE, "rows": 9000, "holders": holders})  # compile
    table: dict[str, list[dict[str, Any]]] = {}
    for name in args.sweeps:
        table[name] = []
        for value in SWEEPS[name]:
            if name == "rows" and value > args.most_rows:
                continue
            found = measure({**BASE, name: value})
            table[name].append({name: value, **found})
            print(f"{name}={value:<9}", *(f"{k} {v:<9}" for k, v in found.items()), flush=True)
    _plot(table, args.plot)
    worst = max((row for rows in table.values() for row in rows), key=_over)
    emit(
        "boosting_scale",
        round(_over(worst), 2),
        "of 3 s a tree at up to 150,000 rows, more in proportion, 20 columns, 32 bins, depth 4 and in proportion",
        1.0,
        _over(worst) <= 1.0,
        plot=str(args.plot),
        **table,
    )


def _over(row: dict[str, Any]) -> float:
    """Seconds of a tree, in units of what the size allows."""
    size = {**BASE, **row}
    rows = max(1.0, size["rows"] / 150_000)
    cells = max(1.0, size["columns"] * size["bins"] / (BASE["columns"] * BASE["bins"]))
    nodes = max(1.0, 2.0 ** (size["depth"] - BASE["depth"]))
    return float(row["s_per_tree"]) / (3.0 * rows * cells * nodes)


def measure(size: dict[str, int]) -> dict[str, float]:
    """Seconds (by the clock, of processors) and megabytes of a tree, those of the set-up, largest memory meanwhile."""
    rng = np.random.default_rng(1)
    holders = tuple(f"h{i}" for i in range(size["holders"]))
    share = max(1, size["columns"] // (1 + len(holders)))
    codes = {p: rng.integers(0, size["bins"], (size["rows"], share)).astype(np.uint8) for p in ("bank", *holders)}
    eta = sum(c[:, 0] / size["bins"] for c in codes.values()) - 2.5
    target = (rng.random(size["rows"]) < 1 / (1 + np.exp(-eta))).astype(np.int8)
    ranked = Ranked(np.full(share, size["bins"]), np.zeros(share, bool), np.zeros(share, np.int64))
    columns = HolderColumns(ranked, np.tile(np.arange(size["bins"]), share))
    growth = _growth(size, TREES)
    base = float(np.log(target.mean() / (1 - target.mean())))
    held = dict.fromkeys(holders, columns)
    data = BankBoosting(codes["bank"], columns, held, target, np.ones(target.size), base, growth)
    sessions = {p: Session("scale/boost/1", p, "bank", holders) for p in codes}
    transcripts = {p: Transcript() for p in codes}
    seen: list[tuple[float, float, float]] = []

    def note() -> None:
        sent = sum(transcripts[p].bytes_sent(p) for p in codes)
        seen.append((time.perf_counter(), time.process_time(), sent / 1e6))

    roles = {"bank": _watched(bank_boost(sessions["bank"], data), note)}
    roles |= {h: holder_boost(sessions[h], codes[h], ranked.n_codes, growth, natural=columns) for h in holders}
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here on
    note()
    simulate(roles, sessions, timeout_s=3600, transcripts=transcripts)
    trees = np.diff(np.array(seen[1:]), axis=0)
    tree_s, cpu_s, tree_mb = np.median(trees, axis=0).tolist()
    first_s, _, first_mb = np.subtract(seen[1], seen[0]).tolist()
    return {
        "s_per_tree": round(tree_s, 2),
        "cpu_s_per_tree": round(cpu_s, 2),
        "mb_per_tree": round(tree_mb, 1),
        "set_up_s": round(max(0.0, first_s - tree_s), 2),
        "set_up_mb": round(first_mb - tree_mb, 1),
        "peak_gb": round(_peak_kb() / 1e6, 2),
    }


def _watched(role: Protocol[Any], note: Any) -> Iterator[Any]:
    """The role, with a note after each tree."""
    answer = None
    while True:
        try:
            command = role.send(answer)
        except StopIteration as stop:
            return stop.value
        if isinstance(command, Progress) and command.text == "trees":
            note()
        answer = yield command


def _peak_kb() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])


def _growth(size: dict[str, int], n_trees: int) -> Growth:
    return Growth(
        n_estimators=n_trees,
        max_depth=size["depth"],
        max_leaves=0,
        leaf_wise=False,
        max_bin=size["bins"],
        subsample=1.0,
        colsample_bytree=1.0,
        own_columns=False,
        early_stopping_rounds=0,
        max_weight=1.0,
        validation=np.zeros(size["rows"], bool),
        rules=Rules(0.1, 1.0, 0.0, 1.0, 0.0, 30),
    )


def _plot(table: dict[str, list[dict[str, Any]]], path: Path) -> None:
    figure, axes = plt.subplots(2, len(table), figsize=(3.2 * len(table), 5), layout="constrained", squeeze=False)
    for (top, bottom), (name, rows) in zip(axes.T, table.items(), strict=True):
        scale = "log" if name == "rows" else "linear"
        lowest = None if name == "rows" else 0
        x = [r[name] for r in rows]
        top.plot(x, [r["s_per_tree"] for r in rows], marker="o")
        top.set(ylabel="s a tree", xscale=scale, yscale=scale, ylim=(lowest, None))
        other = top.twinx()
        other.plot(x, [r["mb_per_tree"] for r in rows], color="tab:orange", ls="--")
        other.set(ylabel="MB a tree (dashed)", yscale=scale, ylim=(lowest, None))
        bottom.plot(x, [r["peak_gb"] for r in rows], marker="o", color="tab:green")
        bottom.set(xlabel=name, ylabel="peak memory, GB", xscale=scale, ylim=(0, None))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
