"""What an owner does in the portal: agrees, applies, draws, renews, takes back; each once, whatever is killed."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from bank_trial import SETTINGS, Joint, lend
from portal_visits import (
    OURS,
    THEIRS,
    OpenedPortal,
    agree,
    hidden,
    issuer_of,
    known,
    portal_home,
    tokens,
    withdrawn,
)
from trial_federation import make_homes

from party_bank import campaigns
from party_bank.book_check import check_book
from party_bank.book_tables import APPLICATIONS, CONSENTS, CONTRACTS, DECISIONS, DRAWS, HISTORY, OFFERS
from party_bank.firms import note_consent
from party_bank.portal import consents as service
from party_bank.portal.consents import AGREED
from party_bank.portal.credit_pages import plan_of
from party_bank.portal.pushes import WithdrawalPushes
from veilscore.errors import BookError, PeerError
from veilscore.files.home_key import home_key
from veilscore.release.consent import Signed, claim_of, commit_one, read_consent, read_revocations


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    homes = make_homes(tmp_path_factory.mktemp("made"))
    portal_home(homes)
    return homes


@pytest.fixture
def opened(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    portal = OpenedPortal(tmp_path / "bank")
    yield portal
    portal.close()


def test_a_consent_says_who_whom_what_for_until_when_and_what_leaves(opened):
    browser = opened.browser(OURS)
    text = browser.get("/consents/application").text
    for said in ("Lotus Bank", "tax", OURS, "your application", "One of 4 answers (2.0 bits)", "CNY 200,000", "30 days",
                 "consent-desk"):  # fmt: skip
        assert said in text, said
    browser.cookies["__Host-language"] = "zh"
    for said in ("4种结果之一（2.0比特）", "20万元", "30 天", "授权签发方consent-desk"):
        assert said in browser.get("/consents/application").text, said
    assert tokens(opened) == []
    assert browser.get("/consents/watch").status == 404
    assert browser.get("/consents/nonsense").status == 404


def test_an_owner_s_yes_makes_one_token_however_often_it_is_sent(opened):
    browser = opened.browser(OURS)
    page = browser.get("/consents/application").text
    form = {"terms": hidden(page, "terms"), "agree": "yes"}
    assert browser.post("/consents/application/give", **form | {"agree": ""}).status == 422
    assert browser.post("/consents/application/give", **form | {"terms": "0" * 64}).status == 422
    assert tokens(opened) == []
    for _ in range(3):
        assert (
            browser.post("/consents/application/give", **form).header("location") == "/consents/application?done=given"
        )
    (path,) = tokens(opened)
    found = read_consent(Signed.from_text(path.read_text(), "token"), known(opened))
    scope = found.scope
    assert (found.kind, found.once, found.covers_one(OURS), found.covers_one(THEIRS)) == ("token", True, True, False)
    assert (scope.purpose, scope.tasks, scope.bank, scope.models, scope.holders, scope.bits) == (
        "application", ("decide",), "bank", ("limit",), ("registry", "tax"), 2.0,
    )  # fmt: skip
    (agreed,) = opened.book.rows(sa.select(HISTORY).where(HISTORY.c.event == AGREED))
    assert (agreed["actor"], agreed["firm"], agreed["content"]["terms_sha256"]) == (service.OWNER, OURS, form["terms"])
    assert [act for _, act, outcome in opened.acts() if outcome == "done"].count("portal: give a consent") == 3


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_yes_that_was_killed_is_finished_and_signs_once(opened, monkeypatch, at):
    browser = opened.browser(OURS)
    name = "import_consent" if at == "after" else "claim_of"
    real, issued = getattr(service, name), opened.home.path.parent / "consent-desk" / "issued"

    def killed(*_):
        raise BookError("killed")

    monkeypatch.setattr(service, name, killed)
    assert agree(browser, "application").status == 422
    assert (len(list(issued.glob("*.json"))), tokens(opened)) == (1, [])
    monkeypatch.setattr(service, name, real)
    assert agree(browser, "application").status == 303
    assert len(list(issued.glob("*.json"))) == len(tokens(opened)) == 1
    assert len(opened.book.rows(sa.select(HISTORY).where(HISTORY.c.event == AGREED))) == 1


def test_a_withdrawal_is_in_the_book_and_the_issuer_s_list_and_binds_that_firm_alone(opened):
    browser, other = opened.browser(OURS), opened.browser(THEIRS)
    for one in (browser, other):
        agree(one, "application")
        agree(one, "renewal")
    with opened.book.writing("test") as entry:
        listed = issuer_of(opened).list([OURS, THEIRS], claim_scope("proactive"))
        for firm in (OURS, THEIRS):
            about = {"document": claim_of(listed).id, "issuer": "consent-desk", "purpose": "proactive"}
            note_consent(entry, firm, holders=["tax"], not_before_s=1.0, expires_s=4e9, **about)
    assert browser.post("/consents/application/withdraw").header("location") == "/consents/application?done=withdrawn"
    assert browser.post("/consents/application/withdraw").status == 303, "again"
    assert browser.post("/consents/proactive/withdraw").status == 303
    rows = {(r["firm"], r["purpose"]): r["revoked_s"] for r in opened.book.rows(sa.select(CONSENTS))}
    assert {key for key, at_s in rows.items() if at_s is not None} == {(OURS, "application"), (OURS, "proactive")}
    found = withdrawn(opened)
    (token,) = opened.book.rows(sa.select(CONSENTS).where(CONSENTS.c.firm == OURS, CONSENTS.c.purpose == "application"))
    one = f"{claim_of(listed).id}:{commit_one(claim_of(listed).salt, OURS).hex()}"
    assert {name for name in found.revoked if name in {token["document"], one}} == {token["document"], one}
    assert claim_of(listed).id not in found.revoked
    assert opened.pushed[-1] > 0
    assert "First your consent" in browser.get("/apply/flow").text
    assert "First your consent" not in other.get("/apply/flow").text


def claim_scope(purpose):
    from veilscore.release.scope import Scope

    return Scope(purpose, ("decide",), "bank", (), 1.0, 4e9, holders=("tax",), bits=2.0)


def test_ending_everything_ends_every_basis_too_and_a_new_yes_lifts_it(opened, monkeypatch):
    browser = opened.browser(OURS)
    agree(browser, "renewal")
    assert browser.post("/consents/end").status == 422
    monkeypatch.setattr(opened.portal.consents, "_revoke", lambda *_: (_ for _ in ()).throw(BookError("killed")))
    assert browser.post("/consents/end", sure="yes").status == 422
    monkeypatch.undo()
    opened.portal.consents.catch_up(opened.book)  # as at the next start
    found = withdrawn(opened)
    assert found.covers([OURS, THEIRS]).tolist() == [True, False]
    agree(browser, "renewal")
    lifted = withdrawn(opened)
    assert lifted.number > found.number
    assert not lifted.covers([OURS]).any()
    opened.portal.consents.catch_up(opened.book)
    assert not withdrawn(opened).covers([OURS]).any()


def test_a_holder_that_is_away_is_told_when_it_is_back(opened):
    browser = opened.browser(OURS)
    agree(browser, "renewal")
    browser.post("/consents/renewal/withdraw")
    members = [SimpleNamespace(name=name, role=role, address="here")
               for name, role in (("tax", "holder"), ("court", "holder"), ("bank", "bank"))]  # fmt: skip
    away, calls = {"court"}, []

    class Link:
        async def fabric(self):
            return SimpleNamespace(federation=SimpleNamespace(members=members))

        async def call(self, peer, method, request, _reply, _timeout_s):
            if peer in away:
                raise PeerError("not there", party=peer)
            calls.append(
                (peer, method, read_revocations(Signed.from_bytes(request.SerializeToString(), ""), known(opened)))
            )

    pushes = WithdrawalPushes(opened.portal.consents, Link(), lambda: None)
    push = opened.loop.run_until_complete
    assert push(pushes.push()) == (("tax",), ("court",))
    away.clear()
    assert push(pushes.push()) == (("tax", "court"), ())
    assert [(peer, method) for peer, method, _ in calls] == [("tax", "Withdrawn"), ("court", "Withdrawn")]
    (row,) = opened.book.rows(sa.select(CONSENTS))
    assert all(row["document"] in one.revoked for _, _, one in calls)
    agree(browser, "renewal")
    browser.post("/consents/end", sure="yes")
    push(pushes.push())
    assert [peer for peer, _, _ in calls[2:]] == ["tax", "court"], "a newer list"
    away.add("tax")
    push(pushes.soon())  # no error reaches the person who withdrew


def test_a_call_that_is_cancelled_from_inside_ends_no_pushing(opened, monkeypatch):
    """As where a connection is closed for a new key; whoever cancels the task itself ends it."""
    rounds, again = [], asyncio.Event()

    class Link:
        async def fabric(self):
            rounds.append(1)
            if len(rounds) == 1:
                raise asyncio.CancelledError
            again.set()
            return SimpleNamespace(federation=SimpleNamespace(members=[]))

    async def pushed():
        monkeypatch.setattr("party_bank.portal.pushes._AGAIN_S", 0.001)
        task = asyncio.create_task(WithdrawalPushes(opened.portal.consents, Link(), lambda: None).keep_pushing())
        await asyncio.wait_for(again.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    opened.loop.run_until_complete(pushed())


def test_from_consent_to_renewal(opened):
    """The whole of an owner's way, each form sent twice: nothing happens twice."""
    browser, book = opened.browser(OURS), opened.book
    assert "First your consent" in browser.get("/apply/flow").text
    assert agree(browser, "application", product="flow").header("location") == "/apply/flow?done=given"
    form = {
        "product": "flow",
        "amount": "100000",
        "months": "6",
        "request": hidden(browser.get("/apply/flow").text, "request"),
    }
    for _ in range(2):
        applied = browser.post("/apply", **form).header("location")
    assert "It was approved" in browser.get(applied).text
    (contract,) = book.rows(sa.select(CONTRACTS))
    path = f"/contracts/{contract['number']}"
    assert contract["status"] == "draft"
    assert browser.post(f"{path}/accept").status == 422, "not ticked"
    assert browser.post(f"{path}/draw", amount="100", request="x" * 22).status == 422, "not signed"
    for _ in range(2):
        assert browser.post(f"{path}/accept", agree="yes").status == 303
    request = hidden(browser.get(path).text, "request")
    for _ in range(2):
        assert browser.post(f"{path}/draw", amount="40000", request=request).header("location") == f"{path}?done=drawn"
    assert "At most CNY 60,000 is left" in browser.post(f"{path}/draw", amount="60001", request="y" * 22).text
    assert [row["amount"] for row in book.rows(sa.select(DRAWS))] == [4_000_000]
    assert "CNY 145" in browser.get(path).text, "a month's interest on what is owed, at 4.35 % a year"
    assert browser.post(f"{path}/renew", agree="yes").status == 422, "nothing was proposed"
    assert agree(browser, "renewal", contract=contract["number"]).header("location") == f"{path}?done=given"
    for _ in range(2):
        assert browser.post(f"{path}/renewal").header("location") == path
    assert "CNY 100,000" in browser.get(path).text
    form = {"agree": "yes", "proposal": hidden(browser.get(path).text, "proposal")}
    renewed = [browser.post(f"{path}/renew", **form).header("location") for _ in range(2)]
    assert renewed[0] == renewed[1] != f"{path}?done=renewed"
    assert "CNY 40,000" in browser.get(renewed[0]).text
    assert check_book(book) == []
    kinds = [row["kind"] for row in book.rows(sa.select(DECISIONS).order_by(DECISIONS.c.id))]
    assert kinds == ["application", "renewal"]
    history = browser.get("/history").text
    assert history.count("one of 3 answers (1.6 bits)") == 2
    assert "Nothing was asked." in opened.browser(THEIRS).get("/history").text
    actors = {row["actor"] for row in book.rows(sa.select(HISTORY).where(HISTORY.c.subject == "contracts"))}
    assert actors == {service.OWNER}


