"""The band of one firm online: both roles against the plaintext, over real nodes, refusals, and what goes where."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil

import numpy as np
import pytest
from consent_issuer import OFTEN
from finished_jobs import finished
from trial_federation import until
from trial_scoring import BATCH, band_all, batch_of, copy_of, rows, run_locally, score, scoring, set_policy

from veilscore.crypto import he
from veilscore.crypto.shares import bits_to_bytes
from veilscore.errors import MessageError, PeerError, RefusedError, SecretReuseError
from veilscore.evidence.documents import load_keys
from veilscore.evidence.online_opening import draw_opening
from veilscore.evidence.online_receipts import online_receipt
from veilscore.evidence.verify import verify_receipt
from veilscore.fabric.fabric import Fabric
from veilscore.files.journal import Journal
from veilscore.files.store import JobStore
from veilscore.models.filed import load_model
from veilscore.node.node import Node
from veilscore.online import stock as online_stock
from veilscore.protocols import online_band
from veilscore.protocols.online_band import BankCircuit, garble
from veilscore.protocols.online_pool import CIRCUITS, WIRES, BankPool, LeadPool, bank_pool
from veilscore.tasks.online import LEARNS
from veilscore.tasks.table import online_table
from veilscore.terms.bands import BELOW, Bands, KeptBands
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.calls import Calls, run_calls

RNG = np.random.default_rng(23)
DIGEST = re.compile(rb"[0-9a-f]{32,}")  # ids, digests and signatures: five digits occur in 29 kB of them by chance
BAND_ONLY = {**OFTEN, "output": "band"}


def named(*limits):
    return Bands.of({f"from {limit}": float(limit) for limit in limits}, 1)


# --- both roles ------------------------------------------------------------------------------------------------------


def pair():
    """A pool of one message at both sides."""
    bank = BankPool(draw_opening("bank", "tax", "pool", os.urandom(8).hex()))
    lead = LeadPool.of("bank", "tax", bank.asked, 0)
    bank.accept(lead.made)
    lead.extend(bank.extend())
    bank.agreed()
    return bank, lead


@pytest.fixture(scope="module")
def pool():
    return pair()


def test_no_circuit_is_taken_before_the_lead_has_its_transfers():
    """Requests went on while a message of transfers was on its way, and took circuits that the lead refused."""
    bank = BankPool(draw_opening("bank", "tax", "pool", os.urandom(8).hex()))
    lead = LeadPool.of("bank", "tax", bank.asked, 0)
    bank.accept(lead.made)
    message = bank.extend()
    assert (bank.left, bank.has()) == (0, False)
    lead.extend(message)
    bank.agreed()
    assert (bank.left, bank.has()) == (CIRCUITS, True)


def shares_of(total):
    share = int(RNG.integers(0, he.T))
    return total - share, np.array([share], np.uint64)


def opened(pool, total, bands):
    bank, lead = pool
    if not bank.left:
        lead.extend(bank.extend())
        bank.agreed()
    mine, theirs = shares_of(total)
    circuit = BankCircuit(bank, bank.take(), mine, bands)
    return circuit.open(*garble(*lead.labels(circuit.asked.circuit, circuit.asked.choices), theirs, bands))


@pytest.mark.parametrize("limits", [(0,), (-700, 52_000), (5000, 5600, 6400), tuple(range(-900, 900, 200))])
def test_every_band_and_both_sides_of_every_cut_off(pool, limits):
    bands, half = named(*limits), he.T // 2
    for total in (*(limit + k for limit in limits for k in (-1, 0)), 1 - half, half - 1):
        assert opened(pool, total, bands) == bands.index(np.array([total]))[0]


def test_all_circuits_of_a_pool_and_of_its_extensions():
    pool, bands = pair(), named(-700, 0, 700)
    totals = RNG.integers(-1500, 1500, 2 * CIRCUITS + 1)
    assert [opened(pool, int(t), bands) for t in totals] == bands.index(totals).tolist()
    assert (pool[0].left, len(pool[1].extended)) == (CIRCUITS - 1, 3)


def test_wrong_sizes_and_points_are_refused():
    bands = named(10, 20)
    opening = draw_opening("bank", "tax", "pool", "p")
    for point in (b"", bytes(32), b"\xff" * 32, bytes(64)):
        with pytest.raises(MessageError):
            LeadPool.of("bank", "tax", pb.MakePool(pool_id="p", point=point), 0)
    for change in (lambda c: c[:-32], lambda c: c[:-32] + b"\xff" * 32, lambda c: c + c[:32]):
        bank = BankPool(opening)
        with pytest.raises(MessageError):
            bank.accept(pb.MadePool(points=change(LeadPool.of("bank", "tax", bank.asked, 0).made.points)))
    with pytest.raises(MessageError):
        BankPool(opening).extend()  # before the base transfers
    bank, lead = pair()
    circuit = BankCircuit(bank, bank.take(), 3, bands)
    choices = circuit.asked.choices
    for wrong in (choices[:-1], choices + b"\0", b"", choices[:-1] + b"\xff"):
        with pytest.raises(MessageError, match=f"{WIRES} bits"):
            lead.labels(0, wrong)
    with pytest.raises(MessageError):
        lead.labels(CIRCUITS, choices)  # not made
    tables, decoding = garble(*lead.labels(0, choices), np.array([4], np.uint64), bands)
    for wrong in (
        (tables[:-32], decoding),
        (tables + bytes(32), decoding),
        (tables, b""),
        (tables, b"\xff"),
        (b"", b""),
    ):
        with pytest.raises(MessageError):
            circuit.open(*wrong)
    with pytest.raises(MessageError, match="that there is not"):
        circuit.open(tables, bytes([decoding[0] ^ 3]))  # 0 of 3 bands in 2 bits becomes 3
    message = bank.extend()
    for wrong in (message.transfers[:-1], bytes(len(message.transfers))):
        with pytest.raises((MessageError, SecretReuseError)):
            lead.extend(pb.ExtendPool(pool_id="p", transfers=wrong))
    lead.extend(message)
    with pytest.raises(SecretReuseError):
        lead.extend(message)


def test_a_circuit_serves_once():
    bank, lead = pair()
    circuit = BankCircuit(bank, 0, 3, named(10))
    with pytest.raises(SecretReuseError):
        BankCircuit(bank, 0, 4, named(10))
    lead.labels(0, circuit.asked.choices)
    for choices in (circuit.asked.choices, bytes(len(circuit.asked.choices))):
        with pytest.raises(SecretReuseError):
            lead.labels(0, choices)


def test_numbers_below_the_mark_are_refused():
    """A lead that was restarted makes a pool with the id of one that it had: what may have been spent is not again."""
    bank, lead = pair()
    again = LeadPool.of("bank", "tax", bank.asked, lead.sender.made)
    bank = BankPool(bank.opening)
    bank.accept(again.made)
    for _ in range(2):
        again.extend(bank.extend())
    for circuit in (0, CIRCUITS - 1):
        with pytest.raises(SecretReuseError, match="before a restart"):
            again.labels(circuit, bits_to_bytes(np.zeros(WIRES, bool)))
    again.labels(CIRCUITS, bits_to_bytes(np.zeros(WIRES, bool)))


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
    """Two lists that grow with each spare that a request takes out of the stock, and that the node puts into it."""
    used, made = [], []
    take, add = online_stock.BankSpares.take, online_stock.BankSpares.add

    def counted(*arguments):
        spare = take(*arguments)
        used.extend([] if spare is None else [spare])
        return spare

    def kept(*arguments):
        made.append(arguments[-1])
        return add(*arguments)

    monkeypatch.setattr(online_stock.BankSpares, "take", counted)
    monkeypatch.setattr(online_stock.BankSpares, "add", kept)
    return used, made


def assert_no_score(response):
    assert (response.score, response.units, response.probability_of_default) == (0, 0, 0)
    assert not response.reasons


def test_bands_are_those_of_a_batch_with_and_without_spares(trained, homes, monkeypatch):
    used, made = from_stock(monkeypatch)
    firms = [*dict.fromkeys(trained.of_each()), *trained.not_at_tax[:2]]

    async def scenario():
        async with scoring(homes) as command:
            first = [await score(command, "a", firms[0], output="band", on_missing="missing_code")]
            used.clear()  # made when the request came
            await until(lambda: len(made) >= 2)  # nodes make spares and set-ups while idle
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
    answers = []
    monkeypatch.setattr(online_band, "garble", lambda *arguments: answers.append(1) or garble(*arguments))
    band = {"output": "band"}
    first, again, anew = ask(homes, ("a", firm, band), ("a", firm, band), ("b", firm, band))
    assert first.SerializeToString() == again.SerializeToString()
    assert (anew.band, anew.status, len(answers)) == (first.band, "scored", 1)
    after, other = ask(homes, ("a", firm, band), ("a", firm, {}))
    assert after == first
    assert (other.status, "something else" in other.message) == ("refused", True)


@pytest.mark.slow
def test_one_holder_and_neutral_ones(trained, homes):
    """Without tax the registry leads, alone; without both the bank's band is of averages and its own part."""
    for party in ("tax", "registry"):
        set_policy(homes, party, release=BAND_ONLY, online_without_others=True)
    firm, rule = trained.known[2], {"output": "band", "on_missing": "neutral", "timeout_s": 20.0}
    (alone,) = ask(homes, ("a", firm, rule), names=("bank", "registry", "coordinator"))
    (nobody,) = ask(homes, ("b", firm, rule), names=("bank", "coordinator"))
    for party in ("tax", "registry"):
        set_policy(homes, party, release=OFTEN, online_without_others=True)
    (score_alone,) = ask(homes, ("c", firm, rule | {"output": "exact"}), names=("bank", "registry", "coordinator"))
    (score_nobody,) = ask(homes, ("d", firm, rule | {"output": "exact"}), names=("bank", "coordinator"))
    assert (alone.status, alone.band) == ("fallback", score_alone.band)
    assert (nobody.status, nobody.band) == ("fallback", score_nobody.band)
    assert_no_score(alone)
    assert "average points instead of tax's" in alone.message


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.slow
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
        {"no_pool": True},
        {"refuses": "no"},
    ],
    ids=str,
)
def test_a_lead_that_answers_rubbish(trained, homes, monkeypatch, changes):
    call = Fabric.call

    async def hostile(self, to, method, message, *rest, **options):
        reply = await call(self, to, method, message, *rest, **options)
        if method == "OpenPartial" and message.pool_id:
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


