"""What the coordinator's state promises, run against SQLite and PostgreSQL."""

from __future__ import annotations

import concurrent.futures
import itertools

import pytest

from coordinator.state import JOB_TRANSITIONS, State
from coordinator.state_tables import AcceptanceRow
from veilscore.errors import JobError

_numbers = itertools.count()


def add(state: State, status: str = "proposed") -> str:
    job_id = f"job-{next(_numbers)}"
    state.add_job(job_id, name="job", task="train_scorecard", yaml="{}", submitted_by="bank")
    path = {
        "proposed": [],
        "waiting": ["waiting"],
        "running": ["running"],
        "done": ["running", "done"],
        "failed": ["failed"],
        "refused": ["refused"],
        "cancelled": ["cancelled"],
    }
    for step in path[status]:
        state.move_job(job_id, step)
    return job_id


class StateContract:
    """Subclasses give the fixture `state`, and `reopen`."""

    def test_job_round_trip(self, state):
        job_id = add(state)
        row = state.job(job_id)
        assert (row.status, row.submitted_by, row.error) == ("proposed", "bank", "")
        assert row in state.jobs()
        assert row not in state.jobs(["done"])
        with pytest.raises(JobError, match="exists already"):
            state.add_job(job_id, name="x", task="x", yaml="", submitted_by="x")
        with pytest.raises(JobError, match="no job nothing"):
            state.job("nothing")

    @pytest.mark.parametrize("source", JOB_TRANSITIONS)
    @pytest.mark.parametrize("target", JOB_TRANSITIONS)
    def test_transitions(self, state, source, target):
        job_id = add(state, source)
        if target in JOB_TRANSITIONS[source]:
            state.move_job(job_id, target, "why")
            assert state.job(job_id).status == target
        else:
            with pytest.raises(JobError, match=f"is {source}; it cannot become {target}"):
                state.move_job(job_id, target)
            assert state.job(job_id).status == source

    def test_acceptances(self, state):
        job_id = add(state)
        state.save_acceptance(job_id, AcceptanceRow("tax", "pending", "waits", b"", b""))
        state.save_acceptance(job_id, AcceptanceRow("tax", "accepted", "yes", b"\0h", b"s\0"))
        state.save_acceptance(job_id, AcceptanceRow("tax", "accepted", "again", b"h2", b"s2"))
        assert state.acceptances(job_id) == {"tax": AcceptanceRow("tax", "accepted", "yes", b"\0h", b"s\0")}
        with pytest.raises(JobError, match="cannot become refused"):
            state.save_acceptance(job_id, AcceptanceRow("tax", "refused", "no", b"", b""))
        assert state.acceptances(add(state)) == {}

    def test_attempts(self, state):
        job_id = add(state)
        with pytest.raises(JobError, match="is proposed; steps start only in a running job"):
            state.begin_attempt(job_id, "align", 0, ["bank", "tax"])
        state.move_job(job_id, "running")
        assert state.begin_attempt(job_id, "align", 0, ["bank", "tax"]) == 1
        with pytest.raises(JobError, match="is running already"):
            state.begin_attempt(job_id, "align", 0, ["bank", "tax"])
        state.finish_party(job_id, "align", 1, "bank", "done", done=b"\x01\0")
        with pytest.raises(JobError, match="not done at tax"):
            state.finish_attempt(job_id, "align", 1, "done")
        state.finish_attempt(job_id, "align", 1, "failed", error="tax is lost")
        with pytest.raises(JobError, match="tax in step align is not running"):
            state.finish_party(job_id, "align", 1, "tax", "done")
        assert state.begin_attempt(job_id, "align", 0, ["bank", "tax"]) == 2
        for party in ("bank", "tax"):
            state.finish_party(job_id, "align", 2, party, "done")
        state.finish_attempt(job_id, "align", 2, "done")
        with pytest.raises(JobError, match="is done already"):
            state.begin_attempt(job_id, "align", 0, ["bank"])
        first, second = state.steps(job_id)
        assert (first.status, first.error, second.status) == ("failed", "tax is lost", "done")
        assert [(p.party, p.status, p.done) for p in first.parties] == [
            ("bank", "done", b"\x01\0"),
            ("tax", "stopped", b""),
        ]
        assert second.finished_s >= second.started_s

    def test_interrupt_and_events(self, state):
        job_id = add(state, "running")
        state.begin_attempt(job_id, "align", 0, ["bank"])
        state.interrupt(job_id, "the coordinator was stopped")
        state.interrupt(job_id, "again")
        assert [s.error for s in state.steps(job_id)] == ["the coordinator was stopped"]
        texts = [e.text for e in state.events(job_id)]
        assert texts == ["submitted by bank", "running", "attempt 1", "failed: the coordinator was stopped"]

    def test_an_illegal_change_leaves_nothing_behind(self, state):
        job_id = add(state, "done")
        before = state.events(job_id)
        with pytest.raises(JobError):
            state.move_job(job_id, "running")
        assert state.events(job_id) == before

    def test_only_one_of_many_wins(self, state):
        job_id = add(state, "running")

        def begin(_number):
            try:
                return state.begin_attempt(job_id, "align", 0, ["bank"])
            except JobError:
                return None

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            results = list(pool.map(begin, range(8)))
        assert sorted(r for r in results if r) == [1]

    def test_another_connection_sees_everything(self, state, reopen):
        job_id = add(state, "running")
        state.begin_attempt(job_id, "align", 0, ["bank", "tax"])
        other = reopen()
        try:
            assert other.job(job_id) == state.job(job_id)
            assert other.steps(job_id) == state.steps(job_id)
            assert other.events(job_id) == state.events(job_id)
        finally:
            other.close()
