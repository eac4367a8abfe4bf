"""Codes checked and cut into cells; 0/1 matrices of them; transforms of their polynomials; plain sums.

A *cell* is one (column, code), numbered column by column: offset[column] + code. The same codes give two
matrices: a row of `CellMatrix` marks the rows of one cell, a row of `RowMatrix` the cells of one row. Cut into
blocks of N positions, a row of a matrix is a 0/1 polynomial a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Integers, Limbs, Words
from veilscore.errors import ParameterError
from veilscore.kernels import inlined, kernel
from veilscore.lattice import params as parameters
from veilscore.lattice.ntt import fold, forward

CodeArray = NDArray[np.uint8] | NDArray[np.uint16]


u32 = np.uint32
u64 = np.uint64
MAX_TERMS = 12  # products below 2^60 that fit 64 bits on top of a folded value below 2^63


def check_n_codes(n_codes: Integers) -> Integers:
    """Return the numbers of codes as int64, or raise ParameterError."""
    counts = np.asarray(n_codes)
    if counts.ndim != 1 or counts.size == 0 or not np.issubdtype(counts.dtype, np.integer):
        raise ParameterError("n_codes must be a non-empty array of integers, one for each column")
    if counts.min() < 1 or counts.max() > parameters.MAX_CODES:
        raise ParameterError(f"each column needs between 1 and {parameters.MAX_CODES} codes")
    return counts.astype(np.int64)


@dataclass(frozen=True, repr=False)
class CellRows:
    """Private codes, checked.

    codes : uint8 or uint16 (n_samples, n_columns), each below its column's number of codes.
    n_codes, offsets : int64 (n_columns,); the first cell of a column is its offset.
    """

    codes: CodeArray
    n_codes: Integers
    offsets: Integers

    @classmethod
    def of(cls, codes: NDArray[np.integer], n_codes: Integers) -> CellRows:
        """Check codes and keep them in the smallest type that holds them."""
        counts = check_n_codes(n_codes)
        array = np.asarray(codes)
        if array.ndim != 2 or array.shape[1] != counts.size or not np.issubdtype(array.dtype, np.integer):
            raise ParameterError(f"codes must be integers of shape (n_samples, {counts.size})")
        if array.shape[0] < 1:
            raise ParameterError("codes must have at least one row")
        if array.min() < 0 or np.any(array.max(axis=0) >= counts):
            raise ParameterError("a code is not below its column's number of codes")
        kind = np.uint8 if counts.max() <= 256 else np.uint16
        kept = cast("CodeArray", np.array(array, kind, order="C"))
        return cls(kept, counts, np.concatenate(([0], np.cumsum(counts)[:-1])))

    @property
    def n_samples(self) -> int:
        """Number of rows."""
        return int(self.codes.shape[0])

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return int(self.n_codes.sum())

    def __repr__(self) -> str:
        """Show sizes alone."""
        return f"CellRows(n_samples={self.n_samples}, n_cells={self.n_cells})"


class CellMatrix:
    """The matrix of the histogram: an output is a cell, its positions are the rows that have it."""

    def __init__(self, rows: CellRows) -> None:
        self._rows = rows

    def columns(self, columns: Integers) -> CellMatrix:
        """Return the matrix of the cells of some columns."""
        n_codes = self._rows.n_codes[columns]
        codes = cast("CodeArray", np.ascontiguousarray(self._rows.codes[:, columns]))
        return CellMatrix(CellRows(codes, n_codes, np.concatenate(([0], np.cumsum(n_codes)[:-1]))))

    def positions(self, start: int, stop: int) -> list[NDArray[np.int32]]:
        """Return the rows of cells start to stop, ascending."""
        rows = self._rows
        out: list[NDArray[np.int32]] = []
        for column, (first, count) in enumerate(zip(rows.offsets, rows.n_codes, strict=True)):
            low, high = max(start - int(first), 0), min(stop - int(first), int(count))
            if low >= high:
                continue
            code = rows.codes[:, column]
            # a stable sort keeps the rows of a code ascending
            order = np.argsort(code, kind="stable").astype(np.int32)
            ends = np.cumsum(np.bincount(code, minlength=int(count)))
            out.extend(np.split(order, ends)[low:high])
        return out

    def sums(self, b: Limbs) -> Words:
        """Return the sums (cells, L) of b (n_samples, L) over the rows of each cell."""
        acc = np.zeros((self._rows.n_cells, b.shape[1]), np.uint64)
        cell_sums(self._rows.codes, self._rows.offsets, b, acc)
        return acc


class RowMatrix:
    """The matrix of the lookup by rows: an output is a row, its positions are the row's cells, one a column."""

    def __init__(self, rows: CellRows) -> None:
        self._rows = rows

    def positions(self, start: int, stop: int) -> list[NDArray[np.int32]]:
        """Return the cells of rows start to stop, ascending."""
        cells = self._rows.codes[start:stop] + self._rows.offsets
        return list(cells.astype(np.int32))

    def sums(self, b: Limbs) -> Words:
        """Return the sums (n_samples, L) of b (cells, L) over the cells of each row."""
        acc = np.zeros((self._rows.n_samples, b.shape[1]), np.uint64)
        row_sums(self._rows.codes, self._rows.offsets, b, acc)
        return acc


