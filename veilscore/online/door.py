"""Answers loan systems at the bank's door, in whatever form they ask: who may, how often, what comes back.

Parties  : a caller with a certificate that the bank admits (`door_callers.py`); the bank's own side of online scoring.
Reveals  : to the caller what `veilscore.online.service` says the bank learns, less what it may not ask. The node's log
           keeps of a request its caller, its outcome, its time, and digests of firm and id under a key of the home.
Aborts   : each failure is a `Problem` of a fixed table, in plain sentences; what is not foreseen is "internal".

A request id belongs to its caller: another caller's request under the same id is another request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError

from veilscore import __version__
from veilscore.errors import ConfigError, IdentityError, VeilscoreError
from veilscore.keys.door_certificates import ShownCertificate
from veilscore.online.door_callers import DoorCaller, DoorCallers
from veilscore.online.response import plain
from veilscore.release.consent import Signed
from veilscore.release.pseudonyms import firm_digest
from veilscore.release.token_choice import set_aside, token_of
from veilscore.terms.bands import MOST_STEPS
from veilscore.terms.decide import Decide
from veilscore.terms.door import (
    PROBLEMS,
    DecisionAsked,
    DecisionReply,
    DoorConfig,
    HealthAnswer,
    PartyAnswer,
    Problem,
    ReasonAnswer,
    ScoreAnswer,
    ScoreAsked,
)
from veilscore.terms.policy import SCORE_ONLINE
from veilscore.terms.settings import explain
from veilscore.v1 import control_pb2 as pb

A = TypeVar("A", ScoreAsked, DecisionAsked)
Read = Callable[[], Awaitable[bytes | dict[str, Any]]]
AnswerScore = Callable[[pb.ScoreRequest], Awaitable[pb.ScoreResponse]]
_MINUTE_S = 60.0
# what the bank's side says of a failure -> the kind of problem; of other errors it is "unusable"
_KINDS = {
    "reused": "id-reused",
    "late": "late",
    "PeerError": "unreachable",
    "StateError": "internal",
    "ProtocolError": "no-result",
    "RefusedError": "no-result",
}


class ProblemError(VeilscoreError):
    """There is no answer; `problem` says why, `after_s` when to come again."""

    def __init__(self, problem: Problem, after_s: int = 0) -> None:
        super().__init__(problem.detail)
        self.problem, self.after_s = problem, after_s


@dataclass
class _Allowance:
    """What one caller may still ask: requests of this minute, refilled as time goes on, and those that run."""

    left: float
    at_s: float
    running: int = 0


@dataclass
class _Noted:
    """What the log says of one request."""

    caller: str = ""
    what: str = ""
    firm: str = ""
    request: str = ""
    status: int = 200
    began_s: float = field(default_factory=time.monotonic)


class DoorDesk:
    """Admits callers and answers them.

    home, name : of the bank's node.
    callers : who they are.
    answer : the node's own side: answers a request for a score under its id.
    clock : seconds that only grow.
    """

    def __init__(
        self,
        home: Path,
        name: str,
        door: DoorConfig,
        callers: DoorCallers,
        answer: AnswerScore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home, self._name, self.door = home, name, door
        self._callers, self._answer, self._clock = callers, answer, clock
        self._allowances: dict[str, _Allowance] = {}
        self._log = structlog.get_logger("veilscore.door").bind(party=name)

    def admit(self, certificate: bytes) -> DoorCaller:
        """Return the caller of a certificate (DER) that TLS has checked; ProblemError."""
        try:
            return self._callers.admitted(ShownCertificate.shown(certificate))
        except IdentityError as error:
            raise ProblemError(Problem.of("not-admitted", f"{error.message}; ask the bank")) from None

    async def health(self, certificate: bytes) -> HealthAnswer:
        """Say to a caller that the door is open, and what it may ask."""
        caller = self.admit(certificate)
        return HealthAnswer(node=self._name, version=__version__, caller=caller.name, may=caller.may)

    async def score(self, certificate: bytes, read: Read, most_s: float = float("inf")) -> ScoreAnswer:
        """Answer one request for a score or band; ProblemError.

        read : gives the request, JSON or its fields; it is waited for at most `DoorConfig.read_s`.
        most_s : after which the caller has given up, whatever its request says.
        """
        asked, response = await self._answered("score", certificate, read, ScoreAsked, most_s)
        return _score_answer(asked, response)

    async def decide(self, certificate: bytes, read: Read, most_s: float = float("inf")) -> DecisionReply:
        """Answer one request for a decision; as `score`."""
        asked, response = await self._answered("decide", certificate, read, DecisionAsked, most_s)
        return _decision_answer(asked, response)

    async def _answered(
        self, what: str, certificate: bytes, read: Read, model: type[A], most_s: float
    ) -> tuple[A, pb.ScoreResponse]:
        with self._noting(what) as noted, self._allowed(certificate, noted) as caller:
            asked = await self._read(read, model, noted)
            if asked.needs not in caller.may:
                says = f"{caller.name} may ask for: {', '.join(caller.may)}; this needs: {asked.needs}"
                raise ProblemError(Problem.of("not-admitted", says, asked.request_id))
            request_id = f"{caller.name}:{asked.request_id}"
            consent, kept = await self._consent(asked, request_id)
            request = _request(asked, request_id, consent, most_s)
            response = await self._answer(request)
            if response.status not in {"scored", "fallback"}:
                raise ProblemError(_problem_of(asked.request_id, response))
            if kept is not None:
                await asyncio.to_thread(set_aside, *kept, request_id)
            return asked, response

    async def _consent(
        self, asked: ScoreAsked | DecisionAsked, request_id: str
    ) -> tuple[bytes, tuple[Path, Signed] | None]:
        """Return the firm's token that came along, or one that the bank imported, with its file; ProblemError."""
        if asked.consent:
            return consent_of(asked.consent, asked.request_id), None
        task = Decide.task if isinstance(asked, DecisionAsked) else SCORE_ONLINE

        def choose() -> tuple[Path, Signed] | None:
            name = asked.decision if isinstance(asked, DecisionAsked) else asked.model
            return token_of(self._home, self._name, asked.firm_id, name, asked.purpose, task, request_id)

        kept = await asyncio.to_thread(choose)
        return (b"" if kept is None else kept[1].to_message().SerializeToString()), kept

    # a request

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[_Noted]:
        """Write a line into the node's log for a request; what is not foreseen becomes a problem that tells nothing."""
        noted = _Noted(what=what)
        try:
            yield noted
        except ProblemError as error:
            noted.status = error.problem.status
            raise
        except asyncio.CancelledError:
            noted.status = 499  # the caller went away; what it asked for goes on and is kept
            raise
        except Exception as error:
            noted.status = PROBLEMS["internal"][0]
            self._log.error("request failed", error=type(error).__name__)
            raise ProblemError(Problem.of("internal", "the node failed at this request; its log says more")) from error
        finally:
            ms = round(1000 * (time.monotonic() - noted.began_s), 1)
            said = {"caller": noted.caller, "what": noted.what, "status": noted.status, "ms": ms}
            self._log.info("request", **said, firm=noted.firm, request=noted.request)

    @contextlib.contextmanager
    def _allowed(self, certificate: bytes, noted: _Noted) -> Iterator[DoorCaller]:
        """Admit a caller within its allowance, and count its request while it runs."""
        caller = self.admit(certificate)
        noted.caller = caller.name
        most, now_s = float(self.door.per_minute), self._clock()
        kept = self._allowances.setdefault(caller.name, _Allowance(most, now_s))
        kept.left = min(most, kept.left + (now_s - kept.at_s) * most / _MINUTE_S)
        kept.at_s = now_s
        if kept.running >= self.door.at_once:
            says = f"{kept.running} requests of {caller.name} run at this moment, {self.door.at_once} may; wait for one"
            raise ProblemError(Problem.of("too-many", says), after_s=1)
        if kept.left < 1:
            says = f"{caller.name} may ask {self.door.per_minute} times a minute; come again later"
            raise ProblemError(Problem.of("too-many", says), after_s=int((1 - kept.left) * _MINUTE_S / most) + 1)
        kept.left -= 1
        kept.running += 1
        try:
            yield caller
        finally:
            kept.running -= 1

    async def _read(self, read: Read, model: type[A], noted: _Noted) -> A:
        try:
            async with asyncio.timeout(self.door.read_s):
                data = await read()
        except TimeoutError:
            says = f"the request was not there whole within {self.door.read_s:g} s"
            raise ProblemError(Problem.of("slow", says)) from None
        fields = parse_body(data) if isinstance(data, bytes) else data
        ident = fields.get("request_id")
        for name, value in (("firm", fields.get("firm_id")), ("request", ident)):
            setattr(noted, name, firm_digest(self._home, value[:200]) if isinstance(value, str) else "")
        try:
            return model.model_validate(fields)
        except ValidationError as error:
            known = ident if isinstance(ident, str) and len(ident) <= 64 and ident.isprintable() else None
            says = "; ".join(plain(line) for line in explain(error)[:5])
            raise ProblemError(Problem.of("unusable", says, known)) from None


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object; ProblemError for any other text, and for a name that stands twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice in one object")
        return found

    def no_number(text: str) -> None:
        raise ValueError(f"{text} is no number of JSON")

    try:
        found = json.loads(body.decode(), object_pairs_hook=unique, parse_constant=no_number)
    except UnicodeDecodeError:
        raise ProblemError(Problem.of("malformed", "the body is not UTF-8")) from None
    except RecursionError:
        raise ProblemError(Problem.of("malformed", "the body is nested too deeply")) from None
    except ValueError as error:  # of JSON the position alone is said, never what stands there
        where = f"line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise ProblemError(Problem.of("malformed", f"the body is not JSON: {where}")) from None
    if not isinstance(found, dict):
        raise ProblemError(Problem.of("malformed", "the body is not a JSON object"))
    return found


