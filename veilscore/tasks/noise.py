"""A private job is weighed before it opens anything: what its noise is expected to cost, by sizes the bank knows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from veilscore.arrays import Array, Integers, Mask, Vector
from veilscore.data.ingest import read_table
from veilscore.data.panel import by_firm
from veilscore.models.noise_cost import (
    KnownSizes,
    NoiseCost,
    expected_loss,
    expected_loss_of_chains,
    noise_cost,
)
from veilscore.tasks.context import split, usable_columns
from veilscore.tasks.panel import firm_numbers, rows_taken, shared_weights
from veilscore.terms.job import Job
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.parameters import Sampled
from veilscore.terms.training import TrainBoosting, Training, TrainScorecard

USUAL_COLUMNS = 12  # of a holder, where nobody said how many


def noise_of_training(p: TrainScorecard | TrainBoosting, sizes: KnownSizes) -> NoiseCost | None:
    """Return what the noise of a scorecard or of chains is expected to cost; None in exact mode, and of a refit."""
    if not p.private or getattr(p, "reuse", None) is not None:
        return None
    scorecard, mu = isinstance(p, TrainScorecard), p.mu / p.noise_rows  # of a row
    loss = expected_loss(sizes, mu, p.max_bin) if scorecard else expected_loss_of_chains(sizes, mu)
    return noise_cost(loss, sizes, mu if "evaluate" in p.steps else None)


def check_noise(p: TrainScorecard | TrainBoosting, sizes: KnownSizes, bank: str) -> None:
    """Raise RefusedError where the noise of a private job drowns its data, unless the job goes on despite it."""
    cost = None if p.despite_noise else noise_of_training(p, sizes)
    if cost is not None:
        cost.refuse_if_drowned(bank)


def sizes_of(
    target: Array, weight: Vector | None, train: Mask, columns: Mapping[str, int], firm: Integers | None = None
) -> KnownSizes:
    """Return the sizes of a job's rows: target, weight (None: all alike) and train are (n_rows,).

    firm : (n_rows,) number of the firm of each row, where those of a firm share its weight.
    """
    bad, w = target == 1, np.ones(train.size)
    if weight is not None:
        w = weight / (weight[train] if firm is None else by_firm(weight[train], firm[train])).max()
    return KnownSizes(
        train=float(w[train].sum()),
        bads=float(w[train & bad].sum()),
        bads_held=float((bad & ~train).sum()),
        columns=dict(columns),
    )


def sizes_at_bank(node: NodeConfig, job: Job, columns: Mapping[str, int]) -> KnownSizes:
    """Return a job's sizes by its bank's labels; DataError where unreadable, RefusedError where rows are others."""
    dataset, p = node.datasets[job.datasets[job.bank]], job.of(Sampled)
    dataset.check_rows(p, f"data set {job.datasets[job.bank]!r} of {job.bank}")
    table = read_table(
        dataset.source,
        dataset.key,
        dataset.label_column,
        columns=usable_columns(node, job)[:1],  # for the labels alone; a table has a feature
        weight_column=dataset.weight_column if isinstance(p, Training) and p.weights else None,
        date_column=dataset.date_column if p.holdout_from else None,
        normaliser=p.id_normaliser,
        rules=dataset,
        table=dataset.table,
        query=dataset.query,
    )
    table = rows_taken(table, p)
    label = np.zeros(table.n_rows) if table.label is None else np.asarray(table.label)
    train, weight, firm = split(table, job), table.weight, firm_numbers(table).get("firm")
    if firm is None or getattr(p, "firm_weight", "rows") == "rows":
        return sizes_of(label, weight, train, columns)
    weight = shared_weights(np.ones(train.size) if weight is None else weight, firm, train)
    return sizes_of(label, weight, train, columns, firm)


def named_columns(job: Job) -> dict[str, int]:
    """Return the number of columns of the holders for which the job names them."""
    chosen = {holder: job.columns.get(holder) for holder in job.holders}
    return {holder: len(one.include) for holder, one in chosen.items() if one is not None and one.include is not None}
