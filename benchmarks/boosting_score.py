"""Scores of boosted trees: in batch between two processes over TLS, and one by one between four.

Batch, 100 random trees of depth 4 with one holder: trees that ask the bank and the holder by turns (products, 100,000
rows), and trees of the holder's columns alone (lookups, a million rows). Bank and holder are processes of their own;
the coordinator, which adds 8 bytes a row, is a third. Totals are compared with those of all codes in one place.
Online: 100 trees of depth 4 with two holders, trained for the purpose, measured as in `score_online`.
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
import score_online
from random_trees import boosted, part, plain_units, random_tree

from veilscore.fabric.fabric import Fabric
from veilscore.keys.identity import load_identity
from veilscore.node.founding import found_federation
from veilscore.protocols.adding import coordinator_add
from veilscore.protocols.scoring import HolderAnswer, holder_receive
from veilscore.protocols.tree_scoring import bank_score_trees, holder_score_trees
from veilscore.terms.federation import load_federation
from veilscore.wire.driver import run
from veilscore.wire.protocol import Session

if TYPE_CHECKING:
    from veilscore.models.boosted import Boosted
    from veilscore.wire.protocol import Protocol

N_COLUMNS, N_CODES, N_TREES = 10, 32, 100
SIDES = {"paired": ("bank", "holder"), "own": ("holder",)}
BOUNDS = {"paired_s": 40.0, "paired_gb": 1.2, "own_s": 90.0, "own_mb_returned": 60.0, "online_ms": 25.0}
TRAIN = "{disclosure: exact, max_bin: 10, n_estimators: 100, max_depth: 4}"


def case(form: str, n_rows: int) -> tuple[Boosted, dict[str, np.ndarray]]:
    """Model and codes, the same in every process; a party uses its own."""
    rng = np.random.default_rng(1)
    n_codes = {"bank": np.full(N_COLUMNS, N_CODES), "holder": np.full(N_COLUMNS, N_CODES)}
    trees = [random_tree(rng, "tax", n_codes, sides=SIDES[form]) for _ in range(N_TREES)]
    model = boosted(trees, [part("bank", "bank", n_codes["bank"]), part("tax", "holder", n_codes["holder"])])
    codes = {p: rng.integers(0, N_CODES, (n_rows, N_COLUMNS), dtype=np.uint8) for p in ("bank", "tax")}
    return model, codes


def role(name: str, session: Session, form: str, n_rows: int) -> Protocol[Any]:
    """One party's part in a batch of all rows."""
    model, codes = case(form, n_rows)
    if name == "bank":
        return bank_score_trees(session, "coordinator", np.ones(n_rows, bool), codes["bank"], model)
    if name == "coordinator":
        return coordinator_add(session)

    def holder() -> Protocol[int]:
        request = yield from holder_receive(session, n_rows)
        unknown = np.zeros(n_rows, bool)
        answer = HolderAnswer(codes["tax"], model.part("tax").n_codes, unknown, disclose_unknown=True)
        shapes = tuple(tree.shape() for tree in model.trees)
        return (yield from holder_score_trees(session, "coordinator", request, answer, shapes))

    return holder()


async def take_part(folder: Path, name: str, form: str, sizes: list[int]) -> None:
    """Run one party in this process, first on few rows to compile; prints what the last batch took."""
    fabric = Fabric(
        load_identity(folder / name / "identity"),
        load_federation(folder / "federation.yaml"),
        accept_session=lambda _session, _sender: True,
    )
    await fabric.start()
    for number, n_rows in enumerate(sizes):
        session = Session(f"job/score/{number}", name, "bank", ("tax",))
        mine = role(name, session, form, n_rows)
        cpu, start = time.process_time(), time.perf_counter()
        done = await run(mine, fabric.channel(session), session)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"s": wall, "cpu_s": cpu, "sent_mb": fabric.bytes_sent(session.id) / 1e6, "peak_mb": peak}
    if name == "bank":
        model, codes = case(form, sizes[-1])
        figures["wrong_rows"] = int((done.points != plain_units(model, codes)).sum())
    print(json.dumps(figures), flush=True)
    await asyncio.sleep(1)  # a peer may still wait for an acknowledgement
    await fabric.stop(0.1)


def batch(form: str, n_rows: int) -> dict[str, dict[str, float]]:
    """Score all rows with every party in its own process; figures by party."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found_federation(folder, {"bank": "bank", "tax": "holder"}, exact=True)
        command = [sys.executable, __file__, "--form", form, "--sizes", "9000", str(n_rows), "--home", str(folder)]
        started = {
            party: subprocess.Popen(
                [*command, "--party", party], stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
            )
            for party in ("coordinator", "tax", "bank")
        }
        said = {party: process.communicate()[0] for party, process in started.items()}
    return {party: json.loads(text.splitlines()[-1]) for party, text in said.items()}


def online(n_firms: int, repeats: int) -> dict[str, float]:
    """Milliseconds of requests with pauses, and whether all scores are those of the batch."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        units = score_online.prepare(folder, n_firms, "train_boosting", TRAIN)
        model = json.loads((folder / "bank" / "models" / "firms" / "model.json").read_text())["model"]
        with score_online.processes(folder):
            paced, bare, exact = asyncio.run(score_online.measure(folder, units, repeats, 0.03, 15))
    p50, p95 = np.percentile(paced, [50, 95])
    return {
        "online_ms": p50,
        "online_p95_ms": p95,
        "online_without_spares_ms": float(np.median(bare)),
        "online_trees": len(model["trees"]),
        "online_exact": exact,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="of the trees that ask both")
    parser.add_argument("--own-rows", type=int, default=1_000_000, help="of the trees of the holder's columns")
    parser.add_argument("--firms", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=200)
    for hidden in ("--home", "--party", "--form"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.party:
        asyncio.run(take_part(Path(arguments.home), arguments.party, arguments.form, arguments.sizes))
        return
    figures: dict[str, Any] = {}
    wrong = 0
    for form, n_rows in (("paired", arguments.rows), ("own", arguments.own_rows)):
        parties = batch(form, n_rows)
        figures |= {
            f"{form}_s": parties["bank"]["s"],
            f"{form}_gb": sum(one["sent_mb"] for one in parties.values()) / 1e3,
            f"{form}_mb_returned": parties["tax"]["sent_mb"],
            f"{form}_parties": parties,
        }
        wrong += int(parties["bank"]["wrong_rows"])
    figures |= online(arguments.firms, arguments.repeats)
    for name, bound in BOUNDS.items():
        print(f"{name:<24}{figures[name]:>12.2f}{bound:>12.2f}")
    holds = not wrong and figures["online_exact"] and all(figures[name] <= bound for name, bound in BOUNDS.items())
    emit(
        "boosting_score", figures["online_ms"], "ms", BOUNDS["online_ms"], holds,
        wrong_rows=wrong, bounds=BOUNDS, **figures,
    )  # fmt: skip


if __name__ == "__main__":
    main()
