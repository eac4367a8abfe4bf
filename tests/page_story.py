"""The commands that a page says to type, run one after the other in this process."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from typer.testing import CliRunner

from veilscore.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def typed(blocks: Iterable[tuple[str, str]]) -> Iterator[tuple[list[str], str]]:
    """Run the lines of a page's blocks (language, text) of the shell; yield each one's words and what it printed."""
    for command in "".join(text for kind, text in blocks if kind == "sh").splitlines():
        words = shlex.split(command)
        assert words[0] == "veilscore"
        done = CliRunner().invoke(app, words[1:], env={"COLUMNS": "250", "TERM": "dumb"})
        assert done.exit_code == 0, f"{command}: {done.output} {done.exception}"
        yield words[1:], re.sub(r"\s+", " ", done.stdout)
