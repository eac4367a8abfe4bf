"""Compile byte code of what commands and nodes import, drop all other, and tests: ``python tools/byte_code.py FOLDER``.

Run with the Python of the environment in the folder. Without byte code each command compiles 1,000 modules anew.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import pkgutil
import py_compile
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np

from veilscore.lattice.ring import pack

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("veilscore", "coordinator", "party_bank", "party_court", "party_tax", "party_registry")
LATER = ("sqlalchemy.dialects.sqlite", "sklearn.linear_model")  # imported when first used
PROGRAMS = ("__main__", "bootstrap", "migrations.env")  # run when imported, the last by alembic alone
# 11 MB; numpy.testing imports what lies beside the tests of numpy/_core
TESTS = ("numba/tests", "numba/cuda/tests", "numpy/[!_]*/tests", "numpy/_core/tests/test_*.py")
AS_SOURCE = ("rbcl",)  # 5.6 MB of byte code would save 50 ms, once a job


def import_all() -> None:
    """Import the modules of all packages as far as their extras are installed, and what they import when they run."""
    names = list(LATER)
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is not None and found.submodule_search_locations is not None:
            names += [m.name for m in pkgutil.walk_packages(found.submodule_search_locations, f"{package}.")]
    for name in names:
        if not name.endswith(PROGRAMS):
            with contextlib.suppress(Exception):  # an extra that is not installed, said in whatever words
                importlib.import_module(name)
    pack(np.zeros((1, 1), np.uint32), (2,))  # numba imports more when it compiles or loads its first function


def main() -> None:
    """Compile next to the sources; what cannot be written is left."""
    packages = Path(sys.argv[1]).resolve()
    warnings.simplefilter("ignore")
    import_all()
    files = {Path(m.__file__) for m in list(sys.modules.values()) if getattr(m, "__file__", None)}
    for old in packages.rglob("*.pyc"):
        with contextlib.suppress(OSError):
            old.unlink()
    for name in TESTS:
        for found in packages.glob(f"lib/python3*/site-packages/{name}"):
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            else:
                found.unlink(missing_ok=True)
    count = size = 0
    for file in sorted(files):
        inside = file.is_relative_to(packages) or file.is_relative_to(ROOT)
        if file.suffix == ".py" and inside and not any(part in AS_SOURCE for part in file.parts):
            with contextlib.suppress(OSError, py_compile.PyCompileError):
                compiled = py_compile.compile(str(file), doraise=True)
                count, size = count + 1, size + Path(compiled).stat().st_size
    print(f"byte code of {count} modules, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
