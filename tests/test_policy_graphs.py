"""Lending policies: graphs refused before they decide, four eyes, back-tests, prices, and the command about them."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from party_bank.policy import backtest as testing
from party_bank.policy.check import check, refuse_if_unsound
from party_bank.policy.graph import load_graph, parse_graph
from party_bank.policy.pricing import Churn, Terms, pricing_graph, read_churn, steps_of, value
from party_bank.policy.tables import DecisionTable, Row, graph_of
from party_bank.policy.versions import FILE, Policies
from tests.conftest import shared_data
from veilscore.cli import app
from veilscore.errors import ConfigError, DataError, IdentityError, RefusedError, StateError
from veilscore.keys.identity import create_identity
from veilscore.node.founding import write_node_config
from veilscore.terms.charter import signed
from veilscore.terms.federation import make_federation, member_of, save_federation
from veilscore.terms.node_config import load_node_config

SHIPPED = Path(__file__).parents[1] / "party_bank" / "policy" / "graphs"
ASKED = {"step": {"type": "integer", "minimum": 0, "maximum": 31}, "region": {"enum": ["east", "west"]}}
ANSWERED = {"outcome": {"enum": ["approve", "decline"]}}
GOOD = (
    Row({"step": ">= 5"}, {"outcome": "'approve'"}, "a good step"),
    Row({"step": "< 5"}, {"outcome": "'decline'"}, "a low step"),
)


def graph(*rows, name="admission", asked=ASKED, answered=ANSWERED):
    return parse_graph(graph_of(asked, answered, DecisionTable("tiers", rows)), name)


def sentences(found, *, refusing=True):
    return [one.sentence for one in found if one.refuses or not refusing]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_what_is_shipped_is_sound_and_has_the_form_of_the_editor(path):
    assert check(load_graph(path)) == []
    node = json.loads(path.read_bytes())["nodes"][1]
    assert set(node) == {"id", "name", "type", "position", "content"}
    assert set(node["content"]) >= {"hitPolicy", "inputs", "outputs", "rules"}


def test_a_decision_keeps_version_hash_inputs_and_the_rows_that_fired():
    policy = load_graph(SHIPPED / "admission.json")
    asked = {"step": 5, "blacklisted": False, "overdue_days": 0, "relationship_years": 2, "amount": 1e5}
    decision = policy.decide(asked)
    assert decision.outputs["outcome"] == "approve"
    assert [(row.table, row.row) for row in decision.fired] == [("knock-outs", 3), ("tiers", 6)]
    kept = json.loads(json.dumps(decision.as_json()))
    assert kept["inputs"] == asked
    assert kept["sha256"] == policy.sha256
    assert kept["fired"][1]["why"] == "approved without a person"
    papers = load_graph(SHIPPED / "documents.json").decide({"amount": 2e6, "first_loan": True, "collateral": "none"})
    assert [row.row for row in papers.fired] == [1, 2, 3, 4]
    assert papers.outputs["documents"][2] == {"document": "audited accounts", "by": "owner"}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (GOOD[:1], "table 'tiers' misses a case, step 0: add a row"),
        ((Row({"step": ">= 5", "region": "'east'"}, {"outcome": "'approve'"}), GOOD[1]), 'step 5, region "west"'),
        ((*GOOD, Row({"step": "3"}, {"outcome": "'decline'"})), "row 3 is never reached"),
        ((GOOD[0], Row({"step": "< 5"}, {"outcome": "'refuse'"})), "may be 'refuse', which its schema refuses"),
        ((GOOD[0], Row({"step": "< 5"}, {"outcome": ""})), "'outcome' is not written on every way"),
        ((Row({"step": ">== 5"}, {"outcome": "'approve'"}), GOOD[1]), "row 1: '>== 5' does not parse"),
        ((Row({"step": "abs($) >= 5"}, {"outcome": "'approve'"}), GOOD[1]), "misses a case, step "),
        ((GOOD[0], Row({"step": "< 5"}, {"outcome": "1 / (step - step)"})), "has no answer for this firm (outcome"),
    ],
)
def test_a_graph_that_misses_a_case_is_refused_in_one_sentence(rows, sentence):
    found = check(graph(*rows))
    assert any(sentence in one for one in sentences(found)), sentences(found)
    with pytest.raises(ConfigError, match="policy 'admission' is refused: ") as caught:
        refuse_if_unsound(graph(*rows))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_analysed_and_what_overlaps_is_told_and_not_refused():
    odd = Row({"step": "abs($) >= 9"}, {"outcome": "'approve'"})
    found = check(graph(odd, Row({"step": "[4..6]"}, {"outcome": "'approve'"}), Row({"step": "> 5 or < 2 and != 9"},
                        {"outcome": "'decline'"}), Row({}, {"outcome": "'decline'"})))  # fmt: skip
    assert sentences(found) == []
    assert [one.kind for one in found] == ["not analysed", "order", "overlap"]
    assert "'abs' in 'abs($) >= 9' cannot be analysed" in found[0].sentence
    assert found[2].sentence.endswith("rows 2 and 3 both take step 6; row 2 wins")


def with_node(kind, content, edges=()):
    made = json.loads(graph_of(ASKED, ANSWERED, DecisionTable("tiers", GOOD)))
    made["nodes"].append({"id": "new", "name": "new", "type": kind, "content": content})
    return json.dumps({"nodes": made["nodes"], "edges": [*made["edges"], *edges]}).encode()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"{", "is no decision graph in JDM"),
        (b'{"nodes": [], "edges": []}', "needs exactly one input node"),
        (b'{"nodes": 3, "edges": []}', "is no decision graph"),
        (b"[" * 100_000, "is no decision graph"),
        (with_node("functionNode", {"source": "export const handler = () => ({})"}), "of kind functionNode"),
        (with_node("decisionNode", {"key": "other"}), "of kind decisionNode"),
        (with_node("decisionTableNode", {"rules": [{}]}), "table 'new' is damaged"),
        (with_node("expressionNode", {}, [{"id": "x", "sourceId": "new", "targetId": "gone"}]), "an edge to a node"),
        (with_node("expressionNode", {}, [{"id": "x", "sourceId": "new", "targetId": "tiers"},
                                          {"id": "y", "sourceId": "tiers", "targetId": "new"}]), "goes in a circle"),
        (b" " * (1 << 20) + b" {}", "is larger than 1 MB"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_graph_is_refused_in_one_sentence(data, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_graph(data, "admission")


def test_a_switch_without_a_last_branch_misses_a_case():
    made = json.loads(graph_of(ASKED, ANSWERED, DecisionTable("tiers", GOOD)))
    switch = {"statements": [{"id": "s1", "condition": "step > 3", "isDefault": False}]}
    made["nodes"].append({"id": "way", "name": "way", "type": "switchNode", "content": switch})
    made["edges"] = [
        {"id": "1", "sourceId": "request", "targetId": "way"},
        {"id": "2", "sourceId": "way", "targetId": "tiers", "sourceHandle": "s1"},
        {"id": "3", "sourceId": "tiers", "targetId": "response"},
    ]
    assert sentences(check(parse_graph(json.dumps(made).encode(), "p"))) == [
        "switch 'way' misses a case: give it a last branch without a condition"
    ]
    switch["statements"].append({"id": "s2", "condition": "", "isDefault": True})
    assert "its branch 2 leads nowhere" in sentences(check(parse_graph(json.dumps(made).encode(), "p")))[0]
    made["edges"].append({"id": "4", "sourceId": "way", "targetId": "response", "sourceHandle": "s2"})
    assert "not written on every way" in sentences(check(parse_graph(json.dumps(made).encode(), "p")))[0]


def test_an_error_names_the_field_and_no_value_of_the_firm():
    policy = graph(*GOOD)
    with pytest.raises(DataError, match=r"inputs that its schema refuses \(/step\)") as caught:
        policy.decide({"step": 4711, "region": "east"})
    assert "4711" not in str(caught.value)
    with pytest.raises(DataError, match=r"\(region is missing\)"):
        policy.decide({"step": 3})
    with pytest.raises(DataError, match="give JSON numbers"):
        policy.decide({"step": float("nan"), "region": "east"})


# --- four eyes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def bank(tmp_path):
    """A bank's home with stewards anna and bert, an auditor, and a stranger."""
    people = {"anna": ["steward"], "bert": ["steward"], "ada": ["auditor"]}
    roles = {"bank": "bank", "hub": "coordinator", **dict.fromkeys((*people, "eve"), "operator")}
    made = {name: create_identity(tmp_path / name / "identity", name, role) for name, role in roles.items()}
    members = [member_of(one.certificate, None if one.role == "operator" else f"127.0.0.1:{7000 + k}")
               for k, one in enumerate(made.values())]  # fmt: skip
    write_node_config(tmp_path / "bank", "bank", "bank")
    with (tmp_path / "bank" / "node.yaml").open("a") as file:
        file.write(yaml.safe_dump({"people": people}))
    federation = make_federation("trial", members)
    for name in ("bank", "hub"):
        federation = signed(federation, made[name])
    save_federation(federation, tmp_path / "bank" / "federation.yaml")
    return tmp_path


