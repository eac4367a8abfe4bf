"""Files of a batch of decisions: at the bank decisions.csv, one line a firm, and decided.json, what there was of it.

A holder's decided.json and a sizing's sized.json have counts by step with noise.
"""

from __future__ import annotations

import csv
import io

import numpy as np

from veilscore.arrays import Array, Mask, Vector
from veilscore.data.table import Table
from veilscore.files.store import JobStore, write_text
from veilscore.models.decided import FiledDecision
from veilscore.protocols.decision import Decided
from veilscore.terms.decision import DecisionModel


def write_decisions(store: JobStore, table: Table, decision: DecisionModel, found: Decided) -> None:
    """Write decisions.csv (id, step, its name, the measure where it is told, a status a holder) and decided.json."""
    numbers = [decision.step_of(index) for index in found.steps.tolist()]
    columns: dict[str, list[object] | Array] = {
        "id": table.ids,
        "step": list(numbers),
        "name": [decision.name_of(number) for number in numbers],
    }
    if found.which is not None:
        columns["measure"] = [decision.name_told(which) for which in found.which.tolist()]
    columns |= {f"{holder}_status": _status(mask, table.n_rows) for holder, mask in found.unknown.items()}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_text(store.path / "decisions.csv", text.getvalue())
    names = [decision.name_of(step) for step in range(decision.n_steps + 1)]
    counts = np.bincount(numbers, minlength=len(names)).tolist()
    store.save_json(
        "decided",
        {
            "decision": decision.name,
            "n_rows": table.n_rows,
            "steps": dict(zip(names, counts, strict=True)),
            "order": names,
            "unknown": {holder: None if mask is None else int(mask.sum()) for holder, mask in found.unknown.items()},
        },
    )


def keep_told(
    store: JobStore, filed: FiledDecision, counts: Vector, sigma: float, n_rows: int, name: str = "decided"
) -> None:
    """Keep noised counts (n_steps + 1,) by name of the step, their noise, and what was counted by, as NAME.json.

    sigma : the deviation of the noise.
    """
    decision = filed.decision
    by_step = dict(zip(map(decision.step_of, range(counts.size)), counts.tolist(), strict=True))
    named = {decision.name_of(step): round(by_step[step], 1) for step in sorted(by_step)}
    cutoffs = {name: list(decision.cutoffs_of(name)) for name in decision.measures}
    said = {"decision": decision.name, "n_rows": n_rows, "noise": round(sigma, 2), "steps": named, "cutoffs": cutoffs}
    by = {"watch": decision.watch, "models": {measure: pin.model_sha256 for measure, pin in filed.pins.items()}}
    store.save_json(name, said | by | {"order": list(named)})  # a file's keys are sorted


def _status(unknown: Mask | None, n_rows: int) -> Array:
    """Return whether a holder knows each firm, as far as it says so."""
    return np.full(n_rows, "not disclosed") if unknown is None else np.where(unknown, "unknown", "ok")
