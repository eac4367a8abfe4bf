"""Decisions on single firms, the roles of all parties driven in memory, beside the plaintext; and what a bank tries."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from decision_oracle import decided
from memory_online import MODEL, MemoryBank, MemoryHolder, Network
from test_online_roles import Case as ScoreCase

from veilscore.crypto.he import T
from veilscore.errors import MessageError, RefusedError
from veilscore.evidence.online_opening import DecisionOpened, PartsOpened, digests_of
from veilscore.models.loss import TURN
from veilscore.protocols.decision_circuit import FAILURES_RING, DecisionCircuit, MeasureCircuit
from veilscore.protocols.online import bank_score
from veilscore.protocols.online_desks import BankRequest, HolderRecord
from veilscore.protocols.online_measures import MeasuresAsked, RecordPart, SingleDecision, encrypt_parts
from veilscore.protocols.online_parts import NotScoredError
from veilscore.protocols.online_spares import bank_spare
from veilscore.release.single import Passed
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.calls import Served, run_calls

HOLDERS = ("tax", "registry")
NAMES = ("card", "trees", "written", "knock_outs")


class DecisionHolder(MemoryHolder):
    """A holder with one firm's parts of a decision; `firms` are those that it was asked for."""

    def __init__(self, network, name, single, parts):
        super().__init__(network, name, np.zeros(0, np.uint64), HOLDERS)
        self.single, self.parts, self.firms = single, parts, []

    async def find(self, _bank, request):
        if self.refuses:
            raise RefusedError(self.refuses, party=self.name)
        self.firms.append(request.firm_id)
        passed = Passed(None, None, 1, self.released_as)
        cells = np.zeros(0, np.uint64)
        return HolderRecord(
            request.firm_id, cells, self.known, 1.0, (), self.holders, passed, decision=self.single, parts=self.parts,
            discloses_unknown=self.discloses_unknown,
        )  # fmt: skip

    async def n_cells(self, _bank, asked):
        return next(p.cells.size for p in self.parts if p.part == asked.map_hash + asked.part_hash)


class DecisionBank(MemoryBank):
    """The bank's side; `tells` changes what one holder is asked, for a test of what a bank may not do."""

    def __init__(self, network, asked):
        super().__init__(network, {})
        self.asked, self.stock, self.tells = asked, {}, {}

    def make_one(self, holder, measure):
        side = self.asked.sides[measure][holder]
        return bank_spare(self, side, side.cells.size, f"spare{next(self._numbers)}")

    def role(self, request_id, on_missing="fail", firm="firm"):
        ask = pb.EncryptRecord(
            request_id=request_id, firm_id=firm, model_hash=MODEL, map_hash=MODEL, bands_hash=MODEL, decision="limit",
            on_missing=on_missing, purpose="proactive",
        )  # fmt: skip
        request = BankRequest(
            ask=ask, sides={}, decision=self.asked, limit_s=10.0, take_spare=lambda _: None, make_spare=lambda *_: None,
            pool=self.pool, drop_pool=self.drop_pool, opened_before=lambda _: self.before,
            note=lambda part, sent: self.opens.update({part.holder: sent}),
        )  # fmt: skip
        return Served(bank_score(request), self.caller)


class Case:
    """A decision of four measures on one firm, at all parties and in the clear."""

    def __init__(self, seed, *, tell_measure=False, room=None):
        rng, self.network = np.random.default_rng(seed), Network()
        card, trees = ScoreCase("card", seed=seed), ScoreCase("trees", seed=seed)
        written = {name: int(rng.integers(-9_000, 9_000)) for name in HOLDERS}
        failures = int(rng.integers(0, 2))
        self.totals = [card.total, trees.total, 500 + sum(written.values()), -failures]
        limits = [tuple(sorted(int(total) + rng.integers(-900, 900, 3))) for total in self.totals[:3]] + [(0, 0, 0)]
        rings = (T, T, TURN, FAILURES_RING)
        circuit = DecisionCircuit(
            tuple(MeasureCircuit(tuple(map(int, cuts)), ring) for cuts, ring in zip(limits, rings, strict=True)),
            knock_outs=True,
            tell_measure=tell_measure,
        )
        self.bound = int(rng.integers(0, 4)) if room is None else room
        steps, which = decided(limits, [np.array([t]) for t in self.totals], np.array([self.bound]), knock_outs=True)
        self.step, self.which = int(steps[0]), int(which[0])
        single = SingleDecision(MODEL, NAMES, circuit)
        sides = {
            "card": {name: card.bank.sides[name] for name in HOLDERS},
            "trees": {name: trees.bank.sides[name] for name in HOLDERS},
        }
        self.holders = {}
        for name in HOLDERS:
            parts = [
                RecordPart(m, sides[m][name].map_hash + sides[m][name].part_hash, case.holders[name].cells)
                for m, case in (("card", card), ("trees", trees))
            ]
            parts.append(RecordPart("written", points=written[name]))
            if name == "registry":
                parts.append(RecordPart("knock_outs", points=-failures))
            self.holders[name] = DecisionHolder(self.network, name, single, tuple(parts))
        asked = MeasuresAsked(
            decision=single, holders=HOLDERS, sides=sides, known={"written": HOLDERS, "knock_outs": ("registry",)},
            own={"card": card.bank.own_units, "trees": trees.bank.own_units, "written": 500}, bound=self.bound,
            take_spare=lambda holder, measure: self.bank.stock.pop((holder, measure), None),
            make_spare=self._make_one,
            put_back=lambda holder, measure, spare: self.bank.stock.update({(holder, measure): spare}),
        )  # fmt: skip
        self.bank = DecisionBank(self.network, asked)

    run = ScoreCase.run

    def _make_one(self, holder, measure, _lost=None):
        return self.bank.make_one(holder, measure)

    @property
    def lead_totals(self):
        """What the lead added up of each measure, from what it got and what it kept of its own."""
        kept = next(iter(self.holders["tax"].kept.values()))[1]
        parts = [m.partial_share for _, to, m in self.network.seen if to == "tax" and isinstance(m, pb.BandPartial)]
        totals = self.holders["tax"].single.add_up([kept, parts[-1]], HOLDERS)
        return [int(total[0]) for total in totals]


