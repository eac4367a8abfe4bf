"""Decisions as JSON files that their maker signed: approval, refusal, release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from veilscore.errors import SandboxError
from veilscore.files.store import write_atomically
from veilscore.keys.identity import Certificate, Identity
from veilscore.sandbox.submission import canonical, read_regular

_MAX_BYTES = 1 << 20


def write_signed(path: Path, content: dict[str, Any], purpose: str, identity: Identity) -> None:
    """Write `content` with the signature of `identity`, whole or not at all."""
    body = {**content, "signer": identity.name, "fingerprint": identity.fingerprint}
    signature = identity.sign(canonical(body), purpose).hex()
    write_atomically(path, lambda file: file.write(canonical({"content": body, "signature": signature})))


def read_signed(path: Path, purpose: str, certificate: Certificate) -> dict[str, Any]:
    """Content of a file written by `write_signed`.

    Raises SandboxError where missing or damaged.
    Raises IdentityError where not signed by `certificate` for this purpose, or changed.
    """
    if not path.exists():
        raise SandboxError(f"there is no {path.name} in {path.parent.name[:12]}")
    try:
        text = read_regular(path, _MAX_BYTES, path.name)
        stored = json.loads(text)
        if canonical(stored) != text:  # a doubled key would be read as its last value
            raise ValueError  # noqa: TRY301 - the same sentence
        content, signature = dict(stored["content"]), bytes.fromhex(stored["signature"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SandboxError(f"{path.name} is damaged: decide again") from error
    certificate.verify(canonical(content), signature, purpose)
    return content
