"""Sealed decisions of 100,000 firms between three processes over TLS, beyond alignment: seconds, and bytes a firm.

Three measures: a stack (60 boosted trees of depth 3 and a scorecard of 20 columns, with two holders), a model written
by hand (bank and both holders), the bank's own bound; knock-outs at both holders. A tenth of the firms is unknown to
each holder. Every step is compared with the plain decision. Bank and holders are processes of their own on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from result import emit

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from decision_oracle import decided
from random_trees import boosted, part, plain_units, random_tree

from veilscore.fabric.fabric import Fabric
from veilscore.keys.identity import load_identity
from veilscore.lattice.params import SCORE_T
from veilscore.models.loss import TURN
from veilscore.models.stacked import column_trees
from veilscore.node.founding import found_federation
from veilscore.protocols.decision import (
    BankPoints,
    BankTreePoints,
    DecisionAnswer,
    DecisionRequest,
    HolderPoints,
    HolderTreePoints,
    bank_decide,
    holder_decide,
    holder_receive_decision,
)
from veilscore.protocols.decision_circuit import FAILURES_RING, DecisionCircuit, MeasureCircuit
from veilscore.terms.federation import load_federation
from veilscore.v1 import wire_pb2 as pb
from veilscore.wire.driver import run
from veilscore.wire.protocol import Send, Session, receive

if TYPE_CHECKING:
    from veilscore.wire.protocol import Protocol

HOLDERS = ("tax", "registry")
N_COLUMNS, N_CODES, N_TREES, N_STEPS = 10, 16, 60, 31
BOUND_S, BOUND_BYTES = 30.0, 20_000.0


class Case:
    """Models and firms, the same in every process; a party uses its own."""

    def __init__(self, n_rows: int) -> None:
        rng = np.random.default_rng(1)
        n_codes = np.full(N_COLUMNS, N_CODES)
        both = {"bank": n_codes, "holder": n_codes}
        trees = [random_tree(rng, HOLDERS[k % 2], both, n_leaves=8, max_depth=3) for k in range(N_TREES)]
        columns = [
            tree.model_copy(update={"weights": tuple(rng.normal(0, 0.1, tree.n_leaves).tolist())})
            for holder, side in ((HOLDERS[0], "bank"), *((holder, "holder") for holder in HOLDERS))
            for tree in column_trees(holder, n_codes, side)
        ]
        self.n_rows = n_rows
        self.stack = boosted(
            [*trees, *columns],
            [part("bank", "bank", n_codes), *(part(holder, "holder", n_codes) for holder in HOLDERS)],
        )
        self.codes = {p: rng.integers(0, N_CODES, (n_rows, N_COLUMNS), dtype=np.uint8) for p in ("bank", *HOLDERS)}
        self.unknown = {holder: rng.random(n_rows) < 0.1 for holder in HOLDERS}
        for holder in HOLDERS:
            self.codes[holder][self.unknown[holder]] = N_CODES - 1
        table = rng.integers(0, 250_000, (3, N_COLUMNS, N_CODES))
        self.by_hand = {
            p: sum(table[k, j][codes[:, j]] for j in range(3)) for k, (p, codes) in enumerate(self.codes.items())
        }
        self.failures = {h: ((self.codes[h][:, 4] == 0) & ~self.unknown[h]).astype(int) for h in HOLDERS}
        self.bound = rng.integers(0, N_STEPS + 1, n_rows)
        self.bound[rng.random(n_rows) < 0.5] = N_STEPS
        places = np.linspace(0.02, 0.6, N_STEPS)
        self.limits = [np.quantile(total, places).astype(int).tolist() for total in self.totals()[:2]]
        self.limits.append([0] * N_STEPS)
        moduli = SCORE_T, TURN, FAILURES_RING
        self.circuit = DecisionCircuit(
            tuple(MeasureCircuit(tuple(cut), m) for cut, m in zip(self.limits, moduli, strict=True)), knock_outs=True
        )

    def totals(self) -> list[np.ndarray]:
        """Totals of the measures with holders in the clear."""
        return [plain_units(self.stack, self.codes), sum(self.by_hand.values()), -sum(self.failures.values())]

    def role(self, name: str, session: Session) -> Protocol[Any]:
        """One party's part in a batch of all rows."""
        if name == "bank":
            measures = {
                "risk": BankTreePoints(self.stack, self.codes["bank"], HOLDERS),
                "capacity": BankPoints(self.by_hand["bank"]),
                "knock_outs": BankPoints(np.zeros(self.n_rows, np.int64)),
            }
            request = DecisionRequest(self.n_rows, b"d" * 32, b"i" * 32)
            return bank_decide(session, request, self.circuit, measures, self.bound)

        def holder() -> Protocol[int]:
            request = yield from holder_receive_decision(session, self.n_rows)
            shapes = tuple(tree.shape() for tree in self.stack.trees_of(name))
            measures = {
                "risk": HolderTreePoints(self.codes[name], self.stack.part(name).n_codes, shapes),
                "capacity": HolderPoints(self.by_hand[name], TURN),
                "knock_outs": HolderPoints(-self.failures[name], FAILURES_RING),
            }
            answer = DecisionAnswer(self.circuit, measures, self.unknown[name], disclose_unknown=False)
            return (yield from holder_decide(session, request, answer))

        return holder()


