"""A bank's portal in this process, firms' owners with browsers, and a consent issuer of its own."""

from __future__ import annotations

import asyncio
import re
import shutil
from typing import TYPE_CHECKING, Any

import yaml
from bank_trial import SETTINGS, Joint, empty_file
from console_visits import ORIGIN, PORT, Answered, Browser

from party_bank.applications import by_ladder
from party_bank.book import Book
from party_bank.firms import put_firms
from party_bank.offers import secret_of
from party_bank.portal.entry import codes_of
from party_bank.portal.owner import PortalHome, site_of
from party_bank.portal.serve import desk_of, portal_of
from party_bank.portal.store import OwnerStore
from veilscore.console.link import NodeLink
from veilscore.console.passkeys import Passkeys
from veilscore.console.running import hosts_of
from veilscore.console.site import application
from veilscore.files.home_key import home_key
from veilscore.models.decided import FiledDecision
from veilscore.release.consent import Revocations, read_revocations
from veilscore.release.issuer import Issuer
from veilscore.terms.decision import DecisionModel

if TYPE_CHECKING:
    from pathlib import Path

COOKIE = "__Host-owner"
HOSTILE = "Jade <script>alert(1)</script>"
OURS, THEIRS = "91310000MA1K35TQ6F", "91310000MA1K35TQ7D"
STEPS = (50_000, 100_000, 200_000)


def file_decision(home: Path, name: str, purpose: str) -> None:
    """File a decision of two holders, as a job would: nobody computes with it here."""
    model = DecisionModel.model_validate(
        {
            "name": name, "purpose": purpose, "steps": STEPS, "measures": {"room": {"column": "room"}},
            "knock_outs": [
                {"party": "tax", "column": "late_filings", "above": 3},
                {"party": "registry", "column": "penalties", "above": 1},
            ],
        }
    )  # fmt: skip
    (home / "models" / name).mkdir(parents=True, exist_ok=True)
    FiledDecision(decision=model, pins={}, knock_outs=dict.fromkeys(("tax", "registry"), "ab" * 32)).save(
        home / "models" / name
    )


def portal_home(homes: Path, issuer: bool = True, **site: Any) -> Path:
    """Make a bank's home one with a portal: settings, filed decisions, an issuer, two firms in its book."""
    home = homes / "bank"
    if issuer and not (homes / "consent-desk").exists():
        Issuer.create(homes / "consent-desk", "consent-desk")
    site = {"per_minute": 100_000, "entries_per_minute": 1000, "bank_name": "Lotus Bank"} | site
    content = SETTINGS.model_dump(mode="json", exclude_defaults=True) | {
        "portal": f"{ORIGIN}/offer",
        "portal_site": site | ({"issuer": "../consent-desk"} if issuer else {}),
        "renewals": {"from_days": 365, "to_days": 1},
    }
    (home / "bank.yaml").write_text(yaml.safe_dump(content))
    for name, purpose in (("limit", "application"), ("renew", "renewal")):
        file_decision(home, name, purpose)
    (home / "state").mkdir(exist_ok=True)
    shutil.copy(empty_file(), home / "state" / "book.db")
    book = Book.of_home(home, SETTINGS)
    about = {"industry": "trade", "region": "north", "manager": "lin"}
    put_firms(book, [{"firm": OURS, "name": HOSTILE, **about}, {"firm": THEIRS, "name": "Other", **about}], "test")
    book.close()
    return home


class OpenedPortal:
    """A portal's application without a listener; `clock` of its sessions may be moved."""

    def __init__(self, home: Path, steps: dict[str, int | None] | None = None, joint: Any = None) -> None:
        self.home = PortalHome(home)
        site = site_of(self.home)
        self.now_s = 1_800_000_000.0
        self.store = OwnerStore(home, site.idle_minutes * 60, site.session_hours * 3600, lambda: self.now_s)
        self.link = NodeLink(self.home)
        self.joint = joint or Joint(steps or {OURS: 2, THEIRS: 2})
        self.portal = portal_of(self.home, self.store, self.link, lambda _book: self.joint)
        self.portal.judge = lambda: by_ladder
        self.pushed: list[int] = []
        self.portal.pushes.push = self._push
        passkeys = Passkeys(self.store, "localhost", ORIGIN, "Lotus Bank", lambda: self.now_s)
        self.desk = desk_of(self.portal, self.link, passkeys, ORIGIN)
        self.app = application(self.desk, site, hosts_of(site, PORT))
        self.loop = asyncio.new_event_loop()
        self.book = self.portal.open.book

    async def _push(self) -> Any:
        """No node runs here: what would go to holders is the newest list."""
        signed = self.portal.consents.withdrawals()
        self.pushed.append(-1 if signed is None else len(signed.body))
        return (), ()

    def browser(self, firm: str = "", by: str = "link") -> Browser:
        """A browser, in the session of a firm's owner if one is named."""
        browser = Browser(self.app, self.loop)
        if firm:
            browser.cookies[COOKIE], session = self.store.begin(self.store.person_of(firm), by)
            browser.csrf = session.csrf
        return browser

    def made_link(self, firm: str, hours: float = 1) -> str:
        return self.store.link(firm, hours, codes_of(self.book, firm), "test")

    def code(self, number: str) -> str:
        return secret_of(home_key(self.home.path), number)

    def acts(self) -> list[tuple[str, str, str]]:
        return [(body["person"], body["act"], body["outcome"]) for _, _, body in self.store.not_logged(1000)]

    def close(self) -> None:
        self.loop.run_until_complete(self.link.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.portal.close()
        self.store.close()


def hidden(text: str, name: str) -> str:
    """The value of a hidden field of a form."""
    return re.search(rf'name="{name}" value="([^"]*)"', text).group(1)


def agree(browser: Browser, purpose: str, **more: str) -> Answered:
    """Let an owner read what a consent says, and say yes to it."""
    page = browser.get(f"/consents/{purpose}").text
    return browser.post(f"/consents/{purpose}/give", terms=hidden(page, "terms"), agree="yes", **more)


def issuer_of(portal: OpenedPortal) -> Issuer:
    """The consent issuer of a portal."""
    return Issuer.load(portal.home.path.parent / "consent-desk")


def withdrawn(portal: OpenedPortal) -> Revocations:
    """What holders are given, as they verify it."""
    return read_revocations(portal.portal.consents.withdrawals(), known(portal))


def known(portal: OpenedPortal) -> dict[str, str]:
    """The issuer's public key by its name, as holders list it."""
    issuer = issuer_of(portal)
    return {issuer.name: issuer.public_key}


def tokens(portal: OpenedPortal) -> list[Path]:
    """The tokens in the bank's home."""
    return sorted((portal.home.path / "consents" / "tokens").glob("*.json"))
