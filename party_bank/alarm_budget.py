"""The alarm budget: cut-offs of a watch such that a stated share of firms is below them in a month, and its jobs.

The cut-offs are read off the counts of the hold-out that the training job opened (of a private job, with noise), or
where times have changed since, off those of firms today that a sizing of the watch opened (with noise, from the
account). Between two totals at which it was counted, and beyond the lowest, a normal distribution is assumed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import yaml

from party_bank.alarms import WATCH
from party_bank.settings import BankSettings
from party_bank.warning_rows import LabelledRows
from veilscore.arrays import Vector
from veilscore.errors import ConfigError
from veilscore.models.filed import load_model
from veilscore.models.stability import EXPECTED, load_expected
from veilscore.terms.job import parse_job
from veilscore.terms.settings import parse_json, read_text

_LEAST_OVER_NOISE = 3.0  # times the noise that every count of a sizing must be
MOST_BINS = 64  # of a column of the scorecard
ROWS_PER_FIRM = 12  # months of a firm in a scorecard, whose weights add up to one: the noise is that of one row
Body = dict[str, Any]


def alarm_cutoffs(model: Path, shares: Sequence[float]) -> list[float]:
    """Return for each share of firms the points below which so many are, in the model's points.

    model : folder of a filed model (HOME/models/NAME) with the counts of its hold-out.
    Raises ConfigError where there are none, or where the model's totals do not tell two shares apart.
    """
    kept = load_expected(model / EXPECTED)
    if kept is None:
        raise ConfigError(
            f"model {model.name} has no counts of a hold-out, which say how many firms a cut-off disturbs: train it "
            "with holdout_fraction above 0"
        )
    units = load_model(model / "model.json").scaling.units
    return _told_apart(model.name, shares, totals_below(*kept, shares), units)


def followed_cutoffs(job: Path, model: Path, shares: Sequence[float]) -> list[float]:
    """Return for each share of firms the points below which so many of those are that a sizing of the watch counted.

    job : folder of a finished job of task size_decision (HOME/jobs/JOB), on the watch as it is filed.
    model : folder of the filed model of its one measure.
    Raises ConfigError for another job, and where noise drowns the counts.
    """
    try:
        sized = parse_json(read_text(job / "sized.json", "counts of a sizing"))
        ((measure, limits),) = sized["cutoffs"].items()
        counts = np.array([sized["steps"][name] for name in reversed(sized["order"])], dtype=np.float64)
        noise, limits = float(sized["noise"]), np.array(limits, dtype=np.float64)
        is_watch, counted_by = sized["watch"], sized["models"][measure]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{job.name} has no counts of a watch with one measure: run a job of task size_decision on it"
        ) from error
    if not is_watch:
        raise ConfigError(f"job {job.name} counted by decision {sized['decision']}, which is no watch: size the watch")
    found = load_model(model / "model.json")
    if counted_by != found.sha256.hex():
        raise ConfigError(
            f"job {job.name} counted by another model than {model.name} as it is filed: file the watch with this one "
            "and size it again"
        )
    if counts.size != limits.size + 1:
        raise ConfigError(
            f"job {job.name} has {counts.size} counts for {limits.size} cut-offs, which go with one count more: its "
            "sized.json was changed; run it again"
        )
    if (counts < _LEAST_OVER_NOISE * noise).any():
        raise ConfigError(
            f"job {job.name} counted {counts.min():,.0f} firms at a level with noise of {noise:,.0f}: count more, or "
            "with more of the account (mu)"
        )
    units = found.scaling.units
    return _told_apart(model.name, shares, totals_below(limits * units, counts, shares), units)


def _told_apart(model: str, shares: Sequence[float], totals: Vector, units: float) -> list[float]:
    """Return totals as points; ConfigError where those of two shares are the same."""
    found = [round(float(np.ceil(total)) / units, 6) for total in totals]
    for share, cutoff, other, after in zip(shares, found, shares[1:], found[1:], strict=False):
        if after >= cutoff:
            raise ConfigError(
                f"model {model} tells {share:.1%} and {other:.1%} of firms not apart (both below {cutoff:g} "
                "points): take shares that are further apart"
            )
    return found


def totals_below(limits: Vector, counts: Vector, shares: Sequence[float]) -> Vector:
    """Return the totals below which these shares of rows are, (k,).

    limits, counts : ascending totals, and the rows below, between and above them, one count more.
    """
    below = np.cumsum(counts)[:-1] / counts.sum()
    inside = (below > 0) & (below < 1) & (np.diff(below, prepend=0.0) > 0)
    if inside.sum() < 2:
        raise ConfigError("the counts of the hold-out are at one total alone: the model tells no firms apart")
    at, place = limits[inside], np.array([NormalDist().inv_cdf(share) for share in below[inside]])
    wanted = np.array([NormalDist().inv_cdf(share) for share in shares])
    found = np.interp(wanted, place, at)
    for end, inner in ((0, 1), (-1, -2)):
        slope = (at[inner] - at[end]) / (place[inner] - place[end])
        beyond = wanted < place[0] if end == 0 else wanted > place[-1]
        found = np.where(beyond, at[end] + slope * (wanted - place[end]), found)
    return np.asarray(found, dtype=np.float64)


# --- jobs that the bank submits ---------------------------------------------------------------------------------------


def training_jobs(bank: str, datasets: Mapping[str, str], settings: BankSettings, rows: LabelledRows) -> dict[str, str]:
    """Return the jobs that train the hazard on these rows, as YAML by name: a scorecard, and boosted trees.

    datasets : by party, the bank first.
    """
    usual = {
        "id_normaliser": settings.id_normaliser,
        "rows": "firm_dates",
        "as_of": [str(day) for day in np.unique(rows.days)],
    }
    months = min(ROWS_PER_FIRM, int(np.unique(rows.firms, return_counts=True)[1].max()))
    # a column tells no firms of a bin apart: those of the smallest level take several bins
    least = min(0.05, min(level.share for level in settings.warnings.levels) / 4)
    return {
        "hazard-card": _text(
            "hazard-card",
            "train_scorecard",
            bank,
            datasets,
            {
                **usual,
                "rows_per_firm": months,
                "firm_weight": "shared",
                "max_bin": MOST_BINS,
                "min_bin_fraction": least,
            },
        ),
        "hazard-trees": _text("hazard-trees", "train_boosting", bank, datasets, usual),
    }


def decision_job(
    bank: str, datasets: Mapping[str, str], settings: BankSettings, model: str, cutoffs: Sequence[float]
) -> str:
    """Return the job that files the watch of a trained hazard, as YAML: a level for each of `warnings.levels`.

    cutoffs : of the levels (`alarm_cutoffs`).
    """
    levels = settings.warnings.levels
    name = settings.decisions.get(WATCH, "early-warning")
    decision = {
        "name": name,
        "purpose": WATCH,
        "watch": True,
        "steps": [level.name for level in levels],
        "measures": {"hazard": {"model": model, "cutoffs": list(cutoffs)}},
    }
    return _text(name, "file_decision", bank, datasets, {"decision": decision}, WATCH)


def month_job(bank: str, datasets: Mapping[str, str], settings: BankSettings, month: dt.date, last: str | None) -> str:
    """Return the job that opens a month's levels, as YAML; last : the job of the month before, None in the first."""
    model = settings.decision_for(WATCH)
    asked = {"decision": model, "watch": True, "id_normaliser": settings.id_normaliser}
    named = {} if last is None else {"last": last}
    return _text(f"alarms-{month:%Y-%m}", "decide", bank, datasets, {**asked, **named}, WATCH)


def _text(
    name: str, task: str, bank: str, datasets: Mapping[str, str], parameters: Body, purpose: str = "early warning"
) -> str:
    body = {
        "name": name,
        "purpose": purpose,
        "task": task,
        "bank": bank,
        "holders": [party for party in datasets if party != bank],
        "datasets": dict(datasets),
        "parameters": parameters,
    }
    text = yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=110)
    parse_job(text)  # what is wrong with it is said now, not at `job submit`
    return text
