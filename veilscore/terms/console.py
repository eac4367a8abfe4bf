"""What node.yaml says of the console: where it listens, how long a session lasts, who else vouches for people."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from veilscore.terms.door import Fingerprint, HostName
from veilscore.terms.settings import Strict, VariableName

Origin = Annotated[str, Field(pattern=r"^https://[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?$")]


class OidcConfig(Strict):
    """Lets people enter by the party's own OpenID provider; their roles stay those of node.yaml."""

    issuer: str = Field(pattern=r"^https://[^\s]{1,300}$", description="the provider's issuer, https")
    client_id: str = Field(min_length=1, max_length=200, description="id of this console at the provider")
    client_secret_env: VariableName = Field(description="environment variable with the client's secret")
    claim: str = Field(
        default="preferred_username",
        pattern=r"^[a-z_]{1,40}$",
        description="claim of the id token that names a person as `people` does",
    )
    ca: Path | None = Field(default=None, description="PEM of the authority of the provider's TLS; null: the system's")


class ConsoleConfig(Strict):
    """Says where `veilscore console` serves this node's people, always over TLS 1.3."""

    host: str = Field(default="127.0.0.1", min_length=1, max_length=253, description="address to listen on")
    port: int = Field(default=7445, ge=0, le=65535, description="port; 0 takes a free one")
    names: tuple[HostName, ...] = Field(
        default=("localhost", "127.0.0.1"),
        min_length=1,
        description="host names by which people reach it; passkeys are bound to the first",
    )
    origin: Origin | None = Field(
        default=None, description="how browsers see it, behind a proxy; null: https, the first name and the port"
    )
    certificate: Path | None = Field(
        default=None, description="PEM of a certificate of the party's own, with its chain; null: one is made"
    )
    key: Path | None = Field(default=None, description="PEM of its key; null with a certificate that is made")
    client_ca: Path | None = Field(
        default=None,
        description="PEM of an authority whose certificates name people of this node; those of federation.yaml are "
        "admitted without it",
    )
    refused: tuple[Fingerprint, ...] = Field(
        default=(), description="SHA-256 of certificates of client_ca that are not admitted any more"
    )
    oidc: OidcConfig | None = Field(default=None, description="the party's own OpenID provider; null: none")
    idle_minutes: float = Field(default=20, gt=0, le=480, description="a session ends so long after its last request")
    session_hours: float = Field(default=10, gt=0, le=24, description="and so long after it began, whatever happens")
    per_minute: int = Field(default=300, ge=10, le=100_000, description="requests of one address in a minute")
    entries_per_minute: int = Field(default=10, ge=1, le=1000, description="attempts of one address to enter, a minute")
    proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        max_length=20,
        description="addresses or networks of the party's own proxies, whose X-Forwarded-For says who asks; empty: "
        "none, and the header counts for nothing",
    )
    connections: int = Field(default=256, ge=1, le=10_000, description="connections at one time")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give certificate and key, or neither")
        return self

    @property
    def rp_id(self) -> str:
        """Return the host name that passkeys are bound to."""
        return self.names[0] if self.origin is None else self.origin.removeprefix("https://").partition(":")[0]

    def origin_at(self, port: int) -> str:
        """Return the origin of its pages, as browsers say it."""
        if self.origin is not None:
            return self.origin
        return f"https://{self.names[0]}" + ("" if port == 443 else f":{port}")

    def below(self, home: Path) -> Self:
        """Return it with relative paths put below a home."""
        paths = {name: getattr(self, name) for name in ("certificate", "key", "client_ca")}
        oidc = self.oidc
        if oidc is not None and oidc.ca is not None:
            oidc = oidc.model_copy(update={"ca": home / oidc.ca})
        return self.model_copy(
            update={"oidc": oidc, **{name: None if p is None else home / p for name, p in paths.items()}}
        )
