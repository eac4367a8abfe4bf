"""Measure columns at their owner for feature screening, and choose among them at the bank.

An owner leaves out, before anything is counted, columns with one value, columns missing in too many of its training
rows, and columns whose population stability between training and hold-out rows is above the limit: both are its own
figures, on the rows of the firms it knows. The bank adds the IV and prunes: IV limit, then within a party, from the
highest IV down, columns associated with one already kept, then the number of columns.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Array, Integers, Mask, Vector
from veilscore.data.codes import CodeMap
from veilscore.data.table import Table, missing_in
from veilscore.models.counts import BinCounts
from veilscore.models.stability import population_stability
from veilscore.models.woe import counted_woe

MIN_HOLDOUT = 30  # fewer hold-out rows of an owner give no population stability
DECIMALS = 3
NO_STABILITY = -1.0
MEASURED, CONSTANT, TOO_MISSING, UNSTABLE, BY_OWNER = range(5)
REASONS = (  # by status
    "",
    "one value, or none",
    "missing in too many rows",
    "population stability above the limit",
    "left out by its owner",
)


@dataclass(frozen=True)
class ScreeningLimits:
    """What a column must keep to; None: no limit.

    max_missing, max_stability : checked by the column's owner.
    min_iv, max_correlation, max_columns : checked by the bank.
    """

    max_missing: float | None
    max_stability: float | None
    min_iv: float
    max_correlation: float | None
    max_columns: int | None


@dataclass(frozen=True, eq=False)
class OwnMeasures:
    """An owner's figures of a chunk of its columns, one an entry.

    status : (d,) uint8, an index into `REASONS`.
    missing_rate, stability : (d,) three decimals; `NO_STABILITY` where there is none.
    """

    status: NDArray[np.uint8]
    missing_rate: Vector
    stability: Vector

    def hidden(self) -> NDArray[np.uint8]:
        """Return the status without its reason."""
        return np.where(self.status == MEASURED, MEASURED, BY_OWNER).astype(np.uint8)


def own_measures(
    table: Table,
    code_map: CodeMap,
    codes: Array,
    rows: tuple[Integers, Integers],
    limits: ScreeningLimits,
    min_count: int,
) -> OwnMeasures:
    """Measure a chunk of columns at its owner.

    table : the chunk; `code_map` was fitted on it.
    codes : (n_rows of the table, columns of the map).
    rows : the table's rows that train, and those held out.
    min_count : fewer missing (or fewer present) rows are told as none.
    """
    names = list(table.columns)
    at = {name: j for j, name in enumerate(code_map.names)}
    status, stability = np.full(len(names), MEASURED, np.uint8), np.full(len(names), NO_STABILITY)
    missing_rate = np.array([_missing_rate(table.columns[name][rows[0]], min_count) for name in names])
    for k, name in enumerate(names):
        if name not in at:
            status[k] = CONSTANT
            continue
        if rows[1].size >= MIN_HOLDOUT:
            stability[k] = _stability(codes[:, at[name]], int(code_map.n_codes[at[name]]), rows)
        if limits.max_missing is not None and missing_rate[k] > limits.max_missing:
            status[k] = TOO_MISSING
        elif limits.max_stability is not None and stability[k] > limits.max_stability:
            status[k] = UNSTABLE
    return OwnMeasures(status, np.round(missing_rate, DECIMALS), np.round(stability, DECIMALS))


def _missing_rate(values: Array, min_count: int) -> float:
    missing = int(missing_in(values).sum())
    # a rate just above 0 or just below 1 would speak of a few single firms
    if missing < min_count:
        return 0.0
    return missing / values.size if values.size - missing >= min_count else 1.0


def _stability(codes: Array, n_codes: int, rows: tuple[Integers, Integers]) -> float:
    before, after = (np.bincount(codes[part], minlength=n_codes) for part in rows)
    return population_stability(before, after)


@dataclass(frozen=True)
class ScreenedColumn:
    """One row of the result.

    iv : None where the column was left out before counting.
    missing_rate, stability : None where not published or not measured.
    kept, reason : whether it enters training, and why not.
    """

    party: str
    name: str
    iv: float | None
    missing_rate: float | None
    stability: float | None
    kept: bool
    reason: str


@dataclass(frozen=True, eq=False)
class MeasuredChunk:
    """What the bank knows of a chunk of one party's columns; `counts` are those of the measured ones."""

    party: str
    names: tuple[str, ...]
    status: NDArray[np.uint8]
    missing_rate: Vector | None
    stability: Vector | None
    counts: BinCounts | None


