"""A bank tries to read a holder's codes out of scores: it works with release control off, and fails by default.

Every attack runs against real nodes or whole jobs. Consent is given throughout: these attacks are about what a bank can
do with firms that agreed to be scored.
"""

from __future__ import annotations

import asyncio
import csv
import shutil

import numpy as np
import pytest
from consent_issuer import give_list
from finished_jobs import finished
from local_jobs import firms, job, nodes, take, write
from trial_scoring import copy_of, known_to_all, rows, score, scoring, set_policy, train

from veilscore.errors import RefusedError
from veilscore.models.filed import load_model
from veilscore.node.local import open_job
from veilscore.online.bank import OnlineBank
from veilscore.online.model import codes_of_features
from veilscore.online.records import load_map
from veilscore.tasks import batch

DEFAULT = {}  # release control as it is when a policy says nothing
OFF = {"control": "off"}


@pytest.fixture(scope="module")
def trained():
    return finished(train)


class Attack:
    """Homes under one release policy, a victim known to both holders, and its true codes at tax."""

    def __init__(self, trained, folder, release):
        self.homes = copy_of(trained, folder)
        for party in ("tax", "registry"):
            set_policy(self.homes, party, release=release)
        self.firm = known_to_all(self.homes)[0]
        models = self.homes / "bank" / "models"
        self.model = load_model(models / "firms" / "model.json")
        code_map = load_map(self.homes / "tax" / "models" / "firms" / "code_map.json")
        row = rows(self.homes, "tax")[self.firm]
        self.codes = codes_of_features(code_map, {n: row[n] for n in code_map.names})[0][0].astype(int)

    def plant(self, name, weigh, **changes):
        """Put a model of the bank's choice beside the trained one; `weigh(party, column, code)` gives its points."""
        parts = tuple(
            part.model_copy(
                update={
                    "columns": tuple(
                        column.model_copy(
                            update={"points": tuple(weigh(part.party, j, k) for k in range(len(column.points)))}
                        )
                        for j, column in enumerate(part.columns)
                    )
                }
            )
            for part in self.model.parts
        )
        folder = self.homes / "bank" / "models" / name
        folder.mkdir(exist_ok=True)
        shutil.copy(self.homes / "bank" / "models" / "firms" / "code_map.json", folder)
        self.model.model_copy(update={"parts": parts, "base_points": 0, "name": name, **changes}).save(
            folder / "model.json"
        )

    def ask(self, *names):
        async def scenario():
            async with scoring(self.homes) as command:
                return [await score(command, f"q {name}", self.firm, model=name) for name in names]

        return asyncio.run(scenario())


def reasons(answer):
    return " ".join(party.reason for party in answer.parties)


def column_by_column(attack):
    """One query a column, whose points are its code numbers: as many equations as unknowns."""
    names = [f"probe{j}" for j in range(attack.codes.size)]
    for j, name in enumerate(names):
        attack.plant(name, lambda party, column, code, j=j: code if (party, column) == ("tax", j) else 0)
    return attack.ask(*names)


def test_chosen_weights_recover_all_codes_without_control(trained, tmp_path):
    attack = Attack(trained, tmp_path, OFF)
    answers = column_by_column(attack)
    assert [a.units for a in answers] == attack.codes.tolist()


