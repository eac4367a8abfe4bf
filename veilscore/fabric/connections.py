"""Remembers from which addresses a certificate has called, to cut its connections when it is revoked.

gRPC offers no way to close one connection of a server, so the socket is found among this process's own by the
address at its other end, and shut down; gRPC then ends the calls on it. A connection that has made no call yet is
not known here; its first call is refused (handshake.py).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat
from collections import OrderedDict
from collections.abc import Iterable
from urllib.parse import unquote

_MOST_ADDRESSES = 256


class Callers:
    """Keeps the latest addresses of each certificate's connections."""

    def __init__(self) -> None:
        self._addresses: dict[str, OrderedDict[str, None]] = {}

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


def _plain(address: str) -> tuple[str, int]:
    """Return host and port of `ipv4:1.2.3.4:80` or `ipv6:%5B::1%5D:80`."""
    host, _, port = unquote(address).partition(":")[2].rpartition(":")
    return _unmapped(host.strip("[]")), int(port) if port.isdigit() else -1


def _unmapped(host: str) -> str:
    """Return an address as IPv4 where a socket of both families shows it as ::ffff:1.2.3.4."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host.partition("%")[0])
        return str(getattr(address, "ipv4_mapped", None) or address)
    return host


def _shut_down(remote: set[tuple[str, int]]) -> None:
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - names of descriptors, no files
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:  # closed here; gRPC's own descriptor stays open
                if copy.family not in {socket.AF_INET, socket.AF_INET6}:
                    continue
                host, port = copy.getpeername()[:2]
                if (_unmapped(host), port) in remote:
                    copy.shutdown(socket.SHUT_RDWR)
