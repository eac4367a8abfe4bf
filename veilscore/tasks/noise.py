"""A private job is weighed before it opens anything: what its noise is expected to cost, by sizes the bank knows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from veilscore.arrays import Array, Mask, Vector
from veilscore.data.ingest import read_table
from veilscore.models.noise_cost import KnownSizes, NoiseCost, noise_cost
from veilscore.tasks.context import split, usable_columns
from veilscore.terms.job import Job
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.parameters import Sampled
from veilscore.terms.training import Training, TrainScorecard

USUAL_COLUMNS = 12  # of a holder, where nobody said how many


def scorecard_noise(p: TrainScorecard, sizes: KnownSizes) -> NoiseCost | None:
    """Return what the noise of a scorecard is expected to cost; None in exact mode."""
    if not p.private or p.reuse is not None:
        return None
    return noise_cost(sizes, p.mu, p.max_bin, p.mu if "evaluate" in p.steps else None)


def sizes_of(target: Array, weight: Vector | None, train: Mask, columns: Mapping[str, int]) -> KnownSizes:
    """Return the sizes of a job's rows: target, weight (None: all alike) and train are (n_rows,)."""
    bad, w = target == 1, np.ones(train.size) if weight is None else weight / weight[train].max()
    return KnownSizes(
        train=float(w[train].sum()),
        bads=float(w[train & bad].sum()),
        bads_held=float((bad & ~train).sum()),
        columns=dict(columns),
    )


def sizes_at_bank(node: NodeConfig, job: Job, columns: Mapping[str, int]) -> KnownSizes:
    """Return the sizes of a job by the labels of its bank's data set; DataError or ColumnError if it cannot be read."""
    dataset, p = node.datasets[job.datasets[job.bank]], job.of(Sampled)
    table = read_table(
        dataset.source,
        dataset.id_column,
        dataset.label_column,
        columns=usable_columns(node, job)[:1],  # for the labels alone; a table has a feature
        weight_column=dataset.weight_column if isinstance(p, Training) and p.weights else None,
        date_column=dataset.date_column if p.holdout_from else None,
        normaliser=p.id_normaliser,
        table=dataset.table,
        query=dataset.query,
    )
    label = np.zeros(table.n_rows) if table.label is None else np.asarray(table.label)
    return sizes_of(label, table.weight, split(table, job), columns)


def named_columns(job: Job) -> dict[str, int]:
    """Return the number of columns of the holders for which the job names them."""
    chosen = {holder: job.columns.get(holder) for holder in job.holders}
    return {holder: len(one.include) for holder, one in chosen.items() if one is not None and one.include is not None}