def offered(opened, firm=OURS):
    """An offer of a campaign to a firm, as the bank's book has it."""
    with opened.book.writing("test") as entry:
        about = {"document": "d", "issuer": "elsewhere", "purpose": "proactive", "holders": ["tax"]}
        note_consent(entry, firm, not_before_s=1.0, expires_s=4e9, **about)
    campaigns.create(opened.book, SETTINGS, "spring", "flow", "lin")
    campaigns.run(opened.book, SETTINGS, Joint({firm: 2}), "spring", home_key(opened.home.path), "lin")
    return opened.book.rows(sa.select(OFFERS))[0]


def test_an_offer_is_applied_on_without_asking_anybody_again(opened):
    offer = offered(opened)
    browser = opened.browser(OURS, offer["number"])
    assert "Nobody is asked about your firm again" in browser.get(f"/offers/{offer['number']}").text
    assert browser.post("/apply", offer=offer["number"], amount="100001", months="12").status == 422, "over the offer"
    applied = browser.post("/apply", offer=offer["number"], amount="100000", months="12").header("location")
    assert browser.post("/apply", offer=offer["number"], amount="5", months="1").header("location") == applied
    assert "Read the contract" in browser.get(applied).text
    assert opened.joint.asked == []
    assert len(opened.book.rows(sa.select(DECISIONS))) == 1


