"""What many requests wait for at once is made once: a batch of spares, a model that is read."""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace

import pytest

from veilscore.errors import MessageError, PeerError, RefusedError, VeilscoreError
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


@pytest.mark.parametrize(
    ("first", "second", "batches"),
    [
        (MessageError("no such spare"), None, 2),
        (PeerError("tax was restarted meanwhile"), None, 2),
        (MessageError("no such spare"), MessageError("no such spare"), 2),
        (RefusedError("not by this policy"), None, 1),
    ],
)
def test_a_batch_that_a_restart_cut_in_two_fails_no_request(made, first, second, batches):
    own, begun = made
    model = SimpleNamespace(artefact=SimpleNamespace(name="limit"))

    async def one():
        protocol = own.made_spare("tax", model, 5.0)
        answer = None
        failure = None
        while True:
            try:
                command = protocol.send(answer) if failure is None else protocol.throw(failure)
            except StopIteration as stop:
                return stop.value
            answer, failure = None, None
            try:
                answer = await command.do()
            except VeilscoreError as error:
                failure = error

    async def scenario():
        before = asyncio.ensure_future(own.more("tax", model))  # for others
        asked = asyncio.ensure_future(one())
        await asyncio.sleep(0.01)
        begun[0].set_exception(first)
        await asyncio.sleep(0.01)
        if len(begun) == 2:
            if second:
                begun[1].set_exception(second)
            else:
                begun[1].set_result(deque(["spare"]))
        return await asyncio.gather(before, asked, return_exceptions=True)

    before, asked = asyncio.run(scenario())
    assert before is first
    assert len(begun) == batches
    assert asked == ("spare" if batches == 2 and second is None else second or first)


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
