"""Fill the fields that filed models of all kinds share, and read a filed model of any kind."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from pydantic import ValidationError

from veilscore import __version__
from veilscore.errors import ConfigError
from veilscore.models.boosted import Boosted, Stacked
from veilscore.models.chained import Chained
from veilscore.models.counts import BinCounts, offsets
from veilscore.models.hand_written import HandWritten
from veilscore.models.model import Column, M, PartyPart, Provenance, Scaling, Scorecard, ScoreModel
from veilscore.models.woe import WoeTable
from veilscore.terms.job import Job
from veilscore.terms.settings import parse_json


def scaling_of(job: Job) -> Scaling:
    """Return the scale of points that a job asks for."""
    p = job.training
    return Scaling(base_score=p.base_score, base_odds=p.base_odds, pdo=p.pdo, decimals=p.points_decimals)


def filed_fields(job: Job, intercept: float, **origin: Any) -> dict[str, Any]:
    """Return the fields that do not depend on the kind of model; its version is the time of this call.

    origin : the fields of `Provenance` that neither the job nor the clock gives.
    """
    scaling, now = scaling_of(job), dt.datetime.now(dt.UTC)
    return {
        "name": job.name,
        "version": now.strftime("%Y%m%d.%H%M%S"),
        "scaling": scaling,
        "intercept": intercept,
        "base_points": scaling.base_points(intercept),
        "bands": {name: float(score) for name, score in job.training.bands.items()},
        "provenance": Provenance(
            job_sha256=job.sha256.hex(),
            purpose=job.purpose,
            trained_at=now.isoformat(timespec="seconds"),
            veilscore=__version__,
            **origin,
        ),
    }


def filed_part(job: Job, counts: BinCounts, table: WoeTable, columns: Sequence[Mapping[str, Any]]) -> PartyPart:
    """Return one party's part of a filed model.

    columns : per column, the fields of `Column` that the kind of model gives; WOE is the table's and points are zero
        where it gives none.
    """
    at, filed = offsets(counts.n_codes), []
    for j, own in enumerate(columns):
        cells = slice(int(at[j]), int(at[j + 1]))
        fields = {
            "name": counts.names[j],
            "coefficient": None,
            "iv": float(table.iv[j]),
            "woe": tuple(table.woe[cells].tolist()),
            "points": (0,) * int(counts.n_codes[j]),
            "bad": tuple(counts.bad[cells].tolist()),
            "good": tuple(counts.good[cells].tolist()),
            "rows": tuple(counts.counts[cells].tolist()),
            "holdout_rows": tuple(counts.holdout_counts[cells].tolist()),
            "ordered": bool(counts.ordered[j]),
        }
        filed.append(Column(**{**fields, **own}))
    return PartyPart(
        party=counts.party,
        role="bank" if counts.party == job.bank else "holder",
        map_sha256=counts.map_hash.hex(),
        columns=tuple(filed),
    )


@overload
def load_model(path: Path) -> ScoreModel: ...


@overload
def load_model(path: Path, kind: type[M]) -> M: ...


def load_model(path: Path, kind: type[ScoreModel] = ScoreModel) -> ScoreModel:
    """Read a model of any kind and check its hash; ConfigError says what is wrong, or that it is not of this kind."""
    try:
        body = parse_json(path.read_text(encoding="utf-8"))
        kinds = {cls.model_fields["format"].default: cls for cls in (Scorecard, HandWritten, Boosted, Chained, Stacked)}
        model = kinds[body["model"]["format"]].model_validate(body["model"])
        stated = body["sha256"]
    except FileNotFoundError:
        raise ConfigError(f"model not found: {path}; `veilscore model list` shows what there is") from None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ConfigError(f"{path} is not a Veilscore model: {type(error).__name__}; restore it from backup") from error
    if model.sha256.hex() != stated:
        raise ConfigError(f"{path} was changed after training: its hash does not match; restore it from backup")
    if not isinstance(model, kind):
        raise ConfigError(f"model {model.name} is of format {model.format}, which this cannot use")
    return model
