"""Compile all kernels once: ``python -m veilscore.compile``.

Run it after an installation (`make setup` does). Without it the first jobs compile what they need, each process for
itself. It returns at once where everything is compiled already.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from veilscore import kernels

_ROOT = Path(__file__).resolve().parent


def modules() -> list[str]:
    """Return the names of the modules that have kernels, those with most to compile first."""
    found = []
    for path in _ROOT.rglob("*.py"):
        count = path.read_bytes().count(b"\n@kernel(")
        if count:
            found.append((-count, ".".join((_ROOT.name, *path.relative_to(_ROOT).with_suffix("").parts))))
    return [name for _, name in sorted(found)]


def compile_module(name: str) -> int:
    """Compile what is missing of one module's kernels; returns how many variants that were."""
    importlib.import_module(name)
    own = [k for k in kernels.kernels if k.dispatcher.py_func.__module__ == name]
    missing = [(k, signature) for k in own for signature in k.missing()]
    for kernel, signature in missing:
        kernel.compile(signature)
    return len(missing)


def missing_modules() -> list[str]:
    """Return the names of the modules whose kernels are not all compiled and kept."""
    names = modules()
    for name in names:
        importlib.import_module(name)
    lacking = {k.dispatcher.py_func.__module__ for k in kernels.kernels if k.missing()}
    return [name for name in names if name in lacking]


def remove_old() -> None:
    """Remove what earlier versions of the sources, of numba or of this machine left beside the sources."""
    wanted = set().union(*(k.file_names() for k in kernels.kernels))
    for path in _ROOT.rglob(f"{kernels.FOLDER}/*{kernels.SUFFIX}"):
        if path.name not in wanted:
            path.unlink(missing_ok=True)


def main() -> int:
    """Compile with as many processes as there are processors."""
    began = time.perf_counter()
    names = missing_modules()
    if not names:
        print(f"all {len(kernels.kernels)} kernels are compiled")
        return 0
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(len(names), available)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        count = sum(pool.map(compile_module, names))
    print(f"compiled {count} variants of {len(kernels.kernels)} kernels in {time.perf_counter() - began:.0f} s")
    left = missing_modules()
    with contextlib.suppress(OSError):
        remove_old()
    if left:
        print(f"not kept, so compiled again by every process: the kernels of {', '.join(left)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
