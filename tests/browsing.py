"""Chromium before sites that run in this process, each in a loop of its own thread; screenshots; axe."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
from conftest import require
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from trial_federation import open_trial

from veilscore.console.serve import RunningConsole

CHROMIUM = next((p for p in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser")) if p.exists()), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@contextlib.contextmanager
def looping():
    """Yield what runs a coroutine in a loop of its own and returns its result."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(120)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class SitesOnNodes:
    """Real nodes of the federation below `homes`, and the consoles of `parties`, in a loop of their own."""

    parties = ()

    @contextlib.contextmanager
    def running(self):
        with looping() as self.run:
            self.run(self._open())
            try:
                yield self
            finally:
                self.run(self._close())

    async def _open(self):
        self.nodes = open_trial(self.homes)
        for node in self.nodes.values():
            await node.start()
        self.consoles = {party: RunningConsole(self.homes / party, port=0) for party in self.parties}
        for console in self.consoles.values():
            await console.start()

    async def _close(self):
        for console in self.consoles.values():
            await console.stop(0.1)
        await asyncio.gather(*(node.stop(0.1) for node in self.nodes.values()))


@contextlib.contextmanager
def launched(town, shots):
    """Yield a Chromium that trusts the certificates of a town's sites (`town.consoles`, by name) and of nobody else."""
    require(CHROMIUM, "Chromium is not on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    shots.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as driver:
        trusted = f"--ignore-certificate-errors-spki-list={_trusted(town)}"
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=[*QUIET, trusted])
        yield browser
        browser.close()


def _trusted(town):
    pems = [site.certificate.read_bytes() for site in town.consoles.values()]
    keys = [x509.load_pem_x509_certificate(pem).public_key() for pem in pems]
    spki = [key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in keys]
    return ",".join(base64.b64encode(hashlib.sha256(one).digest()).decode() for one in spki)


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
        page.screenshot(path=town.shots / "failed.png", full_page=True)
        print(page.url, wrong, page.inner_text("body"))  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        context.close()


def shot(page, path):
    """Keep a picture of a page, which may not be wider than its window."""
    page.screenshot(path=path, full_page=True)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{page.url} is {wide} wider than the window"


def authenticator(page):
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    options = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
               "isUserVerified": True, "automaticPresenceSimulation": True}  # fmt: skip
    made = devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return devtools, made["authenticatorId"]


def axe_of(folder):
    """The text of axe-core, which npm brings; a test without it is skipped."""
    if not shutil.which("npm"):
        pytest.skip("npm, which has axe-core, is not on this machine")
    packed = subprocess.run(["npm", "pack", "axe-core", "--silent"], cwd=folder, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip("axe-core cannot be had from npm here")
    with tarfile.open(next(folder.glob("axe-core-*.tgz"))) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


def serious(page, axe):
    """What axe finds on a page that keeps people out: rule and element."""
    page.evaluate(axe)
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    found = [v for v in result["violations"] if v["impact"] in {"serious", "critical"}]
    return [(v["id"], v["nodes"][0]["html"][:120]) for v in found]
