"""A holder's records for decisions on single firms: which decision, whether it may be told, the firm's part of each.

All parts of one request are looked up for the one firm that it names, in the data set that the job which filed the
decision named.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import structlog

from veilscore.arrays import CodeArray
from veilscore.errors import IdError, MessageError, PeerError, RefusedError, VeilscoreError
from veilscore.evidence.filings import filed_by, made_for
from veilscore.evidence.job_ledger import Ledger
from veilscore.models.decided import KNOCK_OUTS, FiledDecision
from veilscore.models.hand_written import WrittenPart
from veilscore.models.versions import with_map
from veilscore.online.records import FoundFirm, Origin, Origins, Records, load_map
from veilscore.protocols.online_desks import HolderRecord
from veilscore.protocols.online_measures import RecordPart, SingleDecision
from veilscore.release.pseudonyms import firm_digest
from veilscore.release.single import Allowed, SingleGuard
from veilscore.terms.decide import Decide
from veilscore.terms.decision import DecisionModel
from veilscore.terms.job import Job
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.policy import SCORE_ONLINE, NodePolicy, Request, refuse_to_tell_who_is_known, refuse_untold
from veilscore.v1 import control_pb2 as pb

_KEPT = 64  # decisions


def holders_of(filed: FiledDecision, job: Job) -> tuple[str, ...]:
    """Return the holders that have a part in a decision, in the order of the job that filed it; the lead is first."""
    return tuple(holder for holder in job.holders if holder in filed.holders)


@dataclass(frozen=True, repr=False)
class _OwnPart:
    """This party's part of one measure: records, and either cells of a trained model or points that it knows itself."""

    measure: str
    records: Records
    part: bytes = b""
    origin: Origin | None = None
    points: WrittenPart | None = None

    def of(self, codes: CodeArray) -> RecordPart:
        """Return the part of a firm's record (1, n_columns)."""
        if self.points is not None:
            sign = -1 if self.measure == KNOCK_OUTS else 1
            return RecordPart(self.measure, points=sign * int(self.points.units(codes)[0]))
        if self.origin is None:
            return RecordPart(self.measure)
        return RecordPart(self.measure, self.part, self.origin.cells(codes))


@dataclass(frozen=True, repr=False)
class _Held:
    """A decision at this party."""

    filed: FiledDecision
    job: Job
    single: SingleDecision
    parts: tuple[_OwnPart, ...]


