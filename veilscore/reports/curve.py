"""Measure what a report shows of the noised curve of a private job, and say how it is to be read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from veilscore.arrays import Array, Vector
from veilscore.models import curve_tables, metrics
from veilscore.models.curve import NoisedCurve
from veilscore.models.loss import sigmoid
from veilscore.models.model import Scorecard, ScoreModel
from veilscore.reports import report
from veilscore.reports.data import HoldoutSection, Improvement
from veilscore.tasks.curve import load_curve
from veilscore.terms.bands import BELOW


def measured_curve(
    model: ScoreModel, kept: Mapping[str, Array], target: Array, own: Vector | None, shift: float
) -> tuple[dict[str, Any], list[str]]:
    """Return the report's fields, and lines on noise.

    kept : the bank's curve.npz.
    target, own : (n_holdout,) labels, and the points of the bank's own columns alone if there are some.
    shift : prior correction in the model's intercept, in log-odds.
    """
    curve, lowest = load_curve(kept), curve_tables.lowest_points(kept["limits"], model.scaling.units)
    found, line = curve_tables.ranking(curve, lowest)
    gains = curve_tables.gains(curve, lowest)
    name = "the joint scorecard" if isinstance(model, Scorecard) else "the private trees"
    evaluations = [HoldoutSection(kind="joint", name=name, discrimination=found, curve=line, gains=gains)]
    fields: dict[str, Any] = {}
    how = (
        f"Goods and bads of the hold-out were counted in {lowest.size} steps of the score, with noise of deviation "
        f"{curve.sigma:.1f} on each count. What follows ± is the standard error from noise and sampling together. For "
        "tables, counts that noise made negative are set to zero and the others lowered, so that they add up to the "
        "known goods and bads. Rows of a step count as ties, which takes a little off AUC and KS."
    )
    notes = [how]
    if own is not None:
        alone = metrics.score_table(target, own, points=True)
        evaluations.append(report.evaluate("bank only", "the bank's own columns", alone))
        error = math.hypot(found.auc_se, alone.auc_se())
        fields["improvement"] = Improvement(auc=found.auc - alone.auc(), standard_error=error)
        notes.append(
            "The standard error of the gain over the bank's own columns is an upper bound: nobody has both scores of a "
            "firm, so that what they share cannot be taken off."
        )
    fields |= {
        "evaluations": tuple(evaluations),
        "distribution": curve_tables.distribution(curve, lowest),
        "calibration": curve_tables.calibration(curve, sigmoid(model.scaling.log_odds_bad(kept["middle"]) - shift)),
        "cutoffs": _cutoffs(model, curve, lowest),
    }
    return fields, notes


def _cutoffs(model: ScoreModel, curve: NoisedCurve, lowest: Vector) -> tuple[metrics.CutoffRow, ...]:
    """Return the table by the model's bands, or by fifths where it has none or more than there are steps."""
    edges = np.array(sorted(model.bands.values()))
    if not edges.size or not np.isin(edges, lowest[1:]).all():
        return curve_tables.cutoffs(curve, lowest, curve_tables.fifths(curve, lowest), None)
    ranked = sorted(model.bands, key=lambda name: model.bands[name], reverse=True)
    return curve_tables.cutoffs(curve, lowest, edges, (*ranked, BELOW))
