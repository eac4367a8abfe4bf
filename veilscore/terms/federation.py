"""The federation file says who takes part, where they listen, and which certificate each is pinned to.

Every member keeps its own copy and checks it by eye or by telephone against the others' fingerprints;
nothing in it is secret. All trust between nodes comes from this file: the certificates that members pin, the
signatures by which all nodes agreed to them (charter.py), and under them the signed statements by which keys are
replaced and revoked and nodes move (rotation.py), which nodes add while they run.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, field_validator, model_validator

from veilscore.errors import ConfigError, IdentityError, StateError, VeilscoreError
from veilscore.files.private import private_file, private_folder
from veilscore.files.store import write_text
from veilscore.keys.identity import Certificate, check_address, check_name, parse_certificate
from veilscore.keys.key_history import KeyHistory, PartyKeys
from veilscore.keys.rotation import KeyStatement
from veilscore.terms.settings import Strict, nearest, parse, parse_yaml, read_text

T = TypeVar("T")
Role = Literal["bank", "holder", "coordinator", "operator"]
Signature = Annotated[str, Field(pattern=r"^([0-9a-f]{2}){8,80}$")]
_CLOCK_SKEW_S = 300.0  # as nodes allow (WireLimits)
_MOST_BYTES = 1 << 26  # every member may add 100 statements (key_history.py), each with a certificate


class Member(Strict):
    """Names one member of a federation and pins its certificate."""

    name: str = Field(description="name of the node or person, as in the certificate")
    role: Role = Field(description="as in the certificate; operator: a person")
    address: str | None = Field(default=None, description="host:port where peers reach the node; an operator has none")
    fingerprint: str = Field(description="SHA-256 of the certificate, hexadecimal; colons and capitals are accepted")
    certificate: str = Field(description="the certificate that all pin, PEM")

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        return _as_value_error(check_name, name)

    @field_validator("address")
    @classmethod
    def _address(cls, address: str | None) -> str | None:
        return address if address is None else _as_value_error(check_address, address)

    @field_validator("fingerprint")
    @classmethod
    def _fingerprint(cls, fingerprint: str) -> str:
        digits = fingerprint.replace(":", "").lower()
        if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise ValueError("fingerprint must be 64 hexadecimal digits (SHA-256 of the certificate)")
        return digits

    @model_validator(mode="after")
    def _consistent(self) -> Member:
        certificate = self.identity
        if certificate.fingerprint != self.fingerprint:
            raise ValueError(
                f"fingerprint of member {self.name} is not that of its certificate "
                f"({certificate.fingerprint[:16]}...): ask {self.name} which is right"
            )
        if certificate.role != self.role:
            raise ValueError(f"member {self.name} is listed as {self.role}, its certificate says {certificate.role}")
        if self.address is None and self.role != "operator":
            raise ValueError(f"member {self.name} needs an address (host:port)")
        return self

    @cached_property
    def identity(self) -> Certificate:
        """Return the certificate, parsed."""
        return _as_value_error(parse_certificate, self.certificate.encode())


class Federation(Strict):
    """Lists the members, and the statements by which their keys changed."""

    name: str = Field(
        # it comes by mail, names files, and is shown beside words that people compare
        pattern=r"^\w[\w .-]{0,59}$",
        description="name of the federation: letters, digits, space, dot, - and _, at most 60",
    )
    members: tuple[Member, ...] = Field(description="one coordinator, at least one bank; certificates as first pinned")
    statements: tuple[KeyStatement, ...] = Field(
        default=(), description="signed statements that replace or revoke keys, or move a node; nodes write them"
    )
    signatures: dict[str, Signature] = Field(
        default_factory=dict, description="of all nodes, over its name and nodes; `veilscore join` collects them"
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> Federation:
        for what in ("name", "fingerprint", "certificate", "address"):
            first: dict[str, str] = {}
            for member in self.members:
                value = getattr(member, what)
                if value in first:
                    raise ValueError(_twice(what, first[value], member.name, value))
                if value is not None:
                    first[value] = member.name
        for member in self.members:
            if member.identity.name != member.name:
                raise ValueError(f"member {member.name} has a certificate made for {member.identity.name}")
        coordinators = [m.name for m in self.members if m.role == "coordinator"]
        if len(coordinators) != 1:
            found = ", ".join(coordinators) or "none"
            raise ValueError(f"a federation has exactly one coordinator; this one has {found}")
        if not any(m.role == "bank" for m in self.members):
            raise ValueError("a federation needs at least one bank")
        return self

    @cached_property
    def history(self) -> KeyHistory:
        """Return which keys are accepted, as follows from the pinned certificates and the statements."""
        return KeyHistory.of(self.name, [m.identity for m in self.members], self.statements)

    @cached_property
    def _newest(self) -> dict[str, Member]:
        return {m.name: _now(m, self.history) for m in self.members}

    def member(self, name: str) -> Member:
        """Return the member called `name`, with its newest certificate and address; IdentityError names the nearest."""
        if name in self._newest:
            return self._newest[name]
        raise IdentityError(
            f"no member {name!r} in federation {self.name}; {nearest(name, [m.name for m in self.members])}"
        )

    def keys_of(self, name: str, now_s: float | None = None) -> PartyKeys:
        """Return all keys of a member, also former ones, to check its signatures with."""
        return PartyKeys(self.member(name).name, self.history.keys[name], time.time() if now_s is None else now_s)

    def with_statements(self, statements: Iterable[KeyStatement]) -> Federation:
        """Return the same federation with those of these statements added at the end that have an effect."""
        every = {s.order: s for s in self.statements}  # known ones stay first: a backdated one displaces nothing
        for statement in sorted(statements, key=lambda s: s.order):
            every.setdefault(statement.order, statement)
        history = KeyHistory.of(self.name, [m.identity for m in self.members], every.values())
        applied = tuple(history.applied)
        return Federation(name=self.name, members=self.members, statements=applied, signatures=self.signatures)

    def with_people(self, people: Iterable[Member]) -> Federation:
        """Return the same federation with persons added, whom no node signs for; ConfigError where one is none."""
        added = tuple(people)
        if nodes := [m.name for m in added if m.role != "operator"]:
            raise ConfigError(f"{', '.join(nodes)} is a node, and nodes join by `veilscore join`, for all to sign")
        content = self.model_dump() | {"members": [m.model_dump() for m in (*self.members, *added)]}
        return parse(Federation, content, "federation")

    def next_date_ms(self) -> int:
        """Return the time now, but after every known statement, so that the order of dates is that of events."""
        return max([int(time.time() * 1000), *(s.date_ms + 1 for s in self.statements)])

    def with_role(self, role: Role) -> tuple[Member, ...]:
        """Return the members of one role, in the order of the file."""
        return tuple(m for m in self.members if m.role == role)

    @property
    def coordinator(self) -> Member:
        """Return the coordinator."""
        return self.with_role("coordinator")[0]


def _now(member: Member, history: KeyHistory) -> Member:
    certificate, address = history.newest(member.name), history.moved_to(member.name) or member.address
    if (certificate.fingerprint, address) == (member.fingerprint, member.address):
        return member
    return member_of(certificate, address)


def member_of(certificate: Certificate, address: str | None) -> Member:
    """Return the entry of the federation file for a node's certificate."""
    return parse(
        Member,
        {
            "name": certificate.name,
            "role": certificate.role,
            "address": address,
            "fingerprint": certificate.fingerprint,
            "certificate": certificate.pem.decode(),
        },
        "federation member",
    )


