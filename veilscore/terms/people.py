"""What people may do at a node stands in one table of roles and calls.

A person is a member of the federation with role operator, so has a pinned certificate like a node; node.yaml of each
node says which roles that person has there (`people`), and an entry under `operators` has all. A node's own key may
do what the node may. Every call is looked up in the table before its request is parsed; a call that is missing in it
is refused to everybody but nodes, and a test fails.
"""

from __future__ import annotations

from collections.abc import Callable

from veilscore.errors import RefusedError
from veilscore.terms.federation import Member
from veilscore.terms.node_config import NodeConfig, PersonRole

MODELLER: PersonRole = "modeller"  # submits jobs, scores, reads the results of own jobs
STEWARD: PersonRole = "steward"  # approves and rejects, keeps policies, consent and the ledger
AUDITOR: PersonRole = "auditor"  # reads logs, receipts and all jobs, changes nothing
OPERATOR: PersonRole = "operator"  # starts and stops nodes, keeps keys
ACCOUNT_MANAGER: PersonRole = "account_manager"  # bank: works campaigns, applications and renewals, in the console
PERSON_ROLES: tuple[PersonRole, ...] = (MODELLER, STEWARD, AUDITOR, OPERATOR, ACCOUNT_MANAGER)

_ANY_MEMBER = frozenset({"any member"})  # gives nothing away and changes nothing that is not signed itself
_NODES_ONLY: frozenset[str] = frozenset()

ACCESS: dict[str, frozenset[str]] = {
    "Hello": _ANY_MEMBER,
    "Ping": _ANY_MEMBER,
    "KeyStatements": _ANY_MEMBER,
    # a party's own decisions
    "Inbox": frozenset({STEWARD, AUDITOR}),
    "Decide": frozenset({STEWARD}),
    # heads of logs, which hold no more than a size and a hash
    "HeadSeen": frozenset({AUDITOR}),
    # jobs at the coordinator; a modeller sees own ones only
    "Submit": frozenset({MODELLER}),
    "List": frozenset({MODELLER, AUDITOR}),
    "Show": frozenset({MODELLER, AUDITOR}),
    "WatchJob": frozenset({MODELLER, AUDITOR}),
    "CancelJob": frozenset({MODELLER}),
    "Resume": frozenset({MODELLER}),
    # code for the sandbox and its outputs: signed by whoever sends it, and held against the owner's own rules
    "SubmitCode": _ANY_MEMBER,
    "AskOutputs": _ANY_MEMBER,
    # online scoring at the bank
    "Score": frozenset({MODELLER}),
    # between nodes, and a node's own console
    "Console": _NODES_ONLY,
    "Propose": _NODES_ONLY,
    "Cancel": _NODES_ONLY,
    "RunStep": _NODES_ONLY,
    "Evidence": _NODES_ONLY,
    "EndJob": _NODES_ONLY,
    "JobEnded": _NODES_ONLY,
    "Revocations": _NODES_ONLY,
    "Withdrawn": _NODES_ONLY,
    "WriteSection": _NODES_ONLY,
    "EncryptRecord": _NODES_ONLY,
    "AskKeys": _NODES_ONLY,
    "PrepareSpare": _NODES_ONLY,
    "FinishSpare": _NODES_ONLY,
    "OpenPartial": _NODES_ONLY,
    "ShareKey": _NODES_ONLY,
    "AddPartial": _NODES_ONLY,
    "BandPartial": _NODES_ONLY,
    "MakePool": _NODES_ONLY,
    "ExtendPool": _NODES_ONLY,
    "TotalRequest": _NODES_ONLY,
}


def roles_of(node: NodeConfig, name: str) -> frozenset[str]:
    """Return the roles of a person at the node of this configuration; a stranger has none."""
    if name in node.operators:
        return frozenset(PERSON_ROLES)
    return frozenset(node.people.get(name, ()))


def is_own(node: NodeConfig, peer: Member) -> bool:
    """Return whether the caller is the node itself, or a person with any role here."""
    return peer.name == node.name or (peer.role == "operator" and bool(roles_of(node, peer.name)))


def sees_job(node: NodeConfig, peer: Member, bank: str, submitted_by: str) -> bool:
    """Return whether the caller may see a job at this coordinator: itself, its bank, its submitter, or an auditor."""
    if peer.role != "operator":
        return peer.name in {bank, node.name}
    roles = roles_of(node, peer.name)
    return AUDITOR in roles or (MODELLER in roles and peer.name == submitted_by)


def check_person(node: NodeConfig, method: str, peer: Member) -> None:
    """Refuse a call for which a person has no role; RefusedError names the role needed and where to give it."""
    needed = ACCESS.get(method, _NODES_ONLY)
    if peer.role != "operator" or needed is _ANY_MEMBER:
        return
    roles = roles_of(node, peer.name)
    if roles & needed:
        return
    if not needed:
        raise RefusedError(f"{method} is for nodes; {peer.name} is a person", party=node.name)
    has = ", ".join(sorted(roles)) or "no role"
    raise RefusedError(
        f"{method} at {node.name} needs the role {' or '.join(sorted(needed))}, {peer.name} has {has} there: use "
        f"{node.name}'s own identity, or name the person with that role under `people` in its node.yaml",
        party=node.name,
    )


def authoriser(node: NodeConfig) -> Callable[[str, Member], None]:
    """Return `check_person` for one node, in the form that the fabric calls."""
    return lambda method, peer: check_person(node, method, peer)
