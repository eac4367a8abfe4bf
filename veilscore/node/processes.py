"""Starts and stops nodes as background processes of this machine."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from veilscore.errors import ConfigError, JobError, StateError
from veilscore.fabric.process import running_pid
from veilscore.files.private import private_file, private_folder

START_S = 120.0  # a busy machine loads numba and grpc in a minute
STOP_S = 15.0
_SILENT = "it left no message"
_POLL_S = 0.05

_children: dict[Path, subprocess.Popen[bytes]] = {}  # started by this process: reaped when they stop


def spawn(home: Path) -> subprocess.Popen[bytes]:
    """Start the node of a home in a session of its own; JobError if one runs there already."""
    if not (home / "node.yaml").is_file():
        raise ConfigError(f"{home} is no node's home: node.yaml is missing; `veilscore init` makes homes")
    if running_pid(home) is not None:
        raise JobError(f"a node runs on {home} already; stop it first (`veilscore node stop {shlex.quote(str(home))}`)")
    log = home / "log"
    try:
        private_folder(log)
        with open(private_file(log / "console.log"), "wb") as out:  # noqa: PTH123 - a descriptor
            out.truncate()
            process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                [sys.executable, "-m", "veilscore", "node", "start", str(home.resolve())],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "COLUMNS": "200"},  # `last_words` shows its panels, which are then not wrapped
            )
            _children[home.resolve()] = process
            return process
    except OSError as error:
        raise StateError(f"{log} cannot be written: {error.strerror}") from error


def check_alive(home: Path, process: subprocess.Popen[bytes]) -> None:
    """Raise JobError with the node's last words if its process has ended."""
    if process.poll() is not None:
        raise JobError(f"the node of {home} ended at once: {last_words(home)}")


def waits_for(home: Path) -> str:
    """Say what a node that does not answer yet is at, by its process and the end of its console log."""
    pid = running_pid(home)
    if pid is None:
        return f"the process of {home} is loading its program"
    said = last_words(home)
    return f"process {pid} of {home} runs and does not answer yet" + ("" if said == _SILENT else f": {said}")


def last_words(home: Path) -> str:
    """Return the end of what a node that did not start has printed, without frames."""
    try:
        text = (home / "log" / "console.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _SILENT
    lines = [line.strip(" │") for line in text.splitlines() if line.strip(" │╭╰─╮╯")]
    return " ".join(line for line in lines if not line.startswith(("╭", "╰")))[-800:] or _SILENT


def stop(*homes: Path) -> list[Path]:
    """Stop the nodes of homes, all at once (a signal first, after 15 s a kill); returns the homes where one ran.

    Each lets others' calls end for a moment, which would add up if one were stopped after the other.
    """
    running: dict[Path, int] = {}
    for home in homes:
        pid = running_pid(home)
        if pid is not None:
            running[home] = pid
        elif not (home / "node.yaml").is_file():
            raise ConfigError(f"{home} is no node's home: node.yaml is missing")
    left = dict(running)
    for number, wait_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
        for pid in left.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        end_s = time.monotonic() + wait_s
        while left and time.monotonic() < end_s:
            for home, pid in list(left.items()):
                if running_pid(home) != pid:
                    _reap(home)
                    del left[home]
            time.sleep(_POLL_S)
    for home, pid in left.items():
        raise JobError(f"process {pid} of {home} does not end")
    return list(running)


def _reap(home: Path) -> None:
    child = _children.pop(home.resolve(), None)
    if child is not None:
        child.wait(STOP_S)
