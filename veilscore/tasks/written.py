"""Task write_model: points that the bank wrote for bins of its own columns and of published ones become a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from veilscore.data.codes import CodeMap
from veilscore.data.column_bins import Bins
from veilscore.data.published_bins import PublishedBins, open_map, own_bins
from veilscore.errors import ConfigError, RefusedError
from veilscore.files.private import private_folder
from veilscore.files.store import write_text
from veilscore.models.decided import HAND_WRITTEN, kind_filed
from veilscore.models.hand_written import WrittenPart, hand_written, units_by_code
from veilscore.protocols.filing import HolderMap, bank_write, holder_write
from veilscore.tasks.context import StepContext, keep_model, no_files
from veilscore.tasks.fixed_bins import charged
from veilscore.tasks.task import Cost, Sizes, Step, Task, by_name, no_openings
from veilscore.terms.bands import KeptBands
from veilscore.terms.policy import NodePolicy
from veilscore.terms.roles import Leak
from veilscore.terms.written import WriteModel, WrittenColumn
from veilscore.wire.protocol import Protocol

CODE_MAP = "code_map.json"


def _bank_write(context: StepContext) -> Protocol[None]:
    job, p = context.job, context.job.of(WriteModel)
    refuse_other_kind(context, HAND_WRITTEN)
    special = context.node.datasets[job.datasets[job.bank]].special
    code_map = open_map(
        {name: own_bins(column, special.get(name, ())) for name, column in p.columns.get(job.bank, {}).items()},
        map_name(context),
    )
    own = WrittenPart(
        name=job.name, map_sha256=code_map.hash, points=units_by_code(p, job.bank, code_map.n_codes.tolist())
    )
    told = yield from bank_write(context.session)
    parts = {
        holder: WrittenPart(
            name=job.name, map_sha256=found.map_hash.hex(), points=units_by_code(p, holder, found.n_codes)
        )
        for holder, found in told.items()
    }
    own.save(keep_map(context, code_map))
    keep_model(context, hand_written(job, context.job_id, {job.bank: own, **parts}))


def _holder_write(context: StepContext) -> Protocol[None]:
    p, party = context.job.of(WriteModel), context.session.party
    refuse_other_kind(context, HAND_WRITTEN)
    columns = p.columns[party]
    bins = yield from published_bins(context, {name: partial(_bins_of, column) for name, column in columns.items()})
    code_map = open_map(bins, map_name(context))
    folder = keep_map(context, code_map)
    codes = tuple(code_map.n_codes.tolist())
    WrittenPart(name=context.job.name, map_sha256=code_map.hash, points=units_by_code(p, party, codes)).save(folder)
    KeptBands(bands={}, decimals=p.decimals, pdo=1.0, map_sha256=code_map.hash, written=True).save(folder)
    yield from holder_write(context.session, HolderMap(bytes.fromhex(code_map.hash), codes))


def _bins_of(column: WrittenColumn, published: PublishedBins) -> Bins:
    return published.bins_of(column)


def published_bins(
    context: StepContext, wanted: Mapping[str, Callable[[PublishedBins], Bins]]
) -> Protocol[dict[str, Bins]]:
    """Holder: return bins of its columns, made of what it publishes, which is charged once; RefusedError otherwise.

    wanted : column -> makes its bins of what is published of it.
    """
    party = context.session.party
    try:
        refuse_unpublished(context.node.policy, wanted)  # the policy may be another than when the job was accepted
        fixed = (yield from charged(context)) if wanted else None
        return {} if fixed is None else {name: make(PublishedBins.of(fixed, name)) for name, make in wanted.items()}
    except RefusedError as refusal:
        raise RefusedError(f"{party}: {refusal.message}", party=party) from None


def refuse_unpublished(policy: NodePolicy, columns: Iterable[str]) -> None:
    """Refuse columns whose bins a holder does not publish."""
    for name in columns:
        if name not in policy.publish_bins:
            known = ", ".join(policy.publish_bins[:20]) or "none"
            raise RefusedError(
                f"does not publish bins of a column {name[:60]!r} (publish_bins: {known}); take another column, or ask "
                "its steward"
            )


def refuse_other_kind(context: StepContext, kind: str) -> None:
    """Refuse to file under a name that something of another kind has here."""
    name, found = context.job.name, kind_filed(context.home(), context.job.name)
    if found not in {"", kind}:
        raise ConfigError(
            f"{name!r} is the name of a {found} at {context.session.party}: give this {kind} another name",
            party=context.session.party,
        )


def keep_map(context: StepContext, code_map: CodeMap) -> Path:
    """Keep a code map for the end of the job; return the folder that is filed then."""
    folder = staged(context)
    write_text(folder / CODE_MAP, code_map.to_json())
    return folder


def staged(context: StepContext) -> Path:
    """Return the folder that is filed when the job has ended."""
    folder = context.models() / context.job.name
    private_folder(folder)
    return folder


def map_name(context: StepContext) -> str:
    """Say which model of which data set a code map is of."""
    return f"{context.job_id} on {context.job.datasets[context.session.party]}"


def _cost(_parameters: Any, sizes: Sizes) -> Cost:
    return Cost(0.5, 200.0 * len(sizes.holders))


WRITE = Step(
    kind="write",
    bank=_bank_write,
    holder=_holder_write,
    reads={},
    reads_data=False,
    reads_home=no_files,
    cost=_cost,
    spends=no_openings,
    fixed_bins=True,
    learns=(
        Leak("StepCommitment", "holder", "public", "the points of all bins, which stand in the job"),
        Leak(
            "WriteHolderMap",
            "bank",
            "opened",
            "edges and levels of the published columns that it wrote points for, and no count",
        ),
    ),
    tells_besides={},
    refusals=(lambda policy, p: refuse_unpublished(policy, (name for of in p.columns.values() for name in of)),),
)
TASK = Task(WriteModel, by_name(write=WRITE))
