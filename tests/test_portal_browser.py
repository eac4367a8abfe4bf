"""The portal on a phone, in Chromium, over real nodes: a firm's owner agrees, applies, draws, renews and withdraws.

Screenshots of every page lie in build/portal afterwards.
"""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
import yaml
from browsing import PHONE, authenticator, axe_of, launched, looping, serious, shot, visiting
from conftest import ROOT
from trial_decisions import expected
from trial_lending import SETTINGS, add_known_firms, lending_homes, lending_settings
from trial_scoring import served

from party_bank.book import Book
from party_bank.book_check import check_book
from party_bank.book_tables import CONSENTS, CONTRACTS, DECISIONS
from party_bank.portal.consents import OWNER
from party_bank.portal.links import link_for
from party_bank.portal.serve import RunningPortal
from veilscore.evidence.log import LOG_FILE, scan
from veilscore.node.founding import free_ports
from veilscore.release.revocations import RevocationLists
from veilscore.terms.node_config import load_node_config

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]
SHOTS = ROOT / "build" / "portal"
LANGUAGES = {"en": "en-GB", "zh": "zh-CN"}
ASKED = ("/consents/renewal", "/consents/report", "/consents/proactive")


class PortalTown:
    """Real nodes of a federation that decides, and the portal of its bank; firms by language that are approved."""

    shots = SHOTS

    def __init__(self, homes):
        self.homes, self.bank = homes, homes / "bank"
        (port,) = free_ports(1)
        site = {"port": port, "issuer": "../consent-portal", "bank_name": "Lotus Bank", "entries_per_minute": 1000}
        site |= {
            "report": {"holders": ["tax", "registry"], "fields": ["all"]},
            "consent_days": {"application": 30, "renewal": 400, "report": 90, "proactive": 180},
        }
        more = {
            "portal_site": site,
            "renewals": {"from_days": 365, "to_days": 1},
            "portal": f"https://localhost:{port}/offer",
        }
        (self.bank / "bank.yaml").write_text(yaml.safe_dump(SETTINGS | more))
        self.book = Book.of_home(self.bank, lending_settings())
        steps = expected(homes, "admit")
        good = [firm for firm in add_known_firms(homes, self.book, 1000) if steps[firm] >= 3]
        names = (*LANGUAGES, "withdraws", "axe", "script")
        self.firms = dict(zip(names, good[: len(names)], strict=True))

    @contextmanager
    def running(self):
        portal = RunningPortal(self.bank)
        with looping() as run:
            run(portal.start())
            self.portal, self.consoles = portal, {"portal": portal}
            try:
                yield self
            finally:
                run(portal.stop(0.1))
                self.book.close()

    def person(self, who):
        return self.portal.store.person_of(self.firms[who])


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    homes = lending_homes(tmp_path_factory.mktemp("portal") / "homes")
    made = PortalTown(homes)
    with served(homes), made.running():
        yield made


@pytest.fixture(scope="module")
def chromium(town):
    with launched(town, SHOTS) as browser:
        yield browser


def on_phone(chromium, town, person="", language="en", **more):
    settings = {"viewport": PHONE, "is_mobile": True, "has_touch": True, "locale": LANGUAGES[language]} | more
    return visiting(chromium, town, "portal", person, **settings)


def press(page, action):
    page.locator(f'form[action$="{action}"] button').click()


def agree(page, action):
    page.locator(f'form[action$="{action}"] input[type=checkbox]').check()
    press(page, action)


def _borrow(page, see):
    """Consents, applies, accepts and draws."""
    page.goto("/apply/flow")
    see("04-apply-first-consent")
    page.locator("a.button.main").click()
    see("05-consent")
    agree(page, "/give")
    page.wait_for_url("**/apply/flow?done=given")
    see("06-apply")
    page.locator("#amount").fill("100000")
    page.locator("#months").select_option("6")
    press(page, "/apply")
    page.wait_for_url("**/applications/*")
    see("07-approved")
    page.locator("a.button.main").click()
    see("08-contract-draft")
    agree(page, "/accept")
    page.wait_for_url("**?done=accepted")
    page.locator("#amount").fill("40000.50")
    press(page, "/draw")
    page.wait_for_url("**?done=drawn")
    see("09-contract-drawn")


