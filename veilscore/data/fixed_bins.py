"""Bins of a data set that its owner fixes once, on its whole table, before any job: edges, levels, numbers of codes.

Bins that follow a job's rows tell of those rows, and a bank that chooses the rows moves them at will. These follow a
version of the owner's table alone, and from noised counts, so that they are charged once to whoever uses them.

A number column is counted on a grid that is the same for every column in the world: the leading 20 bits of a 32-bit
float in the order of values. Cells that hold many rows are divided further, 16 ways at a time, five times at most, so
one row is in five counts; replacing a firm's record moves ten of them by one. A category column is counted by level;
a level whose noised count is small joins the others, so that nobody sees whether a rare one is there at all. Only the
chosen edges' and levels' numbers and order ever leave, as numbers of codes; what they are stays with the owner.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from veilscore.arrays import Integers, Vector
from veilscore.data.codes import CodeMap, ColumnMap, fits_kind, permutation_of
from veilscore.data.column_bins import Bins, CategoryBins, NumberBins
from veilscore.data.fit_bins import BinSizes
from veilscore.data.table import Column, Kind, Table
from veilscore.errors import DataError, SchemaError
from veilscore.lattice.gaussian import discrete_gaussian
from veilscore.terms.settings import parse_json
from veilscore.wire.randomness import secret_generator

VERSION = 1
_MOST_ROWS = 1 << 40  # beyond any table; what a damaged file says is held against it
MU = 0.15  # of one version, all its columns together: at even odds a guess from bins alone is right 53 % of the time
LEVELS, DIGIT_BITS = 5, 4  # of the grid: 20 bits of a float
FINEST = 64  # no cell of fewer rows than this part of the table is divided
RARE = 0.005  # levels of a smaller share of the table join the others
_LEVELS_MOVED = 3  # counts of a category column: the old level, the new one, and the rest if one alone is kept
_CERTAIN = 6.0  # deviations above which a noised count is not noise alone


@dataclass(frozen=True, repr=False)
class Cells:
    """Noised counts of one column's cells in the order of values, special ones after them, missing values last.

    cuts : of a number column, the upper ends of all cells but the last.
    levels : of a category column, one a cell; the rest's cell, then that of missing values, come last.
    special : values of a number column with a cell each, or levels that stand alone however rare they are.
    """

    kind: Kind
    counts: Integers
    cuts: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    special: tuple[float | str, ...] = ()


@dataclass(frozen=True, repr=False)
class FixedBins:
    """A version of a data set's bins; secret but for what `code_map` says of numbers of codes.

    columns : by name.
    n_rows : rows of the table that they were made of, noised.
    sigma : deviation of the noise of every count.
    mu2 : what a bank is charged for that uses them.
    made : day on which they were made, ISO.
    """

    columns: Mapping[str, Cells]
    n_rows: int
    sigma: float
    mu2: float
    made: str

    @classmethod
    def make(cls, table: Table, made: str, mu: float = MU) -> FixedBins:
        """Count the owner's whole table and add noise; DataError if it has no rows."""
        if not table.n_rows:
            raise DataError(f"{table.source} has no rows to fix bins on")
        kinds = table.kinds
        moved = 1 + sum(2 * LEVELS if kind == "number" else _LEVELS_MOVED for kind in kinds.values())
        sigma = math.sqrt(moved) / mu
        n_rows = max(1, table.n_rows + int(discrete_gaussian(sigma, 1)[0]))  # an unknown firm changes the number
        columns = {
            name: (_number_cells if kinds[name] == "number" else _level_cells)(
                values, sigma, n_rows, tuple(table.special.get(name, ()))
            )
            for name, values in table.columns.items()
        }
        return cls(columns, n_rows, sigma, mu * mu, made)

    @property
    def hash(self) -> str:
        """Name of the version: SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(self._body(), sort_keys=True).encode()).hexdigest()

    @property
    def least(self) -> float:
        """Noised count below which a cell may as well be empty, or is too rare to stand alone."""
        return max(_CERTAIN * self.sigma, RARE * self.n_rows, 1.0)

    def code_map(
        self, table: Table, max_bin: int, *, ordered: bool = False, generator: np.random.Generator | None = None
    ) -> CodeMap:
        """Merge cells into at most `max_bin` bins a column of about as many rows each, by the noised counts alone.

        ordered : codes of number columns keep the order of their bins, up to a secret flip.
        Columns of `table` that the version does not know, or knows with other special values, are left out. SchemaError
        where one holds values of another kind: a column that came and went with one firm's odd cell would tell the bank
        of that firm.
        """
        generator = generator or secret_generator()
        sizes = BinSizes(max_bin, 0.0, 1)
        columns, dropped = [], {}
        kinds = dict(table.kinds)
        for name, values in table.columns.items():
            cells = self.columns.get(name)
            if cells is None or set(cells.special) != set(table.special.get(name, ())):
                dropped[name] = "not in this version of the bins; make a new one (veilscore dataset bins)"
                continue
            if not fits_kind(values, cells.kind):
                raise SchemaError(
                    f"column {name!r} of {table.source} was a {cells.kind} when its bins were fixed and is a "
                    f"{kinds[name]} now; correct its odd cells, or fix new bins (veilscore dataset bins)"
                )
            kinds[name] = cells.kind
            bins, counts = self._merged(cells, max_bin)
            if bins is None:
                dropped[name] = "one value only, or nearly"
                continue
            columns.append(ColumnMap(name, bins, permutation_of(bins, generator, ordered=ordered), counts))
        if not columns:
            raise DataError(
                f"no column of {table.source} has more than one bin: counts of bins are noised, here by about "
                f"{self.sigma:.0f} firms, as {len(self.columns)} columns share what bins may tell of a firm; keep "
                "fewer columns in the data set (`exclude` in node.yaml, or a smaller catalogue) or have more firms, "
                "and make new bins (veilscore dataset bins)"
            )
        return CodeMap(tuple(columns), dropped, kinds, ordered=ordered, sizes=sizes)

    def merged_edges(self, name: str, max_bin: int) -> tuple[float, ...]:
        """Return the edges of at most `max_bin` bins of a number column; none where nearly all rows are in one bin."""
        bins, _ = self._merged(self.columns[name], max_bin)
        return bins.edges if isinstance(bins, NumberBins) else ()

    def _merged(self, cells: Cells, max_bin: int) -> tuple[Bins | None, Integers]:
        least = self.least
        if cells.kind == "category":
            return _merge_levels(cells, max_bin, least)
        n_cells = len(cells.cuts) + 1
        present, special = np.maximum(cells.counts[:n_cells], 0), np.maximum(cells.counts[n_cells:-1], 0).tolist()
        max_bin = max(2, max_bin - len(special))
        total = int(present.sum())
        ends, done, held = [], 0, np.cumsum(present)
        for left in range(max_bin, 1, -1):  # the next bin takes an equal part of what the ones before left
            goal = done + max((total - done) / left, least)
            end = int(np.searchsorted(held, goal, side="left"))
            if end >= present.size - 1 or total - int(held[end]) < least:
                break
            ends.append(end)
            done = int(held[end])
        missing = int(cells.counts[-1])
        if not ends and sum(count >= least for count in (total, *special, missing)) < 2:
            return None, np.zeros(0, np.int64)
        bounds = [-1, *ends, present.size - 1]
        counts = [int(present[a + 1 : b + 1].sum()) for a, b in pairwise(bounds)]
        bins = NumberBins(tuple(cells.cuts[end] for end in ends), special=tuple(map(float, cells.special)))
        return bins, np.array([*counts, *special, max(0, missing)], np.int64)

    def to_json(self) -> str:
        """Write the version as JSON; for the owner's store and backup."""
        return json.dumps({**self._body(), "hash": self.hash})

    def _body(self) -> dict[str, Any]:
        columns = {
            name: {"kind": c.kind, "counts": c.counts.tolist(), "cuts": list(c.cuts), "levels": list(c.levels)}
            | ({"special": list(c.special)} if c.special else {})  # versions without any keep their hash
            for name, c in self.columns.items()
        }
        return {
            "version": VERSION,
            "columns": columns,
            "n_rows": self.n_rows,
            "sigma": self.sigma,
            "mu2": self.mu2,
            "made": self.made,
        }

    @classmethod
    def from_json(cls, text: str) -> FixedBins:
        """Read a version back; SchemaError if it is damaged."""
        try:
            body = parse_json(text)
            columns = {str(name): _cells_from_json(column) for name, column in body["columns"].items()}
            found = cls(columns, int(body["n_rows"]), float(body["sigma"]), float(body["mu2"]), str(body["made"]))
            whole = body["version"] == VERSION and found.hash == body["hash"]
            whole &= 0 < found.n_rows <= _MOST_ROWS and 0 < found.sigma < math.inf and 0 < found.mu2 < math.inf
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            whole = False
        if not whole:
            raise SchemaError("the fixed bins are damaged; restore them from backup, or make a new version")
        return found


