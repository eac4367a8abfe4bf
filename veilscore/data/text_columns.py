"""Decide how columns of text are read: as numbers or dates of one form, as levels, or not at all, with a reason.

A form counts only where every filled cell has it (`notation`, `dates`). A sample says which forms are worth a look; one
pass over the whole column decides. Where at least half of the cells are numbers or dates, but not all, the column is
refused as mixed: it is more often a number column with stray text than a category, and one cell must not turn turnover
into text. Plain numbers in a column that its source calls text (Parquet, a data frame) stay levels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from veilscore.data import dates, notation
from veilscore.data.notation import BARE, CODES, NUMBERS, Form, ascii_sql, literal
from veilscore.errors import ColumnError, ConfigError
from veilscore.terms.reading import NOTHING_SAID, ReadingRules

MIXED_SHARE = 0.5  # share of numbers in a text column from which it counts as a number column with stray text
_SAMPLE = 200  # rows that say which forms are worth a look; what they say wrongly costs a second pass, never a value
_MANY_UNITS = 50  # levels from which cells such as "12 kg" are meant as numbers rather than as a code book
_FORMS = (BARE, *NUMBERS, *dates.DATES)
_ONE_CURRENCY = (
    ("¥", "CN¥", "CNY", "RMB", "元", "圆", "人民币"), ("$", "US$", "USD", "美元"), ("€", "EUR", "欧元"), ("£", "GBP"),
    ("HK$", "HKD", "港元", "港币"), ("JPY", "日元"), ("₽", "RUB"), ("₸", "KZT"),
)  # fmt: skip
HOW = "in node.yaml (or in `reading` of fit)"


@dataclass(frozen=True)
class TextSource:
    """Some columns of text to read.

    relation : SQL of what they are columns of.
    has_types : the source says itself that these columns are text.
    expected : column -> "number" or "category", as a model was trained on it.
    lenient : columns in which a cell of no form is left out, since their reader names the rows.
    """

    database: duckdb.DuckDBPyConnection
    relation: str
    name: str
    rules: ReadingRules = NOTHING_SAID
    expected: Mapping[str, str] = field(default_factory=dict)
    has_types: bool = False
    lenient: frozenset[str] = frozenset()

    def ask(self, parts: Sequence[str]) -> tuple[Any, ...]:
        """Return the aggregates of one pass."""
        row: Any = self.database.execute(f"SELECT {', '.join(parts)} FROM {self.relation}").fetchone()  # noqa: S608 (quoted)
        return tuple(row)

    def kind(self, name: str) -> str | None:
        """Return the kind that is known of a column: declared, by its format, or as a model expects it."""
        said = self.rules.kinds.get(name)
        if said is None and name in self.rules.formats:
            return "date" if "%" in self.rules.formats[name] or self.rules.formats[name] in dates.SERIALS else "number"
        return said or self.expected.get(name)

    def forms(self, name: str) -> tuple[Form, ...]:
        """Return the forms that a column may have, the first choice first."""
        kind, said = self.kind(name), self.rules.formats.get(name)
        if said is not None:
            chosen = [form for form in NUMBERS if form.declared == said]
            return (*chosen, *((BARE,) if chosen and said != "1.234,5" else ())) or (dates.declared_form(said),)
        declared = name in self.rules.kinds
        if kind == "date":
            return (*dates.DATES, dates.COMPACT)
        if kind == "number" and declared:
            return (BARE, *NUMBERS, CODES)
        return _FORMS

    def cell(self, name: str, *, levels: bool = True) -> str:
        """Write SQL of a cell, NULL where it is missing; with `levels` as its owner wrote it, else in ASCII."""
        said = self.rules.missing_in(name)
        gone = {text for one in said for text in _as_text(one)}
        trimmed = notation.trimmed_sql(quoted(name))
        if not levels:
            gone |= {*notation.MISSING, *(() if said else notation.DOUBTFUL)}
            gone = {text.translate(notation.ASCII_OF) for text in gone}
            trimmed = ascii_sql(trimmed)
        elif not self.has_types:
            gone |= set(notation.MISSING)
        if gone <= {""}:
            return f"NULLIF({trimmed}, '')"
        listed = ", ".join(literal(text) for text in sorted(gone | {""}))
        return f"CASE WHEN {trimmed} IN ({listed}) THEN NULL ELSE {trimmed} END"


@dataclass(frozen=True)
class TextRules:
    """What is known of columns of text in memory before they are looked at; the fields are those of `TextSource`."""

    rules: ReadingRules
    expected: Mapping[str, str]
    name: str
    lenient: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reading:
    """How one column is read: SQL of its values, the form (None: levels), and what its owner should know."""

    sql: str
    form: Form | None
    note: str = ""


@dataclass
class _Survey:
    """Counts of one column's cells."""

    name: str
    filled: int
    usable: int
    fits: dict[Form, int]
    codes: int = 0
    short: int = 0
    units: int = 0

    @property
    def complete(self) -> list[Form]:
        return [form for form, count in self.fits.items() if count == self.usable > 0]


