"""Early warnings in the book: each month's levels of a watch become alarms, alarms open cases, a person settles them.

The levels are a joint decision with purpose watch, asked for once a month under one reference, of the firms that owe
and consented to it. Levels only rise within a contract year, so an alarm is a level that is higher than the month's
before. A firm has at most one open case, which its account manager works on; what comes of it is a label for training.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import sqlalchemy as sa

from party_bank.book import Book, BookEntry, Row
from party_bank.book_tables import ALARMS, CASES, CONTRACTS, DECISIONS, FIRMS, LINES
from party_bank.firms import consents_for
from party_bank.joint import OPENED, JointDecision, OpenedSteps, Question, decide_jointly
from party_bank.settings import BankSettings
from veilscore.errors import BookError, ConfigError
from veilscore.terms.decision import WATCH_MONTHS, Purpose

WATCH: Purpose = "watch"
FEEDBACK = ("true", "false", "other")  # it was in trouble; it was not; another reason, of which training learns nothing
QUIET, RAISED = "quiet", "watched"  # outcomes of a month's decision on a firm
_WATCHED = ("drawn", "watched", "renewed")  # states of lines under which something may be owed
_REFERENCE = "watch/"
_YEAR_S = 365 * 86400.0


def watched_firms(entry: BookEntry) -> tuple[list[str], int]:
    """Return the firms to ask for now, and how many more owe without a consent to a watch."""
    owing = (
        sa.select(CONTRACTS.c.firm)
        .join(LINES, LINES.c.id == CONTRACTS.c.line)
        .where(CONTRACTS.c.status == "signed", LINES.c.state.in_(_WATCHED))
        .distinct()
    )
    firms = sorted(row["firm"] for row in entry.rows(owing))
    consented = consents_for(entry, None, WATCH)
    asked = [firm for firm in firms if firm in consented]
    return asked, len(firms) - len(asked)


def run(book: Book, settings: BankSettings, joint: JointDecision, month: dt.date, actor: str) -> Counter[str]:
    """Ask for a month's levels and enter what they say; return how many firms ended how. Again, it does what is left.

    month : any day of it.
    joint : a month's job serves that month alone: a job of an earlier month is refused (BookError).
    Raises ConfigError where bank.yaml names no watch, BookError for a month that is over and was not asked for.
    """
    first = month.replace(day=1)
    ask = Question(WATCH, settings.decision_for(WATCH), reference_of(first))
    with book.writing(actor) as entry:
        asked = entry.scalar(sa.select(sa.func.count()).where(_of(ask)))
        firms, silent = ([], 0) if asked else watched_firms(entry)
        if not asked and first != entry.today.replace(day=1):
            raise BookError(f"the alarms of {first:%Y-%m} were not asked for in that month: ask for those of this one")
        served = _jobs_before(entry, ask)
    decide_jointly(book, _of_this_month(joint, served), ask, firms, actor)
    with book.writing(actor) as entry:
        entry.lock_name(_REFERENCE)
        _enter(entry, settings, ask, first)
        outcomes = Counter(row["outcome"] for row in entry.rows(sa.select(DECISIONS.c.outcome).where(_of(ask))))
    return outcomes + Counter({"without consent": silent})


def plan(entry: BookEntry) -> Iterator[tuple[str, dt.date]]:
    """Plan this month's alarms, where any firm may be asked for."""
    if watched_firms(entry)[0]:
        yield "", entry.today.replace(day=1)


def asked_for(book: Book, month: dt.date) -> bool:
    """Return whether a month's levels were asked for; what was is finished also after the month."""
    ask = Question(WATCH, "", reference_of(month))
    return bool(book.rows(sa.select(DECISIONS.c.id).where(_of(ask)).limit(1)))


def reference_of(month: dt.date) -> str:
    """Return the reference under which a month's levels are asked for."""
    return f"{_REFERENCE}{month:%Y-%m}"


def month_of(reference: str) -> dt.date:
    """Return the first day of the month of a reference."""
    return dt.date.fromisoformat(f"{reference.removeprefix(_REFERENCE)}-01")


def last_job(entry: BookEntry) -> str | None:
    """Return the job of the latest month before this one, which this month's goes on from; None where there is none."""
    now = Question(WATCH, "", reference_of(entry.today))
    return max(_jobs_before(entry, now).items(), key=lambda item: item[1], default=(None, ""))[0]


