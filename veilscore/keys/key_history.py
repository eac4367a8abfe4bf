"""The pinned certificates and the statements say which keys of a member are accepted, and when.

Statements are applied in the order in which this node took them in, so that a backdated one displaces nothing. One
that does not follow (wrong signature, not the newest key, unknown member) has no effect and is kept in `ignored`. A
revoked key takes its successors with it, since a thief may have named them; the recovery key can name the one that
goes on, and where that is lost too, all other nodes together can.

Forks: of two successors that one key names, the one that came first counts. With a stolen key two nodes can come to
differ, which their digests show, and the recovery key or a majority decides. Votes count in whatever order they come,
by the date at which a majority had asked: one vote that is dated far ahead puts nothing off.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from veilscore.errors import IdentityError
from veilscore.keys.identity import Certificate, parse_certificate, utc_time
from veilscore.keys.rotation import KeyStatement

MAX_STATEMENTS_BY_KEY = 100  # and the keys that it named: a thief who makes them all leaves the next key its own


@dataclass(frozen=True)
class PinnedKey:
    """One key of a member, and when it was retired or revoked: seconds since the epoch, None for never.

    origin : fingerprint of the first key of its line: pinned, or named by a recovery key or all others. Each following
        key of a line was named by the one before, and falls with it.
    """

    certificate: Certificate
    retired_s: float | None = None
    revoked_s: float | None = None
    reason: str = ""
    origin: str = ""

    def refusal(self, at_s: float) -> str | None:
        """Return why the key is not accepted at a time; None if it is."""
        name, fingerprint = self.certificate.name, self.certificate.fingerprint[:16]
        if self.revoked_s is not None and at_s >= self.revoked_s:
            return f"key {fingerprint}... of {name} was revoked on {_date(self.revoked_s)} by {self.reason}"
        if self.retired_s is not None and at_s > self.retired_s:
            return f"key {fingerprint}... of {name} was replaced and is not accepted since {_date(self.retired_s)}"
        return None


@dataclass(frozen=True)
class PartyKeys:
    """Checks the signatures of one member with all of its keys."""

    name: str
    keys: tuple[PinnedKey, ...]
    now_s: float

    def verify(self, data: bytes, signature: bytes, purpose: str, signed_s: float | None = None) -> None:
        """Check a signature by any key that was accepted when it was made.

        signed_s : when it was made, as something trusted says, seconds since the epoch; None: now.
        Raises IdentityError where it is by none of these keys, or by one that was revoked or replaced at that time.
        """
        at_s = self.now_s if signed_s is None else signed_s
        for key in reversed(self.keys):
            try:
                key.certificate.verify(data, signature, purpose)
            except IdentityError:
                continue
            refusal = key.refusal(at_s)
            if refusal is not None:
                raise IdentityError(f"signature for {purpose!r} is dated {_date(at_s)}: {refusal}", party=self.name)
            return
        raise IdentityError(
            f"signature for {purpose!r} is not {self.name}'s, or what it signed was changed", party=self.name
        )


@dataclass
class KeyHistory:
    """Applies statements to the keys of all members of one federation.

    federation : its name.
    voters : names of the nodes (not people), whose majority can revoke.
    keys : member -> its keys, oldest first.
    """

    federation: str
    voters: tuple[str, ...]
    keys: dict[str, tuple[PinnedKey, ...]]
    applied: list[KeyStatement] = field(default_factory=list)
    ignored: list[tuple[KeyStatement, str]] = field(default_factory=list)
    _made: Counter[str] = field(default_factory=Counter)  # statements by the line of the key that signed
    _replaced: set[str] = field(default_factory=set)  # keys in whose place another was named, once and for all
    _votes: dict[str, dict[str, float]] = field(default_factory=dict)
    _named: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    _moves: dict[str, list[KeyStatement]] = field(default_factory=dict)

    @classmethod
    def of(cls, federation: str, pinned: Iterable[Certificate], statements: Iterable[KeyStatement]) -> KeyHistory:
        """Return the history of these members, by statements in the order in which they were taken in."""
        certificates = tuple(pinned)
        voters = tuple(c.name for c in certificates if c.role != "operator")
        history = cls(federation, voters, {c.name: (PinnedKey(c, origin=c.fingerprint),) for c in certificates})
        for statement in statements:
            try:
                history._apply(statement)
            except IdentityError as error:
                history.ignored.append((statement, error.message))
            else:
                history.applied.append(statement)
        return history

    def accepted(self, name: str, at_s: float) -> tuple[Certificate, ...]:
        """Return the certificates of a member that are accepted at a time, newest first."""
        return tuple(k.certificate for k in reversed(self.keys[name]) if k.refusal(at_s) is None)

    def newest(self, name: str) -> Certificate:
        """Return the newest certificate of a member that was not revoked; the last one if all were."""
        standing = [k for k in self.keys[name] if k.revoked_s is None]
        return (standing or self.keys[name])[-1].certificate

    def find(self, fingerprint: str) -> PinnedKey | None:
        """Return the key with this fingerprint, accepted or not."""
        return next((k for keys in self.keys.values() for k in keys if k.certificate.fingerprint == fingerprint), None)

    def revoked(self, at_s: float) -> frozenset[str]:
        """Return the fingerprints that are revoked at a time."""
        return frozenset(
            k.certificate.fingerprint
            for keys in self.keys.values()
            for k in keys
            if k.revoked_s is not None and at_s >= k.revoked_s
        )

    def missing_votes(self, member: str, fingerprint: str) -> int:
        """Return how many more nodes must vote against this key before it is revoked."""
        return max(self._quorum(member) - len(self._votes.get(fingerprint, {})), 0)

    def missing_names(self, member: str, fingerprint: str, new: str) -> list[str]:
        """Return the nodes that have not named this new key yet, in place of a lost one."""
        return [v for v in self.voters if v != member and v not in self._named.get((fingerprint, new), ())]

    def moved_to(self, name: str) -> str | None:
        """Return where a node said last that it is reached, by a key that was good then; None if it never moved."""
        for statement in sorted(self._moves.get(name, ()), key=lambda s: s.order, reverse=True):
            key = self.find(statement.signer)
            if key is not None and key.refusal(statement.date_s) is None:
                return statement.address
        return None

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the statements in force, by date; it is equal at nodes that know the same."""
        return hashlib.sha256(b"".join(digest for _, digest in sorted(s.order for s in self.applied))).hexdigest()

    def _quorum(self, member: str) -> int:
        others = [v for v in self.voters if v != member]
        return len(others) // 2 + 1

    def _apply(self, statement: KeyStatement) -> None:
        if statement.federation != self.federation or statement.member not in self.keys:
            raise IdentityError("key statement is about another federation or member")
        signer = self._signer(statement)
        if self._made[signer] >= MAX_STATEMENTS_BY_KEY:
            raise IdentityError(f"{statement.by} has made more than {MAX_STATEMENTS_BY_KEY} key statements")
        keys = self.keys[statement.member]
        places = [i for i, k in enumerate(keys) if k.certificate.fingerprint == statement.fingerprint]
        if not places:
            raise IdentityError(f"key statement is about a key that {statement.member} does not have")
        if (statement.kind == "move") != (statement.address is not None):
            raise IdentityError("a move names an address, and no other key statement does")
        if statement.kind == "rotate":
            self._rotate(statement, keys, places[0])
        elif statement.kind == "move":
            self._move(statement, keys[places[0]])
        elif statement.by == statement.member:
            self._recover(statement, keys, places[0])
        else:
            self._vote(statement, keys, places[0])
        self._made[signer] += 1

    def _signer(self, statement: KeyStatement) -> str:
        """Return what statements are counted by: the line of the key that signs this one, or its recovery key."""
        if statement.kind == "revoke" and statement.by == statement.member:
            return f"recovery of {statement.member}"
        key = self.find(statement.signer)
        return key.origin if key is not None else statement.signer

    def _rotate(self, statement: KeyStatement, keys: tuple[PinnedKey, ...], place: int) -> None:
        old = keys[place]
        if place != len(keys) - 1:
            raise IdentityError(f"{statement.member} has named another successor of this key already")
        if (statement.by, statement.signer) != (statement.member, statement.fingerprint):
            raise IdentityError("a successor is named by the key it follows")
        # a thief could date the statement before the revocation, so a revoked key names no successor at any date
        _check_standing(old, statement.date_s if old.revoked_s is None else old.revoked_s)
        statement.verify_member(old.certificate)
        new = self._successor(statement, old.certificate)
        retired = replace(old, retired_s=statement.ends_s)
        self.keys[statement.member] = (*keys[:place], retired, PinnedKey(new, origin=old.origin))

    def _move(self, statement: KeyStatement, key: PinnedKey) -> None:
        if statement.member not in self.voters or statement.certificate is not None:
            raise IdentityError("only a node has an address, and a move names no other key")
        if (statement.by, statement.signer) != (statement.member, statement.fingerprint):
            raise IdentityError("a node says itself where it is reached")
        _check_standing(key, statement.date_s)
        statement.verify_member(key.certificate)
        self._moves[statement.member] = [*self._moves.get(statement.member, ()), statement]

    def _recover(self, statement: KeyStatement, keys: tuple[PinnedKey, ...], place: int) -> None:
        # after a revocation by votes the recovery key may still name the key that goes on, unless all others have
        if statement.fingerprint in self._replaced:
            raise IdentityError("this key was revoked already")
        _check_date(statement, keys[place].certificate)
        statement.verify_recovery(keys[place].certificate.recovery)
        goes_on = self._replacement(statement, keys, place)
        self._revoke(statement.member, place, statement.date_s, "its recovery key")
        if goes_on is not None:
            self.keys[statement.member] = (*self.keys[statement.member], goes_on)

    def _replacement(self, statement: KeyStatement, keys: tuple[PinnedKey, ...], place: int) -> PinnedKey | None:
        """Return the key that goes on: a new one, or a successor of the revoked one, which is then spared."""
        new = None
        if statement.certificate is not None:
            new = _read_certificate(statement)
            spared = next((k for k in keys[place + 1 :] if k.certificate == new), None)
            if spared is None:
                new = self._successor(statement, keys[place].certificate)
            else:
                statement.verify_successor(new)
                self.keys[statement.member] = keys = tuple(k for k in keys if k is not spared)
        self._replaced.update(k.certificate.fingerprint for k in _line(keys, place))
        return None if new is None else PinnedKey(new, origin=new.fingerprint)

    def _vote(self, statement: KeyStatement, keys: tuple[PinnedKey, ...], place: int) -> None:
        if statement.by not in self.voters:
            raise IdentityError("only nodes of the federation can ask for another's key to be revoked")
        voter = next((k for k in self.keys[statement.by] if k.certificate.fingerprint == statement.signer), None)
        if voter is None:
            raise IdentityError(f"key statement is signed by a key that {statement.by} does not have")
        _check_standing(voter, statement.date_s)
        _check_date(statement, keys[place].certificate)
        votes = self._votes.get(statement.fingerprint, {})
        # of a key that has been replaced a vote is noted, so that nodes which heard of it earlier know the same
        names = statement.certificate is not None and statement.fingerprint not in self._replaced
        new = self._named_key(statement, keys[place]) if names else None
        if new is None and statement.by in votes:
            raise IdentityError("this node has asked for this key to be revoked already")
        statement.verify_member(voter.certificate)
        first_s = min(statement.date_s, votes.get(statement.by, statement.date_s))
        self._votes[statement.fingerprint] = votes = {**votes, statement.by: first_s}
        if len(votes) >= (quorum := self._quorum(statement.member)):
            self._revoke(statement.member, place, sorted(votes.values())[quorum - 1], ", ".join(sorted(votes)))
        if new is not None:
            self._name(statement, new, place)

    def _named_key(self, statement: KeyStatement, old: PinnedKey) -> Certificate:
        """Return the key that a vote names in place of a lost one, which may have another recovery key."""
        new = _read_certificate(statement)
        if (new.name, new.role) != (old.certificate.name, old.certificate.role):
            raise IdentityError(f"the new key of {statement.member} has another name or role than the old one")
        if self.find(new.fingerprint) is not None:
            raise IdentityError(f"{statement.member} has a new key already")
        if statement.by in self._named.get((statement.fingerprint, new.fingerprint), ()):
            raise IdentityError("this node has named this key already")
        return new

    def _name(self, statement: KeyStatement, new: Certificate, place: int) -> None:
        """Count who named the new key; it goes on once all other nodes did, since each must pin it itself."""
        member, by_key = statement.member, (statement.fingerprint, new.fingerprint)
        self._named[by_key] = {*self._named.get(by_key, ()), statement.by}
        if self.missing_names(member, *by_key):
            return
        keys = self.keys[member]
        self._replaced.update(k.certificate.fingerprint for k in keys[place:])
        over = tuple(_revoked(k, statement.date_s, "all other nodes") for k in keys[place:])
        self.keys[member] = (*keys[:place], *over, PinnedKey(new, origin=new.fingerprint))

    def _revoke(self, member: str, place: int, at_s: float, reason: str) -> None:
        keys = self.keys[member]
        fallen = _line(keys, place)
        self.keys[member] = tuple(_revoked(k, at_s, reason) if k in fallen else k for k in keys)

    def _successor(self, statement: KeyStatement, old: Certificate) -> Certificate:
        new = _read_certificate(statement)
        if (new.name, new.role, new.recovery) != (old.name, old.role, old.recovery):
            raise IdentityError(f"the new key of {old.name} has another name, role or recovery key than the old one")
        if self.find(new.fingerprint) is not None:
            raise IdentityError(f"the new key of {old.name} is in use already")
        statement.verify_successor(new)
        return new


def _line(keys: tuple[PinnedKey, ...], place: int) -> tuple[PinnedKey, ...]:
    """Return a key and those that fall with it: all that it named, and what these named."""
    return tuple(k for k in keys[place:] if k.origin == keys[place].origin)


def _revoked(key: PinnedKey, at_s: float, reason: str) -> PinnedKey:
    """Return the key revoked at a time, or before it if it was already."""
    if key.revoked_s is None:
        return replace(key, revoked_s=at_s, reason=reason)
    return replace(key, revoked_s=min(key.revoked_s, at_s))


def _read_certificate(statement: KeyStatement) -> Certificate:
    return parse_certificate((statement.certificate or "").encode())


def _check_standing(key: PinnedKey, at_s: float) -> None:
    refusal = key.refusal(at_s)
    if refusal is not None:
        raise IdentityError(refusal)
    key.certificate.check_valid(at_s)


def _check_date(statement: KeyStatement, revoked: Certificate) -> None:
    if statement.date_s < revoked.not_before.timestamp():  # nobody unsays what was signed before it had a key
        raise IdentityError(f"a revocation is dated before the key of {statement.member} was made")


def _date(at_s: float) -> str:
    return f"{utc_time(at_s):%Y-%m-%d %H:%M:%S} UTC"
