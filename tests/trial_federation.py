"""A local federation with a two-step toy protocol, for tests of nodes, coordinator and command."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import toy_task  # noqa: F401 - jobs of the tests are of this task
import yaml

from coordinator.scheduler import Patience
from coordinator.service import Coordinator
from veilscore.errors import VeilscoreError
from veilscore.fabric.fabric import Fabric
from veilscore.fabric.process import running_pid
from veilscore.keys.identity import load_identity
from veilscore.node.founding import found_federation
from veilscore.node.node import Node
from veilscore.terms.federation import load_federation
from veilscore.terms.job import Job, parse_job
from veilscore.v1 import control_pb2
from veilscore.wire.inbox import WireLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


PARTIES = {"bank": "bank", "tax": "holder", "registry": "holder"}
QUICK = WireLimits(retry_s=5, receive_timeout_s=10, deliver_timeout_s=5, connect_timeout_s=2)
IMPATIENT = Patience(propose_s=5, poll_s=0.05, reconnect_s=10, step_s=20)

JOB = """
name: toy
purpose: credit
task: toy
bank: bank
holders: [tax, registry]
datasets: {bank: main, tax: main, registry: main}
"""
SCORECARD = JOB.replace("task: toy", "task: train_scorecard")


def make_homes(folder: Path, **policies: dict[str, Any]) -> Path:
    """Homes with an empty data set each; `policies` adds to a party's policy."""
    found_federation(folder, PARTIES, exact=True)
    for party in PARTIES:
        path = folder / party / "node.yaml"
        content = yaml.safe_load(path.read_text())
        content["datasets"] = {"main": {"path": "data.csv", "id_column": "uscc", "label_column": "default"}}
        content["policy"] |= policies.get(party, {})
        path.write_text(yaml.safe_dump(content))
    return folder


def open_trial(folder: Path, *names: str) -> dict[str, Node | Coordinator]:
    names = names or (*PARTIES, "coordinator")
    return {
        name: Coordinator(folder / name, limits=QUICK, patience=IMPATIENT)
        if name == "coordinator"
        else Node(folder / name, limits=QUICK)
        for name in names
    }


@contextlib.asynccontextmanager
async def running(nodes: dict[str, Node | Coordinator]) -> AsyncIterator[None]:
    try:
        for node in nodes.values():
            await node.start()
        yield
    finally:
        await asyncio.gather(*(node.stop(0.1) for node in nodes.values()))


@contextlib.asynccontextmanager
async def commanding(home: Path) -> AsyncIterator[Fabric]:
    """Connection with a home's own identity, as the command line uses it."""
    fabric = Fabric(
        load_identity(home / "identity"), load_federation(home / "federation.yaml"), accept_session=lambda _s, _p: False
    )
    try:
        yield fabric
    finally:
        await fabric.stop(0.1)


async def answering(homes: Path, name: str) -> None:
    """Wait until a node that is a process has started and answers the bank; give up by the caller's time limit."""
    while running_pid(homes / name) is None:  # noqa: ASYNC110 - another process makes its file
        await asyncio.sleep(0.1)
    async with commanding(homes / "bank") as command:
        while True:
            with contextlib.suppress(VeilscoreError):
                await command.call(name, "Ping", control_pb2.Empty(), control_pb2.Empty, timeout_s=2)
                return
            await asyncio.sleep(0.2)


def toy_job() -> Job:
    return parse_job(JOB)


async def submit(fabric: Fabric, text: str = JOB) -> str:
    info = await fabric.call(
        "coordinator", "Submit", control_pb2.SubmitJob(job_yaml=text), control_pb2.JobInfo, timeout_s=30
    )
    return info.job_id


async def watch(fabric: Fabric, job_id: str) -> list[control_pb2.JobEvent]:
    """All events until the job ends; the limit is for a job that hangs, on the slowest machine."""
    ref = control_pb2.JobRef(job_id=job_id)
    async with asyncio.timeout(180):
        return [e async for e in fabric.stream("coordinator", "WatchJob", ref, control_pb2.JobEvent)]


async def show(fabric: Fabric, job_id: str) -> control_pb2.JobInfo:
    ref = control_pb2.JobRef(job_id=job_id)
    return await fabric.call("coordinator", "Show", ref, control_pb2.JobInfo, timeout_s=30)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that has no event, at most 120 s."""
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - files and other processes have no event
            await asyncio.sleep(0.02)
