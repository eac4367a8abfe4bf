"""Cuts connections of this process's server: those of a revoked certificate, and those of whoever only holds them open.

gRPC offers no way to close one connection of a server, so the socket is found among this process's own by the
address at its other end, and shut down; gRPC then ends the calls on it. gRPC itself ends a connection whose TLS is not
done after `HANDSHAKE_S`, and takes no more than `most_connections`; but it knows no bound an address, and lets one wait
for ever that has shaken hands and says nothing.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import resource
import socket
import stat
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

HANDSHAKE_S = 5.0
WITHOUT_CALL_S = 2 * HANDSHAKE_S  # a peer that is honest connects because it has something to say
WITHOUT_CALL_MOST = 32  # connections of one address that made no call yet
_MOST_DESCRIPTORS = 1 << 16
_MOST_ADDRESSES = 256

_End = tuple[str, int]


def raise_descriptors() -> int:
    """Let this process open as many descriptors as the system allows, and return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(wanted, soft)


def most_connections() -> int:
    """Return how many connections a server may have: the other half of the descriptors is for files and own calls."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_DESCRIPTORS // 2 if soft == resource.RLIM_INFINITY else min(soft, _MOST_DESCRIPTORS) // 2


class Callers:
    """Keeps the latest addresses of each certificate's connections, and since when there are others."""

    def __init__(self) -> None:
        self._addresses: dict[str, OrderedDict[str, None]] = {}
        self._silent: dict[_End, float] = {}

    def seen(self, fingerprint: str, address: str) -> None:
        """Note that a call came from `address` (as gRPC writes it)."""
        known = self._addresses.setdefault(fingerprint, OrderedDict())
        known[address] = None
        known.move_to_end(address)
        if len(known) > _MOST_ADDRESSES:
            known.popitem(last=False)

    def cut(self, fingerprints: Iterable[str]) -> None:
        """Shut down the connections of these certificates."""
        addresses = {a for f in fingerprints for a in self._addresses.pop(f, ())}
        if addresses:
            _shut_down({_plain(a) for a in addresses})

    def cut_silent(self, port: int) -> int:
        """Shut down connections to this port that made no call, and return how many.

        Those go that wait for too long and, of an address that has too many, the oldest: who has just come, and may be
        honest behind the same address, is served.
        """
        now_s, open_ends = time.monotonic(), {end for _, end in _connections(port)}
        calling = set()
        for known in self._addresses.values():
            for address in list(known):
                if (end := _plain(address)) in open_ends:
                    calling.add(end)
                else:
                    del known[address]
        self._silent = {end: self._silent.get(end, now_s) for end in open_ends - calling}
        of_host: dict[str, list[_End]] = {}
        for end in sorted(self._silent, key=self._silent.__getitem__):
            of_host.setdefault(end[0], []).append(end)
        out = {end for ends in of_host.values() for end in ends[: max(0, len(ends) - WITHOUT_CALL_MOST)]}
        out |= {end for end, since_s in self._silent.items() if now_s - since_s > WITHOUT_CALL_S}
        if out:
            _shut_down(out)
        return len(out)


def _plain(address: str) -> _End:
    """Return host and port of `ipv4:1.2.3.4:80` or `ipv6:%5B::1%5D:80`."""
    host, _, port = unquote(address).partition(":")[2].rpartition(":")
    return _unmapped(host.strip("[]")), int(port) if port.isdigit() else -1


def _unmapped(host: str) -> str:
    """Return an address as IPv4 where a socket of both families shows it as ::ffff:1.2.3.4."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host.partition("%")[0])
        return str(getattr(address, "ipv4_mapped", None) or address)
    return host


def _connections(port: int | None = None) -> Iterator[tuple[socket.socket, _End]]:
    """Yield this process's connections, to a port of its own where one is given, and the address at the other end.

    Each socket is a copy, for as long as the caller looks at it: shutting it down ends the connection for all.
    """
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - names of descriptors, no files
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:  # closed here; gRPC's own descriptor stays open
                if copy.family not in {socket.AF_INET, socket.AF_INET6}:
                    continue
                if port is None or copy.getsockname()[1] == port:
                    host, remote = copy.getpeername()[:2]
                    yield copy, (_unmapped(host), remote)


def _shut_down(ends: set[_End]) -> None:
    for connection, end in _connections():
        if end in ends:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
