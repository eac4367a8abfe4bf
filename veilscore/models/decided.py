"""Define a decision as all parties file it, the same file at each: its form, and the pinned versions of its models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from veilscore.arrays import Integers, Mask
from veilscore.errors import ConfigError
from veilscore.files.store import write_text
from veilscore.models.boosted import Boosted
from veilscore.models.hand_written import WRITTEN, HandWritten
from veilscore.models.model import Filed, ScoreModel
from veilscore.terms.decision import MOST_UNITS, DecisionModel, KnockOut
from veilscore.terms.parameters import Name
from veilscore.terms.settings import parse_json

FILE = "decision.json"
KNOCK_OUTS = "knock_outs"  # no measure has this name (terms/decision.py)
DECISION, HAND_WRITTEN, TRAINED = "decision", "hand-written model", "trained model"  # what may be filed under a name
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Pin(Filed):
    """The version of the model of one measure, as its bank has it.

    limits : cut-offs in units of the model, ascending, one a step.
    maps : holder -> hash of its code map; a holder that is not there has no part in the measure.
    trees : holder -> hash of its part of trees; empty for scorecards.
    written : whether it is hand-written: each holder then has the points of its own columns itself.
    """

    model: Name
    model_sha256: Digest
    limits: tuple[int, ...]
    maps: dict[Name, Digest]
    trees: dict[Name, Digest] = Field(default_factory=dict)
    written: bool = False

    @classmethod
    def of(cls, model: ScoreModel, limits: tuple[int, ...]) -> Pin:
        """Return the pin of a model."""
        return cls(
            model=model.name,
            model_sha256=model.sha256.hex(),
            limits=limits,
            maps={part.party: part.map_sha256 for part in model.parts[1:]},
            trees=dict(model.holder_sha256) if isinstance(model, Boosted) else {},
            written=isinstance(model, HandWritten),
        )


class Pins(Filed):
    """The pins of all measures that have a model, by name of the measure."""

    pins: dict[Name, Pin]

    def to_bytes(self) -> bytes:
        """Return canonical JSON."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Pins:
        """Return what a peer sent; ValueError where it cannot be."""
        return cls.model_validate(parse_json(data))


