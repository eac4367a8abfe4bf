"""A hand-written model: points that a bank writes for bins of columns, its own and those that holders publish.

The job carries all of it, so every party that accepts the job has read it. Points are money, the logarithm of money or
plain points; they add up within a model, and a decision takes the least over several. For example, for a limit of a
firm that has patents instead of bricks: `patents: {edges: [0, 2, 9], points: [0, 500000, 2000000, 7500000]}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator

from veilscore.terms.decision import LARGEST, MOST_UNITS, Finite
from veilscore.terms.parameters import ColumnName, Name, Parameters, refuse_strangers
from veilscore.terms.settings import Strict

MOST_EDGES, MOST_LEVELS, MOST_COLUMNS = 62, 62, 64  # a column has at most 64 codes, as where a job bins columns
DECIMALS = range(-6, 4)  # of points in a unit: from 0.001 to a million
_TOLERANCE = 1e-6  # of a unit, for quotients of decimal fractions


def _no_truth(levels: Any) -> Any:
    for level in levels if isinstance(levels, dict) else ():
        if not isinstance(level, str):
            raise ValueError(f"YAML reads the level {level!r} as no word; quote it")  # noqa: TRY004 - pydantic wants ValueError
    return levels


class WrittenColumn(Strict):
    """Points of one column: by ranges of numbers, or by levels of a category."""

    edges: tuple[Finite, ...] = Field(
        default=(), description="of a number column: where ranges end, ascending; a value at an edge is below it"
    )
    points: tuple[Finite, ...] = Field(
        default=(), description="of a number column: up to the first edge, then of each range, then above the last edge"
    )
    levels: Annotated[dict[str, Finite], BeforeValidator(_no_truth)] = Field(
        default_factory=dict, description="of a category column: points of each level"
    )
    other: Finite = Field(default=0.0, description="of a category column: points of all other levels")
    missing: Finite = Field(default=0.0, description="points of a missing or special value, and of an unknown firm")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.edges) == bool(self.levels):
            raise ValueError("give edges and points of a number column, or levels of a category column")
        if self.edges and len(self.points) != len(self.edges) + 1:
            ranges = len(self.edges) + 1
            raise ValueError(f"{len(self.edges)} edges make {ranges} ranges, and there are {len(self.points)} points")
        if self.levels and (self.points or not all(level.strip() for level in self.levels)):
            raise ValueError("points of a category column stand at its levels, none of which is empty")
        if len(self.levels) > MOST_LEVELS or len(self.edges) > MOST_EDGES:
            raise ValueError(f"a column has at most {MOST_EDGES} edges or {MOST_LEVELS} levels")
        for before, after in pairwise(self.edges):
            if after <= before:
                raise ValueError(f"edges are not ascending: {after:g} comes after {before:g}")
        return self

    @property
    def all_points(self) -> tuple[float, ...]:
        """Return the points of each bin: of ranges, or of levels by name and then all others, and of missing values."""
        by_level = (*(points for _, points in sorted(self.levels.items())), self.other) if self.levels else ()
        return (*self.points, *by_level, self.missing)


class WriteModel(Parameters):
    """Files a hand-written model at all parties: step write."""

    task: ClassVar[str] = "write_model"
    unit: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="points are whole multiples of it, a power of ten; for money such as 1000",
    )
    base: Finite = Field(default=0.0, description="points that every firm has")
    columns: dict[Name, dict[ColumnName, WrittenColumn]] = Field(
        min_length=1, description="party: column: points of its bins; edges and levels of holders as they publish them"
    )

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the one step."""
        return ("write",)

    @property
    def makes_model(self) -> bool:
        """Return that the model is filed as trained ones are."""
        return True

    @property
    def decimals(self) -> int:
        """Return the decimals of points: -3 where the unit is 1000."""
        return -round(math.log10(self.unit))

    def units(self, points: float) -> int:
        """Return points as a number of units."""
        return round(points / self.unit)

    @property
    def extremes(self) -> tuple[int, int]:
        """Return the lowest and the highest total, in units."""
        of_columns = [column.all_points for columns in self.columns.values() for column in columns.values()]
        low, high = (sum(self.units(choose(points)) for points in of_columns) for choose in (min, max))
        return self.units(self.base) + low, self.units(self.base) + high

    @model_validator(mode="after")
    def _whole_units(self) -> Self:
        if self.decimals not in DECIMALS or not math.isclose(self.unit, 10.0**-self.decimals, rel_tol=1e-12):
            raise ValueError("unit: is a power of ten from 0.001 to 1000000")
        named = [(f"{party}.{name}", column) for party, of in self.columns.items() for name, column in of.items()]
        if not named or len(named) > MOST_COLUMNS:
            raise ValueError(f"columns: name 1 to {MOST_COLUMNS}")
        for where, points in (("base", (self.base,)), *((name[:80], column.all_points) for name, column in named)):
            self._check_points(where, points)
        for total in self.extremes:
            if abs(total) > MOST_UNITS:
                raise ValueError(
                    f"a total could reach {total * self.unit:g}, {abs(total)} units of {self.unit:g}, and {MOST_UNITS} "
                    "fit: write it in a larger unit, such as 1000 for money"
                )
        return self

    def _check_points(self, where: str, points: Iterable[float]) -> None:
        for one in points:
            if abs(one) > LARGEST or abs(one / self.unit - self.units(one)) > _TOLERANCE:
                raise ValueError(f"{where}: {one:g} points are no whole number of units of {self.unit:g}")

    def of_party(self, party: str) -> Self:
        """Return the parameters with one party's columns alone."""
        return self.model_copy(update={"columns": {party: self.columns.get(party, {})}})

    def check_job(self, name: str, purpose: str, bank: str, holders: tuple[str, ...]) -> None:  # noqa: ARG002
        """Refuse a party that is none of the job, and a holder without a column."""
        refuse_strangers("columns", self.columns, bank, holders)
        for holder in holders:
            if not self.columns.get(holder):
                raise ValueError(f"columns: {holder!r} has none; leave it out of the job's holders")
