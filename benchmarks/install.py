"""Size and time of a fresh environment with Veilscore's core, beside what the peers take."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from result import emit

ROOT = Path(__file__).resolve().parent.parent
MAX_MB = 500.0
PEERS_MB = {"SecretFlow": 1900, "SPU": 1000, "FATE": 6000, "NVFlare": 1100, "Concrete ML": 6400}  # on a like machine


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "venv"
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run([home / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-compile", ROOT], check=True)
        seconds = time.perf_counter() - began
        subprocess.run([home / "bin" / "veilscore", "--version"], check=True)
        size = sum(f.stat().st_size for f in home.rglob("*") if f.is_file() and not f.is_symlink()) / 1e6
    for name, megabytes in {"Veilscore": size, **PEERS_MB}.items():
        print(f"{name:<12} {megabytes:8.0f} MB")
    emit("install", round(size, 1), "MB", MAX_MB, size <= MAX_MB, seconds=round(seconds, 1), peers_mb=PEERS_MB)


if __name__ == "__main__":
    main()
