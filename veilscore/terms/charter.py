"""What all nodes of a federation sign: its name and its nodes, each with role, address and certificate as first pinned.

A charter grows and changes in no other way: a node that joins later gives a new one, which all sign again. Keys and
addresses change by statements (rotation.py), people are each member's own matter; neither is in it.
Protects: no member can show two others two federations, once each has compared the others' fingerprints by voice.
Signed by: every node, with its key in use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from veilscore.errors import ConfigError, IdentityError
from veilscore.keys.identity import Identity
from veilscore.terms.federation import Federation, Member

PURPOSE = "federation charter"


def nodes_of(federation: Federation) -> tuple[Member, ...]:
    """Return the members that are nodes, as first pinned."""
    return tuple(m for m in federation.members if m.role != "operator")


def charter(federation: Federation) -> bytes:
    """Return what nodes sign, as canonical JSON; the order of members does not count."""
    nodes = sorted([m.name, m.role, m.address, m.fingerprint] for m in nodes_of(federation))
    return json.dumps([federation.name, nodes], separators=(",", ":"), ensure_ascii=True).encode()


def signed(federation: Federation, identity: Identity) -> Federation:
    """Return the federation with this node's signature too."""
    signature = identity.sign(charter(federation), PURPOSE).hex()
    return _with(federation, {**federation.signatures, identity.name: signature})


def merged(copies: Iterable[Federation]) -> Federation:
    """Return one federation with the signatures of all copies; ConfigError where they are not of one charter."""
    first, *others = copies
    for other in others:
        if charter(other) != charter(first):
            raise ConfigError("these are copies of two different federation files: sign one and the same")
        first = _with(first.with_statements(other.statements), {**other.signatures, **first.signatures})
    return first


def unsigned(federation: Federation) -> list[str]:
    """Return the nodes whose signature is missing."""
    return [m.name for m in nodes_of(federation) if m.name not in federation.signatures]


def check_signatures(federation: Federation, *, now: bool = False) -> None:
    """Refuse a wrong signature, and one by a stranger.

    now : by a key that is accepted now, for a file that is taken; else by any key that the node ever had.
    """
    nodes = {m.name for m in nodes_of(federation)}
    for name, signature in federation.signatures.items():
        if name not in nodes:
            raise IdentityError(f"the federation file is signed by {name[:63]!r}, which is no node in it")
        keys = federation.keys_of(name)
        try:
            keys.verify(charter(federation), bytes.fromhex(signature), PURPOSE, signed_s=None if now else 0.0)
        except IdentityError as error:
            raise IdentityError(
                f"federation {federation.name}: {name} did not sign these nodes ({error.message}): take the file again "
                "as it came (`veilscore join take`)",
                party=name,
            ) from error


def check_whole(federation: Federation) -> None:
    """Refuse a file that not all its nodes have signed, or that was changed since."""
    check_signatures(federation)
    if missing := unsigned(federation):
        raise IdentityError(
            f"federation {federation.name} is not signed by {', '.join(missing)}, so not all vouch for its nodes: take "
            "the file with the signatures of all (`veilscore join take`); where there is none, each signs it "
            "(`veilscore join sign`)"
        )


def grown(before: Federation, after: Federation) -> tuple[Member, ...]:
    """Return the nodes that are new; ConfigError where anything else is different."""
    old, new = {m.name: m for m in nodes_of(before)}, {m.name: m for m in nodes_of(after)}
    if before.name != after.name:
        raise ConfigError(f"this home is in federation {before.name}, the file is of {after.name}")
    for name, member in old.items():
        if name not in new:
            raise ConfigError(f"{name} is missing in the file: nodes are not taken out; revoke a key that is to go")
        if new[name] != member:
            raise ConfigError(
                f"{name} has another key or address in the file than in this home's: keys change by `veilscore keys`, "
                "addresses by `veilscore join move`, and a file goes on from the newest that all have signed"
            )
    return tuple(member for name, member in new.items() if name not in old)


def without_people(federation: Federation) -> Federation:
    """Return the federation of the nodes alone: nobody signed for a person, whom each member adds itself."""
    return Federation(
        name=federation.name,
        members=nodes_of(federation),
        statements=federation.statements,
        signatures=federation.signatures,
    )


def _with(federation: Federation, signatures: dict[str, str]) -> Federation:
    return Federation(
        name=federation.name, members=federation.members, statements=federation.statements, signatures=signatures
    )


def joined(before: Federation, after: Federation) -> Federation:
    """Return a newer charter with the people and the statements that a home has; the file's own people are left out."""
    grown(before, after)
    people = tuple(m for m in before.members if m.role == "operator")
    base = Federation(
        name=after.name,
        members=(*nodes_of(after), *people),
        statements=before.statements,
        signatures=after.signatures,
    )
    return base.with_statements(after.statements)
