"""The table of all tasks, and the loops over their steps; a new task is a file beside this one and a line here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from veilscore.data.fixed_bins import MU
from veilscore.errors import JobError, RefusedError
from veilscore.evidence.opening import DATASET, Reads, unkept
from veilscore.features.built import check_built
from veilscore.models.noise_cost import KnownSizes, NoiseCost
from veilscore.protocols.commitment import bank_committed, holder_committed
from veilscore.tasks import (
    batch,
    boosting,
    decide,
    decision_filing,
    mining,
    online,
    scorecard,
    screening,
    selection,
    sizing,
    stack,
    written,
)
from veilscore.tasks.context import StepContext, account_of
from veilscore.tasks.fixed_bins import charge_of, load
from veilscore.tasks.noise import named_columns, sizes_at_bank
from veilscore.tasks.task import EXACT, Cost, Sizes, Step, Task
from veilscore.terms.job import Job
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.parameters import OnlineOutput, Parameters, Sampled
from veilscore.terms.policy import NodePolicy, Request
from veilscore.terms.privacy import BITS_ONLINE, in_bits, total
from veilscore.terms.roles import Leak, Learned
from veilscore.terms.training import Training
from veilscore.wire.protocol import Charge, Protocol

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        scorecard.TASK,
        boosting.TASK,
        stack.TASK,
        selection.TASK,
        batch.TASK,
        screening.TASK,
        mining.TASK,
        written.TASK,
        decision_filing.TASK,
        decide.TASK,
        sizing.TASK,
    )
}


def steps_of(p: Parameters) -> dict[str, Step]:
    """Return the records of a task's steps, by name and in order."""
    return {name: TASKS[p.task].step(p, name) for name in p.steps}


def step_of(job: Job, name: str) -> Step:
    """Return the record of one step; JobError if the job has no such step."""
    if name not in job.steps:
        raise JobError(f"{name[:60]!r} is no step of task {job.task}")
    return TASKS[job.task].step(job.parameters, name)


FIRST_BINS = (Charge("bins", "all", MU**2),)  # of a version that a bank has not used yet


# --- roles -----------------------------------------------------------------------------------------------------------


def role_of(step: str, context: StepContext) -> Protocol[None]:
    """Return one party's role in a step by itself, with its messages and files."""
    record = step_of(context.job, step)
    if context.role == "coordinator":
        raise JobError("the coordinator computes nothing in a step but sums of masked parts")
    return record.bank(context) if context.role == "bank" else record.holder(context)


def protocol_for(step: str, context: StepContext) -> Protocol[None]:
    """Return one party's role in a step, with the bank's commitment before it, which a holder waits for."""
    role = role_of(step, context)
    if context.role == "bank":
        return bank_committed(context.session, context.opening or unkept(context.session), role)
    if EXACT in step_of(context.job, step).spends(context.job.parameters):
        role = _charged(role)
    return holder_committed(context.session, role)


def _charged(role: Protocol[None]) -> Protocol[None]:
    """Charge a step that opens sums as they are before anything of it leaves."""
    try:
        yield EXACT
        yield from role
    finally:
        role.close()


# --- who learns what -------------------------------------------------------------------------------------------------


def leakage_table(p: Parameters) -> tuple[Learned, ...]:
    """Return who learns what in a job with these parameters: a row for each kind of step, then what options tell."""
    steps: dict[str, list[Step]] = {}
    for step in steps_of(p).values():
        steps.setdefault(step.kind, []).append(step)
    leaks = dict.fromkeys(
        (leak.row or kind, leak) for kind, same in steps.items() for one in same for leak in one.learns
    )
    how_much = {leak.row or kind: _how_much(same, p) for kind, same in steps.items() for leak in same[0].learns}
    told = (item for same in steps.values() for one in same for item in one.tells_besides.items())
    besides = dict.fromkeys(row for option, row in told if p.tells.get(option))
    rows = learned_by_row(leaks, p.opens)
    return (*(replace(row, how_much=how_much[row.step]) for row in rows), *besides)


