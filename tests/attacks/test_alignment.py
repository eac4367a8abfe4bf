"""Alignment against a holder that builds its store as it likes, and a bank that answers what it likes.

A holder that learns the bank's secret bits can compute the function at any id, so it finds every firm of the bank by
trying all ids, at leisure. The control is the same attack where the bank does not compare the parities of the columns.
"""

from __future__ import annotations

import numpy as np
import pytest
from lying_parties import flip_columns, sending_other_values

from veilscore.crypto import linear_code, okvs, oprf
from veilscore.crypto.bit_matrix import to_columns, to_rows
from veilscore.errors import MessageError
from veilscore.protocols.align import AlignLimits, bank_align, holder_align
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session
from veilscore.wire.randomness import seeded

LABEL = b"attack"
SLOTS_FOR = 4000  # ids; so many that most known ones have a slot to themselves
KNOWN = [f"known {k}" for k in range(700)]  # firms of the bank that the holder knows to be there
PRIVATE = [f"private {k}" for k in range(300)]  # firms of the bank that are not in the holder's store
ABSENT = [f"absent {k}" for k in range(300)]


def two_sides(ids, n_padded):
    receiver = oprf.Receiver(LABEL, ids, n_padded)
    sender = oprf.Sender(LABEL, n_padded, receiver.key, receiver.point())
    receiver.accept(sender.choices())
    return receiver, sender


def one_flip(slot, column, *, n_padded=SLOTS_FOR):
    flips = np.zeros((okvs.n_slots(n_padded), 512), bool)
    flips[slot, column] = True
    return flips


def attack(receiver, sender):
    """Return the bank's secret bits: of one known firm a column, a slot that no other has is wrong in that column."""
    segment = np.uint64(okvs.segment_size(SLOTS_FOR))
    places = okvs._parts(receiver._digests, segment)[:, 3:].astype(np.int64)
    used = np.bincount(places.ravel())
    firms = np.flatnonzero(used[places].min(axis=1) == 1)[:512]
    slots = places[firms, used[places[firms]].argmin(axis=1)]
    flips = one_flip(slots, np.arange(512))
    flip_columns(receiver, flips.T)
    sender.take(receiver.next_part())
    # the bank's value at a firm is the holder's own, unless the wrong bit went in
    bits = (sender.values(KNOWN) != receiver.values()).any(axis=1)[firms]
    return np.packbits(bits, bitorder="little").view(np.uint64), flips


def bank_rebuilt(receiver, secret, flips):
    """Return a sender with the bank's rows, made of the holder's own and the secret."""
    n_words = len(flips) // 64
    store, code = np.zeros((76, n_words), np.uint64), np.zeros((512, n_words), np.uint64)
    to_columns(receiver._slots, store)
    linear_code.add_code(store, code)
    wrong = np.packbits(flips, axis=1, bitorder="little").view(np.uint64)
    rebuilt = oprf.Sender(LABEL, SLOTS_FOR, receiver.key, oprf.Receiver(LABEL, ["x"], 1).point())
    rebuilt._secret = secret
    rebuilt._rows = receiver._rows ^ (to_rows(code, n_words) ^ wrong) & secret
    return rebuilt


def test_columns_of_no_store_give_nothing():
    receiver, sender = two_sides(KNOWN, SLOTS_FOR)
    with pytest.raises(MessageError, match="do not agree"):
        attack(receiver, sender)


def test_without_the_comparison_they_give_every_firm_of_the_bank(monkeypatch):
    monkeypatch.setattr(oprf, "parities", lambda _, columns: np.zeros((len(columns), 2), np.uint64))
    receiver, sender = two_sides(KNOWN, SLOTS_FOR)
    secret, flips = attack(receiver, sender)
    assert np.array_equal(secret, sender._secret)
    told = {value.tobytes() for value in sender.values(PRIVATE)}  # what the bank sends, in whatever order
    tried = bank_rebuilt(receiver, secret, flips).values(PRIVATE + ABSENT)
    assert [value.tobytes() in told for value in tried] == [True] * 300 + [False] * 300


