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
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog
from google.protobuf.message import Message
from numpy.typing import NDArray

from veilscore.arrays import CodeArray, Integers, Mask
from veilscore.errors import ConfigError, IdentityError, MessageError, RefusedError
from veilscore.files.store import JobStore
from veilscore.models.decided import load_decision
from veilscore.release.basis import FOLDER as BASES
from veilscore.release.basis import InForce, in_force
from veilscore.release.budget import ReleaseBudget
from veilscore.release.consent import Consent, Signed, body_of, claim_of
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
from veilscore.release.scope import BITS_SLACK, Ask
from veilscore.terms.bands import Bands
from veilscore.terms.federation import load_federation
from veilscore.terms.job import Job
from veilscore.terms.node_config import load_node_config
from veilscore.terms.parameters import AppliesModel
from veilscore.terms.policy import NodePolicy, utc_today
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
DECIDE, PROACTIVE = "decide", "proactive"
WITHHELD = "withheld"  # of a job: digests of known firms that were scored as unknown, by reason


def lists_in(home: Path, job: Job, at_s: float | None = None) -> tuple[bytes, ...]:
    """Return the consent lists in a bank's HOME/consents/lists that say they cover the job at a time (default now).

    They come newest first, as they travel.
    """
    ask = replace(ask_of(job, at_s), bits=_bits_of(home, job))
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


def _bits_of(home: Path, job: Job) -> float:
    """Return what the decision in use at a bank tells of a firm; 0 of a score, and where there is none to say it."""
    with contextlib.suppress(ConfigError):
        return load_decision(home, job.of(AppliesModel).applied).decision.bits if job.task == DECIDE else 0.0
    return 0.0


def bank_send_lists(session: Session, lists: Sequence[bytes]) -> Protocol[None]:
    """Send the bank's lists to every holder, also where there is none."""
    data = len(lists).to_bytes(_COUNT_BYTES, "little") + pack_fields(*lists)
    for holder in session.holders:
        yield from send_parts(holder, score_pb2.BatchConsent, data)


