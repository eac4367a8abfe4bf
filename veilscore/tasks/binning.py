"""Step bin, of every task that trains: codes are fitted on training rows, the bank learns counts of anonymous bins."""

from __future__ import annotations

from typing import Any

import numpy as np

from veilscore.arrays import Array, Mask
from veilscore.data.codes import CodeMap
from veilscore.data.table import Table
from veilscore.errors import RefusedError
from veilscore.files.store import JobStore
from veilscore.models.counts import BinCounts, BinnedColumns, own_counts
from veilscore.models.design import columns_of
from veilscore.protocols.binning import bank_bin, holder_bin
from veilscore.release.batch import BatchOpening
from veilscore.tasks.align import ALIGNED
from veilscore.tasks.context import StepContext, aligned_table, files_of_columns, split
from veilscore.tasks.exact_rows import check_own_rows, check_submitted
from veilscore.tasks.panel import firm_numbers, refuse_split_firms, shared_weights
from veilscore.tasks.task import COMMITTED, USUAL_CELLS, Cost, Sizes, Step, costed, exact_openings
from veilscore.terms.policy import NodePolicy
from veilscore.terms.roles import Leak, Learned, hidden
from veilscore.terms.training import TrainScorecard
from veilscore.wire.protocol import Protocol

BINNED = {"rows.npz": "bin", "counts.json": "bin", "code_map.json": "bin"}  # what steps after it read
HINT_BYTES = 4096 * 14.0  # one ring element
HINTS_BYTES = USUAL_CELLS * HINT_BYTES  # of a holder's cells
_ARRAYS: dict[str, Any] = {  # of `BinCounts`, as they are kept
    "n_codes": np.int64,
    "bad": np.float64,
    "good": np.float64,
    "counts": np.int64,
    "holdout_counts": np.int64,
    "ordered": bool,
    "missing_code": np.int64,
}


def sampled_rows(context: StepContext) -> tuple[Table, dict[str, Array]]:
    """Bank: return its table, and of every row its target, its weight, whether it trains, and of a panel its firm."""
    job, p = context.job, context.job.training
    table = aligned_table(context)
    train = split(table, job)
    target = np.asarray(table.label, dtype=np.int8)
    weight, firms = np.ones(table.n_rows) if table.weight is None else table.weight, firm_numbers(table)
    if p.firm_weight == "shared":
        weight = shared_weights(weight, firms["firm"], train)
    weight = weight / weight[train].mean()
    return table, {"target": target, "weight": weight, "train": train, **firms}


def own_columns(context: StepContext, table: Table, train: Mask) -> tuple[BinnedColumns, CodeMap]:
    """Bank: return its coded columns, and the code map that it fits on its training rows."""
    job, p = context.job, context.job.training
    # the bank may always know the order of its own bins, so that it merges neighbours
    code_map = CodeMap.fit(table, train, max_bin=p.max_bin, min_bin_fraction=p.min_bin_fraction, ordered=True)
    codes = code_map.transform(table).codes
    compared = p.tells_association or (isinstance(p, TrainScorecard) and p.max_correlation is not None)
    return columns_of(code_map, codes, party=job.bank, names=True, association=compared), code_map


def own_rows(context: StepContext) -> tuple[BinnedColumns, dict[str, Array], CodeMap]:
    """Bank: return its coded columns, what it keeps of every row (codes, target, weight, train), and its code map."""
    table, rows = sampled_rows(context)
    columns, code_map = own_columns(context, table, rows["train"])
    return columns, {"codes": columns.codes, **rows}, code_map


def _bank_bin(context: StepContext) -> Protocol[None]:
    bank, store = context.job.bank, context.store
    columns, rows, code_map = own_rows(context)
    target, weight, train = rows["target"], rows["weight"], rows["train"]
    p = context.job.training
    weighted = p.weights or p.firm_weight == "shared"
    check_own_rows(target, weight if weighted else np.ones(target.size), train, rows.get("firm"))
    held = yield from bank_bin(context.session, target, weight if weighted else None, train)
    store.save_json("code_map", code_map.to_json())
    store.save_arrays("rows", **rows)
    save_counts(store, {bank: own_counts(bank, columns, target, weight, train), **held})


