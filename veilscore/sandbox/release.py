"""A release is files, and a record in which the owner signed their digests, the submission and a reason.

The record and the outputs may travel by any transport: whoever sent the submission checks them by the owner's key.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from veilscore.errors import SandboxError, StateError
from veilscore.files.private import open_folder, private_folder
from veilscore.files.store import write_atomically
from veilscore.keys.identity import Certificate
from veilscore.sandbox.signed import read_signed
from veilscore.sandbox.submission import Submission, read_regular

RELEASE = "sandbox release"
RELEASE_FILE = "release.json"
OUTPUTS = "outputs"
_MAX_BYTES = 64 << 20


def read_release(folder: Path, owner: Certificate, submission: Submission, outputs: str = OUTPUTS) -> dict[str, bytes]:
    """Return the outputs of a release, by name, at the modeller who sent the submission.

    folder : with release.json; outputs : folder below it that holds the files.
    Raises SandboxError or IdentityError where the release is changed, incomplete, of other code, or not the owner's.
    """
    record = read_signed(folder / RELEASE_FILE, RELEASE, owner)
    if record.get("submission") != submission.sha256:
        raise SandboxError(f"the release is not of submission {submission.sha256[:12]}, but of other code")
    digests = record.get("outputs")
    if not isinstance(digests, dict) or set(digests) != set(submission.manifest.outputs):
        raise SandboxError("the release does not hold the outputs that the submission declared")
    return read_outputs(folder / outputs, digests)


def write_outputs(folder: Path, files: Mapping[str, bytes], *, shared: bool = False) -> None:
    """Write outputs into a new folder, in place of one that was there; if `shared`, other accounts may read them."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        (open_folder if shared else private_folder)(folder)
    except OSError as error:
        raise StateError(f"{folder} cannot be written: {error.strerror}") from error
    for name, content in files.items():
        write_file(folder / name, content, shared=shared)


def write_file(path: Path, content: bytes, *, shared: bool = False) -> None:
    """Write one file whole or not at all."""
    write_atomically(path, lambda file: file.write(content), mode=0o644 if shared else 0o600)


def read_outputs(folder: Path, digests: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files named in `digests`; SandboxError if one is not what was signed."""
    outputs = {}
    for name, digest in digests.items():
        if name != folder.joinpath(name).name:
            raise SandboxError("an output has a path for a name")
        outputs[name] = read_regular(folder / name, _MAX_BYTES, "the release")
        if hashlib.sha256(outputs[name]).hexdigest() != digest:
            raise SandboxError(f"output {name} was changed after it was signed")
    return outputs
