"""The sandbox desk: code that modellers sent, what it asks, the steward's decision, its run and what may leave.

The calls are those of `veilscore sandbox show, approve, reject, run, outputs, release`. A decision counts for what the
page showed: a submission that stands otherwise by then, or outputs of another run, are looked at again.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

from starlette.responses import Response

from veilscore.console.desk import ConsoleDesk, Visit
from veilscore.console.holdings import columns_of
from veilscore.console.language import noted
from veilscore.console.page import Page, page_of
from veilscore.errors import RefusedError, SandboxError, VeilscoreError
from veilscore.fabric.watches import described
from veilscore.files.store import write_text
from veilscore.sandbox.desk import Desk, Entry
from veilscore.sandbox.gate import check_policy
from veilscore.sandbox.submission import Output, plain_line, printable
from veilscore.terms.people import AUDITOR, STEWARD
from veilscore.terms.settings import Strict, parse, parse_json, read_text

SEES = frozenset({STEWARD, AUDITOR})
STATUSES = (
    noted("waiting"),
    noted("approved"),
    noted("refused"),
    noted("failed"),
    noted("gated"),
    noted("released"),
)
LIMITS = {  # of sandbox.yaml: what a page calls it, and how it is shown
    "memory_bytes": (noted("Memory"), "size"),
    "cpu_s": (noted("Processor time"), "lasted"),
    "wall_s": (noted("Time"), "lasted"),
    "processes": (noted("Processes"), "number"),
    "scratch_bytes": (noted("Scratch space"), "size"),
    "output_bytes": (noted("Space for outputs"), "size"),
}
RUNS = frozenset({"approved", "failed"})  # statuses in which code may be run
_MOST_TIMES = 2
_ID = re.compile(r"[0-9a-f]{64}")
_BOTH = ("bank", "holder")


class BegunRun(Strict):
    """The run under way, as HOME/sandbox/begun.json has it; times : how often it was begun, with this one."""

    submission: str
    person: str
    times: int = 1


class SandboxRuns:
    """Runs one submission at a time, in a thread of its own, and keeps who began it or why none came of it.

    The code dies with the console. A run that the console's end cut off is begun anew, once, when it is back: an
    approval gives one result, and there was none. One that failed, or whose steward is none any more, is left to a
    person.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[tuple[Path, str], str] = {}
        self._failed: dict[tuple[Path, str], str] = {}

    def begun_by(self, desk: Desk, submission_id: str) -> str:
        """Return who began a run that is under way; "" if there is none."""
        return self._begun.get((desk.home, submission_id), "")

    def failed(self, desk: Desk, submission_id: str) -> str:
        """Return why the last run here came to nothing; "" if it did not."""
        return self._failed.get((desk.home, submission_id), "")

    def begin(self, console: ConsoleDesk, desk: Desk, run: BegunRun) -> None:
        """Begin a run; RefusedError while another one is under way."""
        with self._lock:
            if self._begun:
                raise RefusedError("a run is under way here: begin this one once it has ended")
            self._begun[desk.home, run.submission] = run.person
            self._failed.pop((desk.home, run.submission), None)
        try:
            write_text(_begun_path(desk.home), run.model_dump_json())
            # no thread of the pool: it may take as long as sandbox.yaml allows, and must not hold up the console's end
            threading.Thread(target=self._run, args=(console, desk, run), daemon=True).start()
        except BaseException:  # nothing runs: another one may be begun
            del self._begun[desk.home, run.submission]
            raise

    def resume(self, console: ConsoleDesk) -> None:
        """Begin anew the run that the console's last end cut off, if nothing came of it and its steward is one yet."""
        path = _begun_path(console.home.path)
        if not path.is_file():
            return
        desk = _desk(console)
        try:
            run = parse(BegunRun, parse_json(read_text(path, "run")), str(path))
            hindrance = ""
            if run.times >= _MOST_TIMES:
                hindrance = "the console ended twice while it ran"
            elif STEWARD not in console.home.roles(run.person):
                hindrance = f"the console ended while it ran, and {run.person[:80]} is no steward any more"
            if desk.status(run.submission) != "approved":  # it ended, with outputs or without
                path.unlink()
            elif hindrance:
                path.unlink()
                self._failed[desk.home, run.submission] = hindrance
                console.store.note(run.person, "code ended", _subject(run), f"failed: {hindrance}")
            else:
                self.begin(console, desk, run.model_copy(update={"times": run.times + 1}))
                console.store.note(run.person, "run submitted code", _subject(run), "begun anew: it was cut off")
        except (VeilscoreError, ValueError, OSError) as error:
            console.log.error("sandbox run not resumed", **described(error))  # noqa: TRY400 - as in `_run`

    def _run(self, console: ConsoleDesk, desk: Desk, run: BegunRun) -> None:
        try:
            found = desk.run(run.submission)
            outcome = f"{found.status}, exit code {found.exit_code}, {desk.status(run.submission)}"
        except Exception as error:  # noqa: BLE001 - a thread of its own: nobody else would see it
            outcome = f"failed: {type(error).__name__}"
            self._failed[desk.home, run.submission] = error.message if isinstance(error, VeilscoreError) else outcome
            console.log.error("sandbox run", **described(error))  # noqa: TRY400 - described tells all that a log may
        try:
            _begun_path(desk.home).unlink(missing_ok=True)
            console.store.note(run.person, "code ended", _subject(run), outcome)
        finally:
            del self._begun[desk.home, run.submission]