def test_what_is_sent_many_times_at_once_is_done_once(opened):
    """Eight phones at once: one code lets one in, one yes signs once, one form draws once; nothing fails unforeseen."""
    offer = offered(opened)

    def at_once(browsers, path, **form):
        async def all_of_them():
            return await asyncio.gather(*(one.posting(path, **form) for one in browsers))

        answers = opened.loop.run_until_complete(all_of_them())
        assert {one.status for one in answers} <= {303, 422}, [one.text[-300:] for one in answers]
        return answers

    strangers = [opened.browser() for _ in range(8)]
    entered = at_once(strangers, "/enter", number=offer["number"], secret=opened.code(offer["number"]))
    assert [one.status for one in entered].count(303) == 1
    browser = strangers[[one.status for one in entered].index(303)]
    browser.csrf = hidden(browser.get("/").text, "csrf")
    terms = hidden(browser.get("/consents/application").text, "terms")
    at_once([browser] * 8, "/consents/application/give", terms=terms, agree="yes")
    assert len(tokens(opened)) == 1
    at_once([browser] * 8, "/apply", offer=offer["number"], amount="60000", months="12")
    (contract,) = opened.book.rows(sa.select(CONTRACTS))
    path = f"/contracts/{contract['number']}"
    at_once([browser] * 8, f"{path}/accept", agree="yes")
    at_once([browser] * 8, f"{path}/draw", amount="40000", request="d" * 22)
    for n in range(4):
        at_once([browser] * 2, f"{path}/draw", amount="15000", request=f"{n}" * 22)
    assert [row["amount"] for row in opened.book.rows(sa.select(DRAWS))] == [4_000_000, 1_500_000]


