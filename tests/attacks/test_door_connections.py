"""Whoever holds connections of the door's HTTP open, before TLS or after it, keeps no caller out."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from pathlib import Path

import pytest
from test_door import ASKED, Opened
from test_silent_connections import still_open

from veilscore.fabric import tls_listener
from veilscore.fabric.tls_listener import ARRIVING_MOST

OF_ONE = 4


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    with Opened(tmp_path_factory.mktemp("door"), connections=8, connections_of_one=OF_ONE, read_s=60) as opened:
        opened.folder, opened.other = opened.let_in(), opened.let_in("other")
        opened.run(opened.door._look())
        yield opened


def strangers(door, count):
    return [socket.create_connection(("127.0.0.1", door.port)) for _ in range(count)]


def n_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def until(says, what):
    """Wait a while for something to be so."""
    end_s = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end_s, says
        time.sleep(0.02)


def shaken(door, folder):
    """A connection of a caller that has shaken hands and says nothing."""
    context = ssl.create_default_context(cafile=folder / "door.pem")
    context.load_cert_chain(folder / "caller.pem", folder / "caller-key.pem")
    return context.wrap_socket(socket.create_connection(("127.0.0.1", door.port)), server_hostname="localhost")


def kept_open(connections):
    """How many of these, over TLS, the other side has not closed."""
    n_open = 0
    for one in connections:
        one.setblocking(False)
        with contextlib.suppress(OSError):
            try:
                n_open += one.recv(1) != b""
            except ssl.SSLWantReadError:
                n_open += 1
    return n_open


def asks(door, folder, ident):
    with door.client(folder) as client:
        return client.score(**(ASKED | {"request_id": ident})).status


def test_silent_strangers_hold_a_bounded_number_of_places_and_nobody_elses(door):
    before = n_descriptors()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(one) for one in strangers(door, 150)]
        until("too many", lambda: still_open(held) <= tls_listener.WITHOUT_CALL_MOST)
        assert door.door._http._listener.arriving <= tls_listener.WITHOUT_CALL_MOST
        assert n_descriptors() - before <= 150 + tls_listener.WITHOUT_CALL_MOST + 4
        assert still_open(held[:100]) == 0  # the oldest went
        assert asks(door, door.folder, "through-strangers") == "scored"


def test_a_stranger_that_says_a_byte_now_and_then_is_cut(door, monkeypatch):
    monkeypatch.setattr(tls_listener, "HANDSHAKE_S", 0.5)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(one) for one in strangers(door, 6)]
        began_s = time.monotonic()
        while still_open(held) and time.monotonic() - began_s < 20:
            for one in held:
                with contextlib.suppress(OSError):
                    one.send(b"\x16")
            time.sleep(0.1)
        assert 0.3 < time.monotonic() - began_s < 15


@pytest.mark.slow
def test_a_caller_has_its_own_places_and_not_anothers(door):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(shaken(door, door.folder)) for _ in range(3 * OF_ONE)]
        until("places of a certificate", lambda: kept_open(held) == OF_ONE)
        assert asks(door, door.other, "beside-the-greedy") == "scored"
        more = stack.enter_context(shaken(door, door.folder))
        until("one more has no place", lambda: not kept_open([more]))
        assert kept_open(held) == OF_ONE
    until("its places are free again", lambda: not door.door._http._state.connections)
    assert asks(door, door.folder, "no-more-greedy") == "scored"


def test_who_was_removed_is_told_so_and_keeps_no_place(door):
    folder = door.let_in("gone")
    door.run(door.door._look())
    door.callers.remove("gone")
    connection = shaken(door, folder)
    with connection:
        connection.sendall(b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert b" 403 " in answer.split(b"\r\n")[0]


def test_of_many_addresses_the_oldest_goes():
    made = tls_listener.TlsListener(None, None)
    ended = []

    class Task:
        def __init__(self, number):
            self.number = number

        def cancel(self):
            ended.append(self.number)

    for number in range(ARRIVING_MOST + 5):
        made._arriving[Task(number)] = f"2001:db8::{number:x}"
        made._make_room(f"2001:db8::{number:x}")
    assert ended == list(range(5))
    assert made.arriving == ARRIVING_MOST
