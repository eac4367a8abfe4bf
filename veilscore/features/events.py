"""Load event tables into DuckDB once, typed and coded, for everything that is made of them.

Table `e_NAME` has one row an event: firm code f, day t on which it happened, day kn from which it was known, day until
which this version of it was the last one known, numbers n0.., codes of categories c0.. (0: no declared level), hashes
of parties p0.., texts x0... Days are counted from 1970-01-01.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from veilscore.arrays import Integers, Vector
from veilscore.data.ids import Ids, normalise_ids, normaliser_named
from veilscore.data.notation import MISSING, literal
from veilscore.data.text_columns import quoted
from veilscore.data.text_file import csv_relation, file_literal, form_of, plain_text
from veilscore.errors import ColumnError, DataError
from veilscore.features.catalogue import Catalogue, EventTable
from veilscore.terms.settings import nearest

NEVER = 2**31 - 1  # the day of what does not happen
MEMORY = "768MB"  # of DuckDB; what is beyond goes to a folder beside the output
_MISSING = f"({', '.join(map(literal, MISSING))})"


@dataclass(frozen=True)
class TableFacts:
    """Tells an owner about one event table that was read.

    digest : SHA-256 of its file; empty for a table of a database.
    no_time, no_known, no_firm : rows that can never count since that cell is empty.
    undeclared : category -> rows with a level that the catalogue does not name.
    latest, latest_known : last day of an event, and of knowing one, as days from 1970-01-01.
    delay : mean days from an event to its being known.
    """

    source: str
    digest: str
    rows: int
    no_firm: int
    no_time: int
    no_known: int
    early: int
    latest: int | None
    latest_known: int | None
    delay: float | None
    undeclared: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Events:
    """Event tables of one owner, loaded: the connection that holds them, and the firms by code."""

    catalogue: Catalogue
    database: duckdb.DuckDBPyConnection
    firms: Ids
    facts: dict[str, TableFacts]

    def codes_of(self, ids: Ids) -> Integers:
        """Return the codes of firms (n,), each below zero and another where no event names it."""
        at = np.searchsorted(self.firms, ids).clip(max=len(self.firms) - 1)
        return np.where(self.firms[at] == ids, at, -1 - np.arange(len(ids)))

    def known_firms(self, as_of: int) -> Integers:
        """Return the codes of firms that get a row at a day: those listed, or those with an event known before it."""
        if self.catalogue.firms is not None:
            return np.arange(len(self.firms))
        each = [f"SELECT f FROM e_{name} WHERE t < {as_of} AND kn < {as_of}" for name in self.catalogue.tables]
        found = self.database.execute(f"SELECT DISTINCT f FROM ({' UNION ALL '.join(each)}) ORDER BY f").fetchnumpy()
        return np.asarray(found["f"], dtype=np.int64)


def day_number(text: Any) -> int:
    """Return a date as days from 1970-01-01."""
    return int(np.datetime64(text, "D").astype(np.int64))


@contextmanager
def load_events(
    catalogue: Catalogue, source: Path | str, *, cutoff: int | None = None, scratch: Path | str | None = None
) -> Iterator[Events]:
    """Yield the event tables of a catalogue, loaded.

    source : folder of files (CSV or Parquet), or the SQLAlchemy URL of a database.
    cutoff : rows in which any date column is at this day or later are left out (`veilscore features check`).
    scratch : folder for what does not fit in memory.
    Raises DataError, ColumnError: with file, table and column, and never a value of a row.
    """
    with duckdb.connect() as database:
        # one thread adds in one order, so that the same events give the same bytes
        database.execute(f"SET threads = 1; SET memory_limit = '{MEMORY}'; SET TimeZone = {literal(catalogue.zone)}")
        if scratch is not None:
            database.execute(f"SET temp_directory = {literal(str(scratch))}")
        try:
            yield _loaded(database, catalogue, source, cutoff)
        except duckdb.Error as error:
            raise DataError(f"event tables of catalogue {catalogue.name} cannot be read: {_reason(error)}") from None


def _loaded(
    database: duckdb.DuckDBPyConnection, catalogue: Catalogue, source: Path | str, cutoff: int | None
) -> Events:
    relations, digests = {}, {}
    wanted = {name: (table.source, table.columns) for name, table in catalogue.tables.items()}
    if catalogue.firms is not None:
        wanted[""] = (catalogue.firms.source, (catalogue.firms.firm,))
    with ExitStack() as opened:
        for name, (file, columns) in wanted.items():
            label = f"{f'table {name}' if name else 'firms'} of catalogue {catalogue.name}"
            relations[name], digests[name] = _relation(database, label, file, source, opened)
            _check_columns(database, relations[name], columns, f"{file} ({label})")
        firms = _firm_codes(database, catalogue, relations)
        facts = {
            name: _load_table(database, name, table, relations[name], digests[name], cutoff)
            for name, table in catalogue.tables.items()
        }
    return Events(catalogue, database, firms, facts)


def _relation(
    database: duckdb.DuckDBPyConnection, label: str, file: str, source: Path | str, opened: ExitStack
) -> tuple[str, str]:
    """Return the SQL that reads a table while `opened` is, and the digest of its file."""
    if "://" in str(source):
        from veilscore.features.event_database import copy_table  # noqa: PLC0415 - loads sqlalchemy

        return copy_table(database, str(source), file, label), ""
    path = Path(source) / file
    if not path.is_file():
        raise DataError(f"{label}: there is no file {path}; put it there, or correct `source` in the catalogue")
    with path.open("rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    match form_of(path):
        case "parquet":
            return f"read_parquet({file_literal(path)})", digest
        case "text":
            return csv_relation(opened.enter_context(plain_text(path, None)), path.name), digest
        case _:
            raise DataError(f"{label}: {path.name} is neither CSV nor Parquet; save it as one of them")


def column_types(database: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """Return column -> SQL type of a relation."""
    described = database.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    return {str(row[0]): str(row[1]) for row in described}


def _check_columns(database: duckdb.DuckDBPyConnection, relation: str, columns: tuple[str, ...], where: str) -> None:
    available = list(column_types(database, relation))
    for column in columns:
        if column not in available:
            raise ColumnError(f"{where} has no column {column!r}; {nearest(column, available)}")


def _firm_codes(database: duckdb.DuckDBPyConnection, catalogue: Catalogue, relations: dict[str, str]) -> Ids:
    """Make table `firm_codes` (spelling, f) and return the ids of firms by code, ascending."""
    columns = {name: table.firm for name, table in catalogue.tables.items()}
    if catalogue.firms is not None:
        columns = {"": catalogue.firms.firm}
    each = [f"SELECT CAST({quoted(firm)} AS VARCHAR) AS spelling FROM {relations[n]}" for n, firm in columns.items()]
    rows = database.execute(f"SELECT DISTINCT spelling FROM ({' UNION ALL '.join(each)})").fetchall()
    spellings = np.array([row[0] for row in rows if row[0] is not None and row[0].strip()], dtype=object)
    if not len(spellings):
        raise DataError(f"catalogue {catalogue.name}: the event tables name no firm; check `firm` and the files")
    ids = normalise_ids(spellings, catalogue.id_normaliser)
    normaliser = normaliser_named(catalogue.id_normaliser)
    malformed = int(normaliser.malformed(ids).sum())
    if malformed:
        raise DataError(f"catalogue {catalogue.name}: {malformed} ids of firms are malformed; {normaliser.remedy}")
    firms, codes = np.unique(ids, return_inverse=True)
    database.register("spelled", {"spelling": spellings, "f": codes.astype(np.int32)})
    database.execute("CREATE TABLE firm_codes AS SELECT spelling, f FROM spelled")
    database.unregister("spelled")
    return firms


def day_sql(column: str, sql_type: str) -> str:
    """Write SQL of the day of a date, a time, or text; YYYY-MM and a year stand for their last day."""
    name = quoted(column)
    if sql_type.startswith("TIMESTAMP WITH TIME ZONE"):
        return f"CAST(CAST({name} AS TIMESTAMP) AS DATE)"  # in the catalogue's zone
    if sql_type.startswith(("DATE", "TIMESTAMP")):
        return f"CAST({name} AS DATE)"
    text = f"TRIM(CAST({name} AS VARCHAR))"
    return (
        f"CASE WHEN regexp_full_match({text}, '[0-9]{{4}}') THEN TRY_CAST({text} || '-12-31' AS DATE) "
        f"WHEN regexp_full_match({text}, '[0-9]{{4}}-[0-9]{{2}}') THEN last_day(TRY_CAST({text} || '-01' AS DATE)) "
        f"ELSE COALESCE(TRY_CAST({text} AS DATE), CAST(TRY_CAST({text} AS TIMESTAMP) AS DATE)) END"
    )


def _filled(column: str) -> str:
    text = f"TRIM(CAST({quoted(column)} AS VARCHAR))"
    return f"({quoted(column)} IS NOT NULL AND {text} NOT IN {_MISSING})"


def _days(expression: str) -> str:
    return f"CAST(({expression}) - DATE '1970-01-01' AS INTEGER)"


def _load_table(
    database: duckdb.DuckDBPyConnection,
    name: str,
    table: EventTable,
    relation: str,
    digest: str,
    cutoff: int | None,
) -> TableFacts:
    types = column_types(database, relation)
    time = day_sql(table.time, types[table.time])
    known = time if table.known is None else day_sql(table.known, types[table.known])
    delay = 0 if table.known_after is None else int(table.known_after.removesuffix("d"))
    _check_cells(database, relation, table, types)
    version = f"{NEVER}"
    if table.key:
        # known at the same moment: the row further down is the later one, as files are written
        moment = f"TRY_CAST({quoted(table.known or table.time)} AS TIMESTAMP)"
        keys = ", ".join(quoted(c) for c in (table.firm, *table.key))
        following = f"lead({_days(known)} + {delay}) OVER (PARTITION BY {keys} ORDER BY {moment}, place)"
        version = f"COALESCE({following}, {NEVER})"
    placed = f"(SELECT *, row_number() OVER () AS place FROM {relation})" if table.key else relation
    kept = ""
    if cutoff is not None:
        dates = _date_columns(database, relation, types, table.planned)
        kept = " AND ".join(["true", *(f"COALESCE({_days(one)} < {cutoff}, true)" for one in dates)])
    sql = (
        f"SELECT f, {_days(time)} AS t, {_days(known)} + {delay} AS kn, {version} AS until, "
        f"{', '.join(_coded_columns(table)) or '0 AS unused'} FROM {placed} "
        f"JOIN firm_codes ON spelling = CAST({quoted(table.firm)} AS VARCHAR) {f'WHERE {kept}' if kept else ''}"
    )
    database.execute(f"CREATE TABLE e_{name} AS SELECT * FROM ({sql}) WHERE t IS NOT NULL AND kn IS NOT NULL")
    return _facts(database, name, table, relation, digest, (time, known))


def _coded_columns(table: EventTable) -> list[str]:
    """Write SQL of what else a row of a loaded table has: numbers, codes, parties, texts."""
    parties = [f"CASE WHEN {_filled(c)} THEN hash(CAST({quoted(c)} AS VARCHAR)) END" for c in table.parties]
    return [
        *(f"TRY_CAST({quoted(c)} AS DOUBLE) AS n{i}" for i, c in enumerate(table.numbers)),
        *(f"{_code_sql(table, c)} AS c{i}" for i, c in enumerate(table.levels)),
        *(f"{sql} AS p{i}" for i, sql in enumerate(parties)),
        *(f"CAST({quoted(c)} AS VARCHAR) AS x{i}" for i, c in enumerate(table.texts)),
    ]


def _date_columns(
    database: duckdb.DuckDBPyConnection, relation: str, types: dict[str, str], planned: tuple[str, ...]
) -> list[str]:
    """Return SQL of the day of every column that holds dates, whether the catalogue names it or not."""
    typed = {column: kind for column, kind in types.items() if column not in planned}
    dated = [day_sql(column, kind) for column, kind in typed.items() if kind.startswith(("DATE", "TIMESTAMP"))]
    for column in (name for name, kind in typed.items() if kind == "VARCHAR"):
        text = f"TRIM({quoted(column)})"
        day = f"regexp_matches({text}, '^[0-9]{{4}}[-/][0-9]{{1,2}}') AND ({day_sql(column, 'VARCHAR')}) IS NOT NULL"
        some, others = _row(
            database,
            f"SELECT count(*) FILTER ({day}), count(*) FILTER (NOT ({day})) FROM {relation} WHERE {_filled(column)}",
        )
        if some and not others:
            dated.append(day_sql(column, "VARCHAR"))
    return dated


def _code_sql(table: EventTable, category: str) -> str:
    """Write SQL of the code of a category's level or of a band."""
    if category in table.bands:
        band = table.bands[category]
        number = f"TRY_CAST({quoted(band.of)} AS DOUBLE)"
        above = " + ".join(f"CAST({number} >= {edge!r} AS UTINYINT)" for edge in band.edges)
        return f"CAST(CASE WHEN {number} IS NULL THEN 0 ELSE 1 + {above} END AS UTINYINT)"
    text = f"TRIM(CAST({quoted(category)} AS VARCHAR))"
    cases = " ".join(f"WHEN {literal(level)} THEN {code}" for code, level in enumerate(table.levels[category], start=1))
    return f"CAST(CASE {text} {cases} ELSE 0 END AS UTINYINT)"


