"""Cost of one boosted tree against rows, columns, bins, depth and holders: a table and a plot, with memory and bytes.

The protocol runs in memory, all parties in one process on simulated codes, so seconds are those of one machine doing
everything; the set-up (hints, keys) is given apart. Rows beyond a million take the same cost a row.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from result import emit

from veilscore.channel import simulate
from veilscore.modelling.split_search import Ranked, Rules
from veilscore.protocol import Session, Transcript
from veilscore.protocols.boosting import BankBoosting, bank_boost, holder_boost
from veilscore.protocols.boosting_form import Growth, HolderColumns

mpl.use("Agg")
import matplotlib.pyplot as plt

BASE = {"rows": 30_000, "columns": 20, "bins": 32, "depth": 4, "holders": 2}
SWEEPS: dict[str, tuple[int, ...]] = {
    "rows": (10_000, 30_000, 100_000, 300_000, 1_000_000),
    "columns": (10, 20, 50, 100),
    "bins": (8, 16, 32, 64),
    "depth": (2, 3, 4, 6),
    "holders": (1, 2, 4),
}
TREES = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", choices=("sealed", "bounded"), default="bounded")
    parser.add_argument("--most-rows", type=int, default=1_000_000)
    parser.add_argument("--plot", type=Path, default=Path("boosting_scale.png"))
    args = parser.parse_args()
    measure({**BASE, "rows": 5000}, args.splits)  # compile
    table: dict[str, list[dict[str, Any]]] = {}
    for name, values in SWEEPS.items():
        table[name] = []
        for value in values:
            if name == "rows" and value > args.most_rows:
                continue
            found = measure({**BASE, name: value}, args.splits)
            table[name].append({name: value, **found})
            print(f"{name}={value:<9}", *(f"{k} {v:<9}" for k, v in found.items()), flush=True)
    _plot(table, args.plot)
    largest = table["rows"][-1]
    bound = 3.0 * largest["rows"] / 30_000
    emit(
        "boosting_scale",
        largest["s_per_tree"],
        f"s a tree at {largest['rows']} rows",
        bound,
        largest["s_per_tree"] <= bound,
        splits=args.splits,
        plot=str(args.plot),
        **table,
    )


def measure(size: dict[str, int], splits: str) -> dict[str, float]:
    """Seconds of set-up and of a tree, megabytes of each, peak memory of the process so far."""
    rng = np.random.default_rng(1)
    holders = tuple(f"h{i}" for i in range(size["holders"]))
    share = max(1, size["columns"] // (1 + len(holders)))
    codes = {p: rng.integers(0, size["bins"], (size["rows"], share)).astype(np.uint8) for p in ("bank", *holders)}
    eta = sum(c[:, 0] / size["bins"] for c in codes.values()) - 2.5
    target = (rng.random(size["rows"]) < 1 / (1 + np.exp(-eta))).astype(np.int8)
    ranked = Ranked(np.full(share, size["bins"]), np.zeros(share, bool), np.zeros(share, np.int64))
    columns = HolderColumns(ranked, np.tile(np.arange(size["bins"]), share))
    seconds, sent = [], []
    for n_trees in (1, 1 + TREES):  # the difference is what trees cost
        growth = _growth(size, splits, n_trees)
        base = float(np.log(target.mean() / (1 - target.mean())))
        held = dict.fromkeys(holders, columns)
        data = BankBoosting(codes["bank"], columns, held, target, np.ones(target.size), base, growth)
        sessions = {p: Session(f"scale/boost/{n_trees}", p, "bank", holders) for p in codes}
        roles = {"bank": bank_boost(sessions["bank"], data)}
        roles |= {h: holder_boost(sessions[h], codes[h], ranked.n_codes, growth, natural=columns) for h in holders}
        transcripts = {p: Transcript() for p in codes}
        began = time.perf_counter()
        simulate(roles, sessions, timeout_s=3600, transcripts=transcripts)
        seconds.append(time.perf_counter() - began)
        sent.append(sum(transcripts[p].bytes_sent(p) for p in codes))
    tree_s, tree_mb = (seconds[1] - seconds[0]) / TREES, (sent[1] - sent[0]) / TREES / 1e6
    return {
        "s_per_tree": round(tree_s, 2),
        "mb_per_tree": round(tree_mb, 1),
        "set_up_s": round(max(0.0, seconds[0] - tree_s), 2),
        "set_up_mb": round(sent[0] / 1e6 - tree_mb, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def _growth(size: dict[str, int], splits: str, n_trees: int) -> Growth:
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
        bounds=True,
        noise_rows=3.0,
        share=None,
        validation=np.zeros(size["rows"], bool),
        rules=Rules(0.1, 1.0, 0.0, 1.0, 0.0, 30),
        sealed=splits == "sealed",
    )


def _plot(table: dict[str, list[dict[str, Any]]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(table), figsize=(3.2 * len(table), 3), layout="constrained")
    for axis, (name, rows) in zip(axes, table.items(), strict=True):
        axis.plot([r[name] for r in rows], [r["s_per_tree"] for r in rows], marker="o")
        axis.set(xlabel=name, ylabel="s a tree", xscale="log" if name == "rows" else "linear", ylim=(0, None))
        other = axis.twinx()
        other.plot([r[name] for r in rows], [r["mb_per_tree"] for r in rows], color="tab:orange", ls="--")
        other.set(ylabel="MB a tree", ylim=(0, None))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
