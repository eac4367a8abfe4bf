"""Who gets into the console and to which of its pages; what other sites, strangers and hostile names get."""

from __future__ import annotations

import asyncio
import gettext
import html
import importlib
import io
import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from conftest import ROOT
from console_bank import FIRM, filled_bank
from console_visits import JSON, ORIGIN, PEOPLE, OpenedConsole, with_people
from trial_federation import JOB, commanding, make_homes, open_trial, running, submit, until

from party_bank.console import lending
from party_bank.firms import put_firms
from veilscore.console import jobs
from veilscore.console.entry import safe_path
from veilscore.console.language import Locale, catalogue, wanted
from veilscore.console.metrics import metrics_token
from veilscore.console.page import ANYBODY, page_of
from veilscore.errors import StateError
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.log import LOG_FILE, scan
from veilscore.terms.job import new_job_id, parse_job

HOSTILE = "<img src=x onerror=alert(1)>"
NAMES = {"job": "toy-0a1b2c3d-0123456789abcdef", "name": "main"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    homes = make_homes(tmp_path_factory.mktemp("console"), tax={"accept": "manual"})
    for party in ("bank", "tax", "coordinator"):
        with_people(homes / party)
    filled_bank(homes / "bank")
    return homes


@pytest.fixture(scope="module")
def tax(folder):
    opened = OpenedConsole(with_people(folder / "tax", per_minute=100_000, entries_per_minute=1000))
    yield opened
    opened.close()


def paths_of(opened):
    return [(page, page.path.format(**dict.fromkeys(re.findall(r"{(\w+)}", page.path), "main") | NAMES))
            for page in opened.pages]  # fmt: skip


@pytest.mark.parametrize("party", ["tax", "bank", pytest.param("coordinator", marks=pytest.mark.slow)])
def test_every_page_by_every_role(folder, party):
    """The table of pages is the only truth: each path x each role, and nobody, is let in or refused by it."""
    opened = OpenedConsole(with_people(folder / party, per_minute=100_000, entries_per_minute=1000))
    browsers = {person: opened.browser(person) for person in PEOPLE if person != "all"}
    stranger = opened.browser()
    try:
        for page, path in paths_of(opened):
            if page.path in {"/logout", "/node"} or page.kind == "events":
                continue  # ends the session; asks other nodes; streams: tests of their own below
            for person, browser in browsers.items():
                answer = browser.get(path) if page.method == "GET" else browser.post(path)
                refused = answer.status == 403 and "this needs the role" in answer.text
                allowed = page.may is ANYBODY or bool(page.may & set(PEOPLE[person]))
                assert refused != allowed, (page.method, path, person, answer.status, answer.text[-400:])
                assert answer.status != 500, (path, answer.text)
            if page.may is not ANYBODY:
                answer = stranger.get(path) if page.method == "GET" else stranger.post(path)
                turned = answer.status == 303 and answer.header("location").startswith("/login")
                assert turned or answer.status == 401, (path, answer.status)
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            assert stranger.raw(method, "/jobs", b"", {}).status == 405
    finally:
        opened.close()


@pytest.mark.parametrize("party", ["bank", "tax", "coordinator"])
def test_no_page_leads_where_its_reader_may_not_go(folder, party):
    opened = OpenedConsole(with_people(folder / party, PEOPLE | {"lin": ["account_manager"]}, per_minute=100_000))
    try:
        for person in (*PEOPLE, "lin"):
            browser, seen, refused = opened.browser(person), {"/"}, {}
            waiting = ["/"]
            while waiting:
                answer = browser.get(path := waiting.pop())
                if answer.status == 403:
                    refused[path] = person
                if answer.status == 200 and answer.header("content-type").startswith("text/html"):
                    links = {html.unescape(one) for one in re.findall(r'href="(/[^"#]*)"', answer.text)}
                    new = [one for one in sorted(links - seen) if "page=" not in one and len(seen) < 300]
                    seen.update(new)
                    waiting += new
            assert (refused, len(seen) > 1) == ({}, True), person
    finally:
        with_people(folder / party, per_minute=100_000, entries_per_minute=1000)
        opened.close()


def test_what_is_refused_for_a_role_stands_among_the_acts(tax):
    tax.browser("mo").post(f"/jobs/{NAMES['job']}/decide", answer="approve")
    person, act, outcome = tax.acts()[-1]
    assert (person, act) == ("mo", "decide on a job")
    assert "refused: this needs the role steward at tax; mo has modeller" in outcome


def test_headers_of_every_answer(tax):
    for browser, path in ((tax.browser(), "/login"), (tax.browser("stella"), "/"), (tax.browser(), "/nothing")):
        answer = browser.get(path)
        policy = answer.header("content-security-policy")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert (answer.header("x-content-type-options"), answer.header("referrer-policy")) == ("nosniff", "same-origin")
        assert answer.header("cache-control") == "no-store"
        assert re.fullmatch(r"[0-9a-f]{16}", answer.header("x-request-id"))
        assert not re.search(r"<script(?! src=)|<style|\son\w+=|\sstyle=|javascript:", answer.text)


# --- forgery, fixation, redirects, brute force -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),  # neither Origin nor Sec-Fetch-Site
        ({"origin": "", "sec_fetch_site": "cross-site"}, 403),
        ({"origin": "", "sec_fetch_site": "same-site"}, 403),
        ({"origin": f"{ORIGIN}.evil.example"}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "multipart/form-data"}, 415),
        ({"host": "evil.example"}, 421),
        ({}, 303),
        ({"origin": "", "sec_fetch_site": "same-origin"}, 303),
    ],
)
def test_acts_from_elsewhere_do_nothing(tax, headers, status):
    browser = tax.browser("stella")
    other = tax.store.begin("stella", "passkey")
    form = {"content-type": "application/x-www-form-urlencoded"}
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = browser.raw("POST", "/me/sessions", f"csrf={browser.csrf}".encode(), form | said)
    assert answer.status == status
    assert (tax.store.session(other[0]) is None) == (status == 303)