@pytest.mark.parametrize("tell", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_equals_the_plaintext(seed, tell):
    case = Case(seed, tell_measure=tell)
    opened = case.run(lambda c: c.bank.score("a"))
    which, step = divmod(opened.together, 4)
    assert (step, opened.taking_part) == (case.step, HOLDERS)
    if tell and step < 3:
        assert which == min(case.which, 3)
    for name, holder in case.holders.items():
        (logged,) = [one for one in holder.logged if isinstance(one, PartsOpened)]
        assert {"EncryptRecord", "EncryptedRecord", "OpenPartial", "FinishSpare trees"} <= set(logged.messages)
        assert holder.admitted == 1
        assert sum(isinstance(one, DecisionOpened) for one in holder.logged) == (name == "tax")


def test_the_lead_reads_nothing_of_points_that_others_know():
    """Of points that holders know themselves it adds up numbers that the bank alone can take off."""
    case, masked = Case(1, room=3), []

    async def scenario(case):
        for k in range(6):
            await case.bank.score(f"r{k}")
            case.holders["tax"].kept = {f"bank/r{k}": case.holders["tax"].kept[f"bank/r{k}"]}
            masked.append(case.lead_totals)

    case.run(scenario)
    plain = [total % ring for total, ring in zip(case.totals, (T, T, TURN, FAILURES_RING), strict=True)]
    for k, own in enumerate([case.bank.asked.own.get(name, 0) for name in NAMES]):
        seen = {row[k] for row in masked}
        assert len(seen) > 3, NAMES[k]  # never the same although the firm is
        assert (plain[k] - own) % (T, T, TURN, FAILURES_RING)[k] not in seen or k == 3


def test_a_log_and_the_leads_shares_tell_no_points():
    """Whoever has a holder's log tries masks against the digest of its answer: 256 bits of them, not 7 or 24."""
    case = Case(1, room=3)

    async def scenario(case):
        for k in range(3):
            await case.bank.score(f"r{k}")

    case.run(scenario)
    known_only = RecordPart("knock_outs", points=-1)
    answers = [m for s, _, m in case.network.seen if s == "registry" and isinstance(m, pb.EncryptedRecord)]
    logged = [one.messages["EncryptedRecord"] for one in case.holders["registry"].logged]
    assert [digests_of(m)["EncryptedRecord"] for m in answers] == logged
    for _ in range(3):  # of a holder without any encrypted cells, whose answer has nothing else that is secret
        answers.append(pb.EncryptedRecord())
        assert encrypt_parts("bank", pb.EncryptRecord(), (known_only,), lambda *_: None, answers[-1]) == {}
        assert [field.name for field, _ in answers[-1].ListFields()] == ["mask_seed"]
    assert {len(m.mask_seed) for m in answers} == {32}
    assert len({m.mask_seed for m in answers}) == len(answers)


def test_a_record_sent_while_bits_were_left_opens_no_more_once_they_are_used_up():
    """One request id and two spares: what is counted is the record that is opened, not the one that was sent last."""
    case = Case(3, room=3)
    tax, passes, admitted, used_up = case.holders["tax"], [], [], False

    async def find(bank, request):
        record = await DecisionHolder.find(tax, bank, request)
        passes.append(replace(record.passed, used_up=used_up))
        return replace(record, known=not used_up, passed=passes[-1])

    def admit(passed):
        admitted.append(passed)
        if not passed.used_up:
            raise RefusedError("other scores were released meanwhile; use a new request id", party="tax")

    tax.find, tax.admit, answer = find, admit, tax.answer

    async def asked_again(sender, request):
        nonlocal used_up
        if isinstance(request, pb.OpenPartial) and not used_up:
            used_up = True
            sent = next(m for _, to, m in case.network.seen if to == "tax" and isinstance(m, pb.EncryptRecord))
            again = pb.EncryptRecord.FromString(sent.SerializeToString())
            for measure in sorted(again.spare_ids):
                spare = await run_calls(case.bank.make_one("tax", measure), case.bank.caller)
                again.spare_ids[measure] = spare.spare_id
            assert (await answer(sender, again)).unknown
        return await answer(sender, request)

    async def scenario(case):
        tax.answer = asked_again
        with pytest.raises(NotScoredError) as failed:
            await case.bank.score("a", "missing_code")
        return failed.value.parts["tax"].reason

    assert "other scores were released meanwhile" in case.run(scenario)
    assert [passed.used_up for passed in passes] == [False, True]
    assert (admitted, tax.kept) == (passes[:1], {})


def test_measures_of_two_firms_in_one_request_open_nothing_of_either():
    """One message names one firm, so a bank can only tell holders different ones: their shares of zero then differ."""
    case = Case(2, room=3)
    steps = []

    async def scenario(case):
        carried = case.network._carried

        def other_firm(sender, to, message, kind=None):
            if to == "registry" and isinstance(message, pb.EncryptRecord):
                message = pb.EncryptRecord.FromString(message.SerializeToString())
                message.firm_id = "another"
            return carried(sender, to, message, kind)

        case.network._carried = other_firm
        for k in range(5):
            opened = await case.bank.score(f"r{k}")
            steps.append(opened.together)

    case.run(scenario)
    assert case.holders["registry"].firms[0] == "another"
    # totals are uniform in rings of 2^24 around cut-offs that lie together: no limit of the firm's is met any more
    assert set(steps) <= {0, 3}
    assert all(name not in pb.EncryptRecord.DESCRIPTOR.fields_by_name for name in ("firm_ids", "firms"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.with_parties.remove("tax"), "only together|first of the model"),
        (lambda m: m.with_parties.reverse(), "lead of a band is the first"),
        (lambda m: setattr(m, "bands_hash", bytes(32)), "another output"),
        (lambda m: m.spare_ids.pop("card"), "no record was sent"),
        (lambda m: m.factors_shares.pop("trees"), "does not fit its spare"),
    ],
)
def test_a_bank_that_asks_to_open_something_else_is_refused(change, says):
    case = Case(3)

    async def scenario(case):
        carried = case.network._carried

        def changed(sender, to, message, kind=None):
            if isinstance(message, pb.OpenPartial) and to == "registry":
                message = pb.OpenPartial.FromString(message.SerializeToString())
                change(message)
            return carried(sender, to, message, kind)

        case.network._carried = changed
        with pytest.raises(NotScoredError) as failed:
            await case.bank.score("a")
        return failed.value

    failed = case.run(scenario)
    assert re.search(says, failed.parts["registry"].reason)
    assert case.holders["registry"].kept == {}
    assert case.holders["registry"].admitted == 0