class Desk:
    """The policies of the bank's home, and the people who sign."""

    def __init__(self, folder):
        from veilscore.keys.identity import load_identity
        from veilscore.terms.federation import load_federation

        self.policies, self.node = Policies(folder / "bank"), load_node_config(folder / "bank")
        self.federation, self.folder, self.load = (
            load_federation(folder / "bank" / "federation.yaml"),
            folder,
            load_identity,
        )

    def sign(self, person, version, name="admission"):
        return self.policies.sign(
            name, version, self.load(self.folder / person / "identity"), self.node, self.federation
        )


def test_a_policy_decides_only_after_two_stewards_have_signed(bank):
    desk = Desk(bank)
    assert desk.policies.file(graph(*GOOD)) == 1
    assert desk.policies.file(graph(*GOOD)) == 1  # what was filed before keeps its version
    with pytest.raises(RefusedError, match="two stewards have to activate one"):
        desk.policies.active("admission", "bank")
    assert desk.sign("anna", 1).status == "waits for a second steward: anna"
    with pytest.raises(RefusedError, match="anna has signed for version 1"):
        desk.sign("anna", 1)
    for person in ("ada", "eve"):
        with pytest.raises(RefusedError, match=f"{person} is no steward of bank"):
            desk.sign(person, 1)
    assert desk.sign("bert", 1).status == "active: anna and bert"
    assert desk.policies.active("admission", "bank").version == 1
    with pytest.raises(RefusedError, match="is active already"):
        desk.sign("anna", 1)


