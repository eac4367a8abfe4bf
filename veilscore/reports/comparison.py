"""Compare a model with the last version of it that the bank filed: measures, columns, coefficients."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from veilscore.errors import VeilscoreError
from veilscore.models.filed import load_model
from veilscore.models.model import Scorecard
from veilscore.models.versions import versions
from veilscore.reports.data import HoldoutSection, MovedColumn, VersionComparison
from veilscore.reports.report import read_report


def comparison_of(home: Path, model: Scorecard, evaluations: Iterable[HoldoutSection]) -> VersionComparison | None:
    """Return how a scorecard differs from the version filed last before it; None if none can be read."""
    filed = [one for one in versions(home, model.name) if one.job_id != model.provenance.job_id]
    earlier = [one for one in filed if (one.folder / "model.json").is_file()]
    if not earlier:
        return None
    try:
        last = load_model(earlier[-1].folder / "model.json")
    except VeilscoreError:
        return None
    if not isinstance(last, Scorecard):
        return None
    job_id = last.provenance.job_id
    before, now = _coefficients(last), _coefficients(model)
    both = [key for key in now if key in before]
    return VersionComparison(
        job_id=job_id,
        trained_at=last.provenance.trained_at,
        before=_measures(last, _evaluations(home / "jobs" / job_id / "report.json")),
        now=_measures(model, evaluations),
        gained=tuple(f"{party}: {column}" for party, column in now if (party, column) not in before),
        lost=tuple(f"{party}: {column}" for party, column in before if (party, column) not in now),
        moved=tuple(
            MovedColumn(column=column, party=party, before=before[party, column], now=now[party, column])
            for party, column in sorted(both, key=lambda key: -abs(now[key] - before[key]))
        ),
    )


def _coefficients(model: Scorecard) -> dict[tuple[str, str], float]:
    return {(p.party, c.name): c.coefficient for p in model.parts for c in p.columns if c.coefficient is not None}


def _evaluations(path: Path) -> tuple[HoldoutSection, ...]:
    """Return what the report of an earlier job measured, nothing where it is gone."""
    try:
        return read_report(path).evaluations if path.is_file() else ()
    except VeilscoreError:
        return ()


def _measures(model: Scorecard, evaluations: Iterable[HoldoutSection]) -> dict[str, float]:
    found = {"firms trained": float(model.provenance.n_train), "columns": float(len(_coefficients(model)))}
    joint = next((one.discrimination for one in evaluations if one.kind == "joint"), None)
    return found | ({} if joint is None else {"AUC": joint.auc, "KS": joint.ks})
