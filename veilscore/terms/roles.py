"""Each step of a task says in these words who learns what (`veilscore.tasks.task.Step.learns`).

Every message kind stands there once for each role that receives it, with the form of its content: "ciphertext" and
"hint" are ring-LWE samples, "masked" is uniform without another party's mask, "public" is sizes, order and hashes,
"opened" is what the receiver is meant to learn. A test holds the records against every message of recorded runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PartyRole = Literal["bank", "holder", "lead", "coordinator"]
Form = Literal["ciphertext", "hint", "masked", "public", "opened"]


@dataclass(frozen=True)
class Leak:
    """Says what one role gets from one kind of message.

    only : sent only where this is released of a row.
    row : of the table, if not the step's own.
    """

    kind: str
    to: PartyRole
    form: Form
    learns: str = "nothing"
    only: Literal["", "score", "band", "exact", "decision"] = ""
    row: str = ""


def hidden(to: PartyRole, form: Form, *kinds: str) -> tuple[Leak, ...]:
    """Return one record for each kind of message from which the receiver learns nothing."""
    return tuple(Leak(kind, to, form) for kind in kinds)


@dataclass(frozen=True)
class Learned:
    """A row of the table of who learns what, which reports and `veilscore job plan` show.

    how_much : most that the bank can learn of one firm's record at a holder, as mu or bits; "all" without a bound.
    """

    step: str
    bank: str
    holder: str
    coordinator: str
    how_much: str = "all"