def test_its_author_signs_for_no_version_and_is_part_of_what_others_sign(bank):
    desk = Desk(bank)
    assert desk.policies.file(graph(*GOOD), "anna") == 1
    assert desk.policies.file(graph(*GOOD), "bert") == 1
    with pytest.raises(RefusedError, match="anna wrote version 1"):
        desk.sign("anna", 1)
    word = desk.policies.to_sign("admission", 1, "bert", desk.node, desk.federation)
    assert json.loads(word)["author"] == "anna"
    desk.sign("bert", 1)
    assert [(one.author, one.status) for one in desk.policies.versions()] == [
        ("anna", "waits for a second steward: bert")
    ]


def test_words_for_one_version_or_activation_serve_no_other(bank):
    desk = Desk(bank)
    desk.policies.file(graph(*GOOD))
    changed = replace(GOOD[0], tests={"step": ">= 6"}), replace(GOOD[1], tests={"step": "< 6"})
    assert desk.policies.file(graph(*changed)) == 2
    desk.sign("anna", 1)
    desk.sign("bert", 2)
    with pytest.raises(RefusedError, match="two stewards"):
        desk.policies.active("admission", "bank")
    desk.sign("anna", 2)
    assert desk.policies.active("admission", "bank").version == 2
    assert desk.sign("bert", 1).status == "waits for a second steward: bert"  # anna's earlier word has lapsed
    desk.sign("anna", 1)
    assert desk.policies.active("admission", "bank").version == 1


def test_a_key_that_the_federation_does_not_know_signs_nothing(bank):
    desk = Desk(bank)
    desk.policies.file(graph(*GOOD))
    create_identity(bank / "false" / "identity", "anna", "operator")
    with pytest.raises(IdentityError, match="not anna's"):
        desk.policies.sign("admission", 1, desk.load(bank / "false" / "identity"), desk.node, desk.federation)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("UPDATE versions SET graph = CAST(REPLACE(CAST(graph AS TEXT), '>= 5', '>= 0') AS BLOB)", "version 1"),
        ("DELETE FROM words WHERE person = 'bert'", "active without 2 signatures"),
        ("UPDATE words SET person = 'bert', version = 1, activation = 9 WHERE person = 'bert'", "active without 2"),
        ("UPDATE activations SET version = 2", "active without 2 signatures"),
        ("UPDATE words SET signature = x'00'", "a signature .* was changed"),
    ],
)  # fmt: skip
def test_a_changed_file_decides_nothing(bank, change, sentence):
    desk = Desk(bank)
    desk.policies.file(graph(*GOOD))
    desk.policies.file(graph(Row({}, {"outcome": "'approve'"})))
    desk.sign("anna", 1)
    desk.sign("bert", 1)
    with sqlite3.connect(bank / "bank" / FILE) as db:
        db.execute(change)
    db.close()
    with pytest.raises(StateError, match=sentence):
        desk.policies.active("admission", "bank")


