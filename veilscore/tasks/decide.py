"""Task decide: the bank learns of each firm the step of a filed decision, and nothing of what it follows from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from veilscore.arrays import CodeArray, Integers
from veilscore.data.table import Kind, Table
from veilscore.errors import ConfigError, DataError, RefusedError, SchemaError
from veilscore.files.home_key import FILE as HOME_KEY
from veilscore.files.home_key import key_for
from veilscore.models.boosted import Boosted
from veilscore.models.curve import sensitivity
from veilscore.models.decided import KNOCK_OUTS, FiledDecision, Pin, bank_bound, bank_columns
from veilscore.models.model import Scorecard, ScoreModel
from veilscore.protocols.decision import (
    BankMeasure,
    BankPoints,
    BankTreePoints,
    DecisionAnswer,
    DecisionRequest,
    bank_decide,
    holder_decide,
    holder_receive_decision,
)
from veilscore.protocols.decision_circuit import DecisionCircuit, MeasureCircuit
from veilscore.protocols.decision_counts import bank_tells_counts, holder_is_told, noise_told
from veilscore.protocols.scoring import HolderPart
from veilscore.protocols.tree_scoring import bounds
from veilscore.release.batch import BatchOpening
from veilscore.release.pseudonyms import inputs_digest
from veilscore.tasks.align import ALIGNED
from veilscore.tasks.batch import ALIGN_WITH_CONSENT, refuse_unknown
from veilscore.tasks.context import StepContext, aligned_table
from veilscore.tasks.decide_files import keep_told, write_decisions
from veilscore.tasks.decide_parts import OwnParts, filed_here, own_model
from veilscore.tasks.decide_watch import HolderWatch, bank_levels, keep_bank_levels, read_before
from veilscore.tasks.task import COMMITTED, USUAL_CELLS, Cost, Sizes, Step, Task, by_name, costed, no_openings
from veilscore.terms.decide import Decide
from veilscore.terms.policy import NodePolicy, refuse_to_tell_who_is_known, refuse_untold
from veilscore.terms.roles import Leak, hidden
from veilscore.wire.protocol import Charge, Protocol
from veilscore.wire.randomness import derived, seeded

_MODELS = 2  # usual measures with a model
TOLD_MU = 0.5
TOLD = Charge("counts told", "all", TOLD_MU**2)
"""What counts tell holders of a firm: the noise is the bank's, and no account's, since the bank knows every step."""
_ROW_BYTES, _ROW_S = 19_000, 1.5e-4  # of a firm in 31 steps by such models, one of them of 60 trees (benchmarks/decide)


# --- bank ------------------------------------------------------------------------------------------------------------


def _bank_decide(context: StepContext) -> Protocol[None]:
    p, session = context.job.of(Decide), context.session
    filed = filed_at_bank(context, p.decision, p.decision_sha256)
    if filed.decision.watch != p.watch:
        raise ConfigError(
            f"decision {p.decision} is {'a' if filed.decision.watch else 'no'} watch: set watch accordingly"
        )
    table = aligned_table(context)
    if table.n_rows < p.min_batch:
        raise DataError(f"{table.n_rows} firms are fewer than min_batch {p.min_batch}")
    circuit = DecisionCircuit.of(filed)
    measures, codes = bank_measures(context, filed, circuit, table.n_rows)
    bound = bound_of(context, filed, table.n_rows)
    inputs = inputs_digest(context.home(), table.ids.tolist(), np.hstack([*codes, bound[:, None].astype(np.uint8)]))
    levels, links = bank_levels(context, filed, table.ids) if p.watch else (None, np.zeros(0, np.int64))
    request = DecisionRequest(table.n_rows, filed.sha256, inputs, p.last or "", links)
    found = yield from bank_decide(session, request, circuit, measures, bound, levels)
    if p.tells_counts:
        yield from _tell_counts(context, request, np.bincount(found.steps, minlength=circuit.n_steps + 1))
    refuse_unknown(p, found.unknown)
    if levels is not None:
        keep_bank_levels(context, levels, filed, table.ids)
    write_decisions(context.store, table, filed.decision, found)


def _tell_counts(context: StepContext, request: DecisionRequest, counts: Integers) -> Protocol[None]:
    """Tell holders how many rows (n_steps + 1,) are at each step, with noise.

    Its seed is of the bank's key and of all that it is put on: a step that runs again after a failure, or a batch that
    is repeated, tells the same and not what could be averaged.
    """
    said = f"{request.decision.hex()} {request.inputs.hex()} {counts.tolist()}"
    seed = derived(key_for(context.home(), "counts told"), said)
    noise = seeded(seed, lambda: noise_told(TOLD.sigma(sensitivity()), counts.size))
    yield from bank_tells_counts(context.session, counts + noise)


def filed_at_bank(context: StepContext, name: str, sha256: str | None) -> FiledDecision:
    """Return the decision in use; ConfigError where it is not the one that the job names, or not for its parties."""
    filed, job = FiledDecision.load(context.home() / "models" / name), context.job
    if sha256 not in {None, filed.sha256.hex()}:
        raise ConfigError(
            f"decision {name} is in use in another version than the job names: go back to that version "
            "(veilscore decision rollback), or submit the job again"
        )
    if filed.decision.purpose != job.purpose:
        raise ConfigError(f"purpose: decision {name} is for {filed.decision.purpose}, the job for {job.purpose[:60]!r}")
    if set(filed.holders) != set(job.holders):
        raise ConfigError(
            f"decision {name} is over {', '.join(filed.holders)}, the job has {', '.join(sorted(job.holders))}: "
            "name these holders and no others"
        )
    return filed


def bank_measures(
    context: StepContext, filed: FiledDecision, circuit: DecisionCircuit, n_rows: int
) -> tuple[dict[str, BankMeasure], list[CodeArray]]:
    """Return what the bank runs each measure of the circuit with, and its own codes, of each model (n_rows, d)."""
    measures, codes = dict[str, BankMeasure](), list[CodeArray]()
    for name, in_circuit in zip(filed.names, circuit.measures, strict=True):
        if name == KNOCK_OUTS:
            measures[name] = BankPoints(np.zeros(n_rows, np.int64))
            continue
        pin = filed.pins[name]
        model, code_map = own_model(context, filed.decision.name, name, pin)
        coded, _ = code_map.transform_with_report(aligned_table(context, kinds=code_map.kinds))
        codes.append(coded.codes)
        measures[name] = _bank_measure(context.session.holders, pin, model, coded.codes, in_circuit)
    return measures, codes


def _bank_measure(
    holders: tuple[str, ...], pin: Pin, model: ScoreModel, codes: CodeArray, circuit: MeasureCircuit
) -> BankMeasure:
    with_part = tuple(holder for holder in holders if holder in pin.maps)
    if isinstance(model, Boosted):
        circuit.band.check_totals(*bounds(model))
        return BankTreePoints(model, codes, with_part)
    if not isinstance(model, Scorecard):
        raise ConfigError(f"model {pin.model} is of format {model.format}, which this version cannot decide on")
    parts = {} if pin.written else {h: model.part(h) for h in with_part}  # the holders know what was written
    looked_up = {h: HolderPart(part.n_codes, part.points, bytes.fromhex(part.map_sha256)) for h, part in parts.items()}
    return BankPoints(model.own_units(codes), looked_up)


def bound_of(context: StepContext, filed: FiledDecision, n_rows: int) -> Integers:
    """Return the highest step that the bank's own columns and knock-outs allow each firm, (n_rows,)."""
    decision, bank = filed.decision, context.job.bank
    kinds: dict[str, Kind] = dict.fromkeys(decision.columns.values(), "number")
    kinds |= {one.column: "category" if one.is_ else "number" for one in decision.knock_outs_of(bank)}
    columns: Mapping[str, Any] = aligned_table(context, kinds=kinds).columns if bank_columns(decision, bank) else {}
    return bank_bound(decision, bank, columns, n_rows)


