"""What no party could do: pool the data in the clear, fit scikit-learn on it, and compare.

Needs read access to the job folders of all parties, so it serves demonstrations, tests and benchmarks only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import LogisticRegression

from veilscore.files.store import JobStore
from veilscore.models import design as modelling
from veilscore.models import metrics
from veilscore.models.filed import load_model
from veilscore.tasks.binning import load_counts

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from veilscore.terms.job import Job


@dataclass(frozen=True)
class Parity:
    """Joint training against scikit-learn on the pooled (left-joined) table with the same WOE columns.

    Attributes
    ----------
    coefficient_difference : largest absolute difference over coefficients.
    auc_joint, auc_pooled, auc_bank : on the hold-out; the last from the bank's own columns alone.
    """

    n_train: int
    n_holdout: int
    n_columns: int
    n_gradients: int
    coefficient_difference: float
    auc_joint: float
    auc_pooled: float
    auc_bank: float


def job_store(folder: Path, party: str, job_id: str) -> JobStore:
    """Job folder of one party of a local federation."""
    return JobStore(folder / party / "jobs" / job_id)


def pooled_woe(folder: Path, job: Job, job_id: str) -> NDArray[np.float64]:
    """WOE of every selected column on all of the bank's rows: (n_samples, d), the bank's columns first."""
    model = load_model(job_store(folder, job.bank, job_id).path / "model.json")
    columns = []
    for part in model.parts:
        codes = job_store(folder, part.party, job_id).load_arrays("rows")["codes"]
        columns += [
            np.array(column.woe)[codes[:, j]] for j, column in enumerate(part.columns) if column.coefficient is not None
        ]
    return np.stack(columns, axis=1)


def compare(folder: Path, job: Job, job_id: str) -> Parity:
    """Fit pooled scikit-learn and compare coefficients and hold-out AUC."""
    store = job_store(folder, job.bank, job_id)
    rows, fit, held = store.load_arrays("rows"), store.load_json("fit"), store.load_arrays("holdout")
    x, train, target = pooled_woe(folder, job, job_id), rows["train"], rows["target"].astype(np.float64)
    pooled = LogisticRegression(C=job.training.C, tol=1e-12, max_iter=10_000)
    beta = np.array(fit["beta"])
    used = beta != 0  # where a sign is asked for, the fit is that of the columns which the sign does not hold at zero
    pooled.fit(x[train][:, used], target[train], sample_weight=rows["weight"][train])
    design = modelling.design(job, load_counts(store), rows)
    alone = modelling.bank_only(design)
    y = target[~train]
    return Parity(
        n_train=int(train.sum()),
        n_holdout=int((~train).sum()),
        n_columns=x.shape[1],
        n_gradients=fit["n_evaluations"],
        coefficient_difference=float(np.abs(pooled.coef_[0] - beta[used]).max()),
        auc_joint=metrics.auc(held["target"], held["units"], points=True),
        auc_pooled=metrics.auc(y, pooled.decision_function(x[~train][:, used])),
        auc_bank=metrics.auc(y, x[~train][:, : alone.size - 1] @ alone[:-1]),
    )


@dataclass(frozen=True)
class Private:
    """A private scorecard against the bank alone and an exact one on the pooled table: AUC on the hold-out."""

    n_train: int
    n_holdout: int
    n_columns: int
    auc_bank: float
    auc_joint: float
    auc_pooled: float


def compare_private(folder: Path, job: Job, job_id: str) -> Private:
    """Score the hold-out in the clear, and fit scikit-learn on the WOE of all parties' codes."""
    store = job_store(folder, job.bank, job_id)
    model, rows = load_model(store.path / "model.json"), store.load_arrays("rows")
    train, bad = rows["train"], rows["target"].astype(np.int64)
    units, columns = np.zeros(bad.size), []
    for part in model.parts:
        codes = job_store(folder, part.party, job_id).load_arrays("rows")["codes"].astype(np.int64)
        for j, column in enumerate(part.columns):
            points = np.array(column.points)
            counts = np.stack([np.bincount(codes[train & (bad == y), j], minlength=points.size) + 0.5 for y in (0, 1)])
            good, of_bad = counts / counts.sum(axis=1, keepdims=True)
            columns.append(np.log(of_bad / good)[codes[:, j]])
            units += points[codes[:, j]]
    x = np.stack(columns, axis=1)
    pooled = LogisticRegression(C=job.training.C, max_iter=10_000).fit(x[train], bad[train])
    y = bad[~train].astype(np.float64)
    return Private(
        n_train=int(train.sum()),
        n_holdout=int((~train).sum()),
        n_columns=x.shape[1],
        auc_bank=metrics.auc(y, -model.own_units(rows["codes"])[~train]),
        auc_joint=metrics.auc(y, -units[~train]),
        auc_pooled=metrics.auc(y, pooled.decision_function(x[~train])),
    )
