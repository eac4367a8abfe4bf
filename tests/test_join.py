"""Founding across organisations: four folders, and nothing shared but the files that people would send."""

from __future__ import annotations

import asyncio
import contextlib
import shutil

import pytest
import structlog
import yaml
from trial_federation import IMPATIENT, JOB, QUICK, commanding, show, submit, until, watch
from typer.testing import CliRunner

from coordinator.service import Coordinator
from veilscore.cli import app
from veilscore.errors import ConfigError, IdentityError, VeilscoreError
from veilscore.keys.identity import create_identity, load_identity, load_recovery_key
from veilscore.keys.rotation import move, revoke_by_recovery, revoke_by_vote
from veilscore.keys.voice_words import voice_words
from veilscore.node.founding import free_ports
from veilscore.node.node import Node
from veilscore.terms.charter import charter, signed
from veilscore.terms.federation import (
    Federation,
    add_statements,
    load_federation,
    make_federation,
    member_of,
    save_federation,
)

ROLES = {"coordinator": "coordinator", "bank": "bank", "tax": "holder", "registry": "holder"}


def veilscore(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "TERM": "dumb"})
    if isinstance(result.exception, VeilscoreError):
        raise result.exception
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def sent(path, to):
    """Mail one file: all that a machine ever gets of another."""
    folder = to.parent / "inbox"
    folder.mkdir(exist_ok=True)
    return shutil.copy(path, folder / path.name)


def compared(names):
    return [word for name in names for word in ("--compared", name)]


def ask_to_join(home, port, role, **more):
    options = [word for name, value in more.items() for word in (f"--{name}", value)]
    veilscore("join", "request", home, "--name", home.name, "--role", role, "--address", f"127.0.0.1:{port}", *options)
    return home / f"{home.name}.request.yaml"


def agree(homes, requests, *options):
    """Propose, sign at each home, and take: the path of `veilscore join --help`."""
    new = {path.name.partition(".")[0] for path in requests}
    hub = homes["coordinator"]
    veilscore("join", "propose", hub, *(sent(path, hub) for path in requests), *options, *compared(new))
    (proposal,) = hub.glob("*.proposal.yaml")
    copies = []
    for name, home in homes.items():
        if name == "coordinator":
            continue
        at_home = sent(proposal, home)
        known = set() if not (home / "federation.yaml").exists() else set(homes) - new
        veilscore("join", "sign", home, at_home, *compared(set(homes) - {name} - known))
        (signed,) = home.glob("*.signed-by-*.yaml")
        copies.append(sent(signed, hub))
    veilscore("join", "take", hub, *copies)
    for name, home in homes.items():
        if name != "coordinator":
            veilscore("join", "take", home, sent(hub / "federation.yaml", home))


def make_ready(home):
    """What an operator writes into node.yaml: a data set, and a policy that needs no person here."""
    path = home / "node.yaml"
    content = yaml.safe_load(path.read_text())
    content["datasets"] = {"main": {"path": "data.csv", "id_column": "uscc", "label_column": "default"}}
    content["policy"] |= {"accept": "auto"}
    path.write_text(yaml.safe_dump(content))


@pytest.fixture
def machines(tmp_path):
    """Five homes, each in a folder of its own; who asks to join does so in its own."""
    ports = iter(free_ports(8))
    homes = {name: tmp_path / name / "srv" / name for name in ROLES}
    for home in homes.values():
        home.parent.mkdir(parents=True)
    requests = [ask_to_join(homes[name], next(ports), role) for name, role in ROLES.items()]
    return homes, requests[1:], ports


@pytest.fixture
def founded(machines):
    homes, requests, ports = machines
    agree(homes, requests, "--federation", "pilot")
    identities = {name: load_identity(home / "identity") for name, home in homes.items()}
    return homes, load_federation(homes["bank"] / "federation.yaml"), identities, ports


def test_words_are_those_of_the_list():
    """The example of the list's page in Wikipedia."""
    text = "E58294F2E9A227486E8B061B31CC528F"
    words = (
        "topmost Istanbul Pluto vagabond treadmill Pacific brackish dictator "
        "goldfish Medusa afflict bravado chatter revolver Dupont midsummer"
    )
    assert voice_words(text + "00" * 16).split() == words.lower().split()
    every = {word for byte in range(256) for word in voice_words(f"{byte:02x}" * 32).split()}
    assert len(every) == 512


