"""A federation of real processes on loopback for benchmarks: four nodes, one job, what it cost."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

from veilscore.cli.connection import connect
from veilscore.errors import JobError
from veilscore.node.founding import DataFiles, found_federation
from veilscore.terms.job import load_job
from veilscore.v1 import control_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARTIES = {"bank": "bank", "tax": "holder", "registry": "holder"}


@contextlib.contextmanager
def federation(folder: Path, data: Path) -> Iterator[Path]:
    """Start bank, tax, registry and coordinator on the files of `data`; stop them at the end."""
    found_federation(folder, PARTIES, data=DataFiles(data), exact=True)
    veilscore("up", str(folder))
    try:
        yield folder
    finally:
        veilscore("down", str(folder))


def veilscore(*arguments: str) -> str:
    """Run the command as a user would; its output, or JobError with its last words."""
    done = subprocess.run([sys.executable, "-m", "veilscore", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise JobError(f"veilscore {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def run_job(folder: Path, job_file: Path) -> control_pb2.JobInfo:
    """Submit a job and wait for its end; JobError unless it is done."""
    return asyncio.run(_run(folder, load_job(job_file).canonical().decode()))


async def _run(folder: Path, text: str) -> control_pb2.JobInfo:
    async with connect(folder / "bank") as to:
        job = await to.coordinator("Submit", control_pb2.SubmitJob(job_yaml=text), control_pb2.JobRef)
        coordinator = to.federation.coordinator.name
        async for _ in to.fabric.stream(coordinator, "WatchJob", job, control_pb2.JobEvent):
            pass  # until it ends; asking again and again would take time from what is measured
        info = await to.coordinator("Show", job, control_pb2.JobInfo)
    if info.status != "done":
        raise JobError(f"the job ended as {info.status}: {info.error}")
    return info


def bytes_sent(info: control_pb2.JobInfo, steps: tuple[str, ...] | None = None) -> int:
    """Bytes that all parties sent in these steps (all by default)."""
    return sum(
        done.bytes_sent
        for step in info.steps
        if steps is None or step.step in steps
        for done in step.party_done.values()
    )
