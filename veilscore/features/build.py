"""Build a set of variables from event tables: compute them, write one Parquet file and its lineage."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from veilscore import __version__
from veilscore.arrays import Array
from veilscore.data.ids import normalise_ids
from veilscore.data.panel import Panel
from veilscore.errors import ConfigError, DataError, StateError
from veilscore.features import parties, tiles
from veilscore.features.catalogue import Catalogue, digest
from veilscore.features.events import Events, day_number, load_events
from veilscore.features.expansion import RISK, Variable, expand, lineage_of
from veilscore.features.keys import RowKeys
from veilscore.features.parquet import ParquetFile
from veilscore.features.texts import add_risk_events, add_term_events, choose_terms
from veilscore.features.tiles import Coded
from veilscore.files.private import private_folder
from veilscore.files.store import write_atomically, write_text
from veilscore.terms.settings import parse_json

FIRM_COLUMN, DAY_COLUMN = "uscc", "as_of"
Terms = Mapping[int, tuple[str, ...]]
Column = tuple[Variable, Array]


@dataclass(frozen=True)
class Built:
    """Says what was built, for its owner to read and for the file's footer."""

    path: Path
    catalogue: str
    n_rows: int
    variables: tuple[Variable, ...]
    terms: Terms


def compute(events: Events, keys: RowKeys, variables: Sequence[Variable], terms: Terms) -> Iterator[Column]:
    """Yield every variable with its (n_rows,) values, grouped as they are made; derived ones come last.

    Counts are int32, numbers float64 with NaN for missing, categories objects of str with None for missing.
    """
    keys.register(events.database)
    needed = {operand for one in variables for operand in one.operands}
    operands: dict[str, Array] = {}
    for one, values in _plain(events, keys, [one for one in variables if not one.operands], terms):
        if one.name in needed:
            operands[one.name] = values.astype(np.float64)
        yield one, values
    for one in variables:
        if one.operands:
            yield one, _derive(one.aggregate, operands[one.operands[0]], operands[one.operands[1]])


def _plain(events: Events, keys: RowKeys, variables: Sequence[Variable], terms: Terms) -> Iterator[Column]:
    database, n_rows = events.database, keys.n_rows
    by_table = lambda one: one.table  # noqa: E731
    for name, group in groupby(sorted(variables, key=by_table), key=by_table):
        table, alike = events.catalogue.tables[name], list(group)
        coded = Coded(f"e_{name}", table.numbers, table.levels)
        events_only = [one for one in alike if not one.is_text]
        yield from tiles.compute(database, coded, [v for v in events_only if v.aggregate in tiles.FAMILY], n_rows)
        of_parties = [one for one in events_only if one.aggregate in parties.FAMILY]
        yield from parties.compute(database, coded, table, of_parties, n_rows)
        last = [one for one in events_only if one.aggregate == "latest"]
        yield from parties.latest(database, coded, last, n_rows)
    yield from _of_texts(events, n_rows, [one for one in variables if one.is_text], terms)


def _of_texts(events: Events, n_rows: int, variables: Sequence[Variable], terms: Terms) -> Iterator[Column]:
    made: set[str] = set()

    def of(group: Any, kind: str, coded: Callable[[], Coded]) -> Iterator[Column]:
        alike = [
            one
            for one in variables
            if (one.table, one.column, one.where[0][0]) == (group.table, group.of, kind) and one.name not in made
        ]
        if alike:
            found = coded()
            alike = [one for one in alike if set(one.where[0][1]) <= set(found.levels[kind])]
            made.update(one.name for one in alike)
            bare = {one.name: one for one in alike}
            counted = [_without_column(one) for one in alike]
            for one, values in tiles.compute(events.database, found, counted, n_rows):
                yield bare[one.name], values

    for number, group in enumerate(events.catalogue.terms):
        yield from of(group, "term", lambda number=number: add_term_events(events, number, terms[number]))  # type: ignore[misc]
    for number, risk in enumerate(events.catalogue.risks):
        yield from of(risk, RISK, lambda number=number: add_risk_events(events, number))  # type: ignore[misc]


def _without_column(one: Variable) -> Variable:
    """Return a text variable as one that counts events."""
    return Variable(one.name, one.table, one.aggregate, None, None, one.days, one.where)


def _derive(kind: str, one: Array, other: Array) -> Array:
    if kind == "difference":
        return np.asarray(one - other)
    return np.asarray(np.divide(one, other, out=np.full(len(one), np.nan), where=other != 0))


def build(
    catalogue: Catalogue,
    source: Path | str,
    path: Path,
    as_of: str | Sequence[str],
    *,
    fixed_terms: Terms | None = None,
    on_column: Callable[[Variable, Array], None] | None = None,
) -> Built:
    """Build the variables of all firms at a date, write PATH (Parquet) and its lineage, whole or not at all.

    source : folder of event files, or URL of a database.
    as_of : date; events on it or later, or known on it or later, do not count. Of several dates the file is a panel,
        whose key is (uscc, as_of), with each firm at the dates at which it was known.
    fixed_terms : terms of an earlier build, which stay.
    on_column : sees every column on its way out.
    Raises DataError and its children for what cannot be read, StateError for what cannot be written.
    """
    panel = not isinstance(as_of, str)
    days = (as_of,) if isinstance(as_of, str) else tuple(sorted(set(as_of)))
    with _scratch(path) as scratch, load_events(catalogue, source, scratch=scratch) as events:
        keys = _known_at(events, days)
        if not keys.n_rows:
            raise DataError(f"catalogue {catalogue.name}: no event was known before {days[-1]}; choose a later date")
        return _write(events, keys, path, days[-1], fixed_terms, on_column, panel=panel)


