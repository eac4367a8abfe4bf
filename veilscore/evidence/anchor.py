"""Anchors: somebody outside the federation keeps a party's head, so that its log cannot be rewritten afterwards.

Two adapters of one interface: a second log kept by another operator under its own key, and time stamps.

Source   : RFC 9162 (the second log is a log like any other), RFC 3161 (time stamps; `rfc3161-client` checks them).
Parties  : a party or whoever has a copy of its log; the notary, or the time-stamping authority.
Reveals  : to the notary the head and a proof, to the authority a hash.
Assumes  : the notary's key, or the authority's root certificate, is known to who verifies.
Aborts   : ForkError at the notary for a head that does not continue the one it keeps.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from typing import Protocol as Interface

from cryptography.x509 import Certificate
from pydantic import Field

from veilscore.errors import ConfigError, EvidenceError, PeerError
from veilscore.evidence.documents import Document, Keys, Signer, Text, Time
from veilscore.evidence.heads import SignedHead, check_successor
from veilscore.evidence.log import Log
from veilscore.evidence.receipt import Logged
from veilscore.files.store import JobStore

_MOST_BYTES = 1 << 20
_TIMEOUT_S = 20.0


class AnchoredHead(Document):
    """The entry by which a second log keeps another's head."""

    kind: Literal["anchored"] = "anchored"
    head: SignedHead
    time_ms: Time


class AnchorReceipt(Document):
    """Proves that a head was known outside at a time: by `logged`, or else by `token` (RFC 3161, hexadecimal)."""

    kind: Literal["anchor_receipt"] = "anchor_receipt"
    anchor: Text
    head: SignedHead
    logged: Logged | None = None
    token: Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")] = ""


class Anchor(Interface):
    """Takes heads from parties and keeps them outside the federation."""

    def submit(self, head: SignedHead, path: Callable[[int], Sequence[str]]) -> AnchorReceipt:
        """Anchor a head; `path` gives the consistency proof (hexadecimal) from an earlier size to it."""


class SecondLog:
    """A notary, which keeps the heads of others in a log of its own.

    folder : the notary's; holds its log and the last head of each party.
    signer, keys : its identity, and the public keys of the notary and of the parties.
    """

    def __init__(self, folder: Path, signer: Signer, keys: Keys) -> None:
        self._log = Log(folder, lambda: signer, keys)
        self._heads = JobStore(folder / "heads")
        self._keys = keys

    def close(self) -> None:
        """Let go of the log."""
        self._log.close()

    def seen(self, party: str) -> SignedHead | None:
        """Return the last head of a party, if it has one."""
        return SignedHead.kept(self._heads, party) if self._heads.has(party) else None

    def submit(self, head: SignedHead, path: Callable[[int], Sequence[str]]) -> AnchorReceipt:
        """Log a head, which must continue the last one of its party."""
        before = self.seen(head.party)
        check_successor(before, head, () if before is None else path(before.size), self._keys)
        entry = AnchoredHead(head=head, time_ms=self._log.now_ms())
        # logged first: a crash may leave an entry too many, never a head that no entry shows
        index = self._log.append([entry.model_dump(mode="json")])[0]
        self._heads.save_json(head.party, head.model_dump(mode="json"))
        logged = Logged.of(self._log, index)
        return AnchorReceipt(anchor=f"second log of {logged.head.party}", head=head, logged=logged)


class TimeStamps:
    """Has heads stamped by a time-stamping authority.

    url : where it takes requests (HTTP POST, RFC 3161 section 3.4).
    roots : certificates under which its own must lie.
    """

    def __init__(self, url: str, roots: Sequence[Certificate]) -> None:
        if not url.startswith(("https://", "http://")):
            raise ConfigError("the address of a time-stamping authority begins with https:// or http://")
        self._url, self._roots = url, tuple(roots)

    def submit(self, head: SignedHead, path: Callable[[int], Sequence[str]]) -> AnchorReceipt:  # noqa: ARG002 - of the interface
        """Have the head stamped; the answer is verified before it is returned."""
        library = _library()
        builder = library.TimestampRequestBuilder().data(head.to_bytes()).nonce(nonce=True)
        request = builder.hash_algorithm(library.HashAlgorithm.SHA256).build()
        token = _post(self._url, request.as_bytes())
        stamped = _verify_token(token, head, self._roots)
        if stamped.tst_info.nonce != request.nonce:
            raise EvidenceError("the time-stamping authority answered another request")
        return AnchorReceipt(anchor=f"time stamp of {self._url[:150]}", head=head, token=token.hex())


def _post(url: str, body: bytes) -> bytes:
    headers = {"Content-Type": "application/timestamp-query"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310 - scheme is checked
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:  # noqa: S310 - scheme is checked
            data: bytes = reply.read(_MOST_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        raise PeerError(
            f"time-stamping authority {url} cannot be reached ({type(error).__name__}): try again"
        ) from error
    if len(data) > _MOST_BYTES:
        raise EvidenceError("the time-stamping authority's answer is too long")
    return data


def _library() -> Any:
    try:
        import rfc3161_client  # noqa: PLC0415 - an extra of the installation
    except ImportError as error:
        raise ConfigError("time stamps need an extra: pip install 'veilscore[timestamp]'") from error
    return rfc3161_client


def _verify_token(token: bytes, head: SignedHead, roots: Sequence[Certificate]) -> Any:
    if not roots:
        raise ConfigError("a time stamp is verified against its authority's root certificate: give it")
    library = _library()
    try:
        response = library.decode_timestamp_response(token)
        builder = library.VerifierBuilder()
        for root in roots:
            builder = builder.add_root_certificate(root)
        builder.build().verify(response, hashlib.sha256(head.to_bytes()).digest())
    except (ValueError, library.VerificationError) as error:
        raise EvidenceError(
            "the time stamp does not hold: changed, for another head, or of another authority"
        ) from error
    return response


def check_anchor(receipt: AnchorReceipt, keys: Keys, roots: Sequence[Certificate] = ()) -> list[str]:
    """Verify an anchor's receipt offline and return what it proves.

    Raises EvidenceError where it proves nothing, ConfigError where a time stamp comes without root certificates.
    """
    head = receipt.head
    head.verify(keys)
    what = f"the log of {head.party} with {head.size} entries (root {head.root[:16]}...)"
    if (receipt.logged is None) == (not receipt.token):
        raise EvidenceError("an anchor's receipt holds a log entry or a time stamp, and one of them only")
    if receipt.logged is None:
        stamped = _verify_token(bytes.fromhex(receipt.token), head, roots)
        return [f"A time-stamping authority saw {what} at {stamped.tst_info.gen_time:%Y-%m-%d %H:%M:%S} UTC."]
    receipt.logged.verify(keys)
    entry = AnchoredHead.parse(receipt.logged.entry.encode())
    if entry.head != head or receipt.logged.head.party == head.party:
        raise EvidenceError("the second log holds another head, or is the party's own")
    return [f"{receipt.logged.head.party} keeps {what} in its own log, entry {receipt.logged.index}."]