def _how_much(steps: Sequence[Step], p: Parameters) -> str:
    """Return the most that steps of a kind tell the bank of one firm's record at a holder."""
    charges, bits = tuple(charge for step in steps for charge in step.spends(p)), sum(step.bits(p) for step in steps)
    if bits:
        return in_bits(bits)
    if EXACT in charges:
        return "all"
    parts = [f"mu {math.sqrt(total(charges)):.2f}"] if charges else []
    if any(step.fixed_bins for step in steps):
        parts.append(f"mu {MU:.2f} once for a version of bins")
    return "; ".join(parts) or "nothing"


def online_table(opens: OnlineOutput) -> Learned:
    """Return who learns what when a single firm is scored or decided on."""
    row = learned_by_row((("online", leak) for leak in online.LEARNS), opens)[0]
    return replace(row, how_much=in_bits(BITS_ONLINE[opens]))


def learned_by_row(leaks: Iterable[tuple[str, Leak]], opens: OnlineOutput) -> tuple[Learned, ...]:
    """Return a row of the table for each name of a row, from all that is said of its messages."""
    rows: dict[str, dict[str, list[str]]] = {}
    for row, leak in leaks:
        by_role = rows.setdefault(row, {"bank": [], "holder": [], "coordinator": []})
        if leak.only in {"", opens} and leak.learns != "nothing":
            by_role["holder" if leak.to == "lead" else leak.to].append(leak.learns)
    return tuple(
        Learned(
            row,
            "; ".join(learned["bank"]),
            "; ".join(learned["holder"]),
            "; ".join([*learned["coordinator"], "job, sizes, timing"]),
        )
        for row, learned in rows.items()
    )


# --- what it tells, counted ------------------------------------------------------------------------------------------


def charges_by_step(p: Parameters) -> dict[str, tuple[Charge, ...]]:
    """Return what the openings of each step of a job cost each holder's account, but for its fixed bins."""
    return {name: step.spends(p) for name, step in steps_of(p).items()}


def charges_of(p: Parameters) -> tuple[Charge, ...]:
    """Return what all openings of a job cost each holder's account, but for its fixed bins."""
    return tuple(charge for charges in charges_by_step(p).values() for charge in charges)


def uses_fixed_bins(job: Job) -> bool:
    """Return whether holders use their fixed bins in a job."""
    return any(step.fixed_bins for step in steps_of(job.parameters).values())


def bins_charge(home: Path, node: NodeConfig, job: Job) -> tuple[Charge, ...]:
    """Return the charge of a holder's fixed bins, which the first job of a bank that uses them pays."""
    if not uses_fixed_bins(job):
        return ()
    fixed = load(home, job.datasets[node.name])
    if fixed is None:
        return FIRST_BINS
    return () if account_of(home, node, job).knows(charge_of(fixed).opening) else (charge_of(fixed),)


def hold(home: Path, node: NodeConfig, job: Job, job_id: str) -> None:
    """Keep from a holder's account what an accepted job may spend; RefusedError if there is not enough left."""
    charges = charges_of(job.parameters)
    if node.role == "bank" or not charges or EXACT in charges:
        return
    account_of(home, node, job).hold(job_id, total((*charges, *bins_charge(home, node, job))))


def noise_of(job: Job, sizes: KnownSizes) -> NoiseCost | None:
    """Return what the noise of a job's openings is expected to cost, None where it has none or nobody knows."""
    return TASKS[job.task].noise(job.parameters, sizes)


def stop_if_drowned(node: NodeConfig, job: Job) -> None:
    """Refuse at the bank a job whose noise drowns its data, however few columns holders have, before it starts.

    The step that opens first refuses what the true numbers of columns show.
    """
    p = job.parameters
    if node.role != "bank" or not isinstance(p, Training) or not p.private:
        return
    sizes = sizes_at_bank(node, job, dict.fromkeys(job.holders, 1) | named_columns(job))
    refuse_too_many(job, int(sizes.train))
    cost = None if getattr(p, "despite_noise", False) else noise_of(job, sizes)
    if cost is not None:
        cost.refuse_if_drowned(node.name)


# --- what it costs ---------------------------------------------------------------------------------------------------


