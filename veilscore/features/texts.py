"""Texts become events: one for each frequent term, and for each risk event, that a text tells of.

Which terms are frequent is found once, on texts known before the as-of date, and kept in the lineage of the built set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import duckdb
import numpy as np

from veilscore.features.catalogue import Catalogue, TermGroup
from veilscore.features.events import Events
from veilscore.features.expansion import RISK, TERM
from veilscore.features.lexicon import events_in, patterns, risk_lexicon, terms_of, tokeniser
from veilscore.features.tiles import Coded

_BATCH = 20_000  # texts in memory at a time
_SAMPLE = 200  # texts by which `tokens: auto` decides


def choose_terms(
    events: Events, as_of: int, fixed: Mapping[int, tuple[str, ...]] | None = None
) -> dict[int, tuple[str, ...]]:
    """Return the terms of each entry of the catalogue's `terms`, by number from 0.

    fixed : terms chosen before, which stay.
    """
    chosen = {}
    for number, group in enumerate(events.catalogue.terms):
        if fixed is not None and number in fixed:
            chosen[number] = fixed[number]
        elif group.words:
            chosen[number] = tuple(dict.fromkeys(word.casefold() for word in group.words))
        else:
            chosen[number] = _frequent(events, group, as_of)
    return chosen


def _frequent(events: Events, group: TermGroup, as_of: int) -> tuple[str, ...]:
    column = _column(events.catalogue, group.table, group.of)
    seen = f"FROM e_{group.table} WHERE t < {as_of} AND kn < {as_of} AND {column} IS NOT NULL"
    cut = _cutter(events, group)
    counts: Counter[str] = Counter()
    n_texts = 0
    for text, times in _rows(events.database, f"SELECT {column}, count(*) {seen} GROUP BY {column} ORDER BY {column}"):
        n_texts += times
        for term in cut(text):
            counts[term] += times
    least, most = group.min_share * n_texts, group.max_share * n_texts
    kept = [(-times, term) for term, times in counts.items() if least <= times <= most]
    return tuple(term for _, term in sorted(kept)[: group.most])


def _cutter(events: Events, group: TermGroup) -> Callable[[str], set[str]]:
    column = _column(events.catalogue, group.table, group.of)
    sample = f"SELECT {column}, 1 FROM e_{group.table} WHERE {column} IS NOT NULL LIMIT {_SAMPLE}"
    cut = tokeniser(group, [text for text, _ in _rows(events.database, sample)])
    return lambda text: terms_of(cut(text), group.ngrams)


def add_term_events(events: Events, number: int, terms: Sequence[str]) -> Coded:
    """Make table `terms_N` of an entry: an event of a text for each chosen term that is in it."""
    group = events.catalogue.terms[number]
    cut, known = _cutter(events, group), {term: code for code, term in enumerate(terms, start=1)}

    def codes(text: str) -> list[int]:
        return sorted(known[term] for term in known.keys() & cut(text))

    _add(events, f"terms_{number}", (group.table, group.of), codes)
    return Coded(f"terms_{number}", (), {TERM: terms})


def add_risk_events(events: Events, number: int) -> Coded:
    """Make table `risks_N` of an entry: an event of a text for each risk event of which it tells."""
    group = events.catalogue.risks[number]
    lexicon = risk_lexicon(group)
    compiled, known = patterns(lexicon), {event: code for code, event in enumerate(lexicon, start=1)}
    _add(
        events,
        f"risks_{number}",
        (group.table, group.of),
        lambda text: [known[one] for one in events_in(text, compiled)],
    )
    return Coded(f"risks_{number}", (), {RISK: tuple(lexicon)})


def _add(events: Events, name: str, of: tuple[str, str], codes_of: Callable[[str], Collection[int]]) -> None:
    table, text_column = of
    column, database = _column(events.catalogue, table, text_column), events.database
    database.execute(
        f"CREATE OR REPLACE TABLE told AS SELECT {column} AS x, row_number() OVER (ORDER BY {column}) AS doc "
        f"FROM (SELECT DISTINCT {column} FROM e_{table} WHERE {column} IS NOT NULL)"
    )
    database.execute("CREATE OR REPLACE TABLE found (doc BIGINT, c0 INTEGER)")
    for batch in _batches(_rows(database, "SELECT x, doc FROM told")):
        pairs = [(doc, code) for text, doc in batch for code in codes_of(text)]
        docs, codes = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        database.register("batch", {"doc": docs, "c0": codes.astype(np.int32)})
        database.execute("INSERT INTO found SELECT doc, c0 FROM batch")
        database.unregister("batch")
    database.execute(
        f"CREATE OR REPLACE TABLE {name} AS SELECT e.f, e.t, e.kn, e.until, found.c0 FROM e_{table} e "
        f"JOIN told ON told.x = e.{column} JOIN found USING (doc)"
    )


def _column(catalogue: Catalogue, table: str, text: str) -> str:
    return f"x{catalogue.tables[table].texts.index(text)}"


def _rows(database: duckdb.DuckDBPyConnection, sql: str) -> Iterator[tuple[str, int]]:
    """Yield rows of a query, through a cursor of its own, so that others may run meanwhile."""
    cursor = database.cursor()
    cursor.execute(sql)
    while rows := cursor.fetchmany(_BATCH):
        yield from rows


def _batches(rows: Iterable[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    batch: list[tuple[str, int]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch
