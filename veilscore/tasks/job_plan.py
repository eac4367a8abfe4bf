"""What a job would do, before anything runs: sentences and tables for `veilscore job plan` and for the console."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from veilscore.errors import DataError, RefusedError
from veilscore.models.best_columns import found_at_auc
from veilscore.models.curve import expected_errors
from veilscore.models.design import most_columns
from veilscore.models.noise_cost import KnownSizes
from veilscore.release.account import YEAR_S
from veilscore.release.ledger import LEDGER, ReleaseLedger, firms_by_bits
from veilscore.tasks.best_columns import best_of_job
from veilscore.tasks.context import account_of, usable_columns
from veilscore.tasks.noise import USUAL_COLUMNS, named_columns, sizes_at_bank
from veilscore.tasks.spent import bits_by_batches, spent_by_receipts
from veilscore.tasks.table import (
    FIRST_BINS,
    answer_to,
    bins_charge,
    charges_by_step,
    charges_of,
    estimate,
    leakage_table,
    noise_of,
    refuse_too_many,
    steps_of,
    uses_fixed_bins,
)
from veilscore.tasks.task import EXACT
from veilscore.terms.job import Job
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.parameters import Sampled, ScoreBatch, ScreenFeatures
from veilscore.terms.privacy import PrivacyRules, in_words, total
from veilscore.terms.rules import ReleaseRules
from veilscore.terms.training import TrainScorecard
from veilscore.wire.protocol import Charge

_BADS = (100, 300, 1_000, 3_000)  # how many a hold-out has is not known before the bank's labels are read


@dataclass(frozen=True)
class PlanTable:
    """One table of a plan."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


PlanPart = PlanTable | str


def _table(title: str, heads: Iterable[str], rows: Iterable[Iterable[object]]) -> PlanTable:
    return PlanTable(title, tuple(heads), tuple(tuple(map(str, row)) for row in rows))


@dataclass(frozen=True)
class JobPlan:
    """A job and what is known of its parties.

    homes : on this machine, by party; foretells : whether the answers of their policies are foretold.
    rows, columns : by party, as the user said; bads : among the bank's rows.
    """

    job: Job
    homes: Mapping[str, tuple[Path, NodeConfig]] = field(default_factory=dict)
    foretells: bool = False
    rows: Mapping[str, int] = field(default_factory=dict)
    bads: int | None = None
    columns: Mapping[str, int] = field(default_factory=dict)

    def columns_of(self, holder: str) -> int | None:
        """Return the number of a holder's columns: as said, as the job names them, as its home has them."""
        known = self.columns.get(holder, named_columns(self.job).get(holder))
        if known is None and holder in self.homes:
            known = len(usable_columns(self.homes[holder][1], self.job))
        return known

    def sizes(self) -> KnownSizes | None:
        """Return what is known of the job's size, by the user's word or by the bank's labels; None if nothing is."""
        job, p = self.job, self.job.parameters
        columns = {holder: self.columns_of(holder) or USUAL_COLUMNS for holder in job.holders}
        n = self.rows.get(job.bank)
        if n is not None and self.bads is not None and isinstance(p, Sampled):
            train = 1.0 - p.holdout_fraction
            return KnownSizes(n * train, self.bads * train, self.bads * p.holdout_fraction, columns)
        return sizes_at_bank(self.homes[job.bank][1], job, columns) if job.bank in self.homes else None


def plan_of(plan: JobPlan) -> Iterator[PlanPart]:
    """Yield parties and approvals, steps, cost, who learns what and how much.

    Raises RefusedError at the end where a party is known to refuse, or the noise drowns the data.
    """
    job = plan.job
    rows = [(p, _role(job, p), job.datasets[p], _approval(plan, p)) for p in job.parties]
    yield _table("Parties", ("party", "role", "data set", "approval"), rows)
    steps = [(n, s, ", ".join(job.parties_of(s))) for n, s in enumerate(job.steps, start=1)]
    yield _table("Steps", ("", "step", "parties"), steps)
    yield from _cost(plan)
    yield from _learned(job)
    if isinstance(job.parameters, TrainScorecard):
        yield from _limit(plan, job.parameters)
    if charges_of(job.parameters):
        yield from _charges(plan)
        yield from _noise(plan)
    elif isinstance(job.parameters, ScoreBatch):
        yield from _bits(plan)
    _refuse_if_known(plan)


