"""The fault campaign against real processes: ``python tests/simulation/real_campaign.py --schedules 100 --seed 0``.

Each schedule has four nodes on loopback, over TLS, in homes of their own: a batch is scored and single firms are asked
for while nodes are killed (kill -9), stopped (SIGSTOP), restarted, or find their disk full, all
drawn from the seed. Each home is a small file system in memory, which is filled up; that needs root, and without it no
disk is full. How processes interleave is the machine's, so a seed that failed fails again often, not always.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import finished_jobs
import real_checks
from consent_issuer import token_bytes
from trial_federation import answering, commanding
from trial_scoring import EXACT, batch_units, copy_of, known_to_all, score, train

from veilscore.errors import VeilscoreError
from veilscore.v1 import control_pb2 as pb

NODES = ("coordinator", "bank", "tax", "registry")
FAULTS_S, HEALING_S, ANSWERS_S = 5.0, 150.0, 60.0
DISK_MB = 160
SINGLES = 3  # firms asked for one by one
_ENTRY = Path(__file__).with_name("quick_process.py")


class Schedule:
    """One schedule: its nodes, its faults, and what came of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed, self.rng = folder, seed, random.Random(seed)
        self.faults: Counter[str] = Counter()
        self.problems: list[str] = []
        self.job, self.answers, self.asked = "", dict[str, pb.ScoreResponse](), set[str]()
        self.starts, self.healed_s, self.ended_s = 0, 0.0, 0.0
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._over = False

    async def run(self) -> None:
        """Live the schedule; nodes are stopped in the end, cleanly."""
        keepers = [asyncio.create_task(self._keep(name)) for name in NODES]
        try:
            for name in NODES:
                await self._answering(name)
            async with asyncio.timeout(FAULTS_S + HEALING_S):
                faults = asyncio.create_task(self._disturb())
                await asyncio.gather(self._batch(faults), self._singles(faults), faults)
                self.ended_s = time.monotonic()
        except TimeoutError:
            self.problems.append(f"not at an end {HEALING_S:.0f} s after the faults were over")
        finally:
            self._over = True
            for task in keepers:
                task.cancel()
            self._end()

    async def _keep(self, name: str) -> None:
        """Start a node, and again whenever it ended, as a service manager does."""
        while not self._over:
            process = self._processes.get(name)
            if process is None or process.poll() is not None:
                self.starts += process is not None
                with (self.folder / name / "console.log").open("ab") as out:
                    self._processes[name] = subprocess.Popen(
                        [sys.executable, str(_ENTRY), str(self.folder / name)], stdout=out, stderr=out
                    )
            await asyncio.sleep(0.3)

    async def _answering(self, name: str) -> None:
        async with asyncio.timeout(120):
            await answering(self.folder, name)

    def _end(self) -> None:
        for name, process in self._processes.items():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                self.problems.append(f"{name} did not end within 30 s of SIGTERM")
                process.kill()
                process.wait(10)

    # faults

    async def _disturb(self) -> None:
        acts = [
            (self.rng.uniform(0.0, FAULTS_S), self.rng.choice((self._kill, self._stop, self._restart, self._fill)))
            for _ in range(self.rng.choice((1, 2, 2, 3, 4)))
        ]
        begun = time.monotonic()
        running = []
        for at_s, act in sorted(acts, key=lambda one: one[0]):
            name, lasts_s = self.rng.choice(NODES), self.rng.uniform(0.2, 6.0)
            await asyncio.sleep(max(0.0, begun + at_s - time.monotonic()))
            running.append(asyncio.create_task(act(name, lasts_s)))
        await asyncio.gather(*running)
        self.healed_s = time.monotonic()

    async def _kill(self, name: str, _lasts_s: float) -> None:
        self._send(name, signal.SIGKILL, "kill -9")

    async def _restart(self, name: str, _lasts_s: float) -> None:
        self._send(name, signal.SIGTERM, "restart")

    async def _stop(self, name: str, lasts_s: float) -> None:
        process = self._processes[name]
        self._send(name, signal.SIGSTOP, "stopped for up to 6 s")
        await asyncio.sleep(lasts_s)
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)

    async def _fill(self, name: str, lasts_s: float) -> None:
        if not (self.folder / name).is_mount():
            return
        filler = self.folder / name / "filler"
        self.faults[f"disk full: {name}"] += 1
        with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        await asyncio.sleep(lasts_s)
        filler.unlink(missing_ok=True)

    def _send(self, name: str, number: signal.Signals, what: str) -> None:
        if self._processes[name].poll() is None:
            self.faults[f"{what}: {name}"] += 1
            self._processes[name].send_signal(number)

    # what people do

    async def _batch(self, faults: asyncio.Task[None]) -> None:
        """Submit a batch until it is known, and once the faults are over resume what failed."""
        while True:
            listed = await self._ask("List", pb.Empty(), pb.JobList)
            found = list(listed.jobs) if listed else []
            if listed is None:  # whether it has the job is not known
                pass
            elif not found:
                await self._ask("Submit", pb.SubmitJob(job_yaml=EXACT), pb.JobInfo)
            elif len(found) > 1:
                self.problems.append(f"{len(found)} jobs came of one: {[one.job_id for one in found]}")
                return
            elif found[0].status == "done":
                self.job = found[0].job_id
                if faults.done() and self._filed():
                    return
            elif found[0].status in {"refused", "cancelled"}:
                self.problems.append(f"the job was {found[0].status}: {found[0].error}")
                return
            elif found[0].status == "failed" and faults.done():
                await self._ask("Resume", pb.JobRef(job_id=found[0].job_id), pb.JobInfo)
            await asyncio.sleep(0.4)

    def _filed(self) -> bool:
        ends = [self.folder / name / "jobs" / self.job / "end.json" for name in NODES[1:]]
        return all(path.is_file() and '"filed": true' in path.read_text() for path in ends)

    async def _ask(self, method: str, request: Any, reply: Any) -> Any:
        with contextlib.suppress(VeilscoreError):
            async with commanding(self.folder / "bank") as command:
                return await command.call("coordinator", method, request, reply, timeout_s=8)
        return None

    async def _singles(self, faults: asyncio.Task[None]) -> None:
        """Ask for single firms, the same request again until it is answered."""
        for number, firm in enumerate(known_to_all(self.folder)[:SINGLES]):
            request, until_s, consent = f"single-{number}", None, token_bytes(firm)
            self.asked.add(request)
            while True:
                said = "no answer"
                with contextlib.suppress(VeilscoreError):
                    async with commanding(self.folder / "bank") as command:
                        answer = await score(command, request, firm, consent=consent)
                    if answer.status == "scored":
                        self.answers[firm] = answer
                        break
                    said = f"{answer.status}, {[(p.party, p.status, p.reason) for p in answer.parties]}"
                    if any("use a new" in p.reason for p in answer.parties):  # its secrets went with a node
                        request, consent = f"single-{number}-{len(self.asked)}", token_bytes(firm)
                        self.asked.add(request)
                if faults.done():
                    until_s = until_s or time.monotonic() + ANSWERS_S
                    if time.monotonic() > until_s:
                        self.problems.append(f"{request} is not scored after the faults: {said}")
                        break
                await asyncio.sleep(0.3)