def _holder_bin(context: StepContext) -> Protocol[None]:
    p, policy, store = context.job.training, context.node.policy, context.store
    table = aligned_table(context)
    aligned = store.load_arrays("row_of")
    row_of, firms = aligned["row_of"], {name: aligned[name] for name in aligned if name == "firm"}
    maps: list[CodeMap] = []

    def fit(train: Mask) -> BinnedColumns:
        refuse_other_split(context, train)
        check_submitted(context, train)
        known = row_of[train & (row_of >= 0)]
        code_map = CodeMap.fit(
            table,
            known,
            max_bin=p.max_bin,
            min_bin_fraction=p.min_bin_fraction,
            min_bin_count=max(30, policy.min_bin_count),
            ordered=p.tells_order(allowed=policy.allow_order),
        )
        maps.append(code_map)
        if "evaluate" in p.steps and p.opens != "curve":  # the last step would refuse it, after all the others
            opening = BatchOpening(~train, b"", bytes.fromhex(code_map.hash), len(code_map.columns))
            context.guard().check_release(store, opening)
        return columns_of(
            code_map,
            code_map.transform(table).take_rows(row_of).codes,
            party=context.session.party,
            names=policy.told_names,
            association=p.tells_association and policy.publish_screening,
        )

    columns, train = yield from holder_bin(context.session, fit, row_of.size, policy.min_bin_count)
    store.save_json("code_map", maps[0].to_json())
    store.save_arrays("rows", codes=columns.codes, train=train, **firms)
    store.save_json("columns", {"names": list(columns.names)})


def refuse_other_split(context: StepContext, train: Mask) -> None:
    """Refuse training rows that are not those of an earlier attempt; they are kept before anything of them is opened.

    A firm that trained in one attempt and is held out after another would pay with both, where its account counts the
    larger of the two. Models of several kinds within a job train on the same rows for the same reason, and all rows of
    a firm are of one kind.
    """
    store = JobStore(context.whole or context.store.path)
    aligned = context.store.load_arrays("row_of")
    if "firm" in aligned:
        refuse_split_firms(aligned["firm"], train, context.session.party)
    if not store.has("split"):
        store.save_arrays("split", train=train)
    elif not np.array_equal(store.load_arrays("split")["train"], train):
        raise RefusedError(
            "other rows train than in an earlier attempt at this job; submit a new job", party=context.session.party
        )


def save_counts(store: JobStore, counts: dict[str, BinCounts]) -> None:
    """Keep the counts of all parties, the bank first."""
    body = [
        {
            "party": party,
            "names": list(c.names),
            "map_hash": c.map_hash.hex(),
            "association": None if c.association is None else c.association.tolist(),
            **{name: getattr(c, name).tolist() for name in _ARRAYS},
        }
        for party, c in counts.items()
    ]
    store.save_json("counts", body)


def load_counts(store: JobStore) -> dict[str, BinCounts]:
    """Return what `save_counts` kept."""
    return {
        c["party"]: BinCounts(
            party=c["party"],
            names=tuple(c["names"]),
            map_hash=bytes.fromhex(c["map_hash"]),
            association=None if c["association"] is None else np.array(c["association"], dtype=np.float32),
            **{name: np.array(c[name], dtype=dtype) for name, dtype in _ARRAYS.items()},
        )
        for c in store.load_json("counts")
    }


def sums_bytes(sizes: Sizes, codes: float) -> float:
    """Return the bytes of two vectors summed by the cells of all holders: hints, and of each vector rows and alpha."""
    return len(sizes.holders) * ((sizes.columns * codes + 2) * HINT_BYTES + 2 * 14 * sizes.train)


def _cost(_parameters: Any, sizes: Sizes) -> Cost:
    return costed(sums_bytes(sizes, sizes.codes), 0.3)


TOLD_ORDER = {  # option of a scorecard -> what it tells
    "monotone": Learned("monotone WOE", "order of each number column's bins, up to direction", "nothing", "nothing"),
    "told": Learned(
        "monotone WOE",
        "where the holder tells order (allow_order): that of each number column's bins, up to direction",
        "nothing",
        "nothing",
    ),
}


def refuse_order(policy: NodePolicy, p: TrainScorecard) -> None:
    """Refuse a scorecard that insists on the order of bins, unless the policy tells it."""
    if p.monotone is True and not policy.allow_order:
        raise RefusedError("monotone (order of bins) is not allowed; set monotone: false, or told")


BIN = Step(
    kind="bin",
    bank=_bank_bin,
    holder=_holder_bin,
    reads=ALIGNED,
    reads_data=True,
    reads_home=files_of_columns,
    cost=_cost,
    spends=exact_openings,
    learns=(
        COMMITTED,
        Leak("BinBankRound1", "holder", "opened", "which rows train and which are held out"),
        Leak("BinHolderRound1", "bank", "opened", "columns, codes and row counts per anonymous bin over the minimum"),
        *hidden("bank", "hint", "BinHolderHints"),
        *hidden("holder", "ciphertext", "BinBankRound2"),
        Leak("BinHolderRound2", "bank", "opened", "good and bad counts per anonymous bin over the minimum"),
    ),
    tells_besides={},
    refusals=(),
)
