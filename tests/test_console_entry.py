"""Entering the console: links, passkeys, certificates, sessions and their ends, guessing."""

from __future__ import annotations

import asyncio
import re
import shlex
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from conftest import ROOT
from console_visits import ORIGIN, OpenedConsole, SoftKey, with_people
from trial_federation import make_homes
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.cli import console as command
from veilscore.console import serve
from veilscore.console.limits import RateLimit
from veilscore.console.serve import invitation
from veilscore.errors import ConfigError, IdentityError, RefusedError, StateError
from veilscore.keys.identity import create_identity
from veilscore.terms.federation import load_federation, member_of, save_federation
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.settings import parse


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_homes(tmp_path_factory.mktemp("console"))


@pytest.fixture(scope="module")
def tax(folder):
    opened = OpenedConsole(with_people(folder / "tax", per_minute=100_000, entries_per_minute=1000))
    yield opened
    opened.close()


def enter(opened, browser, key, person):
    token = opened.store.invite(person, 1)
    options = browser.send("/enter/begin", {"token": token}).json()
    answer = browser.send("/enter/finish", {"token": token, "credential": key.made(options)})
    assert answer.status == 200, answer.text
    return token


def test_a_link_makes_one_passkey_once(tax):
    key, browser = SoftKey(), tax.browser()
    token = enter(tax, browser, key, "ada")
    assert "<h1>ada</h1>" in browser.get("/me").text
    for path, content in (("/enter/begin", {"token": token}), ("/enter/begin", {}), ("/enter/begin", [token])):
        assert tax.browser().send(path, content).status == 403
    fresh = tax.browser()
    fresh.send("/login/begin", {})
    assert fresh.send("/login/finish", {}).status == 403
    answer = fresh.send("/login/finish", key.signed(fresh.send("/login/begin", {}).json()))
    assert answer.status == 200
    assert fresh.get("/receipts").status == 200
    assert ("ada", "enter by passkey", "done") in tax.acts()


def test_an_expired_link_and_one_for_somebody_without_a_role(tax):
    token = tax.store.invite("ada", 1)
    tax.now_s += 3601
    assert tax.browser().send("/enter/begin", {"token": token}).status == 403
    token, browser = tax.store.invite("nobody", 1), tax.browser()
    options = browser.send("/enter/begin", {"token": token}).json()
    answer = browser.send("/enter/finish", {"token": token, "credential": SoftKey().made(options)})
    assert (answer.status, "nobody has no role at tax" in answer.text) == (403, True)
    assert "__Host-session" not in browser.cookies


@pytest.mark.parametrize("how", ["origin", "verified", "challenge", "replay", "count", "cookie", "other key"])
def test_a_passkey_that_is_not_as_it_must_be(tax, how):
    key, browser = SoftKey(), tax.browser()
    enter(tax, browser, key, "stella")
    browser = tax.browser()
    options = browser.send("/login/begin", {}).json()
    credential = key.signed(options, "https://evil.example" if how == "origin" else ORIGIN)
    if how == "verified":
        key.flags = 0x01
        credential = key.signed(options)
    if how == "challenge":
        credential = key.signed(tax.browser().send("/login/begin", {}).json())
    if how == "cookie":
        browser.cookies.pop("__Host-entry")
    if how == "other key":
        credential["response"]["signature"] = SoftKey().signed(options)["response"]["signature"]
    if how in {"replay", "count"}:
        assert browser.send("/login/finish", credential).status == 200
        browser.cookies.pop("__Host-session")
        options = browser.send("/login/begin", {}).json()
        if how == "count":
            key.count -= 1
            credential = key.signed(options)
    answer = browser.send("/login/finish", credential)
    assert answer.status == 403
    assert "__Host-session" not in browser.cookies


def test_a_link_of_one_person_does_not_serve_another(tax):
    mine, theirs, browser = tax.store.invite("mo", 1), tax.store.invite("otto", 1), tax.browser()
    options = browser.send("/enter/begin", {"token": mine}).json()
    answer = browser.send("/enter/finish", {"token": theirs, "credential": SoftKey().made(options)})
    assert (answer.status, "another link" in answer.text) == (403, True)


