"""Who gets into the portal of firms' owners and to which pages; what thieves, strangers and hostile names get."""

from __future__ import annotations

import re
import shlex
import time

import pytest
import yaml
from bank_trial import Joint, consent, lend
from conftest import ROOT
from console_visits import ORIGIN, OpenedConsole, SoftKey, with_people
from portal_visits import COOKIE, OURS, THEIRS, OpenedPortal, hidden, portal_home
from trial_federation import make_homes
from typer.testing import CliRunner

from party_bank import campaigns
from party_bank.book_tables import APPLICATIONS, CONTRACTS, OFFERS
from party_bank.portal import serve
from party_bank.portal.links import forget, link_for
from party_bank.portal.owner import OWNERS
from veilscore.cli import app
from veilscore.console.page import ANYBODY
from veilscore.errors import ConfigError
from veilscore.files.home_key import home_key

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A portal; each of two firms has an offer, an application and a contract, and consented to renewals."""
    home = portal_home(make_homes(tmp_path_factory.mktemp("portal")))
    portal = OpenedPortal(home)
    book, settings = portal.book, portal.portal.open.settings
    consent(book, [OURS, THEIRS], "proactive", "renewal")
    campaigns.create(book, settings, "spring", "flow", "lin")
    campaigns.run(book, settings, Joint({OURS: 1, THEIRS: 1}), "spring", home_key(home), "lin")
    for firm in (OURS, THEIRS):
        lend(book, firm, 3_000_000, "tax", settings)
    yield portal
    portal.close()


def number_of(portal, firm, table=OFFERS):
    return next(row["number"] for row in portal.book.rows(table.select().order_by(table.c.id)) if row["firm"] == firm)


def entering(portal, **form):
    browser = portal.browser()
    return browser, browser.post("/enter", **form)


# --- links and codes -------------------------------------------------------------------------------------------------


def test_a_code_opens_its_own_offer_once_and_looking_at_it_uses_nothing_up(opened):
    number = number_of(opened, OURS)
    code, path = opened.code(number), f"/offer/{number}"
    for _ in range(3):  # a messenger's preview, a mail filter, the owner
        page = opened.browser().get(path)
        assert page.status == 200
        assert "Lotus Bank" in page.text
        assert opened.browser().raw("HEAD", path).status == 200
    assert "Jade" not in page.text, "the number alone tells nothing of the firm"
    assert opened.browser().get("/offer/O9999999").text == page.text.replace(number, "O9999999")
    browser, answer = entering(opened, number=number, secret=code.upper())
    assert (answer.status, answer.header("location")) == (303, "/")
    assert "50,000" in browser.get("/").text
    again = entering(opened, number=number, secret=code)[1]
    assert again.status == 422
    assert "was used, has ended, or is not whole" in again.text
    assert number_of(opened, THEIRS) not in browser.get("/").text


@pytest.mark.parametrize("case", ["wrong", "empty", "other", "unknown"])
def test_whoever_guesses_learns_nothing(opened, case):
    ours, theirs = number_of(opened, OURS), number_of(opened, THEIRS)
    form = {
        "wrong": {"number": theirs, "secret": "a" * 26},
        "empty": {"number": theirs, "secret": ""},
        "other": {"number": ours, "secret": opened.code(theirs)},
        "unknown": {"number": "O9999999", "secret": opened.code(theirs)},
    }[case]
    _, answer = entering(opened, **form)
    plain = entering(opened, number="O9999998", secret="b" * 26)[1]
    assert (answer.status, answer.text[:3000].replace(answer.header("x-request-id"), "")) == (
        422, plain.text[:3000].replace(plain.header("x-request-id"), ""),
    )  # fmt: skip


def test_a_link_works_once_ends_older_ones_and_is_kept_as_a_digest(opened):
    old, new = opened.made_link(OURS), opened.made_link(OURS)
    assert entering(opened, number="", secret=old)[1].status == 422
    browser, answer = entering(opened, number="", secret=new)
    assert answer.header("location") == "/"
    assert "Contract" in browser.get("/").text
    assert entering(opened, number="", secret=new)[1].status == 422
    code = opened.made_link(THEIRS)
    assert (
        entering(opened, number=number_of(opened, THEIRS), secret=opened.code(number_of(opened, THEIRS)))[1].status
        == 422
    )
    for path in (opened.home.path / "portal").iterdir():
        data = path.read_bytes()
        assert not [secret for secret in (old, new, code) if secret.encode() in data], path
    opened.now_s += 2 * 3600
    assert entering(opened, number="", secret=code)[1].status == 422, "over"
    opened.now_s -= 2 * 3600


def test_guesses_are_bounded(tmp_path):
    portal = OpenedPortal(portal_home(make_homes(tmp_path), entries_per_minute=5))
    try:
        found = [entering(portal, number="", secret=f"{n}")[1].status for n in range(8)]
        assert (found[:5], set(found[5:])) == ([422] * 5, {429})
        assert portal.browser().get("/login").status == 200, "pages go on"
    finally:
        portal.close()


def test_a_link_of_the_command_line(tmp_path):
    home = portal_home(make_homes(tmp_path), names=["portal.example"])
    link, n_passkeys = link_for(home, OURS.lower(), 24)
    assert n_passkeys == 0
    assert re.fullmatch(r"https://portal\.example:7446/enter#[\w-]{43}", link)
    with pytest.raises(ConfigError, match=r"set portal_site\.port"):
        link_for(portal_home(make_homes(tmp_path / "b"), port=0), OURS, 24)


def test_an_account_manager_lets_the_owner_of_an_own_firm_in_once(tmp_path):
    home = portal_home(make_homes(tmp_path))
    with_people(home, {one: ["account_manager"] for one in ("lin", "wang")}, per_minute=100_000)
    console, portal = OpenedConsole(home), OpenedPortal(home)
    portal.now_s = time.time()
    try:
        lin, wang = console.browser("lin"), console.browser("wang")
        assert "Make a link for the owner" in lin.get(f"/firms/{OURS}").text
        assert "Make a link for the owner" not in wang.get(f"/firms/{OURS}").text
        assert wang.post(f"/firms/{OURS}/link").status == 403
        page = lin.post(f"/firms/{OURS}/link").text
        assert (page.count("<svg"), "<script>alert" in page) == (1, False)
        secret = re.search(r"https://localhost:7446/enter#([\w-]+)<", page).group(1)
        owner = portal.browser()
        assert [owner.post("/enter", number="", secret=secret).status for _ in range(2)] == [303, 422]
        shown = owner.get("/me").text
        assert ("the bank made a link (lin)" in shown, "somebody entered" in shown) == (True, True)
        assert "the bank made a link" not in portal.browser(THEIRS).get("/me").text
        assert [act for act in console.acts() if "link" in act[1] and act[2] == "done"] == [
            ("lin", "make an owner's link", "done")
        ]
        assert secret not in str(console.store.not_logged()) + str(portal.store.not_logged())
        assert OURS not in str(console.store.not_logged())
    finally:
        portal.close()
        console.close()


# --- routes and firms ------------------------------------------------------------------------------------------------


def parts_of(portal, firm):
    """What stands in paths for one firm's own things."""
    application = portal.book.rows(APPLICATIONS.select())
    return {
        "/offer/{number}": number_of(portal, firm),
        "/offers/{number}": number_of(portal, firm),
        "/contracts/{number}": number_of(portal, firm, CONTRACTS),
        "/applications/{id}": str(next((row["id"] for row in application if row["firm"] == firm), 1)),
        "/consents/{purpose}": "renewal",
        "/apply/{product}": "tax",
        "/static/{name}": "portal.css",
    }


