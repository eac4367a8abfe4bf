"""The console in Chromium, with real nodes behind it: passkeys, a steward's day, two languages, no violated policy.

Screenshots of every page lie in build/console afterwards.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest
from browsing import PHONE, SitesOnNodes, authenticator, axe_of, launched, serious, shot, visiting
from conftest import ROOT
from console_bank import FIRM, filled_bank
from console_visits import PEOPLE, with_people
from sandbox_home import need_sandbox, write_code
from sandbox_home import submit as send_code
from trial_federation import JOB, PARTIES, commanding, make_homes, submit, until
from typer.testing import CliRunner

from party_bank.policy.graph import parse_graph
from party_bank.policy.versions import Policies
from veilscore.cli import app
from veilscore.keys.identity import create_identity
from veilscore.models import screening
from veilscore.models.screening import REASONS, ScreenedColumn
from veilscore.release.account import FILE, Account
from veilscore.terms.federation import load_federation, member_of, save_federation
from veilscore.terms.node_config import load_node_config
from veilscore.wire.protocol import Charge

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]
SHOTS = ROOT / "build" / "console"


class Town(SitesOnNodes):
    """Nodes and consoles of a federation, in a loop of their own."""

    shots, parties = SHOTS, ("bank", "tax", "coordinator")

    def __init__(self, folder):
        self.homes = make_homes(folder, tax={"accept": "manual"})
        for party in self.parties:
            people = PEOPLE | ({"lin": ["account_manager"]} if party == "bank" else {})
            with_people(self.homes / party, people, per_minute=100_000, entries_per_minute=1000)
        made = [create_identity(folder / name / "identity", name, "operator") for name in ("stella", "all")]
        old = load_federation(self.homes / "federation.yaml")
        known = old.with_people(member_of(one.certificate, None) for one in made)
        for party in (*PARTIES, "coordinator"):
            save_federation(known, self.homes / party / "federation.yaml")
        self._at_bank(folder)
        self.code = self._code(folder)
        account = Account(
            self.homes / "tax" / FILE, "main", "bank", load_node_config(self.homes / "tax").policy.privacy
        )
        for n, mu in enumerate((0.21, 0.3, 0.12)):
            account.spend(f"scorecard-{n}0a1b2c3-0123456789abcdef/train/1", Charge("gradient", "train", mu**2))

    def _at_bank(self, folder):
        """Lending in which everything happened once, two versions of a policy, past firms, a finished screening."""
        bank = filled_bank(self.homes / "bank")
        graph = (files("party_bank.policy") / "graphs" / "admission.json").read_text()
        wider = graph.replace("[1..3]", "[1..2]").replace(">= 4", ">= 3")
        Policies(bank).file(parse_graph(wider.encode(), "admission"))
        (bank / "past").mkdir()
        rows = [f"{n % 9},{str(n % 11 == 0).lower()},{n % 40},{n % 5},{100_000 + n * 1000},{'' if n % 3 else n % 2}"
                for n in range(400)]  # fmt: skip
        head = "step,blacklisted,overdue_days,relationship_years,amount,default"
        (bank / "past" / "firms.csv").write_text("\n".join([head, *rows, ""]))
        columns = [ScreenedColumn("tax", f"invoices.sum.{n}d", n / 20, 0.02, 0.01, n > 3, ("", REASONS[2])[n < 4])
                   for n in range(1, 9)]  # fmt: skip
        columns += [ScreenedColumn("registry", f"judgments.text.term({t}).365d", None, None, None, True, "")
                    for t in ("欠薪", "dishonest")]  # fmt: skip
        told = {"name": "wide", "job_id": "wide-0a1b2c3d-0123456789abcdef", "purpose": "credit scoring"}
        place = bank / "screenings" / "wide" / "screening.json"
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(screening.sealed(told | {"columns": screening.to_json(columns)})))

    def _code(self, folder):
        """Code that the bank's modeller sent to the tax bureau; its id."""
        tax = self.homes / "tax"
        rows = [f"9131000000MA1K{n:04},{n % 2},{1000 + n}" for n in range(300)]
        (tax / "data.csv").write_text("\n".join(["uscc,default,turnover", *rows, ""]))
        (tax / "sandbox").mkdir(mode=0o700)
        code = "import json\njson.dump({'value': 1.25, 'count': 300}, open('/outputs/mean.json', 'w'))\n"
        write_code(folder / "code", code, name="mean-turnover", purpose="features of turnover")
        return send_code(self.homes / "bank", tax, folder / "code")[1]

    async def proposed(self):
        async with commanding(self.homes / "bank") as bank:
            job_id = await submit(bank, JOB.replace("purpose: credit", "purpose: credit scoring of small firms"))
        await until(lambda: self.nodes["tax"].ledger.get(job_id))
        return job_id

    def link(self, party, person):
        console = self.consoles[party]
        return f"{console.desk.origin}/enter#{console.store.invite(person, 1)}"


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    with Town(tmp_path_factory.mktemp("town")).running() as opened:
        yield opened


