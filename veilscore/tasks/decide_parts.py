"""What a party has of each measure of a decision: the bank its model, a holder codes, or points that it knows itself.

models/DECISION/model-MEASURE.json, map-MEASURE.json     bank: model and own code map, as they were when it was filed
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from veilscore.arrays import CodeArray, Integers, Mask
from veilscore.data.codes import CodeMap
from veilscore.errors import ConfigError, RefusedError, StateError
from veilscore.evidence.filings import filed_by, filed_versions, made_for
from veilscore.models.decided import KNOCK_OUTS, FiledDecision, Pin, map_file, model_file
from veilscore.models.filed import load_model
from veilscore.models.hand_written import WrittenPart
from veilscore.models.model import ScoreModel
from veilscore.models.trees import Tree
from veilscore.models.versions import with_map
from veilscore.protocols.decision import HolderCellPoints, HolderMeasure, HolderPoints, HolderTreePoints
from veilscore.protocols.decision_circuit import DecisionCircuit
from veilscore.release.batch import BatchOpening
from veilscore.tasks.context import StepContext, aligned_table, load_code_map, load_trees


def filed_here(context: StepContext, name: str, sha256: bytes) -> tuple[FiledDecision, Path]:
    """Return the decision that the job's bank filed and applies, and its version's folder; RefusedError without one."""
    home, jobs = context.home(), context.jobs
    if jobs is None:
        for filed, version in filed_versions(home, name, sha256):
            return filed, version.folder
    elif found := filed_by(home, jobs, name, sha256, bank=context.job.bank):
        return found[0], found[2]
    raise RefusedError(
        f"has no such version of decision {name} that this bank filed: file the decision again, with all holders"
    )


# --- bank ------------------------------------------------------------------------------------------------------------


def own_model(context: StepContext, decision: str, measure: str, pin: Pin) -> tuple[ScoreModel, CodeMap]:
    """Return a measure's model and the bank's code map of it, as they were when the decision was filed."""
    folder = context.home() / "models" / decision
    model, path = load_model(folder / model_file(measure)), folder / map_file(measure)
    try:
        code_map = CodeMap.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"{path} cannot be read: restore it from backup, or file the decision again") from error
    if model.sha256.hex() != pin.model_sha256 or code_map.hash != model.parts[0].map_sha256:
        raise ConfigError(
            f"measure {measure}: model {pin.model} or its code map at {context.session.party} is of another version "
            "than the decision's: restore it from backup, or file the decision again"
        )
    return model, code_map


# --- holder ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnPart:
    """This party's part of one measure, or of the knock-outs.

    points : of each cell, where it knows them; trees : of a model of trees.
    codes : (n_rows, d), once they are known.
    """

    code_map: CodeMap
    points: WrittenPart | None = None
    trees: tuple[Tree, ...] = ()
    codes: CodeArray = field(default_factory=lambda: np.zeros((0, 0), np.uint8), repr=False)

    def measure(self, modulus: int, sign: int = 1) -> HolderMeasure:
        """Return what the protocol is run with."""
        if self.points is not None:
            return HolderPoints(sign * self.points.units(self.codes), modulus)
        if self.trees:
            return HolderTreePoints(self.codes, self.code_map.n_codes, self.trees)
        return HolderCellPoints(self.codes, self.code_map.n_codes)


@dataclass(frozen=True)
class OwnParts:
    """This party's parts of a decision, by measure, the knock-outs last; a measure without a part is not there."""

    parts: dict[str, OwnPart]

    @classmethod
    def load(cls, context: StepContext, filed: FiledDecision, folder: Path) -> OwnParts:
        """Load the versions that the decision pins; RefusedError where one is not there any more.

        folder : of the decision's version.
        """
        party = context.session.party
        parts = {
            measure: _pinned(context, measure, pin, pin.maps[party])
            for measure, pin in sorted(filed.pins.items())
            if party in pin.maps
        }
        if party in filed.knock_outs:
            points, code_map = WrittenPart.load(folder), load_code_map(folder.parent, folder.name)
            if not points.map_sha256 == code_map.hash == filed.knock_outs[party]:
                raise RefusedError("its knock-outs are of another version: file the decision again")
            parts[KNOCK_OUTS] = OwnPart(code_map, points)
        if not parts:
            raise RefusedError(f"has no part in decision {filed.decision.name}")
        return cls(parts)

    @property
    def sha256(self) -> bytes:
        """Return what stands for all its code maps in the ledger."""
        hashes = "".join(f"{name}\0{part.code_map.hash}\0" for name, part in self.parts.items())
        return hashlib.sha256(b"veilscore/decision maps/v1" + hashes.encode()).digest()

    @property
    def n_columns(self) -> int:
        """Return how many columns of this party the decision is over."""
        return len({name for part in self.parts.values() for name in part.code_map.names})

    def coded(self, context: StepContext, row_of: Integers) -> OwnParts:
        """Return the parts with the codes of the bank's rows; row_of : (n_rows,), -1 for firms that are unknown."""
        found = {}
        for name, part in self.parts.items():
            coded, _ = part.code_map.transform_with_report(aligned_table(context, kinds=part.code_map.kinds))
            found[name] = replace(part, codes=np.array(coded.take_rows(row_of).codes))
        return OwnParts(found)

    @property
    def codes(self) -> dict[str, CodeArray]:
        """Return the codes of all rows by measure."""
        return {name: part.codes for name, part in self.parts.items()}

    def with_codes(self, codes: Mapping[str, CodeArray]) -> OwnParts:
        """Return the parts with codes that were read before, by measure."""
        return OwnParts({name: replace(part, codes=codes[name]) for name, part in self.parts.items()})

    def opened(self, opening: BatchOpening) -> BatchOpening:
        """Return an opening with the codes of all parts side by side, of the rows whose firms are charged."""
        return replace(opening, codes=np.hstack([part.codes for part in self.parts.values()])[opening.firm_rows])

    def forget(self, unknown: Mask) -> None:
        """Give the rows of firms that count as unknown the codes of these."""
        for part in self.parts.values():
            part.codes[unknown] = part.code_map.unknown_firms(1).codes

    def measures(self, filed: FiledDecision, circuit: DecisionCircuit) -> dict[str, HolderMeasure]:
        """Return what each measure of the circuit is run with here, a share of zero where there is no part."""
        n_rows = next(iter(self.parts.values())).codes.shape[0]
        found: dict[str, HolderMeasure] = {}
        for name, measure in zip(filed.names, circuit.measures, strict=True):
            part = self.parts.get(name)
            if part is None:
                found[name] = HolderPoints(np.zeros(n_rows, np.int64), measure.modulus)
            else:
                found[name] = part.measure(measure.modulus, sign=-1 if name == KNOCK_OUTS else 1)
        return found


def made_for_bank(context: StepContext, name: str, folder: Path) -> bool:
    """Return whether the version of a model in a folder here was made for the bank of the job."""
    return context.jobs is None or made_for(context.home(), context.jobs, name, folder) == context.job.bank


def _pinned(context: StepContext, measure: str, pin: Pin, map_sha256: str) -> OwnPart:
    folder = with_map(context.home(), pin.model, map_sha256)
    if folder is None or not made_for_bank(context, pin.model, folder):
        raise RefusedError(
            f"measure {measure}: has no such version of model {pin.model} of this bank (any more): restore it from "
            "backup, or train it again and file the decision anew"
        )
    code_map = load_code_map(folder.parent, folder.name)
    if pin.written:
        points = WrittenPart.load(folder)
        if points.map_sha256 != map_sha256:
            raise RefusedError(f"measure {measure}: its points are of another version: file the decision again")
        return OwnPart(code_map, points)
    if not pin.trees:
        return OwnPart(code_map)
    trees = load_trees(folder.parent, folder.name)
    if trees.sha256.hex() != pin.trees.get(context.session.party):
        raise RefusedError(f"measure {measure}: its part of model {pin.model} is changed or of another version")
    return OwnPart(code_map, trees=trees.trees)
