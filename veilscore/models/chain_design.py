"""Prepare private trees at the bank and file them: from its own boosted trees to residuals, from chains to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from veilscore.arrays import Array, Integers, Vector
from veilscore.data.codes import CodeMap
from veilscore.lattice.params import SCORE_T
from veilscore.models import boosting_design as designing
from veilscore.models.boosting_form import BankBoosting
from veilscore.models.calibrate import prior_correction
from veilscore.models.chain_growth import Chain, ChainRows
from veilscore.models.chained import Chained, ChainTree, chain_sha256
from veilscore.models.counts import BinCounts, check_total, offsets
from veilscore.models.filed import filed_fields, filed_part, scaling_of
from veilscore.models.loss import sigmoid
from veilscore.models.own_trees import OwnTrees, grow_own
from veilscore.models.residual_card import as_woe
from veilscore.models.trees import coefficients
from veilscore.terms.job import Job
from veilscore.terms.training import TrainBoosting


@dataclass(frozen=True, eq=False)
class OwnBoosting:
    """The bank's own trees with their points, and what they leave to chains."""

    data: BankBoosting
    own: OwnTrees
    points: tuple[tuple[int, ...], ...]
    rows: ChainRows


def own_boosting(job: Job, counts: BinCounts, rows: Mapping[str, Array], code_map: CodeMap) -> OwnBoosting:
    """Boost trees on the bank's own columns, in the clear.

    rows : what the step `bin` saved. Weights of rows are scaled to at most 1, which bounds what a firm moves.
    """
    data = designing.bank_boosting(job, {job.bank: counts}, rows, code_map, {})
    target = data.target.astype(np.int64)
    own = grow_own(job.bank, data.codes, data.own, target, data.weight, data.base, data.growth)
    factor = scaling_of(job).factor
    points = tuple(tuple(round(-factor * weight) for weight in tree.weights) for tree in own.trees)
    margin, score = np.full(data.target.size, data.base), np.zeros(data.target.size, np.int64)
    importance = np.zeros(counts.n_codes.size)
    for tree, units in zip(own.trees, points, strict=True):
        margin += coefficients(tree, np.array(tree.weights), data.codes, counts.n_codes)[0]
        score += coefficients(tree, np.array(units, np.int64), data.codes, counts.n_codes)[0]
        for split in tree.splits:
            importance[split.column] += max(split.gain, 0.0)
    p, weight = sigmoid(margin), data.weight / data.weight.max()
    return OwnBoosting(
        data=data,
        own=own,
        points=points,
        rows=ChainRows(
            codes=data.codes,
            own=data.own,
            score=score,
            residual=weight * (data.target - p),
            weight=weight * p * (1 - p),
            importance=np.sqrt(importance),
        ),
    )


def export(
    job: Job,
    own: OwnBoosting,
    counts: Mapping[str, BinCounts],
    chains: Mapping[str, Chain],
    *,
    n_holdout: int,
    job_id: str,
) -> Chained:
    """Return the filed model; points of leaves are rounded once, here.

    A holder's column has as `woe` the mean effect of its cells given the bank's score, as `iv` what that adds.
    Raises ParameterError where totals would not fit the ring they are opened in.
    """
    p, data = job.of(TrainBoosting), own.data
    base = designing.base_at_sample_rate(data)
    intercept = prior_correction(base, designing.sample_rate(data), p.population_bad_rate)
    factor, trees = scaling_of(job).factor, {holder: tuple(chain.trees) for holder, chain in chains.items()}
    used = {split.column for tree in own.own.trees for split in tree.splits}
    used |= {tree.cut.column for chain in trees.values() for tree in chain}
    table = designing.tables_of({job.bank: counts[job.bank]}, data.target)[job.bank]
    parts = [
        filed_part(
            job,
            counts[job.bank],
            table,
            [{"left_out": "" if j in used else "in no tree"} for j in range(counts[job.bank].n_codes.size)],
        )
    ]
    for holder, chain in trees.items():
        n_codes, drawn = counts[holder].n_codes, {tree.column for tree in chain}
        columns = [{"left_out": "" if j in drawn else "in no tree"} for j in range(n_codes.size)]
        parts.append(filed_part(job, counts[holder], as_woe(n_codes, *_effects(chain, n_codes)), columns))
    model = Chained(
        **filed_fields(
            job,
            intercept,
            job_id=job_id,
            n_train=data.target.size,
            n_holdout=n_holdout,
            n_openings=sum(map(len, trees.values())),
            converged=True,
        ),
        parts=tuple(parts),
        trees=own.own.trees,
        points=own.points,
        parameters=p.model_dump(mode="json"),
        holder_sha256={
            holder: chain_sha256(holder, sorted({tree.column for tree in chain}), counts[holder].n_codes)
            for holder, chain in trees.items()
        },
        chains=trees,
        chain_points={holder: tuple(_points(tree, factor) for tree in chain) for holder, chain in trees.items()},
    )
    check_total(model.largest_units(), SCORE_T)
    return model


def _points(tree: ChainTree, factor: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    no, yes = (tuple(round(-factor * weight) for weight in side) for side in tree.weights)
    return no, yes


def _effects(chain: tuple[ChainTree, ...], n_codes: Integers) -> tuple[Vector, Vector]:
    """Return the mean log-odds that all trees on a column add in each cell (cells,), and its mean square by W (d,)."""
    at = offsets(n_codes)
    effect, iv = np.zeros(at[-1]), np.zeros(n_codes.size)
    cover = np.zeros(at[-1])
    for tree in chain:
        weights, covers = np.array(tree.weights), np.array(tree.covers)
        cells = slice(int(at[tree.column]), int(at[tree.column + 1]))
        effect[cells] += (weights * covers).sum(axis=0) / np.maximum(covers.sum(axis=0), 1.0)
        cover[cells] += covers.sum(axis=0)
    for j in range(n_codes.size):
        cells = slice(int(at[j]), int(at[j + 1]))
        share = cover[cells] / max(float(cover[cells].sum()), 1.0)
        effect[cells] -= share @ effect[cells]
        iv[j] = share @ effect[cells] ** 2
    return effect, iv


def fit_record(own: OwnBoosting, chains: Mapping[str, Chain]) -> dict[str, Any]:
    """Return what the bank keeps of the training beside the model."""
    return {
        "intercept": designing.base_at_sample_rate(own.data),
        "base": own.data.base,
        "stopped": "",
        "improvements": list(own.own.improvements),
        "n_kept": len(own.own.trees),
        "sigma": {holder: chain.sigma for holder, chain in chains.items()},
    }