def test_one_guessed_bit_passes_for_half_of_all_secrets():
    """What is left to a cheat: it passes where it guessed right, and learns what it guessed."""
    asked = []
    for seed in range(6):
        receiver, sender = seeded(bytes([seed]) * 32, lambda: two_sides(["a"], 10))
        flip_columns(receiver, one_flip(3, 5, n_padded=10).T)
        part = receiver.next_part()
        asked.append(bool(int(sender._secret[0]) >> 5 & 1))
        if asked[-1]:
            with pytest.raises(MessageError, match="do not agree"):
                sender.take(part)
        else:
            sender.take(part)
    assert 0 < sum(asked) < 6


@pytest.mark.parametrize("columns", [range(512), range(40, 211)])
def test_many_columns_do_not_pass(columns):
    """As many as the code's distance: with those, another store would be as good."""
    receiver, sender = two_sides(["a"], 10)
    flip_columns(receiver, one_flip(3, list(columns), n_padded=10).T)
    with pytest.raises(MessageError, match="do not agree"):
        sender.take(receiver.next_part())


def test_a_holder_that_shows_no_parities_is_refused():
    receiver, sender = two_sides(["a"], 10)
    part = receiver.next_part()
    with pytest.raises(MessageError, match="do not agree"):
        sender.take(part[: -8 * oprf._PARITY_WORDS] + bytes(8 * oprf._PARITY_WORDS))


def test_a_store_holds_at_most_as_many_ids_as_it_has_slots():
    """A holder that says 30 and solves for more: that many of its guesses are answered, and not one more."""
    ids = [f"guess {k}" for k in range(400)]
    assert okvs.n_slots(30) == 256
    receiver, sender = two_sides(ids[:180], 30)
    sender.take(receiver.next_part())
    answered = (sender.values(ids) == np.concatenate([receiver.values(), np.zeros((220, 2), np.uint64)])).all(axis=1)
    assert answered.tolist() == [True] * 180 + [False] * 220
    for key in range(20):
        digests = oprf.digests_of(LABEL, bytes([key]), ids[:257])
        assert okvs.encode(digests, okvs.segment_size(30)) is None


def test_a_bank_that_chooses_the_holders_own_point_is_refused():
    """It would know the second key of that transfer, and so what the holder's store has in one column."""
    receiver = oprf.Receiver(LABEL, ["a"], 2)
    sender = oprf.Sender(LABEL, 2, receiver.key, receiver.point())
    with pytest.raises(MessageError, match="not valid"):
        receiver.accept(receiver.point() + sender.choices()[32:])


def run(change):
    """Align with a bank whose values are changed; returns what the holder has, and what it sends."""
    sessions = {party: Session("job/align/1", party, "bank", ("tax",)) for party in ("bank", "tax")}
    limits, transcripts = AlignLimits(size_step=10), {}
    bank = bank_align(sessions["bank"], "tax", [f"firm {k}" for k in range(20)], limits)
    roles = {
        "bank": sending_other_values(bank, change),
        "tax": holder_align(sessions["tax"], ["firm 3", "x"], limits=limits),
    }
    done = simulate(roles, sessions, transcripts=transcripts)
    sent = [(e.kind, e.size_bytes) for e, _ in transcripts["bank"].messages if e.sender == "tax"]
    return done["tax"].row_of.tolist(), sent, transcripts["bank"].messages[-1][1].accepted


def test_a_bank_that_sends_garbage_learns_no_more_than_from_values():
    honest = run(lambda data: data)
    garbage = run(lambda data: np.random.default_rng(1).bytes(len(data)))
    swapped = run(lambda data: data[12:] + data[:12])
    assert honest[0] == [-1] * 3 + [0] + [-1] * 16
    assert garbage[0] == [-1] * 20
    assert swapped[0] == [-1] * 2 + [0] + [-1] * 17
    assert honest[1:] == garbage[1:] == swapped[1:]
