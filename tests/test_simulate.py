"""Simulated firms: seeded, valid, with the effects they claim."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from veilscore.data.codes import CodeMap
from veilscore.data.ids import check_ids
from veilscore.data.ingest import read_table
from veilscore.data.simulate import PARTIES, _auc, simulate, simulate_to_folder, simulated_columns
from veilscore.errors import ConfigError, StateError


def common_rows(simulation):
    """Row of every firm that all parties know, at each of them."""
    tables = [simulation.parties[party] for party in PARTIES]
    ids = set.intersection(*(set(table.ids.tolist()) for table in tables))
    order = sorted(ids)
    return {
        party: np.argsort(table.ids)[np.searchsorted(np.sort(table.ids), order)]
        for party, table in zip(PARTIES, tables, strict=True)
    }


def test_same_seed_same_data():
    first, second, other = simulate(500, 1), simulate(500, 1), simulate(500, 2)
    for party in PARTIES:
        assert (first.parties[party].ids == second.parties[party].ids).all()
        for name, values in first.parties[party].columns.items():
            np.testing.assert_array_equal(values, second.parties[party].columns[name])
    assert first.truth == second.truth
    assert first.parties["tax"].ids[0] != other.parties["tax"].ids[0]


def test_shape_of_the_data():
    simulation = simulate(20_000, 7)
    sizes = {party: len(table.columns) for party, table in simulation.parties.items()}
    assert sizes == {"bank": 7, "tax": 9, "registry": 6}
    for party, table in simulation.parties.items():
        check_ids(table.ids)
        share = table.n_rows / 20_000
        assert 0.94 < share < 0.98
        assert (table.label is not None) == (party == "bank")
        assert not CodeMap.fit(table).dropped
    assert abs(simulation.truth["bad_rate"] - 0.08) < 0.01
    rows = common_rows(simulation)
    growth = simulation.parties["tax"].columns["turnover_growth"][rows["tax"]]
    balance = np.arcsinh(simulation.parties["bank"].columns["account_balance"][rows["bank"]])
    both = ~(np.isnan(growth) | np.isnan(balance))
    assert np.corrcoef(growth[both], balance[both])[0, 1] > 0.05
    turnover = simulation.parties["tax"].columns["turnover"]
    assert turnover.max() > 50 * np.median(turnover)
    assert 0.002 < simulation.parties["tax"].columns["penalty_flag"].mean() < 0.03


def test_true_effects_are_found_by_regression():
    simulation = simulate(60_000, 3, bad_rate=0.3)
    rows = common_rows(simulation)
    label = simulation.parties["bank"].label[rows["bank"]]
    design = []
    effects = [(party, effect) for party in PARTIES for effect in simulated_columns(party).effects]
    assert simulation.truth["effects"] == [{"party": party, **vars(effect)} for party, effect in effects]
    for party, effect in effects:
        values = simulation.parties[party].columns[effect.column][rows[party]]
        part = effect.log_odds(values) / effect.coefficient
        design.append(np.where(np.isnan(part), np.nan, part))
    design = np.column_stack(design)
    whole = ~np.isnan(design).any(axis=1)
    fitted = LogisticRegression(C=np.inf, max_iter=500).fit(design[whole], label[whole])
    for (_, effect), coefficient in zip(effects, fitted.coef_[0], strict=True):
        tolerance = 0.5 if effect.column in ("penalty_flag", "abnormal_listing") else 0.15
        assert abs(coefficient - effect.coefficient) < tolerance, (effect.column, coefficient)
    auc = _auc(label[whole], design[whole] @ fitted.coef_[0])
    assert abs(auc - simulation.truth["oracle_auc"]) < 0.02
    assert auc > max(simulation.truth["oracle_auc_of_party"].values()) + 0.02


def test_drift_raises_the_bad_rate_over_time():
    bank = simulate(30_000, 4, drift=1.5).parties["bank"]
    late = bank.dates > np.median(bank.dates.astype(int)).astype("datetime64[D]")
    assert bank.label[late].mean() > 1.4 * bank.label[~late].mean()


@pytest.mark.parametrize("fmt", ["csv", "parquet"])
def test_files_read_back_equal(tmp_path, fmt):
    simulation = simulate(1_000, 9, tmp_path / "new" / "folder", columns={"tax": 12}, fmt=fmt)
    assert json.loads((tmp_path / "new" / "folder" / "truth.json").read_text()) == simulation.truth
    for party, table in simulation.parties.items():
        roles = {"label_column": "default", "date_column": "observation_date"} if party == "bank" else {}
        read = read_table(tmp_path / "new" / "folder" / f"{party}.{fmt}", "uscc", **roles)
        assert (read.ids == table.ids).all()
        assert read.kinds == table.kinds
        for name, values in table.columns.items():
            np.testing.assert_array_equal(read.columns[name], values)
        if party == "bank":
            np.testing.assert_array_equal(read.label, table.label)
            np.testing.assert_array_equal(read.dates, table.dates)
    assert len(simulation.parties["tax"].columns) == 12


def test_command_entry_and_refusals(tmp_path):
    truth = simulate_to_folder(tmp_path, 300, 1, "csv", bad_rate=0.2)
    assert truth["n_firms"] == 300
    assert {path.name for path in tmp_path.iterdir()} == {"bank.csv", "tax.csv", "registry.csv", "truth.json"}
    for options in ({"n_firms": 5}, {"bad_rate": 0.0}, {"fmt": "xlsx"}):
        with pytest.raises(ConfigError):
            simulate(**{"n_firms": 300, "seed": 1, **options})
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot write"):
        simulate(300, 1, tmp_path / "file" / "sub")
