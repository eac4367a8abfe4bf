"""What the check of a decision table says is what the engine does at every point of a grid through all its limits."""

from __future__ import annotations

import itertools
import json
from decimal import Decimal

import pytest
import zen
from hypothesis import given, settings
from hypothesis import strategies as st

from party_bank.policy.check import check
from party_bank.policy.coverage import Boxes
from party_bank.policy.domain import ANY, Domain, Range, fields_of, json_of, value_of
from party_bank.policy.graph import parse_graph
from party_bank.policy.tables import DecisionTable, Row, graph_of
from party_bank.policy.unary import NotAnalysed, read_literal, read_test

NUMBERS = st.integers(0, 4).map(str)
TEXTS = st.sampled_from(["'a'", "'b'", '"c"'])
LITERALS = st.one_of(NUMBERS, TEXTS, st.sampled_from(["true", "false", "null", "-1", "2.5", "1e0"]))
ORDERS = st.sampled_from(["<", "<=", ">", ">="])
INTERVALS = st.builds(
    lambda a, x, y, b: f"{a}{x}..{y}{b}", st.sampled_from("[("), NUMBERS, NUMBERS, st.sampled_from("])")
)
LISTS = st.lists(LITERALS, max_size=3).map(lambda values: f"[{', '.join(values)}]")
ATOMS = st.one_of(
    LITERALS,
    st.builds("{} {}".format, ORDERS, NUMBERS),
    st.builds("{} {}".format, st.sampled_from(["==", "!="]), LITERALS),
    INTERVALS,
    st.builds("{} {}".format, st.sampled_from(["in", "not in"]), st.one_of(INTERVALS, LISTS)),
)
IMPLICIT = st.lists(st.tuples(ATOMS, st.sampled_from([" and ", " or ", ", "])), min_size=1, max_size=3).map(
    lambda parts: "".join(itertools.chain(*parts[:-1], parts[-1][:1]))
)
EXPLICIT_ATOMS = st.one_of(
    st.builds("$ {} {}".format, ORDERS, NUMBERS),
    st.builds("$ {} {}".format, st.sampled_from(["==", "!="]), LITERALS),
    st.builds("$ {} {}".format, st.sampled_from(["in", "not in"]), st.one_of(INTERVALS, LISTS)),
    st.builds("{} {} $".format, NUMBERS, ORDERS),
    st.builds("not ($ {} {})".format, ORDERS, NUMBERS),
)
EXPLICIT = st.lists(st.tuples(EXPLICIT_ATOMS, st.sampled_from([" and ", " or "])), min_size=1, max_size=3).map(
    lambda parts: "".join(itertools.chain(*parts[:-1], parts[-1][:1]))
)
CELLS = st.one_of(st.just(""), IMPLICIT, EXPLICIT)
GRID = [None, True, False, "a", "b", "c", "z", [], *(k / 2 for k in range(-3, 11))]


def engine_says(cell, value):
    """True, False, or None for an error."""
    try:
        return zen.evaluate_unary_expression(cell, {"$": value})
    except RuntimeError:
        return None


@settings(max_examples=200, deadline=None)
@given(cell=st.one_of(IMPLICIT, EXPLICIT))
def test_a_cell_means_what_the_engine_makes_of_it(cell):
    try:
        zen.compile_unary_expression(cell)
    except RuntimeError:
        return  # the check says that it does not parse
    try:
        test = read_test(cell)
    except NotAnalysed:
        pytest.fail(f"{cell!r} is within the grammar that is analysed")
    for value in GRID:
        assert test.at(value_of(value)) is engine_says(cell, value), (cell, value)


@pytest.mark.parametrize(
    "cell",
    ["len($) > 3", "startsWith($, 'a')", "> other", "> d('2024-01-01')", "2 + 3", "$ > 5 ? true : false", "TRUE",
     "not 5", "]1..3[", "> 'a'", "'it\\'s'", "$", "`a`", "> 1_000", "$.x > 3", "(> 5"],
)  # fmt: skip
def test_what_lies_beyond_the_grammar_is_named_and_never_guessed(cell):
    with pytest.raises(NotAnalysed, match=r".+"):
        read_test(cell)


@pytest.mark.parametrize("cell", ["a", "1 + 1", "max(1, 2)", "[1]", "-'a'", ""])
def test_an_output_that_is_an_expression_is_no_literal(cell):
    with pytest.raises(NotAnalysed):
        read_literal(cell)


