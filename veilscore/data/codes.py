"""Turn columns into small unsigned integers by a secret map from values to codes.

The map stays with the owner of the columns. Code numbers are permuted with randomness of the operating
system, so that a number tells a peer nothing about the value behind it. Losing the map kills the model:
`CodeMap.to_json` belongs into the owner's backup.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from veilscore.arrays import Array, Integers
from veilscore.data.code_array import Codes
from veilscore.data.column_bins import Bins, bins_from_json, bins_to_json
from veilscore.data.fit_bins import BinSizes, fit_bins
from veilscore.data.table import Column, Kind, Table, kind_of, missing_in
from veilscore.errors import ConfigError, DataError, SchemaError
from veilscore.terms.settings import parse_json
from veilscore.wire.randomness import secret_generator

MAP_VERSION = 1


@dataclass(frozen=True)
class PublicColumn:
    """What peers may know of a column's code numbers: do neighbours mean neighbours, which code is missing.

    `missing` is None unless the map was fitted with ordered=True.
    """

    kind: Literal["ordered", "unordered"]
    missing: int | None


@dataclass(frozen=True)
class TransformReport:
    """What the owner should know about rows just transformed; counts only.

    unseen : category column -> rows whose level was not seen in training (only columns with some).
    missing : column -> rows without a value.
    """

    n_samples: int
    unseen: Mapping[str, int]
    missing: Mapping[str, int]


@dataclass(frozen=True, repr=False)
class ColumnMap:
    """Bins of one column and the secret permutation: code = permutation[bin]; counts are by bin, in fitting."""

    name: str
    bins: Bins
    permutation: Integers
    counts: Integers

    @property
    def missing(self) -> int:
        """Return the code of missing values."""
        return int(self.permutation[self.bins.missing])

    def labels(self) -> tuple[str, ...]:
        """Return the readable name of every code, by code; for the owner's own report."""
        by_bin = self.bins.labels()
        return tuple(by_bin[i] for i in np.argsort(self.permutation))


ToldNames = bool | Mapping[str, str]  # True: as they are; else a display name for some, and numbers for the others


def told_name(name: str, number: int, party: str, told: ToldNames) -> str:
    """Return the name of a party's column as others see it."""
    if told is True:
        return name
    return (told or {}).get(name, f"{party}.c{number}")


