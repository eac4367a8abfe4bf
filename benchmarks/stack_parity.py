"""A joint stack against its members and pooled XGBoost, on rows that nothing was fitted on.

Each split is a whole `train_stack` job, all parties in one process, with another quarter of the firms held out. The
members are measured on the same rows by putting together, in the clear, what every party keeps of them.
"""

from __future__ import annotations

import argparse
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
from sklearn.metrics import roc_auc_score
from xgboost import XGBClassifier

from veilscore.models.boosted import Boosted
from veilscore.models.filed import load_model
from veilscore.models.model import Scorecard
from veilscore.node.local import open_job
from veilscore.terms.job import parse_job
from veilscore.terms.node_config import DatasetConfig, NodeConfig
from veilscore.terms.policy import NodePolicy

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from pooled_margins import card_margins, part_of, tree_margins

HOLDERS = PARTIES[1:]
MAX_WORSE = 0.001  # the stack may be this much below its best member


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="*", default=["default_credit", "polish_1year", "sba_loans"])
    parser.add_argument("--splits", type=int, default=4, help="hold-outs, a quarter each")
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--folds", type=int, default=4)
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in args.sets:
        if not (DATA / name).is_dir():
            sys.exit(f"{name} is needed beside the checkout (../shared/data)")
        found: dict[str, list[float]] = {}
        for split in range(args.splits):
            for model, auc in _one_job(name, split, args).items():
                found.setdefault(model, []).append(auc)
            print(name, split, {model: round(values[-1], 5) for model, values in found.items()}, flush=True)
        figures[name] = {model: round(float(np.mean(values)), 5) for model, values in found.items()}
    worst = max(max(f["scorecard"], f["boosting"]) - f["stack"] for f in figures.values())
    emit(
        "stack_parity", round(worst, 5), "AUC below the best member", MAX_WORSE, worst <= MAX_WORSE,
        splits=args.splits, trees=args.trees, folds=args.folds, **figures,
    )  # fmt: skip


def _one_job(name: str, split: int, args: argparse.Namespace) -> dict[str, float]:
    parameters = {
        "disclosure": "exact",
        "folds": args.folds,
        "holdout_seed": split,
        "boosting": {"n_estimators": args.trees},
    }
    body = {
        "name": "stack",
        "purpose": "benchmark",
        "task": "train_stack",
        "bank": "bank",
        "holders": list(HOLDERS),
        "datasets": dict.fromkeys(PARTIES, "main"),
        "parameters": parameters,
    }
    job = parse_job(json.dumps(body))
    nodes = {
        party: NodeConfig(
            name=party,
            role="bank" if party == "bank" else "holder",
            datasets={
                "main": DatasetConfig(
                    path=DATA / name / f"{party}.csv",
                    id_column="uscc",
                    label_column="default" if party == "bank" else None,
                )
            },
            policy=NodePolicy(accept="auto", allow_order=True, consent="off", exact_for={"bank": dt.date.max}),
        )
        for party in PARTIES
    }
    with tempfile.TemporaryDirectory() as folder:
        run = open_job(job, nodes, Path(folder))
        start = time.perf_counter()
        for step in job.steps:
            run.step(step, timeout_s=3600)
        print(f"{name} split {split}: {time.perf_counter() - start:.0f} s", flush=True)
        return _measured(run, job)


def _measured(run: Any, job: Any) -> dict[str, float]:
    """AUC on the hold-out of the stack, its members, and XGBoost on the pooled codes."""
    store = run.stores["bank"]
    saved = {party: run.stores[party].load_arrays("rows") for party in PARTIES}
    train, target = saved["bank"]["train"], saved["bank"]["target"]
    y = target[~train]
    codes = {party: rows["codes"][~train].astype(np.int64) for party, rows in saved.items()}
    card = load_model(store.path / "scorecard" / "model.json", Scorecard)
    trees = load_model(store.path / "boosting" / "model.json", Boosted)
    parts = {h: part_of(run, h, "boosting") for h in HOLDERS}
    pooled = np.concatenate([rows["codes"] for rows in saved.values()], axis=1)
    p = next(c.parameters for c in job.candidates if c.name == "boosting")
    rival = XGBClassifier(n_estimators=p.n_estimators, max_depth=p.max_depth, learning_rate=p.learning_rate, n_jobs=2)
    ranked = _by_risk(pooled, target, train)
    rival.fit(ranked[train], target[train])
    return {
        "stack": roc_auc_score(y, -store.load_arrays("holdout")["units"]),
        "scorecard": roc_auc_score(y, card_margins(card, codes)),
        "boosting": roc_auc_score(y, tree_margins(trees, parts, codes)),
        "xgboost": roc_auc_score(y, rival.predict_proba(ranked[~train])[:, 1]),
    }


def _by_risk(codes: np.ndarray, target: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Codes are numbered at random; for XGBoost each is replaced by the rank of its bad rate in training."""
    out = np.empty(codes.shape, np.float32)
    for j, column in enumerate(codes.T):
        rows = np.bincount(column[train], minlength=int(column.max()) + 1)
        bad = np.bincount(column[train], weights=target[train], minlength=rows.size)
        out[:, j] = np.argsort(np.argsort((bad + 0.5) / (rows + 1)))[column]
    return out


if __name__ == "__main__":
    main()
