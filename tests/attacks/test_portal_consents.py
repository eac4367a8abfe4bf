"""Killed processes, other terms, stolen codes, a full disk: no consent that nobody gave, none that outlives its end."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import shutil

import pytest
import sqlalchemy as sa
import yaml
from bank_trial import lend
from console_visits import SoftKey
from portal_visits import OURS, THEIRS, OpenedPortal, agree, hidden, issuer_of, portal_home, withdrawn
from trial_federation import make_homes

from party_bank.book_tables import CONSENTS, CONTRACTS, HISTORY
from party_bank.firms import import_consents
from party_bank.portal import consents as service
from party_bank.portal import pushes
from party_bank.portal.consents import AGREED
from party_bank.portal.links import link_for
from veilscore.errors import BookError, StateError
from veilscore.release.consent import claim_of, commit_one
from veilscore.release.issuer import Issuer
from veilscore.release.scope import Scope


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


def killed_after_signing(portal, browser, monkeypatch):
    """An owner's yes that was signed, and perhaps handed to the node, and is in no book; returns the token's id."""

    def killed(*_, **__):
        raise BookError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(service, "note_consent", killed)
        assert agree(browser, "application").status == 422
    (token,) = (portal.home.path / "consents" / "tokens").glob("*.json")
    assert portal.book.rows(sa.select(CONSENTS)) == []
    return token.stem


@pytest.mark.parametrize("path", ["/consents/application/withdraw", "/consents/end"])
def test_what_a_killed_process_signed_is_withdrawn_with_the_rest(opened, monkeypatch, path):
    browser = opened.browser(OURS)
    token = killed_after_signing(opened, browser, monkeypatch)
    assert browser.post(path, sure="yes").status == 303
    assert token in withdrawn(opened).revoked, "it would pass at every holder"
    import_consents(opened.book, opened.home.path, "lin")  # the bank's people take in what lies in its home
    (row,) = opened.book.rows(sa.select(CONSENTS))
    assert (row["document"], row["revoked_s"] is None) == (token, False)


def test_a_yes_to_other_terms_is_written_down_and_the_killed_one_before_ends(opened, monkeypatch):
    browser = opened.browser(OURS)
    before = killed_after_signing(opened, browser, monkeypatch)
    path = opened.home.path / "bank.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["portal_site"]["consent_days"] = {"application": 7}
    path.write_text(yaml.safe_dump(settings))
    page = browser.get("/consents/application").text
    assert "7 days" in page
    assert agree(browser, "application").status == 303
    acts = opened.book.rows(sa.select(HISTORY).where(HISTORY.c.event == AGREED).order_by(HISTORY.c.id))
    assert [act["content"]["days"] for act in acts] == [30, 7], "each yes with the terms that were read"
    assert acts[1]["content"]["terms_sha256"] == hidden(page, "terms")
    (standing,) = opened.book.rows(sa.select(CONSENTS).where(CONSENTS.c.revoked_s.is_(None)))
    assert standing["expires_s"] - standing["not_before_s"] == pytest.approx(7 * 86_400)
    assert before in withdrawn(opened).revoked
    assert standing["document"] not in withdrawn(opened).revoked


def test_a_clock_that_is_set_back_makes_no_second_token(opened, monkeypatch):
    browser = opened.browser(OURS)
    token = killed_after_signing(opened, browser, monkeypatch)
    path = issuer_of(opened).folder / "issued" / f"{token}.json"
    os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    assert agree(browser, "application").status == 303
    assert [one.stem for one in path.parent.glob("*.json")] == [token]


def test_ending_everything_ends_what_the_book_does_not_have_for_good(opened):
    """Scores and sections stand in no book: the objection alone ends them, and the next yes lifts it."""
    issuer, browser = issuer_of(opened), opened.browser(OURS)
    scope = Scope("credit", ("score_online",), "bank", (), 1.0, 4e9)
    token, other = issuer.token(OURS, scope), issuer.token(THEIRS, scope)
    listed = issuer.list([OURS, THEIRS], scope)
    assert browser.post("/consents/end", sure="yes").status == 303
    assert "You ended everything before" in browser.get("/consents/application").text
    assert agree(browser, "application").status == 303
    found = withdrawn(opened)
    ours = commit_one(claim_of(listed).salt, OURS).hex()
    assert {claim_of(token).id, f"{claim_of(listed).id}:{ours}"} <= found.revoked
    assert not {claim_of(other).id, claim_of(listed).id} & found.revoked
    assert not found.covers([OURS]).any()
    assert "You ended everything before" not in browser.get("/consents/renewal").text


def test_an_end_of_everything_that_was_killed_is_signed_before_the_next_yes_lifts_it(opened, monkeypatch):
    issuer, browser = issuer_of(opened), opened.browser(OURS)
    token = issuer.token(OURS, Scope("credit", ("score_online",), "bank", (), 1.0, 4e9))
    with monkeypatch.context() as patch:
        patch.setattr(Issuer, "revoke", lambda *_, **__: (_ for _ in ()).throw(StateError("the disk is full")))
        assert browser.post("/consents/end", sure="yes").status >= 400
    assert agree(browser, "application").status == 303
    assert claim_of(token).id in withdrawn(opened).revoked
    assert not withdrawn(opened).covers([OURS]).any()


def test_a_withdrawal_that_could_not_be_signed_is_signed_while_the_portal_runs(opened, monkeypatch):
    browser, other = opened.browser(OURS), opened.browser(THEIRS)
    opened.portal.consents.catch_up(opened.book)  # as at the start
    for one in (browser, other):
        agree(one, "application")
    (token,) = opened.book.rows(sa.select(CONSENTS).where(CONSENTS.c.firm == OURS))
    with monkeypatch.context() as patch:
        patch.setattr(Issuer, "revoke", lambda *_, **__: (_ for _ in ()).throw(StateError("the disk is full")))
        assert browser.post("/consents/application/withdraw").status >= 400
    assert other.post("/consents/application/withdraw").status == 303
    assert token["document"] not in withdrawn(opened).revoked
    monkeypatch.setattr(pushes, "_AGAIN_S", 0.01)

    async def rounds(limit_s, ended):
        pushing = asyncio.create_task(opened.portal.pushes.keep_pushing())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not ended():  # noqa: ASYNC110 - a list on the disk has no event
                    await asyncio.sleep(0.02)
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)

    opened.loop.run_until_complete(rounds(60, lambda: token["document"] in withdrawn(opened).revoked))
    number = withdrawn(opened).number
    assert token["document"] in withdrawn(opened).revoked
    opened.loop.run_until_complete(rounds(0.3, lambda: False))
    assert withdrawn(opened).number == number, "nothing new is no new list"


def test_a_renewal_is_accepted_as_it_was_read(opened):
    browser = opened.browser(OURS)
    number = lend(opened.book, OURS, 3_000_000, settings=opened.portal.open.settings)
    with opened.book.writing("test") as entry:
        (contract,) = entry.rows(sa.select(CONTRACTS))
        entry.change(CONTRACTS, contract["id"], ends_on=entry.today + dt.timedelta(days=60))
    agree(browser, "renewal")
    path = f"/contracts/{number}"
    assert browser.post(f"{path}/renewal").status == 303
    read = {"agree": "yes", "proposal": hidden(browser.get(path).text, "proposal")}
    file = opened.home.path / "bank.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["products"]["flow"]["rate_bp"] = 2400
    file.write_text(yaml.safe_dump(settings))
    for form in (read, {"agree": "yes"}):
        answer = browser.post(f"{path}/renew", **form)
        assert (answer.status, "has changed meanwhile" in answer.text) == (422, True)
    assert [row["number"] for row in opened.book.rows(sa.select(CONTRACTS))] == [number]
    again = {"agree": "yes", "proposal": hidden(browser.get(path).text, "proposal")}
    renewed = [browser.post(f"{path}/renew", **form).header("location") for form in (again, again, read)]
    assert len(set(renewed)) == 1, "sent twice, also from an old page"


def test_a_new_link_ends_the_sessions_of_a_stolen_code_and_tells_of_its_passkey(opened):
    thief = opened.browser(OURS)
    key = SoftKey()
    options = thief.send("/enter/begin", {}).json()
    assert thief.send("/enter/finish", {"credential": key.made(options)}).status == 200
    other = opened.browser(THEIRS)
    _, n_passkeys = link_for(opened.home.path, OURS, 1)
    assert n_passkeys == 1
    assert thief.get("/").status == 303
    assert other.get("/").status == 200
