"""A scorecard by defaults, in exact mode with partners who tell order and names, on the four sets of ../shared/data.

Each is held against the same job without any of what the defaults choose (`UNCHOSEN`), on the same hold-out, and what
the defaults promise of its form is looked up: no negative sign, every holder's column monotone or flagged. Firms that
a party does not know are left out, as the pooled figures that they are held against (../shared/data) know them all.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from boosting_trial import DATA, PARTIES
from result import emit

from veilscore.node.local import open_job
from veilscore.reports.data import ReportData
from veilscore.reports.report import read_report
from veilscore.terms.job import parse_job
from veilscore.terms.node_config import DatasetConfig, NodeConfig
from veilscore.terms.policy import NodePolicy

SETS = {"kz_corporate": 10, "polish_1year": 5, "default_credit": 1, "sba_loans": 1}  # hold-outs of each
UNCHOSEN = {"monotone": False, "sign": None, "min_iv": 0, "max_correlation": None, "rows_per_column": None}
MAX_WORSE, LEAST_POLISH = 0.01, 0.86


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in args.sets:
        if not (DATA / name).is_dir():
            sys.exit(f"{name} is needed beside the checkout (../shared/data)")
        found: list[tuple[float, float]] = []
        wrong: set[str] = set()
        kept: list[int] = []
        for split in range(SETS[name]):
            began = time.perf_counter()
            by_default, unchosen = _report(name, split, {}), _report(name, split, UNCHOSEN)
            found.append((_auc(by_default), _auc(unchosen)))
            wrong |= _wrong(by_default)
            kept.append(0 if by_default.model is None else sum(row.coefficient > 0 for row in by_default.model.rows))
            print(name, split, *found[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
        ours, free = np.mean(found, axis=0)
        figures[name] = {
            "auc": round(float(ours), 4), "unchosen": round(float(free), 4), "columns": kept, "wrong": sorted(wrong),
        }  # fmt: skip
        print(name, figures[name], flush=True)
    worst = max(one["unchosen"] - one["auc"] for one in figures.values())
    polish = figures.get("polish_1year", {}).get("auc", 1.0)
    holds = worst <= MAX_WORSE and polish >= LEAST_POLISH and not any(one["wrong"] for one in figures.values())
    emit("defaults", round(worst, 4), "AUC below the unconstrained, at the worst set", MAX_WORSE, holds, **figures)


def _report(name: str, split: int, parameters: dict[str, Any]) -> ReportData:
    """Run a job, all parties in one process, and return the bank's report."""
    body = {
        "name": "card",
        "purpose": "benchmark",
        "task": "train_scorecard",
        "bank": "bank",
        "holders": list(PARTIES[1:]),
        "datasets": dict.fromkeys(PARTIES, "main"),
        "parameters": {"disclosure": "exact", "holdout_seed": split, **parameters},
    }
    with tempfile.TemporaryDirectory() as folder:
        _write_common(DATA / name, Path(folder))
        nodes = {
            party: NodeConfig(
                name=party,
                role="bank" if party == "bank" else "holder",
                datasets={
                    "main": DatasetConfig(
                        path=Path(folder) / f"{party}.csv",
                        id_column="uscc",
                        label_column="default" if party == "bank" else None,
                    )
                },
                policy=NodePolicy.model_validate(
                    {"accept": "auto", "partner": "trusted", "consent": "off", "exact_for": {"bank": dt.date.max}}
                ),
            )
            for party in PARTIES
        }
        run = open_job(parse_job(json.dumps(body)), nodes, Path(folder) / "homes", keep=True).run()
        return read_report(run.stores["bank"].path / "report.json")


def _write_common(data: Path, folder: Path) -> None:
    """Write each party's rows of the firms that all of them know."""
    tables = {}
    for party in PARTIES:
        with (data / f"{party}.csv").open(encoding="utf-8", newline="") as file:
            tables[party] = list(csv.reader(file))
    common = set.intersection(*({row[rows[0].index("uscc")] for row in rows[1:]} for rows in tables.values()))
    for party, (titles, *rows) in tables.items():
        with (folder / f"{party}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([titles, *(row for row in rows if row[titles.index("uscc")] in common)])


def _auc(report: ReportData) -> float:
    return next(one.discrimination.auc for one in report.evaluations if one.kind == "joint")


def _wrong(report: ReportData) -> set[str]:
    """Return columns whose form a bank would not sign: a negative sign, or an order that nobody can check."""
    rows = () if report.model is None else report.model.rows
    return {f"{r.party}: {r.column}" for r in rows if r.coefficient < 0 or r.trend == "not told"}


if __name__ == "__main__":
    main()
