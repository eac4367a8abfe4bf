"""Offers a node's side of online scoring, and says what its callers see of it.

Source   : `veilscore.protocols.online` (roles and messages), `online_spares` and `online_band` beside it; ADR 17.
Parties  : a loan system asks its own bank (`online.bank`: Score), which asks the holders (`online.holder`); the
           coordinator adds (`coordinator.totals`). While idle, the nodes make spares and transfers (`online.stock`).
Reveals  : to the bank, by default one of at most 32 steps of the firm's total; whether a holder knows the firm where
           its policy says so (`disclose_unknown`); codes of the columns named in a holder's `reason_columns`; the time
           of the holder's data; that a record is another than before. To a holder, that the firm is scored, when, for
           which purpose and by which model hash, and the cut-offs of the steps. To the lead nothing more than to a
           holder, as the holders' sum is uniform without the bank's masks; to the coordinator nothing. Bank and lead
           together know the total.
           With a band alone (`output: band`), the band instead and no codes of `reason_columns`.
           Of a decision (`output: decision`), its step, and the measure that decided where the decision tells it; no
           total of any measure, no codes, no knock-out (docs/decisions.md).
           With `output: exact`, where holders agreed (`exact_for`), the firm's total, hence what all holders' parts add
           up to, and a holder's part if only one takes part; to the coordinator, when holders score with whom. A bank
           and a coordinator together learn no single part while two honest holders take part.
Assumes  : ring-LWE; semi-honest parties. A bank that asks for points other than its model's is not prevented, but
           found: it is committed to what it draws before it has anything of a holder (docs/adr/0012).
Aborts   : nothing wrong is ever returned as a score: a total outside what the model allows, holders' keys that changed
           on the way, a map of another version all end as status "failed" with the reason.
           Of a step or band this cannot be told: a wrong part gets a wrong one opened, where a wrong total is
           mostly out of range.

Missing parties, by the request's `on_missing`:
    fail          a firm unknown to a holder, a refusing or unreachable holder: status "failed", no score.
    missing_code  a firm unknown to a holder gets its bins of missing values (the holder takes them itself, and the
                  bank learns of it only if its policy discloses that); refusing or unreachable: "failed".
    neutral       as missing_code, and a holder that refuses or cannot be reached counts with its average points over
                  the training rows; status "fallback", each party's status beside it. Sums over different sets of
                  holders would show single parts by subtraction, so the others then open theirs only if their policy
                  says `online_without_others`; otherwise they count with their average too.
A holder that keeps unknown firms to itself refuses `fail`, as in batch scoring.
Status of a party: ok, not disclosed (answered; does not say whether it knows the firm), unknown, refused, failed.

Retries: a response "scored" or "fallback" is kept and given again for its request id, also after a restart. Holders
open a request id once; a repeat with the same bytes gets the same partial. A request that failed may be repeated
under its id unless its message asks for a new one. The lead opens one band, or one decision, for a request id: the
same labels get the same tables, other labels are refused, and after a restart of the lead the request is lost.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from veilscore.errors import ConfigError
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.fabric import Fabric
from veilscore.terms.node_config import NodeConfig
from veilscore.v1 import control_pb2 as pb


class OnlineSide(Protocol):
    """What a node has of online scoring; what it releases goes into the node's log first, where there is one."""

    evidence: EvidenceRecorder | None

    def register(self, fabric: Fabric) -> None:
        """Offer its calls."""

    def policy_changed(self) -> None:
        """Go by the policy that the node's configuration has now."""

    def spares(self) -> dict[str, int]:
        """Return how many spares there are: at a bank by "holder/model", at a holder by bank."""

    async def start(self) -> None:
        """Finish what the previous run left over; the log is open."""

    async def close(self) -> None:
        """Stop, and give up what still runs."""


class BankSide(OnlineSide, Protocol):
    """The bank's, which answers whoever its node lets ask."""

    async def answer(self, request: pb.ScoreRequest) -> pb.ScoreResponse:
        """Score one firm."""


class DoorSide(Protocol):
    """What a bank's node has of its door (`veilscore.online.door`)."""

    @property
    def ports(self) -> tuple[int | None, int | None]:
        """Return its ports of HTTP and gRPC."""

    async def start(self) -> None:
        """Listen."""

    async def watch(self) -> None:
        """Keep to the callers of now, for ever."""

    async def stop(self, grace_s: float) -> None:
        """Give running requests some time, and close."""


def online_side(home: Path, node: NodeConfig, ledger: Ledger) -> OnlineSide:
    """Return the side of a bank's or a holder's node, by its role; loads the encryption library."""
    name = "Bank" if node.role == "bank" else "Holder"
    side = getattr(importlib.import_module(f"veilscore.online.{name.lower()}"), f"Online{name}")
    return cast("OnlineSide", side(home, node, ledger))


def door_side(home: Path, node: NodeConfig, side: OnlineSide) -> DoorSide | None:
    """Return the door of a bank's node that has one; loads a web server, which is an extra."""
    if node.door is None:
        return None
    answer = cast("BankSide", side).answer
    try:
        opened = importlib.import_module("veilscore.online.door_service").Door(home, node, node.door, answer)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in {"starlette", "uvicorn", "h11"}:
            raise
        raise ConfigError(f"the door needs {package}: pip install 'veilscore[door]'") from error
    return cast("DoorSide", opened)
