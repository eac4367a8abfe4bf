"""Month after month of a watch: where its labels are kept, which firms are charged, and whether links are true.

    jobs/JOB/levels.npz     bank: the label of each bit of each firm's step; lead: both, by the false one and the offset
    jobs/JOB/watched.json   which decision it was, by name and hash, for which bank; at the bank also ids, row by row
    jobs/JOB/charged.npz    holder: when each row was charged, as a row and as a firm, and its openings since then
    jobs/JOB/continued.json holder: the one job, with which inputs of the bank's, that went on from this month
    jobs/JOB/read.npz       holder: the codes of all rows that the first attempt opened anything of

A contract year of a firm is charged when its watch begins, and again after a year or after twelve openings. A month is
continued once, by attempts of one job with the same inputs: from two that go on from the same month with different
ones a bank would learn more than levels that rise. Of jobs in flight together the first that sends anything of its
month goes on, the others are refused. A later attempt goes by what the first one read, since records that changed in
between (of a database, whose changes nothing shows, or with a consent) would give another level for nothing. A start is
free to attempts of its own job alone (others are charged), and a new version of a decision starts a watch of its own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import CodeArray, Integers, Mask, Vector
from veilscore.crypto.tweaked_hash import Labels
from veilscore.errors import ConfigError, RefusedError, StateError
from veilscore.files.store import JobStore
from veilscore.models.decided import FiledDecision
from veilscore.protocols.decision import DecisionRequest
from veilscore.protocols.decision_circuit import DecisionCircuit
from veilscore.protocols.decision_watch import BankLevels, LeadLevels
from veilscore.release.batch import OPENING, before_sending
from veilscore.tasks.context import StepContext
from veilscore.terms.decide import Decide
from veilscore.terms.decision import WATCH_MONTHS
from veilscore.v1 import score_pb2
from veilscore.wire.protocol import Protocol

LEVELS, WATCHED, CHARGED, CONTINUED, READ = "levels", "watched", "charged", "continued", "read"
_CODES = "codes "  # before the name of a measure
YEAR_S = 365 * 86400.0
R = TypeVar("R")
_LEAVES = (score_pb2.DecisionLeadLevels, *OPENING)  # what a month is gone on by


def _last_store(context: StepContext, last: str) -> JobStore | None:
    """Return the files of last month's job at this party; None where there are none of it."""
    folder = context.home() / "jobs" / last
    return JobStore(folder) if (folder / f"{WATCHED}.json").is_file() else None


def _same_watch(context: StepContext, store: JobStore, filed: FiledDecision) -> bool:
    said = store.load_json(WATCHED)
    return all(said.get(key) == value for key, value in _said(context, filed).items())


def _said(context: StepContext, filed: FiledDecision) -> dict[str, object]:
    return {"decision": context.job.of(Decide).decision, "bank": context.job.bank, "sha256": filed.sha256.hex()}


# --- bank ------------------------------------------------------------------------------------------------------------


def bank_levels(context: StepContext, filed: FiledDecision, ids: NDArray[np.str_]) -> tuple[BankLevels, Integers]:
    """Bank: return its labels of last month, and each row's number there from 1 on (0: new); none in the first month.

    Raises ConfigError where the job before is not of this watch.
    """
    circuit, last = DecisionCircuit.of(filed), context.job.of(Decide).last
    if last is None:
        return BankLevels(circuit.step_bits), np.zeros(0, np.int64)
    store = _last_store(context, last)
    if store is None or not _same_watch(context, store, filed):
        raise ConfigError(
            f"last: job {last} is no month of this watch here; leave it out to begin anew (which is charged)"
        )
    place = {firm: number for number, firm in enumerate(store.load_json(WATCHED)["ids"], start=1)}
    links = np.array([place.get(firm, 0) for firm in ids.tolist()], np.int64)
    return BankLevels(circuit.step_bits, store.load_arrays(LEVELS)["labels"]), links


def keep_bank_levels(context: StepContext, levels: BankLevels, filed: FiledDecision, ids: NDArray[np.str_]) -> None:
    """Bank: keep this month's labels for the next."""
    context.store.save_arrays(LEVELS, labels=levels.labels)
    context.store.save_json(WATCHED, {**_said(context, filed), "ids": ids.tolist()})


# --- holder ----------------------------------------------------------------------------------------------------------


@dataclass
class Charged:
    """When rows of a watch were charged, (n_rows,), and how often they were opened since then; 0: not at all."""

    since: Vector
    openings: Integers

    @property
    def due(self) -> Mask:
        """Return whose contract year is over, or never began."""
        return (time.time() - self.since >= YEAR_S) | (self.openings >= WATCH_MONTHS)

    def linked(self, links: Integers, wrong: Mask) -> Charged:
        """Return the same for the rows of this month, those that are new or wrongly linked as not charged."""
        found = Charged(np.zeros(links.size), np.zeros(links.size, np.int64))
        held = (links > 0) & ~wrong
        found.since[held], found.openings[held] = self.since[links[held] - 1], self.openings[links[held] - 1]
        return found

    def opened(self, counted: Mask) -> Charged:
        """Return the same after this month's opening of the rows that are counted."""
        begins = counted & self.due
        since = np.where(begins, time.time(), self.since)
        return Charged(since, np.where(begins, 1, self.openings + counted))