def path_of(page, parts):
    for pattern, value in parts.items():
        if page.path.startswith(pattern):
            return re.sub(r"{\w+}", value, page.path)
    return page.path


@pytest.mark.parametrize("who", ["nobody", "expired", "other", "offer", "right"])
def test_every_route_by_everybody(opened, who):
    """Routes x who asks: only a session of the firm itself sees or does anything of it."""
    theirs = number_of(opened, THEIRS)
    applied = opened.browser(THEIRS).post("/apply", offer=theirs, amount="50000", months="12")
    assert re.fullmatch(r"/applications/\d+", applied.header("location"))
    parts = parts_of(opened, THEIRS)
    for page in opened.desk.pages:
        if page.path == "/logout":
            continue
        browser = {
            "nobody": opened.browser,
            "expired": lambda: opened.browser(THEIRS),
            "other": lambda: opened.browser(OURS),
            "offer": lambda: opened.browser(OURS, number_of(opened, OURS)),
            "right": lambda: opened.browser(THEIRS),
        }[who]()
        opened.now_s += 3601 if who == "expired" else 0
        path = path_of(page, parts)
        before = state(opened)
        answer = browser.get(path) if page.method == "GET" else browser.post(path, offer=theirs)
        assert answer.status != 500, (path, answer.text)
        if page.may == ANYBODY:
            continue
        assert page.may == OWNERS
        if who in {"nobody", "expired"}:
            turned = answer.status == 303 and answer.header("location").startswith("/login")
            assert turned or answer.status == 401, (path, answer.status)
        elif who != "right" and page.path.startswith(("/offers/", "/contracts/", "/applications/")):
            assert answer.status == 404, (path, answer.status)
        if who != "right":
            assert state(opened) == before, path
            assert THEIRS not in answer.text, path
            assert theirs not in answer.text.replace(path, ""), path
        elif page.method == "GET":
            assert answer.status == 200, (path, answer.status, answer.text[-500:])
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert opened.browser().raw(method, "/", b"", {}).status == 405


