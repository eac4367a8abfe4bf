"""Which files of its home the bank reads in a step, and which step made those of its job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from veilscore.terms.job import TrainStack

if TYPE_CHECKING:
    from pathlib import Path

    from veilscore.terms.job import Job

DATASET = "dataset"  # stands for the data set, where it is a file
READS_DATA = {"align", "bin", "screen", "score"}  # steps that read the data set itself
_ALIGNED = {"aligned.json": "align"}
_BINNED = {"rows.npz": "bin", "counts.json": "bin", "code_map.json": "bin"}
_LIST = re.compile(r"consents/lists/[A-Za-z0-9_-][A-Za-z0-9._-]{0,150}\.json")
_FITS = {"train_scorecard": "train", "train_boosting": "boost"}


def kind_of(job: Job, step: str) -> str:
    """Step as rules of what is kept name it: a fit of a stack is "train" or "boost", a fold's counts are "bin"."""
    name = step.split(".", maxsplit=1)[0]
    fits = {c.name: _FITS[c.task] for c in job.candidates} if isinstance(job.parameters, TrainStack) else {}
    return fits.get(name, name)


def files_read(job: Job, step: str) -> dict[str, str]:
    """Path below the job's folder -> the step that made it."""
    if isinstance(job.parameters, TrainStack) and step not in {"align", "bin"}:
        return _read_in_stack(job, step)
    if step in READS_DATA:
        return {} if step == "align" else _ALIGNED
    if step == "evaluate":
        return {"rows.npz": "bin", "model.json": _FITS[job.task]}
    return _BINNED


def _read_in_stack(job: Job, step: str) -> dict[str, str]:
    name, _, fold = step.partition(".")
    folds = [f"fold{f}" for f in range(1, job.stacking.folds + 1)]
    counts = {f"bin.{f}/counts.json": f"bin.{f}" for f in folds}
    if step == "evaluate":
        return {"rows.npz": "bin", "model.json": "stack"}
    if step == "stack":
        fits = [fit for c in job.candidates for fit in (c.name, *(f"{c.name}.{f}" for f in folds))]
        made = {f"{fit}/{file}.json": fit for fit in fits for file in ("model", "fit")}
        return {**_BINNED, **counts, **made}
    if fold and name != "bin":
        return {**_BINNED, f"bin.{fold}/counts.json": f"bin.{fold}"}
    return _BINNED


def may_read(name: str, job_id: str, step: str, job: Job) -> bool:
    """Whether a step reads a path below the home, or the data set."""
    if name == DATASET:
        return step in READS_DATA
    lists = _LIST.fullmatch(name) is not None and step == "align" and job.task == "score_batch"
    return lists or name in _paths(job_id, step, job)


def present(home: Path, job_id: str, step: str, job: Job) -> list[str]:
    """Paths below the home of what a step will read there."""
    lists = sorted(f"consents/lists/{path.name}" for path in home.glob("consents/lists/*.json"))
    names = [*_paths(job_id, step, job), *lists]
    return [name for name in names if may_read(name, job_id, step, job) and (home / name).is_file()]


def _paths(job_id: str, step: str, job: Job) -> list[str]:
    paths = [f"jobs/{job_id}/{name}" for name in (*files_read(job, step), f"checkpoint_{step}.json")]
    model = getattr(job.parameters, "model", None)
    screening = getattr(job.parameters, "columns_from", None)
    if step in READS_DATA and isinstance(model, str):
        paths += [f"models/{model}/model.json", f"models/{model}/code_map.json"]
    if step in READS_DATA and isinstance(screening, str):
        paths.append(f"screenings/{screening.partition('@')[0]}/kept.json")
    return paths
