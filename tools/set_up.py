"""Set up an environment for Veilscore: ``python tools/set_up.py FOLDER core|demo|dev``, as the Makefile does.

Installs what requirements*.lock pins, checked by hash, then this checkout; compiles byte code of what commands import
(of everything it would be 60 MB more) and the kernels. Prints how long each part took. Needs the standard library only.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {"core": "requirements.lock", "demo": "requirements-demo.lock", "dev": "requirements-dev.lock"}
SUPPORTED = "CPython 3.11 to 3.13 on Linux (x86-64 or ARM, glibc) or macOS"


def main() -> None:
    """Set up, or leave with one sentence that says why not."""
    if len(sys.argv) != 3 or sys.argv[2] not in LOCKS:
        sys.exit(f"usage: set_up.py FOLDER {'|'.join(LOCKS)}")
    if os.name != "posix":
        sys.exit(f"Veilscore runs on {SUPPORTED}; on Windows, use it in WSL 2")
    folder, extra = Path(sys.argv[1]).absolute(), sys.argv[2]
    python = folder / "bin" / "python"
    began = time.perf_counter()
    make_environment(folder, python)
    install(python, extra)
    installed = time.perf_counter()
    compile_all(python, folder)
    ended = time.perf_counter()
    print(f"set up in {ended - began:.0f} s: install {installed - began:.0f} s, compile {ended - installed:.0f} s")


def compile_all(python: Path, folder: Path) -> None:
    """Compile byte code and kernels, both at once; what fails costs time later and nothing else."""
    byte_code = subprocess.Popen([python, ROOT / "tools" / "byte_code.py", folder])
    kernels = subprocess.run([python, "-m", "veilscore.compile"], cwd=ROOT, check=False)
    if kernels.returncode:
        warn("the kernels could not be compiled now; the first job compiles what it needs")
    if byte_code.wait():
        warn("byte code could not be compiled now; commands start more slowly")


def make_environment(folder: Path, python: Path) -> None:
    """Make a virtual environment where there is none."""
    if python.exists():
        return
    if importlib.util.find_spec("ensurepip") is None:
        sys.exit(
            "this Python cannot make virtual environments: install its venv package (Debian: apt install python3-venv)"
        )
    venv.create(folder, with_pip=True, symlinks=True)
    if sys.version_info < (3, 12):  # which puts it into every environment, 8 MB that nothing here uses
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"], check=False)


def install(python: Path, extra: str) -> None:
    """Install the pinned packages and this checkout; where the lock cannot be used, what pyproject.toml allows."""
    lock = ROOT / LOCKS[extra]
    if lock.is_file() and pip(python, "--require-hashes", "--only-binary", ":all:", "--requirement", lock):
        warn(f"{lock.name} cannot be used here, so versions are chosen by pyproject.toml; `make lock` makes it anew")
    what = ROOT if extra == "core" else f"{ROOT}[{extra}]"
    failed = pip(python, "--prefer-binary", "--editable", what)
    if failed:
        lacking = failed.partition("No matching distribution found for ")[2].split()
        here = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
        if lacking:
            sys.exit(f"the package index has no {lacking[0]} for {here}; Veilscore runs on {SUPPORTED}")
        sys.exit(f"{failed}\nthe installation failed with {here}; pip says why above")


def pip(python: Path, *words: object) -> str:
    """Install with pip; returns what it complained of, empty if it succeeded."""
    command = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", *words]
    done = subprocess.run(list(map(str, command)), check=False, stderr=subprocess.PIPE, text=True)
    return (done.stderr.strip() or "pip failed") if done.returncode else ""


def warn(text: str) -> None:
    """Say on the error stream what did not work."""
    print(f"warning: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
