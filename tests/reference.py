"""Plaintext oracle: what the protocols must compute, with all parties' data in one place.

Data part: `load_parties` reads one CSV per party, `left_join` makes the pooled table. It uses the standard
library's csv reader only, so that it shares no code with `veilscore.data.ingest`.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

ID_COLUMN = "uscc"
LABEL_COLUMN = "default"


def typed_column(cells: list[str]) -> np.ndarray:
    """Float64 (empty is NaN) where every filled cell is a number, else object (empty is None)."""
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells], dtype=np.float64)
    except ValueError:
        return np.array([cell or None for cell in cells], dtype=object)


def load_party(path: Path) -> dict[str, Any]:
    """One party's CSV as {"ids": (n,) str, "columns": {name: (n,) array}, "label": (n,) float64 or None}."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        names, *rows = list(csv.reader(file))
    cells = dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True))
    ids = np.array(cells.pop(ID_COLUMN))
    label = typed_column(cells.pop(LABEL_COLUMN)) if LABEL_COLUMN in cells else None
    return {
        "ids": ids,
        "columns": {name: typed_column(column) for name, column in cells.items()},
        "label": label,
    }


def load_parties(folder: Path) -> dict[str, dict[str, Any]]:
    """Every party of a folder: {"bank": ..., "registry": ..., "tax": ...} (bank first, then by name)."""
    paths = sorted(Path(folder).glob("*.csv"), key=lambda path: (path.stem != "bank", path.stem))
    return {path.stem: load_party(path) for path in paths}


def match_rows(bank_ids: np.ndarray, holder_ids: np.ndarray) -> np.ndarray:
    """Row of each bank firm at the holder, -1 where the holder does not know it; (n_bank,) int64."""
    rows = {firm: row for row, firm in enumerate(holder_ids.tolist())}
    return np.array([rows.get(firm, -1) for firm in bank_ids.tolist()], dtype=np.int64)


def take_or_missing(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """`values[index]` with NaN (numbers) or None (text) where index is -1."""
    missing = None if values.dtype == object else np.nan
    return np.append(values, np.array([missing], dtype=values.dtype))[index]


def left_join(bank: Mapping[str, Any], holders: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Pooled table in the bank's row order; a firm that a holder does not know is missing in its columns.

    Parameters
    ----------
    bank : the bank's part, as `load_party` returns it.
    holders : name -> part of each holder, in the order wanted.

    Returns
    -------
    dict with "ids", "label", "columns" (name -> (n_bank,) array, the bank's first), "party_of" (column
    name -> party) and "rows" (holder -> (n_bank,) int64 row at that holder, -1 for unknown).
    """
    columns = dict(bank["columns"])
    party_of = dict.fromkeys(columns, "bank")
    rows = {}
    for name, holder in holders.items():
        rows[name] = match_rows(bank["ids"], holder["ids"])
        for column, values in holder["columns"].items():
            if column in columns:
                raise ValueError(f"column {column!r} is in two parties")
            columns[column] = take_or_missing(values, rows[name])
            party_of[column] = name
    return {
        "ids": bank["ids"],
        "label": bank["label"],
        "columns": columns,
        "party_of": party_of,
        "rows": rows,
    }


def pooled_woe(codes: np.ndarray, n_codes: int, y: np.ndarray) -> np.ndarray:
    """WOE of every code of one column: ln(bad share / good share), 0.5 added per class and bin; (n_codes,)."""
    bad = np.bincount(codes, weights=y, minlength=n_codes) + 0.5
    good = np.bincount(codes, weights=1.0 - y, minlength=n_codes) + 0.5
    return np.log((bad / bad.sum()) / (good / good.sum()))


def pooled_logistic(
    X: np.ndarray,
    y: np.ndarray,
    *,
    C: float = 1.0,
    sample_weight: np.ndarray | None = None,
    positive: bool = False,
) -> tuple[np.ndarray, float]:
    """Coefficients (d,) and intercept of the penalised logistic regression on pooled WOE columns.

    scikit-learn without a sign constraint, scipy's bounded L-BFGS with one; both to 1e-10.
    """
    if not positive:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=C, tol=1e-10, max_iter=20_000).fit(X, y, sample_weight=sample_weight)
        return model.coef_[0], float(model.intercept_[0])
    from scipy.optimize import minimize

    design = np.column_stack([X, np.ones(len(X))])
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    penalty = np.append(np.full(X.shape[1], 1.0 / C), 0.0)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        eta = design @ theta
        value = weight @ (np.logaddexp(0.0, eta) - y * eta) + 0.5 * penalty @ theta**2
        residual = weight * (np.exp(-np.logaddexp(0.0, -eta)) - y)
        return value, design.T @ residual + penalty * theta

    bounds = [(0.0, None)] * X.shape[1] + [(None, None)]
    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-8, "maxcor": 50}
    fit = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return fit.x[:-1], float(fit.x[-1])


def sklearn_auc(y: np.ndarray, risk: np.ndarray) -> float:
    """Area under the ROC curve, by scikit-learn."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, risk))
