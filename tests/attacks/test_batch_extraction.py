"""A bank tries to read records by a batch of scores: points are a mixed radix of holders' codes.

Exact scores, which a holder has to agree to, give every record whole. By default a batch tells one of 32 steps, however
the bank chooses points and cut-offs, and two such batches use up the bits of a firm's year.
"""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from consent_issuer import give_list
from local_jobs import firms, job, nodes, take, write

from veilscore.data.codes import CodeMap
from veilscore.data.ingest import read_table
from veilscore.errors import RefusedError
from veilscore.models.filed import load_model
from veilscore.node.local import open_job
from veilscore.protocols import scoring
from veilscore.release import budget
from veilscore.tasks import batch
from veilscore.terms.bands import Bands

N_FIRMS = 120
AGREED = {"exact_for": {"bank": "9999-12-31"}}
DEFAULT = {"exact_for": {}, "release": {}}


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    home = tmp_path_factory.mktemp("card")
    folder = write(home / "data", firms(400, seed=3))
    open_job(job(holdout_fraction=0, max_openings=4), nodes(folder), home).run()
    return home


class Attack:
    """Homes in which the bank's model has points that are a mixed radix of all holders' codes."""

    def __init__(self, card, folder):
        self.homes = folder / "homes"
        shutil.copytree(card, self.homes)
        self.parts = firms(N_FIRMS, seed=9, prefix="new", coverage=1)
        self.firms = self.parts["bank"]["firm"]
        self.data = write(folder / "data", self.parts)
        give_list(self.homes / "bank", self.firms)
        path = self.homes / "bank" / "models" / "card" / "model.json"
        model = load_model(path)
        held = [part for part in model.parts if part.role == "holder"]
        self.n_codes = np.concatenate([part.n_codes for part in held])
        self.radix = np.concatenate(([1], np.cumprod(self.n_codes)[:-1]))
        weights = iter(self.radix.tolist())
        parts, codes = [], []
        for part in model.parts:
            weigh = [next(weights) if part.role == "holder" else 0 for _ in part.columns]
            columns = [
                c.model_copy(update={"points": tuple((np.arange(len(c.points)) * w).tolist())})
                for c, w in zip(part.columns, weigh, strict=True)
            ]
            parts.append(part.model_copy(update={"columns": tuple(columns)}))
            if part.role == "holder":
                codes.append(self.codes_of(part.party))
        self.model = model.model_copy(update={"parts": tuple(parts), "base_points": 0})
        self.model.save(path)
        self.records = [tuple(row) for row in np.hstack(codes).tolist()]
        self.units = np.hstack(codes).astype(np.int64) @ self.radix

    def codes_of(self, party):
        code_map = CodeMap.from_json((self.homes / party / "models" / "card" / "code_map.json").read_text())
        table = read_table(self.data / f"{party}.csv", "firm", columns=tuple(code_map.kinds), normaliser="text")
        place = {firm: row for row, firm in enumerate(table.ids.tolist())}
        return code_map.transform(table).codes[[place[firm] for firm in self.firms]]

    def run(self, policy, **parameters):
        asked = job("score_batch", name="batch", model="card", on_missing="missing_code", **parameters)
        done = open_job(asked, nodes(self.data, holder_policy=policy), self.homes).run()
        with (done.stores["bank"].path / "scores.csv").open() as file:
            return {row["id"]: row for row in csv.DictReader(file)}, done

    def decoded(self, units):
        """Return the records that totals stand for."""
        return [tuple((u // self.radix % self.n_codes).tolist()) for u in units]


def best_guess(seen, records):
    """Share of records that are right if whoever guesses knows how often each record goes with what was seen."""
    right = 0
    for value in set(seen):
        found = [record for one, record in zip(seen, records, strict=True) if one == value]
        right += max(found.count(record) for record in found)
    return right / len(records)


@pytest.fixture
def attack(card, tmp_path):
    return Attack(card, tmp_path)


def test_exact_scores_that_a_holder_agreed_to_give_every_record(attack):
    rows, _ = attack.run(AGREED, output="exact")
    units = np.rint([float(rows[f]["score"]) * attack.model.scaling.units for f in attack.firms]).astype(np.int64)
    assert attack.decoded(units) == attack.records


def test_by_default_a_batch_gives_one_of_32_steps(attack, monkeypatch):
    """The bank chooses the best cut-offs there are: as many records in each step."""
    best = Bands.steps(sorted(set(np.quantile(attack.units, np.arange(1, 32) / 32).astype(int).tolist())))
    monkeypatch.setattr(batch, "steps_of", lambda *_: best)
    rows, run = attack.run(DEFAULT)
    steps = [int(rows[f]["step"]) for f in attack.firms]
    assert steps == best.index(attack.units).tolist()
    assert len(set(steps)) <= 32
    assert np.unique(attack.units).size > 100
    assert best_guess(steps, attack.records) < 0.5
    assert best_guess(attack.units.tolist(), attack.records) == 1
    # nothing else of the firms is in what the bank has
    for path in run.stores["bank"].path.glob("*.npz"):
        for array in run.stores["bank"].load_arrays(path.stem).values():
            assert not np.array_equal(np.ravel(array), attack.units)
    assert not [m for e, m in run.transcripts["bank"].messages if e.kind == "BatchCoordinatorTotal"]


def test_what_a_bank_cannot_ask_for(attack, monkeypatch):
    for parameters, policy, words in (
        ({"output": "exact"}, DEFAULT, "refuses exact scores to bank: ask for steps"),
        ({"score_steps": 33}, DEFAULT, "tells more than 5 bits"),
        ({"score_steps": 9}, {"exact_for": {}, "release": {"bits_per_score": 3}}, "tells more than 3 bits"),
        ({}, {"exact_for": {}, "release": {"output": "band"}}, "bands only; set output: band"),
    ):
        with pytest.raises(RefusedError, match=words):
            attack.run(policy, **parameters)
    attack.run({"exact_for": {}, "release": {"bits_per_score": 6}}, score_steps=64)
    many = Bands((), tuple(range(40)))
    with monkeypatch.context() as patch:
        patch.setattr(batch, "steps_of", lambda *_: many)
        with pytest.raises(RefusedError, match="2 to 32 steps"):
            attack.run(DEFAULT)
    with monkeypatch.context() as patch:  # a job of steps, and a bank that asks for totals in it
        patch.setattr(batch, "bank_score_bands", lambda s, rows, own, parts, model, _bands, inputs: scoring.bank_score(
            s, "coordinator", rows, own, parts, model, inputs
        ))  # fmt: skip
        with pytest.raises(RefusedError, match="2 to 32 steps"):
            attack.run(DEFAULT)


def shifted(attack, shift):
    """The bank's own data change, so that the same points and cut-offs cut elsewhere."""
    parts = attack.parts | {
        "bank": attack.parts["bank"] | {"limit": [x + shift for x in attack.parts["bank"]["limit"]]}
    }
    write(attack.data, parts)


@pytest.mark.parametrize(
    "counted",
    [pytest.param(True, id="default"), pytest.param(False, id="bits not counted", marks=pytest.mark.slow)],
)
def test_a_bank_that_shifts_its_own_inputs_gets_ten_bits_a_year(attack, monkeypatch, counted):
    policy = DEFAULT | {"release": {"repeats_per_model": 9}}
    if not counted:
        monkeypatch.setattr(
            budget.ReleaseBudget, "_bits_used_up", lambda _, release, of, __: np.zeros(of(release).size, bool)
        )
    for shift in (0, 0, 0.5, 0.5, 0):  # a repeat is free
        shifted(attack, shift)
        attack.run(policy)
    shifted(attack, -0.5)
    if counted:
        with pytest.raises(RefusedError, match="more than 10 bits would be told within a year"):
            attack.run(policy)
    else:
        attack.run(policy)


@pytest.mark.slow
def test_a_record_that_changed_is_charged_and_refuses_nothing(attack):
    """The bank's inputs stay, one record at tax changes twice: then the firm counts as unknown there."""
    policy = DEFAULT | {"release": {"repeats_per_model": 9}}
    victim = attack.parts["tax"]["firm"][0]
    withheld = []
    for turnover in (-3.0, 3.0, 0.0, 0.0):
        attack.parts["tax"]["turnover"][0] = turnover
        write(attack.data, attack.parts)
        rows, run = attack.run(policy)
        assert rows[victim]["tax_status"] == "not disclosed"
        withheld.append(run.stores["tax"].load_json("withheld"))
    assert [list(one) for one in withheld] == [[], [], ["release budget used up"], ["release budget used up"]]
    assert [len(one) for one in withheld[2].values()] == [1]


def test_other_cut_offs_to_each_holder_give_uniform_numbers(attack, monkeypatch):
    """A bank that has the lead open 32 steps and another holder count two: the shares of zero do not cancel."""
    best = Bands.steps(sorted(set(np.quantile(attack.units, np.arange(1, 32) / 32).astype(int).tolist())))
    monkeypatch.setattr(batch, "steps_of", lambda *_: best)
    receive = batch.holder_receive

    def told(session, n_samples):
        request = yield from receive(session, n_samples)
        if session.party != session.lead:
            object.__setattr__(request, "limits", (0,))
        return request

    monkeypatch.setattr(batch, "holder_receive", told)
    rows, _ = attack.run(DEFAULT)
    steps = [int(rows[f]["step"]) for f in attack.firms]
    right = np.mean(np.array(steps) == best.index(attack.units))
    assert right < 0.1


def test_a_firm_that_left_the_batch_is_not_cut_out(attack):
    """Batches of one model are equal or differ by many, as before."""
    attack.run(DEFAULT)
    parts = {p: take(c, [k for k, f in enumerate(c["firm"]) if f != attack.firms[0]]) for p, c in attack.parts.items()}
    write(attack.data, parts)
    with pytest.raises(RefusedError, match="differs from an earlier one"):
        attack.run(DEFAULT)