def holder_receive_lists(session: Session) -> Protocol[tuple[bytes, ...]]:
    """Receive the bank's lists at a holder, which has yet to verify them."""
    data = yield from receive_parts_within(session.bank, score_pb2.BatchConsent, MAX_BYTES)
    n = int.from_bytes(data[:_COUNT_BYTES], "little")
    if n > MAX_LISTS:
        raise MessageError(f"{n} consent lists, at most {MAX_LISTS}", party=session.bank)
    return unpack_fields(data[_COUNT_BYTES:], n)


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
    firms : in a month of a watch, the rows whose firms are charged if they are known; `rows` are those that count for
        what is refused; both are where a contract year begins, and `codes` are of `firms` alone.
    inputs : digest of what the bank puts into a batch (`BatchGuard.put_in`).
    codes : (n_scored, n_columns) of the holder, once they are known.
    """

    rows: Mask
    model: bytes
    code_map: bytes
    n_columns: int
    bands: Bands | None = None
    bits: float = EXACT_BITS
    firms: Mask | None = None
    inputs: bytes = b""
    codes: CodeArray | None = field(default=None, repr=False)

    @property
    def firm_rows(self) -> Mask:
        """Return the rows whose firms are charged if they are known, (n_samples,)."""
        return self.rows if self.firms is None else self.firms


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
        self._gate = ConsentGate.of(home, policy, required=self._needed)
        self._lists: tuple[bytes, ...] = ()  # as the bank sent them, until they are kept
        self._basis: InForce | None = None  # what covers firms without a list, once it is held against the decision
        self._log = structlog.get_logger("veilscore.release").bind(party=session.party, session=session.id)

    def receive_consents(self) -> Protocol[tuple[Consent, ...]]:
        """Return, before alignment, the bank's lists, verified; training needs none.

        RefusedError where one is not for this batch, or none is there and no basis covers the batch.
        """
        if self._training:
            return ()
        self._lists = yield from holder_receive_lists(self._session)
        if not self._lists and self._basis_now() is not None:
            return ()
        return self._gate.check_lists(self._lists, replace(ask_of(self._job), holder=self._session.party))

    def _basis_now(self) -> InForce | None:
        """Return the basis that two stewards filed for this decision, if there is one and it holds today."""
        if not self._needed or self._job.task != DECIDE or self._job.purpose != PROACTIVE:
            return None
        if not (self._home / BASES).is_dir():
            return None
        decision = self._job.of(AppliesModel).applied
        try:
            node = load_node_config(self._home)
            federation = load_federation(node.federation)
            return in_force(self._home, node, federation, self._session.bank, decision, utc_today())
        except (ConfigError, IdentityError) as error:  # as if there were none, and the stewards see why
            self._log.error("a basis does not hold", decision=decision, message=error.message)
            return None

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
        sent = b"".join(sorted({hashlib.sha256(one).digest() for one in self._lists}))  # in whatever order they came
        store.save_arrays("covered", by_list=covered, lists=np.frombuffer(hashlib.sha256(sent).digest(), np.uint8))
        kept = [
            {"id": c.id, "expires_s": c.scope.expires_s, "salt": c.salt.hex(), "bits": c.scope.bits} for c in consents
        ]
        store.save_json("consents", kept)

    def put_in(self, store: JobStore, inputs: bytes) -> bytes:
        """Return a digest of `inputs` and of what else the bank chose that other holders' parts depend on.

        A repeat is free where it stays the same: with a list less, or another data set, another holder would not know
        a firm whose record here is as before, and the outcome would tell of that record anew. It holds what the bank
        itself stated and nothing that this holder knows, since refusals follow from it.
        """
        if not inputs:
            return b""
        job, lists = self._job, store.load_arrays("covered")["lists"].tobytes()
        chosen = json.dumps([job.purpose, sorted(job.holders), sorted(job.datasets.items())])
        return hashlib.sha256(
            b"veilscore/put in/v1" + hashlib.sha256(inputs).digest() + lists + chosen.encode()
        ).digest()

    def consented(self, store: JobStore, ids: Ids, row_of: Integers) -> Integers:
        """Return `row_of` with the firms as unknown that have no consent now; `ids` reads those of `keep`."""
        if not self._needed:
            return row_of
        by_list, found = store.load_arrays("covered")["by_list"], np.zeros(row_of.size, bool)
        for covered, kept in zip(by_list, store.load_json("consents"), strict=True):
            if time.time() < kept["expires_s"]:
                at = np.flatnonzero(covered)
                found[at] |= ~self._gate.revoked_of(
                    kept["id"], bytes.fromhex(kept["salt"]), ids()[row_of[at]], self._session.bank
                )
        if self._basis is not None:
            known = np.flatnonzero(row_of >= 0)
            found[known] |= self._basis.covers(ids()[row_of[known]])
        return self.withhold(store, "no consent", ids, row_of, (row_of >= 0) & ~found)

    def within_budget(self, store: JobStore, ids: Ids, row_of: Integers, opening: BatchOpening) -> Integers:
        """Return `row_of` with the firms as unknown that were released as often as the policy allows."""
        if not self._counts:
            return row_of
        with contextlib.closing(self._ledger()) as ledger:
            release = self._release(ledger, store, row_of >= 0, opening)
            used_up = self._budget(ledger, opening).used_up(release)
        over = opening.firm_rows & (row_of >= 0) & np.isin(store.load_arrays("firms")["firms"], used_up)
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
        if self._needed and self._job.task == DECIDE:
            self._check_consents(store.load_json("consents"), opening)
        if self._counts:
            with contextlib.closing(self._ledger()) as ledger:
                if not self._training:
                    ledger.pin_model(self._session.id.split("/", maxsplit=1)[0], opening.model.hex())
                release = self._release(ledger, store, np.zeros_like(opening.rows), opening)
                self._budget(ledger, opening).check_batch(release)

    def _check_consents(self, lists: Sequence[Mapping[str, Any]], opening: BatchOpening) -> None:
        """Refuse a decision that tells more than a list allows; without a list, one that no basis covers."""
        for kept in lists:
            if opening.bits > kept["bits"] + BITS_SLACK:
                raise RefusedError(
                    f"a consent list allows {kept['bits']:g} bits, and this decision tells {opening.bits:.3g}"
                )
        self._basis = self._basis_now()
        if self._basis is None:
            if not lists:
                raise RefusedError("the basis that covered this batch has ended: it needs consent lists")
            return
        try:
            self._basis.check(opening.model, opening.bits)
        except RefusedError:
            if not lists:
                raise
            self._basis = None

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
        of_firms = opening.firm_rows
        firms, places = np.unique(saved["firms"][of_firms & known], return_index=True)
        records = np.zeros(0, np.uint64)
        # of firms at dates a firm is opened as often as it has rows, known here or not, and none of it is a repeat
        n_opened = int(np.unique(saved["rows"][rows], return_counts=True)[1].max(initial=1))
        inputs = b"" if n_opened > 1 else inputs
        if inputs and opening.codes is not None:
            records = ledger.record_digests(firms, inputs, opening.codes[known[of_firms]][places])
        return Release(
            kind=EVALUATION if self._training else BATCH if opening.firms is None else WATCH,
            bank=self._session.bank,
            reference=f"{self._session.bank}/{self._session.id}",
            model=opening.model.hex(),
            code_map=counted_map(opening.code_map, cut_offs),
            firms=firms,
            band=self._job.parameters.opens == "band",
            bits=n_opened * (opening.bits if bands is None else bands.bits),
            rows=np.unique(saved["rows"][rows]),
            inputs=inputs,
            records=records,
        )

    def _budget(self, ledger: ReleaseLedger, opening: BatchOpening) -> ReleaseBudget:
        return ReleaseBudget(ledger, self._policy.release, opening.n_columns)

    def _ledger(self) -> ReleaseLedger:
        return ReleaseLedger(self._home / LEDGER)
