"""A bank that decides on single firms with other points, shares or bounds than it states, or changes what it kept.

Each attack goes through at that moment, and the audit names the request and the holder; the control is the honest run.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from dataclasses import replace

import pytest
from finished_jobs import finished
from test_audit_online_scores import one_cell
from test_online_decisions import decide
from trial_audit import rewrite
from trial_decisions import file_decisions
from trial_online_audit import counted, known, stocked, unpacked, witnessed
from trial_scoring import copy_of, scoring

from veilscore.audit.online import OnlineAudit
from veilscore.errors import EvidenceError
from veilscore.evidence.online_archive import FOLDER
from veilscore.evidence.online_opening import PartsOpened, SpareLogged, decision_name
from veilscore.models.decided import load_decision
from veilscore.protocols import online, online_spares
from veilscore.protocols.online_measures import MeasuresAsked

HOLDERS = frozenset({"tax", "registry"})
# where the codes move a bit of the trees that were trained here, what opened the part is another; else the parts differ
OTHER_CODES = "OpenPartial to tax is not | other codes of its own columns for one holder"


def shifted(patch):
    """Add to the bank's share of one measure: the step that comes out is that of another total."""
    honest = MeasuresAsked.shares
    patch.setattr(
        MeasuresAsked, "shares", lambda self, masks: [s + 1000 * (not k) for k, s in enumerate(honest(self, masks))]
    )


def unbound(patch):
    """Put in another bound than the one that is stated."""
    honest = online.sealed_circuit

    def sealed(of, *rest):
        return honest(replace(of, decision=replace(of.decision, bound=(of.decision.bound + 1) % 6)), *rest)

    patch.setattr(online, "sealed_circuit", sealed)


