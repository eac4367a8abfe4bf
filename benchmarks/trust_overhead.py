"""What trust costs: two federations of four processes each on the same firms, one with all controls on, one with none.

On: consent required, release control on, Merkle logs, receipts, cross-signing, and all that an audit needs. Off:
neither consent nor release control, nodes that write no log, and a bank that keeps nothing for an audit. Batches and
single firms are scored in turns, on and off, so that whatever else the machine does meets both; figures are medians
of pairs. Then the parts alone: start of a sandbox, entries a second of a log, verification of a receipt.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import evidence
import sandbox_start
import structlog
import yaml
from result import emit
from score_online import JOB, PACKAGES, PARTIES, ask, connected, prepare, processes
from trial_evidence import run_jobs

from coordinator.service import Coordinator
from veilscore.cli.node import open_node
from veilscore.errors import JobError
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.process import log_to, only_one, serve_until_stopped
from veilscore.node.founding import PORTAL
from veilscore.release.issuer import Issuer
from veilscore.sandbox.bubblewrap import check_host
from veilscore.v1 import control_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from veilscore.fabric.fabric import Fabric

MOST_BATCH = 1.10
MOST_ONLINE_MS = 3.0
SIDES = ("on", "off")
BATCH = JOB.format(name="again", task="score_batch", parameters="{model: firms, on_missing: missing_code}")
SMALL, STEP = 1000, 1000  # entries in a batch of the log; firms of the toy job whose receipt is verified


def serve_unlogged(home: Path) -> None:
    """Run the node of a home as it would be without log, receipts and cross-signing: nothing is written or signed."""
    log_to(home)
    recorder = cast("Any", EvidenceRecorder)
    recorder._append = lambda _self, _entry: 0  # noqa: SLF001 - a switch that no user has
    recorder._step = lambda *_: None  # noqa: SLF001 - nor is a step's traffic summed up
    node = cast("Any", open_node(home))
    if isinstance(node, Coordinator):
        cast("Any", node.scheduler)._cross_sign = None  # noqa: SLF001
    else:
        node._online.evidence = None  # noqa: SLF001
    with only_one(home):
        asyncio.run(serve_until_stopped(node))


@contextlib.contextmanager
def unlogged_processes(folder: Path) -> Iterator[None]:
    """Run the four nodes without logs."""
    started = [
        subprocess.Popen([sys.executable, __file__, "--serve", folder / name], stdin=subprocess.DEVNULL)
        for name in PACKAGES
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(20)


def set_policy(folder: Path, *, audit: bool = True, **changes: object) -> None:
    """Change the policy of both holders, and whether the bank keeps what an audit needs."""
    for party in PARTIES:
        path = folder / party / "node.yaml"
        content = yaml.safe_load(path.read_text())
        if party != "bank":
            content["policy"] |= changes
        elif not audit:
            content["audit"] = {"steps": []}
        path.write_text(yaml.safe_dump(content))


async def batch_s(fabric: Fabric) -> tuple[float, dict[str, float]]:
    """Seconds from submission to the end of a batch job, and of each step; under "cpu" those of all processors."""
    started = time.perf_counter()
    submit = pb.SubmitJob(job_yaml=BATCH)
    job = pb.JobRef(job_id=(await fabric.call("coordinator", "Submit", submit, pb.JobInfo, timeout_s=30)).job_id)
    async for _ in fabric.stream("coordinator", "WatchJob", job, pb.JobEvent):
        pass
    took = time.perf_counter() - started
    info = await fabric.call("coordinator", "Show", job, pb.JobInfo, timeout_s=30)
    if info.status != "done":
        raise JobError(f"the batch ended as {info.status}: {info.error}")
    cpu_s = sum(done.cpu_seconds for step in info.steps for done in step.party_done.values())
    return took, {step.step: step.seconds for step in info.steps} | {"cpu": cpu_s}


async def measure(
    folders: dict[str, Path],
    units: dict[str, dict[str, int]],
    pairs: int,
    repeats: int,
    pause_s: float,
    stock_s: float,
) -> tuple[dict[str, list[float]], dict[str, list[dict[str, float]]], dict[str, list[float]], bool]:
    """Seconds of batches and their steps, milliseconds of single firms, each by side, and whether scores are exact."""
    issuers = {side: Issuer.load(folder / PORTAL) for side, folder in folders.items()}
    async with contextlib.AsyncExitStack() as stack:
        fabrics = {s: await stack.enter_async_context(connected(folder)) for s, folder in folders.items()}
        batches: dict[str, list[float]] = {side: [] for side in SIDES}
        steps: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for i in range(pairs + 1):
            for side in SIDES if i % 2 else SIDES[::-1]:
                took, by_step = await batch_s(fabrics[side])
                if i:  # the first compiles and reads
                    batches[side].append(took)
                    steps[side].append(by_step)
        firms = list(units["on"])
        for i in range(20):
            for side in SIDES:
                await ask(fabrics[side], issuers[side], firms[-1 - i], f"warm-{i}")
        await asyncio.sleep(stock_s)  # spares are made; a stock that is refilled meanwhile would be measured too
        single: dict[str, list[float]] = {side: [] for side in SIDES}
        exact = True
        for i in range(repeats):
            for side in SIDES if i % 2 else SIDES[::-1]:
                firm = firms[17 * i % len(firms)]  # never twice: a repeat opens nothing
                took, response = await ask(fabrics[side], issuers[side], firm, f"paced-{i}")
                exact &= response.status in {"scored", "fallback"} and response.units == units[side][firm]
                single[side].append(took)
                await asyncio.sleep(pause_s)
    return batches, steps, single, exact


def parts() -> dict[str, float]:
    """Sandbox, log and receipt alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rate = evidence.entries_per_second(folder / "log", SMALL, evidence.N_ENTRIES)
        (job_id,) = run_jobs(folder / "trial", firms=STEP)
        verify = statistics.median(evidence.verify_ms(folder / "trial", job_id))
    return {
        "sandbox_start_ms": statistics.median(sandbox_start.measure(sandbox_start.RUNS)),
        "log_entries_per_s": rate,
        "verify_receipt_ms": verify,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--firms", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=9, help="batches a side")
    parser.add_argument("--repeats", type=int, default=200, help="single firms a side")
    parser.add_argument("--pause-ms", type=float, default=30)
    parser.add_argument("--stock-s", type=float, default=60, help="idle time in which both sides fill their stocks")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve_unlogged(options.serve)
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    check_host()  # without bubblewrap it would end only after minutes
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folders = {side: Path(name) / side for side in SIDES}
        units = {"on": prepare(folders["on"], options.firms)}
        # the same batch over and over: counted and compared each time, and let through
        set_policy(folders["on"], release={"repeats_per_model": 10_000})
        stack.enter_context(processes(folders["on"]))  # before the other one looks for free ports
        units["off"] = prepare(folders["off"], options.firms)
        set_policy(folders["off"], audit=False, consent="off", release={"control": "off"})
        (folders["off"] / "bank" / "consents" / "lists" / "everybody.json").unlink()
        stack.enter_context(unlogged_processes(folders["off"]))
        batches, steps, single, exact = asyncio.run(
            measure(folders, units, options.pairs, options.repeats, options.pause_ms / 1e3, options.stock_s)
        )
    ratio = statistics.median(on / off for on, off in zip(batches["on"], batches["off"], strict=True))
    cpu_ratio = statistics.median(on["cpu"] / off["cpu"] for on, off in zip(steps["on"], steps["off"], strict=True))
    extra_ms = statistics.median(on - off for on, off in zip(single["on"], single["off"], strict=True))
    alone = parts()
    middle = {side: statistics.median(batches[side]) for side in SIDES}
    by_step = {
        step: {side: statistics.median(one[step] for one in steps[side]) for side in SIDES} for step in steps["on"][0]
    }
    p50 = {side: statistics.median(single[side]) for side in SIDES}
    print(f"{f'batch of {options.firms:,} firms, controls on / off':<44}{middle['on']:8.2f} s {middle['off']:8.2f} s")
    for step, both in by_step.items():
        label = "  processor time, all parties" if step == "cpu" else f"  of which {step}"
        print(f"{label:<44}{both['on']:8.2f} s {both['off']:8.2f} s")
    print(f"{'  median ratio of pairs, seconds':<44}{ratio:8.3f}")
    print(f"{'  median ratio of pairs, processor time':<44}{cpu_ratio:8.3f}")
    print(f"{'one firm online, p50, on / off':<44}{p50['on']:8.1f} ms{p50['off']:8.1f} ms")
    print(f"{'  median difference of pairs':<44}{extra_ms:8.2f} ms")
    print(f"{'sandbox start':<44}{alone['sandbox_start_ms']:8.1f} ms")
    print(f"{'entries a second into a log':<44}{alone['log_entries_per_s']:8,.0f}")
    print(f"{'verification of a receipt':<44}{alone['verify_receipt_ms']:8.2f} ms")
    print(f"{'all scores as in batch':<44}{exact!s:>8}")
    holds = (
        ratio <= MOST_BATCH
        and extra_ms <= MOST_ONLINE_MS
        and alone["sandbox_start_ms"] <= sandbox_start.BOUND_MS
        and alone["log_entries_per_s"] >= evidence.MIN_PER_S
        and alone["verify_receipt_ms"] <= evidence.MAX_VERIFY_MS
        and exact
    )
    emit(
        "trust_overhead",
        ratio,
        "times",
        MOST_BATCH,
        holds,
        batch_s=middle,
        batch_cpu_ratio=cpu_ratio,
        steps_s=by_step,
        online_extra_ms=extra_ms,
        online_extra_ms_bound=MOST_ONLINE_MS,
        online_p50_ms=p50,
        pairs=options.pairs,
        firms=options.firms,
        requests=options.repeats,
        exact=exact,
        **alone,
    )


if __name__ == "__main__":
    main()
