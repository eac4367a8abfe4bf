"""The command reaches nodes with the identity of a home, over the fabric like everybody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from veilscore.errors import JobError
from veilscore.fabric.calling import CALL_S, calling_fabric
from veilscore.fabric.fabric import Fabric
from veilscore.terms.federation import Federation
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import load_node_config
from veilscore.v1 import control_pb2

T = TypeVar("T")
M = TypeVar("M", bound="Message")


@dataclass(frozen=True)
class Connection:
    """Calls nodes with a home's identity.

    node : of the party that the command's user belongs to: its own, or where a person works.
    """

    name: str
    federation: Federation
    fabric: Fabric
    node: str = ""

    async def call(self, peer: str, method: str, request: Message, reply: type[M], timeout_s: float = CALL_S) -> M:
        """Call a node once; not repeated, so that nothing is done twice."""
        return await self.fabric.call(peer, method, request, reply, timeout_s=timeout_s, retry=False)

    async def coordinator(self, method: str, request: Message, reply: type[M]) -> M:
        """Call the coordinator."""
        return await self.call(self.federation.coordinator.name, method, request, reply)

    async def job_id(self, text: str | None) -> str:
        """Return the id of the job that `text` begins, the newest one if it is None."""
        jobs = (await self.coordinator("List", control_pb2.Empty(), control_pb2.JobList)).jobs
        return named_job(jobs, text, "there is no job yet; start one with `veilscore job run JOB.yaml`").job_id

    @property
    def is_holder(self) -> bool:
        """Return whether the user belongs to a holder, which knows its jobs itself and is shown none by others."""
        return self.federation.member(self.node).role == "holder"

    async def job(self, text: str | None, method: str = "Show") -> control_pb2.JobInfo:
        """Call the coordinator about the job that `text` begins."""
        ref = control_pb2.JobRef(job_id=await self.job_id(text))
        return await self.coordinator(method, ref, control_pb2.JobInfo)


def named_job(jobs: Sequence[control_pb2.JobInfo], text: str | None, none: str) -> control_pb2.JobInfo:
    """Return the job whose id is `text` or begins so, the newest if it is None; JobError, `none` if there are none."""
    found = [j for j in jobs if text is None or j.job_id.startswith(text)]
    exact = [j for j in found if j.job_id == text]
    if text is None and not jobs:
        raise JobError(none)
    if text is None or exact:
        return exact[0] if exact else jobs[-1]
    if len(found) != 1:
        what = "no job" if not found else f"{len(found)} jobs"
        raise JobError(f"{what} whose id begins with {text!r}; `veilscore job list` shows them")
    return found[0]


@contextlib.asynccontextmanager
async def connect(home: Path) -> AsyncIterator[Connection]:
    """Yield a connection with the identity of `home`."""
    config = load_node_config(home)
    identity, federation = load_membership(home, config)
    fabric = calling_fabric(identity, federation)
    try:
        yield Connection(identity.name, federation, fabric, config.works_at or identity.name)
    finally:
        await fabric.stop(0.1)


def reach(home: Path, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Return the result of `work` over a connection with the identity of `home`."""

    async def connected() -> T:
        async with connect(home) as connection:
            return await work(connection)

    return asyncio.run(connected())
