"""The band of one firm online: both roles against the plaintext, over real nodes, refusals, and what goes where."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil

import numpy as np
import pytest
from consent_issuer import OFTEN
from finished_jobs import finished
from trial_scoring import BATCH, band_all, batch_of, copy_of, rows, run_locally, score, scoring, set_policy

from veilscore.crypto import he
from veilscore.errors import MessageError, PeerError, RefusedError, SecretReuseError
from veilscore.evidence.documents import load_keys
from veilscore.evidence.online_opening import draw_opening
from veilscore.evidence.recorder import online_receipt
from veilscore.evidence.verify import verify_receipt
from veilscore.fabric.fabric import Fabric
from veilscore.files.store import JobStore
from veilscore.models.filed import load_model
from veilscore.node.node import Node
from veilscore.online import stock as online_stock
from veilscore.protocols.online_band import BankBand, LeadBand, LeadSetup, bank_setup, names_of
from veilscore.tasks.online import LEARNS
from veilscore.tasks.table import online_table
from veilscore.terms.bands import BELOW, Bands, KeptBands
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.calls import Calls, run_calls

RNG = np.random.default_rng(23)
DIGEST = re.compile(rb"[0-9a-f]{32,}")  # ids, digests and signatures: five digits occur in 29 kB of them by chance
NAMES = names_of("bank", "tax", "s")
BAND_ONLY = {**OFTEN, "output": "band"}


def named(*limits):
    return Bands.of({f"from {limit}": float(limit) for limit in limits}, 1)


# --- both roles ------------------------------------------------------------------------------------------------------


def pair():
    bank = BankBand(NAMES, os.urandom(32))
    lead = LeadBand(NAMES, bank.point)
    bank.accept(lead.choices)
    return bank, lead


def shares_of(total):
    share = int(RNG.integers(0, he.T))
    return total - share, np.array([share], np.uint64)


def opened(total, bands):
    bank, lead = pair()
    mine, theirs = shares_of(total)
    return bank.open(*lead.answer(bank.labels(mine, bands), theirs, bands))


@pytest.mark.parametrize("limits", [(0,), (-700, 52_000), (5000, 5600, 6400), tuple(range(-900, 900, 200))])
def test_every_band_and_both_sides_of_every_cut_off(limits):
    bands, half = named(*limits), he.T // 2
    for total in (*(limit + k for limit in limits for k in (-1, 0)), 1 - half, half - 1):
        assert opened(total, bands) == bands.index(np.array([total]))[0]


def test_wrong_sizes_and_points_are_refused():
    bands = named(10, 20)
    for point in (b"", bytes(32), b"\xff" * 32, bytes(64)):
        with pytest.raises(MessageError):
            LeadBand(NAMES, point)
    for change in (lambda c: c[:-32], lambda c: c[:-32] + b"\xff" * 32, lambda c: c + c[:32]):
        bank = BankBand(NAMES, os.urandom(32))
        with pytest.raises(MessageError):
            bank.accept(change(LeadBand(NAMES, bank.point).choices))
    for change in (lambda m: m[:-1], lambda m: m + bytes(8), lambda m: b""):
        bank, lead = pair()
        with pytest.raises(MessageError):
            lead.answer(change(bank.labels(3, bands)), np.array([4], np.uint64), bands)
    with pytest.raises(MessageError):
        BankBand(NAMES, os.urandom(32)).labels(1, bands)  # before the base transfers
    bank, lead = pair()
    with pytest.raises(MessageError):
        bank.open(b"", b"")
    tables, decoding = lead.answer(bank.labels(3, bands), np.array([4], np.uint64), bands)
    for wrong in ((tables[:-32], decoding), (tables + bytes(32), decoding), (tables, b""), (tables, b"\xff")):
        with pytest.raises(MessageError):
            bank.open(*wrong)
    with pytest.raises(MessageError, match="that there is not"):
        bank.open(tables, bytes([decoding[0] ^ 3]))  # 0 of 3 bands in 2 bits becomes 3
    assert bank.open(tables, decoding) == 0


def test_a_set_up_serves_once():
    bank, lead = pair()
    labels = bank.labels(3, named(10))
    lead.answer(labels, np.array([4], np.uint64), named(10))
    with pytest.raises(SecretReuseError):
        lead.answer(labels, np.array([4], np.uint64), named(10))
    with pytest.raises(SecretReuseError):
        bank.labels(4, named(10))


# --- real nodes ------------------------------------------------------------------------------------------------------


class Trained:
    """Homes with a model, the band of every firm by a batch, firms by who knows them."""

    def __init__(self, folder):
        self.folder = folder
        self.bands = {firm: row["band"] for firm, row in batch_of(folder).items()}
        self.model = load_model(folder / "bank" / "models" / "firms" / "model.json")
        tax, registry = rows(folder, "tax"), rows(folder, "registry")
        self.known = [f for f in self.bands if f in tax and f in registry]
        self.not_at_tax = [f for f in self.bands if f not in tax and f in registry]

    def of_each(self):
        """A firm of each band, and the first two."""
        return [*{self.bands[f]: f for f in self.known}.values(), *self.known[:2]]


@pytest.fixture(scope="module")
def trained():
    return Trained(finished(band_all))


@pytest.fixture
def homes(trained, tmp_path):
    folder = copy_of(trained.folder, tmp_path)
    for party in ("tax", "registry"):
        set_policy(folder, party, release=BAND_ONLY)
    return folder


def ask(folder, *requests, names=()):
    """Answers to (request id, firm, fields), one after the other."""

    async def scenario():
        async with scoring(folder, *names) as command:
            return [await score(command, number, firm, **fields) for number, firm, fields in requests]

    return asyncio.run(scenario())


def from_stock(monkeypatch):
    """Grows with each spare that a request takes out of the stock."""
    used, take = [], online_stock.BankSpares.take

    def counted(*arguments):
        spare = take(*arguments)
        used.extend([] if spare is None else [spare])
        return spare

    monkeypatch.setattr(online_stock.BankSpares, "take", counted)
    return used


def assert_no_score(response):
    assert (response.score, response.units, response.probability_of_default) == (0, 0, 0)
    assert not response.reasons


def test_bands_are_those_of_a_batch_with_and_without_spares(trained, homes, monkeypatch):
    used = from_stock(monkeypatch)
    firms = [*dict.fromkeys(trained.of_each()), *trained.not_at_tax[:2]]

    async def scenario():
        async with scoring(homes) as command:
            first = [await score(command, "a", firms[0], output="band", on_missing="missing_code")]
            assert not used
            await asyncio.sleep(2)  # nodes make spares and set-ups while idle
            return first + await asyncio.gather(
                *(
                    score(command, f"b{i}", firm, output="band", on_missing="missing_code")
                    for i, firm in enumerate(firms[1:])
                )
            )

    responses = asyncio.run(scenario())
    assert len(used) >= 2
    assert [r.band for r in responses] == [trained.bands[f] for f in firms]
    names = Bands.of(trained.model.bands, 1).names
    assert len({r.band for r in responses}) >= 3
    for response in responses:
        assert_no_score(response)
        assert (response.output, names[response.band_number]) == ("band", response.band)
        assert response.model_sha256 == trained.model.sha256
    assert [r.status for r in responses[-2:]] == ["fallback"] * 2
    assert {r.status for r in responses[:-2]} == {"scored"}


def test_a_firm_exactly_at_a_cut_off(trained, tmp_path):
    """Cut-offs in bands.json and in the model are two firms' own totals."""
    folder = copy_of(trained.folder, tmp_path)
    firms = trained.known[:6]
    units = sorted(r.units for r in ask(folder, *((f"u{i}", f, {}) for i, f in enumerate(firms))))
    cuts = {"b": units[1] / 100, "a": units[4] / 100, "top": units[-1] / 100 + 0.01}
    model = load_model(folder / "bank" / "models" / "firms" / "model.json")
    model.model_copy(update={"bands": cuts}).save(folder / "bank" / "models" / "firms" / "model.json")
    for party in ("tax", "registry"):
        models = folder / party / "models" / "firms"
        KeptBands.load(models).model_copy(update={"bands": cuts}).save(models)
    scores = ask(folder, *((f"u{i}", f, {}) for i, f in enumerate(firms)))  # kept responses
    found = ask(folder, *((f"b{i}", f, {"output": "band"}) for i, f in enumerate(firms)))
    bands = Bands.of(cuts, 100)
    assert [r.band_number for r in found] == bands.index(np.array([r.units for r in scores])).tolist()
    assert {r.band for r in found} == {BELOW, "b", "a"}


