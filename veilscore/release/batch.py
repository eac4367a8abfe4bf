"""A holder checks a batch three times: consent lists before alignment, coverage before it codes, the ledger at opening.

A refusal follows from what the bank sent alone: its lists, its number of rows, its row digests. What depends on a firm
that the holder knows (no consent on the lists, consent that ended since, a budget that is used up) refuses nothing:
the firm is scored as one that is unknown, and the holder's own people find it in `withheld.json` of the job, by the
digest that `veilscore account firm` makes of an id. What counts is the moment at which the holder codes its rows; a
consent that ends in the seconds between that and the opening ends with the next batch.

Messages : BatchConsent (bank to each holder): the consent lists the bank has for the job's purpose, task and model.
Reveals  : to a holder, which firms it can guess are on the lists (see `veilscore.release.consent`).
Aborts   : RefusedError at the holder, told to the others without a firm or a count.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import structlog
from google.protobuf.message import Message
from numpy.typing import NDArray

from veilscore.arrays import CodeArray, Integers, Mask
from veilscore.errors import ConfigError, MessageError, RefusedError
from veilscore.files.store import JobStore
from veilscore.release.budget import ReleaseBudget
from veilscore.release.consent import Ask, Consent, Signed, body_of, claim_of
from veilscore.release.gate import MAX_LISTS, ConsentGate
from veilscore.release.ledger import (
    BATCH,
    EVALUATION,
    EXACT_BITS,
    LEDGER,
    WATCH,
    Release,
    ReleaseLedger,
    counted_map,
)
from veilscore.release.pseudonyms import RowDigests, firm_digest
from veilscore.terms.bands import Bands
from veilscore.terms.job import Job
from veilscore.terms.parameters import AppliesModel
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
Ids = Callable[[], NDArray[np.str_]]
MAX_BYTES = 1 << 30  # of all lists; the longest that there may be has half of it
OPENING = (score_pb2.BatchHolderPartial, score_pb2.BandHolderPartial, score_pb2.BandLeadTables)
_COUNT_BYTES = 8
WITHHELD = "withheld"  # of a job: digests of known firms that were scored as unknown, by reason


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
    return Ask(job.purpose, job.task, job.bank, job.of(AppliesModel).applied, time.time() if at_s is None else at_s)


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


@dataclass(frozen=True)
class BatchOpening:
    """What a batch or a hold-out opens, as a holder's ledger sees it.

    rows : (n_samples,) which are scored.
    model : hash that the bank states, of a model or a decision.
    code_map : hash of the holder's code map, or of all that are applied.
    n_columns : of the holder in it.
    bands : steps or bands that are opened; None where totals are, or a decision.
    bits : the most that is told of a firm, where `bands` do not say so; in a watch, in a contract year.
    watch : a month of a watch is opened; `rows` are those whose contract year begins.
    inputs : the bank's digest of what it puts into a batch itself.
    codes : (n_scored, n_columns) of the holder, once they are known.
    """

    rows: Mask
    model: bytes
    code_map: bytes
    n_columns: int
    bands: Bands | None = None
    bits: float = EXACT_BITS
    watch: bool = False
    inputs: bytes = b""
    codes: CodeArray | None = field(default=None, repr=False)


class BatchGuard:
    """Holds one attempt at scoring many firms against a holder's policy; `home` is the holder's."""

    def __init__(self, home: Path, policy: NodePolicy, job: Job, session: Session) -> None:
        self._home = home
        self._policy = policy
        self._job = job
        self._session = session
        self._training = not isinstance(job.parameters, AppliesModel)
        self._counts = policy.release.control == "on"
        self._needed = not self._training and policy.consent == "required"
        self._gate = ConsentGate(home, required=self._needed, issuers=dict(policy.consent_issuers))
        self._log = structlog.get_logger("veilscore.release").bind(party=session.party, session=session.id)

    def receive_consents(self) -> Protocol[tuple[Consent, ...]]:
        """Return, before alignment, the bank's lists, verified; training needs none."""
        if self._training:
            return ()
        return (yield from holder_receive_lists(self._session, self._gate, ask_of(self._job)))

    def keep(
        self,
        store: JobStore,
        consents: Sequence[Consent],
        ids: NDArray[np.str_],
        row_of: Integers,
        digests: RowDigests | None,
    ) -> None:
        """Save, after alignment, what scoring needs.

        ids : (n_own,) normalised ids of the firms of the rows of the holder's data set.
        row_of : (n_samples,) row of each of the bank's firms in it, -1 for unknown ones.
        digests : of the bank's rows, in a job that opens single firms or exact sums.
        """
        known = row_of >= 0
        if digests is not None:
            firms = np.zeros(row_of.size, np.uint64)
            with contextlib.closing(self._ledger()) as ledger:
                firms[known] = ledger.firms(ids[row_of[known]].tolist())
                if not ledger.same_key(self._session.bank, digests.key_id):
                    self._log.warning("the bank's digests of rows have another key than before: ask it for an audit")
            store.save_arrays("firms", firms=firms, rows=digests.values)
            store.save_json(WITHHELD, {})  # always there: statements on a job name its files
        covered = np.zeros((len(consents), row_of.size), bool)
        for number, consent in enumerate(consents):
            covered[number, known] = consent.covers(ids[row_of[known]].tolist())
        store.save_arrays("covered", by_list=covered)
        kept = [{"id": c.id, "expires_s": c.scope.expires_s, "salt": c.salt.hex()} for c in consents]
        store.save_json("consents", kept)

    def consented(self, store: JobStore, ids: Ids, row_of: Integers) -> Integers:
        """Return `row_of` with the firms as unknown that have no consent now; `ids` reads those of `keep`."""
        if not self._needed:
            return row_of
        by_list, found = store.load_arrays("covered")["by_list"], np.zeros(row_of.size, bool)
        for covered, kept in zip(by_list, store.load_json("consents"), strict=True):
            if time.time() < kept["expires_s"]:
                at = np.flatnonzero(covered)
                found[at] |= ~self._gate.revoked_of(kept["id"], bytes.fromhex(kept["salt"]), ids()[row_of[at]])
        return self.withhold(store, "no consent", ids, row_of, (row_of >= 0) & ~found)

    def within_budget(self, store: JobStore, ids: Ids, row_of: Integers, opening: BatchOpening) -> Integers:
        """Return `row_of` with the firms as unknown that were released as often as the policy allows."""
        if not self._counts:
            return row_of
        with contextlib.closing(self._ledger()) as ledger:
            release = self._release(ledger, store, row_of >= 0, opening)
            used_up = self._budget(ledger, opening).used_up(release)
        over = opening.rows & (row_of >= 0) & np.isin(store.load_arrays("firms")["firms"], used_up)
        return self.withhold(store, "release budget used up", ids, row_of, over)

    def withhold(self, store: JobStore, reason: str, ids: Ids, row_of: Integers, withheld: Mask) -> Integers:
        """Return `row_of` with these firms as unknown, and tell the holder's own people alone."""
        withheld = withheld & (row_of >= 0)
        if not withheld.any():
            return row_of
        firms = [firm_digest(self._home, firm) for firm in ids()[row_of[withheld]].tolist()]
        store.save_json(WITHHELD, store.load_json(WITHHELD) | {reason: sorted(firms)})
        self._log.warning("firms are scored as unknown", reason=reason, firms=len(firms), listed=f"{WITHHELD}.json")
        return np.where(withheld, -1, row_of)

    def check_release(self, store: JobStore, opening: BatchOpening) -> None:
        """Refuse, before anything is computed, what may not be scored, with a reason that the bank may learn."""
        stated = None if self._training else self._job.of(AppliesModel).applied_sha256
        if stated not in {None, opening.model.hex()}:
            raise RefusedError(f"model version differs from the approved job's, which says {str(stated)[:16]}")
        if self._counts:
            with contextlib.closing(self._ledger()) as ledger:
                if not self._training:
                    ledger.pin_model(self._session.id.split("/", maxsplit=1)[0], opening.model.hex())
                release = self._release(ledger, store, np.zeros_like(opening.rows), opening)
                self._budget(ledger, opening).check_batch(release)

    def counted(self, protocol: Protocol[R], store: JobStore, known: Mask, opening: BatchOpening) -> Protocol[R]:
        """Run the scoring protocol, writing it into the ledger before the opened share leaves.

        known : (n_samples,) rows with a record here that counts.
        """

        def admit() -> None:
            if self._counts:
                with contextlib.closing(self._ledger()) as ledger:
                    self._budget(ledger, opening).admit(self._release(ledger, store, known, opening))

        return (yield from before_sending(protocol, OPENING, admit))

    def _release(self, ledger: ReleaseLedger, store: JobStore, known: Mask, opening: BatchOpening) -> Release:
        bands, inputs, rows = opening.bands, opening.inputs, opening.rows
        cut_offs = b"" if bands is None else bands.sha256
        saved = store.load_arrays("firms")
        firms, places = np.unique(saved["firms"][rows & known], return_index=True)
        records = np.zeros(0, np.uint64)
        # of firms at dates a firm is opened as often as it has rows, known here or not, and none of it is a repeat
        n_opened = int(np.unique(saved["rows"][rows], return_counts=True)[1].max(initial=1))
        inputs = b"" if n_opened > 1 else inputs
        if inputs and opening.codes is not None:
            records = ledger.record_digests(firms, inputs, opening.codes[known[rows]][places])
        return Release(
            kind=EVALUATION if self._training else WATCH if opening.watch else BATCH,
            bank=self._session.bank,
            reference=f"{self._session.bank}/{self._session.id}",
            model=opening.model.hex(),
            code_map=counted_map(opening.code_map, cut_offs),
            firms=firms,
            band=self._job.parameters.opens == "band",
            bits=min(EXACT_BITS, n_opened * (opening.bits if bands is None else bands.bits)),
            rows=np.unique(saved["rows"][rows]),
            inputs=inputs,
            records=records,
        )

    def _budget(self, ledger: ReleaseLedger, opening: BatchOpening) -> ReleaseBudget:
        return ReleaseBudget(ledger, self._policy.release, opening.n_columns)

    def _ledger(self) -> ReleaseLedger:
        return ReleaseLedger(self._home / LEDGER)