def test_one_request_id_opens_one_circuit():
    case = Case(3)

    async def scenario(case):
        await case.bank.score("a")
        asked = pb.OpenPartial.FromString(case.bank.opens["tax"].SerializeToString())
        asked.choices_share = bytes(len(asked.choices_share))
        with pytest.raises(RefusedError, match="another reply was opened"):
            await case.holders["tax"].answer("bank", asked)

    case.run(scenario)


def test_refusing_unknown_and_restarted_holders():
    case = Case(1)

    async def scenario(case):
        case.holders["registry"].refuses = "no consent"
        with pytest.raises(NotScoredError) as refused:
            await case.bank.score("a")
        case.holders["registry"].refuses = ""
        assert len(case.bank.stock) == 2  # its spares went back
        case.holders["registry"].spares = type(case.holders["registry"].spares)()  # restarted: its halves are gone
        found = await case.bank.score("b")
        case.holders["tax"].known = False
        with pytest.raises(NotScoredError) as unknown:
            await case.bank.score("c")
        later = await case.bank.score("d", on_missing="missing_code")
        return refused.value, found, unknown.value, later

    refused, found, unknown, later = case.run(scenario)
    assert {h: p.status for h, p in refused.parts.items()} == {"tax": "ok", "registry": "refused"}
    assert found.together % 4 == later.together % 4 == case.step
    assert unknown.parts["tax"].status == "unknown"


def test_answers_for_other_measures_are_refused():
    asked = Case(1).bank.asked
    good = {"difference_shares": {"card": b"", "trees": b""}, "mask_seed": bytes(32)}
    for changes in (
        {"mask_seed": b""},
        {"mask_seed": bytes(31)},
        {"difference_shares": {"card": b""}},
        {"difference_shares": {"card": b"", "trees": b"", "x": b""}},
        {},
    ):
        spare = SimpleNamespace(mask_of=lambda *_: (_ for _ in ()).throw(MessageError("wrong size")))
        with pytest.raises(MessageError):
            asked.masks_of(pb.EncryptedRecord(**(good | changes)), {"card": spare, "trees": spare}, "registry")
