"""The bank's model made ready for online scoring: encoded points, averages for fallbacks, bounds, reasons.

Reasons: points that a firm loses against the best bin of a column. The bank computes them, since only it knows
points: for its own columns always; for a holder's column if the holder's policy names it in `reason_columns` and the
holder therefore sent that column's code in clear; for everything else of the holders one line, the points lost in all
of it together, which follows from the total. With one holder that line is the holder's own.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from veilscore.data.ingest_file import MISSING
from veilscore.data.table import make_table
from veilscore.errors import ConfigError, DataError, SchemaError
from veilscore.modelling.model import load_model
from veilscore.node.online_records import Origins, Records, load_map
from veilscore.protocols.binning import offsets
from veilscore.protocols.online import EncodedPoints, check_points_fit, encode_points
from veilscore.v1 import control_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from veilscore.data.codes import CodeMap
    from veilscore.modelling.model import PartyPart, Scorecard


@dataclass(frozen=True, repr=False)
class Side:
    """One party's part of the model, per column and in units.

    Attributes
    ----------
    points : one array of points a column, by code.
    average : the part of the average training firm: each column's mean over the training rows, rounded.
    encoded : its points for `online.evaluate`; None for the bank's own side.
    """

    party: str
    map_hash: bytes
    names: tuple[str, ...]
    points: tuple[NDArray[np.int64], ...]
    average: int
    encoded: EncodedPoints | None

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """Points of all cells, column by column."""
        return np.concatenate(self.points)

    @property
    def lowest(self) -> int:
        """Smallest part that a firm can have."""
        return sum(int(p.min()) for p in self.points)

    @property
    def highest(self) -> int:
        """Largest part that a firm can have."""
        return sum(int(p.max()) for p in self.points)

    def lost(self, column: int, code: int) -> int:
        """Units that a code costs against the column's best."""
        return int(self.points[column].max() - self.points[column][code])


@dataclass(frozen=True, repr=False)
class BankModel:
    """A model of the bank, with the bank's map and, where the training job is known, its data set."""

    scorecard: Scorecard
    sha256: bytes
    code_map: CodeMap
    labels: tuple[tuple[str, ...], ...]
    own: Side
    holders: Mapping[str, Side]
    records: Records | None

    def own_units(self, codes: NDArray[np.unsignedinteger]) -> int:
        """Base points and the bank's own part of one firm."""
        return int(self.scorecard.own_units(codes)[0])


class BankModels:
    """Models in a bank's home by name; read at first use and again when a file changes."""

    def __init__(self, home: Path, origins: Origins) -> None:
        self._folder = home / "models"
        self._origins = origins
        self._models: dict[str, tuple[object, BankModel]] = {}

    async def get(self, name: str) -> BankModel:
        """One model, read in a thread where need be; ConfigError, SchemaError or StateError if it cannot be used."""
        folder = self._folder / name
        paths = folder / "model.json", folder / "code_map.json"
        if not name or name != folder.name or not paths[0].is_file():
            raise ConfigError(f"no model {name[:60]!r} at this node; `veilscore model list` shows what there is")
        signature = tuple(p.stat().st_mtime_ns if p.is_file() else None for p in paths)
        kept = self._models.get(name)
        if kept is None or kept[0] != signature:
            kept = self._models[name] = signature, await asyncio.to_thread(self._read, *paths)
        return kept[1]

    def _read(self, model_path: Path, map_path: Path) -> BankModel:
        scorecard, code_map = load_model(model_path), load_map(map_path)
        own, *holders = scorecard.parts
        if code_map.hash != own.map_sha256:
            raise SchemaError(
                f"the code map {map_path} is not the one that model {scorecard.name} was trained with: restore it "
                "from backup"
            )
        check_points_fit([(p.points, p.n_codes) for p in scorecard.parts], scorecard.base_points)
        origin = self._origins.search().get(code_map.hash)
        return BankModel(
            scorecard,
            scorecard.sha256,
            code_map,
            tuple(code_map.labels(name) for name in code_map.names),
            _side(own, None),
            {part.party: _side(part, encode_points(part.points)) for part in holders},
            None if origin is None else origin.records,
        )


