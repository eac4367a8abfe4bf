"""Joint decisions in one process, for notebooks and trials: the book asks `veilscore.api.Decision` as it asks a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from party_bank.joint import OpenedSteps
from veilscore.api import Decision
from veilscore.data.table_source import Source
from veilscore.errors import DataError

Tables = Callable[[Sequence[str], str], tuple[Source, Mapping[str, Source] | None]]


class DecisionInProcess:
    """Decides on firms by a decision in this process; a reference is answered once, the same firms alike.

    tables : (firms, reference) -> the bank's rows of these firms in this order, and holders' data (None: that of fit).
    """

    def __init__(self, decision: Decision, tables: Tables) -> None:
        self._decision, self._tables = decision, tables
        self._answered: dict[str, tuple[tuple[str, ...], OpenedSteps]] = {}

    def __call__(self, firms: Sequence[str], *, model: str, purpose: str, reference: str) -> OpenedSteps:
        """Return the step of each firm; DataError for another decision, purpose, or other firms than before."""
        form = self._decision.model
        if (model, purpose) != (form.name, form.purpose):
            raise DataError(f"this is decision {form.name} for {form.purpose}; {reference} needs {model} for {purpose}")
        asked = tuple(firms)
        if reference not in self._answered:
            bank, parties = self._tables(asked, reference)
            steps = self._decision.decide(bank, parties).tolist()
            if len(steps) != len(asked):
                raise DataError(f"{len(steps)} rows of the bank's were given for {len(asked)} firms of {reference}")
            opened = OpenedSteps(
                dict(zip(asked, steps, strict=True)), "", self._decision.holders, form.bits, f"{form.name}/{reference}"
            )
            self._answered[reference] = (asked, opened)
        known, opened = self._answered[reference]
        if known != asked:
            raise DataError(f"{reference} was answered for {len(known)} other firms: take a new reference")
        return opened
