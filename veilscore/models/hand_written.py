"""Define a hand-written model as it is filed: a scorecard whose points a bank wrote, without odds behind them.

It is scored as any scorecard. Its points stand in the job that made it, so a holder has those of its own part too.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from veilscore import __version__
from veilscore.arrays import CodeArray, Integers, Vector
from veilscore.data.column_bins import Bins
from veilscore.data.published_bins import failures_of, points_of
from veilscore.errors import ConfigError, MessageError
from veilscore.files.store import write_text
from veilscore.models.model import Column, Filed, PartyPart, Provenance, Scaling, Scorecard
from veilscore.terms.decision import KnockOut
from veilscore.terms.job import Job
from veilscore.terms.written import WriteModel

WRITTEN = "written.json"  # a holder's part, beside its code map


class HandWritten(Scorecard):
    """A hand-written model: points a code, added up; nothing is said of probabilities."""

    format: Literal["veilscore-written/1"] = "veilscore-written/1"  # type: ignore[assignment]

    def probability(self, units: Integers) -> Vector:
        """Return that no total has a probability of default: NaN."""
        return np.full(np.shape(units), np.nan)


class WrittenPart(Filed):
    """What a holder keeps of points on its own columns: of a hand-written model, or of its knock-outs in a decision.

    points : by column in the order of its code map, by code, in units; of a knock-out 1 where a value fails.
    map_sha256 : of its code map.
    """

    name: str
    map_sha256: str
    points: tuple[tuple[int, ...], ...]

    def units(self, codes: CodeArray) -> Integers:
        """Return the points of rows (n, d), (n,)."""
        total = np.zeros(codes.shape[0], np.int64)
        for column, points in enumerate(self.points):
            total += np.array(points, np.int64)[codes[:, column]]
        return total

    def save(self, folder: Path) -> None:
        """Write written.json, whole or not at all."""
        write_text(folder / WRITTEN, self.model_dump_json(indent=1))

    @classmethod
    def load(cls, folder: Path) -> WrittenPart:
        """Return what a folder of a model keeps; ConfigError where it is missing or damaged."""
        path = folder / WRITTEN
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is missing or damaged; restore it from backup") from error


def units_by_code(p: WriteModel, party: str, n_codes: Iterable[int]) -> tuple[tuple[int, ...], ...]:
    """Return the units of each code of one party's columns, which have so many codes each, in the order of their names.

    Raises MessageError where columns cannot have so many.
    """
    columns = sorted(p.columns.get(party, {}).items())
    codes = tuple(n_codes)
    if len(codes) != len(columns):
        raise MessageError(f"{len(codes)} columns of {party}, {len(columns)} are written for", party=party)
    found = (points_of(column, n) for (_, column), n in zip(columns, codes, strict=True))
    return tuple(tuple(p.units(one) for one in points) for points in found)


def knock_out_units(knock_outs: Mapping[str, KnockOut], bins: Mapping[str, Bins]) -> tuple[tuple[int, ...], ...]:
    """Return by column, in the order of their names, which codes fail: 1 each."""
    return tuple(failures_of(knock_out, bins[column]) for column, knock_out in sorted(knock_outs.items()))


def hand_written(job: Job, job_id: str, parts: Mapping[str, WrittenPart]) -> HandWritten:
    """Return the bank's model of what was written for each party."""
    p, now = job.of(WriteModel), dt.datetime.now(dt.UTC)
    return HandWritten(
        name=job.name,
        version=now.strftime("%Y%m%d.%H%M%S"),
        scaling=Scaling(base_score=0.0, base_odds=1.0, decimals=p.decimals),
        intercept=0.0,
        base_points=p.units(p.base),
        parts=tuple(_filed(job, party, parts[party]) for party in job.parties),
        provenance=Provenance(
            job_id=job_id,
            job_sha256=job.sha256.hex(),
            purpose=job.purpose,
            trained_at=now.isoformat(timespec="seconds"),
            veilscore=__version__,
            n_train=0,
            n_holdout=0,
            n_openings=0,
            converged=True,
        ),
    )


def _filed(job: Job, party: str, part: WrittenPart) -> PartyPart:
    names = sorted(job.of(WriteModel).columns.get(party, {}))
    columns = []
    for name, points in zip(names, part.points, strict=True):
        none = (0,) * len(points)
        columns.append(
            Column(
                name=name,
                coefficient=1.0,
                iv=0.0,
                woe=tuple(map(float, none)),
                points=points,
                bad=tuple(map(float, none)),
                good=tuple(map(float, none)),
                rows=none,
                holdout_rows=none,
            )
        )
    role: Literal["bank", "holder"] = "bank" if party == job.bank else "holder"
    return PartyPart(party=party, role=role, map_sha256=part.map_sha256, columns=tuple(columns))
