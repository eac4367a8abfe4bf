"""The policy assistant: what mining found, in sentences with counts, and candidate rules ready for two stewards.

Counts are those that a mining job opened, with their noise; nothing here asks a holder for anything. An example is one
of the bank's own firms that meets the bank's side of a rule: who meets the holder's side nobody tells.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from party_bank.mining import MinedJob, MinedRule, Money
from party_bank.policy.tables import Row
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
class RuleFinding:
    """One rule, explained.

    facts : its counts; examples : ids of the bank's own firms that meet its side of it; row : the candidate row.
    knock_out : for a filed decision, where the bank's side is every firm; None else.
    """

    rule: MinedRule
    facts: tuple[Fact, ...]
    examples: tuple[str, ...]
    row: Row
    knock_out: Mapping[str, object] | None


@dataclass(frozen=True)
class PolicyFindings:
    """What a mining job found.

    job : its id; rules : in the order in which each saves most beyond those before.
    """

    job: str
    rules: tuple[RuleFinding, ...]

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Return the facts of all rules."""
        return tuple(fact for one in self.rules for fact in one.facts)

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
    mined: MinedJob, job: str, money: Money, firms: Sequence[str] = (), *, most: int = 10, today: dt.date, owner: str
) -> PolicyFindings:
    """Explain the rules of a finished mining job.

    firms : ids of the bank's rows in the job's order, for examples; none are shown where they are left out.
    """
    rules = mined.rules(money, most=most)
    found = []
    for number, rule in enumerate(rules, start=1):
        row = mined.table_row(rule)
        own = "; ".join(f"{name} {test}" for name, test in row.tests.items()) or "every firm"
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
        found.append(RuleFinding(rule, tuple(facts), _examples(mined, rule, firms), row, rule.knock_out()))
    return PolicyFindings(job, tuple(found))


def _examples(mined: MinedJob, rule: MinedRule, firms: Sequence[str], most: int = 3) -> tuple[str, ...]:
    """Return a few of the bank's own firms that meet its side of a rule."""
    own = {name: list(codes) for name, codes in rule.own.items()}
    leaves = [leaf for node in mined.nodes if node["conditions"] == own for leaf in node["leaves"]]
    rows = np.flatnonzero(np.isin(mined.rows["segment"], leaves))[:most]
    return tuple(firms[row] for row in rows.tolist()) if len(firms) == mined.rows["segment"].size else ()


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