def state(portal):
    """All that the book has of the other firm."""
    from party_bank.book_tables import HISTORY

    return [row["id"] for row in portal.book.rows(HISTORY.select().where(HISTORY.c.firm == THEIRS))]


def test_no_page_of_the_bank_s_people_is_here(opened):
    paths = {page.path for page in opened.desk.pages}
    assert not paths & {"/jobs", "/accounts", "/log", "/firms", "/portfolio", "/policies", "/people", "/metrics"}
    for path in ("/jobs", "/firms", f"/firms/{OURS}", "/log", "/metrics", "/portfolio"):
        assert opened.browser(OURS).get(path).status == 404


def test_a_session_of_an_offer_sees_its_line_alone(opened):
    ours = number_of(opened, OURS)
    browser = opened.browser(OURS, ours)
    assert browser.get(f"/offers/{ours}").status == 200
    assert browser.get(f"/contracts/{number_of(opened, OURS, CONTRACTS)}").status == 404, "a contract of another line"
    assert browser.get("/apply/tax").status == 404
    answer = browser.send("/enter/begin", {})
    assert (answer.status, "link of your account manager" in answer.json()["error"]) == (422, True)


# --- forgery, fixation, redirects, texts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "", "sec_fetch_site": "cross-site"}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"host": "evil.example"}, 421),
        ({}, 303),
    ],
)
def test_acts_from_elsewhere_do_nothing(opened, headers, status):
    browser = opened.browser(OURS)
    said = FORM | {name.replace("_", "-"): value for name, value in headers.items()}
    body = f"csrf={browser.csrf}".encode()
    assert browser.raw("POST", "/consents/renewal/withdraw", body, said).status == status
    other = opened.browser(OURS)
    assert other.post("/consents/renewal/withdraw", csrf=opened.browser(THEIRS).csrf).status == 403
    assert opened.browser().raw("POST", "/enter", b"secret=x", said).status == (422 if status == 303 else status)


def test_a_session_that_was_fixed_does_not_become_the_owner_s(opened):
    browser = opened.browser(THEIRS)
    planted = browser.cookies[COOKIE]
    assert browser.post("/enter", number="", secret=opened.made_link(OURS)).status == 303
    assert browser.cookies[COOKIE] != planted
    assert opened.store.session(planted) is None
    free = opened.browser()
    free.cookies[COOKIE] = "planted"
    free.post("/enter", number="", secret=opened.made_link(OURS))
    assert free.cookies[COOKIE] != "planted"


@pytest.mark.parametrize("text", ["https://evil.example", "//evil.example", "/\\evil", "javascript:alert(1)"])
def test_redirects_stay_here(opened, text):
    assert opened.browser().post("/language", to="zh", next=text).header("location") == "/"
    assert 'data-next="/"' in opened.browser().get(f"/login?next={text}").text


@pytest.mark.parametrize("path", ["/static/../serve.py", "/static/%2e%2e/store.py", "/offers/..%2f..%2fnode.yaml",
                                  "/contracts/../../etc/passwd", "/static/portal.css/.."])  # fmt: skip
def test_no_path_leads_out(opened, path):
    answer = opened.browser(OURS).get(path)
    assert answer.status == 404
    assert "root:" not in answer.text


