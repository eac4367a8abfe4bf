"""Bound in bits how much opened sums may tell about one holder's codes, and refuse what goes beyond.

Source: capacity of the Gaussian channel. A sum over a cell of m rows with independent noise of deviation s tells at
    most log2(1 + P / s^2) / 2 bits of which rows are in it, P the variance of the sum over that choice: at most
    m (1 - 1/k) v for a column of k cells, v the mean square of one row's value (1/4 for g, 1/16 for h). Nodes of one
    opening are disjoint, so with K cells of a column in all, K log2(1 + n v / (K s^2)) / 2 bounds them together.
The budget is a share of rows times columns: sum over columns of n log2(codes), what the codes themselves hold.
It is an upper bound of what is told, not a measure of what an attack gets; docs/protocols/boosting.md has both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from veilscore.errors import RefusedError

MEAN_SQUARE = (0.25, 0.0625)  # of g and h in one row of weight 1
H_NOISE = 0.25  # noise of h in units of that of g: h of a row is at most 1/4


@dataclass
class Accountant:
    """Counts the bits told so far about one holder's codes; both parties keep the same count.

    n_codes : codes of each of the holder's columns.
    noise_rows : deviation of the noise of g, in rows; 0 counts every opened sum at its full precision.
    max_weight : largest weight of a row.
    share : of rows times columns that may be told; None never refuses (and says so in the report).
    spent, n_sums : bits told and sums opened in earlier attempts.
    """

    n_rows: int
    n_codes: tuple[int, ...]
    noise_rows: float
    max_weight: float
    share: float | None
    spent: float = 0.0
    n_sums: int = 0

    @property
    def whole(self) -> float:
        """Return the bits that the codes themselves hold."""
        return self.n_rows * sum(math.log2(max(k, 1)) for k in self.n_codes)

    @property
    def budget(self) -> float:
        """Return the bits that may be told."""
        return math.inf if self.share is None else self.share * self.whole

    def cost(self, cells: Iterable[int]) -> float:
        """Return the bits of one opening, by the opened cells of each column (either side's) over all its nodes."""
        total = 0.0
        for k in cells:
            for square, unit in zip(MEAN_SQUARE, (1.0, H_NOISE), strict=True):
                sd = self.noise_rows * unit or 2.0**-20  # without noise: below the rounding of exact sums
                signal = self.n_rows * square * self.max_weight**2 / (k * sd * sd)
                total += k * math.log2(1.0 + signal) / 2.0
        return total

    def allows(self, cells: Iterable[int]) -> bool:
        """Say whether an opening still fits the budget."""
        return self.spent + self.cost(cells) <= self.budget

    def charge(self, cells: Iterable[int]) -> None:
        """Count an opening, or raise RefusedError where it does not fit."""
        opened = list(cells)
        cost = self.cost(opened)
        if self.spent + cost > self.budget:
            raise RefusedError(
                f"opened sums would tell {self.spent + cost:.0f} bits, the budget is {self.budget:.0f}: use fewer "
                "trees, bins or columns, more noise, or ask the holder for a larger share"
            )
        self.spent += cost
        self.n_sums += sum(opened)
