"""A holder's node in online scoring: whose records may be asked for, and what is on disk before anything leaves.

The protocol is `veilscore.protocols.online`; its role for one request id lives here from the first call to the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, cast

import structlog
from google.protobuf.message import Message

from veilscore.crypto.he import SecretContext, T
from veilscore.errors import ConfigError, IdError, MessageError, PeerError, ProtocolError, RefusedError, VeilscoreError
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.online_opening import NOT_LEFT, OpeningLogged, check_commitment
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.fabric import Fabric
from veilscore.files.journal import Journal
from veilscore.models.versions import with_map
from veilscore.online.holder_decision import HolderDecisions
from veilscore.online.opening_writer import OpeningWriter
from veilscore.online.per_bank import PerBank
from veilscore.online.records import FoundFirm, Origin, Origins
from veilscore.online.share_keys import ShareKeys
from veilscore.online.stock import HolderSpares
from veilscore.protocols.online import holder_score
from veilscore.protocols.online_band import lost
from veilscore.protocols.online_desks import HolderDesk, HolderRecord
from veilscore.protocols.online_pool import LeadPool
from veilscore.protocols.online_spares import holder_spare
from veilscore.release.ledger import EXACT_BITS
from veilscore.release.pseudonyms import firm_digest
from veilscore.release.single import Allowed, SingleGuard
from veilscore.terms.bands import MAX_STEPS, Bands, KeptBands
from veilscore.terms.federation import Member
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.policy import SCORE_ONLINE, NodePolicy, Request, refuse_retired, refuse_to_tell_who_is_known
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.calls import Calls, RoleEndedError, Served
from veilscore.wire.protocol import Protocol

_REQUESTS_KEPT = 4096  # of all banks, those among them that make spares
_MOST_PARTIES = 1000
_MOST_SHARE_BYTES = 128  # of a band one number; of a decision one a measure


class OnlineHolder:
    """Answers banks that score single firms.

    home, node, ledger : the node's own.
    """

    def __init__(self, home: Path, node: NodeConfig, ledger: Ledger) -> None:
        self._home, self._node, self.name = home, node, node.name
        self._origins = Origins(home, node, ledger)
        self._journal = Journal(home / "state" / "online.db")
        self._guard = SingleGuard(home, node.policy, node.name)
        self._decisions = HolderDecisions(home, node, ledger, self._origins, self._guard, lambda: self._node.policy)
        self._share_keys = ShareKeys(node.name)
        self._spares = HolderSpares()
        self._roles: PerBank[Served[None]] = PerBank(_REQUESTS_KEPT)
        self._pools: dict[str, LeadPool] = {}  # the newest of each bank
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="veilscore-he")
        self._writer = OpeningWriter(self._guard, self._journal, self._log_openings, self._log_not_left)
        self.evidence: EvidenceRecorder | None = None
        self._log = structlog.get_logger("veilscore.online").bind(party=node.name)
        self._caller: Calls
        self._desk: HolderDesk

    def register(self, fabric: Fabric) -> None:
        """Offer the calls of this side."""
        self._caller = Calls(fabric.call, self._in_thread)
        self._desk = HolderDesk(
            name=self.name,
            coordinator=fabric.federation.coordinator.name,
            share_key_id=self._share_keys.id,
            share_keys=self._share_keys.with_peers,
            find=self._find,
            take_spare=self._spares.take,
            pool=self._pool,
            opened=self._journal.get,
            count=self._writer.count,
            write_down=self._writer.put,
        )
        for kind, handler in (
            (pb.EncryptRecord, self._score),
            (pb.OpenPartial, self._score),
            (pb.PrepareSpare, self._spare),
            (pb.FinishSpare, self._spare),
            (pb.MakePool, self._make_pool),
            (pb.ExtendPool, self._extend_pool),
            (pb.AskKeys, self._holder_keys),
        ):
            fabric.register(kind.__name__, {"bank"}, kind, handler)
        fabric.register("BandPartial", {"holder"}, pb.BandPartial, self._band_partial)
        fabric.register("ShareKey", {"holder"}, pb.ShareKey, self._share_keys.answer)

    def spares(self) -> dict[str, int]:
        """Return how many spares there are, by bank."""
        return self._spares.counts()

    def policy_changed(self) -> None:
        """Go by the policy that the node's configuration has now, also where a record was sent and is to be opened."""
        self._guard.follow(self._node.policy)

    async def start(self) -> None:
        """Do nothing: what was opened and not sent is lost with the keys."""

    async def close(self) -> None:
        """End; keys are gone with it."""
        await self._caller.close()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._writer.close()
        self._journal.close()
        self._guard.close()

    # calls

    async def _score(self, request: pb.EncryptRecord | pb.OpenPartial, peer: Member) -> Message:
        request_id = _check_id(request.request_id, peer)
        role = partial(holder_score, self._desk, peer.name, request_id)
        return await self._asked(request_id, role, request, peer)

    async def _spare(self, request: pb.PrepareSpare | pb.FinishSpare, peer: Member) -> Message:
        role = partial(holder_spare, peer.name, self._secret, self._n_cells, self._spares.add)
        return await self._asked(f"/{_check_id(request.spare_id, peer)}", role, request, peer)  # no request's id

    async def _asked(self, name: str, role: Callable[[], Protocol[None]], request: Message, peer: Member) -> Message:
        """Hand a call to the role that is at work under this name, or to a new one; one that has ended is forgotten."""
        while True:
            served = self._roles.get(peer.name, name)
            if served is None:
                served = Served(role(), self._caller)
                self._roles.put(peer.name, name, served)
            try:
                with contextlib.suppress(RoleEndedError):  # it ended while the call waited for its turn
                    return cast("Message", await served.ask(peer.name, request))
            finally:
                if served.ended and self._roles.get(peer.name, name) is served:
                    self._roles.pop(peer.name, name)

    async def _band_partial(self, message: pb.BandPartial, peer: Member) -> pb.Empty:
        parties = tuple(message.with_parties)
        if not 1 < len(parties) < _MOST_PARTIES or parties[0] != self.name or peer.name not in parties[1:]:
            raise ProtocolError(f"{peer.name} sent a part of a band that {self.name} does not lead", party=peer.name)
        if not 0 < len(message.partial_share) <= _MOST_SHARE_BYTES:
            raise MessageError("a part for a lead has the wrong size", party=peer.name)
        served = self._roles.get(message.bank, message.request_id)
        if served is None:
            raise lost(self.name)
        served.put(peer.name, message)
        return pb.Empty()

    async def _make_pool(self, base: pb.MakePool, peer: Member) -> pb.MadePool:
        """Make the lead's half of a pool; a bank has one, and asks for another where it has lost its own."""
        pool_id = _check_id(base.pool_id, peer)
        self._node.policy.allows(Request(bank=peer.name, purpose=None, task=SCORE_ONLINE), self.name)
        check_commitment(base.commitment, peer.name)
        pool = self._pool(peer.name, pool_id)
        if pool is None:
            mark = self._journal.mark(f"{peer.name}/{pool_id}")
            made = await self._in_thread(lambda: LeadPool.of(peer.name, self.name, base, mark))
            pool = self._pool(peer.name, pool_id) or made
            self._pools[peer.name] = pool
        if pool.base != base:
            raise MessageError("this pool was made with another point or commitment", party=peer.name)
        return pool.made

    async def _extend_pool(self, request: pb.ExtendPool, peer: Member) -> pb.Empty:
        self._node.policy.allows(Request(bank=peer.name, purpose=None, task=SCORE_ONLINE), self.name)
        pool = self._pool(peer.name, request.pool_id)
        if pool is None:
            raise lost(self.name)
        made = await self._in_thread(partial(pool.extend, request))
        # on disk before any tables leave, so that no number stands for two circuits whatever is restarted
        self._journal.raise_mark(f"{peer.name}/{request.pool_id}", made)
        return pb.Empty()

    def _pool(self, bank: str, pool_id: str) -> LeadPool | None:
        pool = self._pools.get(bank)
        return pool if pool is not None and pool.base.pool_id == pool_id else None

    async def _holder_keys(self, _request: pb.AskKeys, _peer: Member) -> pb.HolderKeys:
        secret = await self._in_thread(self._secret)
        return pb.HolderKeys(public_key=secret.public_bytes, keys_id=secret.keys_id)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # what its roles take from it

    @cached_property
    def _context(self) -> SecretContext:
        return SecretContext()

    def _secret(self) -> SecretContext:
        return self._context

    async def _find(self, bank: str, request: pb.EncryptRecord) -> HolderRecord:
        """Return the firm's record, once policy, consent and release control let the request pass; RefusedError."""
        if request.decision:
            return await self._decisions.record(bank, request)
        policy = self._node.policy
        origin = await self._origins.by_part(request.map_hash.hex(), request.part_hash.hex())
        asked = Request(
            bank=bank,
            purpose=request.purpose,
            task=SCORE_ONLINE,
            opens="exact" if not request.bands_hash else "score" if request.step_limits else "band",
            to_get_bands="ask for a band (output: band)",
            rules=(partial(refuse_to_tell_who_is_known, on_missing=request.on_missing),),
        )
        policy.allows(asked, self.name)
        origin = self._of_bank(origin, bank, request.part_hash)
        bands = steps_asked(request, bank) if request.step_limits else None  # None: the exact score
        may = partial(self._may_open, request=request, origin=origin, steps=bands)
        by = Allowed(replace(asked, rules=(*asked.rules, may)), policy)
        try:
            bands = await asyncio.to_thread(may, policy) if request.bands_hash and bands is None else may(policy)
            firm = origin.records.normalise(request.firm_id)
            token = self._guard.check_consent(request, bank, firm, origin.job.name)
            found = await origin.records.find(firm)
            # a bin known beside the band would narrow the score down
            alone = bands is not None and not request.step_limits
            reasons = () if alone else self._reason_codes(policy, origin, found)
            bits = EXACT_BITS if bands is None else bands.bits + _bits_of(origin, reasons)
            passed = self._guard.check_release(request, bank, firm, found.codes, token, bits, by)
            if passed.used_up:  # the same work for a firm that is unknown anyway: time would tell which
                self._log.warning(
                    "a firm is scored as unknown: its release budget is used up",
                    firm=firm_digest(self._home, firm),
                    known=found.known,
                )
                found = origin.records.unknown(found.data_time_s)
                reasons = () if alone else self._reason_codes(policy, origin, found)
                passed = self._guard.check_release(request, bank, firm, found.codes, token, bits, by)
        except IdError:
            raise RefusedError("the firm id is malformed", party=self.name) from None
        except RefusedError:
            raise
        except VeilscoreError as error:
            self._log.error("data set or consents cannot be read", error=type(error).__name__, message=error.message)
            raise PeerError("its data set or consents cannot be read; its own log says why", party=self.name) from None
        cells, holders = origin.cells(found.codes), origin.job.holders
        return HolderRecord(
            firm, cells, found.known, found.data_time_s, reasons, holders, passed, bands, model=origin.job.name,
            discloses_unknown=policy.disclose_unknown, without_others=policy.online_without_others,
        )  # fmt: skip

    def _may_open(
        self, policy: NodePolicy, *, request: pb.EncryptRecord, origin: Origin, steps: Bands | None
    ) -> Bands | None:
        """Return the bands or steps of a request, None for an exact score; RefusedError where a policy forbids it.

        steps : those that the bank chose; those of the model are read.
        """
        refuse_retired(policy, {"": origin.job.name})
        bands = steps
        if request.bands_hash and bands is None:
            bands = self._kept_bands(policy, request, origin)
        if bands is not None:
            policy.release.allow_values(len(bands.names))
        return bands

    def _of_bank(self, origin: Origin | None, bank: str, part_hash: bytes) -> Origin:
        if origin is not None and origin.job.bank == bank:
            return origin
        if part_hash:
            what = f"{self.name}'s part of this model is missing, changed or of another version: see its backup"
        else:
            what = f"{self.name} took part in no model of {bank} with this code map (or lost the map: see its backup)"
        raise RefusedError(what, party=self.name)

    def _kept_bands(self, policy: NodePolicy, request: pb.EncryptRecord, origin: Origin) -> Bands:
        name = origin.job.name
        folder = with_map(self._home, name, request.map_hash.hex()) or self._home / "models" / name
        return kept_bands(folder, policy, request.map_hash, request.bands_hash)

    def _reason_codes(self, policy: NodePolicy, origin: Origin, found: FoundFirm) -> list[pb.ReasonCode]:
        allowed = policy.reason_columns
        return [
            pb.ReasonCode(column=j, code=int(found.codes[0, j]), name=name)
            for j, name in enumerate(origin.records.code_map.names)
            if name in allowed
        ]

    async def _n_cells(self, bank: str, asked: pb.PrepareSpare) -> int:
        """Return the number of cells of the part that a spare is asked for."""
        self._node.policy.allows(Request(bank=bank, purpose=None, task=SCORE_ONLINE), self.name)
        origin = await self._origins.by_part(asked.map_hash.hex(), asked.part_hash.hex())
        origin = self._of_bank(origin, bank, asked.part_hash)
        refuse_retired(self._node.policy, {"": origin.job.name})
        return origin.n_cells

    def _log_not_left(self, references: Sequence[str]) -> None:
        if self.evidence is not None:
            self.evidence.noted(NOT_LEFT, references=list(references))

    def _log_openings(self, opened: Sequence[OpeningLogged]) -> None:
        if self.evidence is not None:
            self.evidence.online_opened(opened)
        for one in opened:
            self._log.debug("opened", what=one.kind, bank=one.bank, request=one.request)