def test_a_band_policy_answers_with_bands_and_refuses_scores(trained, homes):
    firm = trained.known[0]
    refused, asked, wrong = ask(
        homes, ("a", firm, {}), ("b", firm, {"output": "band"}), ("c", firm, {"output": "band", "model": "none"})
    )
    assert refused.status == "failed"
    assert {p.reason for p in refused.parties} == {
        f"{party} releases bands only; ask for a band (output: band)" for party in ("tax", "registry")
    }
    assert (asked.status, asked.band) == ("scored", trained.bands[firm])
    assert wrong.status == "failed"
    with pytest.raises(MessageError, match="output is one of"):
        ask(homes, ("d", firm, {"output": "points"}))


def test_repeats_get_the_kept_response_and_the_same_firm_is_not_opened_again(trained, homes, monkeypatch):
    firm = trained.known[1]
    given = LeadBand.answer
    answers = []
    monkeypatch.setattr(LeadBand, "answer", lambda *arguments: answers.append(1) or given(*arguments))
    band = {"output": "band"}
    first, again, anew = ask(homes, ("a", firm, band), ("a", firm, band), ("b", firm, band))
    assert first.SerializeToString() == again.SerializeToString()
    assert (anew.band, anew.status, len(answers)) == (first.band, "scored", 1)
    after, other = ask(homes, ("a", firm, band), ("a", firm, {}))
    assert after == first
    assert (other.status, "something else" in other.message) == ("refused", True)


