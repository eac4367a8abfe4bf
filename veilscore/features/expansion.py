"""Expand a catalogue into variables, each with a readable name, a hash and a lineage."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from veilscore.errors import ConfigError
from veilscore.features.catalogue import (
    ANY,
    ENGINE,
    OF_NUMBERS,
    Catalogue,
    DerivedVariable,
    RiskGroup,
    TermGroup,
    VariableGroup,
    digest,
    split_aggregate,
    window_days,
)
from veilscore.features.lexicon import risk_lexicon
from veilscore.terms.settings import nearest

MAX_VARIABLES = 50_000
TERM, RISK = "term", "risk"  # stand in for a category in filters of text variables
Filter = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Variable:
    """One variable of a catalogue.

    column : number (or for latest, category), or text column; None where events are counted.
    days : length of the window; None for all.
    where : (category, levels that pass), by name; of a text variable ("term", (term,)) or ("risk", (event,)).
    operands : names of the two variables of a ratio or difference.
    """

    name: str
    table: str
    aggregate: str
    column: str | None = None
    party: str | None = None
    days: int | None = None
    where: Filter = ()
    kind: Literal["number", "category"] = "number"
    operands: tuple[str, ...] = ()

    @property
    def is_text(self) -> bool:
        """Say whether it is made of a text column."""
        return bool(self.where) and self.where[0][0] in {TERM, RISK}


def expand(catalogue: Catalogue, terms: Mapping[int, tuple[str, ...]] | None = None) -> tuple[Variable, ...]:
    """Return every variable once, in the catalogue's order.

    terms : number of an entry of `terms`, from 0 -> its chosen terms; entries without any give no variable yet.
    Raises ConfigError where a derived variable names one that is not there, two share a name, or there are too many.
    """
    found: dict[str, Variable] = {}
    for variable in _plain(catalogue, terms or {}):
        found.setdefault(variable.name, variable)  # two entries may declare the same variable: its name says all
        if len(found) > MAX_VARIABLES:
            raise ConfigError(f"catalogue {catalogue.name} has more than {MAX_VARIABLES:,} variables; take windows out")
    for number, derived in enumerate(catalogue.derived, start=1):
        for variable in _derived(derived):
            where = f"catalogue {catalogue.name}: derived.{number} ({variable.name})"
            for operand in variable.operands:
                if operand not in found or found[operand].kind == "category":
                    hint = nearest(operand, list(found))
                    raise ConfigError(f"{where}: there is no number variable {operand!r}; {hint[:400]}")
            if found.setdefault(variable.name, variable) != variable:
                raise ConfigError(f"{where}: another variable has this name; choose another")
    return tuple(found.values())


def variable_hash(catalogue: Catalogue, variable: Variable) -> str:
    """Return the SHA-256 of all that decides a variable's values but the events."""
    table = catalogue.tables.get(variable.table)
    meaning: dict[str, Any] = {**vars(variable), "engine": ENGINE, "zone": catalogue.zone}
    meaning["table_meaning"] = None if table is None else table.model_dump(mode="json")
    return digest(meaning)


def lineage_of(catalogue: Catalogue, variable: Variable) -> dict[str, Any]:
    """Return what a variable is made of, as JSON values."""
    table = catalogue.tables.get(variable.table)
    return {
        "name": variable.name,
        "hash": variable_hash(catalogue, variable),
        "kind": variable.kind,
        "source": None if table is None else table.source,
        "column": variable.column,
        "aggregate": variable.aggregate + (f"({variable.party})" if variable.party else ""),
        "days": variable.days,
        "where": {name: list(levels) for name, levels in variable.where},
        "operands": list(variable.operands),
    }


def _plain(catalogue: Catalogue, terms: Mapping[int, tuple[str, ...]]) -> Iterator[Variable]:
    for group in catalogue.variables:
        yield from _of_group(catalogue, group)
    for number, text in enumerate(catalogue.terms):
        yield from _of_terms(text, terms.get(number, text.words))
    for risk in catalogue.risks:
        yield from _of_risks(risk)


def _of_group(catalogue: Catalogue, group: VariableGroup) -> Iterator[Variable]:
    levels = catalogue.tables[group.table].levels
    for where in _filters(group):
        passing = ",".join(f"{name}={'|'.join(chosen)}" for name, chosen in where)
        shown = f"[{passing}]" if where else ""
        for name, window in itertools.product(group.aggregate, group.windows):
            aggregate, party = split_aggregate(name)
            uses_column = aggregate not in {"count", "days_since", "active_months", "distinct"}
            for column in group.of if uses_column and group.of else (None,):
                middle = f".{column}" if column else ""
                yield Variable(
                    name=f"{group.table}{middle}.{name}.{window}{shown}",
                    table=group.table,
                    aggregate=aggregate,
                    column=column,
                    party=party,
                    days=window_days(window),
                    where=where,
                    kind="category" if aggregate == "latest" and column in levels else "number",
                )


def _filters(group: VariableGroup) -> Iterator[Filter]:
    """Yield each combination of levels, by name of category; `*` leaves its category out."""
    names = sorted(group.where)
    for chosen in itertools.product(*(group.where[name] for name in names)):
        pairs = zip(names, chosen, strict=True)
        yield tuple((name, tuple(sorted(set(choice.split("|"))))) for name, choice in pairs if choice != ANY)


def _of_terms(group: TermGroup, terms: tuple[str, ...]) -> Iterator[Variable]:
    for term, window in itertools.product(terms, group.windows):
        yield Variable(
            name=f"{group.table}.{group.of}.term({term}).{window}",
            table=group.table,
            aggregate="any",
            column=group.of,
            days=window_days(window),
            where=((TERM, (term,)),),
        )


def _of_risks(group: RiskGroup) -> Iterator[Variable]:
    for event, aggregate, window in itertools.product(risk_lexicon(group), group.aggregate, group.windows):
        yield Variable(
            name=f"{group.table}.{group.of}.risk({event}).{aggregate}.{window}",
            table=group.table,
            aggregate=aggregate,
            column=group.of,
            days=window_days(window),
            where=((RISK, (event,)),),
        )


def _derived(derived: DerivedVariable) -> Iterator[Variable]:
    kind = "ratio" if derived.ratio else "difference"
    for window in derived.windows or ("",):
        name = derived.name.replace("{window}", window)
        operands = tuple(operand.replace("{window}", window) for operand in derived.operands)
        yield Variable(name=name, table="", aggregate=kind, operands=operands)


def needs_number(variable: Variable) -> bool:
    """Say whether a variable of the tiles is made of a number column."""
    return variable.aggregate in OF_NUMBERS or variable.column is not None