def _side(part: PartyPart, encoded: EncodedPoints | None) -> Side:
    at = offsets(part.n_codes)
    average = 0
    for column in part.columns:
        rows = np.array(column.rows, dtype=np.float64)
        average += round(float(rows @ np.array(column.points)) / max(float(rows.sum()), 1.0))
    return Side(
        part.party,
        bytes.fromhex(part.map_sha256),
        tuple(column.name for column in part.columns),
        tuple(part.points[at[j] : at[j + 1]] for j in range(len(part.columns))),
        average,
        encoded,
    )


def codes_of_features(code_map: CodeMap, features: Mapping[str, str]) -> tuple[NDArray[np.unsignedinteger], list[str]]:
    """Codes (1, n_columns) of one firm's columns given as text, and the columns with a level not seen in training.

    Empty text and the usual words for missing are missing; a date (YYYY-MM-DD) counts in days since 1970-01-01.

    Raises
    ------
    DataError : a column of the model is absent, an unknown one is given, or a number cannot be read.
    """
    absent = [name for name in code_map.names if name not in features]
    unknown = [name for name in features if name not in code_map.kinds]
    if absent or unknown:
        faults = {"absent": absent, "unknown": unknown}
        found = "; ".join(f"{word}: {', '.join(names)[:200]}" for word, names in faults.items() if names)
        raise DataError(f"features are not the model's columns ({found}); leave the text of a missing value empty")
    columns = {}
    for name, kind in code_map.kinds.items():
        text = features.get(name, "").strip()
        cell = None if text in MISSING else text if kind == "category" else _number(name, text)
        columns[name] = np.array([cell], dtype=object)
    table = make_table(["x"], columns, source="the request", normaliser="text", kinds=code_map.kinds)
    codes, report = code_map.transform_with_report(table)
    return codes.codes, sorted(report.unseen)


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        try:
            day = dt.datetime.fromisoformat(text)
        except ValueError:
            raise DataError(f"feature {name!r} is not a number (nor a date as YYYY-MM-DD)") from None
        return (day - dt.datetime(1970, 1, 1, tzinfo=day.tzinfo)).total_seconds() / 86400
    if not math.isfinite(value):
        raise DataError(f"feature {name!r} is not a finite number; leave its text empty if it is missing")
    return value


@dataclass(frozen=True, repr=False)
class Disclosed:
    """One holder's column that its policy names in reasons: (column, code, the name it gives)."""

    column: int
    code: int
    name: str


def reasons(
    model: BankModel,
    own_codes: NDArray[np.unsignedinteger],
    disclosed: Mapping[str, tuple[Disclosed, ...]],
    together_units: int,
    n_most: int,
) -> list[control_pb2.Reason]:
    """Bins that cost the firm most, largest loss first.

    Parameters
    ----------
    own_codes : (1, n_columns) of the bank.
    disclosed : each holder that took part -> its columns sent in clear.
    together_units : what these holders' parts add up to.
    n_most : most lines.
    """
    found = [
        (model.own.lost(j, int(code)), model.own.party, name, f"{name}: {model.labels[j][int(code)]}")
        for j, (name, code) in enumerate(zip(model.own.names, own_codes[0], strict=True))
    ]
    rest = sum(model.holders[h].highest for h in disclosed) - together_units
    for holder, columns in disclosed.items():
        side = model.holders[holder]
        for shown in columns:
            lost = side.lost(shown.column, shown.code)
            rest -= lost
            alias = side.names[shown.column]
            found.append((lost, holder, shown.name, f"{shown.name} of {holder}: bin {shown.code} of {alias}"))
    parties = ", ".join(disclosed)
    other = "other columns" if any(disclosed.values()) else "all columns"
    found.append((rest, parties, "", f"{other} of {parties}" + (" together" if len(disclosed) > 1 else "")))
    found = sorted((f for f in found if f[0] > 0), key=lambda f: -f[0])[:n_most]
    units = model.scorecard.scaling.units
    return [
        control_pb2.Reason(party=party, column=column, points_lost=lost / units, text=text)
        for lost, party, column, text in found
    ]
