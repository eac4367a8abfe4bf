"""Passkeys: the only file that imports webauthn (py_webauthn).

Source  : W3C Web Authentication, level 2.
Protects: who enters holds the authenticator and proved to it who they are (user verification is required); a passkey
          answers this origin alone, so no other site can use it; a challenge is used once, within minutes, by the
          browser that got it.
Does not: know which make of authenticator it is: no attestation is asked for.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from webauthn import (
    base64url_to_bytes,
    generate_authentication_options,
    generate_registration_options,
    options_to_json,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.helpers import decode_credential_public_key, decoded_public_key_to_cryptography
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from veilscore.console.one_time import OneTimeSecrets
from veilscore.console.store import ConsoleStore, Passkey
from veilscore.errors import ConfigError, IdentityError, RefusedError
from veilscore.keys.identity import Identity
from veilscore.keys.passkey_word import PasskeyWord, check_vouch, vouch_for
from veilscore.terms.federation import Federation

_CHALLENGE_S = 300.0
_NOBODY = "this passkey opens nothing here: take the one that you made for this console"
_UNREADABLE = (WebAuthnException, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class _Challenge:
    challenge: bytes
    token: str


class Passkeys:
    """Makes and checks passkeys for one origin.

    rp_id : host name that they are bound to; origin : of the console's pages; node : whose console it is.
    """

    def __init__(
        self, store: ConsoleStore, rp_id: str, origin: str, node: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._rp_id, self._origin, self._node = store, rp_id, origin, node
        self._challenges: OneTimeSecrets[_Challenge] = OneTimeSecrets(_CHALLENGE_S, clock)

    def to_register(self, token: str) -> tuple[str, dict[str, Any]]:
        """Return a key for the browser's cookie, and what it makes a passkey of; IdentityError for a used-up link."""
        person = self._store.invited(token)
        if person is None:
            raise IdentityError("this link was used or is over: ask for a new one (`veilscore console invite`)")
        options = generate_registration_options(
            rp_id=self._rp_id,
            rp_name=f"Veilscore, {self._node}",
            user_id=hashlib.sha256(f"veilscore console\0{self._node}\0{person}".encode()).digest(),
            user_name=person,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
            ),
            exclude_credentials=[
                PublicKeyCredentialDescriptor(id=one.credential) for one in self._store.passkeys(person)
            ],
        )
        return self._challenges.keep(_Challenge(options.challenge, token)), json.loads(options_to_json(options))

    def registered(self, cookie: str, token: str, credential: Any) -> tuple[str, bytes]:
        """Keep a new passkey and use the link up; returns whose it is, and its id. IdentityError or RefusedError."""
        expected = self._challenges.take(cookie)
        if expected.token != token or not token:
            raise IdentityError("this passkey was made for another link: open the link again")
        try:
            made = verify_registration_response(
                credential=credential,
                expected_challenge=expected.challenge,
                expected_rp_id=self._rp_id,
                expected_origin=self._origin,
                require_user_verification=True,
            )
        except _UNREADABLE as error:
            raise IdentityError("the passkey cannot be used: make it anew, or take another device") from error
        key = made.credential_id, made.credential_public_key, made.sign_count
        return self._store.keep_passkey(token, *key), made.credential_id

    def to_enter(self) -> tuple[str, dict[str, Any]]:
        """Return a key for the browser's cookie, and what it has a passkey sign."""
        options = generate_authentication_options(
            rp_id=self._rp_id, user_verification=UserVerificationRequirement.REQUIRED
        )
        return self._challenges.keep(_Challenge(options.challenge, "")), json.loads(options_to_json(options))

    def entered(self, cookie: str, credential: Any) -> tuple[str, bytes]:
        """Return who signed, and the passkey's id; IdentityError says no more than that it was nobody."""
        expected = self._challenges.take(cookie)
        if expected.token:
            raise IdentityError(_NOBODY)
        passkey = self._verified(credential, expected.challenge)[0]
        return passkey.person, passkey.credential

    def to_sign(self, person: str, challenge: bytes) -> dict[str, Any]:
        """Return what has a passkey of the person sign a word; RefusedError where none was vouched for."""
        able = [one for one in self._store.passkeys(person) if self._store.vouched(one.credential)]
        if not able:
            raise RefusedError(
                f"no passkey of {person} may sign yet: {person} vouches for one with the own key, once, by `veilscore "
                "console vouch`, or signs on the command line"
            )
        options = generate_authentication_options(
            rp_id=self._rp_id,
            challenge=challenge,
            allow_credentials=[PublicKeyCredentialDescriptor(id=one.credential) for one in able],
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        return dict(json.loads(options_to_json(options)))

    def word(self, person: str, challenge: bytes, credential: Any) -> tuple[PasskeyWord, bytes]:
        """Return the word that a passkey of the person signed, and the certificate (PEM) that vouches for it."""
        passkey, response = self._verified(credential, challenge)
        vouched = self._store.vouched(passkey.credential)
        if passkey.person != person or vouched is None:
            raise IdentityError(f"this is no passkey that {person} has vouched for")
        certificate, vouch = vouched
        parts = (base64url_to_bytes(response[name]) for name in ("authenticatorData", "clientDataJSON", "signature"))
        return PasskeyWord(_der(passkey), vouch, *parts), certificate

    def _verified(self, credential: Any, challenge: bytes) -> tuple[Passkey, Mapping[str, str]]:
        try:
            passkey = self._store.passkey(base64url_to_bytes(credential["rawId"]))
            if passkey is None:
                raise IdentityError(_NOBODY)
            found = verify_authentication_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=self._rp_id,
                expected_origin=self._origin,
                credential_public_key=passkey.public_key,
                credential_current_sign_count=passkey.sign_count,
                require_user_verification=True,
            )
            response: Mapping[str, str] = credential["response"]
        except _UNREADABLE as error:
            raise IdentityError(_NOBODY) from error
        if not self._store.passkey_used(passkey, found.new_sign_count):
            raise IdentityError(_NOBODY)  # used twice at once: one of the two may be a copy
        return passkey, response


def vouch_for_passkey(
    store: ConsoleStore, party: str, person: Identity, federation: Federation, begins: str
) -> Passkey:
    """Keep a person's signature for the one own passkey whose id begins so; ConfigError, IdentityError."""
    found = [one for one in store.passkeys(person.name) if one.credential.hex().startswith(begins.lower())]
    if len(begins) < 8 or len(found) != 1:
        raise ConfigError(
            f"{len(found) or 'no'} passkeys of {person.name} begin with {begins[:40]!r}: name one by at least 8 digits "
            "of its id, as your own page in the console shows it"
        )
    vouch = vouch_for(person, party, _der(found[0]))
    if not any(one.fingerprint == person.fingerprint for one in federation.history.accepted(person.name, time.time())):
        raise IdentityError(f"the federation does not accept this key of {person.name}: use the one that it knows")
    check_vouch(person.certificate, party, _der(found[0]), vouch)
    store.vouch(found[0].credential, person.certificate.pem, vouch)
    return found[0]


def _der(passkey: Passkey) -> bytes:
    key = decoded_public_key_to_cryptography(decode_credential_public_key(passkey.public_key))
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
