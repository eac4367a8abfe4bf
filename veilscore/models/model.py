"""Define the scorecard as the bank files it: WOE, coefficients and points per anonymous bin, with provenance and hash.

Each holder's part of the meaning (which values are in which bin) stays with the holder; the model names its hash.
Points are integers in units of 10**-decimals, fixed once at export, so that batch and online add the same numbers; of a
hand-written model a unit may be many points.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from veilscore.arrays import CodeArray, Integers, Vector
from veilscore.errors import ConfigError
from veilscore.files.store import write_atomically
from veilscore.models.loss import sigmoid

M = TypeVar("M", bound="ScoreModel")


class Filed(BaseModel):
    """Base of what is filed as JSON: values never change, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Scaling(Filed):
    """Gives `base_score` points at good:bad odds of `base_odds`; `pdo` more points double the odds."""

    base_score: float = 600.0
    base_odds: float = Field(default=50.0, gt=0)
    pdo: float = Field(default=20.0, gt=0)
    decimals: int = Field(default=2, ge=-6, le=3)

    @property
    def units(self) -> float:
        """Return the units in one point, a whole number but for hand-written models in large units."""
        return float(10.0**self.decimals)

    @property
    def shown_decimals(self) -> int:
        """Return with how many digits after the point a score is shown."""
        return max(0, self.decimals)

    @property
    def factor(self) -> float:
        """Return the units per log-odds."""
        return self.pdo / math.log(2.0) * self.units

    @property
    def offset(self) -> float:
        """Return the units at even odds."""
        return self.base_score * self.units - self.factor * math.log(self.base_odds)

    def base_points(self, intercept: float) -> int:
        """Return the units of a firm whose log-odds of bad are the intercept alone."""
        return round(self.offset - self.factor * intercept)

    def log_odds_bad(self, units: Integers) -> Vector:
        """Return the log-odds of bad at a total of units."""
        return (self.offset - units.astype(np.float64)) / self.factor


class Column(Filed):
    """One column of one party, with everything per code.

    woe, points, bad, good, rows, holdout_rows : one entry a code; points are in units.
    left_out : why the column was not selected; it then has coefficient None and zero points.
    """

    name: str
    coefficient: float | None
    standard_error: float | None = None
    iv: float
    woe: tuple[float, ...]
    points: tuple[int, ...]
    bad: tuple[float, ...]
    good: tuple[float, ...]
    rows: tuple[int, ...]
    holdout_rows: tuple[int, ...]
    ordered: bool = False
    left_out: str = ""


class PartyPart(Filed):
    """All columns of one party and the hash of its code map."""

    party: str
    role: Literal["bank", "holder"]
    map_sha256: str
    columns: tuple[Column, ...]

    @property
    def n_codes(self) -> Integers:
        """Return the codes of each column: (d,)."""
        return np.array([len(c.woe) for c in self.columns], dtype=np.int64)

    @property
    def points(self) -> Integers:
        """Return the points in units: (cells,)."""
        return np.array([p for c in self.columns for p in c.points], dtype=np.int64)


class Calibration(Filed):
    """Gives PD from log-odds, intercept + slope * log-odds, as fitted on the hold-out; 1 and 0 without calibration."""

    slope: float = 1.0
    intercept: float = 0.0


class Provenance(Filed):
    """Says where the model comes from."""

    job_id: str
    job_sha256: str
    purpose: str
    trained_at: str
    veilscore: str
    n_train: int
    n_holdout: int
    n_openings: int
    converged: bool
    transcript_sha256: str = ""


class ScoreModel(Filed):
    """What every model has that ends in points, a probability and a band: the bank's artefact."""

    format: str
    name: str
    version: str
    scaling: Scaling
    intercept: float
    base_points: int
    parts: tuple[PartyPart, ...]
    bands: dict[str, float] = Field(default_factory=dict)
    calibration: Calibration = Calibration()
    provenance: Provenance

    @property
    def sha256(self) -> bytes:
        """Return the digest of the canonical JSON, by which holders know the model."""
        body = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(body.encode()).digest()

    def part(self, party: str) -> PartyPart:
        """Return one party's part; ConfigError if the model has none."""
        for part in self.parts:
            if part.party == party:
                return part
        raise ConfigError(f"model {self.name} has no part of {party}; it has {', '.join(p.party for p in self.parts)}")

    def score(self, units: Integers) -> Vector:
        """Return the points of totals in units."""
        if self.scaling.decimals < 0:
            return np.asarray(units * 10.0**-self.scaling.decimals)  # exact, where dividing by 0.001 is not
        return units / self.scaling.units

    def probability(self, units: Integers) -> Vector:
        """Return the probability of default at totals in units."""
        c = self.calibration
        return sigmoid(c.intercept + c.slope * self.scaling.log_odds_bad(units))

    def band(self, score: float) -> str:
        """Return the highest band whose lowest score is reached; "" where the model has no bands."""
        reached = [(lowest, name) for name, lowest in self.bands.items() if score >= lowest]
        return max(reached)[1] if reached else ("below all bands" if self.bands else "")

    def save(self, path: Path) -> Path:
        """Write the model with its hash."""
        body = {"sha256": self.sha256.hex(), "model": self.model_dump(mode="json")}
        text = json.dumps(body, indent=1, ensure_ascii=False)
        write_atomically(path, lambda file: file.write(text.encode()))
        return path


class Scorecard(ScoreModel):
    """A trained joint scorecard: points per code, added up."""

    format: Literal["veilscore-scorecard/1"] = "veilscore-scorecard/1"

    def own_units(self, codes: CodeArray) -> Integers:
        """Return base points and the bank's own part of rows (n, d_bank), in units."""
        bank = self.parts[0]
        if codes.shape[0] == 1:  # of one row numpy's calls would be all there is to it
            points = [part.points[code] for part, code in zip(bank.columns, codes[0].tolist(), strict=True)]
            return np.array([self.base_points + sum(points)], np.int64)
        total = np.full(codes.shape[0], self.base_points, np.int64)
        for column, part in enumerate(bank.columns):
            total += np.array(part.points, dtype=np.int64)[codes[:, column]]
        return total

    def extremes(self) -> tuple[int, int]:
        """Return the smallest and the largest total that the model allows, in units."""
        columns = [column.points for part in self.parts for column in part.columns]
        return self.base_points + sum(map(min, columns)), self.base_points + sum(map(max, columns))