@pytest.fixture(scope="module")
def chromium(town):
    with launched(town, SHOTS) as browser:
        yield browser


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


DETAILS = (
    f"/firms/{FIRM}", "/campaigns/spring", "/applications/w-0", "/policies/admission/1", "/jobs/new?example=scorecard",
    "/policies/new?policy=admission&version=1", "/policies/admission/1/test?firms=firms.csv",
    "/policies/admission/2/test?firms=firms.csv&against=1", "/assistant/screenings/wide",
)  # fmt: skip


def pages_of(town, party):
    paths = [page.path for page in town.consoles[party].desk.pages if page.name] + ["/me", "/login", "/nothing"]
    return [
        *paths,
        "/data/main",
        *(DETAILS if party == "bank" else ()),
        *([f"/sandbox/{town.code}"] * (party == "tax")),
    ]


def test_a_modeller_plans_a_job_submits_it_and_sees_it_run(town, chromium):
    with visiting(chromium, town, "bank", "mo") as page:
        page.goto("/jobs")
        page.get_by_role("link", name="New job").click()
        page.get_by_label("Begin with an example").select_option("scorecard")
        page.get_by_role("button", name="Take it").click()
        assert "task: train_scorecard" in page.get_by_label("The job, as YAML").input_value()
        file = {
            "name": "job.yaml",
            "mimeType": "text/yaml",
            "buffer": JOB.replace("purpose: credit", "purpose: loans").encode(),
        }
        page.get_by_label("or a file of this computer").set_input_files(file)
        page.wait_for_function("document.getElementById('job').value.includes('task: toy')")
        page.get_by_role("button", name="Show the plan").click()
        assert page.get_by_role("heading", name="Plan of toy").is_visible()
        page.screenshot(path=SHOTS / "plan.png", full_page=True)
        page.get_by_role("button", name="Submit this job").click()
        page.wait_for_url(re.compile(r"/jobs/toy-.*done=submitted$"))
        job_id = page.url.rpartition("/")[2].partition("?")[0]
        town.run(until_ledger(town, job_id))
        with visiting(chromium, town, "tax", "stella") as steward:
            steward.goto(f"/jobs/{job_id}")
            steward.get_by_role("button", name="Approve").click()
        page.wait_for_selector("h1 .badge.done", timeout=60_000)  # by the events, without a click
        page.screenshot(path=SHOTS / "job-submitted.png", full_page=True)


async def until_ledger(town, job_id):
    await until(lambda: town.nodes["tax"].ledger.get(job_id))