def test_client_certificates_are_those_of_the_federation(folder, tmp_path):
    homes = make_homes(tmp_path)
    made = {name: create_identity(homes / name / "identity", name, "operator") for name in ("stella", "eve")}
    old = load_federation(homes / "federation.yaml")
    known = old.with_people(member_of(one.certificate, None) for one in made.values())
    save_federation(known, homes / "tax" / "federation.yaml")
    opened = OpenedConsole(with_people(homes / "tax", {"stella": ["steward"]}))
    try:
        shown = ssl.PEM_cert_to_DER_cert(made["stella"].certificate.pem.decode())
        browser = opened.browser(certificate=shown)
        assert "certificate of stella" in browser.get("/login").text
        assert browser.post("/login/certificate", next="/accounts").header("location") == "/accounts"
        assert browser.get("/accounts").status == 200
        stolen = opened.browser()
        stolen.cookies = dict(browser.cookies)
        assert stolen.get("/accounts").status == 303, "the cookie alone is nothing"
        assert browser.get("/accounts").status == 303, "and whoever used it so ended the session"
        assert (
            opened.browser(certificate=ssl.PEM_cert_to_DER_cert(made["eve"].certificate.pem.decode()))
            .post("/login/certificate")
            .status
            == 403
        )
        assert opened.browser().post("/login/certificate").status == 403
        assert opened.home.roots().count(b"BEGIN CERTIFICATE") == 1, "eve has no role, so TLS does not know her"
    finally:
        opened.close()


def test_the_last_passkey_stays(tax):
    key, browser = SoftKey(), tax.browser()
    enter(tax, browser, key, "otto")
    browser.csrf = tax.store.session(browser.cookies["__Host-session"]).csrf
    assert browser.post("/me/passkeys", credential=key.id.hex()).status == 403
    second = SoftKey()
    enter(tax, browser, second, "otto")
    browser.csrf = tax.store.session(browser.cookies["__Host-session"]).csrf
    assert browser.post("/me/passkeys", credential=second.id.hex()).status == 303
    assert browser.post("/me/passkeys", credential="zz").status == 403
    assert [one.credential for one in tax.store.passkeys("otto")] == [key.id]


def test_two_passkeys_removed_at_once_leave_one(tax):
    keys = [SoftKey() for _ in range(2)]
    for _ in range(10):
        tax.store.forget("ada", "otto")
        for key in keys:
            tax.store.keep_passkey(tax.store.invite("ada", 1), key.id, b"key", 0)
        gate = threading.Barrier(2)

        def remove(key, gate=gate):
            gate.wait(30)
            try:
                return tax.store.forget_passkey("ada", key.id, least=1)
            except RefusedError:
                return False

        with ThreadPoolExecutor(2) as threads:
            assert sorted(threads.map(remove, keys)) == [False, True]
    tax.store.forget("ada", "otto")


def test_a_session_is_new_at_entering_and_ends(tax):
    key, browser = SoftKey(), tax.browser()
    browser.cookies["__Host-session"] = fixed = "chosen-by-somebody-else"
    enter(tax, browser, key, "stella")
    first = browser.cookies["__Host-session"]
    assert first != fixed
    assert tax.store.session(fixed) is None
    again = browser.send("/login/finish", key.signed(browser.send("/login/begin", {}).json()))
    assert again.status == 200
    assert browser.cookies["__Host-session"] != first
    assert tax.store.session(first) is None, "the earlier one is over"
    browser.csrf = tax.store.session(browser.cookies["__Host-session"]).csrf
    last = browser.cookies["__Host-session"]
    assert browser.post("/logout").header("location") == "/login?done=left"
    assert "__Host-session" not in browser.cookies
    assert tax.store.session(last) is None