def test_reasons_are_the_bank_s_own_and_say_where_a_holder_s_are(opened):
    book, offer = opened.book, offered(opened)
    browser = opened.browser(OURS, offer["number"])
    opened.portal.judge = lambda: lambda _inputs: applications_verdict()
    applied = browser.post("/apply", offer=offer["number"], amount="60000", months="12").header("location")
    text = browser.get(applied).text
    (decision,) = book.rows(sa.select(DECISIONS).where(DECISIONS.c.outcome == "declined"))
    assert len(decision["reasons"]) == 2, "the campaign's own, and the verdict's"
    assert decision["reasons"][0] not in text, "why the bank chose the firm is not the firm's to read"
    assert "overdue with us" in text
    assert "Each of these offices tells you" in text
    assert "registry, tax" in text or "tax, registry" in text
    elsewhere = browser.get("/consents/proactive").text
    assert "You gave it at elsewhere" in elsewhere


def applications_verdict():
    from party_bank.applications import DECLINED, Verdict

    return Verdict(DECLINED, ("overdue with us <b>in May</b>",))


def test_what_holders_do_not_answer_is_kept_and_goes_on(opened):
    browser, working = opened.browser(OURS), opened.joint
    agree(browser, "application")

    def away(_firms, *, model, purpose, reference):
        del model, purpose
        raise BookError(f"{reference} is kept and not decided yet")

    opened.portal.joint = away
    form = {"product": "flow", "amount": "100000", "months": "6", "request": "r" * 22}
    applied = browser.post("/apply", **form).header("location")
    assert "kept and not decided yet" in browser.get(applied).text
    opened.portal.joint = working
    assert browser.post(f"{applied}/again").header("location") == applied
    assert "It was approved" in browser.get(applied).text
    assert len(opened.book.rows(sa.select(APPLICATIONS))) == 1


def test_forms_that_cannot_be_change_nothing(opened):
    browser = opened.browser(OURS)
    agree(browser, "application")
    form = {"product": "flow", "amount": "100000", "months": "6", "request": "r" * 22}
    for bad in ({"amount": "-5"}, {"amount": "1e9"}, {"amount": "300000"}, {"months": "0"}, {"months": "99"},
                {"request": "../../x"}, {"product": "gold"}):  # fmt: skip
        assert browser.post("/apply", **form | bad).status in {404, 422}, bad
    assert opened.book.rows(sa.select(APPLICATIONS)) == []


def test_a_portal_without_an_issuer_shows_and_signs_nothing(made, tmp_path):
    portal = OpenedPortal(portal_home(shutil.copytree(made, tmp_path / "homes"), issuer=False))
    try:
        lend(portal.book, OURS)
        text = portal.browser(OURS).get("/consents/application").text
        assert "given elsewhere" in text
        assert "Agree and sign" not in text
        assert 'name="terms"' not in text
        assert portal.browser(OURS).post("/consents/application/give", agree="yes").status == 404
    finally:
        portal.close()


def test_a_plan_adds_up():
    import datetime as dt

    plan = plan_of(12_000_000, 435, dt.date(2026, 11, 30), dt.date(2027, 3, 15))
    assert [day for day, _, _ in plan] == [
        dt.date(2026, 12, 30),
        dt.date(2027, 1, 30),
        dt.date(2027, 2, 28),
        dt.date(2027, 3, 15),
    ]
    assert [interest for _, interest, _ in plan] == [43_500, 43_500, 43_500, round(12_000_000 * 0.0435 * 15 / 365)]
    assert sum(principal for _, _, principal in plan) == 12_000_000
    assert plan_of(0, 435, dt.date(2026, 11, 30), dt.date(2027, 3, 15)) == []


def test_the_log_of_visits_names_no_firm(opened, capsys):
    opened.browser(OURS).get(f"/contracts/{OURS}")
    said = capsys.readouterr().out
    assert OURS not in said
    assert re.search(r"firm [0-9a-f]{16}", said)
    assert OURS not in json.dumps(opened.acts())
