"""Opens the bank's door by HTTP and gRPC beside its node, and lets in who is a caller at this moment."""

from __future__ import annotations

from pathlib import Path

import structlog

from veilscore.fabric.watches import described, for_ever
from veilscore.online.door import AnswerScore, DoorDesk
from veilscore.online.door_callers import DoorCallers, server_files
from veilscore.online.door_grpc import GrpcDoor
from veilscore.online.door_http import HttpDoor
from veilscore.terms.door import DoorConfig
from veilscore.terms.node_config import NodeConfig

_LOOK_S = 0.5  # for callers who came


class Door:
    """Both forms of the door.

    home, node : of the bank, with a `door` section.
    answer : the node's own side of online scoring.
    """

    def __init__(self, home: Path, node: NodeConfig, door: DoorConfig, answer: AnswerScore) -> None:
        self._callers = DoorCallers(home, door)
        files = server_files(home, node, door)
        desk = DoorDesk(home, node.name, door, self._callers, answer)
        self._http = HttpDoor(desk, *files)
        self._grpc = None if door.grpc_port is None else GrpcDoor(desk, self._callers, *files)
        self._trusted: object = None
        self._log = structlog.get_logger("veilscore.door").bind(party=node.name)

    @property
    def ports(self) -> tuple[int | None, int | None]:
        """Return the ports of HTTP and gRPC, None where it does not listen."""
        return self._http.port, None if self._grpc is None else self._grpc.port

    async def start(self) -> None:
        """Listen; ConfigError where an address cannot be bound or a file not be read."""
        await self._look()
        await self._http.start()
        if self._grpc is not None:
            await self._grpc.start()
        self._log.info("door open", http=self.ports[0], grpc=self.ports[1])

    async def watch(self) -> None:
        """Let in, for ever, who was added since; who was removed is refused at the next request already."""
        await for_ever(_LOOK_S, (self._look,), lambda error: self._log.error("callers of the door", **described(error)))

    async def stop(self, grace_s: float) -> None:
        """Close both."""
        await self._http.stop(grace_s)
        if self._grpc is not None:
            await self._grpc.stop(grace_s)

    async def _look(self) -> None:
        self._http.tick()
        if self._grpc is not None and (n_cut := self._grpc.cut_silent()):
            self._log.warning("silent connections cut", connections=n_cut)
        signature = self._callers.signature()
        if signature != self._trusted:
            self._http.trust(self._callers.roots())
            self._trusted = signature
            self._log.info("callers of the door", callers=[caller.name for caller in self._callers.all()])
