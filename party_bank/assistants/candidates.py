"""Makes a candidate policy of mined rules: which knock-outs a firm is to be asked, by the bank's side of each rule.

The holder's side stays a sealed knock-out of a decision; the policy only says for whom it is to be asked. It decides
nothing before two stewards have signed for it, like any policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from party_bank.mining import MinedJob, MinedRule
from party_bank.policy.tables import DecisionTable, Row, graph_of
from veilscore.data.column_bins import CategoryBins
from veilscore.errors import ConfigError

ANSWER = "knock_outs"


def candidate_policy(mined: MinedJob, rules: Sequence[MinedRule]) -> bytes:
    """Return the graph of a policy with a row for each rule, which collects the names of knock-outs; "none" ends each.

    Raises ConfigError where no rule has a condition of the bank's own: then every firm is asked, which is no policy.
    """
    rows = [mined.table_row(rule) for rule in rules]
    asked = {name: _schema(mined, name) for row in rows for name in row.tests}
    if not asked:
        raise ConfigError(
            "no rule here has a condition of the bank's own columns: what is left are knock-outs of a decision, for "
            "every firm alike"
        )
    last = Row({}, {"knock_out": "'none'"}, "ends the list, so that every firm has one")
    table = DecisionTable("mined rules", [*rows, last], collect=ANSWER)
    return graph_of(asked, {ANSWER: {"type": "array"}}, table)


def _schema(mined: MinedJob, name: str) -> dict[str, Any]:
    """Return what values a column of the bank may have."""
    bins = next(one for one in mined.code_map.columns if one.name == name).bins
    if isinstance(bins, CategoryBins):
        levels = [level for group in bins.groups for level in group]
        return {"type": ["string", "null"]} if bins.other is not None else {"enum": [*levels, None]}
    return {"type": ["number", "null"]}
