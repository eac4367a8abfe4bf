"""A decision says which step of a ladder a firm reaches: the least over measures, nothing where a knock-out holds.

A bank types it as YAML, every holder accepts it by hash as part of a job (`task: file_decision`), and it is kept with
versions as models are. Steps are numbered from 1; 0 stands for none. In a watch they are levels of an alarm, the least
first, and a firm reaches a level where a total is *below* its cut-off.

Only a number of reached cut-offs is computed on shares, its `index`: the least over the measures, from 0 to the number
of steps. A step of a decision is its index; a level of a watch is what is missing to the highest index, so that a level
that only rises is an index that only falls, and one circuit serves both.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from veilscore.errors import ConfigError
from veilscore.terms.parameters import NO_BAND, ColumnName, Name, Parameters, refuse_strangers
from veilscore.terms.settings import Strict, parse, parse_yaml

Purpose = Literal["proactive", "application", "renewal", "watch", "report"]
NONE = "none"  # the name of step 0
MOST_STEPS = 63  # 31 are five bits with none, which a holder's policy allows by default (release.bits_per_score)
MOST_MEASURES, MOST_KNOCK_OUTS = 8, 32
LARGEST = 1e12  # of a cut-off or a step; what a model's ring holds is smaller and checked when a decision is filed
MOST_UNITS = (1 << 23) - 1  # of a total, either way: shares of points are integers modulo 2^24
WATCH_MONTHS = 12
_ROUNDING = 1e-6  # of a unit, for products of decimal fractions
_EXPONENT = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]{1,3}")  # a number that YAML 1.1 takes for a word: 1e6
_RESERVED = frozenset({*NO_BAND, "knock_out", "knock_outs", "bound", "step", "level"})


def bits_of(outcomes: int, *, watch: bool = False) -> float:
    """Return what one of so many outcomes tells of a firm, in bits: of a watch, all outcomes of a contract year.

    Levels of a watch only rise, so a year of L levels has C(12 + L, L) outcomes, whatever the bank chooses.
    """
    return math.log2(math.comb(WATCH_MONTHS + outcomes - 1, WATCH_MONTHS) if watch else outcomes)


def _number_or_word(value: Any) -> Any:
    """Refuse what YAML makes of yes, no, on and off, and write whole numbers in one way."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        written = json.dumps(value) if isinstance(value, bool) else type(value).__name__
        raise ValueError(  # noqa: TRY004 - pydantic wants ValueError
            f"YAML reads this step as {written}; quote words, for example 'yes'"
        )
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("the name of a step holds a character that cannot be printed")
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(value: Any) -> Any:
    """Refuse what is no number that a cut-off can be."""
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("not a number")  # noqa: TRY004 - pydantic wants ValueError
    if not abs(value) <= LARGEST:  # NaN compares with nothing
        raise ValueError(f"a number of at most {LARGEST:.0e} either way is needed")
    return float(value)


StepName = Annotated[int | float | str, BeforeValidator(_number_or_word)]
Finite = Annotated[float, BeforeValidator(_number)]


class Measure(Strict):
    """One measure of a decision: totals of a filed model, or a column of the bank's own data set."""

    model: Name | None = Field(default=None, description="a filed model whose totals are held against the cut-offs")
    column: ColumnName | None = Field(
        default=None, description="instead of a model, a column of the bank's: its own bound of a firm, seen by nobody"
    )
    cutoffs: tuple[Finite, ...] = Field(
        default=(),
        description="least total for each step, in the model's points or money, ascending; in a watch, below what each "
        "level begins, descending; of a column, none: the steps themselves",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.model is None) == (self.column is None):
            raise ValueError("a measure is of a model or of a column of the bank's: name one of the two")
        if self.model is not None and not self.cutoffs:
            raise ValueError(f"the measure of model {self.model} has no cut-offs: give the least total for each step")
        return self


