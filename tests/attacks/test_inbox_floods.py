"""A peer of a session fills an inbox with messages of no bytes, or loses the acknowledgements of its last ones."""

from __future__ import annotations

import asyncio

import pytest
from fabric_network import header

from veilscore.errors import ProtocolError
from veilscore.wire import inbox as wire_inbox
from veilscore.wire.inbox import SENT_AHEAD, Inbox, QueueFullError, WireLimits


def test_empty_messages_have_a_bound_and_the_awaited_one_gets_in(monkeypatch):
    monkeypatch.setattr(wire_inbox, "MOST_UNREAD", 3)

    async def scenario():
        inbox = Inbox("s", WireLimits(message_bytes=10, inbox_bytes=10))
        headers = [header(b"", sequence=k).header for k in range(4)]
        for each in headers[:3]:
            async with inbox.space(each, 0.01):
                pass
            inbox.put(each, b"")
        with pytest.raises(QueueFullError, match="messages: 3 of at most 3"):
            async with inbox.space(headers[3], 0.01):
                pass
        other = header(b"", sender="registry").header
        reading = asyncio.create_task(inbox.get("registry", 5))
        await asyncio.sleep(0)
        async with inbox.space(other, 0.1):  # whom somebody waits for is not kept out by another's flood
            pass
        inbox.put(other, b"")
        assert await reading == b""
        await inbox.get("bank", 1)
        async with inbox.space(headers[3], 0.1):
            assert (inbox.used_bytes, inbox.unread) == (0, 3)
        inbox.close("over")
        assert inbox.unread == 0

    asyncio.run(scenario())


def test_what_was_under_way_at_the_end_is_acknowledged_and_nothing_else():
    """All that a sender may have sent ahead arrived and was read; every acknowledgement of it was lost."""

    async def scenario():
        inbox = Inbox("s", WireLimits(message_bytes=10, inbox_bytes=100))
        headers = [header(bytes([k]), sequence=k).header for k in range(SENT_AHEAD + 2)]
        for number, each in enumerate(headers[:-1]):
            inbox.put(each, bytes([number]))
            assert await inbox.get("bank", 1) == bytes([number])
        inbox.close("the step has ended")
        assert [inbox.has_it(each) for each in headers[1:-1]] == [True] * SENT_AHEAD
        for refused, why in ((headers[0], "was closed since"), (header(b"x", sequence=2).header, "other content")):
            with pytest.raises(ProtocolError, match=why):
                inbox.has_it(refused)

    asyncio.run(scenario())