def test_a_pool_that_the_lead_lost_is_made_anew(trained, homes, monkeypatch):
    """The bank's transfers are of an earlier start of the lead."""
    firms, said, call = trained.known[6:8], [], Fabric.call

    async def record(self, to, method, message, *rest, **options):
        reply = await call(self, to, method, message, *rest, **options)
        if method == "OpenPartial" and message.pool_id:
            said.append("no pool" if reply.no_pool else f"circuit {message.circuit}")
        return reply

    monkeypatch.setattr(Fabric, "call", record)

    async def scenario():
        async with scoring(homes, "bank", "registry", "coordinator") as command:
            responses = []
            for number, firm in enumerate(firms):
                tax = Node(homes / "tax")
                await tax.start()
                try:
                    responses.append(await score(command, f"r{number}", firm, output="band"))
                finally:
                    await tax.stop(0.1)
            return responses

    responses = asyncio.run(scenario())
    assert [(r.status, r.band) for r in responses] == [("scored", trained.bands[f]) for f in firms]
    assert said == ["circuit 0", "no pool", "circuit 0"]
    with contextlib.closing(Journal(homes / "tax" / "state" / "online.db")) as journal:
        marks = [mark for (mark,) in journal._db.execute("SELECT mark FROM marks")]
    assert len(marks) == 2
    assert {mark % (CIRCUITS * WIRES) for mark in marks} == {0}


