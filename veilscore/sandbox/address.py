"""E-mail addresses name people for PySyft, and those people's folders.

Source: RFC 5321 (lengths), RFC 5322 (dot-atom), narrowed to characters that are plain in a path, a header, YAML and a
terminal, and that syft-job 0.1.40 takes. Quoted parts, comments, address literals and other alphabets are refused.
"""

from __future__ import annotations

import re

from veilscore.errors import ConfigError

_ATOM = r"[A-Za-z0-9_+-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?=[A-Za-z0-9_])(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
_MAX = 254


def email_address(text: object) -> str:
    """Return `text` if it is an address of the narrow form; ConfigError for anything else, of whatever type."""
    if not isinstance(text, str) or len(text) > _MAX or not _ADDRESS.fullmatch(text):
        shown = ascii(text[:80]) if isinstance(text, str) else type(text).__name__
        raise ConfigError(f"{shown} is no e-mail address that PySyft can use: give one such as modeller@bank.example")
    return text