def _limit(plan: JobPlan, p: TrainScorecard) -> Iterator[PlanPart]:
    """Yield how many columns of all parties the scorecard has at most."""
    if p.rows_per_column is None:
        yield "Columns of the scorecard: any number (rows_per_column: null)."
        return
    try:
        sizes = plan.sizes()
    except DataError:
        sizes = None
    rarer = None if sizes is None else min(sizes.bads, sizes.train - sizes.bads)
    most = "" if rarer is None else f", {most_columns(p, rarer):,} of {rarer:,.0f} such rows"
    yield (
        f"Columns of the scorecard: at most one for {p.rows_per_column:g} training rows of the rarer class{most} "
        "(rows_per_column); those of the highest IV stay."
    )


def _refuse_if_known(plan: JobPlan) -> None:
    """End with the refusal that a party's policy or account would give, where its home is on this machine."""
    job = plan.job
    for party in job.parties if plan.foretells else ():
        if party not in plan.homes:
            continue
        answer = answer_to(job, plan.homes[party][1])
        if answer.status == "refused":
            raise RefusedError(f"{party} refuses the job: {answer.reason}", party=party)
        charges = charges_of(job.parameters) if party != job.bank else ()
        if charges and EXACT not in charges:
            whole = total((*charges, *bins_charge(*plan.homes[party], job)))
            account_of(*plan.homes[party], job).check(whole)


def _bits(plan: JobPlan) -> Iterator[PlanPart]:
    """Yield how many bits of each firm a batch tells, and for how many firms that is too much by now."""
    job, year = plan.job, ReleaseRules().bits_per_year
    bits = sum(step.bits(job.parameters) for step in steps_of(job.parameters).values())
    if math.isinf(bits):
        yield "Of each firm this job tells the score itself, which no bits bound: every holder has to allow it."
        return
    yield (
        f"Of each firm this job tells {bits:.1f} bits; a holder allows {year:g} a year unless its policy says "
        "otherwise, and the same model on the same record is free."
    )
    if job.bank in plan.homes:
        told = bits_by_batches(plan.homes[job.bank][0], job)
        over = sum(before + bits > year + 1e-9 for before in told.values())
        if over:
            yield (
                f"By this bank's batches of a year, {over:,} of {len(told):,} firms that were scored before would pass "
                "that: a batch with one of them is refused. Leave them out, use what they were told, or take a model "
                "that they were scored by."
            )
    for holder in job.holders:
        if holder in plan.homes and (plan.homes[holder][0] / LEDGER).is_file():
            rules = plan.homes[holder][1].policy.release
            with contextlib.closing(ReleaseLedger(plan.homes[holder][0] / LEDGER)) as ledger:
                firms = firms_by_bits(ledger.releases(ledger.now_s() - YEAR_S)).get(job.bank, Counter())
            over = sum(n for before, n in firms.items() if before + bits > rules.bits_per_year + 1e-9)
            yield (
                f"{holder}: {sum(firms.values()):,} firms were scored within a year, {over:,} have too little left for "
                f"another model (release.bits_per_year: {rules.bits_per_year:g})"
            )


def proposal_of(plan: JobPlan) -> Iterator[PlanPart]:
    """Yield for whoever decides on a job: its parameters, who learns what, and what it would spend at this party."""
    yield from asked_of(plan.job)
    if charges_of(plan.job.parameters):
        yield from _charges(plan)


def asked_of(job: Job) -> Iterator[PlanPart]:
    """Yield what a job asks for: its parameters, and who learns what."""
    rows = job.parameters.model_dump(mode="json", exclude_none=True)
    yield _table("Parameters", ("what", "value"), rows.items())
    yield from _learned(job)


def spent_of(job: Job, job_id: str, home: Path, node: NodeConfig) -> Iterator[PlanPart]:
    """Yield what a job was charged at a holder so far, where this is the holder's own home."""
    if node.role != "holder" or not charges_of(job.parameters):
        return
    spent = account_of(home, node, job).by_job().get(job_id)
    said = "nothing was charged" if spent is None else f"mu {math.sqrt(spent[1]):.2f} was charged"
    yield f"Within a year {said} for this job; `veilscore account show` has the whole account."


def _learned(job: Job) -> Iterator[PlanPart]:
    learned = leakage_table(job.parameters)
    yield _table(
        "Who learns what",
        ("step", "the bank", "how much of a firm", "a holder", "the coordinator"),
        ((row.step, row.bank, row.how_much, row.holder, row.coordinator) for row in learned),
    )


