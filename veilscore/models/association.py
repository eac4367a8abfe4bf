"""Cramer's V between thousands of columns of codes, for those pairs above a limit only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import CodeArray, Integers, Mask
from veilscore.kernels import inlined, kernel

MAX_ROWS = 1 << 16  # of more rows, evenly spaced ones: enough for two decimals, and it bounds memory


def sampled_rows(rows: Integers) -> Integers:
    """At most `MAX_ROWS` of the row numbers given, evenly spaced."""
    if rows.size <= MAX_ROWS:
        return rows
    return rows[np.linspace(0, rows.size - 1, MAX_ROWS).astype(np.int64)]


def associated_pairs(codes: CodeArray, n_codes: Integers, limit: float) -> Integers:
    """Pairs of columns whose Cramer's V is above a limit.

    Parameters
    ----------
    codes : (n_columns, n_rows) uint8 or uint16, each column contiguous.
    n_codes : (n_columns,).
    limit : in (0, 1].

    Returns
    -------
    (P, 2) int64 column numbers, the smaller first, in ascending order.
    """
    flags = np.zeros((len(codes), len(codes)), np.bool_)
    if len(codes):
        _associated(np.ascontiguousarray(codes), n_codes.astype(np.int64), float(limit), flags)
    return np.argwhere(flags).astype(np.int64)


@kernel("(u1[:,::1], i8[::1], f8, b1[:,::1])", "(u2[:,::1], i8[::1], f8, b1[:,::1])")
def _associated(codes: NDArray[np.uint8], n_codes: Integers, limit: float, flags: Mask) -> None:
    d, n = codes.shape
    most = n_codes.max()
    joint = np.empty(most * most, np.int32)
    margins = np.zeros((d, most), np.int64)
    filled = np.zeros(d, np.int64)
    for j in range(d):
        for r in range(n):
            margins[j, codes[j, r]] += 1
        filled[j] = (margins[j] > 0).sum()
    wide = np.empty(n, np.int32)
    for i in range(d):
        for j in range(i + 1, d):
            used = min(filled[i], filled[j]) - 1
            if used <= 0:
                continue
            width = np.int32(n_codes[j])
            joint[: n_codes[i] * width] = 0
            for r in range(n):
                wide[r] = np.int32(codes[i, r]) * width + np.int32(codes[j, r])
            for r in range(n):
                joint[wide[r]] += 1
            phi2 = _phi2(joint, margins[i, : n_codes[i]], margins[j, :width])
            flags[i, j] = np.sqrt(max(phi2, 0.0) / used) > limit


@inlined
def _phi2(joint: NDArray[np.int32], rows: Integers, columns: Integers) -> float:
    """chi2 / n = sum of joint^2 / (row total column total) - 1; joint holds (rows, columns) in one line."""
    total = 0.0
    for a in range(rows.size):
        part = 0.0
        for b in range(columns.size):
            if columns[b] > 0:
                count = float(joint[a * columns.size + b])
                part += count * count / columns[b]
        if rows[a] > 0:
            total += part / rows[a]
    return total - 1.0