def test_one_holder_and_neutral_ones(trained, homes):
    """Without tax the registry leads, alone; without both the bank's band is of averages and its own part."""
    for party in ("tax", "registry"):
        set_policy(homes, party, release=BAND_ONLY, online_without_others=True)
    firm, rule = trained.known[2], {"output": "band", "on_missing": "neutral", "timeout_s": 20.0}
    (alone,) = ask(homes, ("a", firm, rule), names=("bank", "registry", "coordinator"))
    (nobody,) = ask(homes, ("b", firm, rule), names=("bank", "coordinator"))
    for party in ("tax", "registry"):
        set_policy(homes, party, release=OFTEN, online_without_others=True)
    (score_alone,) = ask(homes, ("c", firm, rule | {"output": "score"}), names=("bank", "registry", "coordinator"))
    (score_nobody,) = ask(homes, ("d", firm, rule | {"output": "score"}), names=("bank", "coordinator"))
    assert (alone.status, alone.band) == ("fallback", score_alone.band)
    assert (nobody.status, nobody.band) == ("fallback", score_nobody.band)
    assert_no_score(alone)
    assert "average points instead of tax's" in alone.message


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_cut_offs_that_were_not_accepted_or_not_kept(trained, homes):
    kept = homes / "registry" / "models" / "firms" / "bands.json"
    firm, band = trained.known[3], {"output": "band"}

    def reason():
        (response,) = ask(homes, (f"q{next(numbers)}", firm, band))
        assert response.status == "failed"
        return next(p.reason for p in response.parties if p.party == "registry")

    numbers = iter(range(9))
    edit(kept, bands={"low": 0, "middle": 551, "high": 600})
    assert "not those that this party accepted" in reason()
    edit(kept, bands={})
    assert "none is defined" in reason()
    edit(kept, bands={"low": 0, "middle": 550, "high": 600}, map_sha256="0" * 64)
    assert "of another version of the model" in reason()
    kept.unlink()
    assert "restore bands.json" in reason()
    shutil.copy(homes / "tax" / "models" / "firms" / "bands.json", kept)  # of another map
    assert "of another version" in reason()
    set_policy(homes, "registry", release={**BAND_ONLY, "max_bands": 2})
    shutil.copy(trained.folder / "registry" / "models" / "firms" / "bands.json", kept)
    assert "3 bands are more than the 2" in reason()
    set_policy(homes, "registry", release={**BAND_ONLY, "min_band_width": 3})
    assert "min_band_width" in reason()


