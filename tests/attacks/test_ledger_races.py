"""Many requests at once, from threads and processes on one home: none passes a limit that another has just filled."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from veilscore.errors import RefusedError
from veilscore.files.journal import Answer, Journal
from veilscore.release.budget import ReleaseBudget
from veilscore.release.gate import Token
from veilscore.release.ledger import LEDGER, ONLINE, Release, ReleaseLedger
from veilscore.release.single import Passed, SingleGuard
from veilscore.terms.rules import ReleaseRules

RULES = ReleaseRules(repeats_per_model=1000, online_per_hour=1000)
POLICY = SimpleNamespace(release=RULES, consent="off", consent_issuers={}, issuer_banks={}, allows=lambda *_: None)
FIRMS, TRIES = 6, 40


def passed(ledger, number, *, token=None):
    """One of many requests: five bits of one of some firms, of which ten are allowed."""
    reference = f"bank/{'t' if token else 'r'}{number}"
    firm = f"firm {number}" if token else f"firm {number % FIRMS}"
    release = Release(ONLINE, "bank", reference, "m" * 64, "c" * 64, ledger.firms([firm]), b"codes", bits=5.0)
    return Passed(release, Token(token and ("portal", token)), 20)


def admitted(guard, ledger, worker, *, token=None):
    """Ask for all, in an order of the worker's own and in groups; return how many passed."""
    numbers = [(k * 7 + worker * 13) % TRIES for k in range(TRIES)]
    n = 0
    for at in range(0, TRIES, 3):
        group = [passed(ledger, 1000 * worker + number, token=token) for number in numbers[at : at + 3]]
        n += sum(refusal is None for refusal in guard.admit(group, lambda _: None))
        for one in group:
            with contextlib.suppress(RefusedError), ledger.steady():
                ReleaseBudget(ledger, RULES, 20).check_single(one.release, fresh=True)
    return n


def process(folder, worker, token):
    guard = SingleGuard(folder, POLICY, "tax")
    try:
        return admitted(guard, guard._ledger, worker, token=token)
    finally:
        guard.close()


def counts(folder):
    with contextlib.closing(ReleaseLedger(folder / LEDGER)) as ledger:
        return Counter(int(r.firms[0]) for r in ledger.releases(0.0))


@pytest.mark.parametrize(("token", "in_all"), [(None, 2 * FIRMS), ("one token", 1)])
def test_processes_on_one_home_pass_no_limit_and_use_no_token_twice(tmp_path, token, in_all):
    (tmp_path / "state").mkdir()
    SingleGuard(tmp_path, POLICY, "tax").close()
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        done = [pool.submit(process, tmp_path, worker, token) for worker in range(4)]
        assert sum(one.result() for one in done) == in_all
    found = counts(tmp_path)
    assert sum(found.values()) == in_all
    assert token or set(found.values()) == {2}


@pytest.mark.parametrize(("token", "in_all"), [(None, 2 * FIRMS), ("one token", 1)])
def test_threads_of_one_guard_pass_no_limit_and_remember_what_is_on_disk(tmp_path, token, in_all):
    (tmp_path / "state").mkdir()
    guard = SingleGuard(tmp_path, POLICY, "tax")
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(admitted, guard, guard._ledger, worker, token=token) for worker in range(8)]
        assert sum(one.result() for one in done) == in_all
    remembered = Counter(int(r.firms[0]) for r in guard._ledger.releases(0.0))
    guard.close()
    assert remembered == counts(tmp_path)


def test_of_many_answers_under_one_key_one_counts_for_all(tmp_path):
    """The first that is kept is what everybody is given, whoever looks by the other connection meanwhile."""
    journals = [Journal(tmp_path / "online.db") for _ in range(2)]
    start, seen = threading.Barrier(8), []

    def keep(worker):
        start.wait()
        for key in range(25):
            journal = journals[worker % 2]
            (kept,) = journal.keep_all([Answer(f"k{key}", b"same", b"%d" % worker, rest=b"r" * (worker % 2))])
            seen.append((key, kept))
            found = journal.get(f"k{key}")
            seen.append((key, found and found[1]))

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(keep, worker) for worker in range(8)]:
            done.result()
    assert len(seen) == 400
    assert len(set(seen)) == 25
    for journal in journals:
        journal.close()