async def take_part(folder: Path, name: str, sizes: list[int]) -> None:
    """Run one party in this process, first on few rows to load what is compiled; prints what the last batch took."""
    fabric = Fabric(
        load_identity(folder / name / "identity"),
        load_federation(folder / "federation.yaml"),
        accept_session=lambda _session, _sender: True,
    )
    await fabric.start()
    for number, n_rows in enumerate(sizes):
        session = Session(f"job/decide/{number}", name, "bank", HOLDERS)
        case = Case(n_rows)
        await meet(fabric, session)
        cpu, start = time.process_time(), time.perf_counter()
        done = await run(case.role(name, session), fabric.channel(session), session)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"s": wall, "cpu_s": cpu, "sent_bytes": fabric.bytes_sent(session.id), "peak_mb": peak}
    if name == "bank":
        steps, _ = decided(case.limits, case.totals(), case.bound, knock_outs=True)
        figures["wrong_firms"] = int((done.steps != steps).sum())
        figures["firms_by_step"] = np.bincount(steps, minlength=N_STEPS + 1).tolist()
        figures["knocked_out"] = int((case.totals()[2] < 0).sum())
        figures["gates"] = case.circuit.gates()
    print(json.dumps(figures), flush=True)
    await asyncio.sleep(1)  # a peer may still wait for an acknowledgement
    await fabric.stop(0.1)


async def meet(fabric: Fabric, session: Session) -> None:
    """Wait until all parties have made their firms, so that the time is that of the batch alone."""
    started = Session(f"{session.id.rsplit('/', 1)[0]}/9{session.id[-1]}", session.party, session.bank, session.holders)
    await run(_all_here(started), fabric.channel(started), started)


def _all_here(session: Session) -> Protocol[None]:
    others = [p for p in (session.bank, *session.holders) if p != session.party]
    for other in others:
        yield Send(other, pb.StepCommitment(commitment=b"here"))
    for other in others:
        yield from receive(other, pb.StepCommitment)


def measured(n_rows: int) -> dict[str, dict[str, Any]]:
    """Decide on all rows with every party in its own process; figures by party."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found_federation(folder, {"bank": "bank"} | dict.fromkeys(HOLDERS, "holder"))
        command = [sys.executable, __file__, "--sizes", "9000", str(n_rows), "--home", str(folder)]
        started = {
            party: subprocess.Popen(
                [*command, "--party", party], stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
            )
            for party in (*HOLDERS, "bank")
        }
        said = {party: process.communicate()[0] for party, process in started.items()}
    return {party: json.loads(text.splitlines()[-1]) for party, text in said.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    for hidden in ("--home", "--party"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.party:
        asyncio.run(take_part(Path(arguments.home), arguments.party, arguments.sizes))
        return
    parties = measured(arguments.rows)
    bank = parties["bank"]
    firm_bytes = sum(one["sent_bytes"] for one in parties.values()) / arguments.rows
    print(f"{arguments.rows:,} firms, {N_STEPS} steps, {bank['gates']} ANDs a firm")
    print(f"{'seconds':<24}{bank['s']:>12.1f}{BOUND_S:>12.1f}")
    print(f"{'bytes a firm':<24}{firm_bytes:>12.0f}{BOUND_BYTES:>12.0f}")
    print(f"{'wrong firms':<24}{bank['wrong_firms']:>12}{0:>12}")
    holds = bank["s"] <= BOUND_S and firm_bytes <= BOUND_BYTES and not bank["wrong_firms"]
    emit("decide", bank["s"], "s", BOUND_S, holds, firms=arguments.rows, bytes_a_firm=firm_bytes, **parties)


if __name__ == "__main__":
    main()