def test_a_file_is_taken_only_whole_and_as_it_was_signed(machines):
    homes, requests, _ = machines
    hub, bank = homes["coordinator"], homes["bank"]
    with pytest.raises(ConfigError, match="add --compared bank --compared tax"):
        veilscore("join", "propose", hub, *requests, "--federation", "pilot", "--compared", "registry")
    assert not list(hub.glob("*.proposal.yaml"))
    with pytest.raises(ConfigError, match="give --federation NAME"):
        veilscore("join", "propose", hub, *requests)
    veilscore("join", "propose", hub, *requests, "--federation", "pilot", *compared(ROLES))
    proposal = hub / "pilot.proposal.yaml"
    words = veilscore("join", "show", proposal)
    assert "not signed by bank, tax, registry" in words
    own = veilscore("identity", "show", bank)
    assert all(word in own for word in voice_words(load_identity(bank / "identity").fingerprint).split())
    with pytest.raises(ConfigError, match="compare these words"):
        veilscore("join", "sign", bank, proposal, *compared(["tax"]))
    veilscore("join", "sign", bank, proposal, *compared(ROLES))
    with pytest.raises(ConfigError, match="not signed yet by tax, registry"):
        veilscore("join", "take", bank, bank / "pilot.signed-by-bank.yaml")
    content = yaml.safe_load(proposal.read_text())
    content["members"][1]["address"] = "elsewhere.example.org:1"
    proposal.write_text(yaml.safe_dump(content))
    with pytest.raises(IdentityError, match="coordinator did not sign these nodes"):
        veilscore("join", "sign", homes["tax"], proposal, *compared(ROLES))
    request = homes["tax"] / "tax.request.yaml"
    request.write_text(request.read_text().replace("127.0.0.1", "127.0.0.2"))
    with pytest.raises(IdentityError, match="join request"):
        veilscore("join", "propose", hub, request, "--federation", "pilot", *compared(ROLES))


def test_a_coordinator_that_puts_its_own_key_in_anothers_place_is_seen(machines, tmp_path):
    """It shows the bank another tax than there is: the words differ, and no file gets the signatures of all."""
    homes, requests, ports = machines
    hub, bank, tax = homes["coordinator"], homes["bank"], homes["tax"]
    false = tmp_path / "false" / "tax"
    swapped = ask_to_join(false, next(ports), "holder")
    veilscore("join", "propose", hub, requests[0], swapped, requests[2], "--federation", "pilot", *compared(ROLES))
    proposal = load_federation(hub / "pilot.proposal.yaml")
    shown = veilscore("join", "show", hub / "pilot.proposal.yaml")
    assert voice_words(load_identity(tax / "identity").fingerprint).splitlines()[0] not in shown
    with pytest.raises(IdentityError, match="does not have the certificate of this home's node, tax"):
        veilscore("join", "sign", tax, hub / "pilot.proposal.yaml", *compared(ROLES))
    # the bank signs without a look; the false tax signs too: only the true one's operator could notice, and did
    veilscore("join", "sign", bank, hub / "pilot.proposal.yaml", *compared(ROLES))
    members = [m for m in proposal.members if m.name != "tax"]
    honest = load_federation(bank / "pilot.signed-by-bank.yaml")
    mixed = Federation(name="pilot", members=tuple(members), signatures=honest.signatures)
    save_federation(mixed, tmp_path / "mixed.yaml")
    with pytest.raises(IdentityError, match=r"is no node in it|did not sign these nodes"):
        veilscore("join", "take", bank, tmp_path / "mixed.yaml")


def test_a_home_refuses_a_file_that_was_changed_after_it_was_signed(machines):
    homes, requests, _ = machines
    agree(homes, requests, "--federation", "pilot")
    files = [load_federation(home / "federation.yaml") for home in homes.values()]
    assert len({charter(file) for file in files}) == 1
    assert all(set(file.signatures) == set(ROLES) for file in files)
    path = homes["tax"] / "federation.yaml"
    text = path.read_text()
    path.write_text(text.replace(files[0].member("bank").address, "127.0.0.1:9"))
    with pytest.raises(IdentityError, match="did not sign these nodes"):
        Node(homes["tax"])
    with pytest.raises(ConfigError, match="bank has another key or address in the file"):
        veilscore("join", "sign", homes["tax"], homes["coordinator"] / "federation.yaml")
    path.write_text(text)
    assert "signed by all its nodes" in veilscore("join", "show", path)

    # a person whom somebody wrote into the file on its way is nobody's here: people are each member's own
    person = create_identity(homes["tax"].parent / "mallory", "mallory", "operator", passphrase=lambda: None)
    with_person = make_federation("pilot", [*files[0].members, member_of(person.certificate, None)])
    forged = with_person.model_copy(update={"signatures": files[0].signatures})
    save_federation(forged, homes["tax"].parent / "forged.yaml")
    path.unlink()
    veilscore("join", "take", homes["tax"], homes["tax"].parent / "forged.yaml")
    assert {m.name for m in load_federation(path).members} == set(ROLES)