@pytest.mark.parametrize("token", ["", "x", "\u00e9", "{other}"])
def test_a_form_of_another_session_does_nothing(tax, token):
    browser, victim = tax.browser("stella"), tax.browser("stella")
    answer = browser.post("/me/sessions", csrf=token.replace("{other}", tax.browser("mo").csrf))
    assert answer.status == 403
    assert "another session" in answer.text
    assert victim.get("/").status == 200


def test_each_form_carries_the_token_of_its_session(tax, folder):
    browser = tax.browser("all")
    for path in ("/", "/me", "/log", f"/jobs/{proposed(folder / 'tax', purpose='forms')}"):
        page = browser.get(path).text
        assert page.count('method="post"') == page.count(f'name="csrf" value="{browser.csrf}"') >= 2, path


def test_too_much_and_what_cannot_be_read(tax):
    browser = tax.browser("stella")
    assert browser.post("/me/sessions", x="y" * 70_000).status == 413
    assert browser.post("/me/sessions", **{f"f{n}": "" for n in range(200)}).status == 400
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert browser.raw("POST", "/me/sessions", b"\xff\xfe", form).status == 400
    assert browser.raw("POST", "/login/begin", b"[" * 50_000, dict(JSON)).status == 400


@pytest.mark.parametrize(
    "text",
    ["https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil", "javascript:alert(1)", "", "jobs",
     "/jobs\r\nset-cookie: a=b", "https:/evil", "///evil"],
)  # fmt: skip
def test_redirects_stay_here(tax, text):
    assert safe_path(text) == "/"
    assert tax.browser("stella").post("/language", to="zh", next=text).header("location") == "/"


def test_redirects_lead_back_to_the_page(tax):
    answer = tax.browser().get("/jobs?q=a%26b")
    assert answer.header("location") == "/login?next=%2Fjobs%3Fq%3Da%2526b"
    assert 'data-next="/jobs?q=a%26b"' in tax.browser().get(answer.header("location")).text


@pytest.mark.parametrize(
    "path",
    [
        "/static/../console/store.py",
        "/static/%2e%2e/store.py",
        "/static/console.css/..",
        "/receipts/..%2f..%2fnode.yaml",
        "/receipts/../node.yaml/file",
        "/data/..%2f..%2fidentity",
        "/static/",
        "/jobs/../../etc/passwd",
    ],
)
def test_no_path_leads_out(tax, path):
    answer = tax.browser("all").get(path)
    assert answer.status in {404, 422, 500}
    assert "PRIVATE" not in answer.text
    assert "class ConsoleStore" not in answer.text
    assert "root:" not in answer.text


# --- pages -----------------------------------------------------------------------------------------------------------


def proposed(home, **changes):
    job = parse_job(JOB.replace("purpose: credit", f"purpose: {changes.get('purpose', 'credit')!r}"))
    job_id = new_job_id(job)
    Ledger(home / "state" / "jobs").add(job_id, job, changes.get("status", "pending"), changes.get("reason", ""))
    return job_id


