"""A finished job with scores in a local federation, and tools to look at its evidence; for tests and benchmarks."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from fabric_network import FEDERATION, IDENTITIES
from trial_federation import (
    IMPATIENT,
    JOB,
    PARTIES,
    QUICK,
    commanding,
    make_homes,
    running,
    submit,
    watch,
)

from coordinator.service import Coordinator
from veilscore.evidence.documents import FederationKeys
from veilscore.evidence.log import Log
from veilscore.node.node import Node

if TYPE_CHECKING:
    from pathlib import Path


KEYS = FederationKeys(lambda: FEDERATION)
EVERYBODY = (*PARTIES, "coordinator")
AHEAD = frozenset({"waited_for"})


def open_nodes(folder: Path) -> dict[str, Node | Coordinator]:
    """Nodes of all parties and the coordinator."""
    return {
        name: Coordinator(folder / name, limits=QUICK, patience=IMPATIENT)
        if name == "coordinator"
        else Node(folder / name, limits=QUICK)
        for name in EVERYBODY
    }


def run_jobs(folder: Path, count: int = 1, firms: int = 5) -> list[str]:
    """Found a federation and run jobs in it; returns their ids."""
    make_homes(folder)

    async def work() -> list[str]:
        async with running(open_nodes(folder)), commanding(folder / "bank") as command:
            found = []
            for _ in range(count):
                found.append(await submit(command, f"{JOB}parameters: {{firms: {firms}}}\n"))
                await watch(command, found[-1])
            return found

    return asyncio.run(work())


def open_log(folder: Path, party: str = "bank", **options: Any) -> Log:
    """Log of a party of the test federation."""
    return Log(folder, lambda: IDENTITIES[party], KEYS, **options)


def entry(number: int) -> dict[str, Any]:
    return {"kind": "test", "number": number, "time_ms": number}


def waited_for(number: int) -> dict[str, Any]:
    """Entry of a kind that may stand ahead of its head, in a log that is open with `ahead=AHEAD`."""
    return {**entry(number), "kind": "waited_for"}


def receipt_path(folder: Path, party: str, job_id: str) -> Path:
    return folder / party / "evidence" / "receipts" / f"{job_id}.json"


def log_path(folder: Path, party: str) -> Path:
    return folder / party / "evidence" / "log.jsonl"


def dumped(value: Any) -> bytes:
    """Canonical JSON of a changed document."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
