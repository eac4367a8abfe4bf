"""people.py: every call has an entry, and a person does what the roles allow; real nodes and certificates."""

from __future__ import annotations

import asyncio

import pytest
import yaml
from fabric_network import accepted_member
from test_rotation import veilscore
from trial_federation import JOB, commanding, make_homes, open_trial, running, submit, until, watch

from veilscore.errors import ConfigError, RefusedError, VeilscoreError
from veilscore.keys.identity import create_identity
from veilscore.node.founding import write_node_config
from veilscore.terms.federation import load_federation, member_of, save_federation
from veilscore.terms.node_config import NodeConfig, load_node_config
from veilscore.terms.people import ACCESS, PERSON_ROLES, roles_of
from veilscore.terms.settings import parse
from veilscore.v1 import control_pb2

PEOPLE = {"mo": ["modeller"], "stella": ["steward"], "ada": ["auditor"], "otto": ["operator"]}
NODES = ("bank", "tax", "registry", "coordinator")


@pytest.fixture
def homes(tmp_path):
    """A trial federation with one person for each role, one with all by `operators`, and a stranger."""
    folder = make_homes(tmp_path, tax={"accept": "manual"})
    people = (*PEOPLE, "all", "nobody")
    made = [create_identity(folder / name / "identity", name, "operator") for name in people]
    old = load_federation(folder / "federation.yaml")
    federation = old.with_people(member_of(i.certificate, None) for i in made)
    for name in (*NODES, *people):
        save_federation(federation, folder / name / "federation.yaml")
    for name in people:
        write_node_config(folder / name, name, "operator")
    for name in NODES:
        change(folder / name, people=PEOPLE, operators=["all"])
    return folder


def change(home, **keys):
    path = home / "node.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))


def test_every_call_of_every_node_has_an_entry(homes):
    for name, node in open_trial(homes).items():
        missing = node.fabric.methods - ACCESS.keys()
        assert not missing, f"{name}: add {sorted(missing)} to ACCESS in veilscore/terms/people.py"


def test_entries_name_known_roles_only():
    known = {*PERSON_ROLES, "any member"}
    assert all(roles <= known for roles in ACCESS.values())
    assert {role for roles in ACCESS.values() for role in roles} >= {"modeller", "steward", "auditor"}


CALLS = {
    ("tax", "Inbox"): (control_pb2.Empty(), control_pb2.JobList),
    ("tax", "Decide"): (control_pb2.Acceptance(job_id="none"), control_pb2.Acceptance),
    ("coordinator", "Submit"): (control_pb2.SubmitJob(job_yaml="x: 1"), control_pb2.JobInfo),
    ("coordinator", "List"): (control_pb2.Empty(), control_pb2.JobList),
    ("coordinator", "Show"): (control_pb2.JobRef(job_id="none"), control_pb2.JobInfo),
    ("coordinator", "CancelJob"): (control_pb2.JobRef(job_id="none"), control_pb2.JobInfo),
    ("coordinator", "Resume"): (control_pb2.JobRef(job_id="none"), control_pb2.JobInfo),
    ("bank", "Score"): (control_pb2.ScoreRequest(), control_pb2.ScoreResponse),
    ("bank", "Ping"): (control_pb2.Empty(), control_pb2.Empty),
    ("bank", "KeyStatements"): (control_pb2.KeyStatements(), control_pb2.KeyStatements),
    ("tax", "RunStep"): (control_pb2.StepOrder(), control_pb2.StepEvent),
}


def test_each_role_may_call_what_the_table_says(homes):
    """Whoever is let in gets an answer, or an error about the request; whoever is not hears the role that is needed."""

    async def outcome(fabric, node, method):
        request, reply = CALLS[node, method]
        try:
            await fabric.call(node, method, request, reply, timeout_s=5, retry=False)
        except RefusedError as error:
            return error.message
        except VeilscoreError as error:
            return type(error).__name__
        return "answered"

    async def scenario():
        found = {}
        async with running(open_trial(homes)):
            for person in (*PEOPLE, "all", "nobody"):
                async with commanding(homes / person) as fabric:
                    for node, method in CALLS:
                        found[person, method] = await outcome(fabric, node, method)
        return found

    found = asyncio.run(scenario())
    for (person, method), said in found.items():
        roles = set(PERSON_ROLES) if person == "all" else set(PEOPLE.get(person, ()))
        if method == "RunStep":
            assert said == "IdentityError", person
        elif ACCESS[method] & (roles | {"any member"}):
            assert "needs the role" not in said, (person, method, said)
        else:
            wanted = " or ".join(sorted(ACCESS[method]))
            assert f"{method} at" in said, (person, method, said)
            assert f"needs the role {wanted}, {person} has {' '.join(roles) or 'no role'} there" in said
    assert (
        found["mo", "List"] == found["ada", "List"] == found["stella", "Inbox"] == found["all", "Inbox"] == "answered"
    )