def test_names_of_others_are_text(folder):
    job_id = proposed(folder / "tax", purpose=HOSTILE, reason=HOSTILE)
    with_people(folder / "tax", per_minute=100_000, entries_per_minute=1000)
    opened = OpenedConsole(folder / "tax")
    try:
        for person in ("stella", "ada"):
            for path in ("/jobs", f"/jobs/{job_id}", "/", f"/jobs?q={HOSTILE}&status={HOSTILE}", f"/nothing{HOSTILE}",
                         f"/log?kind={HOSTILE}", f"/data/{HOSTILE}", f"/?done={HOSTILE}"):  # fmt: skip
                text = opened.browser(person).get(path).text
                assert "<img" not in text.replace('<img src="/static/mark.svg"', ""), path
        assert "&lt;img src=x" in opened.browser("stella").get("/jobs").text
    finally:
        opened.close()


def test_names_of_firms_are_text(folder):
    opened = OpenedConsole(with_people(folder / "bank", per_minute=100_000, entries_per_minute=1000))
    try:
        browser = opened.browser("all")
        details = (f"/firms/{FIRM}", "/campaigns/spring", "/applications/w-0", "/policies/admission/1")
        lists = ("/portfolio", "/firms", "/applications", "/renewals", "/alarms", "/firms?q=%25&manager=lin")
        for path in (*details, *lists):
            answer = browser.get(path)
            assert answer.status == 200, (path, answer.text)
            assert "<script>alert" not in answer.text, path
        assert "&lt;script&gt;alert" in browser.get("/firms").text
        assert "Alarms by month" in browser.get("/alarms").text
        assert "No firm fits" in browser.get("/firms?q=%25").text, "a sign of LIKE is a sign"
        assert FIRM in browser.get("/firms?q=JADE+river").text
        read = [body for _, _, body in opened.store.not_logged(1000) if body["act"] == "read a portrait"]
        assert FIRM not in str(read)
        assert re.fullmatch(r"firm [0-9a-f]+", read[-1]["subject"])
        settled = browser.post("/applications/w-0/settle", answer="approve", reason="orders seen")
        assert settled.header("location") == "/applications/w-0?done=saved"
        assert "approved" in browser.get("/applications/w-0").text
        assert browser.post("/applications/w-1/settle", answer="approve", reason=" ").status == 422
    finally:
        opened.close()


@pytest.mark.parametrize("path", ["/jobs?q=%00", "/jobs/a\0b", "/data/\0", "/?done=%00"])
def test_signs_that_no_file_or_database_takes_are_refused(tax, path):
    assert tax.browser("stella").get(path).status == 400


def test_half_a_sign_and_nothing_are_refused_in_what_is_sent(tax):
    browser = tax.browser("stella")
    assert browser.post("/jobs/x/decide", answer="reject", reason="a\0b").status == 400
    for content in ({"token": "\ud800"}, {"token": ["a\0"]}, {"\0": 1}, ["\udfff"]):
        assert tax.browser().send("/enter/begin", content).status == 400
    assert tax.browser().send("/enter/begin", {"token": "\\u0000"}).status == 403, "these are six signs"


def test_an_act_that_failed_in_whatever_way_is_noted(tax, monkeypatch):
    stella = tax.browser("stella")

    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(tax.store, "sessions", broken)
    assert stella.post("/me/sessions").status == 500
    assert tax.acts()[-1] == ("stella", "end other sessions", "failed: ZeroDivisionError")
    stella.raw("POST", "/me/sessions", b"x" * 100_000, {"content-type": "application/x-www-form-urlencoded"})
    assert tax.acts()[-1] == ("stella", "end other sessions", "failed: HTTPException")
    before = len(tax.acts())
    tax.browser().raw("POST", "/enter/finish", b"{", JSON)
    assert len(tax.acts()) == before, "a stranger fills no file"


def test_a_stranger_reads_of_no_file_and_of_no_server(tax, monkeypatch):
    def broken(*_):
        raise StateError("book postgresql://server/book: /srv/tax/console.db")

    for person, says in (("", False), ("stella", True)):
        browser = tax.browser(person)
        with monkeypatch.context() as patch:
            patch.setattr("veilscore.console.entry.safe_path", broken)
            answer = browser.get("/login")
        assert (answer.status, "/srv/tax" in answer.text) == (500, says)


