"""Whole jobs of decisions in one process: equal to the plain decision, files, refusals, what holders count, a watch."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil

import numpy as np
import pytest
from chances import uniform
from consent_issuer import OFTEN
from finished_jobs import finished
from trial_audit import audit
from trial_decisions import (
    consent,
    decide_job,
    decided,
    expected,
    file_decisions,
    open_decisions,
    run_decisions,
)
from trial_scoring import PARTIES, copy_of, rows, set_policy

from veilscore.errors import ConfigError, DataError, RefusedError, VeilscoreError
from veilscore.models.decided import load_decision
from veilscore.release.ledger import BATCH, LEDGER, WATCH, ReleaseLedger
from veilscore.tasks import decide, decide_watch
from veilscore.tasks.table import leakage_table, step_of

HOLDERS = ("tax", "registry")


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """Homes with filed decisions and consents of all firms; tests that change more take a copy."""
    folder = copy_of(finished(file_decisions), tmp_path_factory.mktemp("homes"))
    for purpose in ("proactive", "watch"):
        consent(folder, purpose)
    return folder


@pytest.fixture
def own(homes, tmp_path):
    """A copy of the homes whose policies a test may change."""
    return shutil.copytree(homes, tmp_path / "own")


@pytest.fixture(scope="module")
def told(homes):
    return run_decisions(homes, decide_job("told", "proactive", name="told"), keep=True, audited=True)


def releases(folder, party, kind):
    with contextlib.closing(ReleaseLedger(folder / party / LEDGER)) as ledger:
        return [release for release in ledger.releases(0.0) if release.kind == kind]


# --- a batch ---------------------------------------------------------------------------------------------------------


def test_every_firm_gets_the_step_of_the_plain_decision(homes, told):
    steps, found = expected(homes, "told"), decided(homes, told)
    assert {firm: int(row["step"]) for firm, row in found.items()} == steps
    assert set(steps.values()) >= {0, 1, 2, 3}
    assert len({row["measure"] for row in found.values()} & {"capacity", "card", "risk", "bound"}) >= 3
    decision = load_decision(homes / "bank", "told").decision
    assert {row["name"] for row in found.values()} == {decision.name_of(step) for step in set(steps.values())}
    unknown = {firm for firm in found if firm not in rows(homes, "tax")}
    assert {firm for firm, row in found.items() if row["tax_status"] == "unknown"} == unknown != set()
    assert {row["registry_status"] for row in found.values()} == {"not disclosed"}
    said = json.loads((told.stores["bank"].path / "decided.json").read_text())
    assert sum(said["steps"].values()) == said["n_rows"] == len(steps)


def test_holders_are_told_counts_by_step_with_noise(told):
    exact, *noised = [told.stores[party].load_json("decided") for party in ("bank", *HOLDERS)]
    assert noised[0] == noised[1]
    assert (noised[0]["n_rows"], noised[0]["noise"]) == (exact["n_rows"], 2.83)  # root two over a mu of 0.5
    off = [noised[0]["steps"][name] - count for name, count in exact["steps"].items()]
    assert 0 < max(map(abs, off)) < 6 * 2.83
    assert any(each % 1 for each in off)  # noise in parts of a firm


@pytest.mark.slow
def test_an_honest_bank_is_confirmed(told):
    found = audit(told)
    assert {name: one.verdict for name, one in found.items()} == {"align.1": "confirmed", "decide.1": "confirmed"}


@pytest.mark.slow
def test_holders_count_bits_and_a_repeat_is_free(homes, told):
    first = {party: releases(homes, party, BATCH)[-1] for party in HOLDERS}
    for party, release in first.items():
        assert release.bits == pytest.approx(load_decision(homes / party, "told").decision.bits)
        assert release.firms.size == len(set(rows(homes, "bank")) & set(rows(homes, party)))
    # the same again is free where bits are used up; another decision of the same firms is not
    tight = {"bits_per_year": 5, "repeats_per_model": 9, "min_difference": 1, "models_per_firm": 9}
    for party in HOLDERS:
        set_policy(homes, party, release=tight)
    again = run_decisions(homes, decide_job("told", "proactive", name="again"))
    assert decided(homes, again) == decided(homes, told)
    for party in HOLDERS:  # what is repeated tells the same noise, not a mean of several
        assert again.stores[party].load_json("decided") == told.stores[party].load_json("decided")
    with pytest.raises(RefusedError, match="more than 5 bits would be told within a year"):
        run_decisions(homes, decide_job("limit", "proactive", name="more"))


@pytest.mark.slow
def test_a_firm_without_consent_counts_as_unknown(own):
    firms = list(rows(own, "bank"))
    for path in (own / "bank" / "consents" / "lists").glob("decide-proactive*"):
        path.unlink()
    consent(own, "proactive", firms[:-40])
    for party in HOLDERS:
        set_policy(own, party, release=OFTEN)
    run = run_decisions(own, decide_job("limit", "proactive", name="fewer"))
    withheld = {party: run.stores[party].load_json("withheld") for party in HOLDERS}
    for party in HOLDERS:
        assert len(withheld[party]["no consent"]) == len(set(firms[-40:]) & set(rows(own, party)))
    found, whole = decided(own, run), expected(own, "limit")
    assert all(int(found[firm]["step"]) == whole[firm] for firm in firms[:-40])


def job_of(**changes):
    """A job that is refused, by what is asked of it."""
    asked = {"decision": "limit", "purpose": "proactive", **changes}
    return decide_job(asked.pop("decision"), asked.pop("purpose"), name="other", **asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "error", "says"),
    [
        (job_of(decision="nothing"), ConfigError, "no decision 'nothing' is filed here"),
        (job_of(purpose="watch"), ConfigError, "decision limit is for proactive"),
        (job_of(decision_sha256="ab" * 32), ConfigError, "in use in another version than the job names"),
        (job_of(on_missing="fail"), RefusedError, "registry: does not say which firms it knows"),
        (job_of(min_batch=100_000), DataError, "fewer than min_batch"),
        (job_of(last="alarm-00000000-0000000000000000", decision="alarm", purpose="watch", watch=True), ConfigError,
         "is no month of this watch here"),
    ],
)  # fmt: skip
def test_refusals_say_what(homes, job, error, says):
    with pytest.raises(error, match=says.replace("(", "\\(")):
        run_decisions(homes, job)


@pytest.mark.slow
def test_models_that_are_retired_gone_or_changed(own):
    set_policy(own, "tax", retired_models=["firms"])
    with pytest.raises(RefusedError, match="measure card: model 'firms' is retired here"):
        run_decisions(own, job_of())
    set_policy(own, "tax", retired_models=[], release=OFTEN)  # else it may refuse first, as bits are used up
    shutil.rmtree(own / "registry" / "models" / "trees")
    with pytest.raises(RefusedError, match="measure risk: has no such version of model trees"):
        run_decisions(own, job_of())
    shutil.rmtree(own / "registry" / "models" / "limit")
    with pytest.raises(RefusedError, match="no such version of decision limit"):
        run_decisions(own, job_of())
    path = own / "bank" / "models" / "limit" / "decision.json"
    path.write_text(path.read_text().replace('"proactive"', '"renewal"'))
    with pytest.raises(VeilscoreError, match="was changed"):
        run_decisions(own, job_of())


@pytest.mark.slow
def test_a_policy_of_few_values_refuses(own):
    set_policy(own, "registry", release={"bits_per_score": 2})
    with pytest.raises(RefusedError, match="values tells more than 2 bits"):
        run_decisions(own, job_of())


# --- a watch ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(homes):
    """Two months of a watch; in the second a firm is gone, and records at the tax office have changed."""
    first = run_decisions(homes, decide_job("alarm", "watch", name="june"))
    with (homes / "data" / "tax.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    lines = [[line[0], *lines[k - 7][1:]] for k, line in enumerate(lines)]  # each firm has the record of another
    with (homes / "data" / "tax.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    bank = (homes / "data" / "bank.csv").read_text().splitlines()
    (homes / "data" / "bank.csv").write_text("\n".join([bank[0], *reversed(bank[2:])]) + "\n")
    july = decide_job("alarm", "watch", name="july", watch=True, last=first.job_id)
    return first, run_decisions(homes, july, keep=True, audited=True)


@pytest.mark.slow
def test_an_honest_bank_of_a_watch_is_confirmed(watched):
    found = audit(watched[1])
    assert {name: one.verdict for name, one in found.items()} == {"align.1": "confirmed", "decide.1": "confirmed"}


@pytest.mark.slow
def test_every_message_is_in_the_table_and_every_row_occurs(told, watched):
    """Those of a watch's second month beside those of a batch; nothing goes to the coordinator."""
    table = {(leak.kind, leak.to) for leak in step_of(told.job, "decide").learns}
    seen = set()
    for run in (told, watched[1]):
        for party, transcript in run.transcripts.items():
            for entry, _ in transcript.messages:
                if "/decide/" not in entry.session or entry.recipient != party:
                    continue
                assert party != "coordinator"
                mine = {"bank"} if party == "bank" else {"holder", "lead"} if party == "tax" else {"holder"}
                found = {(entry.kind, role) for role in mine} & table
                assert found, f"{entry.kind} to {party} is not in the table"
                seen |= found
    assert seen == table
    shown = {row.step: row for row in leakage_table(told.job.parameters)}
    assert shown["decide"].how_much == "at most 4.4 bits a firm"  # 5 steps by 4 measures, and the top one
    assert "step of each firm" in shown["decide"].bank


