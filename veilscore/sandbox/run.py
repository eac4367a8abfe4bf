"""Starts one sandboxed run, holds it to its limits, ends every process of it, then takes its outputs.

The clock, the memory of all processes together and the number of files are watched from outside, 20 times a second;
what one process may use is bounded by the kernel (see bootstrap.py), disks by file systems in memory of fixed size.
Memory is also bounded by a control group where there is one (memory_group.py).
"""

from __future__ import annotations

import functools
import os
import re
import select
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from veilscore.errors import SandboxUnavailableError
from veilscore.sandbox.bubblewrap import Inside, command_line, filter_file
from veilscore.sandbox.collect import Declared, collect
from veilscore.sandbox.memory_group import make_group
from veilscore.sandbox.policy import SandboxLimits

_BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
_WATCH_S = 0.05
_END_S = 30.0
_CHILD = re.compile(rb'"child-pid": *(\d+)\D')
_OWN_MEMORY = (b"RssAnon:", b"VmSwap:", b"HugetlbPages:")


@dataclass(frozen=True)
class RunOutcome:
    """Says what a run did; nothing in it may leave the owner before the gate has seen it.

    status : done, failed (exit code other than 0), or the limit it went over: wall time, memory, files.
    exit_code : of the code; 128 + n where signal n ended it (9 or 24: CPU time or memory, by the kernel).
    outputs : declared name -> content.
    refused : declared outputs that were not taken, and undeclared files, with the reason.
    stdout, stderr : what it printed, for the owner only.
    """

    status: str
    exit_code: int
    seconds: float
    outputs: Mapping[str, bytes] = field(repr=False)
    refused: tuple[str, ...]
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)


def run_inside(inside: Inside, declared: Declared, limits: SandboxLimits) -> RunOutcome:
    """Run `inside.entry` and collect its declared outputs; SandboxUnavailableError if no sandbox can be made."""
    with ExitStack() as stack:
        started = time.monotonic()
        run = _Run(stack, inside, limits)
        stack.callback(run.end)
        status = run.watch(started + limits.wall_s)
        code = run.end()
        seconds = time.monotonic() - started
        logs = run.logs
        if not run.folders or run.init_pid is None:
            raise SandboxUnavailableError(
                f"the sandbox did not start (exit code {code}): {logs['stderr'][:300].decode(errors='replace').strip()}"
            )
        if run.out_of_memory():
            status = "memory"
        if status == "ended":
            status = "done" if code == 0 else "failed"
        outputs, refused = collect(run.folders[0], declared) if status == "done" else ({}, ())
        return RunOutcome(status, code, seconds, outputs, refused, bytes(logs["stdout"]), bytes(logs["stderr"]))


