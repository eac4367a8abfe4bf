"""Measure what reports of a training job show, from the files of the job folder."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from veilscore.arrays import Array, Mask, Vector
from veilscore.data.codes import CodeMap
from veilscore.errors import ParameterError
from veilscore.files.store import JobStore
from veilscore.models import boosting_design, metrics
from veilscore.models import design as modelling
from veilscore.models.boosted import Stacked
from veilscore.models.counts import BinCounts
from veilscore.models.filed import load_model
from veilscore.models.loss import sigmoid
from veilscore.models.model import ScoreModel
from veilscore.models.residual_card import as_woe
from veilscore.models.stability import population_stability
from veilscore.models.woe import WoeTable
from veilscore.release.account import Account
from veilscore.reports import report
from veilscore.reports.curve import measured_curve
from veilscore.reports.data import (
    ChargeRow,
    ColumnStability,
    Improvement,
    LearnedRow,
    PrivacySection,
    SpendingRow,
    Stability,
)
from veilscore.tasks.binning import load_counts
from veilscore.tasks.table import charges_of, leakage_table
from veilscore.tasks.task import EXACT
from veilscore.terms.job import Job
from veilscore.terms.privacy import best_guess, total
from veilscore.terms.training import TrainScorecard

_ONE_CLASS = "The hold-out has rows of one class only, so nothing can be measured on it; use a larger one."
FIFTHS = ("best fifth", "second fifth", "third fifth", "fourth fifth", "worst fifth")


@dataclass(frozen=True, eq=False)
class BankFiles:
    """What the bank's job folder holds once training is over.

    `holdout` is None where no score was opened, `curve` where no counts by step, `design` for boosted trees.
    """

    job: Job
    model: ScoreModel
    design: modelling.Design | None
    tables: Mapping[str, WoeTable]
    counts: Mapping[str, BinCounts]
    code_map: CodeMap
    fit: Mapping[str, Any]
    aligned: Mapping[str, Any]
    codes: Array
    target: Array
    train: Mask
    holdout: Mapping[str, Array] | None
    curve: Mapping[str, Array] | None

    @property
    def shift(self) -> float:
        """Return the prior correction in the model's intercept, in log-odds."""
        return self.model.intercept - float(self.fit["intercept"])


def read_files(store: JobStore, job: Job) -> BankFiles:
    """Read the bank's job folder; StateError names what is missing."""
    rows, counts, model = store.load_arrays("rows"), load_counts(store), load_model(store.path / "model.json")
    design = None
    if isinstance(job.parameters, TrainScorecard):  # a private one designs the bank's own columns alone
        known = {job.bank: counts[job.bank]} if job.training.private else counts
        design = modelling.design(job, known, rows)
        tables = {**_filed_tables(model), **design.tables}
    else:
        known = {job.bank: counts[job.bank]} if job.training.private else counts
        tables = {**_filed_tables(model), **boosting_design.tables_of(known, rows["target"][rows["train"]])}
    return BankFiles(
        job=job,
        model=model,
        design=design,
        tables=tables,
        counts=counts,
        code_map=CodeMap.from_json(store.load_json("code_map")),
        fit=store.load_json("fit"),
        aligned=store.load_json("aligned"),
        codes=rows["codes"],
        target=rows["target"],
        train=rows["train"],
        holdout=store.load_arrays("holdout") if store.has("holdout") else None,
        curve=store.load_arrays("curve") if store.has("curve") else None,
    )


def _filed_tables(model: ScoreModel) -> dict[str, WoeTable]:
    """Return the effect of each code as a model has it, by party."""
    found = {}
    for part in model.parts:
        effect = np.array([value for column in part.columns for value in column.woe])
        found[part.party] = as_woe(part.n_codes, effect, np.array([column.iv for column in part.columns]))
    return found


