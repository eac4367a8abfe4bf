"""The bank's model made ready for online scoring: encoded points, averages for fallbacks, bounds, its own records."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import math
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from veilscore.arrays import CodeArray, Integers, Vector
from veilscore.crypto import he
from veilscore.crypto.encrypted_cells import EncodedPoints, check_points_fit, encode_points
from veilscore.data.codes import CodeMap
from veilscore.data.notation import MISSING, WHITE, plain_number
from veilscore.data.table import make_table
from veilscore.errors import ConfigError, DataError, ParameterError, SchemaError
from veilscore.models.boosted import Boosted
from veilscore.models.chained import BankChain, Chained
from veilscore.models.counts import offsets
from veilscore.models.filed import load_model
from veilscore.models.model import PartyPart, Scorecard, ScoreModel
from veilscore.models.steps import steps_of
from veilscore.models.tree_paths import BankTrees
from veilscore.online.records import Origins, Records, load_map
from veilscore.protocols.online_spares import Side, spares_together
from veilscore.terms.bands import Bands

_TRIES, _AGAIN_S = 3, 0.05


@dataclass(frozen=True, repr=False)
class ModelSides:
    """A model of the bank by party.

    trees : of boosted trees, the bank's side of each holder's.
    own_trees : of a private model, the bank's own.
    constant : what trees of one record add whatever holders have.
    """

    artefact: ScoreModel
    own: Side
    holders: Mapping[str, Side]
    trees: Mapping[str, BankTrees | BankChain] = field(default_factory=dict)
    own_trees: BankTrees | None = None
    constant: int = 0

    @classmethod
    def of(cls, artefact: ScoreModel) -> ModelSides:
        """Encode a model; ParameterError if its totals do not fit online scoring."""
        own, *holders = artefact.parts
        trees = bank_trees(artefact) if isinstance(artefact, Boosted) else {}
        own_trees = None
        if isinstance(artefact, Chained):
            own_trees = BankTrees(artefact.trees, artefact.points, own.n_codes, np.zeros(0, np.int64))
        hashes = artefact.holder_sha256 if isinstance(artefact, Boosted) else {}
        if not trees:
            check_points_fit([(p.points, p.n_codes) for p in artefact.parts], artefact.base_points)
        sides = {p.party: _side(p, None if trees else _encoded(p.points), hashes.get(p.party, "")) for p in holders}
        return ModelSides(artefact, _side(own, None), sides, trees, own_trees)

    def own_units(self, codes: CodeArray) -> int:
        """Return the base points and the bank's own part of one firm."""
        if isinstance(self.artefact, Scorecard):
            return int(self.artefact.own_units(codes)[0])
        return self.artefact.base_points + self.constant

    def units_without(self, codes: CodeArray, neutral: Iterable[str]) -> int:
        """Return the units of one firm but for the parts that are opened: the bank's, and averages of the neutral."""
        return self.own_units(codes) + sum(self.holders[h].average for h in neutral)

    def of_record(self, codes: CodeArray) -> Self:
        """Return the model for one record: in trees the bank's factors depend on its own codes (1, n_columns)."""
        if not self.trees:
            return self
        score = 0 if self.own_trees is None else self.own_trees.record(codes[0]).constant
        sides, constant = {}, score
        for holder, trees in self.trees.items():
            record = trees.record(codes[0], score) if isinstance(trees, BankChain) else trees.record(codes[0])
            constant += record.constant
            sides[holder] = replace(
                self.holders[holder],
                factors=record.factors if record.factors.size else np.zeros(1, np.int64),
                bounds=(record.lowest, record.highest),
                average=record.expected,
            )
        return replace(self, holders=sides, constant=constant)

    def own_loss(self, codes: CodeArray) -> Vector:
        """Return the units that trees take from a record (1, n_columns) against the average firm, by own column.

        A chain's cuts are left out: they only divide what holders' columns say.
        """
        own = [trees for trees in (self.own_trees, *self.trees.values()) if isinstance(trees, BankTrees)]
        lost: Vector = np.sum([trees.lost(codes[0], codes.shape[1]) for trees in own], axis=0)
        return lost


@dataclass(frozen=True, repr=False, kw_only=True)
class BankModel(ModelSides):
    """The same with the bank's map and, where the training job is known, its data set.

    steps : of coarse scores, as many as there usually are.
    stock : of a model for one record, the model itself: spares are kept for that.
    """

    sha256: bytes
    code_map: CodeMap
    labels: tuple[tuple[str, ...], ...]
    records: Records | None
    steps: Bands
    stock: BankModel | None = None

    def of_record(self, codes: CodeArray) -> Self:
        """Return the model for one record (`ModelSides`)."""
        return replace(super().of_record(codes), stock=self) if self.trees else self


