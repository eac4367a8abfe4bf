"""What an owner says of how its columns are read: kinds, words for missing, special values, formats, zone, encoding."""

from __future__ import annotations

import codecs
import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from veilscore.terms.parameters import ColumnName
from veilscore.terms.settings import Strict

DeclaredKind = Literal["number", "category", "date", "text", "ignore"]
LEFT_OUT = ("text", "ignore")  # kinds that are no features
EVERY = "*"  # stands for all columns in `missing`
MOST_SPECIAL = 8  # of a column: each takes a code of its own


def _no_truth(value: Any) -> Any:
    """Refuse what YAML makes of yes, no, on and off, which the owner meant as words."""
    if isinstance(value, bool):
        raise ValueError("YAML reads yes, no, on, off, true and false as truth values; quote it, for example 'no'")  # noqa: TRY004 - pydantic wants ValueError
    return value


Cell = Annotated[float | str, BeforeValidator(_no_truth)]


class ReadingRules(Strict):
    """Says how columns of a data set are read; what is not said here is recognised, or refused where it is in doubt."""

    kinds: dict[ColumnName, DeclaredKind] = Field(
        default_factory=dict,
        description="column: number, category, date, text or ignore; text (names, remarks) and ignore are no features",
    )
    missing: dict[ColumnName, tuple[Cell, ...]] = Field(
        default_factory=dict, description='column: what stands for missing in it; "*" is every column'
    )
    special: dict[ColumnName, tuple[Cell, ...]] = Field(
        default_factory=dict, description="column: values that mean something of their own and get bins of their own"
    )
    formats: dict[ColumnName, str] = Field(
        default_factory=dict,
        description="column: how it is written where that is in doubt: '1,234.5', '1.234,5', '%d/%m/%Y', 'excel'",
    )
    zone: str = Field(
        default="UTC",
        pattern=r"^[A-Za-z][A-Za-z0-9_+/-]{0,39}$",
        description="time zone in which a moment has its day, such as Asia/Shanghai",
    )
    encoding: str | None = Field(default=None, description="of a text file that is not UTF-8, such as gb18030")
    sheet: str | None = Field(default=None, description="of an Excel workbook with several sheets")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        for name, values in self.special.items():
            if name == EVERY or not 0 < len(set(values)) == len(values) <= MOST_SPECIAL:
                raise ValueError(f"special.{name}: name a column and 1 to {MOST_SPECIAL} different values")
        for name, cells in (*self.special.items(), *self.missing.items()):
            if any(isinstance(cell, float) and not math.isfinite(cell) for cell in cells):
                raise ValueError(f"{name}: infinite numbers and NaN cannot be named; quote them as words")
        for name, form in self.formats.items():
            if self.kinds.get(name, "date") not in {"number", "date"} or not form:
                raise ValueError(f"formats.{name}: a format is for a number or a date")
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except (LookupError, ValueError):
                raise ValueError(f"encoding {self.encoding[:60]!r} is unknown; for example gb18030, utf-16") from None
        return self

    @property
    def left_out(self) -> tuple[str, ...]:
        """Return the columns that are no features by their declared kind."""
        return tuple(name for name, kind in self.kinds.items() if kind in LEFT_OUT)

    @property
    def named(self) -> tuple[str, ...]:
        """Return the columns that something is said of."""
        said = (*self.kinds, *self.missing, *self.special, *self.formats)
        return tuple(dict.fromkeys(name for name in said if name != EVERY))

    def missing_in(self, name: str) -> tuple[float | str, ...]:
        """Return what stands for missing in a column, as declared."""
        return (*self.missing.get(name, ()), *self.missing.get(EVERY, ()))


NOTHING_SAID = ReadingRules()
