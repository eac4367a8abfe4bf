"""The parties countersign each other's logs all the time, and a node whose log was put back is noticed before it acts.

A node asks each other member which head of its log that one saw last, before it serves anybody and until all have
answered. While there are new entries it offers its newest head every half minute, so that a log cut later, by its owner
too, is shorter than a head that the others hold. A node restored from a backup serves nobody until all others have
answered.

Messages: HeadSeen. Ask "": the answer is the last head of the caller's log that was seen, or empty. Ask "offer": a head
          with the proof that it continues that one; the answer is a countersignature. Ask "of": an auditor names a
          party; the answer is the last head seen of its log.
Reveals : to other members how many entries a log has, and one hash.
Assumes : one other party that answers and kept what it countersigned.
Aborts  : EvidenceError where a head shows that the own log was longer or another; the node stops.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from pathlib import Path

import structlog

from veilscore.errors import EvidenceError, PeerError, StateError, VeilscoreError
from veilscore.evidence.exchange import MAX_AGE_MS, Offer
from veilscore.evidence.heads import Countersignature, ForkError, SignedHead, check_successor
from veilscore.evidence.log import FOLDER
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.fabric import Fabric
from veilscore.files.backup import RESTORED
from veilscore.files.store import write_atomically
from veilscore.keys.identity import ROLES
from veilscore.terms.federation import Member
from veilscore.v1 import control_pb2

CALL_S = 5.0
FIRST_CALL_S = 2.0
OFFER_S = 30.0
BEHIND = f"{FOLDER}/behind.json"  # the longest head of the own log that another member showed, where this log lacks it
_LONGEST_PAUSE_S = 60.0
_OPEN_TO_ALL = frozenset({"Hello", "Ping", "KeyStatements", "HeadSeen", "Inbox", "List", "Show"})


class HeadWatch:
    """Compares the own log with what every other member saw of it, offers it new heads, and answers the others.

    recorder, fabric : the node's own; `HeadSeen` is registered at the fabric.
    offer_s : how long an entry waits at most until heads over it are offered.
    """

    def __init__(self, recorder: EvidenceRecorder, fabric: Fabric, *, offer_s: float = OFFER_S) -> None:
        self._recorder, self._fabric, self.offer_s = recorder, fabric, offer_s
        self._log = structlog.get_logger("veilscore.evidence.head_watch").bind(party=fabric.name)
        self._seen: dict[str, SignedHead | None] = {}  # of the own log, by each member that has answered
        self._waits = (recorder.home / RESTORED).exists()
        fabric.register("HeadSeen", set(ROLES), control_pb2.EvidenceCall, self._answer)

    # what others ask

    async def _answer(self, request: control_pb2.EvidenceCall, peer: Member) -> control_pb2.EvidenceReply:
        party = peer.name
        if request.ask == "offer" and peer.role != "operator":
            body = await asyncio.to_thread(self._countersign, Offer.parse(request.body), party)
            return control_pb2.EvidenceReply(body=body)
        if request.ask == "of" and peer.role == "operator":
            party = request.job_id
        elif request.ask:
            raise EvidenceError(f"question {request.ask[:20]!r} about heads is unknown", party=self._fabric.name)
        head = self._recorder.log.head if party == self._fabric.name else self._recorder.seen.get(party)
        return control_pb2.EvidenceReply(body=b"" if head is None else head.to_bytes())

    def _countersign(self, offer: Offer, party: str) -> bytes:
        recorder, now_ms = self._recorder, self._recorder.log.now_ms()
        if offer.head.party != party:
            raise EvidenceError(f"{party} offered a head of another's log", party=party)
        if abs(now_ms - offer.head.time_ms) > MAX_AGE_MS:
            raise EvidenceError(
                f"head of {party} is dated more than ten minutes from now: check the clocks", party=party
            )
        if time.monotonic() < recorder.crossing_until_s:
            raise EvidenceError("logs are being signed after a job: offer the head again in a moment", party=party)
        seen = recorder.seen.get(party)
        try:
            check_successor(seen, offer.head, offer.path, recorder.keys)
        except ForkError as fork:
            recorder.keep_fork(fork)
            raise
        if seen is None or offer.head.size > seen.size:  # remembered first: no crash may forget what was signed
            recorder.remember({party: offer.head})
        return Countersignature.sign(recorder.signer(), offer.head, now_ms).to_bytes()

    # before the node serves anybody

    def check_call(self, method: str) -> None:
        """Put off a call (PeerError) while a restored node has not learned from all others how long its log was."""
        if self._waits and method not in _OPEN_TO_ALL:
            missing = ", ".join(sorted(self._others() - self._seen.keys()))
            raise PeerError(
                f"{self._fabric.name} was restored from a backup and does nothing until {missing} have compared its "
                "log: start their nodes (docs/evidence.md)",
                party=self._fabric.name,
            )

    async def compare_first(self) -> None:
        """Ask all other members at once, before anything is served; EvidenceError where this log was put back."""
        behind = read_behind(self._recorder.home)
        if behind is not None:
            self._compare("another member", behind)
        await asyncio.gather(*(self._asked(name, FIRST_CALL_S) for name in self._others()))
        self._joined()

    def _others(self) -> set[str]:
        return {
            m.name for m in self._fabric.federation.members if m.address is not None and m.name != self._fabric.name
        }

    def _joined(self) -> None:
        """Let a restored node serve once all others have compared its log."""
        if self._waits and not self._others() - self._seen.keys():
            self._recorder.noted("restored", entries=self._recorder.log.size)
            (self._recorder.home / RESTORED).unlink(missing_ok=True)
            self._waits = False
            self._log.info("restored node has joined again")

    # all the time

    async def watch(self) -> None:
        """Ask until all have answered, and offer what is new; EvidenceError where this log turns out to be put back."""
        pauses: dict[str, float] = {}
        due: dict[str, float] = {}
        offered_s = time.monotonic()
        while True:
            for name in sorted(self._others() - self._seen.keys()):
                if time.monotonic() >= due.get(name, 0.0) and not await self._asked(name, CALL_S):
                    pauses[name] = min(2 * pauses.get(name, 0.25), _LONGEST_PAUSE_S)
                    due[name] = time.monotonic() + pauses[name]
            self._joined()
            if time.monotonic() - offered_s >= self.offer_s:
                offered_s = time.monotonic()
                await self.offer_all()
            await asyncio.sleep(min(0.2, self.offer_s))

    async def offer_all(self) -> None:
        """Offer the newest head to every member that has not seen it."""
        await asyncio.gather(*(self._offer(name) for name in sorted(self._seen)))

    async def _offer(self, name: str) -> None:
        """Have one member countersign the newest head; one that cannot now is offered the next one."""
        log, seen = self._recorder.log, self._seen[name]
        crossing = time.monotonic() < self._recorder.crossing_until_s  # a head now would outrun a job's proofs
        if crossing or (seen is not None and seen.size >= log.size):
            return
        try:
            await asyncio.to_thread(self._recorder.renew_head, MAX_AGE_MS // 2)
            head = await asyncio.to_thread(lambda: log.head)
            path = () if seen is None else tuple(step.hex() for step in log.consistency(seen.size, head.size))
            call = control_pb2.EvidenceCall(ask="offer", body=Offer(head=head, path=path).to_bytes())
            reply = await self._call(name, call, CALL_S)
            signed = Countersignature.parse(reply)
            signed.verify(head, self._recorder.keys)
            if signed.by != name:
                raise EvidenceError(f"{name} sent the countersignature of {signed.by}", party=name)
            self._seen[name] = head
        except VeilscoreError as error:
            self._log.info("head not countersigned", member=name, error=type(error).__name__)
            await self._asked(name, CALL_S)  # a job's cross-signing may have gone on meanwhile

    async def _call(self, name: str, call: control_pb2.EvidenceCall, timeout_s: float) -> bytes:
        reply = await self._fabric.call(
            name, "HeadSeen", call, control_pb2.EvidenceReply, timeout_s=timeout_s, retry=False
        )
        return reply.body

    async def _asked(self, name: str, timeout_s: float) -> bool:
        """Compare with what one member saw; False if it does not answer with a head of this node, or nothing."""
        try:
            body = await self._call(name, control_pb2.EvidenceCall(), timeout_s)
            head = SignedHead.parse(body) if body else None
            if head is not None:
                head.verify(self._recorder.keys)
        except VeilscoreError as error:
            self._log.info("head not compared", member=name, error=type(error).__name__)
            return False
        if head is None or head.party == self._fabric.name:
            if head is not None:
                self._compare(name, head)
            self._seen[name] = head
            return True
        return False

    def _compare(self, name: str, head: SignedHead) -> None:
        home, log, own = self._recorder.home, self._recorder.log, self._fabric.name
        if not log.continues(head):
            keep_behind(home, head)
            raise EvidenceError(
                f"{name} countersigned entry {head.size} of this node's log, which here has {log.size} or goes another "
                "way: it was cut or is an older copy, and so is perhaps all state. Restore a backup as new as that; "
                f"where there is none, `veilscore node mend {shlex.quote(str(home))} --accept-loss` here, and "
                f"`veilscore node mend ITS_HOME --let-go {own}` at {name} and every other member (docs/evidence.md, "
                "Join again)",
                party=own,
            )


def keep_behind(home: Path, head: SignedHead) -> None:
    """Keep the longest head that others showed of a log that lacks it, for `veilscore node mend`."""
    kept = read_behind(home)
    if kept is None or head.size > kept.size:
        write_atomically(home / BEHIND, lambda file: file.write(head.to_bytes()))


def read_behind(home: Path) -> SignedHead | None:
    """Return what `keep_behind` kept, or None; StateError where it is damaged."""
    path = home / BEHIND
    try:
        return SignedHead.parse(path.read_bytes()) if path.is_file() else None
    except (OSError, EvidenceError) as error:
        raise StateError(f"{path} is damaged: remove it and start the node, which asks the others again") from error
