"""Grows a chain of random trees on one holder's coded columns, beside the bank's own score; the bank's plaintext side.

The bank's score p0 is a fixed offset, and the loss around it a quadratic: r = r0 - W D with r0 = w (y - p0),
W = w p0 (1 - p0) and D what the chain adds so far. A tree is a coded column of the holder times a cut of the bank, one
bit a row; its leaves are the pairs of a cell and a bit. Several trees are grown from one r. Their structure is random,
so only leaf sums of r and W are opened, noised, and of them come

    leaf weight = G / (H + 1 + sigma^2 / H), clipped; zero where H is below the noise.

Replacing a firm's record at the holder moves it from a leaf to another of the same bit, and changes its r to r': with
r^2 + W^2 <= BOUND^2 and abs(r - r') <= sqrt 2 BOUND the sums of a tree move by at most sqrt 2 BOUND (Euclidean), those
of a chain by sqrt(trees) times that. The bank keeps both for every row, whatever the holder's codes: `Reach`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from veilscore.arrays import CodeArray, Integers, Mask, Vector, Words
from veilscore.errors import ParameterError
from veilscore.kernels import kernel
from veilscore.lattice.params import SCALE_BITS, T
from veilscore.models.boosting_form import HolderColumns
from veilscore.models.chained import BankCut, ChainTree
from veilscore.models.split_search import Ranked

TREES = 300  # of a chain: more of them learn longer, each from noise that grows with their root
AT_ONCE = 15  # trees grown from one r; more of them overshoot
CUTS = 4  # of the bank, shared by the trees grown at once
LEARNING_RATE, MOST_WEIGHT = 0.12, 0.15
BOUND = 1.03  # holds back a fifth of the rows at the end of a chain, at no loss measured; above it the noise grows
_ROUNDING = 2.0**-14  # more than what rounding W D to fixed point adds up to in a chain
_ROUNDS = 2  # through all columns, before those that gained are drawn more often
_SCORE_CUTS = 0.1  # part of the cuts that are of the bank's score; those of its columns find more
_TRIES = 20


def leaves_sensitivity(n_trees: int = TREES) -> float:
    """How far one firm's record moves the leaf sums of a whole chain."""
    return math.sqrt(2.0 * n_trees) * BOUND


@dataclass(frozen=True, eq=False)
class ChainRows:
    """What the bank knows of the training rows, for the chains of all holders.

    codes : (n, d) of its own columns; own : their ranks.
    score : (n,) of its own trees, in whole units.
    residual, weight : (n,) r0 and W.
    importance : (d,) how often a column is cut, relative to others.
    """

    codes: CodeArray
    own: HolderColumns
    score: Integers
    residual: Vector
    weight: Vector
    importance: Vector


@dataclass(frozen=True, eq=False)
class ChainColumns:
    """Coded columns of one holder: (d,) cells of each, and which column of its data set each is a partition of.

    card : numbers of those that stand for a scorecard's columns; trees are drawn on the others.
    """

    n_codes: Integers
    sources: Integers
    card: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Drawn:
    """Trees that are grown at once: coded column and cut of each, and the cuts with their answers (cuts, n)."""

    columns: tuple[int, ...]
    cut_of: tuple[int, ...]
    cuts: tuple[BankCut, ...]
    bits: Mask

    @property
    def distinct(self) -> tuple[int, ...]:
        """The coded columns, each once."""
        return tuple(dict.fromkeys(self.columns))


class Reach:
    """Least and greatest W D that each row can have, as far as the bank's answers tell; keeps r within the bound."""

    def __init__(self, residual: Vector, weight: Vector) -> None:
        self._residual, self._most = residual, np.sqrt(np.maximum(BOUND**2 - weight**2, 0.0)) - _ROUNDING
        if not (np.abs(residual) <= self._most).all() or not (weight >= 0).all():
            raise ParameterError("residuals and weights of rows are not those of a probability and a weight up to 1")
        self.low, self.high = np.zeros(residual.size), np.zeros(residual.size)

    def take(self, low: Vector, high: Vector) -> Vector:
        """Add steps between `low` <= 0 and `high` >= 0 (n,); return the part of each that a row can take, 0 to 1."""
        with np.errstate(divide="ignore", invalid="ignore"):
            room = [
                (self._most - self._residual + self.low) / np.abs(low),
                (self._most + self._residual - self.high) / high,
                (math.sqrt(2.0) * BOUND - _ROUNDING - self.high + self.low) / (high - low),
            ]
        # a step of zero leaves any room, and 0 / 0 none to worry about
        part: Vector = np.clip(np.min(np.nan_to_num(room, nan=np.inf, posinf=np.inf), axis=0), 0.0, 1.0)
        self.low = self.low + part * low
        self.high = self.high + part * high
        return part


