"""Export the bank's part of a model as ONNX; of trees, inputs are the bank's columns and the bits of holders' splits.

Source: ONNX, operators TreeEnsemble (ai.onnx.ml 5) in double precision and LabelEncoder. A category becomes its place
in the order that all splits on its column follow, so every split is "at most"; a missing category is the text "".
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from veilscore.data.codes import CodeMap
from veilscore.errors import ConfigError
from veilscore.models.bank_part import bank_part
from veilscore.models.boosted import Boosted
from veilscore.models.model import ScoreModel
from veilscore.models.onnx_scorecard import ScorecardGraph
from veilscore.models.trees_part import bit_names

_OWN_SCORE = "own score"  # of the bank's own trees in a private model
LEQ = 0  # mode of a node: at most
OPSETS = {"": 18, "ai.onnx.ml": 5}
IR_VERSION = 10


def to_onnx(model: ScoreModel, code_map: CodeMap) -> bytes:
    """Return the serialised ONNX model; its output `log_odds` is (n, 1) double.

    Inputs are `column` (n, 1), double or text, for each column of the bank that moves a score, and of trees
    `HOLDER bits` (n, number of its splits), bool: whether the row goes left at each split that the metadata names in
    order; of a scorecard `HOLDER codes` (n, number of its columns), int64, with outputs `score` and `probability` too.
    Raises ConfigError where onnx is not installed or the code map is not the model's.
    """
    try:
        import onnx  # noqa: PLC0415 - an extra of the installation, and slow to load
    except ImportError:
        raise ConfigError('export to ONNX needs the package onnx: pip install "veilscore[export]"') from None
    part = bank_part(model, code_map)
    if isinstance(model, Boosted):
        bits = {h: names for h, names in bit_names(model).items() if names}
        graph = _Graph(onnx.helper, part, bits).make(onnx.TensorProto)
    else:
        graph = ScorecardGraph(onnx.helper, onnx.TensorProto, part).make()
    made = onnx.helper.make_model(
        graph,
        ir_version=IR_VERSION,
        producer_name="veilscore",
        opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in OPSETS.items()],
    )
    facts = {name: part[name] for name in ("model", "version", "model_sha256", "output")}
    onnx.helper.set_model_props(made, {**facts, "holders": json.dumps(part["holders"])})
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


class _Graph:
    """Holds the inputs, the features made of them, and the trees over features."""

    def __init__(self, helper: Any, part: dict[str, Any], bits: dict[str, tuple[str, ...]]) -> None:
        self.helper, self.part, self.bits = helper, part, bits
        self.columns = {column["name"]: column for column in part["columns"]}
        self.tests: dict[str, list[dict[str, Any]]] = {}
        self.own = [
            tree for tree in part["trees"] if tree["partner"] == part["bank"]
        ]  # whose score other trees ask for
        for tree in part["trees"]:
            self._collect(tree["root"])
        self.feature = {name: place for place, name in enumerate(self.tests)}
        if self.own:
            self.feature[_OWN_SCORE] = len(self.feature)
        for names in bits.values():
            self.feature |= {name: len(self.feature) + place for place, name in enumerate(names)}
        self.orders = {name: self._order(name) for name in self.tests if self.columns[name]["kind"] == "category"}

    def _collect(self, node: dict[str, Any]) -> None:
        if "log_odds" in node:
            return
        if "column" in node:
            self.tests.setdefault(node["column"], []).append(node)
        self._collect(node["left"])
        self._collect(node["right"])

    def _order(self, name: str) -> dict[str | None, float]:
        """Give each level a place such that every split takes the first ones; None stands for other levels."""
        column, tests = self.columns[name], self.tests[name]
        levels = [level for group in column["groups"] for level in group]
        taken: dict[str | None, int] = {level: sum(level in test["levels"] for test in tests) for level in levels}
        taken[None] = sum(test["other"] == "left" for test in tests)
        counts = sorted(set(taken.values()), reverse=True)
        places = {level: float(counts.index(n)) for level, n in taken.items()}
        if column["other"] is None:
            places[None] = math.nan  # without a group of others an unseen level counts as missing
        return places

    def make(self, types: Any) -> Any:
        """Return the graph."""
        helper, nodes, inputs, parts = self.helper, [], [], []
        for number, name in enumerate(self.tests):
            if name in self.orders:
                inputs.append(helper.make_tensor_value_info(name, types.STRING, [None, 1]))
                nodes += self._encode(name, f"place {number}", types)
                parts.append(f"place {number}")
            else:
                inputs.append(helper.make_tensor_value_info(name, types.DOUBLE, [None, 1]))
                parts.append(name)
        if self.own:
            nodes.append(helper.make_node("Concat", [*parts], ["own features"], axis=1))
            nodes.append(self._ensemble(types, self.own, "points", ("own features", _OWN_SCORE)))
            parts.append(_OWN_SCORE)
        for holder, names in self.bits.items():
            inputs.append(helper.make_tensor_value_info(f"{holder} bits", types.BOOL, [None, len(names)]))
            nodes.append(helper.make_node("Cast", [f"{holder} bits"], [f"{holder} numbers"], to=types.DOUBLE))
            parts.append(f"{holder} numbers")
        nodes.append(helper.make_node("Concat", parts, ["features"], axis=1))
        nodes.append(self._ensemble(types, self.part["trees"], "log_odds", ("features", "trees")))
        intercept = helper.make_tensor("intercept", types.DOUBLE, [1], [self.part["intercept"]])
        nodes.append(helper.make_node("Add", ["trees", "intercept"], ["log_odds"]))
        output = helper.make_tensor_value_info("log_odds", types.DOUBLE, [None, 1])
        return helper.make_graph(nodes, self.part["model"], inputs, [output], [intercept])

    def _encode(self, name: str, output: str, types: Any) -> list[Any]:
        places = self.orders[name]
        levels = [level for level in places if level is not None]
        encode = self.helper.make_node(
            "LabelEncoder",
            [name],
            [f"{output} single"],
            domain="ai.onnx.ml",
            keys_strings=[*levels, ""],
            values_floats=[*(places[level] for level in levels), math.nan],
            default_float=places[None],
        )
        return [encode, self.helper.make_node("Cast", [f"{output} single"], [output], to=types.DOUBLE)]

    def _ensemble(self, types: Any, trees: list[dict[str, Any]], value: str, ends: tuple[str, str]) -> Any:
        """Return a sum of trees over features; `value` names what leaves add, `ends` its input and output."""
        table = _Nodes(value)
        roots = [table.add(tree["root"], self) for tree in trees]
        helper = self.helper

        def doubles(name: str, values: list[float]) -> Any:
            return helper.make_tensor(name, types.DOUBLE, [len(values)], values)

        rows = np.array([row[:6] for row in table.rows], dtype=np.int64).T.tolist()
        return helper.make_node(
            "TreeEnsemble",
            [ends[0]],
            [ends[1]],
            domain="ai.onnx.ml",
            n_targets=1,
            aggregate_function=1,
            post_transform=0,
            tree_roots=roots,
            nodes_modes=helper.make_tensor("modes", types.UINT8, [len(table.rows)], [LEQ] * len(table.rows)),
            nodes_splits=doubles("splits", table.splits),
            nodes_featureids=rows[0],
            nodes_truenodeids=rows[1],
            nodes_trueleafs=rows[2],
            nodes_falsenodeids=rows[3],
            nodes_falseleafs=rows[4],
            nodes_missing_value_tracks_true=rows[5],
            leaf_targetids=[0] * len(table.leaves),
            leaf_weights=doubles("leaves", table.leaves),
        )


class _Nodes:
    """Nodes of all trees: feature, true child, whether it is a leaf, false child, whether a leaf, missing goes true."""

    def __init__(self, value: str) -> None:
        self.value = value
        self.rows: list[list[int]] = []
        self.splits: list[float] = []
        self.leaves: list[float] = []

    def add(self, root: dict[str, Any], graph: _Graph) -> int:
        """Add a tree and return its root; a tree of one leaf becomes a node with that leaf on both sides."""
        if "log_odds" in root:
            leaf, _ = self._child(root, graph)
            self.rows.append([0, leaf, 1, leaf, 1, 0])
            self.splits.append(0.0)
            return len(self.rows) - 1
        return self._node(root, graph)

    def _child(self, node: dict[str, Any], graph: _Graph) -> tuple[int, int]:
        if "log_odds" not in node:
            return self._node(node, graph), 0
        self.leaves.append(node[self.value])
        return len(self.leaves) - 1, 1

    def _node(self, node: dict[str, Any], graph: _Graph) -> int:
        place = len(self.rows)
        self.rows.append([])
        name, threshold, missing_true, (true, false) = _test(node, graph)
        self.splits.append(threshold)
        self.rows[place] = [graph.feature[name], *self._child(true, graph), *self._child(false, graph), missing_true]
        return place


def _test(node: dict[str, Any], graph: _Graph) -> tuple[str, float, int, tuple[dict[str, Any], dict[str, Any]]]:
    """Return feature, threshold, whether missing goes to the true side, and the true and false child."""
    left, right = node["left"], node["right"]
    if "bit" in node:
        return node["bit"], 0.5, 0, (right, left)  # at most a half: the bit is not set
    if "own_score_at_most" in node:
        return _OWN_SCORE, float(node["own_score_at_most"]), 0, (left, right)
    name, missing = node["column"], int(node["missing"] == "left")
    if "at_most" in node:
        threshold = math.inf if node["at_most"] is None else node["at_most"]
        return name, threshold, missing, (left, right)
    if "ranges" in node:
        raise ConfigError(f"splits on {name} follow its special values; use the JSON export")
    places = graph.orders[name]
    first = [*node["levels"], *([None] if node["other"] == "left" else [])]
    last = max((places[level] for level in first if not math.isnan(places[level])), default=-1.0)
    if any(place <= last for level, place in places.items() if level not in first):
        raise ConfigError(f"splits on {name} take levels in different orders; use the JSON export")
    return name, last, missing, (left, right)