class HolderDecisions:
    """Finds what a request for a decision asks of this party.

    home, node, ledger, origins, guard : the node's own; policy : that of now.
    """

    def __init__(
        self,
        home: Path,
        node: NodeConfig,
        ledger: Ledger,
        origins: Origins,
        guard: SingleGuard,
        policy: Callable[[], NodePolicy],
    ) -> None:
        self._home, self._node, self._ledger, self.name = home, node, ledger, node.name
        self._origins, self._guard, self._policy = origins, guard, policy
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._log = structlog.get_logger("veilscore.online").bind(party=node.name)

    async def record(self, bank: str, request: pb.EncryptRecord) -> HolderRecord:
        """Return the firm's record, once policy, consent and release control let the request pass; RefusedError."""
        if {request.bands_hash, request.map_hash} != {request.model_hash} or request.part_hash or request.step_limits:
            raise MessageError("a request for a decision names another hash than the decision's", party=bank)
        if request.on_missing == "neutral":
            raise MessageError("a decision takes no averages: on_missing is fail or missing_code", party=bank)
        known = partial(refuse_to_tell_who_is_known, on_missing=request.on_missing)
        asked = Request(bank=bank, purpose=request.purpose, task=SCORE_ONLINE, opens="band", rules=(known,))
        self._policy().allows(asked, self.name)
        held = await self._find(request)
        if held.job.bank != bank:
            raise self._no_decision(request)
        decision = held.filed.decision
        may = partial(_may_decide, decision=decision, purpose=request.purpose)
        by = Allowed(replace(asked, rules=(known, may)), self._policy())
        by.policy.allows(by.asked, self.name)
        try:
            return await self._passed(bank, request, held, by)
        except IdError:
            raise RefusedError("the firm id is malformed", party=self.name) from None
        except RefusedError:
            raise
        except VeilscoreError as error:
            self._log.error("data set or consents cannot be read", error=type(error).__name__, message=error.message)
            raise PeerError("its data set or consents cannot be read; its own log says why", party=self.name) from None

    async def _passed(self, bank: str, request: pb.EncryptRecord, held: _Held, by: Allowed) -> HolderRecord:
        decision, records = held.filed.decision, held.parts[0].records
        firm = records.normalise(request.firm_id)
        token = self._guard.check_consent(request, bank, firm, decision.name, Decide.task, decision.bits)
        found = [await part.records.find(firm) for part in held.parts]
        passed = self._guard.check_release(request, bank, firm, _side_by_side(found), token, decision.bits, by)
        if passed.used_up:  # the same work for a firm that is unknown anyway: time would tell which
            self._log.warning(
                "a firm is decided on as unknown: its release budget is used up",
                firm=firm_digest(self._home, firm),
                known=found[0].known,
            )
            found = [p.records.unknown(f.data_time_s) for p, f in zip(held.parts, found, strict=True)]
            passed = self._guard.check_release(request, bank, firm, _side_by_side(found), token, decision.bits, by)
        return HolderRecord(
            firm=firm,
            cells=np.zeros(0, np.uint64),
            known=found[0].known,
            data_time_s=found[0].data_time_s,
            reason_codes=(),
            holders=holders_of(held.filed, held.job),
            passed=passed,
            model=decision.name,
            decision=held.single,
            parts=tuple(part.of(one.codes) for part, one in zip(held.parts, found, strict=True)),
            discloses_unknown=by.policy.disclose_unknown,
        )

    # the decision

    async def _find(self, request: pb.EncryptRecord) -> _Held:
        held = self._held.get(request.model_hash)
        if held is None or held.filed.decision.name != request.decision:
            found = await asyncio.to_thread(filed_by, self._home, self._ledger, request.decision, request.model_hash)
            if found is None:
                raise self._no_decision(request)
            held = self._held[request.model_hash] = await self._held_of(*found)
            while len(self._held) > _KEPT:
                self._held.popitem(last=False)
        return held

    async def _held_of(self, filed: FiledDecision, job: Job, folder: Path) -> _Held:
        parts = []
        for measure in filed.names:
            pin = filed.pins.get(measure)
            map_sha256 = None if pin is None else pin.maps.get(self.name)
            if pin is None or map_sha256 is None:
                continue
            own = await asyncio.to_thread(with_map, self._home, pin.model, map_sha256)
            if own is None:
                raise self._lost(f"measure {measure}: has no such version of model {pin.model} any more")
            records = Records(self._node, job, load_map(own / "code_map.json"))
            if pin.written:
                if await asyncio.to_thread(made_for, self._home, self._ledger, pin.model, own) != job.bank:
                    raise self._lost(f"measure {measure}: its points of model {pin.model} are another bank's")
                parts.append(_OwnPart(measure, records, points=self._points(own, map_sha256, measure)))
                continue
            trees = pin.trees.get(self.name, "")
            origin = await self._origins.by_part(map_sha256, trees)
            if origin is None or origin.job.bank != job.bank:
                raise self._lost(f"measure {measure}: its part of model {pin.model} is missing, changed or another's")
            parts.append(_OwnPart(measure, records, bytes.fromhex(map_sha256 + trees), origin))
        if self.name in filed.knock_outs:
            records = Records(self._node, job, load_map(folder / "code_map.json"))
            points = self._points(folder, filed.knock_outs[self.name], KNOCK_OUTS)
            parts.append(_OwnPart(KNOCK_OUTS, records, points=points))
        if not parts:
            raise RefusedError(f"{self.name} has no part in decision {filed.decision.name}", party=self.name)
        return _Held(filed, job, SingleDecision.of(filed), tuple(parts))

    def _points(self, folder: Path, map_sha256: str, measure: str) -> WrittenPart:
        points = WrittenPart.load(folder)
        if points.map_sha256 != map_sha256:
            raise self._lost(f"measure {measure}: its points are of another version")
        return points

    def _lost(self, what: str) -> RefusedError:
        return RefusedError(f"{what}: restore it from backup, or file the decision anew", party=self.name)

    def _no_decision(self, request: pb.EncryptRecord) -> RefusedError:
        return RefusedError(
            f"{self.name} has filed no such version of decision {request.decision[:60]!r} for this bank: file it again "
            "with all holders",
            party=self.name,
        )


def _may_decide(policy: NodePolicy, decision: DecisionModel, purpose: str) -> None:
    """Refuse what this party's policy does not let a decision tell, also where it did when it was filed."""
    if Decide.task not in policy.tasks:
        raise RefusedError(f"does not allow task {Decide.task}")
    if decision.watch:
        raise RefusedError("a watch is decided month by month, for all its firms: use task decide")
    if purpose != decision.purpose:
        raise RefusedError(f"decision {decision.name} is for the purpose {decision.purpose}, not {purpose[:60]!r}")
    refuse_untold(policy, decision)


def _side_by_side(found: list[FoundFirm]) -> CodeArray:
    codes: CodeArray = np.hstack([one.codes for one in found])
    return codes