def _begun_path(home: Path) -> Path:
    return home / "sandbox" / "begun.json"


def _subject(run: BegunRun) -> str:
    return f"submission {run.submission[:16]}"


RUNNING = SandboxRuns()


def _desk(console: ConsoleDesk) -> Desk:
    return Desk(console.home.path, console.link.membership())


def listing(visit: Visit) -> Response:
    """Show what was sent, the newest first; what is new in the inbox is frozen first, as `sandbox show` does."""
    desk, words, status = _desk(visit.desk), visit.asked("q").lower(), visit.asked("status", 20)
    problems = desk.receive()
    ids = [one for one in desk.ids() if not status or desk.status(one) == status]
    if words:
        ids = [one for one in ids if words in f"{one} {_row(desk, one)['said']}".lower()]
    found = page_of(ids, visit.page_number(), {"status": status, "q": visit.asked("q")})
    return visit.show(
        "submissions.html",
        submissions=found,
        rows=[_row(desk, one) for one in found.rows],
        problems=[plain_line(text) for text in problems],
        statuses=STATUSES,
        status=status,
        words=visit.asked("q"),
    )


def _row(desk: Desk, submission_id: str) -> dict[str, Any]:
    try:
        entry = desk.entry(submission_id)
    except VeilscoreError as error:
        named = {"name": "", "sender": "", "dataset": "", "purpose": error.message, "status": noted("damaged")}
    else:
        manifest = entry.submission.manifest
        named = {
            "name": manifest.name,
            "sender": entry.submission.sender,
            "dataset": manifest.dataset,
            "purpose": plain_line(manifest.purpose),
            "status": entry.status,
        }
    said = " ".join(named.values())
    return {"id": submission_id, "at_s": desk.received_s(submission_id), "said": said, **named}


def _entry(visit: Visit, desk: Desk) -> Entry:
    """Return the submission that the path names, whole; SandboxError where there is none."""
    submission_id = visit.part("submission")
    visit.subject = f"submission {submission_id[:16]}"
    if not _ID.fullmatch(submission_id):
        raise SandboxError("this names no submission")
    return desk.entry(submission_id)


def one(visit: Visit) -> Response:
    """Show one submission: what it asks, what would leave, its code, and what the gate said of its outputs."""
    desk = _desk(visit.desk)
    entry = _entry(visit, desk)
    manifest, policy = entry.submission.manifest, desk.policy
    try:
        check_policy(manifest, policy)
        against = ""
    except SandboxError as error:
        against = error.message
    hidden = {"left out"} if policy.show_ids else {"left out", "key"}
    data = desk.config.datasets.get(manifest.dataset)
    record, outputs = desk.report(entry.id) if entry.status in {"failed", "gated", "released"} else (None, {})
    begun_by = RUNNING.begun_by(desk, entry.id)
    steward = STEWARD in visit.roles and not begun_by
    return visit.show(
        "submission.html",
        entry=entry,
        manifest=manifest,
        purpose=plain_line(manifest.purpose),
        at_s=desk.received_s(entry.id),
        files=[(path, len(content), printable(content)) for path, content in sorted(entry.submission.files.items())],
        declared=[(name, _declared(output)) for name, output in manifest.outputs.items()],
        columns=[] if data is None else [name for name, kind in columns_of(data) if kind not in hidden],
        limits=[(name, how, getattr(policy.limits, key)) for key, (name, how) in LIMITS.items()],
        policy=policy,
        against=against,
        record=record,
        outputs=[(name, len(content), printable(content)) for name, content in outputs.items()],
        run=_run_of(record),
        begun_by=begun_by,
        failed=RUNNING.failed(desk, entry.id),
        approves=steward and entry.status in {"waiting", "refused"},
        runs=steward and entry.status in RUNS,
        releases=steward and entry.status == "gated",
        rejects=steward and entry.status in {"waiting", "approved", "failed", "gated"},
    )


