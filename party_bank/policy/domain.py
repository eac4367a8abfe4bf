"""What values a field may have: from the JSON schema of a graph's input, or from what the graph's tables write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from math import ceil, floor
from typing import Any

from party_bank.policy.unary import Value, same

_TYPES = ("null", "boolean", "number", "integer", "string", "array", "object")
_EVERYTHING_ELSE = "another text"  # stands for each text that no test names


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, without the ends where they are open; None: without end."""

    low: Decimal | None = None
    high: Decimal | None = None
    low_open: bool = False
    high_open: bool = False
    whole: bool = False

    def holds(self, value: Decimal) -> bool:
        """Return whether a number is in it."""
        if self.whole and value != value.to_integral_value():
            return False
        above = self.low is None or value > self.low or (value == self.low and not self.low_open)
        return above and (self.high is None or value < self.high or (value == self.high and not self.high_open))

    def representatives(self, cuts: Iterable[Decimal]) -> list[Decimal]:
        """Return every cut in it, and one number between every two neighbours and beyond the outermost ones."""
        ends = {end for end in (self.low, self.high) if end is not None}
        points = sorted({*cuts, *ends}) or [Decimal(0)]
        between = [(a + b) / 2 for a, b in pairwise(points)]
        tried = {*points, *between, points[0] - 1, points[-1] + 1}
        if self.whole:
            tried = {*points, *(Decimal(f(p)) + d for p in points for f in (floor, ceil) for d in (-1, 0, 1))}
        return sorted(value for value in tried if self.holds(value))


@dataclass(frozen=True)
class Domain:
    """The values that a field may have.

    literals : those that are named one by one, null and booleans among them.
    numbers : ranges; texts : whether any text may come; others : whether lists or objects may.
    """

    literals: tuple[Value, ...] = ()
    numbers: tuple[Range, ...] = ()
    texts: bool = False
    others: bool = False

    def holds(self, value: Value) -> bool:
        """Return whether a value is in it."""
        if any(same(value, one) for one in self.literals):
            return True
        if isinstance(value, Decimal):
            return any(part.holds(value) for part in self.numbers)
        return (isinstance(value, str) and self.texts) or (value == () and self.others)

    def representatives(self, constants: Iterable[Value]) -> list[Value]:
        """Return values of which at least one lies wherever tests on these constants tell values apart."""
        constants = list(constants)
        found: list[Value] = []
        cuts = [one for one in constants if isinstance(one, Decimal)]
        texts = [one for one in constants if isinstance(one, str)]
        candidates: list[Value] = list(self.literals)
        for part in self.numbers:
            candidates += part.representatives(cuts)
        if self.texts:
            other = _EVERYTHING_ELSE
            while other in texts:
                other += "!"
            candidates += [*texts, other]
        if self.others:
            candidates.append(())
        for value in candidates:
            if not any(same(value, one) for one in found):
                found.append(value)
        return found

    def join(self, other: Domain) -> Domain:
        """Return what may be in either."""
        return Domain(
            (*self.literals, *(one for one in other.literals if not any(same(one, own) for own in self.literals))),
            (*self.numbers, *(part for part in other.numbers if part not in self.numbers)),
            self.texts or other.texts,
            self.others or other.others,
        )

    def with_missing(self) -> Domain:
        """Return it with null, which is what a field without a value is."""
        return self if self.holds(None) else replace(self, literals=(*self.literals, None))


ANY = Domain((None, True, False), (Range(),), texts=True, others=True)


def of_schema(schema: Any) -> Domain:
    """Return what a JSON schema lets through; keywords that are not known here can only let through less."""
    if not isinstance(schema, Mapping):
        return ANY
    if isinstance(schema.get("enum"), list):
        return _of_values(schema["enum"])
    if "const" in schema:
        return _of_values([schema["const"]])
    types = schema.get("type", list(_TYPES))
    found = Domain()
    for kind in [types] if isinstance(types, str) else types:
        if kind == "null":
            found = found.join(Domain((None,)))
        elif kind == "boolean":
            found = found.join(Domain((True, False)))
        elif kind in {"number", "integer"}:
            found = found.join(Domain(numbers=(_range(schema, whole=kind == "integer"),)))
        else:
            found = found.join(Domain(texts=kind == "string", others=kind in {"array", "object"}))
    return found


def _of_values(values: Iterable[Any]) -> Domain:
    return Domain(tuple(value_of(one) for one in values))


def value_of(given: Any) -> Value:
    """Return a JSON value as tests see it."""
    if given is None or isinstance(given, (bool, str)):
        return given
    return Decimal(str(given)) if isinstance(given, (int, float)) else ()


def json_of(value: Value) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return [] if value == () else value


def _range(schema: Mapping[str, Any], *, whole: bool) -> Range:
    def end(closed: str, opened: str) -> tuple[Decimal | None, bool]:
        if isinstance(schema.get(opened), (int, float)):
            return Decimal(str(schema[opened])), True
        return (Decimal(str(schema[closed])), False) if isinstance(schema.get(closed), (int, float)) else (None, False)

    low, low_open = end("minimum", "exclusiveMinimum")
    high, high_open = end("maximum", "exclusiveMaximum")
    return Range(low, high, low_open, high_open, whole)


def fields_of(schema: Any, before: str = "") -> dict[str, Domain]:
    """Return the domain of every field that a JSON schema of an object names: "firm.score" -> domain."""
    if not isinstance(schema, Mapping) or not isinstance(schema.get("properties"), Mapping):
        return {}
    required, found = schema.get("required", []), {}
    for name, part in schema["properties"].items():
        path = f"{before}{name}"
        domain = of_schema(part)
        found[path] = domain if name in required else domain.with_missing()
        inside = fields_of(part, f"{path}.")
        certain = name in required and isinstance(part, Mapping) and part.get("type") == "object"
        found |= inside if certain else {key: one.with_missing() for key, one in inside.items()}
    return found
