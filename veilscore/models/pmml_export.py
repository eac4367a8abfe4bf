"""Export the bank's part of a model as PMML 4.4: a Scorecard of points, or the sum of tree models.

Source: Data Mining Group, PMML 4.4: Scorecard, TreeModel, MiningModel. Fields are the bank's columns by name, each
column of a holder that a scorecard uses ("HOLDER: COLUMN", its code) and each split of a holder that trees use (its
name, 1 where the row goes left). A missing value is one that is not given. Tests of a missing value are false here
(missingValueStrategy "none"), so every node that takes missing values asks for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from veilscore import __version__
from veilscore.data.codes import CodeMap
from veilscore.errors import ConfigError
from veilscore.models.bank_part import bank_part
from veilscore.models.model import Calibration, Scaling, Scorecard, ScoreModel

OWN_SCORE = "own score"  # of the bank's own trees in a private model
_NOT_XML = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # what no XML document may hold
Fields = dict[str, tuple[str, str]]  # name -> optype and type of data


def to_pmml(model: ScoreModel, code_map: CodeMap) -> bytes:
    """Return the bank's part as a PMML document; ConfigError where the code map is not the model's."""
    part = bank_part(model, code_map)
    root = Element("PMML", version="4.4", xmlns="http://www.dmg.org/PMML-4_4")
    header = SubElement(root, "Header", description=part["output"])
    hashes = {f"map_sha256 of {holder['holder']}": holder["map_sha256"] for holder in part["holders"]}
    for name, value in {**{name: part[name] for name in ("version", "model_sha256")}, **hashes}.items():
        SubElement(header, "Extension", extender="veilscore", name=name, value=value)
    SubElement(header, "Application", name="veilscore", version=__version__)
    dictionary = SubElement(root, "DataDictionary")
    fields = (_scorecard if isinstance(model, Scorecard) else _trees)(root, part)
    for name, (optype, kind) in fields.items():
        SubElement(dictionary, "DataField", name=name, optype=optype, dataType=kind)
    indent(root, " ")
    text: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    if _NOT_XML.search(text):
        raise ConfigError(f"a name or level in model {model.name} has a control character; use the JSON export")
    return text


def _schema(parent: Element, names: Sequence[str]) -> None:
    schema = SubElement(parent, "MiningSchema")
    for name in names:
        SubElement(schema, "MiningField", name=name)


def _kinds(columns: Sequence[dict[str, Any]]) -> Fields:
    number, text = ("continuous", "double"), ("categorical", "string")
    return {column["name"]: number if column["kind"] == "number" else text for column in columns}


# --- scorecards ------------------------------------------------------------------------------------------------------


def _scorecard(root: Element, part: dict[str, Any]) -> Fields:
    scaling = Scaling(**part["scaling"])
    fields = _kinds(part["columns"])
    codes = {f"{h['holder']}: {column['name']}": column for h in part["holders"] for column in h["columns"]}
    fields |= dict.fromkeys(codes, ("categorical", "integer"))
    card = SubElement(
        root,
        "Scorecard",
        modelName=part["model"],
        functionName="regression",
        useReasonCodes="false",
        initialScore=repr(part["base_points"] / scaling.units),
    )
    _schema(card, list(fields))
    output = SubElement(card, "Output")
    SubElement(output, "OutputField", name="score", feature="predictedValue", optype="continuous", dataType="double")
    _probability(output, scaling, Calibration(**part["calibration"]))
    characteristics = SubElement(card, "Characteristics")
    for column in part["columns"]:
        characteristic = SubElement(characteristics, "Characteristic", name=column["name"])
        for test, points in _bins(column):
            attribute = SubElement(characteristic, "Attribute", partialScore=repr(points / scaling.units))
            attribute.append(test)
    for name, column in codes.items():
        characteristic = SubElement(characteristics, "Characteristic", name=name)
        for code, points in enumerate(column["points"]):
            attribute = SubElement(characteristic, "Attribute", partialScore=repr(points / scaling.units))
            attribute.append(_simple(name, "equal", code))
    if not len(characteristics):
        raise ConfigError(f"no column moves the score of {part['model']}, so there is nothing to export as PMML")
    return fields


def _probability(output: Element, scaling: Scaling, c: Calibration) -> None:
    """Add log-odds of bad and the calibrated probability, made of the score."""
    per_point = scaling.factor / scaling.units
    steps = {
        "log_odds": ("/", ("-", repr(scaling.offset / scaling.units), "score"), repr(per_point)),
        "probability": (
            "/",
            "1",
            ("+", "1", ("exp", ("-", "0", ("+", repr(c.intercept), ("*", repr(c.slope), "log_odds"))))),
        ),
    }
    for name, formula in steps.items():
        field = SubElement(
            output, "OutputField", name=name, feature="transformedValue", optype="continuous", dataType="double"
        )
        _formula(field, formula)


def _formula(parent: Element, formula: Any) -> None:
    if isinstance(formula, tuple):
        applied = SubElement(parent, "Apply", function=formula[0])
        for argument in formula[1:]:
            _formula(applied, argument)
    elif formula in {"score", "log_odds"}:
        SubElement(parent, "FieldRef", field=formula)
    else:
        SubElement(parent, "Constant", dataType="double").text = formula


def _bins(column: dict[str, Any]) -> list[tuple[Element, int]]:
    """Return a test and the units of each bin of a column; the first test that holds counts."""
    name, points = column["name"], column["points"]
    found = [(_simple(name, "isMissing"), points[column["missing"]])]
    if column["kind"] == "category":
        found += [(_set(name, group), points[b]) for b, group in enumerate(column["groups"]) if group]
        rest = column["missing"] if column["other"] is None else column["other"]
        return [*found, (Element("True"), points[rest])]
    ends, special = (None, *column["edges"], None), column.get("special", ())
    found += [(_simple(name, "equal", value), points[len(ends) - 1 + place]) for place, value in enumerate(special)]
    return found + [(_range(name, *ends_of), points[b]) for b, ends_of in enumerate(pairwise(ends))]


# --- trees -----------------------------------------------------------------------------------------------------------


def _trees(root: Element, part: dict[str, Any]) -> Fields:
    fields = _kinds(part["columns"])
    bits = [name for holder in part["holders"] for name in holder["bits"]]
    fields |= dict.fromkeys(bits, ("categorical", "integer"))
    columns = {column["name"]: column for column in part["columns"]}
    own = [tree for tree in part["trees"] if tree["partner"] == part["bank"]]
    outer = SubElement(root, "MiningModel", modelName=part["model"], functionName="regression")
    _schema(outer, list(fields))
    chain = SubElement(outer, "Segmentation", multipleModelMethod="modelChain")
    if own:
        _sum(chain, own, "points", (OWN_SCORE, 0.0), (list(_kinds(part["columns"])), columns))
    names = [*fields, *([OWN_SCORE] if own else [])]
    _sum(chain, part["trees"], "log_odds", ("log_odds", part["intercept"]), (names, columns))
    return fields


def _sum(
    chain: Element,
    trees: list[dict[str, Any]],
    value: str,
    result: tuple[str, float],
    given: tuple[list[str], dict[str, Any]],
) -> None:
    """Add a segment that sums trees and a constant: result names both, given the fields and the bank's columns."""
    segment = SubElement(chain, "Segment")
    SubElement(segment, "True")
    summed = SubElement(segment, "MiningModel", functionName="regression")
    _schema(summed, given[0])
    output = SubElement(summed, "Output")
    SubElement(output, "OutputField", name=result[0], feature="predictedValue", optype="continuous", dataType="double")
    segments = SubElement(summed, "Segmentation", multipleModelMethod="sum")
    for root in ({value: result[1]}, *(tree["root"] for tree in trees)):
        one = SubElement(segments, "Segment")
        SubElement(one, "True")
        tree = SubElement(one, "TreeModel", functionName="regression", splitCharacteristic="multiSplit")
        _schema(tree, given[0])
        _grow(tree, Element("True"), root, value, given[1])


