"""Boosting jobs on real processes and on codes in memory, for the boosting benchmarks."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import trial

from veilscore.data.codes import CodeMap
from veilscore.data.ingest import read_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from veilscore.v1 import control_pb2

PARTIES = ("bank", "tax", "registry")
DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def job_text(name: str, **parameters: Any) -> str:
    """A job as a user types it."""
    body = {
        "name": name,
        "purpose": "credit scoring of small firms",
        "task": "train_boosting",
        "bank": "bank",
        "holders": ["tax", "registry"],
        "datasets": dict.fromkeys(PARTIES, "main"),
        "parameters": {"disclosure": "exact", "holdout_fraction": 0, "holdout_scores": False, **parameters},
    }
    return json.dumps(body)


@contextmanager
def federation(data: Path) -> Iterator[Path]:
    """Four nodes whose holders agree to exact jobs."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "f"
        trial.found_federation(folder, trial.PARTIES, data=trial.DataFiles(data), exact=True)
        trial.veilscore("up", str(folder))
        try:
            yield folder
        finally:
            trial.veilscore("down", str(folder))


def train(folder: Path, name: str, **parameters: Any) -> tuple[control_pb2.JobInfo, dict[str, Any]]:
    """Run one training job; what it cost, and figures of its boost step."""
    path = folder / f"{name}.yaml"
    path.write_text(job_text(name, **parameters), encoding="utf-8")
    info = trial.run_job(folder, path)
    step = next(step for step in info.steps if step.step == "boost")
    model = json.loads((folder / "bank" / "models" / name / "model.json").read_text())["model"]
    n_trees = len(model["trees"]) + sum(len(chain) for chain in model.get("chains", {}).values())
    return info, {
        "trees": n_trees,
        "boost_s": round(step.seconds, 2),
        "s_per_tree": round(step.seconds / n_trees, 3),
        "cpu_s": {party: round(done.cpu_seconds, 1) for party, done in sorted(step.party_done.items())},
        "sent_gb": round(trial.bytes_sent(info, ("boost",)) / 1e9, 3),
        "peak_gb": round(max(done.peak_memory_bytes for done in step.party_done.values()) / 1e9, 2),
    }


def pooled_codes(folder: Path, *, max_bin: int, ordered: bool = True) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Left join of all parties as codes: labels, codes (n, d) of all parties side by side, and code maps."""
    bank = read_table(folder / "bank.csv", "uscc", "default")
    rows = {firm: i for i, firm in enumerate(bank.ids.tolist())}
    blocks, maps = [], {}
    for party in PARTIES:
        table = bank if party == "bank" else read_table(folder / f"{party}.csv", "uscc", None)
        row_of = np.full(bank.n_rows, -1)
        for i, firm in enumerate(table.ids.tolist()):
            if firm in rows:
                row_of[rows[firm]] = i
        known = row_of[row_of >= 0]
        maps[party] = CodeMap.fit(table, known, max_bin=max_bin, min_bin_fraction=0.01, ordered=ordered)
        blocks.append(maps[party].transform(table).take_rows(row_of).codes)
    return np.asarray(bank.label, dtype=np.int8), np.concatenate(blocks, axis=1), maps
