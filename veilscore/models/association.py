"""Measure the association of columns of codes by Cramer's V: of a few columns, or of thousands above a limit only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Array, CodeArray, Integers, Vector
from veilscore.kernels import inlined, kernel

MAX_ROWS = 1 << 16  # of more rows, evenly spaced ones: enough for two decimals, and it bounds memory


def sampled_rows(rows: Integers) -> Integers:
    """Return at most `MAX_ROWS` of the row numbers given, evenly spaced."""
    if rows.size <= MAX_ROWS:
        return rows
    return rows[np.linspace(0, rows.size - 1, MAX_ROWS).astype(np.int64)]


def cramers_v(codes: Array, n_codes: Integers) -> NDArray[np.float32]:
    """Return Cramer's V between columns of codes (n, d), rounded to hundredths: (d, d), 1 on the diagonal."""
    above = _above_diagonal(codes.T, n_codes).astype(np.float32)
    return np.round(above + above.T + np.eye(len(above), dtype=np.float32), 2)


def associated_pairs(codes: CodeArray, n_codes: Integers, limit: float) -> Integers:
    """Return the pairs of columns whose Cramer's V is above a limit: (P, 2), the smaller number first, ascending.

    codes : (n_columns, n_rows) uint8 or uint16, one column a row.
    """
    return np.argwhere(_above_diagonal(codes, n_codes) > limit).astype(np.int64)


def _above_diagonal(codes: CodeArray, n_codes: Integers) -> Vector:
    """Return V of columns i < j at [i, j] and zero elsewhere; codes (n_columns, n_rows)."""
    found = np.zeros((len(codes), len(codes)))
    if len(codes):
        _measure(np.ascontiguousarray(codes), n_codes.astype(np.int64), found)
    return found


@kernel("(u1[:,::1], i8[::1], f8[:,::1])", "(u2[:,::1], i8[::1], f8[:,::1])")
def _measure(codes: CodeArray, n_codes: Integers, found: Vector) -> None:
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
            # two loops: the first one is vectorised, which counting cannot be
            for r in range(n):
                wide[r] = np.int32(codes[i, r]) * width + np.int32(codes[j, r])
            for r in range(n):
                joint[wide[r]] += 1
            phi2 = _phi2(joint, margins[i, : n_codes[i]], margins[j, :width])
            found[i, j] = np.sqrt(max(phi2, 0.0) / used)


@inlined
def _phi2(joint: NDArray[np.int32], rows: Integers, columns: Integers) -> float:
    """Return chi2 / n = sum of joint^2 / (row total * column total) - 1; joint holds (rows, columns) in one line."""
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
