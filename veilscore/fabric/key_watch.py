"""A running node takes in members and key statements from its file, statements from peers too, and acts upon them.

A node looks at its federation file once a second, so that `veilscore keys` can add to it while the node runs, and
tells every member what it knows until that member has it. It goes over to its own new key when all members know the
key, or when half of the overlap is over. Nothing is restarted and no call is ended, except those of a revoked key.

Messages: KeyStatements both ways.
Reveals: nothing secret; statements are signed by whom they bind.
Aborts: never; a statement that does not hold is dropped, one from the future waits until its time has come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

import structlog

from veilscore.errors import IdentityError, MessageError, VeilscoreError
from veilscore.fabric.fabric import Fabric
from veilscore.fabric.watches import described, for_ever
from veilscore.keys.identity import ROLES, load_identity, make_current
from veilscore.keys.key_history import MAX_STATEMENTS_BY_KEY
from veilscore.keys.rotation import KeyStatement, parse_statement
from veilscore.terms.charter import check_whole, grown
from veilscore.terms.federation import Federation, Member, add_statements, load_federation
from veilscore.terms.node_config import NodeConfig
from veilscore.v1 import control_pb2

POLL_S = 1.0
CALL_S = 5.0
_LONGEST_PAUSE_S = 60.0
_MOST_REPORTED = 1000


class KeyWatch:
    """Keeps one node's keys up to date.

    home, node : the node's home and configuration.
    fabric : whose keys are renewed; `KeyStatements` is registered at it.
    """

    def __init__(self, home: Path, node: NodeConfig, fabric: Fabric, poll_s: float = POLL_S) -> None:
        self._home = home
        self._node = node
        self._fabric = fabric
        self._poll_s = poll_s
        self._seen: object = None
        self._told: dict[str, str] = {}
        self._pause: dict[str, tuple[float, float]] = {}
        self._reported: set[str] = set()
        self._taking = asyncio.Lock()
        self._log = structlog.get_logger("veilscore.node.keys").bind(party=fabric.name)
        fabric.register("KeyStatements", set(ROLES), control_pb2.KeyStatements, self._exchange)

    async def watch(self) -> None:
        """Keep the keys up to date, for ever."""
        await for_ever(self._poll_s, (self._read_file, self._fabric.renew, self._tell_all, self._go_over), self._failed)

    def _failed(self, error: Exception) -> None:
        """Log what one act met."""
        if isinstance(error, VeilscoreError):
            self._report(error.message)
        else:
            self._report(f"internal error: {type(error).__name__}", **described(error))

    # statements

    async def _exchange(self, request: control_pb2.KeyStatements, peer: Member) -> control_pb2.KeyStatements:
        await self._take(self._parsed(request, peer.name), peer.name)
        return self._known()

    def _known(self) -> control_pb2.KeyStatements:
        return control_pb2.KeyStatements(statement=[s.to_bytes() for s in self._fabric.federation.statements])

    def _parsed(self, message: control_pb2.KeyStatements, sender: str) -> list[KeyStatement]:
        limit = 4 * MAX_STATEMENTS_BY_KEY * len(self._fabric.federation.members)
        if len(message.statement) > limit:
            raise MessageError(f"{sender} sent more than {limit} key statements", party=self._fabric.name)
        return [parse_statement(data, sender) for data in message.statement]

    async def _take(self, statements: Iterable[KeyStatement], source: str) -> None:
        """Add the statements that hold to the fabric and to the file."""
        async with self._taking:
            latest_s = time.time() + self._fabric.limits.clock_skew_s
            before = self._fabric.federation
            after = before.with_statements(s for s in statements if s.date_s <= latest_s)
            if after.statements == before.statements:
                return
            await self._fabric.renew(after)
            known = {s.order for s in before.statements}  # also what has no effect, as a file may hold
            fresh = [s for s in after.statements if s.order not in known]
            for s in fresh:
                self._log.warning("key statement", kind=s.kind, member=s.member, key=s.fingerprint[:16], by=s.by)
            self._log.info("keys", source=source, statements=len(after.statements), digest=after.history.digest)
            try:
                await asyncio.to_thread(add_statements, self._node.federation, fresh)
            except VeilscoreError as error:  # the node goes on; after a restart its peers tell it again
                self._report(error.message)

    async def _read_file(self) -> None:
        try:
            status = self._node.federation.stat()
        except OSError:
            return
        if (state := (status.st_mtime_ns, status.st_size, status.st_ino)) == self._seen:
            return
        federation = await asyncio.to_thread(load_federation, self._node.federation)
        if federation.members != self._fabric.federation.members:
            try:
                await self._take_members(federation)
            except VeilscoreError as error:
                self._report(error.message)
        await self._take(federation.statements, "federation file")
        if all(s.date_s <= time.time() for s in federation.statements):  # else it is read again until each one's time
            self._seen = state

    async def _take_members(self, federation: Federation) -> None:
        """Go on with members that the file has and the node does not; all else that differs holds from a start."""
        await asyncio.to_thread(check_whole, federation)
        async with self._taking:
            before = self._fabric.federation
            grown(before, federation)
            await self._fabric.renew(federation.with_statements(before.statements))
            names = sorted({m.name for m in federation.members} - {m.name for m in before.members})
            self._log.warning("members taken from the federation file", new=names)

    # peers

    async def _tell_all(self) -> None:
        await asyncio.gather(*(self._tell(m.name) for m in self._others() if self._is_due(m.name)))

    def _others(self) -> list[Member]:
        federation, now_s = self._fabric.federation, time.time()
        return [
            m
            for m in federation.members
            if m.address is not None and m.name != self._fabric.name and federation.history.accepted(m.name, now_s)
        ]

    def _is_due(self, name: str) -> bool:
        return not self._knows(name) and time.monotonic() >= self._pause.get(name, (0.0, 0.0))[0]

    def _knows(self, name: str) -> bool:
        return self._told.get(name) == self._fabric.federation.history.digest

    async def _tell(self, name: str) -> None:
        known, digest = self._fabric.federation.statements, self._fabric.federation.history.digest
        try:
            reply = await self._fabric.call(
                name, "KeyStatements", self._known(), control_pb2.KeyStatements, timeout_s=CALL_S, retry=False
            )
            theirs = self._parsed(reply, name)
            await self._take(theirs, name)
        except VeilscoreError:  # down, or does not know this node's key: tried again, and others may reach it
            theirs = None
        if theirs is not None and {s.order for s in known} <= {s.order for s in theirs}:
            self._told[name] = digest  # as it was sent; this node may have learned more meanwhile
            self._pause.pop(name, None)
            return
        pause_s = min(2 * self._pause.get(name, (0.0, self._poll_s / 2))[1], _LONGEST_PAUSE_S)
        self._pause[name] = (time.monotonic() + pause_s, pause_s)

    # the own key

    async def _go_over(self) -> None:
        """Go over to the successor of the own key once the others know it."""
        federation, own = self._fabric.federation, self._fabric.identity
        key = federation.history.find(own.fingerprint)
        successor = federation.history.newest(self._fabric.name)
        newest = successor.fingerprint == own.fingerprint
        if key is None or newest or not self._may_go_over(federation, own.fingerprint):
            if key is not None and key.revoked_s is not None:
                self._report(f"{key.refusal(time.time())}: the others refuse this node; see docs/keys.md")
            return
        folder = self._node.identity / successor.fingerprint[:16]
        source = self._node.key.open(self._home)
        identity = await asyncio.to_thread(load_identity, folder, passphrase=lambda: source.secret(folder))
        if identity.fingerprint != successor.fingerprint:
            raise IdentityError(f"{folder} does not hold the key that the federation file names as this node's newest")
        await self._fabric.renew(identity=identity)
        await asyncio.to_thread(make_current, self._node.identity, identity.fingerprint)
        self._log.warning("own key replaced", old=own.fingerprint[:16], new=identity.fingerprint[:16])

    def _may_go_over(self, federation: Federation, fingerprint: str) -> bool:
        rotation = next((s for s in federation.statements if s.kind == "rotate" and s.fingerprint == fingerprint), None)
        late = rotation is None or time.time() >= rotation.date_s + rotation.overlap_s / 2
        return late or all(self._knows(m.name) for m in self._others())

    def _report(self, text: str, **more: object) -> None:
        """Log an obstacle once, not every second; of a peer that sends ever other ones, the first few."""
        if text not in self._reported and len(self._reported) < _MOST_REPORTED:
            self._reported.add(text)
            self._log.error("keys", obstacle=text, **more)
