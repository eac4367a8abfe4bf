"""A holder's side of online scoring; the whole protocol is described in `veilscore.online.service`.

Order for one request id: 1. EncryptRecord (may be repeated), 2. OpenPartial, which is answered once: a repeat with
the same bytes sends the same partial again, anything else is refused. What was opened is on disk before it leaves.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import structlog

from veilscore.arrays import Words
from veilscore.crypto import he
from veilscore.crypto.zero_share import share_context, zero_share
from veilscore.errors import IdError, MessageError, PeerError, ProtocolError, RefusedError, VeilscoreError
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.online_opening import Bound, check_commitment, digest_of_ciphertexts
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.fabric import Fabric
from veilscore.files.journal import Journal
from veilscore.online.bands_holder import LeadBands, kept_bands
from veilscore.online.records import FoundFirm, Origin, Origins
from veilscore.online.share_keys import ShareKeys
from veilscore.online.spares import HolderSpare, HolderSpares
from veilscore.protocols import online
from veilscore.protocols.adding import pack_partial
from veilscore.release.single import Passed, SingleGuard
from veilscore.terms.bands import Bands
from veilscore.terms.federation import Member
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.policy import SCORE_ONLINE, Request, refuse_to_tell_who_is_known
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import pack_fields

R = TypeVar("R")
_PENDING_KEPT = 4096
_SENT_KEPT = 8  # of one request: repeated calls
_PEER_S = 10.0
ON_MISSING = ("fail", "missing_code", "neutral")


@dataclass(frozen=True, repr=False)
class _Pending:
    """A record that was encrypted for a bank and not opened yet; with a spare, also the answer that used it.

    Attributes
    ----------
    bands : where the band alone is released, those that this holder keeps of the model.
    """

    digest: bytes
    model_hash: bytes
    origin: Origin
    n_cells: int
    passed: Passed
    part: bytes = b""
    spare_id: str = ""
    spare: HolderSpare | None = None
    answer: pb.EncryptedRecord | None = None
    bands: Bands | None = None
    sent: tuple[tuple[bytes, str], ...] = ()  # commitment of the bank, digest of the ciphertexts sent under it

    def bound(self, request: pb.OpenPartial) -> Bound | None:
        """What the bank is bound to in what it asks to open; None if it is bound to nothing that was sent."""
        if self.spare is not None and not request.evaluated_enc:
            bound = replace(self.spare.bound, part=self.part)
            return bound if bound.commitment == request.commitment else None
        queries = tuple(query for commitment, query in self.sent if commitment == request.commitment)
        return Bound(request.commitment, queries, part=self.part) if queries else None


class OnlineHolder:
    """Answers EncryptRecord, HolderKeys and OpenPartial for banks, ShareKey for other holders; bands by `LeadBands`.

    Parameters
    ----------
    home, node, ledger : the node's own.
    """

    def __init__(self, home: Path, node: NodeConfig, ledger: Ledger) -> None:
        self._home = home
        self._node = node
        self._origins = Origins(home, node, ledger)
        self._journal = Journal(home / "state" / "online.db")
        self._guard = SingleGuard(home, node.policy)
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._spares = HolderSpares()
        self._share_keys = ShareKeys(node.name)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="veilscore-he")
        self._bands = LeadBands(node.name, node.policy, self._in_thread)
        self._log = structlog.get_logger("veilscore.protocols.online").bind(party=node.name)
        self._fabric: Fabric

    @property
    def evidence(self) -> EvidenceRecorder | None:
        """The node's log, where it has one."""
        return self._bands.evidence

    @evidence.setter
    def evidence(self, recorder: EvidenceRecorder | None) -> None:
        self._bands.evidence = recorder

    def register(self, fabric: Fabric) -> None:
        """Offer the calls of this side."""
        self._fabric = fabric
        fabric.register("EncryptRecord", {"bank"}, pb.EncryptRecord, self._encrypt_record)
        fabric.register("HolderKeys", {"bank"}, pb.Empty, self._holder_keys)
        fabric.register("PrepareSpare", {"bank"}, pb.PrepareSpare, self._prepare_spare)
        fabric.register("FinishSpare", {"bank"}, pb.FinishSpare, self._finish_spare)
        fabric.register("OpenPartial", {"bank"}, pb.OpenPartial, self._open_partial)
        self._share_keys.register(fabric)
        self._bands.register(fabric)

    async def start(self) -> None:
        """Nothing is left to be done: what was opened and not sent is lost with the keys."""

    async def close(self) -> None:
        """End; keys are gone with it."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._journal.close()
        self._guard.close()

    @cached_property
    def _secret(self) -> he.SecretContext:
        return he.SecretContext()

    async def _in_thread(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _holder_keys(self, _request: pb.Empty, _peer: Member) -> pb.HolderKeys:
        secret = await self._in_thread(lambda: self._secret)
        return pb.HolderKeys(public_key=secret.public_bytes, keys_id=secret.keys_id)

    # 1. encrypt

    async def _encrypt_record(self, request: pb.EncryptRecord, peer: Member) -> pb.EncryptedRecord:
        _check_record(request, peer.name)
        origin = await self._origins.by_part(request.map_hash.hex(), request.part_hash.hex())
        refusal = self._refusal(request, peer.name, origin)
        if origin is None or refusal:
            return pb.EncryptedRecord(status="refused", reason=refusal)
        try:
            bands = await asyncio.to_thread(self._kept_bands, request, origin) if request.bands_hash else None
            firm = origin.records.normalise(request.firm_id)
            token = self._guard.check_consent(request, peer.name, firm, origin.job.name)
            found = await origin.records.find(firm)
            passed = self._guard.check_release(request, peer.name, firm, found.codes, token)
        except IdError:
            return pb.EncryptedRecord(status="refused", reason="the firm id is malformed")
        except RefusedError as error:
            return pb.EncryptedRecord(status="refused", reason=error.message)
        except VeilscoreError as error:
            self._log.error("data set or consents cannot be read", error=type(error).__name__, message=error.message)
            raise PeerError(
                "its data set or consents cannot be read; its own log says why", party=self._node.name
            ) from None
        return await self._answer(request, peer.name, origin, found, passed, bands)

    async def _answer(
        self,
        request: pb.EncryptRecord,
        bank: str,
        origin: Origin,
        found: FoundFirm,
        passed: Passed,
        bands: Bands | None,
    ) -> pb.EncryptedRecord:
        key = f"{bank}/{request.request_id}"
        digest = _digest(
            request.firm_id.encode(),
            request.model_hash,
            request.map_hash + request.part_hash,
            request.on_missing.encode(),
            request.bands_hash,
        )
        pending = self._pending.get(key)
        if self._journal.get(key) is not None or (pending is not None and pending.digest != digest):
            reason = "this request id was used here already; use a new one"
            return pb.EncryptedRecord(status="refused", reason=reason)
        if not found.known and request.on_missing == "fail":
            return pb.EncryptedRecord(status="unknown", discloses_unknown=True, data_time_s=found.data_time_s)
        if pending is not None and pending.answer is not None and pending.spare_id == request.spare_id:
            return pending.answer
        policy = self._node.policy
        answer = pb.EncryptedRecord(
            status="ready" if found.known or not policy.disclose_unknown else "unknown",
            discloses_unknown=policy.disclose_unknown,
            without_others=policy.online_without_others,
            share_key_id=self._share_keys.id,
            # a bin known beside the band would narrow the score down
            reason_codes=() if request.bands_hash else self._reason_codes(origin, found),
            data_time_s=found.data_time_s,
            released_as=passed.released_as,
        )
        if passed.released_as:
            return answer
        part = request.map_hash + request.part_hash
        sent = () if pending is None else pending.sent
        pending = _Pending(digest, request.model_hash, origin, origin.n_cells, passed, part, sent=sent, bands=bands)
        spare = self._spares.take(f"{bank}/{request.spare_id}", part) if request.spare_id else None
        cells = origin.cells(found.codes)
        if spare is not None:
            answer.keys_id, answer.difference_share = self._secret.keys_id, spare.difference(cells)
            spare.bound = replace(spare.bound, difference=hashlib.sha256(answer.difference_share).hexdigest())
            self._remember(key, replace(pending, spare_id=request.spare_id, spare=spare, answer=answer))
            return answer
        self._remember(key, pending)
        query, sha256 = await self._in_thread(lambda: self._encrypt(cells))
        self._note_sent(key, request.commitment, sha256)
        answer.keys_id = self._secret.keys_id
        answer.ciphertext_enc.extend(query)
        return answer

    def _encrypt(self, cells: Words) -> tuple[tuple[bytes, ...], str]:
        query = online.encrypt_cells(self._secret, cells[None])
        return query, digest_of_ciphertexts(query)

    def _note_sent(self, key: str, commitment: bytes, sha256: str) -> None:
        """Remember what is sent under a commitment; calls that were repeated may come to their end in any order."""
        pending = self._pending.get(key)
        if pending is not None:
            self._pending[key] = replace(pending, sent=(*pending.sent, (commitment, sha256))[-_SENT_KEPT:])

    async def _prepare_spare(self, request: pb.PrepareSpare, peer: Member) -> pb.PreparedSpare:
        key = f"{peer.name}/{_check_id(request.spare_id, peer.name)}"
        check_commitment(request.commitment, peer.name)
        origin = await self._origins.by_part(request.map_hash.hex(), request.part_hash.hex())
        self._node.policy.allows(Request(bank=peer.name, purpose=None, task=SCORE_ONLINE), self._node.name)
        if origin is None or origin.job.bank != peer.name:
            raise RefusedError("no spares for this model: it is not known here", party=self._node.name)
        n_cells, part = origin.n_cells, request.map_hash + request.part_hash
        bound = request.commitment
        query = await self._in_thread(lambda: self._spares.draw(self._secret, key, part, n_cells, bound))
        return pb.PreparedSpare(ciphertext_enc=query, keys_id=self._secret.keys_id)

    async def _finish_spare(self, request: pb.FinishSpare, peer: Member) -> pb.Empty:
        key = f"{peer.name}/{_check_id(request.spare_id, peer.name)}"
        await self._in_thread(lambda: self._spares.finish(self._secret, key, request.evaluated_enc))
        return pb.Empty()

    def _refusal(self, request: pb.EncryptRecord, bank: str, origin: Origin | None) -> str:
        """Why this holder does not answer, as the bank may hear it; empty if it does."""
        name, policy = self._node.name, self._node.policy
        asked = Request(
            bank=bank,
            purpose=request.purpose,
            task=SCORE_ONLINE,
            opens="band" if request.bands_hash else "score",
            to_get_bands="ask for a band (output: band)",
            rules=(partial(refuse_to_tell_who_is_known, on_missing=request.on_missing),),
        )
        try:
            policy.allows(asked, name)
        except RefusedError as refusal:
            return refusal.message
        if origin is None or origin.job.bank != bank:
            if request.part_hash:
                return f"{name}'s part of this model is missing, changed or of another version: see its backup"
            return f"{name} took part in no model of {bank} with this code map (or lost the map: see its backup)"
        return ""

    def _kept_bands(self, request: pb.EncryptRecord, origin: Origin) -> Bands:
        folder = self._home / "models" / origin.job.name
        return kept_bands(folder, self._node.policy, request.map_hash, request.bands_hash)

    def _reason_codes(self, origin: Origin, found: FoundFirm) -> list[pb.ReasonCode]:
        allowed = self._node.policy.reason_columns
        return [
            pb.ReasonCode(column=j, code=int(found.codes[0, j]), name=name)
            for j, name in enumerate(origin.records.code_map.names)
            if name in allowed
        ]

    def _remember(self, key: str, pending: _Pending) -> None:
        self._pending[key] = pending
        while len(self._pending) > _PENDING_KEPT:
            self._pending.popitem(last=False)

    # 2. open

    async def _open_partial(self, request: pb.OpenPartial, peer: Member) -> pb.OpenedPartial:
        key = f"{peer.name}/{_check_id(request.request_id, peer.name)}"
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        kept = self._journal.get(key)
        if kept is None:
            answer = await self._open(request, peer.name, key, digest)
            if isinstance(answer, pb.OpenedPartial):
                return answer
            partial = answer
        elif kept[0] == digest:
            partial = kept[1]
        else:
            return pb.OpenedPartial(status="refused", reason="another reply was opened under this request id")
        if request.bands_hash:
            pending = self._pending.pop(key, None)
            return await self._bands.send(peer.name, request, partial, None if pending is None else pending.bands)
        message = pb.AddPartial(request_id=request.request_id, partial_share=partial, with_parties=request.with_parties)
        coordinator = self._fabric.federation.coordinator.name
        await self._fabric.call(coordinator, "AddPartial", message, pb.Empty, timeout_s=_PEER_S)
        return pb.OpenedPartial(status="opened")

    async def _open(self, request: pb.OpenPartial, bank: str, key: str, digest: bytes) -> pb.OpenedPartial | bytes:
        pending = self._pending.get(key)
        if pending is None or request.keys_id != self._secret.keys_id:
            reason = f"{self._node.name} was restarted since, or is overloaded; use a new request id"
            return pb.OpenedPartial(status="lost", reason=reason)
        parties = tuple(request.with_parties)
        reason = self._parties_refusal(request, pending, bank)
        if reason:
            return pb.OpenedPartial(status="refused", reason=reason)
        bound, keys = pending.bound(request), await self._share_keys.with_peers(parties, dict(request.share_key_ids))
        if bound is None or keys is None:
            why = "another holder was restarted since" if keys is None else "no record was sent under its commitment"
            return pb.OpenedPartial(status="lost", reason=f"{why}; use a new request id")
        context = share_context(key, parties, pending.model_hash + request.bands_hash)

        def work() -> bytes | str:
            share = zero_share(self._node.name, keys, context, 1, he.T)
            opened = self._release(request, digest, bank, pending, bound, share)
            return opened if isinstance(opened, str) else self._journal.keep(key, digest, opened)

        partial = await self._in_thread(work)
        if isinstance(partial, str):
            return pb.OpenedPartial(status="refused", reason=partial)
        if pending.bands is None:
            self._pending.pop(key, None)
        self._log.info("record scored", bank=bank, model=pending.origin.job.name, sha256=pending.model_hash.hex())
        return partial

    def _release(
        self,
        request: pb.OpenPartial,
        digest: bytes,
        bank: str,
        pending: _Pending,
        bound: Bound,
        share: Words,
    ) -> bytes | str:
        """Count and log an opening before its partial may leave; the partial, or the refusal."""
        spared = None
        if pending.spare is not None and not request.evaluated_enc:
            spared = pending.spare.partial(request.factors_share, bank)
        refusal = self._guard.admit(pending.passed)
        if refusal:
            return refusal
        if self.evidence is not None:
            self.evidence.share_opened(request, digest, bank, pending.model_hash, bound)
        if spared is not None:
            partial = (spared + share) % np.uint64(he.T)
        else:
            partial = online.open_partial(self._secret, request.evaluated_enc, 1, pending.n_cells, share)
        return pack_partial(partial)

    def _parties_refusal(self, request: pb.OpenPartial, pending: _Pending, bank: str) -> str:
        """Why its part is not opened with these parties, empty if it is; MessageError if they cannot be."""
        holders, parties = pending.origin.job.holders, tuple(request.with_parties)
        if len(set(parties)) != len(parties) or self._node.name not in parties or not set(parties) <= set(holders):
            raise MessageError("the holders of a request are not those of the model", party=bank)
        if request.bands_hash != (b"" if pending.bands is None else pending.bands.sha256):
            raise MessageError("a request to open is for another output than its record was encrypted for", party=bank)
        if pending.bands is not None and parties[0] != next(h for h in holders if h in parties):
            raise MessageError("the lead of a band is the first of the model's holders that take part", party=bank)
        if set(parties) != set(holders) and not self._node.policy.online_without_others:
            return f"{self._node.name} opens its part only together with all holders of the model"
        return ""


def _check_record(request: pb.EncryptRecord, bank: str) -> None:
    _check_id(request.request_id, bank)
    check_commitment(request.commitment, bank)
    optional = {len(request.part_hash), len(request.bands_hash)}
    if (len(request.model_hash), len(request.map_hash)) != (32, 32) or not optional <= {0, 32}:
        raise MessageError("a hash in the bank's request has the wrong length", party=bank)
    if not 0 < len(request.firm_id) <= 100 or len(request.purpose) > 200 or request.on_missing not in ON_MISSING:
        raise MessageError("firm id, purpose or on_missing of a request is empty, too long or unknown", party=bank)


def _check_id(request_id: str, bank: str) -> str:
    if not (0 < len(request_id) <= 100 and request_id.isascii() and request_id.isprintable()):
        raise ProtocolError("a request id is 1 to 100 printable ASCII characters", party=bank)
    return request_id


def _digest(*fields: bytes) -> bytes:
    return hashlib.sha256(pack_fields(*fields)).digest()
