"""The count of what boosting told of a data set over all jobs, alone and in jobs."""

from __future__ import annotations

import threading

import pytest
from local_jobs import HOLDERS, firms, job, nodes, write

from veilscore.errors import PeerError, RefusedError, StateError
from veilscore.node.local import open_job
from veilscore.release.disclosure import DisclosureLedger
from veilscore.wire.framing import kind_of


def ledger(folder, job_id, most=100.0, dataset="d"):
    return DisclosureLedger(folder / "disclosure.db", dataset, job_id, most)


def test_jobs_add_up_and_attempts_do_not(tmp_path):
    first = ledger(tmp_path, "first")
    first.charge(20.0)
    first.charge(50.0)  # of all its attempts together
    first.charge(30.0)  # a repeated attempt that forgot
    assert first.of_job() == first.total() == 50.0
    second = ledger(tmp_path, "second")
    second.charge(50.0)
    assert second.of_job() == 50.0
    with pytest.raises(RefusedError, match=r"no more of data set 'd'.*raise max_disclosure_total"):
        second.charge(50.5)
    assert second.total() == 100.0
    ledger(tmp_path, "third", dataset="another").charge(90.0)
    ledger(tmp_path, "third", most=None).charge(1e9)
    assert (tmp_path / "disclosure.db").stat().st_mode & 0o077 == 0


def test_two_jobs_at_once_cannot_both_take_the_rest(tmp_path):
    ledger(tmp_path, "before").charge(50.0)
    refused, start = [], threading.Barrier(4)

    def take(number):
        start.wait()
        try:
            ledger(tmp_path, f"job{number}").charge(30.0)
        except RefusedError:
            refused.append(number)

    threads = [threading.Thread(target=take, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    assert ledger(tmp_path, "after").total() == 80.0


def test_a_damaged_file_stops_openings(tmp_path):
    (tmp_path / "disclosure.db").write_bytes(b"no database, but long enough to be looked at" * 50)
    with pytest.raises(StateError, match="nothing is opened meanwhile"):
        ledger(tmp_path, "first").charge(1.0)


BOUNDED = {
    "splits": "bounded",
    "ordered": False,
    "n_estimators": 2,
    "max_depth": 2,
    "max_bin": 8,
    "holdout_fraction": 0,
}


def run_of(folder, name, total, **parameters):
    configs = nodes(folder / "data", holder_policy={"max_disclosure_total": total})
    asked = {"name": name, **BOUNDED, **parameters}
    return open_job(job("train_boosting", **asked), configs, folder / "homes", keep=True)


@pytest.mark.parametrize("splits", ["bounded", "sealed"])
def test_a_second_job_finds_the_budget_used_up(splits, tmp_path):
    write(tmp_path / "data", firms(900))
    first = run_of(tmp_path, "first", 4.0, splits=splits).run()
    told = {h: first.stores[h].load_json("boosted") for h in HOLDERS}
    for holder in HOLDERS:
        assert told[holder]["spent"] == told[holder]["spent_all_jobs"] > 0
    tight = 1.01 * max(t["spent"] * 4.0 / t["budget_all_jobs"] for t in told.values())
    second = run_of(tmp_path, "second", tight, splits=splits)
    for step in ("align", "bin"):
        second.step(step)
    with pytest.raises(RefusedError, match="its budget over all jobs is used up"):
        second.step("boost", timeout_s=20)
    opened = {h: sum(e.kind == "BoostHolderSums" for e, _ in second.transcripts[h].messages) for h in HOLDERS}
    assert min(opened.values()) == 0


def test_a_resumed_attempt_is_not_counted_twice(tmp_path):
    write(tmp_path / "data", firms(900))
    run = run_of(tmp_path, "first", 4.0, n_estimators=5)
    for step in ("align", "bin"):
        run.step(step)
    gone = []

    def leaves(sender, recipient, sequence, payload):
        gone.extend([1] * (recipient == "registry" and kind_of(payload) == "BoostBankTables"))
        return [payload] if len(gone) < 2 else []

    with pytest.raises(PeerError):
        run.step("boost", tamper=leaves, timeout_s=2)
    before = run.stores["tax"].load_json("checkpoint_boost")["spent"]
    run.stores["tax"].save_json("checkpoint_boost", {"spent": 0.0, "n_sums": 0})  # lost: the ledger knows
    run.step("boost", attempt=2)
    told = run.stores["tax"].load_json("boosted")
    assert told["spent"] == told["spent_all_jobs"] > before > 0
