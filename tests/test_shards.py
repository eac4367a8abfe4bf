"""Batch scoring in shards: the result of one run, a lost worker, and what two shards must never have in common."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest
from local_jobs import firms, job, nodes, write

from veilscore.errors import PeerError, VeilscoreError
from veilscore.models.counts import offsets
from veilscore.protocols import banding, shards
from veilscore.protocols.adding import coordinator_add
from veilscore.protocols.scoring import HolderAnswer, HolderPart, holder_receive
from veilscore.protocols.scoring_shards import bank_score_bands_shards, bank_score_shards, holder_score_shards
from veilscore.protocols.shards import InShards, Threads, Turn, WorkerLostError, session_of, slices
from veilscore.tasks.table import answer_to, step_of
from veilscore.tasks.task import Sizes
from veilscore.terms.bands import Bands
from veilscore.v1 import shard_pb2 as pb
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session, decode, encode

N = 900
RNG = np.random.default_rng(11)
ROWS = RNG.random(N) < 0.8
OWN = RNG.integers(4000, 7000, int(ROWS.sum()))
N_CODES = {"tax": np.array([5, 7]), "registry": np.array([3])}
CODES = {h: np.stack([RNG.integers(0, k, N) for k in c], 1).astype(np.uint8) for h, c in N_CODES.items()}
POINTS = {h: RNG.integers(-500, 500, c.sum()) for h, c in N_CODES.items()}
HOLDERS = tuple(N_CODES)
TOTALS = OWN + sum(
    POINTS[h][offsets(N_CODES[h])[j] + CODES[h][ROWS][:, j]] for h in HOLDERS for j in range(N_CODES[h].size)
)
BANDS = Bands.of({"A": 6500.0, "B": 5500.0, "C": 4500.0, "D": 0.0}, 1.0)


class Watched(Threads):
    """Workers that keep what they were given, of which one is lost at a turn of its first run."""

    def __init__(self, lost=None):
        super().__init__()
        self.jobs, self._lost = [], lost

    def start(self, job):
        self.jobs.append(job)
        worker = super().start(job)
        if self._lost and job.session.id.endswith(f"/shard/{self._lost[0]}/0"):
            return Mortal(worker, self._lost[1])
        return worker


class Mortal:
    """A worker that is lost at one of its turns."""

    def __init__(self, worker, turns):
        self._worker, self._turns = worker, turns

    def turn(self, body):
        self._turns -= 1
        if self._turns < 0:
            gone: Future[Turn] = Future()
            gone.set_exception(WorkerLostError("the worker is gone"))
            return gone
        return self._worker.turn(body)

    def close(self):
        self._worker.close()


def score(n_shards=3, *, bands=None, lost=None, tamper=None, timeout_s=20.0):
    """Score by bank, two holders and a coordinator; returns the bank's result, and the workers of each party."""
    sessions = {p: Session("job/score/1", p, "bank", HOLDERS) for p in ("bank", "coordinator", *HOLDERS)}
    workers = {p: Watched((lost or {}).get(p)) for p in ("bank", *HOLDERS)}

    def parts_of(party):
        return InShards(n_shards, lambda: workers[party])

    def holder(name):
        request = yield from holder_receive(sessions[name], N)
        unknown = np.zeros(int(ROWS.sum()), bool)
        answer = HolderAnswer(CODES[name][request.rows], N_CODES[name], unknown, False, "", bands)
        return (yield from holder_score_shards(sessions[name], "coordinator", request, answer, parts_of(name)))

    parts = {h: HolderPart(N_CODES[h], POINTS[h], b"h" * 32) for h in HOLDERS}
    batch = (ROWS, OWN, parts, b"m" * 32)
    if bands is None:
        bank = bank_score_shards(sessions["bank"], "coordinator", *batch, b"", parts_of("bank"))
    else:
        bank = bank_score_bands_shards(sessions["bank"], *batch, bands, b"", parts_of("bank"))
    roles = {"bank": bank} | {h: holder(h) for h in HOLDERS}
    if bands is None:
        roles["coordinator"] = coordinator_add(sessions["coordinator"])
    done = simulate(roles, sessions, tamper=tamper, timeout_s=timeout_s)
    return done["bank"], workers


def check_nothing_shared(workers):
    """Fail where two runs of shards have a session or a seed in common, at one party or at two."""
    jobs = [job for one in workers.values() for job in one.jobs]
    assert len({job.seed for job in jobs}) == len(jobs)
    for one in workers.values():
        labels = [job.session.label("score", "tax", "bank") for job in one.jobs]
        assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("n_shards", [1, 2, 3])
