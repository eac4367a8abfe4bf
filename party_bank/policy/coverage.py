"""Gaps, overlaps and rows that are never reached, of one decision table.

A row is a box: for each field, the values that its cells accept. Tests change their outcome at constants only, so each
field is divided into finitely many regions, each stood for by one value, and a set of values is a bit mask of regions.
Whether boxes cover the whole is decided field by field: regions that leave the same rows alive are one case.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from party_bank.policy.domain import Domain
from party_bank.policy.unary import Test, Value

MOST_CASES = 200_000  # of a search, before a table is said to be too large


class TooManyCasesError(Exception):
    """A table's rows cut its fields into more cases than are searched."""


@dataclass(frozen=True)
class Boxes:
    """The rows of a table over regions of its fields.

    fields : in order; regions : field -> values, each standing for its region.
    rows : for each row, a bit mask of regions for each field.
    """

    fields: tuple[str, ...]
    regions: tuple[tuple[Value, ...], ...]
    rows: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, domains: Mapping[str, Domain], rows: Sequence[Sequence[tuple[str, Test]]]) -> Boxes:
        """Divide the fields by all tests of the rows; a row is its tests, each with the field that it is on."""
        fields = tuple(domains)
        constants = {name: [c for row in rows for field, test in row if field == name for c in test.constants()]
                     for name in fields}  # fmt: skip
        regions = tuple(tuple(domains[name].representatives(constants[name])) for name in fields)

        def accepted(row: Sequence[tuple[str, Test]], number: int) -> int:
            tests = [test for field, test in row if field == fields[number]]
            return sum(1 << k for k, v in enumerate(regions[number]) if all(test.at(v) is True for test in tests))

        return cls(fields, regions, tuple(tuple(accepted(row, j) for j in range(len(fields))) for row in rows))

    def gaps(self, rows: Sequence[int], most: int = 3) -> list[dict[str, Value]]:
        """Return up to `most` cases that none of these rows takes."""
        return self._uncovered(self._whole(), rows, most)

    def unreachable(self, row: int, before: Sequence[int]) -> bool:
        """Return whether the rows before take every case of a row, or it has none."""
        return not self._uncovered(self.rows[row], before, 1)

    def overlap(self, one: int, other: int) -> dict[str, Value] | None:
        """Return a case that both rows take, or None."""
        both = [a & b for a, b in zip(self.rows[one], self.rows[other], strict=True)]
        return self._case([(mask & -mask).bit_length() - 1 for mask in both]) if all(both) else None

    def _whole(self) -> tuple[int, ...]:
        return tuple((1 << len(values)) - 1 for values in self.regions)

    def _case(self, chosen: Sequence[int]) -> dict[str, Value]:
        return {name: self.regions[j][chosen[j]] for j, name in enumerate(self.fields)}

    def _uncovered(self, box: tuple[int, ...], rows: Sequence[int], most: int) -> list[dict[str, Value]]:
        """Return up to `most` cases within a box that no row takes."""
        if not all(box):
            return []
        holes = _Search(self.rows, box).holes(0, frozenset(rows), [])
        return [self._case(chosen) for chosen in itertools.islice(holes, most)]


class _Search:
    """Looks for regions, one for each field, that lie in a box and in no row."""

    def __init__(self, rows: Sequence[tuple[int, ...]], box: tuple[int, ...]) -> None:
        self.rows, self.box = rows, box
        self.covered: set[tuple[int, frozenset[int]]] = set()  # (field, rows alive) behind which there is no hole

    def holes(self, j: int, alive: frozenset[int], chosen: list[int]) -> Iterator[list[int]]:
        """Yield holes behind the regions chosen for the first `j` fields, which leave these rows alive."""
        if (j, alive) in self.covered:
            return
        if len(self.covered) > MOST_CASES:
            raise TooManyCasesError
        if not alive:
            yield chosen + [(mask & -mask).bit_length() - 1 for mask in self.box[j:]]
            return
        found = False
        if not any(self._takes_all(row, j) for row in alive):
            for left, region in self._divided(j, alive).items():
                for hole in self.holes(j + 1, left, [*chosen, region]):
                    found = True
                    yield hole
        if not found:
            self.covered.add((j, alive))

    def _takes_all(self, row: int, j: int) -> bool:
        """Return whether a row takes everything in the box from field j on."""
        return all(part & ~own == 0 for part, own in zip(self.box[j:], self.rows[row][j:], strict=True))

    def _divided(self, j: int, alive: frozenset[int]) -> dict[frozenset[int], int]:
        """Return which rows stay alive in the regions of field j, with one region for each such set."""
        found: dict[frozenset[int], int] = {}
        for region in range(self.box[j].bit_length()):
            if self.box[j] >> region & 1:
                found.setdefault(frozenset(row for row in alive if self.rows[row][j] >> region & 1), region)
        return found
