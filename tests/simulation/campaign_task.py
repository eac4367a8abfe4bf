"""The task of the fault campaign: every thing on disk that a real one has, and no cryptography.

Step bin: each holder charges its account, then opens a number under a one-time pad; step score: each writes a release
into its ledger, then sends its part to the coordinator, which adds them. Each attempt's pads go to `PADS`.
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import ClassVar

import numpy as np
import toy_task

from veilscore.crypto import shares
from veilscore.errors import JobError
from veilscore.release.ledger import BATCH, LEDGER, Release, ReleaseLedger
from veilscore.tasks.context import StepContext
from veilscore.tasks.table import TASKS
from veilscore.tasks.task import Task
from veilscore.v1 import align_pb2, score_pb2
from veilscore.wire.protocol import Charge, Checkpoint, Protocol, Send, receive, receive_parts, send_parts

MU2 = 0.01
PADS: list[tuple[str, str, bytes]] = []  # party, session, pad


class CampaignParameters(toy_task.ToyParameters):
    task: ClassVar[str] = "campaign"

    @property
    def steps(self):
        return ("bin", "score")


def pad(context: StepContext) -> bytes:
    """Draw what may serve one attempt only."""
    drawn = os.urandom(96)
    PADS.append((context.session.party, context.session.id, drawn))
    return drawn


def bank(context: StepContext) -> Protocol[None]:
    step, holders = context.session.id.split("/")[1], context.session.holders
    for peer in holders:
        yield Send(peer, align_pb2.AlignBankRound1(n_ids=3, points=pad(context)))
    for peer in holders:
        yield from receive(peer, align_pb2.AlignHolderRound2)
        yield Checkpoint({"after": peer})
    if step == "score":
        yield Send(context.job.coordinator, score_pb2.BatchBankRound0(n_scored=1))
        data = yield from receive_parts(context.job.coordinator, score_pb2.BatchCoordinatorTotal, 8)
        if shares.shares_from_bytes(data, (1,), below=1 << 24) != len(holders):
            raise JobError("the total is wrong")
    context.store.save_json(f"out_{step}", {"session": context.session.id})


def holder(context: StepContext) -> Protocol[None]:
    step = context.session.id.split("/")[1]
    yield from receive(context.job.bank, align_pb2.AlignBankRound1)
    if step == "bin":
        yield Charge("campaign sums", "train", MU2)
    context.store.save_json(f"out_{step}", {"session": context.session.id})
    yield Send(context.job.bank, align_pb2.AlignHolderRound2(accepted=True, reason=pad(context).hex()))
    if step == "score":
        with closing(ReleaseLedger(context.home() / LEDGER)) as ledger:
            firms = ledger.firms([f"firm {k}" for k in range(5)])
            ledger.add(
                Release(BATCH, context.job.bank, context.session.id, "m" * 64, "c" * 64, firms, bits=3.0, rows=firms)
            )
        one = shares.shares_to_bytes(np.ones(1, np.uint64))
        yield from send_parts(context.job.coordinator, score_pb2.BatchHolderPartial, one)


STEP = toy_task.Step(
    kind="campaign",
    bank=bank,
    holder=holder,
    reads={},
    reads_data=False,
    reads_home=toy_task.no_files,
    cost=lambda _p, _sizes: toy_task.Cost(0.001, 150.0),
    spends=lambda _p: (Charge("campaign sums", "train", MU2),),
    learns=toy_task.STEP.learns,
    tells_besides={},
    refusals=(),
)
TASKS["campaign"] = Task(CampaignParameters, lambda _p, _name: STEP)
