"""The key section of node.yaml: where the passphrase of the node's key comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from veilscore.keys.key_source import (
    CommandSource,
    EnvironmentSource,
    FileSource,
    KeySource,
    PromptSource,
    TokenSource,
    default_source,
)
from veilscore.terms.settings import Strict, VariableName

_NEEDS = {"file": ("path",), "command": ("unwrap",), "pkcs11": ("module", "token", "label")}


class KeyConfig(Strict):
    """Says where the passphrase of the node's key comes from."""

    source: Literal["default", "environment", "file", "prompt", "command", "pkcs11"] = Field(
        default="default",
        description="default: the file named by VEILSCORE_KEY_PASSPHRASE_FILE, or VEILSCORE_KEY_PASSPHRASE",
    )
    variable: VariableName = Field(
        default="VEILSCORE_KEY_PASSPHRASE",
        description="environment: the variable with the passphrase",
    )
    path: Path | None = Field(default=None, description="file: mode 0600, first line, best not on the home's disk")
    unwrap: tuple[str, ...] = Field(default=(), description="command: program and arguments that unwrap the passphrase")
    wrap: tuple[str, ...] = Field(default=(), description="command: program and arguments that wrap it, to make keys")
    module: Path | None = Field(default=None, description="pkcs11: the token maker's shared library")
    token: str | None = Field(default=None, description="pkcs11: label of the token")
    label: str | None = Field(default=None, description="pkcs11: label of the AES key in the token")
    pin_variable: VariableName = Field(
        default="VEILSCORE_TOKEN_PIN",
        description="pkcs11: environment variable with the PIN",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = [name for name in _NEEDS.get(self.source, ()) if not getattr(self, name)]
        if missing:
            raise ValueError(f"source {self.source} needs {', '.join(missing)}")
        return self

    def open(self, home: Path) -> KeySource:
        """Return the key source of a home, below which relative paths begin."""
        if self.source == "environment":
            return EnvironmentSource(self.variable)
        if self.source == "file":
            return FileSource(home / (self.path or ""))
        if self.source == "prompt":
            return PromptSource()
        if self.source == "command":
            return CommandSource(self.unwrap, self.wrap)
        if self.source == "pkcs11":
            return TokenSource(self.module or Path(), self.token or "", self.label or "", self.pin_variable)
        return default_source()
