"""A stranger opens connections and says nothing: they are cut, and an honest peer is served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import subprocess
import sys
import time

import pytest
from fabric_network import make_fabric, point, running
from trial_federation import commanding, make_homes, until

from veilscore.errors import PeerError
from veilscore.fabric import connections
from veilscore.fabric.connections import Callers, most_connections
from veilscore.node.founding import homes_in
from veilscore.terms.federation import load_federation
from veilscore.v1 import control_pb2

ATTACK = 1200  # connections, of one address
FEW = 512  # descriptors that the process begins with, and may raise to
MOST = 1024


async def until_up(fabric):
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(PeerError):
                await ping(fabric, 2)
                return


async def ping(fabric, timeout_s=5.0):
    await fabric.call("tax", "Ping", control_pb2.Empty(), control_pb2.Empty, timeout_s=timeout_s, retry=True)


def still_open(sockets):
    """How many the other side has not closed."""
    n_open = 0
    for one in sockets:
        one.setblocking(False)
        try:
            n_open += one.recv(1) != b""
        except BlockingIOError:
            n_open += 1
        except OSError:
            pass
    return n_open


@pytest.mark.slow
def test_a_node_serves_through_more_silent_connections_than_it_has_descriptors(tmp_path):
    home = make_homes(tmp_path) / "tax"

    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, MOST))

    command = [sys.executable, "-m", "veilscore", "node", "start", str(home)]
    node = subprocess.Popen(command, preexec_fn=few, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: PLW1509 - one thread
    address = load_federation(homes_in(tmp_path)["tax"] / "federation.yaml").member("tax").address
    host, _, port = address.rpartition(":")
    held = []

    async def scenario():
        async with commanding(tmp_path / "bank") as before:
            await until_up(before)
        with open(f"/proc/{node.pid}/limits", encoding="ascii") as limits:  # noqa: ASYNC230, PTH123
            assert f"Max open files            {MOST}" in limits.read()
        for _ in range(ATTACK):
            with contextlib.suppress(OSError):
                held.append(socket.create_connection((host, int(port)), timeout=2))
        assert len(held) > MOST / 2
        for _ in range(3):  # each time over a new connection
            async with commanding(tmp_path / "bank") as honest:
                await ping(honest)
        await until(lambda: still_open(held) <= connections.WITHOUT_CALL_MOST)
        await until(lambda: len(os.listdir(f"/proc/{node.pid}/fd")) < MOST / 4)  # noqa: PTH208

    try:
        asyncio.run(scenario())
    finally:
        node.terminate()
        node.wait(30)
        for one in held:
            one.close()


@pytest.mark.slow
def test_the_last_of_them_are_cut_when_their_time_is_over(monkeypatch):
    """TLS done or not: who makes no call is cut; who called stays, however long it is silent afterwards."""
    monkeypatch.setattr(connections, "WITHOUT_CALL_S", 4.0)

    async def scenario():
        tax, bank = make_fabric("tax"), make_fabric("bank")
        async with running(tax, bank):
            await point(bank, "tax", tax.port)
            tax.register("Ping", {"bank"}, control_pb2.Empty, pong)
            await ping(bank)
            silent = [socket.create_connection(("127.0.0.1", tax.port)) for _ in range(3)]
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            silent.append(
                context.wrap_socket(socket.create_connection(("127.0.0.1", tax.port)), do_handshake_on_connect=False)
            )
            guard = asyncio.create_task(tax.guard())
            await asyncio.sleep(0.7)
            assert still_open(silent[:3]) == 3
            await until(lambda: still_open(silent[:3]) == 0)
            served = tax._callers._addresses
            assert sum(map(len, served.values())) == 1
            await ping(bank)
            assert sum(map(len, served.values())) == 1  # the same connection as before
            guard.cancel()
            for one in silent:
                one.close()

    asyncio.run(scenario())


async def pong(_request, _peer):
    return control_pb2.Empty()


@pytest.mark.slow
def test_the_oldest_of_an_address_go_first_and_the_handshake_has_its_own_limit():
    async def scenario():
        tax = make_fabric("tax")
        async with running(tax):
            first = [socket.create_connection(("127.0.0.1", tax.port)) for _ in range(20)]
            await asyncio.sleep(0.1)
            callers = Callers()
            assert callers.cut_silent(tax.port) == 0
            later = [socket.create_connection(("127.0.0.1", tax.port)) for _ in range(20)]
            await asyncio.sleep(0.1)
            assert callers.cut_silent(tax.port) == 40 - connections.WITHOUT_CALL_MOST
            await until(lambda: (still_open(first), still_open(later)) == (connections.WITHOUT_CALL_MOST - 20, 20))
            begun = time.monotonic()
            while still_open(later):
                assert time.monotonic() - begun < 3 * connections.HANDSHAKE_S
                await asyncio.sleep(0.2)
            for one in (*first, *later):
                one.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("limits", "most"), [((1024, 4096), 512), ((1 << 20, 1 << 20), 1 << 15)])
def test_half_of_the_descriptors_are_for_connections(monkeypatch, limits, most):
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    assert most_connections() == most
