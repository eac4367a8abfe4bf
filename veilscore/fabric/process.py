"""Runs one node as a process: log, lock, pid file, signals.

The caller says which class is served, so that party and coordinator share this file and know nothing of each other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import errno
import fcntl
import gc
import logging
import logging.handlers
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TextIO

import structlog

from veilscore.errors import ConfigError, JobError, StateError, VeilscoreError
from veilscore.fabric.connections import raise_descriptors
from veilscore.fabric.traces import tracing
from veilscore.fabric.watches import Watches, described
from veilscore.files.private import check_private, keep_private, private_file, private_folder
from veilscore.terms.node_config import load_node_config
from veilscore.terms.watching import LogConfig

_OBJECTS = 5_000  # made and not freed, before the youngest are searched for cycles


class Service(Protocol):
    """A node that runs as a process: a party's, or the coordinator's."""

    watches: Watches

    async def start(self) -> None:
        """Listen, and go on with what was unfinished."""

    async def stop(self) -> None:
        """End what runs and close all connections."""


def log_to(home: Path, name: str = "node.log", rules: LogConfig | None = None) -> None:
    """Write JSON lines to home/log/NAME, which no other process writes, put aside by size; or to standard error."""
    rules = LogConfig() if rules is None else rules
    handler = logging.StreamHandler() if rules.to == "stderr" else _log_file(home / "log", name, rules)
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


def _log_file(folder: Path, name: str, rules: LogConfig) -> logging.Handler:
    try:
        os.close(private_file(private_folder(folder) / name))
        return logging.handlers.RotatingFileHandler(
            folder / name, maxBytes=rules.megabytes << 20, backupCount=rules.kept, encoding="utf-8"
        )
    except OSError as error:
        raise StateError(f"log folder {folder} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the home's lock and its pid file; JobError if another process has it."""
    state = home / "state"
    try:
        private_folder(state)
        # not emptied before the lock is held
        file = open(private_file(state / "node.pid"), "a+", encoding="ascii")  # noqa: PTH123, SIM115 - a descriptor, closed below
    except OSError as error:
        raise StateError(f"{state} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                raise StateError(f"{state} cannot be locked: {error.strerror}") from error
            raise JobError(
                f"a node runs on {home} already; stop it first (`veilscore node stop {shlex.quote(str(home))}`)"
            ) from error
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
    """Return the process id of the node that runs on a home, or None."""
    try:
        with (home / "state" / "node.pid").open("r+", encoding="ascii", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                text = file.read().strip()
                return int(text) if text.isdigit() else None
            return None  # nobody holds the lock: a pid left there is stale
    except OSError:
        return None


async def serve_until_stopped(node: Service, started: Callable[[], object] = lambda: None) -> None:
    """Start the node, wait for SIGTERM or SIGINT, and stop it gracefully; `started` is called in between.

    A task of the node that ended although it never should stops the node too, with its error.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_unseen)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await node.start()
    started()
    told, ended = asyncio.create_task(stopped.wait()), asyncio.create_task(node.watches.ended())
    try:
        await asyncio.wait({told, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (told, ended):
            task.cancel()
        await node.stop()
    if ended.done() and not ended.cancelled():
        await ended


def _log_unseen(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log the error of a task that nobody waits for."""
    structlog.get_logger("veilscore.process").error(
        "unseen error", where=str(context.get("message", ""))[:200], **described(context.get("exception"))
    )


def keep_freed_memory() -> None:
    """Let the allocator keep what arrays free (glibc), up to 256 MB: giving pages back costs a third of a product.

    A role computes in whichever thread of a pool is free; a pool of memory for each of them would hold as many copies.
    """
    mmap_threshold, trim_threshold, arenas = -3, -1, -8  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 256 << 20)
        mallopt(arenas, max(2, os.cpu_count() or 1))


def look_less_for_cycles() -> None:
    """Leave what lives as long as the node out of the search for cyclic garbage, and search less often.

    A score makes a thousand small objects and no cycles; looking through modules, models and ledgers again and again
    for what is not there took a tenth of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS, 10, 10)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes libuv's event loop, where it is installed (extra `fast`): half the price of a turn."""
    try:
        import uvloop  # noqa: PLC0415 - node processes alone need it
    except ImportError:
        return None
    return uvloop.new_event_loop


def serve(home: Path | str, open_node: Callable[[Path], Service]) -> None:
    """Run the node that `open_node` makes of a home until it is told to stop."""
    home = Path(home).resolve()
    if not home.is_dir():
        raise ConfigError(f"no such home: {home}; `veilscore init` makes one")
    keep_private()
    check_private(home, "home")
    with only_one(home):
        keep_freed_memory()
        raise_descriptors()
        config = load_node_config(home)
        log_to(home, rules=config.log)
        with tracing(config.traces, config.name, "node"), asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve_until_stopped(open_node(home), look_less_for_cycles))


def main(program: str, role: str, open_node: Callable[[Path], Service]) -> None:
    """Run an institution's package as a program; exit code 2 if the home cannot be used."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=f"Run a {role}'s node.")
    parser.add_argument("--home", type=Path, required=True, help="folder with node.yaml and identity/")
    home: Path = parser.parse_args().home
    try:
        found = load_node_config(home).role
        if found != role:
            raise ConfigError(f"{home} is the home of a {found}; {program} runs a {role}")
        serve(home, open_node)
    except VeilscoreError as error:
        sys.stderr.write(f"{program}: {error}\n")
        raise SystemExit(2) from error