def _declared(output: Output) -> dict[str, Any]:
    return {
        "kind": output.kind,
        "bytes": output.max_bytes,
        "fields": [*(f"{name} ({kind})" for name, kind in output.columns.items()), *output.keys],
        "noise": output.noise,
    }


def _run_of(record: dict[str, Any] | None) -> str:
    """Return what tells one run's outputs from another's."""
    return (
        "" if record is None else ",".join(f"{name}:{sha}" for name, sha in sorted(record.get("outputs", {}).items()))
    )


def decide(visit: Visit) -> Response:
    """Approve or refuse the code, or refuse its outputs; the node signs, and the reason names the person."""
    desk = _desk(visit.desk)
    entry, answer = _entry(visit, desk), visit.form.get("answer", "")
    if answer not in {"approve", "reject"}:
        raise SandboxError("say which: approve or reject")
    _as_shown(visit, desk, entry)
    visit.subject += f": {answer}"
    said = _said(visit, "approved" if answer == "approve" else "refused")
    (desk.approve if answer == "approve" else desk.reject)(entry.id, said)
    return visit.go_to(f"/sandbox/{entry.id}", "saved")


def release(visit: Visit) -> Response:
    """Release the outputs that the page showed; the node signs."""
    desk = _desk(visit.desk)
    entry = _entry(visit, desk)
    _as_shown(visit, desk, entry)
    if entry.status == "gated" and _run_of(desk.report(entry.id)[0]) != visit.form.get("run", ""):
        raise RefusedError("these are outputs of another run than the page showed: look at them first")
    desk.release(entry.id, _said(visit, "released"))
    return visit.go_to(f"/sandbox/{entry.id}", "saved")


def _as_shown(visit: Visit, desk: Desk, entry: Entry) -> None:
    if RUNNING.begun_by(desk, entry.id):
        raise RefusedError("its code runs now: decide on it once that has ended")
    if visit.form.get("status", "") != entry.status:
        raise RefusedError(f"it is {entry.status} by now, not as the page showed: load the page again")


def _said(visit: Visit, what: str) -> str:
    reason = plain_line(visit.form.get("reason", "").strip(), 120)
    return f"{what} by {visit.person} in the console" + (f": {reason}" if reason else "")


def run(visit: Visit) -> Response:
    """Begin the run of approved code; its page shows the outcome, and the log how it ended."""
    desk = _desk(visit.desk)
    entry = _entry(visit, desk)
    _as_shown(visit, desk, entry)
    if entry.status not in RUNS:
        raise SandboxError(f"submission {entry.id[:12]} is {entry.status}, not approved: nothing was run")
    RUNNING.begin(visit.desk, desk, BegunRun(submission=entry.id, person=visit.person))
    return visit.go_to(f"/sandbox/{entry.id}", "begun")


PAGES = (
    Page("/sandbox", listing, SEES, name=noted("Submitted code"), section=noted("Work"), roles=_BOTH),
    Page("/sandbox/{submission}", one, SEES, roles=_BOTH),
    Page("/sandbox/{submission}/decide", decide, frozenset({STEWARD}), "POST", act="decide on code", roles=_BOTH),
    Page("/sandbox/{submission}/run", run, frozenset({STEWARD}), "POST", act="run submitted code", roles=_BOTH),
    Page("/sandbox/{submission}/release", release, frozenset({STEWARD}), "POST", act="release outputs", roles=_BOTH),
)
