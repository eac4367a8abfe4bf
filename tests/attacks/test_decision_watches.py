"""A bank that goes on from one month of a watch twice, begins it twice for one price, or applies another's decision."""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from veilscore.errors import ConfigError, RefusedError
from veilscore.evidence.job_ledger import Ledger
from veilscore.files.store import JobStore
from veilscore.models.decided import FILE, FiledDecision, Pin
from veilscore.models.versions import file_model
from veilscore.protocols.decision import DecisionRequest
from veilscore.release.budget import ReleaseBudget
from veilscore.release.ledger import WATCH, Release, ReleaseLedger
from veilscore.tasks.decide_parts import filed_here
from veilscore.tasks.decide_watch import CHARGED, CONTINUED, HolderWatch, bank_levels, read_before
from veilscore.terms.decide import Decide
from veilscore.terms.decision import DecisionModel
from veilscore.terms.job import parse_job
from veilscore.terms.rules import ReleaseRules
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.protocol import Send

N = 40
ROWS = np.arange(1, N + 1, dtype=np.uint64)
LINKS = np.arange(1, N + 1)
READ_NOW = np.ones(N, bool), {"a": np.zeros((N, 1), np.uint8)}
JUNE, JULY, OTHER = (f"watch-00000000-{number:016x}" for number in range(3))


def alarm(cut_off=1):
    model = {"name": "alarm", "purpose": "watch", "watch": True, "steps": ["red"]}
    measures = {"a": {"model": "m", "cutoffs": [cut_off]}}
    pin = Pin(model="m", model_sha256="0" * 64, limits=(cut_off,), maps={"registry": "1" * 64}, written=True)
    return FiledDecision(decision=DecisionModel.model_validate({**model, "measures": measures}), pins={"a": pin})


def context(home, job_id, last=None, party="registry", bank="bank"):
    """What a party has at hand in a month of the watch; rows and firms are the same in each."""
    asked = Decide(decision="alarm", watch=True, last=last)
    store = JobStore(home / "jobs" / job_id)
    store.save_arrays("firms", firms=ROWS, rows=ROWS)
    accepted = home / "state" / "jobs"
    return SimpleNamespace(
        home=lambda: home, job_id=job_id, store=store, session=SimpleNamespace(party=party, lead="tax"),
        job=SimpleNamespace(of=lambda _task: asked, bank=bank), jobs=Ledger(accepted) if accepted.is_dir() else None,
    )  # fmt: skip


def begun(at, *, inputs=b"i" * 32, filed=None, links=LINKS):
    last = at.job.of(Decide).last
    request = DecisionRequest(N, b"d" * 32, inputs, last or "", links if last else np.zeros(0, np.int64))
    return HolderWatch.begin(at, filed or alarm(), request)


@pytest.fixture
def home(tmp_path):
    """A holder that has opened June."""
    (tmp_path / "jobs").mkdir()
    june = context(tmp_path, JUNE)
    begun(june).keep(june, alarm(), np.ones(N, bool))
    return tmp_path


def continued(home):
    return json.loads((home / "jobs" / JUNE / f"{CONTINUED}.json").read_text())["by"]


# --- one month, continued twice --------------------------------------------------------------------------------------


def test_of_two_jobs_in_flight_one_goes_on(home):
    """Both begin before either opens; the second opens nothing, and the note of the first stays."""
    first, second = context(home, JULY, JUNE), context(home, OTHER, JUNE)
    both = begun(first), begun(second)
    both[0].going_on(first)
    with pytest.raises(RefusedError, match=f"job {JUNE} was continued by another one"):
        both[1].going_on(second)
    assert continued(home) == JULY
    both[0].going_on(first)  # another attempt with the same inputs


def test_of_two_attempts_in_flight_one_set_of_inputs_goes_on(home):
    at = context(home, JULY, JUNE)
    both = begun(at), begun(at, inputs=b"j" * 32)
    both[0].going_on(at)
    with pytest.raises(RefusedError, match="was continued with other rows or inputs"):
        both[1].going_on(at)


