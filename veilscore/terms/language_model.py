"""A bank's own language model server, which may draft sentences made of facts; typed under `language_model:`.

It is off where nothing is named. What is sent to it are facts of firms, so a server outside the institution is refused
unless the bank says the word, and a connection without TLS unless it stays on this machine.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from veilscore.terms.settings import Strict, VariableName

_HOST = re.compile(
    r"(?=.*[a-z])(?!0x)[a-z0-9-]+(\.[a-z0-9-]+)*"
)  # a letter in it, so that it is no number of an address
_INSIDE = (".internal", ".local", ".lan", ".intranet", ".corp", ".home.arpa")


class LanguageModelConfig(Strict):
    """Says which server drafts sentences, by the OpenAI protocol."""

    url: str = Field(min_length=8, max_length=300, description="its base URL, such as https://models.internal/v1")
    model: str = Field(min_length=1, max_length=120, description="name of the model there")
    key_env: VariableName | None = Field(default=None, description="environment variable with its key; null: none")
    timeout_s: float = Field(default=60.0, gt=0, le=600, description="longest wait for an answer, seconds")
    outside: Literal["refused", "allowed"] = Field(
        default="refused",
        description="allowed: the server may be outside the institution, and facts of firms leave it",
    )

    @model_validator(mode="after")
    def _inside(self) -> Self:
        try:
            parts = urlsplit(self.url)
            host = parts.hostname or ""
        except ValueError:
            raise ValueError("url: write http(s)://HOST/...") from None
        plain = self.url.isascii() and not set(self.url) & set("\\%@#? \t\r\n")
        named = _address(host) is not None or _HOST.fullmatch(host) is not None
        if parts.scheme not in {"http", "https"} or not plain or not named:
            raise ValueError("url: write http(s)://HOST/..., a plain name or address, without a password or a query")
        if parts.scheme == "http" and not _is_here(host):
            raise ValueError("url: plain http is for a server on this machine; use https")
        if self.outside == "refused" and not (_is_here(host) or _is_inside(host)):
            raise ValueError(
                f"url: {host} is not known to be inside the institution (a private address, a name without a dot, or "
                f"one ending in {', '.join(_INSIDE)}); outside: allowed lets facts of firms go there"
            )
        return self


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_here(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_inside(host: str) -> bool:
    address = _address(host)
    if address is not None:
        special = address.is_unspecified or address.is_link_local or address.is_reserved or address.is_multicast
        return address.is_private and not special
    return "." not in host or host.endswith(_INSIDE)
