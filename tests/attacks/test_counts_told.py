"""A holder averages counts by step that a bank tells: the same again in vain, attempts that it changes less so."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from veilscore.models.curve import sensitivity
from veilscore.protocols.decision import DecisionRequest
from veilscore.tasks.decide import TOLD, _tell_counts
from veilscore.wire.protocol import Session

COUNTS = np.array([40, 30, 20, 10])


@pytest.fixture
def told(tmp_path):
    session = Session("job/decide/1", "bank", "bank", ("tax", "registry"))
    context = SimpleNamespace(session=session, home=lambda: tmp_path)
    request = DecisionRequest(100, b"d" * 32, b"i" * 32)

    def once(counts):
        """What both holders get, in firms."""
        sent = [send.message.counts[:] for send in _tell_counts(context, request, np.asarray(counts))]
        assert sent[0] == sent[1]
        return np.ldexp(np.array(sent[0], float), -16)

    return once


def test_the_same_again_tells_the_same(told):
    assert len({tuple(told(COUNTS)) for _ in range(5)}) == 1


def test_an_attempt_in_which_the_holder_moves_a_row_of_its_own_is_told_anew(told):
    """It says of a firm that it does not know it, or does: each attempt is mu 0.5, and many average the noise away."""
    attempts = [told(COUNTS + np.array([k, 0, 0, 0])) - [k, 0, 0, 0] for k in range(400)]
    assert np.abs(np.mean(attempts, axis=0) - COUNTS).max() < 1, "400 attempts; a coordinator makes 3 of a step"
    of_one_job = np.array(attempts[:399]).reshape(133, 3, 4).mean(axis=1) - COUNTS
    deviation = TOLD.sigma(sensitivity()) / np.sqrt(3)
    assert of_one_job.std() == pytest.approx(deviation, rel=0.18), "of one job: mu 0.5 times root three"
