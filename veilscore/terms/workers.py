"""A party's section of node.yaml about the machines that run its shards."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from veilscore.terms.settings import Strict


class WorkersConfig(Strict):
    """Says what runs the shards of a batch: Ray (extra `ray`), on this machine or on a cluster of the party's own."""

    engine: Literal["ray"] = Field(default="ray", description="what starts and places workers and sees that they live")
    address: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9.:-]{1,253}:[0-9]{1,5}$",
        description="host:port of the head of the party's own Ray cluster; null: workers are processes of this machine",
    )
    store_mb: int = Field(
        default=256, ge=96, le=1 << 20, description="memory for what workers are given, MB; of this machine alone"
    )