class BankModels:
    """Keeps the models of a bank's home by name; reads them at first use and again when a file changes."""

    def __init__(self, home: Path, origins: Origins) -> None:
        self._folder = home / "models"
        self._origins = origins
        self._models: dict[str, tuple[object, asyncio.Task[BankModel]]] = {}
        self._paths: dict[str, tuple[Path, Path]] = {}  # of those that there were

    async def get(self, name: str) -> BankModel:
        """Return a model, read in a thread if need be; ConfigError, SchemaError or StateError if it cannot be used."""
        paths = self._paths.get(name)
        if paths is None:
            folder = self._folder / name
            paths = folder / "model.json", folder / "code_map.json"
        changed = _changed(paths[0]) if name and name == paths[0].parent.name else None
        if changed is None:
            raise ConfigError(f"no model {name[:60]!r} at this node; `veilscore model list` shows what there is")
        self._paths[name] = paths
        return await self._kept(name, paths, changed)

    async def at(self, folder: Path) -> BankModel:
        """Return the model of a folder, of a version in use or not; errors as of `get`."""
        paths = folder / "model.json", folder / "code_map.json"
        return await self._kept(str(folder), paths, _changed(paths[0]))

    async def _kept(self, key: str, paths: tuple[Path, Path], changed: int | None) -> BankModel:
        """Return what was read of these files as they are; all that ask at once get one and the same."""
        signature = changed, _changed(paths[1])
        kept = self._models.get(key)
        if kept is None or kept[0] != signature:
            kept = self._models[key] = signature, asyncio.get_running_loop().create_task(self._whole(*paths))
        try:
            return await asyncio.shield(kept[1])
        except Exception:
            self._models.pop(key, None)  # whoever asks next reads it again
            raise

    async def _whole(self, model_path: Path, map_path: Path) -> BankModel:
        """Read a model; again after a moment, if model and map did not fit, as while a version is put to use."""
        for _ in range(_TRIES):
            with contextlib.suppress(SchemaError, ConfigError):
                return await asyncio.to_thread(self._read, model_path, map_path)
            await asyncio.sleep(_AGAIN_S)
        return await asyncio.to_thread(self._read, model_path, map_path)

    def _read(self, model_path: Path, map_path: Path) -> BankModel:
        artefact, code_map = load_model(model_path), load_map(map_path)
        if code_map.hash != artefact.parts[0].map_sha256:
            raise SchemaError(
                f"the code map {map_path} is not the one that model {artefact.name} was trained with: restore it "
                "from backup"
            )
        sides = ModelSides.of(artefact)
        origin = self._origins.search().get(code_map.hash)
        return BankModel(
            artefact=artefact,
            own=sides.own,
            holders=sides.holders,
            trees=sides.trees,
            own_trees=sides.own_trees,
            sha256=artefact.sha256,
            code_map=code_map,
            labels=tuple(code_map.labels(name) for name in code_map.names),
            records=None if origin is None else origin.records,
            steps=steps_of(artefact),
        )


def bank_trees(model: Boosted) -> dict[str, BankTrees | BankChain]:
    """Return the bank's side of each holder's trees; ParameterError where totals do not fit online scoring."""
    if model.largest_units() >= he.T // 2:
        raise ParameterError(
            f"a total of {model.name} could reach {model.largest_units()} units, {he.T // 2 - 1} fit online scoring: "
            "train with fewer decimals of points"
        )
    bank, *holders = model.parts
    if isinstance(model, Chained):
        return {part.party: BankChain(model, part.party) for part in holders}
    return {
        part.party: BankTrees(
            model.trees_of(part.party),
            [points for tree, points in zip(model.trees, model.points, strict=True) if tree.holder == part.party],
            bank.n_codes,
            part.n_codes,
        )
        for part in holders
    }


def _changed(path: Path) -> int | None:
    """Return when a file was changed; None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a caller waits: half the time of a Path's
    except OSError:
        return None
    return found.st_mtime_ns if stat.S_ISREG(found.st_mode) else None


def _encoded(points: Integers) -> EncodedPoints:
    return encode_points(points, spares_together(points.size))


def _side(part: PartyPart, encoded: EncodedPoints | None, part_hash: str = "") -> Side:
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
        bytes.fromhex(part_hash),
    )


def codes_of_features(code_map: CodeMap, features: Mapping[str, str]) -> tuple[CodeArray, list[str]]:
    """Return the codes (1, n_columns) of a firm's columns given as text, and the columns with a level not seen before.

    Empty text and the usual words for missing are missing; a date (YYYY-MM-DD) counts in days since 1970-01-01.

    Raises DataError where a column of the model is absent, an unknown one is given, or a number cannot be read.
    """
    absent = [name for name in code_map.names if name not in features]
    unknown = [name for name in features if name not in code_map.kinds]
    if absent or unknown:
        faults = {"absent": absent, "unknown": unknown}
        found = "; ".join(f"{word}: {', '.join(names)[:200]}" for word, names in faults.items() if names)
        raise DataError(f"features are not the model's columns ({found}); leave the text of a missing value empty")
    columns = {}
    for name, kind in code_map.kinds.items():
        text = features.get(name, "").strip(WHITE)
        cell = None if text in MISSING else text if kind == "category" else _number(name, text)
        columns[name] = np.array([cell], dtype=object)
    table = make_table(["x"], columns, source="the request", normaliser="text", kinds=code_map.kinds)
    codes, report = code_map.transform_with_report(table)
    return codes.codes, sorted(report.unseen)


def _number(name: str, text: str) -> float:
    try:
        value = plain_number(text)
    except ValueError:
        try:
            day = dt.datetime.fromisoformat(text)
        except ValueError:
            raise DataError(f"feature {name!r} is not a number (nor a date as YYYY-MM-DD)") from None
        return (day - dt.datetime(1970, 1, 1, tzinfo=day.tzinfo)).total_seconds() / 86400
    if not math.isfinite(value):
        raise DataError(f"feature {name!r} is not a finite number; leave its text empty if it is missing")
    return value
