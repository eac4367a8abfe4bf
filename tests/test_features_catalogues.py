"""docs/features.md lists what the shipped catalogues make; the table is made here and compared."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from veilscore.features.catalogue import find_catalogue, shipped_catalogues
from veilscore.features.expansion import expand

PAGE = Path(__file__).parents[1] / "docs" / "features.md"
HEAD = "| table | of | aggregates | filters | days back | variables |\n| --- | --- | --- | --- | --- | --- |\n"


def tables_of():
    """Markdown: a row for each table, column and set of aggregates."""
    parts = []
    for name in sorted(shipped_catalogues()):
        variables = expand(find_catalogue(name))
        parts.append(f"\n### {name}: {len(variables):,} variables\n{HEAD}")
        for (table, column), alike in _grouped(variables).items():
            aggregates = dict.fromkeys(v.aggregate + (f"({v.party})" if v.party else "") for v in alike)
            filters = dict.fromkeys(key for v in alike for key, _ in v.where)
            days = sorted({v.days or 0 for v in alike if not v.operands})
            shown = ", ".join(["all" if not one else str(one) for one in days])
            cells = (table, column, ", ".join(aggregates), ", ".join(filters), shown, str(len(alike)))
            parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


def _grouped(variables):
    found = defaultdict(list)
    for one in variables:
        ratio = one.name.rpartition(".")[0] or one.name if one.operands else ""
        found[one.table or "derived", ratio or one.column or "events"].append(one)
    return found


def test_the_page_lists_what_the_shipped_catalogues_make():
    text = PAGE.read_text(encoding="utf-8")
    assert text.split("## What the shipped catalogues make\n")[1] == tables_of()
    assert all(f"\n### {name}: " in text for name in ("bank", "bureau", "court", "registry", "tax"))
