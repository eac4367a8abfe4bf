"""Messages of one sender that are under way at once: read in order, once, within the inbox's bound."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib

import grpc
import pytest
from fabric_network import header, on_network, session

from veilscore.errors import PeerError, ProtocolError
from veilscore.fabric.sessions import _Sending
from veilscore.wire.inbox import SENT_AHEAD, Inbox, QueueFullError, WireLimits


def test_messages_sent_ahead_are_read_in_order_whatever_the_line_does(monkeypatch):
    """The first ones are slow, lost, or acknowledged in vain; what follows them is on its way already."""

    async def scenario(bank, tax):
        take, begun, early = tax._take, [], []

        async def take_badly(peer, caller):
            number = len(begun)
            begun.append(number)
            if number == 0:  # lost before it arrived; the next three wait at the recipient
                while len(begun) < SENT_AHEAD:  # noqa: ASYNC110 - what a channel began has no event
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.2)
                early.append(len(begun))
                await caller._context.abort(grpc.StatusCode.UNAVAILABLE, "connection lost")
            ack = await take(peer, caller)
            if number == 2:
                await caller._context.abort(grpc.StatusCode.UNAVAILABLE, "acknowledgement lost")
            return ack

        monkeypatch.setattr(tax, "_take", take_badly)
        channel = bank.channel(session("bank"))
        sent = [bytes([k]) * (1 + 70_000 * (k % 3)) for k in range(12)]
        await asyncio.gather(*[channel.send("tax", each, hashlib.sha256(each).digest()) for each in sent])
        read = [await tax.channel(session("tax")).receive("bank") for _ in sent]
        assert early[0] == SENT_AHEAD
        assert tax.bytes_received("job/step/1") == bank.bytes_sent("job/step/1") == sum(map(len, sent))
        return read == sent

    assert on_network(scenario, "bank", "tax")


def test_a_message_that_failed_keeps_its_number_while_later_ones_arrived():
    async def scenario():
        sending = _Sending("tax", "job/step/1")
        with contextlib.suppress(PeerError):
            async with sending.numbered(b"a") as first:
                async with sending.numbered(b"b") as second:
                    assert (first, second, sending.acknowledged) == (0, 1, 0)
                raise PeerError("lost")
        assert sending.acknowledged == 0
        with pytest.raises(ProtocolError, match="message 0 to tax failed before and may have arrived"):
            async with sending.numbered(b"c"):
                pass
        async with sending.numbered(b"a") as again:
            assert again == 0
        async with sending.numbered(b"c") as third:
            assert (third, sending.acknowledged) == (2, 2)

    asyncio.run(scenario())


def test_an_inbox_holds_what_came_early_and_refuses_what_cannot_follow():
    async def scenario():
        inbox = Inbox("s", WireLimits(message_bytes=10, inbox_bytes=20))
        zero, one, far = (header(bytes(10), sequence=k).header for k in (0, 1, SENT_AHEAD))
        known_here = header(bytes(10), sequence=2, acknowledged=2).header
        assert not inbox.has_it(one)
        for refused in (far, known_here):
            with pytest.raises(ProtocolError, match="out of order: 0 comes next"):
                inbox.has_it(refused)
        with pytest.raises(ProtocolError, match="out of order: 0 comes next"):
            inbox.put(one, bytes(10))
        with pytest.raises(QueueFullError, match=r"message 1 from bank waited 0\.01 s for message 0"):
            await inbox.turn(one, 0.01)
        waiting = asyncio.create_task(inbox.turn(one, 5))
        await asyncio.sleep(0)
        inbox.put(zero, bytes(10))
        await waiting
        assert not inbox.put(one, bytes(10))
        assert [await inbox.get("bank", 1) for _ in range(2)] == [bytes(10)] * 2

    asyncio.run(scenario())


def test_of_messages_that_came_early_none_keeps_out_the_one_that_is_awaited():
    """Copies of it have no room beyond the limit either, so that a peer cannot fill this node's memory with them."""

    async def scenario():
        inbox = Inbox("s", WireLimits(message_bytes=10, inbox_bytes=10))
        zero, one = (header(bytes(10), sequence=k).header for k in (0, 1))
        inbox.has_it(one)
        async with inbox.space(one, 0.1):
            with pytest.raises(QueueFullError):
                async with inbox.space(zero, 0.01):
                    pass
            reading = asyncio.create_task(inbox.get("bank", 5))
            await asyncio.sleep(0)
            async with inbox.space(zero, 0.1):
                assert inbox.used_bytes == 20
                with pytest.raises(QueueFullError):
                    async with inbox.space(zero, 0.01):
                        pass
            inbox.put(zero, bytes(10))
            await reading
            await inbox.turn(one, 1)
        inbox.put(one, bytes(10))
        assert inbox.used_bytes == 10

    asyncio.run(scenario())
