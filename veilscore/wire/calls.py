"""Drives roles that call and are called (`Call`, `Serve`): what is asked for one firm, between nodes or in memory.

Roles compute where they are driven, in the event loop: from one command to the next they take microseconds, where a
turn in another thread would cost as much as the rest. What takes longer they yield as `Work`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar
from typing import Protocol as Interface

from google.protobuf.message import Message

from veilscore.errors import PeerError, ProtocolError, VeilscoreError
from veilscore.wire.protocol import Call, Command, Protocol, Receive, Refuse, Send, Serve, Together, Work

R = TypeVar("R")
PATIENCE_S = 10.0


class MakeCall(Interface):
    """Calls a peer: `veilscore.fabric.fabric.Fabric.call`, or in memory the role of the peer."""

    def __call__(self, to: str, method: str, request: Any, reply: type[Any], /, *, timeout_s: float) -> Awaitable[Any]:
        """Return the reply of the peer, or raise its error."""


class Calls:
    """What roles at one party call others with, and where their work is done.

    call : makes a call; its method has the name of the request's type.
    do : does work that holds up nobody else: in a thread of the party.
    """

    def __init__(self, call: MakeCall, do: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self._call, self._do = call, do
        self._tasks: set[asyncio.Task[Any]] = set()

    async def perform(self, command: Command) -> Any:
        """Do what a role has yielded, and return what it waits for."""
        if isinstance(command, Call):
            method = type(command.request).__name__
            return await self._call(command.to, method, command.request, command.reply, timeout_s=command.timeout_s)
        if isinstance(command, Work):
            work: Callable[[], Any] = command.do
            return await (work() if inspect.iscoroutinefunction(work) else self._do(work))
        if isinstance(command, Together):
            return await self._together(command)
        raise ProtocolError(f"{type(command).__name__} has no place in a role that makes calls")

    async def _together(self, command: Together) -> dict[str, Any]:
        tasks = {name: self.begin(run_calls(part, self)) for name, part in command.parts.items()}
        waited = [tasks[command.enough]] if command.enough else list(tasks.values())
        try:
            while not all(task.done() for task in waited):
                unended = [task for task in tasks.values() if not task.done()]
                await asyncio.wait(unended, return_when=asyncio.FIRST_COMPLETED)
                if not all(task.done() for task in waited):
                    _raise_the_first_error(tasks.values())
            _raise_the_first_error(waited)
        except BaseException:
            for task in tasks.values():
                task.cancel()
            raise
        return {name: task.result() for name, task in tasks.items() if task.done() and task.exception() is None}

    def begin(self, running: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Run something that goes on although nobody may wait for it any more, until `close`."""
        task = asyncio.get_running_loop().create_task(running)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, also where nobody waits for it

    async def close(self) -> None:
        """End what still goes on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _raise_the_first_error(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        if task.done():
            task.result()


async def run_calls(role: Protocol[R], caller: Calls) -> R:
    """Drive a role that calls others and is not called, to its end."""
    answer, failure = None, None
    with contextlib.closing(role):
        while True:
            try:
                command = role.send(answer) if failure is None else role.throw(failure)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            answer, failure = None, None
            try:
                answer = await caller.perform(command)
            except VeilscoreError as error:
                failure = error


class RoleEndedError(ProtocolError):
    """A role ended before it took a call; another may take it."""


class Served(Generic[R]):
    """A role that is called, with all that it has come to so far; calls are answered one after the other.

    A caller that gives up does not stop the role in the middle of an answer.

    ended : whether the role has returned or failed; it then answers nothing any more.
    """

    def __init__(self, role: Protocol[R], caller: Calls) -> None:
        self._role, self._caller = role, caller
        self._lock = asyncio.Lock()
        self._serve: Serve | None = None
        self._inbox: dict[str, Message] = {}
        self._arrival = asyncio.Event()
        self._result: R | None = None
        self.ended = False

    async def ask(self, sender: str, request: Message, end_s: float | None = None, late: str = "") -> Any:
        """Hand a call to the role; return its answer, or where the role ends without one its result.

        end_s : time of the event loop at which the role is told that it is late, where it waits.

        Raises RoleEndedError where it ended while the call waited for its turn, ProtocolError where it waits for no
            call of this kind now, and what the role refuses the call with or fails with.
        """
        return await asyncio.shield(self._caller.begin(self._ask(sender, request, end_s, late)))

    def put(self, sender: str, message: Message) -> None:
        """Keep a message of another party until the role receives it; the same again changes nothing.

        Raises ProtocolError where it sent another one before.
        """
        if self._inbox.setdefault(sender, message) != message:
            raise ProtocolError(
                f"{sender} sent a second, different {type(message).__name__} for one request; use a new request id",
                party=sender,
            )
        self._arrival.set()

    async def _ask(self, sender: str, request: Message, end_s: float | None, late: str) -> Any:
        async with self._lock:
            if self._serve is None and not self.ended:
                await self._until_served(None, None, late)
            expected, kind = self._serve, type(request).__name__
            if self.ended:
                raise RoleEndedError(f"{kind} from {sender} came after the end", party=sender)
            if expected is None or sender != expected.sender or not isinstance(request, expected.kinds):
                raise ProtocolError(f"{kind} from {sender} is out of order: it is not what comes next", party=sender)
            return await self._until_served(request, end_s, late)

    async def _until_served(self, answer: Any, end_s: float | None, late: str) -> Any:
        """Drive the role until it waits for the next call, or ends."""
        reply: Any = None
        refused: VeilscoreError | None = None
        failure: VeilscoreError | None = None
        while True:
            command = self._next(answer, failure)
            answer, failure = None, None
            if isinstance(command, Send):
                reply = command.message
            elif isinstance(command, Refuse):
                refused = command.error
            elif command is None or isinstance(command, Serve):
                self._serve = command
                if refused is not None:
                    raise refused
                return self._result if reply is None and command is None else reply
            else:
                try:
                    if end_s is None:
                        answer = await self._perform(command)
                    else:
                        async with asyncio.timeout_at(end_s):
                            answer = await self._perform(command)
                except TimeoutError:
                    failure = PeerError(late)
                except VeilscoreError as error:
                    failure = error

    def _next(self, answer: Any, failure: VeilscoreError | None) -> Command | None:
        """Return what the role yields next; None at its end."""
        try:
            return self._role.send(answer) if failure is None else self._role.throw(failure)
        except StopIteration as stop:
            self.ended, self._result = True, stop.value
            return None
        except BaseException:
            self.ended = True
            raise

    async def _perform(self, command: Command) -> Any:
        if not isinstance(command, Receive):
            return await self._caller.perform(command)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while command.sender not in self._inbox:
                    self._arrival.clear()
                    await self._arrival.wait()
        except TimeoutError:
            raise PeerError(f"no {command.kind.__name__} from {command.sender} yet; repeat the request") from None
        return self._inbox[command.sender]