def _check_cells(database: duckdb.DuckDBPyConnection, relation: str, table: EventTable, types: dict[str, str]) -> None:
    """Refuse a column of dates or numbers with filled cells that are none."""
    for column in table.numbers:
        if types[column] == "VARCHAR":
            wrong = _count(database, relation, f"{_filled(column)} AND TRY_CAST({quoted(column)} AS DOUBLE) IS NULL")
            if wrong:
                raise ColumnError(
                    f"column {column!r} of {table.source} is no number in {wrong} rows; write plain digits, or take it "
                    f"out of numbers"
                )
    for column in filter(None, (table.time, table.known)):
        wrong = _count(database, relation, f"{_filled(column)} AND ({day_sql(column, types[column])}) IS NULL")
        if wrong:
            raise ColumnError(f"column {column!r} of {table.source} is no date in {wrong} rows; write YYYY-MM-DD")


def _count(database: duckdb.DuckDBPyConnection, relation: str, condition: str) -> int:
    return int(_row(database, f"SELECT count(*) FROM {relation} WHERE {condition}")[0])


def _row(database: duckdb.DuckDBPyConnection, sql: str) -> Any:
    return database.execute(sql).fetchall()[0]  # fetchone would leave the result open, and the connection in use


def _facts(
    database: duckdb.DuckDBPyConnection,
    name: str,
    table: EventTable,
    relation: str,
    digest: str,
    days: tuple[str, str],
) -> TableFacts:
    time, known = days
    raw = _row(
        database,
        f"SELECT count(*), count(*) FILTER (NOT {_filled(table.firm)}), count(*) FILTER (({time}) IS NULL), "
        f"count(*) FILTER (({known}) IS NULL) FROM {relation}",
    )
    row = _row(database, f"SELECT count(*) FILTER (kn < t), max(t), max(kn), avg(kn - t) FROM e_{name}")
    undeclared = {}
    for i, category in enumerate(table.levels):
        found = _count(database, f"e_{name}", f"c{i} = 0")
        if found:
            undeclared[category] = found
    rows, no_firm, no_time, no_known = raw
    early, latest, latest_known, delay = row
    return TableFacts(
        source=table.source,
        digest=digest,
        rows=rows,
        no_firm=no_firm,
        no_time=no_time,
        no_known=no_known,
        early=early,
        latest=latest,
        latest_known=latest_known,
        delay=delay,
        undeclared=undeclared,
    )


def as_vector(values: Any) -> Vector:
    """Return what DuckDB fetched as float64, NaN where it is NULL."""
    if isinstance(values, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(values), np.nan, values.data.astype(np.float64))
    return np.asarray(values, dtype=np.float64)


def _reason(error: duckdb.Error) -> str:
    """Say what DuckDB stumbled over, without the cells that its messages quote."""
    if isinstance(error, duckdb.OutOfMemoryException):
        return f"they need more than {MEMORY} of memory and there is no room on disk; make room, or take columns out"
    return f"{type(error).__name__}; check that the files are whole and of the type their names say"