def test_modeller_sees_own_jobs_auditor_all_and_steward_decides(homes):
    async def listed(person):
        async with commanding(homes / person) as fabric:
            reply = await fabric.call("coordinator", "List", control_pb2.Empty(), control_pb2.JobList, timeout_s=5)
            return [job.job_id for job in reply.jobs]

    async def scenario():
        nodes = open_trial(homes)
        async with running(nodes), commanding(homes / "bank") as bank, commanding(homes / "mo") as mo:
            foreign = await submit(bank, JOB.replace("name: toy", "name: foreign"))
            own = await submit(mo)
            show = control_pb2.JobRef(job_id=foreign)
            with pytest.raises(RefusedError, match="a modeller for own jobs, an auditor for all"):
                await mo.call("coordinator", "Show", show, control_pb2.JobInfo, timeout_s=5)
            with pytest.raises(RefusedError, match="own jobs"):
                await mo.call("coordinator", "CancelJob", show, control_pb2.JobInfo, timeout_s=5)
            assert await listed("mo") == [own]
            assert set(await listed("ada")) == set(await listed("all")) == {foreign, own}
            change(homes / "stella", works_at="tax")
            await until(lambda: nodes["tax"].ledger.get(own))
            assert own in await asyncio.to_thread(veilscore, "job", "inbox", "--home", homes / "stella")
            text = await asyncio.to_thread(veilscore, "job", "approve", own, "--home", homes / "stella")
            assert "approved by stella" in text
            change(homes / "ada", works_at="tax")
            with pytest.raises(RefusedError, match="Decide at tax needs the role steward, ada has auditor there"):
                await asyncio.to_thread(veilscore, "job", "reject", own, "--home", homes / "ada")
            await watch(mo, own)
            reply = await mo.call(
                "coordinator", "Show", control_pb2.JobRef(job_id=own), control_pb2.JobInfo, timeout_s=5
            )
            assert reply.status == "done"

    asyncio.run(asyncio.wait_for(scenario(), 180))


def test_person_whose_key_was_revoked_is_out(homes):
    async def ask(person):
        async with commanding(homes / person) as fabric:
            await fabric.call("tax", "Inbox", control_pb2.Empty(), control_pb2.JobList, timeout_s=5, retry=False)

    async def scenario():
        nodes = open_trial(homes)
        async with running(nodes):
            await ask("stella")
            for voter in ("bank", "registry", "coordinator"):
                await asyncio.to_thread(veilscore, "keys", "revoke", homes / voter, "stella")
            await until(lambda: accepted_member(nodes["tax"].fabric.federation, stella) is None)
            with pytest.raises(Exception, match=r"closed the connection|revoked"):
                await ask("stella")

    stella = load_federation(homes / "tax" / "federation.yaml").member("stella").fingerprint
    asyncio.run(asyncio.wait_for(scenario(), 180))


def config(**keys):
    return parse(NodeConfig, {"name": "tax", "role": "holder"} | keys, "node.yaml")


def test_roles_in_node_yaml():
    node = config(operators=["anna"], people={"bert": ["steward", "auditor"]})
    assert roles_of(node, "anna") == set(PERSON_ROLES)
    assert roles_of(node, "bert") == {"steward", "auditor"}
    assert roles_of(node, "carl") == frozenset()
    with pytest.raises(ConfigError, match=r"people\.bert\.1"):
        config(people={"bert": ["king"]})


def test_old_node_yaml_still_loads(homes):
    change(homes / "tax", people={})
    assert load_node_config(homes / "tax").operators == ("all",)
