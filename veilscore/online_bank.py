"""The bank's side of online scoring; the whole protocol is described in `veilscore.online_service`.

Order for one request id: 1. ask every holder for the encrypted record, put points on it, 2. fix who takes part,
3. have them opened, take the masks off. A repeat after the end gets the kept response; one that comes while the
request runs waits for it; one after a failure in 3 sends the same bytes again, so that nothing is opened twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import structlog

from veilscore import online
from veilscore.errors import MessageError, PeerError, ProtocolError, RefusedError, VeilscoreError
from veilscore.online_blinds import HolderContext
from veilscore.online_journal import Journal
from veilscore.online_model import BankModel, BankModels, Disclosed, codes_of_features, reasons
from veilscore.online_records import Origins
from veilscore.v1 import control_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from veilscore.federation import Member
    from veilscore.grpc_channel import Fabric
    from veilscore.ledger import Ledger
    from veilscore.policy import NodeConfig

R = TypeVar("R")
DEFAULT_S, MOST_S = 10.0, 120.0
DEFAULT_REASONS = 4
ON_MISSING = ("fail", "missing_code", "neutral")
_PLANS_KEPT = 64  # requests that failed while being opened, with the bytes to repeat; a few hundred kB each
_IDLE_S = 0.005


@dataclass(frozen=True, repr=False)
class _Answer:
    """What one holder said, and the bank's evaluated reply to it where it sent a record."""

    holder: str
    status: str
    reason: str = ""
    data_time_s: float = 0.0
    evaluated: online.Evaluated | None = None
    keys_id: bytes = b""
    share_key_id: bytes = b""
    without_others: bool = False
    disclosed: tuple[Disclosed, ...] = ()


@dataclass(frozen=True, repr=False)
class _Plan:
    """A request up to the opening: who takes part is fixed, and nothing was opened yet."""

    model: BankModel
    own_codes: NDArray[np.unsignedinteger]
    answers: tuple[_Answer, ...]
    taking_part: tuple[_Answer, ...]
    failure: str
    note: str


