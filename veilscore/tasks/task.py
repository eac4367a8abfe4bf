"""What a task is: its parameters and its steps, and what is true of each step.

Everything that others ask of a task is a loop over these records: the table of who learns what, the estimate of
`veilscore plan`, the files that an auditor lays out again, the rules that a holder's policy checks. The table of all
tasks is `veilscore.tasks.table`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from veilscore.models.noise_cost import KnownSizes, NoiseCost
from veilscore.tasks.context import StepContext
from veilscore.terms.parameters import Parameters
from veilscore.terms.policy import NodePolicy
from veilscore.terms.roles import Leak, Learned
from veilscore.wire.protocol import Charge, Protocol

Role = Callable[[StepContext], Protocol[None]]
COMMITTED = Leak("StepCommitment", "holder", "public")  # of every step of the bank's (`protocols.commitment`)

# Columns and codes are not known before a job runs, so the estimates assume usual ones.
USUAL_CELLS = 12 * 15  # a holder's columns times their codes
PRODUCT_BYTES = 26  # of one value in a product ciphertext
PRODUCT_BLOCK_BYTES = 8192 * PRODUCT_BYTES  # of a ciphertext, a reply or a public key
_BYTES_PER_S = 1.5e8  # through TLS, hashing on both sides


@dataclass(frozen=True)
class Sizes:
    """What is known before a job runs: rows of the bank, of each holder (0: as many), and of each that train or not.

    columns, codes : columns of a holder and codes of a column, usual ones where nobody said.
    """

    bank: float
    holders: tuple[float, ...]
    train: float
    held: float
    columns: float = 12.0
    codes: float = 15.0


@dataclass(frozen=True)
class Cost:
    """Rough wall seconds on two cores and bytes sent, over all parties."""

    seconds: float
    bytes: float


def costed(n_bytes: float, compute_s: float) -> Cost:
    """Return the cost of sending so many bytes and computing for so long."""
    return Cost(compute_s + n_bytes / _BYTES_PER_S, n_bytes)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a task, and all that others loop over."""

    kind: str  # row of the table of who learns what, name in audit rules; a fit of a stack is "train" or "boost"
    bank: Role  # the coordinator's role, where it has one, is `veilscore.protocols.adding`
    holder: Role
    reads: Mapping[str, str]  # file below the job's folder that the bank reads -> the step that made it
    reads_data: bool  # whether the bank reads its data set itself
    reads_home: Callable[[Any], tuple[str, ...]]  # by parameters, patterns of other files below its home
    cost: Callable[[Any, Sizes], Cost]  # what it takes
    spends: Callable[[Any], tuple[Charge, ...]]  # by parameters, what its openings cost the account of each holder
    fits: Callable[[Any, int], None] = lambda _parameters, _train: None  # refuses more training rows than sums carry
    fixed_bins: bool = False  # whether holders use their fixed bins in it, charged once a version
    bits: Callable[[Any], float] = lambda _parameters: 0.0  # by parameters, bits of one firm that it opens (`release/`)
    learns: tuple[Leak, ...]  # each message that tells something or hides something, by who receives it
    tells_besides: Mapping[str, Learned]  # option of the parameters -> row of the table where the option is on
    refusals: tuple[Callable[[NodePolicy, Any], None], ...]  # a holder's rules on parameters; each raises RefusedError


EXACT = Charge("exact sums", "all", math.inf)  # no noise, hence no bound: the account is void from then on


def exact_openings(_parameters: Any) -> tuple[Charge, ...]:
    """Return the charge of a step that opens sums as they are."""
    return (EXACT,)


def no_openings(_parameters: Any) -> tuple[Charge, ...]:
    """Return no charge: nothing leaves that depends on a firm's record, or it is counted in bits (`release/`)."""
    return ()


@dataclass(frozen=True)
class Task:
    """A task.

    step : finds the record of one of its parameters' steps by name, and knows no other name.
    noise : what the noise of its openings is expected to cost; None where it has none, or nobody knows.
    """

    parameters: type[Parameters]
    step: Callable[[Any, str], Step]
    noise: Callable[[Any, KnownSizes], NoiseCost | None] = lambda _parameters, _sizes: None

    @property
    def name(self) -> str:
        """Return the task's name in a job's file."""
        return self.parameters.task


def by_name(**steps: Step) -> Callable[[Any, str], Step]:
    """Return a way to find steps that are the same for all parameters."""
    return lambda _parameters, name: steps[name]
