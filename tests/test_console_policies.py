"""Lending policies in the console: filed by a modeller, tried on past firms, active with two stewards' passkeys."""

from __future__ import annotations

import copy
import html
import json
import re
import shutil
import sqlite3
from importlib.resources import files
from types import SimpleNamespace

import pytest
import yaml
from bank_trial import SETTINGS
from console_visits import OpenedConsole, SoftKey, with_people
from local_jobs import job, nodes, write
from test_mining import planted
from typer.testing import CliRunner

from party_bank.policy.graph import parse_graph
from party_bank.policy.versions import PURPOSE, Policies
from veilscore.cli import app
from veilscore.errors import IdentityError
from veilscore.keys.identity import create_identity, load_identity
from veilscore.keys.passkey_word import PasskeyWord, challenge_of
from veilscore.models import screening
from veilscore.models.screening import REASONS, ScreenedColumn
from veilscore.node.founding import found_federation
from veilscore.node.local import open_job
from veilscore.terms.federation import load_federation, member_of, save_federation

GRAPH = (files("party_bank.policy") / "graphs" / "admission.json").read_text()
PEOPLE = {"mo": ["modeller", "steward"], "anna": ["steward"], "bert": ["steward"], "ada": ["auditor"]}
HOSTILE, JOB = "<img src=x onerror=alert(1)>", "wide-screen-0a1b2c3d-0123456789abcdef"
HEAD = "step,blacklisted,overdue_days,relationship_years,amount,default,pd"
ROWS = [  # every third firm has an outcome
    f"{n % 9},{str(n % 11 == 0).lower()},{n % 40},{n % 5},{100_000 + n * 1000},{'' if n % 3 else int(n % 6 == 0)},0.05"
    for n in range(120)
]


@pytest.fixture
def bank(tmp_path):
    found_federation(tmp_path, {"bank": "bank", "tax": "holder"}, exact=False)
    home = with_people(tmp_path / "bank", PEOPLE, per_minute=100_000)
    path = home / "federation.yaml"
    made = [create_identity(tmp_path / person / "identity", person, "operator") for person in PEOPLE]
    old = load_federation(path)
    save_federation(old.with_people(member_of(i.certificate, None) for i in made), path)
    (home / "bank.yaml").write_text(yaml.safe_dump(SETTINGS.model_dump(mode="json", exclude_defaults=True)))
    (home / "past").mkdir()
    (home / "past" / "firms.csv").write_text("\n".join([HEAD, *ROWS, ""]))
    opened = OpenedConsole(home)
    yield SimpleNamespace(folder=tmp_path, home=home, opened=opened, policies=Policies(home))
    opened.close()


def wider():
    """The shipped policy with one more step that is approved."""
    return GRAPH.replace("[1..3]", "[1..2]").replace(">= 4", ">= 3")


def passkey_of(bank, person, *, vouched=True):
    """A passkey of a person, made by a link; the person's own key vouches for it, by the command."""
    browser, key = bank.opened.browser(), SoftKey()
    token = bank.opened.store.invite(person, 1)
    options = browser.send("/enter/begin", {"token": token}).json()
    assert browser.send("/enter/finish", {"token": token, "credential": key.made(options)}).status == 200
    if vouched:
        vouch_for(bank, person, key)
    return key


def vouch_for(bank, person, key):
    typed = ["console", "vouch", key.id.hex()[:12], "--as", str(bank.folder / person), "--home", str(bank.home)]
    result = CliRunner().invoke(app, typed)
    assert result.exit_code == 0, (result.output, result.exception)


def words(page):
    """What a page says, without markup and breaks."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def signed(bank, person, key, name="admission", **changes):
    """The answer to a steward's word in the browser."""
    browser, path = bank.opened.browser(person), f"/policies/{name}/1"
    csrf = {"x-csrf-token": changes.pop("csrf", browser.csrf)}
    options = browser.send(f"{path}/begin", {}, **csrf)
    if options.status != 200:
        return options
    found = options.json() | changes
    assert "allowCredentials" in found
    return browser.send(f"{path}/finish", {"credential": key.signed(found), "reason": "seen"}, **csrf)


def filed(bank, text=GRAPH):
    answer = bank.opened.browser("mo").post("/policies/file", name="admission", graph=text)
    assert answer.status == 303, answer.text
    return answer.header("location")


