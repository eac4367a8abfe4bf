"""Consents of the portal that are no single decision's: to reports, to offers by list; the bank's own withdrawals."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import sqlalchemy as sa
from portal_visits import OURS, THEIRS, OpenedPortal, agree, hidden, issuer_of, known, portal_home, tokens, withdrawn
from trial_federation import make_homes

from party_bank.book_tables import CONSENTS
from party_bank.firms import import_consents, report_consents, withdraw_consent
from party_bank.portal.consents import OwnerConsents, terms_of
from party_bank.portal.links import list_of_agreed
from party_bank.settings import BankSettings
from veilscore.errors import BookError, ConfigError
from veilscore.release.consent import Signed, claim_of, commit_one, read_consent
from veilscore.reports.section_fields import section_fields


def test_a_consent_to_reports_lists_each_field_and_serves_until_it_ends(tmp_path):
    asked = {"holders": ["tax", "court"], "fields": ["tax.turnover", "tax.late_filings"]}
    every = BankSettings(portal_site={"report": {"holders": ["court"], "fields": ["all"]}})
    of_court = set(section_fields().of_catalogue("court"))
    assert set(terms_of(tmp_path, "bank", every, "report").fields) == of_court
    for wrong in ({"holders": ["court"], "fields": ["tax.turnover"]}, {"holders": ["other"], "fields": ["all"]}):
        with pytest.raises(ConfigError, match=r"portal_site\.report"):
            terms_of(tmp_path, "bank", BankSettings(portal_site={"report": wrong}), "report")
    opened = OpenedPortal(portal_home(make_homes(tmp_path), report=asked))
    try:
        browser = opened.browser(OURS)
        assert 'href="/consents/report"' in browser.get("/consents").text
        page = browser.get("/consents/report").text
        published = section_fields().fields
        assert all(published[one].en in page for one in asked["fields"])
        form = {"terms": hidden(page, "terms"), "agree": "yes"}
        assert [browser.post("/consents/report/give", **form).status for _ in range(2)] == [303, 303]
        (path,) = tokens(opened)
        found = read_consent(Signed.from_text(path.read_text(), "x"), known(opened))
        scope = found.scope
        assert (scope.purpose, scope.tasks, scope.bank, found.once) == ("report", ("report_section",), "bank", False)
        assert (list(scope.holders), list(scope.fields)) == (asked["holders"], asked["fields"])
        assert report_consents(opened.book, OURS) == [found.id]
        assert report_consents(opened.book, THEIRS) == []
        browser.post("/consents/report/withdraw")
        assert report_consents(opened.book, OURS) == []
        assert found.id in withdrawn(opened).revoked
    finally:
        opened.close()


def test_owners_who_agree_to_offers_are_on_one_list_until_they_withdraw(tmp_path):
    portal_home(make_homes(tmp_path), consent_days={"application": 30, "renewal": 400, "proactive": 180})
    opened = OpenedPortal(tmp_path / "bank")
    consents = opened.portal.consents
    terms = terms_of(tmp_path / "bank", "bank", opened.portal.open.settings, "proactive")
    try:
        ours, theirs = opened.browser(OURS), opened.browser(THEIRS)
        assert consents.sign_list(opened.book, terms) == ("", 0)
        for browser in (ours, ours, theirs):
            agree_once(browser, "proactive")
        assert tokens(opened) == []
        assert "with the next list" in ours.get("/consents").text
        assert "The issuer signs it with the next list" in ours.get("/consents/proactive").text
        theirs.post("/consents/proactive/withdraw")
        assert "with the next list" not in theirs.get("/consents").text
        number, count = consents.sign_list(opened.book, terms)
        assert (count, consents.sign_list(opened.book, terms)) == (1, ("", 0))
        path = opened.home.path / "consents" / "lists" / f"{number}.json"
        found = read_consent(Signed.from_text(path.read_text(), "x"), known(opened))
        assert (found.kind, found.scope.purpose, found.covers([OURS, THEIRS]).tolist()) == (
            "list", "proactive", [True, False],
        )  # fmt: skip
        path.unlink()  # as where the process was killed before the home had it
        assert consents.sign_list(opened.book, terms) == ("", 0)
        assert path.is_file()
        agree_once(theirs, "proactive")
        assert consents.sign_list(opened.book, terms)[1] == 1
        ours.post("/consents/proactive/withdraw")
        one = f"{number}:{commit_one(found.salt, OURS).hex()}"
        assert {number, one} & withdrawn(opened).revoked, "alone on its list, it ends with it"
        rows = {row["firm"]: row["revoked_s"] is None for row in opened.book.rows(sa.select(CONSENTS))}
        assert rows == {OURS: False, THEIRS: True}
        later = time.time() + 170 * 86_400
        with opened.book.writing("test") as entry:
            entry.at_s = later
            assert not consents.waits(entry, OURS, terms), "withdrawn"
        agree_once(ours, "proactive")
        with opened.book.reading() as entry:
            assert consents.waits(entry, OURS, terms)
            assert not consents.waits(entry, OURS, replace(terms, model="other"))
            entry.at_s = later
            assert not consents.waits(entry, OURS, terms), "too old for a list: it is asked anew"
        ours.post("/consents/proactive/withdraw")
        theirs.post("/consents/end", sure="yes")
        assert consents.sign_list(opened.book, terms) == ("", 0)
    finally:
        opened.close()


def agree_once(browser, purpose):
    """A yes that may have been given already."""
    if 'name="terms"' in browser.get(f"/consents/{purpose}").text:
        assert agree(browser, purpose).status == 303


def test_a_withdrawal_by_the_bank_s_people_is_signed_while_the_portal_runs(tmp_path):
    opened = OpenedPortal(portal_home(make_homes(tmp_path)))
    try:
        consents = opened.portal.consents
        agree(opened.browser(OURS), "renewal")
        consents.catch_up(opened.book)
        assert consents.withdrawals() is None
        assert withdraw_consent(opened.book, OURS, "renewal", "lin") == 1
        consents.catch_up(opened.book)
        (row,), found = opened.book.rows(sa.select(CONSENTS)), withdrawn(opened)
        assert found.revoked == {row["document"]}
        consents.catch_up(opened.book)
        assert withdrawn(opened).number == found.number, "nothing is new"
    finally:
        opened.close()


def test_a_withdrawal_by_the_bank_s_people_ends_a_yes_that_waits(tmp_path):
    opened, _, _ = offers_portal(tmp_path)
    try:
        for firm in (OURS, THEIRS):
            agree(opened.browser(firm), "proactive")
        assert withdraw_consent(opened.book, OURS, "", "lin") == 0, "no consent was signed yet"
        number, count = list_of_agreed(opened.home.path)
        assert count == 1
        assert ("(command line)", "portal: sign a list", "done") in opened.acts()
        path = opened.home.path / "consents" / "lists" / f"{number}.json"
        found = read_consent(Signed.from_text(path.read_text(), "x"), known(opened))
        assert found.covers([OURS, THEIRS]).tolist() == [False, True]
        with pytest.raises(BookError, match="there is no consent for 'offers'"):
            withdraw_consent(opened.book, THEIRS, "offers", "lin")
        with pytest.raises(BookError, match="no firm"):
            withdraw_consent(opened.book, "91310000MA1K35TQ8B", "", "lin")
    finally:
        opened.close()


@pytest.mark.parametrize("by", ["owner", "people"])
def test_a_list_that_no_book_has_ends_with_the_yes_that_it_was_signed_for(tmp_path, monkeypatch, by):
    opened, consents, terms = offers_portal(tmp_path)
    try:
        ours, theirs = opened.browser(OURS), opened.browser(THEIRS)
        for browser in (ours, theirs):
            agree(browser, "proactive")
        with monkeypatch.context() as killed:
            killed.setattr(OwnerConsents, "_note", refused)
            with pytest.raises(BookError, match="killed"):
                consents.sign_list(opened.book, terms)
        (lost,) = (issuer_of(opened).folder / "issued").glob("*.json")
        withdraw_by(opened, ours, by, "proactive")
        signed = Signed.from_text(lost.read_text(), "x")
        salt = claim_of(signed).salt
        assert withdrawn(opened).revoked == {f"{lost.stem}:{commit_one(salt, OURS).hex()}"}
        assert consents.sign_list(opened.book, terms)[1] == 1, "the other one still waits"
        withdraw_by(opened, theirs, by, "proactive")
        assert f"{lost.stem}:{commit_one(salt, THEIRS).hex()}" in withdrawn(opened).revoked
        consents.catch_up(opened.book)  # the first brings the list again in any case
        number = withdrawn(opened).number
        consents.catch_up(opened.book)
        assert withdrawn(opened).number == number, "nothing is new"
        agree(ours, "proactive")
        assert consents.sign_list(opened.book, terms)[1] == 1, "a new yes is on a new list"
    finally:
        opened.close()


@pytest.mark.parametrize("by", ["owner", "people"])
def test_a_token_that_no_book_has_ends_with_the_yes_and_is_noted_as_ended(tmp_path, monkeypatch, by):
    opened = OpenedPortal(portal_home(make_homes(tmp_path)))
    try:
        browser = opened.browser(OURS)
        with monkeypatch.context() as killed:
            killed.setattr(OwnerConsents, "_note", refused)
            assert agree(browser, "renewal").status == 422
        (lost,) = tokens(opened)
        withdraw_by(opened, browser, by, "renewal")
        assert withdrawn(opened).revoked == {lost.stem}
        assert import_consents(opened.book, opened.home.path, "lin") == 1
        (row,) = opened.book.rows(sa.select(CONSENTS))
        assert row["document"] == lost.stem
        assert row["revoked_s"] is not None, "the bank uses it no more than holders do"
        assert agree(browser, "renewal").status == 303
        import_consents(opened.book, opened.home.path, "lin")
        assert [row["revoked_s"] is None for row in opened.book.rows(sa.select(CONSENTS))] == [False, True]
    finally:
        opened.close()


def offers_portal(tmp_path):
    """A portal that asks for consents to offers, what gives them, and their terms."""
    portal_home(make_homes(tmp_path), consent_days={"application": 30, "renewal": 400, "proactive": 180})
    opened = OpenedPortal(tmp_path / "bank")
    return opened, opened.portal.consents, terms_of(tmp_path / "bank", "bank", opened.portal.open.settings, "proactive")


def withdraw_by(opened, browser, by, purpose):
    """A consent taken back by its owner, or for the owner by the bank's people."""
    if by == "owner":
        assert browser.post(f"/consents/{purpose}/withdraw").status == 303
    else:
        firm = opened.store.firm_of(opened.store.session(browser.cookies["__Host-owner"]).person)
        withdraw_consent(opened.book, firm, purpose, "lin")
        opened.portal.consents.catch_up(opened.book)


def refused(*_):
    raise BookError("killed")
