"""Entering by the party's own OpenID provider: the only file that imports authlib (the extra `oidc`).

Source  : OpenID Connect Core 1.0, authorization code flow; RFC 7636 (PKCE).
Protects: state, nonce and verifier are drawn for one browser and used once; the id token is verified by the provider's
          keys, for this issuer, this client and this nonce; what the provider says of roles counts nothing.
Does not: outlive a provider that lies: it can name anybody who is under `people`.
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from veilscore.console.one_time import OneTimeSecrets
from veilscore.errors import ConfigError, IdentityError
from veilscore.terms.console import OidcConfig

ALGORITHMS = ["ES256", "RS256", "PS256", "EdDSA"]  # no symmetric one, and never none
_WAIT_S, _BEGUN_S, _FOUND_S = 10.0, 600.0, 3600.0
_LEEWAY_S = 60


@dataclass(frozen=True)
class _Begun:
    state: str
    nonce: str
    verifier: str
    to: str


class OidcLogin:
    """Lets people in by one provider.

    origin : of the console's pages.
    Raises ConfigError if the client's secret is not in the environment.
    """

    def __init__(self, config: OidcConfig, origin: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self._back = f"{origin}/login/oidc/back"
        self._secret = os.environ.get(config.client_secret_env, "")
        if not self._secret:
            raise ConfigError(f"environment variable {config.client_secret_env} with the client's secret is not set")
        self._begun: OneTimeSecrets[_Begun] = OneTimeSecrets(_BEGUN_S, clock)
        self._found: tuple[float, dict[str, Any]] = (float("-inf"), {})

    def begin(self, to: str) -> tuple[str, str]:
        """Return where the browser has to go, and the secret of its cookie; IdentityError if nothing answers there."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        begun = _Begun(state, nonce, verifier, to)
        with self._session() as session:
            url, _ = session.create_authorization_url(
                self._endpoint(session, "authorization_endpoint"),
                state=begun.state,
                nonce=begun.nonce,
                code_verifier=begun.verifier,
            )
        return str(url), self._begun.keep(begun)

    def finish(self, secret: str, state: str, code: str) -> tuple[str, str]:
        """Return whom the provider names, and where to go; IdentityError where it is nobody."""
        begun = self._begun.take(secret)
        if not hmac.compare_digest(begun.state.encode(), state.encode()) or not code:
            raise IdentityError("the provider's answer is not to this browser's question: begin again")
        try:
            with self._session() as session:
                token = session.fetch_token(
                    self._endpoint(session, "token_endpoint"), code=code, code_verifier=begun.verifier, timeout=_WAIT_S
                )
                found: Any = self._json(session, self._endpoint(session, "jwks_uri"))
                keys = KeySet.import_key_set(found)
            claims = jwt.decode(str(token["id_token"]), keys, algorithms=ALGORITHMS).claims
            self._check(claims, begun.nonce)
        except (JoseError, AuthlibBaseError, requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise IdentityError("the provider's answer cannot be used: ask an operator") from error
        person = claims.get(self._config.claim)
        if not isinstance(person, str) or not 1 <= len(person) <= 80:
            raise IdentityError(f"the provider names nobody in the claim {self._config.claim}: ask an operator")
        return person, begun.to

    def _check(self, claims: dict[str, Any], nonce: str) -> None:
        """Check issuer, audience, nonce and times; JoseError or ValueError."""
        audience = claims.get("aud")
        others = isinstance(audience, list) and len(audience) > 1
        jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": self._config.issuer},
            aud={"essential": True, "value": self._config.client_id},
            nonce={"essential": True, "value": nonce},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
        ).validate(claims)
        if others and claims.get("azp") != self._config.client_id:
            raise ValueError("the id token was made for another client")

    def _session(self) -> Any:
        config = self._config
        session = OAuth2Session(
            config.client_id,
            self._secret,
            scope="openid profile",
            redirect_uri=self._back,
            code_challenge_method="S256",
        )
        session.trust_env = False  # neither proxies nor authorities of the environment
        session.verify = True if config.ca is None else str(config.ca)
        return session

    def _endpoint(self, session: Any, name: str) -> str:
        """Return an endpoint of the provider's description, which is kept for an hour."""
        at_s, found = self._found
        if self._clock() - at_s > _FOUND_S:
            try:
                found = self._json(session, f"{self._config.issuer.rstrip('/')}/.well-known/openid-configuration")
            except (requests.RequestException, ValueError) as error:
                raise IdentityError("the OpenID provider does not answer: enter another way, or try later") from error
            if found.get("issuer") != self._config.issuer:
                raise IdentityError("the OpenID provider says it is another one: ask an operator")
            self._found = self._clock(), found
        url = str(found.get(name, ""))
        if not url.startswith("https://"):
            raise IdentityError("the OpenID provider's description names no https address: ask an operator")
        return url

    @staticmethod
    def _json(session: Any, url: str) -> dict[str, Any]:
        answer = session.get(url, withhold_token=True, allow_redirects=False, timeout=_WAIT_S)
        answer.raise_for_status()
        found = answer.json()
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004 - told by the callers as what it is
        return found
