"""The engine of every audit: a role of the bank runs again in memory, and each of its messages is compared.

Jobs (`veilscore.audit.jobs`) and single scores (`veilscore.audit.online`) give it the bank's generator, under the seed
that the bank was committed to, and a record: what the others logged of its messages, and what it received from them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from typing import Protocol as Interface

from google.protobuf.message import Message

from veilscore.errors import VeilscoreError
from veilscore.wire.protocol import Call, Checkpoint, Protocol, Receive, Send, Together, Work

R = TypeVar("R")
Verdict = Literal["confirmed", "killed", "differs", "cannot be audited"]
GOOD: tuple[Verdict, ...] = ("confirmed", "killed")  # nothing is wrong or missing


@dataclass(frozen=True)
class Finding:
    """What came out for one attempt.

    job_id, step : of an online score or decision its request id as holders know it, and "online" with the holder.
    party : who is to blame where it differs; else the bank.
    detail : what differs, or why there is no answer; of a confirmed attempt, what was compared.
    """

    job_id: str
    step: str
    attempt: int
    verdict: Verdict
    party: str
    detail: str


def other_versions(made_by: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Return what else than the bank may be behind a difference, in words: "" where the same versions compute here."""
    if made_by == here:
        return ""
    version, code = made_by.get("veilscore", "unknown"), made_by.get("code", "unknown")[:12]
    said = f"the attempt was made by veilscore {version} of code {code}; audit it by that one"
    return f" (or because other versions compute here: {said})"


class Differs(Exception):  # noqa: N818 - a verdict, not an error
    """The bank did not do what it is bound to."""


class Unknown(Exception):  # noqa: N818
    """There is not enough to say."""


class Ended(Exception):  # noqa: N818
    """The record ends here, as it does where an attempt failed."""


class Record(Interface):
    """What a role that runs again is held against."""

    def sent(self, to: str, message: Message) -> None:
        """Compare a message with what its recipient logged; raises Differs, or Ended."""

    def received(self, sender: str, kind: type[Message]) -> Message:
        """Return the next message that the bank had received; raises Ended where there is none, Differs if changed."""

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Take note of a state that the role would go on from."""


def replay(role: Protocol[R], record: Record) -> R:
    """Run a role again and return its result; raises what `record` finds and what the role raises."""
    answer: Any = None
    failure: VeilscoreError | None = None
    with contextlib.closing(role):
        while True:
            try:
                command = role.send(answer) if failure is None else role.throw(failure)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            answer, failure = None, None
            if isinstance(command, Send):
                record.sent(command.to, command.message)
            elif isinstance(command, Receive):
                answer = record.received(command.sender, command.kind)
            elif isinstance(command, Call):
                record.sent(command.to, command.request)
                answer = record.received(command.to, command.reply)
            elif isinstance(command, Checkpoint):
                record.checkpoint(command.state)
            elif isinstance(command, Together):
                answer = {name: replay(part, record) for name, part in command.parts.items()}
            elif isinstance(command, Work):
                try:
                    answer = command.do()
                except VeilscoreError as error:
                    failure = error
