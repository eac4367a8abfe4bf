"""One-time things of the portal under attack by threads, each with a file handle of its own as processes have."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from portal_visits import OURS
from trial_federation import make_homes

from party_bank.portal.store import BY_BANK, LINK_MADE, OwnerStore
from veilscore.errors import RefusedError

WORKERS, ROUNDS = 8, 25


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    home = make_homes(tmp_path_factory.mktemp("portal")) / "bank"
    opened = [OwnerStore(home) for _ in range(WORKERS)]
    yield opened
    for store in opened:
        store.close()


def at_once(*works):
    """What works give that begin at one time, each in a thread."""
    gate = threading.Barrier(len(works))

    def run(work):
        gate.wait(30)
        return work()

    with ThreadPoolExecutor(len(works)) as threads:
        return [one.result(60) for one in [threads.submit(run, work) for work in works]]


def test_a_link_or_code_opens_one_session_however_many_try_at_once(stores):
    person = stores[0].person_of(OURS)
    for n in range(ROUNDS):
        secret = stores[0].link(OURS, 1, [], "lin")
        found = at_once(*(partial(store.enter_by_link, secret) for store in stores))
        assert [one is not None for one in found].count(True) == len(stores[0].sessions(person)) == 1
        found = at_once(*(partial(store.enter_by_code, OURS, f"O{n}", f"code {n}") for store in stores))
        assert [one is not None for one in found].count(True) == 1


def test_of_links_made_at_once_one_works_and_all_are_recorded(stores):
    person = stores[0].person_of(OURS)
    for n in range(ROUNDS):
        names = [f"manager {n} {m}" for m in range(WORKERS)]
        made = at_once(*(partial(store.link, OURS, 1, [], name) for store, name in zip(stores, names, strict=True)))
        assert [stores[0].enter_by_link(secret) is not None for secret in made].count(True) == 1
        recorded = [who for _, act, who in stores[0].ways_in(person) if act == LINK_MADE]
        assert sorted(recorded[:WORKERS]) == names


def test_nobody_who_entered_before_a_new_link_or_while_it_is_made_stays(stores):
    person = stores[0].person_of(OURS)
    for n in range(ROUNDS):
        old, code = stores[0].link(OURS, 1, [], "lin"), f"other {n}"
        at_once(
            partial(stores[0].enter_by_link, old),
            partial(stores[1].enter_by_code, OURS, "O1", code),
            partial(stores[2].link, OURS, 1, [code], "wang"),
        )
        assert stores[3].sessions(person) == ()


def test_one_invitation_keeps_one_passkey(stores):
    person = stores[0].person_of(OURS)

    def keep(store, secret, credential):
        try:
            return store.keep_passkey(secret, credential, b"key", 0)
        except RefusedError:
            return None

    for n in range(ROUNDS):
        secret = stores[0].begin_passkey(person)
        found = at_once(*(partial(keep, store, secret, b"%d %d" % (n, m)) for m, store in enumerate(stores)))
        assert sorted(found, key=str) == [None] * (WORKERS - 1) + [person]
        stores[0].forget(person, "test")


def test_who_made_a_link_is_not_pushed_out_by_who_enters(stores):
    stores[0].link(OURS, 1, [], "lin")
    person = stores[0].person_of(OURS)
    for _ in range(60):
        stores[0].note(person, "portal: enter", person, "done")
        stores[0].note("lin", LINK_MADE, person, "refused: no")
    found = stores[0].ways_in(person)
    assert ("lin" in [who for _, act, who in found if act in BY_BANK], len(found)) == (True, 40)
    assert found == sorted(found, key=lambda one: -one[0])
