"""Submissions arrive at the owner's running node over the fabric, and released outputs go back the same way.

Messages: SubmitCode, from whoever signed it, answered with CodeSubmitted; AskOutputs, answered with ReleasedOutputs.
Reveals : to the sender, why it is refused, or what became of it; to nobody else.
Aborts  : never the node; what is not as it must be is refused before anything is written.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from veilscore.errors import RefusedError, SandboxError
from veilscore.fabric.fabric import Fabric
from veilscore.keys.identity import ROLES, Certificate
from veilscore.node.node import Node
from veilscore.sandbox.desk import Desk
from veilscore.sandbox.release import RELEASE_FILE, read_release, write_file
from veilscore.sandbox.submission import (
    Submission,
    check_files,
    parse_record,
    read_regular,
    record_of,
    submission_of,
)
from veilscore.terms.federation import Member
from veilscore.v1 import control_pb2 as pb

MOST_WAITING = 20  # submissions of one sender that nobody has decided on: each may take 5 MiB of the owner's disk
_MOST_BYTES = 12 << 20  # of outputs in one reply
_MOST_RECORD = 1 << 20


def open_node(home: Path | str) -> Node:
    """Return the node of a home, which takes submissions too."""
    node = Node(home)
    Reception(node.home, node.fabric)
    return node


class Reception:
    """Takes submissions for one home.

    fabric : of its node; the calls are registered at it.
    """

    def __init__(self, home: Path, fabric: Fabric) -> None:
        self._home, self._fabric, self._one = home, fabric, asyncio.Lock()
        fabric.register("SubmitCode", set(ROLES), pb.SubmitCode, self._submit)
        fabric.register("AskOutputs", set(ROLES), pb.AskOutputs, self._outputs)

    def _desk(self) -> Desk:
        return Desk(self._home, (self._fabric.identity, self._fabric.federation))

    async def _submit(self, request: pb.SubmitCode, peer: Member) -> pb.CodeSubmitted:
        async with self._one:
            return await asyncio.to_thread(self._take, request, peer.name)

    def _take(self, request: pb.SubmitCode, sender: str) -> pb.CodeSubmitted:
        files = dict(request.files)
        check_files(files)
        try:
            record = parse_record(request.record[:_MOST_RECORD])
        except ValueError as error:
            raise SandboxError("the record of the submission cannot be read") from error
        submission, desk = submission_of(record, files, "sent here"), self._desk()
        if submission.sender != sender:
            raise RefusedError(f"the submission is signed by {submission.sender}, not by {sender}, who sends it")
        known = {entry.id: entry for entry in desk.entries() if entry.submission.sender == sender}
        if submission.sha256 not in known and sum(e.status == "waiting" for e in known.values()) >= MOST_WAITING:
            raise RefusedError(f"{MOST_WAITING} submissions of {sender} wait here already: wait for a decision")
        return pb.CodeSubmitted(submission=desk.accept(submission))

    async def _outputs(self, request: pb.AskOutputs, peer: Member) -> pb.ReleasedOutputs:
        return await asyncio.to_thread(self._give, request.submission, peer.name)

    def _give(self, text: str, sender: str) -> pb.ReleasedOutputs:
        desk = self._desk()
        found = [entry for entry in desk.entries() if entry.submission.sender == sender and entry.id == text]
        if not found:
            raise SandboxError(f"{sender} sent no submission {text[:64]!r} here")
        if found[0].status != "released":
            decided = found[0].status if found[0].status in {"waiting", "refused"} else "approved"
            return pb.ReleasedOutputs(status=decided)
        submission, folder = desk.released(text)
        record = read_regular(folder / RELEASE_FILE, _MOST_RECORD, "the release")
        files = read_release(folder, desk.identity.certificate, submission)
        if sum(map(len, files.values())) > _MOST_BYTES:
            raise SandboxError(f"its outputs are larger than {_MOST_BYTES >> 20} MiB: ask the owner for the files")
        return pb.ReleasedOutputs(status="released", record=record, files=files)


def message_of(submission: Submission) -> pb.SubmitCode:
    """Return the message that brings a submission to its owner."""
    return pb.SubmitCode(record=record_of(submission), files=dict(submission.files))


def outputs_of(reply: pb.ReleasedOutputs, submission: Submission, owner: Certificate) -> dict[str, bytes]:
    """Return the outputs in a reply, by name; SandboxError where the owner did not sign them for exactly that code."""
    if reply.status != "released":
        raise SandboxError(f"submission {submission.sha256[:12]} is {reply.status[:20]} at its owner: no outputs yet")
    with tempfile.TemporaryDirectory(prefix="veilscore-outputs-") as temporary:
        folder = Path(temporary)
        write_file(folder / RELEASE_FILE, reply.record)
        for name, content in reply.files.items():
            if name not in submission.manifest.outputs:
                raise SandboxError("the reply holds an output that the submission did not declare")
            write_file(folder / name, content)
        return read_release(folder, owner, submission, outputs=".")