def test_a_failure_while_opening_can_be_repeated(trained, homes, monkeypatch):
    """The tables are lost on the way: the same request gets the same tables, and nothing is garbled twice."""
    call, lost, sent = Fabric.call, [], []

    async def losing(self, to, method, message, *rest, **options):
        reply = await call(self, to, method, message, *rest, **options)
        if method == "OpenPartial" and message.pool_id:
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

            async def refused(method, message, reply, error=Exception):
                with pytest.raises(error):
                    await command.call("tax", method, message, reply, timeout_s=5)

            for pool_id in ("", "a/b", "x" * 101, "\n"):
                base = pb.MakePool(pool_id=pool_id, point=bytes(32), commitment=bytes(32))
                await refused("MakePool", base, pb.MadePool)
            for point in (b"", bytes(32), b"\xff" * 32, bytes(33)):
                base = pb.MakePool(pool_id=f"s{point.hex()[:9]}", point=point, commitment=bytes(32))
                await refused("MakePool", base, pb.MadePool)
            bank = BankPool(draw_opening("bank", "tax", "pool", "c"))
            for commitment in (b"", bytes(31), bytes(33)):
                base = pb.MakePool(pool_id="c", point=bank.asked.point, commitment=commitment)
                await refused("MakePool", base, pb.MadePool)
            bank.accept(await command.call("tax", "MakePool", bank.asked, pb.MadePool, timeout_s=5))
            base.commitment = bytes([1] * 32)
            await refused("MakePool", base, pb.MadePool)  # the bank is bound by the first
            good = bank.extend()
            for pool_id, transfers in (("other", good.transfers), ("c", b""), ("c", good.transfers[8:])):
                await refused("ExtendPool", pb.ExtendPool(pool_id=pool_id, transfers=transfers), pb.Empty)
            await command.call("tax", "ExtendPool", good, pb.Empty, timeout_s=5)
            await refused("ExtendPool", good, pb.Empty)
            part = pb.BandPartial(request_id="r", bank="bank", partial_share=bytes(8), with_parties=["tax", "registry"])
            await refused("BandPartial", part, pb.Empty)  # a bank is no holder
            unknown = pb.OpenPartial(request_id="never", pool_id="c", choices_share=bytes(4), bands_hash=bytes(32))
            with pytest.raises(RefusedError, match="use a new request id"):
                await command.call("tax", "OpenPartial", unknown, pb.OpenedPartial, timeout_s=5)

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
        "KeyStatements",
        "EvidenceCall",  # from time to time: digests and signatures of logs
        "EvidenceReply",
        "AskRevocations",  # from holder to holder: lists that an issuer signed
        "HeldRevocations",
    }
    sent = {(type(message).__name__, roles[to]) for _, to, message in seen}
    assert {one for one in sent if one[0] not in own} <= told
    assert {kind for kind, _ in sent} >= {"BandPartial", "MakePool", "MadePool", "ExtendPool", "OpenedPartial"}
    assert not [kind for kind, to in sent if to == "coordinator" and kind not in own]
    assert {to for _, to, message in seen if isinstance(message, pb.BandPartial)} == {"tax"}
    for hidden in (
        [message.transfers for _, _, message in seen if isinstance(message, pb.ExtendPool)],
        [message.choices_share[:3] for _, _, message in seen if isinstance(message, pb.OpenPartial)],
    ):
        bits = np.unpackbits(np.frombuffer(b"".join(hidden), np.uint8))
        assert abs(bits.mean() - 0.5) < 6 * 0.5 / np.sqrt(bits.size)
    tables = [message.tables for _, to, message in seen if isinstance(message, pb.OpenedPartial) and message.tables]
    assert len(tables) == len(firms)  # of the lead alone
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