def test_a_version_decides_once_two_stewards_have_signed_with_passkeys(bank):
    assert filed(bank) == "/policies/admission/1?done=saved"
    keys = {person: passkey_of(bank, person) for person in ("mo", "anna", "bert")}
    own = bank.opened.browser("mo").get("/policies/admission/1").text
    assert ("Sign for this version" in own, "mo wrote version 1" in own) == (False, True)
    author = signed(bank, "mo", keys["mo"])
    assert (author.status, "mo wrote version 1" in author.text, _words(bank)) == (403, True, [])
    assert "Sign for this version with your passkey" in bank.opened.browser("anna").get("/policies/admission/1").text
    assert signed(bank, "anna", keys["anna"]).json() == {"status": "waits for a second steward: anna"}
    again = signed(bank, "anna", keys["anna"])
    assert (again.status, "anna has signed for version 1" in again.text) == (403, True)
    node, federation = bank.opened.home.config, bank.opened.home.federation
    word, anna = PasskeyWord.from_bytes(_words(bank)[0][2]), load_identity(bank.folder / "anna" / "identity")
    with pytest.raises(IdentityError, match="signed something else"):
        word.verify(anna.certificate, "bank", b"other", PURPOSE)
    assert signed(bank, "bert", keys["bert"]).json()["status"] == "active: anna and bert"
    assert bank.policies.active("admission", "bank").version == 1
    assert "active" in bank.opened.browser("ada").get("/policies").text
    with pytest.raises(Exception, match="active already"):
        bank.policies.sign("admission", 1, load_identity(bank.folder / "bert" / "identity"), node, federation)
    acts = [(who, what, said.partition(":")[0]) for who, what, said in bank.opened.acts() if "sign for" in what]
    done = [("anna", "sign for a policy", "done"), ("bert", "sign for a policy", "done")]
    assert [act for act in acts if act[2] == "done"] == done


def _words(bank):
    with sqlite3.connect(bank.home / "state" / "policies.db") as db:
        return db.execute("SELECT person, certificate, signature FROM words ORDER BY at_s").fetchall()


@pytest.mark.slow
def test_a_passkey_and_a_key_of_the_federation_count_alike_and_a_changed_word_does_not(bank):
    filed(bank)
    signed(bank, "anna", passkey_of(bank, "anna"))
    typed = ["policy", "activate", "admission@1", "--as", str(bank.folder / "bert"), "--home", str(bank.home)]
    result = CliRunner().invoke(app, typed)
    assert (result.exit_code, "active: anna and bert" in result.output) == (0, True), result.exception
    assert bank.policies.active("admission", "bank").version == 1
    for field in ("key", "vouch", "authenticator_data", "client_data", "signature"):
        word = json.loads(_words(bank)[0][2])
        word[field] = word[field][:-2] + ("00" if word[field][-2:] != "00" else "01")
        with sqlite3.connect(bank.home / "state" / "policies.db") as db:
            before = db.execute("SELECT signature FROM words WHERE person = 'anna'").fetchone()[0]
            db.execute("UPDATE words SET signature = ? WHERE person = 'anna'", (json.dumps(word).encode(),))
        with pytest.raises(Exception, match="was changed"):
            bank.policies.active("admission", "bank")
        with sqlite3.connect(bank.home / "state" / "policies.db") as db:
            db.execute("UPDATE words SET signature = ? WHERE person = 'anna'", (before,))
    assert bank.policies.active("admission", "bank").version == 1


@pytest.mark.slow
def test_who_may_not_sign_is_refused_before_a_passkey_is_asked(bank):
    filed(bank)
    anna, bert = passkey_of(bank, "anna"), passkey_of(bank, "bert", vouched=False)
    assert signed(bank, "ada", anna).status == 403  # no steward
    unvouched = signed(bank, "bert", bert)
    assert (unvouched.status, "vouches for one with the own key" in unvouched.text) == (403, True)
    assert signed(bank, "anna", anna, csrf="x").status == 403
    assert signed(bank, "anna", anna, challenge="AAAA").status == 403, "of something else"
    assert signed(bank, "anna", bert).status == 403, "another one's passkey"
    no_flag = copy.copy(anna)
    no_flag.flags = 0x01
    assert signed(bank, "anna", no_flag).status == 403, "nobody was verified"
    assert _words(bank) == []
    content = bank.policies.to_sign("admission", 1, "anna", bank.opened.home.config, bank.opened.home.federation)
    assert challenge_of(content, PURPOSE) != challenge_of(content, "another purpose")
    typed = ["console", "vouch", anna.id.hex()[:12], "--as", str(bank.folder / "bert"), "--home", str(bank.home)]
    assert "no passkeys of bert begin with" in str(CliRunner().invoke(app, typed).exception)