# --- holder ----------------------------------------------------------------------------------------------------------


def _holder_decide(context: StepContext) -> Protocol[None]:
    p, store, policy, guard = context.job.of(Decide), context.store, context.node.policy, context.guard()
    row_of = store.load_arrays("row_of")["row_of"]
    request = yield from holder_receive_decision(context.session, row_of.size)
    request = replace(request, inputs=guard.put_in(store, request.inputs))
    try:
        filed, folder = filed_here(context, p.decision, request.decision)
        _refuse(context, p, filed, request.n_rows)
        parts = OwnParts.load(context, filed, folder)
        watch = HolderWatch.begin(context, filed, request) if p.watch else None
        opening = BatchOpening(
            np.ones(row_of.size, bool) if watch is None else watch.rows.due,
            request.decision,
            parts.sha256,
            parts.n_columns,
            bits=filed.decision.bits,
            inputs=request.inputs if watch is None else watch.inputs,
            firms=None if watch is None else watch.firms.due,
        )
        guard.check_release(store, opening)
    except (RefusedError, ConfigError, SchemaError) as error:  # told in the protocol's own message
        nobody = np.zeros(row_of.size, bool)
        refused = DecisionAnswer(None, {}, nobody, disclose_unknown=False, refusal=error.message)
        yield from holder_decide(context.session, request, refused)
        return
    read = None if watch is None else read_before(context)
    if read is not None:
        unknown, parts = ~read[0], parts.with_codes(read[1])
        opening = parts.opened(opening)
    else:
        table: Table = aligned_table(context)
        if watch is not None:
            row_of = guard.withhold(store, "link to another firm last month", lambda: table.firms, row_of, watch.wrong)
        row_of = guard.consented(store, lambda: table.firms, row_of)
        parts = parts.coded(context, row_of)
        opening = parts.opened(opening)
        row_of = guard.within_budget(store, lambda: table.firms, row_of, opening)
        unknown = row_of < 0
        parts.forget(unknown)
    circuit = DecisionCircuit.of(filed)
    answer = DecisionAnswer(circuit, parts.measures(filed, circuit), unknown, policy.disclose_unknown)
    if watch is not None:
        answer = replace(answer, levels=watch.levels)
    deciding = holder_decide(context.session, request, answer)
    if watch is not None:
        deciding = watch.noted(context, deciding, ~unknown, parts.codes)
    n_rows = yield from guard.counted(deciding, store, ~unknown, opening)
    if watch is not None:
        watch.keep(context, filed, ~unknown)
    if p.tells_counts:
        told = yield from holder_is_told(context.session, circuit.n_steps)
        keep_told(store, filed, told, TOLD.sigma(sensitivity()), n_rows)
    store.save_json("scored", {"n_rows": n_rows, "model": request.decision.hex()})