def _role(job: Job, party: str) -> str:
    if party == job.bank:
        return "bank"
    return "holder, lead" if party == job.holders[0] and len(job.holders) > 1 else "holder"


def _approval(plan: JobPlan, party: str) -> str:
    """Return the answer that the party's policy would give, where its home is on this machine."""
    if not plan.foretells:
        return "its policy decides when the job is submitted"
    if party not in plan.homes:
        return "no home here: its policy decides"
    answer = answer_to(plan.job, plan.homes[party][1])
    if answer.status == "pending":
        return "a person approves: `veilscore job inbox`"
    return f"refused: {answer.reason}" if answer.status == "refused" else "accepted: by its policy"


def _errors(job: Job) -> Iterator[PlanPart]:
    """Yield how far the noise of a private job's curve moves what is read off it, by how many bads there may be."""
    mu = [1 / charge.sigma(1.0) for charge in charges_of(job.parameters) if charge.opening == "curve"]
    if not mu:
        return
    errors = [(bads, *expected_errors(mu[0], bads)) for bads in _BADS]
    rows = [(f"{bads:,}", f"± {auc:.4f}", f"± {ks:.4f}") for bads, auc, ks in errors]
    yield _table("Noise of the curve, at most about", ("bads held out", "AUC", "KS"), rows)


def _cost(plan: JobPlan) -> Iterator[PlanPart]:
    job, sizes = plan.job, plan.rows
    if job.bank not in sizes:
        yield f"Time and bytes: give the number of rows, for example --rows {job.bank}=120000"
        return
    p = job.parameters
    if isinstance(p, Sampled) and p.holdout_from is None and p.rows == "firms":  # else nobody knows how many train
        refuse_too_many(job, int(sizes[job.bank] * (1.0 - p.holdout_fraction)))
    known = {holder: n for holder in job.holders if (n := plan.columns_of(holder)) is not None}
    costs = estimate(job, sizes, known).items()
    rows = [(name, f"{cost.seconds:.1f}", f"{cost.bytes / 1e6:.2f}") for name, cost in costs]
    yield _table("Estimated cost (2 cores, local network)", ("step", "wall s", "sent MB"), rows)


def _charges(plan: JobPlan) -> Iterator[PlanPart]:
    """Yield what each opening costs, what all of them mean, and what each holder's account has left."""
    job = plan.job
    if EXACT in charges_of(job.parameters):
        yield (
            "How much of a firm: this job opens exact sums, so no bound holds, and the accounts of these data sets "
            "are void from then on."
        )
        for holder in job.holders:
            yield f"{holder}: {_account(plan, holder, None)}"
        return
    for holders, bins in _alike(plan):
        steps = {"bin (once a version)": bins, **charges_by_step(job.parameters)}
        charges = [charge for step in steps.values() for charge in step]
        whole = total(charges)
        rows = [
            (step, c.opening.split()[0], c.rows, f"{math.sqrt(c.mu2):.3f}", f"{c.mu2 / whole:.0%}")
            for step, some in steps.items()
            for c in some
        ]
        title = f"How much of a firm at {', '.join(holders)}"
        yield _table(title, ("step", "opened, noised", "rows", "mu", "of mu squared"), rows)
        yield f"Together mu {math.sqrt(whole):.2f}: {in_words(math.sqrt(whole))}."
        if isinstance(job.parameters, Sampled) and job.parameters.rows == "firm_dates":
            yield _dates(job.parameters)
        for holder in holders:
            yield f"{holder}: {_account(plan, holder, whole)}"


def _dates(p: Sampled) -> str:
    """Say what a job takes of firms at dates, and what its noise covers."""
    if p.rows_per_firm == 1:
        return "Counted is the firm: one date of each takes part, and noise is that of one row."
    most = f"Counted is the firm: at most {p.rows_per_firm} dates of each take part"
    if p.noise_rows == 1:
        return f"{most}, whose weights add up to at most 1, and noise is that of one row."
    return (
        f"{most}, and all noise is {p.noise_rows} times that of one "
        "row; rows_per_firm: 1 takes one date of each, firm_weight: shared (scorecards) all with the noise of one."
    )


