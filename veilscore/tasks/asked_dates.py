"""A holder's variables at the dates that a job asks for (`as_of`), made of its events for the pairs in common alone.

The holder aligns all pairs of its firms and those days; what of them is in the bank's job is built, by the catalogue of
its data set, into a file of the job, which stands for the data set from then on. Bins are those of the data set itself.
"""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Integers
from veilscore.data.panel import Panel
from veilscore.errors import RefusedError
from veilscore.features.build import build_rows, earlier_terms, known_pairs
from veilscore.features.catalogue import find_catalogue
from veilscore.release.pseudonyms import size_offset
from veilscore.tasks.context import StepContext
from veilscore.terms.node_config import DatasetConfig

_STEP = 1000  # firms


def pairs_of(context: StepContext) -> Panel | None:
    """Return all pairs that the job may ask for; None where its rows are those of the data set's file.

    Raises RefusedError where they are more than the policy takes.
    """
    days = [day.isoformat() for day in sorted(context.job.parameters.as_of)]
    source = _dataset(context).features
    if not days or source is None:
        return None
    most, step = context.node.policy.max_set_size, _STEP * len(days)
    # counted in steps that end at a secret place, so that a refusal does not tell of a firm
    offset = size_offset(context.home(), f"{context.job.datasets[context.session.party]} pairs", step)
    pairs = known_pairs(find_catalogue(source.catalogue), source.source, days, most // step * step - offset)
    if pairs is None:
        raise RefusedError(f"firms at {len(days)} days are more than max_set_size {most}: ask for fewer days")
    return pairs


def build_pairs(context: StepContext, pairs: Panel, row_of: Integers) -> Integers:
    """Build the variables of the pairs that are in the job; return its rows (n_bank,) in their file, -1 for unknown.

    row_of : (n_bank,) row of each of the bank's rows among the pairs, -1 for unknown.
    """
    known = np.unique(row_of[row_of >= 0])
    wanted = pairs.take(known if known.size else np.array([0]))  # a data set has a row
    dataset = _dataset(context)
    if dataset.features is None or dataset.path is None:
        raise RefusedError("the data set has no catalogue of variables any more", party=context.session.party)
    catalogue, path = find_catalogue(dataset.features.catalogue), context.pairs_file
    terms = earlier_terms(dataset.path, catalogue)
    days = wanted.days.tolist()
    built = build_rows(catalogue, dataset.features.source, path, wanted.firms.tolist(), days, fixed_terms=terms)
    # not by what the bank's rows hold, or a column of another kind than its bins would refuse, and tell of them
    context.store.save_json("pairs", {one.name: one.kind for one in built.variables})
    return np.where(row_of >= 0, np.searchsorted(known, row_of), -1)


def _dataset(context: StepContext) -> DatasetConfig:
    return context.node.datasets[context.job.datasets[context.session.party]]
