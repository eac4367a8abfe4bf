"""The published fields of holders' sections: which variable each is made of, and the bins in which it is told.

They are the same for every holder, firm and bank (`templates/section_fields.yaml`), so that nobody chooses an edge.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Mapping
from functools import cache, cached_property
from importlib.resources import files
from itertools import pairwise
from typing import Self

from pydantic import Field, model_validator

from veilscore.reports.facts import FactName, Span, Unit, Wording, Words
from veilscore.terms.settings import Strict, parse, parse_yaml

FILE = "templates/section_fields.yaml"
Values = Mapping[str, float | str | None]


class SectionField(Strict):
    """A field of a section: of one variable or two, told by the number of its bin or level."""

    of: str | None = None
    ratio: tuple[str, str] | None = None
    minus: tuple[str, str] | None = None
    per: float = Field(default=1.0, gt=0, description="what a value is divided by before it is binned")
    unit: Unit
    days: int | None = None
    edges: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    flag: bool = False
    absent: float | None = None
    en: str
    zh: str

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (
            sum(map(bool, (self.of, self.ratio, self.minus))) != 1
            or sum(map(bool, (self.edges, self.levels, self.flag))) != 1
        ):
            raise ValueError("give one of `of`, `ratio`, `minus`, and one of `edges`, `levels`, `flag`")
        if list(self.edges) != sorted(set(self.edges)) or (self.names and len(self.names) != len(self.edges) + 1):
            raise ValueError("edges rise, and names are one more than they")
        return self

    @property
    def variables(self) -> tuple[str, ...]:
        """Return the names of the variables that it is made of."""
        return tuple(filter(None, (self.of, *(self.ratio or ()), *(self.minus or ()))))

    @property
    def n_codes(self) -> int:
        """Return how many values may be told, "not known" left out."""
        return 2 if self.flag else len(self.levels) or len(self.edges) + 1

    @property
    def bits(self) -> float:
        """Return the most that it tells, "not known" included."""
        return math.log2(self.n_codes + 1)

    def code_of(self, values: Values | None) -> int | None:
        """Return the number of the bin or level of a firm's variables; None where it is not known.

        values : None of a firm of which the owner has no event.
        """
        if values is None:
            return None if self.absent is None else self._code(self.absent)
        found = [values.get(name) for name in self.variables]
        if self.levels:
            return self.levels.index(str(found[0])) if found[0] in self.levels else None
        numbers = [float(value) for value in found if isinstance(value, int | float)]
        if len(numbers) < len(found) or (self.ratio and not numbers[1]):
            return None
        number = numbers[0] / numbers[1] if self.ratio else numbers[0] - numbers[1] if self.minus else numbers[0]
        return self._code(number) if math.isfinite(number) else None

    def _code(self, number: float) -> int:
        return int(number > 0) if self.flag else bisect.bisect_right(self.edges, number / self.per)

    def value_of(self, code: int) -> bool | str | Span:
        """Return what a code below `n_codes` says."""
        if self.flag:
            return bool(code)
        if self.levels or self.names:
            return (self.levels or self.names)[code]
        ends = list(pairwise((None, *self.edges, None)))
        return Span(low=ends[code][0], high=ends[code][1])


class SectionFields(Strict):
    """All fields by name, `CATALOGUE.NAME`, and what their levels are called."""

    fields: dict[FactName, SectionField]
    words: dict[str, Wording]

    def of_catalogue(self, catalogue: str) -> dict[str, SectionField]:
        """Return the fields of one catalogue."""
        return {name: one for name, one in self.fields.items() if name.partition(".")[0] == catalogue}

    @cached_property
    def sha256(self) -> str:
        """Name of this version of the fields: a section is read by the version that it was written by."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @cached_property
    def spoken(self) -> Words:
        """Return what fields and levels are called."""
        return Words({name: Wording(en=one.en, zh=one.zh) for name, one in self.fields.items()}, self.words)


@cache
def section_fields() -> SectionFields:
    """Return the fields that are shipped."""
    text = (files("veilscore.reports") / FILE).read_text(encoding="utf-8")
    return parse(SectionFields, parse_yaml(text, FILE), FILE)
