"""Facts: all that a text may say of a firm, each with unit, day, owner and source, rendered in English and Chinese.

A figure in a report is a rendered fact and nothing else (`reports/text_guard.py`). A holder's fact is a bin, never a
value.
"""

from __future__ import annotations

import datetime as dt
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from veilscore.errors import ConfigError
from veilscore.terms.settings import Strict

Locale = Literal["en", "zh"]
LOCALES: tuple[Locale, ...] = ("en", "zh")
Unit = Literal["money", "count", "percent", "points", "days", "months", "years", "date", "flag", "level", "text"]
FactName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}\.[a-z0-9][a-z0-9_]{0,59}$")]
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_YES_NO = {"en": ("no", "yes"), "zh": ("否", "是")}
_SPANS: Mapping[Locale, tuple[str, str, str]] = {
    "en": ("under {high}", "{low} to under {high}", "{low} or more"),
    "zh": ("不足{high}", "{low}至不足{high}", "{low}及以上"),
}
_COUNTS: Mapping[Locale, tuple[str, str]] = {
    "en": ("{low} to {high}", "{low} or more"),
    "zh": ("{low}至{high}", "{low}及以上"),
}
_MOST_FIGURE = 1e15
_QUOTED: Mapping[Locale, str] = {"en": "“{}”", "zh": "「{}」"}
_MARKS = frozenset('"„‟“”「」『』″‶〃ˮ״〝〞〟')  # and whatever is one of them in another width


def plain_text(text: str) -> str:
    """Return free text of anybody as one line that cannot leave its quotation marks.

    Controls, formats and separators (new lines, marks of direction) become spaces, quotation marks become apostrophes.
    """
    signs = (" " if unicodedata.category(sign)[0] in "CZ" else "'" if _is_mark(sign) else sign for sign in text)
    return " ".join("".join(signs).split())


def _is_mark(sign: str) -> bool:
    return unicodedata.category(sign) in {"Pi", "Pf"} or not _MARKS.isdisjoint(
        sign + unicodedata.normalize("NFKC", sign)
    )


class Span(Strict):
    """A bin: from `low` to below `high`; None where it has no such end."""

    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        ends = [end for end in (self.low, self.high) if end is not None]
        if not ends or ends != sorted(set(ends)) or not all(abs(end) <= _MOST_FIGURE for end in ends):
            raise ValueError("a bin has an end, and its upper one is above its lower one")
        return self


class Source(Strict):
    """Where a fact comes from, so that a reader can go and look.

    reference : of a signature the section's digest and whose it is; of a receipt its id; else table and row, or file.
    """

    kind: Literal["signature", "receipt", "book", "data set", "settings", "calculation"]
    reference: str = Field(min_length=1, max_length=300)


