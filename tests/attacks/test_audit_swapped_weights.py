"""A bank that feeds the protocols other weights or vectors than it is bound to, or changes its evidence afterwards.

Each attack goes through unnoticed by the holders, as SECURITY.md says, and the audit names the bank, step and message.
"""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from local_jobs import firms, job, nodes, write
from trial_audit import audit, audited_run, kept, rewrite

from veilscore.audit.jobs import JobAudit
from veilscore.evidence import opening as openings
from veilscore.evidence.documents import digest
from veilscore.evidence.opening import read_messages
from veilscore.models.filed import load_model
from veilscore.models.logistic_problem import PartyColumns
from veilscore.node.local import open_job
from veilscore.tasks import align, batch, binning
from veilscore.terms.bands import Bands

QUICK = {"holdout_fraction": 0.4, "max_openings": 6}
SCORED = {"model": "card", "on_missing": "missing_code"}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return audited_run(tmp_path_factory.mktemp("honest"), **QUICK).run()


@pytest.fixture
def copy(honest, tmp_path):
    """The honest run in a folder of its own, to be tampered with."""
    home = honest.stores["bank"].path.parents[2]
    shutil.copytree(home, tmp_path / "homes")
    stores = {p: type(s)(tmp_path / "homes" / s.path.relative_to(home)) for p, s in honest.stores.items()}
    return dataclasses.replace(honest, stores=stores)


@pytest.fixture
def boosted(tmp_path):
    asked = {
        "n_estimators": 3,
        "max_depth": 2,
        "min_leaf_rows": 10,
    }
    configs = nodes(write(tmp_path / "data", firms(420)), holder_policy={"allow_order": True})
    return open_job(job("train_boosting", **asked, holdout_fraction=0.4), configs, tmp_path / "homes", audited=True)


def scoring(run, **parameters):
    folder = run.stores["bank"].path.parents[3]
    configs = nodes(folder / "data", holder_policy={"consent": "off"})
    asked = job("score_batch", name="batch", **SCORED, **parameters)
    return open_job(asked, configs, folder / "homes", audited=True)


def named(found, key, *words):
    """The bank is named, with step, and with the message or file; what goes on from there is not confirmed."""
    assert (found[key].verdict, found[key].party) == ("differs", "bank"), found[key]
    for word in words:
        assert word in found[key].detail, found[key].detail
    after = list(found)[list(found).index(key) + 1 :]
    assert all(found[name].verdict != "confirmed" for name in after)


# --- other weights or vectors than the bank is bound to --------------------------------------------------------------


def test_other_weights_in_training(tmp_path, monkeypatch):
    run = audited_run(tmp_path, **QUICK)
    for step in ("align", "bin"):
        run.step(step)
    with monkeypatch.context() as patch:
        honest_theta = PartyColumns.theta_units

        def one_cell_more(self, beta, unit, woe_bits):
            theta = honest_theta(self, beta, unit, woe_bits)
            theta[0] += 1000
            return theta

        patch.setattr(PartyColumns, "theta_units", one_cell_more)
        run.step("train")
    run.step("evaluate")
    found = audit(run)
    assert found["bin.1"].verdict == "confirmed"
    named(found, "train.1", "TrainBankEta number 4 to tax")


def test_another_vector_than_the_label(tmp_path, monkeypatch):
    """Every row but one gets label 0: the holder's counts would show that row's bins."""
    run = audited_run(tmp_path, **QUICK)
    run.step("align")
    honest_bin = binning.bank_bin

    def one_row(session, target, weight, train):
        vector = np.zeros_like(target)
        vector[np.flatnonzero(train)[0]] = 1
        return honest_bin(session, vector, weight, train)

    with monkeypatch.context() as patch:
        patch.setattr(binning, "bank_bin", one_row)
        run.step("bin")
    named(audit(run, "bin"), "bin.1", "BinBankRound2 number 2 to tax")


