"""The holder's gate verifies a firm's consent before any record of the firm is touched for a score.

What was revoked is in `release/revocations.py`: lists that the holder's own people brought, or other holders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Mask
from veilscore.errors import IdentityError, MessageError, RefusedError
from veilscore.release.consent import Consent, Signed, commit, is_in, read_consent
from veilscore.release.ledger import ReleaseLedger
from veilscore.release.revocations import RevocationLists, Revoked, speaking
from veilscore.release.scope import Ask
from veilscore.terms.policy import NodePolicy

MAX_LISTS = 64


@dataclass(frozen=True)
class Token:
    """A token that was verified.

    spend : its (issuer, id), to be used up when the score is opened; None if it may serve again.
    id, expires_s : of the consent; "" where the policy wants none.
    firm, bank : whose it is, and who brought it.
    gate, data, asked : who verified it, as it came, and what for.
    """

    spend: tuple[str, str] | None = None
    id: str = ""
    expires_s: float = 0.0
    firm: str = field(default="", repr=False)
    bank: str = ""
    gate: ConsentGate | None = field(default=None, repr=False)
    data: bytes = field(default=b"", repr=False)
    asked: Ask | None = None


class ConsentGate:
    """Verifies tokens and lists by a holder's policy.

    home : the holder's.
    required : whether the policy wants consent at all.
    issuers : name -> public key (64 hexadecimal digits).
    banks : issuer -> banks for whose firms it speaks; one that is not named speaks for all.
    """

    def __init__(
        self, home: Path, *, required: bool, issuers: dict[str, str], banks: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._required, self._issuers, self._banks = required, issuers, banks or {}
        self._lists = RevocationLists(home, issuers)

    @classmethod
    def of(cls, home: Path, policy: NodePolicy, *, required: bool | None = None) -> Self:
        """Return the gate of a policy, which says whether consent is required where the caller does not."""
        required = policy.consent == "required" if required is None else required
        return cls(home, required=required, issuers=dict(policy.consent_issuers), banks=policy.issuer_banks)

    @property
    def required(self) -> bool:
        """Return whether the policy wants consent."""
        return self._required

    def check_token(self, data: bytes, firm: str, ask: Ask, ledger: ReleaseLedger, reference: str) -> Token:
        """Verify one firm's token.

        data : a `SignedConsent` message as it came from the bank.
        firm : the firm's normalised id.
        reference : of the request; a token for one request is refused for any other.
        Raises RefusedError where the token is missing, forged, expired, revoked, replayed, or of another firm, purpose,
            bank, task or model.
        """
        came = Token(firm=firm, bank=ask.bank, gate=self, data=data, asked=ask)
        if not self._required:
            return came
        if not data:
            raise RefusedError("the firm's consent is missing: send its token with the request")
        consent, revoked = self._verified(data, ask, "token", "the firm's consent")
        if not consent.covers_one(firm):
            raise RefusedError("the consent is another firm's")
        if revoked.firms([firm]).any():
            raise RefusedError("the firm's consent was revoked")
        found = replace(came, id=consent.id, expires_s=consent.scope.expires_s)
        if not consent.once:
            return found
        if ledger.token_used(consent.issuer, consent.id, reference):
            raise RefusedError("the consent token was used for another request; ask the firm for a new one")
        return replace(found, spend=(consent.issuer, consent.id))

    def now(self, token: Token, ledger: ReleaseLedger, reference: str) -> Token:
        """Return what a token comes to now that its record is to be opened; RefusedError as of `check_token`.

        What another gate let pass, by an earlier policy, is verified as if it came now.
        """
        if token.asked is not None and token.gate is not self:
            ask = replace(token.asked, now_s=ledger.now_s())
            return self.check_token(token.data, token.firm, ask, ledger, reference)
        self.check_again(token, ledger.now_s())
        return token

    def check_again(self, token: Token, now_s: float) -> None:
        """Refuse a token that was revoked or has expired since it was verified."""
        if not token.id:
            return
        revoked = self._revoked(token.bank)
        if now_s >= token.expires_s or revoked.ended(token.id) or revoked.firms([token.firm]).any():
            raise RefusedError("the firm's consent has expired or was revoked since its record was asked for")

    def check_lists(self, lists: Sequence[bytes], ask: Ask) -> tuple[Consent, ...]:
        """Verify the lists of a batch; `covered` says which firms they cover.

        Raises RefusedError where none was sent, or one is forged, expired, revoked or not for this batch.
        """
        if not self._required:
            return ()
        if not 0 < len(lists) <= MAX_LISTS:
            raise RefusedError(
                f"consent is required: a batch comes with 1 to {MAX_LISTS} consent lists, the bank has {len(lists)} "
                "for this purpose, task and model (`veilscore consent import`)"
            )
        return tuple(self._verified(data, ask, "list", "a consent list")[0] for data in lists)

    def revoked_of(self, list_id: str, salt: bytes, ids: NDArray[np.str_], bank: str) -> Mask:
        """Return for which firms (normalised ids) a bank's list was revoked, as a whole or singly, (n,)."""
        revoked = self._revoked(bank)
        if revoked.ended(list_id):
            return np.ones(len(ids), bool)
        found = revoked.firms(ids.tolist())
        single = [r.partition(":")[2] for r in revoked.consents if r.startswith(f"{list_id}:")]
        return found | _named(commit(salt, ids.tolist()), single) if single else found

    def _speaking(self, bank: str) -> frozenset[str]:
        return speaking(self._issuers, self._banks, bank)

    def _revoked(self, bank: str) -> Revoked:
        return self._lists.now().by(self._speaking(bank))

    def _verified(self, data: bytes, ask: Ask, kind: str, what: str) -> tuple[Consent, Revoked]:
        """Return a consent that holds for what is asked, and what is revoked now."""
        if not self._issuers:
            raise RefusedError("consent is required here and the policy lists no issuer (consent_issuers)")
        try:
            consent = read_consent(Signed.from_bytes(data, ask.bank), self._issuers)
        except (IdentityError, MessageError) as error:
            raise RefusedError(error.message, party=ask.bank) from error
        refusal, revoked = ask.refusal(consent.scope, what), self._revoked(ask.bank)
        if consent.issuer not in self._speaking(ask.bank):
            refusal = f"{what} is by {consent.issuer}, who does not speak for firms of {ask.bank} here (issuer_banks)"
        elif consent.kind != kind:
            refusal = f"{what} is a {consent.kind}, a {kind} is needed"
        elif not refusal and revoked.ended(consent.id):
            refusal = f"{what} was revoked"
        if refusal:
            raise RefusedError(refusal)
        return consent, revoked


def _named(rows: NDArray[np.uint8], single: Sequence[str]) -> Mask:
    """Return which rows (n, 32) are among commitments in hexadecimal; what is no commitment is left out."""
    good = sorted(s for s in single if len(s) == 64 and set(s) <= set("0123456789abcdef"))
    return is_in(rows, np.frombuffer(bytes.fromhex("".join(good)), np.uint8).reshape(-1, rows.shape[1]))
