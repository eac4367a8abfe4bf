"""Requests that find no spare wait for one batch that is being made, however many they are."""

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


def test_a_batch_is_shared_until_it_ends(made):
    own, begun = made

    async def scenario():
        model = object()
        waiting = [asyncio.ensure_future(own.more("tax", model)) for _ in range(2)]
        await asyncio.sleep(0)
        waiting.append(asyncio.ensure_future(own.more("tax", model)))
        await asyncio.sleep(0)
        assert len(begun) == 1
        begun[0].set_result(deque(["new"]))
        assert [await one for one in waiting] == [deque(["new"])] * 3
        after = asyncio.ensure_future(own.more("tax", model))
        await asyncio.sleep(0)
        assert len(begun) == 2
        begun[1].set_result(deque())
        await after

    asyncio.run(scenario())
