"""An acceptance is bound at a party to its code, its policy, and the versions of its data set and of the model.

A party notes these digests when it accepts a job, signs them with its answer, and compares them before each step: what
was approved is what runs. Digests of data sets and policies are salted with a secret of the party, so that others see
only whether two jobs ran on the same version.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from veilscore.errors import RefusedError
from veilscore.features.catalogue import find_catalogue
from veilscore.files.digests import code_digest, file_digest
from veilscore.files.home_key import home_key
from veilscore.models.decided import FILE as DECISION_FILE
from veilscore.models.decided import FiledDecision
from veilscore.models.filed import load_model
from veilscore.models.versions import folders
from veilscore.terms.decide import Decide
from veilscore.terms.job import Job
from veilscore.terms.node_config import DatasetConfig, NodeConfig
from veilscore.terms.parameters import AppliesDecision, AppliesFiled, ScoreBatch

NAMES = {"code": "code", "dataset": "data set version", "model": "model version"}  # a policy may change meanwhile


def bound_now(home: Path, node: NodeConfig, job: Job) -> dict[str, str]:
    """Return the digests that a job would run with at this party now; a model that is not there yet has none."""
    salt = home_key(home)
    name = job.datasets[node.name]
    bound = {"code": code_digest(), "policy": _salted(salt, node.policy.model_dump_json().encode())}
    if name in node.datasets:
        bound["dataset"] = _dataset_digest(salt, node.datasets[name])
    if isinstance(job.parameters, AppliesFiled):
        bound["model"] = _model_digest(home, job.parameters.applied)
    return bound


def with_model_version(job: Job, home: Path) -> Job:
    """Return the job with the version of the model or decision that the bank's home has.

    It stays as it is where it names one, or there is none.
    """
    p = job.parameters
    if not isinstance(p, AppliesFiled) or p.applied_sha256 is not None:
        return job
    folder = home / "models" / p.applied
    if isinstance(p, AppliesDecision) and (folder / DECISION_FILE).is_file():
        filed = FiledDecision.load(folder)
        said: dict[str, Any] = {"decision_sha256": filed.sha256.hex()}
        if isinstance(p, Decide):
            said |= {"outcomes": filed.decision.outcomes, "watch": filed.decision.watch}
    elif isinstance(p, ScoreBatch) and (folder / "model.json").is_file():
        said = {"model_sha256": load_model(folder / "model.json").sha256.hex()}
    else:
        return job
    return job.model_copy(update={"parameters": p.model_copy(update=said)})


def check_bound(agreed: dict[str, str], now: dict[str, str], party: str) -> None:
    """Refuse to run what is not what was accepted; RefusedError names each thing that differs."""
    differing = [name for name in NAMES if agreed.get(name, "") != now.get(name, "")]
    if agreed and differing:
        what = " and ".join(NAMES[name] for name in differing)
        raise RefusedError(
            f"{what} at {party} changed since it accepted this job; submit it again, so that it is approved anew",
            party=party,
        )


def canonical(bound: dict[str, str]) -> str:
    """Return the text that is signed."""
    return json.dumps(bound, sort_keys=True, separators=(",", ":"))


def _model_digest(home: Path, name: str) -> str:
    """Return the digest of the party's files of a model, or of a decision and its models, in all versions.

    Which of them is applied, the bank says.
    """
    digest = hashlib.sha256()
    names = [name]
    for folder in folders(home, name):
        if (folder / DECISION_FILE).is_file():
            names += sorted({pin.model for pin in FiledDecision.load(folder).pins.values()} - set(names))
    for folder in (folder for one in names for folder in folders(home, one)):
        for file in ("model.json", "code_map.json", "bands.json", DECISION_FILE, "written.json"):
            path = folder / file
            content = path.read_bytes() if path.is_file() else b""
            digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def dataset_version(home: Path, dataset: DatasetConfig) -> str:
    """Return the salted digest of a data set as it is now."""
    return _dataset_digest(home_key(home), dataset)


def _dataset_digest(salt: bytes, dataset: DatasetConfig) -> str:
    """Return the salted digest of a file's bytes, or of a database only of where and how it is read.

    Of variables built from events, the catalogue's hash is in it: who changes the catalogue has it approved anew.
    """
    meaning = dataset.model_dump_json(exclude={"path", "features"}).encode()
    if dataset.features is not None:
        meaning += find_catalogue(dataset.features.catalogue).hash.encode()
    if dataset.path is None or not dataset.path.is_file():
        return _salted(salt, meaning)
    return _salted(salt, meaning + file_digest(dataset.path))


def _salted(salt: bytes, data: bytes) -> str:
    return hmac.new(salt, data, hashlib.sha256).hexdigest()