@kernel()
def indicator(column: NDArray[np.int32], code: int, out: Limbs) -> None:
    """Write the 0/1 polynomial of one cell in one block, both (N,)."""
    wanted = np.int32(code)
    for i in range(column.size):
        out[i] = u32(column[i] == wanted)


@inlined
def fold_all(acc: Words, p: np.uint32) -> None:
    """Bring accumulators below 2^63 without changing them modulo p."""
    top = (u64(1) << u64(32)) % u64(p)
    for i in range(acc.size):
        acc[i] = fold(acc[i], top)


@kernel("(i4[::1], u4[:,:,::1], u4[:,::1], u4[:,::1], u4[::1], u4[:,::1])")
def hint(
    positions: NDArray[np.int32],
    multipliers: Limbs,
    w: Limbs,
    w_shoup: Limbs,
    primes: Limbs,
    out: Limbs,
) -> None:
    """Write out = sum over blocks of m_block a_block for one output, in the NTT domain.

    positions : ascending, where the output's row of the matrix is 1; block k holds those in [k N, (k + 1) N).
    multipliers : (K, L, N) values of the public elements.
    out : (L, N), overwritten.
    """
    N = multipliers.shape[2]
    poly = np.empty(N, np.uint32)
    acc = np.empty(N, np.uint64)
    for limb in range(primes.size):
        p = primes[limb]
        acc[:] = u64(0)
        at = 0
        for k in range(multipliers.shape[0]):
            poly[:] = u32(0)
            while at < positions.size and positions[at] < (k + 1) * N:
                poly[positions[at] - k * N] = u32(1)
                at += 1
            forward(poly, w[limb], w_shoup[limb], p)
            a = multipliers[k, limb]
            for i in range(N):
                acc[i] += u64(poly[i]) * u64(a[i])
            if k % MAX_TERMS == MAX_TERMS - 1:
                fold_all(acc, p)
        row = out[limb]
        for i in range(N):
            row[i] = u32(acc[i] % u64(p))


