"""Asks the machine what the kernels need: files in memory, and which process this is."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def process_id() -> int:
    """Return the id of this process, which tells a random stream that it was carried into a fork."""
    return os.getpid()


def remove_file(path: str) -> None:
    """Delete a file that a library left behind, if it can be."""
    with contextlib.suppress(OSError):
        Path(path).unlink()


class MemoryFile:
    """A file for libraries that read and write by path only; it lives in memory where the system has that.

    path : what the library is given; the content is gone with the block of `memory_file`.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor, self.path = descriptor, path

    def read(self) -> bytes:
        """Return all that was written."""
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)


@contextmanager
def memory_file(data: bytes = b"") -> Iterator[MemoryFile]:
    """Open a file with some content, until the end of the block."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("veilscore", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{descriptor}"
    else:
        descriptor, path = tempfile.mkstemp(prefix="veilscore-")
    try:
        os.pwrite(descriptor, data, 0)
        yield MemoryFile(descriptor, path)
    finally:
        os.close(descriptor)
        if not path.startswith("/proc/"):
            remove_file(path)


def give_back_memory() -> None:
    """Give the machine what is free of this process' memory (glibc): between two steps nobody needs it."""
    if gc.get_freeze_count():  # a node's process, which looks for cycles less often: one may hold arrays
        gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
