"""The policy assistant on a screening: what was screened and kept, by holder and by where a variable comes from.

All of it stands in the bank's own result of the job: names, counts and figures that each holder's policy let out. Words
and risk events of texts were made into variables where the texts lie; an example is the name of one that was kept, and
of a risk event the phrases that are published.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from veilscore.features.lexicon import shipped_lexicon
from veilscore.reports.facts import Fact, Locale, Source, Wording, Words
from veilscore.reports.text_guard import Piece, TextGuard

Origin = Literal["term", "risk", "variable"]
ORIGINS: Mapping[Origin, Wording] = {
    "term": Wording(en="words of texts", zh="文本词语"),
    "risk": Wording(en="risk events in texts", zh="文本风险事件"),
    "variable": Wording(en="variables", zh="变量"),
}
_EXAMPLES, _PHRASES, _ALL = 5, 3, "all firms"
_RISK = re.compile(r"\.risk\((\w+)\)")
_LABELS = {
    "screened": Wording(en="screened", zh="筛查"),
    "kept": Wording(en="kept", zh="保留"),
    "examples": Wording(en="such as", zh="例如"),
}


@dataclass(frozen=True)
class ScreenedGroup:
    """One party's columns of one origin: how many, how many kept, why others were not, and examples of those kept."""

    party: str
    origin: Origin
    screened: int
    kept: int
    reasons: Mapping[str, int]
    examples: tuple[str, ...]


@dataclass(frozen=True)
class ScreeningFindings:
    """What a screening found, and its facts, a group after the other."""

    groups: tuple[ScreenedGroup, ...]
    facts: tuple[Fact, ...]

    def sentences(self, locale: Locale) -> tuple[tuple[Piece, ...], ...]:
        """Return a sentence for each group, made by a template and checked like any other."""
        known = {fact.name for fact in self.facts}
        labels = {f"screen.s{n}_{key}": label for n in range(1, len(self.groups) + 1) for key, label in _LABELS.items()}
        labels |= {f"screen.s{n}_party": Wording(en="holder", zh="数据方") for n in range(1, len(self.groups) + 1)}
        guard = TextGuard(_ALL, self.facts, Words(labels, {}), locale)
        colon, joint, end = (": ", "; ", ".") if locale == "en" else ("：", "；", "。")
        found = []
        for number, group in enumerate(self.groups, start=1):
            told = joint.join(
                f"{label.get(locale)} {{{{fact:screen.s{number}_{key}}}}}"
                for key, label in _LABELS.items()
                if f"screen.s{number}_{key}" in known
            )
            head = f"{{{{fact:screen.s{number}_party}}}}, {ORIGINS[group.origin].get(locale)}"
            found.append(guard.written(head + colon + told + end))
        return tuple(found)


def phrases_of(name: str, locale: Locale) -> tuple[str, ...]:
    """Return phrases that a variable of a risk event counts, of the list that is published; none of a text is shown.

    A holder may count more by a list of its own. Empty for other variables, and events that are not on the list.
    """
    found = _RISK.search(name)
    phrases = () if found is None else shipped_lexicon().get(found[1], ())
    chinese = [one for one in phrases if not one.isascii()]
    other = [one for one in phrases if one.isascii()]
    return tuple((chinese if locale == "zh" else other)[:_PHRASES])


def origin_of(name: str) -> Origin:
    """Return where a variable comes from, by its name; of columns without names nothing is known."""
    return "term" if ".term(" in name else "risk" if ".risk(" in name else "variable"


def explain_screening(body: Mapping[str, Any], *, today: dt.date, owner: str) -> ScreeningFindings:
    """Explain the bank's result of a screening (screening.json); owner : the bank, whose facts they are."""
    groups = tuple(_groups(body["columns"]))
    source = Source(kind="receipt", reference=f"job {body['job_id']}"[:200])
    about = {"firm": _ALL, "as_of": today, "owner": owner, "source": source}
    facts = []
    for number, group in enumerate(groups, start=1):
        said: dict[str, tuple[object, str]] = {
            "party": (group.party, "text"),
            "screened": (group.screened, "count"),
            "kept": (group.kept, "count"),
        }
        if group.examples:
            said["examples"] = (", ".join(group.examples)[:400], "text")
        facts += [
            Fact.model_validate({**about, "name": f"screen.s{number}_{key}", "value": value, "unit": unit})
            for key, (value, unit) in said.items()
        ]
    return ScreeningFindings(groups, tuple(facts))


def _groups(columns: Iterable[Mapping[str, Any]]) -> Iterable[ScreenedGroup]:
    by: dict[tuple[str, Origin], list[Mapping[str, Any]]] = {}
    for column in columns:
        by.setdefault((str(column["party"]), origin_of(str(column["name"]))), []).append(column)
    for (party, origin), found in sorted(by.items()):
        kept = sorted((c for c in found if c["kept"]), key=lambda c: -(c["iv"] or 0.0))
        reasons = Counter(str(c["reason"]) for c in found if not c["kept"])
        examples = tuple(str(c["name"]) for c in kept[:_EXAMPLES])
        yield ScreenedGroup(party, origin, len(found), len(kept), dict(reasons.most_common()), examples)