SCHEMAS = st.sampled_from(
    [
        {"type": "number", "minimum": 0, "maximum": 4},
        {"type": "number", "exclusiveMinimum": 0},
        {"type": ["integer", "null"], "minimum": -1, "maximum": 5},
        {"enum": ["a", "b", "c"]},
        {"type": "boolean"},
        {"enum": [1, 2.5, None, "a"]},
        {"type": ["string", "null"]},
        {"type": "string", "pattern": "^a$"},  # a keyword that is not known: it lets through more than there is
        {},
    ]
)


def allowed(schema):
    known = {key: value for key, value in schema.items() if key != "pattern"}
    domain = fields_of({"properties": {"x": known}, "required": ["x"]})["x"]
    return [value for value in GRID if domain.holds(value_of(value))]


@settings(max_examples=40, deadline=None)
@given(schemas=st.lists(SCHEMAS, min_size=1, max_size=2), data=st.data())
def test_gaps_overlaps_and_rows_in_vain_are_those_of_the_engine(schemas, data):
    fields = ["x", "y"][: len(schemas)]
    drawn = data.draw(st.lists(st.tuples(*(CELLS for _ in fields)), min_size=1, max_size=5))
    cells = [row for row in drawn if all(engine_reads(cell) for cell in row)]
    rows = [Row(dict(zip(fields, row, strict=True)), {"row": str(k)}) for k, row in enumerate(cells)]
    if not rows:
        return
    asked = dict(zip(fields, schemas, strict=True))
    content = json.loads(graph_of(asked, {"row": {"type": "number"}}, DecisionTable("t", rows)))
    found = check(parse_graph(json.dumps(content).encode(), "t"))
    content["nodes"][0]["content"] = content["nodes"][-1]["content"] = {}
    content["nodes"][1]["content"] |= {"hitPolicy": "collect", "outputPath": "hits"}
    oracle = zen.ZenEngine().create_decision(json.dumps(content))
    points = [dict(zip(fields, point, strict=True)) for point in itertools.product(*map(allowed, schemas))]
    hits = [[hit["row"] for hit in oracle.evaluate(point)["result"]["hits"]] for point in points]

    gaps = [one for one in found if one.kind == "gap"]
    assert bool(gaps) == any(not hit for hit in hits)
    for one in gaps:
        case = one.sentence.partition("misses a case, ")[2].partition(": add")[0].replace("which is every firm", "")
        parts = [part.split(" ", 1) for part in case.split(", ") if part]
        assert oracle.evaluate({name: json.loads(value) for name, value in parts})["result"]["hits"] == []
    fired = {hit[0] for hit in hits if hit}
    in_vain = {int(one.sentence.split("row ")[1].split()[0]) - 1 for one in found if one.kind == "unreachable"}
    assert in_vain == set(range(len(rows))) - fired
    pairs = {pair for hit in hits for pair in itertools.combinations(hit, 2)}
    with_tests = {k for k, row in enumerate(cells) if any(cell.strip() for cell in row)}
    told = {tuple(int(k) - 1 for k in one.sentence.split("rows ")[1].split(" both")[0].split(" and "))
            for one in found if one.kind == "overlap"}  # fmt: skip
    assert told == {(a, b) for a, b in pairs if {a, b} <= with_tests}


def engine_reads(cell):
    try:
        return not cell.strip() or bool(zen.compile_unary_expression(cell))
    except RuntimeError:
        return False


def test_a_region_has_a_value_on_each_side_of_every_limit():
    whole = Range(Decimal(0), Decimal(3), whole=True)
    assert whole.representatives([Decimal("1.5")]) == [0, 1, 2, 3]
    half = Range(Decimal(0), None, low_open=True)
    assert half.representatives([Decimal(2)]) == [1, 2, 3]
    assert [json_of(v) for v in Domain((None, "a"), texts=True).representatives(["b"])] == [
        None,
        "a",
        "b",
        "another text",
    ]
    assert all(ANY.holds(value) for value in ((), None, "x", Decimal(3)))


def test_wide_tables_are_searched_by_rows_and_not_by_combinations():
    """Ten fields of ten regions each have 10^10 combinations."""
    rows = [[(f"f{j}", read_test(f"[{k}..{k + 1})"))] for j in range(10) for k in range(0, 9, 2)]
    domains = {f"f{j}": Domain(numbers=(Range(Decimal(0), Decimal(10)),)) for j in range(10)}
    boxes = Boxes.of(domains, [*rows, []])
    assert boxes.gaps(range(len(rows) + 1)) == []
    (gap, *_) = boxes.gaps(range(len(rows)))
    assert all(not test.at(gap[field]) for row in rows for field, test in row)
