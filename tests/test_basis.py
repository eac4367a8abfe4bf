"""Two stewards answer for a proactive campaign: whose signatures count, what the basis covers, and when it ends."""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil

import numpy as np
import pytest
import yaml
from consent_issuer import ISSUERS, KEY, give_list
from finished_jobs import finished
from hypothesis import given
from hypothesis import strategies as st
from test_cli_trust import veilscore
from test_parsers import few
from trial_decisions import decide_job, decided, expected, file_decisions, run_decisions
from trial_scoring import copy_of

from veilscore.errors import ConfigError, IdentityError, RefusedError
from veilscore.keys.identity import create_identity
from veilscore.models.decided import load_decision
from veilscore.node.founding import write_node_config
from veilscore.release.basis import Basis, SignedBasis, filed, in_force, path_of
from veilscore.release.consent import issue_revocations
from veilscore.terms.charter import signed
from veilscore.terms.federation import load_federation, make_federation, member_of, save_federation
from veilscore.terms.node_config import load_node_config
from veilscore.terms.settings import parse

PEOPLE = {"anna": ["steward"], "stella": ["steward", "auditor"], "mo": ["modeller"]}
BASIS = {
    "holder": "tax",
    "bank": "bank",
    "decision": "limit",
    "decision_sha256": "ab" * 32,
    "legal_ground": "article 13 (3) of the law on personal information, order 2026/17 of the bureau",
    "population": "small firms of the province that file VAT monthly",
    "ends": "2027-01-31",
    "bits": 3,
    "objections": "portal",
}
TODAY = dt.date(2026, 12, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Homes of a bank, a holder, a coordinator and three persons, in one federation."""
    folder, made = tmp_path_factory.mktemp("basis"), []
    roles = {"bank": "bank", "tax": "holder", "coordinator": "coordinator", **dict.fromkeys(PEOPLE, "operator")}
    for port, (name, role) in enumerate(roles.items(), start=9000):
        identity = create_identity(folder / name / "identity", name, role)
        made.append((identity, None if role == "operator" else f"127.0.0.1:{port}"))
        write_node_config(folder / name, name, role)
    change(folder / "tax", people=PEOPLE, policy={"consent_issuers": ISSUERS})
    federation = make_federation("trial", [member_of(one.certificate, address) for one, address in made])
    for identity, address in made:
        federation = signed(federation, identity) if address else federation
    for name in roles:
        save_federation(federation, folder / name / "federation.yaml")
    return folder


def change(home, **keys):
    path = home / "node.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))


def written(folder, **changes):
    (folder / "basis.yaml").write_text(yaml.safe_dump(BASIS | changes))
    return folder / "basis.yaml"


def signed_by(made, path, *people):
    """The file after these persons signed it, as they type it."""
    target = path.with_name("basis.json")
    for name in people:
        veilscore("basis", "sign", path, target, "--home", made / name)
        path = target
    return target


def object_at_the_portal(home, *firms, number=1):
    folder = home / "consents" / "revocations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"portal-{number}.json").write_text(
        issue_revocations(KEY, "portal", (), firms=firms, number=number).to_text()
    )


def now_in_force(made, today=TODAY, bank="bank", decision="limit"):
    home = made / "tax"
    return in_force(home, load_node_config(home), load_federation(home / "federation.yaml"), bank, decision, today)


@pytest.fixture
def two(made, tmp_path):
    """A basis that two stewards signed, filed at the holder, where one firm objected."""
    path = signed_by(made, written(tmp_path), "anna", "stella")
    veilscore("basis", "file", path, "--home", made / "tax")
    object_at_the_portal(made / "tax", "firm-2")
    yield path
    shutil.rmtree(made / "tax" / "consents")


def test_two_stewards_make_a_basis(made, two):
    found = now_in_force(made)
    assert found.basis == SignedBasis.read(two).basis
    assert found.covers(np.array(["firm-1", "firm-2", "firm-3"])).tolist() == [True, False, True]
    shown = veilscore("basis", "list", "--home", made / "tax")
    assert "anna, stella" in shown
    found.check(bytes.fromhex(BASIS["decision_sha256"]), 3.0)
    with pytest.raises(RefusedError, match="another version of the decision"):
        found.check(bytes(32), 3.0)
    with pytest.raises(RefusedError, match=r"allows 3 bits, and this decision tells 3\.2"):
        found.check(bytes.fromhex(BASIS["decision_sha256"]), 3.2)


def test_it_holds_for_one_decision_of_one_bank_until_its_end(made, two):
    assert now_in_force(made, dt.date(2027, 1, 31))
    assert now_in_force(made, dt.date(2027, 2, 1)) is None
    assert now_in_force(made, bank="other") is None
    assert now_in_force(made, decision="other") is None
    other = path_of(made / "tax", "other-bank", "limit")
    other.parent.mkdir()
    other.write_text("cut")
    assert "damaged" in veilscore("basis", "list", "--home", made / "tax")
    veilscore("basis", "withdraw", "bank", "limit", "--home", made / "tax")  # a damaged one beside it is no hindrance
    assert now_in_force(made) is None
    assert filed(made / "tax") == (("other-bank", "limit", None),)
    veilscore("basis", "withdraw", "other-bank", "limit", "--home", made / "tax")
    assert not filed(made / "tax")
    with pytest.raises(ConfigError, match="no basis of"):
        veilscore("basis", "withdraw", "../bank", "limit", "--home", made / "tax")
    with pytest.raises(ConfigError, match="no basis of bank for limit"):
        veilscore("basis", "withdraw", "bank", "limit", "--home", made / "tax")


def test_nothing_holds_where_nobody_could_object(made, two):
    for path in (made / "tax" / "consents" / "revocations").glob("*"):
        path.unlink()
    assert now_in_force(made) is None


@pytest.mark.parametrize(
    ("people", "says"),
    [
        (["anna"], "needs 2 different stewards of tax .* and 1 signed it"),
        (["anna", "anna"], "and 1 signed it"),
        (["anna", "mo"], "and 1 signed it"),
        (["anna", "bank"], "and 1 signed it"),
        (["tax", "bank"], "and 0 signed it"),
    ],
)
def test_others_cannot_sign(made, tmp_path, people, says):
    path = signed_by(made, written(tmp_path), *people)
    with pytest.raises(IdentityError, match=says):
        veilscore("basis", "file", path, "--home", made / "tax")


def test_a_steward_who_left_counts_no_more(made, two):
    change(made / "tax", people={**PEOPLE, "stella": ["auditor"]})
    try:
        with pytest.raises(IdentityError, match="and 1 signed it"):
            now_in_force(made)
    finally:
        change(made / "tax", people=PEOPLE)


@pytest.mark.parametrize(
    "changes",
    [{"bits": 6}, {"ends": "2037-01-31"}, {"decision_sha256": "00" * 32}, {"population": "all firms there are"}],
)
def test_what_was_changed_after_signing(made, two, changes):
    body = json.loads(two.read_text())
    body["basis"] |= changes
    two.write_text(json.dumps(body))
    with pytest.raises(IdentityError, match=r"not .*'s, or what it signed was changed"):
        veilscore("basis", "file", two, "--home", made / "tax")


def test_where_it_does_not_belong(made, tmp_path):
    path = signed_by(made, written(tmp_path, holder="registry"), "anna", "stella")
    with pytest.raises(ConfigError, match="is about data of registry, and this is tax"):
        veilscore("basis", "file", path, "--home", made / "tax")
    path = signed_by(made, written(tmp_path, objections="elsewhere"), "anna", "stella")
    with pytest.raises(ConfigError, match="'elsewhere' is no issuer"):
        veilscore("basis", "file", path, "--home", made / "tax")


@pytest.mark.parametrize(
    "changes", [{"legal_ground": "law"}, {"bits": 0}, {"bits": math.inf}, {"ends": "soon"}, {"x": 1}]
)
def test_what_a_basis_has_to_say(tmp_path, changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        SignedBasis.read(written(tmp_path, **changes))


@few
@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode))
def test_any_file_is_a_basis_or_refused(tmp_path, data):
    (tmp_path / "basis.json").write_bytes(data)
    with pytest.raises(ConfigError):
        SignedBasis.read(tmp_path / "basis.json")


# --- a batch without single consents ---------------------------------------------------------------------------------


@pytest.fixture
def campaign(tmp_path):
    """Homes with the decision "limit", of which no firm gave the bank consent, and a basis at both holders."""
    folder = copy_of(finished(file_decisions), tmp_path / "trial")
    persons = [create_identity(folder / name / "identity", name, "operator") for name in ("anna", "stella")]
    limit = load_decision(folder / "bank", "limit")
    for holder in ("tax", "registry"):
        home = folder / holder
        config = load_node_config(home)
        old = load_federation(config.federation)
        save_federation(old.with_people(member_of(one.certificate, None) for one in persons), config.federation)
        change(home, people={"anna": ["steward"], "stella": ["steward"]})
        terms = BASIS | {"holder": holder, "decision_sha256": limit.sha256.hex(), "bits": limit.decision.bits}
        signed = SignedBasis(parse(Basis, terms | {"ends": "9999-01-01"}, "basis"))
        for person in persons:
            signed = signed.signed_by(person)
        signed.file(home, load_node_config(home), load_federation(config.federation))
        object_at_the_portal(home)
    return folder


@pytest.mark.slow
def test_a_campaign_on_a_basis_and_a_firm_that_objects(campaign):
    steps = expected(campaign, "limit")
    objects = next(firm for firm, step in steps.items() if step >= 2)
    object_at_the_portal(campaign / "tax", objects, number=2)
    object_at_the_portal(campaign / "registry", objects, number=2)
    run = run_decisions(campaign, decide_job("limit", "proactive"))
    found = {firm: int(row["step"]) for firm, row in decided(campaign, run).items()}
    assert {firm: step for firm, step in found.items() if firm != objects} == {
        firm: step for firm, step in steps.items() if firm != objects
    }
    assert found[objects] <= steps[objects]
    withheld = json.loads((campaign / "tax" / "jobs" / run.job_id / "withheld.json").read_text())
    assert len(withheld["no consent"]) == 1


def test_a_campaign_beyond_its_basis(campaign):
    for path in (campaign / "tax" / "consents" / "bases").glob("*/*.json"):
        body = json.loads(path.read_text())
        body["basis"]["bits"] = 20  # not what was signed
        path.write_text(json.dumps(body))
    with pytest.raises(RefusedError, match="consent is required"):
        run_decisions(campaign, decide_job("limit", "proactive"))
    with pytest.raises(RefusedError, match="consent is required"):
        run_decisions(campaign, decide_job("told", "proactive"))


def test_a_list_that_allows_fewer_bits_or_other_holders(campaign):
    for path in campaign.glob("*/consents/bases/*/*.json"):
        path.unlink()
    firms = list(expected(campaign, "limit"))
    give_list(campaign / "bank", firms, purpose="proactive", tasks=("decide",), bits=1.0)
    with pytest.raises(RefusedError, match="consent is required"):  # the bank does not even send it
        run_decisions(campaign, decide_job("limit", "proactive"))
    give_list(campaign / "bank", firms, purpose="proactive", tasks=("decide",), holders=("tax",))
    with pytest.raises(RefusedError, match="does not name registry among its holders"):
        run_decisions(campaign, decide_job("limit", "proactive"))
