"""What a built file says of itself: from which catalogue, as of when."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection, Sequence
from pathlib import Path

import duckdb

from veilscore.data.text_columns import quoted
from veilscore.data.text_file import file_literal
from veilscore.errors import ConfigError, RefusedError, StateError
from veilscore.features.catalogue import Catalogue, find_catalogue
from veilscore.terms.node_config import DatasetConfig


def footer(path: Path) -> dict[str, str]:
    """Return the texts in a Parquet file's footer; an unreadable file has none."""
    with duckdb.connect() as database:
        try:
            rows = database.execute(
                f"SELECT decode(key), decode(value) FROM parquet_kv_metadata({file_literal(path)})"
            ).fetchall()
        except duckdb.Error:
            return {}
    return {str(key): str(value) for key, value in rows}


def check_built(dataset: DatasetConfig, named: str) -> Catalogue | None:
    """Return the catalogue of a data set, None if it has none; RefusedError if its file was built from another one."""
    if dataset.features is None or dataset.path is None:
        return None
    try:
        wanted = find_catalogue(dataset.features.catalogue)
    except ConfigError:
        raise RefusedError(f"the catalogue of {named} cannot be read; `veilscore features plan` says why") from None
    if footer(dataset.path).get("veilscore.catalogue") != wanted.hash:
        raise RefusedError(f"{named} is not built from its catalogue; run `veilscore features build` there")
    return wanted


def read_firms(
    path: Path, names: Collection[str], firms: Sequence[str]
) -> tuple[dt.date, dict[str, dict[str, float | str | None]]]:
    """Return as of which day a built file is, and of each firm that it has the values of the variables that it has.

    firms : normalised ids; of a panel a firm's newest row counts. StateError where the file was not built.
    """
    try:
        as_of = dt.date.fromisoformat(footer(path)["veilscore.as_of"])
        with duckdb.connect() as database:
            file = f"read_parquet({file_literal(path)})"
            columns = [str(row[0]) for row in database.execute(f"DESCRIBE SELECT * FROM {file}").fetchall()]
            chosen = [name for name in columns if name in names]
            listed = "".join(f", {quoted(name)}" for name in chosen)
            newest = "QUALIFY row_number() OVER (PARTITION BY uscc ORDER BY as_of DESC) = 1"
            kept = newest if "as_of" in columns else ""
            rows = database.execute(
                f"SELECT uscc{listed} FROM {file} WHERE uscc IN (SELECT unnest(?)) {kept}",
                [list(firms)],
            ).fetchall()
    except (KeyError, ValueError, duckdb.Error) as error:
        raise StateError(f"{path} has no variables to read: make them with `veilscore features build`") from error
    return as_of, {str(firm): dict(zip(chosen, map(_plain, values), strict=True)) for firm, *values in rows}


def _plain(value: object) -> float | str | None:
    if value is None or isinstance(value, str):
        return value
    number = float(str(value))
    return number if math.isfinite(number) else None