def test_an_unsound_graph_is_not_even_filed(bank):
    with pytest.raises(ConfigError, match="misses a case"):
        Policies(bank / "bank").file(graph(GOOD[0]))
    assert Policies(bank / "bank").versions() == []


# --- back-tests ------------------------------------------------------------------------------------------------------


PAST = """step,region,default,amount,pd
7,east,0,100,0.1
6,east,1,200,0.1
5,west,0,300,0.1
4,west,,400,0.5
3,east,,500,
1,west,1,600,0.2
"""


@pytest.fixture
def past(tmp_path):
    path = tmp_path / "past.csv"
    path.write_text(PAST)
    return path


def test_a_back_test_counts_by_decision_and_by_row_and_says_what_it_cannot_know(past):
    policy = graph(*GOOD)
    found = testing.backtest(policy, testing.read_past(past, [policy]), 0.5)
    approved, declined = found.outcomes["approve"], found.outcomes["decline"]
    assert (approved.firms, approved.known, approved.bads, approved.bad_rate) == (3, 3, 1, pytest.approx(1 / 3))
    assert (approved.least_loss, approved.most_loss) == (100.0, 100.0)
    # one firm's loss is what pd expects, of one nothing is known, one has defaulted
    assert (declined.least_loss, declined.most_loss) == (0.5 * (0.5 * 400 + 600), 0.5 * (0.5 * 400 + 500 + 600))
    assert {row.row: group.firms for row, group in found.rows.items()} == {1: 3, 2: 3}
    assert found.blindness.startswith("2 of 6 firms have no outcome, as declined firms never have")


def test_champion_and_challenger_differ_by_their_swap_set(past):
    wider = graph(Row({"step": ">= 4"}, {"outcome": "'approve'"}), Row({"step": "< 4"}, {"outcome": "'decline'"}))
    narrower = graph(Row({"step": ">= 7"}, {"outcome": "'approve'"}), Row({"step": "< 7"}, {"outcome": "'decline'"}))
    policy = graph(*GOOD)
    firms = testing.read_past(past, [policy])
    found = testing.compare(policy, wider, firms, 0.5)
    assert (found.swapped_in.firms, found.swapped_in.known, found.swapped_out.firms) == (1, 0, 0)
    assert found.swapped_in.most_loss == 0.5 * 0.5 * 400
    found = testing.compare(policy, narrower, firms, 0.5)
    assert (found.swapped_out.firms, found.swapped_out.bads, found.swapped_out.most_loss) == (2, 1, 100.0)
    assert found.champion.most_loss - found.challenger.most_loss == found.swapped_out.most_loss
    assert {pair: group.firms for pair, group in found.table.items()} == {
        ("approve", "approve"): 1, ("approve", "decline"): 2, ("decline", "decline"): 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("step,default\n1,0\n", "lacks region"),
        ("step,region,default\n1,east,2\n", "must be 1"),
        ("step,region,default,amount\n1,east,0,-5\n", "column amount must hold numbers"),
    ],
)
def test_past_firms_that_cannot_be_used_are_refused(tmp_path, text, sentence):
    path = tmp_path / "past.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=sentence):
        testing.read_past(path, [graph(*GOOD)])


def test_firms_beyond_the_schema_are_counted_and_all_of_them_are_an_error(tmp_path):
    path = tmp_path / "past.csv"
    path.write_text("step,region,default\n1,east,0\n99,east,0\n")
    policy = graph(*GOOD)
    found = testing.backtest(policy, testing.read_past(path, [policy]), 0.5)
    assert list(found.failures.values()) == [1]
    with pytest.raises(DataError, match="cannot decide on all firms"):
        testing.compare(policy, policy, testing.read_past(path, [policy]), 0.5)
    path.write_text("step,region,default\n99,east,0\n")
    with pytest.raises(ConfigError, match="none of the 1 firms"):
        testing.backtest(policy, testing.read_past(path, [policy]), 0.5)