def _cells_from_json(data: dict[str, Any]) -> Cells:
    """Read one column; ValueError where its cells do not belong together."""
    counts, cuts, levels = np.array(data["counts"], np.int64), tuple(data["cuts"]), tuple(data["levels"])
    number, special = data["kind"] == "number", tuple(data.get("special", ()))
    n_cells = len(cuts) + len(special) if number else len(levels)
    good = data["kind"] in {"number", "category"} and counts.shape == (n_cells + 2,)
    good &= len(set(special)) == len(special) and (number or set(special) <= set(levels))
    good &= bool((np.abs(counts) <= 2 * _MOST_ROWS).all())
    good &= not (levels if number else cuts) and len(set(levels)) == len(levels)
    good &= all(isinstance(one, float if number else str) for one in (*cuts, *levels, *special))
    if not good or not all(a < b for a, b in pairwise(cuts)):
        raise ValueError("the cells of a column do not belong together")
    return Cells(data["kind"], counts, cuts, levels, special)


def _grid(values: Vector) -> Integers:
    """Leading 20 bits of finite or infinite numbers as 32-bit floats, in the order of values."""
    with np.errstate(over="ignore"):
        bits = (values.astype(np.float32) + np.float32(0.0)).view(np.int32).astype(np.int64)
    ordered = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits) + (1 << 31)
    return ordered >> (32 - LEVELS * DIGIT_BITS)