def test_a_pool_is_extended_while_it_works_and_made_anew_when_it_is_lost():
    leads, sent = {}, []

    async def call(lead, method, message, _reply, *, timeout_s):
        assert timeout_s > 0
        sent.append((lead, method))
        if lead == "registry":
            raise PeerError("it is not there")
        if method == "MakePool":
            leads[message.pool_id] = LeadPool.of("bank", lead, message, 0)
            return leads[message.pool_id].made
        if message.pool_id not in leads:
            raise RefusedError("it was restarted")
        leads[message.pool_id].extend(message)
        return pb.Empty()

    async def now(work):
        return work()

    async def scenario():
        numbers, caller = iter("abcdef"), Calls(call, now)

        def make(lead):
            return bank_pool(draw_opening("bank", lead, "pool", next(numbers)))

        stock = online_stock.BankPools(make, caller)
        assert stock.wanted == ""
        stock.begin("tax")  # ahead of requests, which wait for it
        pools = await asyncio.gather(*(run_calls(stock.take("tax"), caller) for _ in range(3)))
        assert len({id(pool) for pool in pools}) == 1
        pool = pools[0]
        assert ([kind for _, kind in sent], pool.left) == (["MakePool", "ExtendPool"], CIRCUITS)
        assert stock.wanted == ""
        half = CIRCUITS // 2 + 1
        assert [pool.take() for _ in range(half)] == list(range(half))
        assert stock.wanted == "tax"
        await stock.grown("tax")
        assert (stock.wanted, pool.left) == ("", 2 * CIRCUITS - half)
        leads.clear()
        await stock.grown("tax")  # the lead was restarted
        again = await run_calls(stock.take("tax"), caller)
        assert (again is pool, again.left) == (False, CIRCUITS)
        stock.drop(pool)  # another request had it
        assert await run_calls(stock.take("tax"), caller) is again
        stock.drop(again)
        assert (await run_calls(stock.take("tax"), caller)) is not again
        with pytest.raises(PeerError):
            await run_calls(stock.take("registry"), caller)
        assert stock.wanted == ""  # not asked again before a request needs it

    asyncio.run(scenario())
