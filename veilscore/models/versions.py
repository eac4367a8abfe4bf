"""A party files what a job made of a model when the job has ended, whole or not at all, and keeps every version.

HOME/jobs/JOB/models/NAME/...           what the steps of a job leave: nothing applies it yet
HOME/models/NAME/versions/JOB/...       every version that was filed, never changed afterwards
HOME/models/NAME/*                      the version in use, a copy of one of these
HOME/models/NAME/versions/in_use        which one that is: the id of its job
HOME/models/NAME/versions/switching     which one it is about to be; a start goes on from there
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from veilscore.data.codes import CodeMap
from veilscore.errors import ConfigError, SchemaError, StateError
from veilscore.files.private import private_folder
from veilscore.files.store import sync_folder, write_atomically, write_text

STAGED = "models"  # below the job's folder
VERSIONS, IN_USE, SWITCHING, FILED = "versions", "in_use", "switching", "filed.json"
SCREENINGS, KEPT_COLUMNS = "screenings", "kept.json"  # of a job that screens, and of the home
EARLIER = "earlier"  # a version that was there before versions were kept, or that was imported


@dataclass(frozen=True)
class Version:
    """A version of a model at one party: the job that made it, when it was filed, and whether it is in use."""

    job_id: str
    filed_s: float
    in_use: bool
    folder: Path


def file_model(home: Path, job_id: str, name: str) -> bool:
    """File what a job made of a model, and put it to use; False if it made none here.

    It may be repeated after a crash at any moment. Raises StateError where files cannot be read or written.
    """
    staged, folder = home / "jobs" / job_id / STAGED / name, home / "models" / name
    if not staged.is_dir():
        return False
    with _told(folder):
        _keep_earlier(folder)
        _add(staged, folder / VERSIONS / job_id)
        _switch(folder, job_id)
    return True


def file_screening(home: Path, job_id: str, name: str) -> None:
    """File what a screening kept, in place of an earlier one of the name; nothing where the job was none.

    It may be repeated after a crash at any moment: the list of kept columns, which is complete in itself, goes last.
    """
    staged, folder = home / "jobs" / job_id / SCREENINGS / name, home / SCREENINGS / name
    if staged.is_dir():
        with _told(folder):
            private_folder(folder)
            for path in sorted(staged.iterdir(), key=lambda one: one.name == KEPT_COLUMNS):
                _copy(path, folder)


def finish_switches(home: Path) -> None:
    """Go on with what a crash interrupted; called before anything applies a model."""
    for marker in sorted((home / "models").glob(f"*/{VERSIONS}/{SWITCHING}")):
        with _told(marker):
            _switch(marker.parent.parent, marker.read_text(encoding="utf-8"))


def roll_back(home: Path, name: str, job_id: str | None = None) -> Version:
    """Put another version to use, by default the one that was filed before the one in use; ConfigError if none is."""
    found = versions(home, name)
    now = next((one for one in found if one.in_use), None)
    earlier = [one for one in found if not one.in_use and (now is None or one.filed_s <= now.filed_s)]
    wanted = earlier[-1:] if job_id is None else [one for one in found if one.job_id.startswith(job_id)]
    if len(wanted) != 1:
        what = "no version before the one in use" if job_id is None else f"{len(wanted)} versions {job_id[:60]!r}"
        raise ConfigError(f"model {name[:60]!r} has {what} here; `veilscore model versions {name[:60]}` lists them")
    with _told(home / "models" / name):
        _switch(home / "models" / name, wanted[0].job_id)
    return wanted[0]


def versions(home: Path, name: str) -> tuple[Version, ...]:
    """Return all versions of a model that were filed here, the oldest first."""
    folder = home / "models" / name / VERSIONS
    if not name or Path(name).name != name:
        raise ConfigError(f"{name[:60]!r} is no name of a model")
    with _told(folder):
        using = _text(folder / IN_USE)
        found = [
            Version(one.name, _filed_s(one), one.name == using, one)
            for one in (folder.iterdir() if folder.is_dir() else ())
            if one.is_dir() and not one.name.startswith(".")
        ]
    return tuple(sorted(found, key=lambda version: (version.filed_s, version.job_id)))


def in_use(home: Path) -> dict[str, str]:
    """Return the job whose version of each model is in use."""
    found = sorted((home / "models").glob(f"*/{VERSIONS}/{IN_USE}"))
    with _told(home / "models"):
        return {path.parent.parent.name: path.read_text(encoding="utf-8") for path in found}


def folders(home: Path, name: str) -> Iterator[Path]:
    """Yield where files of a model may be: of the version in use, then of all others, the newest first."""
    yield home / "models" / name
    yield from (one.folder for one in reversed(versions(home, name)) if not one.in_use)


def with_map(home: Path, name: str, map_sha256: str) -> Path | None:
    """Return the folder of the version of a model that has the code map of this hash (hexadecimal), if there is one."""
    for folder in folders(home, name):
        with contextlib.suppress(SchemaError, OSError):
            if CodeMap.from_json((folder / "code_map.json").read_text(encoding="utf-8")).hash == map_sha256:
                return folder
    return None


def _keep_earlier(folder: Path) -> None:
    """Keep as a version what is in use and was never filed as one."""
    files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    if files and not (folder / VERSIONS / IN_USE).exists() and not (folder / VERSIONS / EARLIER).exists():
        _add(folder, folder / VERSIONS / EARLIER)


def _add(source: Path, version: Path) -> None:
    """Copy the files of a folder as a version, which is there whole or not at all."""
    if version.exists():
        return
    part = version.with_name(f".{version.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    private_folder(part)
    for path in sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith(".")):
        _copy(path, part)
    write_text(part / FILED, json.dumps({"filed_s": time.time()}))
    part.rename(version)
    sync_folder(version.parent)


def _switch(folder: Path, job_id: str) -> None:
    """Put a version to use; a crash in between leaves the marker, and the next start repeats it."""
    kept, version = folder / VERSIONS, folder / VERSIONS / job_id
    if Path(job_id).name != job_id or not version.is_dir():
        raise StateError(f"{kept} names a version that is not there: restore it from backup")
    write_text(kept / SWITCHING, job_id)
    wanted = {path.name for path in version.iterdir() if path.name != FILED}
    for name in sorted(wanted):
        _copy(version / name, folder)
    for path in folder.iterdir():
        if path.is_file() and path.name not in wanted:
            path.unlink()
    write_text(kept / IN_USE, job_id)
    (kept / SWITCHING).unlink()


def _copy(source: Path, folder: Path) -> None:
    content = source.read_bytes()
    write_atomically(folder / source.name, lambda file: file.write(content))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _filed_s(version: Path) -> float:
    try:
        return float(json.loads((version / FILED).read_text(encoding="utf-8"))["filed_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


@contextlib.contextmanager
def _told(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(f"versions of the model in {place} cannot be read or written: {error.strerror}") from error