def rewritten(path, **changes):
    content = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))


def test_a_file_without_signatures_is_no_nodes(machines):
    homes, requests, ports = machines
    agree(homes, requests, "--federation", "pilot")
    path = homes["tax"] / "federation.yaml"
    text = path.read_text()
    signatures = yaml.safe_load(text)["signatures"]
    stranger = create_identity(homes["tax"].parent / "land", "land", "holder", passphrase=lambda: None)
    added = member_of(stranger.certificate, f"127.0.0.1:{next(ports)}").model_dump(mode="json")
    for kept in (None, {"tax": signatures["tax"]}):
        rewritten(path, signatures=kept)
        with pytest.raises(IdentityError, match=r"not signed by .*bank.*veilscore join take"):
            Node(homes["tax"])
        path.write_text(text)

    async def scenario(lines):
        node = Node(homes["tax"], limits=QUICK)
        await node.start()
        try:
            members = yaml.safe_load(text)["members"]
            rewritten(path, signatures=None, members=[*members, added])
            await until(lambda: any("is not signed by" in line.get("obstacle", "") for line in lines))
            assert {m.name for m in node.fabric.federation.members} == set(ROLES)
        finally:
            await node.stop(0.1)

    with structlog.testing.capture_logs() as lines:
        asyncio.run(asyncio.wait_for(scenario(lines), 60))


def test_a_person_is_added_and_all_else_of_the_file_stays(founded):
    homes, base, ids, ports = founded
    path = homes["bank"] / "federation.yaml"
    lost = load_recovery_key(homes["tax"] / "identity" / "recovery.pem")
    revoked = revoke_by_recovery(lost, "tax", ids["tax"].fingerprint, "pilot", base.next_date_ms())
    add_statements(path, [revoked])
    for name, role in (("anna", "operator"), ("land", "holder")):
        create_identity(homes["bank"].parent / name, name, role, passphrase=lambda: None)
    pem = homes["bank"].parent / "anna" / "certificate.pem"
    veilscore("federation", "add", path, pem)
    after = load_federation(path)
    assert {m.name for m in after.members} == {*ROLES, "anna"}
    assert (after.signatures, after.statements) == (base.signatures, (revoked,))
    Node(homes["bank"])
    pem = homes["bank"].parent / "land" / "certificate.pem"
    with pytest.raises(ConfigError, match="land is a node, and nodes join by `veilscore join`"):
        veilscore("federation", "add", path, pem, "--address", f"127.0.0.1:{next(ports)}")


def test_nobody_writes_over_the_words_or_out_of_the_home(machines):
    """Addresses and names come by mail; what is shown beside the words, and names files, has no such characters."""
    homes, requests, _ = machines
    hub = homes["coordinator"]
    veilscore("join", "propose", hub, *requests, "--federation", "pilot", *compared(ROLES))
    proposal = hub / "pilot.proposal.yaml"
    content = yaml.safe_load(proposal.read_text())
    for address in ("a\n  bank (bank)\n    aardvark:1", "\x1b[3Aa:1", "a b:1", "a/b:1", "\u202ea:1", "[::1]\n:1"):
        content["members"][1]["address"] = address
        proposal.write_text(yaml.safe_dump(content, allow_unicode=True))
        with pytest.raises(ConfigError, match="must be host:port"):
            veilscore("join", "show", proposal)
    content["members"][1]["address"] = "[fe80::1%eth0]:7101"
    for name in ("../../elsewhere", "a/b", ".", "a\nb", "\x1b[2J", ""):
        content["name"] = name
        proposal.write_text(yaml.safe_dump(content, allow_unicode=True))
        with pytest.raises(ConfigError, match="name"):
            veilscore("join", "sign", homes["tax"], proposal, *compared(ROLES))
    assert not list(hub.parent.parent.rglob("elsewhere*"))


