"""The circuit of a sealed decision: for each measure the step of its total, then the least of them.

Source : the circuit of `veilscore.protocols.banding` for each measure, each in its ring; docs/protocols/decision.md.
A step is 0 (none) or one of 1..n. A knock-out is a measure whose cut-offs are all the same: top step or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from veilscore.arrays import Integers, Mask, Words
from veilscore.crypto.circuits import constant, exceeds, from_bits, lookup, to_bits
from veilscore.crypto.garbled import Plain
from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.params import SCORE_T
from veilscore.models.decided import KNOCK_OUTS, FiledDecision, Pin
from veilscore.models.loss import TURN
from veilscore.protocols.banding import MAX_LIMITS, BandCircuit

MAX_MEASURES = 9  # with a holder in it, knock-outs among them
FAILURES_RING = 1 << 7  # of the knock-outs, whose total is how many hold, below zero


def ring_of_batch(pin: Pin) -> int:
    """Return the ring that the totals of a model are shared in when many firms are scored."""
    return SCORE_T if pin.trees else TURN


@dataclass(frozen=True)
class MeasureCircuit:
    """Turns shares of one measure's total into its step.

    limits : least total in units for each step from 1 on; they never descend, and equal ones skip a step.
    modulus : of the shares; totals are read as signed numbers below half of it.
    """

    limits: tuple[int, ...]
    modulus: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.limits) <= MAX_LIMITS:
            raise ParameterError(f"{len(self.limits)} cut-offs of a measure: there are 1 to {MAX_LIMITS}")
        if any(b < a for a, b in zip(self.limits, self.limits[1:], strict=False)):
            raise ParameterError("cut-offs of a measure descend: the least total of a step is at least that before")

    @cached_property
    def band(self) -> BandCircuit:
        """Return the search among cut-offs that differ."""
        return BandCircuit(tuple(sorted(set(self.limits))), self.modulus)

    @property
    def _steps(self) -> Integers:
        """Return the step of each number that the search may find, (2^index_bits,)."""
        at = np.array(self.band.limits, np.int64)
        reached = np.searchsorted(np.array(self.limits, np.int64), at, side="right")
        steps = np.full(1 << self.band.index_bits, len(self.limits), np.int64)
        steps[: at.size + 1] = [0, *reached]
        return steps

    def __call__(self, engine: Any, left: Any, right: Any) -> Any:
        """Words of two shares, one of them lifted by `band.half`, to that of the step."""
        found, steps = self.band(engine, left, right), self._steps
        if len(self.band.limits) == len(self.limits):
            return found
        return lookup(engine, found, steps, len(self.limits).bit_length())


@dataclass(frozen=True)
class DecisionCircuit:
    """The circuit of one decision. Bank and lead each have one word of inputs, made by `bank_bits` and `lead_bits`.

    measures : of holders' models, with one number of steps.
    knock_outs : whether the last of them is the knock-outs. They count as part of the first measure, so that they are
        never told apart from a low total there.
    tell_measure : whether the output also names the measure that binds: the first of those with the least step; the
        bank's own bound comes last. At the top step that is always the first.
    """

    measures: tuple[MeasureCircuit, ...]
    knock_outs: bool = False
    tell_measure: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.measures) <= MAX_MEASURES:
            raise ParameterError(f"{len(self.measures)} measures of holders: a decision has 1 to {MAX_MEASURES}")
        if len({len(measure.limits) for measure in self.measures}) > 1:
            raise ParameterError("measures of a decision have one cut-off for each step, all the same number")
        if self.tell_measure and self.n_told < 1:
            raise ParameterError("knock-outs alone have no measure to tell: set tell_measure: false")

    @classmethod
    def of(cls, filed: FiledDecision, ring: Callable[[Pin], int] = ring_of_batch) -> DecisionCircuit:
        """Return the circuit of a decision, its measures in the order of `filed.names`.

        ring : of the shares of a pinned model's total; default that which its batches are scored in.
        """
        measures = [
            MeasureCircuit((0,) * filed.decision.n_steps, FAILURES_RING)
            if name == KNOCK_OUTS
            else MeasureCircuit(filed.pins[name].limits, ring(filed.pins[name]))
            for name in filed.names
        ]
        return cls(tuple(measures), bool(filed.knock_outs), filed.decision.tell_measure)

    @property
    def n_steps(self) -> int:
        """Return the number of the top step."""
        return len(self.measures[0].limits)

    @property
    def n_told(self) -> int:
        """Return how many measures of holders may be named; the bank's own bound has the number after them."""
        return len(self.measures) - self.knock_outs

    @property
    def step_bits(self) -> int:
        """Return the bits of a step."""
        return self.n_steps.bit_length()

    @property
    def output_bits(self) -> int:
        """Return the bits of the output: a step, and then the number of a measure where it is told."""
        return self.step_bits + self.tell_measure * self.n_told.bit_length()

    @property
    def n_lead_bits(self) -> int:
        """Return the bits of the lead's inputs: its shares."""
        return sum(measure.band.n_bits for measure in self.measures)

    @property
    def n_bank_bits(self) -> int:
        """Return the bits of the bank's inputs: its shares and its own bound."""
        return self.n_lead_bits + self.step_bits

    def gates(self, *, last: bool = False) -> int:
        """Return the ANDs of one row, with or without a step of last month."""
        plain = Plain()
        bank, lead = np.zeros((self.n_bank_bits, 1), bool), np.zeros((self.n_lead_bits, 1), bool)
        self(plain, bank, lead, np.zeros((self.step_bits, 1), bool) if last else None)
        return plain.gates

    def bank_bits(self, shares: Sequence[Integers], bound: Integers) -> Mask:
        """Return the bank's inputs (n_bank_bits, rows).

        shares : of each measure (rows,), of any sign.
        bound : (rows,) the highest step that the bank itself allows a firm; n_steps where it has no objection.
        """
        if bound.min(initial=0) < 0 or bound.max(initial=0) > self.n_steps:
            raise ParameterError(f"the bank's own bound of a firm is a step from 0 to {self.n_steps}")
        lifted = [
            to_bits(((share + m.band.half) % m.modulus).astype(np.uint64), m.band.n_bits)
            for share, m in zip(shares, self.measures, strict=True)
        ]
        return np.concatenate([*lifted, to_bits(bound.astype(np.uint64), self.step_bits)])

    def lead_bits(self, shares: Sequence[Words]) -> Mask:
        """Return the lead's inputs (n_lead_bits, rows) from its shares of each measure, each below its modulus."""
        words = [to_bits(share, m.band.n_bits) for share, m in zip(shares, self.measures, strict=True)]
        return np.concatenate(words)

    def __call__(self, engine: Any, bank: Any, lead: Any, last: Any = None) -> Any:
        """Words of bank (n_bank_bits, rows) and lead (n_lead_bits, rows) to that of the output (output_bits, rows).

        last : (step_bits, rows) a step that is not exceeded, that of last month in a watch.
        """
        ends = np.cumsum([measure.band.n_bits for measure in self.measures])
        *lefts, bound = np.split(bank, ends)
        steps = [
            measure(engine, left, right)
            for measure, left, right in zip(self.measures, lefts, np.split(lead, ends[:-1]), strict=True)
        ]
        if self.knock_outs:
            steps[0] = _lower(engine, steps[0], steps.pop())[1] if len(steps) > 1 else steps[0]
        least, which = steps[0], steps[0][:0]
        if self.tell_measure:
            which = constant(engine, 0, least[0], self.n_told.bit_length())
        for number, step in enumerate([*steps[1:], bound], start=1):
            lower, least = _lower(engine, least, step)
            if self.tell_measure:
                which = engine.choose(lower, constant(engine, number, least[0], len(which)), which)
        if last is not None:
            least = _lower(engine, least, last)[1]
        return np.concatenate([least, which])

    def read(self, bits: Mask) -> tuple[Integers, Integers | None]:
        """Return the steps, and the measures where they are told, of an output; MessageError where there is no such."""
        steps = from_bits(bits[: self.step_bits])
        which = from_bits(bits[self.step_bits :]) if self.tell_measure else None
        if steps.max(initial=0) > self.n_steps or (which is not None and which.max(initial=0) > self.n_told):
            raise MessageError("a row came out at a step or a measure that there is not")
        return steps, which


def _lower(engine: Any, left: Any, right: Any) -> tuple[Any, Any]:
    """Return whether the right word is below the left, and the lower of the two."""
    lower = exceeds(engine, left, right)
    return lower, engine.choose(lower, right, left)