def _upper_end(cell: int, bits_below: int) -> float:
    """Largest 32-bit float of a cell of the grid whose number lacks the last `bits_below` bits."""
    whole = ((cell + 1) << (bits_below + 32 - LEVELS * DIGIT_BITS)) - 1 - (1 << 31)
    pattern = whole if whole >= 0 else -whole | 0x80000000
    return float(np.array([pattern], np.uint32).view(np.float32)[0])


def _parts_of(whole: float, noised: Integers) -> Vector:
    """Return what is nearest to noised counts, not negative, and adds up to their whole, which is known better.

    Without it the noise of the many empty cells, cut off at zero, would look like rows.
    """
    ranked = np.sort(noised)[::-1].astype(np.float64)
    excess = (np.cumsum(ranked) - max(whole, 0.0)) / np.arange(1, ranked.size + 1)
    used = np.flatnonzero(ranked > excess)
    parts: Vector = np.maximum(noised - excess[used[-1] if used.size else 0], 0.0)
    return parts


def _number_cells(values: Vector, sigma: float, n_rows: int, special: tuple[float | str, ...] = ()) -> Cells:
    missing_rows = np.isnan(values)
    apart = [int((values == value).sum()) for value in special]
    present = ~(missing_rows | np.isin(values, [float(value) for value in special]))
    points = _grid(values[present])
    heavy = max(n_rows / FINEST, _CERTAIN * sigma)
    parents, wholes, cells, rest = np.zeros(1, np.int64), [float(n_rows)], [], np.zeros(0)
    for level in range(1, LEVELS + 1):
        below, fan = (LEVELS - level) * DIGIT_BITS, 1 << DIGIT_BITS
        at = points >> below
        children = (parents[:, None] * fan + np.arange(fan)).ravel()
        place = np.minimum(np.searchsorted(children, at), children.size - 1)
        counts = np.bincount(place[children[place] == at], minlength=children.size)
        noised = (counts + discrete_gaussian(sigma, children.size)).reshape(-1, fan)
        if level == 1:
            others = np.array([*apart, int(missing_rows.sum())], np.int64)
            first = _parts_of(wholes[0], np.append(noised[0], others + discrete_gaussian(sigma, others.size)))
            parts, rest = first[:fan], first[fan:]
        else:
            parts = np.concatenate([_parts_of(whole, row) for whole, row in zip(wholes, noised, strict=True)])
        divide = (parts > heavy) & (level < LEVELS)
        for cell, part in zip(children[~divide].tolist(), parts[~divide].tolist(), strict=True):
            cells.append((cell << below, _upper_end(cell, below), part))
        parents, wholes = children[divide], parts[divide].tolist()
        if not wholes:
            break
    cells.sort()
    counts = np.rint([*(part for _, _, part in cells), *rest]).astype(np.int64)
    return Cells("number", counts, cuts=tuple(end for _, end, _ in cells[:-1]), special=special)