def _grow(parent: Element, test: Element, node: dict[str, Any], value: str, columns: dict[str, Any]) -> None:
    if "log_odds" in node or value in node:
        SubElement(parent, "Node", score=repr(float(node[value]))).append(test)
        return
    inner = SubElement(parent, "Node")
    inner.append(test)
    _grow(inner, _left(node, columns), node["left"], value, columns)
    _grow(inner, Element("True"), node["right"], value, columns)


def _left(node: dict[str, Any], columns: dict[str, Any]) -> Element:
    """Return the test by which a row goes left at a split."""
    if "bit" in node:
        return _simple(node["bit"], "equal", 1)
    if "own_score_at_most" in node:
        return _simple(OWN_SCORE, "lessOrEqual", node["own_score_at_most"])
    name, tests = node["column"], list[Element]()
    if "at_most" in node:
        tests.append(_range(name, None, node["at_most"]))
    elif "ranges" in node:
        ranges = [_range(name, above, most) for above, most in node["ranges"]]
        special = columns[name]["special"]
        if ranges:
            tests.append(_all([*(_simple(name, "notEqual", value) for value in special), _any(ranges)]))
        tests += [_simple(name, "equal", value) for value in node["special"]]
    else:
        known = [level for group in columns[name]["groups"] for level in group]
        if node["levels"]:
            tests.append(_set(name, node["levels"]))
        if node["other"] == "left":
            tests.append(_set(name, known, inside=False) if known else _simple(name, "isNotMissing"))
    if node["missing"] == "left":
        tests.append(_simple(name, "isMissing"))
    return _any(tests)


# --- tests of a value ------------------------------------------------------------------------------------------------


def _simple(name: str, operator: str, value: float | None = None) -> Element:
    stated: dict[str, str] = {} if value is None else {"value": repr(value)}
    return Element("SimplePredicate", {"field": name, "operator": operator, **stated})


def _range(name: str, above: float | None, most: float | None) -> Element:
    """Return the test of a value in (above, most]; None: no end."""
    tests = [
        _simple(name, operator, end)
        for operator, end in (("greaterThan", above), ("lessOrEqual", most))
        if end is not None
    ]
    return _all(tests) if tests else _simple(name, "isNotMissing")


def _set(name: str, levels: Sequence[str], *, inside: bool = True) -> Element:
    test = Element("SimpleSetPredicate", field=name, booleanOperator="isIn" if inside else "isNotIn")
    quoted = " ".join('"' + level.replace('"', '\\"') + '"' for level in levels)
    SubElement(test, "Array", n=str(len(levels)), type="string").text = quoted
    return test


def _all(tests: list[Element]) -> Element:
    return _compound("and", tests)


def _any(tests: list[Element]) -> Element:
    return _compound("or", tests) if tests else Element("False")


def _compound(operator: str, tests: list[Element]) -> Element:
    if len(tests) == 1:
        return tests[0]
    test = Element("CompoundPredicate", booleanOperator=operator)
    test.extend(tests)
    return test
