"""Prepare boosting at the bank and file its result: from bin counts to ranked columns, from grown trees to a model.

A split tests whether a code's rank in its column is at most some rank. Ranks follow the order of values where the bank
knows it, else the order of bad rates in the bin counts; the code of missing values, where known, stands last.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Array, Integers, Mask, Vector
from veilscore.data.codes import CodeMap, ColumnMap
from veilscore.errors import DataError, JobError, ParameterError
from veilscore.lattice.params import SCORE_T
from veilscore.lattice.sampling import PublicStream
from veilscore.models.boosted import Boosted
from veilscore.models.boosting_form import BankBoosting, Grown, Growth, HolderColumns
from veilscore.models.calibrate import prior_correction
from veilscore.models.counts import BinCounts, check_total, offsets
from veilscore.models.filed import filed_fields, filed_part, scaling_of
from veilscore.models.model import PartyPart
from veilscore.models.split_search import Ranked, Rules
from veilscore.models.trees import Tree
from veilscore.models.woe import WoeTable, counted_woe
from veilscore.terms.job import Job
from veilscore.terms.training import TrainBoosting

LARGEST_SUM = 1 << 24  # weighted rows whose sums of g and h fit the share ring with room to spare
DRAW_BITS = 29


def growth(job: Job, n_train: int) -> Growth:
    """Return the parameters of growth, which all parties find alike from the job and the number of training rows.

    Raises DataError where the training rows are too few to set some aside.
    """
    p = job.of(TrainBoosting)
    return Growth(
        n_estimators=p.n_estimators,
        max_depth=p.max_depth,
        max_leaves=p.max_leaves,
        leaf_wise=p.grow_policy == "lossguide",
        max_bin=p.max_bin,
        subsample=p.subsample,
        colsample_bytree=p.colsample_bytree,
        own_columns=p.tree_columns == "own",
        early_stopping_rounds=p.early_stopping_rounds or 0,
        max_weight=max(1.0, p.scale_pos_weight),  # a good row weighs 1
        validation=_validation(p, n_train),
        rules=Rules(
            learning_rate=p.learning_rate,
            reg_lambda=p.reg_lambda,
            gamma=p.gamma,
            min_child_weight=p.min_child_weight,
            max_delta_step=p.max_delta_step,
            min_rows=p.min_leaf_rows,
        ),
        seed=p.random_state,
        coarse=p.split_search == "coarse",
    )


def natural(code_map: CodeMap) -> HolderColumns:
    """Return a holder's codes in the order of their values: -1 in columns of categories."""
    ranks = [
        _by_value(column) if column.bins.ordered else np.full(column.permutation.size, -1, np.int64)
        for column in code_map.columns
    ]
    ordered = np.array([column.bins.ordered for column in code_map.columns], dtype=bool)
    n_codes = code_map.n_codes
    return HolderColumns(Ranked(n_codes, ordered, np.zeros(n_codes.size, np.int64)), np.concatenate(ranks))


def _validation(p: TrainBoosting, n_train: int) -> Mask:
    """Draw the training rows that measure improvement (n_train,), by row number so that every party finds the same."""
    mask = np.zeros(n_train, bool)
    if p.early_stopping_rounds is None:
        return mask
    count = round(p.validation_fraction * n_train)
    if not 0 < count < n_train:
        raise DataError(f"{n_train} training rows are too few for a validation_fraction of {p.validation_fraction:g}")
    seed = hashlib.sha256(f"veilscore boosting validation {p.random_state}".encode()).digest()
    draw = PublicStream(seed, b"validation rows").uniform((1, n_train), (1 << DRAW_BITS,))[0]
    # a stable sort breaks ties of the draw by row number, the same at every party
    mask[np.argsort(draw, kind="stable")[:count]] = True
    return mask