def test_a_session_ends_by_itself_with_the_role_and_with_the_time(folder, tmp_path):
    opened = OpenedConsole(with_people(folder / "tax", per_minute=100_000, entries_per_minute=1000))
    try:
        browser = opened.browser("stella")
        for _ in range(29):  # each within the idle time, all together less than the whole
            opened.now_s += 19 * 60
            assert browser.get("/me").status == 200
        for _ in range(5):
            opened.now_s += 19 * 60
            last = browser.get("/me")
        assert last.status == 303
        idle = opened.browser("stella")
        opened.now_s += 21 * 60
        assert idle.get("/me").status == 303
        gone = opened.browser("otto")
        with_people(folder / "tax", {"stella": ["steward"]})
        assert gone.get("/me").status == 303
        assert "needs the role" not in opened.browser("stella").get("/accounts").text
    finally:
        with_people(folder / "tax")
        opened.close()


def test_guessing_is_slow_and_noted(folder):
    opened = OpenedConsole(with_people(folder / "tax", entries_per_minute=5))
    try:
        browser = opened.browser()
        answers = [browser.send("/enter/begin", {"token": f"guess-{n}"}) for n in range(8)]
        assert [a.status for a in answers] == [403] * 5 + [429] * 3
        assert int(answers[-1].header("retry-after")) >= 1
        assert opened.browser(address="10.0.0.9").send("/enter/begin", {"token": "x"}).status == 403
        assert browser.get("/login").status == 200  # reading goes on
    finally:
        with_people(folder / "tax", per_minute=100_000, entries_per_minute=1000)
        opened.close()


def test_behind_the_party_s_own_proxy_each_address_is_bounded_alone(folder):
    opened = OpenedConsole(with_people(folder / "tax", entries_per_minute=2, proxies=["10.0.0.0/24"]))

    def statuses(address, *forwarded):
        browser = opened.browser(address=address)
        return [browser.send("/enter/begin", {"token": "x"}, x_forwarded_for=one).status for one in forwarded]

    try:
        assert statuses("10.0.0.7", *["192.0.2.1"] * 3) == [403, 403, 429]
        assert statuses("10.0.0.7", "192.0.2.2", "192.0.2.9, 192.0.2.1", "192.0.2.1, 10.0.0.8") == [403, 429, 429]
        assert statuses("192.0.2.50", "192.0.2.60", "192.0.2.61", "192.0.2.62") == [403, 403, 429], "no proxy of ours"
        mapped = statuses("::ffff:10.0.0.7", "192.0.2.3", "::ffff:192.0.2.3", "192.0.2.3", "::ffff:192.0.2.4")
        assert mapped == [403, 403, 429, 403], "an address of IPv4 is one however it is written"
        assert statuses("::ffff:192.0.2.70", "192.0.2.80", "192.0.2.81", "192.0.2.82") == [403, 403, 429]
        assert statuses("192.0.2.71", "192.0.2.83") == [403], "dual sockets do not make one of all"
        assert statuses("10.0.0.7", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "2001:db8::3") == [
            403, 403, 403, 429,
        ]  # fmt: skip
        assert statuses("10.0.0.7", *["fe80::1%eth0"] * 3) == [403, 403, 429]
        assert statuses("10.0.0.7", "unknown", "192.0.2.7:1234", "") == [403, 403, 429], "all as the proxy's own"
    finally:
        with_people(folder / "tax", per_minute=100_000, entries_per_minute=1000)
        opened.close()


def test_proxies_may_be_named_as_ipv4_within_ipv6(folder):
    opened = OpenedConsole(with_people(folder / "tax", entries_per_minute=1, proxies=["::ffff:10.0.0.0/120"]))
    try:
        for address in ("10.0.0.7", "::ffff:10.0.0.8"):
            browser = opened.browser(address=address)
            answers = [
                browser.send("/enter/begin", {"token": "x"}, x_forwarded_for=f"192.0.2.{n}{address[-1]}")
                for n in (1, 2)
            ]
            assert [one.status for one in answers] == [403, 403]
    finally:
        with_people(folder / "tax", per_minute=100_000, entries_per_minute=1000)
        opened.close()


