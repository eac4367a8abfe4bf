"""A node whose operators' machines can ask how it is: gRPC health, and /metrics and /health on its own machine.

Messages: grpc.health.v1.Health/Check from any member, over the node's own mutual TLS: serving or not, and nothing else.
          HTTP GET without TLS or a name, on a loopback address that node.yaml names (`metrics`); else nothing listens.
Reveals : over HTTP, to whoever has an account on this machine, the counts of metrics.py and what an operator should
          look at; no firm, person or job. A page of a browser there cannot read it: other host names are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from veilscore.errors import ConfigError, VeilscoreError
from veilscore.evidence.console_acts import Pulse
from veilscore.evidence.job_ledger import LedgerReader
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.fabric import Fabric
from veilscore.fabric.process import Service
from veilscore.fabric.watches import described, for_ever
from veilscore.node.health import HealthFinding, findings
from veilscore.node.metrics import TEXT, node_metrics
from veilscore.terms.node_config import NodeConfig

LOOK_S = 15.0
_HEAD_BYTES, _HEAD_S = 8192, 5.0
_MOST_CALLS = 16


class Counted(Service, Protocol):
    """A bank's, a holder's or the coordinator's node."""

    home: Path
    config: NodeConfig
    fabric: Fabric
    evidence: EvidenceRecorder

    def pulse(self) -> Pulse:
        """Return what only the running node knows."""


class WatchedNode:
    """Runs a node and answers for it; `port` is where, once it runs."""

    def __init__(self, node: Counted) -> None:
        self.node, self.watches = node, node.watches
        self.port: int | None = None
        self._found: list[HealthFinding] = []
        self._jobs = LedgerReader(node.home / "state" / "jobs")
        self._server: asyncio.Server | None = None
        self._calls = asyncio.Semaphore(_MOST_CALLS)
        self._log = structlog.get_logger("veilscore.node.watched").bind(party=node.config.name)
        node.fabric.healthy = self.healthy

    async def start(self) -> None:
        """Start the node, then answer for it."""
        await self.node.start()
        self.watches.start(
            "the watch over the node's health", for_ever(LOOK_S, (self._look,), self._failed, at_once=True)
        )
        where = self.node.config.metrics
        if where is None:
            return
        try:
            self._server = await asyncio.start_server(self._serve, where.host, where.port, limit=_HEAD_BYTES)
        except OSError as error:
            await self.node.stop()
            raise ConfigError(
                f"{self.node.config.name} cannot answer /metrics on {where.host}:{where.port}: {error.strerror}; "
                "choose another port under `metrics` in node.yaml"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]
        self._log.info("metrics", host=where.host, port=self.port)

    async def stop(self) -> None:
        """Stop answering, and stop the node."""
        if self._server is not None:
            self._server.close()
        await self.node.stop()

    def healthy(self) -> bool:
        """Return whether nothing critical was found at the last look."""
        return not any(one.critical for one in self._found)

    async def _look(self) -> None:
        node = self.node
        self._found = await asyncio.to_thread(
            findings, node.home, node.config, node.fabric.federation, node.fabric.clocks
        )

    def _failed(self, error: Exception) -> None:
        self._log.error("look at the node's health", **described(error))

    # HTTP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close; whoever sends no head in time or too many bytes gets nothing."""
        late = (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
        with contextlib.closing(writer), contextlib.suppress(*late):
            async with asyncio.timeout(_HEAD_S), self._calls:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                status, kind, text = await self._answer(head)
                body = text.encode()
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()

    async def _answer(self, head: list[str]) -> tuple[str, str, str]:
        method, _, rest = head[0].partition(" ")
        hosts = [line.partition(":")[2].strip() for line in head[1:] if line.lower().startswith("host:")]
        if [host.rpartition(":")[0] or host for host in hosts] not in (["127.0.0.1"], ["localhost"], ["[::1]"]):
            return "403 Forbidden", "text/plain", "this address is for this machine alone\n"
        if method != "GET":
            return "405 Method Not Allowed", "text/plain", "GET only\n"
        pages: dict[str, Callable[[], tuple[str, str, str]]] = {"/metrics": self._metrics, "/health": self._health}
        page = pages.get(rest.partition(" ")[0])
        if page is None:
            return "404 Not Found", "text/plain", "/metrics or /health\n"
        try:
            return await asyncio.to_thread(page)
        except VeilscoreError as error:
            self._log.error("counts", message=error.message)
            return "503 Service Unavailable", "text/plain", "counts cannot be read; the node's log says why\n"

    def _metrics(self) -> tuple[str, str, str]:
        node = self.node
        jobs = () if node.config.role == "coordinator" else self._jobs.entries()
        entries = node.evidence.log.size
        lines = node_metrics(node.home, node.config, node.fabric.federation, jobs, entries, node.pulse(), runs=True,
                             now_s=time.time())  # fmt: skip
        return "200 OK", TEXT, "\n".join(lines) + "\n"

    def _health(self) -> tuple[str, str, str]:
        told = {"node": self.node.config.name, "healthy": self.healthy(), "look_at": [one.plain for one in self._found]}
        return "200 OK" if self.healthy() else "503 Service Unavailable", "application/json", json.dumps(told) + "\n"