@dataclass(eq=False)
class Chain:
    """The chain of one holder while it grows.

    sigma : deviation of the noise of every leaf sum.
    draw : where the structure of trees comes from.
    """

    rows: ChainRows
    columns: ChainColumns
    sigma: float
    draw: np.random.Generator
    trees: list[ChainTree] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reach = Reach(self.rows.residual, self.rows.weight)
        self._gain = np.zeros(int(self.columns.sources.max()) + 1)
        self._count = np.zeros(self._gain.size)
        self._drawn = 0

    def next_trees(self, count: int = AT_ONCE) -> Drawn:
        """Draw the structure of the next trees."""
        cuts = tuple(self._cut() for _ in range(CUTS))
        columns = tuple(self._column() for _ in range(count))
        cut_of = tuple(k % CUTS for k in range(count))
        bits = np.stack([cut.answers(self.rows.codes, self.rows.score) for cut in cuts])
        return Drawn(columns, cut_of, cuts, bits)

    def _column(self) -> int:
        d = self._gain.size
        if self._drawn < _ROUNDS * d:
            source = self._drawn % d
        else:
            mean = np.sqrt(np.maximum(self._gain / np.maximum(self._count, 1), 0.0))
            chance = 0.5 / d + 0.5 * (mean / mean.sum() if mean.sum() > 0 else np.full(d, 1 / d))
            source = int(self.draw.choice(d, p=chance / chance.sum()))
        self._drawn += 1
        parts = np.flatnonzero(self.columns.sources == source)
        of_trees = np.setdiff1d(parts, self.columns.card)
        return int(self.draw.choice(of_trees if of_trees.size else parts))

    def _cut(self) -> BankCut:
        """Draw a cut that splits the rows, if there is one."""
        rows = self.rows
        cut = BankCut(column=-1, most=int(rows.score.max()))
        for _ in range(_TRIES):
            if rows.importance.sum() == 0 or self.draw.random() < _SCORE_CUTS:
                cut = BankCut(column=-1, most=int(self.draw.choice(rows.score)))
            else:
                column = int(self.draw.choice(rows.importance.size, p=rows.importance / rows.importance.sum()))
                cut = BankCut(column=column, codes=self._first_codes(column, rows.own.ranked))
            answers = cut.answers(rows.codes, rows.score)
            if answers.any() and not answers.all():
                break
        return cut

    def _first_codes(self, column: int, ranked: Ranked) -> tuple[int, ...]:
        """Return the codes up to that of a random row in the order of their values; missing ones on a random side."""
        last = int(ranked.n_codes[column]) - 1
        code = int(self.draw.choice(self.rows.codes[:, column]))
        order = [self.rows.own.unrank(column, (rank,))[0] for rank in range(last + 1)]
        place = order.index(code)
        if not ranked.missing[column]:
            return tuple(order[: place + 1])
        values = order[: min(place, last - 1) + 1]
        return (*values, order[last]) if self.draw.random() < 0.5 else tuple(values)

    def begin(self, effects: Sequence[Vector], weights: Sequence[Vector]) -> Steps:
        """Begin with a scorecard: a tree a column of `card` with its effect in each cell, whatever the bank's cut says.

        effects, weights : of each such column (cells,), log-odds and sums of W.
        """
        cut = BankCut(column=-1, most=int(self.rows.score.max()))
        card = self.columns.card
        drawn = Drawn(card, (0,) * len(card), (cut,), np.ones((1, self.rows.score.size), bool))
        grown = [
            ChainTree(
                column=column,
                cut=cut,
                weights=(effect.tolist(), effect.tolist()),
                covers=((weight / 2).tolist(), (weight / 2).tolist()),
                gain=float(weight @ effect**2),
            )
            for column, effect, weight in zip(card, effects, weights, strict=True)
        ]
        self.trees += grown
        return Steps.of(drawn, grown, self.rows.weight, self._reach)

    def grow(self, drawn: Drawn, sums: Sequence[Vector]) -> Steps:
        """Make trees of their noised leaf sums, and say how they move each row.

        sums : of each tree (2, 2, cells): of r, then of W; by the answer no, then yes.
        """
        grown = [self._tree(drawn, k, part) for k, part in enumerate(sums)]
        self.trees += grown
        return Steps.of(drawn, grown, self.rows.weight, self._reach)

    def _tree(self, drawn: Drawn, k: int, sums: Vector) -> ChainTree:
        noise, (residual, weight) = self.sigma**2, sums
        floor = np.maximum(weight, max(0.5 * self.sigma, 1.0))
        found = np.clip(residual / (floor + 1 + noise / floor), -MOST_WEIGHT, MOST_WEIGHT)
        used = weight >= self.sigma
        gain = float((used * (residual**2 - noise - floor) / (floor + noise / floor)).sum())
        column = drawn.columns[k]
        self._gain[self.columns.sources[column]] += gain
        self._count[self.columns.sources[column]] += 1
        return ChainTree(
            column=column,
            cut=drawn.cuts[drawn.cut_of[k]],
            weights=np.where(used, LEARNING_RATE * found, 0.0).tolist(),
            covers=np.maximum(weight, 0.0).tolist(),
            gain=gain,
        )


