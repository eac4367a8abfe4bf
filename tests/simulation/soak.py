"""Mixed load on real nodes for hours: ``python tests/simulation/soak.py --hours 2 --out soak``.

Four nodes and the bank's console as processes on loopback: single scores all the time, a batch and a training in turn,
pages of the console. Memory, descriptors, threads and disk of each process are sampled; what grows is fitted by a line
after a quarter of the time, with bounds of two standard errors that count how alike neighbouring samples are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import finished_jobs
import numpy as np
import yaml
from consent_issuer import give_list
from trial_federation import answering, commanding
from trial_scoring import BATCH, TRAIN, copy_of, known_to_all, rows, score, train

from veilscore.console.store import ConsoleStore
from veilscore.errors import VeilscoreError
from veilscore.fabric.process import running_pid
from veilscore.node import processes
from veilscore.node.founding import free_ports
from veilscore.reports.svg import Chart
from veilscore.v1 import control_pb2 as pb

NODES = ("coordinator", "bank", "tax", "registry")
MEASURES = {"memory": "MB", "descriptors": "", "threads": "", "disk": "MB"}
COLOURS = ("ink", "joint", "third", "bad", "other")
PAGES = ("/", "/jobs", "/data", "/log", "/receipts", "/health", "/me")
BETWEEN_S = {"single": 0.5, "job": 20.0, "page": 2.0, "sample": 5.0}
_LEAST_SAMPLES = 20


class Soak:
    """The load, and what was sampled under it: (seconds, process, measure) -> value."""

    def __init__(self, homes: Path, hours: float) -> None:
        self.homes, self.until_s, self.began_s = homes, time.monotonic() + 3600 * hours, time.monotonic()
        self.samples: dict[tuple[str, str], list[tuple[float, float]]] = {}
        self.done: Counter[str] = Counter()
        self.started_s = self.began_s
        self.console: subprocess.Popen[bytes] | None = None
        (self.port,) = free_ports(1)

    async def run(self) -> None:
        """Load and sample until the time is over."""
        tasks = (self._singles, self._jobs, self._pages, self._sample)
        await asyncio.gather(*(self._for_ever(task) for task in tasks))

    async def _for_ever(self, act: Any) -> None:
        number = 0
        while time.monotonic() < self.until_s:
            wait_s = await act(number)
            number += 1
            await asyncio.sleep(wait_s)

    def start(self) -> None:
        """Start nodes and console."""
        path = self.homes / "bank" / "node.yaml"
        node = yaml.safe_load(path.read_text())
        node["people"] = {"anna": ["modeller", "steward", "auditor", "operator", "account_manager"]}
        node["console"] = {"port": self.port, "per_minute": 100_000, "session_hours": 24, "idle_minutes": 480}
        path.write_text(yaml.safe_dump(node))
        for name in NODES:
            processes.spawn(self.homes / name)
        command = [sys.executable, "-m", "veilscore", "console", "--home", str(self.homes / "bank")]
        with (self.homes / "console.log").open("wb") as out:
            self.console = subprocess.Popen(command, stdout=out, stderr=out)

    def stop(self) -> None:
        """Stop them."""
        for name in NODES:
            if running_pid(self.homes / name) is not None:
                processes.stop(self.homes / name)
        if self.console is not None:
            self.console.terminate()
            self.console.wait(30)

    async def ready(self) -> None:
        """Wait until every node and the console answer."""
        async with asyncio.timeout(300):
            for name in NODES:
                await answering(self.homes, name)
            log = self.homes / "bank" / "log" / "visits.log"
            while not (log.exists() and "site open" in log.read_text()):
                await asyncio.sleep(0.2)
        self._command = contextlib.AsyncExitStack()
        self._fabric = await self._command.enter_async_context(commanding(self.homes / "bank"))
        self._firms = known_to_all(self.homes)
        store = ConsoleStore(self.homes / "bank", 36000.0, 86400.0)
        self._cookie = f"__Host-session={store.begin('anna', 'passkey')[0]}"
        store.close()
        self._trusted = ssl.create_default_context(cafile=str(self.homes / "bank" / "console" / "certificate.pem"))
        self._site = http.client.HTTPSConnection("localhost", self.port, context=self._trusted, timeout=60)

    async def _singles(self, number: int) -> float:
        try:
            answer = await score(self._fabric, f"soak-{number}", self._firms[number % len(self._firms)])
            self.done[f"single scores, {answer.status}"] += 1
        except VeilscoreError as error:
            self.done[f"single scores, {type(error).__name__}"] += 1
        return BETWEEN_S["single"]

    async def _jobs(self, number: int) -> float:
        kind, text = (
            ("batches", BATCH) if number % 2 == 0 else ("trainings", TRAIN.replace("name: firms", "name: again"))
        )
        try:
            job = await self._fabric.call(
                "coordinator", "Submit", pb.SubmitJob(job_yaml=text), pb.JobInfo, timeout_s=30
            )
            ref = pb.JobRef(job_id=job.job_id)
            while job.status not in {"done", "failed", "refused", "cancelled"} and time.monotonic() < self.until_s:
                await asyncio.sleep(1.0)
                job = await self._fabric.call("coordinator", "Show", ref, pb.JobInfo, timeout_s=30)
            self.done[f"{kind}, {job.status}"] += 1
        except VeilscoreError as error:
            self.done[f"{kind}, {type(error).__name__}"] += 1
        return BETWEEN_S["job"]

    async def _pages(self, number: int) -> float:
        status = await asyncio.to_thread(self._page, PAGES[number % len(PAGES)])
        self.done[f"pages, {status}"] += 1
        return BETWEEN_S["page"]

    def _page(self, path: str) -> int:
        self._site.request("GET", path, headers={"Cookie": self._cookie})
        answer = self._site.getresponse()
        answer.read()
        return answer.status

    async def _sample(self, _number: int) -> float:
        at_s = time.monotonic() - self.began_s
        pids = {name: running_pid(self.homes / name) for name in NODES}
        pids["console"] = None if self.console is None else self.console.pid
        for name, pid in pids.items():
            if pid is None or not Path(f"/proc/{pid}").exists():
                self.done[f"{name} did not run"] += 1
                continue
            said = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
            )
            found = {
                "memory": int(said["VmRSS"].split()[0]) / 1024,
                "threads": float(said["Threads"]),
                "descriptors": float(len(list(Path(f"/proc/{pid}/fd").iterdir()))),
            }
            if name in NODES:
                sizes = (p.stat().st_size for p in (self.homes / name).rglob("*") if p.is_file())
                with contextlib.suppress(OSError):  # a file went meanwhile
                    found["disk"] = sum(sizes) / (1 << 20)
            for measure, value in found.items():
                self.samples.setdefault((name, measure), []).append((at_s, value))
        return BETWEEN_S["sample"]


def slope(samples: list[tuple[float, float]]) -> tuple[float, float, float] | None:
    """Return growth in an hour, with its lower and upper bound; None of too few samples."""
    if len(samples) < _LEAST_SAMPLES:
        return None
    t, y = (np.array(column) for column in zip(*samples, strict=True))
    t = t / 3600
    design = np.stack([np.ones_like(t), t], axis=1)
    fitted, *_ = np.linalg.lstsq(design, y, rcond=None)
    rest = y - design @ fitted
    spread = float(rest @ rest)
    alike = float(rest[:-1] @ rest[1:]) / spread if spread else 0.0
    effective = max(3.0, len(t) * (1 - max(0.0, alike)) / (1 + max(0.0, alike)))
    error = float(np.sqrt(spread / len(t) / max(1.0, effective - 2) / t.var()))
    return float(fitted[1]), float(fitted[1]) - 2 * error, float(fitted[1]) + 2 * error


def report(soak: Soak, out: Path) -> str:
    """Write plots and the table of slopes, and return the table."""
    out.mkdir(parents=True, exist_ok=True)
    took_s = max(at_s for one in soak.samples.values() for at_s, _ in one)
    lines = [f"# Soak of {took_s / 60:.0f} minutes", ""]
    lines += ["| load | times |", "|---|---|", *(f"| {what} | {n:,} |" for what, n in sorted(soak.done.items())), ""]
    lines += ["| process | measure | after a quarter | at the end | an hour, with bounds |", "|---|---|---|---|---|"]
    for (name, measure), samples in sorted(soak.samples.items()):
        steady = [one for one in samples if one[0] > took_s / 4]
        fitted = slope(steady)
        said = "too few samples" if fitted is None else "{:+.1f} ({:+.1f} to {:+.1f})".format(*fitted)
        ends = (float(np.median([v for _, v in part])) for part in (steady[:10], steady[-10:]))
        first, last = (f"{value:.1f}" for value in ends)
        lines.append(
            f"| {name} | {measure}{', ' * bool(MEASURES[measure])}{MEASURES[measure]} | {first} | {last} | {said} |"
        )
    for measure, unit in MEASURES.items():
        chart = Chart(f"{measure} of each process", "minutes", f"{measure} {unit}".strip())
        for colour, name in zip(COLOURS, (*NODES, "console"), strict=True):
            if samples := soak.samples.get((name, measure), []):
                chart.line([at_s / 60 for at_s, _ in samples], [v for _, v in samples], colour, label=name)
        chart.legend = "lower right"
        chart.save(out / f"{measure}.svg")
        lines += ["", f"![{measure}]({measure}.svg)"]
    text = "\n".join(lines) + "\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    return text


async def _whole(soak: Soak) -> None:
    await soak.ready()
    soak.began_s = time.monotonic()
    soak.until_s += soak.began_s - soak.started_s
    await soak.run()
    await soak._command.aclose()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path("soak"))
    options = parser.parse_args()
    kept = Path(__file__).resolve().parents[2] / ".pytest_cache" / "d" / "finished-jobs"
    kept.mkdir(parents=True, exist_ok=True)
    finished_jobs.keep_in(kept)
    with tempfile.TemporaryDirectory(prefix="vs-soak-") as name:
        homes = copy_of(finished_jobs.finished(train), Path(name) / "homes")
        give_list(homes / "bank", rows(homes, "bank"), expires_s=time.time() + 3600 * options.hours + 86_400)
        soak = Soak(homes, options.hours)
        soak.started_s = time.monotonic()
        try:
            soak.start()
            asyncio.run(_whole(soak))
        finally:
            soak.stop()
        print(report(soak, options.out))
    return 0


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
