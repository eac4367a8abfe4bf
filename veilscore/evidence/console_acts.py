"""What a node does for its console, which is a process of its own with the node's key: logs acts, tells how it is.

Messages: Console, from the node's own identity alone (EvidenceCall): "note" with an act as JSON, "erased" with what a
          command deleted (`erasures.py`), both answered when it is on disk; "pulse", answered with counts that only the
          running node knows.
Reveals : entries go where a copy of the log goes (docs/evidence.md); to others its heads show that there are more.

An act may come twice where the console was stopped between the node's answer and its own note of it; its number tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from veilscore.errors import RefusedError
from veilscore.evidence.erasures import ASK, Erasure
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.fabric import Fabric
from veilscore.terms.federation import Member
from veilscore.terms.settings import Strict, parse, parse_json
from veilscore.v1.control_pb2 import EvidenceCall, EvidenceReply

METHOD = "Console"
KIND = "console"
_MOST_BYTES = 8192
_Word = Annotated[str, Field(max_length=400)]


class ConsoleAct(Strict):
    """What one person did in the console.

    number : by which the console counts acts; at_ms : when, milliseconds since 1970.
    act, subject, outcome : such as "reject job", the job's id, "done"; a firm stands there as its digest alone.
    """

    number: int = Field(ge=1)
    at_ms: int = Field(ge=0)
    person: str = Field(min_length=1, max_length=80)
    act: str = Field(min_length=1, max_length=80)
    subject: str = Field(max_length=200)
    outcome: _Word


class Pulse(Strict):
    """What a running node tells its console.

    running : steps under way; spares : made ahead for single scores, by whom they are for; clocks : by how many
    seconds other nodes' clocks were ahead.
    """

    running: int = Field(default=0, ge=0)
    spares: dict[str, int] = Field(default_factory=dict)
    clocks: dict[str, float] = Field(default_factory=dict)


def serve_console_calls(
    fabric: Fabric, evidence: EvidenceRecorder, name: str, role: str, pulse: Callable[[], Pulse] = Pulse
) -> None:
    """Let the console of this node write acts into its log and ask how it is; nobody else may."""

    async def take(request: EvidenceCall, peer: Member) -> EvidenceReply:
        if peer.name != name or request.ask not in {"note", "pulse", ASK} or len(request.body) > _MOST_BYTES:
            raise RefusedError(f"calls of the console come from {name} itself", party=name)
        if request.ask == "pulse":
            return EvidenceReply(body=pulse().model_dump_json().encode())
        found: Any = parse_json(request.body)
        if request.ask == ASK:
            erased = parse(Erasure, found, "deletion").model_dump(mode="json")
            await asyncio.to_thread(evidence.noted, erased.pop("kind"), **erased)
            return EvidenceReply()
        act = parse(ConsoleAct, found, "act of the console")
        await asyncio.to_thread(evidence.noted, KIND, **act.model_dump(mode="json"))
        return EvidenceReply()

    fabric.register(METHOD, {role}, EvidenceCall, take)
