"""Export the bank's part of a scorecard as ONNX: an input a column of the bank, one a holder with its columns' codes.

Source: ONNX, operators of opset 18 and LabelEncoder (ai.onnx.ml 4). Every column becomes the number of its bin, the
bin its points in whole units; units are added as integers, so that the score is that of a batch to the last digit.
"""

from __future__ import annotations

import math
from typing import Any

from veilscore.models.model import Calibration, Scaling


class ScorecardGraph:
    """Builds the nodes that turn columns into units, and units into score, log-odds and probability."""

    def __init__(self, helper: Any, types: Any, part: dict[str, Any]) -> None:
        self.helper, self.types, self.part = helper, types, part
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.constants: dict[str, Any] = {}

    def make(self) -> Any:
        """Return the graph; outputs `score`, `log_odds` (of bad, before calibration) and `probability` are (n, 1)."""
        part, types = self.part, self.types
        summands = [
            self._points(column, f"column {number}", self._bin(column, f"column {number}"))
            for number, column in enumerate(part["columns"])
        ]
        summands += [one for holder in part["holders"] if holder["columns"] for one in self._of_holder(holder)]
        base = self._constant("base points", types.INT64, [part["base_points"]])
        units = self._node("Sum" if not summands else "Add", [base, summands[0]] if summands else [base], "units 0")
        for number, summand in enumerate(summands[1:], start=1):
            units = self._node("Add", [units, summand], f"units {number}")
        outputs = self._outputs(units)
        infos = [self.helper.make_tensor_value_info(name, types.DOUBLE, [None, 1]) for name in outputs]
        constants = list(self.constants.values())
        return self.helper.make_graph(self.nodes, part["model"], self.inputs, infos, constants)

    def _outputs(self, units: str) -> tuple[str, ...]:
        scaling, c = Scaling(**self.part["scaling"]), Calibration(**self.part["calibration"])
        number = self._node("Cast", [units], "units", to=self.types.DOUBLE)
        self._node("Div", [number, self._double("units a point", scaling.units)], "score")
        below = self._node("Sub", [self._double("offset", scaling.offset), number], "below")
        self._node("Div", [below, self._double("factor", scaling.factor)], "log_odds")
        sloped = self._node("Mul", ["log_odds", self._double("slope", c.slope)], "sloped")
        moved = self._node("Add", [sloped, self._double("intercept", c.intercept)], "calibrated")
        self._node("Sigmoid", [moved], "probability")
        return "score", "log_odds", "probability"

    def _of_holder(self, holder: dict[str, Any]) -> list[str]:
        columns, name = holder["columns"], f"{holder['holder']} codes"
        self.inputs.append(self.helper.make_tensor_value_info(name, self.types.INT64, [None, len(columns)]))
        found = []
        for number, column in enumerate(columns):
            at = self._constant(f"place {number}", self.types.INT64, [number])
            label = f"{holder['holder']} {number}"
            found.append(self._points(column, label, self._node("Gather", [name, at], f"{label} code", axis=1)))
        return found

    def _points(self, column: dict[str, Any], label: str, codes: str) -> str:
        table = self._constant(f"{label} table", self.types.INT64, column["points"])
        return self._node("Gather", [table, codes], f"{label} points", axis=0)

    def _bin(self, column: dict[str, Any], label: str) -> str:
        """Return the number of the bin of a column of the bank, (n, 1), as `NumberBins.apply` and `CategoryBins` do."""
        name, kind = column["name"], column["kind"]
        types = self.types
        self.inputs.append(
            self.helper.make_tensor_value_info(name, types.DOUBLE if kind == "number" else types.STRING, [None, 1])
        )
        if kind == "category":
            missing = column["missing"]
            levels = {level: number for number, group in enumerate(column["groups"]) for level in group}
            return self._node(
                "LabelEncoder",
                [name],
                f"{label} bin",
                domain="ai.onnx.ml",
                keys_strings=[*levels, ""],
                values_int64s=[*levels.values(), missing],
                default_int64=missing if column["other"] is None else column["other"],
            )
        # a column without cuts has one range, whose edge nothing exceeds
        edges = self._constant(f"{label} edges", types.DOUBLE, column["edges"] or [math.inf])
        above = self._node("Greater", [name, edges], f"{label} above")
        counted = self._node("Cast", [above], f"{label} counted", to=types.INT64)
        found = self._node(
            "ReduceSum", [counted, self._constant("last axis", types.INT64, [1])], f"{label} range", keepdims=1
        )
        for number, value in enumerate(column.get("special", ())):
            same = self._node("Equal", [name, self._double(f"{label} special {number}", value)], f"{label} is {number}")
            place = self._constant(f"{label} place {number}", types.INT64, [len(column["edges"]) + 1 + number])
            found = self._node("Where", [same, place, found], f"{label} or {number}")
        missing = self._constant(f"{label} missing", types.INT64, [column["missing"]])
        return self._node("Where", [self._node("IsNaN", [name], f"{label} nan"), missing, found], f"{label} bin")

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _constant(self, name: str, kind: Any, values: list[Any]) -> str:
        self.constants[name] = self.helper.make_tensor(name, kind, [len(values)], values)
        return name

    def _double(self, name: str, value: float) -> str:
        return self._constant(name, self.types.DOUBLE, [float(value)])
