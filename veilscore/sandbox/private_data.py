"""Makes of the owner's data set the file that code in the sandbox reads, and the digest that names its version.

Columns that node.yaml excludes are not in it, nor ids unless the policy says so. Mock data has the same form.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from typing import Any

import numpy as np

from veilscore.data.ingest import read_table
from veilscore.data.table import Column, Table
from veilscore.errors import ConfigError
from veilscore.terms.node_config import NodeConfig


def read_dataset(config: NodeConfig, name: str) -> Table:
    """Return the data set `name` of a node; ConfigError if it has none of that name."""
    dataset = config.datasets.get(name)
    if dataset is None:
        raise ConfigError(f"{config.name} has no data set named {name!r}; it has: {', '.join(config.datasets)}")
    return read_table(
        dataset.source,
        dataset.key,
        dataset.label_column,
        exclude=dataset.exclude,
        weight_column=dataset.weight_column,
        date_column=dataset.date_column,
        rules=dataset,
        table=dataset.table,
        query=dataset.query,
        normaliser="text",  # ids only tell rows apart here
    )


def table_csv(table: Table, *, show_ids: bool = False) -> bytes:
    """Return a table as CSV: columns, then label, weight and date where it has them; empty cells are missing."""
    columns: dict[str, Column] = dict(table.columns)
    if show_ids:
        columns = {"id": table.ids, **columns}
    for name, values in (("label", table.label), ("weight", table.weight), ("date", table.dates)):
        if values is not None:
            if name in columns:
                raise ConfigError(f"a feature is named {name!r}, which the sandbox uses: rename or exclude it")
            columns[name] = values.astype(str) if values.dtype.kind == "M" else values
    return columns_csv(columns)


def columns_csv(columns: dict[str, Column]) -> bytes:
    """Return columns as CSV with a header; NaN and None are empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(_cells(values) for values in columns.values()), strict=True))
    return text.getvalue().encode()


def _cells(values: Column) -> Iterable[Any]:
    if values.dtype.kind != "f":
        return values.tolist()  # type: ignore[no-any-return]
    whole = np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53)
    cells = values.astype(object)
    cells[whole] = values[whole].astype(np.int64)
    cells[np.isnan(values)] = None
    return cells.tolist()  # type: ignore[no-any-return]


def version_of(content: bytes) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
