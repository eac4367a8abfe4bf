"""Keep the codes of rows as one array, which is what the protocols compute on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import CodeArray, Integers
from veilscore.errors import DataError


@dataclass(frozen=True, repr=False)
class Codes:
    """Keeps codes of rows, private to their owner; peers may learn the numbers of codes.

    codes : (n_samples, n_columns) uint8 or uint16, C order, codes[i, j] < n_codes[j].
    n_codes : (n_columns,) int64.
    missing : (n_columns,) int64, the code of missing values; or None (then no -1 in `take_rows`).
    """

    codes: CodeArray
    n_codes: Integers
    missing: Integers | None = None

    def __post_init__(self) -> None:
        if self.codes.dtype not in (np.uint8, np.uint16) or self.codes.ndim != 2:
            raise DataError("codes must be a (n_samples, n_columns) array of uint8 or uint16")
        n_codes = np.ascontiguousarray(self.n_codes, dtype=np.int64)
        object.__setattr__(self, "n_codes", n_codes)
        object.__setattr__(self, "codes", np.ascontiguousarray(self.codes))
        if n_codes.shape != (self.n_columns,) or (self.n_columns and n_codes.min() < 1):
            raise DataError("the number of codes must be given, and positive, for every column")
        if self.n_samples and (self.codes.max(axis=0) >= n_codes).any():
            raise DataError("a code is not below the number of codes of its column")
        if self.missing is not None and not (
            self.missing.shape == n_codes.shape and ((self.missing >= 0) & (self.missing < n_codes)).all()
        ):
            raise DataError("the missing codes must be codes of their columns")

    def __repr__(self) -> str:
        """Show sizes only."""
        return f"Codes(n_samples={self.n_samples}, n_columns={self.n_columns}, n_cells={self.n_cells})"

    @property
    def n_samples(self) -> int:
        """Return the number of rows."""
        return int(self.codes.shape[0])

    @property
    def n_columns(self) -> int:
        """Return the number of columns."""
        return int(self.codes.shape[1])

    @property
    def n_cells(self) -> int:
        """Return the number of (column, code) pairs."""
        return int(self.n_codes.sum())

    def take_rows(self, index: NDArray[np.integer[Any]]) -> Codes:
        """Return the rows in the order of `index`, (n,) integers; -1 is an unknown firm: missing in every column."""
        if len(index) and not (index.min() >= -1 and index.max() < self.n_samples):
            raise DataError("a row index is out of range")
        unknown = index < 0
        if not unknown.any():
            return Codes(self.codes[index], self.n_codes, self.missing)
        if self.missing is None:
            raise DataError("these codes do not say which code is missing, so unknown firms cannot be filled in")
        padded = np.vstack([self.codes, self.missing.astype(self.codes.dtype)])
        return Codes(padded[index], self.n_codes, self.missing)  # index -1 is the row just appended
