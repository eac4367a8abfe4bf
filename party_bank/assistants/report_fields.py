"""The fields of a credit report, the facts that fill them, and the rules that propose facts for a person's fields."""

from __future__ import annotations

from functools import cache, cached_property
from importlib.resources import files
from typing import Self

from pydantic import Field, model_validator

from veilscore.reports.facts import Fact, FactName, Span, Wording, Words
from veilscore.reports.section_fields import section_fields
from veilscore.terms.settings import Strict, parse, parse_yaml

FILE = "report_fields.yaml"
STEPS = "next_steps"  # what rules propose after a loan, which is no field of the report


class ReportField(Wording):
    """A field: its title in both languages, its facts, and what nobody here can tell of it."""

    key: str = Field(pattern=r"^[a-z_]{1,40}$")
    facts: tuple[FactName, ...] = ()
    lacks: tuple[str, ...] = ()
    person: bool = False


class ReportSection(Strict):
    """A section of the report with its fields."""

    title: Wording
    fields: tuple[ReportField, ...]


class ProposalRule(Wording):
    """Proposes a fact for a person's field where it is so; its wording, perhaps empty, stands before the facts."""

    field: str
    fact: FactName
    is_: bool | None = Field(default=None, alias="is")
    among: tuple[str, ...] = ()
    at_least: float | None = None
    below: float | None = None
    with_: tuple[FactName, ...] = Field(default=(), alias="with")
    en: str = ""
    zh: str = ""

    def holds(self, fact: Fact) -> bool:
        """Return whether a fact of its name is so."""
        value = fact.value
        if self.is_ is not None:
            return value is self.is_
        if self.among:
            return value in self.among
        low, high = (value.low, value.high) if isinstance(value, Span) else (value, value)
        if self.at_least is not None:
            return isinstance(low, int | float) and low >= self.at_least
        if isinstance(value, Span):  # a bin ends below its upper end
            return value.high is not None and self.below is not None and value.high <= self.below
        return self.below is not None and isinstance(high, int | float) and high < self.below


class ReportFields(Strict):
    """All sections, what the bank's own facts and levels are called, and the rules."""

    sections: tuple[ReportSection, ...]
    own: dict[FactName, Wording]
    words: dict[str, Wording]
    proposals: tuple[ProposalRule, ...]

    @model_validator(mode="after")
    def _known(self) -> Self:
        known = {*self.own, *section_fields().fields}
        named = [name for field in self.fields for name in field.facts]
        named += [name for rule in self.proposals for name in (rule.fact, *rule.with_)]
        if strange := set(named) - known:
            raise ValueError(f"nobody tells {', '.join(sorted(strange))}")
        if (
            strange := {rule.field for rule in self.proposals}
            - {field.key for field in self.fields if field.person}
            - {STEPS}
        ):
            raise ValueError(f"no person's field is called {', '.join(sorted(strange))}")
        return self

    @property
    def fields(self) -> tuple[ReportField, ...]:
        """Return all fields in order."""
        return tuple(field for section in self.sections for field in section.fields)

    @cached_property
    def spoken(self) -> Words:
        """Return what facts and levels are called, the holders' among them."""
        return section_fields().spoken | Words(self.own, self.words)


@cache
def report_fields() -> ReportFields:
    """Return the fields that are shipped."""
    text = (files("party_bank.assistants") / FILE).read_text(encoding="utf-8")
    return parse(ReportFields, parse_yaml(text, FILE), FILE)
