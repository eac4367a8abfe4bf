"""Time of one application: consent, joint decision, policy, contract draft, with bank, two holders and coordinator.

The nodes are four processes on loopback; the application is written into the bank's book (SQLite, synchronous), decided
by the bank's node over TLS under a token of the firm, judged by the shipped admission policy, and a contract is drafted
within caps. The decision is that of `decide_online`: boosted trees, a scorecard, a model written by hand, the bank's
bound, knock-outs at all three. Every step is compared with the plain decision. Then the same requests again.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from result import emit
from score_online import connected, processes

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
import finished_jobs
from trial_decisions import expected
from trial_lending import add_known_firms, give_tokens, lending_homes, lending_settings, note_all

from party_bank import applications, policy
from party_bank.applications import ApplicationRequest, by_policy
from party_bank.book import Book
from party_bank.book_tables import DECISIONS
from party_bank.joint import OpenedSteps
from party_bank.joint_online import OnlineJoint
from party_bank.own_node import OwnNode
from party_bank.policy.graph import load_graph

BOUND_MS = 60.0
OWN = {"blacklisted": False, "overdue_days": 0, "relationship_years": 4.0}  # what the policy asks of the bank's own
Times = defaultdict[str, list[float]]


def timed(times: Times, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, whose milliseconds are added to a list."""

    def called(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return work(*given, **named)
        finally:
            times[name].append(1e3 * (time.perf_counter() - start))

    return called


def measure(
    homes: Path, firms: Sequence[str], steps: Mapping[str, int], pause_s: float, stock_s: float
) -> tuple[Times, Times, int]:
    """Milliseconds of each application by part, those of repeats, and how many steps were wrong."""
    settings, times, again = lending_settings(), defaultdict(list), defaultdict(list)
    book = Book.of_home(homes / "bank", settings)
    ladder = settings.product("flow").ladder
    graph = load_graph(Path(policy.__file__).with_name("graphs") / "admission.json")
    judge = timed(times, "policy", by_policy(graph, lambda _: OWN))
    with OwnNode(homes / "bank") as node:
        online = OnlineJoint(book, node)
        joint: Callable[..., OpenedSteps] = timed(times, "joint decision", online)

        def apply(firm: str) -> applications.Row:
            asked = ApplicationRequest(f"w-{firm}", firm, "flow", 100 * ladder[max(steps[firm], 1) - 1], 12)
            return applications.apply(book, settings, joint, judge, asked, "benchmark")

        for number, firm in enumerate(firms):
            if number == 5:  # connections and models are there; now nodes fill their stocks
                time.sleep(stock_s)
                times.clear()
            start = time.process_time()
            timed(times, "in all", apply)(firm)
            times["own processor"].append(1e3 * (time.process_time() - start))
            time.sleep(pause_s)
        for firm in firms[-20:]:
            timed(again, "in all", apply)(firm)
    decided = {row["firm"]: row["step"] for row in book.rows(sa.select(DECISIONS))}
    wrong = sum(decided[firm] != steps[firm] for firm in firms)
    book.close()
    return times, again, wrong


async def answering(homes: Path) -> None:
    """Return once all nodes answer."""
    async with connected(homes):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=150)
    parser.add_argument("--pause-ms", type=float, default=30)
    parser.add_argument("--stock-s", type=float, default=45, help="idle time in which spares are made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        kept = Path(name) / "kept"
        kept.mkdir()
        finished_jobs.keep_in(kept)
        homes = lending_homes(Path(name) / "homes")
        book = Book.of_home(homes / "bank", lending_settings())
        firms = add_known_firms(homes, book, 5 + arguments.repeats)
        give_tokens(homes, firms, "application")
        note_all(homes, book)
        book.close()
        steps = expected(homes, "admit")
        with processes(homes):
            asyncio.run(answering(homes))
            times, again, wrong = measure(homes, firms, steps, arguments.pause_ms / 1e3, arguments.stock_s)
    p50 = {name: float(np.median(each)) for name, each in times.items()}
    rest = p50["in all"] - p50["joint decision"] - p50["policy"]
    p95 = float(np.percentile(times["in all"], 95))
    print(f"{'applications':<40}{len(times['in all']):>12}")
    print(f"{'p50':<40}{p50['in all']:>12.1f} ms")
    print(f"{'  of it the joint decision':<40}{p50['joint decision']:>12.1f} ms")
    print(f"{'  of it the policy':<40}{p50['policy']:>12.1f} ms")
    print(f"{'  of it consent, book, contract draft':<40}{rest:>12.1f} ms")
    print(f"{'processor time of the calling process':<40}{p50['own processor']:>12.1f} ms")
    print(f"{'p95':<40}{p95:>12.1f} ms")
    print(f"{'p50 of a repeat':<40}{np.median(again['in all']):>12.1f} ms")
    print(f"{'wrong outcomes':<40}{wrong:>12}")
    emit(
        "application",
        p50["in all"],
        "ms",
        BOUND_MS,
        wrong == 0 and p50["in all"] <= BOUND_MS,
        p95_ms=p95,
        joint_ms=p50["joint decision"],
        policy_ms=p50["policy"],
        rest_ms=rest,
        own_processor_ms=p50["own processor"],
        repeat_ms=float(np.median(again["in all"])),
        applications=len(times["in all"]),
        wrong=wrong,
    )


if __name__ == "__main__":
    main()
