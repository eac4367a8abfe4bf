"""Knows what the optional parts of an installation need, without loading any of it."""

from __future__ import annotations

import importlib.util

_NEEDED = {  # extra of pyproject.toml -> modules
    "bank": ("alembic", "highspy", "segno", "sqlalchemy", "zen"),
    "console": ("h11", "starlette", "uvicorn", "webauthn"),
}


def missing_of(extra: str) -> list[str]:
    """Return the modules of an extra that are not installed."""
    return [name for name in _NEEDED[extra] if importlib.util.find_spec(name) is None]