def _refuse(context: StepContext, p: Decide, filed: FiledDecision, n_rows: int) -> None:
    """Refuse what policy and job do not allow of the decision that the bank names."""
    decision, policy = filed.decision, context.node.policy
    refuse_untold(policy, decision)
    if decision.watch:
        policy.release.allow_watch(decision.bits, n_rows)
    if decision.purpose != context.job.purpose:
        raise RefusedError(f"decision {decision.name} is for {decision.purpose}, not for this job's purpose")
    if decision.watch != p.watch or (p.outcomes is not None and decision.outcomes > p.outcomes):
        raise RefusedError(f"decision {decision.name} has other outcomes than the job says: submit it again")


# --- the step --------------------------------------------------------------------------------------------------------


def cost_of(sizes: Sizes, *, more_bytes: float = 0.0) -> Cost:
    """Return what usual measures and the circuit take; more_bytes : of a firm."""
    m = len(sizes.holders)
    looked_up = _MODELS * m * (USUAL_CELLS + sizes.bank / 4096) * 4096 * 16.0
    return costed(looked_up + (_ROW_BYTES + more_bytes) * sizes.bank, _ROW_S * m * sizes.bank)


def _refuse_many_outcomes(policy: NodePolicy, p: Decide) -> None:
    if p.outcomes is not None:
        policy.release.allow_values(p.outcomes)


HIDDEN = (
    *hidden("holder", "public", "BatchHolderKey", "BatchBankKey"),
    *hidden("bank", "hint", "BatchHolderHints"),
    *hidden("holder", "ciphertext", "BatchBankQuery", "BatchBankFactors"),
    *hidden("bank", "masked", "BatchHolderReply"),
    *hidden("lead", "masked", "BandHolderPartial", "BandBankLabels"),
    *hidden("lead", "public", "BandBankBase"),
    *hidden("bank", "masked", "BandLeadBase"),
    *hidden("bank", "ciphertext", "BandLeadTables"),
)
_LEARNS = (
    COMMITTED,
    Leak("DecisionBankRound1", "holder", "opened", "which decision, by hash"),
    Leak("DecisionBankRound1", "holder", "opened", "whether the bank's own inputs are those of a batch before"),
    Leak("DecisionBankRound1", "holder", "opened", "in a watch, which rows were in last month's and where"),
    Leak("DecisionHolderRound1", "bank", "opened", "whether it takes part; unknown firms where policy says so"),
    Leak("DecisionHolderRound1", "bank", "masked"),  # seed of the masks on what goes to the lead
    *HIDDEN,
    *hidden("bank", "ciphertext", "DecisionLeadLevels"),
    Leak("BandLeadDecoding", "bank", "opened", "step of each firm, which measure decided where the decision tells it"),
    Leak("DecisionBankCounts", "holder", "opened", f"counts of firms by step, with the bank's noise (mu {TOLD_MU})"),
)

DECIDE = Step(
    kind="decide",
    bank=_bank_decide,
    holder=_holder_decide,
    reads=ALIGNED,
    reads_data=True,
    reads_home=lambda p: (
        f"models/{p.decision}/*.json",
        HOME_KEY,
        *((f"jobs/{p.last}/levels.npz", f"jobs/{p.last}/watched.json") if p.last else ()),
    ),
    cost=lambda _p, sizes: cost_of(sizes),
    spends=no_openings,
    bits=lambda p: p.bits,
    learns=_LEARNS,
    tells_besides={},
    refusals=(_refuse_many_outcomes, lambda policy, p: refuse_to_tell_who_is_known(policy, p.on_missing)),
)

TASK = Task(Decide, by_name(align=ALIGN_WITH_CONSENT, decide=DECIDE))
