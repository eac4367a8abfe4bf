"""A modeller's new job and a steward's sandbox desk in the console: the command line's calls, roles and refusals."""

from __future__ import annotations

import html
import json
import re
import time
from types import SimpleNamespace

import pytest
import sandbox_home
from console_visits import OpenedConsole, with_people
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.console.sandboxes import RUNNING
from veilscore.evidence.job_ledger import Ledger, LedgerReader
from veilscore.sandbox.desk import Desk
from veilscore.terms.job import new_job_id, parse_job

HOSTILE = "<img src=x onerror=alert(1)>\u202e"


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desks")
    bank, tax = sandbox_home.make_homes(folder)
    for home in (bank, tax):
        with_people(home, per_minute=100_000)
    opened = SimpleNamespace(folder=folder, bank=OpenedConsole(bank), tax=OpenedConsole(tax))
    yield opened
    opened.bank.close()
    opened.tax.close()


def text_of(answer):
    return html.unescape(re.search(r"<textarea[^>]*>(.*?)</textarea>", answer.text, re.DOTALL).group(1))


def example(browser):
    text = text_of(browser.get("/jobs/new?example=scorecard"))
    return text.replace("holders: [tax, registry]", "holders: [tax]").replace(", registry: main", "")


def words(page):
    """What a page says, without markup and breaks."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


# --- a new job -------------------------------------------------------------------------------------------------------


def test_a_plan_in_the_console_says_what_the_command_says(homes):
    mo = homes.bank.browser("mo")
    text = example(mo)
    page = mo.post("/jobs/plan", job=text, rows="120000")
    assert page.status == 200
    path = homes.folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    told = CliRunner().invoke(app, ["job", "plan", str(path), "--home", str(homes.bank.home.path), "--rows",
                                    "bank=120000"]).output  # fmt: skip
    shown = words(page.text)
    sentences = re.findall(r"^(?:Together|Columns|tax:) .*$", told, re.MULTILINE)
    assert len(sentences) >= 3
    assert [one for one in sentences if " ".join(one.split()) not in shown] == []
    assert "Submit this job" in shown
    assert homes.bank.acts() == [], "a plan changes nothing"
    assert text_of(mo.post("/jobs/change", job=text)) == text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("task: train_scorecard", "task: dig"), "'dig' is unknown"),
        (("mu: 0.5", "mu: -1"), "mu"),
        (("purpose: ", "purpose: " + "x" * 300 + " "), "200"),
        (("name: joint-scorecard", f"name: {HOSTILE!r}"), "name"),
        (("parameters:", "parameters: ["), "not valid YAML"),
    ],
)
def test_a_job_that_cannot_be_read_goes_back_into_its_form(homes, change, says):
    mo = homes.bank.browser("mo")
    text = example(mo).replace(*change)
    answer = mo.post("/jobs/plan", job=text)
    assert answer.status == 422
    assert says in html.unescape(re.search(r'class="problem"[^>]*>(.*?)</p>', answer.text).group(1))
    assert text_of(answer) == text
    assert "<img src=x" not in answer.text


def test_what_others_write_into_a_job_is_text(homes):
    mo = homes.bank.browser("mo")
    page = mo.post("/jobs/plan", job=example(mo).replace("credit scoring of small firms", f'"{HOSTILE[:-1]}"'))
    assert page.status == 200
    assert "<img src=x" not in page.text
    assert "&lt;img src=x" in page.text


def test_only_the_planned_job_is_submitted_and_only_by_a_modeller(homes):
    mo, stella = homes.bank.browser("mo"), homes.bank.browser("stella")
    text = example(mo)
    digest = re.search(r'name="digest" value="(\w+)"', mo.post("/jobs/plan", job=text).text).group(1)
    assert digest == parse_job(text).sha256.hex()
    changed = mo.post("/jobs/submit", job=text.replace("mu: 0.5", "mu: 0.6"), digest=digest)
    assert (changed.status, "not the job of the plan" in changed.text) == (422, True)
    assert stella.post("/jobs/submit", job=text, digest=digest).status == 403
    assert mo.post("/jobs/submit", job=text, digest=digest, csrf="x").status == 403
    assert mo.post("/jobs/plan", job="x" * 70_000).status == 413
    acts = [(who, what, said.partition(":")[0]) for who, what, said in homes.bank.acts() if what == "submit a job"]
    assert acts == [
        ("mo", "submit a job", "failed"),
        ("stella", "submit a job", "refused"),
        ("mo", "submit a job", "refused"),
    ]


def test_a_reader_of_the_ledger_reads_what_changed(tmp_path, monkeypatch):
    job = parse_job("{name: toy, purpose: p, task: train_scorecard, bank: b, holders: [t], datasets: {b: m, t: m}}")
    ledger, reader = Ledger(tmp_path), LedgerReader(tmp_path)
    assert reader.entries() == ()
    ids = [new_job_id(job) for _ in range(3)]
    for number, job_id in enumerate(ids):
        ledger.add(job_id, job, "pending", str(number))
    assert [one.job_id for one in reader.entries()] == ids[::-1]
    time.sleep(0.06)
    reader.entries()
    read = []
    monkeypatch.setattr("veilscore.evidence.job_ledger._from_json", lambda name, value: read.append(name) or value)
    assert reader.get(ids[0]).status == "pending"
    assert read == []
    monkeypatch.undo()
    ledger.answer(ids[1], "accepted", "")
    assert [reader.get(one).status for one in ids] == ["pending", "accepted", "pending"]
    (tmp_path / f"{ids[2]}.json").unlink()
    assert reader.get(ids[2]) is None
    assert LedgerReader(tmp_path / "none").entries() == ()


# --- the sandbox desk ------------------------------------------------------------------------------------------------


def sent(homes, name, code=None, **manifest):
    folder = homes.folder / name
    code = code or "open('/outputs/mean.json', 'w').write('{\"value\": 1.25, \"count\": 300}')"
    sandbox_home.write_code(folder, code, name=name, **manifest)
    return sandbox_home.submit(homes.bank.home.path, homes.tax.home.path, folder)[1]


@pytest.mark.slow
def test_a_steward_reads_approves_runs_and_releases_code(homes):
    sandbox_home.need_sandbox()
    submission = sent(homes, "whole")
    stella, ada, path = homes.tax.browser("stella"), homes.tax.browser("ada"), f"/sandbox/{submission}"
    assert ">whole</a>" in stella.get("/sandbox").text
    page = stella.get(path).text
    assert "open(&#39;/outputs/mean.json&#39;" in page
    for said in ("What would leave", "Memory", "turnover", "Approve this code"):
        assert said in page
    assert "Approve this code" not in ada.get(path).text
    assert ada.post(f"{path}/decide", answer="approve", status="waiting").status == 403
    assert stella.post(f"{path}/run", status="waiting").status == 422, "not approved"
    assert stella.post(f"{path}/decide", answer="approve", status="waiting", reason="read").status == 303
    assert stella.post(f"{path}/decide", answer="reject", status="waiting").status == 403, "of a stale page"
    assert stella.post(f"{path}/run", status="approved").header("location") == f"{path}?done=begun"
    until_s = time.monotonic() + 60
    while "passed" not in (page := words(stella.get(path).text)) and "The gate" not in page.split("What would")[0]:
        assert time.monotonic() < until_s, page
        time.sleep(0.05)
    assert "The gate let its outputs pass" in page
    assert "1.25" in page
    was_cut_off(homes, submission)
    run = re.search(r'name="run" value="([^"]+)"', stella.get(path).text).group(1)
    assert stella.post(f"{path}/release", status="gated", run="mean.json:00").status == 403, "of another run"
    assert stella.post(f"{path}/release", status="gated", run=run, reason="agreed").status == 303
    desk = Desk(homes.tax.home.path)
    assert desk.entry(submission).status == "released"
    assert b"released by stella in the console: agreed" in (desk.released(submission)[1] / "release.json").read_bytes()
    acts = [
        (who, what) for who, what, said in homes.tax.acts() if said != "failed: SandboxError" and "refused" not in said
    ]
    ran = ["run submitted code", "code ended"]
    by_stella = [("stella", act) for act in ("decide on code", *ran, "code ended", *ran, "release outputs")]
    assert acts[-8:] == [*by_stella[:4], ("ada", "code ended"), *by_stella[4:]]


def was_cut_off(homes, submission):
    """A run that the console's end cut off is begun anew once; not one that has its outcome, and not twice."""
    begun, desk = homes.tax.home.path / "sandbox" / "begun.json", Desk(homes.tax.home.path)

    def again(times, person="stella"):
        begun.write_text(json.dumps({"submission": submission, "person": person, "times": times}))
        RUNNING.resume(homes.tax.desk)

    again(1)
    assert (begun.exists(), desk.status(submission)) == (False, "gated")
    desk.approve(submission)
    again(2)
    assert (begun.exists(), desk.status(submission)) == (False, "approved")
    assert "the console ended twice while it ran" in homes.tax.browser("stella").get(f"/sandbox/{submission}").text
    again(1, "ada")
    assert (begun.exists(), desk.status(submission)) == (False, "approved")
    assert "ada is no steward any more" in homes.tax.browser("stella").get(f"/sandbox/{submission}").text
    again(1)
    until_s = time.monotonic() + 60
    while begun.exists() or desk.status(submission) != "gated":
        assert time.monotonic() < until_s
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_that_failed_is_begun_anew_by_a_person_alone(homes):
    sandbox_home.need_sandbox()
    submission = sent(homes, "fails", "raise SystemExit(3)")
    stella, path = homes.tax.browser("stella"), f"/sandbox/{submission}"
    stella.post(f"{path}/decide", answer="approve", status="waiting")
    begun, desk = homes.tax.home.path / "sandbox" / "begun.json", Desk(homes.tax.home.path)

    def ends():
        until_s = time.monotonic() + 60
        while RUNNING.begun_by(desk, submission):
            assert time.monotonic() < until_s
            time.sleep(0.05)

    stella.post(f"{path}/run", status="approved")
    ends()
    assert desk.status(submission) == "failed"
    record = desk.home / "sandbox" / "submissions" / submission / "run.json"
    before = record.read_bytes()
    begun.write_text(json.dumps({"submission": submission, "person": "stella"}))  # killed before it was away
    RUNNING.resume(homes.tax.desk)
    ends()
    assert (begun.exists(), record.read_bytes() == before) == (False, True), "it was begun by itself"
    assert stella.post(f"{path}/run", status="failed").status == 303
    ends()
    assert record.read_bytes() != before


