"""The output gate checks what a declared output must be to leave, and gives it the form in which it leaves.

Nothing is passed on as it was written: numbers, tables and JSON are read strictly, rounded and written again, so that
spacing, digits and order carry nothing. The gate bounds what can leave; that the count behind a number is true, only
reading the code can tell. Artefacts (models) cannot be looked into and are refused unless the policy allows them.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from veilscore.errors import SandboxError
from veilscore.sandbox.noise import laplace
from veilscore.sandbox.policy import SandboxPolicy
from veilscore.sandbox.submission import Manifest, Output, canonical
from veilscore.terms.settings import parse_json

COUNT = "count"
_TEXT = re.compile(r"[A-Za-z0-9 _.,:+()<>=\[\]-]{0,40}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,3})?")
_MAX_DEPTH = 3


@dataclass(frozen=True)
class Gated:
    """Holds outputs as they may leave, and notes for the owner on what was withheld or noised.

    epsilon : privacy loss spent.
    """

    files: Mapping[str, bytes] = field(repr=False)
    notes: tuple[str, ...]
    epsilon: float


def check_policy(manifest: Manifest, policy: SandboxPolicy) -> None:
    """Refuse declared outputs that the policy cannot let out whatever they hold; SandboxError says which and why."""
    epsilon = sum(output.noise.epsilon for output in manifest.outputs.values() if output.noise is not None)
    if epsilon > policy.max_epsilon:
        raise SandboxError(f"the outputs would spend epsilon {epsilon:g}; at most {policy.max_epsilon:g} is allowed")
    for name, output in manifest.outputs.items():
        if output.kind == "artefact" and not policy.allow_artefacts:
            raise SandboxError(f"output {name}: artefacts may not leave here (allow_artefacts)")
        if output.kind == "artefact" and output.max_bytes > policy.max_artefact_bytes:
            raise SandboxError(f"output {name}: an artefact may have at most {policy.max_artefact_bytes} bytes")
        if policy.require_noise and output.noise is None:
            raise SandboxError(f"output {name}: only numbers with noise may leave here (require_noise)")


def gate(outputs: Mapping[str, bytes], manifest: Manifest, policy: SandboxPolicy, n_rows: int) -> Gated:
    """Check every declared output and bring it into the form in which it may leave.

    n_rows : firms in the data set; no count may be above it.
    Raises SandboxError where an output does not pass; it names the output and the rule, no content.
    """
    check_policy(manifest, policy)
    files: dict[str, bytes] = {}
    notes: list[str] = []
    for name, output in manifest.outputs.items():
        if name not in outputs:
            raise SandboxError(f"output {name} is missing: nothing leaves")
        content = outputs[name]
        if len(content) > output.max_bytes:
            raise SandboxError(f"output {name} is larger than declared: nothing leaves")
        bounds = _Bounds(name, policy, n_rows)
        files[name], note = _PASS[output.kind](content, output, bounds)
        notes += [f"{name}: {note}"] if note else []
    epsilon = sum(output.noise.epsilon for output in manifest.outputs.values() if output.noise is not None)
    return Gated(files, tuple(notes), epsilon)


@dataclass(frozen=True)
class _Bounds:
    name: str
    policy: SandboxPolicy
    n_rows: int

    def refuse(self, why: str) -> SandboxError:
        return SandboxError(f"output {self.name}: {why}; nothing leaves")

    def count(self, value: object) -> int:
        """Return a claimed number of firms; SandboxError unless it is a whole number up to the rows there are."""
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= self.n_rows:
            raise self.refuse("a count is not a whole number up to the number of rows")
        return value

    def group(self, value: object) -> int:
        count = self.count(value)
        if count < self.policy.min_group_size:
            raise self.refuse(f"fewer than {self.policy.min_group_size} firms stand behind it")
        return count

    def number(self, value: object) -> float | int:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
            raise self.refuse("something is not a number")
        return self.rounded(float(value))

    def rounded(self, value: float) -> float | int:
        if not math.isfinite(value):
            raise self.refuse("a number is infinite or not a number")
        short = float(f"{value:.{self.policy.significant_digits}g}") + 0.0  # no negative zero: a bit that leaves
        return int(short) if short.is_integer() and abs(short) < 2**53 else short

    def json(self, content: bytes, keys: set[str]) -> dict[str, Any]:
        try:
            value = parse_json(content.decode("ascii"))
        except ValueError:
            raise self.refuse("it is not JSON") from None
        if not isinstance(value, dict) or set(value) != keys:
            raise self.refuse(f"its keys are not {', '.join(sorted(keys))}")
        return value


def _pass_number(content: bytes, output: Output, bounds: _Bounds) -> tuple[bytes, str]:
    found = bounds.json(content, {"value", COUNT})
    count, value = bounds.group(found[COUNT]), bounds.number(found["value"])
    if output.noise is None:
        return canonical({"value": value, COUNT: count}), ""
    noisy = laplace(float(value), output.noise)
    note = f"noise with epsilon {output.noise.epsilon:g} added; the count stays here, since it has no noise"
    return canonical({"value": bounds.rounded(noisy)}), note


def _pass_json(content: bytes, output: Output, bounds: _Bounds) -> tuple[bytes, str]:
    found = bounds.json(content, {COUNT, *output.keys})
    count = bounds.group(found.pop(COUNT))
    left = [bounds.policy.max_numbers]

    def clean(value: object, depth: int) -> object:
        if isinstance(value, list):
            if depth == _MAX_DEPTH:
                raise bounds.refuse(f"lists are nested deeper than {_MAX_DEPTH}")
            left[0] -= not value  # an empty list says something too
            return [clean(one, depth + 1) for one in value]
        left[0] -= 1
        if left[0] < 0:
            raise bounds.refuse(f"it has more than {bounds.policy.max_numbers} numbers")
        return bounds.number(value)

    return canonical({COUNT: count, **{key: clean(value, 0) for key, value in found.items()}}), ""


def _pass_table(content: bytes, output: Output, bounds: _Bounds) -> tuple[bytes, str]:
    try:
        rows = list(csv.reader(io.StringIO(content.decode("ascii"), newline=""), strict=True))
    except (ValueError, csv.Error):
        raise bounds.refuse("it is not CSV in ASCII") from None
    names = list(output.columns)
    if not rows or rows[0] != names or any(len(row) != len(names) for row in rows):
        raise bounds.refuse("its columns are not the declared ones")
    if (len(rows) - 1) * len(names) > bounds.policy.max_numbers:
        raise bounds.refuse(f"it has more than {bounds.policy.max_numbers} cells")
    kinds: list[str] = list(output.columns.values())
    place = kinds.index(COUNT)
    kept = []
    for row in rows[1:]:
        cells = [_cell(cell, kind, bounds) for cell, kind in zip(row, kinds, strict=True)]
        if int(cells[place]) >= bounds.policy.min_group_size:
            kept.append(cells)
    kept.sort(key=lambda cells: [str(cell) for cell in cells])  # the order of rows could carry data
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([names, *kept])
    withheld = len(rows) - 1 - len(kept)
    return text.getvalue().encode(), f"{withheld} rows under the minimum group withheld" if withheld else ""


def _cell(cell: str, kind: str, bounds: _Bounds) -> str | int | float:
    if kind == "text":
        if not _TEXT.fullmatch(cell):
            raise bounds.refuse("a text cell is longer than 40 characters or has unusual ones")
        return cell
    if not _NUMBER.fullmatch(cell):
        raise bounds.refuse("a cell is not a number")
    return bounds.count(int(cell) if cell.isdigit() else None) if kind == COUNT else bounds.rounded(float(cell))


def _pass_artefact(content: bytes, _output: Output, _bounds: _Bounds) -> tuple[bytes, str]:
    return content, "an artefact: its content was not looked into"


_PASS = {"number": _pass_number, "json": _pass_json, "table": _pass_table, "artefact": _pass_artefact}