def _level_cells(values: Column, sigma: float, n_rows: int, special: tuple[float | str, ...] = ()) -> Cells:
    counted = Counter(values.tolist())
    missing = counted.pop(None, 0)
    least = max(_CERTAIN * sigma, RARE * n_rows) + 1
    levels = sorted({*counted, *map(str, special)})
    noised = np.array([counted[level] for level in levels], np.int64)
    noised = noised + discrete_gaussian(sigma, noised.size) if levels else noised
    kept = [
        (level, int(count)) for level, count in zip(levels, noised, strict=True) if count >= least or level in special
    ]
    rest = sum(counted.values()) - sum(counted[level] for level, _ in kept)
    ends = np.array([rest, missing], np.int64) + discrete_gaussian(sigma, 2)
    counts = np.concatenate([np.array([count for _, count in kept], np.int64), np.maximum(ends, 0)])
    return Cells("category", counts, levels=tuple(level for level, _ in kept), special=special)


def _merge_levels(cells: Cells, max_bin: int, least: float) -> tuple[Bins | None, Integers]:
    """Give each of the most frequent levels a bin of its own; the others share one."""
    order = sorted(range(len(cells.levels)), key=lambda i: -int(cells.counts[i]))
    rest, missing = int(cells.counts[-2]), int(cells.counts[-1])
    apart = [i for i in order if cells.levels[i] in cells.special]
    kept = [i for i in order if cells.counts[i] >= least and i not in apart][: max(1, max_bin - 1 - len(apart))] + apart
    joined = [i for i in order if i not in kept]
    rest += sum(int(cells.counts[i]) for i in joined)
    groups: list[tuple[str, ...]] = [(cells.levels[i],) for i in kept]
    counts = [max(0, int(cells.counts[i])) for i in kept]
    big = [count >= least for count in (*counts, rest, missing)]
    if sum(big) < 2:
        return None, np.zeros(0, np.int64)
    groups.append(tuple(cells.levels[i] for i in joined))
    return CategoryBins(tuple(groups), len(groups) - 1), np.array([*counts, max(0, rest), max(0, missing)], np.int64)