def test_a_model_without_bands(trained, homes):
    path = homes / "bank" / "models" / "firms" / "model.json"
    load_model(path).model_copy(update={"bands": {}}).save(path)
    (response,) = ask(homes, ("a", trained.known[0], {"output": "band"}))
    assert response.status == "failed"
    assert "has no bands" in response.message


def test_a_band_counts_by_model_and_cut_offs_also_beside_batches(trained, tmp_path):
    folder = copy_of(trained.folder, tmp_path)
    for party in ("tax", "registry"):
        set_policy(folder, party, release={**OFTEN, "models_per_firm": 1, "output": "band"})
    batch = "parameters: {output: band, "
    other = batch + "bands: {low: 0, middle: 551, high: 600}, "
    for party in ("tax", "registry"):  # the batches of `trained` are on record: bands of the model's cut-offs
        assert (folder / party / "state" / "release.db").is_file()
    (jobs,) = (folder / "bank" / "jobs").glob("firms-*")
    rows_of = dict(zip(trained.bands, JobStore(jobs).load_arrays("rows")["train"], strict=True))
    firm = next(f for f in trained.known if rows_of[f])  # scores of held-out firms were opened in training
    (response,) = ask(folder, ("a", firm, {"output": "band"}))
    assert response.status == "scored"
    run_locally(folder, BATCH.replace("parameters: {", batch))
    with pytest.raises(RefusedError, match="1 other models"):
        run_locally(folder, BATCH.replace("parameters: {", other))
    for party in ("tax", "registry"):
        set_policy(folder, party, release={**OFTEN, "models_per_firm": 1})
    (response,) = ask(folder, ("b", firm, {}))
    assert "1 other models" in " ".join(p.reason for p in response.parties)


# --- hostile peers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"tables": b"rubbish"},
        {"tables": b""},
        {"decoding": b"\xff"},
        {"decoding": b""},
        {"no_setup": True},
        {"refuses": "no"},
    ],
    ids=str,
)
def test_a_lead_that_answers_rubbish(trained, homes, monkeypatch, changes):
    call = Fabric.call

    async def hostile(self, to, method, message, *rest, **options):
        reply = await call(self, to, method, message, *rest, **options)
        if method == "BandLabels":
            for name, value in changes.items():
                if name == "refuses":
                    raise RefusedError(value)
                setattr(reply, name, value)
        return reply

    monkeypatch.setattr(Fabric, "call", hostile)
    (response,) = ask(homes, ("a", trained.known[5], {"output": "band"}))
    assert response.status == "failed"
    assert not response.band
    told = response.message + " ".join(p.reason for p in response.parties)
    expected = "use a new" if "refuses" not in changes else "not all parts were openedno"
    assert expected in told


