"""Shows commands of a demonstration as a user types them, with what they print."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

from rich.console import Console

from veilscore.cli import app
from veilscore.errors import VeilscoreError
from veilscore.files.private import keep_private

ROOT = Path(__file__).resolve().parent.parent
console = Console(width=None if sys.stdout.isatty() else 110)


def veilscore(*words: object, fails: bool = False, until: str = "", secrets: dict[str, str] | None = None) -> None:
    """Run a command as a user would type it, and show what it prints (up to the line that begins with `until`).

    secrets : variables of its environment, which are not shown.
    CalledProcessError unless it ends as it should.
    """
    done = _run(words, subprocess.PIPE if until else None, secrets)
    for line in (done.stdout or "").splitlines():
        console.print(line, markup=False, highlight=False)
        if line.startswith(until):
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
        console.print(*said[:1], markup=False, highlight=False)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)


def show(words: tuple[object, ...]) -> None:
    """Print a command."""
    shown = [str(word).replace(f"{ROOT}/", "") for word in words]
    console.print(f"\n[bold cyan]$ veilscore {shlex.join(shown)}[/bold cyan]", highlight=False)


def say(text: str) -> None:
    """Explain what comes next."""
    console.print(f"\n[bold]{text}[/bold]")


def _environment() -> dict[str, str]:
    return dict(os.environ) | ({} if sys.stdout.isatty() else {"COLUMNS": "110", "TERM": "xterm"})