def settle(book: Book, number: str, feedback: str, note: str, actor: str) -> Row:
    """Close a case with what a person found; the same again changes nothing, another word for it is refused."""
    if feedback not in FEEDBACK:
        raise ConfigError(f"{feedback[:40]!r} is no feedback; say {', '.join(FEEDBACK[:-1])} or {FEEDBACK[-1]}")
    with book.writing(actor) as entry:
        case = _find_case(entry, number)
        if case["status"] == "closed":
            if case["feedback"] == feedback:
                return case
            raise BookError(
                f"case {number} was closed as {case['feedback']}: its label stays, a new alarm is a new case"
            )
        done = {"status": "closed", "closed_s": entry.at_s, "feedback": feedback, "note": note[:400]}
        if not entry.change(CASES, case["id"], CASES.c.status == "open", **done):
            raise BookError(f"somebody else closed case {number} just now: look at it again")
        return {**case, **done}


def listed(book: Book, status: str = "open", manager: str = "") -> list[Row]:
    """Return cases with the name and the latest alarm of their firms, the most urgent first; status "" for all."""
    latest = sa.select(sa.func.max(ALARMS.c.month)).where(ALARMS.c.case == CASES.c.id).scalar_subquery()
    query = sa.select(CASES, FIRMS.c.name, latest.label("month")).join(FIRMS, FIRMS.c.firm == CASES.c.firm)
    if status:
        query = query.where(CASES.c.status == status)
    if manager:
        query = query.where(CASES.c.manager == manager)
    return book.rows(query.order_by(CASES.c.status.desc(), CASES.c.level.desc(), CASES.c.due_on, CASES.c.id))


def _of(ask: Question) -> sa.ColumnElement[bool]:
    return sa.and_(DECISIONS.c.kind == ask.kind, DECISIONS.c.reference == ask.reference)


def _earlier(ask: Question) -> sa.ColumnElement[bool]:
    """Return what decisions of earlier months meet; their references are in the order of the months."""
    return sa.and_(DECISIONS.c.kind == ask.kind, DECISIONS.c.reference < ask.reference)


def _jobs_before(entry: BookEntry, ask: Question) -> dict[str, str]:
    """Return the jobs of earlier months with their references; a month has one job."""
    asked = sa.and_(_earlier(ask), DECISIONS.c.decided_by != "consent")  # a firm whose consent ended was in no job
    any_row = sa.select(sa.func.min(DECISIONS.c.id)).where(asked).group_by(DECISIONS.c.reference)
    rows = entry.rows(sa.select(DECISIONS.c.inputs, DECISIONS.c.reference).where(DECISIONS.c.id.in_(any_row)))
    return {row["inputs"]["job"]: row["reference"] for row in rows if row["inputs"].get("job")}


def _of_this_month(joint: JointDecision, served: Mapping[str, str]) -> JointDecision:
    """Return the joint decision, which refuses a job that served an earlier month: its levels would be stale."""

    def ask(firms: Sequence[str], *, model: str, purpose: str, reference: str) -> OpenedSteps:
        opening = joint(firms, model=model, purpose=purpose, reference=reference)
        if opening.job in served:
            month = served[opening.job].removeprefix(_REFERENCE)
            raise BookError(
                f"job {opening.job} served the alarms of {month}: run this month's (watch: true, last: {opening.job})"
            )
        return opening

    return ask


def _enter(entry: BookEntry, settings: BankSettings, ask: Question, month: dt.date) -> None:
    """Turn opened levels into alarms and cases; of a firm whose level did not rise, nothing but that."""
    opened = entry.rows(sa.select(DECISIONS).where(_of(ask), DECISIONS.c.outcome == OPENED).order_by(DECISIONS.c.id))
    paid, lines = _paid(entry, ask), _lines(entry)
    before = _levels_before(entry, ask, {line["id"] for several in lines.values() for line in several})
    rising = [row for row in opened if row["step"] > before.get(row["firm"], 0)]
    raised = {row["firm"] for row in rising}
    entry.change_all(
        DECISIONS,
        [
            {
                "id": row["id"],
                "firm": row["firm"],
                "outcome": RAISED if row["firm"] in raised else QUIET,
                "bits": 0.0 if row["firm"] in paid else row["bits"],
                "line": lines[row["firm"]][0]["id"] if row["firm"] in lines else None,
                "decided_by": "watch",
            }
            for row in opened
        ],
    )
    cases = _cases(entry, settings, rising)
    alarms = [
        {"firm": row["firm"], "case": cases[row["firm"]], "decision": row["id"], "month": month, "level": row["step"]}
        for row in rising
    ]
    entry.add_all(ALARMS, alarms)
    moved = [line["id"] for row in rising for line in lines.get(row["firm"], ()) if line["state"] != "watched"]
    entry.move_all(moved, "watched", f"alarm of {month:%Y-%m}")