def test_a_node_signs_one_of_two_foundings(machines):
    homes, requests, _ = machines
    hub, bank = homes["coordinator"], homes["bank"]
    for chosen in (requests[:2], [requests[0], requests[2]]):
        veilscore("join", "propose", hub, *chosen, "--federation", "pilot", *compared(ROLES))
        shutil.copy(hub / "pilot.proposal.yaml", hub / f"{chosen[1].parent.name}.yaml")
    veilscore("join", "sign", bank, hub / "tax.yaml", *compared(ROLES))
    with pytest.raises(ConfigError, match=r"has signed another file of pilot.*tax is missing.*remove it"):
        veilscore("join", "sign", bank, hub / "registry.yaml", *compared(ROLES))
    veilscore("join", "propose", hub, *requests, "--federation", "pilot", *compared(ROLES))
    veilscore("join", "sign", bank, hub / "pilot.proposal.yaml", *compared(ROLES))  # it goes on from the first


def test_a_revoked_key_signs_no_newer_file(founded, tmp_path):
    """The file comes without the statements by which the key was revoked: what the home knows counts."""
    homes, base, ids, ports = founded
    path = homes["bank"] / "federation.yaml"
    lost = load_recovery_key(homes["tax"] / "identity" / "recovery.pem")
    new = create_identity(tmp_path / "tax2", "tax", "holder", passphrase=lambda: None,
                          recovery=ids["tax"].certificate.recovery)  # fmt: skip
    now_ms = base.next_date_ms()
    add_statements(path, [revoke_by_recovery(lost, "tax", ids["tax"].fingerprint, "pilot", now_ms, new)])
    land = create_identity(tmp_path / "land", "land", "holder", passphrase=lambda: None)
    larger = make_federation("pilot", [*base.members, member_of(land.certificate, f"127.0.0.1:{next(ports)}")])
    for identity in (*ids.values(), land):
        larger = signed(larger, identity)
    save_federation(larger, tmp_path / "larger.yaml")
    with pytest.raises(IdentityError, match=r"tax did not sign these nodes.*was revoked"):
        veilscore("join", "take", homes["bank"], tmp_path / "larger.yaml")
    save_federation(signed(larger, new), tmp_path / "larger.yaml")
    veilscore("join", "take", homes["bank"], tmp_path / "larger.yaml")
    save_federation(base, tmp_path / "older.yaml")
    with pytest.raises(ConfigError, match="land is missing"):  # nor does an older file come back
        veilscore("join", "take", homes["bank"], tmp_path / "older.yaml")


def test_statements_dated_ahead_are_not_taken_from_a_file(founded, tmp_path):
    homes, base, ids, _ = founded
    ahead = revoke_by_vote(ids["registry"], "tax", ids["tax"].fingerprint, "pilot", base.next_date_ms() + 86_400_000)
    save_federation(base.with_statements([ahead]), tmp_path / "ahead.yaml")
    veilscore("keys", "take", homes["bank"], tmp_path / "ahead.yaml")
    veilscore("join", "take", homes["bank"], tmp_path / "ahead.yaml")
    assert load_federation(homes["bank"] / "federation.yaml") == base


def opened(homes, *names):
    return {
        name: Coordinator(homes[name], limits=QUICK, patience=IMPATIENT)
        if name == "coordinator"
        else Node(homes[name], limits=QUICK)
        for name in names
    }


async def done(homes, text=JOB):
    async with commanding(homes["bank"]) as fabric:
        job = await submit(fabric, text)
        await watch(fabric, job)
        return (await show(fabric, job)).status


