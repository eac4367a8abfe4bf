"""How the command reaches nodes: with the identity of a home, over the fabric like everybody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from veilscore.errors import ConfigError, JobError
from veilscore.fabric.fabric import Fabric
from veilscore.node.founding import homes_in
from veilscore.terms.node_config import load_membership, load_node_config
from veilscore.v1 import control_pb2
from veilscore.wire.inbox import WireLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from google.protobuf.message import Message

    from veilscore.terms.federation import Federation

HOME_VARIABLE = "VEILSCORE_HOME"
CALL_S = 15.0
T = TypeVar("T")
M = TypeVar("M", bound="Message")


@dataclass(frozen=True)
class Connection:
    """A home's identity and its way to the other nodes."""

    name: str
    federation: Federation
    fabric: Fabric
    node: str = ""  # the party's node that the command's user belongs to: its own, or where a person works

    async def call(self, peer: str, method: str, request: Message, reply: type[M], timeout_s: float = CALL_S) -> M:
        """Call a node once; not repeated, so that nothing is done twice."""
        return await self.fabric.call(peer, method, request, reply, timeout_s=timeout_s, retry=False)

    async def coordinator(self, method: str, request: Message, reply: type[M]) -> M:
        """Call the coordinator."""
        return await self.call(self.federation.coordinator.name, method, request, reply)

    async def job_id(self, text: str | None) -> str:
        """Id of the job that `text` begins; the newest one if it is None."""
        jobs = (await self.coordinator("List", control_pb2.Empty(), control_pb2.JobList)).jobs
        if text is None:
            if not jobs:
                raise JobError("there is no job yet; start one with `veilscore run JOB.yaml`")
            return jobs[-1].job_id
        found = [j.job_id for j in jobs if j.job_id.startswith(text)]
        if text in found:
            return text
        if len(found) != 1:
            what = "no job" if not found else f"{len(found)} jobs"
            raise JobError(f"{what} whose id begins with {text!r}; `veilscore list` shows them")
        return found[0]


@contextlib.asynccontextmanager
async def connect(home: Path) -> AsyncIterator[Connection]:
    """Connection with the identity of `home`."""
    config = load_node_config(home)
    identity, federation = load_membership(home, config)
    fabric = Fabric(
        identity,
        federation,
        accept_session=lambda _session, _sender: False,
        limits=WireLimits(connect_timeout_s=CALL_S),
    )
    try:
        yield Connection(identity.name, federation, fabric, config.works_at or identity.name)
    finally:
        await fabric.stop(0.1)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run until done."""
    return asyncio.run(work)


def find_home(home: Path | None, federation: Path | None, party: str | None = None) -> Path:
    """Home whose identity the command uses.

    Parameters
    ----------
    home : given by the user, or VEILSCORE_HOME, or the current folder if it is a home.
    federation : folder of a local federation; then `party`'s home in it, or that of its only bank.
    """
    if home is not None and federation is not None:
        raise ConfigError("give --home or --federation, not both")
    if home is None and federation is None:
        home = Path(os.environ.get(HOME_VARIABLE) or ".")
    if home is not None:
        if not (home / "node.yaml").is_file():
            raise ConfigError(
                f"{home.resolve()} is no node's home: give --home HOME, --federation FOLDER (a local federation), or "
                f"set {HOME_VARIABLE}"
            )
        return home
    homes = homes_in(Path(federation or "."))
    if party is not None:
        if party not in homes:
            raise ConfigError(f"{federation} has no home of {party}; it has {', '.join(homes)}")
        return homes[party]
    banks = [path for path in homes.values() if load_node_config(path).role == "bank"]
    if len(banks) != 1:
        raise ConfigError(f"{federation} has {len(banks)} banks; say whose home with --home")
    return banks[0]
