"""Run every benchmark, or the one named on the command line; each ends with one line of JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NOT_BENCHMARKS = {"all", "boosting_trial", "paillier", "result", "trial", "warning_catalogues", "warning_ceiling"}
NAMED = {"early_warnings": "warnings"}  # a file warnings.py here would hide the standard library's from all of them


def main() -> int:
    """Exit code: how many benchmarks ended with an error."""
    stems = [path.stem for path in HERE.glob("*.py") if path.stem not in NOT_BENCHMARKS]
    files = {NAMED.get(stem, stem): stem for stem in sorted(stems)}
    names = list(files)
    chosen = sys.argv[1:] or names
    unknown = set(chosen) - set(names)
    if unknown:
        print(f"unknown benchmark {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
        return 2
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parent / "examples")])}
    failed = 0
    for name in chosen:
        print(f"\n== {name}", flush=True)
        failed += bool(
            subprocess.run([sys.executable, str(HERE / f"{files[name]}.py")], env=environment, check=False).returncode
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
