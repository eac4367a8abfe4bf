"""Compares files of a job that a replay made with those that the bank kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from veilscore.audit.replay import Differs
from veilscore.errors import StateError
from veilscore.files.store import JobStore

_OF_TRAINING = ("version", "provenance", "calibration")  # of a model: when it was made, and what evaluation adds


def canonical_json(value: Any) -> str:
    """Return JSON in which equal values look the same."""
    return json.dumps(value, sort_keys=True)


def json_of(path: Path) -> str:
    """Return the canonical JSON of a file; Differs where it cannot be read."""
    try:
        return canonical_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise Differs(f"{path.name} cannot be read") from error


def same_content(made: Path, kept: Path) -> bool:
    """Return whether two files of a job say the same, apart from the time at which a model was made."""
    if not made.is_file():
        return False
    try:
        return _contents_agree(made, kept)
    except (StateError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # what is kept is of another form


def _contents_agree(made: Path, kept: Path) -> bool:
    if made.suffix == ".npz":
        one, other = (JobStore(path.parent).load_arrays(path.stem) for path in (made, kept))
        return one.keys() == other.keys() and all(np.array_equal(one[k], other[k], equal_nan=True) for k in one)
    one, other = (json.loads(path.read_text(encoding="utf-8")) for path in (made, kept))
    if made.name == "model.json":
        one, other = ({k: v for k, v in m["model"].items() if k not in _OF_TRAINING} for m in (one, other))
    return bool(one == other)
