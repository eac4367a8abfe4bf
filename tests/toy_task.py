"""A whole task in one file, for tests of nodes, coordinator and command; `add_toy` is the line that adds it.

Steps align, bin, score: the bank pings every holder; in the last one the coordinator adds up masked parts, too.
A file named fault_<step> in a node's home makes that node fail: its content is the way, and it works once.
"""

from __future__ import annotations

import os
import time
from typing import ClassVar

import numpy as np
from pydantic import Field

from veilscore.crypto import shares
from veilscore.errors import DataError, RefusedError
from veilscore.tasks.context import StepContext, no_files
from veilscore.tasks.table import TASKS
from veilscore.tasks.task import COMMITTED, Cost, Step, Task, no_openings
from veilscore.terms.parameters import Parameters
from veilscore.terms.roles import Leak, Learned, hidden
from veilscore.v1 import align_pb2, score_pb2
from veilscore.wire.protocol import Progress, Protocol, Send, receive, receive_parts, send_parts


class ToyParameters(Parameters):
    """`firms`: scores that the bank makes up; `tell_hour`: holders tell the hour, which their policy may refuse."""

    task: ClassVar[str] = "toy"
    firms: int = Field(default=0, ge=0)
    tell_hour: bool = False

    @property
    def steps(self):
        return ("align", "bin", "score")

    @property
    def tells(self):
        return {"tell_hour": self.tell_hour}


def bank(context: StepContext) -> Protocol[None]:
    step, holders = context.session.id.split("/")[1], context.session.holders
    fault(step, context)
    for number, peer in enumerate(holders):
        yield Progress(f"ask {peer}", number, len(holders))
        yield Send(peer, align_pb2.AlignBankRound1(n_ids=3, points=os.urandom(96)))
        answer = yield from receive(peer, align_pb2.AlignHolderRound2)
        if not answer.accepted:
            raise RefusedError(answer.reason, party=peer)
    if step == "score":
        yield Send(context.job.coordinator, score_pb2.BatchBankRound0(n_scored=1))
        data = yield from receive_parts(context.job.coordinator, score_pb2.BatchCoordinatorTotal, 8)
        assert shares.shares_from_bytes(data, (1,), below=1 << 24) == len(holders)
        write_scores(context)
    yield Progress("all answered", len(holders), len(holders))
    context.store.save_json(f"out_{step}", {"session": context.session.id})


def holder(context: StepContext) -> Protocol[None]:
    step = context.session.id.split("/")[1]
    yield from receive(context.job.bank, align_pb2.AlignBankRound1)
    fault(step, context)
    context.store.save_json(f"out_{step}", {"session": context.session.id})
    yield Send(context.job.bank, align_pb2.AlignHolderRound2(accepted=True))
    if step == "score":
        one = shares.shares_to_bytes(np.ones(1, np.uint64))
        yield from send_parts(context.job.coordinator, score_pb2.BatchHolderPartial, one)


def write_scores(context: StepContext) -> None:
    firms = context.job.of(ToyParameters).firms
    if firms:
        lines = ["id,score,band", *(f"firm{k:06d},{500 + k % 300}.0,B" for k in range(firms))]
        (context.store.path / "scores.csv").write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def fault(step: str, context: StepContext) -> None:
    path = context.home() / f"fault_{step}"
    if not path.exists():
        return
    how = path.read_text()
    if how != "always":
        path.unlink()
    if how.startswith("sleep"):
        time.sleep(float(how.split()[1]))
    elif how == "kill":
        os._exit(9)
    elif how == "data":
        raise DataError("column secret_column has 17 bad rows")
    elif how == "bug":
        raise ZeroDivisionError("secret detail")
    elif how == "always":
        raise DataError("always")


def refuse_the_hour(policy, p):
    if p.tell_hour and not policy.publish_screening:
        raise RefusedError("does not tell the hour; set tell_hour: false")


STEP = Step(
    kind="toy",
    bank=bank,
    holder=holder,
    reads={},
    reads_data=False,
    reads_home=no_files,
    cost=lambda _p, sizes: Cost(0.001 * len(sizes.holders), 150.0 * len(sizes.holders)),
    spends=no_openings,
    learns=(
        COMMITTED,
        Leak("AlignBankRound1", "holder", "opened", "that it was pinged"),
        *hidden("bank", "public", "AlignHolderRound2"),
        Leak("BatchBankRound0", "coordinator", "public", "number of rows scored"),
        *hidden("coordinator", "masked", "BatchHolderPartial"),
        Leak("BatchCoordinatorTotal", "bank", "opened", "number of holders"),
    ),
    tells_besides={"tell_hour": Learned("hour", "the hour at each holder", "nothing", "nothing")},
    refusals=(refuse_the_hour,),
)


def add_toy() -> None:
    TASKS["toy"] = Task(ToyParameters, lambda _p, _name: STEP)


add_toy()