def _request(asked: ScoreAsked | DecisionAsked, request_id: str, consent: bytes, most_s: float) -> pb.ScoreRequest:
    request = pb.ScoreRequest(
        request_id=request_id,
        firm_id=asked.firm_id,
        timeout_s=max(0.001, min(asked.timeout_s, most_s)),
        purpose=asked.purpose,
        features=asked.features,
        on_missing=asked.on_missing,
        consent=consent,
    )
    if isinstance(asked, DecisionAsked):
        request.model, request.output = asked.decision, "decision"
    else:
        request.model, request.output, request.n_reasons = asked.model, asked.output, asked.reasons
        request.score_steps = 0 if asked.steps in {None, MOST_STEPS} else asked.steps or 0
    return request


def consent_of(text: str, request_id: str) -> bytes:
    """Return a firm's token for the wire; ProblemError if it cannot be read."""
    try:
        return Signed.from_text(text, "consent").to_message().SerializeToString()
    except ConfigError as error:
        raise ProblemError(Problem.of("unusable", error.message, request_id)) from None


def parties_of(response: pb.ScoreResponse) -> tuple[PartyAnswer, ...]:
    """Return what a response says of holders."""
    return tuple(
        PartyAnswer(party=p.party, status=p.status, reason=p.reason, data_time_s=p.data_time_s or None)
        for p in response.parties
    )