def bank_boosting(
    job: Job, counts: Mapping[str, BinCounts], rows: Mapping[str, Array], code_map: CodeMap, state: Mapping[str, Any]
) -> BankBoosting:
    """Return all that the bank brings to the protocol.

    counts : of every party, the bank first.
    rows : what the step `bin` saved.
    state : checkpoint of an interrupted attempt, or empty.
    Raises DataError where the rows that trees are grown on hold one class only, JobError where a monotone constraint
    names no column, or one without order.
    """
    p, train = job.of(TrainBoosting), rows["train"]
    target = rows["target"][train]
    grow = growth(job, target.size)
    bad, good = _class_weights(job, target[~grow.validation])
    wanted = _constraints(p, counts)
    own, *others = counts.values()
    return BankBoosting(
        codes=rows["codes"][train],
        own=_ranked(own, wanted[own.party], code_map),
        columns={c.party: _ranked(c, wanted[c.party]) for c in others},
        target=target,
        weight=np.where(target == 1, p.scale_pos_weight, 1.0),
        base=math.log(bad / good),
        growth=grow,
        trees=tuple(Tree.model_validate(tree) for tree in state.get("trees", ())),
        improvements=tuple(state.get("improvements", ())),
    )


def _class_weights(job: Job, target: NDArray[np.int8]) -> tuple[float, float]:
    """Return the weight of bad and of good rows, as grown on."""
    bad = float((target == 1).sum()) * job.of(TrainBoosting).scale_pos_weight
    good = float((target == 0).sum())
    if not bad or not good:
        raise DataError("the rows that trees are grown on hold one class only; change the hold-out", party=job.bank)
    if bad + good > LARGEST_SUM:
        raise ParameterError(f"{bad + good:.0f} weighted rows do not fit the share ring: lower scale_pos_weight")
    return bad, good


def _constraints(p: TrainBoosting, counts: Mapping[str, BinCounts]) -> dict[str, dict[int, Any]]:
    """Return the wanted direction by party and number of the column; JobError for a column that is not there."""
    found: dict[str, dict[int, Any]] = {party: {} for party in counts}
    for key, direction in p.monotone_constraints.items():
        party = key.split(".", 1)[0]
        if party not in counts:  # a private job's bank constrains its own columns alone
            raise JobError(f"monotone_constraints: {key!r} is no column of {', '.join(counts)}")
        names = [name if name.startswith(f"{party}.") else f"{party}.{name}" for name in counts[party].names]
        if key not in names:
            raise JobError(f"monotone_constraints: no column {key!r}; there are {', '.join(names[:20])}")
        found[party][names.index(key)] = direction
    return found


def _ranked(counts: BinCounts, wanted: Mapping[int, Any], code_map: CodeMap | None = None) -> HolderColumns:
    """Rank one party's codes; with the map (the bank's own), numbers rank by value."""
    at, ranks = offsets(counts.n_codes), []
    missing, constraints = np.zeros(counts.n_codes.size, bool), np.zeros(counts.n_codes.size, np.int64)
    for j in range(counts.n_codes.size):
        cells = slice(int(at[j]), int(at[j + 1]))
        odds = _log_odds(counts.bad[cells], counts.good[cells])
        column = None if code_map is None else code_map.columns[j]
        known = int(counts.missing_code[j]) if column is None else column.missing
        missing[j] = known >= 0
        ordered = bool(counts.ordered[j])
        rank = _by_value(column) if column is not None and ordered else _rank(odds, known, ordered=ordered)
        if j in wanted:
            rows = counts.counts[cells].astype(np.float64)
            constraints[j] = _direction(counts.names[j], wanted[j], (rank, odds, rows), known, ordered=ordered)
        ranks.append(rank)
    return HolderColumns(Ranked(counts.n_codes, missing, constraints), np.concatenate(ranks))


def _log_odds(bad: Vector, good: Vector) -> Vector:
    """Return the log-odds of bad of each code; a withheld or empty one stands at the column's average."""
    total_bad, total_good = float(bad.sum()), float(good.sum())
    odds = np.log((bad + 0.5) / (good + 0.5))
    return np.where(bad + good > 0, odds, math.log((total_bad + 0.5) / (total_good + 0.5)))


def _by_value(column: ColumnMap) -> Integers:
    """Rank each code of a number column whose map is at hand by its bin, missing last."""
    return np.argsort(column.permutation).astype(np.int64)


