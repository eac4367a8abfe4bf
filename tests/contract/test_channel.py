"""What every channel promises, in memory and over gRPC with TLS."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from fabric_network import make_fabric, running, session

from veilscore.errors import PeerError
from veilscore.v1 import align_pb2
from veilscore.wire.driver import run
from veilscore.wire.inbox import WireLimits
from veilscore.wire.memory import MemoryNetwork
from veilscore.wire.protocol import Receive, Send

NAMES = ("bank", "tax", "registry")


@contextlib.asynccontextmanager
async def memory_channels():
    network = MemoryNetwork(timeout_s=0.3)
    yield {name: network.channel(name) for name in NAMES}


@contextlib.asynccontextmanager
async def grpc_channels():

    fabrics = [make_fabric(name, limits=WireLimits(receive_timeout_s=0.3, retry_s=2.0)) for name in NAMES]
    async with running(*fabrics):
        yield {fabric.name: fabric.channel(session(fabric.name)) for fabric in fabrics}


@pytest.fixture(params=[memory_channels, grpc_channels], ids=["memory", "grpc"])
def channels(request):
    return request.param


def test_messages_arrive_in_order(channels):
    async def scenario():
        async with channels() as channel:
            for number in range(50):
                await channel["bank"].send("tax", b"%d" % number)
            return [await channel["tax"].receive("bank") for _ in range(50)]

    assert asyncio.run(scenario()) == [b"%d" % number for number in range(50)]


def test_concurrent_sends_all_arrive_once(channels):
    async def scenario():
        async with channels() as channel:
            await asyncio.gather(*(channel["bank"].send("tax", b"%d" % n) for n in range(30)))
            return [await channel["tax"].receive("bank") for _ in range(30)]

    assert sorted(asyncio.run(scenario()), key=int) == [b"%d" % number for number in range(30)]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 65_537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 20_000_000])
def test_sizes(channels, size):
    payload = (bytes(range(251)) * (size // 251 + 1))[:size]

    async def scenario():
        async with channels() as channel:
            await channel["tax"].send("bank", payload)
            return await channel["bank"].receive("tax")

    received = asyncio.run(scenario())
    assert isinstance(received, bytes)
    assert received == payload


def test_both_directions_at_once(channels):
    async def talk(mine, peer):
        got = []
        for number in range(20):
            await mine.send(peer, b"%d" % number)
            got.append(await mine.receive(peer))
        return got

    async def scenario():
        async with channels() as channel:
            return await asyncio.gather(talk(channel["bank"], "tax"), talk(channel["tax"], "bank"))

    expected = [b"%d" % number for number in range(20)]
    assert asyncio.run(scenario()) == [expected, expected]


def test_senders_are_kept_apart(channels):
    async def scenario():
        async with channels() as channel:
            await channel["registry"].send("bank", b"registry")
            await channel["tax"].send("bank", b"tax")
            return await channel["bank"].receive("tax"), await channel["bank"].receive("registry")

    assert asyncio.run(scenario()) == (b"tax", b"registry")


def test_receive_waits_for_the_message(channels):
    async def scenario():
        async with channels() as channel:
            waiting = asyncio.create_task(channel["tax"].receive("bank"))
            await asyncio.sleep(0.05)
            await channel["bank"].send("tax", b"late")
            return await waiting

    assert asyncio.run(scenario()) == b"late"


def test_silence_is_a_peer_error(channels):
    async def scenario():
        async with channels() as channel:
            with pytest.raises(PeerError, match="no message from bank within"):
                await channel["tax"].receive("bank")
            await channel["bank"].send("tax", b"after all")
            return await channel["tax"].receive("bank")

    assert asyncio.run(scenario()) == b"after all"


def test_a_cancelled_receive_loses_nothing(channels):
    async def scenario():
        async with channels() as channel:
            waiting = asyncio.create_task(channel["tax"].receive("bank"))
            await asyncio.sleep(0.02)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await channel["bank"].send("tax", b"kept")
            return await channel["tax"].receive("bank")

    assert asyncio.run(scenario()) == b"kept"


def test_protocol_runs_over_it(channels):
    def bank():
        yield Send("tax", align_pb2.AlignBankRound1(n_ids=3))
        answer = yield Receive("tax", align_pb2.AlignHolderRound1)
        return answer.n_ids

    def tax():
        question = yield Receive("bank", align_pb2.AlignBankRound1)
        yield Send("bank", align_pb2.AlignHolderRound1(n_ids=question.n_ids + 1))
        return question.n_ids

    async def scenario():
        async with channels() as channel:
            return await asyncio.gather(
                run(bank(), channel["bank"], session("bank")), run(tax(), channel["tax"], session("tax"))
            )

    assert asyncio.run(scenario()) == [4, 3]