def _problem_of(request_id: str, response: pb.ScoreResponse) -> Problem:
    """Return why there is no score, from what the bank's side says."""
    if response.failure == "parties":
        kind = "unreachable" if any(p.status == "failed" for p in response.parties) else "no-result"
    else:
        kind = _KINDS.get(response.failure, "unusable")
    return Problem.of(kind, response.message, request_id, parties_of(response))


def _score_answer(asked: ScoreAsked, response: pb.ScoreResponse) -> ScoreAnswer:
    alone = asked.output == "band"
    return ScoreAnswer.model_validate(
        {
            "request_id": asked.request_id,
            "status": response.status,
            "model": response.model,
            "model_version": response.model_version,
            "model_sha256": response.model_sha256.hex(),
            "output": asked.output,
            "score": None if alone else response.score,
            "step": response.step if response.steps else None,
            "steps": response.steps or None,
            "band": response.band or None,
            "probability_of_default": None if alone else response.probability_of_default,
            "message": response.message,
            "parties": parties_of(response),
            "reasons": tuple(
                ReasonAnswer(party=r.party, column=r.column, points_lost=r.points_lost, text=r.text)
                for r in response.reasons
            ),
        }
    )


def _decision_answer(asked: DecisionAsked, response: pb.ScoreResponse) -> DecisionReply:
    return DecisionReply(
        request_id=asked.request_id,
        status="scored" if response.status == "scored" else "fallback",
        decision=asked.decision,
        decision_version=response.model_version,
        decision_sha256=response.model_sha256.hex(),
        step=response.step,
        name=response.band,
        steps=response.steps,
        measure=response.measure or None,
        message=response.message,
        parties=parties_of(response),
    )
