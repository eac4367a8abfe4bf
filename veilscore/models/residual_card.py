"""The bank's plaintext side of a residual scorecard: its own fit, and the card filed with the holders' columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from veilscore.arrays import Array, Integers, Vector
from veilscore.data.panel import by_firm
from veilscore.models import design as designing
from veilscore.models.counts import BinCounts, check_range
from veilscore.models.design import Design, Fitted
from veilscore.models.filed import filed_part, scaling_of
from veilscore.models.loss import sigmoid
from veilscore.models.model import Scorecard
from veilscore.models.residual import Coefficients, HolderSums, Tables
from veilscore.models.woe import WoeTable
from veilscore.terms.job import Job
from veilscore.terms.training import Training


@dataclass(frozen=True, eq=False)
class OwnFit:
    """The bank's scorecard of its own columns, and what it leaves to explain.

    residual, weight : (n_train,) r = w (y - p) and W = w p (1 - p), the weights w of rows scaled to at most 1.
    rarer : weighted training rows of the rarer class.
    """

    design: Design
    fitted: Fitted
    residual: Vector
    weight: Vector
    rarer: float


def own_fit(job: Job, counts: BinCounts, rows: Mapping[str, Array]) -> OwnFit:
    """Fit the bank's own columns on the training rows, in the clear."""
    design = designing.design(job, {job.bank: counts}, dict(rows))
    fitted = designing.fitted_alone(design)
    target, weight = rows["target"][rows["train"]], _training_weight(job.training, rows)
    p = sigmoid(designing.own_log_odds(design, fitted.result))
    return OwnFit(
        design=design,
        fitted=fitted,
        residual=weight * (target - p),
        weight=weight * p * (1 - p),
        rarer=rarer_rows(job.training, rows),
    )


def rarer_rows(p: Training, rows: Mapping[str, Array]) -> float:
    """Return the weighted training rows of the rarer class."""
    weight = _training_weight(p, rows)
    bad = float(weight @ rows["target"][rows["train"]])
    return min(bad, float(weight.sum()) - bad)


def _training_weight(p: Training, rows: Mapping[str, Array]) -> Vector:
    """Return the weights of training rows, of which one's is at most 1; with shared ones those of a firm together."""
    weight = rows["weight"][rows["train"]]
    one: Vector = by_firm(weight, rows["firm"][rows["train"]]) if p.firm_weight == "shared" else weight
    return weight / one.max()  # type: ignore[no-any-return]


def export(
    job: Job,
    own: OwnFit,
    counts: Mapping[str, BinCounts],
    made: Mapping[str, Tables],
    found: Mapping[str, Coefficients],
    *,
    job_id: str,
) -> Scorecard:
    """Return the filed card: the bank's own points, and of holders' columns theta times the effect of each code.

    A column's `woe` is its effect given the bank's score, its `iv` what that adds; good, bad and rows of a holder's
    bins are not known and stand as zero.
    """
    card = designing.export(job, own.design, {job.bank: counts[job.bank]}, own.fitted, job_id=job_id)
    factor, parts = scaling_of(job).factor, list(card.parts)
    for holder, tables in made.items():
        theta, errors = found[holder].theta, found[holder].errors
        of_cell = np.repeat(theta, tables.n_codes)
        points = np.rint(-factor * of_cell * tables.x).astype(np.int64)
        at, columns = np.concatenate(([0], np.cumsum(tables.n_codes))), []
        for j, coefficient in enumerate(theta.tolist()):
            cells = slice(int(at[j]), int(at[j + 1]))
            fields: dict[str, Any] = {"points": tuple(points[cells].tolist())}
            if coefficient != 0:
                fields |= {"coefficient": coefficient, "standard_error": float(errors[j])}
            else:
                fields["left_out"] = "no effect beside the noise"
            columns.append(fields)
        parts.append(filed_part(job, counts[holder], as_woe(tables.n_codes, tables.x, tables.iv), columns))
    check_range([(part.points, part.n_codes) for part in parts], card.base_points)
    provenance = card.provenance.model_copy(update={"n_openings": 3 * len(made)})
    return card.model_copy(update={"parts": tuple(parts), "provenance": provenance})


def as_woe(n_codes: Integers, effect: Vector, iv: Vector) -> WoeTable:
    """Return effects of codes as a table whose every code is a bin of its own and whose counts are not known."""
    nothing = np.zeros(effect.size)
    return WoeTable(
        n_codes=n_codes,
        woe=effect,
        group=np.concatenate([np.arange(m) for m in n_codes.tolist()]),
        bad=nothing,
        good=nothing,
        iv=iv,
        total_bad=0.0,
        total_good=0.0,
    )


def fit_record(
    own: OwnFit, made: Mapping[str, Tables], sums: Mapping[str, HolderSums], found: Mapping[str, Coefficients]
) -> dict[str, Any]:
    """Return what the bank keeps of the fit beside the model: its own fit, and what holders opened."""
    holders = {
        holder: {
            "weight": tables.weight.tolist(),
            "gradient": sums[holder].gradient.tolist(),
            "moments": sums[holder].moments.tolist(),
            "sigma_gradient": sums[holder].sigma_gradient,
            "sigma_moments": sums[holder].sigma_moments,
            "inflation": np.nan_to_num(found[holder].inflation, nan=0.0).tolist(),
        }
        for holder, tables in made.items()
    }
    return {**designing.fit_record(own.design, own.fitted), "holders": holders}
