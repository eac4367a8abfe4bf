"""What the sandbox costs: start, an empty submission, every process ended, outputs collected; median of many runs."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from result import emit

from veilscore.sandbox.bubblewrap import Inside, check_host, default_python
from veilscore.sandbox.policy import SandboxLimits
from veilscore.sandbox.run import run_inside

RUNS = int(os.environ.get("VEILSCORE_RUNS", "30"))
BOUND_MS = 100


def measure(runs: int) -> list[float]:
    """Milliseconds of each run; the filter is compiled and the machine checked once before, as a node does."""
    check_host()
    with tempfile.TemporaryDirectory() as temporary:
        stage = Path(temporary)
        os.umask(0o022)  # the sandbox's user reads what is staged; nodes make it so for any umask
        for name in ("code", "data"):
            (stage / name).mkdir()
        (stage / "code" / "main.py").write_text("open('/outputs/a', 'w').write('1')\n", encoding="utf-8")
        (stage / "data" / "data.csv").write_text("a\n1\n", encoding="utf-8")
        inside = Inside(stage / "code", stage / "data", "main.py", default_python())
        times = []
        for _ in range(runs + 1):
            started = time.perf_counter()
            outcome = run_inside(inside, {"a": 10}, SandboxLimits())
            times.append((time.perf_counter() - started) * 1e3)
            if outcome.outputs != {"a": b"1"}:
                raise SystemExit(f"the sandbox gave no output: {outcome.status}")
    return times[1:]


def main() -> None:
    times = measure(RUNS)
    middle = statistics.median(times)
    emit(
        "sandbox_start",
        round(middle, 1),
        "ms",
        BOUND_MS,
        middle <= BOUND_MS,
        runs=len(times),
        fastest_ms=round(min(times), 1),
        slowest_ms=round(max(times), 1),
        as_root=os.geteuid() == 0,
    )


if __name__ == "__main__":
    main()