class OnlineBank:
    """Answers Score for the bank's own people and systems.

    Parameters
    ----------
    home, node, ledger : the node's own.
    """

    def __init__(self, home: Path, node: NodeConfig, ledger: Ledger) -> None:
        self._node = node
        self._models = BankModels(home, Origins(home, node, ledger))
        self._journal = Journal(home / "state" / "online.db")
        self._running: dict[str, tuple[bytes, asyncio.Task[pb.ScoreResponse]]] = {}
        self._plans: OrderedDict[str, tuple[bytes, _Plan]] = OrderedDict()
        self._contexts: dict[str, HolderContext] = {}
        self._refill: asyncio.Task[None] | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="veilscore-he")
        self._log = structlog.get_logger("veilscore.online").bind(party=node.name)
        self._fabric: Fabric

    def register(self, fabric: Fabric) -> None:
        """Offer the calls of this side."""
        self._fabric = fabric
        fabric.register("Score", {"bank", "operator"}, pb.ScoreRequest, self.score)

    async def close(self) -> None:
        """End; what still runs is given up."""
        self._closed = True
        tasks = [task for _, task in self._running.values()] + ([self._refill] if self._refill else [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._journal.close()

    async def score(self, request: pb.ScoreRequest, peer: Member) -> pb.ScoreResponse:
        """Score one firm.

        Raises
        ------
        RefusedError : the caller is not of this bank.
        MessageError : request id, firm id or on_missing is unusable.
        """
        if peer.name != self._node.name and not (peer.role == "operator" and peer.name in self._node.operators):
            raise RefusedError(
                f"{peer.name} may not score at {self._node.name}: use {self._node.name}'s own identity, or an "
                "operator named in its node.yaml",
                party=self._node.name,
            )
        _check(request)
        digest = _digest(request)
        kept = self._journal.get(request.request_id)
        running = self._running.get(request.request_id)
        plan = self._plans.get(request.request_id)
        if any(known is not None and known[0] != digest for known in (kept, running, plan)):
            return _response(request, "refused", "this request id was used for something else; use a new one")
        if kept is not None:
            return pb.ScoreResponse.FromString(kept[1])
        if running is None:
            task = asyncio.create_task(self._run(request, digest))
            running = self._running[request.request_id] = digest, task
        return await asyncio.shield(running[1])

    async def _run(self, request: pb.ScoreRequest, digest: bytes) -> pb.ScoreResponse:
        limit_s = min(request.timeout_s, MOST_S) if request.timeout_s > 0 else DEFAULT_S
        try:
            async with asyncio.timeout(limit_s):
                response = await self._score(request, digest, limit_s)
            if response.status in {"scored", "fallback"}:
                self._journal.keep(request.request_id, digest, response.SerializeToString())
        except TimeoutError:
            response = _response(
                request, "failed", f"not answered within {limit_s:g} s; repeat the request under its id"
            )
        except VeilscoreError as error:
            response = _response(request, "failed", str(error))
        finally:
            del self._running[request.request_id]
            self._refill_later()
        self._log.info("score", status=response.status, model=request.model, message=response.message)
        return response

    async def _score(self, request: pb.ScoreRequest, digest: bytes, limit_s: float) -> pb.ScoreResponse:
        kept = self._plans.get(request.request_id)
        plan = await self._prepare(request, limit_s) if kept is None else kept[1]
        if plan.failure:
            return _response(request, "failed", plan.failure, plan)
        together = 0
        if plan.taking_part:
            self._plans[request.request_id] = digest, plan
            while len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
            opened, together = await self._open(request, plan, limit_s)
            if opened is not None:
                return _response(request, "failed", "not all parts were opened", opened)
            del self._plans[request.request_id]
        return _scored(request, plan, together)

    # 1. ask

    async def _prepare(self, request: pb.ScoreRequest, limit_s: float) -> _Plan:
        model = await asyncio.to_thread(self._models.get, request.model)
        own_codes, note = await asyncio.to_thread(_own_record, model, request)
        answers = await asyncio.gather(*(self._ask(holder, model, request, limit_s / 2) for holder in model.holders))
        return _plan(model, own_codes, tuple(answers), request.on_missing or "fail", note)

    async def _ask(self, holder: str, model: BankModel, request: pb.ScoreRequest, limit_s: float) -> _Answer:
        message = pb.EncryptRecord(
            request_id=self._release_id(request),
            firm_id=request.firm_id,
            model_hash=model.sha256,
            map_hash=model.holders[holder].map_hash,
            purpose=request.purpose or model.scorecard.provenance.purpose,
            on_missing=request.on_missing or "fail",
        )
        try:
            reply = await self._fabric.call(holder, "EncryptRecord", message, pb.EncryptedRecord, timeout_s=limit_s)
            return await self._evaluate(holder, model, reply, limit_s)
        except RefusedError as error:
            return _Answer(holder, "refused", error.message[:200])
        except VeilscoreError as error:
            self._log.warning("holder failed", holder=holder, error=type(error).__name__, message=error.message)
            return _Answer(holder, "failed", error.message[:200])

    async def _evaluate(self, holder: str, model: BankModel, reply: pb.EncryptedRecord, limit_s: float) -> _Answer:
        status = online.RecordStatus.parse(reply.status, holder)
        answer = _Answer(holder, status.value, _plain(reply.reason), reply.data_time_s)
        if status is online.RecordStatus.REFUSED or not reply.ciphertext_enc:
            return answer
        if len(reply.share_key_id) != 32:
            raise MessageError("a holder's key id has the wrong length", party=holder)
        side = model.holders[holder]
        if side.encoded is None:
            raise ProtocolError("the bank's own part cannot be evaluated", party=holder)
        points, query = side.encoded, tuple(reply.ciphertext_enc)
        context = await self._context(holder, reply.keys_id, limit_s)
        evaluated = await self._in_thread(
            lambda: online.evaluate(context.public, query, points, [context.take() for _ in query])
        )
        disclosed = tuple(Disclosed(c.column, c.code, _plain(c.name)) for c in reply.reason_codes)
        if any(c.column >= len(side.points) or c.code >= side.points[c.column].size for c in disclosed):
            raise MessageError("a holder names a column or code that the model does not have", party=holder)
        return replace(
            answer,
            status="ok" if reply.discloses_unknown and status is online.RecordStatus.READY else _told(status),
            evaluated=evaluated,
            keys_id=reply.keys_id,
            share_key_id=reply.share_key_id,
            without_others=reply.without_others,
            disclosed=disclosed,
        )

    async def _context(self, holder: str, keys_id: bytes, limit_s: float) -> HolderContext:
        """Holder's public keys, fetched once for each of its starts."""
        kept = self._contexts.get(holder)
        if kept is None or kept.public.keys_id != keys_id:
            keys = await self._fabric.call(holder, "HolderKeys", pb.Empty(), pb.HolderKeys, timeout_s=limit_s)
            kept = await self._in_thread(lambda: HolderContext(keys.public_key))
            if kept.public.keys_id != keys_id:
                raise PeerError(f"{holder} was restarted meanwhile; repeat the request", party=holder)
            self._contexts[holder] = kept
        return kept

    # 3. open

    async def _open(self, request: pb.ScoreRequest, plan: _Plan, limit_s: float) -> tuple[_Plan | None, int]:
        """Sum of the parts of those who take part; or the plan with the status of who did not open."""
        parties = [a.holder for a in plan.taking_part]
        release_id = self._release_id(request)
        coordinator = self._fabric.federation.coordinator.name
        asked = pb.TotalRequest(request_id=release_id, with_parties=parties)
        total = asyncio.create_task(self._fabric.call(coordinator, "Total", asked, pb.TotalReply, timeout_s=limit_s))
        share_key_ids = {a.holder: a.share_key_id for a in plan.taking_part}
        try:
            opened = await asyncio.gather(
                *(self._open_one(release_id, a, parties, share_key_ids, limit_s) for a in plan.taking_part)
            )
            if any(opened):
                said = {a.holder: text for a, text in zip(plan.taking_part, opened, strict=True) if text}
                answers = (
                    replace(a, status="failed", reason=said[a.holder]) if a.holder in said else a for a in plan.answers
                )
                return replace(plan, answers=tuple(answers)), 0
            reply = await total
        finally:
            total.cancel()
        partial_sum = online.parse_partial(reply.total_share, 1, coordinator)
        masks = [a.evaluated.mask_total for a in plan.taking_part if a.evaluated is not None]
        units = int(online.total_points(partial_sum, masks, np.zeros(1, np.int64))[0])
        sides = [plan.model.holders[h] for h in parties]
        if not sum(s.lowest for s in sides) <= units <= sum(s.highest for s in sides):
            del self._plans[request.request_id]
            raise ProtocolError("the holders' parts do not add up to a possible score; use a new request id")
        return None, units

    async def _open_one(
        self, release_id: str, answer: _Answer, parties: list[str], share_key_ids: dict[str, bytes], limit_s: float
    ) -> str:
        """Why this holder did not open; empty if it did."""
        message = pb.OpenPartial(
            request_id=release_id,
            evaluated_enc=() if answer.evaluated is None else answer.evaluated.reply,
            with_parties=parties,
            keys_id=answer.keys_id,
            share_key_ids=share_key_ids,
        )
        try:
            reply = await self._fabric.call(answer.holder, "OpenPartial", message, pb.OpenedPartial, timeout_s=limit_s)
        except VeilscoreError as error:
            return f"{error.message[:160]}; repeat the request under its id"
        return "" if reply.status == "opened" else _plain(reply.reason) or "not opened"

    def _release_id(self, request: pb.ScoreRequest) -> str:
        """What others know the request by; says nothing of the caller's id and is the same for a repeat."""
        text = f"veilscore/1 online score {self._node.name} {request.request_id}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    async def _in_thread(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # masks made beforehand

    def _refill_later(self) -> None:
        if not self._closed and (self._refill is None or self._refill.done()):
            self._refill = asyncio.create_task(self._fill())

    async def _fill(self) -> None:
        """Make masks while no request runs."""
        while short := [c for c in self._contexts.values() if c.is_short]:
            await asyncio.sleep(_IDLE_S)
            if not self._running:
                await self._in_thread(min(short, key=len).add)


def _own_record(model: BankModel, request: pb.ScoreRequest) -> tuple[NDArray[np.unsignedinteger], str]:
    """Bank's own codes of the firm, and what the caller should know about them."""
    if request.features:
        codes, unseen = codes_of_features(model.code_map, request.features)
        return codes, f"levels not seen in training: {', '.join(unseen)}" if unseen else ""
    if model.records is None:
        raise PeerError("this node does not know the data set the model was trained on; send the firm's features")
    found = model.records.find(request.firm_id)
    if not found.known:
        raise PeerError("the bank's own data set has no such firm; send its features")
    return found.codes, ""


def _plan(
    model: BankModel, own_codes: NDArray[np.unsignedinteger], answers: tuple[_Answer, ...], rule: str, note: str
) -> _Plan:
    """Fix who takes part, by the rule for missing and refusing parties."""
    ready = [a for a in answers if a.evaluated is not None]
    missing = [a for a in answers if a.evaluated is None]
    if missing and rule != "neutral":
        text = "; ".join(f"{a.holder}: {a.status}" for a in missing)
        return _Plan(model, own_codes, answers, (), f"no score without all holders ({text}); see on_missing", note)
    if missing:
        reason = "opens its part only together with all holders of the model"
        answers = tuple(
            a if a.evaluated is None or a.without_others else replace(a, status="refused", reason=reason)
            for a in answers
        )
        ready = [a for a in ready if a.without_others]
    return _Plan(model, own_codes, answers, tuple(ready), "", note)


def _scored(request: pb.ScoreRequest, plan: _Plan, together: int) -> pb.ScoreResponse:
    """Response with a score; `together` is the sum of the parts of those who took part."""
    model, card = plan.model, plan.model.scorecard
    part_of = {a.holder: a for a in plan.taking_part}
    neutral = [h for h in model.holders if h not in part_of]
    units = model.own_units(plan.own_codes) + together + sum(model.holders[h].average for h in neutral)
    unknown = [h for h, a in part_of.items() if a.status == "unknown"]
    notes = [plan.note] if plan.note else []
    notes += [f"average points instead of {h}'s" for h in neutral]
    notes += [f"{h} does not know the firm: its bins of missing values" for h in unknown]
    response = _response(request, "fallback" if neutral or unknown else "scored", "; ".join(notes), plan)
    as_array = np.array([units], dtype=np.int64)
    response.units = units
    response.score = float(card.score(as_array)[0])
    response.probability_of_default = float(card.probability(as_array)[0])
    response.band = card.band(response.score)
    disclosed = {h: a.disclosed for h, a in part_of.items()}
    response.reasons.extend(reasons(model, plan.own_codes, disclosed, together, request.n_reasons or DEFAULT_REASONS))
    return response


def _response(request: pb.ScoreRequest, status: str, message: str, plan: _Plan | None = None) -> pb.ScoreResponse:
    response = pb.ScoreResponse(request_id=request.request_id, status=status, message=message, model=request.model)
    if plan is not None:
        response.model_version = plan.model.scorecard.version
        response.model_sha256 = plan.model.sha256
        for a in plan.answers:
            response.parties.add(party=a.holder, status=a.status, reason=a.reason, data_time_s=a.data_time_s)
    return response


def _told(status: online.RecordStatus) -> str:
    return "unknown" if status is online.RecordStatus.UNKNOWN else "not disclosed"


def _check(request: pb.ScoreRequest) -> None:
    if not (0 < len(request.request_id) <= 100 and request.request_id.isprintable()):
        raise MessageError("a request id is 1 to 100 printable characters")
    if not 0 < len(request.firm_id) <= 100:
        raise MessageError("a firm id has 1 to 100 characters")
    if (request.on_missing or "fail") not in ON_MISSING:
        raise MessageError(f"on_missing is one of {', '.join(ON_MISSING)}")
    if not math.isfinite(request.timeout_s) or request.timeout_s < 0:
        raise MessageError("timeout_s is a number of seconds, 0 for the default")


def _digest(request: pb.ScoreRequest) -> bytes:
    """What must be the same in a repeat: all but the time allowed and the number of reasons."""
    same = pb.ScoreRequest()
    same.CopyFrom(request)
    same.ClearField("timeout_s")
    same.ClearField("n_reasons")
    return hashlib.sha256(same.SerializeToString(deterministic=True)).digest()


def _plain(text: str) -> str:
    """Text from a peer, printable and short."""
    return "".join(c if c.isprintable() else " " for c in text[:200])
