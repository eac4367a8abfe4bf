"""Code reaches its owner's node over the fabric, its outputs come back, and hostile submissions are refused."""

import asyncio
import json
import re
import textwrap
from dataclasses import replace

import pytest
import yaml
from sandbox_home import need_sandbox, sandbox, write_project
from trial_federation import QUICK, commanding, make_homes

from veilscore.errors import IdentityError, RefusedError, SandboxError
from veilscore.files.store import write_text
from veilscore.keys.identity import load_identity
from veilscore.node.node import Node
from veilscore.sandbox.desk import Desk
from veilscore.sandbox.reception import MOST_WAITING, Reception, message_of
from veilscore.sandbox.submission import MAX_BYTES, make_submission
from veilscore.v1 import control_pb2 as pb

CODE = """
    import json
    rows = open('/data/data.csv').read().splitlines()[1:]
    open('/outputs/mean.json', 'w').write(json.dumps({'value': 1.5, 'count': len(rows)}))
"""


def write_code(folder, code=CODE, **manifest):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"name": "trial", "owner": "tax", "dataset": "main", "purpose": "features"}
    content |= {"outputs": {"mean.json": {"kind": "number"}}, **manifest}
    write_text(folder / "submission.yaml", yaml.safe_dump(content))
    write_text(folder / "main.py", textwrap.dedent(code))
    return folder


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    folder = make_homes(tmp_path_factory.mktemp("reception"))
    write_text(folder / "tax" / "data.csv", "uscc,turnover,default\n" + "".join(f"F{i:05d},{i},0\n" for i in range(60)))
    content = yaml.safe_load((folder / "tax" / "node.yaml").read_text())
    content["datasets"]["main"]["label_column"] = None
    write_text(folder / "tax" / "node.yaml", yaml.safe_dump(content))
    return folder


def with_owner(homes, work):
    """Run `work(command)` with the bank's identity while the tax bureau's node runs."""

    async def scenario():
        node = Node(homes / "tax", limits=QUICK)
        Reception(node.home, node.fabric)
        await node.start()
        try:
            async with commanding(homes / "bank") as command:
                return await work(command)
        finally:
            await node.stop(0.1)

    return asyncio.run(scenario())


async def send(command, message):
    return (await command.call("tax", "SubmitCode", message, pb.CodeSubmitted, timeout_s=10)).submission


def test_code_is_sent_run_and_its_outputs_fetched_by_two_commands(homes, tmp_path):
    need_sandbox()
    code, bank, tax = write_code(tmp_path / "code"), homes / "bank", homes / "tax"

    async def work(_command):
        def by_hand():
            sent = sandbox("submit", code, "--home", bank)
            waiting = sandbox("fetch", code, "--home", bank, exit_code=1)
            desk = Desk(tax)
            entry = desk.approve(re.search(r"submitted ([0-9a-f]{64}) to tax", sent)[1], "read")
            desk.run(entry.id)
            desk.release(entry.id)
            shown = sandbox("fetch", code, "--home", bank)
            sandbox("fetch", code, "--out", tmp_path / "result", "--home", bank)
            return waiting, shown

        return await asyncio.to_thread(by_hand)

    waiting, shown = with_owner(homes, work)
    assert "is waiting at its owner: no outputs yet" in waiting
    assert '"count":60' in shown.replace(" ", "")
    assert json.loads((tmp_path / "result" / "mean.json").read_text())["count"] == 60
    assert not any((tax / "sandbox" / "inbox").iterdir())  # nobody wrote into the owner's folders but its own node


def test_what_a_sender_may_not_do_is_refused(homes, tmp_path):
    bank = load_identity(homes / "bank" / "identity")
    good = message_of(make_submission(write_project(tmp_path / "project", dataset="main"), bank))
    changed = pb.SubmitCode()
    changed.CopyFrom(good)
    changed.files["main.py"] = b"print(1)"
    other = message_of(make_submission(write_code(tmp_path / "other"), load_identity(homes / "registry" / "identity")))

    def of(**files):
        return pb.SubmitCode(record=good.record, files=files)

    async def work(command):
        for message, error, words in (
            (changed, IdentityError, "signature"),
            (other, RefusedError, "signed by registry, not by bank"),
            (of(**{"../main.py": b""}), SandboxError, "name of other than"),
            (of(**{"main.py": b"", "main.py/x.py": b""}), SandboxError, "name of a folder"),
            (of(**{"main.py": bytes(MAX_BYTES + 1)}), SandboxError, "at most 200 files and 5 MiB"),
            (pb.SubmitCode(record=b"{}" + good.record, files=good.files), SandboxError, "cannot be read"),
            (pb.SubmitCode(record=b"[1]", files=good.files), SandboxError, "cannot be read"),
        ):
            with pytest.raises(error, match=words):
                await send(command, message)
        sent = await send(command, good)
        assert await send(command, good) == sent  # the same again changes nothing
        with pytest.raises(SandboxError, match="sent no submission"):
            await command.call(
                "tax", "AskOutputs", pb.AskOutputs(submission=sent[:8]), pb.ReleasedOutputs, timeout_s=10
            )
        for number in range(MOST_WAITING):
            code = write_code(tmp_path / "many", code=f"x = {number}")
            try:
                await send(command, message_of(make_submission(code, bank)))
            except RefusedError as refusal:
                return number, refusal.message
        return MOST_WAITING, ""

    number, refusal = with_owner(homes, work)
    assert 0 < number < MOST_WAITING
    assert "wait here already: wait for a decision" in refusal
    kept = [entry.submission for entry in Desk(homes / "tax").entries()]
    assert all(one.sender == "bank" for one in kept)
    assert replace(kept[0], signature=b"").sha256 == kept[0].sha256
