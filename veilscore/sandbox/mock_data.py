"""Draws mock data for developing code: each column by itself from coarse marginals of the owner's data, never rows.

The privacy rule, for k (`min_group_size` of the policy):
- Columns are drawn independently, so no relation between columns, nor to the label, is shown.
- Numbers: values are first cut to the k-th smallest and the k-th largest (top and bottom coding); the sorted values are
  then split into at most 20 groups of at least k rows, and only the group means, rounded to 3 significant digits, are
  used: draws lie on the straight lines between them.
- Categories: levels with fewer than k rows are merged into OTHER, which is left out if it has fewer than k rows itself;
  counts are rounded to multiples of k.
- Missing cells, and a label, are drawn with their share rounded to hundredths; fewer than k missing are shown as none.
- A column with fewer than 2k filled rows is all missing.
This is not differential privacy: group means of a column are exact up to rounding. Ids are made up.
"""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Vector
from veilscore.data.table import Column, Table, kind_of
from veilscore.errors import DataError
from veilscore.sandbox.private_data import columns_csv

OTHER = "OTHER"
_MAX_GROUPS = 20
_DIGITS = 3
Floats = Vector


def mock_csv(table: Table, n_rows: int, k: int, rng: np.random.Generator, *, show_ids: bool = False) -> bytes:
    """Return `n_rows` mock rows in the form of `private_data.table_csv`.

    k : fewest rows behind anything shown.
    rng : its seed is no secret; what it draws from is public once this file is.
    Raises DataError where the data set has fewer than 2k rows.
    """
    if table.n_rows < 2 * k:
        raise DataError(f"{table.source} has fewer than {2 * k} rows: too few to draw mock data from")
    columns = {name: _mock(values, n_rows, k, rng) for name, values in table.columns.items()}
    if show_ids:
        columns = {"id": np.array([f"MOCK{i:014d}" for i in range(n_rows)], dtype=object), **columns}
    if table.label is not None:
        share = _share(int(table.label.sum()), table.n_rows, k)
        columns["label"] = (rng.random(n_rows) < share).astype(np.float64)
    if table.weight is not None:
        columns["weight"] = _mock(table.weight, n_rows, k, rng)
    if table.dates is not None:
        days = _mock(table.dates.astype(np.float64), n_rows, k, rng)
        columns["date"] = np.round(days).astype("datetime64[D]").astype(str)
    return columns_csv(columns)


def _mock(values: Column, n_rows: int, k: int, rng: np.random.Generator) -> Column:
    if kind_of(values) == "category":
        return _mock_category(values, n_rows, k, rng)
    present = np.sort(values[~np.isnan(values)])
    if len(present) < 2 * k:
        return np.full(n_rows, np.nan)
    knots = group_means(present, k)
    drawn = np.interp(rng.random(n_rows), np.linspace(0, 1, len(knots)), knots)
    if (present == np.floor(present)).all():
        drawn = np.round(drawn)
    missing = _share(len(values) - len(present), len(values), k)
    drawn[rng.random(n_rows) < missing] = np.nan
    return drawn


def group_means(ordered: Floats, k: int) -> Floats:
    """Return the means of groups of at least k sorted values after top and bottom coding, to 3 significant digits."""
    coded = np.clip(ordered, ordered[k - 1], ordered[-k])
    n_groups = min(_MAX_GROUPS, len(coded) // k)
    starts = np.arange(n_groups) * len(coded) // n_groups
    sizes = np.diff(np.append(starts, len(coded)))
    means = np.add.reduceat(coded, starts) / sizes
    return np.array([float(f"{mean:.{_DIGITS}g}") for mean in means])


def _mock_category(values: Column, n_rows: int, k: int, rng: np.random.Generator) -> Column:
    filled = values[values != None]  # noqa: E711 - element by element
    levels, counts = np.unique(filled.astype(str), return_counts=True)
    kept = counts >= k
    names = [*levels[kept].tolist()]
    sizes = [*counts[kept].tolist()]
    rest = int(counts[~kept].sum())
    if rest >= k:
        names, sizes = [*names, OTHER], [*sizes, rest]
    if not names:
        return np.full(n_rows, None, dtype=object)
    weights = np.round(np.array(sizes) / k) * k
    drawn = rng.choice(np.array(names, dtype=object), n_rows, p=weights / weights.sum())
    drawn[rng.random(n_rows) < _share(len(values) - len(filled), len(values), k)] = None
    return drawn


def _share(count: int, n: int, k: int) -> float:
    """Return a share to hundredths; fewer than k of either kind are shown as none of it."""
    if count < k:
        return 0.0
    return 1.0 if n - count < k else round(count / n, 2)