@dataclass(frozen=True, eq=False)
class Steps:
    """How new trees move W D of each row, in fixed point as shares have it.

    columns : coded columns, each once.
    tables : of each, the log-odds (2**CUTS, cells) by the pattern of answers.
    pattern : (n,) answers of each row as a number, the first cut lowest.
    weight : (n,) W, times the part of the step that the row takes.
    """

    columns: tuple[int, ...]
    tables: tuple[Vector, ...]
    pattern: Integers
    weight: Vector

    @classmethod
    def of(cls, drawn: Drawn, grown: Sequence[ChainTree], weight: Vector, reach: Reach) -> Steps:
        """Add up the trees of each column, and keep every row within reach."""
        patterns = np.arange(1 << len(drawn.cuts))
        tables: dict[int, Vector] = {}
        for tree, cut in zip(grown, drawn.cut_of, strict=True):
            table = np.array(tree.weights)[(patterns >> cut) & 1]
            tables[tree.column] = tables.get(tree.column, 0.0) + table
        low = np.minimum(0.0, sum(table.min(axis=1) for table in tables.values()))
        high = np.maximum(0.0, sum(table.max(axis=1) for table in tables.values()))
        pattern = (drawn.bits.T.astype(np.int64) << np.arange(len(drawn.cuts))).sum(axis=1)
        part = reach.take(weight * low[pattern], weight * high[pattern])
        return cls(tuple(tables), tuple(tables.values()), pattern, weight * part)

    def of_column(self, place: int) -> tuple[Integers, Integers]:
        """Return what the last cell of a column adds (n,), and what each other adds beyond it (cells - 1, n)."""
        table = np.ldexp(self.tables[place], SCALE_BITS)
        whole = np.rint(self.weight * table.T[:, self.pattern]).astype(np.int64)
        return whole[-1], whole[:-1] - whole[-1]

    def in_ring(self, place: int) -> Words:
        """Return the same as shares have it (cells, n): first what the last cell adds, then the others beyond it."""
        table = np.ldexp(self.tables[place].T, SCALE_BITS).copy()
        out = np.empty((table.shape[0], self.pattern.size), np.uint64)
        _steps_in_ring(self.weight, self.pattern, table, out)
        return out

    def taken(self, codes: CodeArray) -> Integers:
        """Return the step of rows whose codes (n, d) are known, (n,): the oracle of the protocol."""
        total = np.zeros(self.pattern.size, np.int64)
        for place, column in enumerate(self.columns):
            last, others = self.of_column(place)
            cells = np.concatenate([others, np.zeros((1, last.size), np.int64)])
            total += last + np.take_along_axis(cells, codes[None, :, column].astype(np.int64), axis=0)[0]
        return total


@kernel("(f8[::1], i8[::1], f8[:,::1], u8[:,::1])")
def _steps_in_ring(weight: Vector, pattern: Integers, table: Vector, out: Words) -> None:
    """Write W D of a column's cells (cells, n) modulo T, from its table (cells, patterns), all at once for each row."""
    last = table.shape[0] - 1
    for i in range(pattern.size):
        base = np.int64(np.rint(weight[i] * table[last, pattern[i]]))
        out[0, i] = np.uint64(base if base >= 0 else base + T)
        for cell in range(last):
            beyond = np.int64(np.rint(weight[i] * table[cell, pattern[i]])) - base
            out[1 + cell, i] = np.uint64(beyond if beyond >= 0 else beyond + T)


def plain_chain(
    chain: Chain, codes: CodeArray, n_trees: int, draw: np.random.Generator | None = None, begun: Steps | None = None
) -> Integers:
    """Grow a chain on codes (n, d) in the clear, noised from `draw`; return W D (n,): the oracle of the protocol."""
    rows, moved = chain.rows, np.zeros(codes.shape[0], np.int64) if begun is None else begun.taken(codes)
    for _ in range(n_trees // AT_ONCE):
        drawn = chain.next_trees()
        residual = rows.residual - np.ldexp(moved, -SCALE_BITS)
        sums = list(_plain_sums(drawn, codes, chain.columns.n_codes, residual, rows.weight))
        noised = [part + draw.normal(0, chain.sigma, part.shape) for part in sums] if draw is not None else sums
        moved += chain.grow(drawn, noised).taken(codes)
    return moved


def _plain_sums(
    drawn: Drawn, codes: CodeArray, n_codes: Integers, residual: Vector, weight: Vector
) -> Iterator[Vector]:
    for column, cut in zip(drawn.columns, drawn.cut_of, strict=True):
        cells = int(n_codes[column])
        leaf = drawn.bits[cut] * cells + codes[:, column].astype(np.int64)
        both = [np.bincount(leaf, v, 2 * cells).reshape(2, cells) for v in (residual, weight)]
        yield np.stack(both)
