"""Task size_decision: noised counts of firms by step of a filed decision, to size a campaign without any consent.

The bank may choose rows, its own columns and bound, decision and models as it likes: a firm moves two counts by one at
most, so that root two is the sensitivity whatever it chose, and the noise is what the charge says. Each job is charged
anew, repeats too: other noise on the same counts tells more.
"""

from __future__ import annotations

import numpy as np

from veilscore.errors import ConfigError, RefusedError, SchemaError
from veilscore.models.curve import sensitivity
from veilscore.protocols.decision import DecisionAnswer, DecisionRequest, holder_receive_decision
from veilscore.protocols.decision_circuit import DecisionCircuit
from veilscore.protocols.decision_counts import bank_size, holder_size
from veilscore.tasks.align import ALIGN, ALIGNED
from veilscore.tasks.context import StepContext, aligned_table
from veilscore.tasks.decide import HIDDEN, bank_measures, bound_of, cost_of, filed_at_bank
from veilscore.tasks.decide_files import keep_told
from veilscore.tasks.decide_parts import OwnParts, filed_here
from veilscore.tasks.task import COMMITTED, Cost, Sizes, Step, Task, by_name
from veilscore.terms.decision import DecisionModel
from veilscore.terms.policy import refuse_untold
from veilscore.terms.roles import Leak, hidden
from veilscore.terms.sizing import SizeDecision
from veilscore.wire.protocol import Charge, Protocol

NO_INPUTS = bytes(32)  # in place of a digest of what the bank puts in: there are no repeats to be told
_STEP_BYTES = 12.0  # of a firm and step: products of bits, and gates of its bit


def charge_of(p: SizeDecision) -> Charge:
    """Return what the counts cost the account of every holder."""
    return Charge("counts by step", "all", p.mu**2)


def _bank_size(context: StepContext) -> Protocol[None]:
    p = context.job.of(SizeDecision)
    filed = filed_at_bank(context, p.decision, p.decision_sha256)
    n_rows, circuit = aligned_table(context).n_rows, DecisionCircuit.of(filed)
    measures, _ = bank_measures(context, filed, circuit, n_rows)
    bound, request = bound_of(context, filed, n_rows), DecisionRequest(n_rows, filed.sha256, NO_INPUTS)
    counts = yield from bank_size(
        context.session, request, circuit, measures, bound, charge_of(p), tell_holders=p.tell_holders
    )
    keep_told(context.store, filed, counts, charge_of(p).sigma(sensitivity()), n_rows, "sized")


def _holder_size(context: StepContext) -> Protocol[None]:
    p, row_of = context.job.of(SizeDecision), context.store.load_arrays("row_of")["row_of"]
    request = yield from holder_receive_decision(context.session, row_of.size)
    nobody = np.zeros(row_of.size, bool)
    try:
        filed, folder = filed_here(context, p.decision, request.decision)
        _refuse(context, p, filed.decision, request)
        parts = OwnParts.load(context, filed, folder)
    except (RefusedError, ConfigError, SchemaError) as error:  # told in the protocol's own message
        refused = DecisionAnswer(None, {}, nobody, disclose_unknown=False, refusal=error.message)
        yield from holder_size(context.session, request, refused, charge_of(p))
        return
    circuit, parts = DecisionCircuit.of(filed), parts.coded(context, row_of)
    # which firms it does not know, it never says here
    answer = DecisionAnswer(circuit, parts.measures(filed, circuit), nobody, disclose_unknown=False)
    told = yield from holder_size(context.session, request, answer, charge_of(p), told=p.tell_holders)
    if told is not None:
        # the noise of lead and bank together; the lead, which knows its own, has that of the bank alone
        both = 1.0 if context.session.party == context.session.lead else 2.0**0.5
        sigma = both * charge_of(p).sigma(sensitivity())
        keep_told(context.store, filed, told, sigma, row_of.size, "sized")


def _refuse(context: StepContext, p: SizeDecision, decision: DecisionModel, request: DecisionRequest) -> None:
    """Refuse what policy and job do not allow of the decision that the bank names."""
    if p.decision_sha256 not in {None, request.decision.hex()}:
        raise RefusedError(f"the decision's version differs from the job's, which says {str(p.decision_sha256)[:16]}")
    if decision.purpose != context.job.purpose:
        raise RefusedError(f"decision {decision.name} is for {decision.purpose}, not for this job's purpose")
    if request.last:
        raise RefusedError("counts have no month before")
    refuse_untold(context.node.policy, decision)


def _cost(_p: SizeDecision, sizes: Sizes) -> Cost:
    return cost_of(sizes, more_bytes=32 * _STEP_BYTES)


SIZE = Step(
    kind="size",
    bank=_bank_size,
    holder=_holder_size,
    reads=ALIGNED,
    reads_data=True,
    reads_home=lambda p: (f"models/{p.decision}/*.json",),
    cost=_cost,
    spends=lambda p: (charge_of(p),),
    learns=(
        COMMITTED,
        Leak("DecisionBankRound1", "holder", "opened", "which decision, by hash"),
        Leak("DecisionHolderRound1", "bank", "public", "whether it takes part"),
        Leak("DecisionHolderRound1", "bank", "masked"),  # seed of the masks on what goes to the lead
        *HIDDEN,
        *hidden("lead", "masked", "BoostPoints", "BoostProducts"),
        *hidden("bank", "masked", "BoostPoints", "BoostChoices"),
        Leak("CurveLeadCounts", "bank", "opened", "noised counts of firms by step"),
        Leak("DecisionBankCounts", "holder", "opened", "where the bank tells them, the counts with more noise"),
    ),
    tells_besides={},
    refusals=(),
)

TASK = Task(SizeDecision, by_name(align=ALIGN, size=SIZE))