def make_federation(name: str, members: list[Member]) -> Federation:
    """Return a federation of these members, checked like a file."""
    return parse(Federation, {"name": name, "members": members}, "federation")


def load_federation(path: Path) -> Federation:
    """Read and check federation.yaml; ConfigError says what is missing or does not fit, and where."""
    source = f"federation file {path}"
    return parse(Federation, parse_yaml(read_text(path, "federation file"), source, _MOST_BYTES), source)


def save_federation(federation: Federation, path: Path) -> None:
    """Write federation.yaml, whole or not at all; StateError if it cannot be written."""
    content = federation.model_dump(mode="json", exclude_none=True)
    for name in ("statements", "signatures"):
        if not content[name]:
            del content[name]
    text = yaml.dump(content, Dumper=_BlockDumper, sort_keys=False)
    try:
        private_folder(path.parent)
    except OSError as error:
        raise StateError(f"federation file {path} cannot be written: {error.strerror}") from error
    write_text(path, text)


def add_statements(path: Path, statements: Iterable[KeyStatement]) -> Federation:
    """Put statements into a federation file and return it."""
    return change_federation(path, lambda before: before.with_statements(statements))


def timely(federation: Federation, now_s: float | None = None) -> Federation:
    """Return what a file of somebody else holds without statements of no effect, or dated ahead of all clocks."""
    latest_s = (time.time() if now_s is None else now_s) + _CLOCK_SKEW_S
    empty = Federation(name=federation.name, members=federation.members, signatures=federation.signatures)
    return empty.with_statements(s for s in federation.statements if s.date_s <= latest_s)


def change_federation(path: Path, change: Callable[[Federation], Federation]) -> Federation:
    """Change a federation file, which nodes and commands may do at the same time, and return what is in it then."""
    try:
        with open(private_file(path.with_name(f".{path.name}.lock")), "a", encoding="ascii") as lock:  # noqa: PTH123 - a descriptor
            # a file of its own is locked: the federation file is replaced, and a lock on it would go with it
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = load_federation(path)
            after = change(before)
            if after != before:
                save_federation(after, path)
            return after
    except OSError as error:
        raise StateError(f"federation file {path} cannot be locked: {error.strerror}") from error


class _BlockDumper(yaml.SafeDumper):
    """Writes certificates as block text, so that people can compare them by eye."""


def _represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_BlockDumper.add_representer(str, _represent_str)


def _twice(what: str, first: str, second: str, value: str) -> str:
    if what == "name":
        return f"two members are called {value}"
    if what == "address":
        return f"members {first} and {second} have one address, {value}"
    return f"two nodes with one identity: members {first} and {second} have the same {what}"


def _as_value_error(check: Callable[[Any], T], value: object) -> T:
    """Return what `check` makes of a value; its errors become ValueError, which alone pydantic collects."""
    try:
        return check(value)
    except VeilscoreError as error:
        raise ValueError(error.message) from error
