"""Propose how the columns of a file are read, as the owner may declare it in node.yaml; shows no value of a row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml

from veilscore.data.ingest_file import column_parts, column_types, fetch, opened
from veilscore.data.table import MANY_LEVELS, column_warnings, kind_of
from veilscore.data.text_columns import TextSource
from veilscore.data.text_file import likely_encoding
from veilscore.errors import ColumnError, DataError
from veilscore.terms.reading import DeclaredKind, ReadingRules

_SENTINELS = (-1, -9, -99, -999, -9999, -99999, -999999, 99, 999, 9999, 99999, 999999, 9999999, 99999999)
_FEWEST = 3  # rows that a number must have before it looks as if it stood for something
_UNIQUE_TEXT = 0.9  # share of different cells from which text is names or remarks


@dataclass(frozen=True)
class ProposedColumn:
    """How a column would be read: its kind, numbers that look special, and what its owner should know."""

    name: str
    kind: DeclaredKind
    note: str = ""
    special: tuple[int, ...] = ()


@dataclass(frozen=True)
class Description:
    """What is proposed of a file; `encoding` is None where it is UTF-8 or declared."""

    columns: tuple[ProposedColumn, ...]
    rules: ReadingRules
    encoding: str | None = field(default=None)


def describe(path: Path, rules: ReadingRules, roles: Collection[str]) -> Description:
    """Return what is proposed of the columns of a file that have no role; DataError where it cannot be read at all."""
    try:
        return Description(_columns(path, rules, roles), rules)
    except DataError as error:
        encoding = likely_encoding(path) if rules.encoding is None and "not UTF-8" in str(error) else None
        if encoding is None:
            raise
        guessed = rules.model_copy(update={"encoding": encoding})
        return Description(_columns(path, guessed, roles), guessed, encoding)


def _columns(path: Path, rules: ReadingRules, roles: Collection[str]) -> tuple[ProposedColumn, ...]:
    with opened(path, rules) as source:
        types = {name: kind for name, kind in column_types(source).items() if name not in roles}
        return tuple(_proposed(source, name, types[name]) for name in types)


def _proposed(source: TextSource, name: str, sql_type: str) -> ProposedColumn:
    """Look at one column alone, so that one in doubt does not hide what is said of the next."""
    said = source.rules.kinds.get(name)
    if said in {"ignore", "text"}:
        return ProposedColumn(name, said)
    try:
        parts, notes = column_parts(replace(source), {name: sql_type})
    except ColumnError as error:
        return ProposedColumn(name, "ignore", str(error))
    values = fetch(source, parts)[name]
    dated = "dates" in " ".join(notes) or sql_type.startswith(("DATE", "TIMESTAMP")) or source.kind(name) == "date"
    if kind_of(values) == "category":
        filled = [cell for cell in values.tolist() if cell is not None]
        n_levels = len(set(filled))
        if said is None and n_levels > MANY_LEVELS and n_levels > _UNIQUE_TEXT * len(filled):
            return ProposedColumn(
                name, "text", f"{n_levels} levels in {len(filled)} filled cells, as names or remarks have"
            )
        return ProposedColumn(name, "category", "; ".join(column_warnings(name, values, source.rules)))
    if _is_iso(source, name, sql_type):
        dated = True
    note = "; ".join((*notes, *column_warnings(name, values, source.rules)))
    special = () if dated or name in source.rules.special else _sentinels(values[~np.isnan(values)])
    return ProposedColumn(name, "date" if dated else "number", note, special)


def _is_iso(source: TextSource, name: str, sql_type: str) -> bool:
    """Say whether a column of text that is read as numbers without a note has dates, which are such."""
    if sql_type != "VARCHAR":
        return False
    (n_points,) = source.ask([f"COUNT(*) FILTER (regexp_matches({source.cell(name)}, '^[0-9]{{4}}-'))"])
    return bool(n_points)


def _sentinels(present: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[int, ...]:
    """Return numbers of nines and minus ones that stand apart at an end of a column."""
    values, counts = np.unique(present, return_counts=True)
    found = []
    for value, beside in ((values[:1], values[1:2]), (values[-1:], values[-2:-1])):
        if not len(beside) or float(value[0]) not in _SENTINELS or counts[values == value[0]][0] < _FEWEST:
            continue
        apart = beside[0] >= 0 if value[0] < 0 else value[0] > 10 * max(abs(beside[0]), 1)
        found += [int(value[0])] if apart else []
    return tuple(found)


def proposal(found: Description, shown: str, id_column: str) -> str:
    """Return lines for node.yaml: a whole data set where `shown` says where it is, else keys to put into one."""
    lines = ["datasets:", "  main:", f"    {shown}"] if shown else []
    lines += [f"    id_column: {_word(id_column or '?')}" + ("" if id_column else "  # name it")] if shown else []
    if found.encoding:
        lines.append(f"    encoding: {found.encoding}  # guessed: look whether names of columns are right")
    lines += _mapping("kinds", [(c.name, c.kind, c.note) for c in found.columns])
    special = [
        (c.name, str(list(c.special)), "if it means something; or name it under missing")
        for c in found.columns
        if c.special
    ]
    lines += _mapping("special", special)
    formats = [(name, _word(form), "") for name, form in found.rules.formats.items()]
    return "\n".join([*lines, *_mapping("formats", formats)])


def _mapping(key: str, entries: Sequence[tuple[str, str, str]]) -> list[str]:
    if not entries:
        return []
    return [f"    {key}:"] + [
        f"      {_word(name)}: {value}" + (f"  # {note}" if note else "") for name, value, note in entries
    ]


def _word(text: str) -> str:
    """Return text as YAML reads it back: in quotes where it has to be."""
    return yaml.safe_dump(text, allow_unicode=True, width=1 << 20).removesuffix("\n...\n").strip()
