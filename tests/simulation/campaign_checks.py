"""What holds after every schedule, whatever befell it: read from the files alone, by the product's own readers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import campaign_task
from campaign_world import NODES, World

from veilscore.errors import VeilscoreError
from veilscore.evidence.documents import FederationKeys
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.log import FOLDER, LOG_FILE, scan
from veilscore.evidence.verify import heads_in, verify_log, verify_receipt
from veilscore.release.account import FILE, charged, held_jobs
from veilscore.release.ledger import LEDGER, ReleaseLedger
from veilscore.terms.federation import load_federation


def broken(world: World) -> list[str]:
    """Return what does not hold, a sentence each."""
    found = list(world.problems)
    if world.problems:
        return found
    try:
        for check in (_jobs, _same_attempt, _ledgers, _secrets, _logs, _orphans):
            found += check(world)
    except VeilscoreError as error:
        found.append(f"{type(error).__name__}: {error}")
    return found


def _jobs(world: World) -> Iterator[str]:
    for job, status in world.jobs.items():
        if status != "done":
            yield f"job {job} ended as {status}"


def _same_attempt(world: World) -> Iterator[str]:
    """What all have of a step comes from one attempt, the one that the coordinator counts as done."""
    for job in world.jobs:
        for step in ("bin", "score"):
            found = {
                json.loads((world.folder / name / "jobs" / job / f"out_{step}.json").read_text())["session"]
                for name in NODES[1:]
            }
            ledgers = {Ledger(world.folder / name / "state" / "jobs").entry(job).done.get(step) for name in NODES[1:]}
            if len(found) > 1 or ledgers != {int(found.pop().split("/")[2])}:
                yield f"parties hold different attempts of {job}/{step}"


def _ledgers(world: World) -> Iterator[str]:
    """What left was counted before, in the ledger and in the log, and once; nothing is counted that no attempt made."""
    for name in ("tax", "registry"):
        home = world.folder / name
        if held := held_jobs(home / FILE):
            yield f"{name}: jobs that are over hold something in the account: {held}"
        opened = {session for holder, session in world.opened if holder == name}
        lines = Counter(f"{key[2]}/{key[3]}/{key[4]}" for key in charged(home / FILE))
        logged = Counter(
            f"{e['job_id']}/{e['step']}/{e['attempt']}" for e in entries(world, name) if e["kind"] == "spent"
        )
        with closing(ReleaseLedger(home / LEDGER)) as ledger:
            released = Counter(r.reference for r in ledger.releases(0))
        begun = {
            f"{e.job_id}/{step}/{a}"
            for e in Ledger(home / "state" / "jobs").entries()
            for step, most in e.attempts.items()
            for a in range(1, most + 1)
        }
        for what, counted in (("account", lines), ("log", logged), ("release ledger", released)):
            if twice := [session for session, n in counted.items() if n > 1]:
                yield f"{name}: counted twice in the {what}: {twice}"
            step = "score" if what == "release ledger" else "bin"
            if missing := [s for s in opened if s.split("/")[1] == step and s not in counted]:
                yield f"{name}: left uncounted in the {what}: {missing}"
            if strange := [session for session in counted if session not in begun]:
                yield f"{name}: the {what} counts what never began: {strange}"


def _secrets(world: World) -> Iterator[str]:
    drawn: dict[bytes, str] = {}
    uses = Counter((party, session) for party, session, _ in campaign_task.PADS if party != "bank")
    for use, n in uses.items():
        if n > 1:
            yield f"{use[0]} ran {use[1]} {n} times"
    for party, session, pad in campaign_task.PADS:
        if drawn.setdefault(pad, session) != session:
            yield f"{party} used a pad of {drawn[pad]} in {session}"
    for place, digests in world.frames.items():
        if len(digests) > 1:
            yield f"two different messages went out as {place}"


def _logs(world: World) -> Iterator[str]:
    federation = load_federation(world.folder / "federation.yaml")
    keys = FederationKeys(lambda: federation)
    receipts = {}
    for name in NODES:
        for path in (world.folder / name / FOLDER / "receipts").glob("*.json"):
            data = path.read_bytes()
            verify_receipt(data, keys)
            receipts[name, path.stem] = data
    heads = [head for data in receipts.values() for head in heads_in(data)]
    for name in NODES:
        verify_log(world.folder / name / FOLDER / LOG_FILE, keys, [h for h in heads if h.party == name])
        kinds = Counter((e["kind"], e.get("job_id")) for e in entries(world, name))
        for job, status in world.jobs.items():
            if name != "coordinator" and not kinds["answer", job]:
                yield f"{name}: the log has no answer to {job}"
            if status == "done" and kinds["job", job] > 1:
                yield f"{name}: the log states the end of {job} twice"


def entries(world: World, name: str) -> list[dict]:
    found: list[dict] = []
    scan(world.folder / name / FOLDER / LOG_FILE, visit=lambda _, body: found.append(json.loads(body)))
    return found


def _orphans(world: World) -> Iterator[str]:
    """No file is left half written, and no folder of a job that nobody knows."""
    for name in NODES:
        home = world.folder / name
        if parts := [str(p.relative_to(home)) for p in home.rglob("*.part")]:
            yield f"{name}: orphan files: {parts}"
        for folder in (home / "jobs").glob("*"):
            if folder.name not in world.jobs:
                yield f"{name}: a folder of an unknown job: {folder.name}"
