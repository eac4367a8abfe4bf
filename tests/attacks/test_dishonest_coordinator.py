"""A coordinator that reorders, drops, repeats or substitutes: parties refuse, and no score comes of it.

The attacker holds the coordinator's own key and calls the parties as the coordinator does; where it has to run the
federation as usual, its own code is replaced. What it can still do is in docs/threat_model.md.
"""

from __future__ import annotations

import asyncio
import json

import grpc
import numpy as np
import pytest
import test_scoring
from fabric_network import header
from finished_jobs import finished
from trial_evidence import open_nodes, receipt_path
from trial_federation import (
    JOB,
    commanding,
    make_homes,
    open_trial,
    running,
    submit,
    toy_job,
    watch,
)
from trial_scoring import copy_of, known_to_all, score, score_all, scoring, units_of

import coordinator.cross_sign
from coordinator.totals import Totals
from veilscore.crypto import shares
from veilscore.errors import EvidenceError, JobError, ProtocolError, RefusedError, VeilscoreError
from veilscore.evidence.documents import load_keys
from veilscore.evidence.receipt import JobReceipt
from veilscore.evidence.verify import verify_receipt
from veilscore.keys.identity import load_identity
from veilscore.models.filed import load_model
from veilscore.models.loss import TURN
from veilscore.protocols.adding import pack_partial
from veilscore.terms.acceptance import verify_acceptance
from veilscore.terms.job import new_job_id, parse_job
from veilscore.v1 import control_pb2, score_pb2, wire_pb2
from veilscore.wire.protocol import VERSION

OTHER = JOB.replace("purpose: credit", "purpose: marketing")


class Attacker:
    """The coordinator's key in the hand of somebody who orders what he likes."""

    def __init__(self, fabric):
        self.fabric = fabric

    async def propose(self, party, job_id, text, digest=None):
        digest = parse_job(text).sha256 if digest is None else digest
        proposal = control_pb2.JobProposal(job_id=job_id, job_yaml=text, job_sha256=digest)
        return await self.fabric.call(party, "Propose", proposal, control_pb2.Acceptance, timeout_s=5)

    async def order(self, party, job_id, step, attempt, deadline_s=5):
        request = control_pb2.StepOrder(job_id=job_id, step=step, attempt=attempt, deadline_s=deadline_s)
        return [e async for e in self.fabric.stream(party, "RunStep", request, control_pb2.StepEvent)][-1]

    async def step(self, job_id, step, attempt, parties=("bank", "tax", "registry"), deadline_s=5):
        return await asyncio.gather(*(self.order(p, job_id, step, attempt, deadline_s) for p in parties))


def attack(folder, scenario, parties=("bank", "tax", "registry")):
    """Run the parties without a coordinator and let the attacker act; returns what the scenario returns."""

    async def work():
        nodes = open_trial(folder, *parties)
        async with running(nodes), commanding(folder / "coordinator") as fabric:
            return await scenario(Attacker(fabric), nodes)

    return asyncio.run(work())


def made(folder, job_id, step):
    """Parties that have a result of a step."""
    return {p for p in ("bank", "tax", "registry") if (folder / p / "jobs" / job_id / f"out_{step}.json").is_file()}


# --- order of steps and attempts -------------------------------------------------------------------------------------


def test_steps_out_of_order(tmp_path):
    folder, job_id = make_homes(tmp_path), new_job_id(toy_job())

    async def scenario(attacker, _nodes):
        for party in ("bank", "tax", "registry"):
            assert (await attacker.propose(party, job_id, JOB)).accepted
        for step in ("bin", "score"):
            for party in ("bank", "tax", "registry"):
                with pytest.raises(JobError, match="before align is done"):
                    await attacker.order(party, job_id, step, 1)
        assert {e.WhichOneof("event") for e in await attacker.step(job_id, "align", 1)} == {"done"}
        assert {e.WhichOneof("event") for e in await attacker.step(job_id, "bin", 1)} == {"done"}
        for party in ("bank", "tax", "registry"):  # back to a step whose results are used already
            with pytest.raises(JobError, match="after bin had begun"):
                await attacker.order(party, job_id, "align", 2)

    attack(folder, scenario)
    assert made(folder, job_id, "align") == made(folder, job_id, "bin") == {"bank", "tax", "registry"}
    assert not made(folder, job_id, "score")


