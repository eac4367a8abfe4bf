"""Size and time of a fresh environment with Veilscore's core and all that is compiled, beside what the peers take.

Then the same with the extras that a bank's people work with: its commands, its door and its console.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from result import emit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import set_up  # noqa: E402

MAX_MB, BANK_MB = 450.0, 500.0
BANK = "bank,door,console"  # extras
OUTSIDE = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # not of the checkout
PEERS_MB = {"SecretFlow": 1900, "SPU": 1000, "FATE": 6000, "NVFlare": 1100, "Concrete ML": 6400}  # on a like machine


def size_mb(folder: Path, pattern: str = "*") -> float:
    return sum(f.stat().st_size for f in folder.rglob(pattern) if f.is_file() and not f.is_symlink()) / 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "venv"
        python = home / "bin" / "python"
        began = time.perf_counter()
        set_up.make_environment(home, python)
        for words in (("--require-hashes", "--requirement", ROOT / "requirements.lock"), ("--no-deps", ROOT)):
            if failed := set_up.pip(python, *words):
                raise SystemExit(failed)
        seconds = time.perf_counter() - began
        for words in ([ROOT / "tools" / "byte_code.py", home], ["-m", "veilscore.compile"]):
            subprocess.run([python, *words], check=True, cwd=home, env=OUTSIDE)
        compiled_s = time.perf_counter() - began - seconds
        subprocess.run([home / "bin" / "veilscore", "--version"], check=True)
        size, byte_code, kernels = size_mb(home), size_mb(home, "*.pyc"), size_mb(home, "*.kernel")
        if failed := set_up.pip(python, "--prefer-binary", f"{ROOT}[{BANK}]"):
            raise SystemExit(failed)
        subprocess.run([python, ROOT / "tools" / "byte_code.py", home], check=True, cwd=home, env=OUTSIDE)
        with_bank = size_mb(home)
    for name, megabytes in {"Veilscore": size, "with bank": with_bank, **PEERS_MB}.items():
        print(f"{name:<12} {megabytes:8.0f} MB")
    emit(
        "install",
        round(size, 1),
        "MB",
        MAX_MB,
        size <= MAX_MB and with_bank <= BANK_MB,
        with_bank_mb=round(with_bank, 1),
        with_bank_bound_mb=BANK_MB,
        byte_code_mb=round(byte_code, 1),
        kernels_mb=round(kernels, 1),
        install_s=round(seconds, 1),
        compile_s=round(compiled_s, 1),
        peers_mb=PEERS_MB,
    )


if __name__ == "__main__":
    main()