def refuse_too_many(job: Job, train: int) -> None:
    """Refuse a job with more training rows, or more noise, than the sums of a step can carry."""
    for step in steps_of(job.parameters).values():
        step.fits(job.parameters, train)


def estimate(job: Job, sizes: Mapping[str, int], columns: Mapping[str, int] | None = None) -> dict[str, Cost]:
    """Return the rough cost of each step by name; `sizes` are rows by party, an absent holder has as many as the bank.

    columns : of holders, where they are known; of others it is usual ones.

    Rates were measured on two cores with all parties on them (benchmarks/); bytes follow from the kernel's parameters.
    """
    n, p = sizes[job.bank], job.parameters
    held = p.holdout_fraction * n if isinstance(p, Sampled) and p.holdout_from is None else 0.0
    known = Sizes(n, tuple(sizes.get(holder, n) for holder in job.holders), n - held, held)
    if columns:
        counted = [columns.get(holder, known.columns) for holder in job.holders]
        known = replace(known, columns=sum(counted) / len(counted))
    return {name: step.cost(p, known) for name, step in steps_of(p).items()}


# --- files that the bank reads ---------------------------------------------------------------------------------------


def reads_of(job: Job, step: str, job_id: str) -> Reads:
    """Return what the bank reads in a step of a job."""
    record = step_of(job, step)
    own = tuple(f"jobs/{job_id}/{name}" for name in (*record.reads, f"checkpoint_{step}.json"))
    return Reads(record.kind, (*own, *record.reads_home(job.parameters)), data=record.reads_data)


def may_read(name: str, reads: Reads) -> bool:
    """Return whether a step reads a path below the home, or the data set."""
    if name == DATASET:
        return reads.data
    parts = name.split("/")  # of a claim: a star must not reach over a slash, nor a path climb up
    return ".." not in parts and any(
        len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
        for wanted in (pattern.split("/") for pattern in reads.paths)
    )


# --- what a node says ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobAnswer:
    """What a node says to a job: "accepted", "refused" or "pending" until a person approves; the bank may learn why."""

    status: str
    reason: str


def request_of(job: Job, node: NodeConfig) -> Request:
    """Return what a job asks of a node; RefusedError if the node cannot do it, whatever its policy."""
    if node.name not in job.parties:
        raise RefusedError(f"{node.name} is not a party of this job", party=node.name)
    dataset, p = job.datasets[node.name], job.parameters
    if (node.role == "bank") != (job.bank == node.name):
        raise RefusedError(f"{node.name} has role {node.role}, not the role this job gives it", party=node.name)
    if dataset not in node.datasets:
        raise RefusedError(f"{node.name} has no data set named {dataset!r}", party=node.name)
    check_built(node.datasets[dataset], f"data set {dataset!r} of {node.name}")
    node.datasets[dataset].check_rows(p, f"data set {dataset!r} of {node.name}")
    asked = Request(bank=job.bank, purpose=job.purpose, task=job.task, dataset=dataset)
    if node.role == "bank":
        node.datasets[dataset].check_columns(p, f"data set {dataset!r} of {node.name}")
        return asked
    records = steps_of(p).values()
    rules = tuple(partial(_refuse, rule, p.of_party(node.name)) for step in records for rule in step.refusals)
    charges = charges_of(p)
    if any(step.bits(p) for step in records):
        asked = replace(asked, opens=p.opens, to_get_bands="set output: band")
    if EXACT in charges:
        return replace(asked, rules=rules, disclosure="exact")
    return replace(asked, rules=rules, disclosure="private" if charges else "", mu=math.sqrt(total(charges)))


def _refuse(rule: Callable[[NodePolicy, Parameters], None], p: Parameters, policy: NodePolicy) -> None:
    rule(policy, p)


def answer_to(job: Job, node: NodeConfig) -> JobAnswer:
    """Return what a node answers to a job by its policy."""
    try:
        request = request_of(job, node)
        node.policy.allows(request, node.name)
    except RefusedError as refusal:
        return JobAnswer("refused", refusal.message)
    reason = node.policy.needs_no_person(request)
    return JobAnswer("accepted", reason) if reason else JobAnswer("pending", "waits for approval at this node")
