"""Processor seconds until something happens: help, a command that talks to a node, a node's start, a first job.

As `make setup` leaves an installation (byte code and kernels compiled), and with nothing compiled at all: that is what
each process would pay without it. Medians of several runs; every process counts whole, its end included.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from result import emit
from trial import federation, run_job

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
RUNS = int(os.environ.get("VEILSCORE_RUNS", "5"))
HELP_S, COMMAND_S, NODE_S, JOB_S = 0.6, 1.0, 2.0, 12.0
NODES = ("bank", "tax", "registry", "coordinator")
START_S = 120.0


def processor_s(command: list[str], until: Path | None = None, **environment: str) -> float:
    """Processor seconds of a process, ended once the file `until` has grown if one is given."""
    before = until.stat().st_size if until is not None and until.exists() else 0
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    end = time.monotonic() + START_S
    while until is not None and time.monotonic() < end and process.poll() is None:
        if until.exists() and until.stat().st_size > before:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.02)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def median_s(command: list[str], until: Path | None = None, runs: int = RUNS, **environment: str) -> float:
    """Median over runs, after one that warms the machine's file cache."""
    times = [processor_s(command, until, **environment) for _ in range(runs + 1)]
    return statistics.median(times[1:])


def used_s(folder: Path) -> float:
    """Processor seconds that the nodes of a federation have used so far (Linux)."""
    ticks = 0
    for name in NODES:
        pid = (folder / name / "state" / "node.pid").read_text(encoding="ascii")
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def kernel_files() -> set[Path]:
    """Files of compiled code beside the sources."""
    return set((ROOT / "veilscore").rglob("__pycache__/*.kernel"))


def without_compiled_code(folder: Path) -> dict[str, str]:
    """Make a copy of the sources alone; returns the environment in which nothing compiled is found or kept."""
    shutil.copytree(ROOT / "veilscore", folder / "veilscore", ignore=shutil.ignore_patterns("__pycache__", "examples"))
    return {
        "PYTHONPATH": str(folder),
        "PYTHONPYCACHEPREFIX": str(folder / "no-byte-code"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def main() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "byte_code.py", sys.prefix], check=True)
    subprocess.run([sys.executable, "-m", "veilscore.compile"], cwd=ROOT, check=True)
    veilscore = [str(Path(sys.executable).with_name("veilscore"))]
    compiled = kernel_files()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with federation(folder / "trial", EXAMPLES / "kz_corporate"):
            started = used_s(folder / "trial")
            run_job(folder / "trial", EXAMPLES / "scorecard_exact.yaml")
            job = used_s(folder / "trial") - started
            run_job(folder / "trial", EXAMPLES / "scorecard_exact.yaml")
            second = used_s(folder / "trial") - started - job
            command = median_s([*veilscore, "node", "status", str(folder / "trial" / "bank")])
        home = folder / "trial" / "bank"
        start, log = [*veilscore, "node", "start", str(home)], home / "log" / "node.log"
        nodes = dict.fromkeys(NODES, 0.0)
        for name in NODES:
            at = folder / "trial" / name
            nodes[name] = median_s([*veilscore, "node", "start", str(at)], at / "log" / "node.log")
        node = max(nodes.values())
        cold = median_s(start, log, runs=1, **without_compiled_code(folder / "cold"))
        new = len(kernel_files() - compiled)
    help_ = median_s([*veilscore, "--help"])
    for name, seconds in (
        ("--help", help_),
        ("node status", command),
        *((f"start of {name}", seconds) for name, seconds in nodes.items()),
        ("start of bank, nothing compiled", cold),
        ("first scorecard job, four nodes", job),
        ("second scorecard job, four nodes", second),
    ):
        print(f"{name:<34} {seconds:6.2f} s of a processor")
    emit(
        "start",
        round(node, 2),
        "s",
        NODE_S,
        node <= NODE_S and help_ <= HELP_S and command <= COMMAND_S and job <= JOB_S and new == 0,
        help_s=round(help_, 2),
        help_bound_s=HELP_S,
        command_s=round(command, 2),
        command_bound_s=COMMAND_S,
        node_cold_s=round(cold, 2),
        first_job_s=round(job, 2),
        first_job_bound_s=JOB_S,
        second_job_s=round(second, 2),
        kernels_compiled_by_the_job=new,
    )


if __name__ == "__main__":
    main()
