"""Define what bank and holder bring to a stack, and what the bank may ask of the shares (`protocols.stacking`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import CodeArray, Integers, Mask, Vector, Words
from veilscore.errors import ParameterError
from veilscore.lattice.params import T
from veilscore.models.counts import offsets, row_sums
from veilscore.models.logistic_problem import LEAD_EXTRA_BITS
from veilscore.models.trees import Tree, leaf_range

MARGIN_BITS = 12  # fraction bits of a shared margin


OPEN_BITS = 14  # fraction bits of an opened gradient component
SPLITS_AT_ONCE = 64  # vectors of one product


MIN_TABLE_BITS, MAX_TABLE_BITS = 18, 35


@dataclass(frozen=True)
class CellsColumn:
    """Bank: out-of-fold margins of a scorecard.

    theta : party -> (k, cells) log-odds of each cell in each fold's fit.
    intercept : (k,).
    """

    theta: dict[str, Vector]
    intercept: Vector


@dataclass(frozen=True)
class TreesColumn:
    """Bank: out-of-fold margins of boosting: kept trees and log-odds before the first, fold by fold."""

    trees: tuple[tuple[Tree, ...], ...]
    base: Vector


@dataclass(frozen=True)
class ClearColumn:
    """Bank: margins that need no holder, (n,) log-odds."""

    values: Vector


StackColumn = CellsColumn | TreesColumn | ClearColumn


@dataclass(frozen=True)
class BankStack:
    """All that the bank brings to a stack.

    codes, n_codes : (n, d) codes of the training rows and (d,); d may be 0.
    holder_n_codes : per holder (d,).
    fold : (n,) number of each row's fold; its margins come from the models that did not train on it.
    columns : the level-one models.
    target, weight : (n,) labels in {0, 1} and positive weights of mean 1.
    """

    codes: CodeArray
    n_codes: Integers
    holder_n_codes: dict[str, Integers]
    fold: Integers
    columns: tuple[StackColumn, ...]
    target: NDArray[np.int8]
    weight: Vector

    @cached_property
    def bounds(self) -> tuple[Vector, Vector]:
        """Return the least and greatest margin of each row in each column, as the bank knows it: (n, columns) each."""
        return _bounds(self)


@dataclass(frozen=True)
class HolderStack:
    """All that a holder brings: per column "cells", "clear" or its own part of each fold's trees."""

    codes: CodeArray
    n_codes: Integers
    fold: Integers
    columns: tuple[str | tuple[tuple[Tree, ...], ...], ...]


@dataclass(frozen=True)
class Moments:
    """Asks for the sums over rows of x_j x_k, j <= k, and of x_j: answered by ((M, M), (M,))."""

    columns: tuple[int, ...]


@dataclass(frozen=True)
class Gradient:
    """Asks for sum_i w_i (p_i - y_i) (x_i, 1): answered by (M + 1,).

    weight : (n,) weights of the rows, zero for rows left out; secret to the bank, as are `beta` and `intercept`.
    radius : range of the series, one of `loss.BOUNDS`, beyond every |eta|.
    """

    columns: tuple[int, ...]
    beta: Vector
    intercept: float
    radius: float
    weight: Vector


@dataclass(frozen=True)
class Losses:
    """Asks for the logistic loss of each fold, not weighted: answered by (k,).

    beta, intercept : (k, M) and (k,), those that a fold's rows are measured with.
    """

    columns: tuple[int, ...]
    beta: Vector
    intercept: Vector
    radius: float


@dataclass(frozen=True)
class OpenScores:
    """Asks for each row's log-odds, rounded to 2**-SCORE_BITS; parameters as in `Losses`: answered by (n,)."""

    columns: tuple[int, ...]
    beta: Vector
    intercept: Vector


StackRequest = Moments | Gradient | Losses | OpenScores


@dataclass(frozen=True)
class StackLimits:
    """How many requests of each kind a holder answers at most, from the job."""

    moments: int
    gradients: int
    losses: int
    scores: int = 0


def table_bits(n_samples: int, reach_bits: int) -> tuple[int, int]:
    """Return the fraction bits of the bank's and the lead's tables, such that no inner product can wrap the share ring.

    Raises ParameterError where there are too many rows for the ring.
    """
    room = math.floor(math.log2(T / 2) - math.log2(max(n_samples, 2))) - reach_bits - MARGIN_BITS
    if room < MIN_TABLE_BITS:
        raise ParameterError(f"{n_samples} training rows do not fit the share ring: stack on a sample of them")
    bits = min(MAX_TABLE_BITS, room)
    bank = (bits - LEAD_EXTRA_BITS + 1) // 2
    return bank, bits - bank


def _bounds(data: BankStack) -> tuple[Vector, Vector]:
    """Return the least and greatest margin of each row in each column, from what the bank knows: (n, columns) each."""
    low = np.zeros((data.target.size, len(data.columns)))
    high = np.zeros_like(low)
    for c, column in enumerate(data.columns):
        if isinstance(column, ClearColumn):
            low[:, c] = high[:, c] = column.values
            continue
        for f in range(int(data.fold.max()) + 1):
            rows = data.fold == f
            low[rows, c], high[rows, c] = _fold_bounds(data, column, f, rows)
    return low, high


def _fold_bounds(data: BankStack, column: CellsColumn | TreesColumn, f: int, rows: Mask) -> tuple[Vector, Vector]:
    codes = data.codes[rows]
    if isinstance(column, TreesColumn):
        pairs = [leaf_range(tree, codes, data.n_codes) for tree in column.trees[f]]
        zero = np.full(int(rows.sum()), float(column.base[f]))
        return zero + sum(low for low, _ in pairs), zero + sum(high for _, high in pairs)
    mine = float(column.intercept[f]) + own_cells(data, column, f, codes)
    low, high = mine.copy(), mine.copy()
    for holder, n_codes in data.holder_n_codes.items():
        at = offsets(n_codes)[:-1]
        theta = column.theta[holder][f]
        low += np.minimum.reduceat(theta, at).sum()
        high += np.maximum.reduceat(theta, at).sum()
    return low, high


def own_cells(data: BankStack, column: CellsColumn, f: int, codes: CodeArray) -> Vector:
    """Return the bank's own part of a scorecard's margins in fold f, as quantised as it is shared: (n,)."""
    (bank,) = set(column.theta) - set(data.holder_n_codes)
    units = np.rint(np.ldexp(column.theta[bank][f], MARGIN_BITS)).astype(np.int64)
    return np.ldexp(row_sums(codes, data.n_codes, units).astype(np.float64), -MARGIN_BITS)


def product_groups(trees: Sequence[Tree]) -> Iterator[list[Tree]]:
    """Yield the trees that have a split of the holder, in groups that one product takes."""
    group, size = list[Tree](), 0
    for tree in trees:
        count = len(tree.holder_splits)
        if group and size + count > SPLITS_AT_ONCE:
            yield group
            group, size = [], 0
        if count:
            group.append(tree)
            size += count
    if group:
        yield group


def leaf_units(tree: Tree) -> Integers:
    """Return the leaf weights of a tree in the units of a shared margin."""
    units: Integers = np.rint(np.ldexp(np.array(tree.weights), MARGIN_BITS)).astype(np.int64)
    return units


def of_own_fold(found: Words, fold: Integers, n_columns: int) -> Words:
    """Take values (columns * k, n), by column and fold, to those of each row's own fold: (columns, n)."""
    picked: Words = np.take_along_axis(found.reshape(n_columns, -1, fold.size), fold[None, None, :], axis=1)[:, 0]
    return picked
