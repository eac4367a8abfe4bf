"""Whole requests for a score or a band, the roles of all parties driven in memory, beside the plaintext."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_online import MODEL, MemoryBank, MemoryCoordinator, MemoryHolder, Network
from random_trees import boosted, part, plain_units, random_tree

from veilscore.crypto import he
from veilscore.crypto.encrypted_cells import encode_points, one_hot
from veilscore.errors import MessageError, PeerError, ProtocolError, RefusedError, SecretReuseError, VeilscoreError
from veilscore.evidence.online_opening import BandOpened, ShareOpened, digests_of
from veilscore.models.tree_paths import HolderBits
from veilscore.online.model import ModelSides
from veilscore.protocols.adding import parse_partial
from veilscore.protocols.online import CALLER
from veilscore.protocols.online_parts import NotScoredError
from veilscore.protocols.online_spares import BankSpare, HolderSpare, Side
from veilscore.tasks.online import LEARNS
from veilscore.terms.bands import Bands
from veilscore.v1 import control_pb2 as pb

HOLDERS = ("tax", "registry")
BANDS = Bands.of({"low": -900.0, "middle": 0.0, "high": 900.0}, 1)
DISCLOSED = {"EncryptRecord", "EncryptedRecord", "TotalReply", "OpenedPartial"}


class Case:
    """A model, a record of it at each party, and what it comes to in the clear; scorecards, or trees."""

    def __init__(self, kind, *, bands=None, seed=0, **holder):
        rng = np.random.default_rng(seed)
        self.network = Network()
        MemoryCoordinator(self.network)
        make = self._trees if kind == "trees" else self._card
        sides, cells, own_units, self.units = make(rng)
        parts = {name: side.map_hash + side.part_hash for name, side in sides.items()}
        self.holders = {
            name: MemoryHolder(self.network, name, cells[name], HOLDERS, bands=bands, part=parts[name], **holder)
            for name in HOLDERS
        }
        self.bank = MemoryBank(self.network, sides, own_units, bands)
        self.total = own_units + sum(self.units.values())

    @staticmethod
    def _card(rng):
        sides, cells, units = {}, {}, {}
        for name in HOLDERS:
            n_codes = rng.integers(2, 6, 4)
            points = tuple(rng.integers(-400, 400, k) for k in n_codes)
            codes = rng.integers(0, n_codes)
            sides[name] = Side(
                name, b"m" * 32, tuple("abcd"), points, int(rng.integers(-9, 9)), encode_points(np.concatenate(points))
            )
            cells[name] = one_hot(codes[None], n_codes)[0]
            units[name] = int(sum(p[c] for p, c in zip(points, codes, strict=True)))
        return sides, cells, int(rng.integers(-500, 500)), units

    @staticmethod
    def _trees(rng):
        n_codes = {"bank": np.array([4, 3, 5]), **{name: rng.integers(2, 6, 4) for name in HOLDERS}}
        trees = [
            random_tree(rng, name, {"bank": n_codes["bank"], "holder": n_codes[name]}, max_depth=3)
            for name in (*HOLDERS, *HOLDERS)
        ]
        model = boosted(trees, [part(p, "bank" if p == "bank" else "holder", k) for p, k in n_codes.items()])
        codes = {p: rng.integers(0, k)[None] for p, k in n_codes.items()}
        sides = ModelSides.of(model).of_record(codes["bank"])
        cells = {name: HolderBits(model.trees_of(name), n_codes[name]).of(codes[name][0]) for name in HOLDERS}
        cells = {name: found if found.size else np.zeros(1, np.uint64) for name, found in cells.items()}
        total, own = int(plain_units(model, codes)[0]), sides.own_units(codes["bank"])
        parts = {name: int(sides.holders[name].cells @ cells[name].astype(np.int64)) for name in HOLDERS}
        assert own + sum(parts.values()) == total
        return sides.holders, cells, own, parts

    def run(self, scenario):
        async def whole():
            try:
                return await scenario(self)
            finally:
                for party in (self.bank, *self.holders.values()):
                    await party.caller.close()

        return asyncio.run(whole())


def plain_band(total):
    return int(BANDS.index(np.array([total]))[0])


@pytest.mark.parametrize("spared", [0, 1])
@pytest.mark.parametrize("bands", [None, BANDS], ids=["score", "band"])
@pytest.mark.parametrize("kind", ["card", "trees"])
@pytest.mark.parametrize("seed", [1, 2])
def test_equals_the_plaintext(kind, bands, spared, seed):
    async def scenario(case):
        for _ in range(spared):
            await case.bank.make_spares()
        return await case.bank.score("a")

    case = Case(kind, bands=bands, seed=seed)
    opened = case.run(scenario)
    expected = sum(case.units.values()) if bands is None else plain_band(case.total)
    assert (opened.together, opened.taking_part, opened.before) == (expected, HOLDERS, False)
    assert {p.status for p in opened.parts.values()} == {"ok"}
    for holder in case.holders.values():
        assert holder.admitted == 1
        share = next(one for one in holder.logged if isinstance(one, ShareOpened))
        assert (share.bank, share.request, share.model) == ("bank", "a", MODEL.hex())
        assert digests_of(case.bank.opens[holder.name]).items() <= share.messages.items()
        assert set(share.messages) == {
            "PrepareSpare", "PreparedSpare", "FinishSpare", "EncryptRecord", "EncryptedRecord", "OpenPartial",
        }  # fmt: skip
    asked = [m for _, to, m in case.network.seen if isinstance(m, pb.EncryptRecord) and to == "tax"]
    assert len(asked) == 1
    prepared = [m for _, to, m in case.network.seen if isinstance(m, pb.PrepareSpare) and to == "tax"]
    assert [m.spare_id for m in prepared] == [asked[0].spare_id]
    leads = [one for holder in case.holders.values() for one in holder.logged if isinstance(one, BandOpened)]
    assert [one.holder for one in leads] == ([] if bands is None else ["tax"])
    assert bool(case.holders["tax"].roles) == (bands is not None)  # a lead still knows its tables
    assert not case.holders["registry"].roles


@pytest.mark.parametrize("bands", [None, BANDS], ids=["score", "band"])
def test_every_message_is_in_the_table_and_hides_what_it_should(bands):
    """The same record asked for many times: what stands as hidden takes all values."""

    async def scenario(case):
        for k in range(16):
            if k % 2:
                await case.bank.make_spares()
            await case.bank.score(f"r{k}")
        return case.network.seen

    case = Case("card", bands=bands, seed=3)
    seen = case.run(scenario)
    only = {"", "exact" if bands is None else "band"}
    told = {(leak.kind, {"lead": "holder"}.get(leak.to, leak.to)) for leak in LEARNS if leak.only in only}
    roles = {"bank": "bank", "coordinator": "coordinator"} | dict.fromkeys(HOLDERS, "holder")
    silent = {"Empty", "PrepareSpare", "TotalRequest"} | ({"OpenedPartial"} if bands is None else set())
    sent = {(type(m).__name__, roles[to]) for _, to, m in seen if type(m).__name__ not in silent}
    assert sent <= told
    assert ("coordinator" in {to for _, to, _ in seen}) == (bands is None)
    partials = [m.partial_share for _, _, m in seen if isinstance(m, pb.AddPartial | pb.BandPartial)]
    values = [int(parse_partial(p, 1, "tax")[0]) for p in partials]
    assert len(set(values)) == len(values) >= 16
    numbers = np.concatenate(
        [np.frombuffer(m.difference_share, "<u4") for _, _, m in seen if isinstance(m, pb.EncryptedRecord)]
    )
    for drawn in (np.array(values), numbers):
        fractions = drawn / he.T
        assert abs(fractions.mean() - 0.5) < 6 * np.sqrt(1 / 12 / len(fractions))
    assert len({m.SerializeToString() for _, _, m in seen if type(m).__name__ not in silent | DISCLOSED}) > 64
    assert not {units % he.T for units in (case.total, *case.units.values(), sum(case.units.values()))} & set(values)


@pytest.mark.parametrize("bands", [None, BANDS], ids=["score", "band"])
def test_a_refusing_holder(bands):
    async def scenario(case):
        with pytest.raises(NotScoredError, match="no score without all holders") as failed:
            await case.bank.score("a")
        neutral = await case.bank.score("b", "neutral")
        case.holders["tax"].without_others = True
        return failed.value, neutral, await case.bank.score("c", "neutral")

    case = Case("card", bands=bands, seed=4)
    case.holders["registry"].refuses = "not allowed"
    failed, neutral, alone = case.run(scenario)
    assert {p.holder: (p.status, p.reason) for p in failed.parts.values()} == {
        "tax": ("ok", ""),
        "registry": ("refused", "not allowed"),
    }
    assert (neutral.taking_part, neutral.together) == ((), 0)
    assert "only together" in neutral.parts["tax"].reason
    average = case.bank.sides["registry"].average
    expected = case.units["tax"] if bands is None else plain_band(case.total - case.units["registry"] + average)
    assert (alone.taking_part, alone.together) == (("tax",), expected)
    assert case.holders["tax"].admitted == 1


def test_a_firm_that_a_holder_does_not_know():
    async def scenario(case):
        with pytest.raises(NotScoredError) as failed:
            await case.bank.score("a")
        counted = await case.bank.score("b", "missing_code")
        for holder in case.holders.values():
            holder.discloses_unknown = False
        return failed.value, counted, await case.bank.score("c", "missing_code")

    failed, counted, hidden = Case("card", seed=5, known=False).run(scenario)
    assert {p.status for p in failed.parts.values()} == {p.status for p in counted.parts.values()} == {"unknown"}
    assert {p.status for p in hidden.parts.values()} == {"not disclosed"}


def test_what_was_opened_before_is_not_opened_again():
    async def scenario(case):
        await case.bank.make_spares()
        for holder in case.holders.values():
            holder.released_as = "earlier"
        case.bank.before = 77
        kept = await case.bank.score("a")
        stock = {name: len(spares) for name, spares in case.bank.stock.items()}
        case.bank.before = None  # the bank has lost it: it is opened again
        for holder in case.holders.values():
            holder.find = refreshed(holder)
        return kept, stock, await case.bank.score("b")

    def refreshed(holder):
        find = type(holder).find

        async def asked(bank, request):
            holder.released_as = "" if request.fresh else "earlier"
            return await find(holder, bank, request)

        return asked

    case = Case("card", seed=6)
    kept, stock, again = case.run(scenario)
    assert (kept.together, kept.before, kept.taking_part) == (77, True, HOLDERS)
    assert stock == dict.fromkeys(HOLDERS, 1)  # a spare that was not used went back
    assert (again.together, again.before) == (sum(case.units.values()), False)


@pytest.mark.parametrize("bands", [None, BANDS], ids=["score", "band"])
def test_a_repeat_after_a_failure_sends_the_same_bytes(bands):
    """The coordinator or the lead is away when parts are opened; later the request goes on where it was."""

    async def scenario(case):
        away = "coordinator" if bands is None else "tax"
        answer = case.network.parties[away].answer

        async def gone(sender, request):
            if isinstance(request, pb.AddPartial | pb.TotalRequest | pb.BandPartial):
                raise PeerError("not there")
            return await answer(sender, request)

        case.network.parties[away].answer = gone
        role = case.bank.role("a")
        with pytest.raises(PeerError):
            await role.ask(CALLER, pb.ScoreRequest())
        first = {to: m for _, to, m in case.network.seen if isinstance(m, pb.OpenPartial)}
        case.network.seen.clear()
        case.network.parties[away].answer = answer
        opened = await role.ask(CALLER, pb.ScoreRequest())
        again = {to: m for _, to, m in case.network.seen if isinstance(m, pb.OpenPartial)}
        return first, again, opened

    case = Case("card", bands=bands, seed=7)
    first, again, opened = case.run(scenario)
    assert first.keys() == set(HOLDERS)
    assert again == first
    assert opened.together == (sum(case.units.values()) if bands is None else plain_band(case.total))
    assert {holder.admitted for holder in case.holders.values()} == {1}


def test_a_repeated_call_gets_the_same_answer_and_another_is_refused():
    async def scenario(case):
        await case.bank.make_spares()
        await case.bank.score("a")
        sent = {type(m): m for _, to, m in case.network.seen if to == "tax"}
        tax, before = case.holders["tax"], len(case.network.seen)
        opens = sent[pb.OpenPartial]
        assert await tax.answer("bank", opens) == pb.OpenedPartial()
        brought = [m for _, _, m in case.network.seen[before:] if isinstance(m, pb.AddPartial)]
        assert brought == [sent_to(case, "coordinator", pb.AddPartial, "tax")]
        with pytest.raises(RefusedError, match="used here already"):
            await tax.answer("bank", sent[pb.EncryptRecord])
        opens.spare_id = "other"
        with pytest.raises(RefusedError, match="another reply was opened"):
            await tax.answer("bank", opens)
        record = sent[pb.EncryptRecord]
        record.request_id = "b"
        await case.bank.make_spares()
        record.spare_id = case.bank.stock["tax"][0].spare_id
        first = await tax.answer("bank", record)
        assert first.difference_share
        assert await tax.answer("bank", record) == first  # a spare serves one record
        assert (await tax.answer("bank", changed(record, spare_id="never made"))).no_spare
        with pytest.raises(RefusedError, match="used here already"):
            await tax.answer("bank", changed(record, firm_id="other"))
        return tax.admitted

    assert Case("card", seed=8).run(scenario) == 1


def test_a_record_is_opened_as_it_was_let_pass_whatever_was_sent_later():
    """What a holder counts is what its budget said of the record under the spare that the bank names."""

    async def scenario(case):
        await case.bank.score("a")
        sent = {type(m): m for _, to, m in case.network.seen if to == "tax"}
        tax, find, admitted = case.holders["tax"], case.holders["tax"].find, []

        async def numbered(bank, request):
            record = await find(bank, request)
            return replace(record, passed=replace(record.passed, n_columns=int(request.fresh)))

        tax.find, tax.admit = numbered, admitted.append
        spares = []
        for fresh in (False, True):
            await case.bank.make_spares()
            spares.append(case.bank.stock["tax"].pop().spare_id)
            asked = changed(sent[pb.EncryptRecord], request_id="b", fresh=fresh, spare_id=spares[-1])
            assert (await tax.answer("bank", asked)).difference_share
        opens = changed(sent[pb.OpenPartial], request_id="b")
        with pytest.raises(RefusedError, match="no record was sent with this spare"):
            await tax.answer("bank", changed(opens, spare_id="never made"))
        await tax.answer("bank", changed(opens, spare_id=spares[0]))
        return [passed.n_columns for passed in admitted], tax.logged[-1]

    admitted, logged = Case("card", seed=8).run(scenario)
    assert admitted == [0]
    assert logged.request == "b"


def changed(message, **fields):
    other = type(message).FromString(message.SerializeToString())
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def sent_to(case, to, kind, sender):
    return next(m for s, t, m in case.network.seen if (s, t) == (sender, to) and isinstance(m, kind))


def test_parts_that_add_up_to_no_score_end_the_request():
    async def scenario(case):
        answer = case.network.parties["coordinator"].answer

        async def wrong(sender, request):
            reply = await answer(sender, request)
            if isinstance(request, pb.TotalRequest):
                reply.total_share = (he.T // 3).to_bytes(8, "little")
            return reply

        case.network.parties["coordinator"].answer = wrong
        role = case.bank.role("a")
        with pytest.raises(ProtocolError, match="possible score"):
            await role.ask(CALLER, pb.ScoreRequest())
        return role.ended

    assert Case("card", seed=9).run(scenario)


# --- spares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["card", "trees"])
def test_a_spare_is_exact_checked_and_used_once(kind):
    async def scenario(case):
        await case.bank.make_spares()
        tax, side = case.holders["tax"], case.bank.sides["tax"]
        half: BankSpare = case.bank.stock["tax"][0]
        sent = {type(m): m for _, to, m in case.network.seen if to == "tax"}
        with pytest.raises(MessageError, match="no such spare, or it was finished already"):
            await tax.answer("bank", sent[pb.FinishSpare])
        prepare = sent[pb.PrepareSpare]
        prepare.spare_id = "other"
        await tax.answer("bank", prepare)
        with pytest.raises(ProtocolError, match="out of order"):  # the id is used already
            await tax.answer("bank", prepare)
        assert tax.spares.take("bank", "other", tax.part) is None  # not finished
        assert tax.spares.take("bank", half.spare_id, b"another part") is None
        assert tax.spares.take("court", half.spare_id, tax.part) is None
        held: HolderSpare = tax.spares.take("bank", half.spare_id, tax.part)
        assert tax.spares.take("bank", half.spare_id, tax.part) is None
        difference = held.difference(tax.cells)
        with pytest.raises(SecretReuseError):
            held.difference(tax.cells)
        mask, factors = half.mask_of(difference, side.cells, "tax"), half.factors_of(side.cells)
        assert (held.partial(factors, "bank") - mask) % he.T == case.units["tax"] % he.T
        for wrong in (difference[:-1], difference + b"0000", b"\xff" * len(difference)):
            with pytest.raises(MessageError):
                half.mask_of(wrong, side.cells, "tax")
        rubbish = (b"", factors[:-1], factors + b"0000", b"\xff" * len(factors))
        for wrong in rubbish if kind == "trees" else (b"0000",):
            with pytest.raises(MessageError):
                held.partial(wrong, "bank")

    Case(kind, seed=10).run(scenario)


# --- any bytes -------------------------------------------------------------------------------------------------------

TO_HOLDERS = (
    pb.EncryptRecord,
    pb.OpenPartial,
    pb.PrepareSpare,
    pb.FinishSpare,
    pb.MakePool,
    pb.ExtendPool,
    pb.ShareKey,
)
FROM_PEERS = (pb.EncryptedRecord, pb.OpenedPartial, pb.TotalReply, pb.MadePool, pb.HolderKeys)


BYTES = st.sampled_from([b"", bytes(32), b"\1" * 40]) | st.binary(max_size=80)
TEXT = st.sampled_from(["", "tax", "registry", "a", "fail", "missing_code"]) | st.text(max_size=20)


def fields(kind):
    """Messages of a kind with any values in any fields."""
    one = {}
    for f in kind.DESCRIPTOR.fields:
        if f.message_type is not None and f.message_type.GetOptions().map_entry:
            kinds = f.message_type.fields_by_name["value"]
            values = {kinds.TYPE_BYTES: st.binary(max_size=40), kinds.TYPE_STRING: TEXT}
            value = values.get(kinds.type, st.integers(0, 2**32 - 1))
            one[f.name] = st.dictionaries(st.sampled_from([*HOLDERS, "x"]), value, max_size=3)
            continue
        value = {
            f.TYPE_BYTES: BYTES,
            f.TYPE_STRING: TEXT,
            f.TYPE_BOOL: st.booleans(),
            f.TYPE_DOUBLE: st.floats(),
            f.TYPE_MESSAGE: st.deferred(lambda f=f: fields(getattr(pb, f.message_type.name))),
        }.get(f.type, st.integers(0, 2**32 - 1))
        one[f.name] = st.lists(value, max_size=3) if f.is_repeated else value
    return st.fixed_dictionaries({}, optional=one).map(lambda given: kind(**given))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_holders_answer_any_message_or_refuse_it(data):
    """Some calls one after the other, in one role where they name one request."""

    async def scenario(case):
        for _ in range(3):
            message = data.draw(fields(data.draw(st.sampled_from(TO_HOLDERS))))
            try:
                answer = await case.holders["tax"].answer("bank", message)
            except VeilscoreError:
                continue
            assert answer.SerializeToString() is not None

    Case("card", bands=data.draw(st.sampled_from([None, BANDS])), seed=11).run(scenario)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_bank_takes_any_answer_or_refuses_it(data):
    """One answer of each request is changed in a field, or is something else altogether."""

    async def scenario(case):
        if data.draw(st.booleans()):
            await case.bank.make_spares()
        victim = data.draw(st.sampled_from([*HOLDERS, "coordinator"]))
        answer, kind = case.network.parties[victim].answer, data.draw(st.sampled_from(FROM_PEERS))

        async def hostile(sender, request):
            honest = await answer(sender, request)
            if not isinstance(honest, kind) or sender != "bank":
                return honest
            other = data.draw(fields(kind))
            if data.draw(st.booleans()):
                for field, value in other.ListFields():
                    honest.ClearField(field.name)
                    honest.MergeFrom(kind(**{field.name: value}))
                return honest
            return other

        case.network.parties[victim].answer = hostile
        try:
            opened = await case.bank.score("a", data.draw(st.sampled_from(["fail", "missing_code", "neutral"])))
        except VeilscoreError:
            return
        assert set(opened.taking_part) <= set(HOLDERS)

    Case("card", bands=data.draw(st.sampled_from([None, BANDS])), seed=12).run(scenario)
