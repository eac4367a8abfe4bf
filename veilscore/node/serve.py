"""Runs one node as a process: log, lock, pid file, signals."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import errno
import fcntl
import logging
import logging.handlers
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import structlog

from veilscore.errors import ConfigError, JobError, StateError, VeilscoreError
from veilscore.node.node import Node
from veilscore.terms.policy import load_node_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.service import Coordinator
    from veilscore.node.step_run import Workflow

_LOG_BYTES = 10 << 20
_LOG_FILES = 5


def open_node(home: Path | str, workflow: Workflow | None = None) -> Node | Coordinator:
    """Node or coordinator of a home, by the role in its node.yaml."""
    role = load_node_config(home).role
    if role == "coordinator":
        from coordinator.service import Coordinator  # noqa: PLC0415 - parties do not need it

        return Coordinator(home, workflow=workflow)
    if role == "operator":
        raise ConfigError(f"{home} is an operator's home: it commands nodes and runs none")
    return Node(home, workflow=workflow)


def log_to(home: Path) -> None:
    """Write JSON lines to home/log/node.log (10 MB a file, five kept)."""
    folder = home / "log"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            folder / "node.log", maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8"
        )
    except OSError as error:
        raise StateError(f"log folder {folder} cannot be written: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger("veilscore.log")
    root.setLevel(logging.INFO)
    root.propagate = False
    root.handlers = [handler]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: root,
        cache_logger_on_first_use=False,
    )


@contextlib.contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the home's lock and its pid file; JobError if another process has it."""
    state = home / "state"
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (state / "node.pid").open("a+", encoding="ascii")
    except OSError as error:
        raise StateError(f"{state} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                raise StateError(f"{state} cannot be locked: {error.strerror}") from error
            raise JobError(f"a node runs on {home} already; stop it first (`veilscore node stop {home}`)") from error
        _write_pid(file, str(os.getpid()))
        try:
            yield
        finally:
            _write_pid(file, "")


def _write_pid(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def running_pid(home: Path) -> int | None:
    """Process id of the node that runs on a home, or None."""
    try:
        with (home / "state" / "node.pid").open("r+", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                text = file.read().strip()
                return int(text) if text.isdigit() else None
            return None  # nobody holds the lock: a pid left there is stale
    except OSError:
        return None


async def serve_until_stopped(node: Node | Coordinator) -> None:
    """Start, wait for SIGTERM or SIGINT, stop gracefully."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await node.start()
    try:
        await stopped.wait()
    finally:
        await node.stop()


def keep_freed_memory() -> None:
    """Let the allocator keep what arrays free (glibc), up to 256 MB: giving pages back costs a third of a product."""
    mmap_threshold, trim_threshold = -3, -1  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 256 << 20)


def serve(home: Path | str, workflow: Workflow | None = None) -> None:
    """Run the node of a home until it is told to stop."""
    from veilscore.kernels import keep_in  # noqa: PLC0415 - loads numba, which the commands beside this one can spare

    home = Path(home).resolve()
    if not home.is_dir():
        raise ConfigError(f"no such home: {home}; `veilscore init` makes one")
    keep_in(home / "cache")
    with only_one(home):
        keep_freed_memory()
        log_to(home)
        asyncio.run(serve_until_stopped(open_node(home, workflow)))


def main(program: str, *, role: str) -> None:
    """Entry point of a party's package; exit code 2 if the home cannot be used."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=f"Run a {role}'s node.")
    parser.add_argument("--home", type=Path, required=True, help="folder with node.yaml and identity/")
    home: Path = parser.parse_args().home
    try:
        found = load_node_config(home).role
        if found != role:
            raise ConfigError(f"{home} is the home of a {found}; {program} runs a {role}")
        serve(home)
    except VeilscoreError as error:
        sys.stderr.write(f"{program}: {error}\n")
        raise SystemExit(2) from error
