"""Hold a decision against the models it names, before it is filed: what no total reaches, and what decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from veilscore.arrays import Vector
from veilscore.errors import ConfigError
from veilscore.models.boosted import Boosted
from veilscore.models.model import Scorecard, ScoreModel
from veilscore.terms.decision import DecisionModel

FEW = 0.005  # share of firms below which counts of a hold-out, which may have noise, say that there are next to none


@dataclass(frozen=True)
class MeasureFinding:
    """One thing that is wrong with a measure, or that its author should know.

    serious : whether the decision cannot mean it.
    """

    measure: str
    text: str
    serious: bool


@dataclass(frozen=True)
class Measured:
    """A model in use at the bank, and how many rows of its hold-out lie below, between and above some totals.

    limits, counts : ascending totals in units, and one count more; None where no hold-out was opened.
    """

    model: ScoreModel
    limits: Vector | None = None
    counts: Vector | None = None

    @property
    def extremes(self) -> tuple[int, int]:
        """Return the lowest and the highest total, in units; ConfigError for a model that has none."""
        if isinstance(self.model, Scorecard | Boosted):
            return self.model.extremes()
        raise ConfigError(f"model {self.model.name} is of format {self.model.format}, which this version cannot score")

    def most_below(self, total: float) -> float:
        """Return the most that can be the share of rows below a total; 1 where nothing is known."""
        if self.limits is None or self.counts is None or self.counts.sum() <= 0:
            return 1.0
        place = int(np.searchsorted(self.limits, total, side="left"))
        return float(self.counts[: place + 1].sum() / self.counts.sum())

    def most_from(self, total: float) -> float:
        """Return the most that can be the share of rows at or above a total; 1 where nothing is known."""
        if self.limits is None or self.counts is None or self.counts.sum() <= 0:
            return 1.0
        place = int(np.searchsorted(self.limits, total, side="right"))
        return float(self.counts[place:].sum() / self.counts.sum())


def check(decision: DecisionModel, models: Mapping[str, Measured]) -> list[MeasureFinding]:
    """Return what is to be said of a decision's measures, by name; `models` are those that the bank has, by measure."""
    found = []
    for measure, name in decision.models.items():
        if measure not in models:
            found.append(MeasureFinding(measure, f"model {name} is not filed at this bank", serious=True))
            continue
        try:
            found += _findings(decision, measure, models[measure])
        except ConfigError as error:
            found.append(MeasureFinding(measure, error.message, serious=True))
    return found


def _findings(decision: DecisionModel, measure: str, of: Measured) -> list[MeasureFinding]:
    limits, cutoffs = decision.limits(measure, of.model.scaling.units), decision.cutoffs_of(measure)
    low, high = of.extremes
    shown = [f"{float(score):.10g}" for score in of.model.score(np.array([low, high]))]
    found = []
    out_of_reach = [cutoff for cutoff, limit in zip(cutoffs, limits, strict=True) if limit > high]
    always = [cutoff for cutoff, limit in zip(cutoffs, limits, strict=True) if limit <= low]
    if out_of_reach:
        text = f"no total reaches {_listed(out_of_reach)}: the highest is {shown[1]}"
        found.append(MeasureFinding(measure, text, serious=True))
    if always:
        text = f"every total reaches {_listed(always)}: the lowest is {shown[0]}"
        found.append(MeasureFinding(measure, text, serious=len(always) == len(cutoffs)))
    if not always and not out_of_reach and of.most_below(limits[-1]) < FEW:
        text = f"it never binds: under {FEW:.1%} of the hold-out lies below its highest cut-off {cutoffs[-1]:.10g}"
        found.append(MeasureFinding(measure, text, serious=False))
    rare = [c for c, limit in zip(cutoffs, limits, strict=True) if limit <= high and of.most_from(limit) < FEW]
    if rare:
        text = f"under {FEW:.1%} of the hold-out reaches {_listed(rare)}"
        found.append(MeasureFinding(measure, text, serious=False))
    return found


def _listed(cutoffs: list[float]) -> str:
    word = "cut-off" if len(cutoffs) == 1 else "cut-offs"
    return f"{word} {', '.join(f'{cutoff:.10g}' for cutoff in cutoffs)}"
