"""Runs a protocol in shards of rows, each by a worker of its own: worker k of a party talks to worker k of the others.

A shard is a whole run of the protocol on some rows, in a session of its own, so under labels, keys and secrets that no
other shard has. The node alone has the party's identity, log and ledgers: it hands on what its workers say, in
envelopes that name the shard, and puts their results together. What a worker is given, and gives, stays in the party.

Parties  : all of the protocol that is sharded, with the same number of shards and the same rows in each.
Messages : ShardMessage, each with one message of a shard's protocol, or with word that its worker was lost.
Reveals  : what the protocol reveals, and that a worker was lost.
Aborts   : PeerError where the bank's worker is lost, a shard was lost too often, or it was lost when something of it
           was opened already: the attempt is then repeated as a whole, and holders count what it opens once more.
           MessageError where an envelope is of no shard, or too many wait.

A holder's lost shard runs again under another label with fresh secrets. That of a bank does not, since an auditor who
runs the bank's role again knows what it received, and not when a machine of its broke down.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Generic, TypeVar
from typing import Protocol as Interface

from veilscore.errors import MessageError, PeerError, ProtocolError
from veilscore.terms.parameters import MAX_SHARDS
from veilscore.v1 import shard_pb2 as pb
from veilscore.wire.framing import kind_of
from veilscore.wire.protocol import Progress, Protocol, Receive, Send, Session, decode, encode, receive
from veilscore.wire.randomness import SEED_BYTES, replayable, secret_bytes

R = TypeVar("R")
MOST_RUNS = 3  # of one shard in an attempt
_MOST_WAITING = 256  # messages of one sender for one shard that came before they were asked for


class WorkerLostError(PeerError):
    """A worker, or the machine it was on, is gone."""


@dataclass(frozen=True, repr=False)
class ShardJob(Generic[R]):
    """What one worker runs.

    role : makes the role, from the shard's session and the arguments; a function of a module, as it may travel.
    seed : of all secrets that this run of the shard draws.
    """

    session: Session
    role: Callable[..., Protocol[R]]
    arguments: tuple[Any, ...]
    seed: bytes


@dataclass(frozen=True)
class Turn(Generic[R]):
    """What a worker says when it was given a message: what it sends, and whom it waits for, or its result."""

    sends: list[tuple[str, bytes]]
    waits_for: str = ""
    result: R | None = None


class Worker(Interface):
    """Runs one shard, wherever it is."""

    def turn(self, body: bytes | None) -> Future[Turn[Any]]:
        """Go on with the message that the shard waited for (None to begin); the future may raise WorkerLostError."""

    def close(self) -> None:
        """End it, and forget all that it was given."""


class Workers(Interface):
    """The workers of one party."""

    def start(self, job: ShardJob[Any]) -> Worker:
        """Give a shard to a worker that runs nothing else."""

    def close(self) -> None:
        """End all of them."""


class ShardRun:
    """A shard's role in the process that runs it; what every worker has inside."""

    def __init__(self, job: ShardJob[Any]) -> None:
        self._session = job.session
        self._role = replayable(job.seed, job.role(job.session, *job.arguments))
        self._asked: Receive | None = None

    def turn(self, body: bytes | None) -> Turn[Any]:
        """Run until the next message is waited for, or to the end."""
        answer, sends = None, list[tuple[str, bytes]]()
        if self._asked is not None:
            answer = decode(body or b"", self._asked.kind, session=self._session.id, sender=self._asked.sender)
        while True:
            try:
                command = self._role.send(answer)
            except StopIteration as stop:
                return Turn(sends, result=stop.value)
            answer = None
            if isinstance(command, Send):
                sends.append((command.to, encode(command.message)))
            elif isinstance(command, Receive):
                self._asked = command
                return Turn(sends, command.sender)
            elif not isinstance(command, Progress):  # an account or a checkpoint has one writer, the node
                raise ProtocolError(f"a shard cannot do {type(command).__name__}", session=self._session.id)

    def close(self) -> None:
        """End the role."""
        self._role.close()


class Threads:
    """Workers that are threads of this process: what a party without other machines has, and an auditor."""

    def __init__(self, at_once: int = 2) -> None:
        self._pool = ThreadPoolExecutor(at_once)

    def start(self, job: ShardJob[Any]) -> Worker:
        """Return a worker; as many compute at once as there are threads."""
        return _Thread(self._pool, ShardRun(job))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)


class _Thread:
    def __init__(self, pool: ThreadPoolExecutor, run: ShardRun) -> None:
        self._pool, self._run = pool, run

    def turn(self, body: bytes | None) -> Future[Turn[Any]]:
        return self._pool.submit(self._run.turn, body)

    def close(self) -> None:
        self._pool.submit(self._run.close)  # after what it computes, if it does