class KnockOut(Strict):
    """A condition on a column that takes a firm out of a decision, whatever it reaches; a missing value never does."""

    model_config = ConfigDict(serialize_by_alias=True)

    party: Name = Field(description="whose column it is: a holder or the bank")
    column: ColumnName = Field(description="name of the column; of a holder, one that it publishes (publish_bins)")
    is_: tuple[str, ...] = Field(default=(), alias="is", description="levels of a category column that knock out")
    above: Finite | None = Field(default=None, description="values above this knock out; a published edge of a holder")
    up_to: Finite | None = Field(default=None, description="this value and lower ones knock out; a published edge")

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        said = [bool(self.is_), self.above is not None, self.up_to is not None]
        if sum(said) != 1:
            raise ValueError(f"the knock-out on {self.party}.{self.column[:60]} needs one of is, above and up_to")
        if len(set(self.is_)) < len(self.is_):
            raise ValueError(f"the knock-out on {self.party}.{self.column[:60]} names a level twice")
        return self

    def holds(self, value: float | str | None) -> bool:
        """Return whether a value in the clear knocks out; for the bank's own columns and for oracles."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return False
        if self.is_:
            return value in self.is_
        if isinstance(value, str):
            return False
        return value > self.above if self.above is not None else value <= (self.up_to or 0.0)


class DecisionModel(Strict):
    """A decision as its bank types it."""

    name: Name = Field(description="name of the decision: that of the job that files it")
    purpose: Purpose = Field(description="what it is for; consents name the same, holders' policies compare it")
    steps: tuple[StepName, ...] = Field(
        min_length=1, description="names of steps 1, 2, ...: amounts of money, ascending, or words; step 0 is none"
    )
    measures: dict[Name, Measure] = Field(
        default_factory=dict, description="name: what is measured; a firm's step is the smallest over all measures"
    )
    knock_outs: tuple[KnockOut, ...] = Field(
        default=(), description="conditions that give none whatever the measures; which one held is told to nobody"
    )
    tell_measure: bool = Field(
        default=False, description="tell the bank also which measure decided, where holders' policies let it"
    )
    watch: bool = Field(
        default=False, description="steps are levels of a monthly alarm that only rise, charged once a contract year"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_steps()
        self._check_measures()
        if self.watch != (self.purpose == "watch"):
            raise ValueError("purpose: watch and watch: true go together; set both or neither")
        if len(self.knock_outs) > MOST_KNOCK_OUTS:
            raise ValueError(f"{len(self.knock_outs)} knock-outs are too many: at most {MOST_KNOCK_OUTS}")
        _refuse_repeated("knock_outs", (f"{k.party}.{k.column[:60]}" for k in self.knock_outs))
        if not self.measures and (not self.knock_outs or len(self.steps) > 1):
            raise ValueError("name a measure; knock-outs alone tell yes or no, which is one step")
        if self.tell_measure and len(self.models) + bool(self.columns) < 2:
            raise ValueError("tell_measure tells nothing where there is one measure; leave it out")
        if self.tell_measure and self.watch:
            raise ValueError("tell_measure: a watch tells levels alone; leave it out")
        return self

    def _check_steps(self) -> None:
        steps = self.steps
        if len(steps) > MOST_STEPS:
            raise ValueError(
                f"steps: {len(steps)} are too many: at most 31, or {MOST_STEPS} by policy (bits_per_score)"
            )
        _refuse_repeated("steps", map(str, steps))
        words = [step for step in steps if isinstance(step, str)]
        if words and len(words) < len(steps):
            raise ValueError("steps: are words or numbers, not both; quote numbers that are names")
        for word in words:
            if not word.strip() or len(word) > 60 or word.casefold() in _RESERVED:
                raise ValueError(f"steps: {word[:60]!r} is no name for a step; the empty one and {NONE} are reserved")
        for before, after in pairwise(self.amounts):
            if after <= before:
                raise ValueError(f"steps: out of order: {after:g} comes after {before:g}; write them ascending")
        for amount in self.amounts:
            if not abs(amount) <= LARGEST:
                raise ValueError(f"steps: an amount is at most {LARGEST:.0e} either way")

    def _check_measures(self) -> None:
        if len(self.measures) > MOST_MEASURES:
            raise ValueError(f"{len(self.measures)} measures are too many: at most {MOST_MEASURES}")
        for name, measure in self.measures.items():
            if name in _RESERVED:
                raise ValueError(f"measures: {name!r} is reserved; choose another name")
            if not measure.cutoffs and not self.amounts:
                raise ValueError(f"measures.{name}: needs cut-offs, because the steps are words")
            if not measure.cutoffs and self.watch:
                raise ValueError(f"measures.{name}: needs cut-offs, because levels of a watch are no amounts")
            if measure.cutoffs and len(measure.cutoffs) != len(self.steps):
                raise ValueError(f"measures.{name}: {len(measure.cutoffs)} cut-offs for {len(self.steps)} steps")
            direction = -1 if self.watch else 1
            for before, after in pairwise(measure.cutoffs):
                if direction * (after - before) <= 0:
                    word = "descending, as levels of a watch rise" if self.watch else "ascending"
                    raise ValueError(f"measures.{name}: cut-offs are not {word}: {after:g} comes after {before:g}")

    # --- what it is made of --------------------------------------------------------------------------------------

    @property
    def amounts(self) -> tuple[float, ...]:
        """Return the steps as numbers; empty where they are words."""
        return tuple(float(step) for step in self.steps if not isinstance(step, str))

    @property
    def models(self) -> dict[str, str]:
        """Return the model of each measure that has one, by name of the measure, in the order of these names.

        The order of a text would be lost: a job travels in its canonical form, whose keys are sorted.
        """
        return {name: measure.model for name, measure in sorted(self.measures.items()) if measure.model is not None}

    @property
    def columns(self) -> dict[str, str]:
        """Return the bank's column of each measure that has one."""
        return {name: measure.column for name, measure in sorted(self.measures.items()) if measure.column is not None}

    @property
    def parties(self) -> tuple[str, ...]:
        """Return the parties that knock-outs name."""
        return tuple(dict.fromkeys(knock_out.party for knock_out in self.knock_outs))

    def knock_outs_of(self, party: str) -> tuple[KnockOut, ...]:
        """Return the knock-outs on a party's columns."""
        return tuple(knock_out for knock_out in self.knock_outs if knock_out.party == party)

    def cutoffs_of(self, measure: str) -> tuple[float, ...]:
        """Return a measure's cut-offs ascending, whatever their direction: as many as there are steps."""
        return tuple(sorted(self.measures[measure].cutoffs)) or self.amounts

    def limits(self, measure: str, units: float) -> tuple[int, ...]:
        """Return a measure's cut-offs ascending as the least whole units that reach them; `units` make one point.

        Raises ConfigError where one is beyond the ring of totals, or two are the same unit.
        """
        found = tuple(math.ceil(cutoff * units - _ROUNDING) for cutoff in self.cutoffs_of(measure))
        for cutoff, limit in zip(self.cutoffs_of(measure), found, strict=True):
            if abs(limit) > MOST_UNITS:
                raise ConfigError(
                    f"measure {measure}: cut-off {cutoff:g} is {abs(limit)} units of its model and totals have at most "
                    f"{MOST_UNITS}: correct it, or write the model in a larger unit"
                )
        for place, (before, after) in enumerate(pairwise(found)):
            if before == after:
                low, high = self.cutoffs_of(measure)[place : place + 2]
                raise ConfigError(f"measure {measure}: cut-offs {low:.10g} and {high:.10g} are one unit of its model")
        return found

    # --- what it tells -------------------------------------------------------------------------------------------

    @property
    def n_steps(self) -> int:
        """Return how many steps there are beside none."""
        return len(self.steps)

    @property
    def outcomes(self) -> int:
        """Return how many values a decision of one firm has; at the highest step no measure is named but the first."""
        return self.n_steps * max(1, len(self.told_measures)) + 1

    @property
    def told_measures(self) -> tuple[str, ...]:
        """Return the names among which `tell_measure` tells one; the bank's own columns are one bound."""
        if not self.tell_measure:
            return ()
        return (*self.models, *(("bound",) if self.columns else ()))

    def name_told(self, which: int) -> str:
        """Return the name of the measure with a number of the circuit's.

        A knock-out of the bank's own is its bound there; where it has no columns, that counts as the first measure, as
        knock-outs of holders do.
        """
        names = self.told_measures
        return names[which] if which < len(names) else names[0]

    @property
    def bits(self) -> float:
        """Return the most that a decision tells of a firm, in bits: of a watch, in a whole contract year."""
        return bits_of(self.n_steps + 1 if self.watch else self.outcomes, watch=self.watch)

    def step_of(self, index: int) -> int:
        """Return the number of the step, or of the level of a watch, at a least number of reached cut-offs."""
        return self.n_steps - index if self.watch else index

    def name_of(self, step: int) -> str:
        """Return the name of a step or level; 0 is none."""
        return str(self.steps[step - 1]) if step else NONE

    def index_in(self, totals: Mapping[str, float], *, knocked_out: bool = False) -> int:
        """Return the index in the clear, of totals (or values of the bank's columns) by measure; for oracles."""
        reached = (sum(total >= cutoff for cutoff in self.cutoffs_of(name)) for name, total in totals.items())
        return 0 if knocked_out else min(reached, default=self.n_steps)

    def canonical(self) -> bytes:
        """Return UTF-8 JSON with sorted keys and every default filled in: the same bytes at every party."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode()

    @property
    def sha256(self) -> bytes:
        """Return the digest of the canonical form."""
        return hashlib.sha256(self.canonical()).digest()


def _refuse_repeated(where: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{where}: {name[:120]} stands twice")
        seen.add(name)


class FileDecision(Parameters):
    """Files a decision at all parties, with the versions of its models: step file."""

    task: ClassVar[str] = "file_decision"
    decision: DecisionModel = Field(description="the decision, whole")

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the one step."""
        return ("file",)

    @property
    def makes_model(self) -> bool:
        """Return that a decision is filed as models are."""
        return True

    def of_party(self, party: str) -> Self:
        """Return the parameters with the knock-outs on one party's columns alone."""
        own = self.decision.model_copy(update={"knock_outs": self.decision.knock_outs_of(party)})
        return self.model_copy(update={"decision": own})

    def check_job(self, name: str, purpose: str, bank: str, holders: tuple[str, ...]) -> None:
        """Refuse a job of another name or purpose than the decision's, or without a party of a knock-out."""
        decision = self.decision
        if name != decision.name:
            raise ValueError(f"name: {name!r} is not {decision.name!r}, as its decision says")
        if purpose != decision.purpose:
            raise ValueError(f"purpose: {purpose[:60]!r} is not {decision.purpose!r}, as its decision says")
        refuse_strangers("knock_outs", decision.parties, bank, holders)

    @property
    def tells(self) -> dict[str, bool]:
        """Return which options tell more."""
        return {"tell_measure": self.decision.tell_measure}


def parse_decision(text: str, source: str = "decision") -> DecisionModel:
    """Return the decision of a YAML text, by itself or in the job that files it; ConfigError names the key at fault."""
    data = parse_yaml(text, source)
    parameters = data.get("parameters")
    if data.get("task") == FileDecision.task and isinstance(parameters, dict):
        data = parameters.get("decision", {})
    return parse(DecisionModel, data, source)
