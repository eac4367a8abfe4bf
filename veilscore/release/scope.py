"""What a firm agreed to (`Scope`), and what a bank wants to do now, to be held against it (`Ask`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from veilscore.errors import ParameterError
from veilscore.terms.decision import Purpose

SCORES = ("score_online", "score_batch")  # what a consent covers that names no task
SECTION, REPORT = "report_section", "report"  # a holder's part of a credit report: task and purpose
TASKS = (*SCORES, "decide", SECTION)
PURPOSES: tuple[str, ...] = get_args(Purpose)  # of decisions; scores are for whatever their job says
MOST_FIELDS = 200
LATEST_S = 253_402_300_799.0  # the end of the year 9999, and of the calendar
_MOST_BITS = 20.0
BITS_SLACK = 1e-3  # of a bit


@dataclass(frozen=True)
class Scope:
    """Says what a firm agreed to.

    purpose : compared word for word with that of the job or request.
    tasks : out of `TASKS`.
    bank : name of the bank; empty for any.
    models : names of models or decisions; empty for any.
    not_before_s, expires_s : seconds since the epoch.
    holders : of a consent to decisions, whose data may be used.
    bits : of a consent to decisions, the most that one of them may tell; in a watch, all of a contract year.
    contract : of a consent to a watch, the credit contract with which it ends.
    fields : of a consent to sections of a credit report, what they may tell (`veilscore section fields`).
    """

    purpose: str
    tasks: tuple[str, ...] = SCORES
    bank: str = ""
    models: tuple[str, ...] = ()
    not_before_s: float = 0.0
    expires_s: float = 0.0
    holders: tuple[str, ...] = ()
    bits: float = 0.0
    contract: str = ""
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts = (self.purpose, self.bank, self.contract, *self.tasks, *self.models, *self.holders, *self.fields)
        if not self.purpose or not self.tasks or any(not isinstance(t, str) or len(t) > 200 for t in texts):
            raise ParameterError("a consent names a purpose and tasks, each of 1 to 200 characters")
        unknown = set(self.tasks) - set(TASKS)
        if unknown:
            raise ParameterError(f"a consent names an unknown task; known: {', '.join(TASKS)}")
        if not 0 <= self.not_before_s < self.expires_s <= LATEST_S:
            raise ParameterError("a consent expires after it begins, before the year 10000")
        self._check_decisions()
        self._check_sections()

    def _check_decisions(self) -> None:
        """Refuse what is wrong in a consent to decisions, whose purposes are a closed list."""
        if "decide" not in self.tasks:
            if self.bits or self.contract or (self.holders and SECTION not in self.tasks):
                raise ParameterError("holders, bits and a contract are of a consent to decisions (task decide)")
            return
        if self.purpose not in PURPOSES:
            raise ParameterError(f"a consent to decisions is for one of the purposes {', '.join(PURPOSES)}")
        if self.tasks != ("decide",) or not self.holders or not 0 < self.bits <= _MOST_BITS:
            raise ParameterError(
                f"a consent to decisions names no other task, its holders, and bits above 0, at most {_MOST_BITS}"
            )
        if bool(self.contract) != (self.purpose == "watch"):
            raise ParameterError("a consent to a watch names the contract that it ends with, and no other consent does")

    def _check_sections(self) -> None:
        """Refuse what is wrong in a consent to sections of a credit report: it lists whose, and each field."""
        if SECTION not in self.tasks:
            if self.fields:
                raise ParameterError(f"fields are of a consent to sections of a credit report (task {SECTION})")
            return
        if self.tasks != (SECTION,) or self.purpose != REPORT or not self.bank:
            raise ParameterError(f"a consent to sections is for one bank and purpose {REPORT}, and names no other task")
        if not self.holders or not 0 < len(self.fields) <= MOST_FIELDS or len(set(self.fields)) < len(self.fields):
            raise ParameterError(f"a consent to sections names its holders, and 1 to {MOST_FIELDS} fields, each once")


@dataclass(frozen=True)
class Ask:
    """Says what a bank wants to do now, to be held against a scope.

    holder, bits : of a decision or section, where the holder itself asks: its name, and what a decision tells.
    """

    purpose: str
    task: str
    bank: str
    model: str
    now_s: float
    holder: str = ""
    bits: float = 0.0

    def refusal(self, scope: Scope, what: str) -> str:
        """Return why `scope` does not allow this, in words that the bank may learn; "" if it does."""
        for holds, text in (
            (scope.purpose == self.purpose, f"is for another purpose than {self.purpose[:60]!r}"),
            (self.task in scope.tasks, f"does not cover task {self.task}"),
            (scope.bank in {"", self.bank}, f"was not given to {self.bank}"),
            (not scope.models or self.model in scope.models, f"does not cover model {self.model[:60]!r}"),
            (
                self.task not in {"decide", SECTION} or self.holder in {"", *scope.holders},
                f"does not name {self.holder[:60]} among its holders",
            ),
            (
                self.task != "decide" or self.bits <= scope.bits + BITS_SLACK,
                f"allows {scope.bits:g} bits, and this decision tells {self.bits:.3g}",
            ),
            (scope.not_before_s <= self.now_s, "is not valid yet"),
            (self.now_s < scope.expires_s, "has expired"),
        ):
            if not holds:
                return f"{what} {text}"
        return ""