@pytest.mark.slow
def test_what_hides_is_uniform(told, watched):
    """Shares to the lead in each ring, labels and tables; last month's labels under pads."""
    n = told.stores["bank"].load_json("aligned")["n_rows"]
    by_kind = {}
    for run in (told, watched[1]):
        for party in ("bank", "tax"):
            for entry, message in run.transcripts[party].messages:
                if "/decide/" in entry.session and entry.recipient == party:
                    by_kind.setdefault((run is told, entry.kind), []).append(message)
    shares = np.frombuffer(b"".join(m.data for m in by_kind[True, "BandHolderPartial"]), "<u8").reshape(4, n)
    for share, modulus in zip(shares, (1 << 24, 1 << 24, int(shares[2].max()) + 1, 1 << 7), strict=True):
        centred = (share / modulus - 0.5) * np.sqrt(12)
        assert abs(centred.mean()) * np.sqrt(n) < 6
        assert abs((centred**2).mean() - 1) * np.sqrt(n / 0.8) < 6
    for key in ((True, "BandLeadTables"), (True, "BandBankLabels"), (False, "DecisionLeadLevels")):
        data = np.frombuffer(b"".join(m.data for m in by_kind[key]), np.uint8)
        assert uniform(data, 256, 256), key


def next_month(own, homes, watched):
    """The job of the month after, in homes and on data of their own."""
    shutil.rmtree(own)
    shutil.copytree(homes, own)
    for party in PARTIES:
        path = own / party / "node.yaml"
        path.write_text(path.read_text().replace(str(homes / "data"), str(own / "data")))
    text = decide_job("alarm", "watch", name="august", watch=True, last=watched[1].job_id)
    return open_decisions(own, text)


