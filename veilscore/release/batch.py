"""A holder checks a batch three times: consent lists before alignment, coverage after it, the ledger before opening.

Messages : BatchConsent (bank to each holder): the consent lists the bank has for the job's purpose, task and model.
Reveals  : to a holder, which firms it can guess are on the lists (see `veilscore.release.consent`).
Aborts   : RefusedError at the holder, told to the others without a firm or a count.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from veilscore.arrays import Integers, Mask
from veilscore.data.codes import CodeMap
from veilscore.errors import ConfigError, MessageError, RefusedError
from veilscore.files.store import JobStore
from veilscore.release.budget import ReleaseBudget
from veilscore.release.consent import Ask, Consent, Signed, body_of, claim_of
from veilscore.release.gate import MAX_LISTS, ConsentGate
from veilscore.release.ledger import BATCH, EVALUATION, Release, ReleaseLedger, counted_map
from veilscore.terms.bands import Bands
from veilscore.terms.job import Job
from veilscore.terms.parameters import ScoreBatch
from veilscore.terms.policy import NodePolicy
from veilscore.terms.settings import read_text
from veilscore.v1 import score_pb2
from veilscore.wire.protocol import (
    Protocol,
    Send,
    Session,
    pack_fields,
    receive_parts_within,
    send_parts,
    unpack_fields,
)

R = TypeVar("R")
MAX_BYTES = 1 << 30  # of all lists; the longest that there may be has half of it
OPENING = (score_pb2.BatchHolderPartial, score_pb2.BandHolderPartial, score_pb2.BandLeadTables)
_COUNT_BYTES = 8


def lists_in(home: Path, job: Job, at_s: float | None = None) -> tuple[bytes, ...]:
    """Return the consent lists in a bank's HOME/consents/lists that say they cover the job at a time (default now).

    They come newest first, as they travel.
    """
    ask = ask_of(job, at_s)
    folder = home / "consents" / "lists"
    paths = sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True) if folder.is_dir() else []
    found = []
    for path in paths:
        signed = Signed.from_text(read_text(path, "consent list"), str(path))
        if body_of(signed)["kind"] != "list":
            raise ConfigError(f"{path} is not a consent list: move it away")
        if not ask.refusal(claim_of(signed).scope, ""):
            found.append(signed.to_message().SerializeToString())
    return tuple(found[:MAX_LISTS])


def ask_of(job: Job, at_s: float | None = None) -> Ask:
    """Return what a batch job asks for, at a time (default now)."""
    return Ask(job.purpose, job.task, job.bank, job.of(ScoreBatch).model, time.time() if at_s is None else at_s)


def bank_send_lists(session: Session, lists: Sequence[bytes]) -> Protocol[None]:
    """Send the bank's lists to every holder, also where there is none."""
    data = len(lists).to_bytes(_COUNT_BYTES, "little") + pack_fields(*lists)
    for holder in session.holders:
        yield from send_parts(holder, score_pb2.BatchConsent, data)


def holder_receive_lists(session: Session, gate: ConsentGate, ask: Ask) -> Protocol[tuple[Consent, ...]]:
    """Receive and verify the lists at a holder; RefusedError where there is none, or one is not for this batch."""
    data = yield from receive_parts_within(session.bank, score_pb2.BatchConsent, MAX_BYTES)
    n = int.from_bytes(data[:_COUNT_BYTES], "little")
    if n > MAX_LISTS:
        raise MessageError(f"{n} consent lists, at most {MAX_LISTS}", party=session.bank)
    return gate.check_lists(unpack_fields(data[_COUNT_BYTES:], n), ask)


def check_covered(gate: ConsentGate, consents: Sequence[Consent], ids: NDArray[np.str_]) -> None:
    """Refuse a batch with a firm of this holder that no list covers; `ids` are those of the matched rows."""
    if not gate.covered(consents, ids).all():
        raise RefusedError("at least one firm of the batch has no valid consent; leave it out or bring its consent")


def before_sending(protocol: Protocol[R], kinds: tuple[type[Message], ...], act: Callable[[], None]) -> Protocol[R]:
    """Run `protocol` and call `act` once, just before its first message of these kinds leaves."""
    answer: Message | None = None
    acted = False
    try:
        while True:
            try:
                command = protocol.send(answer)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            if not acted and isinstance(command, Send) and isinstance(command.message, kinds):
                act()
                acted = True
            answer = yield command
    finally:
        protocol.close()


