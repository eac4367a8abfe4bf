"""Gives the example jobs that come with the package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def example_jobs() -> dict[str, str]:
    """Return the text of each example job by its name; the first line says what it is."""
    folder = files("veilscore") / "examples"
    found = {one.name.removesuffix(".yaml"): one for one in folder.iterdir() if one.name.endswith(".yaml")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


def about_example(text: str) -> str:
    """Return what an example says of itself."""
    return text.partition("\n")[0].lstrip("# ")