def _alike(plan: JobPlan) -> Iterable[tuple[list[str], tuple[Charge, ...]]]:
    """Return holders in groups whose charges are alike: of fixed bins that the bank has paid for, or not yet."""
    groups: dict[tuple[float, ...], tuple[list[str], tuple[Charge, ...]]] = {}
    for holder in plan.job.holders:
        bins: tuple[Charge, ...] = FIRST_BINS if uses_fixed_bins(plan.job) else ()
        if holder in plan.homes:
            bins = bins_charge(*plan.homes[holder], plan.job)
        elif plan.job.bank in plan.homes and spent_by_receipts(plan.homes[plan.job.bank][0], plan.job, holder).mu2:
            bins = ()
        groups.setdefault(tuple(charge.mu2 for charge in bins), ([], bins))[0].append(holder)
    return groups.values()


def _account(plan: JobPlan, holder: str, needed: float | None) -> str:
    """Say what a holder's account has left, by itself where its home is here, else by the bank's receipts.

    needed : square of mu of the job; None for an exact one.
    """
    job = plan.job
    if holder in plan.homes:
        account = account_of(*plan.homes[holder], job)
        since, left = account.voided_since(), account.left()
        said = f"its account with {job.bank} has mu {math.sqrt(left):.2f} left of {account.rules.year:g} a year"
        if since is not None:
            said += "; void: an exact job opened sums without noise"
        if needed is not None:
            rest = left - needed
            said += f", after this job {math.sqrt(rest):.2f}" if rest > -1e-9 else "; that is too little for this job"
        return said
    if job.bank not in plan.homes:
        return "only the holder knows what its account has left (`veilscore account show` there)"
    found = spent_by_receipts(plan.homes[job.bank][0], job, holder)
    exact = f", and {found.exact} in exact mode" if found.exact else ""
    return (
        f"by this bank's receipts of a year, {found.jobs} private jobs have spent mu {math.sqrt(found.mu2):.2f} of its "
        f"account{exact}; its policy says how much a year may spend (usually {PrivacyRules().year:g})"
    )


def _choice(plan: JobPlan, p: ScreenFeatures, sizes: KnownSizes) -> Iterator[PlanPart]:
    """Yield how much a column must tell by itself so that a noisy choice of the best finds it."""
    for holder, columns in sizes.columns.items():
        if columns <= best_of_job(p):
            yield f"Of {holder} all {columns} columns are kept, and nothing is spent."
            continue
        auc = found_at_auc(p.mu / p.noise_rows, best_of_job(p), columns, sizes.bads, sizes.train - sizes.bads)
        assumed = " (assumed: give --columns)" if plan.columns_of(holder) is None else ""
        yield (
            f"Of {holder} the best {best_of_job(p)} of {columns:,} columns{assumed} are kept: a column that alone has "
            f"an AUC of {auc:.3f} is among them half the time, a better one more often."
        )


def _noise(plan: JobPlan) -> Iterator[PlanPart]:
    """Yield what the noise is expected to cost; RefusedError where it drowns the data."""
    job = plan.job
    try:
        sizes = plan.sizes()
    except DataError as error:
        yield f"Expected cost of noise: not foretold, {error.message}"
        return
    if sizes is None:
        yield f"Expected cost of noise: give --rows {job.bank}=ROWS and --bads BADS, or --home HOME of the bank"
        yield from _errors(job)
        return
    cost = noise_of(job, sizes)
    if isinstance(job.parameters, ScreenFeatures):
        yield from _choice(plan, job.parameters, sizes)
        return
    if cost is None:  # private trees: only the noise of their curve is foretold
        yield from _errors(job)
        return
    assumed = {holder for holder in job.holders if plan.columns_of(holder) is None}
    columns = ", ".join(f"{h} {n}{' (assumed: give --columns)' * (h in assumed)}" for h, n in sizes.columns.items())
    yield (
        f"Expected cost of noise: {cost.auc:.4f} of the model's AUC, for {sizes.train:,.0f} training rows with "
        f"{sizes.bads:,.0f} bads and columns {columns}."
    )
    if cost.curve_auc is not None and cost.curve_ks is not None:
        yield (
            f"The curve of the hold-out ({sizes.bads_held:,.0f} bads) errs by about {cost.curve_auc:.3f} in AUC and "
            f"{cost.curve_ks:.3f} in KS (one deviation of the noise)."
        )
    if getattr(job.parameters, "despite_noise", False):
        yield f"Despite noise: it {cost.drowned}." if cost.drowned else "Its noise does not drown the data."
    else:
        cost.refuse_if_drowned(job.bank)
