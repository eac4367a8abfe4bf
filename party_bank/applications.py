"""Applications, from the first call to a contract: approved, referred to a person, or declined with reasons.

The caller names a request. Whatever is killed or repeated under it goes on where it was: one application, one joint
decision, one contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from party_bank.book import Book, BookEntry, Row
from party_bank.book_tables import APPLICATIONS, CONTRACTS, DECISIONS, LINES, OFFERS
from party_bank.contracts import draft_contract
from party_bank.joint import JointDecision, OpenedSteps, Question, note_answer, note_question, opened_of
from party_bank.limits import limit_of, room
from party_bank.offers import checked_offer
from party_bank.settings import HUNDREDTHS, BankSettings, shown_amount
from veilscore.errors import BookError, ConfigError
from veilscore.terms.decision import Purpose

APPLICATION: Purpose = "application"
_ADMISSION = "admission"
APPROVED, REFERRED, DECLINED, RECEIVED = "approved", "referred", "declined", "received"
_SHOWN = (
    sa.select(APPLICATIONS, CONTRACTS.c.number.label("contract"), DECISIONS.c.reasons)
    .outerjoin(CONTRACTS, CONTRACTS.c.application == APPLICATIONS.c.id)
    .outerjoin(DECISIONS, DECISIONS.c.id == APPLICATIONS.c.decision)
)


@dataclass(frozen=True)
class Verdict:
    """What a policy of the bank says of an application.

    outcome : approved, referred or declined; reasons : for a person, and for the firm where it is declined.
    rate_bp : interest of a year; None: the product's.
    policy, policy_sha256, row : which policy (with its version) and which of its rows fired.
    """

    outcome: str
    reasons: tuple[str, ...]
    rate_bp: int | None = None
    policy: str = ""
    policy_sha256: str = ""
    row: str = ""


Judge = Callable[[Mapping[str, Any]], Verdict]


@dataclass(frozen=True)
class ApplicationRequest:
    """What a firm applies for.

    request : the caller's id of it; amount : hundredths; offer, secret : of the QR code, where it answers an offer.
    """

    request: str
    firm: str
    product: str
    amount: int
    months: int
    offer: str = ""
    secret: str = ""


def by_ladder(inputs: Mapping[str, Any]) -> Verdict:
    """Judge without a policy graph: approve what the joint decision's limit covers, refer what it does not."""
    if inputs["step"] is None:
        return Verdict(REFERRED, ("a holder does not know the firm, or did not answer",))
    if inputs["step"] == 0:
        return Verdict(DECLINED, (inputs["bound"] or "the joint decision gives no limit",))
    if inputs["amount"] > inputs["limit"]:
        return Verdict(REFERRED, (f"asks for more than its limit of {inputs['limit']:,}",))
    return Verdict(APPROVED, ("within the limit of the joint decision",))


def by_policy(graph: Any, own: Callable[[str], Mapping[str, Any]]) -> Judge:
    """Judge by an active decision graph (`party_bank.policy`) whose outputs are outcome and reason.

    own : firm -> what else the graph asks for, from the bank's own data.
    """
    outcomes = {"approve": APPROVED, "refer": REFERRED, "decline": DECLINED}

    def judge(inputs: Mapping[str, Any]) -> Verdict:
        if inputs["step"] is None:
            return by_ladder(inputs)
        wanted = graph.input_schema.get("properties", {})
        given = {**inputs, **own(inputs["firm"])}
        decided = graph.decide({name: value for name, value in given.items() if name in wanted})
        outcome = outcomes.get(decided.outputs.get("outcome", ""))
        if outcome is None:
            raise ConfigError(f"policy {graph.name} answers no outcome: it needs approve, refer or decline")
        fired = ", ".join(f"{row.table} {row.row}" for row in decided.fired)[:200]
        name = f"{decided.policy} {decided.version}"
        return Verdict(outcome, (str(decided.outputs["reason"]),), None, name, decided.sha256, fired)

    return judge


def active_judge(home: Path, party: str) -> Judge:
    """Return the bank's active admission policy as a judge, or the ladder alone where none was ever filed.

    A policy that asks for more than the application says (a blacklist, days overdue) refuses, and says what it lacks:
    give such facts by `by_policy` from the bank's own systems.
    """
    from party_bank.policy.versions import FILE, Policies  # noqa: PLC0415 - loads the engine

    if not (home / FILE).is_file() or not Policies(home).versions(_ADMISSION):
        return by_ladder
    return by_policy(Policies(home).active(_ADMISSION, party), lambda _firm: {})


