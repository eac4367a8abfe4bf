"""What node.yaml says of what a node tells its operators: counts for their machines, and its log."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from veilscore.terms.settings import Strict


class MetricsConfig(Strict):
    """Says where a node answers /metrics and /health over HTTP: on its own machine alone, since nobody has to enter."""

    host: Literal["127.0.0.1", "::1"] = Field(default="127.0.0.1", description="address of this machine alone")
    port: int = Field(default=9464, ge=0, le=65535, description="port; 0 takes a free one, which the log names")


class LogConfig(Strict):
    """Says where a node's log goes, JSON lines either way."""

    to: Literal["file", "stderr"] = Field(
        default="file", description="file: HOME/log/node.log; stderr: to who started it, such as systemd or a container"
    )
    megabytes: int = Field(default=10, ge=1, le=10_000, description="file: size at which it is put aside")
    kept: int = Field(default=5, ge=1, le=100, description="file: how many that were put aside are kept")
