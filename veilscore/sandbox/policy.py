"""An owner says in HOME/sandbox.yaml what submitted code may do; without that file the defaults below hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import Field

from veilscore.terms.parameters import Name
from veilscore.terms.settings import Strict, load

FILE = "sandbox.yaml"
MIB = 1 << 20


class SandboxLimits(Strict):
    """Bounds what one run may use; a run that goes over is ended and gives no outputs."""

    memory_bytes: int = Field(default=2048 * MIB, ge=128 * MIB, description="of one process, and of all together")
    processes: int = Field(default=32, ge=1, le=4096, description="processes and threads at one time")
    cpu_s: int = Field(default=600, ge=1, description="CPU time of one process")
    wall_s: float = Field(default=900, gt=0, le=7 * 86400)
    file_bytes: int = Field(default=256 * MIB, ge=1, description="one file it writes")
    scratch_bytes: int = Field(default=256 * MIB, ge=MIB, description="its private /tmp, in memory")
    output_bytes: int = Field(default=64 * MIB, ge=4096, description="its output folder, in memory")
    open_files: int = Field(default=256, ge=16, le=65536)
    files: int = Field(default=10_000, ge=16, description="files in /tmp and the output folder together")
    log_bytes: int = Field(default=MIB, ge=0, description="of stdout and of stderr kept at the owner; the rest is lost")


class SandboxPolicy(Strict):
    """Says who may submit code, for what, and what may leave."""

    senders: tuple[Name, ...] = Field(default=(), description="members who may submit; empty: any of the federation")
    purposes: tuple[str, ...] = Field(default=(), description="allowed purposes; empty: any")
    datasets: tuple[Name, ...] = Field(default=(), description="data sets code may run on; empty: any of node.yaml")
    show_ids: bool = Field(default=False, description="code sees the ids of firms")
    min_group_size: int = Field(default=10, ge=2, description="fewest firms behind a number that leaves")
    significant_digits: int = Field(default=4, ge=1, le=15, description="numbers that leave are rounded to these")
    max_numbers: int = Field(default=1000, ge=1, description="numbers one output may hold")
    allow_artefacts: bool = Field(default=False, description="files the gate cannot read, such as models, may leave")
    max_artefact_bytes: int = Field(default=MIB, ge=1)
    require_noise: bool = Field(default=False, description="only numbers with differential privacy may leave")
    max_epsilon: float = Field(default=1.0, gt=0, description="privacy loss one submission may spend, over its outputs")
    python: Path | None = Field(default=None, description="interpreter for the code; default: the one of Veilscore")
    limits: SandboxLimits = SandboxLimits()

    @property
    def sha256(self) -> str:
        """Return the digest of every setting; an approval holds for exactly these."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def load_policy(home: Path) -> SandboxPolicy:
    """Return the policy of a home; ConfigError if sandbox.yaml is wrong."""
    path = home / FILE
    return load(SandboxPolicy, path, "sandbox policy") if path.exists() else SandboxPolicy()