ATTACKS = {"honest": None, "stocked": None, "shifted": shifted, "unbound": unbound, "one_cell": one_cell}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Decide on one firm each, honestly and not; the folder, and names by the request ids that holders know."""
    folder = copy_of(finished(file_decisions), tmp_path_factory.mktemp("homes"))

    async def work():
        async with scoring(folder) as command:
            for number, (name, attack) in enumerate(ATTACKS.items()):
                with pytest.MonkeyPatch.context() as patch:
                    counted(patch, 1 if name == "honest" else 0)
                    patch.setattr(online_spares, "MOST_SPARES", 1)  # so that each attack makes its own
                    if attack is not None:
                        attack(patch)
                    response = await decide(command, name, known(folder, 9)[number + 3])
                    assert response.status == "scored", response
                    if name == "honest":
                        await stocked(2 + 2)  # two measures at two holders, for the request and for the stock

    asyncio.run(work())
    ids = {hashlib.sha256(f"veilscore/1 online score bank {name}".encode()).hexdigest()[:32]: name for name in ATTACKS}
    return folder, ids


def findings(folder, bank=None, *, logs=(), made=True, request=None):
    found = witnessed(folder, *logs)
    filed = load_decision(folder / "bank", "limit")
    hashes = [filed.sha256.hex(), *(pin.model_sha256 for pin in filed.pins.values())]
    audit = OnlineAudit(
        bank or folder / "bank", found.opened, {h: {"job": HOLDERS} for h in hashes} if made else {}, found.circuits
    )
    return [audit.finding(one) for one in (*found.opened, *found.circuits) if request in {None, one.request}]


def verdicts(found, ids, name):
    return {f.step.removeprefix("online decision "): (f.verdict, f.detail) for f in found if ids[f.job_id] == name}


@pytest.mark.slow
def test_honest_decisions_are_confirmed_and_others_are_named(run):
    folder, ids = run
    found = findings(folder)
    for name in ("honest", "stocked"):
        assert {step: verdict for step, (verdict, _) in verdicts(found, ids, name).items()} == dict.fromkeys(
            ("part tax", "part registry", "tax"), "confirmed"
        )
    assert "codes of its own columns that the bank states" in found[0].detail
    for name in ("shifted", "unbound"):
        of = verdicts(found, ids, name)
        assert (of["part tax"][0], of["part registry"][0], of["tax"][0]) == ("confirmed", "confirmed", "differs")
        assert "choices of labels to tax are not what the committed seed gives" in of["tax"][1]
    of = verdicts(found, ids, "one_cell")
    assert (of["part tax"][0], of["part registry"][0], of["tax"][0]) == ("differs", "confirmed", "differs")
    assert "FinishSpare to tax is not what the committed seed gives for measure" in of["part tax"][1]
    alone = verdicts(findings(folder, logs=("tax",)), ids, "honest")
    assert alone["part tax"][0] == "confirmed"
    assert alone["tax"][0] == "cannot be audited"
    assert "give the log of registry" in alone["tax"][1]
    assert {f.verdict for f in findings(folder, made=False)} == {"cannot be audited"}


@pytest.mark.slow
def test_what_was_kept_of_a_decision_and_changed_afterwards(run, tmp_path):
    folder, ids = run
    bank = unpacked(shutil.copytree(folder / "bank" / FOLDER, tmp_path / "bank" / FOLDER).parents[1])
    request = next(key for key, name in ids.items() if name == "honest")
    name = decision_name(request, "tax")
    (filed,), kept = (bank / FOLDER / "decisions").glob("*/decision.json"), bank / FOLDER / f"{name}.json"
    codes = json.loads(kept.read_text())["own_codes"]
    other = {measure: "0" * len(text) for measure, text in codes.items()}
    spare = next((bank / FOLDER).glob(f"{name}.*.spare"))
    changes = (
        (kept, lambda b: b.update(bound=(b["bound"] + 1) % 6), "tax", "choices of labels to tax"),
        (kept, lambda b: b.update(bound=6), "part tax", "a bound that there is not"),
        (kept, lambda b: b.update(own_codes=other), "tax", OTHER_CODES),
        (kept, lambda b: b.update(own_codes={}), "part tax", "codes of other measures"),
        (kept, lambda b: b.update(request="0" * 32), "part tax", "another request or decision"),
        (kept, lambda b: b.update(labels=None), "part tax", "OpenPartial to tax is not"),
        (
            kept,
            lambda b: b["labels"].update(circuit=b["labels"]["circuit"] + 1),
            "part tax",
            "OpenPartial to tax is not",
        ),
        (kept, lambda b: b["spares"].popitem(), "part tax", "spares of other measures"),
        (kept, lambda b: next(iter(b["spares"].values())).update(seed="0" * 64), "part tax", "it was changed"),
        (filed, lambda b: b["decision"]["decision"].update(purpose="renewal"), "part tax", "decision kept was changed"),
    )
    for path, change, step, words in changes:
        whole = path.read_bytes()
        rewrite(path, change)
        verdict, detail = verdicts(findings(folder, bank, request=request), ids, "honest")[step]
        assert (verdict, any(text in detail for text in words.split(" | "))) == ("differs", True), (words, detail)
        path.write_bytes(whole)
    for path in (kept, spare, kept.with_suffix(".reply"), filed):
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + b"changed..")
        assert verdicts(findings(folder, bank, request=request), ids, "honest")["part tax"][0] == "differs", path.name
        path.unlink()
        assert verdicts(findings(folder, bank, request=request), ids, "honest")["part tax"][0] in {
            "cannot be audited",
            "differs",
        }
        path.write_bytes(whole)
    assert {v for v, _ in verdicts(findings(folder, bank, request=request), ids, "honest").values()} == {"confirmed"}


def test_what_a_log_says_of_spares_is_checked():
    entry = {"bank": "bank", "request": "r", "decision": "5" * 64, "messages": {"EncryptRecord": "6" * 64}}
    good = SpareLogged(part="00", spare="s", keys="1" * 64, commitment="2" * 64).model_dump()
    assert PartsOpened.read("tax", entry | {"parts": json.dumps({"risk": good})}).spares["risk"].spare == "s"
    for wrong in ("", "[]", json.dumps({"risk": {**good, "keys": "x"}}), json.dumps({"risk": {**good, "more": 1}})):
        with pytest.raises(EvidenceError, match="unreadable parts"):
            PartsOpened.read("tax", entry | {"parts": wrong})
