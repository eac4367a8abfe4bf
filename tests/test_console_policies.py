"""Lending policies in the console: filed by a modeller, tried on past firms, active with two stewards' passkeys."""

from __future__ import annotations

import copy
import html
import json
import re
from importlib.resources import files
from types import SimpleNamespace

import pytest
import yaml
from bank_trial import SETTINGS
from console_visits import OpenedConsole, SoftKey, with_people
from typer.testing import CliRunner

from party_bank.policy.graph import parse_graph
from party_bank.policy.versions import PURPOSE, Policies
from veilscore.cli import app
from veilscore.errors import IdentityError
from veilscore.keys.identity import create_identity, load_identity
from veilscore.keys.passkey_word import PasskeyWord, challenge_of
from veilscore.node.founding import found_federation
from veilscore.terms.federation import load_federation, make_federation, member_of, save_federation

GRAPH = (files("party_bank.policy") / "graphs" / "admission.json").read_text()
PEOPLE = {"mo": ["modeller", "steward"], "anna": ["steward"], "bert": ["steward"], "ada": ["auditor"]}
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
    save_federation(make_federation(old.name, [*old.members, *(member_of(i.certificate, None) for i in made)]), path)
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
        words = ["console", "vouch", key.id.hex()[:12], "--as", str(bank.folder / person), "--home", str(bank.home)]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (result.output, result.exception)
    return key


def signed(bank, person, key, number=1, **changes):
    """The answer to a steward's word in the browser."""
    browser, path = bank.opened.browser(person), f"/policies/admission/{number}"
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
    keys = {person: passkey_of(bank, person) for person in ("mo", "anna")}
    assert "Sign for this version with your passkey" in bank.opened.browser("mo").get("/policies/admission/1").text
    assert signed(bank, "mo", keys["mo"]).json() == {"status": "waits for a second steward: mo"}
    again = signed(bank, "mo", keys["mo"])
    assert (again.status, "mo has signed for version 1" in again.text) == (403, True), "its author is not the second"
    node, federation = bank.opened.home.config, bank.opened.home.federation
    word, mo = PasskeyWord.from_bytes(_words(bank)[0][2]), load_identity(bank.folder / "mo" / "identity")
    with pytest.raises(IdentityError, match="signed something else"):
        word.verify(mo.certificate, "bank", b"other", PURPOSE)
    assert signed(bank, "anna", keys["anna"]).json()["status"] == "active: mo and anna"
    assert bank.policies.active("admission", "bank").version == 1
    assert "active" in bank.opened.browser("ada").get("/policies").text
    with pytest.raises(Exception, match="active already"):
        bank.policies.sign("admission", 1, load_identity(bank.folder / "bert" / "identity"), node, federation)
    acts = [(who, what, said.partition(":")[0]) for who, what, said in bank.opened.acts() if "sign for" in what]
    assert acts == [("mo", "sign for a policy", "done"), ("anna", "sign for a policy", "done")]


def _words(bank):
    import sqlite3

    with sqlite3.connect(bank.home / "state" / "policies.db") as db:
        return db.execute("SELECT person, certificate, signature FROM words ORDER BY at_s").fetchall()


@pytest.mark.slow
def test_a_passkey_and_a_key_of_the_federation_count_alike_and_a_changed_word_does_not(bank):
    import sqlite3

    filed(bank)
    signed(bank, "anna", passkey_of(bank, "anna"))
    words = ["policy", "activate", "admission@1", "--as", str(bank.folder / "bert"), "--home", str(bank.home)]
    result = CliRunner().invoke(app, words)
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
    words = ["console", "vouch", anna.id.hex()[:12], "--as", str(bank.folder / "bert"), "--home", str(bank.home)]
    assert "no passkeys of bert begin with" in str(CliRunner().invoke(app, words).exception)


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
    words = ["policy", "compare", "admission@1", "admission@2", "--firms", str(bank.home / "past" / "firms.csv"),
             "--home", str(bank.home)]  # fmt: skip
    told = CliRunner().invoke(app, words).output
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