def _renew(page, see):
    """Consents to a renewal, reads it and accepts."""
    page.locator(".card.hot a.button.main").click()
    see("10-consent-renewal")
    agree(page, "/give")
    page.wait_for_url("**/contracts/*?done=given")
    press(page, "/renewal")
    page.wait_for_selector('form[action$="/renew"]')
    see("11-renewal-proposed")
    agree(page, "/renew")
    page.wait_for_url("**?done=renewed")
    see("12-renewed")


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_a_firm_consents_applies_draws_and_renews_on_a_phone(town, chromium, language):
    firm = town.firms[language]

    def see(name):
        shot(page, SHOTS / f"{name}-{language}.png")

    scheme = {"color_scheme": "dark"} if language == "zh" else {}
    with on_phone(chromium, town, language=language, **scheme) as page:
        page.goto(link_for(town.bank, firm, 24)[0])
        assert page.evaluate("document.documentElement.lang") == ("zh-Hans" if language == "zh" else "en")
        assert page.evaluate("location.hash + document.querySelector('[data-typed]').hidden") == "true"
        see("01-enter")
        press(page, "/enter")
        page.wait_for_url("**/")
        see("02-overview-new")
        authenticator(page)
        page.goto("/me")
        see("03-passkey")
        page.locator("[data-passkey]").click()
        page.wait_for_url("**/me?done=passkey")
        _borrow(page, see)
        _renew(page, see)
        for n, path in enumerate(("/", "/consents", "/history", "/me", "/nothing")):
            page.goto(path)
            see(f"{13 + n}-{path.strip('/') or 'overview'}")
        page.locator('form[action="/logout"] button').click()
        page.wait_for_url("**/login?done=left")
        see("18-login")
        page.locator("[data-passkey]").click()
        page.wait_for_url("**/")
    found = town.book.rows(CONTRACTS.select().where(CONTRACTS.c.firm == firm).order_by(CONTRACTS.c.id))
    assert [row["status"] for row in found] == ["ended", "signed"]
    asked = town.book.rows(DECISIONS.select().where(DECISIONS.c.firm == firm))
    assert [(row["kind"], sorted(row["holders"])) for row in asked] == [
        ("application", ["registry", "tax"]), ("renewal", ["registry", "tax"]),
    ]  # fmt: skip
    assert check_book(town.book) == []


def test_a_withdrawal_reaches_every_holder(town, chromium):
    firm = town.firms["withdraws"]
    with on_phone(chromium, town, town.person("withdraws")) as page:
        page.goto("/consents/application")
        agree(page, "/give")
        page.wait_for_url("**?done=given")
        shot(page, SHOTS / "20-consent-given.png")
        press(page, "/withdraw")
        page.wait_for_url("**?done=withdrawn")
        shot(page, SHOTS / "21-withdrawn.png")
    (row,) = town.book.rows(CONSENTS.select().where(CONSENTS.c.firm == firm))
    for holder in ("tax", "registry"):
        policy = load_node_config(town.homes / holder).policy
        assert row["document"] in RevocationLists(town.homes / holder, dict(policy.consent_issuers)).now().consents


def test_it_works_without_scripts(town, chromium):
    link, _ = link_for(town.bank, town.firms["script"], 24)
    with on_phone(chromium, town, java_script_enabled=False) as page:
        page.goto(link)
        page.locator("#secret").fill(link.partition("#")[2])
        press(page, "/enter")
        page.goto("/consents/application")
        agree(page, "/give")
        page.wait_for_url("**/consents/application?done=given")


def test_axe_finds_nothing_serious(town, chromium, tmp_path):
    axe, found = axe_of(tmp_path), {}
    contract = town.book.rows(CONTRACTS.select().where(CONTRACTS.c.firm == town.firms["en"]))[-1]["number"]
    for scheme in ("light", "dark"):
        for who, paths in (
            ("axe", ("/", "/apply/flow", "/consents", *ASKED, "/me", "/nothing")),
            ("en", ("/", f"/contracts/{contract}", "/applications/1", "/history")),
            ("", ("/login", "/offer/O0000001")),
        ):
            with on_phone(chromium, town, town.person(who) if who else "", color_scheme=scheme) as page:
                for path in paths:
                    page.goto(path)
                    if path in ASKED:
                        shot(page, SHOTS / f"19-consent-{path.rpartition('/')[2]}-{scheme}.png")
                    if problems := serious(page, axe):
                        found[f"{scheme} {path}"] = problems
    assert found == {}, json.dumps(found, indent=1)


def test_acts_reach_the_node_s_log_under_a_digest(town):
    entries: list[dict[str, object]] = []
    scan(town.bank / "evidence" / LOG_FILE, visit=lambda _, body: entries.append(json.loads(body)))
    acts = [one for one in entries if one["kind"] == "console"]
    assert {str(one["act"]) for one in acts} >= {"portal: enter", "portal: give a consent", "portal: apply"}
    assert not [firm for firm in town.firms.values() if firm in json.dumps(acts)]
    assert OWNER not in json.dumps(acts)
