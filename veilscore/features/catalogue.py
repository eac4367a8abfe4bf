"""A catalogue says, in YAML, which event tables an owner keeps and which variables are made of them.

Point in time: at the as-of date t an event counts if it happened before the first moment of t and was known before it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from functools import cached_property
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, field_validator, model_validator

from veilscore.errors import ConfigError
from veilscore.terms.parameters import ColumnName
from veilscore.terms.settings import Strict, nearest, parse, parse_yaml, read_text

ENGINE = 1  # goes into every hash: raise it when the meaning of an aggregate changes
ANY = "*"
OF_NUMBERS = ("sum", "mean", "std", "min", "max")
OF_EVENTS = ("count", "days_since", "active_months", "trend", "growth")  # trend and growth also of a number
OF_PARTIES = ("distinct", "top_share", "concentration")
_PARTY_AGGREGATE = re.compile(r"^(distinct|top_share|concentration)\((.+)\)$")
MONTH = 30  # days of a period of active_months and trend, counted back from the as-of date


def _level(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value


def _listed(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value,)


Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Level = Annotated[str, BeforeValidator(_level), Field(min_length=1, max_length=80, pattern=r"^[^\[\]|,=*]+$")]
Choice = Annotated[str, BeforeValidator(_level), Field(min_length=1, max_length=400)]
Window = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,3}d|all)$")]
Delay = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,2})d$")]
Windows = Annotated[tuple[Window, ...], Field(min_length=1, max_length=40)]
Phrase = Annotated[str, Field(min_length=1, max_length=60)]


class Band(Strict):
    """Cuts a number column into the levels of a category: `b0` below the first edge, `b1` from it on, and so forth."""

    of: ColumnName = Field(description="number column that is cut")
    edges: tuple[float, ...] = Field(min_length=1, max_length=20, description="ascending edges")

    @field_validator("edges")
    @classmethod
    def _ascending(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if any(one >= other for one, other in itertools.pairwise(edges)):
            raise ValueError("edges must ascend")
        return edges


class EventTable(Strict):
    """Says what the columns of one event table mean."""

    source: str = Field(
        min_length=1, max_length=200, description="file in the folder of events, or table of a database"
    )
    firm: ColumnName = Field(description="column with the id of the firm")
    time: ColumnName = Field(description="column with the day on which the event happened")
    known: ColumnName | None = Field(default=None, description="column with the day from which the owner knew the row")
    known_after: Delay | None = Field(
        default=None, description="in place of known: rows are known this many days after the event, on trust"
    )
    key: tuple[ColumnName, ...] = Field(
        default=(), description="columns that name an event; of its rows the last one known counts"
    )
    planned: tuple[ColumnName, ...] = Field(
        default=(),
        description="date columns that were known from the start (due dates): later days in them leak nothing",
    )
    numbers: tuple[ColumnName, ...] = Field(default=(), description="number columns")
    categories: dict[ColumnName, tuple[Level, ...]] = Field(
        default_factory=dict, description="category columns and the levels that variables may name"
    )
    bands: dict[Word, Band] = Field(default_factory=dict, description="categories cut from numbers")
    parties: tuple[ColumnName, ...] = Field(default=(), description="columns that name another firm or person")
    texts: tuple[ColumnName, ...] = Field(default=(), description="text columns")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.known is None) == (self.known_after is None):
            raise ValueError(
                "say when a row was known: known: COLUMN, or known_after: 0d where rows are known when they happen"
            )
        for name, levels in self.categories.items():
            if len(set(levels)) < len(levels) or not 0 < len(levels) <= 200:
                raise ValueError(f"category {name!r}: give 1 to 200 levels, each once")
        for name, band in self.bands.items():
            if band.of not in self.numbers or name in self.categories:
                raise ValueError(f"band {name!r}: `of` must be in numbers, and no category may have its name")
        return self

    @cached_property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """Return category or band -> its levels, in order of their codes from 1."""
        cut = {name: tuple(f"b{i}" for i in range(len(band.edges) + 1)) for name, band in self.bands.items()}
        return {**self.categories, **cut}

    @property
    def columns(self) -> tuple[str, ...]:
        """Return every column of the source that is read, each once."""
        named = (self.firm, self.time, *filter(None, [self.known]), *self.key, *self.planned, *self.numbers)
        return tuple(dict.fromkeys((*named, *self.categories, *self.parties, *self.texts)))


class VariableGroup(Strict):
    """Declares variables of one table: the product of columns, filters, windows and aggregates."""

    table: Word = Field(description="event table")
    of: Annotated[tuple[ColumnName, ...], BeforeValidator(_listed)] = Field(
        default=(), description="number columns, or for latest also categories"
    )
    where: dict[ColumnName, Annotated[tuple[Choice, ...], BeforeValidator(_listed)]] = Field(
        default_factory=dict,
        description="filters: each listed level makes variables of its own; `a|b` is one or the other, `*` is any",
    )
    windows: Windows = Field(description="spans back from the as-of date: 30d, 365d, all")
    aggregate: tuple[Annotated[str, Field(max_length=240)], ...] = Field(
        min_length=1,
        description=f"{', '.join((*OF_NUMBERS, *OF_EVENTS))}, latest, and of a party column: {', '.join(OF_PARTIES)}",
    )


class DerivedVariable(Strict):
    """Declares a ratio or a difference of two variables; `{window}` in the names stands for each of the windows."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_.]{0,79}(\{window\})?$", description="name of the new variable")
    ratio: tuple[str, ...] | None = Field(
        default=None, min_length=2, max_length=2, description="names of numerator and denominator"
    )
    difference: tuple[str, ...] | None = Field(
        default=None, min_length=2, max_length=2, description="names of minuend and subtrahend"
    )
    windows: tuple[Window, ...] = Field(default=(), description="put in place of {window}")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.ratio is None) == (self.difference is None):
            raise ValueError("give either ratio or difference, each of two names of variables")
        if bool(self.windows) != ("{window}" in self.name):
            raise ValueError("name and windows go together: end the name in {window} and list windows, or neither")
        return self

    @property
    def operands(self) -> tuple[str, ...]:
        """Return the names of both operands, before windows are put in."""
        return self.ratio or self.difference or ()