def test_of_many_jobs_at_the_same_moment_one_goes_on(home):
    jobs = [context(home, f"watch-00000000-{number:016x}", JUNE) for number in range(10, 18)]
    months, gate, on = [begun(at) for at in jobs], threading.Barrier(len(jobs)), []

    def go(at, month):
        gate.wait()
        try:
            month.going_on(at)
        except RefusedError:
            return
        on.append(at.job_id)

    threads = [threading.Thread(target=go, args=one) for one in zip(jobs, months, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert on == [continued(home)]


@pytest.mark.parametrize("kind", [pb.DecisionLeadLevels, pb.BandHolderPartial, pb.BandLeadTables])
def test_nothing_of_a_second_month_leaves(home, kind):
    """Neither the labels of last month's levels nor what opens this one."""

    def sending():
        yield Send("bank", kind())
        return N

    first, second = context(home, JULY, JUNE), context(home, OTHER, JUNE)
    months = begun(first), begun(second)
    assert isinstance(months[0].noted(first, sending(), *READ_NOW).send(None), Send)
    with pytest.raises(RefusedError, match="was continued by another one"):
        months[1].noted(second, sending(), *READ_NOW).send(None)
    assert read_before(second) is None


def test_a_later_attempt_goes_by_what_the_first_one_read(home):
    """Records that changed in between would tell the bank another level for nothing."""

    def sending():
        yield Send("bank", pb.BandHolderPartial())
        return N

    def attempt(known, codes):
        month = begun(july)
        run = month.noted(july, sending(), known, {"file": codes})
        run.send(None)
        run.close()

    july = context(home, JULY, JUNE)
    assert read_before(july) is None
    known, codes = ROWS > 7, np.arange(N, dtype=np.uint8)[:, None]
    attempt(known, codes)
    for _ in range(2):
        found = read_before(july)
        assert (found[0].tolist(), list(found[1])) == (known.tolist(), ["file"])
        assert (found[1]["file"] == codes).all()
        attempt(~known, codes + 1)


# --- begun twice -----------------------------------------------------------------------------------------------------


class Desk:
    """A holder's ledger under its default policy."""

    def __init__(self, folder):
        self.ledger = ReleaseLedger(folder / "release.db")
        self.budget = ReleaseBudget(self.ledger, ReleaseRules(repeats_per_model=99), 20)

    def admit(self, month, reference):
        """Count the opening of a month as a holder does."""
        due = ROWS[month.rows.due]
        records = self.ledger.record_digests(due, month.inputs, np.zeros((due.size, 3), np.uint8))
        self.budget.admit(
            Release(
                kind=WATCH, bank="bank", reference=f"bank/{reference}", model="alarm", code_map="maps", firms=due,
                band=True, bits=3.7, rows=due, inputs=month.inputs, records=records,
            )
        )  # fmt: skip


def test_a_second_start_with_the_same_inputs_is_charged(home):
    desk = Desk(home)
    july, other = context(home, JULY), context(home, OTHER)
    desk.admit(begun(july), f"{JULY}/decide/1")
    desk.admit(begun(july), f"{JULY}/decide/2")  # an attempt of the same job is free
    with pytest.raises(RefusedError, match="more than 7 bits would be told"):
        desk.admit(begun(other), f"{OTHER}/decide/1")
    desk.ledger.close()


# --- whose decision, and which version of it -------------------------------------------------------------------------


def file_by(home, bank):
    """File the alarm at a holder, as a job of a bank leaves it."""
    asked = json.dumps({"decision": alarm().decision.model_dump(mode="json", exclude_defaults=True)})
    head = f"bank: {bank}\nholders: [registry]\ndatasets: {{{bank}: main, registry: main}}\n"
    job = parse_job(f"name: alarm\npurpose: watch\n{head}task: file_decision\nparameters: {asked}\n")
    job_id = f"alarm-00000000-{job.sha256.hex()[:16]}"
    folder = home / "jobs" / job_id / "models" / "alarm"
    folder.mkdir(parents=True)
    alarm().save(folder)
    file_model(home, job_id, "alarm")
    Ledger(home / "state" / "jobs").add(job_id, job, "accepted", "")


def test_a_batch_applies_no_decision_that_another_bank_filed(home):
    file_by(home, "bank2")
    with pytest.raises(RefusedError, match="no such version of decision alarm that this bank filed"):
        filed_here(context(home, JULY), "alarm", alarm().sha256)
    filed, folder = filed_here(context(home, JULY, bank="bank2"), "alarm", alarm().sha256)
    assert filed == alarm()
    assert (folder / FILE).is_file()
    file_by(home, "bank")  # the same decision, which both filed
    assert filed_here(context(home, JULY), "alarm", alarm().sha256)[0] == alarm()


def test_a_new_version_of_a_decision_begins_a_new_watch(home):
    july = context(home, JULY, JUNE)
    with pytest.raises(RefusedError, match=f"job {JUNE} is no month of this watch here; begin it anew"):
        begun(july, filed=alarm(cut_off=2))
    with pytest.raises(ConfigError, match="is no month of this watch here"):
        bank_levels(july, alarm(cut_off=2), ROWS.astype(str))
    kept = JobStore(home / "jobs" / JUNE).load_arrays(CHARGED)
    assert (time.time() - kept["since"] < 3600).all()
    begun(july)
