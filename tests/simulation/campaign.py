"""The fault campaign: ``python tests/simulation/campaign.py --schedules 10000 --seed 0``, or ``--only SEED``.

With ``--scores`` a schedule is of single scores (`campaign_scores.py`), not of a job.
Each schedule runs in a forked process on a copy of one small federation; two are run at once. A failure prints its
seed and the command that repeats it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of a schedule
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})

import virtual_time  # isort: skip - before anything binds a clock

import argparse
import json
import logging
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import campaign_checks
import campaign_scores
import campaign_world
import faulty_files
import memory_grpc
import structlog
from campaign_world import NODES, World
from trial_federation import make_homes

import veilscore.online.bank
import veilscore.online.holder  # noqa: F401 - both once, before the forks

_SLOW_S = 120.0  # of the real clock, for one schedule


def found(folder: Path) -> Path:
    """Make the federation that all schedules begin with."""
    home = make_homes(folder / "federation")
    shutil.copytree(home / "bank" / "identity", home / "operator")
    for name in NODES[1:]:
        (home / name / "data.csv").write_text("uscc,default\n")
    return home


def one(original: Path, seed: int, folder: Path, *, scores: bool) -> dict[str, Any]:
    """Run one schedule in this process, which is good for nothing else afterwards."""
    shutil.copytree(original, folder)
    if scores:
        campaign_scores.install(random.Random(seed))
    else:
        campaign_world.install()
    world = campaign_scores.ScoreWorld(folder, seed) if scores else World(folder, seed)
    world.run()
    return {
        "broken": campaign_scores.broken(world) if scores else campaign_checks.broken(world),
        "faults": world.faults + faulty_files.INJECTED + memory_grpc.INJECTED,
        "starts": sum(world.starts.values()) - len(NODES),
        "virtual_s": virtual_time.Clock.now.passed_s,
    }


def _forked(original: Path, seeds: Iterable[int], folder: Path, *, scores: bool) -> int:
    """Begin a process that runs some schedules, each in a fork of its own."""
    child = os.fork()
    if child:
        return child
    with (folder / f"{os.getpid()}.jsonl").open("w") as out:
        for seed in seeds:
            place = folder / str(seed)
            result = folder / f"{seed}.json"
            grandchild = os.fork()
            if not grandchild:
                signal.alarm(int(_SLOW_S))
                try:
                    said = one(original, seed, place, scores=scores)
                except BaseException as error:  # noqa: BLE001 - whatever it is, the seed is printed with it
                    import traceback

                    said = {"broken": [f"the schedule broke off: {error!r}\n{traceback.format_exc()}"]}
                result.write_text(json.dumps(said))
                os._exit(0)
            _, status = os.waitpid(grandchild, 0)
            said = json.loads(result.read_text()) if not status else {"broken": [f"ended by signal {status & 127}"]}
            shutil.rmtree(place, ignore_errors=True)
            out.write(json.dumps({"seed": seed, **said}) + "\n")
            out.flush()
    os._exit(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule; the others follow")
    parser.add_argument("--only", type=int, nargs="*", help="these seeds alone, with the nodes' logs")
    parser.add_argument("--scores", action="store_true", help="schedules of single scores")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--report", type=Path, help="write figures there, as JSON")
    options = parser.parse_args()
    seeds = options.only or range(options.seed, options.seed + options.schedules)
    if not options.only:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    began_s = time.monotonic()
    memory = Path("/dev/shm")  # a sync costs nothing there
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        original = campaign_scores.found(folder) if options.scores else found(folder)
        parts = [list(seeds)[k :: options.jobs] for k in range(options.jobs)]
        children = [_forked(original, part, folder, scores=options.scores) for part in parts]
        for child in children:
            os.waitpid(child, 0)
        results = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    return report(results, len(seeds), time.monotonic() - began_s, options.report, scores=options.scores)


def report(results: list[dict[str, Any]], wanted: int, took_s: float, path: Path | None, *, scores: bool) -> int:
    """Print figures and failures; returns the exit code."""
    faults: Counter[str] = Counter()
    for result in results:
        faults.update(result.get("faults", {}))
    failed = sorted((r for r in results if r["broken"]), key=lambda r: r["seed"])
    print(f"{len(results)} schedules in {took_s:.0f} s, {sum(r.get('starts', 0) for r in results)} nodes started again")
    for kind, n in sorted(faults.items()):
        print(f"  {n:7d} {kind}")
    for result in failed:
        print(f"FAILED seed {result['seed']}: {'; '.join(result['broken'])[:3000]}")
        print(f"  again: {sys.executable} {sys.argv[0]}{' --scores' * scores} --only {result['seed']}")
    if path is not None:
        path.write_text(
            json.dumps({"schedules": len(results), "failed": [r["seed"] for r in failed], "faults": faults})
        )
    return int(bool(failed) or len(results) != wanted)


if __name__ == "__main__":
    sys.exit(main())
