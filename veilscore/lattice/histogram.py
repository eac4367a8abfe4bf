"""Secure histogram: sums of a private vector over the cells of another party's codes, as shares modulo t.

Source: docs/protocols/lattice.md, section 1; `hints.py` with a row of the matrix for each cell.
Parties: the code owner (static codes, for a job) and the vector owner (fresh vectors).
Messages: hints, once, code owner to vector owner; one `HistogramQuery` for V vectors, the other way.
Reveals: nothing but sizes; each party keeps a share, and the two add up to the sum within one unit.
Assumes: ring-LWE at 128 bits; both give the same label, fresh for the session and set of codes.
Aborts: MessageError on a message of wrong size or range; SecretReuseError where a secret would be used twice.
Before a share is opened to the vector owner the code owner **must** add `sampling.dither`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Integers, Words
from veilscore.lattice import indicator
from veilscore.lattice.hints import MatrixOwner, Shape, VectorOwner, VectorQuery
from veilscore.lattice.params import HISTOGRAM, check_histogram
from veilscore.lattice.ring import packed_size

N = HISTOGRAM.N
PRIMES = HISTOGRAM.primes
L = len(PRIMES)
CELL_BYTES = packed_size((L, N), PRIMES)
HistogramQuery = VectorQuery


def _shape(n_samples: int, n_cells: int, label: bytes) -> Shape:
    check_histogram(n_samples, n_cells)
    return Shape(HISTOGRAM, n_samples, n_cells, "cells", label, b"histogram")


def cells_of(n_codes: Integers, columns: Integers) -> Integers:
    """Return the numbers of the cells of some columns, in the order of these."""
    ends = np.cumsum(n_codes)
    return np.concatenate([np.arange(ends[j] - n_codes[j], ends[j]) for j in columns])


class HistogramCodes(MatrixOwner):
    """The code owner's side.

    codes : uint8 or uint16 (n_samples, n_columns).
    n_codes : (n_columns,).
    label : names protocol, session and this set of codes; equal on both sides, never used for other codes.
    workers : threads for the hints.
    """

    def __init__(self, codes: NDArray[np.integer], n_codes: Integers, label: bytes, *, workers: int = 1) -> None:
        rows = indicator.CellRows.of(codes, n_codes)
        self._cells, self._n_codes = indicator.CellMatrix(rows), rows.n_codes
        super().__init__(self._cells, _shape(rows.n_samples, rows.n_cells, label), workers=workers)

    def __repr__(self) -> str:
        """Show sizes alone."""
        return f"HistogramCodes(n_samples={self._shape.n_positions}, n_cells={self.n_cells})"

    @property
    def n_cells(self) -> int:
        """Number of cells, hence of sums a vector."""
        return self._shape.n_outputs

    def columns(self, columns: Integers) -> HistogramCodes:
        """Return the owner of the cells of some columns alone: a query for them is shorter, and its sums are fewer."""
        part = copy.copy(self)
        part.narrow_to(columns)
        return part

    def narrow_to(self, columns: Integers) -> None:
        """Keep the cells of some columns alone."""
        outputs = cells_of(self._n_codes, columns)
        self._cells, self._n_codes = self._cells.columns(columns), self._n_codes[columns]
        self.narrow(self._cells, outputs)

    def evaluate(self, query: HistogramQuery) -> Words:
        """Return this party's shares (V, cells) of the sums."""
        return self.evaluate_many(query)


class HistogramVectors(VectorOwner):
    """The vector owner's side.

    n_samples, n_codes : sizes of the other party's codes, as agreed beforehand.
    label : as the code owner's.
    hints : all hints, or none yet (then give them by `add_hints`).
    """

    def __init__(self, n_samples: int, n_codes: Integers, label: bytes, hints: Iterable[bytes] = ()) -> None:
        self.n_samples = n_samples
        self._n_codes = indicator.check_n_codes(n_codes)
        self.n_cells = int(self._n_codes.sum())
        super().__init__(_shape(n_samples, self.n_cells, label), hints)

    def __repr__(self) -> str:
        """Show sizes alone."""
        return f"HistogramVectors(n_samples={self.n_samples}, n_cells={self.n_cells})"

    def columns(self, columns: Integers) -> HistogramVectors:
        """Return the owner of vectors that are summed over the cells of some columns alone, as the code owner's."""
        part = copy.copy(self)
        part.narrow_to(columns)
        return part

    def narrow_to(self, columns: Integers) -> None:
        """Keep the cells of some columns alone."""
        self.narrow(cells_of(self._n_codes, columns))
        self._n_codes = self._n_codes[columns]
        self.n_cells = int(self._n_codes.sum())

    def query(self, x: Words) -> tuple[HistogramQuery, Words]:
        """Encrypt vectors x, uint64 (V, n_samples) below t; also return this party's shares (V, cells)."""
        return self.query_many(x)
