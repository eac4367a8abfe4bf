"""Openings are written in groups: a refusal concerns one request, a kill in the middle lets nothing leave twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest
from killed_bank import forked
from trial_evidence import open_log

from veilscore.errors import RefusedError, StateError
from veilscore.evidence.log import scan
from veilscore.evidence.online_opening import BandOpened, ShareOpened
from veilscore.files.journal import Journal
from veilscore.online.group_writer import GroupWriter
from veilscore.online.opening_writer import OpeningWriter
from veilscore.protocols.online_desks import PartOpening
from veilscore.release.gate import Token
from veilscore.release.ledger import LEDGER, ONLINE, Release, ReleaseLedger
from veilscore.release.single import Passed, SingleGuard
from veilscore.terms.rules import ReleaseRules

POLICY = SimpleNamespace(
    release=ReleaseRules(), consent="off", consent_issuers={}, issuer_banks={}, allows=lambda *_: None
)
AHEAD = frozenset({"share_opened", "band_opened"})
SAID = {"holder": "tax", "bank": "bank", "commitment": "a" * 64, "messages": {}}


class Desk:
    """What a holder has on disk, opened."""

    def __init__(self, folder):
        (folder / "state").mkdir(exist_ok=True)
        self.log = open_log(folder, ahead=AHEAD)
        self.guard, self.journal = SingleGuard(folder, POLICY, "tax"), Journal(folder / "state" / "online.db")
        self.writer = OpeningWriter(self.guard, self.journal, self.logged, self.undone)

    def logged(self, opened):
        entries = [{**one.entry(), "time_ms": self.log.now_ms()} for one in opened]
        self.log.append(entries, head_later=True)

    def undone(self, references):
        self.log.append([{"kind": "not_left", "references": list(references), "time_ms": self.log.now_ms()}])

    def close(self):
        self.writer.close()
        self.journal.close()
        self.guard.close()
        self.log.close()


def opening(folder, number, *, token=None):
    """One request of a firm of its own, at a lead."""
    ledger = ReleaseLedger(folder / LEDGER)
    firms = ledger.firms([f"firm {number}"])
    ledger.close()
    reference = f"bank/r{number}"
    release = Release(ONLINE, "bank", reference, "m" * 64, "c" * 64, firms, b"codes", bits=5.0)
    more = {"model": "m" * 64, "part": "p" * 64, "spare": f"s{number}", "keys": "k" * 64}
    logged = (
        ShareOpened(**SAID, request=f"r{number}", **more),
        BandOpened(**SAID, request=f"r{number}", pool="pool", circuit=str(number), bands="b" * 64),
    )
    return PartOpening(
        passed=Passed(release, Token(token or ("portal", f"t{number}")), 20),
        key=reference,
        request=bytes(32),
        data=b"part %d" % number,
        logged=logged,
    )


def found(folder):
    """References that the ledger counts, requests in the log with how often, and keys of the journal."""
    ledger = ReleaseLedger(folder / LEDGER)
    counted = sorted(one.reference for one in ledger.releases(0))
    ledger.close()
    requests: dict[str, int] = {}
    log = open_log(folder, ahead=AHEAD)  # takes in what a kill left without a head
    log.close()

    def visit(_, body):
        if b'"share_opened"' in body:
            request = body.split(b'"request":"')[1].split(b'"')[0].decode()
            requests[f"bank/{request}"] = requests.get(f"bank/{request}", 0) + 1

    scan(folder / "log.jsonl", visit=visit)
    journal = Journal(folder / "state" / "online.db")
    kept = [f"bank/r{k}" for k in range(8) if journal.get(f"bank/r{k}") is not None]
    journal.close()
    return counted, requests, kept


def killed(*_):
    """Nothing after this happens in this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_once(then):
    """An executor that works where it is called."""

    def submit(work, *arguments):
        work(*arguments)
        then()
        return Future()

    return SimpleNamespace(submit=submit)


def kill_before_the_log(desk):
    desk.writer._logging = SimpleNamespace(submit=killed)


def kill_with_the_log_on_disk(desk):
    desk.writer._logging = at_once(killed)


def kill_with_the_ledger_on_disk(desk):
    admit, never = desk.guard.admit, threading.Event()
    desk.writer._log = lambda _: never.wait()
    desk.guard.admit = lambda *arguments: (admit(*arguments), killed())


def kill_before_the_journal(desk):
    desk.journal.keep_all = killed


def kill_before_anybody_is_told(desk):
    write = desk.writer.write
    desk.writer.write = lambda openings: (write(openings), killed())


KILLS = {
    kill_before_the_log: (0, 0, 0),
    kill_with_the_log_on_disk: (0, 3, 0),
    kill_with_the_ledger_on_disk: (3, 0, 0),
    kill_before_the_journal: (3, 3, 0),
    kill_before_anybody_is_told: (3, 3, 3),
}


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: kill.__name__)
def test_a_kill_in_a_group_lets_nothing_leave_uncounted_or_twice(tmp_path, kill):
    """Three requests in one group; whatever is on disk then, the same three asked again come to the same, once."""
    Desk(tmp_path).close()
    group = [opening(tmp_path, k) for k in range(3)]

    def in_fork():
        desk = Desk(tmp_path)
        kill(desk)
        desk.writer.write(group)

    assert forked(in_fork) == -signal.SIGKILL
    counted, logged, kept = found(tmp_path)
    assert (len(counted), len(logged), len(kept)) == KILLS[kill]
    assert set(kept) <= set(counted) & set(logged)  # what a restarted node would repeat is counted and logged
    desk = Desk(tmp_path)
    assert desk.writer.write(group) == [one.data for one in group]
    other = opening(tmp_path, 5, token=("portal", "t0"))  # a token serves one request, also across the kill
    (refused,) = desk.writer.write([other])
    assert isinstance(refused, RefusedError)
    desk.close()
    counted, logged, kept = found(tmp_path)
    assert counted == kept == sorted(logged) == ["bank/r0", "bank/r1", "bank/r2"]