@pytest.mark.slow
def test_from_four_folders_to_a_fifth_a_move_and_a_lost_key(machines, tmp_path):
    """Nodes start in any order, a holder joins while they run, one moves, and one loses all its keys."""
    homes, requests, ports = machines
    agree(homes, requests, "--federation", "pilot")
    for name in ("bank", "tax", "registry"):
        make_ready(homes[name])

    async def scenario():
        nodes = opened(homes, "tax", "bank", "coordinator", "registry")
        async with contextlib.AsyncExitStack() as stack:
            for name in ("registry", "bank", "coordinator", "tax"):
                await nodes[name].start()
                stack.push_async_callback(lambda name=name: nodes[name].stop(0.1))
            assert await done(homes) == "done"

            # a holder joins; no node stops
            homes["land"] = tmp_path / "land" / "srv" / "land"
            homes["land"].parent.mkdir(parents=True)
            request = ask_to_join(homes["land"], next(ports), "holder")
            await asyncio.to_thread(agree, homes, [request])
            make_ready(homes["land"])
            nodes |= opened(homes, "land")
            await nodes["land"].start()
            stack.push_async_callback(lambda: nodes["land"].stop(0.1))
            await until(lambda: all(len(n.fabric.federation.members) == 5 for n in nodes.values()))
            with_land = JOB.replace("[tax, registry]", "[tax, land]").replace("registry: main", "land: main")
            assert await done(homes, with_land) == "done"

            # tax moves: it alone says so, the others learn of it from it
            await nodes["tax"].stop(0.1)
            address = f"127.0.0.1:{next(ports)}"
            await asyncio.to_thread(veilscore, "join", "move", homes["tax"], "--address", address)
            nodes |= opened(homes, "tax")
            await nodes["tax"].start()
            await until(lambda: all(n.fabric.federation.member("tax").address == address for n in nodes.values()))
            assert await done(homes) == "done"

            # tax loses key and recovery key: the others name a new one, each with its own hands
            await nodes["tax"].stop(0.1)
            old = load_identity(homes["tax"] / "identity").fingerprint
            for path in (homes["tax"] / "identity").glob("*.pem"):
                path.write_text("")
            await asyncio.to_thread(veilscore, "join", "request", homes["tax"], "--new-key", "--address", address)
            request = homes["tax"] / "tax.request.yaml"
            with pytest.raises(IdentityError, match="pins another certificate"):
                Node(homes["tax"])
            for name in ("bank", "coordinator", "registry", "land"):
                await asyncio.to_thread(
                    veilscore, "keys", "replace", homes[name], sent(request, homes[name]), "--compared", "tax"
                )
            await until(lambda: all(
                load_federation(homes[name] / "federation.yaml").member("tax").fingerprint != old
                for name in ("bank", "coordinator", "registry", "land")))  # fmt: skip
            federation = sent(homes["land"] / "federation.yaml", homes["tax"])
            assert "5 new" not in await asyncio.to_thread(veilscore, "keys", "take", homes["tax"], federation)
            nodes |= opened(homes, "tax")
            await nodes["tax"].start()
            assert await done(homes) == "done"
            assert load_federation(homes["bank"] / "federation.yaml").history.revoked(2e9) == {old}

    asyncio.run(asyncio.wait_for(scenario(), 180))


# the rules of statements


def test_moves_and_named_keys(founded, tmp_path):
    homes, base, ids, ports = founded
    now = base.next_date_ms()
    first, second = (move(ids["tax"], f"tax.example.org:{port}", "pilot", now + port) for port in (1, 2))
    for order in ((first, second), (second, first)):
        federation = base
        for statement in order:
            federation = federation.with_statements([statement])
        assert federation.member("tax").address == "tax.example.org:2"  # the later one, however they came
    assert not base.with_statements([move(ids["bank"], "x.org:1", "pilot", now).model_copy(
        update={"member": "tax", "fingerprint": ids["tax"].fingerprint})]).statements  # fmt: skip
    lost = load_recovery_key(homes["tax"] / "identity" / "recovery.pem")
    revoked = revoke_by_recovery(lost, "tax", ids["tax"].fingerprint, "pilot", now)
    after = base.with_statements([revoked, first])
    assert after.member("tax").address == base.member("tax").address  # a thief's move ends with the key

    ask_to_join(tmp_path / "new" / "tax", next(ports), "holder")
    new = load_identity(tmp_path / "new" / "tax" / "identity")
    votes = [revoke_by_vote(ids[name], "tax", ids["tax"].fingerprint, "pilot", now + place, new.certificate)
             for place, name in enumerate(("bank", "coordinator", "registry"))]  # fmt: skip
    two = base.with_statements(votes[:2])
    assert two.history.accepted("tax", now / 1000 + 9) == ()  # a majority revokes ...
    assert two.history.missing_names("tax", ids["tax"].fingerprint, new.fingerprint) == ["registry"]
    all_of_them = base.with_statements(votes)
    assert all_of_them.member("tax").fingerprint == new.fingerprint  # ... and all together name the key that goes on
    assert base.with_statements(votes[::-1]).history.digest == all_of_them.history.digest
    # the recovery key may be in the hands of a thief
    again = revoke_by_recovery(lost, "tax", ids["tax"].fingerprint, "pilot", now + 9)
    assert all_of_them.with_statements([again]).statements == all_of_them.statements