@kernel("(i4[:,::1], i8[::1], u4[:,:,:,::1], u4[:,::1], u4[:,::1], u4[::1], u4[:,:,::1])")
def block_sum(
    columns: NDArray[np.int32],
    n_codes: Integers,
    multipliers: Limbs,
    w: Limbs,
    w_shoup: Limbs,
    primes: Limbs,
    out: Limbs,
) -> None:
    """Write out_v = sum over cells of m_cell b_cell,v in one block of rows, in the NTT domain.

    columns : (n_columns, N) codes of the block's rows.
    multipliers : (V, cells, L, N) values of one ring element a vector and cell.
    out : (V, L, N), overwritten.
    """
    V = multipliers.shape[0]
    N = columns.shape[1]
    poly = np.empty(N, np.uint32)
    acc = np.empty((V, N), np.uint64)
    for limb in range(primes.size):
        p = primes[limb]
        acc[:] = u64(0)
        cell = 0
        for c in range(columns.shape[0]):
            for code in range(n_codes[c]):
                indicator(columns[c], code, poly)
                forward(poly, w[limb], w_shoup[limb], p)
                for v in range(V):
                    b = multipliers[v, cell, limb]
                    part = acc[v]
                    for i in range(N):
                        part[i] += u64(poly[i]) * u64(b[i])
                    if cell % MAX_TERMS == MAX_TERMS - 1:
                        fold_all(part, p)
                cell += 1
        for v in range(V):
            row = out[v, limb]
            for i in range(N):
                row[i] = u32(acc[v, i] % u64(p))


@kernel("(u1[:,::1], i8[::1], u4[:,::1], u8[:,::1])", "(u2[:,::1], i8[::1], u4[:,::1], u8[:,::1])")
def cell_sums(codes: CodeArray, offsets: Integers, b: Limbs, acc: Words) -> None:
    """Add to acc (cells, 4) the limbs b (n, 4) of every row of the cell; no sum of 2^24 rows overflows."""
    for i in range(codes.shape[0]):
        b0 = u64(b[i, 0])
        b1 = u64(b[i, 1])
        b2 = u64(b[i, 2])
        b3 = u64(b[i, 3])
        for c in range(codes.shape[1]):
            row = acc[offsets[c] + np.int64(codes[i, c])]
            row[0] += b0
            row[1] += b1
            row[2] += b2
            row[3] += b3


@kernel("(u1[:,::1], i8[::1], u4[:,::1], u8[:,::1])", "(u2[:,::1], i8[::1], u4[:,::1], u8[:,::1])")
def row_sums(codes: CodeArray, offsets: Integers, b: Limbs, acc: Words) -> None:
    """Add to acc (n, L) the limbs b (cells, L) of every cell of the row."""
    for i in range(codes.shape[0]):
        for c in range(codes.shape[1]):
            cell = b[offsets[c] + np.int64(codes[i, c])]
            for limb in range(cell.size):
                acc[i, limb] += u64(cell[limb])


@kernel("(u4[:,:,::1], i4[:,::1], i8[:,:,::1])")
def signed_dots(values: Limbs, small: NDArray[np.int32], out: Integers) -> None:
    """Write out[v, r, limb] = <values[r, limb], small[v]>: residues (R, L, N) by ternary vectors (V, N)."""
    for r in range(values.shape[0]):
        for limb in range(values.shape[1]):
            x = values[r, limb]
            for v in range(small.shape[0]):  # innermost but one: the residues are read from memory once
                s = small[v]
                total = np.int64(0)
                for i in range(s.size):
                    total += np.int64(np.int32(x[i])) * np.int64(s[i])
                out[v, r, limb] = total


@kernel("(u4[:,::1], i1[:,::1], i8[:,::1])")
def secret_dots(values: Limbs, small: NDArray[np.int8], out: Integers) -> None:
    """Write out[r, limb] = <values[limb], small[r]>: residues (L, N) by many ternary vectors (R, N)."""
    wide = np.empty(small.shape[1], np.int32)
    for r in range(small.shape[0]):
        for i in range(wide.size):
            wide[i] = np.int32(small[r, i])
        for limb in range(values.shape[0]):
            x = values[limb]
            total = np.int64(0)
            for i in range(wide.size):
                total += np.int64(np.int32(x[i])) * np.int64(wide[i])
            out[r, limb] = total
