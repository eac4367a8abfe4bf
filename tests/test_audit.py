"""Audit of honest banks: every step is confirmed, seeds are fresh, and what was not kept is said."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from local_jobs import firms, job, nodes, write
from trial_audit import audit, audited_run, bank_home, kept, logged
from trial_evidence import KEYS, open_log

from veilscore.audit import jobs as auditing
from veilscore.audit.jobs import JobAudit
from veilscore.errors import MessageError, ParameterError, PeerError, SecretReuseError, StateError
from veilscore.evidence.opening import begin, read_opening
from veilscore.evidence.receipt import StepEntry, digest_of, traffic_of
from veilscore.evidence.witness import Witnesses
from veilscore.lattice.sampling import SecretStream
from veilscore.models.filed import load_model
from veilscore.node.local import open_job
from veilscore.protocols import residual
from veilscore.protocols.commitment import holder_committed
from veilscore.tasks.table import reads_of
from veilscore.terms.node_config import AuditRules
from veilscore.v1 import wire_pb2
from veilscore.wire import protocol
from veilscore.wire.protocol import Receive, Session
from veilscore.wire.randomness import in_order, replayable, secret_bytes, secret_generator
from veilscore.wire.transcript import Transcript, TranscriptEntry

QUICK = {"holdout_fraction": 0.4, "max_openings": 6}
CONFIRMED = "confirmed"


def verdicts(found):
    assert all(f.party == "bank" for f in found.values())
    return {key: f.verdict for key, f in found.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return audited_run(tmp_path_factory.mktemp("trained"), **QUICK).run()


def score(run, folder, **options):
    configs = nodes(folder / "data", holder_policy={"consent": "off"})
    asked = job("score_batch", name="batch", model="card", on_missing="missing_code", **options)
    return open_job(asked, configs, folder / "homes", audited=True)


# --- honest runs -----------------------------------------------------------------------------------------------------


def test_every_step_of_an_honest_training_is_confirmed(trained):
    found = audit(trained)
    assert verdicts(found) == dict.fromkeys(("align.1", "bin.1", "train.1", "evaluate.1"), CONFIRMED), found
    assert "as logged by tax, registry" in found["train.1"].detail
    assert "model" in found["evaluate.1"].detail


def test_a_release_is_confirmed_with_the_model_that_was_approved(trained):
    folder = trained.stores["bank"].path.parents[3]
    run = score(trained, folder).run()
    found = audit(run)
    assert verdicts(found) == {"align.1": CONFIRMED, "score.1": CONFIRMED}, found
    model = trained.stores["bank"].load_json("model")["sha256"]
    assert model[:16] in found["score.1"].detail


def test_a_batch_in_shards_is_confirmed(trained):
    found = audit(score(trained, trained.stores["bank"].path.parents[3], shards=3).run())
    assert verdicts(found) == {"align.1": CONFIRMED, "score.1": CONFIRMED}, found


@pytest.mark.slow
def test_bands_without_scores_are_confirmed(tmp_path):
    run = audited_run(tmp_path, bands={"A": 520, "B": 480}, holdout_output="band", **QUICK).run()
    found = audit(run)
    assert set(verdicts(found).values()) == {CONFIRMED}, found
    assert "BandLeadDecoding" in {e.kind for e in run.transcripts["bank"].entries}


@pytest.mark.parametrize(
    "options", [pytest.param({}, marks=pytest.mark.slow), {"tree_columns": "own", "subsample": 0.9}]
)
def test_every_step_of_honest_boosting_and_of_its_release_is_confirmed(options, tmp_path):
    asked = {"n_estimators": 2, "max_depth": 2, "early_stopping_rounds": 2, "holdout_fraction": 0.4, **options}
    configs = nodes(write(tmp_path / "data", firms(420)), holder_policy={"allow_order": True})
    run = open_job(job("train_boosting", **asked), configs, tmp_path / "homes", audited=True).run()
    found = audit(run)
    assert verdicts(found) == dict.fromkeys(("align.1", "bin.1", "boost.1", "evaluate.1"), CONFIRMED), found
    found = audit(score(run, tmp_path).run())
    assert verdicts(found) == {"align.1": CONFIRMED, "score.1": CONFIRMED}, found


@pytest.mark.slow
def test_every_step_of_private_boosting_and_of_its_release_is_confirmed(tmp_path):
    asked = {"disclosure": "private", "n_estimators": 4, "max_depth": 2, "holdout_fraction": 0.4}
    configs = nodes(write(tmp_path / "data", firms(900)))
    run = open_job(job("train_boosting", **asked), configs, tmp_path / "homes", audited=True).run()
    found = audit(run)
    assert verdicts(found) == dict.fromkeys(("align.1", "bin.1", "boost.1", "evaluate.1"), CONFIRMED), found
    assert "CurveLeadCounts" in {e.kind for e in run.transcripts["bank"].entries}
    found = audit(score(run, tmp_path).run())
    assert verdicts(found) == {"align.1": CONFIRMED, "score.1": CONFIRMED}, found


@pytest.mark.slow
def test_a_refit_of_what_was_opened_is_confirmed(tmp_path):
    asked = {"disclosure": "private", "holdout_fraction": 0.4}
    first = audited_run(tmp_path, parts=firms(900), **asked).run()
    run = open_job(job(name="again", reuse="card", C=0.3, **asked), first.nodes, tmp_path / "homes", audited=True).run()
    found = audit(run)
    assert verdicts(found) == {"refit.1": CONFIRMED, "evaluate.1": CONFIRMED}, found


@pytest.mark.slow
def test_a_private_stack_is_confirmed(tmp_path):
    asked = {"disclosure": "private", "boosting": {"n_estimators": 4, "max_depth": 2}, "holdout_fraction": 0.4}
    run = audited_run(tmp_path, "train_stack", despite_noise=True, parts=firms(900), **asked).run()
    found = audit(run)
    assert verdicts(found) == dict.fromkeys(("align.1", "bin.1", "train.1", "boost.1", "evaluate.1"), CONFIRMED), found


@pytest.mark.slow
def test_a_private_selection_of_all_kinds_is_confirmed_and_its_model_is_the_one_stated(tmp_path):
    asked = {"disclosure": "private", "boosting": {"n_estimators": 4}, "holdout_fraction": 0.4}
    grid = {"boosting_grid": {"max_depth": [1, 2]}, "kinds": ["scorecard", "boosting", "stack"]}
    run = audited_run(tmp_path, "select_model", despite_noise=True, parts=firms(900), **asked, **grid).run()
    stated = load_model(run.stores["bank"].path / "model.json").sha256.hex()
    found = audit(run, made=stated)
    assert verdicts(found) == {f"{step}.1": CONFIRMED for step in run.job.steps}, found
    assert stated[:16] in found["choose.1"].detail
    assert verdicts(audit(run, "choose", made="0" * 64))["choose.1"] == "differs"


def test_a_private_screening_is_confirmed(tmp_path):
    run = audited_run(tmp_path, "screen_features", name="scr", disclosure="private", max_columns=1, min_iv=0).run()
    assert verdicts(audit(run)) == {"align.1": CONFIRMED, "screen.1": CONFIRMED}


@pytest.mark.slow
def test_screening_and_training_on_what_it_kept_are_confirmed(tmp_path):
    screened = audited_run(tmp_path, "screen_features", name="scr", max_correlation=0.3).run()
    found = audit(screened)
    assert verdicts(found) == {"align.1": CONFIRMED, "screen.1": CONFIRMED}, found
    run = audited_run(tmp_path, columns_from="scr", calibrate=True, weights=True, **QUICK).run()
    assert set(verdicts(audit(run)).values()) == {CONFIRMED}


@pytest.mark.slow
def test_a_stack_its_fits_on_folds_and_its_release_are_confirmed(tmp_path):
    asked = {
        "name": "card",
        "max_bin": 6,
        "folds": 2,
        "scorecard": {"max_openings": 6},
        "boosting": {"n_estimators": 2, "max_depth": 2, "min_leaf_rows": 10, "learning_rate": 0.4},
        "own_scores": ["limit"],
    }
    run = audited_run(tmp_path, "train_stack", parts=firms(900, seed=5), **asked).run()
    found = audit(run)
    assert set(verdicts(found).values()) == {CONFIRMED}, found
    assert {"bin.fold2.1", "scorecard.fold1.1", "boosting.1", "stack.1", "evaluate.1"} <= set(found)
    found = audit(score(run, tmp_path).run())
    assert verdicts(found) == {"align.1": CONFIRMED, "score.1": CONFIRMED}, found


def test_a_sampled_step_brings_the_steps_that_it_goes_on_from(trained):
    assert list(audit(trained, "bin")) == ["align.1", "bin.1"]
    assert list(audit(trained, "align")) == ["align.1"]


@pytest.mark.slow
def test_an_attempt_that_failed_and_the_one_that_went_on_from_it_are_confirmed(tmp_path):
    run = audited_run(tmp_path, **QUICK)
    for step in ("align", "bin"):
        run.step(step)

    def cut(sender, recipient, sequence, payload):
        return [] if (sender, recipient, sequence) == ("tax", "bank", 10) else [payload]

    with pytest.raises(PeerError):
        run.step("train", tamper=cut, timeout_s=3)
    assert run.stores["bank"].has("checkpoint_train")
    run.step("train", 2)
    run.step("evaluate")
    found = audit(run, "train.1", "evaluate", outcomes={"train_1": "failed"})
    # tax logged a message that never came
    assert set(verdicts(found).values()) == {CONFIRMED}, found
    assert "up to where the attempt failed" in found["train.1"].detail
    assert "failed" not in found["train.2"].detail


def test_digests_of_failed_attempts_reach_back_to_the_first_message():
    entries = [TranscriptEntry("job/train/1", "tax", "bank", k, "Kind", 1, "0" * 64) for k in range(70)]
    (whole,) = traffic_of(Transcript(entries=entries), failed=True)
    assert len(whole.earlier) == 64
    for fewer in (1, 2, 64):
        assert whole.earlier[fewer - 1] == digest_of("job/train/1", "tax", "bank", entries[:-fewer])
    (short,) = traffic_of(Transcript(entries=entries[:3]), failed=True)
    assert short.earlier[-1] == digest_of("job/train/1", "tax", "bank", [])
    assert traffic_of(Transcript(entries=entries))[0].earlier == ()


@pytest.mark.slow
def test_an_attempt_that_the_bank_gave_up_is_confirmed_up_to_there(tmp_path, monkeypatch):
    from veilscore.tasks import scorecard

    run = audited_run(tmp_path, **QUICK)
    for step in ("align", "bin"):
        run.step(step)
    honest = scorecard.bank_train

    def interrupted(*arguments):
        role, answer, gradients = honest(*arguments), None, 0
        while True:
            command = role.send(answer)
            gradients += type(getattr(command, "message", None)).__name__ == "TrainBankResidual"
            if gradients > 4:
                raise PeerError("the power went out")
            answer = yield command

    with monkeypatch.context() as patch:
        patch.setattr(scorecard, "bank_train", interrupted)
        with pytest.raises(PeerError):
            run.step("train", timeout_s=10)
    run.step("train", 2)
    found = audit(run, "train.2", outcomes={"train_1": "failed"})
    assert verdicts(found) == dict.fromkeys(("align.1", "bin.1", "train.1", "train.2"), CONFIRMED), found
    assert "up to where the attempt failed" in found["train.1"].detail


# --- what was not kept -----------------------------------------------------------------------------------------------


def test_a_deleted_opening_cannot_be_audited_nor_what_follows_it(tmp_path):
    run = audited_run(tmp_path)
    for step in ("align", "bin"):
        run.step(step)
    (kept(run, "align") / "opening.json").unlink()
    found = audit(run)
    assert set(verdicts(found).values()) == {"cannot be audited"}
    assert "kept no opening" in found["align.1"].detail
    assert "step align, which is not confirmed" in found["bin.1"].detail


def test_rules_say_what_is_kept_and_for_how_long(tmp_path):
    configs = nodes(write(tmp_path / "data", firms(420)))
    bank = configs["bank"].model_copy(update={"audit": AuditRules(steps=("bin",), days=1)})
    run = open_job(job(), {**configs, "bank": bank}, tmp_path / "homes", audited=True)
    run.step("align")
    assert not kept(run, "align").exists()
    run.step("bin")
    old = kept(run, "bin") / "opening.json"
    os.utime(old, (0, 0))
    run.step("bin", 2)
    assert not kept(run, "bin").exists()
    assert kept(run, "bin", 2).exists()


def test_a_record_that_grows_too_long_is_given_up_and_the_step_goes_on(tmp_path):
    configs = nodes(write(tmp_path / "data", firms(420)))
    bank = configs["bank"].model_copy(update={"audit": AuditRules(max_mb=1)})
    run = open_job(job(), {**configs, "bank": bank}, tmp_path / "homes", audited=True)
    run.step("align")
    run.step("bin")
    assert not (kept(run, "bin") / "messages").exists()
    assert verdicts(audit(run)) | {"align.1": CONFIRMED, "bin.1": "cannot be audited"} == verdicts(audit(run))


def test_openings_are_for_the_owner_alone_and_show_no_seed(trained):
    for folder in kept(trained, "bin").parent.iterdir():
        assert folder.stat().st_mode & 0o777 == 0o700
        for name in ("opening.json", "messages"):
            assert (folder / name).stat().st_mode & 0o777 == 0o600
        opening = read_opening(folder)
        assert opening.seed not in repr(opening)
        assert opening.seed.encode() not in (folder / "messages").read_bytes()


# --- randomness ------------------------------------------------------------------------------------------------------


def test_seeds_of_attempts_and_jobs_are_never_equal(tmp_path):
    run, again = audited_run(tmp_path), audited_run(tmp_path)
    for one in (run, again):
        one.step("align")
        one.step("align", 2)
    seeds = {read_opening(kept(one, "align", k)).seed for one in (run, again) for k in (1, 2)}
    assert len(seeds) == 4
    session = Session(f"{run.job_id}/align/1", "bank", "bank", run.job.holders)
    home, reads = run.stores["bank"].path.parent.parent, reads_of(run.job, "align", run.job_id)
    with pytest.raises(SecretReuseError, match="one attempt"):
        begin(home, session, run.job, run.nodes["bank"], reads)


def test_default_secrets_differ_between_runs():
    assert secret_bytes(32) != secret_bytes(32)
    assert (SecretStream().words(8) != SecretStream().words(8)).any()
    assert secret_generator().integers(1 << 62) != secret_generator().integers(1 << 62)


def draws(seed):
    def role():
        yield secret_bytes(16)
        yield SecretStream().words(2).tobytes()
        yield secret_generator().bytes(16)

    return list(replayable(seed, role()))


def test_a_seed_gives_the_same_draws_again_and_each_draw_is_new():
    first = draws(bytes(32))
    assert first == draws(bytes(32))
    assert len(set(first) | set(draws(bytes(31) + b"\1"))) == 6


def test_secrets_of_two_roles_that_take_turns_do_not_mix():
    def role():
        while True:
            yield secret_bytes(16)

    one, other = replayable(bytes(32), role()), replayable(bytes(32), role())
    mixed = [next(one), next(other), secret_bytes(16), next(other), next(one)]
    assert mixed[0] == mixed[1]
    assert mixed[3] == mixed[4]
    assert mixed[2] not in {mixed[0], mixed[3]}
    one.close()
    assert secret_bytes(16) != next(other)


def test_a_role_that_is_advanced_in_threads_keeps_its_secrets():
    def role():
        for _ in range(4):
            yield secret_bytes(16)

    async def in_threads():
        found = replayable(bytes(32), role())
        return [await asyncio.to_thread(next, found) for _ in range(4)]

    assert asyncio.run(in_threads()) == list(replayable(bytes(32), role()))


def test_work_for_threads_draws_by_the_order_in_which_it_was_given():
    def role(workers):
        with ThreadPoolExecutor(workers) as pool:
            work = [pool.submit(in_order(lambda: secret_bytes(16) + secret_bytes(16))) for _ in range(32)]
            yield [one.result() for one in work]

    (one,), (several,) = (list(replayable(bytes(32), role(workers))) for workers in (1, 4))
    assert one == several
    assert len(set(one)) == 32
    assert in_order(role) is role


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # the child ends at once
def test_seeds_of_the_wrong_size_and_of_another_process_are_refused():
    with pytest.raises(ParameterError, match="32 bytes"):
        next(replayable(b"short", iter(())))

    def role():
        yield secret_bytes(8)
        child = os.fork()
        if child == 0:
            try:
                secret_bytes(8)
            except SecretReuseError:
                os._exit(7)
            os._exit(0)
        yield os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert list(replayable(bytes(32), role()))[1] == 7


def test_a_holder_refuses_a_commitment_of_another_size():
    session = Session("job/train/1", "tax", "bank", ("tax",))
    role = holder_committed(session, iter(()))
    assert role.send(None) == Receive("bank", wire_pb2.StepCommitment)
    with pytest.raises(MessageError, match="32 bytes"):
        role.send(wire_pb2.StepCommitment(commitment=b"short"))


def test_the_commitment_comes_before_any_other_message_of_the_bank(trained):
    first = {}
    for entry in trained.transcripts["bank"].entries:
        if entry.sender == "bank" and entry.recipient != "coordinator":
            first.setdefault((entry.session, entry.recipient), entry.kind)
    assert len(first) == 8
    assert set(first.values()) == {"StepCommitment"}


def test_a_full_disk_stops_the_attempt(tmp_path, monkeypatch):
    run = audited_run(tmp_path)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("veilscore.evidence.opening.os.fdopen", full)
    with pytest.raises(StateError, match="disk full"):
        run.step("align", timeout_s=5)


# --- another process -------------------------------------------------------------------------------------------------

ELSEWHERE = """
import sys
from pathlib import Path
from veilscore.audit.jobs import JobAudit, job_of
from veilscore.evidence.receipt import StepEntry
home, job_id = Path(sys.argv[1]), sys.argv[2]
logged = {}
for line in sys.stdin.read().splitlines():
    party, entry = line.split(" ", 1)
    entry = StepEntry.parse(entry.encode())
    logged.setdefault((entry.step, entry.attempt), {})[party] = entry
