"""The tests in the cells of a decision table, read so that their truth at any value is known without running them.

What is read is the part of zen's unary grammar that says something of the one value `$`: comparisons with numbers,
equality, intervals `[a..b]`, sets `in [...]`, `and`, `or`, commas, and the same written with `$`. Everything else, such
as functions or other fields, raises `NotAnalysed` with what it is.

The engine joins from the left, whatever joins: `0 or 1 and 2` is `(0 or 1) and 2`. A test has three outcomes: yes, no,
or an error, for example where text is compared with a number. The engine stops at the first part that decides, so an
error behind it does not matter; a cell whose test ends in an error does not match.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

Value = Decimal | str | bool | None | tuple[()]  # the empty tuple stands for a list or an object
Outcome = bool | None  # None: an error

_ORDERS: dict[str, Callable[[Decimal, Decimal], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_MOST_DIGITS = 900_000  # before or behind the point
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w]))|(?P<text>'[^'\\]*'|\"[^\"\\]*\")"
    r"|(?P<word>[A-Za-z_$][\w$]*)|(?P<mark>\.\.|[<>!=]=|[<>+\-,()\[\]]))"
)


class NotAnalysed(Exception):  # noqa: N818 - not an error of anybody: the cell may be right
    """A cell says something that is beyond the part of the grammar that is analysed; the message says what."""


def same(one: Value, other: Value) -> bool:
    """Return whether two values are equal for zen, to which a boolean is no number."""
    return type(one) is type(other) and one == other


@dataclass(frozen=True)
class Compare:
    """`< 5` and the like; an error for what is no number."""

    order: str
    than: Decimal

    def at(self, value: Value) -> Outcome:
        """Return the outcome at a value."""
        return _ORDERS[self.order](value, self.than) if isinstance(value, Decimal) else None

    def constants(self) -> Iterator[Value]:
        """Yield the values at which the outcome may change."""
        yield self.than


@dataclass(frozen=True)
class OneOf:
    """`'a'`, `!= 5`, `in ['a', 'b']`: equality with one of some values, or with none of them.

    listed : whether it was written as a list, in which zen finds no list or object.
    """

    values: tuple[Value, ...]
    negated: bool
    listed: bool

    def at(self, value: Value) -> Outcome:
        """Return the outcome at a value."""
        if self.listed and value == ():
            return None
        return any(same(value, one) for one in self.values) != self.negated

    def constants(self) -> Iterator[Value]:
        """Yield the values at which the outcome may change."""
        yield from self.values


@dataclass(frozen=True)
class Within:
    """`[a..b]`, `(a..b)` and so on, or `not in` one; an error for what is no number."""

    low: Compare
    high: Compare
    negated: bool

    def at(self, value: Value) -> Outcome:
        """Return the outcome at a value."""
        if not isinstance(value, Decimal):
            return None
        return (self.low.at(value) is True and self.high.at(value) is True) != self.negated

    def constants(self) -> Iterator[Value]:
        """Yield the values at which the outcome may change."""
        yield from (self.low.than, self.high.than)


@dataclass(frozen=True)
class Joined:
    """Two tests joined by `and` (`until` is no) or by `or` or a comma (`until` is yes)."""

    left: Test
    right: Test
    until: bool

    def at(self, value: Value) -> Outcome:
        """Return the outcome at a value: that of the left test if it decides or is an error, else of the right one."""
        outcome = self.left.at(value)
        return outcome if outcome is None or outcome is self.until else self.right.at(value)

    def constants(self) -> Iterator[Value]:
        """Yield the values at which the outcome may change."""
        yield from self.left.constants()
        yield from self.right.constants()


@dataclass(frozen=True)
class Opposite:
    """`not (...)`."""

    part: Test

    def at(self, value: Value) -> Outcome:
        """Return the outcome at a value."""
        outcome = self.part.at(value)
        return None if outcome is None else not outcome

    def constants(self) -> Iterator[Value]:
        """Yield the values at which the outcome may change."""
        yield from self.part.constants()


Test = Compare | OneOf | Within | Joined | Opposite


def read_test(cell: str) -> Test | None:
    """Return the test in a cell, None for an empty one, which matches everything; NotAnalysed if it is beyond this."""
    if not cell.strip():
        return None
    return _Reader(cell).whole()


def mixes(cell: str) -> bool:
    """Return whether a cell that can be read joins by `and` as well as by `or`, which readers take for closer."""
    reader = _Reader(cell)
    reader.whole()
    return len(reader.joiners) > 1


def read_literal(cell: str) -> Value:
    """Return the value that an output cell states literally; NotAnalysed if it is an expression."""
    reader = _Reader(cell)
    value = reader.literal()
    reader.end()
    return value


class _Reader:
    """Reads one cell by recursive descent."""

    def __init__(self, cell: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        at, cell = 0, cell.rstrip()
        while at < len(cell):
            found = _TOKEN.match(cell, at)
            if found is None:
                raise NotAnalysed(f"{cell[at:].strip()[:20]!r} in {cell[:60]!r}")
            self.tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            at = found.end()
        self.cell, self.place = cell, 0
        self.joiners: set[str] = set()

    @property
    def next(self) -> str:
        return self.tokens[self.place][1] if self.place < len(self.tokens) else ""

    @property
    def kind(self) -> str:
        return self.tokens[self.place][0] if self.place < len(self.tokens) else ""

    def take(self, *words: str) -> str:
        """Return the next token and go on if it is one of these, else the empty text."""
        if self.kind in {"word", "mark"} and self.next in words:
            self.place += 1
            return self.tokens[self.place - 1][1]
        return ""

    def beyond(self) -> NotAnalysed:
        return NotAnalysed(f"{self.next or 'its end'!r} in {self.cell[:60]!r}")

    def need(self, word: str) -> None:
        if not self.take(word):
            raise self.beyond()

    def end(self) -> None:
        if self.kind:
            raise self.beyond()

    def whole(self) -> Test:
        found = self.joined(",", "or", "and")
        self.end()
        return found

    def joined(self, *joiners: str) -> Test:
        """Read tests up to where no joiner follows; none binds closer than another, as the engine has it."""
        found = self.one()
        while joiner := self.take(*joiners):
            self.joiners.add("and" if joiner == "and" else "or")
            found = Joined(found, self.one(), until=joiner != "and")
        return found

    def one(self) -> Test:
        """Read what stands between `and` and `or`."""
        if self.next == "(" and self.kind == "mark" and not self._interval_follows():
            self.place += 1
            inside = self.joined("or", "and")
            self.need(")")
            return inside
        if self.next == "not" and self.tokens[self.place + 1 : self.place + 2] == [("mark", "(")]:
            self.place += 1
            return Opposite(self.one())
        with_value = bool(self.take("$"))
        if order := self.take("<", "<=", ">", ">="):
            return Compare(order, self.number())
        if sign := self.take("==", "!="):
            return OneOf((self.literal(),), negated=sign == "!=", listed=False)
        negated = bool(self.take("not"))
        if self.take("in"):
            return self.range_or_list(negated=negated)
        if negated or with_value:
            raise self.beyond()
        return self.range_or_list(negated=False) if self.next in {"[", "("} else self.value()

    def value(self) -> Test:
        value = self.literal()
        if order := self.take("<", "<=", ">", ">="):  # `5 < $`
            self.need("$")
            if not isinstance(value, Decimal):
                raise self.beyond()
            return Compare(_MIRRORED[order], value)
        return OneOf((value,), negated=False, listed=False)

    def _interval_follows(self) -> bool:
        return ("mark", "..") in self.tokens[self.place + 2 : self.place + 4]

    def range_or_list(self, *, negated: bool) -> Test:
        opening = self.take("[", "(")
        if not opening:
            raise self.beyond()
        self.place -= 1
        if self._interval_follows():
            self.place += 1
            low = Compare(">=" if opening == "[" else ">", self.number())
            self.need("..")
            high = self.number()
            closing = self.take("]", ")")
            if not closing:
                raise self.beyond()
            return Within(low, Compare("<=" if closing == "]" else "<", high), negated)
        self.need("[")
        values: list[Value] = []
        while not self.take("]"):
            if values:
                self.need(",")
            values.append(self.literal())
        return OneOf(tuple(values), negated=negated, listed=True)

    def number(self) -> Decimal:
        value = self.literal()
        if not isinstance(value, Decimal):
            self.place -= 1
            raise self.beyond()
        return value

    def literal(self) -> Value:
        sign = self.take("-", "+")
        kind, text = self.kind, self.next
        if kind == "number":
            try:
                number = Decimal(text)
            except InvalidOperation:  # an exponent that no Decimal has
                raise self.beyond() from None
            if number and abs(number.adjusted()) > _MOST_DIGITS:  # nothing could be computed with it
                raise self.beyond()
            self.place += 1
            return -number if sign == "-" else number
        if sign:
            raise self.beyond()
        if kind == "text":
            self.place += 1
            return text[1:-1]
        if kind == "word" and text in {"true", "false", "null"}:
            self.place += 1
            return {"true": True, "false": False, "null": None}[text]
        raise self.beyond()
