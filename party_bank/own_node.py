"""The bank's own node, reached over the fabric with the identity of its home, as the command line reaches it.

One connection stays open from the first call to `close`, since making one takes longer than a decision.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from google.protobuf.message import Message

from veilscore.fabric.calling import CALL_S, calling_fabric
from veilscore.fabric.fabric import Fabric
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import NodeConfig, load_node_config

M = TypeVar("M", bound=Message)


class OwnNode:
    """Calls the node of a bank's home, and the coordinator; for one thread that runs no event loop.

    home : with the bank's identity; nothing is opened before the first call.
    Raises ConfigError where the home is no node's, PeerError where the node cannot be reached.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._runner = asyncio.Runner()
        self._fabric: Fabric | None = None
        self._coordinator = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def name(self) -> str:
        """Return the name of the node, known without any call; ConfigError where the home is no node's."""
        return self._config.works_at or self._config.name

    @cached_property
    def _config(self) -> NodeConfig:
        return load_node_config(self.home)

    def close(self) -> None:
        """Close the connection."""
        if self._fabric is not None:
            self._runner.run(self._fabric.stop(0.1))
            self._fabric = None
        self._runner.close()

    def ask(self, method: str, request: Message, reply: type[M], timeout_s: float) -> M:
        """Call the own node once and return its reply."""
        return self._runner.run(self._call(method, request, reply, timeout_s, at_coordinator=False))

    def ask_coordinator(self, method: str, request: Message, reply: type[M]) -> M:
        """Call the coordinator once and return its reply."""
        return self._runner.run(self._call(method, request, reply, CALL_S, at_coordinator=True))

    async def _call(
        self, method: str, request: Message, reply: type[M], timeout_s: float, *, at_coordinator: bool
    ) -> M:
        if self._fabric is None:
            identity, federation = load_membership(self.home, self._config)
            self._fabric = calling_fabric(identity, federation)
            self._coordinator = federation.coordinator.name
        peer = self._coordinator if at_coordinator else self.name
        return await self._fabric.call(peer, method, request, reply, timeout_s=timeout_s, retry=False)
