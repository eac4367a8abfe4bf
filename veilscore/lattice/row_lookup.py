"""Lookup sum by rows: for few rows, the same sums as `lookup.py` at a few bytes a row and cell and step.

Source: docs/protocols/lattice.md, section 4; `hints.py` with a row of the matrix for each row of the codes.
Parties: the code owner (private codes, for a job) and the table owner (private theta, new each step).
Messages: hints, once, code owner to table owner, one a row; one `VectorQuery` a step, the other way; no reply.
Reveals: nothing but sizes; each party keeps a share of every row's sum, right within one unit of 2^-24 of a turn.
Assumes: ring-LWE at 128 bits; both give the same label, fresh for the session and set of codes. The shares are
    never opened (there is no `opened`: a rounding right within one unit would tell the opener about the noise).
Aborts: MessageError on a message of wrong size or range; SecretReuseError where a secret would be used twice.

Within one unit: let t = 2^24 and y the sum of a row. The table owner rounds u = rho t/q, the code owner rounds
y + f - u, where f = t/q (noise + d/2 units of rounded constants, at most). Two roundings move the total by at most
1/2 each, so it differs from y by at most 1 + |f|; it is an integer and |f| < 1/4 (`check_row_lookup`), hence by 0
or 1; by 1 only where u lies within |f| of a rounding boundary, with probability about E|f| (2^-21 for 20 columns).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Integers, Words
from veilscore.errors import MessageError
from veilscore.lattice import indicator
from veilscore.lattice.hints import MatrixOwner, Shape, VectorOwner, VectorQuery
from veilscore.lattice.lookup import LookupCodes, LookupTable, check_theta, lookup_bytes
from veilscore.lattice.params import LOOKUP_TRAIN, MAX_CELLS, check_row_lookup

EXPECTED_STEPS = 30


def _shape(n_samples: int, n_codes: Integers, label: bytes) -> Shape:
    n_cells = int(n_codes.sum())
    check_row_lookup(n_samples, n_codes.size, n_cells)
    return Shape(LOOKUP_TRAIN, n_cells, n_samples, "rows", label, b"lookup by rows")


class RowLookupCodes(MatrixOwner):
    """The code owner's side.

    codes : uint8 or uint16 (n_samples, n_columns), at most `MAX_CELLS` rows.
    n_codes : (n_columns,).
    label : names protocol, session and this set of codes; equal on both sides, never used for other codes.
    workers : threads for the hints.
    """

    def __init__(self, codes: NDArray[np.integer], n_codes: Integers, label: bytes, *, workers: int = 1) -> None:
        rows = indicator.CellRows.of(codes, n_codes)
        shape = _shape(rows.n_samples, rows.n_codes, label)
        super().__init__(indicator.RowMatrix(rows), shape, workers=workers)

    def __repr__(self) -> str:
        """Show sizes alone."""
        return f"RowLookupCodes(n_samples={self._shape.n_outputs}, n_cells={self._shape.n_positions})"

    def evaluate(self, query: VectorQuery) -> Words:
        """Return this party's share (n_samples,) of the sums of one table."""
        shares = self.evaluate_many(query)
        if shares.shape[0] != 1:
            raise MessageError(f"the query is for {shares.shape[0]} tables; one was expected")
        share: Words = shares[0]
        return share

    def evaluate_bytes(self, data: bytes) -> Words:
        """Return this party's share (n_samples,) for a packed query of one table."""
        return self.evaluate(self.unpack(data))


class RowLookupTable(VectorOwner):
    """The table owner's side.

    n_samples, n_codes : sizes of the other party's codes, as agreed beforehand.
    label : as the code owner's.
    hints : all hints, or none yet (then give them by `add_hints`).
    """

    def __init__(self, n_samples: int, n_codes: Integers, label: bytes, *, hints: Iterable[bytes] = ()) -> None:
        super().__init__(_shape(n_samples, indicator.check_n_codes(n_codes), label), hints)

    def __repr__(self) -> str:
        """Show sizes alone."""
        return f"RowLookupTable(n_samples={self._shape.n_outputs}, n_cells={self._shape.n_positions})"

    def query(self, theta: NDArray[np.integer]) -> tuple[VectorQuery, Words]:
        """Encrypt one table (cells,), as in `LookupTable.query`; also return this party's share (n_samples,)."""
        table = check_theta(np.asarray(theta)[None], self._shape.n_positions)
        query, shares = self.query_many(table)
        return query, shares[0]


TrainingCodes = LookupCodes | RowLookupCodes
TrainingTable = LookupTable | RowLookupTable


def training_lookup(n_samples: int, n_codes: Integers, steps: int = EXPECTED_STEPS) -> Literal["rows", "cells"]:
    """Return the form of lookup that sends fewer bytes in a training of `steps` steps; both sides find the same."""
    by_cells = lookup_bytes(n_samples, indicator.check_n_codes(n_codes))
    by_rows = _by_rows(n_samples, n_codes)
    return "rows" if by_rows[0] + steps * by_rows[1] <= by_cells[0] + steps * by_cells[1] else "cells"


def training_bytes(n_samples: int, n_codes: Integers) -> tuple[float, float]:
    """Return the bytes of the hints, and of a query for one table, in the cheaper form."""
    rows = training_lookup(n_samples, n_codes) == "rows"
    return _by_rows(n_samples, n_codes) if rows else lookup_bytes(n_samples, n_codes)


def _by_rows(n_samples: int, n_codes: Integers) -> tuple[float, float]:
    if n_samples > MAX_CELLS:
        return math.inf, math.inf
    shape = Shape(LOOKUP_TRAIN, int(n_codes.sum()), n_samples, "rows", b"", b"")
    return n_samples * shape.output_bytes, sum(shape.field_bytes)


def training_lookup_codes(codes: NDArray[np.integer], n_codes: Integers, label: bytes) -> TrainingCodes:
    """Return the code owner's side of the cheaper form."""
    form = RowLookupCodes if training_lookup(codes.shape[0], n_codes) == "rows" else LookupCodes
    return form(codes, n_codes, label)


def training_lookup_table(n_samples: int, n_codes: Integers, label: bytes) -> TrainingTable:
    """Return the table owner's side of the cheaper form."""
    form = RowLookupTable if training_lookup(n_samples, n_codes) == "rows" else LookupTable
    return form(n_samples, n_codes, label)