def test_names_are_text_and_every_page_has_its_headers(opened):
    parts = parts_of(opened, OURS)
    for page in opened.desk.pages:
        if page.method == "GET" and page.kind == "page" and not page.path.startswith(("/static", "/health")):
            for language in ("en", "zh"):
                browser = opened.browser(OURS)
                browser.cookies["__Host-language"] = language
                answer = browser.get(path_of(page, parts))
                assert "<script>alert" not in answer.text, page.path
                assert not re.search(r"<script(?! src=)|<style|\son\w+=|\sstyle=|javascript:", answer.text), page.path
                policy = answer.header("content-security-policy")
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert answer.header("referrer-policy") == "same-origin"
                assert answer.header("cache-control") == "no-store"
                assert answer.text.count('method="post"') == answer.text.count('name="csrf"'), page.path
    assert "&lt;script&gt;alert" in opened.browser(OURS).get("/").text
    for word in ("<img src=x onerror=alert(1)>",):
        assert "<img src=x" not in opened.browser(OURS).get(f"/consents/renewal?contract={word}").text
        assert "<img src=x" not in opened.browser().get(f"/offer/{word}").text


# --- passkeys --------------------------------------------------------------------------------------------------------


def test_a_passkey_brings_the_owner_back_to_the_own_firm_alone(opened):
    browser, key = opened.browser(OURS), SoftKey()
    options = browser.send("/enter/begin", {"token": opened.made_link(THEIRS)}).json()
    assert browser.send("/enter/finish", {"credential": key.made(options)}).status == 200
    assert opened.browser(THEIRS).send("/enter/finish", {"credential": SoftKey().made(options)}).status == 422
    later = opened.browser()
    assert later.send("/login/finish", key.signed(later.send("/login/begin", {}).json(), ORIGIN)).status == 200
    assert number_of(opened, OURS) in later.get("/").text
    assert number_of(opened, THEIRS) not in later.get("/").text
    later.csrf = hidden(later.get("/me").text, "csrf")
    credential = hidden(later.get("/me").text, "credential")
    assert opened.browser(THEIRS).post("/me/passkeys", credential=credential).status == 404
    assert later.post("/me/passkeys", credential=credential).header("location") == "/me?done=removed"


def test_acts_have_digests_of_firms_and_no_firm(opened):
    opened.browser(OURS).get("/nothing")
    everything = str(opened.store.not_logged(1000))
    assert OURS not in everything
    assert THEIRS not in everything
    assert re.search(r"firm [0-9a-f]{16}", everything)
    assert "portal: enter" in everything


def test_a_lost_phone_is_shut_out(opened):
    browser, key = opened.browser(OURS), SoftKey()
    options = browser.send("/enter/begin", {}).json()
    assert browser.send("/enter/finish", {"credential": key.made(options)}).status == 200
    link = opened.made_link(OURS)
    assert forget(opened.home.path, OURS) == 1
    assert browser.get("/").header("location") == "/login"
    assert entering(opened, number="", secret=link)[1].status == 422
    later = opened.browser()
    signed = key.signed(later.send("/login/begin", {}).json(), ORIGIN)
    answer = later.send("/login/finish", signed, accept_language="zh")
    assert (answer.status, "此通行密钥在这里无效" in answer.json()["error"]) == (422, True)


def test_the_page_says_what_there_is(tmp_path, monkeypatch):
    """docs/portal.md: its settings are settings, its commands run as printed, but for the one that serves."""
    text = (ROOT / "docs" / "portal.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    (settings,) = (yaml.safe_load(body) for kind, body in blocks if kind == "yaml")
    home, served = portal_home(make_homes(tmp_path)), []
    content = yaml.safe_load((home / "bank.yaml").read_text())
    (home / "bank.yaml").write_text(yaml.safe_dump(content | settings))
    monkeypatch.setattr(serve, "serve_portal", lambda where, _told: served.append(where))
    for line in (line for kind, body in blocks if kind == "sh" for line in body.splitlines()):
        program, *words = shlex.split(line.replace("/srv/bank", str(home)), comments=True)
        if program == "veilscore":
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, (line, done.output, done.exception)
    assert served == [home]
    code = tmp_path / "code.svg"
    said = CliRunner().invoke(app, ["bank", "portal", "link", OURS, "--code", str(code), "--home", str(home)])
    assert said.stdout.startswith("https://portal.bank.example:7446/enter#")
    assert (code.stat().st_mode & 0o777, b"<svg" in code.read_bytes()) == (0o600, True)


def test_a_passkey_is_made_by_the_page_s_own_form_alone(opened):
    browser = opened.browser(OURS)
    assert f'data-csrf="{browser.csrf}"' in browser.get("/me").text
    assert browser.send("/enter/begin", {}, **{"x-csrf-token": "other"}).status == 403
    assert browser.send("/enter/begin", {}).status == 200
