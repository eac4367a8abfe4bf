"""What it costs in accuracy to compare a few cuts of each column first, then those around the best: in the clear.

Boosted trees on the pooled columns by the product's own code, with the same bins and folds, once with every threshold
compared and once as `split_search: coarse` does (`protocols/boosting_search.py`). Test AUC by fold.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from boosting_parity import DATA, HOLDERS, _inputs
from boosting_trial import PARTIES, pooled_codes
from result import emit
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from veilscore.models import own_trees
from veilscore.models.boosting_form import HolderColumns
from veilscore.models.split_search import Chosen, FoundSplit, Ranked, Rules, best_split
from veilscore.models.trees import tree_values
from veilscore.protocols.boosting_search import coarse_step

MAX_LOSS = 0.001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="*", default=["default_credit", "polish_1year", "sba_loans", "kz_corporate"])
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--trees", type=int, default=100)
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in args.sets:
        if not (DATA / name).is_dir():
            sys.exit(f"{name} is needed beside the checkout (../shared/data)")
        label, codes, maps = pooled_codes(DATA / name, max_bin=32)
        found = [
            _fold(label, codes, maps, split, args.trees)
            for split in list(StratifiedKFold(4, shuffle=True, random_state=0).split(codes, label))[: args.folds]
        ]
        every, coarse = np.array(found).T
        error = float((coarse - every).std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0
        figures[name] = {
            "every": round(float(every.mean()), 5),
            "coarse": round(float(coarse.mean()), 5),
            "error": round(error, 5),
        }
        print(name, figures[name], flush=True)
    worst = max(f["every"] - f["coarse"] for f in figures.values())
    emit("boosting_coarse", round(worst, 5), "AUC below every threshold", MAX_LOSS, worst <= MAX_LOSS, **figures)


def _fold(label: Any, codes: Any, maps: Any, split: Any, n_trees: int) -> tuple[float, float]:
    train, test = split
    data, _ = _inputs(label, codes, maps, train, n_trees)
    parts = [data.own, *(data.columns[h] for h in HOLDERS)]
    ranked = Ranked(
        np.concatenate([p.ranked.n_codes for p in parts]),
        np.concatenate([p.ranked.missing for p in parts]),
        np.concatenate([p.ranked.constraints for p in parts]),
    )
    columns = HolderColumns(ranked, np.concatenate([p.ranks for p in parts]))
    aucs = []
    for search in (best_split, coarse_split):
        own_trees.best_split = search
        grown = own_trees.grow_own(PARTIES[0], codes[train], columns, data.target, data.weight, data.base, data.growth)
        both, n_codes = {"bank": codes[test], "holder": codes[test]}, {"bank": ranked.n_codes, "holder": ranked.n_codes}
        margin = sum(tree_values(tree, both, n_codes, np.array(tree.weights)) for tree in grown.trees)
        aucs.append(float(roc_auc_score(label[test], margin)))
    own_trees.best_split = best_split
    return aucs[0], aucs[1]


def coarse_split(
    ranked: Ranked, chosen: Chosen, sums: Any, total: Any, rules: Rules, _bounds: Any = None
) -> FoundSplit | None:
    """As `best_split`: the best of a few cuts of each column, then the best around it."""
    gains = _gains(ranked, chosen, sums, total, rules)
    best = None
    for c, side, step, gain in gains:
        few = gain[step - 1 :: step]
        if few.size and few.max() > 0 and (best is None or few.max() > best[0]):
            best = (few.max(), c, side, step, (int(few.argmax()) + 1) * step - 1, gain)
    if best is None:
        return None
    _, c, side, step, at, gain = best
    low = max(0, at - step + 1)
    code = low + int(gain[low : at + step].argmax())
    first = int(np.concatenate([[0], np.cumsum(chosen.n_bins)])[c])
    g, h = (float(s[first : first + code + 1].sum()) for s in sums)
    if side:
        last = first + int(chosen.n_bins[c]) - 1
        g, h = g + float(sums[0][last]), h + float(sums[1][last])
    return FoundSplit(
        column=int(chosen.columns[c]),
        code=code,
        missing_left=bool(side),
        gain=float(gain[code]),
        left=(g, h),
        right=(total[0] - g, total[1] - h),
        constraint=0,
    )


def _gains(ranked: Ranked, chosen: Chosen, sums: Any, total: Any, rules: Rules) -> Any:
    """Gain of each threshold of each run (a column, and where missing values go); zero where none is possible."""
    at = 0
    parent = total[0] ** 2 / (max(total[1], 0.0) + rules.reg_lambda)
    for c, n_bins in enumerate(chosen.n_bins.tolist()):
        missing = bool(ranked.missing[chosen.columns[c]])
        bins = n_bins - missing
        for side in range(1 + missing):
            count = bins - (side == 1 or not missing)
            g, h = (np.cumsum(s[at : at + bins])[:count] + (s[at + bins] if side else 0.0) for s in sums)
            rest = total[1] - h
            with np.errstate(divide="ignore", invalid="ignore"):
                score = g**2 / (h + rules.reg_lambda) + (total[0] - g) ** 2 / (rest + rules.reg_lambda) - parent
            allowed = (h >= rules.least_h) & (rest >= rules.least_h)
            yield c, side, coarse_step(count), np.where(allowed, score, 0.0)
        at += n_bins


if __name__ == "__main__":
    main()
