"""The bank's node in online scoring: who may ask, what was answered before, receipts, and what an auditor needs.

The protocol is `veilscore.protocols.online`, what callers see of it `veilscore.online.service`. A repeat of a request
after its end gets the kept response; one that comes while it runs waits for it; after a failure while parts were being
opened its role still waits, so that a repeat sends the same bytes again and nothing is opened twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from veilscore.arrays import CodeArray
from veilscore.errors import RefusedError, VeilscoreError
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.online_archive import OnlineArchive
from veilscore.evidence.online_receipts import OnlineAsked, Receiptless, as_json
from veilscore.evidence.online_rows import OpenedRow
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.fabric import Fabric
from veilscore.files.journal import Answer, Journal
from veilscore.online.afterwards import Afterwards
from veilscore.online.bank_decision import BankDecisions, HeldDecision, OwnInputs, ask_of, asked_of, decided
from veilscore.online.bank_kept import OpenedPart
from veilscore.online.group_writer import GroupWriter
from veilscore.online.model import BankModel, BankModels
from veilscore.online.records import Origins
from veilscore.online.response import bands_of, check_request, own_record, request_digest, scored, unscored
from veilscore.online.stock import BankStock
from veilscore.protocols.online import CALLER, bank_score
from veilscore.protocols.online_desks import BankRequest
from veilscore.protocols.online_parts import FirmPart, NotScoredError, Opened
from veilscore.terms.bands import Bands
from veilscore.terms.federation import Member
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.people import is_own
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.calls import Calls, Served

DEFAULT_S, MOST_S = 10.0, 120.0
_ROLES_KEPT = 64  # requests that failed while being opened, with the bytes to repeat; a few hundred kB each
_SENT_S = 0.001  # until the first messages of a request have left


@dataclass(eq=False, repr=False)
class _Request:
    """One request at the bank: its role, and what is kept of it after its response has left.

    model, own_codes, note, bands : of a score; decision : of a decision, with what the bank puts in.
    ask : what holders are asked; its id says nothing of the caller's and is the same for a repeat.
    opens : what holders were asked to open, with what led to it; `sent` is the SHA-256 of each message.
    asked, output : the request's part of the bank's statement, and its response in the form that this commits to.
    """

    digest: bytes
    ask: pb.EncryptRecord
    model: BankModel | None
    own_codes: CodeArray
    note: str
    bands: Bands | None
    decision: tuple[HeldDecision, OwnInputs] | None = None
    role: Served[Opened] = field(init=False)
    opens: dict[str, tuple[FirmPart, pb.OpenPartial]] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    asked: OnlineAsked | None = None
    output: bytes = b""

    def noted(self, part: FirmPart, request: pb.OpenPartial) -> None:
        """Remember what a holder is asked to open."""
        self.opens[part.holder] = part, request
        self.sent[part.holder] = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()

    def response(self, request: pb.ScoreRequest, opened: Opened) -> pb.ScoreResponse:
        """Return the response with what came out."""
        if self.decision is not None:
            return decided(request, *self.decision, opened)
        if self.model is None:
            raise VeilscoreError("neither a score nor a decision was asked for")
        return scored(request, self.model, self.own_codes, self.note, opened, self.bands)

    def depends_on(self, holders: Sequence[str]) -> dict[str, Any]:
        """Return what the sum of these holders' parts belongs to, so that it is an answer for the same again.

        For trees that is the bank's own codes too, which its factors follow; a band belongs to its cut-offs and to all
        that the bank adds, so always to its own codes.
        """
        if self.decision is not None or self.model is None:
            own = "" if self.decision is None else self.decision[1].sha256
            return {"holders": sorted(holders), "own": own, "bands": self.ask.bands_hash.hex()}
        codes = self.own_codes.astype("<u2").tobytes() if self.model.trees or self.bands is not None else None
        own = "" if codes is None else hashlib.sha256(codes).hexdigest()
        bands = {} if self.bands is None else {"bands": self.bands.sha256.hex()}
        return {"holders": sorted(holders), "own": own, **bands}


@dataclass(frozen=True, repr=False)
class _Release:
    """What is on disk before a response leaves, in this order.

    before : what the parts came to, for another request with the same; logged : the bank's statement, and what it is
    made of; response : the response itself.
    """

    before: Answer | None
    logged: tuple[OnlineAsked, dict[str, Any]] | None
    response: Answer


@dataclass(frozen=True, repr=False)
class _Left:
    """What is left to be kept of a request whose response has left."""

    of: _Request
    receipt: Receiptless


class OnlineBank:
    """Answers Score for the bank's own people and systems.

    home, node, ledger : the node's own.
    """

    def __init__(self, home: Path, node: NodeConfig, ledger: Ledger) -> None:
        self._node = node
        self._models = BankModels(home, Origins(home, node, ledger))
        self._decisions = BankDecisions(home, node, ledger, self._models)
        self._journal = Journal(home / "state" / "online.db")
        self._archive = OnlineArchive(home, node.audit)
        self._archive.start()
        self._running: dict[str, tuple[bytes, asyncio.Task[pb.ScoreResponse]]] = {}
        self._waiting: OrderedDict[str, _Request] = OrderedDict()
        self._afterwards: Afterwards[_Left] = Afterwards(self._keep)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="veilscore-he")
        self._writer: GroupWriter[_Release, bytes] = GroupWriter(self._write_down)
        self._ended_s = 0.0
        self._closed = False
        self.evidence: EvidenceRecorder | None = None
        self._log = structlog.get_logger("veilscore.online").bind(party=node.name)
        self._fabric: Fabric
        self._caller: Calls
        self._stock: BankStock

    def register(self, fabric: Fabric) -> None:
        """Offer the calls of this side."""
        self._fabric = fabric
        self._caller = Calls(fabric.call, lambda do: asyncio.get_running_loop().run_in_executor(self._thread, do))
        self._stock = BankStock(self._node.name, self._caller, self._archive)
        fabric.register("Score", {"bank", "operator"}, pb.ScoreRequest, self.score)

    def policy_changed(self) -> None:
        """Do nothing: each request goes by the policy that the node's configuration has then."""

    def spares(self) -> dict[str, int]:
        """Return how many spares there are, by "holder/model"."""
        return self._stock.spares.counts()

    async def start(self) -> None:
        """Write receipts left over from the previous run."""

        def left_over() -> None:
            self._keep_receipts([Receiptless(*left) for left in self._journal.unfinished()])

        await asyncio.to_thread(left_over)

    async def close(self) -> None:
        """End; what still runs is given up."""
        self._closed = True
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._caller.close()
        await self._afterwards.close()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._writer.close()
        self._journal.close()
        self._archive.close()

    async def score(self, request: pb.ScoreRequest, peer: Member) -> pb.ScoreResponse:
        """Score one firm for a member of the federation; RefusedError where the caller is not of this bank."""
        if not is_own(self._node, peer):
            raise RefusedError(
                f"{peer.name} may not score at {self._node.name}: use {self._node.name}'s own identity, or a "
                "person named in its node.yaml",
                party=self._node.name,
            )
        return await self.answer(request)

    async def answer(self, request: pb.ScoreRequest) -> pb.ScoreResponse:
        """Score one firm for whoever may ask; MessageError where the request is unusable.

        A caller that gives up does not end it: the response is kept for a repeat.
        """
        check_request(request)
        digest = request_digest(request)
        kept = self._journal.get(request.request_id)
        running = self._running.get(request.request_id)
        waiting = self._waiting.get(request.request_id)
        known = [one[0] for one in (kept, running) if one] + ([waiting.digest] if waiting else [])
        if any(one != digest for one in known):
            reused = "this request id was used for something else; use a new one"
            return unscored(request, "refused", reused, failure="reused")
        if kept is not None:
            return pb.ScoreResponse.FromString(kept[1])
        if running is None:
            task = asyncio.create_task(self._run(request, digest))
            running = self._running[request.request_id] = digest, task
        return await asyncio.shield(running[1])

    async def _run(self, request: pb.ScoreRequest, digest: bytes) -> pb.ScoreResponse:
        limit_s = min(request.timeout_s, MOST_S) if request.timeout_s > 0 else DEFAULT_S
        loop, late = asyncio.get_running_loop(), f"not answered within {limit_s:g} s; repeat the request under its id"
        end_s = loop.time() + limit_s
        of = self._waiting.pop(request.request_id, None)
        kept, rest = b"", b""
        try:
            async with asyncio.timeout_at(end_s):
                of = of or await self._begin(request, digest, limit_s)
            loop.call_later(_SENT_S, self._prepare_statement, of, request)
            opened: Opened = await of.role.ask(CALLER, request, end_s, late)
            response = of.response(request, opened)
            kept = response.SerializeToString()
            rest = await self._writer.put(self._release(of, request, response, kept, opened))
        except TimeoutError:
            response = unscored(request, "failed", late, failure="late")
        except NotScoredError as error:
            model = None if of is None else of.model
            response = unscored(request, "failed", error.message, model, error.parts, failure="parties")
        except VeilscoreError as error:
            response = unscored(request, "failed", str(error), failure=type(error).__name__)
        finally:
            del self._running[request.request_id]
            self._ended_s = time.monotonic()
            if of is not None:
                self._after(request.request_id, of, kept, rest)
        say = self._log.debug if response.status in {"scored", "fallback"} else self._log.info  # of all, the evidence
        say("score", status=response.status, model=request.model, message=response.message)
        for party in response.parties:
            if party.status == "failed":
                self._log.warning("holder failed", holder=party.party, message=party.reason)
        return response

    async def _begin(self, request: pb.ScoreRequest, digest: bytes, limit_s: float) -> _Request:
        if request.output == "decision":
            return await self._begin_decision(request, digest, limit_s)
        base = await self._models.get(request.model)
        bands = bands_of(base, request)
        own_codes, note = await own_record(base, request)
        model = base.of_record(own_codes)
        ask = pb.EncryptRecord(
            request_id=self._id_for_holders(request),
            firm_id=request.firm_id,
            model_hash=model.sha256,
            purpose=request.purpose or model.artefact.provenance.purpose,
            on_missing=request.on_missing or "fail",
            consent=request.consent,
            bands_hash=b"" if bands is None else bands.sha256,
            step_limits=bands.limits if bands is not None and request.output != "band" else (),
        )
        of = _Request(digest, ask, model, own_codes, note, bands)
        if bands is not None:
            self._stock.pools.begin(next(iter(model.holders)))
        role = bank_score(
            BankRequest(
                ask=ask,
                sides=model.holders,
                own_units=model.own_units(own_codes),
                bands=bands,
                coordinator=self._fabric.federation.coordinator.name,
                limit_s=limit_s,
                take_spare=lambda holder: self._stock.spares.take(holder, base),
                make_spare=lambda holder, lost: self._stock.made_spare(holder, base, limit_s / 2, lost),
                put_back=lambda holder, spare: self._stock.spares.add(holder, base, spare),
                pool=self._stock.pools.take,
                drop_pool=self._stock.pools.drop,
                opened_before=partial(self._opened_before, of),
                note=of.noted,
            )
        )
        of.role = Served(role, self._caller)
        return of

    def _id_for_holders(self, request: pb.ScoreRequest) -> str:
        """Return an id that says nothing of the caller's and is the same for a repeat."""
        name = f"veilscore/1 online score {self._node.name} {request.request_id}"
        return hashlib.sha256(name.encode()).hexdigest()[:32]

    async def _begin_decision(self, request: pb.ScoreRequest, digest: bytes, limit_s: float) -> _Request:
        held = await self._decisions.get(request.model)
        own = await self._decisions.own(held, request)
        ask = ask_of(held, request, self._id_for_holders(request))
        of = _Request(digest, ask, None, np.zeros((1, 0), np.uint16), "", None, (held, own))
        self._stock.pools.begin(held.holders[0])
        of.role = Served(
            bank_score(
                BankRequest(
                    ask=ask,
                    decision=asked_of(held, own, self._stock, limit_s / 2),
                    limit_s=limit_s,
                    pool=self._stock.pools.take,
                    drop_pool=self._stock.pools.drop,
                    opened_before=partial(self._opened_before, of),
                    note=of.noted,
                )
            ),
            self._caller,
        )
        return of

    def _opened_before(self, of: _Request, parts: Sequence[FirmPart]) -> int | None:
        """Return what these parts came to if all were released under one request that is kept here, else None."""
        released_as = {part.reply.released_as for part in parts}
        kept = self._journal.get(f"\n{next(iter(released_as))}") if len(released_as) == 1 else None
        if kept is None or "" in released_as:
            return None
        body = json.loads(kept[1])
        together = int(body.pop("together"))
        return together if body == of.depends_on([part.holder for part in parts]) else None

    # what is kept

    def _prepare_statement(self, of: _Request, request: pb.ScoreRequest) -> None:
        """Make the request's part of the bank's statement, while the holders compute."""
        if self.evidence is not None and of.asked is None:
            of.asked = OnlineAsked.of(request)

    def _release(
        self, of: _Request, request: pb.ScoreRequest, response: pb.ScoreResponse, kept: bytes, opened: Opened
    ) -> _Release:
        """Return what is on disk before a response leaves."""
        self._prepare_statement(of, request)
        logged, before = None, None
        if self.evidence is not None and of.asked is not None:
            of.output = as_json(response)
            logged = of.asked, self.evidence.statement_of(of.asked, response, of.output, of.sent)
        if opened.taking_part and not opened.before:
            body = {"together": opened.together, **of.depends_on(opened.taking_part)}
            before = Answer(f"\n{of.ask.request_id}", b"", json.dumps(body).encode())
        return _Release(before, logged, Answer(request.request_id, of.digest, kept))

    def _write_down(self, releases: Sequence[_Release]) -> list[bytes | VeilscoreError]:
        """Keep what came out, log it, keep the responses, in this order; return what is left to be done for each."""
        self._journal.keep_all([one.before for one in releases if one.before is not None])
        logged = [one.logged for one in releases if one.logged is not None]
        left = iter(self.evidence.scores_released(logged) if self.evidence is not None and logged else ())
        rests = [next(left) if one.logged is not None else b"" for one in releases]
        found = self._journal.keep_all([replace(one.response, rest=r) for one, r in zip(releases, rests, strict=True)])
        return [kept if isinstance(kept, VeilscoreError) else r for kept, r in zip(found, rests, strict=True)]

    def _after(self, request_id: str, of: _Request, kept: bytes, rest: bytes) -> None:
        """Begin what comes after a response; keep the role of a request that can be repeated."""
        if not of.role.ended:
            self._waiting[request_id] = of
            while len(self._waiting) > _ROLES_KEPT:
                self._waiting.popitem(last=False)
        if of.opens or rest:
            self._afterwards.add(_Left(of, Receiptless(request_id, kept, rest, of.output)))
        if not self._closed:
            self._stock.refill(lambda: None if self._running else self._ended_s)

    def _keep(self, left: Sequence[_Left]) -> None:
        """Keep what was asked to be opened, without which an auditor has no answer, and the receipts."""
        rows: list[OpenedRow] = []
        for one in left:
            try:
                rows += self._rows_of(one.of)
            except Exception as error:  # noqa: BLE001 - one that cannot be kept costs the others nothing
                self._not_audited(error)
        try:
            self._archive.keep(rows)
        except Exception as error:  # noqa: BLE001 - the receipts are made whatever became of these
            self._not_audited(error)
        self._keep_receipts([one.receipt for one in left if one.receipt.left])

    def _keep_receipts(self, left: Sequence[Receiptless]) -> None:
        """Make receipts; where that fails, the next start of the node tries again."""
        if self.evidence is None or not left:
            return
        try:
            done = self.evidence.keep_receipts(left, self._no_receipt)
            self._journal.finished(done)
        except (VeilscoreError, ValueError) as error:
            self._no_receipt(error)

    def _no_receipt(self, error: Exception) -> None:
        self._log.error("score has no receipt", error=type(error).__name__, message=str(error))

    def _not_audited(self, error: Exception) -> None:
        self._log.warning("score cannot be audited", error=type(error).__name__, message=str(error))

    def _rows_of(self, of: _Request) -> list[OpenedRow]:
        """Return what an auditor needs of all that holders were asked to open for one request."""
        rows: list[OpenedRow | None] = []
        for part, request in of.opens.values():
            opened = OpenedPart(of.ask, part, request)
            if of.decision is not None:
                rows.append(opened.of_decision(self._archive, *of.decision))
            elif of.model is not None:
                rows.append(opened.of_score(self._archive, of.model, of.own_codes))
        return [row for row in rows if row is not None]