def apply(
    book: Book, settings: BankSettings, joint: JointDecision, judge: Judge, asked: ApplicationRequest, actor: str
) -> Row:
    """Take an application as far as it goes without a person, and return it with its contract's number ("" if none).

    Two transactions: the application and what is asked of holders, before they are asked; their answer, the verdict and
    the contract. On an offer, within its amount, the decision behind it serves: nothing is released again.
    Raises BookError for an offer past its date, a used or wrong secret, a missing consent, and a second open line.
    """
    _check(settings, asked)
    ask, opening = Question(APPLICATION, "", f"application/{asked.request}"), None
    with book.writing(actor) as entry:
        application = _find(entry, asked) or _receive(entry, asked)
        if application["status"] != RECEIVED:
            return _shown(entry, application["id"])
        if application["decision"] is None:
            ask = replace(ask, model=settings.decision_for(APPLICATION))
            noted = note_question(entry, ask, [asked.firm])
    if application["decision"] is None:
        opening = opened_of(joint, ask, noted)
    try:
        with book.writing(actor) as entry:
            entry.lock_firm(asked.firm)
            _go_on(entry, settings, judge, _one(entry, APPLICATIONS, application["id"]), ask, opening)
            return _shown(entry, application["id"])
    except Exception:
        if opening is not None:  # it was released and counts, whatever the policy or a cap refuses
            with book.writing(actor) as entry:
                note_answer(entry, ask, opening)
        raise


def _go_on(
    entry: BookEntry,
    settings: BankSettings,
    judge: Judge,
    application: Row,
    ask: Question,
    opening: OpenedSteps | None,
) -> None:
    """Judge an application by the decision of its offer, or by what was opened for it, now or before."""
    if application["decision"] is not None:
        decision = _one(entry, DECISIONS, application["decision"])
    elif opening is not None:
        decision = note_answer(entry, ask, opening)[application["firm"]]
    else:
        decision = note_question(entry, ask, [application["firm"]])[application["firm"]]
    if application["status"] == RECEIVED:
        _judge(entry, settings, judge, application, decision)


def settle(
    book: Book, settings: BankSettings, request: str, actor: str, *, approve: bool, reasons: Sequence[str]
) -> Row:
    """Let a person decide on a referred application; again the same changes nothing."""
    if not reasons or not all(reason.strip() for reason in reasons):
        raise ConfigError("a person's decision needs a reason")
    wanted = APPROVED if approve else DECLINED
    with book.writing(actor) as entry:
        found = entry.rows(sa.select(APPLICATIONS).where(APPLICATIONS.c.request == request))
        if not found:
            raise BookError(f"no application {request[:60]!r} in the book")
        entry.lock_firm(found[0]["firm"])
        application = _one(entry, APPLICATIONS, found[0]["id"])
        if application["status"] != wanted:
            if application["status"] != REFERRED:
                raise BookError(f"application {request} is {application['status']}; a person decides on referred ones")
            decision = _one(entry, DECISIONS, application["decision"])
            line = _one(entry, LINES, application["line"])
            rate = settings.product(line["product"]).rate_bp
            _conclude(entry, settings, application, decision, line, Verdict(wanted, tuple(reasons), rate), by=actor)
        return _shown(entry, application["id"])


def _check(settings: BankSettings, asked: ApplicationRequest) -> None:
    settings.product(asked.product)
    if asked.amount <= 0 or not 1 <= asked.months <= 120:
        raise ConfigError("an application asks for a positive amount, for 1 to 120 months")
    if not 1 <= len(asked.request) <= 80:
        raise ConfigError("an application needs an id of its request, 1 to 80 characters")
    if not asked.offer:
        settings.decision_for(APPLICATION)


def _find(entry: BookEntry, asked: ApplicationRequest) -> Row | None:
    """Return the application of a request; BookError where it was another one under this id."""
    found = entry.rows(sa.select(APPLICATIONS).where(APPLICATIONS.c.request == asked.request))
    if not found:
        return None
    row = found[0]
    offer = entry.scalar(sa.select(OFFERS.c.number).where(OFFERS.c.id == row["offer"])) or ""
    product = _one(entry, LINES, row["line"])["product"]
    if (row["firm"], product, row["amount"], row["months"], offer) != (
        asked.firm, asked.product, asked.amount, asked.months, asked.offer
    ):  # fmt: skip
        raise BookError(f"request {asked.request} was used for another application: use a new id")
    return row


