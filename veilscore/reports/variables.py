"""Render the quality of built variables as one HTML page for their owner, and as CSV."""

from __future__ import annotations

from pathlib import Path

from veilscore.features.quality import Quality, as_csv
from veilscore.files.private import private_folder
from veilscore.files.store import write_text
from veilscore.reports.page import environment

MOST_SHOWN = 3_000  # a page of ten thousand rows opens slowly; the CSV has them all


def render_quality(quality: Quality) -> str:
    """Return the page, without scripts, that loads nothing; those with a remark stand first."""
    order = sorted(quality.variables, key=lambda one: (not one.remark, -(one.worst or 0), -one.missing))
    top = max((count for one in quality.tables for count in one.by_month), default=1)
    template = environment().get_template("variables.html.j2")
    return template.render(q=quality, shown=order[:MOST_SHOWN], top=top)


def write_quality(quality: Quality, path: Path) -> Path:
    """Write NAME.quality.html and NAME.quality.csv beside a built file and return the page's path."""
    page = path.with_suffix(".quality.html")
    private_folder(path.parent)
    write_text(path.with_suffix(".quality.csv"), as_csv(quality.variables))
    write_text(page, render_quality(quality))
    return page