def test_one_refusal_in_a_group_leaves_nothing_and_others_pass(tmp_path):
    desk = Desk(tmp_path)
    group = [opening(tmp_path, 0), opening(tmp_path, 1, token=("portal", "t0")), opening(tmp_path, 2)]
    first, second, third = desk.writer.write(group)
    assert (first, third) == (b"part 0", b"part 2")
    assert isinstance(second, RefusedError)
    desk.close()
    counted, logged, kept = found(tmp_path)
    assert counted == kept == sorted(logged) == ["bank/r0", "bank/r2"]


def test_a_group_that_is_not_written_down_is_not_in_memory_either(tmp_path, monkeypatch):
    """The second of a group reads what the first wrote; when the commit fails, both are gone and may come again."""
    desk = Desk(tmp_path)
    group = [opening(tmp_path, 0), opening(tmp_path, 1)]
    with monkeypatch.context() as patch:

        def full(_):
            raise StateError("disk is full")

        patch.setattr(desk.writer, "_logging", SimpleNamespace(submit=lambda *_: full(_)))
        with pytest.raises(StateError):
            desk.writer.write(group)
    ledger = desk.guard._ledger
    assert ledger.releases(0) == ()
    assert desk.writer.write(group) == [b"part 0", b"part 1"]
    assert [one.reference for one in ledger.releases(0)] == ["bank/r0", "bank/r1"]
    desk.close()


@pytest.mark.parametrize("written", [True, False])
def test_who_only_looks_waits_for_no_transaction(tmp_path, written):
    """While one thread's transaction waits for the disk, others look; what it undoes counts for nobody."""
    release = opening(tmp_path, 0).passed.release
    ledger, inside, go_on = ReleaseLedger(tmp_path / LEDGER), threading.Event(), threading.Event()

    def write():
        with contextlib.suppress(StateError), ledger.exclusive():
            ledger.add(release, ("portal", "t0"))
            assert len(ledger.of_firm(int(release.firms[0]), 0)) == 1  # it sees its own, so that memory has it
            inside.set()
            assert go_on.wait(10)
            if not written:
                raise StateError("disk is full")

    thread = threading.Thread(target=write)
    thread.start()
    assert inside.wait(10)
    assert not ledger.token_used("portal", "t0", "bank/other")
    with ledger.steady():
        assert len(ledger.of_firm(int(release.firms[0]), 0)) <= 1
    assert not ledger.knows(release.reference)
    go_on.set()
    thread.join()
    assert len(ledger.of_firm(int(release.firms[0]), 0)) == ledger.count_since("bank", ONLINE, 0) == written
    assert ledger.token_used("portal", "t0", "bank/other") == ledger.knows(release.reference) == written
    ledger.close()


def test_what_waits_goes_together_and_a_lone_one_at_once():
    groups, begun, first = [], threading.Event(), threading.Event()

    def write(some):
        groups.append(list(some))
        begun.set()
        if some == [0]:
            assert first.wait(10)
        return [RefusedError("odd") if one % 2 else one for one in some]

    async def scenario():
        writer = GroupWriter(write)
        alone = asyncio.create_task(writer.put(0))
        assert await asyncio.to_thread(begun.wait, 10)
        others = [asyncio.create_task(writer.put(k)) for k in range(1, 6)]
        await asyncio.sleep(0.01)
        others[1].cancel()  # who gives up stops nothing
        first.set()
        found = await asyncio.gather(alone, *others, return_exceptions=True)
        assert await writer.put(8) == 8
        await asyncio.to_thread(writer.close)
        for late in (10, 11):
            with pytest.raises(StateError, match="is stopping"):
                await writer.put(late)
        return found

    found = asyncio.run(scenario())
    assert groups == [[0], [1, 2, 3, 4, 5], [8]]
    assert [type(one) for one in found] == [int, RefusedError, asyncio.CancelledError, RefusedError, int, RefusedError]
    assert np.array_equal([one for one in found if isinstance(one, int)], [0, 4])


def test_what_was_logged_and_could_not_be_counted_is_logged_as_not_left(tmp_path, monkeypatch):
    """Else the next start of the node would miss it in the ledger, and refuse."""
    desk, one = Desk(tmp_path), opening(tmp_path, 1)
    admit = desk.guard.admit

    def full(passed, log):
        log([None for _ in passed])
        raise StateError("disk full")

    monkeypatch.setattr(desk.guard, "admit", full)
    with pytest.raises(StateError, match="disk full"):
        desk.writer.write([one])
    monkeypatch.setattr(desk.guard, "admit", admit)
    assert desk.writer.write([opening(tmp_path, 2)]) == [b"part 2"]
    desk.close()
    entries: list[dict] = []
    scan(next(tmp_path.rglob("log.jsonl")), visit=lambda _, body: entries.append(json.loads(body)))
    assert [e["references"] for e in entries if e["kind"] == "not_left"] == [["bank/r1"]]
