"""A finished job with scores in a local federation, and tools to look at its evidence; for tests and benchmarks."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from fabric_network import FEDERATION, IDENTITIES
from trial_federation import (
    IMPATIENT,
    PARTIES,
    QUICK,
    ToyWorkflow,
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

    from veilscore.wire.protocol import Protocol

KEYS = FederationKeys(lambda: FEDERATION)
EVERYBODY = (*PARTIES, "coordinator")
AHEAD = frozenset({"waited_for"})


class ScoringWorkflow(ToyWorkflow):
    """The toy workflow whose last step leaves scores at the bank."""

    def __init__(self, firms: int = 5) -> None:
        self._firms = firms

    def protocol_for(self, step: str, context: Any) -> Protocol[None]:
        yield from super().protocol_for(step, context)
        if step == "score" and context.role == "bank":
            lines = ["id,score,band", *(f"firm{k:06d},{500 + k % 300}.0,B" for k in range(self._firms))]
            (context.store.path / "scores.csv").write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def open_nodes(folder: Path, firms: int = 5) -> dict[str, Node | Coordinator]:
    """Nodes of all parties and the coordinator."""
    workflow = ScoringWorkflow(firms)
    return {
        name: Coordinator(folder / name, workflow=workflow, limits=QUICK, patience=IMPATIENT)
        if name == "coordinator"
        else Node(folder / name, workflow=workflow, limits=QUICK)
        for name in EVERYBODY
    }


def run_jobs(folder: Path, count: int = 1, firms: int = 5) -> list[str]:
    """Found a federation and run jobs in it; returns their ids."""
    make_homes(folder)

    async def work() -> list[str]:
        async with running(open_nodes(folder, firms)), commanding(folder / "bank") as command:
            found = []
            for _ in range(count):
                found.append(await submit(command))
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
