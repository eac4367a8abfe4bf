"""What a built file says of itself: from which catalogue, as of when."""

from __future__ import annotations

from pathlib import Path

import duckdb

from veilscore.data.text_file import file_literal
from veilscore.errors import ConfigError, RefusedError
from veilscore.features.catalogue import find_catalogue
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


def check_built(dataset: DatasetConfig, named: str) -> None:
    """Refuse a data set whose file was not built from the catalogue that node.yaml names now (RefusedError)."""
    if dataset.features is None or dataset.path is None:
        return
    try:
        wanted = find_catalogue(dataset.features.catalogue).hash
    except ConfigError:
        raise RefusedError(f"the catalogue of {named} cannot be read; `veilscore features plan` says why") from None
    if footer(dataset.path).get("veilscore.catalogue") != wanted:
        raise RefusedError(f"{named} is not built from its catalogue; run `veilscore features build` there")
