"""Define the bins of one column: cut points of numbers, groups of levels of categories (`data/fit_bins.py` fits them).

Bins are numbered in the order of values here, missing last; `veilscore.data.codes` permutes the numbers before
anyone else learns of them. A value equal to a cut point belongs to the bin below it, when fitting and after.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from veilscore.arrays import Integers, Vector
from veilscore.data.table import Column, Kind

LEVELS_NAMED = 6  # levels of a group that its label names


@dataclass(frozen=True, repr=False)
class NumberBins:
    """Bins of a number column: (-inf, edge 0], (edge 0, edge 1], ..., (last edge, inf), special ones, missing.

    edges : ascending, distinct, finite cut points; one fewer than there are ranges.
    joined : bin that missing values count in where they have none of their own.
    special : values with a bin of their own each, in this order, in no range.
    """

    kind: ClassVar[Kind] = "number"
    edges: tuple[float, ...]
    joined: int | None = None
    special: tuple[float, ...] = ()

    @property
    def n_bins(self) -> int:
        """Return the number of bins, the missing one included."""
        return self.n_ranges + len(self.special) + (1 if self.joined is None else 0)

    @property
    def ordered(self) -> bool:
        """Say whether neighbouring bins are neighbouring values: special values have no neighbours."""
        return not self.special

    @property
    def n_ranges(self) -> int:
        """Return the number of bins that are ranges of values; they come first."""
        return len(self.edges) + 1

    @property
    def missing(self) -> int:
        """Return the number of the bin of missing values."""
        return self.n_bins - 1 if self.joined is None else self.joined

    @cached_property
    def _cuts(self) -> Vector:
        # numpy sorts NaN behind infinity, so that the search itself gives the missing bin
        return np.array([*self.edges, np.inf], dtype=np.float64)

    def apply(self, values: Vector) -> tuple[Integers, int]:
        """Return the bin of every value, (n,) int64, and the number of unseen values (none for numbers)."""
        bins = np.searchsorted(self._cuts, values, side="left").astype(np.int64, copy=False)
        if self.joined is not None or self.special:
            bins = np.where(bins > len(self.edges), self.missing, bins)
        for place, value in enumerate(self.special, start=self.n_ranges):
            bins[values == value] = place
        return bins, 0

    def labels(self) -> tuple[str, ...]:
        """Return the readable name of every bin."""
        cuts = ["-inf", *(plain(edge) for edge in self.edges), "inf"]
        ranges = [f"({low}, {high}{')' if high == 'inf' else ']'}" for low, high in pairwise(cuts)]
        return _with_missing([*ranges, *(f"= {plain(value)}" for value in self.special)], self.joined)


@dataclass(frozen=True, repr=False)
class CategoryBins:
    """Bins of a category column: groups of levels, perhaps an "other" group, missing.

    groups : levels of each bin beside the missing one.
    other : bin that takes rare and unseen levels, or None where there were no rare ones (unseen: missing).
    joined : as of `NumberBins`.
    """

    kind: ClassVar[Kind] = "category"
    groups: tuple[tuple[str, ...], ...]
    other: int | None
    joined: int | None = None
    ordered: ClassVar[bool] = False

    @property
    def n_bins(self) -> int:
        """Return the number of bins, the missing one included."""
        return len(self.groups) + (1 if self.joined is None else 0)

    @property
    def missing(self) -> int:
        """Return the number of the bin of missing values."""
        return self.n_bins - 1 if self.joined is None else self.joined

    @cached_property
    def _bin_of(self) -> dict[str | None, int]:
        found: dict[str | None, int] = {level: i for i, group in enumerate(self.groups) for level in group}
        return {**found, None: self.missing}

    def apply(self, values: Column) -> tuple[Integers, int]:
        """Return the bin of every value, (n,) int64, and the number of values whose level was not seen when fitting."""
        # a dictionary is several times faster on Python strings than numpy's comparison of fixed-width text
        looked_up = map(self._bin_of.get, values.tolist())
        bins = np.fromiter((-1 if found is None else found for found in looked_up), np.int64, len(values))
        unseen = bins < 0
        bins[unseen] = self.missing if self.other is None else self.other
        return bins, int(unseen.sum())

    def labels(self) -> tuple[str, ...]:
        """Return the readable name of every bin."""
        names = []
        for i, group in enumerate(self.groups):
            more = (f"{len(group) - LEVELS_NAMED} more",) if len(group) > LEVELS_NAMED else ()
            levels = map(_shown, group[:LEVELS_NAMED])
            names.append(" | ".join((*levels, *more, *(("other",) if i == self.other else ()))))
        return _with_missing(names, self.joined)


Bins = NumberBins | CategoryBins


def _with_missing(names: list[str], joined: int | None) -> tuple[str, ...]:
    if joined is None:
        return (*names, "missing")
    return tuple(f"{name} | missing" if i == joined else name for i, name in enumerate(names))


def _shown(level: str) -> str:
    """Return a level as labels show it: in quotes where it looks like a word of labels themselves."""
    return repr(level) if level in {"missing", "other"} or " | " in level else level


def plain(edge: float) -> str:
    """Return the shortest text of a float that reads back as the same."""
    text = repr(edge)
    return text.removesuffix(".0")


def bins_to_json(bins: Bins) -> dict[str, Any]:
    """Return bins as plain JSON values; floats survive exactly."""
    joined = {} if bins.joined is None else {"joined": bins.joined}
    if isinstance(bins, NumberBins):
        special = {"special": list(bins.special)} if bins.special else {}  # maps without any keep their hash
        return {"kind": "number", "edges": list(bins.edges), **joined, **special}
    return {"kind": "category", "groups": [list(group) for group in bins.groups], "other": bins.other, **joined}


def bins_from_json(data: dict[str, Any]) -> Bins:
    """Read bins from JSON values; anything inconsistent raises ValueError."""
    joined = data.get("joined")
    if data["kind"] == "number":
        edges = tuple(float(edge) for edge in data["edges"])
        if not np.isfinite(edges).all() or not all(a < b for a, b in pairwise(edges)):
            raise ValueError("edges are not ascending and finite")
        special = tuple(float(value) for value in data.get("special", ()))
        if not np.isfinite(special).all() or len(set(special)) < len(special):
            raise ValueError("special values are repeated or not finite")
        return _checked(NumberBins(edges, joined, special))
    if data["kind"] != "category":
        raise ValueError("kind is neither number nor category")
    groups = tuple(tuple(str(level) for level in group) for group in data["groups"])
    levels = [level for group in groups for level in group]
    other = data["other"]
    if len(set(levels)) < len(levels) or not (other is None or other in range(len(groups))):
        raise ValueError("levels are repeated, or the other group does not exist")
    return _checked(CategoryBins(groups, other, joined))


def _checked(bins: Bins) -> Bins:
    if bins.joined is not None and bins.joined not in range(bins.n_bins):
        raise ValueError("missing values join a bin that does not exist")
    return bins
