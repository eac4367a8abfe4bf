"""The coordinator's sums for single scores: one record each, of a number of holders that there may be."""

import asyncio

import numpy as np
import pytest

from coordinator.totals import Totals
from veilscore.errors import MessageError
from veilscore.protocols.adding import pack_partial
from veilscore.terms.federation import Member
from veilscore.v1 import control_pb2 as pb

HOLDERS = ["tax", "registry"]


def add(totals, holder, data, holders=HOLDERS):
    message = pb.AddPartial(request_id="r", partial_share=data, with_parties=holders)
    return asyncio.run(totals.add_partial(message, Member.model_construct(name=holder)))


def test_the_sum_of_one_record():
    totals = Totals(1.0)
    for holder, value in zip(HOLDERS, (5, 7), strict=True):
        add(totals, holder, pack_partial(np.array([value], np.uint64)))
    reply = asyncio.run(totals.total(pb.TotalRequest(request_id="r", with_parties=HOLDERS), None))
    assert np.frombuffer(reply.total_share, "<u8").tolist() == [12]


@pytest.mark.parametrize("n_bytes", [0, 7, 9, 16, 8 * 4096])
def test_a_partial_is_one_record(n_bytes):
    with pytest.raises(MessageError):
        add(Totals(), "tax", bytes(n_bytes))


def test_a_request_names_no_more_holders_than_there_may_be():
    for holders in ([], ["tax", "tax"], ["tax", *(f"h{i}" for i in range(64))]):
        with pytest.raises(MessageError, match="1 to 64 distinct holders"):
            add(Totals(), "tax", bytes(8), holders)
