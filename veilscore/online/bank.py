"""The bank's side of online scoring; the whole protocol is described in `veilscore.online.service`.

Order for one request id: 1. ask every holder for the encrypted record, put points on it, 2. fix who takes part,
3. have them opened, take the masks off. A repeat after the end gets the kept response; one that comes while the
request runs waits for it; one after a failure in 3 sends the same bytes again, so that nothing is opened twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import structlog
from google.protobuf.message import DecodeError

from veilscore.crypto import he
from veilscore.crypto.he import PublicContext
from veilscore.errors import MessageError, PeerError, ProtocolError, RefusedError, VeilscoreError
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.online_opening import (
    Asked,
    BandRecord,
    OnlineArchive,
    OnlineOpening,
    draw_opening,
    draw_seed,
    record_of,
)
from veilscore.evidence.recorder import EvidenceRecorder, OnlineAsked
from veilscore.fabric.fabric import Fabric
from veilscore.files.journal import Journal
from veilscore.online.bands_bank import BandCall, BankBands
from veilscore.online.model import BankModel, BankModels, Side
from veilscore.online.plan import (
    HolderReply,
    Plan,
    bands_of,
    check_request,
    make_plan,
    make_response,
    own_record,
    plain,
    read_answer,
    request_digest,
    scored,
)
from veilscore.online.records import Origins
from veilscore.online.repeat import Openings, as_if_opened
from veilscore.online.spares import LOW, BankSpare, BankSpares, new_spare_id
from veilscore.protocols import online
from veilscore.protocols.adding import parse_partial
from veilscore.terms.federation import Member
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.people import is_own
from veilscore.v1 import control_pb2 as pb

R = TypeVar("R")
Early = Future[tuple[bytes, tuple[he.Blind, ...]]]  # masks, after the id of the keys they are for
DEFAULT_S, MOST_S = 10.0, 120.0
_PLANS_KEPT = 64  # requests that failed while being opened, with the bytes to repeat; a few hundred kB each
_IDLE_S = 0.2  # without a request, before spares are made
_SENT_S = 0.001  # until requests to open have left it
_LEFT_S = 0.005  # until a response has left the machine, before what comes after it begins
_SPARE_S = 10.0


@dataclass(eq=False, repr=False)
class _Call:
    """One run of a request, and what is kept of it after its response has left.

    Attributes
    ----------
    release_id : what others know the request by; says nothing of the caller's id and is the same for a repeat.
    asked : the request's part of the bank's statement.
    plan : of what is opened; None where nothing is.
    sent : holder -> SHA-256 of the message that asked it to open.
    openings : the same messages, for an auditor, where something was drawn for them.
    released : its response as kept, once it may leave; `rest` is what its receipt is made of besides.
    """

    request: pb.ScoreRequest
    digest: bytes
    release_id: str
    limit_s: float
    asked: OnlineAsked | None = None
    plan: Plan | None = None
    sent: dict[str, str] = field(default_factory=dict)
    openings: list[tuple[Asked, pb.OpenPartial]] = field(default_factory=list)
    released: bytes = b""
    rest: bytes = b""


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
        self._openings = Openings(self._journal)
        self._running: dict[str, tuple[bytes, asyncio.Task[pb.ScoreResponse]]] = {}
        self._plans: OrderedDict[str, tuple[bytes, Plan]] = OrderedDict()
        self._contexts: dict[str, PublicContext] = {}
        self._spares = BankSpares()
        self._bands = BankBands(node.name, self._in_thread)
        self._ended_s = 0.0
        self._refill: asyncio.Task[None] | None = None
        self._replying: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.evidence: EvidenceRecorder | None = None
        self._archive = OnlineArchive(home, node.audit)
        self._archive.start()
        self._keeping: set[asyncio.Task[None]] = set()
        self._ready: dict[str, tuple[str, Early]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="veilscore-he")
        self._log = structlog.get_logger("veilscore.protocols.online").bind(party=node.name)
        self._fabric: Fabric

    def register(self, fabric: Fabric) -> None:
        """Offer the calls of this side."""
        self._fabric = self._bands.fabric = fabric
        fabric.register("Score", {"bank", "operator"}, pb.ScoreRequest, self.score)

    async def start(self) -> None:
        """Make the receipts that the end of the process came before."""

        def work() -> None:
            for left in self._journal.unfinished():
                self._keep_receipt(*left)

        await asyncio.to_thread(work)

    async def close(self) -> None:
        """End; what still runs is given up."""
        self._closed = True
        tasks = (*(task for _, task in self._running.values()), *self._replying, *filter(None, [self._refill]))
        _cancel(*tasks)
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._keeping)
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._journal.close()

    async def score(self, request: pb.ScoreRequest, peer: Member) -> pb.ScoreResponse:
        """Score one firm.

        Raises
        ------
        RefusedError : the caller is not of this bank.
        MessageError : request id, firm id or on_missing is unusable.
        """
        if not is_own(self._node, peer):
            raise RefusedError(
                f"{peer.name} may not score at {self._node.name}: use {self._node.name}'s own identity, or a "
                "person named in its node.yaml",
                party=self._node.name,
            )
        check_request(request)
        digest = request_digest(request)
        kept = self._journal.get(request.request_id)
        running = self._running.get(request.request_id)
        plan = self._plans.get(request.request_id)
        if any(known is not None and known[0] != digest for known in (kept, running, plan)):
            return make_response(request, "refused", "this request id was used for something else; use a new one")
        if kept is not None:
            return pb.ScoreResponse.FromString(kept[1])
        if running is None:
            task = asyncio.create_task(self._run(request, digest))
            running = self._running[request.request_id] = digest, task
        return await asyncio.shield(running[1])

    async def _run(self, request: pb.ScoreRequest, digest: bytes) -> pb.ScoreResponse:
        limit_s = min(request.timeout_s, MOST_S) if request.timeout_s > 0 else DEFAULT_S
        call = _Call(request, digest, self._release_id(request), limit_s)
        try:
            async with asyncio.timeout(limit_s):
                response = await self._score(call)
            if response.status in {"scored", "fallback"}:
                self._log_release(call, response)
                kept = response.SerializeToString()
                self._journal.keep(request.request_id, digest, kept, call.rest)
                call.released = kept
        except TimeoutError:
            response = make_response(
                request, "failed", f"not answered within {limit_s:g} s; repeat the request under its id"
            )
        except VeilscoreError as error:
            response = make_response(request, "failed", str(error))
        finally:
            del self._running[request.request_id]
            self._ended_s = time.monotonic()
            if call.openings or call.released:
                task = asyncio.create_task(self._keep(call))
                self._keeping.add(task)
                task.add_done_callback(self._keeping.discard)
            self._make_ready()
            self._refill_later()
        self._log.info("score", status=response.status, model=request.model, message=response.message)
        return response

    async def _score(self, call: _Call) -> pb.ScoreResponse:
        request = call.request
        kept = self._plans.get(request.request_id)
        plan = await self._prepare(call) if kept is None else kept[1]
        if plan.failure:
            return make_response(request, "failed", plan.failure, plan)
        together = plan.repeated or 0
        if plan.taking_part and plan.repeated is None:
            self._plans[request.request_id] = call.digest, plan
            while len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
            call.plan = plan
            opened, together = await (self._open if plan.band is None else self._open_band)(call, plan)
            if opened is not None:
                return make_response(request, "failed", "not all parts were opened", opened)
            self._plans.pop(request.request_id, None)
            self._openings.keep(call.release_id, plan, together)
        return scored(request, plan, together)

    # 1. ask

    async def _prepare(self, call: _Call) -> Plan:
        request = call.request
        model = await self._models.get(request.model)
        band = self._begin_band(model, call)
        own_codes, note = await own_record(model, request)
        model = model.of_record(own_codes)
        bands_hash = b"" if band is None else band.bands.sha256
        answers = await asyncio.gather(*(self._ask(holder, model, call, bands_hash) for holder in model.holders))
        rule = request.on_missing or "fail"
        if any(a.released_as for a in answers):
            plan = replace(make_plan(model, own_codes, as_if_opened(answers), rule, note), band=band)
            together = self._openings.repeat_of(plan)
            if together is not None:
                return replace(plan, repeated=together)
            answers = await asyncio.gather(
                *(
                    self._ask(a.holder, model, call, bands_hash, fresh=True) if a.released_as else _same(a)
                    for a in answers
                )
            )
        return replace(make_plan(model, own_codes, tuple(answers), rule, note), band=band)

    def _begin_band(self, model: BankModel, call: _Call) -> BandCall | None:
        bands = bands_of(model, call.request)
        if bands is None:
            return None
        band = BandCall(self._bands, bands)
        ready = band.begin(next(iter(model.holders)), call.limit_s / 2)
        self._replying.add(ready)
        ready.add_done_callback(self._replying.discard)
        return band

    async def _ask(
        self, holder: str, model: BankModel, call: _Call, bands_hash: bytes, *, fresh: bool = False
    ) -> HolderReply:
        request, limit_s = call.request, call.limit_s / 2
        spare = self._spares.take(holder, model.stock or model)
        seed, early = self._early_blinds(holder, model.holders[holder]) if spare is None else (None, None)
        opening = draw_opening(self._node.name, holder, "record", call.release_id, seed)
        message = pb.EncryptRecord(
            request_id=call.release_id,
            firm_id=request.firm_id,
            model_hash=model.sha256,
            map_hash=model.holders[holder].map_hash,
            part_hash=model.holders[holder].part_hash,
            purpose=request.purpose or model.artefact.provenance.purpose,
            on_missing=request.on_missing or "fail",
            spare_id="" if spare is None else spare.spare_id,
            consent=request.consent,
            fresh=fresh,
            bands_hash=bands_hash,
            commitment=opening.commitment,
        )
        try:
            reply = await self._fabric.call(holder, "EncryptRecord", message, pb.EncryptedRecord, timeout_s=limit_s)
            return await self._evaluate(holder, model, reply, spare, opening, early, limit_s)
        except RefusedError as error:
            return HolderReply(holder, "refused", error.message[:200])
        except VeilscoreError as error:
            self._log.warning("holder failed", holder=holder, error=type(error).__name__, message=error.message)
            return HolderReply(holder, "failed", error.message[:200])
        finally:
            if early is not None:
                early.cancel()  # if it was not needed

    async def _evaluate(
        self,
        holder: str,
        model: BankModel,
        reply: pb.EncryptedRecord,
        spare: BankSpare | None,
        opening: OnlineOpening,
        early: Early | None,
        limit_s: float,
    ) -> HolderReply:
        answer, side = read_answer(holder, model, reply), model.holders[holder]
        if not answer.keys_id:
            if spare is not None and answer.released_as:
                self._spares.add(holder, model.stock or model, spare)
            return answer
        if spare is not None and reply.difference_share:
            return replace(
                answer,
                evaluated=spare.evaluated(reply.difference_share, side.cells, holder),
                asked=spare.asked,
                difference=reply.difference_share,
            )
        evaluated, asked = await self._put_points(
            side, reply.ciphertext_enc, reply.keys_id, opening, limit_s, early=early
        )
        return replace(answer, evaluated=evaluated, asked=asked)

    def _early_blinds(self, holder: str, side: Side) -> tuple[str, Early] | tuple[None, None]:
        """Seed and masks made beforehand, or made while the holder encrypts; none where its keys are not known."""
        context, n = self._contexts.get(holder), online.n_ciphertexts(1, side.cells.size)
        kept = self._ready.pop(holder, None) if n == 1 else None
        if kept is not None:
            return kept
        return (None, None) if context is None else self._make_early(context, n)

    def _make_early(self, context: PublicContext, n: int) -> tuple[str, Early]:
        seed = draw_seed()
        return seed, self._thread.submit(lambda: (context.keys_id, online.make_blinds(context, bytes.fromhex(seed), n)))

    def _make_ready(self) -> None:
        """Masks of one reply to each holder, for the next request that finds no spare."""
        for holder, context in self._contexts.items():
            if holder not in self._ready and not self._closed:
                self._ready[holder] = self._make_early(context, 1)

    async def _put_points(
        self,
        side: Side,
        query: Iterable[bytes],
        keys_id: bytes,
        opening: OnlineOpening,
        limit_s: float,
        early: Early | None = None,
    ) -> tuple[online.Evaluated, Asked]:
        """Points on what a holder sent, all that is drawn for it from the seed that the bank is committed to."""
        context, encrypted = await self._context(opening.holder, keys_id, limit_s), tuple(query)

        def work() -> online.Evaluated:
            made_for, blinds = (b"", ()) if early is None else early.result()  # done: this thread did it before
            if made_for != keys_id:
                blinds = online.make_blinds(context, opening.seed_bytes, len(encrypted))
            return online.evaluate(context, encrypted, side.encode(), blinds)

        return await self._in_thread(work), Asked(opening, encrypted, context)

    async def _context(self, holder: str, keys_id: bytes, limit_s: float) -> PublicContext:
        """Holder's public keys, fetched once for each of its starts."""
        kept = self._contexts.get(holder)
        if kept is None or kept.keys_id != keys_id:
            keys = await self._fabric.call(holder, "HolderKeys", pb.Empty(), pb.HolderKeys, timeout_s=limit_s)
            kept = await self._in_thread(lambda: PublicContext(keys.public_key))
            if kept.keys_id != keys_id:
                raise PeerError(f"{holder} was restarted meanwhile; repeat the request", party=holder)
            self._contexts[holder] = kept
        return kept

    # 3. open

    async def _open(self, call: _Call, plan: Plan) -> tuple[Plan | None, int]:
        """Sum of the parts of those who take part; or the plan with the status of who did not open."""
        parties, coordinator = [a.holder for a in plan.taking_part], self._fabric.federation.coordinator.name
        opening = {asyncio.create_task(self._open_one(call, a, plan)): a.holder for a in plan.taking_part}
        for task in opening:
            task.add_done_callback(self._replying.discard)
        asked = pb.TotalRequest(request_id=call.release_id, with_parties=parties)
        total = asyncio.create_task(
            self._fabric.call(coordinator, "Total", asked, pb.TotalReply, timeout_s=call.limit_s)
        )
        if self.evidence is not None:
            asyncio.get_running_loop().call_later(_SENT_S, self._prepare_statement, call)
        try:
            # the total comes before the holders' own replies, and only if all of them have opened
            while not total.done():
                waiting = {total, *(task for task in opening if not task.done())}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                said = {holder: task.result() for task, holder in opening.items() if task.done() and task.result()}
                if said:
                    _cancel(total, *opening)
                    return plan.with_failures(said), 0
            reply = total.result()
        except BaseException:
            _cancel(total, *opening)
            raise
        self._replying.update(task for task in opening if not task.done())
        units = plan.sum_of_parts(parse_partial(reply.total_share, 1, coordinator))
        if units is None:
            self._plans.pop(call.request.request_id, None)
            raise ProtocolError("the holders' parts do not add up to a possible score; use a new request id")
        return None, units

    async def _open_band(self, call: _Call, plan: Plan) -> tuple[Plan | None, int]:
        """Number of the band; or the plan with the status of who did not open."""
        parties, band = [a.holder for a in plan.taking_part], plan.band
        if band is None:
            raise ProtocolError("no band was asked for")
        replies = await asyncio.gather(*(self._open_one(call, a, plan) for a in plan.taking_part))
        said = {holder: text for holder, text in zip(parties, replies, strict=True) if text}
        if said:
            return plan.with_failures(said), 0
        try:
            reason, number = await band.open(call.release_id, parties[0], plan.own_share(), call.limit_s)
        except MessageError as error:
            self._plans.pop(call.request.request_id, None)
            raise ProtocolError(f"{parties[0]} opened no band ({error.message}); use a new request id") from error
        return (plan.with_failures({parties[0]: plain(reason)}) if reason else None), number

    async def _open_one(self, call: _Call, answer: HolderReply, plan: Plan) -> str:
        """Why this holder did not open; empty if it did."""
        message = pb.OpenPartial(
            request_id=call.release_id,
            evaluated_enc=() if answer.evaluated is None else answer.evaluated.reply,
            with_parties=[a.holder for a in plan.taking_part],
            keys_id=answer.keys_id,
            share_key_ids={a.holder: a.share_key_id for a in plan.taking_part},
            factors_share=b"" if answer.evaluated is None else answer.evaluated.factors,
            bands_hash=b"" if plan.band is None else plan.band.bands.sha256,
            commitment=b"" if answer.asked is None else answer.asked.opening.commitment,
        )
        if answer.asked is not None:
            call.openings.append((answer.asked, message))
        call.sent[answer.holder] = hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()
        try:
            reply = await self._fabric.call(
                answer.holder, "OpenPartial", message, pb.OpenedPartial, timeout_s=call.limit_s
            )
        except VeilscoreError as error:
            return f"{error.message[:160]}; repeat the request under its id"
        return "" if reply.status == "opened" else plain(reply.reason) or "not opened"

    # what is kept

    def _prepare_statement(self, call: _Call) -> None:
        """The request's part of the bank's statement, made while the holders compute."""
        if self.evidence is not None and call.asked is None:
            call.asked = self.evidence.score_asked(call.request)

    def _log_release(self, call: _Call, response: pb.ScoreResponse) -> None:
        """Nothing is released that is not in the log; not in a thread, as going there and back takes as long."""
        if self.evidence is not None:
            asked = call.asked or self.evidence.score_asked(call.request)  # a repeat opens nothing
            call.rest = self.evidence.score_released(asked, response, call.sent)

    async def _keep(self, call: _Call) -> None:
        """Keep what was asked to be opened, without which an auditor has no answer, and the receipt."""
        await asyncio.sleep(_LEFT_S)

        def work() -> None:
            if call.plan is not None and call.openings:
                self._keep_for_audit(call.plan, call.openings)
            if call.released and call.rest:
                self._keep_receipt(call.request.request_id, call.released, call.rest)

        await asyncio.to_thread(work)

    def _keep_receipt(self, request_id: str, response: bytes, rest: bytes) -> None:
        """Make a receipt; if that fails, the next start of the node tries again."""
        if self.evidence is not None:
            try:
                self.evidence.keep_receipt(request_id, pb.ScoreResponse.FromString(response), rest)
                self._journal.finished(request_id)
            except (VeilscoreError, DecodeError, ValueError) as error:
                self._log.error("score has no receipt", error=type(error).__name__, message=str(error))

    def _keep_for_audit(self, plan: Plan, openings: list[tuple[Asked, pb.OpenPartial]]) -> None:
        model, codes = plan.model, plan.own_codes.astype("<u2").tobytes()
        try:
            for asked, message in openings:
                record = record_of(asked, model.sha256.hex(), codes if model.trees else b"", message)
                self._archive.keep(asked, record, model.artefact)
            used = None if plan.band is None else plan.band.used
            if used is not None:
                band = BandRecord(
                    opening=used.opening,
                    model=model.sha256.hex(),
                    request=openings[0][1].request_id,
                    own_codes=codes.hex(),
                    choices=used.choices.hex(),
                    differences={a.holder: a.difference.hex() for a in plan.taking_part if a.difference},
                )
                self._archive.keep_band(band, model.artefact)
        except VeilscoreError as error:
            self._log.warning("score cannot be audited", error=type(error).__name__, message=error.message)

    def _release_id(self, request: pb.ScoreRequest) -> str:
        text = f"veilscore/1 online score {self._node.name} {request.request_id}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    async def _in_thread(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # spares

    def _refill_later(self) -> None:
        if not self._closed and (self._refill is None or self._refill.done()):
            self._refill = asyncio.create_task(self._fill())

    async def _fill(self) -> None:
        """Make spares while no requests come, or few are left; gives up at an error, until the next request."""
        try:
            while (wanted := self._spares.most_wanted()) or self._bands.wanted:
                holder, model, n_left = wanted or ("", None, LOW)
                idle_s = 0.0 if self._running else time.monotonic() - self._ended_s
                if idle_s < (_IDLE_S if n_left >= LOW else 0.0) or self._running:
                    await asyncio.sleep(_IDLE_S / 10)
                    continue
                if model is not None:
                    await self._make_spare(holder, model)
                if self._bands.wanted:
                    await self._bands.fill(self._bands.wanted, _SPARE_S)
        except VeilscoreError as error:
            self._log.warning("no spares", error=type(error).__name__, message=error.message)

    async def _make_spare(self, holder: str, model: BankModel) -> None:
        side, spare_id = model.holders[holder], new_spare_id()
        opening, random = draw_opening(self._node.name, holder, "spare", spare_id), None
        if side.part_hash:  # trees: the factors of a record are not known yet, so random ones stand for them
            random = online.random_factors(opening.seed_bytes, max(1, model.trees[holder].n_bits))
            side = replace(side, factors=online.lifted(random))
        asked = pb.PrepareSpare(
            spare_id=spare_id, map_hash=side.map_hash, part_hash=side.part_hash, commitment=opening.commitment
        )
        reply = await self._fabric.call(holder, "PrepareSpare", asked, pb.PreparedSpare, timeout_s=_SPARE_S)
        done, sent = await self._put_points(side, reply.ciphertext_enc, reply.keys_id, opening, _SPARE_S)
        await asyncio.to_thread(self._archive.keep_query, sent)
        finish = pb.FinishSpare(spare_id=spare_id, evaluated_enc=done.reply, keys_id=reply.keys_id)
        await self._fabric.call(holder, "FinishSpare", finish, pb.Empty, timeout_s=_SPARE_S, retry=False)
        self._spares.add(holder, model, BankSpare(spare_id, done.mask_total, random, Asked(opening, (), None)))


async def _same(answer: HolderReply) -> HolderReply:
    return answer


def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