def measured(files: BankFiles) -> tuple[dict[str, Any], list[str]]:
    """Return the fields that need hold-out scores, and lines on what is missing and why."""
    if files.curve is not None:
        own, notes = _bank_only_points(files)
        fields, told = measured_curve(files.model, files.curve, files.target[~files.train], own, files.shift)
        if files.job.training.weights:
            told.append("The curve counts every row once: weights of rows do not enter it.")
        return fields, [*told, *notes, *_notes_on_risk(files)]
    if files.holdout is None:
        return {}, [_why_not_measured(files)]
    if "band" in files.holdout:
        return _measured_bands(files.model, files.holdout)
    y, units, weight = (files.holdout[name] for name in ("target", "units", "weight"))
    if np.unique(y).size < 2:
        return {}, [_ONE_CLASS]
    # equal weights are as none: only unweighted rows give the gain a standard error
    points, w = files.model.score(units), weight if np.ptp(weight) > 0 else None
    own, notes = _bank_only_points(files)
    table = metrics.score_table(y, points, w, points=True)
    name = "the joint scorecard" if files.design is not None else "the joint boosted trees"
    if isinstance(files.model, Stacked):
        name = "the joint stack"
    evaluations = [report.evaluate("joint", name, table)]
    fields = {}
    if own is not None:
        table = metrics.score_table(y, own, w, points=True)
        evaluations.append(report.evaluate("bank only", "the bank's own columns", table))
        if w is None:
            difference = metrics.auc_difference(y, points, own, points=True)
            fields["improvement"] = Improvement(auc=difference[0], standard_error=difference[1])
        else:
            notes.append("Rows have weights: the gain over the bank's own columns is shown without standard error.")
    notes += _notes_on_risk(files)
    risk = sigmoid(files.model.scaling.log_odds_bad(units) - files.shift)
    fields |= {
        "evaluations": tuple(evaluations),
        "distribution": metrics.score_histogram(y, points, w),
        "calibration": metrics.calibration(y, risk, w),
        "cutoffs": _cutoffs(files.model.bands, y, points, w),
    }
    return fields, notes


def _notes_on_risk(files: BankFiles) -> list[str]:
    """Say where filed probabilities are not those that the calibration shows."""
    notes = []
    if files.shift:
        notes.append(
            "Points and filed probabilities are corrected to the bad rate of the population, "
            f"{files.job.training.population_bad_rate:g}; the calibration shown is at the sample's own bad rate."
        )
    filed = files.model.calibration
    if (filed.slope, filed.intercept) != (1.0, 0.0):
        notes.append(
            f"Filed probabilities are recalibrated on this hold-out (slope {filed.slope:.3f}, intercept "
            f"{filed.intercept:+.3f}); the calibration shown is that before, as after it would only praise itself."
        )
    return notes


def _measured_bands(model: ScoreModel, holdout: Mapping[str, Array]) -> tuple[dict[str, Any], list[str]]:
    """Return rows and bad rate of each band: all that can be said where bands alone were opened."""
    y, weight = holdout["target"], holdout["weight"]
    if np.unique(y).size < 2:
        return {}, [_ONE_CLASS]
    edges = np.array(sorted(model.bands.values()))
    inside = np.concatenate([[edges[0] - 1.0], edges])[holdout["band"]]  # any score of the band gives its row
    note = (
        "Bands alone were opened (holdout_output: band): nobody has the scores of the hold-out, so that AUC, KS and "
        "calibration cannot be shown."
    )
    return {"cutoffs": _cutoffs(model.bands, y, inside, weight if np.ptp(weight) > 0 else None)}, [note]


def _why_not_measured(files: BankFiles) -> str:
    if files.train.all():
        return "The job set no rows aside (holdout_fraction: 0), so no metrics can be shown."
    if files.job.training.private and not files.job.training.holdout_scores:
        return "The job opened no curve of the hold-out (holdout_scores: false), so no metrics can be shown."
    if not files.job.training.holdout_scores:
        return (
            "The job was run with holdout_scores: false: no score of a hold-out row was opened, to the bank neither, "
            "so no metrics can be shown."
        )
    return "The step `evaluate` has not finished, so no metrics can be shown yet."