def test_set_ups_that_the_lead_lost_are_made_anew(trained, homes, monkeypatch):
    """The bank's stock is of an earlier start of the lead."""
    firms, said, filled = trained.known[6:8], [], asyncio.Event()
    fill, call = online_stock.BankSetups.fill, Fabric.call

    def filling(self, lead, *least):
        yield from fill(self, lead, *least)
        if not least:  # while idle, not for a request
            filled.set()

    async def record(self, to, method, *rest, **options):
        reply = await call(self, to, method, *rest, **options)
        said.extend(["no set-up" if reply.no_setup else "opened"] if method == "BandLabels" else [])
        return reply

    monkeypatch.setattr(online_stock.BankSetups, "fill", filling)
    monkeypatch.setattr(Fabric, "call", record)

    async def scenario():
        async with scoring(homes, "bank", "registry", "coordinator") as command:
            tax = Node(homes / "tax")
            await tax.start()
            first = await score(command, "a", firms[0], output="band")
            await asyncio.wait_for(filled.wait(), 120)
            await tax.stop(0.1)
            tax = Node(homes / "tax")
            await tax.start()
            try:
                return first, await score(command, "b", firms[1], output="band")
            finally:
                await tax.stop(0.1)

    responses = asyncio.run(scenario())
    assert [(r.status, r.band) for r in responses] == [("scored", trained.bands[f]) for f in firms]
    assert said == ["opened", "no set-up", "opened"]


def test_a_failure_while_opening_can_be_repeated(trained, homes, monkeypatch):
    """The tables are lost on the way: the same labels get the same tables, and nothing is garbled twice."""
    call, lost, sent = Fabric.call, [], []

    async def losing(self, to, method, message, *rest, **options):
        reply = await call(self, to, method, message, *rest, **options)
        if method == "BandLabels":
            sent.append((message.SerializeToString(), reply.SerializeToString()))
            if not lost:
                lost.append(1)
                raise PeerError("the connection broke")
        return reply

    monkeypatch.setattr(Fabric, "call", losing)
    firm, band = trained.known[8], {"output": "band"}
    first, again = ask(homes, ("a", firm, band), ("a", firm, band))
    assert (first.status, again.status, again.band) == ("failed", "scored", trained.bands[firm])
    assert len(sent) == 2
    assert sent[0] == sent[1]


def test_strange_messages_to_a_lead(trained, homes):
    async def scenario():
        async with scoring(homes) as command:

            async def refused(method, message, reply=pb.BandTables, error=Exception):
                with pytest.raises(error):
                    await command.call("tax", method, message, reply, timeout_s=5)

            for setup_id in ("", "a/b", "x" * 101, "\n"):
                await refused(
                    "BandBase", pb.BandBase(setup_id=setup_id, point=bytes(32), commitment=bytes(32)), pb.BandChoices
                )
            for point in (b"", bytes(32), b"\xff" * 32, bytes(33)):
                base = pb.BandBase(setup_id=f"s{point.hex()[:9]}", point=point, commitment=bytes(32))
                await refused("BandBase", base, pb.BandChoices)
            good = BankBand(NAMES, os.urandom(32)).point
            for commitment in (b"", bytes(31), bytes(33)):
                base = pb.BandBase(setup_id="c", point=good, commitment=commitment)
                await refused("BandBase", base, pb.BandChoices)
            base = pb.BandBase(setup_id="c", point=good, commitment=bytes(32))
            await command.call("tax", "BandBase", base, pb.BandChoices, timeout_s=5)
            base.commitment = bytes([1] * 32)
            await refused("BandBase", base, pb.BandChoices)  # the bank is bound by the first
            part = pb.BandPartial(request_id="r", bank="bank", partial_share=bytes(8), with_parties=["tax", "registry"])
            await refused("BandPartial", part, pb.Empty)  # a bank is no holder
            unknown = pb.BandLabels(request_id="never", setup_id="s", labels=bytes(1024))
            with pytest.raises(RefusedError, match="use a new request id"):
                await command.call("tax", "BandLabels", unknown, pb.BandTables, timeout_s=5)

    asyncio.run(scenario())


# --- who learns what -------------------------------------------------------------------------------------------------


