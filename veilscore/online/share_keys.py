"""Agrees on keys with the other holders of an online score, directly: neither bank nor coordinator has one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilscore.crypto.zero_share import PairwiseKey, pairwise_key
from veilscore.terms.federation import Member
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Protocol, call

_LABEL = "veilscore/1 online zero-share"


@dataclass(frozen=True)
class _PeerKey:
    """Key with another holder, and the id of that holder's half of it."""

    half_id: bytes
    key: PairwiseKey = field(repr=False)


class ShareKeys:
    """Keeps what one start of a holder has: its half key, made anew each time, and what it agreed on with others.

    id : SHA-256 of its public half. All holders of a request learn all ids from the bank, so a holder that was
        restarted on the way is noticed before anything is opened: shares of zero under keys that differ would not
        add up to zero.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._private = X25519PrivateKey.generate()
        self._public = self._private.public_key().public_bytes_raw()
        self.id = hashlib.sha256(self._public).digest()
        self._agreed: dict[str, _PeerKey] = {}

    async def answer(self, request: pb.ShareKey, peer: Member) -> pb.ShareKey:
        """Agree with another holder, which has called with its half."""
        self._agree(peer.name, request.public_key)
        return pb.ShareKey(public_key=self._public)

    def _agree(self, peer: str, public_key: bytes) -> _PeerKey:
        first, second = sorted((self._name, peer))
        key = pairwise_key(self._private, public_key, f"{_LABEL} {first} {second}".encode())
        agreed = self._agreed[peer] = _PeerKey(hashlib.sha256(public_key).digest(), key)
        return agreed

    def with_peers(self, parties: Sequence[str], ids: Mapping[str, bytes]) -> Protocol[dict[str, PairwiseKey] | None]:
        """Agree on a key with each other party under these ids; None if one of them, or this one, has others by now."""
        if ids.get(self._name) != self.id:
            return None
        keys = {}
        for peer in (p for p in parties if p != self._name):
            agreed = self._agreed.get(peer)
            if agreed is None or agreed.half_id != ids.get(peer):
                theirs = yield from call(peer, pb.ShareKey(public_key=self._public), pb.ShareKey)
                agreed = self._agree(peer, theirs.public_key)
            if agreed.half_id != ids.get(peer):
                return None
            keys[peer] = agreed.key
        return keys