def _known_at(events: Events, days: Sequence[str]) -> RowKeys:
    """Return the firms that are known at each day, at that day."""
    each = [RowKeys.on(events.known_firms(day), day) for day in map(day_number, days)]
    return RowKeys(np.concatenate([one.firms for one in each]), np.concatenate([one.days for one in each]))


def known_pairs(catalogue: Catalogue, source: Path | str, days: Sequence[str], most: int) -> Panel | None:
    """Return all pairs of a firm and one of some days at which it is known; None where they are more than `most`."""
    with (
        tempfile.TemporaryDirectory(prefix="veilscore-") as scratch,
        load_events(catalogue, source, scratch=scratch) as events,
    ):
        keys = _known_at(events, days)
        if keys.n_rows > most:
            return None
        if not keys.n_rows:  # one that has nothing yet stands for none: a refusal would tell of the first event
            keys = RowKeys.on(np.zeros(1, np.int64), day_number(days[0]))
        return Panel(events.firms[keys.firms], keys.days.astype("datetime64[D]"))


def build_rows(
    catalogue: Catalogue,
    source: Path | str,
    path: Path,
    firms: Sequence[str],
    days: Sequence[Any] | Array,
    *,
    fixed_terms: Terms | None = None,
    more: Mapping[str, Array] | None = None,
) -> Built:
    """Build the variables of firms at their own dates (a panel) and write PATH, whose key is (uscc, as_of).

    firms, days : (n,) ids and dates; a firm without any event has a row of zeros and missing values.
    more : columns of the owner's own beside them, such as a label, each (n,).
    """
    days_of = np.asarray(days, dtype="datetime64[D]").astype(np.int64)
    if not len(days_of):
        raise ConfigError("no row was asked for: the file of rows is empty")
    with _scratch(path) as scratch, load_events(catalogue, source, scratch=scratch) as events:
        ids = normalise_ids(np.asarray(firms, dtype=object), catalogue.id_normaliser)
        latest = str(np.datetime64(int(days_of.max()), "D"))
        keys = RowKeys(events.codes_of(ids), days_of)
        return _write(events, keys, path, latest, fixed_terms, None, panel=True, ids=ids, more=more or {})


def _write(
    events: Events,
    keys: RowKeys,
    path: Path,
    as_of: str,
    fixed_terms: Terms | None,
    on_column: Callable[[Variable, Array], None] | None,
    *,
    panel: bool,
    ids: Array | None = None,
    more: Mapping[str, Array] = MappingProxyType({}),
) -> Built:
    catalogue = events.catalogue
    # of a panel, terms are chosen by what was known at its first date, so that none is chosen by later texts
    terms = choose_terms(events, int(keys.days.min()), fixed_terms)
    variables = expand(catalogue, terms)
    sources = {name: facts.digest for name, facts in events.facts.items()}
    about = {
        "veilscore.catalogue": catalogue.hash,
        "veilscore.as_of": as_of,
        "veilscore.sources": digest(sources),
        "veilscore.terms": digest({str(number): list(found) for number, found in terms.items()}),
    }
    written = []

    def fill(file: Any) -> None:
        with ParquetFile(file, about) as out:
            out.add(FIRM_COLUMN, (events.firms[keys.firms] if ids is None else ids).astype(object))
            if panel:
                out.add(DAY_COLUMN, keys.days.astype("datetime64[D]"))
            for name, values in more.items():
                out.add(name, values)
            for one, values in compute(events, keys, variables, terms):
                out.add(one.name, values)
                written.append(one)
                if on_column is not None:
                    on_column(one, values)

    write_atomically(path, fill)
    lineage = {
        "format": "veilscore-features/1",
        "version": __version__,
        "catalogue": catalogue.name,
        "catalogue_sha256": catalogue.hash,
        "as_of": as_of,
        "rows": keys.n_rows,
        "sources": {name: asdict(facts) for name, facts in events.facts.items()},
        "terms": {str(number): list(found) for number, found in terms.items()},
        "variables": [lineage_of(catalogue, one) for one in written],
    }
    write_text(lineage_path(path), json.dumps(lineage, ensure_ascii=False, indent=1) + "\n")
    return Built(path, catalogue.hash, keys.n_rows, tuple(written), terms)


def lineage_path(path: Path) -> Path:
    """Return where the lineage of a built set is."""
    return path.with_suffix(".lineage.json")


def earlier_terms(path: Path, catalogue: Catalogue) -> Terms | None:
    """Return the terms that an earlier build of this catalogue at this path chose; None if there is none."""
    file = lineage_path(path)
    if not file.is_file():
        return None
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
        if found["catalogue_sha256"] != catalogue.hash:
            return None
        return {int(number): tuple(str(term) for term in terms) for number, terms in found["terms"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"lineage {file} is damaged; delete it, and terms are chosen anew") from error


def _scratch(path: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        private_folder(path.parent)
        return tempfile.TemporaryDirectory(prefix=".events-", dir=path.parent)
    except OSError as error:
        raise StateError(f"{path.parent} cannot be written: {error.strerror}") from error