def test_refused_code_stays_refused_and_hostile_names_are_text(homes):
    submission = sent(homes, "hostile", f"print('''{HOSTILE}''')", purpose=HOSTILE,
                      outputs={"m.json": {"kind": "number"}, "a.bin": {"kind": "artefact"}})  # fmt: skip
    stella, path = homes.tax.browser("stella"), f"/sandbox/{submission}"
    for page in (stella.get("/sandbox").text, stella.get(path).text, stella.get(f"/sandbox?q={HOSTILE[:8]}").text):
        assert "<img src=x" not in page
        assert "\u202e" not in page, "a sign that turns the text around would hide code"
    assert "artefacts may not leave here" in stella.get(path).text
    answer = stella.post(f"{path}/decide", answer="approve", status="waiting")
    assert (answer.status, "artefacts may not leave here" in answer.text) == (422, True)
    assert stella.post(f"{path}/decide", answer="maybe", status="waiting").status == 422
    assert stella.post(f"{path}/decide", answer="reject", status="waiting", reason="no").status == 303
    assert Desk(homes.tax.home.path).entry(submission).status == "refused"
    assert ">hostile</a>" in stella.get("/sandbox?status=refused").text
    assert ">hostile</a>" not in stella.get("/sandbox?status=waiting").text
    for wrong in ("x", submission[:12], "0" * 64, "..%2f" + submission):
        assert stella.get(f"/sandbox/{wrong}").status in {404, 422}
