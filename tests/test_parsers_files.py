"""A node's own files, whatever is in them: code maps, fixed bins, models of every kind, bands, node.yaml.

Every place of a valid document is replaced by every odd value, the hash made to fit: each parser gives a value or an
error of the tree, and what it gives can be used.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json

import numpy as np
import pytest
import yaml
from local_jobs import firms
from random_trees import boosted, part, random_tree
from test_model import make_model

from veilscore.data.codes import CodeMap, _hash
from veilscore.data.fixed_bins import FixedBins
from veilscore.data.table import make_table
from veilscore.errors import ConfigError, SchemaError, VeilscoreError
from veilscore.models.boosted import Stacked, StackMember
from veilscore.models.filed import load_model
from veilscore.models.trees import HolderTrees
from veilscore.node.founding import found_federation
from veilscore.terms.bands import KeptBands
from veilscore.terms.federation import load_federation
from veilscore.terms.node_config import load_node_config

ODD = [None, True, -1, 0, 1e300, 10**400, float("nan"), float("inf"), "", "x", "\ud800", [], [[]], ["x"], {}, {"a": 1}]
NESTED = "[" * 20_000
TEXTS = ["", "null", "[]", "{}", '{"model": []}', '{"hash": 1}', "\ud800", NESTED, '{"hash": ' + NESTED, "9" * 5000]


def places(value, path=()):
    """Every path into a JSON value; of a long list the first and the last entry."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} if value else ()):
            yield from places(value[index], (*path, index))


def mutants(value, values=ODD):
    """The value with one place replaced, each place by each odd value and once left out."""
    for path in places(value):
        for odd in values:
            changed = copy.deepcopy(value)
            if not path:
                yield odd
                continue
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = odd
            yield changed
        if path:
            changed = copy.deepcopy(value)
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            del inner[path[-1]]
            yield changed


@pytest.fixture(scope="module")
def table():
    own = firms(300, seed=3)["tax"]
    return make_table(own.pop("firm"), own, normaliser="text")


@pytest.fixture(scope="module")
def code_map(table):
    return CodeMap.fit(table, generator=np.random.default_rng(1))


def test_code_maps(table, code_map):
    body = json.loads(code_map.to_json())
    del body["hash"]
    read = 0
    for changed in mutants(body):
        text = json.dumps({**changed, "hash": _hash(changed)} if isinstance(changed, dict) else changed)
        with contextlib.suppress(SchemaError):
            found = CodeMap.from_json(text)
            read += 1
            assert found.hash == _hash(found._body())
            with contextlib.suppress(VeilscoreError):
                found.transform(table)
    assert read > 10
    for text in TEXTS:
        with pytest.raises(SchemaError):
            CodeMap.from_json(text)


def test_fixed_bins(table):
    body = json.loads(FixedBins.make(table, "2026-01-01").to_json())
    del body["hash"]
    for changed in mutants(body):
        text = json.dumps({**changed, "hash": hash_of(changed)} if isinstance(changed, dict) else changed)
        with contextlib.suppress(SchemaError):
            found = FixedBins.from_json(text)
            with contextlib.suppress(VeilscoreError):
                found.code_map(table, 20)
    for text in TEXTS:
        with pytest.raises(SchemaError):
            FixedBins.from_json(text)


def trees():
    rng = np.random.default_rng(2)
    n_codes = {"bank": np.array([3]), "holder": np.array([2])}
    return [random_tree(rng, "tax", n_codes, n_leaves=3) for _ in range(2)]


def boosted_model():
    return boosted(trees(), [part("bank", "bank", np.array([3])), part("tax", "holder", np.array([2]))])


def stacked_model():
    members = (StackMember(kind="boosting", name="boosting", weight=1.0),)
    fields = {name: getattr(boosted_model(), name) for name in type(boosted_model()).model_fields if name != "format"}
    return Stacked(**fields, members=members, level_two_intercept=0.1, n_boosted=2)


@pytest.mark.parametrize("model", [make_model(), boosted_model(), stacked_model()], ids=lambda model: model.format)
def test_models(tmp_path, model):
    path = model.save(tmp_path / "model.json")
    body = json.loads(path.read_text())
    assert load_model(path) == model
    for changed in mutants(body, [None, 10**400, "\ud800", {"a": 1}]):
        path.write_text(json.dumps(changed), encoding="utf-8")
        with contextlib.suppress(ConfigError):
            assert load_model(path) == model  # a place that means the same
    for text in TEXTS:
        path.write_bytes(text.encode(errors="surrogatepass"))
        with pytest.raises(ConfigError):
            load_model(path)


def test_a_holders_part_of_a_boosted_model():
    whole = HolderTrees(holder="tax", model="boost", map_sha256="11" * 32, trees=tuple(t.shape() for t in trees()))
    for changed in mutants(json.loads(whole.to_json())):
        with contextlib.suppress(ConfigError):
            assert HolderTrees.from_json(json.dumps(changed)).sha256 == whole.sha256
    for text in TEXTS:
        with pytest.raises(ConfigError):
            HolderTrees.from_json(text)


def test_bands_and_configurations_of_nodes(tmp_path):
    kept = KeptBands(bands={"A": 600.0}, decimals=1, pdo=20.0, map_sha256="aa" * 32)
    kept.save(tmp_path)
    for changed in mutants(json.loads((tmp_path / "bands.json").read_text())):
        (tmp_path / "bands.json").write_text(json.dumps(changed))
        with contextlib.suppress(ConfigError):
            KeptBands.load(tmp_path)
    found_federation(tmp_path / "all", {"bank": "bank", "tax": "holder"})
    home = tmp_path / "all" / "tax"
    body = yaml.safe_load((home / "node.yaml").read_text())
    body["datasets"] = {"main": {"path": "d.csv", "id_column": "id"}}
    body["policy"] |= {"purposes": ["credit"], "release": {"control": "on", "min_batch": 50}, "privacy": {"job": 0.5}}
    body["policy"] |= {"exact_for": {"bank": "2027-01-01"}, "valid_from": "2026-01-01"}
    read = 0
    for changed in mutants(body):
        (home / "node.yaml").write_text(json.dumps(changed), encoding="utf-8")  # which is YAML too
        with contextlib.suppress(ConfigError):
            load_node_config(home)
            read += 1
    assert read > 10


def test_federation_files(tmp_path):
    found_federation(tmp_path / "all", {"bank": "bank", "tax": "holder"})
    path = tmp_path / "all" / "tax" / "federation.yaml"
    for changed in mutants(yaml.safe_load(path.read_text())):
        path.write_text(json.dumps(changed), encoding="utf-8")
        with contextlib.suppress(VeilscoreError):
            load_federation(path)


def hash_of(body):
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