def test_a_page_shows_one_state_of_the_book(folder, monkeypatch):
    opened, about = (
        OpenedConsole(with_people(folder / "bank", per_minute=100_000)),
        {"industry": "trade", "region": "x"},
    )
    real, new = lending.product_exposure, itertools.count()

    def meanwhile(book):
        row = {"firm": f"91310000MA1ZZZZZ{next(new):02}", "name": "New", "manager": "lin", **about}
        with ThreadPoolExecutor(1) as other:
            assert other.submit(put_firms, book, [row], "test").result(30) == 1
        return real(book)

    def counted():
        page = opened.browser("all").get("/portfolio").text
        return int(
            re.search(r"Firms in the book</dt><dd><span class=.value.>([\d,]+)<", page).group(1).replace(",", "")
        )

    try:
        before = counted()
        monkeypatch.setattr(lending, "product_exposure", meanwhile)
        assert [counted(), counted()] == [before, before + 1], "what came while the page was made is on the next"
    finally:
        opened.close()


def test_lists_are_searched_and_paged_at_the_server(tmp_path, monkeypatch):
    homes = make_homes(tmp_path)
    for n in range(7):
        proposed(homes / "tax", purpose=f"purpose {n:02}")
    monkeypatch.setattr(jobs, "page_of", partial(page_of, size=5))
    opened = OpenedConsole(with_people(homes / "tax"))
    try:
        browser = opened.browser("stella")
        text = browser.get("/jobs?page=2").text
        assert len(re.findall(r">purpose \d\d</td>", text)) == 2
        assert "6 to 7 of 7" in text
        assert re.findall(r">(purpose \d\d)</td>", browser.get("/jobs?q=PURPOSE+03").text) == ["purpose 03"]
        assert "No job fits" in browser.get("/jobs?status=done").text
        for number in ("0", "-1", "x", "99999999", "%D9%A5"):
            assert browser.get(f"/jobs?page={number}").status == 200
    finally:
        opened.close()


def test_two_languages_on_every_page(tax, folder):
    job_id = proposed(folder / "tax")
    browser = tax.browser("all")
    pages = [
        path for page, path in paths_of(tax) if page.kind == "page" and page.method == "GET" and page.path != "/node"
    ]
    for path in (*pages, f"/jobs/{job_id}"):
        for language, tag in (("en", "en"), ("zh", "zh-Hans")):
            browser.cookies["__Host-language"] = language
            text = browser.get(path).text
            if "<!doctype" in text:
                assert f'<html lang="{tag}">' in text, path
                assert ("离开" in text) == (language == "zh"), path
    fresh = tax.browser()
    assert "进入" in fresh.get("/login", accept_language="zh-CN,zh;q=0.9,en;q=0.8").text
    assert fresh.post("/language", to="en", next="/login").header("location") == "/login"
    assert "Enter the console" in fresh.get("/login", accept_language="zh-CN").text
    assert fresh.post("/language", to="../x").status == 303
    assert fresh.cookies["__Host-language"] == "en"