@pytest.mark.slow
def test_levels_only_rise_and_a_year_is_charged_once(homes, told, watched):
    first, second = ({firm: int(row["step"]) for firm, row in decided(homes, run).items()} for run in watched)
    now = expected(homes, "alarm")
    assert len(second) == len(first) - 1
    assert second == {firm: max(first[firm], level) for firm, level in now.items()}
    assert any(second[firm] > level for firm, level in now.items())  # last month's level stays
    assert any(second[firm] > first[firm] for firm in second)
    for party in HOLDERS:
        june, july = releases(homes, party, WATCH)[:2]
        assert june.bits == pytest.approx(np.log2(91))  # C(12 + 2, 2)
        assert (june.firms.size > 1000, july.firms.size) == (True, 0)


@pytest.mark.slow
def test_a_month_goes_on_once_and_another_start_is_charged(homes, watched):
    june = watched[0].job_id
    with pytest.raises(RefusedError, match="was continued by another one"):
        run_decisions(homes, decide_job("alarm", "watch", name="july2", watch=True, last=june))
    for party in HOLDERS:
        set_policy(homes, party, release={"watch": 7, "repeats_per_model": 99, "min_batch": 1, "models_per_firm": 9})
    with pytest.raises(RefusedError, match=r"more than 7 bits would be told.*release.watch"):
        run_decisions(homes, decide_job("alarm", "watch", name="anew"))
    # at every holder, not at the lead alone
    set_policy(homes, "tax", release={"watch": 99, "repeats_per_model": 99, "min_batch": 1, "models_per_firm": 9})
    with pytest.raises(RefusedError, match="more than 7 bits would be told") as refusal:
        run_decisions(homes, decide_job("alarm", "watch", name="anew"))
    assert refusal.value.party == "registry"


