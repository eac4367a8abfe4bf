"""A control group of the kernel bounds the memory of all processes of a run together, where this user may make one.

The watch from outside looks 20 times a second; the group holds at every moment, and counts what the kernel keeps for
the processes too. Without a group that can be written the watch stands alone.

Source: the kernel's documentation of cgroup v2 (memory.max, memory.events) and v1 (memory.limit_in_bytes).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "veilscore-sandbox-"
_END_S = 2.0
_JOIN = 'echo $$ > "$1" && shift && exec "$@"'


@dataclass(frozen=True)
class MemoryGroup:
    """One run's group; the kernel ends a process of it when all together would pass the limit."""

    folder: Path

    def joining(self, command: list[str]) -> list[str]:
        """Return the command that enters the group before it starts `command`, so that nothing of it is outside."""
        return ["/bin/sh", "-c", _JOIN, "sh", str(self.folder / "cgroup.procs"), *command]

    def exceeded(self) -> bool:
        """Return whether the kernel has ended a process of the group for its memory."""
        for name in ("memory.events", "memory.oom_control"):
            with suppress(OSError):
                lines = (self.folder / name).read_text(encoding="ascii").splitlines()
                return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in lines)
        return False

    def close(self) -> None:
        """Remove the group once its last process is gone."""
        end_s = time.monotonic() + _END_S
        while time.monotonic() < end_s:
            with suppress(OSError):
                self.folder.rmdir()
                return
            time.sleep(0.01)


def make_group(limit_bytes: int) -> MemoryGroup | None:
    """Return a new group with this limit; None where this user can write no group with a memory controller."""
    for parent in writable_groups(Path("/proc/self")):
        _remove_old(parent)
        folder = parent / f"{_PREFIX}{os.getpid()}-{time.monotonic_ns()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            _limit(folder, limit_bytes)
        except OSError:
            with suppress(OSError):
                folder.rmdir()
            continue
        return MemoryGroup(folder)
    return None


def _limit(folder: Path, limit_bytes: int) -> None:
    if (folder / "memory.max").exists():
        (folder / "memory.max").write_text(str(limit_bytes), encoding="ascii")
        with suppress(OSError):  # absent without swap
            (folder / "memory.swap.max").write_text("0", encoding="ascii")
        with suppress(OSError):
            (folder / "memory.oom.group").write_text("1", encoding="ascii")
        return
    (folder / "memory.limit_in_bytes").write_text(str(limit_bytes), encoding="ascii")
    with suppress(OSError):  # absent without accounting of swap
        (folder / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes), encoding="ascii")


def writable_groups(process: Path) -> Iterator[Path]:
    """Yield the groups in which this user may put a group of its own, nearest to the process first.

    Never further up than where limits on this process itself hold: below its own group, or (version 2, where a group
    has processes or groups but not both) beside it.
    process : its folder below /proc.
    """
    found = _place(process)
    if found is None:
        return
    version, mount, own = found
    for folder in (own,) if version == 1 or own == mount else (own, own.parent):
        writable = os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)
        if writable and (version == 1 or _hands_memory_on(folder)):
            yield folder


def _hands_memory_on(folder: Path) -> bool:
    """Return whether groups below a group of version 2 have the memory controller, after switching it on if need be.

    The kernel refuses that where processes are in the group itself; a service of systemd gets there by `Delegate=yes`
    and `DelegateSubgroup=node`.
    """
    control = folder / "cgroup.subtree_control"
    with suppress(OSError):
        if "memory" not in control.read_text(encoding="ascii").split():
            control.write_text("+memory", encoding="ascii")
        return True
    return False


def _place(process: Path) -> tuple[int, Path, Path] | None:
    """Return version, mount point and own folder of the hierarchy that has the memory controller."""
    try:
        mounts = (process / "mountinfo").read_text(encoding="utf-8").splitlines()
        lines = [line.split(":", 2) for line in (process / "cgroup").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    for version, kind in ((1, "cgroup"), (2, "cgroup2")):
        own = [path for _, names, path in lines if (names == "" if version == 2 else "memory" in names.split(","))]
        for line in mounts:
            left, _, right = line.partition(" - ")
            fields, (fs, _, options) = left.split(), right.split(" ", 2)
            if fs == kind and own and (version == 2 or "memory" in options.split(",")):
                if ".." in Path(own[0]).parts or not Path(own[0]).is_relative_to(fields[3]):
                    return None  # outside of what is mounted here, in a namespace of control groups
                mount = Path(fields[4])
                return version, mount, mount / Path(own[0]).relative_to(fields[3])
    return None


def _remove_old(parent: Path) -> None:
    """Remove the empty groups of runs whose owner's process crashed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with suppress(OSError):
                folder.rmdir()
