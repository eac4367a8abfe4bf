"""What privacy costs in AUC: private scorecards and trees at several mu, beside exact, bank-alone and pooled models.

Computed in the clear by the product's own bins, models and noise, not by its protocols: that the protocols give the
same sums is tested (tests/test_residual.py, tests/test_chains.py), and one split here takes a second instead of a
minute. `--jobs` runs the private scorecard of one split as a real job too, all parties in one process, and prints its
AUC beside the same split in the clear.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from boosting_trial import DATA, PARTIES
from result import emit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from xgboost import XGBClassifier

from veilscore.data.codes import CodeMap
from veilscore.data.fixed_bins import FixedBins
from veilscore.data.ingest import read_table
from veilscore.data.partitions import beside, part_names, partitions
from veilscore.data.table import Table
from veilscore.models import chain_design
from veilscore.models.chain_growth import TREES, Chain, ChainColumns, leaves_sensitivity, plain_chain
from veilscore.models.chained import card_places, sources_of
from veilscore.models.counts import cell_counts, offsets, own_counts
from veilscore.models.design import columns_of
from veilscore.models.filed import load_model
from veilscore.models.loss import sigmoid
from veilscore.models.model import Scorecard
from veilscore.models.trees import coefficients
from veilscore.node.local import open_job
from veilscore.tasks.noise import sizes_of
from veilscore.tasks.private_stack import CARD_SHARE
from veilscore.tasks.table import noise_of
from veilscore.terms.job import Job, parse_job
from veilscore.terms.node_config import DatasetConfig, NodeConfig
from veilscore.terms.policy import NodePolicy

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from plain_scorecard import private_part

HOLDERS = PARTIES[1:]
MUS = (0.3, 0.5, 1.0)
DEFAULT = 0.5
MAX_LOSS, LEAST_CLOSED, MAX_COARSE = 0.003, 0.65, 0.0015
HELD_TO_BOUNDS = ("default_credit", "sba_loans")  # polish_1year has too few bads, and the plan says so
# bank's trees, their depth, pooled trees
BOOSTED = {"default_credit": (60, 3, 100), "sba_loans": (300, 4, 300), "polish_1year": (60, 3, 100)}
_COARSE_STEPS, _WIDER = 32, 1.25  # as `veilscore.models.steps`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="*", default=list(BOOSTED))
    parser.add_argument("--splits", type=int, default=5, help="hold-outs, a quarter each")
    parser.add_argument("--draws", type=int, default=2, help="draws of noise a split")
    parser.add_argument("--models", nargs="*", default=list(PRIVATE), choices=list(PRIVATE))
    parser.add_argument("--jobs", action="store_true", help="one split of each set as a real private job too")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in args.sets:
        if not (DATA / name).is_dir():
            sys.exit(f"{name} is needed beside the checkout (../shared/data)")
        figures[name] = _measured(Data.read(name), args)
        print(name, json.dumps(figures[name]), flush=True)
    holds = all(_holds(figures[name], args.models) for name in HELD_TO_BOUNDS if name in figures)
    lost = [f["scorecard_loss"] for name, f in figures.items() if name in HELD_TO_BOUNDS and "scorecard_loss" in f]
    emit(
        "privacy_cost", round(max(lost, default=math.nan), 5), "AUC below exact at mu 0.5", MAX_LOSS, holds,
        splits=args.splits, draws=args.draws, in_the_clear=True, **figures,
    )  # fmt: skip


def _measured(data: Data, args: argparse.Namespace) -> dict[str, Any]:
    """Mean AUC over splits and draws of every model, what follows from them, and what a plan says beforehand."""
    found: dict[str, list[float]] = {}
    for seed in range(args.splits):
        split = Split(data, seed)
        for name, scores in PLAIN.items():
            found.setdefault(name, []).append(split.auc(scores(split)))
        for name in args.models:
            for mu in MUS:
                drawn = [PRIVATE[name](split, mu) for _ in range(args.draws)]
                found.setdefault(f"{name} mu {mu:g}", []).append(float(np.mean([split.auc(s) for s in drawn])))
                if mu == DEFAULT:
                    cost = [split.auc(s) - split.auc(_coarse(s, split.train)) for s in drawn]
                    found.setdefault(f"{name} coarse", []).append(float(np.mean(cost)))
        print(data.name, seed, {key: round(values[-1], 5) for key, values in found.items()}, flush=True)
    mean = {key: round(float(np.mean(values)), 5) for key, values in found.items()}
    error = {k: round(float(np.std(v, ddof=1)) / math.sqrt(len(v)), 5) for k, v in found.items() if len(v) > 1}
    out: dict[str, Any] = {"auc": mean, "standard_error": error, "plan": _plan(data)}
    if "scorecard" in args.models:
        out["scorecard_loss"] = round(mean["exact scorecard"] - mean[f"scorecard mu {DEFAULT:g}"], 5)
    if "chains" in args.models:
        gap = mean["pooled trees"] - mean["bank trees"]
        out["chains_close"] = round((mean[f"chains mu {DEFAULT:g}"] - mean["bank trees"]) / gap, 3)
    out["coarse_loss"] = {name: mean[f"{name} coarse"] for name in args.models}
    if args.jobs:
        out["real_job"] = _real(data)
    return out


def _holds(figures: dict[str, Any], models: list[str]) -> bool:
    return (
        ("scorecard" not in models or figures["scorecard_loss"] <= MAX_LOSS)
        and ("chains" not in models or figures["chains_close"] >= LEAST_CLOSED)
        and max(figures["coarse_loss"].values(), default=0.0) <= MAX_COARSE
    )


def _plan(data: Data) -> dict[str, str]:
    """What `veilscore job plan` says of a private scorecard of this set at each mu."""
    said = {}
    for mu in MUS:
        asked = job("train_scorecard", disclosure="private", mu=mu)
        sizes = sizes_of(data.y, None, Split(data, 0).train, {h: len(data.tables[h].columns) for h in HOLDERS})
        cost = noise_of(asked, sizes)
        if cost is not None:
            stopped = f"stopped: {cost.drowned}" if cost.drowned else "goes on"
            said[f"mu {mu:g}"] = f"costs {cost.auc:.4f} of AUC, curve errs by {cost.curve_auc or 0:.4f}; {stopped}"
    return said


# --- data ------------------------------------------------------------------------------------------------------------


def job(task: str, **parameters: Any) -> Job:
    """A job over data set `main` of all parties."""
    body = {"name": "cost", "purpose": "benchmark", "task": task, "bank": "bank", "holders": list(HOLDERS)}
    return parse_job(json.dumps({**body, "datasets": dict.fromkeys(PARTIES, "main"), "parameters": parameters}))


@dataclass(frozen=True)
class Data:
    """All parties' tables; rows : holder -> its row of each of the bank's firms, -1 where unknown."""

    name: str
    id_column: str
    y: np.ndarray
    tables: dict[str, Table]
    rows: dict[str, np.ndarray]

    @classmethod
    def read(cls, name: str) -> Data:
        """Read a set as nodes do."""
        with (DATA / name / "bank.csv").open(encoding="utf-8") as file:
            id_column = next(csv.reader(file))[0]
        tables = {
            party: read_table(DATA / name / f"{party}.csv", id_column, "default" if party == "bank" else None)
            for party in PARTIES
        }
        ids = tables["bank"].ids.tolist()
        place = {h: {firm: k for k, firm in enumerate(tables[h].ids.tolist())} for h in HOLDERS}
        rows = {h: np.array([place[h].get(firm, -1) for firm in ids]) for h in HOLDERS}
        return cls(name, id_column, np.asarray(tables["bank"].label, np.int8), tables, rows)


class Split:
    """One hold-out of a quarter, with what is fitted once for all models."""

    def __init__(self, data: Data, seed: int) -> None:
        self.data, self.seed = data, seed
        rng = np.random.default_rng(seed)
        self.train = rng.random(data.y.size) >= 0.25
        self.fixed = {h: FixedBins.make(data.tables[h], "2026-11-30") for h in HOLDERS}

    def auc(self, scores: np.ndarray) -> float:
        """AUC on the hold-out."""
        return float(roc_auc_score(self.data.y[~self.train], scores[~self.train]))

    def coded(self, party: str, max_bin: int, least: float) -> tuple[CodeMap, np.ndarray]:
        """Codes (n, d) of a party's columns, with bins fitted on the training rows, as exact jobs have them."""
        table, rows = self.data.tables[party], self.data.rows.get(party)
        known = self.train if rows is None else rows[self.train & (rows >= 0)]
        code_map = CodeMap.fit(table, known, max_bin=max_bin, min_bin_fraction=least, ordered=True)
        codes = code_map.transform(table)
        return code_map, (codes if rows is None else codes.take_rows(rows)).codes

    def woe(self, parties: tuple[str, ...], max_bin: int = 20, least: float = 0.05) -> np.ndarray:
        """Weight of evidence (n, d) of all columns of these parties."""
        y, train, parts = self.data.y, self.train, []
        for party in parties:
            code_map, codes = self.coded(party, max_bin, least)
            bad = cell_counts(codes[train & (y == 1)], code_map.n_codes) + 0.5
            good = cell_counts(codes[train & (y == 0)], code_map.n_codes) + 0.5
            evidence = np.log(bad / good * ((y[train] == 0).sum() / y[train].sum()))
            parts.append(evidence[codes.astype(np.int64) + offsets(code_map.n_codes)[:-1]])
        return np.concatenate(parts, axis=1)

    def logistic(self, parties: tuple[str, ...]) -> np.ndarray:
        """Log-odds (n,) of a logistic regression on WOE."""
        X = self.woe(parties)
        fitted = LogisticRegression(C=1.0, max_iter=500).fit(X[self.train], self.data.y[self.train])
        return fitted.decision_function(X)

    @cached_property
    def own_log_odds(self) -> np.ndarray:
        """Log-odds (n,) of the bank's own scorecard."""
        return self.logistic(("bank",))

    @cached_property
    def own_trees(self) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        """The bank's boosted trees as a private job grows them: what they leave, codes, margins and points (n,)."""
        n_trees, depth, _ = BOOSTED[self.data.name]
        asked = job("train_boosting", disclosure="private", holdout_scores=False, n_estimators=n_trees, max_depth=depth)
        code_map, codes = self.coded("bank", 32, 0.01)
        columns = columns_of(code_map, codes, party="bank", names=True, association=False)
        rows = {"codes": codes, "target": self.data.y, "weight": np.ones(self.data.y.size), "train": self.train}
        counts = own_counts("bank", columns, self.data.y, rows["weight"], self.train)
        own = chain_design.own_boosting(asked, counts, rows, code_map)
        margin, score = np.full(codes.shape[0], own.data.base), np.zeros(codes.shape[0], np.int64)
        for tree, points in zip(own.own.trees, own.points, strict=True):
            margin += coefficients(tree, np.array(tree.weights), codes, counts.n_codes)[0]
            score += coefficients(tree, np.array(points, np.int64), codes, counts.n_codes)[0]
        return own, codes, margin, score


