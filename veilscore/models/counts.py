"""Define what the bank knows of binned columns: codes, and counts by cell; cells are numbered column by column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import CodeArray, Integers, Mask, Vector
from veilscore.errors import ParameterError
from veilscore.models.loss import TURN


@dataclass(frozen=True)
class BinnedColumns:
    """A party's columns as codes over the bank's rows.

    names : published names or aliases, one a column.
    codes : (n_samples, n_columns) uint8 or uint16.
    n_codes : (n_columns,) int64.
    ordered : (n_columns,) whether neighbouring codes are neighbouring values (all False unless published).
    missing_code : (n_columns,) int64, -1 where not published.
    association : (n_columns, n_columns) Cramer's V, or None.
    map_hash : sha256 of the code map.
    """

    names: tuple[str, ...]
    codes: CodeArray
    n_codes: Integers
    ordered: Mask
    missing_code: Integers
    map_hash: bytes
    association: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class BinCounts:
    """What the bank knows of one party's columns after binning.

    bad, good : (cells,) weighted counts over the training rows; withheld cells have zeros.
    counts, holdout_counts : (cells,) numbers of rows.
    """

    party: str
    names: tuple[str, ...]
    n_codes: Integers
    bad: Vector
    good: Vector
    counts: Integers
    holdout_counts: Integers
    ordered: Mask
    missing_code: Integers
    map_hash: bytes
    association: NDArray[np.float32] | None = None


def offsets(n_codes: Integers) -> Integers:
    """Return the first cell of each column, and the number of cells at the end: (n_columns + 1,)."""
    return np.concatenate(([0], np.cumsum(n_codes)))


def cell_counts(codes: CodeArray, n_codes: Integers, weights: Vector | None = None) -> Vector:
    """Return the sum of weights (or number of rows) per cell: (cells,)."""
    return np.concatenate(
        [
            np.bincount(codes[:, column], weights=weights, minlength=int(n)).astype(np.float64)
            for column, n in enumerate(n_codes)
        ]
        or [np.zeros(0)]
    )


def own_counts(party: str, columns: BinnedColumns, target: NDArray[np.int8], weight: Vector, train: Mask) -> BinCounts:
    """Count the bank's own columns in the clear, as binning counts the holders'."""
    codes, n_codes = columns.codes[train], columns.n_codes
    bad_weight = weight[train] * target[train]
    return BinCounts(
        party=party,
        names=columns.names,
        n_codes=n_codes,
        bad=cell_counts(codes, n_codes, bad_weight),
        good=cell_counts(codes, n_codes, weight[train] - bad_weight),
        counts=cell_counts(codes, n_codes).astype(np.int64),
        holdout_counts=cell_counts(columns.codes[~train], n_codes).astype(np.int64),
        ordered=columns.ordered,
        missing_code=columns.missing_code,
        map_hash=columns.map_hash,
        association=columns.association,
    )


def check_range(parts: list[tuple[Integers, Integers]], base: int) -> None:
    """Refuse points whose total could wrap modulo 2**24; each part is (points, n_codes)."""
    largest = abs(base)
    for points, n_codes in parts:
        at = offsets(n_codes)
        largest += sum(int(np.abs(points[at[j] : at[j + 1]]).max()) for j in range(n_codes.size))
    check_total(largest, TURN)


def check_total(largest: int, ring: int) -> None:
    """Refuse totals of up to so many units that they could wrap the ring they are opened in."""
    if largest >= ring // 2:
        raise ParameterError(f"a total could reach {largest} units, {ring // 2 - 1} fit: use fewer decimals of points")


def row_sums(codes: CodeArray, n_codes: Integers, theta: Integers) -> Integers:
    """Return the sum over columns of theta[column, code] for each row, in the clear: (n,)."""
    total, at = np.zeros(codes.shape[0], np.int64), offsets(n_codes)
    for column in range(n_codes.size):
        total += theta[at[column] : at[column + 1]][codes[:, column]]
    return total