class TermGroup(Strict):
    """Declares a 0/1 variable for each frequent term of a text column."""

    table: Word = Field(description="event table")
    of: ColumnName = Field(description="text column")
    windows: Windows = Field(description="spans back from the as-of date")
    tokens: Literal["auto", "words", "chinese"] = Field(
        default="auto",
        description="words: runs of letters and digits; chinese: rjieba; auto: rjieba where it is needed",
    )
    ngrams: int = Field(default=1, ge=1, le=3, description="longest run of tokens that is one term")
    min_share: float = Field(default=0.01, ge=0, le=1, description="least share of texts that have a term")
    max_share: float = Field(default=0.5, gt=0, le=1, description="greatest share of texts that have a term")
    most: int = Field(default=500, ge=1, le=10_000, description="terms at most, the most frequent first")
    words: tuple[Phrase, ...] = Field(default=(), description="these terms and no others, whatever their share")


class RiskGroup(Strict):
    """Declares variables of risk events that a lexicon finds in a text column."""

    table: Word = Field(description="event table")
    of: ColumnName = Field(description="text column")
    windows: Windows = Field(description="spans back from the as-of date")
    lexicon: dict[Word, tuple[Phrase, ...]] = Field(
        default_factory=dict, description="event -> phrases, any of which tells it; empty: the one that is shipped"
    )
    aggregate: tuple[Literal["any", "count", "days_since"], ...] = Field(
        default=("any",), min_length=1, description="whether, in how many texts, days since the last one"
    )


class FirmList(Strict):
    """Says where the firms are listed that get a row; without one, each firm with a known event does."""

    source: str = Field(
        min_length=1, max_length=200, description="file in the folder of events, or table of a database"
    )
    firm: ColumnName = Field(description="column with the id of the firm")


class Catalogue(Strict):
    """A whole catalogue: tables, and what is made of them."""

    name: Word = Field(description="name of the catalogue")
    id_normaliser: Literal["uscc", "text"] = Field(default="uscc", description="kind of id of firms, as in jobs")
    zone: str = Field(default="Asia/Shanghai", description="time zone whose days count, where times have a zone")
    firms: FirmList | None = Field(default=None, description="list of firms that get a row")
    tables: dict[Word, EventTable] = Field(min_length=1, max_length=40, description="event tables by name")
    variables: tuple[VariableGroup, ...] = Field(default=(), max_length=2_000, description="variables of events")
    derived: tuple[DerivedVariable, ...] = Field(default=(), max_length=5_000, description="ratios and differences")
    terms: tuple[TermGroup, ...] = Field(default=(), max_length=40, description="frequent terms of texts")
    risks: tuple[RiskGroup, ...] = Field(default=(), max_length=40, description="risk events in texts")

    @field_validator("zone")
    @classmethod
    def _zone_exists(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ValueError, OSError, LookupError):  # what zoneinfo raises of a name that is none
            raise ValueError("no such time zone; write one such as Asia/Shanghai or UTC") from None
        return zone

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for number, group in enumerate(self.variables, start=1):
            table = self._table(f"variables.{number}", group.table)
            _check_group(f"variables.{number} of table {group.table}", group, table)
        for kind in ("terms", "risks"):
            for number, text in enumerate(getattr(self, kind), start=1):
                table = self._table(f"{kind}.{number}", text.table)
                _known(f"{kind}.{number} of table {text.table}: of", text.of, table.texts, "texts")
        return self

    def _table(self, where: str, name: str) -> EventTable:
        if name not in self.tables:
            raise ValueError(f"{where}: there is no table {name!r}; {nearest(name, list(self.tables))}")
        return self.tables[name]

    @cached_property
    def hash(self) -> str:
        """Return the SHA-256 of what the catalogue says; comments and layout do not count."""
        return digest([ENGINE, self.model_dump(mode="json")])


