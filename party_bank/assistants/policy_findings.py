"""The policy assistant on rules: what mining found, in sentences with counts.

Counts are those that a mining job opened, with their noise; nothing here asks a holder for anything.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from party_bank.mining import MinedJob, MinedRule
from veilscore.reports.facts import Fact, Locale, Source, Unit, Wording, Words
from veilscore.reports.text_guard import Piece, TextGuard

_ALL = "all firms"  # whom facts of a job are about
_FIGURES: Mapping[str, tuple[str, str, Unit]] = {
    "firms": ("firms it takes", "覆盖企业", "count"),
    "bads": ("bad firms among them", "其中坏户", "count"),
    "lift": ("lift", "提升度", "points"),
    "held_lift": ("lift among held-out firms", "留出样本提升度", "points"),
    "least_lift": ("least lift there beyond noise", "留出样本提升度下限", "points"),
    "caught": ("share of bad firms caught there", "留出样本坏户捕获率", "percent"),
    "saved": ("money saved there", "留出样本节省金额", "money"),
    "confirmed": ("confirmed by held-out firms", "留出样本确认", "flag"),
}
_SENTENCES: Mapping[Locale, str] = {
    "en": "The bank's side is {{fact:NAME_own}}, the holder's side {{fact:NAME_holder}}; ",
    "zh": "本行条件{{fact:NAME_own}}，数据方条件{{fact:NAME_holder}}；",
}


@dataclass(frozen=True)
class PolicyFindings:
    """What a mining job found.

    rules : the facts of each rule, in the order in which each saves most beyond those before.
    """

    rules: tuple[tuple[Fact, ...], ...]

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Return the facts of all rules."""
        return tuple(fact for facts in self.rules for fact in facts)

    def sentences(self, locale: Locale) -> tuple[tuple[Piece, ...], ...]:
        """Return a sentence for each rule, made by a template and checked like any other."""
        words = _words(len(self.rules))
        guard = TextGuard(_ALL, self.facts, words, locale)
        joint, end = ("; ", ".") if locale == "en" else ("；", "。")
        known, found = {fact.name for fact in self.facts}, []
        for number in range(1, len(self.rules) + 1):
            name = f"rule.r{number}"
            told = joint.join(
                f"{words.label(f'{name}_{key}', locale)}: {{{{fact:{name}_{key}}}}}"
                for key in _FIGURES
                if f"{name}_{key}" in known
            )
            found.append(guard.written(_SENTENCES[locale].replace("NAME", name) + told + end))
        return tuple(found)


def explain_rules(
    mined: MinedJob, rules: Sequence[MinedRule], job: str, *, today: dt.date, owner: str
) -> PolicyFindings:
    """Explain rules that were found in a finished mining job.

    job : its id; owner : the bank, whose facts they are.
    """
    found = []
    for number, rule in enumerate(rules, start=1):
        own = own_side(mined, rule)
        figures = {
            "firms": round(rule.found.firms),
            "bads": round(rule.found.bads),
            "lift": round(rule.found.lift, 2),
            "held_lift": round(rule.held.lift, 2) if np.isfinite(rule.held.lift) else None,
            "least_lift": round(rule.held.least_lift, 2),
            "caught": round(rule.held.share_of_bads, 3),
            "saved": round(rule.held.saved, 2),
            "confirmed": rule.confirmed,
        }
        source = Source(
            kind="receipt", reference=f"job {job}, counts with noise of deviation {rule.found.bads_error:.0f}"
        )
        about = {"firm": _ALL, "as_of": today, "owner": owner, "source": source}
        named = {"own": own[:400], "holder": f"{rule.id} of {rule.n_codes}"[:400]}
        facts = [
            Fact.model_validate({**about, "name": f"rule.r{number}_{key}", "value": value, "unit": "text"})
            for key, value in named.items()
        ]
        facts += [
            Fact.model_validate({**about, "name": f"rule.r{number}_{key}", "value": value, "unit": _FIGURES[key][2]})
            for key, value in figures.items()
            if value is not None  # of a rule that takes no held-out firm nothing is said
        ]
        found.append(tuple(facts))
    return PolicyFindings(tuple(found))


def own_side(mined: MinedJob, rule: MinedRule) -> str:
    """Return the bank's side of a rule in words."""
    return "; ".join(f"{name} {test}" for name, test in mined.table_row(rule).tests.items()) or "every firm"


def _words(n: int) -> Words:
    labels = {
        f"rule.r{number}_{key}": Wording(en=en, zh=zh)
        for number in range(1, n + 1)
        for key, (en, zh, _) in {
            **_FIGURES,
            "own": ("own side", "本行条件", "text"),
            "holder": ("other side", "数据方条件", "text"),
        }.items()
    }
    return Words(labels, {})