def test_other_weights_in_a_release(honest, monkeypatch):
    """The bank states the approved model's hash and looks up a single cell of one holder."""
    honest_score = batch.bank_score_bands

    def one_cell(session, rows, own_points, parts, *rest):
        tax = parts["tax"]
        points = np.zeros_like(tax.points)
        points[0] = 1000
        parts = {**parts, "tax": dataclasses.replace(tax, points=points)}
        return honest_score(session, rows, own_points, parts, *rest)

    run = scoring(honest)
    run.step("align")
    with monkeypatch.context() as patch:
        patch.setattr(batch, "bank_score_bands", one_cell)
        run.step("score")
    named(audit(run), "score.1", "BatchBankQuery number 2 to tax")


def test_other_weights_of_one_holder_leave_the_messages_to_others_before_it_alone(honest, monkeypatch):
    honest_score = batch.bank_score_bands

    def other_registry(session, rows, own_points, parts, *rest):
        changed = dataclasses.replace(parts["registry"], points=parts["registry"].points[::-1].copy())
        return honest_score(session, rows, own_points, {**parts, "registry": changed}, *rest)

    run = scoring(honest)
    run.step("align")
    with monkeypatch.context() as patch:
        patch.setattr(batch, "bank_score_bands", other_registry)
        run.step("score")
    named(audit(run), "score.1", "BatchBankQuery number 2 to registry")


def test_other_weights_in_a_release_of_exact_scores(honest, monkeypatch):
    honest_score = batch.bank_score

    def doubled(session, coordinator, rows, own_points, parts, *rest):
        tax = dataclasses.replace(parts["tax"], points=2 * parts["tax"].points)
        return honest_score(session, coordinator, rows, own_points, {**parts, "tax": tax}, *rest)

    run = scoring(honest, output="exact")
    run.step("align")
    with monkeypatch.context() as patch:
        patch.setattr(batch, "bank_score", doubled)
        run.step("score")
    named(audit(run), "score.1", "BatchBankQuery number 2 to tax")


def test_other_steps_than_those_of_the_model(honest, monkeypatch):
    """The bank cuts elsewhere than the model's own steps, which it is free to do and has to show."""
    run = scoring(honest)
    run.step("align")
    with monkeypatch.context() as patch:
        patch.setattr(batch, "steps_of", lambda *_: Bands.steps(range(31)))
        run.step("score")
    named(audit(run), "score.1", "BatchBankRound1 number 1 to tax")


def test_another_firm_at_one_holder_than_at_the_others(honest, monkeypatch):
    """One row is the victim at the tax bureau and an accomplice, whose points are known, at the registry."""
    honest_align = align.bank_align

    def mixed(session, holder, ids, *rest, **options):
        if holder == "registry":
            ids = [*ids[1:], ids[0]]
        return honest_align(session, holder, ids, *rest, **options)

    run = scoring(honest)
    with monkeypatch.context() as patch:
        patch.setattr(align, "bank_align", mixed)
        run.step("align")
    run.step("score")
    named(audit(run), "align.1", "AlignBankRound2 number", "to registry")


