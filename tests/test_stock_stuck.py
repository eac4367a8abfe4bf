"""Requests that find no spare wait for a batch that is being made, unless it calls a holder that went down."""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace

import pytest

from veilscore.online import stock


@pytest.fixture
def made(monkeypatch):
    """A bank's stock whose batches end when a test says so; and the batches that were begun."""
    begun = []

    def run_calls(_protocol, _caller):
        done = asyncio.get_running_loop().create_future()
        begun.append(done)

        async def batch():
            return await done

        return batch()

    monkeypatch.setattr(stock, "run_calls", run_calls)
    own = stock.BankStock("bank", SimpleNamespace(begin=asyncio.ensure_future), SimpleNamespace())
    monkeypatch.setattr(own, "_make_spares", lambda _holder, _model: None)
    return own, begun


def test_a_batch_is_shared_and_one_that_is_stuck_is_not_waited_for(made, monkeypatch):
    own, begun = made

    async def scenario():
        model, waiting = object(), []
        for pause_s in (0.0, 0.0, 0.02, 0.0):
            await asyncio.sleep(pause_s)
            waiting.append(asyncio.ensure_future(own.more("tax", model)))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(begun) == 2  # two wait for the first, which is stuck; two for the one that was begun anew
        begun[1].set_result(deque(["new"]))
        assert [await one for one in waiting[2:]] == [deque(["new"])] * 2
        assert not waiting[0].done()
        begun[0].set_result(deque(["late"]))
        assert [await one for one in waiting[:2]] == [deque(["late"])] * 2
        after = asyncio.ensure_future(own.more("tax", model))
        await asyncio.sleep(0)
        assert len(begun) == 3
        begun[2].set_result(deque())
        await after

    monkeypatch.setattr(stock, "_STUCK_S", 0.01)
    asyncio.run(scenario())
