"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


def require(condition: object, reason: str) -> None:
    """Skip with `reason` where something is missing; under CI a skip is a failure."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must not skip: {reason}")
    pytest.skip(reason)


def shared_data(name: str) -> Path:
    """Folder of one real data set (bank.csv, tax.csv, registry.csv)."""
    folder = SHARED / name
    require(folder.is_dir(), f"real data set {name!r} not found beside the checkout (../shared/data)")
    return folder
