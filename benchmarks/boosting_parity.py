"""Accuracy of joint boosting: against a plaintext version of the same algorithm, and against pooled XGBoost (4 folds).

The protocol runs in memory, all parties in one process, on the codes that nodes would make. Modes: "sealed" (the
default, nothing opened but noised sums of leaves), "exact" (sums opened without bounds), "bounded" (noise and limits).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from boosting_trial import DATA, PARTIES, pooled_codes
from result import emit
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from xgboost import XGBClassifier

from veilscore.models import harmonics
from veilscore.models.boosting_design import natural
from veilscore.models.boosting_form import BankBoosting, Growth, HolderColumns, rank_codes
from veilscore.models.split_search import Ranked, Rules
from veilscore.models.trees import Tree, goes_left, leaf_range, tree_values
from veilscore.protocols.boosting import bank_boost, holder_boost
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
import boosting_reference as oracle

HOLDERS = PARTIES[1:]
MODES: dict[str, dict[str, Any]] = {
    "sealed": {"sealed": True, "bounds": True, "noise_rows": 3.0, "share": 1.0},
    "exact": {"sealed": False, "bounds": False, "noise_rows": 0.0, "share": None},
    "bounded": {"sealed": False, "bounds": True, "noise_rows": 3.0, "share": 1.0},
}
CLOSE = {"default_credit": 0.01, "sba_loans": 0.01}
MAX_EXACT, MAX_MARGIN, DEPTH, RATE = 0.004, 1e-4, 4, 0.1
TIE = 1e-5  # relative gap of gains below which either split may win


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="*", default=["default_credit", "polish_1year", "sba_loans"])
    parser.add_argument("--modes", nargs="*", default=list(MODES))
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
        pooled = found["xgboost"]
        for mode in args.modes:
            allowed = CLOSE.get(name) if mode == "bounded" else MAX_EXACT
            holds &= allowed is None or found[mode] >= pooled - allowed
        holds &= found.get("margin_difference", 0.0) <= MAX_MARGIN and not found.get("other_splits", 0)
        print(name, found, flush=True)
    worst = max(f["xgboost"] - f[m] for f in figures.values() for m in args.modes if m != "bounded")
    emit("boosting_parity", round(worst, 5), "AUC below XGBoost", MAX_EXACT, holds, folds=args.folds, **figures)


def _one_set(name: str, args: argparse.Namespace) -> dict[str, Any]:
    label, codes, maps = pooled_codes(DATA / name, max_bin=32)
    folds = list(StratifiedKFold(4, shuffle=True, random_state=0).split(codes, label))[: args.folds]
    aucs: dict[str, list[float]] = {mode: [] for mode in (*args.modes, "xgboost")}
    found: dict[str, Any] = {}
    for number, (train, test) in enumerate(folds):
        model = XGBClassifier(n_estimators=args.trees, max_depth=DEPTH, learning_rate=RATE, max_bin=64, n_jobs=2)
        values = _ranked_values(codes, label, train, maps)
        model.fit(values[train], label[train])
        aucs["xgboost"].append(roc_auc_score(label[test], model.predict_proba(values[test])[:, 1]))
        for mode in args.modes:
            data, parts = _inputs(label, codes, maps, train, args.trees, mode)
            trees, _ = _train(data, parts, maps)
            aucs[mode].append(roc_auc_score(label[test], _margins(trees, data, codes[test], maps)))
            print(name, mode, number, round(aucs[mode][-1], 5), len(trees), flush=True)
            if mode == "exact" and number == 0:
                found |= _against_oracle(data, parts, trees)
    return found | {mode: round(float(np.mean(values)), 5) for mode, values in aucs.items()}


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
    label: np.ndarray, codes: np.ndarray, maps: dict[str, Any], train: np.ndarray, n_trees: int, mode: str
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
        rules=Rules(RATE, 1.0, 0.0, 1.0, 0.0, 30 if MODES[mode]["bounds"] and not MODES[mode]["sealed"] else 0),
        **MODES[mode],
    )
    target = label[train]
    base = float(np.log(target.mean() / (1 - target.mean())))
    held = {p: columns[p] for p in HOLDERS}
    return BankBoosting(blocks["bank"], columns["bank"], held, target, np.ones(train.size), base, growth), blocks


def _train(data: BankBoosting, blocks: dict[str, np.ndarray], maps: dict[str, Any]) -> tuple[list[Tree], Any]:
    """Trees with the holders' splits put back (each holder keeps its own), and the bank's result."""
    sessions = {p: Session("parity/boost/1", p, "bank", HOLDERS) for p in PARTIES}
    roles = {"bank": bank_boost(sessions["bank"], data)}
    for h in HOLDERS:
        order = natural(maps[h]) if data.growth.sealed else None
        roles[h] = holder_boost(sessions[h], blocks[h], maps[h].n_codes, data.growth, natural=order)
    out = simulate(roles, sessions, timeout_s=3600)
    own = {h: list(out[h].trees) for h in HOLDERS}
    whole = []
    for tree in out["bank"].trees:
        theirs = own[tree.holder].pop(0)
        splits = [b if b.side == "bank" else a for a, b in zip(theirs.splits, tree.splits, strict=True)]
        whole.append(tree.model_copy(update={"splits": tuple(splits)}))
    return whole, out["bank"]


def _margins(trees: list[Tree], data: BankBoosting, codes: np.ndarray, maps: dict[str, Any]) -> np.ndarray:
    blocks = _blocks(codes, maps)
    total = np.full(codes.shape[0], data.base)
    for tree in trees:
        both = {"bank": blocks["bank"], "holder": blocks[tree.holder]}
        n_codes = {"bank": maps["bank"].n_codes, "holder": maps[tree.holder].n_codes}
        total += tree_values(tree, both, n_codes, np.array(tree.weights))
    return total


def _against_oracle(data: BankBoosting, blocks: dict[str, np.ndarray], trees: list[Tree]) -> dict[str, float]:
    """Grow the same trees in the clear; splits that differ by more than a tie, and the difference of margins."""
    n = data.target.size
    margin, joint = np.full(n, data.base), np.full(n, data.base)
    reach = np.full((2, n), data.base)
    other, ties = 0, 0
    ranked = {p: rank_codes(blocks[p], data.own if p == "bank" else data.columns[p]) for p in PARTIES}
    for tree in trees:
        p, h = harmonics.for_bound(float(np.abs(reach).max()) * (1 + 1e-9)).probability(margin)
        sides = (("bank", "bank", data.own), ("holder", tree.holder, data.columns[tree.holder]))
        columns = [
            oracle.Column(side, j, ranked[party][:, j], int(c.ranked.n_codes[j]), bool(c.ranked.missing[j]))
            for side, party, c in sides
            for j in range(c.ranked.n_codes.size)
        ]
        root = oracle.grow(columns, p - data.target, h, np.ones(n, bool), oracle.Rules(RATE, max_depth=DEPTH))
        values = oracle.values(root, n)
        both = {"bank": blocks["bank"], "holder": blocks[tree.holder]}
        n_codes = {"bank": data.own.ranked.n_codes, "holder": data.columns[tree.holder].ranked.n_codes}
        grown = tree_values(tree, both, n_codes, np.array(tree.weights))
        if np.abs(values - grown).max() > MAX_MARGIN:
            gap = _gap_where_they_differ(root, tree, both, n_codes)
            ties += gap < TIE
            other += gap >= TIE
            values = grown  # a tie decided otherwise: go on from the same margins
        margin, joint = margin + values, joint + grown
        reach = reach + leaf_range(tree, blocks["bank"], n_codes["bank"])
    return {"margin_difference": float(np.abs(margin - joint).max()), "other_splits": other, "ties": ties}


def _gap_where_they_differ(root: Any, tree: Tree, codes: dict[str, Any], n_codes: dict[str, Any]) -> float:
    """How much better, relatively, the split was than the next one, at the first node where the trees differ."""
    stack = [(root, 0 if tree.splits else -1)]
    while stack:
        node, k = stack.pop(0)
        if node.split is None and k < 0:
            continue
        if node.split is None or k < 0:
            return 1.0
        split = tree.splits[k]
        if not np.array_equal(node.goes, goes_left(split, codes[split.side], n_codes[split.side])):
            return float((node.split[0] - node.runner_up) / node.split[0])
        stack += [(node.children[0], split.left), (node.children[1], split.right)]
    return 1.0


if __name__ == "__main__":
    main()