@dataclass(frozen=True, repr=False)
class CodeMap:
    """The secret map from a party's values to codes.

    columns : maps of the columns kept, in the order of the codes.
    dropped : column -> why it was dropped.
    kinds : column -> kind, of every column at fitting, dropped ones included.
    ordered : neighbouring code numbers of number columns are neighbouring bins (in a secret direction).
    sizes : limits on bins that were used.
    model : which hand-written model of which data set it is of; two of them may have the same bins.
    """

    columns: tuple[ColumnMap, ...]
    dropped: Mapping[str, str]
    kinds: Mapping[str, Kind]
    ordered: bool = False
    sizes: BinSizes = field(default_factory=BinSizes)
    model: str = ""

    def __repr__(self) -> str:
        """Show sizes only."""
        return f"CodeMap(n_columns={len(self.columns)}, n_dropped={len(self.dropped)}, ordered={self.ordered})"

    @classmethod
    def fit(
        cls,
        table: Table,
        rows: Array | None = None,
        *,
        max_bin: int = 20,
        min_bin_fraction: float = 0.05,
        min_bin_count: int = 30,
        ordered: bool = False,
        allow_none: bool = False,
        generator: np.random.Generator | None = None,
    ) -> CodeMap:
        """Fit bins on the owner's training rows.

        rows : index or mask of the fitting rows, default all.
        max_bin, min_bin_fraction, min_bin_count : see `BinSizes`.
        ordered : keep the order of number columns up to a secret flip, so that the bank can merge neighbours.
        allow_none : return a map without columns where every column is dropped, instead of DataError.
        generator : for tests; default is seeded by 128 secret bits.
        """
        sizes = BinSizes(max_bin, min_bin_fraction, min_bin_count)
        generator = generator or secret_generator()
        kinds = table.kinds
        columns, dropped = [], {}
        for name, values in table.columns.items():
            chosen = values if rows is None else values[rows]
            if not len(chosen):
                raise DataError(f"no rows of {table.source} to fit bins on; check the overlap and the hold-out")
            bins, reason = fit_bins(chosen, kinds[name], sizes, table.special.get(name, ()))
            if bins is None:
                dropped[name] = reason
                continue
            counts = np.bincount(bins.apply(chosen)[0], minlength=bins.n_bins).astype(np.int64)
            columns.append(ColumnMap(name, bins, permutation_of(bins, generator, ordered=ordered), counts))
        if not columns and not allow_none:
            raise DataError(f"every column of {table.source} was dropped: {'; '.join(_reasons(dropped))}")
        return cls(tuple(columns), dropped, kinds, ordered, sizes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what the owner should know about the fit."""
        return tuple(_reasons(self.dropped))

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the columns kept, in the order of the codes; peers do not learn them."""
        return tuple(column.name for column in self.columns)

    @property
    def n_codes(self) -> Integers:
        """Return the number of codes of each column: (n_columns,) int64."""
        return np.array([column.bins.n_bins for column in self.columns], dtype=np.int64)

    @property
    def missing(self) -> Integers:
        """Return the code of missing values of each column: (n_columns,) int64."""
        return np.array([column.missing for column in self.columns], dtype=np.int64)

    def transform(self, table: Table) -> Codes:
        """Return the codes of a table's rows; a changed schema raises SchemaError."""
        return self.transform_with_report(table)[0]

    def transform_with_report(self, table: Table) -> tuple[Codes, TransformReport]:
        """Return the codes of a table's rows, and counts of unseen levels and missing values."""
        self._check_schema(table)
        codes = np.empty((table.n_rows, len(self.columns)), dtype=np.uint8)  # a column has at most 73 codes
        unseen, missing = {}, {}
        for j, column in enumerate(self.columns):
            bins, n_unseen = column.bins.apply(_as_kind(table.columns[column.name], column.bins.kind))
            codes[:, j] = column.permutation.astype(np.uint8)[bins]
            missing[column.name] = int((bins == column.bins.missing).sum())
            if n_unseen:
                unseen[column.name] = n_unseen
        return Codes(codes, self.n_codes, self.missing), TransformReport(table.n_rows, unseen, missing)

    def unknown_firms(self, n_samples: int) -> Codes:
        """Return the codes of firms that the owner does not know: missing in every column."""
        codes = np.tile(self.missing.astype(np.uint8), (n_samples, 1))
        return Codes(codes, self.n_codes, self.missing)

    def labels(self, name: str) -> tuple[str, ...]:
        """Return the readable name of every code of a column, such as "(12.5, 30]", by code; for the owner only."""
        return self._column(name).labels()

    def public_order(self) -> tuple[PublicColumn, ...]:
        """Return what peers may know about the code numbers of each column."""
        if not self.ordered:
            return tuple(PublicColumn("unordered", None) for _ in self.columns)
        return tuple(
            PublicColumn("ordered" if column.bins.ordered else "unordered", column.missing) for column in self.columns
        )

    def _column(self, name: str) -> ColumnMap:
        for column in self.columns:
            if column.name == name:
                return column
        raise SchemaError(f"the code map has no column {name!r}; it has: {', '.join(self.names)}")

    def _check_schema(self, table: Table) -> None:
        kinds = table.kinds
        absent = [name for name in self.names if name not in kinds]
        new = [name for name in kinds if name not in self.kinds]
        changed = [
            f"{column.name} ({column.bins.kind} in training, {kinds[column.name]} now)"
            for column in self.columns
            if column.name in kinds and not fits_kind(table.columns[column.name], column.bins.kind)
        ]
        faults = {"missing": absent, "new": new, "changed type": changed}
        found = [f"{word}: {', '.join(names)}" for word, names in faults.items() if names]
        if found:
            raise SchemaError(
                f"columns of {table.source} differ from those the code map was fitted on: "
                f"{'; '.join(found)}; restore them, or exclude new ones when reading"
            )

    def to_json(self) -> str:
        """Write the whole map as JSON, with version and sha256; secret, for the owner's store and backup."""
        body = self._body()
        return json.dumps({**body, "hash": _hash(body)}, ensure_ascii=False)

    @property
    def hash(self) -> str:
        """Return the sha256 (hex) of everything in the map."""
        return _hash(self._body())

    def _body(self) -> dict[str, Any]:
        return {
            "version": MAP_VERSION,
            "ordered": self.ordered,
            "sizes": vars(self.sizes),
            "kinds": dict(self.kinds),
            "dropped": dict(self.dropped),
            "columns": [
                {
                    "name": column.name,
                    "bins": bins_to_json(column.bins),
                    "permutation": column.permutation.tolist(),
                    "counts": column.counts.tolist(),
                }
                for column in self.columns
            ],
            **({"model": self.model} if self.model else {}),  # maps that were fitted keep their hash
        }

    @classmethod
    def from_json(cls, text: str) -> CodeMap:
        """Read a map back; damage or another version raises SchemaError."""
        try:
            body = parse_json(text)
            stated, version = body.pop("hash"), body["version"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SchemaError("this is no code map; restore it from the backup") from None
        if version != MAP_VERSION:
            raise SchemaError(f"the code map has version {version!r}, this program reads {MAP_VERSION}; update it")
        if stated != _hash(body):
            raise SchemaError("the code map is damaged: its hash does not fit; restore it from the backup")
        try:
            columns = tuple(_column_from_json(column) for column in body["columns"])
            sizes = BinSizes(**body["sizes"])
            dropped = {str(name): str(reason) for name, reason in body["dropped"].items()}
            kinds, model = _kinds_from_json(body["kinds"], columns), str(body.get("model", ""))
            return cls(columns, dropped, kinds, bool(body["ordered"]), sizes, model)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, ConfigError):
            raise SchemaError("the code map is inconsistent; restore it from the backup") from None


def _column_from_json(data: dict[str, Any]) -> ColumnMap:
    bins = bins_from_json(data["bins"])
    permutation = np.array(data["permutation"], dtype=np.int64)
    counts = np.array(data["counts"], dtype=np.int64)
    if not np.array_equal(np.sort(permutation), np.arange(bins.n_bins)) or counts.shape != permutation.shape:
        raise ValueError("the permutation does not number the bins")
    return ColumnMap(str(data["name"]), bins, permutation, counts)


def _kinds_from_json(data: dict[str, Any], columns: tuple[ColumnMap, ...]) -> dict[str, Kind]:
    kinds = dict(data)
    if not set(kinds.values()) <= {"number", "category"} or not {column.name for column in columns} <= set(kinds):
        raise ValueError("a column has no kind")
    return kinds


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def permutation_of(bins: Bins, generator: np.random.Generator, *, ordered: bool = False) -> Integers:
    """Draw which code each bin gets; with `ordered`, number bins keep their order, perhaps turned round."""
    if not (ordered and bins.ordered):
        return generator.permutation(bins.n_bins)
    # up or down by chance, so that the order tells no direction; missing last, where training expects it
    values = np.arange(bins.n_bins - 1)
    flipped = values[::-1] if generator.integers(2) else values
    return np.append(flipped, bins.missing).astype(np.int64)


def fits_kind(values: Column, kind: str) -> bool:
    """Say whether values are of a kind; a column without any value is of both, as in a single record."""
    return kind_of(values) == kind or bool(missing_in(values).all())


def _as_kind(values: Column, kind: str) -> Column:
    if kind_of(values) == kind:
        return values
    return np.full(len(values), None, dtype=object) if kind == "category" else np.full(len(values), np.nan)


def _reasons(dropped: Mapping[str, str]) -> list[str]:
    return [f"column {name!r} was dropped: {reason}" for name, reason in dropped.items()]