class Fact(Strict):
    """One thing that is known of one firm.

    value : of its unit; a bin, or what was measured: money in units of the currency, percent as a fraction.
    days : of a figure over a window, how long it is, counted back from `as_of`.
    """

    name: FactName
    firm: str = Field(min_length=1, max_length=64)
    value: StrictBool | StrictInt | StrictFloat | Span | dt.date | StrictStr
    unit: Unit
    as_of: dt.date
    owner: str = Field(min_length=1, max_length=80)
    source: Source
    days: int | None = Field(default=None, ge=1, le=9999)
    currency: str = Field(default="CNY", pattern=r"^[A-Z]{3}$")

    @model_validator(mode="before")
    @classmethod
    def _dates(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("unit") == "date" and isinstance(data.get("value"), str):
            return {**data, "value": dt.date.fromisoformat(data["value"])}
        if isinstance(data, dict) and data.get("unit") in {"text", "level"} and isinstance(data.get("value"), str):
            return {**data, "value": plain_text(data["value"])}
        return data

    @model_validator(mode="after")
    def _of_its_unit(self) -> Self:
        figure = isinstance(self.value, Span) or (
            isinstance(self.value, int | float)
            and not isinstance(self.value, bool)
            and math.isfinite(self.value)
            and abs(self.value) <= _MOST_FIGURE
        )
        fits = {
            "date": isinstance(self.value, dt.date),
            "flag": isinstance(self.value, bool),
            "level": isinstance(self.value, str) and 0 < len(self.value) <= 60,
            "text": isinstance(self.value, str) and 0 < len(self.value) <= 400,
        }
        if not fits.get(self.unit, figure):
            raise ValueError(f"fact {self.name} has a value that is no {self.unit}")
        return self


class Wording(Strict):
    """What something is called in each language."""

    en: str = Field(min_length=1, max_length=120)
    zh: str = Field(min_length=1, max_length=120)

    def get(self, locale: Locale) -> str:
        """Return it in one language."""
        return self.zh if locale == "zh" else self.en


@dataclass(frozen=True)
class Words:
    """What facts and levels are called.

    labels : name of a fact -> wording; levels : level -> wording.
    """

    labels: Mapping[str, Wording]
    levels: Mapping[str, Wording]

    def __or__(self, other: Words) -> Words:
        return Words({**self.labels, **other.labels}, {**self.levels, **other.levels})

    def label(self, name: str, locale: Locale) -> str:
        """Return what a fact is called; ConfigError for one that nobody named."""
        if name not in self.labels:
            raise ConfigError(f"fact {name[:60]!r} has no label; name it where facts are listed")
        return self.labels[name].get(locale)

    def render(self, fact: Fact, locale: Locale) -> str:
        """Return the value of a fact with its unit, and its window where it has one."""
        value = self._value(fact, locale)
        if fact.days is None:
            return value
        return f"{value}（{fact.days}天内）" if locale == "zh" else f"{value} ({fact.days} days)"

    def _value(self, fact: Fact, locale: Locale) -> str:
        value = fact.value
        if isinstance(value, bool):
            return _YES_NO[locale][value]
        if isinstance(value, dt.date):
            return shown_date(value, locale)
        if isinstance(value, str):
            known = self.levels.get(value) if fact.unit == "level" else None
            return quoted(value, locale) if known is None else known.get(locale)
        if isinstance(value, Span):
            return _span(value, fact, locale)
        return _figure(value, fact, locale)


def quoted(text: str, locale: Locale) -> str:
    """Return free text in quotation marks, so that nobody takes it for a figure or words of the report."""
    return _QUOTED[locale].format(plain_text(text))


def shown_date(day: dt.date, locale: Locale) -> str:
    """Return a date as people write it."""
    return (
        f"{day.year}年{day.month}月{day.day}日" if locale == "zh" else f"{day.day} {_MONTHS[day.month - 1]} {day.year}"
    )


def _span(span: Span, fact: Fact, locale: Locale) -> str:
    if fact.unit == "count":  # whole numbers: an upper end is the last one that is in it
        low, high = int(span.low or 0), None if span.high is None else int(span.high) - 1
        if low == high:
            return f"{low:,}"
        return _COUNTS[locale][high is None].format(low=f"{low:,}", high=f"{high or 0:,}")
    low_text, high_text = ("" if end is None else _figure(end, fact, locale) for end in (span.low, span.high))
    kind = 0 if span.low is None else 2 if span.high is None else 1
    return _SPANS[locale][kind].format(low=low_text, high=high_text)


def _figure(value: float, fact: Fact, locale: Locale) -> str:
    sign, size = ("-" if value < 0 else ""), abs(value)
    plain = f"{sign}{size:,.2f}".removesuffix(".00") if size % 1 else f"{sign}{size:,.0f}"
    chinese = locale == "zh"
    if fact.unit == "money":
        if not chinese:
            return f"{fact.currency} {plain}"
        return f"{plain}元" if fact.currency == "CNY" else f"{plain} {fact.currency}"
    if fact.unit == "percent":
        return f"{sign}{100 * size:,.1f}".removesuffix(".0") + "%"
    if fact.unit in {"count", "points"}:
        return plain
    after = {"days": "天", "months": "个月", "years": "年"}[fact.unit]
    return f"{plain}{after}" if chinese else f"{plain} {fact.unit if size != 1 else fact.unit[:-1]}"
