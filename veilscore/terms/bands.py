"""Bands of a score have names and cut-offs; a holder keeps those of the job that trained a model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from veilscore.arrays import Integers
from veilscore.errors import ConfigError
from veilscore.files.store import write_atomically

BELOW = "below all bands"
MOST_STEPS = 32  # that a coarse score may tell: five bits
MAX_STEPS = 64  # where a holder's policy lets a score tell more


@dataclass(frozen=True)
class Bands:
    """Keeps bands by rising score; band 0 is below all that have a name.

    names : of all bands, that below all others first.
    limits : lowest total of each band but the first, in units of the model, ascending.
    """

    names: tuple[str, ...]
    limits: tuple[int, ...]

    @classmethod
    def of(cls, bands: Mapping[str, float], units: float) -> Bands:
        """Return bands of these names and lowest scores, at so many units a point; ConfigError where there is none."""
        if not bands:
            raise ConfigError("bands are asked for and none is defined: name them, for example bands: {A: 600, B: 550}")
        ranked = sorted(bands, key=lambda name: bands[name])
        return cls((BELOW, *ranked), tuple(round(bands[name] * units) for name in ranked))

    @classmethod
    def steps(cls, limits: Sequence[int], most: int = MOST_STEPS) -> Bands:
        """Return the steps of a coarse score: bands that have numbers for names; ConfigError if there are too many."""
        if not 0 < len(limits) < most or any(b <= a for a, b in pairwise(limits)):
            raise ConfigError(f"a coarse score has 2 to {most} steps, with cut-offs in ascending order")
        return cls(tuple(str(k) for k in range(len(limits) + 1)), tuple(limits))

    @property
    def bits(self) -> float:
        """Return the most that the number of a band tells of a firm, in bits."""
        return math.log2(len(self.limits) + 1)

    @cached_property
    def sha256(self) -> bytes:
        """Return the digest of the cut-offs alone: two sets of bands with the same cut-offs tell the same."""
        return hashlib.sha256(b"veilscore/bands/v1" + np.array(self.limits, "<i8").tobytes()).digest()

    def index(self, units: Integers) -> Integers:
        """Return the number of the band of each total, in the clear."""
        return np.searchsorted(np.array(self.limits, np.int64), units, side="right").astype(np.int64)

    def narrowest(self, units: float) -> float:
        """Return the smallest distance of two cut-offs, in points; it is infinite where there is one."""
        return min((b - a for a, b in pairwise(self.limits)), default=np.inf) / units


class KeptBands(BaseModel):
    """Keeps at a holder what it needs of the job that trained a model, to say later which bands that model has.

    bands : name -> lowest score, as in the job; may be empty.
    decimals, pdo : of its points.
    map_sha256 : of the holder's code map of the model.
    written : whether it is a hand-written one, whose points say nothing of odds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bands: dict[str, float]
    decimals: int = Field(ge=-6, le=3)
    pdo: float = Field(gt=0)
    map_sha256: str
    written: bool = False

    @property
    def units(self) -> float:
        """Return how many units make one point."""
        return float(10.0**self.decimals)

    def save(self, folder: Path) -> None:
        """Write bands.json, whole or not at all."""
        text = self.model_dump_json(indent=1)
        write_atomically(folder / "bands.json", lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, folder: Path) -> KeptBands:
        """Return what bands.json keeps; ConfigError where it is missing or damaged."""
        try:
            return cls.model_validate_json((folder / "bands.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"no bands were kept of model {folder.name!r}: train it with this version, or restore bands.json"
            ) from None
        except (OSError, ValueError) as error:  # pydantic's error is a ValueError, as is that of bytes that are no text
            raise ConfigError(f"{folder / 'bands.json'} is damaged; restore it from backup") from error
