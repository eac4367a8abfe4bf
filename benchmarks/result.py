"""The last line of every benchmark: one JSON object."""

from __future__ import annotations

import json


def emit(name: str, value: float | None, unit: str, bound: float, holds: bool, **figures: object) -> None:  # noqa: FBT001  # read by position
    """Print the result and the figures behind it as one line of JSON.

    Parameters
    ----------
    name : the benchmark's name, as given to `make bench NAME=`.
    value, unit : what was measured; None where it was not, of which nothing is said to hold.
    bound : what it must not exceed, in the same unit.
    holds : whether this and every other condition of the benchmark is met.
    figures : everything else worth keeping (numbers, texts, lists).
    """
    result = {
        "name": name,
        "value": value,
        "unit": unit,
        "bound": bound,
        "holds": None if value is None else bool(holds),
        "figures": figures,
    }
    print(json.dumps(result, default=float), flush=True)
