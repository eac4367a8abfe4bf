"""What the rows of a job in exact mode must be: no count of few rows, no weight that marks a firm.

Exact sums over few rows are those rows, and a weight that is far larger than the others writes its firm's record into
the sum's leading digits. Sums of two jobs whose rows differ by one firm differ by its record. The bank checks its
labels and weights itself, which nobody else may see: the audit's replay runs the same check on what the bank has
committed to. A holder checks what it sees, the rows' numbers and digests.
"""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Array, Integers, Mask
from veilscore.data.panel import by_firm
from veilscore.errors import DataError, RefusedError
from veilscore.tasks.context import StepContext
from veilscore.tasks.panel import digests_by_firm

MIN_ROWS = 30.0  # fewest of each class, in training and in hold-out rows, by effective size
MAX_WEIGHT = 5.0  # in mean weights


def check_own_rows(target: Array, weight: Array, train: Mask, firm: Integers | None = None) -> None:
    """Raise DataError where a class has few rows or a weight is large; at the bank.

    target : (n,) 1 = bad; weight : (n,) positive; train : (n,) which rows train, the others are held out.
    firm : (n,) number of the firm of each row at a date, whose rows count as one of their weights' sum; None: its own.
    """
    firm = np.arange(target.size) if firm is None else firm
    parts = {"training": train, "hold-out": ~train} if not train.all() else {"training": train}
    for name, rows in parts.items():
        for kind, value in (("bad", 1), ("good", 0)):
            own = by_firm(weight[rows & (target == value)], firm[rows & (target == value)])
            # as many rows of equal weight would have the same variance (Kish 1965)
            effective = float(own.sum() ** 2 / (own**2).sum()) if own.size else 0.0
            if effective < MIN_ROWS:
                raise DataError(
                    f"{own.size} {kind} {name} rows count as {effective:.0f} of equal weight; exact sums need "
                    f"{MIN_ROWS:.0f}: take more firms, another hold-out, or disclosure: private"
                )
        sums = by_firm(weight[rows], firm[rows])
        largest = float(sums.max() / sums.mean())
        if largest > MAX_WEIGHT:
            raise DataError(
                f"the largest weight of the {name} rows is {largest:.1f} times their mean; exact sums allow "
                f"{MAX_WEIGHT:g}: cap the weights"
            )


def check_submitted(context: StepContext, train: Mask) -> None:
    """Refuse a job by the rows that the bank submits, known here or not; at a holder.

    Training and hold-out rows are as many as the policy's minimum, and equal to those of earlier exact jobs or far
    from them. train : (n,) which of them train, the others are held out. No hold-out at all is allowed.
    """
    policy = context.node.policy
    rows, aligned = context.store.load_arrays("firms")["rows"], context.store.load_arrays("row_of")
    firm = aligned["firm"] if "firm" in aligned else np.arange(rows.size)
    _check_counts(firm, train, policy.min_overlap)
    parts = {"training": digests_by_firm(rows[train], firm[train])}
    parts["hold-out"] = digests_by_firm(rows[~train], firm[~train])
    some = {name: np.unique(part) for name, part in parts.items() if part.size}
    context.account().take_exact_rows(context.job_id, some, policy.release.min_difference)


def _check_counts(firm: Integers, train: Mask, least: int) -> None:
    for name, rows in (("training", train), ("hold-out", ~train)):
        count = np.unique(firm[rows]).size
        if count < least and not (count == 0 and name == "hold-out"):
            raise RefusedError(f"{count} {name} rows are fewer than the minimum of {least} (min_overlap)")
