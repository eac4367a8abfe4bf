"""The owner's desk keeps in HOME/sandbox what was submitted, what was approved, what ran and what was released.

Parties: a modeller submits; the owner's people approve the code, run it, look at its outputs and approve their release.
An approval is signed and binds submission, data set version and policy by digest; a run takes the frozen submission,
checks all three again, and a release binds the run's outputs. Any difference refuses. One approval gives one result.

    inbox/ID/        as it came (folder transport; a peer's folder, untrusted); over the fabric: reception.py
    submissions/ID/  frozen: submission.json, code/; then approval.json or refusal.json, run.json, logs/, gated/
    outbox/ID/       released: release.json and the outputs, for the modeller
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veilscore.errors import ConfigError, PeerError, RefusedError, SandboxError, StateError
from veilscore.files.private import open_folder, private_folder
from veilscore.files.store import JobStore
from veilscore.keys.identity import Identity
from veilscore.sandbox.bubblewrap import Inside, check_hidden, check_host, default_python
from veilscore.sandbox.gate import check_policy, gate
from veilscore.sandbox.policy import SandboxPolicy, load_policy
from veilscore.sandbox.private_data import read_dataset, table_csv, version_of
from veilscore.sandbox.release import OUTPUTS, RELEASE, RELEASE_FILE, read_outputs, write_file, write_outputs
from veilscore.sandbox.run import RunOutcome, run_inside
from veilscore.sandbox.signed import read_signed, write_signed
from veilscore.sandbox.submission import RECORD, Submission, read_submission, write_files, write_submission
from veilscore.terms.federation import Federation
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import load_node_config
from veilscore.terms.policy import SANDBOX, Request

APPROVAL = "sandbox approval"
REFUSAL = "sandbox refusal"
RUN = "sandbox run"


@dataclass(frozen=True)
class Entry:
    """One submission as the owner sees it.

    status : waiting, approved, refused, failed (ran without outputs that pass), gated (outputs wait), released.
    """

    id: str
    submission: Submission
    status: str


class Desk:
    """Takes submissions at the home of a data holder or bank, runs what was approved, and releases outputs.

    membership : of the home, where a running node has it; by default it is read.
    Raises ConfigError, IdentityError or StateError where the home cannot be used.
    """

    def __init__(self, home: Path, membership: tuple[Identity, Federation] | None = None) -> None:
        self.home = home
        self.config = load_node_config(home)
        self.identity, self.federation = membership or load_membership(home, self.config)
        self.policy: SandboxPolicy = load_policy(home)
        self._own = self.identity.certificate
        root = home / "sandbox"
        self.inbox, self._kept, self._outbox = (root / name for name in ("inbox", "submissions", "outbox"))
        for folder in (self.inbox, self._kept, self._outbox):
            private_folder(folder)

    # what came in

    def receive(self) -> tuple[str, ...]:
        """Freeze what is new in the inbox, and return why others were left there."""
        problems = []
        for folder in sorted(self.inbox.iterdir()):
            if folder.name.startswith(".") or (self._kept / folder.name).exists():
                continue
            try:
                self.accept(read_submission(folder))
            except (SandboxError, PeerError, ConfigError) as error:
                problems.append(f"{folder.name[:12]}: {error}")
        return tuple(problems)

    def accept(self, submission: Submission) -> str:
        """Check who sent a submission and for whom, freeze it and return its id; every transport ends here.

        Raises RefusedError where the policy does not take it, IdentityError for an unknown sender or a wrong signature.
        """
        manifest = submission.manifest
        submission.verify(self.federation.member(submission.sender).identity)
        for holds, why in (
            (manifest.owner == self.identity.name, f"it is for {manifest.owner}, not for {self.identity.name}"),
            (not self.policy.senders or submission.sender in self.policy.senders, "its sender may not submit here"),
            (not self.policy.purposes or manifest.purpose in self.policy.purposes, "its purpose is not allowed here"),
            (manifest.dataset in self.config.datasets, f"there is no data set named {manifest.dataset!r} here"),
            (
                not self.policy.datasets or manifest.dataset in self.policy.datasets,
                f"data set {manifest.dataset!r} is not open to submitted code",
            ),
        ):
            if not holds:
                raise RefusedError(why, party=self.identity.name)
        self._allowed(submission)
        write_submission(submission, self._kept)
        return submission.sha256

    def _allowed(self, submission: Submission) -> None:
        """Refuse what the node's policy does not allow; a sender named in sandbox.yaml need not be among its banks."""
        known = submission.sender in self.policy.senders
        request = Request(
            bank=None if known else submission.sender,
            purpose=submission.manifest.purpose,
            task=SANDBOX,
            dataset=submission.manifest.dataset,
        )
        self.config.policy.allows(request, self.identity.name)

    def entries(self) -> tuple[Entry, ...]:
        """Return all frozen submissions, in the order of their ids."""
        return tuple(self.entry(path.name) for path in sorted(self._kept.iterdir()) if not path.name.startswith("."))

    def ids(self) -> list[str]:
        """Return the ids of all frozen submissions, the newest first; nothing of them is read."""
        kept = [path for path in self._kept.iterdir() if not path.name.startswith(".")]
        return [path.name for path in sorted(kept, key=lambda path: (path / RECORD).stat().st_mtime, reverse=True)]

    def received_s(self, submission_id: str) -> float:
        """Return when a submission came, in seconds since 1970."""
        return (self._kept / submission_id / RECORD).stat().st_mtime

    def status(self, submission_id: str) -> str:
        """Return how a submission stands, without reading it."""
        return self._status(self._kept / submission_id)

    def entry(self, text: str) -> Entry:
        """Return the submission whose id begins with `text`, or of that name; its content is checked against its id."""
        kept = [path.name for path in self._kept.iterdir() if not path.name.startswith(".")]
        found = [name for name in kept if name.startswith(text) and text]
        if not found and text:
            found = [n for n in sorted(kept) if self._frozen(self._kept / n).manifest.name == text]
        if len(found) != 1:
            raise SandboxError(
                f"{len(found) or 'no'} submissions here whose id begins with, or whose name is, {text[:64]!r}"
            )
        folder = self._kept / found[0]
        return Entry(found[0], self._frozen(folder), self._status(folder))

    def _frozen(self, folder: Path) -> Submission:
        submission = read_submission(folder)
        submission.verify(self.federation.member(submission.sender).identity)
        return submission

    def _status(self, folder: Path) -> str:
        if (self._outbox / folder.name / RELEASE_FILE).exists():
            return "released"
        if (folder / "refusal.json").exists():
            return "refused"
        if (folder / "run.json").exists():
            return "gated" if self._signed(folder, "run.json", RUN)["passed"] else "failed"
        return "approved" if (folder / "approval.json").exists() else "waiting"

    def _signed(self, folder: Path, name: str, purpose: str) -> dict[str, Any]:
        content = read_signed(folder / name, purpose, self._own)
        if content.get("submission") != folder.name:
            raise SandboxError(f"{name} is about another submission: decide again", party=self.identity.name)
        return content

    # decisions

    def approve(self, text: str, reason: str = "") -> Entry:
        """Approve the code for the data set and the policy as they are now, in place of an earlier decision."""
        entry = self.entry(text)
        if entry.status == "released":
            raise SandboxError("its outputs were released already: a new result needs a new submission")
        check_policy(entry.submission.manifest, self.policy)
        folder = self._kept / entry.id
        content = {
            "submission": entry.id,
            "dataset": entry.submission.manifest.dataset,
            "data_sha256": version_of(self._data(entry.submission)[0]),
            "policy_sha256": self.policy.sha256,
            "reason": reason[:200],
            "time_s": int(time.time()),
        }
        # first: a crash in between leaves the code unapproved, never approved with the outputs of an earlier run
        self._forget(folder, "refusal.json", "run.json", "gated", "logs")
        write_signed(folder / "approval.json", content, APPROVAL, self.identity)
        return self.entry(entry.id)

    def reject(self, text: str, reason: str = "") -> Entry:
        """Refuse the code, or outputs that wait; the modeller may be told `reason`."""
        entry = self.entry(text)
        if entry.status == "released":
            raise SandboxError("its outputs were released already; that cannot be taken back")
        folder = self._kept / entry.id
        self._forget(folder, "approval.json", "run.json", "gated")
        content = {"submission": entry.id, "reason": reason[:200], "time_s": int(time.time())}
        write_signed(folder / "refusal.json", content, REFUSAL, self.identity)
        return self.entry(entry.id)

    # the run

    def run(self, text: str) -> RunOutcome:
        """Run an approved submission on the private data and put its outputs through the gate.

        Raises SandboxError where it is not approved or was changed since, SandboxUnavailableError where no sandbox can
            be made.
        """
        entry = self.entry(text)
        folder = self._kept / entry.id
        if entry.status not in {"approved", "failed"}:
            raise SandboxError(f"submission {entry.id[:12]} is {entry.status}, not approved: nothing was run")
        self._allowed(entry.submission)
        approval = self._signed(folder, "approval.json", APPROVAL)
        data, n_rows = self._data(entry.submission)
        if approval["data_sha256"] != version_of(data):
            raise SandboxError("the data set changed after the approval: approve again; nothing was run")
        if approval["policy_sha256"] != self.policy.sha256:
            raise SandboxError("sandbox.yaml changed after the approval: approve again; nothing was run")
        self._forget(folder, "run.json", "gated", "logs")
        with self._staged(entry.submission, data) as inside:
            declared = {name: output.max_bytes for name, output in entry.submission.manifest.outputs.items()}
            outcome = run_inside(inside, declared, self.policy.limits)
        self._keep(folder, entry, outcome, approval, n_rows)
        return outcome

    def _data(self, submission: Submission) -> tuple[bytes, int]:
        table = read_dataset(self.config, submission.manifest.dataset)
        return table_csv(table, show_ids=self.policy.show_ids), table.n_rows

    @contextmanager
    def _staged(self, submission: Submission, data: bytes) -> Iterator[Inside]:
        """Put code and data that were just checked into a folder of this run; the frozen one is not read again."""
        check_host()
        with tempfile.TemporaryDirectory(prefix="veilscore-sandbox-") as temporary:
            stage = Path(temporary)
            inside = Inside(
                stage / "code", stage / "data", submission.manifest.entry, self.policy.python or default_python()
            )
            check_hidden(self.home, inside)
            open_folder(inside.code)
            open_folder(inside.data)
            write_files(submission.files, inside.code)
            write_files({"data.csv": data}, inside.data)
            yield inside

    def _keep(self, folder: Path, entry: Entry, outcome: RunOutcome, approval: dict[str, Any], n_rows: int) -> None:
        logs = JobStore(folder / "logs")
        for name, text in (("stdout.txt", outcome.stdout), ("stderr.txt", outcome.stderr)):
            write_file(logs.path / name, text)
        record: dict[str, Any] = {
            "submission": entry.id,
            "data_sha256": approval["data_sha256"],
            "policy_sha256": approval["policy_sha256"],
            "status": outcome.status,
            "exit_code": outcome.exit_code,
            "seconds": round(outcome.seconds, 3),
            "notes": list(outcome.refused),
            "passed": False,
        }
        try:
            if outcome.status == "done":
                gated = gate(outcome.outputs, entry.submission.manifest, self.policy, n_rows)
                write_outputs(folder / "gated", gated.files)
                record |= {
                    "passed": True,
                    "outputs": {name: version_of(content) for name, content in gated.files.items()},
                    "notes": [*outcome.refused, *gated.notes],
                    "epsilon": gated.epsilon,
                }
        except SandboxError as error:
            record["notes"] = [*outcome.refused, str(error)]
        write_signed(folder / "run.json", record, RUN, self.identity)

    def report(self, text: str) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return the record of the run and the outputs that wait for release, for the owner's eyes."""
        entry = self.entry(text)
        folder = self._kept / entry.id
        record = self._signed(folder, "run.json", RUN)
        return record, read_outputs(folder / "gated", record.get("outputs", {}))

    def release(self, text: str, reason: str = "") -> Path:
        """Sign the outputs, put them into the outbox and return their folder; once released they stay as they are.

        Raises SandboxError where there is nothing that passed the gate, or it was changed since.
        """
        entry = self.entry(text)
        if entry.status == "released":
            return self._outbox / entry.id
        if entry.status != "gated":
            raise SandboxError(f"submission {entry.id[:12]} is {entry.status}: it has no outputs that passed the gate")
        record, outputs = self.report(entry.id)
        target = self._outbox / entry.id
        write_outputs(target / OUTPUTS, outputs)
        content = {key: record[key] for key in ("submission", "data_sha256", "policy_sha256", "outputs", "epsilon")}
        content |= {"reason": reason[:200], "time_s": int(time.time())}
        write_signed(target / RELEASE_FILE, content, RELEASE, self.identity)
        return target

    def released(self, text: str) -> tuple[Submission, Path]:
        """Return a submission and the folder with its released outputs; SandboxError where nothing was released."""
        entry = self.entry(text)
        if entry.status != "released":
            raise SandboxError(f"submission {entry.id[:12]} is {entry.status}: only released outputs go back")
        return entry.submission, self._outbox / entry.id

    @staticmethod
    def _forget(folder: Path, *names: str) -> None:
        for name in names:
            path = folder / name
            try:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise StateError(f"{path} cannot be removed: {error.strerror}") from error
