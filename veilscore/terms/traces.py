"""What node.yaml says of traces: where its collector is."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from veilscore.terms.settings import Strict


class TraceConfig(Strict):
    """Names the party's own collector of OpenTelemetry traces."""

    url: str = Field(
        pattern=r"^https?://[^\s]{1,300}$",
        description="where it takes OTLP over HTTP, such as https://collector.internal:4318/v1/traces",
    )
    ca: Path | None = Field(default=None, description="PEM of the authority of its TLS; null: the system's")

    @model_validator(mode="after")
    def _sealed(self) -> Self:
        here = ("http://127.0.0.1:", "http://localhost:", "http://[::1]:")
        if self.url.startswith("http://") and not self.url.startswith(here):
            raise ValueError("traces go by https, except to a collector on this machine (http://localhost:...)")
        return self

    def below(self, home: Path) -> Self:
        """Return it with relative paths put below a home."""
        return self if self.ca is None else self.model_copy(update={"ca": home / self.ca})