@pytest.mark.slow
def test_attempts_go_on_from_a_month_with_one_set_of_inputs(own, homes, watched):
    august = next_month(own, homes, watched)
    august.step("align")
    august.step("decide")
    first = decided(own, august)
    data = own / "data" / "registry.csv"
    data.rename(own / "data" / "moved.csv")
    august.step("decide", 2)  # a repeat with the same inputs, by the records that were read then
    assert decided(own, august) == first
    (own / "data" / "moved.csv").rename(data)
    path = own / "data" / "bank.csv"
    header, *lines = (line.split(",") for line in path.read_text().splitlines())
    place = header.index("account_balance")
    moved = [[*line[:place], "99999", *line[place + 1 :]] for line in lines]
    path.write_text("\n".join(",".join(line) for line in (header, *moved)) + "\n")
    with pytest.raises(RefusedError, match="was continued with other rows or inputs"):
        august.step("decide", 3)


@pytest.mark.slow
def test_two_rows_do_not_go_on_from_one(own, homes, watched, monkeypatch):
    def doubled(context, filed, ids):
        levels, links = decide_watch.bank_levels(context, filed, ids)
        links[1] = links[0]
        return levels, links

    monkeypatch.setattr(decide, "bank_levels", doubled)
    with pytest.raises(RefusedError, match="those of rows that it had, each once"):
        next_month(own, homes, watched).run()


@pytest.mark.slow
def test_a_link_to_another_firm_makes_a_row_unknown(own, homes, watched, monkeypatch):
    """A bank that gives a firm the last level of another one."""

    def swapped(context, filed, ids):
        levels, links = decide_watch.bank_levels(context, filed, ids)
        links[[0, 1]] = links[[1, 0]]
        return levels, links

    shutil.rmtree(own)
    shutil.copytree(homes, own)
    for party in HOLDERS:
        set_policy(own, party, release={"watch": 99, "repeats_per_model": 99, "min_batch": 1, "models_per_firm": 9})
    monkeypatch.setattr(decide, "bank_levels", swapped)
    run = run_decisions(own, decide_job("alarm", "watch", name="august", watch=True, last=watched[1].job_id))
    firms = list(rows(own, "bank"))[:2]
    for party in HOLDERS:
        withheld = run.stores[party].load_json("withheld").get("link to another firm last month", [])
        assert len(withheld) == len(set(firms) & set(rows(own, party)))


@pytest.mark.slow
def test_parties_that_lost_last_month(own, homes, watched):
    shutil.rmtree(own)
    shutil.copytree(homes, own)
    asked = decide_job("alarm", "watch", name="august", watch=True, last=watched[1].job_id)
    kept = own / "registry" / "jobs" / watched[1].job_id / "watched.json"
    text = kept.read_text()
    kept.unlink()
    with pytest.raises(RefusedError, match="is no month of this watch here; begin it anew"):
        run_decisions(own, asked)
    kept.write_text(text)
    (own / "tax" / "jobs" / watched[1].job_id / "levels.npz").unlink()
    with pytest.raises(RefusedError, match="was not the first holder of the month before"):
        run_decisions(own, asked)