class FiledDecision(Pins):
    """A decision with everything that it is applied by.

    knock_outs : holder -> hash of its code map of the knock-outs on its columns.
    """

    format: Literal["veilscore-decision/1"] = "veilscore-decision/1"
    decision: DecisionModel
    knock_outs: dict[Name, Digest] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _pins_of_the_measures(self) -> Self:
        if {name: pin.model for name, pin in self.pins.items()} != self.decision.models:
            raise ValueError("the pinned models are not those of the decision's measures")
        for name, pin in self.pins.items():
            good = len(pin.limits) == self.decision.n_steps and all(a < b for a, b in pairwise(pin.limits))
            if not good or any(abs(limit) > MOST_UNITS for limit in pin.limits):
                raise ValueError(f"the limits of measure {name} are not ascending, or do not fit the ring of totals")
        return self

    @property
    def sha256(self) -> bytes:
        """Return the digest by which all parties know the decision."""
        return hashlib.sha256(self.to_bytes()).digest()

    def holders_of(self, measure: str) -> tuple[str, ...]:
        """Return the holders that have a part in a measure."""
        return tuple(sorted(self.pins[measure].maps))

    @property
    def holders(self) -> tuple[str, ...]:
        """Return the holders that have a part in any measure, by name."""
        return tuple(sorted({holder for pin in self.pins.values() for holder in pin.maps} | set(self.knock_outs)))

    @property
    def names(self) -> tuple[str, ...]:
        """Return the measures in the order of the circuit: by name, and the knock-outs last where there are any."""
        return (*sorted(self.pins), *([KNOCK_OUTS] if self.knock_outs else ()))

    @property
    def known_points(self) -> dict[str, tuple[str, ...]]:
        """Return the holders that know their own points, by measure: of hand-written models and of knock-outs."""
        found = {measure: self.holders_of(measure) for measure, pin in self.pins.items() if pin.written}
        return found | ({KNOCK_OUTS: tuple(sorted(self.knock_outs))} if self.knock_outs else {})

    def save(self, folder: Path) -> None:
        """Write decision.json with its hash, whole or not at all."""
        body = {"sha256": self.sha256.hex(), "decision": self.model_dump(mode="json")}
        write_text(folder / FILE, json.dumps(body, indent=1, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> FiledDecision:
        """Return the decision of a folder; ConfigError where there is none, or it was changed."""
        path = folder / FILE
        try:
            body = parse_json(path.read_text(encoding="utf-8"))
            found, stated = cls.model_validate(body["decision"]), str(body["sha256"])
        except FileNotFoundError:
            raise ConfigError(
                f"no decision {folder.name[:60]!r} is filed here; `veilscore decision list` shows what there is"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not a filed decision; restore it from backup") from error
        if found.sha256.hex() != stated:
            raise ConfigError(f"{path} was changed: its hash does not match; restore it from backup")
        return found


def load_decision(home: Path, name: str) -> FiledDecision:
    """Return the decision of this name that is in use at a party; ConfigError where there is none."""
    if not name or Path(name).name != name:
        raise ConfigError(f"{name[:60]!r} is no name of a decision")
    return FiledDecision.load(home / "models" / name)


def kind_filed(home: Path, name: str) -> str:
    """Return what is in use under a name at a party, in words; "" if nothing is."""
    folder = home / "models" / name
    for file, kind in ((FILE, DECISION), (WRITTEN, HAND_WRITTEN), ("code_map.json", TRAINED)):
        if (folder / file).is_file():
            return kind
    return ""


def model_file(measure: str) -> str:
    """Return the name of the bank's copy of a measure's model, beside the decision."""
    return f"model-{measure}.json"


def map_file(measure: str) -> str:
    """Return the name of the bank's copy of its own code map of a measure's model."""
    return f"map-{measure}.json"


def bank_columns(decision: DecisionModel, bank: str) -> tuple[str, ...]:
    """Return the bank's own columns that a decision reads: its measures' and its knock-outs'."""
    names = (*decision.columns.values(), *(one.column for one in decision.knock_outs_of(bank)))
    return tuple(dict.fromkeys(names))


def bank_bound(decision: DecisionModel, bank: str, columns: Mapping[str, Any], n_rows: int) -> Integers:
    """Return the index that the bank's own columns and knock-outs allow each firm, (n,): its private input.

    columns : values of `bank_columns` by name, (n,) each. A value that is missing reaches nothing; one that is missing
        in a knock-out knocks nobody out.
    """
    bound = np.full(n_rows, decision.n_steps, np.int64)
    for measure, name in decision.columns.items():
        values = np.asarray(columns[name])
        if values.dtype.kind != "f":
            raise ConfigError(f"measure {measure}: column {name!r} of {bank} has no numbers; name another column")
        reached = np.searchsorted(np.array(decision.cutoffs_of(measure)), values, side="right")
        bound = np.minimum(bound, np.where(np.isnan(values), 0, reached))
    for knock_out in decision.knock_outs_of(bank):
        bound[knocked_out(knock_out, np.asarray(columns[knock_out.column]))] = 0
    return bound


def knocked_out(knock_out: KnockOut, values: Any) -> Mask:
    """Return which values (n,) in the clear a knock-out takes out; ConfigError for a column of another kind."""
    if (values.dtype.kind == "f") == bool(knock_out.is_):
        kind, need = ("numbers", "above or up_to") if values.dtype.kind == "f" else ("categories", "is")
        raise ConfigError(f"the knock-out on {knock_out.party}.{knock_out.column} has {kind}: use {need}")
    return np.fromiter((knock_out.holds(value) for value in values.tolist()), bool, values.size)