@pytest.mark.slow
def test_other_leaves_in_boosting_and_in_its_release(boosted, tmp_path, monkeypatch):
    for step in ("align", "bin"):
        boosted.step(step)
    from veilscore.protocols import boosting

    honest_c = boosting.coefficients
    with monkeypatch.context() as patch:
        patch.setattr(boosting, "coefficients", lambda tree, units, *rest: honest_c(tree, 2 * units, *rest))
        boosted.step("boost")
    boosted.step("evaluate")
    named(audit(boosted), "boost.1", "BoostProducts")  # the margins
    run = scoring(boosted)
    run.step("align")
    honest_score = batch.bank_score_trees_bands

    def one_tree(session, rows, codes, model, *rest):
        points = tuple(tuple(0 for _ in p) if k else p for k, p in enumerate(model.points))
        changed = model.model_copy(update={"points": points})
        monkeypatch.setattr(type(model), "sha256", property(lambda _, stated=model.sha256: stated))
        return honest_score(session, rows, codes, changed, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(batch, "bank_score_trees_bands", one_tree)
        run.step("score")
    monkeypatch.undo()
    found = audit(run)
    named(found, "score.1", "number", "to ")
    assert "BatchBankFactors" in found["score.1"].detail or "BatchBankQuery" in found["score.1"].detail


def test_a_model_stated_that_the_job_did_not_make(honest):
    """Online scores are audited against the model of the bank's statement, so that must be the one that was trained."""
    true = load_model(honest.stores["bank"].path / "model.json").sha256.hex()
    found = audit(honest, "evaluate", made=true)
    assert {f.verdict for f in found.values()} == {"confirmed"}
    named(audit(honest, "evaluate", made="f" * 64), "evaluate.1", "states that the job made model", true[:16])


def test_an_honest_vector_under_other_randomness(honest, monkeypatch):
    """Else a bank could search for randomness under which another vector looks like the right one."""
    run = scoring(honest)
    run.step("align")
    with monkeypatch.context() as patch:
        patch.setattr("veilscore.protocols.commitment.replayable", lambda _, protocol: protocol)
        run.step("score")
    named(audit(run), "score.1", "BatchBankQuery")


def test_one_seed_for_two_attempts(tmp_path, monkeypatch):
    run = audited_run(tmp_path)
    monkeypatch.setattr(openings.secrets, "token_hex", lambda size: "5" * (2 * size))
    for step in ("align", "bin"):
        run.step(step)
    found = audit(run)
    assert found["align.1"].verdict == "differs"
    assert "a seed serves one attempt" in found["align.1"].detail


def test_rows_that_binning_did_not_make(tmp_path):
    """All rows but a few get weight zero between two steps: gradients would be sums over those few."""
    run = audited_run(tmp_path, **QUICK)
    for step in ("align", "bin"):
        run.step(step)
    rows = run.stores["bank"].load_arrays("rows")
    rows["target"] = np.roll(rows["target"], 1)
    run.stores["bank"].save_arrays("rows", **rows)
    run.step("train")
    named(audit(run, "train"), "train.1", "rows.npz is not what step bin gives")


def test_another_data_set_after_alignment(tmp_path):
    """Labels swapped between firms: the ids are those that were aligned."""
    run = audited_run(tmp_path, **QUICK)
    run.step("align")
    path = run.nodes["bank"].datasets["d"].path
    lines = path.read_text().splitlines()
    column = lines[0].split(",").index("default")
    cells = [line.split(",") for line in lines[1:]]
    for row in cells:
        row[column] = str(1 - int(row[column]))
    path.unlink()
    path.write_text("\n".join([lines[0], *(",".join(row) for row in cells)]) + "\n")
    run.step("bin")
    found = audit(run, "bin")
    # it is bound to the new labels: what it then computes is right for them, and the data set shows as another one
    assert found["bin.1"].verdict == "differs"
    assert "another data set" in found["bin.1"].detail


def test_a_checkpoint_that_no_attempt_left(tmp_path):
    run = audited_run(tmp_path, **QUICK)
    for step in ("align", "bin", "train"):
        run.step(step)
    with (kept(run, "train") / "messages").open("rb") as file:
        assert file.read(1)
    from veilscore.models.optimise import OptimiserState

    run.stores["bank"].save_json("checkpoint_train", OptimiserState().to_dict())
    run.step("train", 2)
    named(audit(run, "train.2"), "train.2", "checkpoint")


# --- evidence changed afterwards -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", "0" * 64),
        ("time_ms", 1),
        ("node", "{}"),
        ("files", {}),
        ("software", {}),
    ],
)
def test_an_opening_that_was_changed(copy, field, value):
    rewrite(kept(copy, "bin") / "opening.json", lambda body: body.update({field: value}))
    named(audit(copy, "bin"), "bin.1", "StepCommitment number 0")