def measured_columns(chunk: MeasuredChunk, total_bad: float, total_good: float) -> list[ScreenedColumn]:
    """Return the bank's rows for a chunk: IV as in training, before any choice by it."""
    ivs = iter(())
    if chunk.counts is not None:
        ivs = iter(counted_woe(chunk.counts, total_bad, total_good).iv.tolist())
    rows = []
    for k, (name, status) in enumerate(zip(chunk.names, chunk.status.tolist(), strict=True)):
        shift = None if chunk.stability is None else float(chunk.stability[k])
        rows.append(
            ScreenedColumn(
                party=chunk.party,
                name=name,
                iv=next(ivs) if status == MEASURED else None,
                missing_rate=None if chunk.missing_rate is None else float(chunk.missing_rate[k]),
                stability=None if shift == NO_STABILITY else shift,
                kept=status == MEASURED,
                reason=REASONS[status],
            )
        )
    return rows


def chosen_columns(party: str, names: Sequence[str], kept: Mask, k: int) -> list[ScreenedColumn]:
    """Return the bank's rows for a holder's columns of which it knows nothing but which are kept."""
    reasons = ["" if one else f"not among the {k} best (chosen with noise)" for one in kept.tolist()]
    return [
        ScreenedColumn(party, name, None, None, None, kept=not reason, reason=reason)
        for name, reason in zip(names, reasons, strict=True)
    ]


def choose(
    columns: Sequence[ScreenedColumn], pairs: Mapping[str, Integers], limits: ScreeningLimits
) -> list[ScreenedColumn]:
    """Choose what enters training.

    columns : all parties' columns, each party's in the order of its numbers.
    pairs : party -> (P, 2) numbers of its columns that are associated above the limit.
    """
    result = [_checked_iv(column, limits.min_iv) for column in columns]
    for party in dict.fromkeys(column.party for column in columns):
        places = [k for k, column in enumerate(columns) if column.party == party]
        _prune(result, places, pairs.get(party, np.zeros((0, 2), np.int64)), limits.max_correlation)
    kept = _by_iv(result, [k for k, column in enumerate(result) if column.kept])
    for k in kept[limits.max_columns :] if limits.max_columns is not None else ():
        result[k] = replace(result[k], kept=False, reason=f"not among the {limits.max_columns} highest IVs")
    return result


def _checked_iv(column: ScreenedColumn, min_iv: float) -> ScreenedColumn:
    if column.iv is None or (column.iv >= min_iv and column.iv > 0):
        return column
    reason = f"IV {column.iv:.3f} below {min_iv:g}" if column.iv < min_iv else "IV is 0"
    return replace(column, kept=False, reason=reason)


def _by_iv(columns: Sequence[ScreenedColumn], places: list[int]) -> list[int]:
    return sorted(places, key=lambda k: -(columns[k].iv or 0.0))


def _prune(result: list[ScreenedColumn], places: list[int], pairs: Integers, limit: float | None) -> None:
    """Leave out, from the highest IV down, what is associated with a column already kept."""
    close: dict[int, list[int]] = {}
    for one, two in pairs.tolist():
        close.setdefault(one, []).append(two)
        close.setdefault(two, []).append(one)
    kept: set[int] = set()
    number = {place: j for j, place in enumerate(places)}
    for place in _by_iv(result, [k for k in places if result[k].kept]):
        near = [j for j in close.get(number[place], ()) if j in kept]
        if near:
            name = result[places[near[0]]].name
            result[place] = replace(result[place], kept=False, reason=f"association above {limit:g} with {name}")
        else:
            kept.add(number[place])


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """Add the hash of a JSON-able result to it."""
    return {**body, "sha256": digest(body)}


def digest(body: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of everything but the hash itself."""
    text = json.dumps({k: v for k, v in body.items() if k != "sha256"}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def to_csv(columns: Sequence[ScreenedColumn]) -> str:
    """Write all columns, kept ones first, the highest IV first."""
    out = io.StringIO()
    fields = ["party", "column", "iv", "population_stability", "missing_rate", "kept", "reason"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(fields)
    for c in sorted(columns, key=lambda c: (not c.kept, -(c.iv or 0.0))):
        figures = [
            "" if value is None else f"{value:.{places}f}"
            for value, places in ((c.iv, 6), (c.stability, DECIMALS), (c.missing_rate, DECIMALS))
        ]
        writer.writerow([c.party, c.name, *figures, "yes" if c.kept else "no", c.reason])
    return out.getvalue()


def to_json(columns: Sequence[ScreenedColumn]) -> list[dict[str, Any]]:
    """Return rows as JSON values; `from_json` reads them."""
    return [asdict(column) for column in columns]


def from_json(rows: Sequence[Mapping[str, Any]]) -> list[ScreenedColumn]:
    """Read what `to_json` made."""
    return [ScreenedColumn(**row) for row in rows]