with JobAudit(home, job_id, job_of(home, job_id), logged) as audit:
    print(audit.finding("evaluate", 1).verdict)
"""


@pytest.mark.slow
def test_a_fresh_process_with_other_hashes_of_strings_confirms_too(trained):
    from trial_audit import bank_home, logged

    lines = [
        f"{party} {entry.to_bytes().decode()}" for found in logged(trained).values() for party, entry in found.items()
    ]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, bank_home(trained), trained.job_id],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    )
    assert done.stdout.strip() == CONFIRMED, done.stderr


def test_content_of_a_send_is_all_that_a_commitment_shows(trained):
    kinds = [e for e in trained.transcripts["tax"].entries if e.kind == "StepCommitment"]
    assert {e.size_bytes for e in kinds} == {36}
    assert len({e.sha256 for e in kinds}) == len(kinds)
    assert np.unique([e.sequence for e in kinds]).tolist() == [0]


# --- attempts that were killed ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_attempt_is_told_apart_from_a_missing_opening(tmp_path):
    """Tax was killed while it trained: its log has the beginning alone, and what it was about to open."""
    run = audited_run(tmp_path, **QUICK)
    for step in ("align", "bin"):
        run.step(step)

    def cut(sender, recipient, sequence, payload):
        return [] if (sender, recipient, sequence) == ("tax", "bank", 10) else [payload]

    with pytest.raises(PeerError):
        run.step("train", tamper=cut, timeout_s=3)
    run.step("train", 2)
    entries = logged(run, train_1="failed")
    del entries["train", 1]["tax"]

    def found(killed, charged=None, entries=entries):
        with JobAudit(bank_home(run), run.job_id, run.job, entries, killed=killed, charged=charged) as audit:
            audit.finding("train", 1)
            audit.finding("train", 2)
            return {(f.step, f.attempt): f for f in audit.findings()}

    of_tax = {("train", 1): frozenset({"tax"})}
    good = found(of_tax, {("train", 1): (1_000_000, "exact sums at tax")})
    assert good["train", 1].verdict == "killed"
    assert "killed at tax" in good["train", 1].detail
    assert "nothing was opened after exact sums at tax, 1970-01-01 00:16:40 UTC" in good["train", 1].detail
    assert good["train", 2].verdict == CONFIRMED  # it went on from what the killed one left
    everybody = {("train", 1): frozenset({"bank", "tax", "registry"})}
    alone = found(everybody, entries={key: one for key, one in entries.items() if key != ("train", 1)})
    assert (alone["train", 1].verdict, "opened in it" in alone["train", 1].detail) == ("killed", True)
    missing = found({})["train", 1]
    assert (missing.verdict, "no log or receipt of tax" in missing.detail) == ("cannot be audited", True)
    (kept(run, "train") / "opening.json").unlink()  # what is deleted does not count as killed
    gone = found(of_tax)["train", 1]
    assert (gone.verdict, "kept no opening" in gone.detail) == ("cannot be audited", True)


def test_a_record_that_a_killed_attempt_left_is_compared_all_the_same(tmp_path):
    run = audited_run(tmp_path, **QUICK)
    run.step("align")
    run.step("bin")
    entries = logged(run)
    del entries["bin", 1]["tax"]
    wrong = {key: dict(found) for key, found in entries.items()}
    traffic = wrong["bin", 1]["registry"].traffic
    changed = tuple(t.model_copy(update={"digest": "0" * 64}) for t in traffic)
    wrong["bin", 1]["registry"] = wrong["bin", 1]["registry"].model_copy(update={"traffic": changed})
    killed = {("bin", 1): frozenset({"tax"})}
    for one, verdict in ((entries, "killed"), (wrong, "differs")):
        with JobAudit(bank_home(run), run.job_id, run.job, one, killed=killed) as audit:
            assert audit.finding("bin", 1).verdict == verdict


def test_logs_say_which_attempts_were_killed(tmp_path):
    job_id, at = "toy-00000000-0000000000000000", {"step": "train", "attempt": 1, "time_ms": 5}
    log = open_log(tmp_path / "tax", "tax")
    log.append(
        [{"kind": "step_begun", "job_id": job_id, **at}, {"kind": "step_begun", "job_id": job_id, **at, "attempt": 2}]
    )
    log.append([{"kind": "spent", "job_id": job_id, **at, "opening": "cells", "time_ms": 9}])
    ended = StepEntry(job_id=job_id, step="train", attempt=2, outcome="failed", traffic=(), time_ms=6)
    log.append([ended.model_dump(mode="json")])
    log.close()
    witnesses = Witnesses()
    witnesses.add_log(tmp_path / "tax" / "log.jsonl", KEYS)
    assert witnesses.killed(job_id, "bank") == {("train", 1): frozenset({"tax"})}
    assert witnesses.charged[job_id] == {("train", 1): (9, "cells at tax")}


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    asked = {"disclosure": "private", "holdout_scores": False, "despite_noise": True}
    return audited_run(tmp_path_factory.mktemp("card"), parts=firms(1500, seed=4), **asked).run()


@pytest.mark.parametrize(
    ("changed", "step", "said"),
    [
        ((protocol, "VERSION", "veilscore/0"), "align", "the role stops with MessageError, where the bank went on"),
        ((residual, "reply_bytes", lambda _n: 7), "train", "the role stops with MessageError, where the bank went on"),
        (
            (residual.pb, "ResidualHolderSums", residual.pb.BinHolderRound2),
            "train",
            "the role stops with ProtocolError",
        ),
        ((residual.pb, "ResidualBankTables", residual.pb.ResidualHolderHints), "train", "the role stops with Value"),
        ((residual, "weight_bits", lambda _n: 5), "train", "is not what the role sends"),
    ],
)
def test_a_job_kept_from_before_an_incompatible_change_is_told_in_one_sentence(card, monkeypatch, changed, step, said):
    """An upgrade must not read as a bank that cheats, nor as a traceback: the sentence names what made the attempt."""
    monkeypatch.setattr(*changed)
    monkeypatch.setattr(auditing, "software", lambda: {"veilscore": "9.9", "code": "ab" * 32})
    found = audit(card)
    one = found[f"{step}.1"]
    assert one.verdict == "differs"
    assert one.detail.startswith(said) or said in one.detail
    made_by = read_opening(kept(card, step)).software
    by = f"veilscore {made_by['veilscore']} of code {made_by['code'][:12]}"
    assert one.detail.endswith(
        f"(or because other versions compute here: the attempt was made by {by}; audit it by that one)"
    )
    assert "\n" not in one.detail
    after = list(found)[list(found).index(f"{step}.1") + 1 :]
    assert all(found[name].verdict == "cannot be audited" for name in after)