def test_an_opening_of_another_attempt_or_torn(copy):
    shutil.copy(kept(copy, "align") / "opening.json", kept(copy, "bin") / "opening.json")
    named(audit(copy, "bin"), "bin.1", "another attempt")
    (kept(copy, "bin") / "opening.json").write_bytes(b'{"kind":')
    named(audit(copy, "bin"), "bin.1", "was changed")


def test_a_model_that_was_changed(copy):
    path = next(kept(copy, "evaluate").rglob("model.json"))
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace("600", "601"))
    named(audit(copy, "evaluate"), "evaluate.1", "model.json is not the file that the attempt was bound to")


def test_labels_that_were_changed(copy):
    path = next(kept(copy, "bin").glob("dataset*"))
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace(",1,", ",0,"))
    named(audit(copy, "bin"), "bin.1", "dataset is not the file")


def test_weights_and_opening_changed_together(copy):
    """A new model, with its digest in the opening: the commitment is another one then."""
    path = next(kept(copy, "evaluate").rglob("model.json"))
    text = path.read_text().replace("600", "601")
    path.unlink()
    path.write_text(text)
    name = str(path.relative_to(kept(copy, "evaluate") / "files"))
    changed = {name: digest(path.read_bytes())}
    rewrite(kept(copy, "evaluate") / "opening.json", lambda body: body["files"].update(changed))
    named(audit(copy, "evaluate"), "evaluate.1", "StepCommitment number 0")


def test_received_messages_that_were_changed(copy):
    folder = kept(copy, "bin")
    noted = next(n for n in read_messages(folder, "s") if n.entry.kind == "BinHolderRound2")
    data = bytearray((folder / "messages").read_bytes())
    data[noted.at + 10] ^= 1
    (folder / "messages").write_bytes(data)
    named(audit(copy, "bin"), "bin.1", "BinHolderRound2 number", "changed in the record")


def test_received_messages_that_fit_the_bank_better(copy):
    """A gradient that explains the weights it wished for, digest and all: the holder logged another one."""
    folder = kept(copy, "train")
    noted = next(n for n in read_messages(folder, "s") if n.entry.kind == "TrainHolderGradient")
    data = bytearray((folder / "messages").read_bytes())
    data[noted.at + 10] ^= 1
    forged = digest(bytes(data[noted.at : noted.at + noted.size]))
    data = data.replace(noted.entry.sha256.encode(), forged.encode())
    (folder / "messages").write_bytes(data)
    sender = noted.entry.sender
    named(audit(copy, "train"), "train.1", f"messages from {sender} to bank", f"not those {sender} logged")


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_record_that_was_cut(copy, keep):
    path = kept(copy, "bin") / "messages"
    path.write_bytes(path.read_bytes()[:keep])
    named(audit(copy, "bin"), "bin.1", "not those tax logged")


def test_a_record_of_noise_is_refused_and_not_followed(copy):
    path = kept(copy, "bin") / "messages"
    for noise in (b"\xff" * 64, b"\x10\0\0\0" + b"\0" * 8 + b"x" * 64):
        path.write_bytes(noise)
        found = audit(copy, "bin")
        assert found["bin.1"].verdict == "differs"


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "./jobs/x/rows.npz", "consents/lists/../x.json"])
def test_a_path_that_the_step_does_not_read_is_not_followed(copy, monkeypatch, name):
    """Of a bank that was bound to such a path from the start."""
    monkeypatch.setattr(JobAudit, "_check_commitment", lambda *_: None)
    rewrite(kept(copy, "align") / "opening.json", lambda body: body["files"].update({name: "0" * 64}))
    named(audit(copy, "align"), "align.1", "which the step does not read")


def test_every_changed_byte_of_an_opening_is_found(copy):
    path = kept(copy, "align") / "opening.json"
    whole = path.read_bytes()
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert audit(copy, "align")["align.1"].verdict != "confirmed", at
