"""Jobs whose bank keeps openings, and their audit from what the other parties saw; for tests."""

from __future__ import annotations

import json

from local_jobs import firms, job, nodes, write

from veilscore.audit.jobs import JobAudit
from veilscore.evidence.receipt import StepEntry, traffic_of
from veilscore.node.local import open_job
from veilscore.wire.transcript import Transcript


def audited_run(folder, task="train_scorecard", *, parts=None, name="card", **parameters):
    """Open a job that is recorded for an auditor; its steps are run by the test."""
    data = folder / "data"
    if parts is not None or not data.exists():
        write(data, firms(420) if parts is None else parts)
    return open_job(job(task, name=name, **parameters), nodes(data), folder / "homes", audited=True)


def logged(run, **outcomes):
    """What the other parties' logs hold of each attempt: step_attempt="failed" for those that failed."""
    found = {}
    for party, transcript in run.transcripts.items():
        if party == run.job.bank:
            continue
        for session in dict.fromkeys(e.session for e in transcript.entries):
            _, step, attempt = session.split("/")
            outcome = outcomes.get(f"{step}_{attempt}", "done")
            mine = Transcript(entries=[e for e in transcript.entries if e.session == session])
            found.setdefault((step, int(attempt)), {})[party] = StepEntry(
                job_id=run.job_id,
                step=step,
                attempt=int(attempt),
                outcome=outcome,
                traffic=traffic_of(mine, failed=outcome == "failed"),
                time_ms=0,
            )
    return found


def audit(run, *steps, outcomes=None, made=None):
    """Findings by step, of the given steps or all."""
    with JobAudit(bank_home(run), run.job_id, run.job, logged(run, **outcomes or {}), made=made) as found:
        for step in steps or run.job.steps:
            name, _, attempt = step.rpartition(".")
            found.finding(*((name, int(attempt)) if attempt.isdigit() and name else (step, 1)))
        return {f"{f.step}.{f.attempt}": f for f in found.findings()}


def bank_home(run):
    return run.stores[run.job.bank].path.parent.parent


def kept(run, step, attempt=1):
    return run.stores[run.job.bank].path / "audit" / f"{step}.{attempt}"


def rewrite(path, change):
    """Change the JSON of a file in place, in the form in which such files are written."""
    body = json.loads(path.read_bytes())
    change(body)
    path.write_bytes(json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