def _bank_only_points(files: BankFiles) -> tuple[Vector | None, list[str]]:
    """Return points of the hold-out rows by the same fit on the bank's own columns alone, (n_holdout,)."""
    if files.design is None:
        return None, ["No trees were grown on the bank's own columns alone, so there is no such score to compare with."]
    scaling, held = files.model.scaling, files.codes[~files.train]
    columns = [(j, c) for j, c in enumerate(files.model.part(files.job.bank).columns) if c.coefficient is not None]
    if not columns:
        return None, ["No column of the bank is in the model, so there is no score of its own to compare with."]
    try:
        *beta, intercept = modelling.bank_only(files.design).tolist()
    except ParameterError as error:
        return None, [f"The bank's own columns alone could not be fitted: {error.message}"]
    eta = np.full(held.shape[0], intercept + files.shift)
    for coefficient, (j, column) in zip(beta, columns, strict=True):
        eta += coefficient * np.array(column.woe)[held[:, j]]
    return (scaling.offset - scaling.factor * eta) / scaling.units, []


def _cutoffs(
    bands: Mapping[str, float], y: Array, points: Vector, weight: Vector | None
) -> tuple[metrics.CutoffRow, ...]:
    """Return the table by the model's bands, or by fifths of the hold-out where it has none."""
    if not bands:
        edges = np.unique(np.round(np.quantile(points, [0.2, 0.4, 0.6, 0.8])))
        names = FIFTHS if edges.size == len(FIFTHS) - 1 else None
        return metrics.cutoff_table(y, points, edges, weight, names=names)
    ranked = sorted(bands, key=lambda name: bands[name], reverse=True)
    edges = np.array([bands[name] for name in reversed(ranked)])
    rows = metrics.cutoff_table(y, points, edges, weight, names=(*ranked, "below all bands"))
    return rows if rows[-1].n else rows[:-1]  # "below all bands" is shown only where somebody is there


def column_shift(column: str, party: str, before: Vector, after: Vector) -> ColumnStability | None:
    """Return the population stability of one column from its rows per cell; None where a side has no rows."""
    if not before.sum() or not after.sum():
        return None
    return ColumnStability(column=column, party=party, psi=population_stability(before, after))


def stability_of(shifts: Iterable[ColumnStability | None]) -> Stability | None:
    """Return the stability of the columns that have one."""
    known = tuple(shift for shift in shifts if shift is not None)
    return Stability(columns=known) if known else None


def privacy_of(
    job: Job, *, account: Account | None = None, promises_less: tuple[str, ...] = ()
) -> PrivacySection | None:
    """Return what the job's openings tell of a firm at each holder; None where it opens none.

    account : the holder's own, whose year the section then shows.
    promises_less : where its policy promises less than the default does.
    """
    charges = charges_of(job.parameters)
    if not charges:
        return None
    year: dict[str, Any] = {}
    if account is not None:
        spending = sorted((at_s, job_id, mu2) for job_id, (at_s, mu2) in account.by_job().items())
        year = {
            "year_spent": math.sqrt(account.spent()),
            "year_limit": account.rules.year,
            "job_limit": account.rules.job,
            "spending": tuple(
                SpendingRow(job_id=job_id, day=dt.datetime.fromtimestamp(at_s, dt.UTC).date().isoformat(), mu=mu2**0.5)
                for at_s, job_id, mu2 in spending
            ),
            "promises_less": promises_less,
        }
    if EXACT in charges:
        return PrivacySection(exact=True, **year)
    rows = tuple(ChargeRow(opening=c.opening, rows=c.rows, mu=math.sqrt(c.mu2)) for c in charges)
    mu = math.sqrt(total(charges))
    return PrivacySection(mu=mu, guess=best_guess(mu), guess_of_ten=best_guess(mu, 10), charges=rows, **year)


def learned_of(job: Job, *, evaluated: bool) -> tuple[LearnedRow, ...]:
    """Return what each role learned in the steps that ran."""
    return tuple(
        LearnedRow(
            step=row.step,
            label_holder=row.bank,
            feature_holder=row.holder,
            coordinator=row.coordinator,
            how_much=row.how_much,
        )
        for row in leakage_table(job.parameters)
        if evaluated or row.step != "evaluate"
    )