@dataclass
class HolderWatch:
    """A month of a watch at a holder.

    rows, firms : charged by the bank's rows (for what is refused), and by the firms that are known here.
    wrong : (n_rows,) whose link is to another firm; they count as unknown.
    inputs : digest of the job and of all that the bank puts into this month, its links among it.
    levels : at the lead.
    """

    rows: Charged
    firms: Charged
    wrong: Mask
    inputs: bytes
    levels: LeadLevels | None
    last: JobStore | None = field(repr=False)

    @classmethod
    def begin(cls, context: StepContext, filed: FiledDecision, request: DecisionRequest) -> HolderWatch:
        """Return a month that follows the one that the bank names; RefusedError where it cannot.

        What is refused follows from the bank's rows alone, never from which firms are known here.
        """
        links = request.links if request.last else np.zeros(request.n_rows, np.int64)
        jobs = f"{context.job_id}\0{request.last}\0".encode()
        inputs = hashlib.sha256(request.inputs + jobs + links.astype("<u4").tobytes()).digest()
        if request.last != (context.job.of(Decide).last or ""):
            raise RefusedError("the month before is not the one that the job names")
        circuit, last = DecisionCircuit.of(filed), None
        wrong = np.zeros(request.n_rows, bool)
        rows = firms = Charged(np.zeros(request.n_rows), np.zeros(request.n_rows, np.int64))
        before, offset = None, None
        if request.last:
            last = _last_month(context, request.last, filed, inputs)
            kept = last.load_arrays(CHARGED)
            if links.max() > kept["since"].size or np.unique(links[links > 0]).size < (links > 0).sum():
                raise RefusedError("links to the month before are not those of rows that it had, each once")
            wrong = _wrong(context.store, last, links)
            rows = Charged(kept["since"], kept["openings"]).linked(links, wrong)
            firms = Charged(kept["firm_since"], kept["firm_openings"]).linked(links, wrong)
            before, offset = _labels(context, last)
        lead = context.session.party == context.session.lead
        levels = LeadLevels(circuit.step_bits, circuit.n_steps, before, offset) if lead else None
        return cls(rows, firms, wrong, inputs, levels, last)

    def noted(
        self, context: StepContext, protocol: Protocol[R], known: Mask, codes: Mapping[str, CodeArray]
    ) -> Protocol[R]:
        """Run the protocol of this month, noting before anything of it leaves what goes on, and what was read for it.

        known : (n_rows,) rows whose records count; codes : of all rows by measure.
        """

        def note() -> None:
            self.going_on(context)
            if read_before(context) is None:
                context.store.save_arrays(READ, known=known, **{_CODES + name: one for name, one in codes.items()})

        return before_sending(protocol, _LEAVES, note)

    def going_on(self, context: StepContext) -> None:
        """Note at the month before what goes on from it; RefusedError where something else did in the meantime."""
        if self.last is not None:
            said = self.last.keep_first_json(CONTINUED, {"by": context.job_id, "inputs": self.inputs.hex()})
            _refuse_another(context, self.last, said, self.inputs)

    def keep(self, context: StepContext, filed: FiledDecision, known: Mask) -> None:
        """Keep what the next month needs; known : (n_rows,) the firms whose records counted.

        A firm that did not count has told nothing: it is charged when it does.
        """
        rows, firms = self.rows.opened(np.ones_like(known)), self.firms.opened(known)
        context.store.save_arrays(
            CHARGED,
            since=rows.since,
            openings=rows.openings,
            firm_since=firms.since,
            firm_openings=firms.openings,
        )
        if self.levels is not None:
            context.store.save_arrays(LEVELS, labels=self.levels.labels, offset=self.levels.offset)
        context.store.save_json(WATCHED, _said(context, filed))


def read_before(context: StepContext) -> tuple[Mask, dict[str, CodeArray]] | None:
    """Return which rows counted, and codes by measure, as an earlier attempt read them; None for the first."""
    if not (context.store.path / f"{READ}.npz").is_file():
        return None
    kept = context.store.load_arrays(READ)
    return kept.pop("known"), {name.removeprefix(_CODES): codes for name, codes in kept.items()}


def _last_month(context: StepContext, last: str, filed: FiledDecision, inputs: bytes) -> JobStore:
    """Return the files of the month before; RefusedError where it is none, or something else goes on from it."""
    store = _last_store(context, last)
    if store is None or not _same_watch(context, store, filed):
        raise RefusedError(f"job {last} is no month of this watch here; begin it anew (last: null)")
    if (store.path / f"{CONTINUED}.json").is_file():
        _refuse_another(context, store, store.load_json(CONTINUED), inputs)
    return store


def _refuse_another(context: StepContext, last: JobStore, said: Any, inputs: bytes) -> None:
    if said["by"] != context.job_id:
        raise RefusedError(f"job {last.path.name} was continued by another one; name that one, or begin anew")
    if said["inputs"] != inputs.hex():
        raise RefusedError(f"job {last.path.name} was continued with other rows or inputs of the bank's: restore those")


def _wrong(store: JobStore, last: JobStore, links: Integers) -> Mask:
    """Return whose link is to a row that the bank's digests, or this holder's own records, say is another firm."""
    now, then = store.load_arrays("firms"), last.load_arrays("firms")
    wrong, linked = np.zeros(links.size, bool), np.flatnonzero(links)
    there = links[linked] - 1
    firms, firms_then = now["firms"][linked], then["firms"][there]
    both = (firms != 0) & (firms_then != 0)  # zero stands for a firm that is not known here
    wrong[linked] = (now["rows"][linked] != then["rows"][there]) | (both & (firms != firms_then))
    return wrong


def _labels(context: StepContext, last: JobStore) -> tuple[Labels | None, Labels | None]:
    if context.session.party != context.session.lead:
        return None, None
    if not (last.path / f"{LEVELS}.npz").is_file():
        raise RefusedError("was not the first holder of the month before: keep the order of holders")
    kept = last.load_arrays(LEVELS)
    if set(kept) != {"labels", "offset"}:
        raise StateError(f"{last.path / LEVELS}.npz is damaged; restore it from backup")
    return kept["labels"], kept["offset"]