def test_messages_are_those_of_the_table_and_no_score_is_in_any_log(trained, homes, monkeypatch, capfd):
    seen, call = [], Fabric.call

    async def record(self, to, method, message, reply_type, **options):
        reply = await call(self, to, method, message, reply_type, **options)
        seen.extend([(self.name, to, message), (to, self.name, reply)])
        return reply

    firms = trained.known[9:13]

    async def scenario():
        with monkeypatch.context() as patch:
            patch.setattr(Fabric, "call", record)
            async with scoring(homes) as command:
                return [await score(command, f"w{i}", f, output="band") for i, f in enumerate(firms)]

    responses = asyncio.run(scenario())
    assert [r.band for r in responses] == [trained.bands[f] for f in firms]
    told = {(leak.kind, {"lead": "holder"}.get(leak.to, leak.to)) for leak in LEARNS if leak.only in {"", "band"}}
    roles = {"bank": "bank", "tax": "holder", "registry": "holder", "coordinator": "coordinator"}
    own = {
        "ScoreRequest",
        "ScoreResponse",
        "Hello",
        "HelloReply",
        "Empty",
        "PrepareSpare",
        "OpenedPartial",
        "KeyStatements",
    }
    sent = {(type(message).__name__, roles[to]) for _, to, message in seen}
    assert {one for one in sent if one[0] not in own} <= told
    assert {kind for kind, _ in sent} >= {"BandPartial", "BandBase", "BandChoices", "BandLabels", "BandTables"}
    assert not [kind for kind, to in sent if to == "coordinator" and kind not in own]
    assert {to for _, to, message in seen if isinstance(message, pb.BandPartial)} == {"tax"}
    labels = b"".join(message.labels for _, _, message in seen if isinstance(message, pb.BandLabels))
    ones = np.unpackbits(np.frombuffer(labels, np.uint8)).mean()
    assert abs(ones - 0.5) < 6 * 0.5 / np.sqrt(8 * len(labels))
    table = online_table("band")
    assert "the firm's band" in table.bank
    assert "points" not in table.bank
    assert "when holders score" not in table.coordinator

    for party in ("tax", "registry"):
        set_policy(homes, party, release=OFTEN)
    scores = ask(homes, *((f"s{i}", f, {}) for i, f in enumerate(firms)))
    capfd.readouterr()
    logs = b"".join(DIGEST.sub(b"", p.read_bytes()) for p in homes.glob("*/evidence/log.jsonl"))
    for number, (firm, response, one) in enumerate(zip(firms, scores, responses, strict=True)):
        receipt = online_receipt(homes / "bank", f"w{number}")
        proved = " ".join(verify_receipt(receipt.to_bytes(), load_keys(homes / "tax" / "federation.yaml")))
        assert f'"band":"{one.band}"' in proved
        assert '"output":"band"' in proved
        for text in (str(response.units), f"{response.score:.2f}"):
            assert text not in proved
            assert text.encode() not in logs
        assert firm in proved


def test_a_stock_of_set_ups_is_kept_up():
    made = []

    async def call(lead, _method, message, _reply, *, timeout_s):
        made.append(lead)
        if lead == "registry":
            raise PeerError("it is not there")
        return LeadSetup.of("bank", lead, message).choices

    async def now(work):
        return work()

    async def scenario():
        numbers = iter("abcdef")
        stock = online_stock.BankSetups(lambda lead: bank_setup(draw_opening("bank", lead, "band", next(numbers))))
        caller = Calls(call, now)
        assert stock.wanted == ""
        await run_calls(stock.fill("tax", 1), caller)
        await run_calls(stock.fill("tax", 1), caller)
        assert (made, stock.wanted) == (["tax"], "tax")
        first = await run_calls(stock.take("tax"), caller)
        second = await run_calls(stock.take("tax"), caller)
        assert first.setup_id != second.setup_id
        assert len(made) == 2
        stock.begin("tax", caller)  # ahead of a request that takes it
        third = await run_calls(stock.take("tax"), caller)
        assert third.setup_id == "c"
        assert len(made) == 3
        stock.drop("tax")
        assert stock.wanted == ""
        with pytest.raises(PeerError):
            await run_calls(stock.fill("registry"), caller)
        assert stock.wanted == ""  # not asked again before a request needs it

    asyncio.run(scenario())