class BatchGuard:
    """Holds one attempt at scoring many firms against a holder's policy; `home` is the holder's."""

    def __init__(self, home: Path, policy: NodePolicy, job: Job, session: Session) -> None:
        self._home = home
        self._policy = policy
        self._job = job
        self._session = session
        self._training = job.task != "score_batch"
        self._counts = policy.release.control == "on"
        self._needed = not self._training and policy.consent == "required"
        self._gate = ConsentGate(home, required=self._needed, issuers=dict(policy.consent_issuers))

    def receive_consents(self) -> Protocol[tuple[Consent, ...]]:
        """Return, before alignment, the bank's lists, verified; training needs none."""
        if self._training:
            return ()
        return (yield from holder_receive_lists(self._session, self._gate, ask_of(self._job)))

    def keep(self, store: JobStore, consents: Sequence[Consent], ids: NDArray[np.str_], row_of: Integers) -> None:
        """Refuse, after alignment, firms without consent, then save what scoring needs.

        ids : (n_own,) normalised ids of the holder's data set.
        row_of : (n_samples,) row of each of the bank's firms in it, -1 for unknown ones.
        """
        known = row_of >= 0
        if self._needed:
            check_covered(self._gate, consents, ids[row_of[known]])
        if self._counts:
            firms = np.zeros(row_of.size, np.uint64)
            with contextlib.closing(self._ledger()) as ledger:
                firms[known] = ledger.firms(ids[row_of[known]].tolist())
            store.save_arrays("firms", firms=firms)
        store.save_json("consents", [{"id": c.id, "expires_s": c.scope.expires_s} for c in consents])

    def check_release(
        self, store: JobStore, known: Mask, model: bytes, code_map: CodeMap, bands: Bands | None = None
    ) -> None:
        """Refuse, before anything is computed, a batch that may not be scored, with a reason that the bank may learn.

        known : (n_samples,) rows that are scored and known here; bands : given where bands alone are opened.
        """
        if self._needed and not self._still_valid(store):
            raise RefusedError("consent has expired or was revoked since the batch was aligned; submit the job again")
        stated = None if self._training else self._job.of(ScoreBatch).model_sha256
        if stated not in {None, model.hex()}:
            raise RefusedError(
                f"model version differs from the approved job's (model_sha256): it says {str(stated)[:16]}"
            )
        if self._counts:
            with contextlib.closing(self._ledger()) as ledger:
                if not self._training:
                    ledger.pin_model(self._session.id.split("/", maxsplit=1)[0], model.hex())
                self._budget(ledger, code_map).check_batch(self._release(store, known, model, code_map, bands))

    def counted(
        self,
        protocol: Protocol[R],
        store: JobStore,
        known: Mask,
        model: bytes,
        code_map: CodeMap,
        bands: Bands | None = None,
    ) -> Protocol[R]:
        """Run the scoring protocol, writing it into the ledger before the opened share leaves."""

        def admit() -> None:
            if self._counts:
                with contextlib.closing(self._ledger()) as ledger:
                    self._budget(ledger, code_map).admit(self._release(store, known, model, code_map, bands))

        return (yield from before_sending(protocol, OPENING, admit))

    def _still_valid(self, store: JobStore) -> bool:
        kept = store.load_json("consents") if store.has("consents") else []
        revoked = self._gate.revoked()
        return bool(kept) and all(c["id"] not in revoked and time.time() < c["expires_s"] for c in kept)

    def _release(self, store: JobStore, known: Mask, model: bytes, code_map: CodeMap, bands: Bands | None) -> Release:
        cut_offs = b"" if bands is None else bands.sha256
        return Release(
            kind=EVALUATION if self._training else BATCH,
            bank=self._session.bank,
            reference=f"{self._session.bank}/{self._session.id}",
            model=model.hex(),
            code_map=counted_map(bytes.fromhex(code_map.hash), cut_offs),
            firms=np.unique(store.load_arrays("firms")["firms"][known]),
            band=bands is not None,
        )

    def _budget(self, ledger: ReleaseLedger, code_map: CodeMap) -> ReleaseBudget:
        return ReleaseBudget(ledger, self._policy.release, len(code_map.n_codes))

    def _ledger(self) -> ReleaseLedger:
        return ReleaseLedger(self._home / "state" / "release.db")