@contextlib.contextmanager
def disks(folder: Path) -> Iterator[None]:
    """Make each home a file system of its own, where this process may."""
    made = []
    try:
        for name in NODES:
            (folder / name).mkdir(parents=True, mode=0o700)
            options = ["-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0700", "tmpfs", str(folder / name)]
            if not subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
                made.append(folder / name)
        yield
    finally:
        for place in made:
            subprocess.run(["umount", "-l", str(place)], check=False)


def one(original: Path, units: dict[str, int], seed: int, folder: Path, keep: Path | None = None) -> dict[str, Any]:
    """Run one schedule and say what is broken."""
    world = Schedule(folder, seed)
    with disks(folder):
        copy_of(original, folder)
        asyncio.run(world.run())
        broken = world.problems or real_checks.broken(folder, world.job, world.answers, units, len(world.asked))
        if broken and keep is not None:
            shutil.copytree(folder, keep / str(seed), dirs_exist_ok=True)
    said = {"broken": broken, "faults": world.faults, "starts": world.starts}
    return said | {"healed_s": max(0.0, world.ended_s - world.healed_s)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule; the others follow")
    parser.add_argument("--only", type=int, nargs="*", help="these seeds alone")
    parser.add_argument("--keep", type=Path, help="folder that keeps the homes of what failed")
    options = parser.parse_args()
    faults: Counter[str] = Counter()
    failed, starts, waited = list[int](), 0, list[float]()
    with tempfile.TemporaryDirectory(prefix="vs-real-") as name:
        base = Path(name)
        kept = Path(__file__).resolve().parents[2] / ".pytest_cache" / "d" / "finished-jobs"
        kept.mkdir(parents=True, exist_ok=True)
        finished_jobs.keep_in(kept)
        original = finished_jobs.finished(train)
        units = batch_units(copy_of(original, base / "undisturbed"))
        for seed in options.only or range(options.seed, options.seed + options.schedules):
            said = one(original, units, seed, base / str(seed), options.keep)
            faults.update(said["faults"])
            starts += said["starts"]
            waited.append(said["healed_s"])
            if said["broken"]:
                failed.append(seed)
                print(f"FAILED seed {seed}: {'; '.join(said['broken'])[:3000]}", flush=True)
                print(f"  again: {sys.executable} {sys.argv[0]} --only {seed}", flush=True)
            shutil.rmtree(base / str(seed))
    waited.sort()
    print(
        f"{len(waited)} schedules, {starts} nodes started again; done {waited[len(waited) // 2]:.1f} s after the last"
    )
    print(f"fault in the middle, {waited[-1]:.1f} s at most; failed: {failed or 'none'}")
    for kind, n in sorted(faults.items()):
        print(f"  {n:5d} {kind}")
    print(json.dumps({"schedules": len(waited), "failed": failed, "faults": faults}))
    return int(bool(failed))


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
