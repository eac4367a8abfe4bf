"""How long a call pauses before it tries a peer again that it could not reach."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from veilscore.errors import PeerError
from veilscore.fabric import peers
from veilscore.fabric.failures import CallFailure


@pytest.mark.parametrize(("total_s", "longest_s"), [(10.0, 0.5), (120.0, 5.0)])
def test_pauses_grow_to_a_twentieth_of_the_time_that_a_call_has(monkeypatch, total_s, longest_s):
    """Requests that wait for one call, as for a batch of spares, go on soon after the peer is back."""
    now_s, pauses = [0.0], []

    async def sleep(pause_s):
        pauses.append(pause_s)
        now_s[0] += pause_s

    async def attempt(_peer, _remaining_s):
        raise CallFailure(PeerError("away"), may_repeat=True, unreachable=False)

    monkeypatch.setattr(peers, "asyncio", SimpleNamespace(sleep=sleep, CancelledError=asyncio.CancelledError))
    monkeypatch.setattr(peers, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    monkeypatch.setattr(peers.random, "uniform", lambda _least, most: most)
    known = peers.Peers(SimpleNamespace(check_callee=lambda _member: None), None, "1")
    known._peers["tax"] = SimpleNamespace(member=None, greeted=True, in_use=peers.contextlib.nullcontext)
    with pytest.raises(PeerError, match="away"):
        asyncio.run(known.retrying("tax", attempt, total_s, retry=True))
    assert pauses[:2] == pytest.approx([0.15, 0.3])
    assert max(pauses) == 1.5 * longest_s
    assert total_s - 1.5 * longest_s <= sum(pauses) <= total_s
