"""federation.py: the file and what is refused in it."""

from __future__ import annotations

import pytest
import yaml
from fabric_network import FEDERATION, IDENTITIES, accepted_member, federation_of, make_identity

from veilscore.errors import ConfigError, IdentityError, StateError
from veilscore.terms.federation import load_federation, make_federation, member_of, save_federation


@pytest.fixture
def content():
    return FEDERATION.model_dump(mode="json", exclude_none=True)


@pytest.fixture
def load(tmp_path):
    def write_and_load(content):
        path = tmp_path / "federation.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_federation(path)

    return write_and_load


def test_round_trip(tmp_path):
    path = tmp_path / "folder" / "federation.yaml"
    save_federation(FEDERATION, path)
    assert load_federation(path) == FEDERATION
    assert "certificate: |\n    -----BEGIN CERTIFICATE-----" in path.read_text()


def test_lookups():
    bank = FEDERATION.member("bank")
    assert accepted_member(FEDERATION, IDENTITIES["bank"].fingerprint) is bank
    assert accepted_member(FEDERATION, "0" * 64) is None
    assert FEDERATION.coordinator.name == "coordinator"
    assert [m.name for m in FEDERATION.with_role("holder")] == ["tax", "registry"]
    assert FEDERATION.member("operator").address is None
    with pytest.raises(IdentityError, match="did you mean 'registry'"):
        FEDERATION.member("registri")


def test_fingerprint_may_be_written_with_colons(content, load):
    digits = content["members"][0]["fingerprint"].upper()
    content["members"][0]["fingerprint"] = ":".join(digits[i : i + 2] for i in range(0, 64, 2))
    assert load(content) == FEDERATION


@pytest.mark.parametrize(("where", "key", "nearest"), [("member", "adress", "address"), ("top", "member", "members")])
def test_unknown_key_names_the_nearest(content, load, where, key, nearest):
    (content["members"][1] if where == "member" else content)[key] = "x"
    with pytest.raises(ConfigError, match=f"unknown key '{key}'; did you mean '{nearest}'"):
        load(content)


def test_two_members_with_one_name(content, load):
    content["members"].append(dict(content["members"][0]))
    with pytest.raises(ConfigError, match="two members are called bank"):
        load(content)


def test_two_nodes_with_one_identity(content, load):
    content["members"][2] |= {k: content["members"][1][k] for k in ("certificate", "fingerprint")}
    with pytest.raises(ConfigError, match="two nodes with one identity: members tax and registry"):
        load(content)


def test_certificate_made_for_another_name(content, load):
    content["members"][1]["name"] = "land"
    with pytest.raises(ConfigError, match="member land has a certificate made for tax"):
        load(content)


def test_two_members_at_one_address(content, load):
    content["members"][2]["address"] = content["members"][1]["address"]
    with pytest.raises(ConfigError, match="members tax and registry have one address"):
        load(content)


def test_fingerprint_of_another_certificate(content, load):
    content["members"][0]["fingerprint"] = content["members"][1]["fingerprint"]
    with pytest.raises(ConfigError, match="fingerprint of member bank is not that of its certificate"):
        load(content)


def test_role_other_than_in_the_certificate(content, load):
    content["members"][1]["role"] = "bank"
    with pytest.raises(ConfigError, match="listed as bank, its certificate says holder"):
        load(content)


@pytest.mark.parametrize("address", ["tax", "tax:", ":7000", "tax:0", "tax:65536", "tax:http", "::1:7000", "tax:٣"])
def test_bad_address(content, load, address):
    content["members"][0]["address"] = address
    with pytest.raises(ConfigError, match="must be host:port"):
        load(content)


def test_ipv6_address(content, load):
    content["members"][0]["address"] = "[::1]:7000"
    assert load(content).member("bank").address == "[::1]:7000"


def test_missing_address(content, load):
    del content["members"][0]["address"]
    with pytest.raises(ConfigError, match="bank needs an address"):
        load(content)


def test_exactly_one_coordinator_and_a_bank():
    two = [*IDENTITIES.values(), make_identity("second", "coordinator")]
    with pytest.raises(ConfigError, match="exactly one coordinator; this one has coordinator, second"):
        federation_of(two)
    with pytest.raises(ConfigError, match="this one has none"):
        federation_of([IDENTITIES["bank"]])
    with pytest.raises(ConfigError, match="at least one bank"):
        federation_of([IDENTITIES["coordinator"]])


def test_damaged_certificate_is_refused_without_echoing_it(content, load):
    content["members"][0]["certificate"] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(ConfigError, match=r"members\.1: certificate cannot be read") as caught:
        load(content)
    assert "AAAA" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "name: x", "name: [", "\x00"])
def test_file_that_is_no_federation(tmp_path, text):
    path = tmp_path / "federation.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"federation\.yaml"):
        load_federation(path)


def test_missing_file_and_unwritable_folder(tmp_path):
    with pytest.raises(ConfigError, match="federation file not found"):
        load_federation(tmp_path / "none.yaml")
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be written"):
        save_federation(FEDERATION, tmp_path / "file" / "federation.yaml")


def test_members_from_identities():
    members = [member_of(IDENTITIES[n].certificate, f"{n}:7000") for n in ("bank", "coordinator")]
    assert make_federation("small", members).member("bank").identity.name == "bank"