def test_a_person_who_is_forgotten_while_entering_is_not_in(tax):
    key = SoftKey()
    browser = tax.browser()
    enter(tax, browser, key, "ada")
    passkey = tax.passkeys.to_enter(), tax.browser()
    (cookie, options), other = passkey
    person, credential = tax.passkeys.entered(cookie, key.signed(options))
    tax.store.forget("ada", "otto")
    with pytest.raises(IdentityError, match="was removed"):
        tax.store.begin(person, "passkey", credential=credential)
    assert (tax.store.sessions("ada"), other.get("/me").status) == ((), 303)
    assert tax.acts()[-1] == ("otto", "forget", "done")


def test_what_was_noted_stays(tax):
    tax.store.note("ada", "look", "x", "done")
    number = tax.store.not_logged(1000)[-1][0]
    tax.store.logged(number)
    for statement in ("UPDATE acts SET body = '{}'", "DELETE FROM acts", "UPDATE acts SET at_s = 0"):
        with pytest.raises(StateError):
            tax.store._all(statement)


def test_an_act_that_the_site_s_end_cuts_off_is_noted(folder, monkeypatch):
    opened, begun, goes_on = OpenedConsole(with_people(folder / "tax")), threading.Event(), threading.Event()
    real = opened.store.sessions

    def slow(*names):
        begun.set()
        goes_on.wait(30)
        return real(*names)

    async def cut_off(stella):
        task = asyncio.ensure_future(stella.posting("/me/sessions"))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        goes_on.set()

    try:
        monkeypatch.setattr(opened.store, "sessions", slow)
        opened.loop.run_until_complete(cut_off(opened.browser("stella")))
        assert opened.acts()[-1] == ("stella", "end other sessions", "cut off: it may have been done")
    finally:
        goes_on.set()
        with_people(folder / "tax", per_minute=100_000, entries_per_minute=1000)
        opened.close()


def test_an_act_that_cannot_be_noted_is_told_and_logged(folder, monkeypatch, capsys):
    opened = OpenedConsole(with_people(folder / "tax", per_minute=100_000))
    try:
        stella = opened.browser("stella")

        def full(*_):
            raise StateError("console's file cannot be written")

        monkeypatch.setattr(opened.store, "note", full)
        answer = stella.post("/me/sessions")
        assert (answer.status, answer.header("x-frame-options")) == (500, "DENY")
        assert "act not noted" in capsys.readouterr().out
    finally:
        opened.close()


def test_a_rate_refills_and_forgets_no_one_who_still_asks():
    now = [0.0]
    limit = RateLimit(60, lambda: now[0])
    assert [limit.take("a") for _ in range(61)] == [0] * 60 + [1]
    now[0] = 2.0
    assert [limit.take("a") for _ in range(3)] == [0, 0, 1]
    assert all(not limit.take(f"k{n}") for n in range(100))
    assert limit.take("a") == 1


def test_invitations_by_the_command(folder, capsys):
    link = invitation(folder / "tax", "stella", 1)
    assert re.fullmatch(r"https://localhost:7445/enter#[\w-]{43}", link)
    with pytest.raises(ConfigError, match="eve has no role at tax"):
        invitation(folder / "tax", "eve", 1)
    command.people(home=folder / "tax")
    assert "stella" in capsys.readouterr().out
    command.forget(person="stella", home=folder / "tax")
    assert "passkeys of stella removed" in capsys.readouterr().out


def test_the_page_says_what_there_is(folder, monkeypatch):
    """docs/console.md: its commands run as printed, but for the one that serves, and its configuration is one."""
    text = (ROOT / "docs" / "console.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    (settings,) = (yaml.safe_load(body) for kind, body in blocks if kind == "yaml")
    node = parse(NodeConfig, {"name": "tax", "role": "holder"} | settings, "docs/console.md")
    with_people(folder / "tax", {name: list(roles) for name, roles in node.people.items()}, port=node.console.port)
    served, lines = [], [line for kind, body in blocks if kind == "sh" for line in body.splitlines()]
    monkeypatch.setattr(serve, "serve_console", lambda home, _told: served.append(home))
    for line in lines:
        program, *words = shlex.split(line.replace("/srv/tax", str(folder / "tax")), comments=True)
        if program == "veilscore":
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, (line, done.output, done.exception)
    assert served == [folder / "tax"]
    assert "veilscore console forget --person anna" in text