def test_totals_are_those_of_one_machine(n_shards):
    result, workers = score(n_shards)
    assert np.array_equal(result.points, TOTALS)
    assert [len(one.jobs) for one in workers.values()] == [n_shards] * 3
    check_nothing_shared(workers)


def test_bands_are_those_of_one_machine():
    result, workers = score(bands=BANDS)
    assert np.array_equal(result.bands, np.searchsorted(BANDS.limits, TOTALS, side="right"))
    check_nothing_shared(workers)


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("party", HOLDERS)
@pytest.mark.parametrize("bands", [None, BANDS], ids=["exact", "bands"])
def test_a_lost_workers_shard_runs_again_with_fresh_secrets(bands, party, turn):
    result, workers = score(bands=bands, lost={party: (1, turn)})
    if bands is None:
        assert np.array_equal(result.points, TOTALS)
    else:
        assert np.array_equal(result.bands, np.searchsorted(bands.limits, TOTALS, side="right"))
    for one in workers.values():
        runs = [job.session.id.rpartition("/shard/")[2] for job in one.jobs]
        assert sorted(runs) == ["0/0", "1/0", "1/1", "2/0"]
    check_nothing_shared(workers)


def test_two_parties_lose_workers_at_once():
    result, workers = score(lost={"tax": (0, 1), "registry": (2, 0)})
    assert np.array_equal(result.points, TOTALS)
    check_nothing_shared(workers)


def test_a_bank_that_loses_a_worker_starts_the_attempt_over():
    with pytest.raises(WorkerLostError, match="shard 1 is lost; the step is tried again"):
        score(lost={"bank": (1, 1)}, timeout_s=2.0)


def test_what_was_opened_is_not_opened_again(monkeypatch):
    monkeypatch.setattr(banding, "PIECE", 64)  # so that a shard opens its bands in several turns
    with pytest.raises(PeerError, match="starts over"):
        score(bands=BANDS, lost={"tax": (1, 7)}, timeout_s=2.0)


@pytest.mark.parametrize("shared", ["session", "seed"])
def test_two_workers_that_share_a_session_or_a_stream_are_found(shared, monkeypatch):
    if shared == "session":
        monkeypatch.setattr(shards, "session_of", lambda session, _shard, run: session_of(session, 0, run))
    else:
        monkeypatch.setattr(shards, "secret_bytes", lambda size: b"s" * size)
    _, workers = score(2)
    with pytest.raises(AssertionError):
        check_nothing_shared(workers)


def hostile(**values):
    """Change the first envelope of the tax bureau."""
    changed = []

    def tamper(sender, _recipient, _sequence, payload):
        if sender != "tax" or changed:
            return [payload]
        try:
            message = decode(payload, pb.ShardMessage, session="", sender=sender)
        except VeilscoreError:
            return [payload]
        changed.append(True)
        for name, value in values.items():
            setattr(message, name, value)
        return [encode(message)]

    return tamper


@pytest.mark.parametrize(
    "values",
    [{"shard": 3}, {"shard": 1 << 31}, {"run": 9}, {"run": 3}, {"finished": b"\0"}, {"body": b""}, {"body": b"\xff"}],
    ids=str,
)
def test_wrong_envelopes_are_refused(values):
    with pytest.raises(VeilscoreError):
        score(tamper=hostile(**values), timeout_s=2.0)


def test_slices_cover_all_rows_and_none_is_empty():
    assert [(one.start, one.stop) for one in slices(10, 3)] == [(0, 3), (3, 6), (6, 10)]
    assert [(one.start, one.stop) for one in slices(2, 8)] == [(0, 1), (1, 2)]


def test_a_holder_takes_part_in_as_many_shards_as_its_policy_says(tmp_path):
    configs = nodes(write(tmp_path / "data", firms(60)), holder_policy={"consent": "off", "max_shards": 2})
    for count, status in ((2, "accepted"), (3, "refused")):
        answer = answer_to(job("score_batch", model="card", on_missing="missing_code", shards=count), configs["tax"])
        assert answer.status == status, answer
    assert "at most 2 shards" in answer.reason


def test_the_plan_counts_the_points_that_go_to_each_shard():
    sizes = Sizes(1e6, (1e6, 1e6), 0, 0)
    one, eight = (
        step_of(job("score_batch", model="card", shards=n), "score").cost(
            job("score_batch", model="card", shards=n).parameters, sizes
        )
        for n in (1, 8)
    )
    assert 150e6 < eight.bytes - one.bytes < 190e6  # 12 MB a holder and shard