def _cases(entry: BookEntry, settings: BankSettings, rising: Sequence[Row]) -> dict[str, int]:
    """Open a case for each firm, or raise the level of the one that is open; return their ids."""
    found = {row["firm"]: row for row in entry.rows(sa.select(CASES).where(CASES.c.status == "open"))}
    manager = {row["firm"]: row["manager"] for row in entry.rows(sa.select(FIRMS.c.firm, FIRMS.c.manager))}

    def next_step(row: Row) -> Row:
        meant = settings.warnings.of_level(row["step"])
        due_on = entry.today + dt.timedelta(days=meant.within_days)
        return {"firm": row["firm"], "level": row["step"], "next_step": meant.next_step, "due_on": due_on}

    new = [
        {**next_step(row), "manager": manager[row["firm"]], "status": "open", "opened_s": entry.at_s, "closed_s": None,
         "feedback": "", "note": ""}
        for row in rising if row["firm"] not in found
    ]  # fmt: skip
    higher = [row for row in rising if row["firm"] in found and row["step"] > found[row["firm"]]["level"]]
    entry.change_all(CASES, [{"id": found[row["firm"]]["id"], **next_step(row)} for row in higher])
    ids = dict(zip((row["firm"] for row in new), entry.add_all(CASES, new), strict=True))
    return {firm: row["id"] for firm, row in found.items()} | ids


def _levels_before(entry: BookEntry, ask: Question, lines: Collection[int]) -> dict[str, int]:
    """Return each firm's level in the latest earlier month in which it had one, under a line that goes on."""
    latest = sa.select(sa.func.max(DECISIONS.c.id)).where(_earlier(ask), DECISIONS.c.step.is_not(None))
    query = sa.select(DECISIONS.c.firm, DECISIONS.c.step, DECISIONS.c.line)
    rows = entry.rows(query.where(DECISIONS.c.id.in_(latest.group_by(DECISIONS.c.firm))))
    return {row["firm"]: row["step"] for row in rows if row["line"] in lines}


def _paid(entry: BookEntry, ask: Question) -> set[str]:
    """Return the firms whose contract year of the watch, counted in bits once, is not over."""
    since = sa.select(DECISIONS.c.firm, sa.func.max(DECISIONS.c.decided_s).label("since_s"))
    begun = since.where(_earlier(ask), DECISIONS.c.bits > 0).group_by(DECISIONS.c.firm).subquery()
    openings = (
        sa.select(DECISIONS.c.firm)
        .join(begun, begun.c.firm == DECISIONS.c.firm)
        .where(_earlier(ask), DECISIONS.c.decided_s >= begun.c.since_s, begun.c.since_s > entry.at_s - _YEAR_S)
        .group_by(DECISIONS.c.firm)
        .having(sa.func.count() < WATCH_MONTHS)
    )
    return {row["firm"] for row in entry.rows(openings)}


def _lines(entry: BookEntry) -> dict[str, list[Row]]:
    """Return the lines that are watched or may be by firm, that of the largest contract first."""
    query = (
        sa.select(LINES.c.id, LINES.c.firm, LINES.c.state, sa.func.max(CONTRACTS.c.amount).label("amount"))
        .join(CONTRACTS, CONTRACTS.c.line == LINES.c.id)
        .where(LINES.c.state.in_(_WATCHED), CONTRACTS.c.status == "signed")
        .group_by(LINES.c.id, LINES.c.firm, LINES.c.state)
    )
    found: dict[str, list[Row]] = {}
    for row in sorted(entry.rows(query), key=lambda row: (-row["amount"], row["id"])):
        found.setdefault(row["firm"], []).append(row)
    return found


def _find_case(entry: BookEntry, number: str) -> Row:
    digits = re.fullmatch(r"W?0*(\d{1,9})", number.strip(), re.IGNORECASE)
    found = entry.rows(sa.select(CASES).where(CASES.c.id == int(digits[1]))) if digits else []
    if not found:
        raise BookError(f"no case {number[:40]!r} in the book; `veilscore bank warning list` shows all")
    entry.lock_firm(found[0]["firm"])
    return entry.rows(sa.select(CASES).where(CASES.c.id == found[0]["id"]))[0]
