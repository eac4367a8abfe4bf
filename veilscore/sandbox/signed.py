"""Decisions (approval, refusal, release) are JSON files that their maker signed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from veilscore.errors import SandboxError
from veilscore.files.store import write_atomically
from veilscore.keys.identity import Certificate, Identity
from veilscore.sandbox.submission import canonical, read_record


def write_signed(path: Path, content: dict[str, Any], purpose: str, identity: Identity) -> None:
    """Write `content` with the signature of `identity`, whole or not at all."""
    body = {**content, "signer": identity.name, "fingerprint": identity.fingerprint}
    signature = identity.sign(canonical(body), purpose).hex()
    write_atomically(path, lambda file: file.write(canonical({"content": body, "signature": signature})))


def read_signed(path: Path, purpose: str, certificate: Certificate) -> dict[str, Any]:
    """Return the content of a file that `write_signed` wrote.

    Raises SandboxError where it is missing or damaged, IdentityError where it was changed or is not signed by
        `certificate` for this purpose.
    """
    if not path.exists():
        raise SandboxError(f"there is no {path.name} in {path.parent.name[:12]}")
    try:
        stored = read_record(path, path.name)
        content: object = stored["content"]
        signature = bytes.fromhex(stored["signature"])
    except (ValueError, KeyError, TypeError) as error:
        raise SandboxError(f"{path.name} is damaged: decide again") from error
    if not isinstance(content, dict):
        raise SandboxError(f"{path.name} is damaged: decide again")
    certificate.verify(canonical(content), signature, purpose)
    return content