def test_an_attempt_number_twice_also_after_a_restart(tmp_path):
    """One-time secrets of an attempt must not serve twice, so its number never does."""
    folder, job_id = make_homes(tmp_path), new_job_id(toy_job())

    async def first(attacker, _nodes):
        for party in ("bank", "tax", "registry"):
            await attacker.propose(party, job_id, JOB)
        await attacker.step(job_id, "align", 3)

    async def again(attacker, _nodes):
        for attempt in (1, 2, 3):
            for party in ("bank", "tax", "registry"):
                with pytest.raises(JobError, match="begun already"):
                    await attacker.order(party, job_id, "align", attempt)

    attack(folder, first)
    before = {p: (folder / p / "jobs" / job_id / "out_align.json").read_bytes() for p in ("bank", "tax", "registry")}
    attack(folder, again)
    assert before == {p: (folder / p / "jobs" / job_id / "out_align.json").read_bytes() for p in before}


def test_an_order_that_one_party_never_gets(tmp_path):
    """The others end without a result, and nothing goes on from there."""
    folder, job_id = make_homes(tmp_path), new_job_id(toy_job())

    async def scenario(attacker, _nodes):
        for party in ("bank", "tax", "registry"):
            await attacker.propose(party, job_id, JOB)
        outcomes = await attacker.step(job_id, "align", 1, ("bank", "registry"), deadline_s=1)
        assert outcomes[0].WhichOneof("event") == "failed"
        with pytest.raises(JobError, match="before align is done"):
            await attacker.order("bank", job_id, "bin", 1)
        with pytest.raises(JobError, match="before align is done"):
            await attacker.order("tax", job_id, "bin", 1)

    attack(folder, scenario)
    assert "bank" not in made(folder, job_id, "align")
    assert "tax" not in made(folder, job_id, "align")


def test_parties_in_different_attempts(tmp_path):
    """Their messages are of different sessions and do not meet."""
    folder, job_id = make_homes(tmp_path), new_job_id(toy_job())

    async def scenario(attacker, _nodes):
        for party in ("bank", "tax", "registry"):
            await attacker.propose(party, job_id, JOB)
        orders = (
            attacker.order("bank", job_id, "align", 1, 1),
            attacker.order("tax", job_id, "align", 2, 1),
            attacker.order("registry", job_id, "align", 2, 1),
        )
        return await asyncio.gather(*orders)

    events = attack(folder, scenario)
    assert {e.WhichOneof("event") for e in events} == {"failed"}
    assert not made(folder, job_id, "align")


# --- substituted jobs and answers ------------------------------------------------------------------------------------


def test_another_job_under_an_id_that_was_answered(tmp_path):
    folder, job_id = make_homes(tmp_path, tax={"accept": "manual"}), new_job_id(toy_job())

    async def scenario(attacker, nodes):
        assert (await attacker.propose("tax", job_id, JOB)).pending
        nodes["tax"].ledger.answer(job_id, "accepted", "yes")
        for digest in (None, toy_job().sha256):
            with pytest.raises(JobError, match="does not belong to this job"):
                await attacker.propose("tax", job_id, OTHER, digest)
        with pytest.raises(JobError, match="does not have the digest"):
            await attacker.propose("tax", job_id, JOB, parse_job(OTHER).sha256)
        return nodes["tax"].ledger.entry(job_id)

    entry = attack(folder, scenario, ("tax",))
    assert entry.job == toy_job()


def test_each_party_gets_another_job(tmp_path):
    """Ids are bound to their jobs, so parties with different jobs are in different sessions."""
    folder = make_homes(tmp_path)
    ids = {JOB: new_job_id(parse_job(JOB)), OTHER: new_job_id(parse_job(OTHER))}

    async def scenario(attacker, _nodes):
        for party, text in (("bank", JOB), ("registry", JOB), ("tax", OTHER)):
            assert (await attacker.propose(party, ids[text], text)).accepted
        with pytest.raises(JobError, match="no such job"):
            await attacker.order("tax", ids[JOB], "align", 1)
        orders = (
            attacker.order("bank", ids[JOB], "align", 1, 1),
            attacker.order("registry", ids[JOB], "align", 1, 1),
            attacker.order("tax", ids[OTHER], "align", 1, 1),
        )
        return await asyncio.gather(*orders)

    events = attack(folder, scenario)
    assert events[0].WhichOneof("event") == events[2].WhichOneof("event") == "failed"
    assert not any("bank" in made(folder, job_id, "align") for job_id in ids.values())


