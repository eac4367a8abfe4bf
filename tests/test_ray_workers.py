"""Shards in real processes of Ray: the result of one machine, also where a worker's process is killed."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sys

import numpy as np
import pytest
import test_shards
from test_shards import BANDS, TOTALS, check_nothing_shared, score

from veilscore.errors import ConfigError
from veilscore.node import ray_workers
from veilscore.node.ray_workers import RayWorkers
from veilscore.terms.workers import WorkersConfig


class Watched:
    """Ray's workers, which keep what they were given; the process of one is killed at a turn of its first run."""

    def __init__(self, lost=None):
        self.jobs, self._lost, self._ray = [], lost, RayWorkers(WorkersConfig())

    def start(self, job):
        self.jobs.append(job)
        worker = self._ray.start(job)
        if self._lost and job.session.id.endswith(f"/shard/{self._lost[0]}/0"):
            return Killed(worker, self._lost[1])
        return worker

    def close(self):
        self._ray.close()


class Killed:
    """A worker whose process is killed before one of its turns."""

    def __init__(self, worker, turns):
        self._worker, self._turns = worker, turns

    def turn(self, body):
        self._turns -= 1
        if self._turns == -1:
            os.kill(self._worker.process(), signal.SIGKILL)
        return self._worker.turn(body)

    def close(self):
        self._worker.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray does not wait for the processes that it ends
def test_two_workers_of_ray_give_what_one_machine_does_and_one_that_is_killed_runs_again(monkeypatch):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the extra ray is not installed: 240 MB")
    monkeypatch.setattr(test_shards, "Watched", Watched)
    result, workers = score(2, bands=BANDS, lost={"tax": (1, 1)}, timeout_s=200.0)
    assert np.array_equal(result.bands, np.searchsorted(BANDS.limits, TOTALS, side="right"))
    for one in workers.values():
        runs = [job.session.id.rpartition("/shard/")[2] for job in one.jobs]
        assert sorted(runs) == ["0/0", "1/0", "1/1"]
    check_nothing_shared(workers)
    sys.modules["ray"].shutdown()
    gc.collect()


@pytest.mark.parametrize(
    ("setting", "why"), [({"RAY_AUTH_MODE": "disabled"}, "could run code in it"), ({}, "in the clear")]
)
def test_a_cluster_that_is_open_to_others_is_refused(setting, why, monkeypatch):
    monkeypatch.setattr(ray_workers.sys, "modules", {})  # whatever another test has started
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=why):
        RayWorkers(WorkersConfig(address="10.0.0.7:6379"))