def slices(n_rows: int, n_shards: int) -> list[slice]:
    """Return the rows of each shard: as many rows in each as can be, none without a row."""
    count = min(n_shards, n_rows)
    ends = [n_rows * k // count for k in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


def session_of(session: Session, shard: int, run: int) -> Session:
    """Return the session of one run of one shard, whose labels no other run of any shard has."""
    return replace(session, id=f"{session.id}/shard/{shard}/{run}")


@dataclass
class _Shard:
    """One shard as the node sees it."""

    number: int
    run: int = 0
    worker: Worker | None = None
    computes: Future[Turn[Any]] | None = None
    waits_for: str = ""
    opened: bool = False
    done: bool = False
    result: Any = None
    waiting: dict[str, deque[bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class InShards:
    """Says in how many shards, and by whose workers, which are engaged when the first shard begins."""

    count: int
    engage: Callable[[], Workers] = Threads


def in_shards(
    session: Session,
    engage: Callable[[], Workers],
    role: Callable[..., Protocol[R]],
    arguments: Sequence[tuple[Any, ...]],
    opens: tuple[str, ...] = (),
) -> Protocol[list[R]]:
    """Run a role in shards, which have these arguments besides their session; return their results in order.

    opens : kinds of messages after which this party does not run a shard again, because they opened something.
    """
    if not 1 <= len(arguments) <= MAX_SHARDS:
        raise ProtocolError(f"{len(arguments)} shards: there may be 1 to {MAX_SHARDS}")
    with (
        contextlib.closing(engage()) as workers,
        contextlib.closing(_Shards(session, workers, role, arguments, opens)) as shards,
    ):
        return (yield from shards.all_done())


class _Shards(Generic[R]):
    """All shards of one attempt at one party.

    Which message is read next follows from those read before alone, so that an auditor reads them in the same order.
    The lowest shard that is not done is always waited for first; with every party doing so none waits for ever.
    """

    def __init__(
        self,
        session: Session,
        workers: Workers,
        role: Callable[..., Protocol[R]],
        arguments: Sequence[tuple[Any, ...]],
        opens: tuple[str, ...],
    ) -> None:
        self._session, self._workers, self._role, self._opens = session, workers, role, opens
        self._arguments = arguments
        self._shards = [_Shard(number) for number in range(len(arguments))]
        self._others = [party for party in (session.bank, *session.holders) if party != session.party]
        self._finished = dict.fromkeys(self._others, b"")  # runs of all shards with which each said that it is done

    def all_done(self) -> Protocol[list[R]]:
        """Run to the end, which is where all parties are done with the same run of every shard."""
        for shard in self._shards:
            self._start(shard)
        told, total = b"", len(self._shards)
        while True:
            for shard in self._shards:
                yield from self._collect(shard)
            if self._feed():
                continue
            undone = [shard for shard in self._shards if not shard.done]
            if undone:
                yield from self._read(undone[0].waits_for)
                continue
            if told != self._runs():
                told = self._runs()
                for other in self._others:
                    yield Send(other, pb.ShardMessage(finished=told))
                yield Progress("shards of rows", total, total)
            late = [other for other in self._others if self._finished[other] != told]
            if not late:
                return [shard.result for shard in self._shards]
            yield from self._read(late[0])

    def close(self) -> None:
        """End what still runs."""
        for shard in self._shards:
            if shard.worker is not None:
                shard.worker.close()

    def _runs(self) -> bytes:
        return bytes(shard.run for shard in self._shards)

    def _start(self, shard: _Shard) -> None:
        """Begin a run of a shard: another session, another seed, another worker."""
        session = session_of(self._session, shard.number, shard.run)
        job = ShardJob(session, self._role, self._arguments[shard.number], secret_bytes(SEED_BYTES))
        shard.done, shard.result, shard.waits_for, shard.waiting = False, None, "", {}
        shard.worker = self._workers.start(job)
        shard.computes = shard.worker.turn(None)

    def _restart(self, shard: _Shard, run: int) -> None:
        where = {"session": self._session.id, "party": self._session.party}
        if shard.opened:
            raise PeerError(f"shard {shard.number} was lost when something of it was opened; it starts over", **where)
        if run >= MOST_RUNS:
            raise PeerError(f"shard {shard.number} was lost {run} times; see whether the workers are well", **where)
        if shard.worker is not None:
            shard.worker.close()
        shard.run = run
        self._start(shard)

    def _feed(self) -> bool:
        """Give each shard the message that it waits for, where it is here; return whether any was."""
        fed = False
        for shard in self._shards:
            queue = shard.waiting.get(shard.waits_for)
            if queue and shard.worker is not None:
                shard.computes = shard.worker.turn(queue.popleft())
                fed = True
        return fed

    def _collect(self, shard: _Shard) -> Protocol[None]:
        """Wait for what a worker computes, and hand on what it sends."""
        while shard.computes is not None:
            running, shard.computes = shard.computes, None
            try:
                turn = running.result()
            except WorkerLostError:
                yield from self._lose(shard)
                continue
            for to, body in turn.sends:
                shard.opened |= kind_of(body) in self._opens
                yield Send(to, pb.ShardMessage(shard=shard.number, run=shard.run, body=body))
            shard.waits_for, shard.result = turn.waits_for, turn.result
            if not turn.waits_for:
                shard.done = True
                if shard.worker is not None:
                    shard.worker.close()
                shard.worker = None

    def _lose(self, shard: _Shard) -> Protocol[None]:
        if self._session.party == self._session.bank:
            raise WorkerLostError(
                f"the worker of shard {shard.number} is lost; the step is tried again", session=self._session.id
            )
        for other in self._others:
            yield Send(other, pb.ShardMessage(shard=shard.number, run=shard.run, lost=True))
        self._restart(shard, shard.run + 1)

    def _read(self, sender: str) -> Protocol[None]:
        """Take the next envelope of a party."""
        message = yield from receive(sender, pb.ShardMessage)
        if message.finished:
            if len(message.finished) != len(self._shards):
                raise MessageError("it has another number of shards", session=self._session.id, party=sender)
            self._finished[sender] = bytes(message.finished)
            return
        if message.shard >= len(self._shards) or message.run > MOST_RUNS:
            raise MessageError(
                f"there is no run {message.run} of shard {message.shard}", session=self._session.id, party=sender
            )
        shard, run = self._shards[message.shard], message.run + message.lost
        if run > shard.run:  # lost there, or at a third party whose word comes later
            self._restart(shard, run)
        if message.lost or run < shard.run:
            return
        queue = shard.waiting.setdefault(sender, deque())
        if shard.done or len(queue) >= _MOST_WAITING:
            raise MessageError(f"too many messages for shard {shard.number}", session=self._session.id, party=sender)
        queue.append(bytes(message.body))
