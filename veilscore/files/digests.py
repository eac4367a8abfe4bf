"""Digests of what a party runs and reads: the sources of every package, the bytes of a file."""

from __future__ import annotations

import functools
import glob
import hashlib
import importlib.util
from pathlib import Path

PACKAGES = (
    "veilscore",
    "coordinator",
    "party_bank",
    "party_court",
    "party_registry",
    "party_tax",
)  # those of pyproject.toml
_PIECE = 1 << 20  # bytes read at a time


@functools.cache
def code_digest() -> str:
    """Return a SHA-256 over the sources of every package that runs, as they were at this process's first call."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)  # a wheel may leave an institution out
        for root in () if spec is None else spec.submodule_search_locations or ():
            for found in sorted(glob.glob("**/*.py", root_dir=root, recursive=True, include_hidden=True)):  # noqa: PTH207
                # pathlib does not follow links, and an installed wheel has files where a checkout has links.
                name, content = f"{package}/{Path(found).as_posix()}".encode(), (Path(root) / found).read_bytes()
                digest.update(len(name).to_bytes(8, "little") + name + len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file's bytes, which are read once while time, size and inode stay."""
    status = path.stat()
    return _file_digest(path, (status.st_mtime_ns, status.st_size, status.st_ino))


@functools.lru_cache(maxsize=64)
def _file_digest(path: Path, _version: tuple[int, ...]) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.digest()
