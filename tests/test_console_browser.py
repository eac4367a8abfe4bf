"""The console in Chromium, with real nodes behind it: passkeys, a steward's day, two languages, no violated policy.

Screenshots of every page lie in build/console afterwards.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
from conftest import ROOT, require
from console_bank import FIRM, filled_bank
from console_visits import PEOPLE, with_people
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from trial_federation import JOB, commanding, make_homes, open_trial, submit, until

from veilscore.console.serve import RunningConsole
from veilscore.release.account import FILE, Account
from veilscore.terms.node_config import load_node_config
from veilscore.wire.protocol import Charge

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]
CHROMIUM = next((p for p in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser")) if p.exists()), None)
SHOTS = ROOT / "build" / "console"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


class Town:
    """Nodes and consoles of a federation, in a loop of their own."""

    def __init__(self, folder):
        self.homes = make_homes(folder, tax={"accept": "manual"})
        for party in ("bank", "tax", "coordinator"):
            with_people(self.homes / party, per_minute=100_000, entries_per_minute=1000)
        filled_bank(self.homes / "bank")
        account = Account(
            self.homes / "tax" / FILE, "main", "bank", load_node_config(self.homes / "tax").policy.privacy
        )
        for n, mu in enumerate((0.21, 0.3, 0.12)):
            account.spend(f"scorecard-{n}0a1b2c3-0123456789abcdef/train/1", Charge("gradient", "train", mu**2))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)

    def __enter__(self):
        self.thread.start()
        self.run(self._open())
        return self

    async def _open(self):
        self.nodes = open_trial(self.homes)
        for node in self.nodes.values():
            await node.start()
        self.consoles = {p: RunningConsole(self.homes / p, port=0) for p in ("bank", "tax", "coordinator")}
        for console in self.consoles.values():
            await console.start()

    def __exit__(self, *_):
        async def close():
            for console in self.consoles.values():
                await console.stop(0.1)
            await asyncio.gather(*(node.stop(0.1) for node in self.nodes.values()))

        self.run(close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    async def proposed(self):
        async with commanding(self.homes / "bank") as bank:
            job_id = await submit(bank, JOB.replace("purpose: credit", "purpose: credit scoring of small firms"))
        await until(lambda: self.nodes["tax"].ledger.get(job_id))
        return job_id

    def link(self, party, person):
        console = self.consoles[party]
        return f"{console.desk.origin}/enter#{console.store.invite(person, 1)}"

    def trusted(self):
        """What makes a browser take the consoles' own certificates, and no others."""
        pems = [console.certificate.read_bytes() for console in self.consoles.values()]
        keys = [x509.load_pem_x509_certificate(pem).public_key() for pem in pems]
        spki = [key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in keys]
        return ",".join(base64.b64encode(hashlib.sha256(one).digest()).decode() for one in spki)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    with Town(tmp_path_factory.mktemp("town")) as opened:
        yield opened


@pytest.fixture(scope="module")
def chromium(town):
    require(CHROMIUM, "Chromium is not on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as driver:
        trusted = f"--ignore-certificate-errors-spki-list={town.trusted()}"
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=[*QUIET, trusted])
        yield browser
        browser.close()


@contextlib.contextmanager
def visiting(chromium, town, party, person="", **settings):
    """A page in a fresh browser profile, in the session of a person if one is named; no policy may be violated."""
    origin = town.consoles[party].desk.origin
    context = chromium.new_context(base_url=origin, **({"viewport": DESK, "locale": "en-GB"} | settings))
    if person:
        secret, _ = town.consoles[party].store.begin(person, "passkey")
        flags = {"secure": True, "httpOnly": True, "sameSite": "Strict"}
        context.add_cookies(
            [{"name": town.consoles[party].desk.session_cookie, "value": secret, "url": origin, **flags}]
        )
    page, wrong = context.new_page(), []
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    try:
        yield page
        assert [text for text in wrong if "Failed to load resource" not in text] == []
    except Exception:
        page.screenshot(path=SHOTS / "failed.png", full_page=True)
        print(page.url, wrong, page.inner_text("body"))  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        context.close()


def authenticator(page):
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    options = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
               "isUserVerified": True, "automaticPresenceSimulation": True}  # fmt: skip
    made = devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return devtools, made["authenticatorId"]


def test_a_link_makes_a_passkey_which_opens_the_console(town, chromium):
    with visiting(chromium, town, "tax") as page:
        devtools, key = authenticator(page)
        link = town.link("tax", "stella")
        page.goto(link)
        page.screenshot(path=SHOTS / "enter.png")
        page.get_by_role("button", name="Make a passkey").click()
        page.wait_for_url("**/")
        assert page.get_by_role("heading", name="Overview").is_visible()
        page.get_by_role("button", name="Leave").click()
        page.wait_for_url(re.compile(r"/login\?done=left$"))
        page.screenshot(path=SHOTS / "login.png")
        page.goto("/accounts")
        page.wait_for_url(re.compile(r"/login\?next=%2Faccounts$"))
        page.get_by_role("button", name="Enter with a passkey").click()
        page.wait_for_url("**/accounts")
        page.get_by_role("button", name="Leave").click()
        devtools.send("WebAuthn.setUserVerified", {"authenticatorId": key, "isUserVerified": False})
        page.get_by_role("button", name="Enter with a passkey").click()
        page.wait_for_selector("[data-problem]:not([hidden])")
        page.goto("about:blank")
        page.goto(link)
        page.get_by_role("button", name="Make a passkey").click()
        page.wait_for_selector("[data-problem]:not([hidden])")
        assert "was used or is over" in page.locator("[data-problem]").inner_text()


