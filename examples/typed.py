"""Shows commands of a demonstration as a user types them, with what they print."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Generic, TypeVar
from unittest import mock

from rich.console import Console

from veilscore.cli import app
from veilscore.errors import VeilscoreError
from veilscore.files.private import keep_private

ROOT = Path(__file__).resolve().parent.parent
console = Console(width=None if sys.stdout.isatty() else 110)
_shown_on = ContextVar("_shown_on", default=console)  # another for what runs meanwhile
Made = TypeVar("Made")


class Meanwhile(Generic[Made]):
    """Runs work beside what is shown, on a processor that would wait; what it shows itself comes with its result."""

    def __init__(self, work: Callable[[], Made]) -> None:
        self._shown = io.StringIO()
        pool = ThreadPoolExecutor(1)
        self._made = pool.submit(self._run, work)
        pool.shutdown(wait=False)

    def _run(self, work: Callable[[], Made]) -> Made:
        _shown_on.set(Console(file=self._shown, width=console.width, force_terminal=console.is_terminal))
        return work()

    def result(self) -> Made:
        """Wait for the work, show what it showed and return what it made; what it raised is raised."""
        try:
            return self._made.result()
        finally:
            console.file.write(self._shown.getvalue())


def veilscore(*words: object, fails: bool = False, until: str = "", secrets: dict[str, str] | None = None) -> None:
    """Run a command as a user would type it, and show what it prints (up to the line that begins with `until`).

    secrets : variables of its environment, which are not shown.
    CalledProcessError unless it ends as it should.
    """
    apart = _shown_on.get() is not console
    done = _run(words, subprocess.PIPE if until or apart else None, secrets)
    for line in (done.stdout or "").splitlines():
        _shown_on.get().print(line, markup=False, highlight=False)
        if until and line.startswith(until):
            break
    if (done.returncode != 0) != fails:
        raise subprocess.CalledProcessError(done.returncode or 1, done.args)


def told(*words: object) -> str:
    """Run a command and return what it prints; CalledProcessError unless it ends well."""
    done = _run(words, subprocess.PIPE)
    done.check_returncode()
    return done.stdout


def at_desk(*words: object, secrets: dict[str, str] | None = None) -> None:
    """Run a command as `veilscore` above does, but within this process, which saves the time of starting it.

    CalledProcessError unless it ends well.
    """
    show(words)
    keep_private()
    with mock.patch.dict(os.environ, _environment() | (secrets or {})):
        try:
            code = app([str(word) for word in words], standalone_mode=False) or 0
        except VeilscoreError as error:
            console.print(str(error), markup=False, highlight=False)
            code = 2
    if code:
        raise subprocess.CalledProcessError(code, list(map(str, words)))


def _run(
    words: tuple[object, ...], output: int | None, secrets: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    show(words)
    command = [sys.executable, "-m", "veilscore", *map(str, words)]
    return subprocess.run(command, check=False, env=_environment() | (secrets or {}), stdout=output, text=True)


def at_once(*commands: tuple[object, ...]) -> None:
    """Run commands of several owners at the same time, as their machines would, and show the first line of each."""
    started = []
    for words in commands:
        command = [sys.executable, "-m", "veilscore", *map(str, words)]
        started.append(subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, text=True))
    for words, process in zip(commands, started, strict=True):
        said = process.communicate()[0].splitlines()
        show(words)
        _shown_on.get().print(*said[:1], markup=False, highlight=False)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)


def show(words: tuple[object, ...]) -> None:
    """Print a command."""
    shown = [str(word).replace(f"{ROOT}/", "") for word in words]
    _shown_on.get().print(f"\n[bold cyan]$ veilscore {shlex.join(shown)}[/bold cyan]", highlight=False)


def say(text: str) -> None:
    """Explain what comes next."""
    _shown_on.get().print(f"\n[bold]{text}[/bold]")


def _environment() -> dict[str, str]:
    return dict(os.environ) | ({} if sys.stdout.isatty() else {"COLUMNS": "110", "TERM": "xterm"})
