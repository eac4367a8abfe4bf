"""A decision in the clear, without a circuit: what `veilscore.protocols.decision_circuit` must open."""

from __future__ import annotations

import numpy as np


def decided(limits, totals, bound, *, knock_outs=False, last=None):
    """Steps of firms, and the number of the measure that binds, by plain comparisons.

    limits : of each measure, ascending; totals : of each measure, (rows,); the knock-outs stand last.
    """
    steps = [(total[:, None] >= np.array(cuts)).sum(axis=1) for cuts, total in zip(limits, totals, strict=True)]
    if knock_outs and len(steps) > 1:
        failed = steps.pop()
        steps[0] = np.minimum(steps[0], failed)
    every = np.array([*steps, bound])
    least, which = every.min(axis=0), every.argmin(axis=0)
    return least if last is None else np.minimum(least, last), which