def test_a_steward_approves_a_job_watches_it_and_sees_the_budget(town, chromium):
    job_id = town.run(town.proposed())
    with visiting(chromium, town, "tax", "stella") as page:
        page.goto("/")
        page.screenshot(path=SHOTS / "overview-waiting.png", full_page=True)
        page.get_by_role("link", name="toy").first.click()
        page.wait_for_url(f"**/jobs/{job_id}")
        assert page.get_by_role("heading", name="What it reveals").is_visible()
        page.screenshot(path=SHOTS / "job-waiting.png", full_page=True)
        page.get_by_label("Reason, which the bank may read").fill("as agreed <b>in May</b>")
        page.get_by_role("button", name="Approve").click()
        page.wait_for_url(re.compile(r"\?done=approved$"))
        page.wait_for_selector("h1 .badge.done", timeout=60_000)  # by the events, without a click
        page.screenshot(path=SHOTS / "job-done.png", full_page=True)
        page.get_by_role("link", name="Accounts").click()
        assert "μ 0.92" in page.locator(".figures").first.inner_text()
        page.screenshot(path=SHOTS / "accounts.png", full_page=True)
    with visiting(chromium, town, "tax", "ada") as page:
        page.goto(f"/receipts/{job_id}")
        assert page.get_by_role("heading", name="It holds, and proves").is_visible()
        page.screenshot(path=SHOTS / "receipt.png", full_page=True)
        page.goto("/log?kind=console")
        assert "decide on a job" in page.locator("table").inner_text()
        page.get_by_role("button", name="Verify the whole log").click()
        assert page.get_by_role("heading", name="The log holds").is_visible()
        page.screenshot(path=SHOTS / "log.png", full_page=True)
    assert town.nodes["tax"].ledger.entry(job_id).reason.endswith("as agreed <b>in May</b>")


def pages_of(town, party):
    paths = [page.path for page in town.consoles[party].desk.pages if page.name] + ["/me", "/login", "/nothing"]
    details = (f"/firms/{FIRM}", "/campaigns/spring", "/applications/w-0", "/policies/admission/1")
    return [*paths, "/data/main", *(details if party == "bank" else ())]


@pytest.mark.parametrize("party", ["tax", "bank", "coordinator"])
def test_every_page_in_both_languages_and_at_phone_width(town, chromium, party):
    for language, settings in (
        ("en", {}),
        ("zh", {"locale": "zh-CN", "color_scheme": "dark"}),
        ("phone", {"viewport": PHONE, "is_mobile": True, "has_touch": True}),
    ):
        with visiting(chromium, town, party, "all", **settings) as page:
            for path in pages_of(town, party):
                page.goto(path)
                name = path.strip("/").replace("/", "-") or "overview"
                page.screenshot(path=SHOTS / f"{party}-{name}-{language}.png", full_page=True)
                wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert wide <= 0, f"{path} is wider than the window"
                assert page.evaluate("document.documentElement.lang") == ("zh-Hans" if language == "zh" else "en")


def test_it_reads_without_scripts_and_by_keyboard(town, chromium):
    with visiting(chromium, town, "tax", "stella", java_script_enabled=False) as page:
        page.goto("/accounts")
        assert page.locator("svg.chart").count() >= 1
    with visiting(chromium, town, "tax", "stella") as page:
        page.goto("/jobs")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"


def axe_of(folder):
    """The text of axe-core, which npm brings; a test without it is skipped."""
    if not shutil.which("npm"):
        pytest.skip("npm, which has axe-core, is not on this machine")
    packed = subprocess.run(["npm", "pack", "axe-core", "--silent"], cwd=folder, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip("axe-core cannot be had from npm here")
    with tarfile.open(next(folder.glob("axe-core-*.tgz"))) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


def test_axe_finds_nothing_serious(town, chromium, tmp_path):
    axe = axe_of(tmp_path)
    found = {}
    for party in ("tax", "bank"):
        for scheme in ("light", "dark"):
            with visiting(chromium, town, party, "all", color_scheme=scheme) as page:
                for path in pages_of(town, party):
                    page.goto(path)
                    page.evaluate(axe)
                    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
                    serious = [v for v in result["violations"] if v["impact"] in {"serious", "critical"}]
                    if serious:
                        found[party, scheme, path] = [(v["id"], v["nodes"][0]["html"][:120]) for v in serious]
    assert found == {}, json.dumps({" ".join(key): value for key, value in found.items()}, indent=1)


def test_people_are_those_of_the_tests():
    assert set(PEOPLE["all"]) >= {role for roles in PEOPLE.values() for role in roles}