def test_an_answer_turned_or_used_for_another_job(tmp_path):
    folder, job = make_homes(tmp_path, tax={"purposes": ["other"]}), toy_job()
    job_id = new_job_id(job)

    async def scenario(attacker, _nodes):
        refused = await attacker.propose("tax", job_id, JOB)
        accepted = await attacker.propose("registry", job_id, JOB)
        with pytest.raises(RefusedError, match="is refused at tax"):
            await attacker.order("tax", job_id, "align", 1)
        return refused, accepted

    refused, accepted = attack(folder, scenario, ("tax", "registry"))
    keys = {p: load_identity(folder / p / "identity").certificate for p in ("tax", "registry")}
    verify_acceptance(refused, keys["tax"], job_id, job)
    refused.accepted = True
    with pytest.raises(VeilscoreError, match="signature"):
        verify_acceptance(refused, keys["tax"], job_id, job)
    with pytest.raises(ProtocolError, match="another job or party"):
        verify_acceptance(accepted, keys["tax"], job_id, job)
    other = parse_job(OTHER)
    accepted.job_sha256 = other.sha256
    with pytest.raises(VeilscoreError):
        verify_acceptance(accepted, keys["registry"], job_id, other)


# --- substituted messages --------------------------------------------------------------------------------------------


def test_messages_in_the_name_of_a_party(tmp_path):
    """It cannot speak for a party, nor for itself in a step that is not its own."""
    folder, job_id = make_homes(tmp_path), new_job_id(toy_job())
    payload = b"forged"

    async def deliver(node, session, sender):
        identity = load_identity(folder / "coordinator" / "identity")
        pinned = load_identity(folder / "tax" / "identity").certificate
        credentials = grpc.ssl_channel_credentials(pinned.pem, identity.key_pem(), identity.certificate.pem)
        options = [("grpc.ssl_target_name_override", "tax")]
        chunks = [header(payload, session=session, sender=sender), wire_pb2.Chunk(data=payload)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{node.fabric.port}", credentials, options) as channel:
            call = channel.stream_unary("/veilscore.v1.Fabric/Deliver")(
                iter([c.SerializeToString() for c in chunks]), metadata=(("veilscore-version", VERSION),), timeout=3
            )
            return wire_pb2.Ack.FromString(await call)

    async def scenario(attacker, nodes):
        await attacker.propose("tax", job_id, JOB)
        with pytest.raises(grpc.aio.AioRpcError, match=r"sender|name of"):
            await deliver(nodes["tax"], f"{job_id}/align/1", "bank")
        with pytest.raises(grpc.aio.AioRpcError, match="session"):
            await deliver(nodes["tax"], f"{job_id}/align/1", "coordinator")
        # the control: in the step that it takes part in, its own message is taken
        assert not (await deliver(nodes["tax"], f"{job_id}/score/1", "coordinator")).duplicate

    attack(folder, scenario, ("tax",))


def total_of_a_batch():
    """The coordinator's message to the bank in a run of a batch."""
    kept = []

    def look(sender, recipient, sequence, payload):
        if test_scoring.kind_of(payload) == "BatchCoordinatorTotal":
            kept.append(test_scoring.decode(payload, score_pb2.BatchCoordinatorTotal, session="", sender="").data)
        return [payload]

    test_scoring.score(("tax", "registry"), tamper=look)
    return kept[0]


@pytest.mark.parametrize("how", ["random", "of another run of the same batch"])
def test_substituted_totals_of_a_batch(how):
    swapped = total_of_a_batch()
    if how == "random":
        words = np.random.default_rng(1).integers(0, TURN, len(swapped) // 8, dtype=np.uint64)
        swapped = shares.shares_to_bytes(words)
    fault = test_scoring.hostile(score_pb2.BatchCoordinatorTotal, "data", swapped)
    with pytest.raises(ProtocolError, match="do not add up to possible scores"):
        test_scoring.score(("tax", "registry"), tamper=fault)


def test_a_holders_part_of_a_batch_left_out():
    """Adding up without one holder's part leaves masks of the others in the sum."""

    def zero(sender, recipient, sequence, payload):
        if (sender, test_scoring.kind_of(payload)) != ("registry", "BatchHolderPartial"):
            return [payload]
        message = test_scoring.decode(payload, score_pb2.BatchHolderPartial, session="", sender=sender)
        message.data = bytes(len(message.data))
        return [test_scoring.encode(message)]

    with pytest.raises(ProtocolError, match="do not add up to possible scores"):
        test_scoring.score(("tax", "registry"), tamper=zero)


@pytest.fixture(scope="module")
def trained():
    folder = finished(score_all)
    return folder, units_of(folder, load_model(folder / "bank" / "models" / "firms" / "model.json"))


def test_substituted_and_incomplete_totals_of_one_firm(trained, tmp_path, monkeypatch):
    folder, units = trained
    homes = copy_of(folder, tmp_path)
    known = known_to_all(homes)
    honest, seen, how = Totals.total, [], "honest"

    async def total(self, message, peer):
        reply = await honest(self, message, peer)
        seen.append(reply.total_share)
        if how == "random":
            reply.total_share = pack_partial(np.random.default_rng(2).integers(0, 1 << 20, 1, dtype=np.uint64))
        elif how == "earlier":
            reply.total_share = seen[0]
        elif how == "incomplete":
            reply.total_share = next(iter(self._requests[message.request_id].partials.values()))
        return reply

    monkeypatch.setattr(Totals, "total", total)

    async def scenario():
        nonlocal how
        async with scoring(homes) as command:
            answers = {"honest": await score(command, "honest", known[0])}
            for number, attempt in enumerate(("random", "earlier", "incomplete"), start=1):
                how = attempt
                answers[attempt] = await score(command, attempt, known[number])
            return answers

    answers = asyncio.run(scenario())
    assert (answers["honest"].status, answers["honest"].units) == ("scored", units[known[0]])
    for attempt in ("random", "earlier", "incomplete"):
        assert answers[attempt].status == "failed", attempt
        assert "do not add up to a possible score" in answers[attempt].message


# --- receipts --------------------------------------------------------------------------------------------------------


def run_two(folder, dishonest, monkeypatch):
    """Two jobs; the coordinator cross-signs the second one dishonestly. Returns the job ids and what it told."""
    make_homes(folder)

    async def work():
        async with running(open_nodes(folder)), commanding(folder / "bank") as command:
            first = await submit(command)
            await watch(command, first)
            dishonest(monkeypatch, first)
            second = await submit(command)
            events = await watch(command, second)
            return first, second, [e.text for e in events]

    return asyncio.run(work())


def a_closing_for_anothers(monkeypatch, _first):
    """Hands out registry's closing in the place of tax's."""
    real = coordinator.cross_sign._Rounds.ask

    async def ask(self, ask, bodies, kind):
        replies = await real(self, ask, bodies, kind)
        if ask == "close":
            replies["tax"] = replies["registry"]
        return replies

    monkeypatch.setattr(coordinator.cross_sign._Rounds, "ask", ask)


def heads_left_out(monkeypatch, _first):
    """Shows the bank no head of tax, so that it would sign without it."""
    real = coordinator.cross_sign._offers

    def offers(closings, proofs, to):
        found = real(closings, proofs, to)
        return tuple(o for o in found if o.head.party != "tax") if to == "bank" else found

    monkeypatch.setattr(coordinator.cross_sign, "_offers", offers)


@pytest.mark.parametrize("dishonest", [a_closing_for_anothers, heads_left_out])
def test_cross_signing_that_leaves_out_or_swaps_a_party(tmp_path, monkeypatch, dishonest):
    first, second, told = run_two(tmp_path, dishonest, monkeypatch)
    keys = load_keys(tmp_path / "federation.yaml")
    verify_receipt(receipt_path(tmp_path, "tax", first).read_bytes(), keys)
    assert any("no receipt" in text for text in told)
    assert not receipt_path(tmp_path, "tax", second).exists()


def test_a_receipt_without_one_party_or_with_its_statement_of_another_job(tmp_path, monkeypatch):
    first, second, _ = run_two(tmp_path, lambda *_: None, monkeypatch)
    keys = load_keys(tmp_path / "federation.yaml")
    receipts = [json.loads(receipt_path(tmp_path, "tax", job).read_bytes()) for job in (first, second)]
    place = next(i for i, s in enumerate(receipts[1]["statements"]) if '"party":"tax"' in s["entry"])
    swapped = json.loads(json.dumps(receipts[1]))
    swapped["statements"][place] = receipts[0]["statements"][place]
    dropped = json.loads(json.dumps(receipts[1]))
    del dropped["statements"][place]
    for forged in (swapped, dropped):
        data = json.dumps(forged, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        with pytest.raises(EvidenceError):
            verify_receipt(data, keys)
    assert JobReceipt.parse(receipt_path(tmp_path, "tax", second).read_bytes()).job_id == second
