"""Accuracy of joint boosting against pooled XGBoost (4 folds).

The protocol runs in memory, all parties in one process, on the codes that nodes would make.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from boosting_trial import DATA, PARTIES, pooled_codes
from result import emit
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from xgboost import XGBClassifier

from veilscore.models.boosting_design import natural
from veilscore.models.boosting_form import BankBoosting, Growth, HolderColumns, rank_codes
from veilscore.models.split_search import Ranked, Rules
from veilscore.models.trees import Tree, tree_values
from veilscore.protocols.boosting import bank_boost, holder_boost
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session

HOLDERS = PARTIES[1:]
MAX_LOSS, DEPTH, RATE = 0.004, 4, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="*", default=["default_credit", "polish_1year", "sba_loans"])
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--trees", type=int, default=100)
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    holds = True
    for name in args.sets:
        if not (DATA / name).is_dir():
            sys.exit(f"{name} is needed beside the checkout (../shared/data)")
        found = _one_set(name, args)
        figures[name] = found
        holds &= found["joint"] >= found["xgboost"] - MAX_LOSS
        print(name, found, flush=True)
    worst = max(f["xgboost"] - f["joint"] for f in figures.values())
    emit("boosting_parity", round(worst, 5), "AUC below XGBoost", MAX_LOSS, holds, folds=args.folds, **figures)


def _one_set(name: str, args: argparse.Namespace) -> dict[str, Any]:
    label, codes, maps = pooled_codes(DATA / name, max_bin=32)
    folds = list(StratifiedKFold(4, shuffle=True, random_state=0).split(codes, label))[: args.folds]
    aucs: dict[str, list[float]] = {"joint": [], "xgboost": []}
    for number, (train, test) in enumerate(folds):
        model = XGBClassifier(n_estimators=args.trees, max_depth=DEPTH, learning_rate=RATE, max_bin=64, n_jobs=2)
        values = _ranked_values(codes, label, train, maps)
        model.fit(values[train], label[train])
        aucs["xgboost"].append(roc_auc_score(label[test], model.predict_proba(values[test])[:, 1]))
        data, parts = _inputs(label, codes, maps, train, args.trees)
        trees = _train(data, parts, maps)
        aucs["joint"].append(roc_auc_score(label[test], _margins(trees, data, codes[test], maps)))
        print(name, number, round(aucs["joint"][-1], 5), len(trees), flush=True)
    return {mode: round(float(np.mean(values)), 5) for mode, values in aucs.items()}


def _blocks(codes: np.ndarray, maps: dict[str, Any]) -> dict[str, np.ndarray]:
    at = np.cumsum([0, *(maps[p].n_codes.size for p in PARTIES)])
    return {p: np.ascontiguousarray(codes[:, at[i] : at[i + 1]]) for i, p in enumerate(PARTIES)}


def _columns(label: np.ndarray, block: np.ndarray, code_map: Any) -> HolderColumns:
    """Order of values for numbers, of bad rates for categories."""
    own, n_codes = natural(code_map), code_map.n_codes
    ranks, at = own.ranks.copy(), 0
    for j, k in enumerate(n_codes.tolist()):
        if ranks[at] < 0:
            bad = np.bincount(block[:, j], weights=label, minlength=k)
            rows = np.bincount(block[:, j], minlength=k)
            ranks[at : at + k] = np.argsort(np.argsort((bad + 0.5) / (rows + 1), kind="stable"))
        at += k
    return HolderColumns(Ranked(n_codes, own.ranked.missing, np.zeros(n_codes.size, np.int64)), ranks)


def _ranked_values(codes: np.ndarray, label: np.ndarray, train: np.ndarray, maps: dict[str, Any]) -> np.ndarray:
    """The same bins for XGBoost: ranks as numbers, missing as NaN."""
    out = []
    for party, block in _blocks(codes, maps).items():
        columns = _columns(label[train], block[train], maps[party])
        ranks = rank_codes(block, columns).astype(np.float32)
        for j in np.flatnonzero(columns.ranked.missing):
            ranks[ranks[:, j] == columns.ranked.n_codes[j] - 1, j] = np.nan
        out.append(ranks)
    return np.concatenate(out, axis=1)


def _inputs(
    label: np.ndarray, codes: np.ndarray, maps: dict[str, Any], train: np.ndarray, n_trees: int
) -> tuple[BankBoosting, dict[str, np.ndarray]]:
    blocks = _blocks(codes[train], maps)
    columns = {p: _columns(label[train], blocks[p], maps[p]) for p in PARTIES}
    growth = Growth(
        n_estimators=n_trees,
        max_depth=DEPTH,
        max_leaves=0,
        leaf_wise=False,
        max_bin=32,
        subsample=1.0,
        colsample_bytree=1.0,
        own_columns=False,
        early_stopping_rounds=0,
        max_weight=1.0,
        validation=np.zeros(train.size, bool),
        rules=Rules(RATE, 1.0, 0.0, 1.0, 0.0, 0),
    )
    target = label[train]
    base = float(np.log(target.mean() / (1 - target.mean())))
    held = {p: columns[p] for p in HOLDERS}
    return BankBoosting(blocks["bank"], columns["bank"], held, target, np.ones(train.size), base, growth), blocks


def _train(data: BankBoosting, blocks: dict[str, np.ndarray], maps: dict[str, Any]) -> list[Tree]:
    """Trees with the holders' splits put back (each holder keeps its own)."""
    sessions = {p: Session("parity/boost/1", p, "bank", HOLDERS) for p in PARTIES}
    roles = {"bank": bank_boost(sessions["bank"], data)}
    for h in HOLDERS:
        roles[h] = holder_boost(sessions[h], blocks[h], maps[h].n_codes, data.growth, natural(maps[h]))
    out = simulate(roles, sessions, timeout_s=3600)
    own = {h: list(out[h].trees) for h in HOLDERS}
    whole = []
    for tree in out["bank"].trees:
        theirs = own[tree.holder].pop(0)
        splits = [b if b.side == "bank" else a for a, b in zip(theirs.splits, tree.splits, strict=True)]
        whole.append(tree.model_copy(update={"splits": tuple(splits)}))
    return whole


def _margins(trees: list[Tree], data: BankBoosting, codes: np.ndarray, maps: dict[str, Any]) -> np.ndarray:
    blocks = _blocks(codes, maps)
    total = np.full(codes.shape[0], data.base)
    for tree in trees:
        both = {"bank": blocks["bank"], "holder": blocks[tree.holder]}
        n_codes = {"bank": maps["bank"].n_codes, "holder": maps[tree.holder].n_codes}
        total += tree_values(tree, both, n_codes, np.array(tree.weights))
    return total


if __name__ == "__main__":
    main()
