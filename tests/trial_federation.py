"""A local federation with a two-step toy protocol, for tests of nodes, coordinator and command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from coordinator.scheduler import Patience
from coordinator.service import Coordinator
from veilscore.errors import DataError, OverlapError, RefusedError
from veilscore.fabric.grpc_channel import Fabric
from veilscore.keys.identity import load_identity
from veilscore.node.founding import found_federation
from veilscore.node.node import Node
from veilscore.terms.federation import load_federation
from veilscore.terms.job import Job, parse_job
from veilscore.v1 import align_pb2, control_pb2
from veilscore.wire.inbox import Limits
from veilscore.wire.protocol import Progress, Protocol, Send, receive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from veilscore.files.store import JobStore
    from veilscore.terms.policy import NodeConfig
    from veilscore.wire.protocol import Session

PARTIES = {"bank": "bank", "tax": "holder", "registry": "holder"}
QUICK = Limits(retry_s=5, receive_timeout_s=10, deliver_timeout_s=5, connect_timeout_s=2)
IMPATIENT = Patience(propose_s=5, poll_s=0.05, reconnect_s=10, step_s=20)

JOB = """
name: toy
purpose: credit
task: train_scorecard
bank: bank
holders: [tax, registry]
datasets: {bank: main, tax: main, registry: main}
"""


@dataclass(frozen=True)
class StepContext:
    session: Session
    role: str
    job: Job
    node: NodeConfig
    store: JobStore
    opening: Any = None


class ToyWorkflow:
    """Each step: the bank pings every holder; the last step also the coordinator.

    A file named fault_<step> in a node's home makes that node fail: its content is the way, and it works once.
    """

    StepContext = StepContext

    def steps_for(self, job: Job) -> tuple[str, ...]:
        return ("align", "bin", "score")

    def parties_in(self, step: str, job: Job) -> tuple[str, ...]:
        return (*job.parties, job.coordinator) if step == "score" else job.parties

    def protocol_for(self, step: str, context: StepContext) -> Protocol[None]:
        peers = [p for p in self.parties_in(step, context.job) if p != context.job.bank]
        return bank(step, peers, context) if context.role == "bank" else other(step, context)


def bank(step: str, peers: list[str], context: StepContext) -> Protocol[None]:
    fault(step, context)
    for number, peer in enumerate(peers):
        yield Progress(f"ask {peer}", number, len(peers))
        yield Send(peer, align_pb2.AlignBankRound1(part=0, parts=1, n_ids=3, points=os.urandom(96)))
        answer = yield from receive(peer, align_pb2.AlignHolderRound2)
        if not answer.accepted:
            raise RefusedError(answer.reason, party=peer)
    yield Progress("all answered", len(peers), len(peers))
    context.store.save_json(f"out_{step}", {"session": context.session.id})


def other(step: str, context: StepContext) -> Protocol[None]:
    yield from receive(context.job.bank, align_pb2.AlignBankRound1)
    fault(step, context)
    context.store.save_json(f"out_{step}", {"session": context.session.id})
    yield Send(context.job.bank, align_pb2.AlignHolderRound2(accepted=True))


def fault(step: str, context: StepContext) -> None:
    path = context.store.path.parent.parent / f"fault_{step}"
    if not path.exists():
        return
    how = path.read_text()
    if how != "always":
        path.unlink()
    if how.startswith("sleep"):
        time.sleep(float(how.split()[1]))
    elif how == "kill":
        os._exit(9)
    elif how == "data":
        raise DataError("column secret_column has 17 bad rows")
    elif how == "overlap":
        raise OverlapError("only 4 firms in common")
    elif how == "bug":
        raise ZeroDivisionError("secret detail")
    elif how == "always":
        raise DataError("always")


def make_homes(folder: Path, **policies: dict[str, Any]) -> Path:
    """Homes with an empty data set each; `policies` adds to a party's policy."""
    found_federation(folder, PARTIES)
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
        name: Coordinator(folder / name, workflow=ToyWorkflow(), limits=QUICK, patience=IMPATIENT)
        if name == "coordinator"
        else Node(folder / name, workflow=ToyWorkflow(), limits=QUICK)
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