# --- models: a split to scores (n,) ----------------------------------------------------------------------------------


def exact_scorecard(split: Split) -> np.ndarray:
    return split.logistic(PARTIES)


def pooled_trees(split: Split) -> np.ndarray:
    """XGBoost on all columns: numbers as they are, fine WOE in place of categories."""
    data, columns = split.data, []
    for party in PARTIES:
        table, rows = data.tables[party], data.rows.get(party)
        fine = split.woe((party,), 64, 0.0)
        names = split.coded(party, 64, 0.0)[0].names
        for name, kind in table.kinds.items():
            if kind == "category":
                columns.append(fine[:, names.index(name)] if name in names else np.zeros(data.y.size))
            else:
                values = table.columns[name]
                columns.append(values if rows is None else np.where(rows >= 0, values[rows], np.nan))
    X, train = np.stack(columns, axis=1).astype(float), split.train
    n_trees = BOOSTED[data.name][2]
    model = XGBClassifier(n_estimators=n_trees, max_depth=4, learning_rate=0.1, min_child_weight=5, n_jobs=2)
    return model.fit(X[train], data.y[train]).predict(X, output_margin=True)


def private_scorecard(split: Split, mu: float) -> np.ndarray:
    y, train, offset = split.data.y, split.train, split.own_log_odds
    p, bads = sigmoid(offset), min(y[train].sum(), (1 - y[train]).sum())
    total = offset.copy()
    for holder in HOLDERS:
        total += private_part(partial(_fixed_codes, split, holder), bads, y - p, p * (1 - p), train, mu)
    return total


