"""What holds after a schedule against real processes: read from the files alone, by the product's own readers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from trial_scoring import units_of

from veilscore.errors import VeilscoreError
from veilscore.evidence.documents import FederationKeys
from veilscore.evidence.log import FOLDER, LOG_FILE, scan
from veilscore.evidence.verify import heads_in, verify_log, verify_receipt
from veilscore.models.filed import load_model
from veilscore.release.account import FILE, held_jobs
from veilscore.release.ledger import LEDGER, ReleaseLedger
from veilscore.terms.federation import load_federation
from veilscore.v1 import control_pb2 as pb

HOLDERS, NODES = ("tax", "registry"), ("coordinator", "bank", "tax", "registry")


def broken(
    folder: Path, job: str, answers: Mapping[str, pb.ScoreResponse], units: Mapping[str, int], n_asked: int
) -> list[str]:
    """Return what does not hold, a sentence each.

    units : of every firm by an undisturbed batch; n_asked : requests, of which some may have ended without an answer.
    """
    try:
        return [
            *_right(folder, job, answers, units),
            *_counted(folder, job, answers, n_asked),
            *_secrets(folder, job),
            *_logs(folder, job),
            *_orphans(folder, job),
        ]
    except (VeilscoreError, OSError) as error:
        return [f"{type(error).__name__}: {error}"]


def _right(folder: Path, job: str, answers: Mapping[str, pb.ScoreResponse], units: Mapping[str, int]) -> Iterator[str]:
    model = load_model(folder / "bank" / "models" / "firms" / "model.json")
    if units_of(folder, model, job) != dict(units):
        yield "the batch gave other scores than an undisturbed one"
    for firm, answer in answers.items():
        if round(model.scaling.units * answer.score) != units[firm]:
            yield f"{answer.request_id} gave another score than the batch"


def _counted(folder: Path, job: str, answers: Mapping[str, pb.ScoreResponse], n_asked: int) -> Iterator[str]:
    """All that left was counted, and once; nothing is held for a job that is over."""
    for name in HOLDERS:
        home = folder / name
        if held := held_jobs(home / FILE):
            yield f"{name}: jobs that are over hold something in the account: {held}"
        with closing(ReleaseLedger(home / LEDGER)) as ledger:
            kinds = Counter(r.kind for r in ledger.releases(0))
            counted = {r.reference for r in ledger.releases(0) if r.kind == "online"}
        if len(counted) < len(answers):
            yield f"{name}: {len(answers)} single scores were given and {len(counted)} are counted"
        if kinds["online"] > n_asked:
            yield f"{name}: {n_asked} requests came and {kinds['online']} are counted"
        if not kinds["batch"]:
            yield f"{name}: the batch is not in the ledger"
        opened = Counter(e["request"] for e in _openings(folder, name))
        # of what a crash cut off one of the two may be there, and nothing left
        if len(opened) < len(answers):
            yield f"{name}: {len(answers)} single scores were given and {len(opened)} are in the log"
        if twice := [request for request, n in opened.items() if n > 1]:
            yield f"{name}: opened twice by the log: {twice}"
        begun = Counter((e["step"], e["attempt"]) for e in _entries(folder, name) if e["kind"] == "step_begun")
        if twice := [at for at, n in begun.items() if n > 1]:
            yield f"{name}: attempts of {job} begun twice: {twice}"


def _secrets(folder: Path, job: str) -> Iterator[str]:
    seeds = Counter(
        json.loads(path.read_text())["seed"] for path in (folder / "bank" / "jobs" / job).glob("audit/*/opening.json")
    )
    if any(n > 1 for n in seeds.values()):
        yield "two attempts of the bank have one seed"
    for name in HOLDERS:
        spares = Counter(e["spare"] for e in _openings(folder, name))
        if twice := [spare for spare, n in spares.items() if n > 1]:
            yield f"{name}: a spare served twice: {twice}"


def _logs(folder: Path, job: str) -> Iterator[str]:
    federation = load_federation(folder / "federation.yaml")
    keys, heads = FederationKeys(lambda: federation), []
    for name in NODES:
        for path in (folder / name / FOLDER / "receipts").glob("*.json"):
            verify_receipt(path.read_bytes(), keys)
            heads += heads_in(path.read_bytes())
    for name in NODES:
        verify_log(folder / name / FOLDER / LOG_FILE, keys, [head for head in heads if head.party == name])
        kinds = Counter((e["kind"], e.get("job_id")) for e in _entries(folder, name))
        if name != "coordinator" and not kinds["answer", job]:
            yield f"{name}: the log has no answer to {job}"
        if kinds["job", job] > 1:
            yield f"{name}: the log states the end of {job} twice"
        for path in (folder / name / "log").glob("node.log*"):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if '"event": "internal error"' in line:
                    yield f"{name}: an error that is none of ours: {line[:1500]}"


def _orphans(folder: Path, job: str) -> Iterator[str]:
    """No file is left half written, and no folder of another job than those of before."""
    for name in NODES:
        home = folder / name
        if parts := [str(p.relative_to(home)) for p in home.rglob("*.part")]:
            yield f"{name}: orphan files: {parts}"
        trained = {path.name for path in (home / "jobs").glob("firms-*")}
        if strange := {path.name for path in (home / "jobs").glob("*")} - trained - {job}:
            yield f"{name}: folders of unknown jobs: {strange}"


def _openings(folder: Path, name: str) -> list[dict]:
    """What a holder's log says it opened of single firms.

    An opening that a full disk kept from ledger or journal did not leave; asked again it is logged again, the very same
    but for the time. It is one, as for an auditor; another record, spare or share under its request is another.
    """
    found = [
        {k: v for k, v in e.items() if k != "time_ms"} for e in _entries(folder, name) if e["kind"] == "share_opened"
    ]
    return list({json.dumps(e, sort_keys=True): e for e in found}.values())


def _entries(folder: Path, name: str) -> list[dict]:
    found: list[dict] = []
    scan(folder / name / FOLDER / LOG_FILE, visit=lambda _, body: found.append(json.loads(body)))
    return found
