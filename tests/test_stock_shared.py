"""What many requests wait for at once is made once: a batch of spares, a model that is read."""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace

import pytest

from veilscore.online import stock
from veilscore.online.model import BankModels


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


def test_a_model_that_could_not_be_read_is_read_again(tmp_path, monkeypatch):
    """Whatever the reason was: one that is no error of Veilscore's may pass too, such as a lack of memory."""
    models, read = BankModels(tmp_path, None), []

    async def whole(*_paths):
        read.append(1)
        if len(read) == 1:
            raise MemoryError
        return "model"

    monkeypatch.setattr(models, "_whole", whole)

    async def scenario():
        first = await asyncio.gather(*[models.at(tmp_path) for _ in range(2)], return_exceptions=True)
        return [type(one) for one in first], await asyncio.gather(*[models.at(tmp_path) for _ in range(2)])

    assert asyncio.run(scenario()) == ([MemoryError] * 2, ["model"] * 2)
    assert len(read) == 2