def _receive(entry: BookEntry, asked: ApplicationRequest) -> Row:
    """Write down a new application, on its offer's line or on a new one."""
    entry.lock_firm(asked.firm)
    offer: Row | None = None
    if asked.offer:
        offer = checked_offer(entry, asked.offer, asked.secret)
        line = _one(entry, LINES, offer["line"])
        if (offer["firm"], line["product"]) != (asked.firm, asked.product):
            raise BookError(f"offer {asked.offer} is for another firm or product")
        if asked.amount > offer["amount"]:
            raise BookError(
                f"offer {asked.offer} is for at most {shown_amount(offer['amount'])}: apply for that or less on it"
            )
        entry.change(OFFERS, offer["id"], status="applied", scanned_s=offer["scanned_s"] or entry.at_s)
        number = line["id"]
    else:
        taken = entry.rows(
            sa.select(LINES.c.state).where(
                LINES.c.firm == asked.firm, LINES.c.product == asked.product, LINES.c.state != "closed"
            )
        )
        if taken:
            raise BookError(
                f"{asked.firm} has an open line of {asked.product} ({taken[0]['state']}): apply on its offer, or renew"
            )
        times = {"opened_s": entry.at_s, "changed_s": entry.at_s}
        number = entry.add(LINES, firm=asked.firm, product=asked.product, state="prospect", reason="", **times)
    entry.move(number, "applied")
    application = {
        "firm": asked.firm,
        "line": number,
        "offer": None if offer is None else offer["id"],
        "decision": None if offer is None else offer["decision"],
        "request": asked.request,
        "amount": asked.amount,
        "months": asked.months,
        "status": RECEIVED,
        "received_s": entry.at_s,
    }
    return {**application, "id": entry.add(APPLICATIONS, **application)}


def _judge(entry: BookEntry, settings: BankSettings, judge: Judge, application: Row, decision: Row) -> None:
    line = _one(entry, LINES, application["line"])
    product = settings.product(line["product"])
    inputs = {
        "firm": application["firm"],
        "product": line["product"],
        "step": decision["step"],
        "limit": limit_of(product, decision["step"]) // HUNDREDTHS,
        "amount": application["amount"] / HUNDREDTHS,
        "months": application["months"],
        "bound": decision["measure"] and f"the measure {decision['measure']} gives no limit",
        "offered": application["offer"] is not None,
    }
    verdict = judge(inputs)
    left = room(entry, settings, application["firm"], line["product"])
    if verdict.outcome == APPROVED and application["amount"] > left:
        verdict = Verdict(
            REFERRED, (f"asks for more than caps still allow, {shown_amount(left)}",), None, verdict.policy,
            verdict.policy_sha256, verdict.row,
        )  # fmt: skip
    _conclude(entry, settings, application, decision, line, verdict, inputs=inputs)


def _conclude(
    entry: BookEntry,
    settings: BankSettings,
    application: Row,
    decision: Row,
    line: Row,
    verdict: Verdict,
    *,
    by: str = "policy",
    inputs: Any = None,
) -> None:
    """Write down a verdict with what it was made of, and do what follows from it."""
    reasons = [*decision["reasons"], *verdict.reasons]
    values: Row = {"outcome": verdict.outcome, "reasons": reasons, "decided_by": by, "line": line["id"]}
    if verdict.policy:
        values |= {"policy": verdict.policy, "policy_sha256": verdict.policy_sha256, "policy_row": verdict.row}
    if inputs is not None:
        values["inputs"] = {**decision["inputs"], **inputs}
    entry.change(DECISIONS, decision["id"], **values)
    entry.change(APPLICATIONS, application["id"], status=verdict.outcome, decision=decision["id"])
    if verdict.outcome == APPROVED:
        rate = settings.product(line["product"]).rate_bp if verdict.rate_bp is None else verdict.rate_bp
        own = {"application": application["id"]}
        draft_contract(entry, settings, line, application["amount"], application["months"], rate, **own)
        entry.move(line["id"], "approved")
    elif verdict.outcome == DECLINED:
        entry.move(line["id"], "closed", f"declined: {'; '.join(verdict.reasons)}")


def _shown(entry: BookEntry, application: int) -> Row:
    (row,) = entry.rows(_SHOWN.where(APPLICATIONS.c.id == application))
    return {**row, "contract": row["contract"] or ""}


def _one(entry: BookEntry, table: sa.Table, row_id: int) -> Row:
    return entry.rows(sa.select(table).where(table.c.id == row_id))[0]


def listed(book: Book, status: str = "", most: int = 200) -> list[Row]:
    """Return applications with product and reasons, the latest first; of one status if it is named."""
    query = (
        sa.select(APPLICATIONS, LINES.c.product, DECISIONS.c.reasons)
        .join(LINES, LINES.c.id == APPLICATIONS.c.line)
        .outerjoin(DECISIONS, DECISIONS.c.id == APPLICATIONS.c.decision)
    )
    query = query.where(APPLICATIONS.c.status == status) if status else query
    return book.rows(query.order_by(APPLICATIONS.c.id.desc()).limit(most))
