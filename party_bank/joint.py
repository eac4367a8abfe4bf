"""Joint decisions as the bank's services see them: one callable from firms to steps, and what the book keeps of it.

What is asked is in the book before it is asked, under a reference (a job or request): whatever is killed in between
asks again under the same reference, so that no firm is released twice for the same.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import sqlalchemy as sa

from party_bank.book import Book, BookEntry, Row
from party_bank.book_check import covers
from party_bank.book_tables import CONSENTS, DECISIONS
from party_bank.firms import consent_for, consents_for
from veilscore.errors import BookError, ConfigError, DataError
from veilscore.terms.decision import bits_of
from veilscore.terms.settings import parse_json, read_text

ASKED, OPENED, UNKNOWN = "asked", "opened", "unknown"


@dataclass(frozen=True)
class OpenedSteps:
    """What a joint decision told.

    steps : firm -> step; None where a holder did not know it, or refused.
    model_sha256 : of the decision model; holders : who is charged; bits : to each, of each firm (of a watch, once a
        contract year).
    job : the job that opened them, "" where none is known.
    measures : firm -> the measure that bound, where holders let it be told.
    """

    steps: Mapping[str, int | None]
    model_sha256: str = ""
    holders: tuple[str, ...] = ()
    bits: float = 0.0
    job: str = ""
    measures: Mapping[str, str] = field(default_factory=dict)


class JointDecision(Protocol):
    """Decides jointly on firms; the same reference with the same firms gives the same answer, released once."""

    def __call__(self, firms: Sequence[str], *, model: str, purpose: str, reference: str) -> OpenedSteps:
        """Return the step of each firm; VeilscoreError where it cannot be done now, which is tried again later."""
        ...


@dataclass(frozen=True)
class Question:
    """What is asked of holders: the kind of decision (the consents' purpose), its model, and the reference."""

    kind: str
    model: str
    reference: str


def decide_jointly(
    book: Book, joint: JointDecision, ask: Question, firms: Sequence[str], actor: str, *, basis: str = ""
) -> dict[str, Row]:
    """Return the decisions on firms by firm; what was opened under this reference before is not asked again.

    basis : legal ground filed by two stewards, in place of consents.
    Raises BookError where a firm gave no consent for this kind of decision.
    """
    with book.writing(actor) as entry:
        found = note_question(entry, ask, firms, basis=basis)
    opening = opened_of(joint, ask, found)
    if opening is None:
        return found
    with book.writing(actor) as entry:
        return note_answer(entry, ask, opening)


def note_question(entry: BookEntry, ask: Question, firms: Sequence[str], *, basis: str = "") -> dict[str, Row]:
    """Enter what is going to be asked, and return the decisions by firm; under a known reference, what was asked then.

    It is committed before holders are asked. basis, errors : as of `decide_jointly`.
    """
    found = _decisions_of(entry, ask)
    if not found:
        given = {} if basis or not firms else _consents_of(entry, firms, ask.kind)
        rows = [_asked(ask, firm, given.get(firm), basis, entry.at_s) for firm in firms]
        ids = entry.add_all(DECISIONS, rows)
        return {row["firm"]: {**row, "id": one} for row, one in zip(rows, ids, strict=True)}
    waiting = [row for row in found.values() if row["outcome"] == ASKED]
    if waiting and not basis:
        _renew_consents(entry, ask, waiting)
        return _decisions_of(entry, ask)
    return found


def opened_of(joint: JointDecision, ask: Question, found: Mapping[str, Row]) -> OpenedSteps | None:
    """Ask holders about the firms that wait for an answer, and return it; None where none waits.

    Raises DataError for an answer that lacks one of them.
    """
    waiting = sorted(firm for firm, row in found.items() if row["outcome"] == ASKED)
    if not waiting:
        return None
    opening = joint(waiting, model=found[waiting[0]]["model"], purpose=ask.kind, reference=ask.reference)
    missing = set(waiting) - opening.steps.keys()
    if missing:
        raise DataError(
            f"the joint decision {ask.reference} lacks {len(missing)} of {len(waiting)} firms: nothing was taken "
            "over; give the steps of all firms that were asked for"
        )
    return opening


def note_answer(entry: BookEntry, ask: Question, opening: OpenedSteps) -> dict[str, Row]:
    """Enter what was opened of firms that wait, and return the decisions by firm; what is there already stays."""
    found = _decisions_of(entry, ask, locked=True)
    fresh = [_opened(row, opening) for row in found.values() if row["outcome"] == ASKED]
    entry.change_all(DECISIONS, fresh)
    return found | {row["firm"]: {**found[row["firm"]], **row} for row in fresh}


def _decisions_of(entry: BookEntry, ask: Question, *, locked: bool = False) -> dict[str, Row]:
    query = sa.select(DECISIONS).where(DECISIONS.c.kind == ask.kind, DECISIONS.c.reference == ask.reference)
    return {row["firm"]: row for row in entry.rows(query.with_for_update() if locked else query)}


def _consents_of(entry: BookEntry, firms: Sequence[str], kind: str) -> dict[str, int]:
    """Return the id of each firm's consent; BookError where one gave none."""
    given = consents_for(entry, firms, kind)
    for firm in (one for one in firms if one not in given):
        consent_for(entry, firm, kind)  # says what is missing
    return {firm: row["id"] for firm, row in given.items()}


def _renew_consents(entry: BookEntry, ask: Question, waiting: Sequence[Row]) -> None:
    """Hold what was asked and not answered against the consents of now: one may have ended, or another been given.

    Of many firms, one whose consent has ended is left out as unknown; of one alone BookError says so.
    """
    firms = [row["firm"] for row in waiting]
    given = consents_for(entry, firms, ask.kind)
    known = sa.select(CONSENTS).where(CONSENTS.c.purpose == ask.kind)
    known = known if len(firms) > 1 else known.where(CONSENTS.c.firm == firms[0])
    noted = {row["id"]: row for row in entry.rows(known)}
    for row in waiting:
        firm, before, now = row["firm"], noted.get(row["consent"]), given.get(row["firm"])
        if now is None and len(firms) == 1:
            consent_for(entry, firm, ask.kind)  # says what is missing
        elif now is None:
            why = ["its consent ended before it was decided on"]
            entry.change(DECISIONS, row["id"], outcome=UNKNOWN, reasons=why, decided_by="consent")
        elif before is None or not covers(before, firm, ask.kind, entry.at_s):
            entry.change(DECISIONS, row["id"], consent=now["id"], decided_s=entry.at_s)


def _asked(ask: Question, firm: str, consent: int | None, basis: str, at_s: float) -> Row:
    return {
        "firm": firm, "line": None, "kind": ask.kind, "reference": ask.reference, "model": ask.model,
        "model_sha256": "", "step": None, "measure": "", "holders": [], "bits": 0.0, "outcome": ASKED, "reasons": [],
        "policy": "", "policy_sha256": "", "inputs": {"basis": basis} if basis else {}, "policy_row": "",
        "decided_by": "", "consent": consent, "decided_s": at_s,
    }  # fmt: skip


def _opened(row: Row, opening: OpenedSteps) -> Row:
    step = opening.steps[row["firm"]]
    return {
        "id": row["id"],
        "firm": row["firm"],
        "step": step,
        "measure": opening.measures.get(row["firm"], ""),
        "model_sha256": opening.model_sha256,
        "holders": list(opening.holders),
        "bits": opening.bits,
        "inputs": {**row["inputs"], **({"job": opening.job} if opening.job else {})},
        "outcome": UNKNOWN if step is None else OPENED,
    }


@dataclass(frozen=True)
class DecisionsFile:
    """A joint decision whose steps a job left in a CSV file (columns `id`, `step`, perhaps `measure`, `*_status`).

    n_steps : of the decision, for the bits; holders : who took part; decision : its name, "" for any.
    job : its id, "" where the file is no job's.
    """

    path: Path
    n_steps: int
    holders: tuple[str, ...]
    decision: str = ""
    job: str = ""

    @classmethod
    def of_job(cls, folder: Path) -> Self:
        """Return what a job of task `decide` left in its folder; DataError for another folder."""
        try:
            left = parse_json(read_text(folder / "decided.json", "result of a decide job"))
            holders, decision = tuple(left["unknown"]), str(left["decision"])
            return cls(folder / "decisions.csv", len(left["steps"]) - 1, holders, decision, folder.resolve().name)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder} is no folder of a job of task decide: name HOME/jobs/JOB of the bank") from error

    def __call__(self, firms: Sequence[str], *, model: str, purpose: str, reference: str) -> OpenedSteps:
        """Return the steps in the file; DataError for another decision's, or without such columns or values.

        A firm that a holder did not know has no step, whatever the job's on_missing made of it.
        """
        if self.decision and self.decision != model:
            raise DataError(f"{self.path} is of decision {self.decision}; {reference} ({purpose}) needs {model}")
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                rows = {row["id"]: row for row in csv.DictReader(file)}
            wanted = set(firms)
            steps = {firm: _step(row, self.n_steps) for firm, row in rows.items() if firm in wanted}
        except (KeyError, ValueError, TypeError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{self.path} needs a column id, and a column step of whole numbers from 0 to {self.n_steps} or empty"
            ) from error
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}") from error
        measures = {firm: row["measure"] for firm, row in rows.items() if row.get("measure")}
        bits = bits_of(self.n_steps + 1, watch=purpose == "watch")
        return OpenedSteps(steps, "", self.holders, bits, self.job, measures)


def no_joint_decision(firms: Sequence[str], *, model: str, purpose: str, reference: str) -> OpenedSteps:
    """Stand where a command was given no way to decide jointly: what was opened before is used, nothing is asked."""
    del model
    raise BookError(
        f"{reference} needs a joint decision for {purpose} on {len(firms):,} firms: run one, and give its steps "
        "with --decisions FILE"
    )


def _step(row: Mapping[str, str], most: int) -> int | None:
    unknown = "unknown" in (value for name, value in row.items() if name and name.endswith("_status"))
    if unknown or not row["step"].strip():
        return None
    step = int(row["step"])
    if not 0 <= step <= most:
        raise ValueError(step)
    return step