class _Run:
    """Holds the processes of one run."""

    def __init__(self, stack: ExitStack, inside: Inside, limits: SandboxLimits) -> None:
        self._limits = limits
        self._open: list[int] = []
        stack.callback(self._close)
        self.folders: list[int] = []
        self.logs = {"stdout": bytearray(), "stderr": bytearray()}
        self.init_pid: int | None = None
        self._info = b""
        self._init_fd: int | None = None
        self._group = make_group(limits.memory_bytes)
        if self._group is not None:
            stack.callback(self._group.close)
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        stack.enter_context(self._control)
        info_read, info_write = os.pipe()
        stack.callback(os.close, info_read)
        with theirs, os.fdopen(info_write, "wb"):
            passed = {"control": theirs.fileno(), "info": info_write, "seccomp": filter_file(stack)}
            command = command_line(inside, limits, **passed, bootstrap=_BOOTSTRAP.read_text(encoding="utf-8"))
            self._process = stack.enter_context(
                subprocess.Popen(  # noqa: S603 - own command
                    command if self._group is None else self._group.joining(command),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={"PATH": "/usr/bin:/bin"},
                    pass_fds=tuple(passed.values()),
                )
            )
        self._listen(self._control.fileno(), self._take_folders)
        self._info_fd = info_read
        self._listen(info_read, self._take_info)
        for name, pipe in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            if pipe is not None:
                self._listen(pipe.fileno(), functools.partial(self._take_log, name))
        self._leader = os.pidfd_open(self._process.pid)
        self._open.append(self._leader)
        self._listen(self._leader, lambda _fd: False)

    def watch(self, deadline: float) -> str:
        """Follow the run to its end or to a limit: "ended", "wall time", "memory" or "files"."""
        checked = time.monotonic()
        while self._leader in self._selector.get_map():
            for key, _ in self._selector.select(_WATCH_S):
                if not key.data(key.fd):
                    self._selector.unregister(key.fd)
            now = time.monotonic()
            if now >= deadline:
                return "wall time"
            if now - checked >= _WATCH_S:
                checked = now
                over = self._over()
                if over is not None:
                    return over
        return "ended"

    def end(self) -> int:
        """End every process in the sandbox, wait until the last is gone, and return the exit code."""
        self._drain(self._info_fd)  # who to end may have been said and not been read
        if self._init_fd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)
        with suppress(ProcessLookupError):
            self._process.kill()
        if self._init_fd is not None and not select.select([self._init_fd], [], [], _END_S)[0]:
            raise SandboxUnavailableError("processes of the sandbox did not end; restart this machine")
        for fd in [key.fd for key in self._selector.get_map().values()]:
            if fd != self._leader:  # what was printed last is still in the pipes
                self._drain(fd)
        code = self._process.wait(_END_S)
        return code if code >= 0 else 128 - code

    def out_of_memory(self) -> bool:
        """Return whether the kernel ended a process for the memory of all together."""
        return self._group is not None and self._group.exceeded()

    def _drain(self, descriptor: int) -> None:
        key = self._selector.get_map().get(descriptor)
        if key is not None:
            while select.select([descriptor], [], [], 0)[0] and key.data(descriptor):
                pass
            self._selector.unregister(descriptor)

    def _listen(self, descriptor: int, take: Callable[[int], bool]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, take)

    def _take_folders(self, _fd: int) -> bool:
        _, folders, _, _ = socket.recv_fds(self._control, 1, 2)
        self._open += folders
        self.folders += folders
        return False  # one message; the code itself never gets hold of this socket

    def _take_info(self, fd: int) -> bool:
        text = os.read(fd, 4096)
        self._info += text
        found = _CHILD.search(self._info)  # bubblewrap writes it in pieces, a digit more may follow
        if found is not None and self.init_pid is None:
            self.init_pid = int(found[1])
            with suppress(ProcessLookupError):  # it has ended already
                self._init_fd = os.pidfd_open(self.init_pid)
                self._open.append(self._init_fd)
        return bool(text)

    def _take_log(self, name: str, fd: int) -> bool:
        text = os.read(fd, 1 << 16)
        log = self.logs[name]
        log += text[: max(0, self._limits.log_bytes - len(log))]
        return bool(text)

    def _close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)

    def _over(self) -> str | None:
        used = n_files = 0
        for folder in self.folders:
            state = os.fstatvfs(folder)
            used += (state.f_blocks - state.f_bfree) * state.f_frsize
            n_files += state.f_files - state.f_ffree
        if n_files > self._limits.files:
            return "files"
        if self.init_pid is not None:
            found = [_memory(pid) for pid in _tree(self.init_pid)]
            # maps of files in the folders are counted by the folders already, hence the larger of the two
            used = max(used, *(shared for _, shared in found), 0) + sum(own for own, _ in found)
            used += _socket_bytes(self.init_pid)
        return "memory" if used > self._limits.memory_bytes else None


def _tree(pid: int) -> list[int]:
    """Return `pid` and its descendants, as /proc lists them now."""
    found = [pid]
    for parent in found:
        with suppress(OSError, ValueError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                text = (thread / "children").read_bytes()
                found += [int(child) for child in text.split()]
    return found


def _memory(pid: int) -> tuple[int, int]:
    """Return the bytes that a process holds for itself, swapped ones included, and of memory shared with others."""
    own = shared = 0
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith(_OWN_MEMORY):
                own += int(line.split()[1]) << 10
            elif line.startswith(b"RssShmem:"):
                shared = int(line.split()[1]) << 10
    return own, shared


def _socket_bytes(pid: int) -> int:
    """Return the most that may wait in the sockets of the sandbox's own network, each filled to its buffer."""
    with suppress(OSError, ValueError, IndexError):
        used = Path(f"/proc/{pid}/net/sockstat").read_bytes().split()[2]  # "sockets: used N"
        return int(used) * int(Path("/proc/sys/net/core/wmem_default").read_bytes())
    return 0
