"""Before a node parses a request, it checks its peer's certificate, dates, version, role and clock. No I/O.

Order, for each call: 1. certificate pinned (first, or as a successor), not replaced, not revoked, 2. dates,
3. protocol version, 4. role; and once for each connection a `Hello` both ways with version, name, role, clock and the
federation's name.
The first that is wrong raises IdentityError.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from veilscore.errors import IdentityError
from veilscore.keys.identity import Certificate, Identity
from veilscore.terms.federation import Federation, Member
from veilscore.v1 import control_pb2
from veilscore.wire.protocol import VERSION


@dataclass
class Handshake:
    """Checks the peers of one node.

    clock : seconds since the epoch.
    clock_skew_s : largest difference between two nodes' clocks, seconds.
    clocks : by how many seconds the others' were ahead when they greeted last.
    Raises IdentityError where the identity is not the one pinned in the federation, or not valid now.
    """

    identity: Identity
    federation: Federation
    clock_skew_s: float
    clock: Callable[[], float] = time.time
    version: str = VERSION
    clocks: dict[str, float] = field(default_factory=dict)
    _fingerprint_of_pem: dict[bytes, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.check_own(self.identity, self.federation)

    def check_own(self, identity: Identity, federation: Federation) -> None:
        """Refuse an identity that the federation does not pin for its name, or that is not valid now."""
        name = identity.name
        key = federation.history.find(identity.fingerprint)
        if federation.member(name) and (key is None or key.certificate.name != name):
            raise IdentityError(
                f"the federation file pins another certificate for {name} than this node has: put this "
                "node's certificate into the file of every member",
                party=name,
            )
        refusal = key.refusal(self.clock()) if key else None
        if refusal is not None:
            raise IdentityError(f"{refusal}; see docs/keys.md for how to go on", party=name)
        identity.certificate.check_valid(self.clock())

    def check_caller(self, pem: bytes, version: str, roles: Collection[str]) -> Member:
        """Return the member behind a TLS certificate, if it may make this call now."""
        key = self.federation.history.find(self.fingerprint(pem))
        if key is None:
            raise self._wrong(
                f"certificate {self.fingerprint(pem)[:16]}... is not pinned in the federation file of "
                f"{self.identity.name}"
            )
        refusal = key.refusal(self.clock())
        if refusal is not None:
            raise self._wrong(refusal)
        key.certificate.check_valid(self.clock())
        peer = self.federation.member(key.certificate.name)
        self._check_version(peer.name, version)
        self.check_role(peer, roles)
        return peer

    def check_role(self, peer: Member, roles: Collection[str]) -> None:
        """Refuse a call that is not for this member's role."""
        if peer.role not in roles:
            raise self._wrong(f"{peer.name} has role {peer.role}; this call is for {', '.join(sorted(roles))}")

    def check_callee(self, peer: Member) -> None:
        """Refuse to call while this node's or the peer's certificate is out of date."""
        self.identity.certificate.check_valid(self.clock())
        self.trusted(peer.name)
        self.federation.member(peer.name).identity.check_valid(self.clock())

    def trusted(self, name: str) -> tuple[Certificate, ...]:
        """Return the certificates that a member may show now; IdentityError if its keys are revoked."""
        accepted = self.federation.history.accepted(name, self.clock())
        if not accepted:
            refusal = self.federation.history.keys[name][-1].refusal(self.clock())
            raise IdentityError(f"{refusal}; no other is known here, see docs/keys.md", party=name)
        return accepted

    def hello(self) -> control_pb2.Hello:
        """Return the greeting of this node."""
        return control_pb2.Hello(
            version=self.version,
            party=self.identity.name,
            role=self.identity.role,
            clock_ms=self._clock_ms(),
            federation=self.federation.name,
        )

    def answer(self, hello: control_pb2.Hello, peer: Member) -> control_pb2.HelloReply:
        """Check a peer's greeting and return this node's."""
        self._check_greeting(hello, peer, self.clock())
        return control_pb2.HelloReply(
            version=self.version,
            party=self.identity.name,
            role=self.identity.role,
            clock_ms=self._clock_ms(),
            federation=self.federation.name,
        )

    def check_answer(self, reply: control_pb2.HelloReply, peer: Member, asked_s: float) -> None:
        """Check a peer's answer to the greeting sent when this node's clock said `asked_s`."""
        # the peer looked at its clock about half-way between question and answer
        self._check_greeting(reply, peer, (asked_s + self.clock()) / 2)

    def _check_greeting(self, greeting: control_pb2.Hello | control_pb2.HelloReply, peer: Member, now_s: float) -> None:
        self._check_version(peer.name, greeting.version)
        if (greeting.party, greeting.role) != (peer.name, peer.role):
            raise self._wrong(f"{peer.name} presents itself as another party or role")
        if greeting.federation != self.federation.name:
            # key statements are signed for a federation by name: under two names a revocation would not count
            raise self._wrong(
                f"{peer.name} calls its federation {greeting.federation[:60]!r}, {self.identity.name} "
                f"{self.federation.name!r}: put the same `name` into federation.yaml of every member"
            )
        ahead_s = self.clocks[peer.name] = greeting.clock_ms / 1000 - now_s
        if abs(ahead_s) > self.clock_skew_s:
            raise self._wrong(
                f"the clock of {peer.name} is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} "
                f"that of {self.identity.name}, more than the {self.clock_skew_s:g} s allowed: set both by a "
                "time server"
            )

    def fingerprint(self, pem: bytes) -> str:
        """Return the SHA-256 of a certificate as TLS gives it; IdentityError if it is none."""
        known = self._fingerprint_of_pem.get(pem)
        if known is None:
            try:
                known = x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex()
            except (ValueError, x509.InvalidVersion) as error:
                raise self._wrong("the connection has no readable certificate") from error
            self._fingerprint_of_pem[pem] = known  # TLS lets in pinned certificates only, so this stays small
        return known

    def _check_version(self, peer: str, version: str) -> None:
        if version != self.version:
            raise self._wrong(
                f"{peer} speaks {version[:40]!r}, {self.identity.name} speaks {self.version!r}: stop both nodes, "
                "install the same release of Veilscore on both machines, and start them"
            )

    def _clock_ms(self) -> int:
        return int(self.clock() * 1000)

    def _wrong(self, what: str) -> IdentityError:
        return IdentityError(what, party=self.identity.name)
