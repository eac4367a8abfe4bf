"""A log that its owner cuts at the end: every entry older than a minute is under a head that the others hold."""

import asyncio
import time

import pytest
from trial_evidence import log_path, open_nodes, receipt_path, run_jobs
from trial_federation import JOB, QUICK, commanding, open_trial, running, submit, until, watch
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.errors import EvidenceError, PeerError
from veilscore.evidence.exchange import Offer
from veilscore.evidence.head_watch import OFFER_S
from veilscore.evidence.heads import SignedHead, check_successor
from veilscore.evidence.log import scan
from veilscore.evidence.receipt import JobReceipt
from veilscore.node.node import Node
from veilscore.v1.control_pb2 import EvidenceCall, EvidenceReply

MORE = 30  # entries of single scores after the job


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A federation after a job and after single scores, which no job closed."""
    folder = tmp_path_factory.mktemp("truncation")
    run_jobs(folder)

    async def work():
        nodes = open_nodes(folder)
        for node in nodes.values():
            node.heads.offer_s = 0.2
        async with running(nodes):
            tax = nodes["tax"].evidence
            for number in range(MORE):
                tax.log.append([{"kind": "score", "number": number, "time_ms": tax.log.now_ms()}])
            await until(lambda: all(nodes[n].evidence.seen["tax"].size == tax.log.size for n in nodes if n != "tax"))
            size = tax.log.size
            await asyncio.sleep(0.5)
            assert tax.log.size == size  # heads that are exchanged are no news to exchange

    asyncio.run(work())
    return folder


def cut(folder, size):
    """The log as it was under a head of `size` entries or fewer."""
    path = log_path(folder, "tax")
    lines, kept, count = path.read_bytes().splitlines(keepends=True), [], 0
    for line in lines:
        count += line.startswith(b"E ")
        if count > size:
            break
        kept.append(line)
    while not kept[-1].startswith(b"H "):
        kept.pop()
    return path.read_bytes(), b"".join(kept)


def verify(*args):
    return CliRunner().invoke(app, ["evidence", "verify-log", *map(str, args)])


def test_single_scores_are_under_a_head_of_the_others_within_a_minute():
    assert OFFER_S <= 60


def test_a_log_cut_behind_its_last_job_is_found_by_heads_at_hand(folder):
    home, path = folder / "tax", log_path(folder, "tax")
    job_head = _job_head(folder).head.size
    whole, short = cut(folder, job_head + 1)
    assert scan(path).head.size >= job_head + MORE
    found = verify(home)
    assert (found.exit_code, "0 came after it" in found.output) == (0, True), found.output
    path.write_bytes(short)
    try:
        for args in (
            (home,),
            (path, "--keys", folder / "federation.yaml", "--seen", folder / "bank"),
            (path, "--keys", folder / "federation.yaml", "--head", folder / "bank/evidence/heads/tax.json"),
        ):
            refused = verify(*args)
            assert isinstance(refused.exception, EvidenceError)
            assert "is shorter than the one of" in str(refused.exception)
        alone = verify(path, "--keys", folder / "federation.yaml")
        assert (alone.exit_code, "that does not show" in alone.output) == (1, True)
        # what a job's receipt holds was all that others held before: it does not notice
        receipt = next((folder / "bank" / "evidence" / "receipts").glob("*.json"))
        assert verify(path, "--keys", folder / "federation.yaml", "--seen", receipt).exit_code == 0
    finally:
        path.write_bytes(whole)


def _job_head(folder):
    path = next((folder / "bank" / "evidence" / "receipts").glob("*.json"))
    return next(one for one in JobReceipt.parse(path.read_bytes()).statements if one.head.party == "tax")


def test_the_other_parties_are_asked_and_the_owner_that_cut_its_log_does_not_start(folder):
    path = log_path(folder, "tax")
    whole, short = cut(folder, _job_head(folder).head.size + 1)
    path.write_bytes(short)

    async def work():
        async with running(open_trial(folder, "bank", "coordinator")):
            said = await asyncio.to_thread(
                verify, path, "--home", folder / "tax", "--keys", folder / "federation.yaml", "--ask"
            )
            assert isinstance(said.exception, EvidenceError)
            assert "registry does not answer" in said.output
            node = Node(folder / "tax", limits=QUICK)
            try:
                with pytest.raises(EvidenceError, match="countersigned entry"):
                    await node.start()
            finally:
                await node.stop(0.1)

    try:
        asyncio.run(work())
    finally:
        path.write_bytes(whole)
        (folder / "tax" / "evidence" / "behind.json").unlink(missing_ok=True)


def test_an_offer_of_another_history_leaves_a_proof_and_a_foreign_one_nothing(folder, tmp_path):
    """An owner that wrote its log anew offers it: the others keep both heads."""

    async def work():
        nodes = open_nodes(folder)
        async with running(nodes), commanding(folder / "tax") as tax:
            bank, log = nodes["bank"].evidence, nodes["tax"].evidence.log
            seen = bank.seen["tax"]
            signer = nodes["tax"].fabric.identity

            async def offer(head, path=()):
                call = EvidenceCall(ask="offer", body=Offer(head=head, path=path).to_bytes())
                return await tax.call("bank", "HeadSeen", call, EvidenceReply, timeout_s=5, retry=False)

            now_ms = int(time.time() * 1000)
            with pytest.raises(EvidenceError, match="another's log"):
                await offer(nodes["registry"].evidence.log.head)
            with pytest.raises(EvidenceError, match="check the clocks"):
                await offer(SignedHead.sign(signer, seen.size + 9, b"\1" * 32, "", now_ms - 3_600_000))
            with pytest.raises(EvidenceError, match="not countersigned"):  # it may be the proof alone that is wrong
                await offer(SignedHead.sign(signer, seen.size + 9, b"\1" * 32, "", now_ms))
            assert not (folder / "bank/evidence/forks").exists()
            with pytest.raises(PeerError, match="two histories"):
                await offer(SignedHead.sign(signer, seen.size - 1, b"\1" * 32, "", now_ms))
            assert list((folder / "bank/evidence/forks").iterdir())
            assert bank.seen["tax"] == seen
            with pytest.raises(EvidenceError, match="is unknown"):
                await tax.call(
                    "bank", "HeadSeen", EvidenceCall(ask="of", job_id="registry"), EvidenceReply, timeout_s=5
                )
            assert log.continues(seen)

    asyncio.run(work())


@pytest.mark.slow
def test_heads_offered_while_a_job_is_signed_cost_it_no_receipt(folder):
    """An offer between the rounds would outrun the proofs, and its owner would look like one with two histories."""

    async def work():
        nodes = open_nodes(folder)
        for node in nodes.values():
            node.heads.offer_s = 0.01
        async with running(nodes), commanding(folder / "bank") as command:
            noise = asyncio.create_task(_noise(nodes["tax"].evidence))
            jobs = [await submit(command, f"{JOB}parameters: {{firms: 5}}\n") for _ in range(3)]
            for job_id in jobs:
                assert (await watch(command, job_id))[-1].status == "done"
            noise.cancel()
            return jobs

    for job_id in asyncio.run(work()):
        assert receipt_path(folder, "tax", job_id).is_file()


async def _noise(recorder):
    while True:
        await asyncio.to_thread(recorder.noted, "score", number=0)
        await asyncio.sleep(0.01)


def test_an_older_head_that_comes_late_is_no_fork(folder):
    """Two jobs end at once: the head of the first may come after that of the second."""
    heads = scan(log_path(folder, "tax")).heads
    keys = open_trial(folder, "bank")["bank"].evidence.keys
    with pytest.raises(EvidenceError) as caught:
        check_successor(heads[-1], heads[-3], (), keys)
    assert type(caught.value) is EvidenceError


def test_the_head_seen_last_with_a_proof_from_an_older_one_is_no_fork(folder):
    """An offer under way when a job's head came first: the same log, and no proof that its party signed two."""
    head = scan(log_path(folder, "tax")).heads[-1]
    node = open_trial(folder, "tax")["tax"]
    node.evidence.open()
    try:
        path = tuple(step.hex() for step in node.evidence.log.consistency(head.size // 2, head.size))
    finally:
        node.evidence.close()
    keys = open_trial(folder, "bank")["bank"].evidence.keys
    assert path
    check_successor(head, head, path, keys)
    with pytest.raises(EvidenceError):
        check_successor(None, head, path, keys)