def test_a_passkey_that_was_removed_and_made_again_has_to_be_vouched_for_again(bank):
    filed(bank)
    key, store = passkey_of(bank, "anna"), bank.opened.store
    for forget in (lambda: store.forget_passkey("anna", key.id), lambda: store.forget("anna", "test")):
        assert "may sign" in bank.opened.browser("anna").get("/me").text
        forget()
        assert store.vouched(key.id) is None
        browser, token = bank.opened.browser(), store.invite("anna", 1)
        options = browser.send("/enter/begin", {"token": token}).json()
        assert browser.send("/enter/finish", {"token": token, "credential": key.made(options)}).status == 200
        assert "may sign" not in bank.opened.browser("anna").get("/me").text
        assert signed(bank, "anna", key).status == 403
        assert _words(bank) == []
        vouch_for(bank, "anna", key)


@pytest.mark.slow
def test_back_test_and_comparison_are_those_of_the_command(bank):
    filed(bank)
    assert filed(bank, wider()) == "/policies/admission/2?done=saved"
    mo = bank.opened.browser("mo")
    page = mo.get("/policies/admission/2").text
    assert '<option value="firms.csv"' in page
    tried = mo.get("/policies/admission/1/test?firms=firms.csv&loss=0.5")
    assert (tried.status, tried.text.count("<svg")) == (200, 1)
    compared = mo.get("/policies/admission/2/test?firms=firms.csv&against=1&loss=0.45")
    assert compared.status == 200
    typed = ["policy", "compare", "admission@1", "admission@2", "--firms", str(bank.home / "past" / "firms.csv"),
             "--home", str(bank.home)]  # fmt: skip
    told = CliRunner().invoke(app, typed).output
    row = next(line for line in told.splitlines() if "swapped in" in line)
    figures = re.findall(r"[\d,.]+%?", row)[:3]  # firms, known, bads
    shown = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", compared.text.split("Firms that are")[1])).split())
    assert f"swapped in {' '.join(figures)}" in shown
    assert int(figures[0]) > 0
    assert "have no outcome, as declined firms never have" in compared.text
    for wrong in ("firms=../node.yaml", "firms=none.csv", "", "firms=firms.csv&loss=2", "firms=firms.csv&loss=x",
                  "firms=firms.csv&label=none", "firms=firms.csv&against=99"):  # fmt: skip
        assert mo.get(f"/policies/admission/2/test?{wrong}").status == 422, wrong
    assert mo.get("/policies/admission/2/test?firms=firms.csv&against=x").status == 404


def test_a_version_that_is_unsound_or_hostile_is_not_filed(bank):
    mo = bank.opened.browser("mo")
    gap = GRAPH.replace("[1..3]", "[1..2]")
    for name, text, says in (
        ("admission", gap, ""),
        ("admission", "{", "JSON"),
        ("../x", GRAPH, "name"),
        ("admission", "", "paste"),
    ):
        answer = mo.post("/policies/file", name=name, graph=text)
        assert answer.status == 422, (name, answer.text)
        assert says in answer.text
    assert bank.policies.versions() == []
    assert mo.post("/policies/file", name="admission", graph="x" * 4_000_000).status == 413
    hostile = json.loads(GRAPH)
    hostile["nodes"][1]["content"]["rules"][0]["_description"] = "<img src=x onerror=alert(1)>"
    filed(bank, json.dumps(hostile))
    for path in ("/policies/admission/1", "/policies/new?policy=admission&version=1",
                 "/policies/admission/1/test?firms=firms.csv"):  # fmt: skip
        answer = mo.get(path)
        assert answer.status == 200, answer.text
        assert "<img src=x" not in answer.text
        assert "&lt;img src=x" in answer.text
    assert parse_graph(GRAPH.encode(), "admission").name == "admission"


# --- the policy assistant --------------------------------------------------------------------------------------------


