"""Batch scoring: totals to the last unit, refusals, hostile messages."""

from __future__ import annotations

import numpy as np
import pytest

from veilscore.crypto import shares
from veilscore.errors import MessageError, ParameterError, RefusedError, VeilscoreError
from veilscore.models.counts import check_range, offsets
from veilscore.models.loss import TURN
from veilscore.protocols.adding import coordinator_add
from veilscore.protocols.scoring import HolderAnswer, HolderPart, bank_score, holder_receive, holder_score
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.framing import kind_of
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session, decode, encode

N = 500
RNG = np.random.default_rng(3)
ROWS = RNG.random(N) < 0.4
OWN = RNG.integers(4000, 7000, int(ROWS.sum()))
N_CODES = {"tax": np.array([5, 7]), "registry": np.array([3]), "court": np.array([2, 2, 4])}
CODES = {h: np.stack([RNG.integers(0, k, N) for k in c], 1).astype(np.uint8) for h, c in N_CODES.items()}
POINTS = {h: RNG.integers(-500, 500, c.sum()) for h, c in N_CODES.items()}
UNKNOWN = {h: RNG.random(int(ROWS.sum())) < 0.1 for h in N_CODES}
HASH, MODEL = b"h" * 32, b"m" * 32


def score(holders, *, points=POINTS, disclose=True, refusal="", rows=ROWS, own=OWN, model_codes=N_CODES, **options):
    sessions = {p: Session("job/score/1", p, "bank", holders) for p in ("bank", "coordinator", *holders)}

    def holder(name):
        request = yield from holder_receive(sessions[name], N)
        assert (request.model_hash, request.map_hash) == (MODEL, HASH)
        answer = HolderAnswer(CODES[name][request.rows], N_CODES[name], UNKNOWN[name], disclose, refusal)
        return (yield from holder_score(sessions[name], "coordinator", request, answer))

    parts = {h: HolderPart(model_codes[h], points[h], HASH) for h in holders}
    roles = {
        "bank": bank_score(sessions["bank"], "coordinator", rows, own, parts, MODEL),
        "coordinator": coordinator_add(sessions["coordinator"]),
    } | {h: holder(h) for h in holders}
    return simulate(roles, sessions, **{"timeout_s": 20.0, **options})


def expected(holders, points=POINTS):
    total = OWN.copy()
    for h in holders:
        at = offsets(N_CODES[h])
        total += sum(points[h][at[j] + CODES[h][ROWS][:, j]] for j in range(N_CODES[h].size))
    return total


@pytest.mark.parametrize("n_holders", [1, 2, 3])
def test_totals_are_exact(n_holders):
    holders = tuple(N_CODES)[:n_holders]
    done = score(holders)
    assert np.array_equal(done["bank"].points, expected(holders))
    assert {done[h] for h in holders} == {int(ROWS.sum())}
    assert all(np.array_equal(done["bank"].unknown[h], UNKNOWN[h]) for h in holders)


