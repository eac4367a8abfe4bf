"""Reads from a party's files what it states of a finished job: digests of model, consent, policy and results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veilscore.data.codes import CodeMap
from veilscore.errors import StateError, VeilscoreError
from veilscore.evidence.documents import canonical, digest
from veilscore.evidence.receipt import Scores, ScoreTree, commitment
from veilscore.terms.job import Job
from veilscore.terms.node_config import NodeConfig

SCORES_FILE = "scores.csv"
_DECISION = "decision.json"  # of `models.decided`, whose models load compiled kernels
_KEPT = {".json", ".npz", ".csv", ".parquet"}


@dataclass(frozen=True)
class Facts:
    """The parts of a statement that come from files; they are empty where the party has none."""

    policy: str
    consent: str
    model: str
    code_map: str
    scores: Scores | None
    files: dict[str, str]


def facts_of(home: Path, node: NodeConfig, job: Job, job_id: str, seed: bytes) -> Facts:
    """Read the facts of a job; StateError if a file is damaged.

    seed : secret of this job at this party, which salts the commitments to files and scores.
    """
    folder = home / "jobs" / job_id
    named = getattr(job.parameters, "model", None)  # a job that scores names it; training makes one of the job's name
    kept = home / "models" / named if isinstance(named, str) else folder / "models" / job.name  # not filed yet
    try:
        scores = folder / SCORES_FILE
        return Facts(
            policy=policy_digest(node),
            consent=_consent(folder),
            model=_model(folder, kept, job),
            code_map=_code_map(kept / "code_map.json"),
            scores=ScoreTree(scores.read_bytes(), seed).scores if scores.is_file() else None,
            files=_files(folder, seed),
        )
    except (OSError, ValueError) as error:
        raise StateError(f"files of job {job_id} cannot be read for its receipt: {type(error).__name__}") from error


def policy_digest(node: NodeConfig) -> str:
    """Return the SHA-256 of the policy in force, every default filled in."""
    return digest(canonical(node.policy.model_dump(mode="json")))


def _consent(folder: Path) -> str:
    kept = _json(folder / "consents.json")
    return digest(canonical(sorted(c["id"] for c in kept))) if kept else ""


def _model(folder: Path, kept: Path, job: Job) -> str:
    """Return the hash of the model made or applied, or of the decision filed, where this party sees it."""
    if job.task.startswith("train"):
        return str((_json(folder / "model.json") or {}).get("sha256", ""))
    if filed := _json(kept / _DECISION):
        return str(filed.get("sha256", ""))
    seen = _json(folder / "scored.json") or {}
    return str(seen.get("model") or (_json(kept / "model.json") or {}).get("sha256", ""))


def _code_map(path: Path) -> str:
    try:
        return CodeMap.from_json(path.read_text(encoding="utf-8")).hash if path.is_file() else ""
    except VeilscoreError:
        return ""  # a model of another kind keeps its own form


def _files(folder: Path, seed: bytes) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    paths = sorted(p for p in folder.iterdir() if p.suffix in _KEPT and p.is_file() and not p.is_symlink())
    return {p.name: commitment(seed, f"{p.name} {digest(p.read_bytes())}".encode()) for p in paths}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