def screened(bank, name="wide-screen"):
    """A finished screening as its job files it: variables and words of texts of one holder."""
    columns = [ScreenedColumn("tax", f"invoices.amount.sum.{n}d", 0.1 * n, 0.02, 0.01, n > 2, ("", REASONS[2])[n < 3])
               for n in range(1, 6)]  # fmt: skip
    columns += [ScreenedColumn("tax", f"judgments.text.term({HOSTILE}).365d", None, None, None, True, "")]
    columns += [
        ScreenedColumn("tax", "judgments.text.term(欠薪).365d", 0.4, None, None, False, "left out by its owner")
    ]
    columns += [ScreenedColumn("court", "judgments.text.risk(wage_arrears).365d", 0.3, 0.01, 0.0, True, "")]
    body = screening.sealed({"name": name, "job_id": JOB, "purpose": "credit", "columns": screening.to_json(columns)})
    folder = bank.home / "screenings" / name
    folder.mkdir(parents=True)
    (folder / "screening.json").write_text(json.dumps(body))


def test_the_assistant_says_what_a_screening_found_and_nothing_more(bank):
    screened(bank)
    browser = bank.opened.browser("mo")
    assert "/assistant/screenings/wide-screen" in browser.get("/assistant").text
    for language, said, phrases in (
        ("en", "words of texts: screened 2; kept 1; such as", "counts phrases such as unpaid wages, wage arrears"),
        ("zh", "文本词语：筛查 2；保留 1；例如", "统计的措辞例如：拖欠工资, 欠薪"),
    ):
        browser.cookies["__Host-language"] = language
        answer = browser.get("/assistant/screenings/wide-screen")
        assert answer.status == 200, answer.text
        assert said in words(answer.text), words(answer.text)
        assert phrases in words(answer.text)
        assert HOSTILE not in answer.text
    browser.cookies["__Host-language"] = "en"
    text = browser.get("/assistant/screenings/wide-screen?origin=term&kept=no").text
    assert "欠薪" in text
    assert "invoices.amount" not in text.split("<tbody>")[-1]
    assert "left out by its owner" in text
    for path in ("/assistant/screenings/none", "/assistant/screenings/..%2fx", f"/assistant/rules/{JOB}",
                 "/assistant/rules/..%2f..%2fx"):  # fmt: skip
        assert browser.get(path).status == 404, path


@pytest.mark.slow
def test_mined_rules_become_a_candidate_policy_that_is_tried_and_signed(bank, tmp_path):
    data = write(tmp_path / "data", planted())
    policy = {"privacy": {"job": 2, "year": 3}, "publish_column_names": True}
    run = open_job(
        job("mine_rules", name="rules", mu=2, segments=4), nodes(data, holder_policy=policy), tmp_path / "n"
    ).run()
    job_id = "rules-0a1b2c3d-0123456789abcdef"
    shutil.copytree(run.stores["bank"].path, bank.home / "jobs" / job_id)
    mo = bank.opened.browser("mo")
    page = mo.get(f"/assistant/rules/{job_id}?loss=0.45&margin=0.03")
    assert page.status == 200, page.text
    told = CliRunner().invoke(app, ["bank", "mining", "explain", job_id, "--home", str(bank.home)]).output
    first = told.splitlines()[0].removeprefix("1. ").strip()
    assert first in words(page.text)
    assert page.text.count("<svg") == 1
    if "no rule here has a condition" in page.text:  # noise decides which rules stand out
        assert "<form" not in page.text.split("</table>")[-1]
        return
    graph = html.unescape(re.search(r'<textarea name="graph" hidden>(.*?)</textarea>', page.text, re.DOTALL).group(1))
    assert "textarea name" not in bank.opened.browser("ada").get(f"/assistant/rules/{job_id}").text
    answer = mo.post("/policies/file", name="mined-rules", graph=graph)
    assert answer.header("location") == "/policies/mined-rules/1?done=saved", answer.text
    past = [
        "product,limit,default",
        *(f"{('loan', 'card', 'line')[n % 3]},{n / 10 - 5},{int(n % 7 == 0)}" for n in range(100)),
    ]
    (bank.home / "past" / "rules.csv").write_text("\n".join([*past, ""]))
    tried = mo.get("/policies/mined-rules/1/test?firms=rules.csv")
    assert tried.status == 200, tried.text
    assert "<td>mined rules</td>" in tried.text
    assert signed(bank, "anna", passkey_of(bank, "anna"), name="mined-rules").json()["status"].startswith("waits for")