def test_an_account_manager_works_a_campaign_and_lets_an_owner_in(town, chromium):
    with visiting(chromium, town, "bank", "lin") as page:
        page.goto("/campaigns/spring")
        page.get_by_label("Account manager").select_option("lin")
        page.get_by_role("button", name="Show").click()
        page.wait_for_url("**manager=lin**")
        before = page.get_by_role("button", name="was told").count()
        page.get_by_role("button", name="was told").first.click()
        page.wait_for_url("**/campaigns/spring?done=saved")
        page.goto("/campaigns/spring?manager=lin")
        assert page.get_by_role("button", name="was told").count() == before - 1
        page.goto("/applications/w-1")
        page.get_by_label("Reason").fill("orders were seen")
        page.get_by_role("button", name="Approve").click()
        page.wait_for_url("**/applications/w-1?done=saved")
        page.goto(f"/firms/{FIRM}")
        page.get_by_role("button", name="Write a report").click()
        shot(page, SHOTS / "report-made.png")
        page.get_by_role("link", name="Open the report").click()
        assert "Jade River" in page.inner_text("body")
        shot(page, SHOTS / "credit-report.png")
        page.goto(f"/firms/{FIRM}")
        page.get_by_role("button", name="Make a link").click()
        assert page.locator(".code svg").bounding_box()["width"] >= 200
        shot(page, SHOTS / "owner-link.png")
        assert "/enter#" in page.inner_text("main")


def test_a_steward_reads_code_runs_it_and_releases_what_the_gate_let_pass(town, chromium):
    need_sandbox()
    with visiting(chromium, town, "tax", "stella") as page:
        page.goto("/sandbox")
        page.get_by_role("link", name="mean-turnover").click()
        assert "json.dump" in page.locator("pre").first.inner_text()
        page.get_by_label("Reason, which the sender may be told").fill("read it")
        page.get_by_role("button", name="Approve this code").click()
        page.get_by_role("button", name="Run it in the sandbox").click()
        for _ in range(100):
            if page.get_by_role("heading", name="The gate let its outputs pass").count():
                break
            page.wait_for_timeout(200)
            page.goto(f"/sandbox/{town.code}")
        page.screenshot(path=SHOTS / "code-gated.png", full_page=True)
        page.get_by_role("button", name="Release exactly these outputs").click()
        page.wait_for_selector("h1 .badge.released")


def test_two_stewards_sign_for_a_policy_with_passkeys(town, chromium, tmp_path):
    bank = town.homes / "bank"
    for person, before in (("stella", "filed"), ("all", "waiting")):
        with visiting(chromium, town, "bank") as page:
            authenticator(page)
            page.goto(town.link("bank", person))
            page.get_by_role("button", name="Make a passkey").click()
            page.wait_for_url("**/")
            page.goto("/policies/admission/2")
            assert page.locator("h1 .badge").inner_text() == before
            assert "vouches for one with the own key" in page.inner_text("main")
            page.goto("/me")
            begins = page.locator("tbody code").first.inner_text()[:12]
            words = ["console", "vouch", begins, "--as", str(town.homes / person), "--home", str(bank)]
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, (result.output, result.exception)
            page.goto("/policies/admission/2")
            page.get_by_label("Reason, kept with your signature").fill("the swap set is small")
            page.screenshot(path=SHOTS / f"policy-{before}.png", full_page=True)
            page.get_by_role("button", name="Sign for this version with your passkey").click()
            page.wait_for_url(re.compile("done=signed$"))
            page.screenshot(path=SHOTS / f"policy-signed-by-{person}.png", full_page=True)
    assert Policies(bank).active("admission", "bank").version == 2


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
                name = re.sub(r"\W+", "-", path.strip("/"))[:60] or "overview"
                shot(page, SHOTS / f"{party}-{name}-{language}.png")
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


def test_axe_finds_nothing_serious(town, chromium, tmp_path):
    axe = axe_of(tmp_path)
    found = {}
    for party in ("tax", "bank"):
        for scheme in ("light", "dark"):
            with visiting(chromium, town, party, "all", color_scheme=scheme) as page:
                for path in pages_of(town, party):
                    page.goto(path)
                    if problems := serious(page, axe):
                        found[party, scheme, path] = problems
    assert found == {}, json.dumps({" ".join(key): value for key, value in found.items()}, indent=1)


def test_people_are_those_of_the_tests():
    assert set(PEOPLE["all"]) >= {role for roles in PEOPLE.values() for role in roles}