def test_totals_at_the_edge_of_the_range():
    points = {"tax": np.where(RNG.random(12) < 0.5, TURN // 8, -TURN // 8)}
    assert np.array_equal(score(("tax",), points=points)["bank"].points, expected(("tax",), points))


def test_unknown_firms_stay_with_the_holder_unless_its_policy_says_otherwise():
    assert score(("tax",), disclose=False)["bank"].unknown == {"tax": None}


def test_refusal_is_told_to_the_bank():
    with pytest.raises(RefusedError, match="map is another"):
        score(("tax", "registry"), refusal="the map is another")


def test_totals_that_could_wrap_are_refused():
    n_codes = np.array([2, 2])
    room = TURN // 2 - 1
    check_range([(np.array([0, 10, -20, 5]), n_codes)], room - 30)
    with pytest.raises(ParameterError, match="use fewer decimals of points"):
        check_range([(np.array([0, 10, -20, 5]), n_codes)], room - 29)
    with pytest.raises(ParameterError):
        check_range([(np.array([0, 10, -20, 5]), n_codes)], -(room - 29))


def test_codes_that_are_not_the_models_are_refused():
    with pytest.raises(MessageError, match="not those of the model"):
        score(("tax",), model_codes={"tax": np.array([5, 6])}, points={"tax": np.zeros(11, np.int64)})


def test_an_empty_batch_is_refused():
    with pytest.raises(VeilscoreError):
        score(("tax",), rows=np.zeros(N, bool), own=np.zeros(0, np.int64), timeout_s=1.0)


def hostile(kind, name, value):
    def tamper(sender, recipient, sequence, payload):
        if kind_of(payload) != kind.__name__:
            return [payload]
        message = decode(payload, kind, session="", sender=sender)
        old = getattr(message, name)
        if isinstance(value, list):
            del old[:]
            old.extend(value)
        else:
            setattr(message, name, value(old) if callable(value) else value)
        return [encode(message)]

    return tamper


FAULTS = [
    (pb.BatchBankRound0, "n_scored", 0),
    (pb.BatchBankRound0, "n_scored", 1 << 40),
    (pb.BatchBankRound0, "n_scored", lambda n: n + 1),
    (pb.BatchBankRound0, "n_scored", lambda n: n - 1),
    (pb.BatchBankRound1, "n_samples", N + 8),
    (pb.BatchBankRound1, "rows", lambda rows: rows[:-1]),
    (pb.BatchBankRound1, "rows", lambda rows: rows[:-1] + b"\xff"),
    (pb.BatchBankRound1, "model_hash", b"short"),
    (pb.BatchBankRound1, "map_hash", b""),
    (pb.BatchHolderRound1, "n_codes", [5, 7, 1]),
    (pb.BatchHolderRound1, "n_codes", []),
    (pb.BatchHolderRound1, "unknown", b""),
    (pb.BatchHolderRound1, "unknown", lambda mask: mask + b"\0"),
    (pb.BatchHolderKey, "public_key", b""),
    (pb.BatchHolderKey, "public_key", bytes(32)),
    (pb.BatchHolderHints, "data", lambda data: data[:-1]),
    (pb.BatchHolderHints, "data", b""),
    (pb.BatchHolderHints, "data", lambda data: b"\xff" * len(data)),
    (pb.BatchBankQuery, "data", lambda data: data[:-1]),
    (pb.BatchBankQuery, "data", b""),
    (pb.BatchBankQuery, "data", lambda data: b"\xff" * len(data)),
    (pb.BatchHolderPartial, "data", lambda data: data[:-8]),
    (pb.BatchHolderPartial, "data", lambda data: b"\xff" * len(data)),
    (pb.BatchCoordinatorTotal, "data", lambda data: data + b"\0" * 8),
    (pb.BatchCoordinatorTotal, "data", lambda data: b"\xff" * len(data)),
    (pb.BatchCoordinatorTotal, "parts", 0),
    (pb.BatchHolderPartial, "parts", 3),
    (pb.BatchHolderPartial, "part", 1),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f[0].__name__}-{f[1]}")
def test_wrong_messages_are_refused(fault):
    with pytest.raises(VeilscoreError):
        score(("tax", "registry"), tamper=hostile(*fault), timeout_s=1.0)


def test_a_dishonest_coordinator_can_shift_a_total():
    """Not protected, and said so: a shift that leaves a possible score is not seen."""
    lowest = int(np.argmin(expected(("tax",)) - OWN))

    def shift(data):
        words = shares.shares_from_bytes(data, (int(ROWS.sum()),), below=TURN).copy()
        words[lowest] = (words[lowest] + np.uint64(10)) % np.uint64(TURN)
        return shares.shares_to_bytes(words)

    done = score(("tax",), tamper=hostile(pb.BatchCoordinatorTotal, "data", shift))
    assert np.array_equal(done["bank"].points - expected(("tax",)), 10 * (np.arange(OWN.size) == lowest))
