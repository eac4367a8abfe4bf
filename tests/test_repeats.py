"""What a holder takes for a repeat: not where another holder's part may differ, nor many dates for an exact score."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from consent_issuer import ISSUERS, give_list
from local_jobs import job

from veilscore.crypto.zero_share import PairwiseKey
from veilscore.errors import RefusedError
from veilscore.files.store import JobStore
from veilscore.protocols import scoring
from veilscore.release.batch import BatchGuard, BatchOpening, bank_send_lists, lists_in
from veilscore.release.ledger import BATCH, EXACT_BITS, LEDGER, ONLINE, Release, ReleaseLedger, firms_by_bits
from veilscore.terms.bands import Bands
from veilscore.terms.policy import NodePolicy
from veilscore.v1 import score_pb2
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Send, Session

IDS = np.array([f"f{k:03d}" for k in range(40)])
KNOWN, CODES = np.ones(40, bool), np.ones((40, 20), np.uint8)
STEPS = Bands.steps(tuple(range(31)), 32)
HOLDERS = ("registry", "tax")


def asked(**changes):
    """A job of a batch of steps over two holders."""
    return job("score_batch", name="batch", model="card").model_copy(update={"holders": HOLDERS} | changes)


class Desk:
    """Holder tax with 40 known firms, and a bank with a list for them all and one that covers firms at registry."""

    def __init__(self, folder):
        self.bank, self.tax, self.number = folder / "bank", folder / "tax", 0
        (self.tax / "state").mkdir(parents=True)
        give_list(self.bank, IDS, name="all")
        give_list(self.bank, IDS[:7], name="registry")
        self.policy = NodePolicy(consent_issuers=ISSUERS, release={"repeats_per_model": 9})
        self.dates = 1

    def opening(self, guard, store, inputs=b"i" * 32, bands=STEPS):
        known = np.repeat(KNOWN, self.dates)
        opening = BatchOpening(
            known,
            b"m" * 32,
            b"c" * 32,
            20,
            bands,
            inputs=guard.put_in(store, inputs),
            codes=np.repeat(CODES, self.dates, 0),
        )
        guard.check_release(store, opening)
        row_of = guard.within_budget(store, lambda: IDS, np.repeat(np.arange(40), self.dates), opening)
        for _ in guard.counted(partial_sent(), store, known, opening):
            pass
        assert (row_of >= 0).all()
        return opening

    def batch(self, job_, **more):
        """Align and open one batch; return what was put in, as the holder sees it."""
        self.number += 1
        parties = ("bank", *job_.holders)
        sessions = {p: Session(f"job{self.number}/score/1", p, "bank", job_.holders) for p in parties}
        guards = {h: BatchGuard(self.tax, self.policy, job_, sessions[h]) for h in job_.holders}
        roles = {"bank": bank_send_lists(sessions["bank"], lists_in(self.bank, job_))}
        roles |= {h: guard.receive_consents() for h, guard in guards.items()}
        consents = simulate(roles, sessions, timeout_s=5.0)
        (folder := self.tax / "jobs" / f"j{self.number}").mkdir(parents=True)
        store = JobStore(folder)
        row_of = np.repeat(np.arange(40), self.dates)
        rows = SimpleNamespace(values=np.repeat(np.arange(40, dtype=np.uint64), self.dates), key_id=b"k" * 32)
        guards["tax"].keep(store, consents["tax"], IDS, row_of, rows)
        put_in = []
        for guard in guards.values():
            guard.keep(store, consents["tax"], IDS, row_of, rows)
            put_in.append(guard.put_in(store, b"i" * 32))
        assert len(set(put_in)) == 1  # every holder takes it for the same, or the shares of zero do not cancel
        return self.opening(guards["tax"], store, **more)

    def told(self):
        with contextlib.closing(ReleaseLedger(self.tax / LEDGER)) as ledger:
            return firms_by_bits(ledger.releases(0.0))["bank"]


def partial_sent():
    """A protocol that opens, as far as the ledger is concerned."""
    yield Send("registry", score_pb2.BandHolderPartial())


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def leave_a_list_out(desk):
    (desk.bank / "consents" / "lists" / "registry.json").unlink()
    return asked()


def another_data_set(_desk):
    return asked(datasets=asked().datasets | {"registry": "empty"})


def another_holder(_desk):
    return asked(holders=("court", "tax"), datasets=asked().datasets | {"court": "d"})


@pytest.mark.parametrize("change", [leave_a_list_out, another_data_set, another_holder])
def test_a_batch_whose_other_part_may_differ_is_no_repeat(desk, change):
    first = desk.batch(asked())
    assert desk.batch(asked()).inputs == first.inputs
    assert desk.told() == {5.0: 40}  # the same again is free
    assert desk.batch(change(desk)).inputs != first.inputs
    assert desk.told() == {10.0: 40}
    with pytest.raises(RefusedError, match="more than 10 bits"):
        desk.batch(asked(purpose="credit", datasets=asked().datasets | {"registry": "other"}))


def test_the_order_of_lists_is_no_change(desk, monkeypatch):
    first = desk.batch(asked())
    monkeypatch.setitem(globals(), "lists_in", lambda *given, _all=lists_in: _all(*given)[::-1])
    assert desk.batch(asked()).inputs == first.inputs


def test_other_inputs_to_each_holder_open_nothing():
    """A bank that hides from one holder what it changed for another gets numbers that are uniform."""
    one = scoring.BatchRequest(KNOWN, b"m" * 32, b"c" * 32, inputs=b"i" * 32)
    session = Session("job/score/1", "tax", "bank", ("tax", "registry"))
    keys = {"registry": PairwiseKey(b"k" * 32)}
    masked = [
        scoring._masked(session, request, np.zeros(40, np.uint64), keys, 1 << 25)
        for request in (one, one, replace(one, inputs=b"j" * 32))
    ]
    assert np.array_equal(masked[0], masked[1])
    assert (masked[0] != masked[2]).mean() > 0.9


@pytest.mark.parametrize("dates", [3, 5, 24])
def test_dates_of_a_firm_add_up_and_are_never_exact(desk, dates):
    desk.dates = dates
    with pytest.raises(RefusedError, match="more than 10 bits"):
        desk.batch(asked())


def test_what_stood_for_exact_in_older_files_is_exact_and_dates_are_not(tmp_path):
    firms = np.arange(40, dtype=np.uint64)
    with contextlib.closing(ReleaseLedger(tmp_path / "release.db")) as ledger:
        one = Release(BATCH, "bank", "exact", "m", "c", firms, bits=25.0, rows=firms, inputs=b"i" * 32, records=firms)
        ledger.add(one)
        ledger.add(replace(one, reference="dates", inputs=b"", records=firms[:0]))
        ledger.add(Release(ONLINE, "bank", "single", "m", "c", firms[:1], bits=25.0))
        ledger.add(replace(one, reference="now", bits=EXACT_BITS))
        assert {r.reference: r.bits for r in ledger.releases(0.0)} == {
            "exact": EXACT_BITS, "dates": 25.0, "single": EXACT_BITS, "now": EXACT_BITS,
        }  # fmt: skip
