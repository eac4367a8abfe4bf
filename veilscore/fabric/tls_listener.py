"""Accepts connections over TLS and shakes hands, so that whoever is slow holds no place of a client.

asyncio's own server takes as many connections as come and counts them after TLS alone. Here a bound on what has not
shaken hands yet comes first: of an address that has too many, or of all where there are too many, the oldest goes, as
an honest handshake takes milliseconds. `HANDSHAKE_S` ends each.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial

from veilscore.fabric.connections import HANDSHAKE_S, WITHOUT_CALL_MOST

ARRIVING_MOST = 4 * WITHOUT_CALL_MOST  # connections of all addresses that have not shaken hands yet
_BACKLOG = 128
_AGAIN_S = 0.5  # after no connection could be taken, as where descriptors are used up


class TlsListener:
    """Listens at one address.

    context : TLS; make : gives the protocol of one connection, which begins when hands are shaken.
    """

    def __init__(self, context: ssl.SSLContext, make: Callable[[], asyncio.Protocol]) -> None:
        self._context, self._make = context, make
        self._arriving: dict[asyncio.Task[None], str] = {}  # the oldest first, and from which address
        self._socket: socket.socket | None = None
        self._accepts: asyncio.Task[None] | None = None

    @property
    def arriving(self) -> int:
        """Return how many connections have not shaken hands yet."""
        return len(self._arriving)

    def start(self, host: str, port: int) -> int:
        """Listen, and return the port; OSError where the address cannot be bound."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._socket.setblocking(False)
        self._accepts = asyncio.create_task(self._accept(self._socket))
        return int(self._socket.getsockname()[1])

    async def close(self) -> None:
        """Take no more connections, and give up those that have not shaken hands."""
        tasks = [*self._arriving, *([] if self._accepts is None else [self._accepts])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError:
                await asyncio.sleep(_AGAIN_S)
                continue
            task = loop.create_task(self._shake_hands(connection))
            self._arriving[task] = str(address[0])
            task.add_done_callback(partial(self._done, connection))
            self._make_room(str(address[0]))
            await asyncio.sleep(0)  # many that come at once do not keep the others from being served

    async def _shake_hands(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # ssl.SSLError and timeouts among them: a stranger, or an unknown client
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=HANDSHAKE_S,
            )

    def _done(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._arriving.pop(task, None)
        if task.cancelled():  # perhaps before it began, so that nothing else has closed it
            connection.close()

    def _make_room(self, newest: str) -> None:
        """End the oldest handshake of an address that has too many, or of that which has most where all are."""
        of_host = Counter(self._arriving.values())
        if of_host[newest] > WITHOUT_CALL_MOST:
            host = newest
        elif len(self._arriving) > ARRIVING_MOST:
            host = of_host.most_common(1)[0][0]
        else:
            return
        oldest = next(task for task, at in self._arriving.items() if at == host)
        del self._arriving[oldest]  # at once, so that the same is not ended twice
        oldest.cancel()