def kept_bands(folder: Path, policy: NodePolicy, map_hash: bytes, bands_hash: bytes) -> Bands:
    """Return the bands that a holder keeps of a model, which must be those of the request.

    folder : of the model in the holder's home.
    map_hash, bands_hash : of the request.

    Raises RefusedError where none are kept, they are others, or the policy does not let them out; says what to do.
    """
    try:
        kept = KeptBands.load(folder)
        bands = Bands.of(kept.bands, kept.units)
    except ConfigError as error:
        raise RefusedError(error.message) from None
    if kept.map_sha256 != map_hash.hex():
        raise RefusedError("the bands kept here are of another version of the model: restore bands.json from backup")
    if bands.sha256 != bands_hash:
        raise RefusedError(
            "the bands of the request are not those that this party accepted with the training job: score with the "
            "model as it was trained, or name other bands in a batch"
        )
    policy.release.allow_bands(bands, kept.units, kept.pdo)
    return bands


def steps_asked(request: pb.EncryptRecord, bank: str) -> Bands:
    """Return the steps of a coarse score, which the bank chooses as it likes: what counts is how many; MessageError."""
    try:
        steps = _steps(tuple(request.step_limits))
    except ConfigError as error:
        raise MessageError(error.message, party=bank) from None
    if steps.sha256 != request.bands_hash or max(map(abs, steps.limits)) >= T // 2:
        raise MessageError("the cut-offs of a score in steps do not fit their digest or the ring of totals", party=bank)
    return steps


@lru_cache(maxsize=64)
def _steps(limits: tuple[int, ...]) -> Bands:
    return Bands.steps(limits, MAX_STEPS)


def _bits_of(origin: Origin, reasons: Sequence[pb.ReasonCode]) -> float:
    """Return what codes of columns tell that the policy lets the bank know beside a score."""
    return sum(math.log2(origin.n_codes[reason.column]) for reason in reasons)


def _check_id(text: str, peer: Member) -> str:
    if not (0 < len(text) <= 100 and text.isascii() and text.isprintable() and "/" not in text):
        raise ProtocolError("an id is 1 to 100 printable ASCII characters without a slash", party=peer.name)
    return text