def test_chosen_weights_fail_by_default(trained, tmp_path):
    attack = Attack(trained, tmp_path, DEFAULT)
    answers = column_by_column(attack)
    n_scored = sum(a.status == "scored" for a in answers)
    assert 0 < n_scored <= max(1, attack.codes.size // 4)  # the rest of the unknowns stay unknown
    assert "release budget" in reasons(answers[-1])


def lying(attack, monkeypatch):
    """Every query states the same model, so that it counts as a repeat; the bank forgets what it got before."""
    from veilscore.online import model as online_model

    read = online_model.BankModels._read
    monkeypatch.setattr(
        online_model.BankModels,
        "_read",
        lambda self, *paths: online_model.replace_hash(read(self, *paths), attack.model.sha256),
        raising=False,
    )
    monkeypatch.setattr(OnlineBank, "_opened_before", lambda *_: None)
    return column_by_column(attack)


@pytest.fixture
def replace_hash(monkeypatch):
    from dataclasses import replace

    from veilscore.online import model as online_model

    monkeypatch.setattr(
        online_model, "replace_hash", lambda model, sha256: replace(model, sha256=sha256), raising=False
    )


@pytest.mark.usefixtures("replace_hash")
def test_a_false_model_hash_recovers_all_codes_without_control(trained, tmp_path, monkeypatch):
    attack = Attack(trained, tmp_path, OFF)
    assert [a.units for a in lying(attack, monkeypatch)] == attack.codes.tolist()


@pytest.mark.usefixtures("replace_hash")
def test_a_false_model_hash_fails_by_default(trained, tmp_path, monkeypatch):
    attack = Attack(trained, tmp_path, DEFAULT)
    answers = lying(attack, monkeypatch)
    n_scored = sum(a.status == "scored" for a in answers)
    assert 0 < n_scored <= 3 < attack.codes.size
    assert "opened too often" in reasons(answers[-1])


def test_an_honest_bank_gets_the_first_result_again(trained, tmp_path):
    attack = Attack(trained, tmp_path, DEFAULT)

    async def scenario():
        async with scoring(attack.homes) as command:
            return [await score(command, f"r{k}", attack.firm) for k in range(6)]

    answers = asyncio.run(scenario())
    assert {(a.status, a.units) for a in answers} == {("scored", answers[0].units)}


def threshold_search(attack, steps=12):
    """Read nothing but the band and move its limit: binary search for the holders' part of the score."""
    units, low, high = int(attack.model.scaling.units), -(1 << 11), 1 << 11
    weigh = {(part.party, j): c.points for part in attack.model.parts[1:] for j, c in enumerate(part.columns)}
    answers = []
    while high - low > 1 and len(answers) < steps:
        middle, name = (low + high) // 2, f"cut{len(answers)}"
        attack.plant(
            name,
            lambda party, j, k: weigh[party, j][k] // units if party != "bank" else 0,
            bands={"below": -(1 << 20), "above": middle / units},
        )
        answers += attack.ask(name)
        if answers[-1].status != "scored":
            break
        low, high = (middle, high) if answers[-1].band == "above" else (low, middle)
    return low, high, answers


@pytest.mark.slow
def test_threshold_search_finds_the_score_without_control(trained, tmp_path):
    attack = Attack(trained, tmp_path, OFF)
    low, high, answers = threshold_search(attack)
    assert high - low == 1
    assert answers[0].units == low


def test_threshold_search_fails_by_default(trained, tmp_path):
    low, high, answers = threshold_search(Attack(trained, tmp_path, DEFAULT))
    assert answers[-1].status == "failed"
    assert "release budget" in reasons(answers[-1])
    assert high - low >= 1 << 9


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    home = tmp_path_factory.mktemp("card")
    folder = write(home / "data", firms(400, seed=3))
    open_job(job(holdout_fraction=0, max_openings=4), nodes(folder), home).run()
    return home


def band_search(home, release, ask):
    """Search for one firm's points from its band alone; `ask(middle)` gives what changes from job to job."""
    parts = firms(60, seed=9, prefix="new", coverage=1)
    folder, victim = write(home / "search", parts), parts["bank"]["firm"][0]
    give_list(home / "bank", parts["bank"]["firm"])
    configs = nodes(folder, holder_policy={"release": release})
    low, high, refusal = 0, 1024, ""
    while high - low > 1 and not refusal:
        middle = (low + high) // 2
        try:
            run = open_job(batch_job(output="band", bands=ask(middle)), configs, home).run()
        except RefusedError as error:
            refusal = error.message
            break
        with (run.stores["bank"].path / "scores.csv").open() as file:
            band = {row["id"]: row["band"] for row in csv.DictReader(file)}[victim]
        low, high = (middle, high) if band == "above" else (low, middle)
    _, scores = sum_of_scores(home, parts, OFF)
    return low, high, refusal, scores[victim]


BAND_ONLY, BAND_OFF = {"output": "band"}, {"output": "band", "control": "off"}


def moving_cut_offs(middle):
    """Every job names another cut-off."""
    return {"above": middle}


def moving_points(monkeypatch):
    """Every job has the same cut-off and model hash; the bank moves its own points instead."""
    shift, original = [0], batch.bank_score_bands
    monkeypatch.setattr(
        batch,
        "bank_score_bands",
        lambda session, rows, own, *rest: original(session, rows, own - shift[0], *rest),
    )

    def ask(middle):
        shift[0] = 100 * middle - 100 * 500
        return {"above": 500}

    return ask


@pytest.mark.parametrize("way", ["cut-offs", "points"])
@pytest.mark.parametrize(
    "release", [pytest.param(BAND_OFF, id="off", marks=pytest.mark.slow), pytest.param(BAND_ONLY, id="default")]
)
def test_threshold_search_by_bands(card, tmp_path, monkeypatch, release, way):
    home = tmp_path / "homes"
    shutil.copytree(card, home)
    ask = moving_cut_offs if way == "cut-offs" else moving_points(monkeypatch)
    low, high, refusal, score = band_search(home, release, ask)
    assert low <= score < high
    if release is BAND_OFF:
        assert (high - low, refusal) == (1, "")
    else:
        assert "release budget" in refusal
        assert high - low >= (
            256 if way == "cut-offs" else 128
        )  # two models of bands, or the first and its two repeats


def batch_job(**parameters):
    return job("score_batch", name="batch", model="card", on_missing="missing_code", **parameters)


def sum_of_scores(home, parts, release):
    """A batch whose reader keeps nothing but the sum over all firms."""
    folder = write(home / f"batch{len(parts['bank']['firm'])}", parts)
    config = batch_job(output="exact")
    policy = {"release": release}
    run = open_job(config, nodes(folder, holder_policy=policy), home).run()
    with (run.stores["bank"].path / "scores.csv").open() as file:
        scores = {row["id"]: float(row["score"]) for row in csv.DictReader(file)}
    return sum(scores.values()), scores


def without(parts, firm):
    return {
        party: take(columns, [k for k, one in enumerate(columns["firm"]) if one != firm])
        for party, columns in parts.items()
    }


@pytest.mark.parametrize("release", [OFF, DEFAULT], ids=["off", "default"])
def test_differencing_of_batches(card, tmp_path, release):
    home = tmp_path / "homes"
    shutil.copytree(card, home)
    parts = firms(90, seed=8, prefix="new", coverage=1)
    victim = parts["bank"]["firm"][0]
    give_list(home / "bank", parts["bank"]["firm"])
    total, scores = sum_of_scores(home, parts, release)
    if release is DEFAULT:
        with pytest.raises(RefusedError, match="differs from an earlier one"):
            sum_of_scores(home, without(parts, victim), release)
    else:
        rest, _ = sum_of_scores(home, without(parts, victim), release)
        assert np.isclose(total - rest, scores[victim])