def test_every_text_has_a_translation_that_is_compiled(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    messages = importlib.import_module("messages")
    for folder in messages.FOLDERS:
        text, compiled, without = messages.updated(folder)
        path = messages.place(folder)
        assert without == []
        assert path.read_bytes() == text, "run `make messages`"
        kept, made = (
            gettext.GNUTranslations(io.BytesIO(data)) for data in (path.with_suffix(".mo").read_bytes(), compiled)
        )
        texts = [catalogue._catalog.items() - {("", catalogue.gettext(""))} for catalogue in (kept, made)]
        assert texts[0] == texts[1], "run `make messages`"


def test_figures_by_locale():
    en, zh = Locale("en"), Locale("zh")
    assert (en.day(1_796_052_000.0), zh.day(1_796_052_000.0)) == ("30 Nov 2026", "2026年11月30日")
    assert en.moment(1_796_052_000.0).endswith("UTC")
    assert en.money(750_000_000, "CNY") == "CNY 7,500,000"
    assert [zh.money(n, "CNY") for n in (750_000_000, 123_456, -5_000_000, 1_000_050)] == [
        "750万元", "1,234.56元", "\u22125万元", "10,000.50元",
    ]  # fmt: skip
    assert (en.number(-1234.5, 1), en.number(None), en.percent(0.256)) == ("\u22121,234.5", "\u2013", "26%")
    assert [wanted(t) for t in ("zh-TW", "fr, zh;q=0.3, en;q=0.2", "fr", "en;q=x,zh;q=nan", "")] == [
        "zh", "zh", "en", "en", "en",
    ]  # fmt: skip
    assert isinstance(catalogue("zh"), gettext.GNUTranslations)


def test_what_machines_ask(tax):
    stranger = tax.browser()
    assert stranger.get("/health").json() == {"status": "ok"}
    answer = stranger.get("/ready")
    assert (answer.status, answer.json()) == (503, {"status": "not ready"})  # no node runs on this home


def test_metrics_are_for_the_token_operators_and_auditors_and_name_nobody(tax):
    token, jobs_here = metrics_token(tax.home.path), [job.job_id for job in tax.home.jobs()]
    assert jobs_here
    for browser, shown in ((tax.browser(), ""), (tax.browser(), "Bearer guessed"), (tax.browser("stella"), "")):
        assert browser.get("/metrics", **({"authorization": shown} if shown else {})).status == 403
    answers = [tax.browser().get("/metrics", authorization=f"Bearer {token}")]
    answers += [tax.browser(person).get("/metrics") for person in ("otto", "ada")]
    for answer in answers:
        assert answer.status == 200
        assert "veilscore_node_up 0" in answer.text  # no node runs on this home
        assert [
            name for name in (*PEOPLE, FIRM, *jobs_here) if name in set(re.findall(r'"([^"]*)"', answer.text))
        ] == []


# --- a node behind it ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.federation
def test_a_steward_approves_on_a_real_node_and_the_log_has_it(tmp_path):
    homes = make_homes(tmp_path, tax={"accept": "manual"})
    with_people(homes / "tax")
    with_people(homes / "bank")

    async def scenario():
        nodes = open_trial(homes)
        opened, at_bank = OpenedConsole(homes / "tax"), OpenedConsole(homes / "bank")
        async with running(nodes):
            try:
                job_id = await _submitted(at_bank)
                await until(lambda: nodes["tax"].ledger.get(job_id))
                steward, auditor = opened.browser("stella"), opened.browser("ada")
                page = (await steward.getting(f"/jobs/{job_id}")).text
                assert "Approve" in page
                assert "decide" not in (await auditor.getting(f"/jobs/{job_id}")).text.split("<main")[1]
                assert (await auditor.posting(f"/jobs/{job_id}/decide", answer="approve")).status == 403
                assert (await steward.posting(f"/jobs/{job_id}/decide", answer="maybe")).status == 422
                done = await steward.posting(f"/jobs/{job_id}/decide", answer="approve", reason="as agreed")
                assert done.header("location") == f"/jobs/{job_id}?done=approved"
                assert nodes["tax"].ledger.entry(job_id).reason == "approved by stella in the console: as agreed"
                told = await at_bank.browser("ada").getting(f"/jobs/{job_id}/events")
                assert '"status": "done"' in told.text
                assert told.text.endswith("event: over\ndata: {}\n\n")
                assert ">mo</dd>" in (await at_bank.browser("mo").getting(f"/jobs/{job_id}")).text
                async with commanding(homes / "bank") as bank:
                    other = await submit(bank)
                for path in ("", "/report"):
                    assert (await at_bank.browser("mo").getting(f"/jobs/{other}{path}")).status == 422, "not mo's own"
                assert (await at_bank.browser("mo").posting(f"/jobs/{other}/cancel")).status == 422
                assert "answers" in (await auditor.getting("/node")).text
                entries = await _handed_over(opened, homes / "tax")
            finally:
                await opened.link.close()
                await at_bank.link.close()
                opened.let_go()
                at_bank.let_go()
        return job_id, entries

    job_id, entries = asyncio.run(asyncio.wait_for(scenario(), 120))
    acts = [e for e in entries if e["kind"] == "console"]
    assert [(e["person"], e["act"], e["outcome"].partition(":")[0]) for e in acts] == [
        ("ada", "decide on a job", "refused"),
        ("stella", "decide on a job", "failed"),
        ("stella", "decide on a job", "done"),
    ]
    assert acts[-1]["subject"] == f"{job_id}: approve"


async def _submitted(at_bank):
    """A job that mo plans and submits in the bank's console; its id."""
    mo = at_bank.browser("mo")
    page = (await mo.posting("/jobs/plan", job=JOB)).text
    digest = re.search(r'name="digest" value="(\w+)"', page).group(1)
    answer = await mo.posting("/jobs/submit", job=JOB, digest=digest)
    place = answer.header("location")
    assert place.endswith("?done=submitted"), (answer.status, answer.text[-600:])
    job_id = place.removeprefix("/jobs/").removesuffix("?done=submitted")
    assert ("mo", "submit a job", "done") in at_bank.acts()
    assert job_id in (await mo.getting("/jobs")).text
    return job_id


async def _handed_over(opened, home):
    import json

    from veilscore.console.link import hand_over_acts

    work = asyncio.create_task(hand_over_acts(opened.link, opened.store, "tax"))
    await until(lambda: not opened.store.not_logged())
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    entries = []
    scan(home / "evidence" / LOG_FILE, visit=lambda _, body: entries.append(json.loads(body)))
    return entries
