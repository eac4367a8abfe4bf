"""Audit of honest online scores: with and without spares, scorecard and trees, retries, what the bank keeps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import time

import pytest
import yaml
from finished_jobs import finished
from trial_online_audit import audit, counted, kept_parts, known, logged, released, stocked, unpacked
from trial_scoring import STACK, copy_of, rows, score, scoring, set_policy, train_trees

from veilscore.audit.online import OnlineAudit
from veilscore.errors import EvidenceError, StateError
from veilscore.evidence.online_archive import FOLDER, OnlineArchive
from veilscore.evidence.online_opening import ShareOpened, draw_opening
from veilscore.evidence.online_rows import ROWS, OpenedParts, OpenedRow
from veilscore.files.journal import Journal
from veilscore.protocols import online_spares
from veilscore.terms.node_config import AuditRules


@pytest.fixture(scope="module")
def trained():
    return finished(train_trees)


@pytest.fixture
def homes(trained, tmp_path):
    return copy_of(trained, tmp_path)


def all_confirmed(findings):
    assert [f for f in findings if f.verdict != "confirmed"] == []
    return findings


@pytest.mark.parametrize("model", ["firms", "trees"])
def test_honest_scores_are_confirmed_with_and_without_spares(homes, monkeypatch, model):
    counted(monkeypatch, 2)
    released(homes, known(homes, 4), model=model, spared=2)
    opened = logged(homes)
    assert {kind for one in opened for kind in one.messages} == {
        "PrepareSpare", "PreparedSpare", "FinishSpare", "EncryptRecord", "EncryptedRecord", "OpenPartial",
    }  # fmt: skip
    assert len({one.spare for one in opened}) == len(opened) == 8
    found = all_confirmed(audit(homes))
    assert len(found) == 8
    assert {f.step for f in found} == {"online tax", "online registry"}
    assert ("codes of its own columns that the bank states" in found[0].detail) == (model == "trees")


@pytest.mark.slow
def test_a_stack_is_confirmed_with_and_without_spares(tmp_path, monkeypatch):
    folder = copy_of(finished(train_trees, "train_stack", STACK), tmp_path)
    counted(monkeypatch, 1)
    released(folder, known(folder, 2), model="trees", spared=1)
    assert len(all_confirmed(audit(folder))) == 4


def test_a_firm_that_a_holder_does_not_know_and_a_repeat(homes, monkeypatch):
    counted(monkeypatch, 0)
    tax = rows(homes, "tax")
    unknown = next(f for f in rows(homes, "bank") if f not in tax)
    released(homes, [known(homes, 1)[0], unknown, known(homes, 1)[0]])
    assert len(all_confirmed(audit(homes))) == 4  # the repeat opened nothing


@pytest.mark.parametrize(("model", "output"), [("firms", "band"), ("trees", "band"), ("firms", "score")])
def test_honest_bands_and_steps_are_confirmed_with_and_without_spares(homes, monkeypatch, model, output):
    counted(monkeypatch, 1)
    responses = released(homes, known(homes, 3), model=model, spared=1, output=output)
    assert {(r.output, bool(r.steps)) for r in responses} == {("band", False) if output == "band" else ("", True)}
    found = all_confirmed(audit(homes))
    assert [f.step for f in found].count("online band tax") == 3  # the first holder of the model leads
    assert len(found) == 9
    alone = audit(homes, holders=("tax",))
    assert {f.verdict for f in alone if "band" in f.step} == {"cannot be audited"}
    assert all("give the log of registry" in f.detail for f in alone if "band" in f.step)


@pytest.mark.slow
def test_a_band_with_averages_instead_of_a_holder_is_confirmed(homes, monkeypatch):
    counted(monkeypatch, 0)
    for holder in ("tax", "registry"):
        set_policy(homes, holder, online_without_others=True)

    async def work():
        async with scoring(homes, "bank", "registry", "coordinator") as command:
            return await score(command, "n", known(homes, 1)[0], on_missing="neutral", output="band", timeout_s=6)

    assert asyncio.run(work()).status == "fallback"
    assert [(f.step, f.verdict) for f in audit(homes, holders=("registry",))] == [
        ("online registry", "confirmed"),
        ("online band registry", "confirmed"),
    ]


@pytest.mark.slow
def test_a_request_that_failed_and_went_on_is_confirmed(homes):
    """Holders opened, the coordinator was away, and the bank was restarted in between."""
    firm = known(homes, 1)[0]

    async def scenario():
        async with scoring(homes, "tax", "registry"):
            async with scoring(homes, "bank") as command:
                lost = await score(command, "a", firm, timeout_s=4)
            async with scoring(homes, "bank", "coordinator") as command:
                return lost, await score(command, "b", firm)

    lost, fresh = asyncio.run(scenario())
    assert (lost.status, fresh.status) == ("failed", "scored")
    assert {one.request for one in logged(homes)} == {f.job_id for f in all_confirmed(audit(homes))}
    assert len(logged(homes)) == 4


def test_what_is_not_kept_cannot_be_audited(homes, tmp_path, monkeypatch):
    counted(monkeypatch, 0)
    released(homes, known(homes, 1))
    whole = homes / "bank" / FOLDER
    assert {path.stat().st_mode & 0o777 for path in whole.rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (whole.parent, whole, *whole.glob("*/"))} == {0o700}
    all_confirmed(audit(homes))
    unpacked(homes / "bank")
    for name in ("*.json", "*.reply", "*.spare", "models/*", "keys/*"):
        bank = tmp_path / "copy"
        shutil.copytree(homes / "bank", bank)
        for path in (bank / FOLDER).glob(name):
            path.unlink()
        assert {f.verdict for f in audit(homes, bank)} == {"cannot be audited"}, name
        shutil.rmtree(bank)
    assert {f.verdict for f in audit(homes, trained=False)} == {"cannot be audited"}
    all_confirmed(audit(homes))


def test_unused_spares_are_forgotten_at_the_next_start(homes, monkeypatch):
    counted(monkeypatch, 2)
    monkeypatch.setattr(online_spares, "MOST_SPARES", 1)  # so that more are made than used

    async def scored():
        async with scoring(homes) as command:
            for number, firm in enumerate(known(homes, 2)):
                await score(command, f"r{number}", firm, on_missing="missing_code", output="exact")
            await stocked(3)

    asyncio.run(scored())
    kept = homes / "bank" / FOLDER
    assert len(kept_parts(homes / "bank")) == 4
    assert len(list(kept.glob("*.spare"))) > 4

    async def restart():
        async with scoring(homes, "bank"):
            pass

    asyncio.run(restart())
    assert set(kept_parts(homes / "bank")) == {one.commitment for one in logged(homes)}
    assert {p.stem for p in kept.glob("*.spare")} == {one.commitment for one in logged(homes)}
    all_confirmed(audit(homes))


def test_the_oldest_go_first_when_there_is_no_more_room(tmp_path):
    archive = OnlineArchive(tmp_path, AuditRules(online_mb=1, days=3))
    for number in range(30):
        archive._write(f"{number:064x}.json", bytes(100_000))
        os.utime(tmp_path / FOLDER / f"{number:064x}.json", (time.time() - 1000 + number,) * 2)
    archive._write(f"{99:064x}.json", b"old")
    os.utime(tmp_path / FOLDER / f"{99:064x}.json", (time.time() - 4 * 86400,) * 2)
    archive._forget()
    left = sorted(int(p.stem, 16) for p in (tmp_path / FOLDER).glob("*.json"))
    assert left == list(range(30 - len(left), 30))
    assert 8 <= len(left) <= 10


def test_rows_go_by_age_and_size_and_are_kept_anew_after_a_deletion(tmp_path):
    """Somebody deletes all openings while the node runs (`veilscore audit delete online`)."""
    archive, old = OnlineArchive(tmp_path, AuditRules(online_mb=1, days=3)), time.time() - 1000
    rows = OpenedRow("old", b"{}", b""), *(OpenedRow(f"{k:02}", b"{}", bytes(100_000)) for k in range(30))
    archive.keep(rows)
    with contextlib.closing(sqlite3.connect(tmp_path / FOLDER / ROWS)) as db, db:
        db.execute("UPDATE opened SET time_s = ? + 60 * CAST(name AS INTEGER)", (old - 1800,))
        db.execute("UPDATE opened SET time_s = ? WHERE name = 'old'", (old - 4 * 86400,))
    archive._forget()
    left = sorted(map(int, kept_parts(tmp_path)))
    assert left == list(range(30 - len(left), 30))
    assert 8 <= len(left) <= 10
    shutil.rmtree(tmp_path / FOLDER)
    archive.keep(rows[:2])
    assert sorted(kept_parts(tmp_path)) == ["00", "old"]
    assert OpenedParts(tmp_path / FOLDER).reply("00") == bytes(100_000)
    archive.close()


def test_nothing_is_kept_where_the_policy_says_so(homes, monkeypatch):
    counted(monkeypatch, 0)
    path = homes / "bank" / "node.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"audit": {"online_mb": 0}}))
    released(homes, known(homes, 1))
    assert not (homes / "bank" / FOLDER).exists()
    assert {f.verdict for f in audit(homes)} == {"cannot be audited"}


def test_what_an_earlier_version_logged_cannot_be_audited(tmp_path):
    """Its entry has no digests of messages; one whose digests are none ends the reading of a log."""
    entry = {"kind": "share_opened", "bank": "bank", "model": "5" * 64, "request": "r", "commitment": "6" * 64}
    found = OnlineAudit(tmp_path, [], {}).finding(ShareOpened.read("tax", entry))
    assert (found.verdict, found.step) == ("cannot be audited", "online tax")
    assert "an earlier version" in found.detail
    for wrong in ({"messages": {"OpenPartial": "5"}}, {"messages": ["OpenPartial"]}, {"commitment": "x"}):
        with pytest.raises(EvidenceError, match="without proper digests"):
            ShareOpened.read("tax", entry | wrong)


def test_an_opening_hides_its_seed():
    opening = draw_opening("bank", "tax", "spare", "a")
    assert opening.seed not in repr(opening)
    assert draw_opening("bank", "tax", "spare", "a").commitment != opening.commitment


@pytest.mark.parametrize("output", ["exact", "band"])
def test_an_opening_that_a_holder_logged_twice_is_one(homes, monkeypatch, output):
    """Its journal failed after its log: the bank sent the same bytes again, and was said to have used a seed twice."""
    keep_all, failed = Journal.keep_all, []

    def keep(journal, answers):
        if "/tax/" in str(journal._path) and answers and not failed:
            failed.append(answers)
            raise StateError("disk full")
        return keep_all(journal, answers)

    monkeypatch.setattr(Journal, "keep_all", keep)
    fields = {"on_missing": "missing_code", "output": output}

    async def scenario():
        async with scoring(homes) as command:
            firm = known(homes, 1)[0]
            return [(await score(command, "a", firm, **fields)).status for _ in range(2)]

    assert asyncio.run(scenario()) == ["failed", "scored"]
    assert failed
    assert [one.holder for one in logged(homes)].count("tax") == 2
    all_confirmed(audit(homes))


@pytest.mark.parametrize("left", ["no table", "an empty file"])
def test_a_loss_of_power_that_took_the_first_rows_keeps_no_bank_from_its_start(tmp_path, left):
    """Rows are not synced: the file may be there without its table, and the node refused to start."""
    rules = AuditRules()
    archive = OnlineArchive(tmp_path, rules)
    archive.keep([OpenedRow("a", b"{}", b"reply")])
    archive.close()
    path = tmp_path / FOLDER / ROWS
    for file in path.parent.glob(f"{ROWS}*"):
        file.unlink()
    with contextlib.closing(sqlite3.connect(path)) as db:
        if left == "no table":
            db.execute("PRAGMA journal_mode=WAL")
    assert not list(OpenedParts(path.parent).records())
    with pytest.raises(OSError, match=r"a\.json"):
        OpenedParts(path.parent).record("a")
    archive = OnlineArchive(tmp_path, rules)
    archive.start()
    archive.keep([OpenedRow("b", b"{}", b"reply")])
    archive.close()
    assert OpenedParts(path.parent).record("b") == b"{}"