@contextmanager
def open_database(zone: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield an empty database that keeps rows in order. Moments have their day in a zone, wherever the machine stands.

    A long IN is not made a join, which two threads answer in any order: rows of one query would differ from those of
    the next, and the columns of a frame from each other.
    """
    with duckdb.connect() as database:
        database.execute("SET disabled_optimizers = 'in_clause'")
        try:
            database.execute(f"SET TimeZone = {literal(zone)}")
        except duckdb.Error:
            raise ConfigError(f"zone {zone!r} is unknown; write it as Asia/Shanghai") from None
        yield database


def quoted(name: str) -> str:
    """Quote a column name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _as_text(value: float | str) -> set[str]:
    """Return the texts of a cell that an owner named, who may have named a number."""
    return {value} if isinstance(value, str) else {repr(value), repr(value).removesuffix(".0")}


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def read_texts(source: TextSource, names: Sequence[str]) -> dict[str, Reading]:
    """Return how each column of text is read; a column in doubt raises ColumnError that says what to declare."""
    found: dict[str, Reading] = {
        name: Reading(source.cell(name), None) for name in names if source.kind(name) in {"category", "text"}
    }
    rest = [name for name in names if name not in found]
    likely = _sampled(source, rest)
    plain = [name for name in rest if likely[name] == [BARE]]
    counts = _counted(source, plain, fast=True)
    second = [name for name in plain if counts[name].complete != [BARE]]
    for name in plain:
        if name not in second:
            found[name] = _decided(source, counts[name], fast=True)
    others = [name for name in rest if name not in plain]
    digitish, surveys = _first_look(source, others, likely)
    for name in others:
        survey = surveys[name]
        sure = source.kind(name) in {"number", "date"}
        if not survey.complete and (sure or digitish[name] >= MIXED_SHARE * survey.usable > 0):
            second.append(name)
        else:
            found[name] = _decided(source, survey)
    surveys = _second_look(source, second)
    found |= {name: _decided(source, surveys[name]) for name in second}
    _check_points(source, found)
    return {name: found[name] for name in names}


def read_arrays(
    texts: Mapping[str, NDArray[np.object_]], known: TextRules
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Return columns of text in memory, name -> (n,) str or None, as numbers (NaN missing) or levels, and notes."""
    found: dict[str, NDArray[Any]] = {}
    notes: list[str] = []
    batch: dict[str, str] = {}  # SQL takes names that differ in case for one
    for name in texts:
        batch.setdefault(name.casefold(), name)
    now = list(batch.values())
    try:
        with open_database(known.rules.zone) as database:
            database.register("texts", {name: texts[name] for name in now})
            source = TextSource(database, "texts", known.name, known.rules, known.expected, True, known.lenient)
            readings = read_texts(source, now)
            for name in now:
                sql = f"SELECT {readings[name].sql} AS cell FROM texts"  # noqa: S608 (quoted)
                found[name] = plain_column(database.execute(sql).fetchnumpy()["cell"])
                notes += [readings[name].note] if readings[name].note else []
    except (duckdb.Error, UnicodeError):
        raise ColumnError(f"a column of {known.name} has text that is not Unicode; correct or exclude it") from None
    if len(now) < len(texts):
        rest, more = read_arrays({name: texts[name] for name in texts if name not in found}, known)
        return {**found, **rest}, (*notes, *more)
    return found, tuple(notes)


def plain_column(values: Any) -> NDArray[Any]:
    """Turn DuckDB's masked array into a plain one: NaN, NaT or None for missing."""
    if not isinstance(values, np.ma.MaskedArray):
        return np.asarray(values)
    fill: Any = {"f": np.nan, "M": np.datetime64("NaT")}.get(values.dtype.kind)
    if values.dtype.kind == "O":
        plain = np.array(values.data, dtype=object)
        plain[np.ma.getmaskarray(values)] = None
        return plain
    return np.asarray(values.filled(fill))


def _sampled(source: TextSource, names: Sequence[str]) -> dict[str, list[Form]]:
    """Return the forms that all cells of a few rows have, for each column; plain numbers alone where these will do."""
    if not names:
        return {}
    columns = ", ".join(quoted(name) for name in names)
    rows = source.database.execute(f"SELECT {columns} FROM {source.relation} LIMIT {_SAMPLE}").fetchall()  # noqa: S608
    likely = {}
    for name, column in zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True):
        gone = {*notation.MISSING, *(() if source.rules.missing_in(name) else notation.DOUBTFUL)}
        gone |= {text for one in source.rules.missing_in(name) for text in _as_text(one)}
        cells = {str(cell).strip(notation.WHITE).translate(notation.ASCII_OF) for cell in column if cell is not None}
        cells -= {text.translate(notation.ASCII_OF) for text in gone}
        forms = source.forms(name)
        left = [form for form in forms if all(_compiled(form.pattern).fullmatch(cell) for cell in cells)]
        likely[name] = [BARE] if BARE in left and forms[0] is BARE else left
    return likely


def _fits(cell: str, form: Form) -> str:
    """Write SQL that counts the cells of a form."""
    matches = f"regexp_full_match({cell}, {literal(form.pattern)})"
    if form is BARE or form is CODES:
        return f"COUNT(*) FILTER ({matches})"
    return f"COUNT(CASE WHEN {matches} THEN {form.value(cell)} END)"


def _counted(source: TextSource, names: Sequence[str], *, fast: bool) -> dict[str, _Survey]:
    """Count filled cells and plain numbers; `fast` trims spaces alone."""
    parts = []
    for name in names:
        cell = f"NULLIF(TRIM({quoted(name)}), '')" if fast else source.cell(name, levels=False)
        parts += [f"COUNT({cell})", _fits(cell, BARE)]
    row = source.ask(parts) if parts else ()
    return {
        name: _Survey(name, row[2 * i], row[2 * i], {BARE: row[2 * i + 1]} if row[2 * i] else {})
        for i, name in enumerate(names)
    }


def _first_look(
    source: TextSource, names: Sequence[str], likely: Mapping[str, Sequence[Form]]
) -> tuple[dict[str, int], dict[str, _Survey]]:
    """Count the cells of the likely forms, and those that begin like a number or a date."""
    parts: list[str] = []
    for name in names:
        cell = source.cell(name, levels=False)
        starts = f"COUNT(*) FILTER (regexp_matches({cell}, {literal(notation.DIGITISH)}))"
        parts += [f"COUNT({source.cell(name)})", f"COUNT({cell})", starts]
        parts += [_fits(cell, form) for form in likely[name]]
    row = iter(source.ask(parts) if parts else ())
    digitish, surveys = {}, {}
    for name in names:
        filled, usable, digitish[name] = next(row), next(row), next(row)
        surveys[name] = _Survey(name, filled, usable, {form: next(row) for form in likely[name]})
    return digitish, surveys


def _second_look(source: TextSource, names: Sequence[str]) -> dict[str, _Survey]:
    """Count the cells of every form."""
    parts: list[str] = []
    for name in names:
        cell = source.cell(name, levels=False)
        parts += [f"COUNT({source.cell(name)})", f"COUNT({cell})"]
        parts += [_fits(cell, form) for form in source.forms(name)]
        for pattern in (notation.CODE, dates.SHORT, notation.UNITS):
            parts.append(f"COUNT(*) FILTER (regexp_full_match({cell}, {literal(pattern)}))")
    row = iter(source.ask(parts) if parts else ())
    surveys = {}
    for name in names:
        filled, usable = next(row), next(row)
        fits = {form: next(row) for form in source.forms(name)}
        surveys[name] = _Survey(name, filled, usable, fits, next(row), next(row), next(row))
    return surveys


def _decided(source: TextSource, survey: _Survey, *, fast: bool = False) -> Reading:  # noqa: PLR0911 (a table of cases)
    """Return how a column is read by its counts; a column in doubt raises ColumnError."""
    name, kind = survey.name, source.kind(survey.name)
    complete = survey.complete
    if not survey.usable and (kind in {"number", "date"} or not (survey.filled or source.has_types)):
        return Reading("CAST(NULL AS DOUBLE)", BARE)
    if kind == "number" and name in source.expected:
        # a model's number column may be of dates; a declared one is of numbers
        complete = [form for form in complete if form is not CODES]
    if BARE in complete and (kind == "number" or not source.has_types):
        if fast:
            return Reading(f"CAST(NULLIF(TRIM({quoted(name)}), '') AS DOUBLE)", BARE)
        return Reading(BARE.value(source.cell(name, levels=False)), BARE, _note(source, survey, BARE))
    if BARE in complete or (survey.codes == survey.usable and kind is None):
        return Reading(source.cell(name), None)
    if complete:
        form = _unambiguous(source, survey, complete)
        _check_decorations(source, survey, form)
        return Reading(form.value(source.cell(name, levels=False)), form, _note(source, survey, form))
    best = max(survey.fits.values(), default=0)
    if name in source.lenient and best:
        form = _unambiguous(source, survey, [form for form, count in survey.fits.items() if count == best])
        cell = source.cell(name, levels=False)
        return Reading(
            f"CASE WHEN regexp_full_match({cell}, {literal(form.pattern)}) THEN {form.value(cell)} END", form
        )
    _refuse(source, survey, kind)
    return Reading(source.cell(name), None)


def _note(source: TextSource, survey: _Survey, form: Form) -> str:
    """Say what is not plain about how a column is read."""
    said = [] if form in {BARE, dates.ISO} else [f"is read as {form.name}"]
    lost = survey.filled - survey.usable
    if lost:
        said.append(
            f"has {lost} cells with a sign or word for missing (such as '-' or 'None'), read as missing; "
            f"name it under `missing` {HOW}, or under `special` if it has a meaning of its own"
        )
    return f"column {survey.name!r} of {source.name} {' and '.join(said)}" if said else ""


def _unambiguous(source: TextSource, survey: _Survey, complete: Sequence[Form]) -> Form:
    """Return the form of a column; ColumnError if two forms give different values."""
    first, *others = complete
    cell = source.cell(survey.name, levels=False)
    parts = [f"COUNT(*) FILTER ({first.value(cell)} IS DISTINCT FROM {other.value(cell)})" for other in others]
    for other, n_different in zip(others, source.ask(parts) if parts else (), strict=True):
        if n_different and CODES not in {first, other}:
            raise ColumnError(
                f"column {survey.name!r} of {source.name} can be read in two ways, as {first.name} and as "
                f"{other.name}; declare `formats: {{{survey.name}: {first.declared!r}}}` or {other.declared!r} {HOW}"
            )
    return first


def _check_decorations(source: TextSource, survey: _Survey, form: Form) -> None:
    """Refuse a column with percentages beside other numbers, or with two currencies."""
    if form not in NUMBERS:
        return
    cell = source.cell(survey.name, levels=False)
    money = f"regexp_extract({cell}, {literal(notation.CURRENCY)}, 1)"
    names = "".join(
        f" WHEN {money} IN ({', '.join(map(literal, group))}) THEN {literal(group[0])}" for group in _ONE_CURRENCY
    )
    percent, zeros, currencies = source.ask(
        [
            f"COUNT(*) FILTER (regexp_matches({cell}, {literal(notation.HAS_PERCENT)}))",
            f"COUNT(*) FILTER (regexp_full_match({cell}, {literal(notation.ZERO)}))",
            f"COUNT(DISTINCT CASE{names} ELSE NULLIF({money}, '') END)",
        ]
    )
    if percent and percent + zeros < survey.usable:
        raise ColumnError(
            f"column {survey.name!r} of {source.name} has percentages in {percent} of {survey.usable} filled cells and "
            f"numbers without a percent sign in the others; write all of them alike"
        )
    if currencies > 1:
        raise ColumnError(
            f"column {survey.name!r} of {source.name} has amounts in {currencies} currencies; convert them into one"
        )


def _refuse(source: TextSource, survey: _Survey, kind: str | None) -> None:
    """Raise ColumnError for a column that is neither of one form nor clearly of levels."""
    name, usable = survey.name, survey.usable
    before = f"column {name!r} of {source.name}"
    if survey.short == usable > 0:
        raise ColumnError(
            f"{before} has dates with two-digit years, whose century and order are in doubt; declare "
            f"`formats: {{{name}: '%d.%m.%y'}}` {HOW}, with the order that is meant"
        )
    if kind == "date" and not any(survey.fits.values()):
        raise ColumnError(
            f"{before} is declared as dates, and none of its {usable} filled cells is in a form of dates; declare that "
            f"as `formats: {{{name}: '%d.%m.%Y'}}`, or `{name}: excel` for serial days as Excel keeps them, {HOW}"
        )
    kinds = {"number": "numbers", "date": "dates"}
    best = max(survey.fits, key=lambda form: survey.fits[form], default=BARE)
    count = survey.fits.get(best, 0)
    if kind in kinds or count >= MIXED_SHARE * usable > 0:
        what = kinds[kind] if kind in kinds and not count else "numbers" if best is BARE else best.name
        zeros = " (leading zeros and 1E2 are those of codes)" if survey.codes else ""
        raise ColumnError(
            f"column {name!r} is of mixed type: {count} of {usable} filled cells are {what}, the others text{zeros}; "
            f"leave those cells empty, name them under `missing`, or declare its kind as 'category' {HOW}, "
            "or exclude it"
        )
    if survey.units >= MIXED_SHARE * usable > 0:
        (levels,) = source.ask([f"COUNT(DISTINCT {source.cell(name)})"])
        if levels > _MANY_UNITS:
            raise ColumnError(
                f"{before} has numbers with a unit in letters, in {survey.units} of {usable} filled cells; write the "
                f"numbers alone, or declare its kind as 'category' {HOW}"
            )


def _check_points(source: TextSource, found: Mapping[str, Reading]) -> None:
    """Refuse plain numbers that may be thousands (1.234) beside a column that has a decimal comma."""
    commas = [name for name, reading in found.items() if reading.form is notation.COMMA]
    plain = [
        name
        for name, reading in found.items()
        if reading.form is BARE and name not in source.rules.kinds and name not in source.rules.formats
    ]
    if not commas or not plain:
        return
    cells = {name: source.cell(name, levels=False) for name in plain}
    parts = [
        f"COUNT(*) FILTER (contains({cell}, '.')), "
        f"COUNT(*) FILTER (regexp_full_match({cell}, '[+-]?[1-9][0-9]{{0,2}}[.][0-9]{{3}}'))"
        for cell in cells.values()
    ]
    row = source.ask(parts)
    for i, name in enumerate(plain):
        if row[2 * i] == row[2 * i + 1] > 0:
            raise ColumnError(
                f"column {name!r} of {source.name} can be read in two ways, as plain numbers and as thousands with a "
                f"point, since {commas[0]!r} has a decimal comma; declare "
                f"`formats: {{{name}: '1,234.5'}}` or '1.234,5' {HOW}"
            )