def _rank(odds: Vector, missing: int, *, ordered: bool) -> Integers:
    """Rank each code by number where neighbours are neighbouring values, else by log-odds; missing last."""
    place = np.arange(odds.size) if ordered else np.argsort(odds, kind="stable")
    if missing >= 0:
        place = np.append(place[place != missing], missing)
    rank = np.empty(odds.size, np.int64)
    rank[place] = np.arange(odds.size)
    return rank


def _direction(name: str, wanted: Any, column: tuple[Integers, Vector, Vector], missing: int, *, ordered: bool) -> int:
    """Return +1 or -1 where bad odds must rise or fall with the rank; `column` is rank, log-odds, rows of each code."""
    if wanted != "auto":
        if not ordered:
            raise JobError(f"monotone_constraints: {name!r} is no number column, so its values have no order; use auto")
        return int(wanted)
    rank, odds, rows = column
    rows = np.where(np.arange(rank.size) == missing, 0.0, rows)
    if not rows.sum():
        return 0
    # the sign of the covariance of rank and log-odds over the rows
    centred = rank - np.average(rank, weights=rows)
    return int(np.sign((rows * centred * odds).sum()))


def export(
    job: Job, data: BankBoosting, counts: Mapping[str, BinCounts], grown: Grown, *, n_holdout: int, job_id: str
) -> Boosted:
    """Return the filed model; points of leaves are rounded once, here.

    Raises ParameterError where totals would not fit the ring they are opened in.
    """
    p = job.of(TrainBoosting)
    intercept = prior_correction(base_at_sample_rate(data), sample_rate(data), p.population_bad_rate)
    tables, factor = tables_of(counts, data.target), scaling_of(job).factor
    model = Boosted(
        **filed_fields(
            job,
            intercept,
            job_id=job_id,
            n_train=data.target.size,
            n_holdout=n_holdout,
            n_openings=max(len(grown.improvements), len(grown.trees)),
            # early stopping is how such a training is meant to end
            converged=not grown.stopped or p.early_stopping_rounds is not None,
        ),
        parts=tuple(_part(job, c, tables[party], grown.trees) for party, c in counts.items()),
        trees=grown.trees,
        points=tuple(tuple(round(-factor * weight) for weight in tree.weights) for tree in grown.trees),
        parameters=p.model_dump(mode="json"),
        holder_sha256=grown.holder_sha256,
    )
    check_total(model.largest_units(), SCORE_T)
    return model


def sample_rate(data: BankBoosting) -> float:
    """Return the bad rate of the rows that trees were grown on, before `scale_pos_weight`."""
    return float(data.target[~data.growth.validation].mean())


def base_at_sample_rate(data: BankBoosting) -> float:
    """Return the log-odds before the first tree at the sample's own bad rate: `scale_pos_weight` must not shift PD."""
    rate = sample_rate(data)
    return math.log(rate / (1.0 - rate))


def tables_of(counts: Mapping[str, BinCounts], target: NDArray[np.int8]) -> dict[str, WoeTable]:
    """Return the WOE of every party's bins, for the reader of a report: boosting itself needs ranks only."""
    bad = float(target.sum())
    return {party: counted_woe(c, bad, target.size - bad) for party, c in counts.items()}


def _part(job: Job, counts: BinCounts, table: WoeTable, trees: tuple[Tree, ...]) -> PartyPart:
    bank = counts.party == job.bank
    used = {
        split.column
        for tree in trees
        for split in tree.splits
        if (split.side == "bank") == bank and (bank or tree.holder == counts.party)
    }
    return filed_part(
        job, counts, table, [{"left_out": "" if j in used else "in no tree"} for j in range(len(counts.names))]
    )


def fit_record(data: BankBoosting, grown: Grown) -> dict[str, Any]:
    """Return what the bank keeps of the training beside the model."""
    return {
        "intercept": base_at_sample_rate(data),
        "base": data.base,
        "stopped": grown.stopped,
        "improvements": list(grown.improvements),
        "n_kept": len(grown.trees),
    }
