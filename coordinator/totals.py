"""Online scoring at the coordinator: it adds the holders' masked partials and hands the bank the sum.

Each partial is uniform without the bank's masks and the holders' zero-shares, so nothing can be read from what passes
here. A sum is given out only when every holder that all of them name has sent its part.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from veilscore.errors import MessageError, PeerError, ProtocolError
from veilscore.protocols.adding import add_partials, pack_partial, parse_partial
from veilscore.terms.federation import Member
from veilscore.v1 import control_pb2

_REQUESTS_KEPT = 10_000
_HOLDERS_MOST = 64


@dataclass
class _Request:
    holders: tuple[str, ...]
    partials: dict[str, bytes] = field(default_factory=dict, repr=False)
    complete: asyncio.Event = field(default_factory=asyncio.Event)


class Totals:
    """Keeps the partials of the latest requests until their sums are fetched.

    wait_s : how long a total waits for the last partial.
    """

    def __init__(self, wait_s: float = 10.0) -> None:
        self._wait_s = wait_s
        self._requests: OrderedDict[str, _Request] = OrderedDict()

    async def add_partial(self, message: control_pb2.AddPartial, peer: Member) -> control_pb2.Empty:
        """Keep one holder's partial; a repeat must be the same bytes."""
        request = self._request(message.request_id, tuple(message.with_parties))
        if peer.name not in request.holders:
            raise ProtocolError(f"{peer.name} is not among the holders of this request", party=peer.name)
        parse_partial(message.partial_share, 1, peer.name)
        if request.partials.setdefault(peer.name, message.partial_share) != message.partial_share:
            raise ProtocolError(
                f"{peer.name} sent a second, different partial for one request; use a new request id", party=peer.name
            )
        if len(request.partials) == len(request.holders):
            request.complete.set()
        return control_pb2.Empty()

    async def total(self, message: control_pb2.TotalRequest, _peer: Member) -> control_pb2.TotalReply:
        """Return the sum of all partials modulo ONLINE_T, once the last one has come."""
        request = self._request(message.request_id, tuple(message.with_parties))
        try:
            await asyncio.wait_for(request.complete.wait(), self._wait_s)
        except TimeoutError:
            late = ", ".join(h for h in request.holders if h not in request.partials)
            raise PeerError(f"no partial from {late} within {self._wait_s:g} s; repeat the request") from None
        parts = [parse_partial(partial, 1, holder) for holder, partial in request.partials.items()]
        return control_pb2.TotalReply(total_share=pack_partial(add_partials(parts)))

    def _request(self, request_id: str, holders: tuple[str, ...]) -> _Request:
        known = 0 < len(holders) == len(set(holders)) <= _HOLDERS_MOST
        if not 0 < len(request_id) <= 100 or not known:
            raise MessageError(
                f"a request needs an id of at most 100 characters and 1 to {_HOLDERS_MOST} distinct holders"
            )
        request = self._requests.setdefault(request_id, _Request(tuple(sorted(holders))))
        if request.holders != tuple(sorted(holders)):
            raise ProtocolError("the holders of this request are not those it began with")
        while len(self._requests) > _REQUESTS_KEPT:  # totals that nobody fetches must not fill the memory
            self._requests.popitem(last=False)
        return request
