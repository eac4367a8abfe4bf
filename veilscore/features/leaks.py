"""Find catalogues that leak: variables that would have had another value on the as-of date itself.

Two tests. By dates: every date column of a source, named in the catalogue or not, tells when something of a row was
known; rows with such a date on the as-of day or later are taken out, all variables are computed again, and those that
change are named. By an earlier extract, where the owner kept one: the same variables from the files as they were then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from veilscore.arrays import Array
from veilscore.features.build import Terms, compute
from veilscore.features.catalogue import Catalogue
from veilscore.features.events import Events, day_number, load_events
from veilscore.features.expansion import Variable, expand
from veilscore.features.keys import RowKeys
from veilscore.features.texts import choose_terms

_CHUNK = 500  # variables kept in memory at a time


@dataclass(frozen=True)
class LeakFinding:
    """One thing that is wrong with a catalogue, or that the owner has to answer for.

    leaks : whether variables are wrong by it; otherwise it is a remark.
    variables : names of those that change.
    """

    table: str
    text: str
    leaks: bool
    variables: tuple[str, ...] = ()


def find_leaks(
    catalogue: Catalogue, source: Path | str, as_of: str, *, earlier: Path | str | None = None
) -> tuple[LeakFinding, ...]:
    """Return what is found; a catalogue without a finding that `leaks` passed.

    earlier : folder or database with the sources as they were at the as-of date.
    """
    day = day_number(as_of)
    with TemporaryDirectory(prefix="veilscore-") as scratch:
        with load_events(catalogue, source, scratch=scratch) as events:
            terms = choose_terms(events, day)
            found = list(_by_facts(events))
            firms = events.firms[events.known_firms(day)]
        variables = expand(catalogue, terms)
        late = "a date column tells that rows were changed on the as-of date or later, yet they count"
        changed = _changed(catalogue, (source, None), (source, day), firms, day, variables, terms, scratch)
        found += _grouped(variables, changed, f"{late}; name that column as `known`, or keep versions with `key`")
        if earlier is not None:
            changed = _changed(catalogue, (source, None), (earlier, None), firms, day, variables, terms, scratch)
            found += _grouped(variables, changed, "rows known then read otherwise in the earlier extract")
    return tuple(found)


def _by_facts(events: Events) -> Iterator[LeakFinding]:
    for name, facts in events.facts.items():
        table = events.catalogue.tables[name]
        if facts.no_known:
            text = f"column {table.known!r} is empty in {facts.no_known} rows: they never count; fill it"
            yield LeakFinding(name, text, leaks=False)
        if facts.early:
            text = (
                f"{facts.early} rows were known before they happened; {table.time!r} or {table.known!r} is another date"
            )
            yield LeakFinding(name, text, leaks=True)
        if table.known is None:
            text = f"no column tells when a row was known: {table.known_after} after the event is taken on trust"
            yield LeakFinding(name, text, leaks=False)
        for category, rows in facts.undeclared.items():
            yield LeakFinding(name, f"{rows} rows have no declared level of {category!r}", leaks=False)


def _grouped(variables: Sequence[Variable], changed: set[str], text: str) -> list[LeakFinding]:
    tables: dict[str, list[str]] = {}
    for one in variables:
        if one.name in changed:
            tables.setdefault(one.table or "derived", []).append(one.name)
    return [LeakFinding(table, text, leaks=True, variables=tuple(names)) for table, names in tables.items()]


def _changed(
    catalogue: Catalogue,
    one: tuple[Path | str, int | None],
    other: tuple[Path | str, int | None],
    firms: Array,
    day: int,
    variables: Sequence[Variable],
    terms: Terms,
    scratch: str,
) -> set[str]:
    """Return the names of variables that differ between two readings (source, cutoff) of the same firms."""
    changed: set[str] = set()
    plain = [variable for variable in variables if not variable.operands]
    with (
        load_events(catalogue, one[0], cutoff=one[1], scratch=scratch) as first,
        load_events(catalogue, other[0], cutoff=other[1], scratch=scratch) as second,
    ):
        keys = [RowKeys.on(events.codes_of(firms), day) for events in (first, second)]
        for start in range(0, len(plain), _CHUNK):
            part = plain[start : start + _CHUNK]
            kept = {variable.name: values for variable, values in compute(first, keys[0], part, terms)}
            for variable, values in compute(second, keys[1], part, terms):
                if not _same(kept[variable.name], values):
                    changed.add(variable.name)
    return changed | {v.name for v in variables if set(v.operands) & changed}


def _same(one: Array, other: Array) -> bool:
    if one.dtype == object:
        return bool(one.tolist() == other.tolist())
    return bool(np.allclose(one.astype(np.float64), other.astype(np.float64), rtol=1e-9, atol=1e-9, equal_nan=True))
