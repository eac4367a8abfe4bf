"""State machines without I/O: messages, parts, labels, and the loop that runs them."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilscore.errors import IdError, MessageError, PeerError, ProtocolError, VeilscoreError
from veilscore.v1 import align_pb2, scorecard_pb2, wire_pb2
from veilscore.wire import protocol
from veilscore.wire.driver import run
from veilscore.wire.inbox import SENT_AHEAD
from veilscore.wire.memory import MemoryNetwork, simulate
from veilscore.wire.protocol import (
    Checkpoint,
    Progress,
    Receive,
    Send,
    Session,
    decode,
    encode,
    pack_fields,
    receive,
    receive_chunks,
    receive_parts,
    receive_parts_within,
    send_chunks,
    send_parts,
    unpack_fields,
)
from veilscore.wire.transcript import Transcript

ROOT = Path(__file__).parents[1]
PING, PONG, PART = align_pb2.AlignBankRound1, align_pb2.AlignHolderRound1, scorecard_pb2.BinHolderHints


def sessions(*parties):
    return {p: Session("job/step/1", p, parties[0], parties[1:]) for p in parties}


# --- messages --------------------------------------------------------------------------------------------------------


def test_every_kind_survives_the_wire():
    for kind in wire_pb2.Body.DESCRIPTOR.oneofs_by_name["kind"].fields:
        message = getattr(wire_pb2.Body(), kind.name)
        assert decode(encode(type(message)()), type(message), session="s", sender="bank") == type(message)()


def test_another_kind_is_out_of_order():
    with pytest.raises(ProtocolError, match="out of order: expected AlignHolderRound1, got align_bank_round1"):
        decode(encode(PING(n_ids=1)), PONG, session="s", sender="bank")
    with pytest.raises(ProtocolError, match="nothing known to this version"):
        decode(b"", PONG, session="s", sender="bank")


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_refused(data):
    try:
        assert isinstance(decode(data, PING, session="s", sender="bank"), PING)
    except ProtocolError:
        with pytest.raises(ProtocolError) as caught:
            decode(data, PING, session="s", sender="bank")
        assert (caught.value.session, caught.value.party) == ("s", "bank")


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_truncated_message_is_refused_or_shorter(points, data):
    payload = encode(PING(n_ids=300, points=points))
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(ProtocolError):
        decode(payload[:cut], PING, session="s", sender="bank")


# --- parts and fields ------------------------------------------------------------------------------------------------


def carry(messages, n_bytes, receive=receive_parts):
    """Feed messages to `receive_parts`."""
    parts = receive("tax", PART, n_bytes)
    try:
        command = next(parts)
        for message in messages:
            assert command == Receive("tax", PART)
            command = parts.send(message)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("still waits for more")


@given(st.lists(st.binary(min_size=3, max_size=3), min_size=1, max_size=30), st.integers(1, 40))
def test_chunks_are_the_same_parts_and_are_taken_whole_as_they_come(chunks, part_bytes):
    data, taken = b"".join(chunks), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "PART_BYTES", part_bytes)
        sent = [command.message for command in send_chunks("bank", PART, len(data), iter(chunks))]
        assert sent == [command.message for command in send_parts("bank", PART, data)]
        carry(sent, len(data), lambda *of: receive_chunks(*of, 3, taken.append))
    assert b"".join(taken) == data
    assert all(one and len(one) % 3 == 0 for one in taken)


@given(st.binary(max_size=100), st.integers(1, 40))
def test_parts_come_together(data, part_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "PART_BYTES", part_bytes)
        sent = [command.message for command in send_parts("bank", PART, data)]
        assert all(len(message.data) <= part_bytes for message in sent)
        assert carry(sent, len(data)) == data
        if data:
            for wrong_size in (len(data) - 1, len(data) + 1):
                with pytest.raises(MessageError):
                    carry(sent, wrong_size)
            assert carry(sent, len(data), receive_parts_within) == carry(sent, 2 * len(data), receive_parts_within)
            with pytest.raises(MessageError, match="or more than"):
                carry(sent, len(data) - 1, receive_parts_within)
        if len(sent) > 1:
            for wrong in (sent[1:], [sent[0], sent[0]], sent[::-1]):
                with pytest.raises(MessageError):
                    carry(wrong, len(data))


@pytest.mark.parametrize(
    "message",
    [
        PART(part=0, parts=0, data=b"x"),
        PART(part=1, parts=2, data=b"x"),
        PART(part=0, parts=1 << 31, data=b""),
        PART(part=0, parts=1, data=b"x" * 11),
    ],
)
def test_wrong_parts_are_refused(message):
    with pytest.raises(MessageError, match=r"part \d of \d+ with \d+ bytes came, due is part 0 of 1 with 10"):
        carry([message], 10)
    with pytest.raises(MessageError, match="does not follow, or more than 10 bytes"):
        carry([message], 10, receive_parts_within)


def test_a_part_that_is_too_large_is_refused_before_the_next_is_asked_for():
    """A peer that would send 8 GiB in parts is refused at its first."""
    with pytest.raises(MessageError, match="part 0 of 1024 with 8388608 bytes came, due is part 0 of 1 with 300"):
        carry([PART(part=0, parts=1024, data=bytes(8 << 20))], 300)


def test_another_kind_among_parts_is_refused():
    with pytest.raises(ProtocolError, match="expected BinHolderHints from tax"):
        carry([PING()], 10)


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_fields(fields):
    data = pack_fields(*fields)
    assert unpack_fields(data, len(fields)) == tuple(fields)
    for wrong in (data + b"x", data[:-1] if data else b"x"):
        with pytest.raises(MessageError, match="not made of"):
            unpack_fields(wrong, len(fields))


@given(st.binary(max_size=60), st.integers(0, 4))
def test_any_bytes_are_fields_or_refused(data, n_fields):
    try:
        fields = unpack_fields(data, n_fields)
    except MessageError:
        return
    assert pack_fields(*fields) == data


# --- labels ----------------------------------------------------------------------------------------------------------

text = st.text(max_size=8)


@given(st.tuples(text, text, text, text), st.tuples(text, text, text, text))
def test_labels_differ_where_anything_differs(one, two):
    def label(session, purpose, sender, recipient):
        return Session(session, "bank", "bank", ("tax",)).label(purpose, sender, recipient)

    assert (label(*one) == label(*two)) == (one == two)


def test_the_lead_is_the_first_holder():
    assert Session("s", "bank", "bank", ("tax", "registry")).lead == "tax"


# --- the loop --------------------------------------------------------------------------------------------------------


def ping():
    yield Progress("starts", 0, 1)
    yield Send("tax", PING(n_ids=3))
    yield Checkpoint({"sent": 1})
    answer = yield from receive("tax", PONG)
    return answer.n_ids


def pong():
    question = yield from receive("bank", PING)
    yield Send("bank", PONG(n_ids=question.n_ids + 1))
    return question.n_ids


def test_run_and_what_is_recorded():
    transcripts, checkpoints = {}, {}
    done = simulate(
        {"bank": ping(), "tax": pong()}, sessions("bank", "tax"), transcripts=transcripts, checkpoints=checkpoints
    )
    assert done == {"bank": 4, "tax": 3}
    assert checkpoints == {"bank": [{"sent": 1}], "tax": []}
    payload = encode(PING(n_ids=3))
    for party in ("bank", "tax"):
        first, second = transcripts[party].entries
        assert (first.sender, first.recipient, first.sequence, first.kind) == ("bank", "tax", 0, "AlignBankRound1")
        assert (first.size_bytes, first.sha256) == (len(payload), hashlib.sha256(payload).hexdigest())
        assert (second.sender, second.kind) == ("tax", "AlignHolderRound1")
        assert transcripts[party].bytes_sent("bank") == len(payload)
        assert transcripts[party].messages[0][1] == PING(n_ids=3)
        assert "n_ids" not in repr(transcripts[party])


def test_a_transcript_keeps_no_content_unless_asked():
    transcript = Transcript()
    transcript.add("s", "bank", "tax", 0, PING(n_ids=1), b"payload")
    assert (len(transcript.entries), transcript.messages) == (1, [])


def test_progress_is_told():
    async def scenario():
        network, told = MemoryNetwork(), []
        both = sessions("bank", "tax")
        await asyncio.gather(
            run(ping(), network.channel("bank"), both["bank"], progress=told.append),
            run(pong(), network.channel("tax"), both["tax"]),
        )
        return told

    assert asyncio.run(scenario()) == [Progress("starts", 0, 1)]


def test_the_event_loop_stays_free():
    """The generator computes, and messages are encoded and hashed, in another thread."""
    threads = set()

    class Watching(Transcript):
        def add(self, *args):
            threads.add(threading.current_thread())
            super().add(*args)

    def busy():
        threads.add(threading.current_thread())
        yield Send("tax", PING(n_ids=1))

    async def scenario():
        await run(busy(), MemoryNetwork().channel("bank"), sessions("bank", "tax")["bank"], transcript=Watching())
        return threading.current_thread()

    loop_thread = asyncio.run(scenario())
    assert threads
    assert loop_thread not in threads


def test_a_send_alone_is_no_answer():
    def impatient():
        yield Send("tax", PING())
        yield from receive("tax", PING)

    with pytest.raises(ProtocolError, match="out of order"):
        simulate({"bank": impatient(), "tax": pong()}, sessions("bank", "tax"), timeout_s=5)


def test_what_no_protocol_yields_is_refused():
    step = receive("tax", PONG)
    next(step)
    with pytest.raises(ProtocolError, match="expected AlignHolderRound1 from tax"):
        step.send(PING())


@pytest.mark.parametrize("n_waiting", [1, 5])
def test_one_failure_ends_all_at_once(n_waiting):
    """Others neither wait out their timeout nor hide the error that came first."""
    waiting = [f"holder{k}" for k in range(n_waiting)]

    def fails():
        for holder in waiting:
            yield Send(holder, PING(n_ids=1))
        raise IdError("too few ids")

    def waits():
        while True:
            yield from receive("bank", PING)

    start = time.monotonic()
    with pytest.raises(IdError, match="too few"):
        simulate({"bank": fails(), **{h: waits() for h in waiting}}, sessions("bank", *waiting), timeout_s=30)
    assert time.monotonic() - start < 5


def test_roles_that_did_not_end_are_closed():
    """What they hold, such as threads, is let go of at once and not by the garbage collector."""
    closed = []

    def fails():
        yield Send("tax", PING(n_ids=1))
        raise IdError("too few ids")

    def waits():
        try:
            while True:
                yield from receive("bank", PING)
        finally:
            closed.append("tax")

    waiting = waits()
    with pytest.raises(IdError):
        simulate({"bank": fails(), "tax": waiting}, sessions("bank", "tax"), timeout_s=30)
    assert closed == ["tax"]


def test_a_cancellation_that_meets_a_message_is_not_swallowed():
    async def scenario():
        network = MemoryNetwork(timeout_s=30)
        channel = network.channel("tax")

        async def forever():
            while True:
                await channel.receive("bank")

        for _ in range(20):
            task = asyncio.create_task(forever())
            await asyncio.sleep(0)
            await network.channel("bank").send("tax", b"message")
            task.cancel()
            await asyncio.wait([task], timeout=2)
            assert task.cancelled()

    asyncio.run(scenario())


def test_silence_ends_in_an_error():
    def silent():
        yield Progress("nothing to say", 1, 1)

    with pytest.raises(PeerError, match=r"no message from tax within 0\.2 s"):
        simulate({"bank": ping(), "tax": silent()}, sessions("bank", "tax"), timeout_s=0.2)


def test_errors_leave_with_session_and_party():
    def breaks():
        yield Progress("soon", 0, 1)
        raise MessageError("it broke")

    with pytest.raises(MessageError) as caught:
        simulate({"bank": breaks()}, sessions("bank"))
    assert str(caught.value) == "it broke [party bank, session job/step/1]"


def test_errors_say_where():
    error = VeilscoreError("it broke; mend it", session="job/bin/1", party="tax")
    assert str(error) == "it broke; mend it [party tax, session job/bin/1]"
    assert str(VeilscoreError("plain")) == "plain"


# --- sends under way -------------------------------------------------------------------------------------------------


class SlowChannel:
    """Delivers when told to, or fails."""

    def __init__(self, fails_at=None):
        self.gate = asyncio.Event()
        self.begun, self.arrived = [], []
        self.fails_at = fails_at

    async def send(self, to, payload, digest):
        assert digest == hashlib.sha256(payload).digest()
        self.begun.append(payload)
        await self.gate.wait()
        if len(self.arrived) == self.fails_at:
            raise PeerError(f"{to} is gone")
        self.arrived.append(payload)

    async def receive(self, sender):
        await asyncio.sleep(30)
        raise AssertionError(f"{sender} was waited for in vain")


def numbered(count, then=()):
    for number in range(count):
        yield Send("tax", PING(n_ids=number))
    yield from then


def drive(role, channel, **options):
    return run(role, channel, sessions("bank", "tax")["bank"], **options)


def test_a_role_computes_on_while_messages_are_delivered_in_order():
    async def scenario():
        channel, told = SlowChannel(), asyncio.Event()
        role = numbered(3, [Progress("all sent", 3, 3)])
        task = asyncio.create_task(drive(role, channel, progress=lambda _: told.set()))
        await told.wait()
        assert channel.arrived == []
        assert channel.begun == [encode(PING(n_ids=number)) for number in range(3)]  # side by side, in order
        assert not task.done()
        channel.gate.set()
        await task
        assert channel.arrived == [encode(PING(n_ids=number)) for number in range(3)]

    asyncio.run(scenario())


def test_few_messages_are_under_way_at_once():
    async def scenario():
        channel, transcript = SlowChannel(), Transcript()
        task = asyncio.create_task(drive(numbered(20), channel, transcript=transcript))
        await asyncio.sleep(0.3)
        assert len(transcript.entries) <= SENT_AHEAD + 2  # one held, one made
        channel.gate.set()
        await task
        assert len(channel.arrived) == 20

    asyncio.run(scenario())


def test_a_checkpoint_waits_until_what_was_sent_has_arrived():
    async def scenario():
        channel, kept = SlowChannel(), []
        task = asyncio.create_task(drive(numbered(2, [Checkpoint({"at": 1})]), channel, checkpoint=kept.append))
        await asyncio.sleep(0.2)
        assert kept == []
        channel.gate.set()
        await task
        assert kept == [{"at": 1}]

    asyncio.run(scenario())


@pytest.mark.parametrize("then", [[], [Receive("tax", PONG)], [Checkpoint({})], [Send("tax", PING(n_ids=9))] * 9])
def test_a_failed_delivery_ends_the_role_wherever_it_waits(then):
    async def scenario():
        channel = SlowChannel(fails_at=1)
        channel.gate.set()
        async with asyncio.timeout(60):
            with pytest.raises(PeerError, match="tax is gone"):
                await drive(numbered(3, then), channel)
        assert channel.arrived == [encode(PING(n_ids=0))]

    asyncio.run(scenario())


def test_a_role_that_is_cancelled_sends_no_more():
    async def scenario():
        channel = SlowChannel()
        task = asyncio.create_task(drive(numbered(3), channel))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        channel.gate.set()
        await asyncio.sleep(0.05)
        assert channel.arrived == []

    asyncio.run(scenario())


# what depends on the sender's own data, and is bounded alone: consents of a bank, associated columns of a holder
BOUNDED = {"veilscore/release/batch.py", "veilscore/protocols/screening.py"}


def test_sizes_of_parts_are_exact_but_where_nobody_can_know_them():
    """No call passes a number or a constant of the file: what is due follows from sizes that both parties know."""
    bounded, exact = set(), 0
    for path in sorted((ROOT / "veilscore").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id == "receive_parts_within":
                bounded.add(path.relative_to(ROOT).as_posix())
            if node.func.id == "receive_parts":
                exact += 1
                names = {n.id for n in ast.walk(node.args[2]) if isinstance(n, ast.Name)}
                assert not isinstance(node.args[2], ast.Constant), f"{path}:{node.lineno}"
                assert not {n for n in names if n.startswith(("MAX_", "MOST_"))}, f"{path}:{node.lineno}"
    assert bounded == BOUNDED
    assert exact > 30
