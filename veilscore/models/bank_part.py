"""Export the bank's part of a model for its validators: of a scorecard, own columns in values, holders' as codes.

A holder's column is an input of whole numbers: the code that the holder's map gives a firm, in the order that the
export names. The codes' meaning stays with the holder; the export names the hash of its map.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from veilscore.data.codes import CodeMap
from veilscore.data.column_bins import bins_to_json
from veilscore.errors import ConfigError
from veilscore.models.boosted import Boosted
from veilscore.models.hand_written import HandWritten
from veilscore.models.model import Column, PartyPart, Scorecard, ScoreModel
from veilscore.models.trees_part import check_map, trees_part

SCORECARD_FORMAT = "veilscore-scorecard-bank-part/1"


def bank_part(model: ScoreModel, code_map: CodeMap) -> dict[str, Any]:
    """Return the bank's part of a model of any kind as JSON values.

    Raises ConfigError where the code map is not the model's.
    """
    if isinstance(model, Boosted):
        return trees_part(model, code_map)
    if isinstance(model, HandWritten):
        raise ConfigError(f"model {model.name} is hand-written: the file of its job says all of it")
    if isinstance(model, Scorecard):
        return scorecard_part(model, code_map)
    raise ConfigError(f"model {model.name} is of format {model.format}, which cannot be exported")


def bank_part_json(model: ScoreModel, code_map: CodeMap) -> str:
    """Return the bank's part as text."""
    return json.dumps(bank_part(model, code_map), indent=1, ensure_ascii=False, allow_nan=False)


def scorecard_part(model: Scorecard, code_map: CodeMap) -> dict[str, Any]:
    """Return the bank's part as JSON values; ConfigError where the code map is not the model's.

    Points are whole units: by bin of the bank's columns (in the order of `edges` or `groups`, then special values, then
    missing where it has a bin of its own), by code of the holders'. `missing` and `other` are numbers of bins;
    `place` is that of a column in its holder's map.
    """
    check_map(model, code_map)
    own, holders = model.parts[0], model.parts[1:]
    columns = []
    for place, column in _used(own):
        found = code_map.columns[place]
        points = np.array(column.points, np.int64)[found.permutation].tolist()
        columns.append(
            {"name": found.name, **bins_to_json(found.bins), "points": points, "missing": found.bins.missing}
        )
    return {
        "format": SCORECARD_FORMAT,
        "model": model.name,
        "version": model.version,
        "bank": own.party,
        "model_sha256": model.sha256.hex(),
        "output": "units: base_points plus, for each column, the points of the row's bin or code; "
        "score = units / 10**scaling.decimals; probability of bad by scaling and calibration",
        "base_points": model.base_points,
        "scaling": model.scaling.model_dump(),
        "calibration": model.calibration.model_dump(),
        "columns": columns,
        "holders": [
            {
                "holder": part.party,
                "map_sha256": part.map_sha256,
                "columns": [
                    {"name": column.name, "place": place, "points": list(column.points)}
                    for place, column in _used(part)
                ],
            }
            for part in holders
        ],
    }


def _used(part: PartyPart) -> list[tuple[int, Column]]:
    """Return the columns that move a score, with their places in the party's code map."""
    return [(place, column) for place, column in enumerate(part.columns) if any(column.points)]