def digest(content: object) -> str:
    """Return the SHA-256 of canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _known(where: str, name: str, known: tuple[str, ...], key: str) -> None:
    if name not in known:
        hint = nearest(name, list(known)) if known else f"its `{key}` are empty"
        raise ValueError(f"{where}: {name!r} is not in {key} of the table; {hint}")


def _check_group(where: str, group: VariableGroup, table: EventTable) -> None:
    for category, choices in group.where.items():
        _known(f"{where}: where", category, tuple(table.levels), "categories")
        for level in (one for choice in choices if choice != ANY for one in choice.split("|")):
            _known(f"{where}: where {category}", level, table.levels[category], f"the levels of {category}")
    only_latest = set(group.aggregate) == {"latest"}
    for column in group.of:
        _known(f"{where}: of", column, (*table.numbers, *(table.levels if only_latest else ())), "numbers")
    for name in group.aggregate:
        _check_aggregate(where, name, group, table)


def _check_aggregate(where: str, name: str, group: VariableGroup, table: EventTable) -> None:
    aggregate, party = split_aggregate(name)
    if party is not None:
        _known(f"{where}: aggregate {name}", party, table.parties, "parties")
    elif aggregate not in {*OF_NUMBERS, *OF_EVENTS, "latest"}:
        shown = [*OF_NUMBERS, *OF_EVENTS, "latest", *(f"{one}(COLUMN)" for one in OF_PARTIES)]
        raise ValueError(f"{where}: aggregate {name!r} is unknown; {nearest(name, shown)}")
    if aggregate in {*OF_NUMBERS, "latest"} and not group.of:
        raise ValueError(f"{where}: {aggregate} needs a column; name it in `of`")
    least = {"trend": 2 * MONTH, "active_months": MONTH, "growth": 1}.get(aggregate)
    for window in group.windows if least else ():
        days = window_days(window)
        if days is None or days < (least or 0):
            raise ValueError(f"{where}: {aggregate} needs windows of {least}d or more in days, not {window}")


def split_aggregate(name: str) -> tuple[str, str | None]:
    """Return an aggregate and the party column in its brackets, if any."""
    found = _PARTY_AGGREGATE.match(name)
    return (found[1], found[2]) if found else (name, None)


def window_days(window: str) -> int | None:
    """Return the days of a window; None for all."""
    return None if window == "all" else int(window.removesuffix("d"))


def load_catalogue(path: Path) -> Catalogue:
    """Return the catalogue of a file; ConfigError names the key at fault."""
    return parse(Catalogue, parse_yaml(read_text(path, "catalogue of variables"), str(path)), str(path))


def find_catalogue(named: str) -> Catalogue:
    """Return the catalogue of a file (named *.yaml), or the one that an installed package ships under this name."""
    if named.endswith((".yaml", ".yml")):
        return load_catalogue(Path(named))
    shipped = shipped_catalogues()
    if named not in shipped:
        raise ConfigError(
            f"no catalogue {named!r} is shipped; {nearest(named, sorted(shipped))} Or name a file that ends in .yaml."
        )
    return parse(Catalogue, parse_yaml(shipped[named], f"catalogue {named}"), f"catalogue {named}")


def shipped_catalogues() -> dict[str, str]:
    """Return name -> YAML of every catalogue of the entry points of the group "veilscore.catalogues"."""
    found = {}
    for entry in entry_points(group="veilscore.catalogues"):
        package, _, file = entry.value.partition(":")
        resource = files(package) / f"{file or 'catalogue'}.yaml"
        if resource.is_file():
            found[entry.name] = resource.read_text(encoding="utf-8")
    return found
