"""Cross-validation of the bank's own part of a private model, in the clear on its own columns: it opens nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from veilscore.arrays import Array, Integers, Vector
from veilscore.data.codes import CodeMap
from veilscore.models import boosting_design
from veilscore.models import design as designing
from veilscore.models.chain_design import own_boosting
from veilscore.models.counts import BinCounts, BinnedColumns, own_counts
from veilscore.models.loss import log_loss
from veilscore.models.residual_card import own_fit
from veilscore.models.trees import coefficients
from veilscore.terms.job import Job
from veilscore.terms.training import TrainScorecard


def fold_losses(
    job: Job, columns: BinnedColumns, rows: Mapping[str, Array], code_map: CodeMap, fold: Integers
) -> Vector:
    """Return the logistic loss of each fold's rows under the fit without them, (folds,).

    job : trains one scorecard, or trees, alone; rows : what the step `bin` keeps; fold : (n_train,) from 0.
    """
    at, found = np.flatnonzero(rows["train"]), []
    for f in range(int(fold.max()) + 1):
        train = rows["train"].copy()
        train[at[fold == f]] = False
        counts = own_counts(job.bank, columns, rows["target"], rows["weight"], train)
        held = at[fold == f]
        log_odds = predicted(job, counts, {**rows, "train": train}, code_map, rows["codes"][held])
        found.append(log_loss(log_odds, rows["target"][held].astype(np.float64)))
    return np.array(found)


def predicted(job: Job, counts: BinCounts, rows: Mapping[str, Array], code_map: CodeMap, codes: Array) -> Vector:
    """Return the log-odds (n,) of other rows with these codes (n, d), at the bad rate of the rows that train."""
    if isinstance(job.parameters, TrainScorecard):
        own = own_fit(job, counts, rows)
        card = designing.export(job, own.design, {job.bank: counts}, own.fitted, job_id="")
        return card.scaling.log_odds_bad(card.own_units(codes))
    boosted = own_boosting(job, counts, rows, code_map)
    total = np.full(codes.shape[0], boosting_design.base_at_sample_rate(boosted.data))
    for tree in boosted.own.trees:
        total += coefficients(tree, np.array(tree.weights), codes, counts.n_codes)[0]
    return total