# --- prices ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 100)), min_size=1, max_size=8, unique_by=lambda one: one[0]),
    st.integers(0, 20), st.integers(1, 100),
)  # fmt: skip
def test_the_price_is_the_best_rate_at_every_risk(pairs, funding, loss):
    rates, lost = zip(*((rate / 100, share / 100) for rate, share in sorted(pairs)), strict=True)
    terms = Terms(funding / 100, loss / 100)
    steps = steps_of(rates, lost, terms)
    for k in range(201):
        pd = k / 200
        best = max(value(rate, share, pd, terms) for rate, share in zip(rates, lost, strict=True))
        chosen = [rate for rate, start in steps if start <= pd][-1:]
        if not chosen or chosen[0] != chosen[0]:
            assert best <= 1e-12
        else:
            assert value(chosen[0], lost[rates.index(chosen[0])], pd, terms) == pytest.approx(best, abs=1e-12)


def test_the_shipped_prices_are_made_from_the_published_curve():
    churn = read_churn(shared_data("vat_invoices") / "rate_churn.csv")
    made = pricing_graph(churn, Terms(0.03, 0.45))
    assert made == (SHIPPED / "pricing.json").read_bytes()
    policy = parse_graph(made, "pricing")
    for grade in churn.lost:
        rates = [policy.decide({"grade": grade, "pd": pd / 100}).outputs for pd in range(25)]
        offered = [one["annual_rate"] for one in rates if one["offer"]]
        assert offered == sorted(offered)
        assert [one["offer"] for one in rates] == [True] * len(offered) + [False] * (25 - len(offered))


def test_a_curve_that_is_none_is_refused(tmp_path):
    path = tmp_path / "churn.csv"
    for text, sentence in (("a,b\n1,2\n", "must have a column annual_rate"),
                           ("annual_rate,churn_A\n0.1,0\n0.05,1\n", "must ascend"),
                           ("annual_rate,churn_A\n0.1,1.2\n", "within")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(DataError, match=sentence):
            read_churn(path)
    with pytest.raises(ConfigError, match="funding"):
        Terms(1.0, 0.5)
    assert steps_of((0.05,), (0.0,), Terms(0.06, 0.5))[0][1] == 0.0  # nothing is ever worth lending
    assert pricing_graph(Churn((0.05,), {"A": (0.0,)}), Terms(0.06, 0.5))


# --- the command -----------------------------------------------------------------------------------------------------


def veilscore(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == code, done.output + repr(done.exception)
    return " ".join(done.output.split())


def test_the_command_tests_compares_and_activates(bank, past):
    file, wider = bank / "admission.json", bank / "wider.json"
    file.write_bytes(graph_of(ASKED, ANSWERED, DecisionTable("tiers", GOOD)))
    wider.write_bytes(graph_of(ASKED, ANSWERED, DecisionTable("tiers", (Row({}, {"outcome": "'approve'"}),))))
    said = veilscore("policy", "test", file, "--firms", past)
    assert "no case is missed" in said
    assert "2 of 6 firms have no outcome" in said
    home = ("--home", bank / "bank")
    sign = "policy", "activate", file, *home, "--as", bank / "anna"
    with pytest.raises(ConfigError, match="say who wrote it with --author"):
        raise CliRunner().invoke(app, [str(word) for word in sign]).exception
    assert Policies(bank / "bank").versions() == [], "nothing was filed"
    assert "waits for a second steward: anna" in veilscore(*sign, "--author", "mo")
    with pytest.raises(RefusedError, match="anna has signed"):  # what is filed has its author
        raise CliRunner().invoke(app, [str(word) for word in sign]).exception
    said = veilscore(
        "policy", "activate", "admission", *home, "--as", bank / "bert", "--reason", "looked at the swap set"
    )
    assert "active: anna and bert" in said
    assert "admission" in veilscore("policy", "list", *home)
    said = veilscore("policy", "show", "admission", *home)
    assert "looked at the swap set" in said
    assert "a good step" in said
    said = veilscore("policy", "compare", "admission", wider, "--firms", past, *home)
    assert "Of those swapped in, 2 of 3 are such firms" in said
    wider.write_bytes(graph_of(ASKED, ANSWERED, DecisionTable("tiers", GOOD[:1])))
    assert "refused: table 'tiers' misses a case" in veilscore("policy", "test", wider, code=1)
    assert "policy" in veilscore("policy", "show", *home)  # the node's own rules


def test_shipped_policies_are_where_one_starts(tmp_path):
    said = veilscore("policy", "show", "referral")
    assert "credit committee" in said
    (tmp_path / "referral.json").write_text(veilscore("policy", "show", "referral", "--json"))
    assert load_graph(tmp_path / "referral.json").sha256 == load_graph(SHIPPED / "referral.json").sha256
