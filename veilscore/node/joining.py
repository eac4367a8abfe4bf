"""Founds a federation of homes that lie on different machines, and lets nodes join one later.

Each organisation makes its home where it will run (founding.py) and sends a request, which holds no secret. One of
them, by custom the coordinator's operator, puts the requests into one file of nodes; each node signs it at home, after
its operator compared the others' fingerprints by voice; the file with the signatures of all is taken into each home.
Protects: a request is signed by the key it brings; a home takes a file only with its own signature, and all others'.
Does not protect: who confirms a comparison that was not made.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from veilscore.errors import ConfigError, IdentityError
from veilscore.files.store import write_text
from veilscore.keys.identity import Identity, check_address, current_folder, load_identity, parse_certificate
from veilscore.terms.charter import check_signatures, grown, joined, merged, nodes_of, signed, unsigned, without_people
from veilscore.terms.federation import (
    Federation,
    Member,
    Signature,
    change_federation,
    load_federation,
    make_federation,
    member_of,
    save_federation,
    timely,
)
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.settings import Strict, load

_PURPOSE = "join request"
_HEADER = "# Request to join a federation: nothing in it is secret. `veilscore join propose` reads it.\n"


class JoinRequest(Strict):
    """Holds what a node sends to join: where it is reached, its certificate, and its signature of both."""

    address: str
    certificate: str
    signature: Signature


def own_identity(home: Path, config: NodeConfig) -> Identity:
    """Return the identity of a home that may have no federation yet."""
    source = config.key.open(home)
    return load_identity(config.identity, passphrase=lambda: source.secret(current_folder(config.identity)))


def request_file(home: Path, name: str) -> Path:
    """Return where a home keeps the request that it sends."""
    return home / f"{name}.request.yaml"


def write_request(home: Path, identity: Identity, address: str) -> Path:
    """Write the request of a home's node and return where it is."""
    pem = identity.certificate.pem.decode()
    signature = identity.sign(_signed_bytes(check_address(address), identity.fingerprint), _PURPOSE).hex()
    text = yaml.safe_dump({"address": address, "certificate": pem, "signature": signature}, sort_keys=False)
    path = request_file(home, identity.name)
    write_text(path, _HEADER + text)
    return path


def read_request(path: Path) -> Member:
    """Return the node that asks to join; IdentityError where the key of its certificate did not sign the request."""
    request = load(JoinRequest, path, "request to join")
    member = member_of(parse_certificate(request.certificate.encode()), request.address)
    if member.role == "operator":
        raise ConfigError(f"{path} is of a person: people are added by each member itself, `veilscore federation add`")
    data = _signed_bytes(request.address, member.fingerprint)
    member.identity.verify(data, bytes.fromhex(request.signature), _PURPOSE)
    return member


def _signed_bytes(address: str, fingerprint: str) -> bytes:
    return f"{fingerprint}\n{address}".encode()


def propose(home: Path, config: NodeConfig, requests: list[Path], name: str | None) -> tuple[Federation, list[Member]]:
    """Return the nodes of this home's federation and of the requests, signed by this one, and who is new to it.

    name : of a new federation; None: of the one that the home is in.
    """
    identity, new = own_identity(home, config), [read_request(path) for path in requests]
    if config.federation.exists():
        before = load_federation(config.federation)
        if name not in {None, before.name}:
            raise ConfigError(f"this home is in federation {before.name} already; leave out --federation")
        base = make_federation(before.name, [*nodes_of(before), *new]).with_statements(before.statements)
    elif name is None:
        raise ConfigError("a new federation needs a name, the same at all its members: give --federation NAME")
    else:
        own = read_request(request_file(home, config.name))
        base = make_federation(name, [own, *(m for m in new if m != own)])
    return signed(base, identity), [m for m in new if m.name != config.name]


def new_nodes(home: Path, config: NodeConfig, proposal: Federation) -> list[Member]:
    """Return the nodes of a proposal whose fingerprints this home's operator has to compare before signing.

    Raises where it is no proposal for this home: another own entry, or other changes than new nodes.
    """
    identity, kept = own_identity(home, config), config.federation
    before = load_federation(kept) if kept.exists() else None
    # by what this home knows: a file may come without the statement that a key was revoked
    known = proposal if before is None else joined(before, proposal)
    check_signatures(known, now=True)
    pinned = known.history.find(identity.fingerprint)
    if pinned is None or pinned.certificate.name != config.name:
        raise IdentityError(f"the file does not have the certificate of this home's node, {config.name}: send the "
                            "request again", party=config.name)  # fmt: skip
    if before is not None:
        return list(grown(before, proposal))
    if (own := read_request(request_file(home, config.name))) not in proposal.members:
        raise ConfigError(f"the file has another address for {own.name} than its request, {own.address}")
    return [m for m in nodes_of(proposal) if m.name != config.name]


def sign(home: Path, config: NodeConfig, proposal: Federation) -> Federation:
    """Return the proposal with this node's signature; `new_nodes` must have been compared.

    Raises ConfigError where it signed another one that this does not go on from: whoever has two such files could show
    one to some nodes and the other to others.
    """
    new_nodes(home, config, proposal)
    if (path := signed_file(home, config, proposal)).exists():
        try:
            grown(load_federation(path), proposal)
        except ConfigError as error:
            raise ConfigError(
                f"this node has signed another file of {proposal.name}, {path} ({error.message}): if all have given "
                "that one up, remove it and sign again; else ask who sent you two"
            ) from error
    return signed(proposal, own_identity(home, config))


def signed_file(home: Path, config: NodeConfig, proposal: Federation) -> Path:
    """Return where a home keeps the file of nodes that it signed."""
    return home / f"{proposal.name}.signed-by-{config.name}.yaml"


def take(home: Path, config: NodeConfig, copies: list[Federation]) -> Federation:
    """Put a federation that all its nodes have signed into the home, this one among them, and return it.

    copies : of one proposal, each with some of the signatures.
    """
    federation = timely(merged(copies))
    new_nodes(home, config, federation)
    if missing := unsigned(federation):
        raise ConfigError(f"not signed yet by {', '.join(missing)}: take it again with their copies")
    if config.federation.exists():
        return change_federation(config.federation, lambda before: joined(before, federation))
    alone = without_people(federation)
    save_federation(alone, config.federation)
    return alone