def _fixed_codes(split: Split, holder: str, max_bin: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n, d) of a holder's columns by its fixed bins, and numbers of codes."""
    table = split.data.tables[holder]
    code_map = split.fixed[holder].code_map(table, max_bin)
    return code_map.transform(table).take_rows(split.data.rows[holder]).codes, code_map.n_codes


def chains(split: Split, mu: float) -> np.ndarray:
    own, own_codes, margin, score = split.own_trees
    total, draw = margin.copy(), np.random.default_rng()
    for holder in HOLDERS:
        table, fixed = split.data.tables[holder], split.fixed[holder]
        code_map = partitions(fixed.code_map(table, 32), fixed.least)
        codes = code_map.transform(table).take_rows(split.data.rows[holder]).codes
        columns = ChainColumns(code_map.n_codes, sources_of(part_names(code_map, holder, names=True)))
        chain = Chain(own.rows, columns, leaves_sensitivity() / mu, draw)
        plain_chain(chain, np.ascontiguousarray(codes[split.train]), TREES, draw)
        total += _added(chain, own_codes, score, codes)
    return total


def _added(chain: Chain, own_codes: np.ndarray, score: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """What a chain adds to the log-odds of all rows (n,)."""
    total = np.zeros(score.size)
    for tree in chain.trees:
        side = tree.cut.answers(own_codes, score).astype(int)
        total += np.array(tree.weights)[side, codes[:, tree.column]]
    return total


def stack(split: Split, mu: float) -> np.ndarray:
    """A scorecard of holders' columns on the bank's trees with 30 % of mu squared, then chains on both."""
    own, own_codes, margin, score = split.own_trees
    total, draw, y, train = margin.copy(), np.random.default_rng(), split.data.y, split.train
    residual, weight = np.zeros(y.size), np.zeros(y.size)
    residual[train], weight[train] = own.rows.residual, own.rows.weight
    bads = min(y[train].sum(), (1 - y[train]).sum())
    for holder in HOLDERS:
        table, fixed = split.data.tables[holder], split.fixed[holder]
        made: list[CodeMap] = []
        code = partial(_card_codes, split, holder, made)
        x, theta = private_part(code, bads, residual, weight, train, mu * math.sqrt(CARD_SHARE), parts=True)
        n_codes = made[-1].n_codes
        code_map = beside(made[-1], partitions(fixed.code_map(table, 32), fixed.least))
        codes = code_map.transform(table).take_rows(split.data.rows[holder]).codes
        names = part_names(code_map, holder, names=True)
        columns = ChainColumns(code_map.n_codes, sources_of(names), card_places(names, n_codes.size))
        chain = Chain(own.rows, columns, leaves_sensitivity() / (mu * math.sqrt(1 - CARD_SHARE)), draw)
        effects = np.split(np.repeat(theta, n_codes) * x, offsets(n_codes)[1:-1])
        begun = chain.begin(effects, [np.ones(effect.size) for effect in effects])
        plain_chain(chain, np.ascontiguousarray(codes[train]), TREES, draw, begun)
        total += _added(chain, own_codes, score, codes)
    return total


def _card_codes(split: Split, holder: str, made: list[CodeMap], max_bin: int) -> tuple[np.ndarray, np.ndarray]:
    """Do as `_fixed_codes`, and keep the code map."""
    table = split.data.tables[holder]
    made.append(split.fixed[holder].code_map(table, max_bin))
    return made[-1].transform(table).take_rows(split.data.rows[holder]).codes, made[-1].n_codes


PLAIN: dict[str, Callable[[Split], np.ndarray]] = {
    "bank scorecard": lambda split: split.own_log_odds,
    "exact scorecard": exact_scorecard,
    "bank trees": lambda split: split.own_trees[2],
    "pooled trees": pooled_trees,
}
PRIVATE: dict[str, Callable[[Split, float], np.ndarray]] = {
    "scorecard": private_scorecard,
    "chains": chains,
    "stack": stack,
}


def _coarse(scores: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The step of each score: equal shares of a normal law somewhat wider than the training rows' scores."""
    law = NormalDist(float(scores[train].mean()), _WIDER * float(scores[train].std()))
    limits = [law.inv_cdf(k / _COARSE_STEPS) for k in range(1, _COARSE_STEPS)]
    return np.searchsorted(limits, scores)


# --- the protocols themselves ----------------------------------------------------------------------------------------


def _real(data: Data) -> dict[str, float]:
    """AUC of one private scorecard as a job in one process, and of the same split in the clear, at the default mu."""
    asked = job("train_scorecard", disclosure="private", holdout_scores=False, despite_noise=True)
    nodes = {
        party: NodeConfig(
            name=party,
            role="bank" if party == "bank" else "holder",
            datasets={
                "main": DatasetConfig(
                    path=DATA / data.name / f"{party}.csv",
                    id_column=data.id_column,
                    label_column="default" if party == "bank" else None,
                )
            },
            policy=NodePolicy(accept="auto", consent="off"),
        )
        for party in PARTIES
    }
    with tempfile.TemporaryDirectory() as folder:
        run = open_job(asked, nodes, Path(folder))
        for step in asked.steps:
            run.step(step, timeout_s=3600)
        saved = {party: run.stores[party].load_arrays("rows") for party in PARTIES}
        card = load_model(run.stores["bank"].path / "model.json", Scorecard)
    units = np.zeros(data.y.size)
    for part in card.parts:
        codes = saved[part.party]["codes"].astype(np.int64)
        units += part.points[codes + offsets(part.n_codes)[:-1]].sum(axis=1)
    split = Split(data, 0)
    split.train = saved["bank"]["train"]
    clear = [split.auc(private_scorecard(split, DEFAULT)) for _ in range(3)]
    return {"job": round(split.auc(-units), 5), "in_the_clear": round(float(np.mean(clear)), 5)}


if __name__ == "__main__":
    main()
